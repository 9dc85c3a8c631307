"""The OpenAI dialect on the wire: what differs from Doubleword's stands here, under the same names."""

import re
import string
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
from aiohttp import web

from orchestrator.sandbox.behaviours import FIRST_SERVER_ERROR, Effect, Fate
from orchestrator.sandbox.doubleword import reply_count, seconds, upstream_error
from orchestrator.sandbox.errors import Refusal
from orchestrator.sandbox.records import Batch, StoredFile

FILE_ID_CHARACTERS = 24
REPLY_BYTES = 600
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
# OpenAI has one status for every malformed request.
MALFORMED = frozenset({413, 415, 422})
PAYMENT_REQUIRED, TOO_MANY = 402, 429
REWORDED = (
    (re.compile(r"^File with ID (\S+) not found$"), r"No such File object: \1"),
    (re.compile(r"^Batch with ID (\S+) not found$"), r"No batch found with id '\1'."),
    (re.compile(r"^Authentication required$"), "Incorrect API key provided."),
    (re.compile(r"^Account balance too low.*$"), "You exceeded your current quota, please check your plan."),
    (re.compile(r"^Internal server error$"), "The server had an error while processing your request."),
)


def new_file_id(dice: Random) -> str:
    return "file-" + "".join(dice.choices(string.ascii_letters + string.digits, k=FILE_ID_CHARACTERS))


def new_batch_id(dice: Random) -> str:
    return f"batch_{dice.getrandbits(128):032x}"


def valid_id(_: str) -> bool:
    """Every text may be an id; a wrong one is just not found."""
    return True


def line_prefix(batch_id: str) -> str:
    return batch_id.removeprefix("batch_")[:12]


def refusal(error: Refusal) -> web.Response:
    """One JSON shape for every refusal; an empty balance is a 429 here (F34)."""
    status = 400 if error.status in MALFORMED else error.status
    code = error.code
    if status == PAYMENT_REQUIRED:
        status, code = TOO_MANY, "insufficient_quota"
    shown = {"message": reworded(error.text), "type": error_type(status, code), "param": error.param, "code": code}
    headers = {} if error.retry_header is None else {"Retry-After": str(error.retry_header)}
    body = msgspec.json.encode({"error": shown})
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def reworded(text: str) -> str:
    for pattern, words in REWORDED:
        text = pattern.sub(words, text)
    return text


def error_type(status: int, code: str | None) -> str:
    if code == "insufficient_quota":
        return code
    if status == TOO_MANY:
        return "requests"
    return "server_error" if status >= FIRST_SERVER_ERROR else "invalid_request_error"


def file_object(file: StoredFile, now: float) -> dict[str, Any]:
    return {
        "object": "file",
        "id": file.id,
        "purpose": file.purpose,
        "filename": file.filename,
        "bytes": file.nbytes if file.batch is None else REPLY_BYTES * reply_count(file, now),
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "status": "processed",
        "status_details": None,
    }


def ends_at(batch: Batch) -> float:
    """When an undisturbed batch leaves `finalizing` (F15)."""
    return batch.idle_at + (batch.trait("long-finalizing", "seconds") or 0.0)


def status(batch: Batch, now: float) -> str:
    if batch.validation_failed_at <= now:
        return "failed"
    if batch.cancel_at <= now:
        return "cancelled" if batch.cancel_ends_at <= now else "cancelling"
    if not batch.has_started(now):
        return "validating"
    if now < batch.idle_at:
        return "in_progress"
    if now < ends_at(batch):
        return "finalizing"
    return "expired" if any(line.expired for line in batch.failed) else "completed"


def has_reply_file(batch: Batch, fate: Fate, now: float) -> bool:
    """Reply files come with the end of the batch, and only for lines there are (F5)."""
    if status(batch, now) not in ENDED:
        return False
    if fate is Fate.DONE:
        return batch.completed_count(now) > 0
    return batch.failed_count(now) > 0 or "empty-error-file" in batch.traits


def batch_object(batch: Batch, now: float) -> dict[str, Any]:
    """The batch at this moment; fields without a value are null."""
    state = status(batch, now)
    rejected = state == "failed"
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.error_rows} if rejected else None,
        "input_file_id": batch.source.id,
        "completion_window": batch.window,
        "status": state,
        "output_file_id": shown_id(batch, batch.output, now),
        "error_file_id": shown_id(batch, batch.errors, now),
        "created_at": int(batch.created_at),
        **stamps(batch, state, now),
        "request_counts": {
            "total": 0 if rejected or state == "validating" else batch.total,
            "completed": batch.completed_count(now),
            "failed": batch.failed_count(now),
        },
        "metadata": batch.metadata or None,
    }


def shown_id(batch: Batch, file: StoredFile | None, now: float) -> str | None:
    return file.id if file is not None and has_reply_file(batch, file.fate, now) else None


def stamps(batch: Batch, state: str, now: float) -> dict[str, int | None]:
    """Unix seconds of each stage reached."""
    return {
        "in_progress_at": seconds(batch.started_at, now),
        "expires_at": int(batch.expires_at),
        "finalizing_at": seconds(batch.idle_at, now) if state in {"finalizing", "completed", "expired"} else None,
        "completed_at": seconds(ends_at(batch), now) if state == "completed" else None,
        "failed_at": seconds(batch.validation_failed_at, now),
        "expired_at": seconds(ends_at(batch), now) if state == "expired" else None,
        "cancelling_at": seconds(batch.cancel_at, now),
        "cancelled_at": seconds(batch.cancel_ends_at, now),
    }


def check_cancel(batch: Batch, now: float) -> None:
    state = status(batch, now)
    if state in ENDED:
        raise Refusal(400, f"Cannot cancel a batch with status '{state}'.")


def failure(line_id: str, custom_id: str, effect: Effect) -> dict[str, Any]:
    """A line of the error file: a response where the model server gave one, else an error (F17)."""
    if not effect.status:
        error = {"code": "server_error", "message": f"The request could not be executed: {effect.reason}."}
        return {"id": line_id, "custom_id": custom_id, "response": None, "error": error}
    request_id = line_id.replace("batch_req", "req")
    response = {"status_code": effect.status, "request_id": request_id, "body": upstream_error(effect)}
    return {"id": line_id, "custom_id": custom_id, "response": response, "error": None}


def validation_errors(batch: Batch) -> list[dict[str, object]]:
    """Everything about the file that keeps its batch from running (F20, F22, F23), by line; `line` null is the file."""
    source = batch.source
    if not source.templates and not source.problems:
        return [row("empty_file", "The input file is empty.", None)]
    if source.problems:
        return source.problems
    return [*mismatches(batch), *duplicates(source)]


def mismatches(batch: Batch) -> Iterator[dict[str, object]]:
    model = batch.source.templates[0].model
    for number, template in enumerate(batch.source.templates, 1):
        if template.url != batch.endpoint:
            text = f"The URL '{template.url}' provided for this request does not match the batch endpoint."
            yield row("url_mismatch", text, number)
        if template.model != model:
            text = f"The provided model '{template.model}' does not match the model of the batch, '{model}'."
            yield row("mismatched_model", text, number)


def duplicates(source: StoredFile) -> Iterator[dict[str, object]]:
    seen: Counter[str] = Counter()
    for number, template in enumerate(source.templates, 1):
        seen[template.custom_id] += 1
        if seen[template.custom_id] > 1:
            text = f"The custom_id '{template.custom_id}' for this request is a duplicate of another request."
            yield row("duplicate_custom_id", text, number)


def row(code: str, text: str, line: int | None) -> dict[str, object]:
    return {"code": code, "message": text, "param": None, "line": line}
