"""The nouns: what a prompt, a lane and a batch are, and the words for their states and faults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec


class PromptStatus(StrEnum):
    QUEUED = "queued"
    BATCHED = "batched"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BatchStatus(StrEnum):
    """Life of a batch on our side. What the provider calls it is stored beside, as remote status."""

    PACKING = "packing"
    SEALED = "sealed"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    CREATING = "creating"
    SUBMITTED = "submitted"
    REPLACING = "replacing"
    ENDED = "ended"
    SETTLED = "settled"
    DISCARDED = "discarded"


class Fault(StrEnum):
    """Who is to blame for a line without an answer (product, section 3)."""

    INVALID = "invalid"
    REFUSED = "refused"
    THROTTLED = "throttled"
    SERVER = "server"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    CANCELLED_REMOTELY = "cancelled_remotely"
    MISSING = "missing"
    ACCOUNT = "account"
    UNREADABLE = "unreadable"


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """One user row as it stands in `prompts`: text columns as UTF-8 bytes, None where the user left them out."""

    id: int
    custom_id: str
    prompt: bytes | None = None
    system: bytes | None = None
    body: bytes | None = None
    model: bytes | None = None
    endpoint: bytes | None = None
    completion_window: bytes | None = None
    provider: bytes | None = None
    not_before_readable: bool = True


class Lane(msgspec.Struct, frozen=True, gc=False):
    """Prompts that may share a file. `model` is empty where the provider lets models share one (F23)."""

    provider: str
    endpoint: str
    completion_window: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """One input file and what became of it. Times are Unix milliseconds, None when it did not happen yet."""

    id: int
    key: str
    lane_id: int
    lane: Lane
    status: BatchStatus
    fence: int
    lines: int
    nbytes: int
    tries: int
    empty_looks: int
    input_file_id: str | None
    remote_batch_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    remote_status: str | None
    remote_total: int | None
    remote_completed: int | None
    remote_failed: int | None
    remote_errors: str | None
    abandoned_remote_ids: str
    cancel_requested: bool
    output_cursor: int
    error_cursor: int
    output_first: str | None
    error_first: str | None
    reread: bool
    reread_news: int
    rereads: int
    lines_done: int
    lines_failed: int
    lines_resent: int
    unreadable: int
    created_at_ms: int
    uploaded_at_ms: int | None
    submitted_at_ms: int | None
    ended_at_ms: int | None

    @property
    def file_name(self) -> str:
        return f"{self.key}.jsonl"

    @property
    def lines_received(self) -> int:
        return self.lines_done + self.lines_failed + self.lines_resent
