"""The Doubleword dialect on the wire: ids, objects, statuses, error bodies (doubleword-api 1.1, 2.2, 2.3, 3, 5)."""

import re
from math import inf
from random import Random
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from orchestrator.sandbox.behaviours import Effect, Fate
from orchestrator.sandbox.errors import Refusal
from orchestrator.sandbox.records import Batch, StoredFile

OWNER = "sandbox@example.org"
BATCH_CONTEXT = {"context_name": "Personal", "context_type": "personal"}
FILE_CONTEXT = {"created_by_email": OWNER, **BATCH_CONTEXT}
CLIENT_ERRORS = range(400, 500)
ESTIMATED_REPLY_BYTES = 600
CONFLICT = 409
TRY_LATER = {429: "too_many_requests", 503: "service_unavailable"}
UUID_TEXT = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")


def new_id(dice: Random) -> str:
    return str(UUID(int=dice.getrandbits(128), version=4))


def valid_id(text: str) -> bool:
    return UUID_TEXT.match(text) is not None


def line_prefix(batch_id: str) -> str:
    """The part that the ids of all lines of a batch share; twelve hex digits complete it to a UUID."""
    return batch_id[:24]


def refusal(error: Refusal) -> web.Response:
    """Text for most statuses, JSON for a few, whose header and body may disagree on purpose (doubleword-api 5)."""
    headers = {} if error.retry_header is None else {"Retry-After": str(error.retry_header)}
    body = refusal_body(error)
    if body is None:
        return web.Response(status=error.status, text=error.text, headers=headers)
    raw = msgspec.json.encode(body)
    return web.Response(status=error.status, body=raw, headers=headers, content_type="application/json")


def refusal_body(error: Refusal) -> dict[str, Any] | None:
    """The JSON of a refusal, None where it is plain text."""
    if error.status == CONFLICT:
        return {"message": error.text, "resource": "sandbox"}
    if error.status not in TRY_LATER:
        return None
    body: dict[str, Any] = {"error": TRY_LATER[error.status], "message": error.text}
    if error.retry_body is not None:
        body["retry_after_seconds"] = error.retry_body
    return body


def file_object(file: StoredFile, now: float) -> dict[str, Any]:
    """The file at this moment; absent fields are left out, never null (doubleword-api 1.1)."""
    shown = {
        "id": file.id,
        "object": "file",
        "bytes": file.nbytes if file.batch is None else ESTIMATED_REPLY_BYTES * reply_count(file, now),
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose or "batch",
        "expires_at": None if file.expires_at is None else int(file.expires_at),
    }
    return {key: value for key, value in shown.items() if value is not None}


def reply_count(file: StoredFile, now: float) -> int:
    if file.batch is None:
        return 0
    return file.batch.completed_count(now) if file.fate is Fate.DONE else file.batch.failed_count(now)


def status(batch: Batch, now: float) -> str:
    """The first rule that matches in the table of doubleword-api 2.3; `expired` is none of them."""
    started, idle = batch.has_started(now), batch.is_idle(now)
    if batch.cancel_at <= now:
        return "cancelled" if started and "stuck-cancelling" not in batch.traits else "cancelling"
    if not started:
        return "failed" if batch.validation_failed_at <= now else "validating"
    if not idle:
        return "in_progress"
    if batch.failed_count(now) == batch.total:
        return "failed"
    if batch.closed_at is None:
        return "finalizing"
    return "completed" if batch.completed_count(now) else "failed"


def has_reply_file(_batch: Batch, _fate: Fate, _now: float) -> bool:
    """Both reply files exist from the batch's creation (doubleword-api 2.1)."""
    return True


def validation_errors(_: Batch) -> list[dict[str, object]]:
    """None: bad lines have already refused the upload (doubleword-api 1.1)."""
    return []


def check_cancel(_batch: Batch, _now: float) -> None:
    """Every batch can be cancelled, an ended one too (doubleword-api 2.3)."""


def batch_object(batch: Batch, now: float) -> dict[str, Any]:
    """The batch at this moment; absent fields are left out, never null (doubleword-api 2.2)."""
    state = status(batch, now)
    shown = {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.error_rows} if state == "failed" and batch.error_rows else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": state,
        "output_file_id": batch.output.id if batch.output else None,
        "error_file_id": batch.errors.id if batch.errors else None,
        "created_at": int(batch.created_at),
        **stamps(batch, state, now),
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed_count(now),
            "failed": batch.failed_count(now),
        },
        "metadata": batch.metadata,
        "dwext": {"source": "api"},
    }
    return {key: value for key, value in shown.items() if value is not None}


def stamps(batch: Batch, state: str, now: float) -> dict[str, int | None]:
    """Unix seconds of each stage reached, in the order of the wire (doubleword-api 2.2)."""
    failed_at = batch.validation_failed_at if batch.started_at is None else batch.closed_at
    succeeded = batch.completed_count(now) > 0
    cancelled = batch.cancel_at <= now
    return {
        "in_progress_at": seconds(batch.started_at, now),
        "expires_at": seconds(batch.expires_at, inf),
        "finalizing_at": seconds(batch.idle_at, now) if state in {"finalizing", "completed"} else None,
        "completed_at": seconds(batch.closed_at, now) if succeeded else None,
        "failed_at": None if succeeded else seconds(failed_at, now),
        "expired_at": seconds(batch.expires_at, now),
        "cancelling_at": seconds(batch.cancel_at, now) if cancelled else None,
        "cancelled_at": seconds(batch.cancel_at, now) if cancelled else None,
    }


def seconds(moment: float | None, now: float) -> int | None:
    return int(moment) if moment is not None and moment <= now and moment != inf else None


def failure(line_id: str, custom_id: str, effect: Effect) -> dict[str, Any]:
    """A line of the error file: the reason is a JSON document inside a string (doubleword-api 3)."""
    message = msgspec.json.encode(reason(effect)).decode()
    return {"id": line_id, "custom_id": custom_id, "response": None, "error": {"code": None, "message": message}}


def reason(effect: Effect) -> dict[str, Any]:
    match effect.reason:
        case "Timeout":
            return {"type": "Timeout", "details": {"error": "Request timed out after 600000ms"}}
        case "NetworkError":
            error = msgspec.json.encode({"message": "error sending request", "sources": ["connection closed"]}).decode()
            return {"type": "NetworkError", "details": {"error": error}}
        case "RequestBuilderError":
            return {"type": "RequestBuilderError", "details": {"error": "Could not build the upstream request"}}
        case "TaskTerminated":
            return {"type": "TaskTerminated"}
        case _:
            body = msgspec.json.encode(upstream_error(effect)).decode()
            return {"type": effect.reason, "details": {"status": effect.status, "body": body}}


def upstream_error(effect: Effect) -> dict[str, Any]:
    """The error body the model server answered with."""
    kind = "invalid_request_error" if effect.status in CLIENT_ERRORS else "server_error"
    text = f"The sandbox answers this request with status {effect.status}."
    return {"error": {"message": text, "type": kind, "param": None, "code": effect.code}}
