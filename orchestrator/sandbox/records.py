"""What the server keeps: files, their lines, batches, and how far each line of a batch has come."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from orchestrator.sandbox.behaviours import SUCCESS, Effect, Fate
from orchestrator.sandbox.faults import Fault


@dataclass(slots=True)
class Template:
    """One accepted line of an input file; body is canonical JSON (doubleword-api 1.5)."""

    custom_id: str
    method: str
    url: str
    model: str
    body: bytes
    behaviour: str | None


@dataclass(slots=True, eq=False)
class StoredFile:
    """An uploaded file (templates) or the view of one batch's replies (batch); times are Unix seconds.

    purpose is None when the upload named none. visible_at lies in the future while a replica lags (F3). problems are
    the bad lines of a file that is only checked when a batch starts (openai dialect).
    """

    id: str
    filename: str
    purpose: str | None
    created_at: float
    nbytes: int = 0
    expires_at: float | None = None
    visible_at: float = -inf
    templates: list[Template] = field(default_factory=list)
    problems: list[dict[str, object]] = field(default_factory=list)
    batch: "Batch | None" = None
    fate: Fate = Fate.DONE
    deleted: bool = False


@dataclass(slots=True, eq=False)
class Line:
    """One request of a batch.

    stamp is the `completed_at`/`failed_at` that orders the reply file, seen_at when the reply can be read; they differ
    for a late insert (doubleword-api 1.6). execution is the how-manieth run of this custom_id at this server, earlier
    how many runs this line had before a retry. seen_at is infinite for a line that never ends, cancelled or not;
    expired lines are written to the error file without having run (F11).
    """

    index: int
    template: Template
    effect: Effect = SUCCESS
    execution: int = 0
    stamp: float = inf
    seen_at: float = inf
    earlier: int = 0
    cancelled_at: float | None = None
    expired: bool = False

    def ran(self, now: float) -> bool:
        return self.seen_at <= now and not self.expired


@dataclass(slots=True, eq=False)
class Batch:
    """One batch; every status, count and file is a projection of `lines` at the moment of reading.

    Times are Unix seconds, infinite for what has not been decided yet. starts_at is when validation ends, started_at
    the same once its lines exist, cancel_ends_at when nothing of a cancelled batch runs any more, closed_at the lazily
    written `completed_at`/`failed_at` (doubleword-api 2.3). input_file_id becomes "" when the input file is deleted
    (1.7). traits are the faults it was created under, error_rows the validation errors that failed it (F22).
    """

    id: str
    line_prefix: str
    source: StoredFile
    endpoint: str
    window: str
    metadata: dict[str, str]
    hidden_metadata: dict[str, str]
    created_at: float
    starts_at: float
    expires_at: float
    traits: Mapping[str, Fault]
    input_file_id: str
    output: StoredFile | None = None
    errors: StoredFile | None = None
    lines: list[Line] = field(default_factory=list)
    error_rows: list[dict[str, object]] = field(default_factory=list)
    started_at: float | None = None
    validation_failed_at: float = inf
    cancel_at: float = inf
    cancel_ends_at: float = inf
    closed_at: float | None = None
    visible_at: float = -inf
    deleted_at: float = inf
    idle_at: float = inf
    done: list[Line] = field(default_factory=list)
    failed: list[Line] = field(default_factory=list)
    done_times: list[float] = field(default_factory=list)
    failed_times: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.source.templates)

    @property
    def model(self) -> str:
        """The model of its first line; a file may mix them only where the dialect lets it."""
        return self.source.templates[0].model if self.source.templates else ""

    @property
    def tokens(self) -> int:
        """What its file counts for in the quota of enqueued tokens, four bytes each."""
        return sum(len(template.body) for template in self.source.templates) // 4

    def runs(self, now: float) -> bool:
        return self.has_started(now) and now < min(self.idle_at, self.cancel_ends_at)

    def trait(self, name: str, key: str) -> float | None:
        """A number set by one of the batch's own faults, None when it does not have that fault."""
        fault = self.traits.get(name)
        return None if fault is None else fault.number(key)

    def reindex(self) -> None:
        """Sort lines into reply files by stamp; call after any line's fate or time changed."""
        by_stamp = sorted((line for line in self.lines if line.seen_at < inf), key=lambda line: line.stamp)
        self.done = [line for line in by_stamp if line.effect.fate is Fate.DONE]
        self.failed = [line for line in by_stamp if line.effect.fate is Fate.FAILED]
        counted = [line.seen_at for line in by_stamp if line.effect.fate in {Fate.DONE, Fate.HIDDEN}]
        self.done_times = sorted(counted)
        self.failed_times = sorted(line.seen_at for line in self.failed)
        # A cancelled line settles with the cancel, which may still lie ahead.
        ends = (line.seen_at if line.cancelled_at is None else line.cancelled_at for line in self.lines)
        self.idle_at = max(ends, default=inf if self.started_at is None else self.started_at)

    def completed_count(self, now: float) -> int:
        return bisect_right(self.done_times, now)

    def failed_count(self, now: float) -> int:
        return bisect_right(self.failed_times, now)

    def has_started(self, now: float) -> bool:
        return self.started_at is not None and self.started_at <= now

    def is_idle(self, now: float) -> bool:
        """Nothing pending or running; a cancel makes every started batch idle at once (doubleword-api 2.3)."""
        return self.has_started(now) and min(self.cancel_at, self.idle_at) <= now

    def replies(self, fate: Fate, now: float) -> list[Line]:
        """Lines of one reply file readable now, in the order of the file; a duplicated line appears twice."""
        rows = self.done if fate is Fate.DONE else self.failed
        return [
            again for line in rows if line.seen_at <= now for again in ((line, line) if line.effect.twice else (line,))
        ]
