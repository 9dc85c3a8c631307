"""Faults in how a batch object looks (F4, F6, F30, F36-F38); the batch itself is well."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.sandbox.faults import Fault, Fired

Shown = dict[str, Any]
ENDED = {"completed", "failed", "cancelled", "expired"}
COMPLAINT = {"code": "invalid_request", "message": "Line 4 was rejected.", "param": None, "line": 4}


def iso_dates(body: Shown, _: Fault) -> None:
    for key, value in body.items():
        if key.endswith("_at") and value is not None:
            body[key] = datetime.fromtimestamp(value, tz=UTC).isoformat().replace("+00:00", "Z")


def no_nulls(body: Shown, _: Fault) -> None:
    for key in [key for key, value in body.items() if value is None]:
        del body[key]


def errors_list(body: Shown, _: Fault) -> None:
    body["errors"] = [COMPLAINT]


def errors_text(body: Shown, _: Fault) -> None:
    body["errors"] = COMPLAINT["message"]


def unknown_status(body: Shown, fault: Fault) -> None:
    if body["status"] not in ENDED:
        body["status"] = fault.text("status")


def upper_case_status(body: Shown, _: Fault) -> None:
    body["status"] = body["status"].upper()


def null_counts(body: Shown, _: Fault) -> None:
    body["request_counts"] = None


def zero_counts(body: Shown, _: Fault) -> None:
    body["request_counts"] = {"total": 0, "completed": 0, "failed": 0}


def counts_backwards(body: Shown, _: Fault) -> None:
    counts = body["request_counts"]
    body["request_counts"] = counts | {key: max(0, counts[key] - 1) for key in ("completed", "failed")}


def empty_error_file_id(body: Shown, _: Fault) -> None:
    body["error_file_id"] = ""


DISTORTIONS: Mapping[str, Callable[[Shown, Fault], None]] = {
    "unknown-status": unknown_status,
    "upper-case-status": upper_case_status,
    "null-counts": null_counts,
    "zero-counts": zero_counts,
    "counts-backwards": counts_backwards,
    "empty-error-file-id": empty_error_file_id,
    "errors-list": errors_list,
    "errors-text": errors_text,
    "iso-dates": iso_dates,
    "no-nulls": no_nulls,
}


def distorted(body: Shown, fired: Fired) -> Shown:
    for name, distort in DISTORTIONS.items():
        if name in fired:
            distort(body, fired[name])
    return body
