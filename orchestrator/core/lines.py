"""Bytes on the wire: a prompt to its request line, a download to lines, a line to a reply. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.core.model import Prompt

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

KEPT_OF_OVERLONG_BYTES = 1 << 20
"""How much of a line over the cap is kept as evidence."""
MOST_VALUES = 8_000_000
"""JSON values in one line; an empty list of two bytes takes eighty when it is read, which no cap on bytes bounds."""

_BOM = b"\xef\xbb\xbf"
_NEWLINES = bytes.maketrans(b"\r\n", b"  ")
_SURROGATES = re.compile(
    rb"""\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"""
)
_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"((?:[ !#-\[\]-~]|\\["\\/])+)"')


class InvalidPrompt(Exception):
    """The row cannot become a request line; `str()` names the mistake and the remedy."""


# ---------------------------------------------------------------- request lines


def text_of(value: bytes, column: str) -> str:
    """A text column decoded. Raises InvalidPrompt when it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        msg = f"{column} is not UTF-8 (byte {error.start}): store it as UTF-8 text"
        raise InvalidPrompt(msg) from None


def parse_body(body: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, each value as its raw bytes, in order. Raises InvalidPrompt for anything else."""
    text_of(body, "body")
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise InvalidPrompt('body is not a JSON object: give an object such as {"temperature": 0}') from None
    except (msgspec.DecodeError, RecursionError) as error:
        msg = f"body is not valid JSON ({error}): correct it and insert the prompt again"
        raise InvalidPrompt(msg) from None


def _members(prompt: Prompt, endpoint: str) -> dict[str, Any]:
    """What `prompt` and `system` become on this endpoint."""
    text = text_of(prompt.prompt, "prompt") if prompt.prompt is not None else None
    system = text_of(prompt.system, "system") if prompt.system is not None else None
    if text is None:
        if system is not None:
            raise InvalidPrompt("system stands without prompt: give prompt too, or put the system text into body")
        return {}
    if endpoint == CHAT:
        roles = [("system", system), ("user", text)] if system is not None else [("user", text)]
        return {"messages": [{"role": role, "content": content} for role, content in roles]}
    if endpoint == MESSAGES:
        found: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        return found if system is None else {"system": system, **found}
    if endpoint == RESPONSES:
        return {"input": text} if system is None else {"instructions": system, "input": text}
    if system is not None:
        msg = f"system has no place in {endpoint}: put the text into prompt"
        raise InvalidPrompt(msg)
    return {"prompt" if endpoint == COMPLETIONS else "input": text}


def resolved_model(prompt: Prompt, body: dict[str, msgspec.Raw], default: str | None) -> str:
    """The row's model, else the body's, else the default. Raises InvalidPrompt when there is none."""
    if prompt.model is not None and prompt.model.strip():
        return text_of(prompt.model, "model")
    raw = body.get("model")
    if raw is None:
        if default:
            return default
        raise InvalidPrompt("no model: set prompts.model, body.model or defaults.model in the settings")
    try:
        named = msgspec.json.decode(raw, type=str)
    except msgspec.MsgspecError:
        raise InvalidPrompt("body.model is not a string: give the model's name in quotes") from None
    if not named:
        raise InvalidPrompt("body.model is empty: give the model's name")
    return named


def encode_body(prompt: Prompt, endpoint: str, default_model: str | None) -> tuple[bytes, str]:
    """The request body and the model it names.

    A body that needs nothing added goes through byte for byte (line breaks between its tokens become spaces, since a
    line may hold none); otherwise each of its values keeps its bytes and only the missing members are added.
    """
    body = parse_body(prompt.body) if prompt.body is not None else {}
    model = resolved_model(prompt, body, default_model)
    added = _members(prompt, endpoint)
    for name in added:
        if name in body:
            msg = f"both prompt and body.{name} are given: keep one of them"
            raise InvalidPrompt(msg)
    if not added and not body.keys() - {"model"}:
        raise InvalidPrompt("nothing to send: give prompt, or a body with the whole request")
    if endpoint == CHAT and "messages" not in added and "messages" not in body:
        raise InvalidPrompt("no messages: give prompt, or body.messages")
    named = _named_in(body)
    if prompt.body is not None and not added and named == model:
        return _on_one_line(prompt.body), model
    whole = {**({} if "model" in body else {"model": model}), **added, **body}
    if named != model:
        whole["model"] = model
    encoded = msgspec.json.encode(whole)
    return (_on_one_line(encoded) if body else encoded), model


def _on_one_line(text: bytes) -> bytes:
    return text.translate(_NEWLINES) if b"\n" in text or b"\r" in text else text


def _named_in(body: dict[str, msgspec.Raw]) -> str | None:
    raw = body.get("model")
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str)
    except msgspec.MsgspecError:
        return None


def encode_line(custom_id: str, endpoint: str, body: bytes) -> bytes:
    """One line of the input file, newline included: exactly the bytes that are sent (F35)."""
    return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n' % (
        msgspec.json.encode(custom_id),
        msgspec.json.encode(endpoint),
        body,
    )


# ---------------------------------------------------------------- splitting


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line over the cap: its first KEPT_OF_OVERLONG_BYTES and its whole length."""

    head: bytes
    nbytes: int


class Splitter:
    r"""Cuts a download into lines on the byte `\n` alone (F24, F25, F27).

    One `\r` before the newline, a BOM at the very start and blank lines are dropped. A line longer than `max_bytes`
    comes out as `Overlong`; what follows it is read on. Memory is bounded by `max_bytes` and one chunk.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._held = 0
        self._dropped = 0
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[bytes | Overlong]:
        """Yield each line that `chunk` completes, without its newline."""
        first, *rest = chunk.split(b"\n")
        self._hold(first)
        yield from filter(None, map(self._next, rest))

    def tail(self) -> bytes | Overlong:
        """What stands after the last newline: empty when the download ended where it should (F29)."""
        return self._take()

    def _next(self, piece: bytes) -> bytes | Overlong:
        """The line that ended, `piece` being the beginning of another. No variable keeps it: it may have megabytes."""
        line = self._take()
        self._hold(piece)
        return line

    def _hold(self, piece: bytes) -> None:
        if self._dropped or self._held + len(piece) > self._max_bytes:
            self._drop(piece)
        elif piece:
            self._parts.append(piece)
            self._held += len(piece)

    def _drop(self, piece: bytes) -> None:
        if not self._dropped:
            head = b"".join([*self._parts, piece[:KEPT_OF_OVERLONG_BYTES]])[:KEPT_OF_OVERLONG_BYTES]
            self._parts = [head]
            self._dropped = self._held
        self._dropped += len(piece)

    def _take(self) -> bytes | Overlong:
        line = b"".join(self._parts)
        nbytes, self._dropped, self._held, self._parts = self._dropped, 0, 0, []
        if nbytes:
            self._at_start = False
            return Overlong(line, nbytes)
        if self._at_start:
            line, self._at_start = line.removeprefix(_BOM), False
        return line.removesuffix(b"\r")


# ---------------------------------------------------------------- replies


class Reply(msgspec.Struct, frozen=True, gc=False):
    """One line of an output or error file, as it stands. `body` and `error` are raw JSON or None."""

    custom_id: str
    status_code: int | None
    body: bytes | None
    error: bytes | None


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """A line nobody can parse; `custom_id` where it could still be made out (F26)."""

    raw: bytes
    reason: str
    custom_id: str | None


class _Response(msgspec.Struct):
    status_code: int | None = None
    body: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode


def parse_reply(line: bytes | Overlong) -> Reply | Unreadable:
    """Read one output or error line; never raises, whatever the bytes (F26, F16, F17)."""
    if isinstance(line, Overlong):
        return _unreadable(line.head, f"line of {line.nbytes} bytes is over collection.max_line_bytes")
    if len(line) > MOST_VALUES and _values_in(line) > MOST_VALUES:
        return _unreadable(line[:KEPT_OF_OVERLONG_BYTES], f"line of over {MOST_VALUES} JSON values")
    line = line.removeprefix(_BOM)  # a server that joins files leaves one before a line in the middle (F25)
    try:
        line.decode()
        return _parse(line)
    except UnicodeDecodeError as error:
        return _unreadable(line, f"not UTF-8 at byte {error.start}")
    except (msgspec.DecodeError, RecursionError) as error:
        return _parse_mended(line) or _unreadable(line, f"not JSON: {error}")


def _values_in(line: bytes) -> int:
    """At least as many as there are JSON values, counted without reading them."""
    return line.count(b",") + line.count(b"[") + line.count(b"{")


def _parse(line: bytes) -> Reply | Unreadable:
    try:
        wire = _decode_line(line)
    except msgspec.ValidationError:
        return _parse_loosely(line)
    response = wire.response
    return Reply(
        wire.custom_id,
        _status(response.status_code) if response else None,
        _present(response.body) if response else None,
        _present(wire.error),
    )


def _parse_mended(line: bytes) -> Reply | None:
    """A line that is JSON but for lone surrogates; None when it is worse, so that its bytes are kept as they came."""
    mended = mend_surrogates(line)
    try:
        found = _parse(mended) if mended != line else None
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, Reply) else None


def mend_surrogates(json_text: bytes) -> bytes:
    r"""Replace each lone surrogate escape by `\ufffd`: such text is a paid answer, but no valid Unicode."""
    return _SURROGATES.sub(lambda found: rb"\ufffd" if found.group(1) else found.group(0), json_text)


def _present(raw: msgspec.Raw) -> bytes | None:
    found = bytes(raw)
    return None if found in (b"", b"null") else found


def _parse_loosely(line: bytes) -> Reply | Unreadable:
    """Lines whose members have other types than promised: a status as text, a response that is no object."""
    try:
        members = _decode_members(line)
    except msgspec.ValidationError:
        return _unreadable(line, "not a JSON object")
    custom_id = _plain(members.get("custom_id"))
    if not isinstance(custom_id, str):
        return _unreadable(line, "custom_id is missing or not a string")
    error = _present(members.get("error", msgspec.Raw()))
    try:
        response = _decode_members(members.get("response", b"null"))
    except msgspec.MsgspecError:
        return Reply(custom_id, None, _present(members.get("response", msgspec.Raw())), error)
    status = _status(_plain(response.get("status_code")))
    return Reply(custom_id, status, _present(response.get("body", msgspec.Raw())), error)


def _plain(raw: msgspec.Raw | None) -> object:
    try:
        return None if raw is None else _decode_any(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _status(value: object) -> int | None:
    if isinstance(value, int | float):
        return int(value) if abs(value) < 1e9 else None  # noqa: PLR2004
    return int(value[:9]) if isinstance(value, str) and value.isascii() and value.isdigit() else None


def _unreadable(raw: bytes, reason: str) -> Unreadable:
    found = _CUSTOM_ID.search(raw)
    named = found.group(1).decode().replace('\\"', '"').replace("\\/", "/").replace("\\\\", "\\") if found else None
    return Unreadable(raw, reason, named)
