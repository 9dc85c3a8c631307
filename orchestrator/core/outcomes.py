"""What one reply means: a success, or a failure with a fault. Each line is judged by its own content (F16, F17).

Which file the line stands in, the counts and the batch's status are hints and play no part here.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from orchestrator.core.account import is_about_account, is_about_whole_account
from orchestrator.core.lines import Reply, Unreadable, mend_surrogates
from orchestrator.core.model import Fault

MESSAGE_CHARS = 2000
"""Longest error message that is stored; the response keeps the whole."""
MOST_TOKENS = 1 << 31
"""No line that we read or send holds more; what claims to is not counted, and sums over any queue fit a column."""

_REFUSED_CODES = ("content_filter", "content_policy", "responsibleai", "safety", "moderation")
_FAULT_OF_STATUS = {
    401: Fault.ACCOUNT,
    402: Fault.ACCOUNT,
    403: Fault.REFUSED,
    408: Fault.TIMEOUT,
    409: Fault.SERVER,
    425: Fault.SERVER,
    429: Fault.THROTTLED,
    499: Fault.TIMEOUT,
    504: Fault.TIMEOUT,
}
_FAULT_OF_CODE = {
    "batch_expired": Fault.EXPIRED,
    "expired": Fault.EXPIRED,
    "batch_cancelled": Fault.CANCELLED_REMOTELY,
    "cancelled": Fault.CANCELLED_REMOTELY,
    "BatchTerminated": Fault.CANCELLED_REMOTELY,
    "Timeout": Fault.TIMEOUT,
    "NetworkError": Fault.SERVER,
    "TaskTerminated": Fault.SERVER,
    "RequestBuilderError": Fault.INVALID,
    "rate_limit_exceeded": Fault.THROTTLED,
    "server_error": Fault.SERVER,
    "internal_error": Fault.SERVER,
    "timeout": Fault.TIMEOUT,
    "model_not_found": Fault.INVALID,
    "invalid_request_error": Fault.INVALID,
    "context_length_exceeded": Fault.INVALID,
}


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """`fault` is None for a success. `response` is the body as sent, `answer` its readable text."""

    fault: Fault | None
    status_code: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    answer: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    response: str | None = None
    raw: bytes | None = None


class _Complaint(msgspec.Struct, frozen=True):
    status: int | None
    code: str | None
    message: str | None


def judge(reply: Reply | Unreadable) -> Outcome:
    """The outcome of one line. Never raises: what cannot be understood is a `server` fault that keeps its bytes."""
    if isinstance(reply, Unreadable):
        return Outcome(Fault.UNREADABLE, error_code="unreadable", error_message=reply.reason, raw=reply.raw)
    body = _document(reply.body)
    if _answered(reply, body):
        return _success(reply, body)
    complaint = _complaint(reply, body)
    message = _clip(complaint.message)
    response = reply.body.decode() if reply.body is not None else None
    return Outcome(_fault(complaint), complaint.status, _clip(complaint.code), message, response=response)


def silence(fault: Fault, message: str) -> Outcome:
    """The outcome of a line that stands in neither file (F18)."""
    return Outcome(fault, error_code=fault.value, error_message=message)


def rejected_file(code: str | None, message: str | None) -> Outcome:
    """The outcome of each line of a file that the provider rejected whole, naming no line: none of them ran (F22)."""
    fault = Fault.ACCOUNT if is_about_whole_account(f"{code or ''} {message or ''}") else Fault.MISSING
    return Outcome(fault, error_code=_clip(code), error_message=_clip(message))


# ---------------------------------------------------------------- is it an answer?


def _document(raw: bytes | None) -> Any:  # noqa: ANN401 - whatever JSON the provider sent
    """The decoded body; a JSON string is decoded once more where that gives an object (double encoding)."""
    found = _decoded(raw)
    if isinstance(found, str):
        inner = _decoded(found.encode())
        return inner if isinstance(inner, dict) else found
    return found


def _decoded(raw: bytes | None) -> Any:  # noqa: ANN401
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return _decoded_patiently(raw)


def _decoded_patiently(raw: bytes) -> Any:  # noqa: ANN401
    """JSON with a number beyond every range: it makes no paid answer a failure."""
    try:
        return json.loads(mend_surrogates(raw), parse_int=_number)
    except (ValueError, RecursionError):
        return None


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # noqa: PLR2004 - what fits a column is shorter


def _answered(reply: Reply, body: object) -> bool:
    """True when the line holds an answer; anything else is no success, whatever its status says (F16)."""
    if reply.status_code is not None and not 200 <= reply.status_code < 300:  # noqa: PLR2004
        return False
    if isinstance(body, str):  # raw events of a line with "stream": true (doubleword-api 1.5): answered and paid
        return body.startswith(("data:", "event:"))
    if not isinstance(body, dict) or not body or _failed_shape(body):
        return False
    return reply.error is None or reply.status_code is not None


def _failed_shape(body: dict[str, Any]) -> bool:
    if body.get("error") or body.get("status") == "failed" or body.get("type") == "error":
        return True
    if "choices" not in body:
        return False
    choices = body["choices"]
    return not isinstance(choices, list) or all(map(_filtered_away, choices))


def _filtered_away(choice: object) -> bool:
    """A content filter left nothing: refused, not answered."""
    return isinstance(choice, dict) and choice.get("finish_reason") == "content_filter" and not _choice_text(choice)


# ---------------------------------------------------------------- successes


def _success(reply: Reply, body: Any) -> Outcome:  # noqa: ANN401
    response = reply.body.decode() if reply.body is not None else None
    if not isinstance(body, dict):
        return Outcome(None, reply.status_code, answer=_clean(str(body)), response=response)
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Outcome(
        None,
        reply.status_code,
        answer=_clean(_answer(body)),
        finish_reason=_clean(_finish_reason(body)),
        prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
        model=_clean(_text(body.get("model"))),
        response=response,
    )


def _answer(body: dict[str, Any]) -> str | None:
    """The readable text of a chat, completion, response or message body; None for embeddings (F42: all parts)."""
    choices = body.get("choices")
    if isinstance(choices, list):
        return (_choice_text(choices[0]) or None) if choices else None
    if isinstance(body.get("output"), list):
        return _joined(_parts_text(item.get("content")) for item in body["output"] if _is_message(item))
    if isinstance(body.get("content"), list | str):
        return _parts_text(body["content"])
    return None


def _is_message(item: object) -> bool:
    """Other items are what the model thought, and the tools it called."""
    return isinstance(item, dict) and item.get("type", "message") == "message"


def _choice_text(choice: object) -> str | None:
    if not isinstance(choice, dict):
        return None
    message = choice.get("message")
    if not isinstance(message, dict):
        return _text(choice.get("text"))
    return _parts_text(message.get("content")) or _text(message.get("refusal"))


def _parts_text(content: object) -> str | None:
    if isinstance(content, str):
        return content or None
    if not isinstance(content, list):
        return None
    parts = (part for part in content if isinstance(part, dict))
    return _joined(_text(part.get("text")) or _text(part.get("refusal")) for part in parts)


def _joined(parts: Any) -> str | None:  # noqa: ANN401 - any iterable of texts and Nones
    texts = [part for part in parts if part]
    return "".join(texts) if texts else None


def _finish_reason(body: dict[str, Any]) -> str | None:
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return _text(choices[0].get("finish_reason"))
    return _text(body.get("stop_reason")) or _text(body.get("status"))


def _count(usage: dict[str, Any], name: str, other_name: str) -> int | None:
    found = usage[name] if name in usage else usage.get(other_name)
    return found if type(found) is int and 0 <= found <= MOST_TOKENS else None


# ---------------------------------------------------------------- faults


def _complaint(reply: Reply, body: object) -> _Complaint:
    """Status, code and message from wherever this line carries them (doubleword-api 3, failure-modes 4)."""
    told = body if isinstance(body, dict) else {"message": body} if isinstance(body, str) else None
    from_body = _read_error(told, reply.status_code) if told is not None else None
    from_error = _read_error(_decoded(reply.error), reply.status_code) if reply.error is not None else None
    found = from_error or from_body
    if found is None:
        return _Complaint(reply.status_code, None, "the line holds neither an answer nor an error")
    other = from_body or found
    return _Complaint(found.status or other.status, found.code or other.code, found.message or other.message)


def _read_error(told: object, status: int | None) -> _Complaint:
    while isinstance(told, dict) and isinstance(inner := told.get("error"), dict):
        told, status = inner, _status_of(inner) or status
    if not isinstance(told, dict):
        return _Complaint(status, None, _text(told))
    inner = told.get("error")
    if isinstance(inner, str):
        return _Complaint(_status_of(told) or status, _word(told), inner)
    reason = _reason(told.get("message"))
    if reason is not None:
        return _read_reason(reason, status)
    finish = None if "choices" not in told else _finish_reason(told)
    return _Complaint(_status_of(told) or status, finish or _word(told), _text(told.get("message")))


def _word(told: dict[str, Any]) -> str | None:
    """The code, or the type where the code is none or only repeats the status as a number."""
    code, type_ = told.get("code"), told.get("type")
    return _text(type_ if code is None or (isinstance(code, int) and type_) else code)


def _status_of(told: dict[str, Any]) -> int | None:
    for name in ("status", "status_code", "code"):
        value = told.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:  # noqa: PLR2004
            return value
    return None


def _reason(message: object) -> dict[str, Any] | None:
    """Doubleword's error.message is a JSON document inside a string (doubleword-api 3)."""
    found = _decoded(message.encode(errors="replace")) if isinstance(message, str) and message[:1] == "{" else None
    return found if isinstance(found, dict) and isinstance(found.get("type"), str) else None


