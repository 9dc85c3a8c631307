"""What the provider did and would bill, for tests that must count it."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec


@dataclass(slots=True)
class Books:
    """Counted as it happens: files stored, batches made, bytes of content sent, requests by route, and replies.

    A reply counts under "route status", a connection cut on purpose under "route reset".
    """

    uploads: int = 0
    creates: int = 0
    bytes_served: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)


class BatchEntry(msgspec.Struct, frozen=True):
    """One batch ever made. lines are those of its file; executed counts runs, those before a retry included."""

    id: str
    status: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str]
    input_file_id: str
    filename: str
    created_at: float
    lines: int
    executed: int
    completed: int
    failed: int
    deleted: bool


class FileEntry(msgspec.Struct, frozen=True):
    """One uploaded file; nbytes as received."""

    id: str
    filename: str
    nbytes: int
    lines: int
    created_at: float
    deleted: bool


class Ledger(msgspec.Struct, frozen=True):
    """A snapshot.

    executions, successes: custom_id -> how often it ran and how often that succeeded, over all batches; only those
    that did are present. creates, uploads: how often a batch or file was really made, whatever the client was told.
    requests: route -> requests that arrived. statuses: as in `Books`.
    """

    executions: dict[str, int]
    successes: dict[str, int]
    batches: list[BatchEntry]
    files: list[FileEntry]
    creates: int
    uploads: int
    bytes_served: int
    requests: dict[str, int]
    statuses: dict[str, int]
