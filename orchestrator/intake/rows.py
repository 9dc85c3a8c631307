"""One line of JSON to one row of `prompts`: rows named by our columns, and lines of OpenAI batch files. Pure."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import msgspec

from orchestrator.config.fields import shown
from orchestrator.core.lines import mend_surrogates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_CUSTOM_ID_BYTES = 64
COMPARED_CHARACTERS = 100
"""Of an unknown name: a whole text, taken for a CSV header, would take seconds and ten times its memory."""
Priority = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class BadLine(Exception):
    """The line cannot become a row; `str()` names the mistake and the remedy."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of `prompts` that a user writes. `names_model` is True where the row or its body names a model."""

    custom_id: str | None = None
    prompt: str | None = None
    system: str | None = None
    body: str | None = None
    model: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    provider: str | None = None
    priority: int = 0
    not_before: str | None = None
    tag: str | None = None
    metadata: str | None = None
    names_model: bool = False


class _Given(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    custom_id: str | None = None
    prompt: str | None = None
    system: str | None = None
    body: msgspec.Raw = msgspec.Raw()
    model: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    provider: str | None = None
    priority: Priority | None = None
    not_before: str | None = None
    tag: str | None = None
    metadata: msgspec.Raw = msgspec.Raw()
    method: str | None = None
    url: str | None = None


COLUMNS = tuple(name for name in Row.__struct_fields__ if name != "names_model")
JSON_COLUMNS = ("body", "metadata")
REQUEST = frozenset(
    {
        "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "max_output_tokens", "stop", "seed",
        "response_format", "tools", "tool_choice", "reasoning_effort", "frequency_penalty", "presence_penalty",
        "n", "logit_bias", "logprobs", "top_logprobs", "dimensions", "encoding_format",
    }
)  # fmt: skip
"""Parameters that stand in a body. Fields that data of another kind may have, such as `input`, are not among them."""
_CR_BETWEEN = re.compile(rb"\}\r+\{")
_decode_given = msgspec.json.Decoder(_Given).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_priority = msgspec.json.Decoder(Priority | None).decode


def parse_row(line: bytes) -> Row:
    """Read a row whose keys are our columns, or a line of an OpenAI batch file, known by its `url` beside `body`.

    `body` and `metadata` may be objects, whose bytes are kept as they stand, or JSON text. Raises BadLine.
    """
    try:
        given = _decode_given(line)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        raise _explained(line) from None
    _check_url(given)
    texts = msgspec.structs.asdict(given)
    body, metadata = _stored(texts.pop("body"), "body"), _stored(texts.pop("metadata"), "metadata")
    priority, url, _method = texts.pop("priority"), texts.pop("url"), texts.pop("method")
    texts["endpoint"] = url or texts["endpoint"]
    return checked_row(texts, priority=priority or 0, body=body, metadata=metadata)


def checked_row(texts: Mapping[str, str | None], *, priority: int, body: bytes | None, metadata: bytes | None) -> Row:
    """The row made of these columns. Raises BadLine for what the table would refuse and for JSON that is no object."""
    check_custom_id(texts.get("custom_id"))
    if texts.get("prompt") is None and body is None:
        raise BadLine("neither prompt nor body: give one of them")
    members = object_members(body, "body") if body is not None else {}
    if metadata is not None:
        object_members(metadata, "metadata")
    return Row(
        **texts,
        priority=priority,
        body=None if body is None else body.decode(),
        metadata=None if metadata is None else metadata.decode(),
        names_model=bool(texts.get("model")) or "model" in members,
    )


def check_custom_id(custom_id: str | None) -> None:
    """Raises BadLine for an id that the table refuses; None lets the table choose one."""
    if custom_id is None or (
        0 < len(custom_id) <= MAX_CUSTOM_ID_BYTES and custom_id.isascii() and custom_id.isprintable()
    ):
        return
    wrong = f"is {len(custom_id.encode())} bytes long" if custom_id.isascii() else "is not ASCII"
    if custom_id.isascii() and 0 < len(custom_id) <= MAX_CUSTOM_ID_BYTES:
        wrong = "holds a control character"
    raise BadLine(f"custom_id {wrong}: use 1 to {MAX_CUSTOM_ID_BYTES} bytes of printable ASCII, or leave it out")


def object_members(text: bytes, column: str) -> dict[str, msgspec.Raw]:
    """The members of a JSON object. Raises BadLine for anything else."""
    try:
        text.decode()
        return _decode_members(text)
    except UnicodeDecodeError as error:
        raise BadLine(f"{column} is not UTF-8 (byte {error.start}): save the file as UTF-8") from None
    except msgspec.ValidationError:
        raise BadLine(f"{column} is not a JSON object: write an object such as {{}}, or leave it out") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadLine(f"{column} is not valid JSON ({_reason(text, error)}): correct it") from None


def line_members(line: bytes) -> dict[str, msgspec.Raw]:
    """The members of a line that must be a JSON object. Raises BadLine."""
    try:
        line.decode()
        return _decode_members(line)
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 (byte {error.start}): save the file as UTF-8") from None
    except msgspec.ValidationError:
        raise BadLine("not a JSON object: write one object per line") from None
    except (msgspec.DecodeError, RecursionError) as error:
        if _CR_BETWEEN.search(line):
            raise BadLine("its lines end with CR alone: save the file with LF line ends") from None
        hint = "write one JSON object per line, or pass --lines for plain text"
        raise BadLine(f"not valid JSON ({_reason(line, error)}): {hint}") from None


def unknown_key(name: str, known: Iterable[str], what: str = "key") -> BadLine:
    """The complaint about a name that is none of `known`, with the nearest one."""
    names = tuple(known)
    nearest = get_close_matches(name[:COMPARED_CHARACTERS], names, n=1)
    remedy = f'did you mean "{nearest[0]}"?' if nearest else f"known are {', '.join(names)}"
    return BadLine(f'unknown {what} "{shown(name)}": {remedy}')


def _stored(raw: msgspec.Raw, column: str) -> bytes | None:
    """The bytes of an object, or of the JSON text that a string holds; None where the line leaves it out."""
    found = bytes(raw)
    if found in (b"", b"null"):
        return None
    if not found.startswith(b'"'):
        return found
    try:
        return _decode_text(found).encode()
    except UnicodeDecodeError as error:
        raise BadLine(f"{column} is not UTF-8 (byte {error.start}): save the file as UTF-8") from None


def _check_url(given: _Given) -> None:
    """Lines of an OpenAI batch file carry all of method, url and body; ours carry endpoint instead."""
    if given.url is None and given.method is None:
        return
    if given.url is None or not bytes(given.body):
        here, gone = ("url", "body") if given.url is not None else ("method", "url")
        raise BadLine(f"{here} stands without {gone}: a line of a batch file has custom_id, method, url and body")
    if given.method is not None and given.method.upper() != "POST":
        raise BadLine(f'method "{shown(given.method)}" is not taken: lines of a batch file are POST')
    if given.endpoint is not None:
        raise BadLine("both url and endpoint are given: keep one of them")


def _explained(line: bytes) -> BadLine:
    """Why `line` is no row, found out only for lines that are none."""
    try:
        members = line_members(line)
    except BadLine as mistake:
        return mistake
    for name, raw in members.items():
        if name in REQUEST:
            return BadLine(f"{name} is a parameter of the request: put it into body")
        if name not in _Given.__struct_fields__:
            return BadLine(f"{unknown_key(name, COLUMNS)}; rows with fields of their own need --template")
        wrong = _wrong_type(name, bytes(raw))
        if wrong is not None:
            return BadLine(f"{name} {wrong}")
    return BadLine("not a row: see `orchestrator enqueue --help` for the keys it may have")


def _wrong_type(name: str, value: bytes) -> str | None:
    if name in JSON_COLUMNS or value == b"null":
        return None
    try:
        if name == "priority":
            _decode_priority(value)
        else:
            _decode_text(value)
    except (UnicodeDecodeError, msgspec.MsgspecError):
        return "must be a whole number of 64 bits" if name == "priority" else "must be text in quotes"
    return None


def _reason(text: bytes, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if mend_surrogates(text) != text:
        return r"half of a surrogate pair, such as \ud83d alone"
    return str(error).removeprefix("JSON is malformed: ")