def _read_reason(reason: dict[str, Any], status: int | None) -> _Complaint:
    details = reason.get("details")
    if not isinstance(details, dict):
        return _Complaint(status, reason["type"], _text(details) or reason["type"])
    inner = details.get("body")
    document = _decoded(inner.encode(errors="replace")) if isinstance(inner, str) else inner
    told = _read_error(document, None) if isinstance(document, dict) else _Complaint(None, None, _text(inner))
    message = told.message or _text(details.get("error")) or reason["type"]
    return _Complaint(_status_of(details) or told.status or status, told.code or reason["type"], message)


def _fault(complaint: _Complaint) -> Fault:
    words = f"{complaint.code or ''} {complaint.message or ''}"
    status = complaint.status
    says_nothing = status is None or status < 300  # noqa: PLR2004
    if (says_nothing or status in (400, 402, 403, 429)) and is_about_account(words):
        return Fault.ACCOUNT
    code = (complaint.code or "").lower()
    if any(word in code for word in _REFUSED_CODES):
        return Fault.REFUSED
    if complaint.code in _FAULT_OF_CODE and says_nothing:
        return _FAULT_OF_CODE[complaint.code]
    if code in ("batch_expired", "batch_cancelled"):
        return _FAULT_OF_CODE[code]
    if status in _FAULT_OF_STATUS:
        return _FAULT_OF_STATUS[status]
    return Fault.INVALID if status is not None and 400 <= status < 500 else Fault.SERVER  # noqa: PLR2004


# ---------------------------------------------------------------- text


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    try:
        return None if value is None else msgspec.json.encode(value).decode()
    except RecursionError:  # nested as deeply as can just be read
        return None


def _clean(text: str | None) -> str | None:
    """NUL cannot stand in a text column everywhere (F28); the response keeps it."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}") if text and "\x00" in text else text


def _clip(text: str | None) -> str | None:
    found = _clean(text)
    return found if found is None or len(found) <= MESSAGE_CHARS else found[:MESSAGE_CHARS] + "…"
