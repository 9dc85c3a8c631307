"""One line of an output or error file, spoiled in the way its request asked for (doubleword-api 3, failure-modes 4)."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from orchestrator.sandbox.answers import response_body
from orchestrator.sandbox.behaviours import Fate
from orchestrator.sandbox.dialects import Dialect
from orchestrator.sandbox.doubleword import upstream_error
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.records import Batch, Line

COLLIDING = 3
EXPIRED_TEXT = "This request could not be executed before the completion window expired."
RATE_TEXT = "Rate limit reached. Please try again later."
RATE_BODY = {"error": {"message": RATE_TEXT, "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
GATEWAY_REASON = '{"type":"RetriableHttpStatus","details":{"status":502,"body":"upstream connect error"}}'
# Twist -> what stands in a failed line beside its ids, where that is not the dialect's own way.
FAILURES: Mapping[str, dict[str, Any]] = {
    "batch-expired": {"response": None, "error": {"code": "batch_expired", "message": EXPIRED_TEXT}},
    "error-shape-response": {
        "response": {"status_code": 429, "request_id": None, "body": RATE_BODY},
        "error": None,
    },
    "error-shape-code": {"response": None, "error": {"code": "rate_limit_exceeded", "message": RATE_TEXT}},
    "error-shape-type": {"error": {"type": "rate_limit_error", "message": RATE_TEXT}},
    "error-shape-text": {"response": None, "error": {"code": None, "message": GATEWAY_REASON}},
    "error-shape-unknown": {"response": None, "error": {"code": None, "message": "Unknown error"}},
}
ASKED = b"You asked: "
OPENING = b'"body":{'


def request_id(batch: Batch, line: Line) -> str:
    """The line's own UUID, the same before and after a retry; a few digits that collide where the fault says so."""
    return f"{batch.line_prefix}{line.index:012x}" if batch.line_prefix else f"{line.index % COLLIDING:05x}"


def reply_line(batch: Batch, line: Line, options: Options, dialect: Dialect) -> bytes:
    """The bytes of one reply, newline included."""
    line_id = f"batch_req_{request_id(batch, line)}"
    if line.effect.fate is Fate.FAILED:
        return failed_line(line_id, line, dialect)
    return spoiled(done_line(line_id, line, options, dialect), line.effect.twist)


def done_line(line_id: str, line: Line, options: Options, dialect: Dialect) -> bytes:
    template, effect = line.template, line.effect
    status = effect.status
    if effect.twist == "status-in-output":
        body = msgspec.json.encode(upstream_error(effect))
    else:
        size = options.huge_bytes if effect.twist == "huge" and effect.size is None else options.answer_bytes
        answer = response_body(template.body, template.url, effect, size)
        body = msgspec.json.encode(answer, order="sorted" if dialect.sorted_bodies else None)
    if effect.twist == "string-body":
        body = msgspec.json.encode(body.decode())
    return b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}\n' % (
        line_id.encode(),
        msgspec.json.encode(template.custom_id),
        status,
        b'"%b"' % line_id.replace("batch_req", "req").encode() if dialect.request_ids else b"null",
        body,
    )


def failed_line(line_id: str, line: Line, dialect: Dialect) -> bytes:
    custom_id, effect = line.template.custom_id, line.effect
    shaped = FAILURES.get(effect.twist or "")
    if shaped is None:
        return msgspec.json.encode(dialect.failure(line_id, custom_id, effect)) + b"\n"
    return msgspec.json.encode({"id": line_id, "custom_id": custom_id, **shaped}) + b"\n"


def torn(line: bytes) -> bytes:
    return line[: len(line) // 2] + b"\n"


SPOILERS: Mapping[str, Callable[[bytes], bytes]] = {
    "bad-utf8": lambda line: line.replace(OPENING, OPENING + b'"damage":"\xff\xfe",', 1),
    "bad-json": lambda line: line.replace(b',"error":null}', b',"error":nul', 1),
    "not-object": lambda _: b"[1,2,3]\n",
    "torn": torn,
    "crlf": lambda line: line[:-1] + b"\r\n",
    "bom": lambda line: b"\xef\xbb\xbf" + line,
    "lone-surrogate": lambda line: line.replace(ASKED, b"\\ud83d " + ASKED, 1),
}


def spoiled(line: bytes, twist: str | None) -> bytes:
    """The finished line with its bytes damaged; twists of the answer itself have already been applied."""
    spoil = SPOILERS.get(twist or "")
    return line if spoil is None else spoil(line)
