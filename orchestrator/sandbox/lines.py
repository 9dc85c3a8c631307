"""The checks of one uploaded line, in the order of doubleword-api 1.1, and how the server words their failure."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from orchestrator.sandbox.answers import canonical
from orchestrator.sandbox.behaviours import behaviour_of
from orchestrator.sandbox.errors import Refusal
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.records import Template

MAX_CUSTOM_ID_BYTES = 64
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*\Z")
MISSING_FIELD = re.compile(r"missing required field (`\w+`)")
MISTYPED = re.compile(r"Expected `(\w+)`, got `(\w+)`(?: - at `\$\.?(\w*))?")
FOREIGN_MODEL = "unknown-"


class RequestLine(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: Any


DECODER = msgspec.json.Decoder(RequestLine)


@dataclass(frozen=True, slots=True)
class LineRules:
    """What a line is held to; models None accepts every name that does not start with `unknown-`."""

    endpoints: frozenset[str]
    models: frozenset[str] | None
    max_body_bytes: int

    @classmethod
    def of(cls, options: Options) -> "LineRules":
        models = None if options.models is None else frozenset(options.models)
        return cls(frozenset(options.endpoints), models, options.max_body_bytes)

    def serves(self, model: str) -> bool:
        return not model.startswith(FOREIGN_MODEL) if self.models is None else model in self.models

    def template(self, raw: bytes, number: int, offset: int) -> Template:
        """The line as stored; `Refusal` as the real server words it. number is 1-based, offset in bytes."""
        line = decoded(raw, number, offset)
        body = line.body if isinstance(line.body, dict) else {}
        model = body.get("model")
        if complaint := self.complaint(line):
            raise Refusal(400, f"Line {number}: {complaint}")
        if not isinstance(model, str):
            raise Refusal(400, f"Line {number}: Missing or invalid 'model' field in request body")
        if not self.serves(model):
            text = f"Line {number}: Model '{model}' has not been configured or is not available to user"
            raise Refusal(403, text)
        if is_embedding(model) and line.url != "/v1/embeddings":
            raise Refusal(400, f"Line {number}: Model '{model}' does not support endpoint '{line.url}'")
        stored = canonical(body)
        if 0 < self.max_body_bytes < len(stored):
            text = f"Line {number}: Request body is {len(stored)} bytes, which exceeds the maximum of "
            raise Refusal(400, f"{text}{self.max_body_bytes} bytes")
        return Template(line.custom_id, line.method, line.url, model, stored, wish(body, model, number))

    def complaint(self, line: RequestLine) -> str | None:
        """What is wrong with custom_id, method or url, or None."""
        if len(line.custom_id.encode()) > MAX_CUSTOM_ID_BYTES:
            return f"custom_id exceeds the maximum length of {MAX_CUSTOM_ID_BYTES} bytes"
        if not HEADER_VALUE.match(line.custom_id):
            return "custom_id contains invalid characters (only printable ASCII is allowed)"
        if line.method.upper() != "POST":
            return f"Unsupported method '{line.method}'. Only POST is supported"
        if line.url not in self.endpoints:
            return f"Unsupported url '{line.url}'. Supported: {', '.join(sorted(self.endpoints))}"
        return None


def decoded(raw: bytes, number: int, offset: int) -> RequestLine:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise Refusal(400, f"File contains invalid UTF-8 on/near line {number} at byte offset {at}: {error}") from None
    try:
        return DECODER.decode(raw)
    except msgspec.ValidationError as error:
        raise Refusal(
            400, f"Invalid JSON on line {number}: {serde_text(str(error))} at line 1 column {len(raw)}"
        ) from None
    except msgspec.DecodeError as error:
        raise Refusal(400, f"Invalid JSON on line {number}: {error} at line 1 column {len(raw)}") from None


def serde_text(text: str) -> str:
    """A decoder's complaint in the words of serde, on which clients may match."""
    if missing := MISSING_FIELD.search(text):
        return f"missing field {missing[1]}"
    if mistyped := MISTYPED.search(text):
        return f"invalid type: {mistyped[2]}, expected {'a string' if mistyped[1] == 'str' else mistyped[1]}"
    return text


def is_embedding(model: str) -> bool:
    """Whether a model has the type that only `/v1/embeddings` takes; its name tells."""
    return "embedding" in model.lower()


def wish(body: dict[str, Any], model: str, number: int) -> str | None:
    try:
        return behaviour_of(model, body.get("metadata"))
    except ValueError as error:
        raise Refusal(400, f"Line {number}: {error}") from None
