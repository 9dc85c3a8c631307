"""The server's state and the verbs that change it; HTTP stands around it in `files.py`, `batches.py`, `content.py`."""

from dataclasses import dataclass, field
from math import inf
from random import Random

from orchestrator.sandbox.behaviours import Fate
from orchestrator.sandbox.dialects import DIALECTS
from orchestrator.sandbox.errors import batch_not_found, file_not_found
from orchestrator.sandbox.fault_table import LASTING
from orchestrator.sandbox.faults import Faults, Fired
from orchestrator.sandbox.ledger import Books
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.records import Batch, StoredFile, Template
from orchestrator.sandbox.simulation import Simulation

DEFAULT_FILE_LIFE_SECONDS = 30 * 86_400
QUEUE_FULL_TEXT = (
    "Enqueued token limit reached for {} in organization org-sandbox. "
    "Please try again once some in_progress batches have been completed."
)


@dataclass(slots=True)
class Intake:
    """What an upload has brought so far."""

    filename: str | None = None
    purpose: str | None = None
    expires_seconds: int | None = None
    nbytes: int = 0
    templates: list[Template] = field(default_factory=list)
    problems: list[dict[str, object]] = field(default_factory=list)
    has_file: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """A checked POST /batches; hidden metadata is stored and searched, never shown (doubleword-api 2.1)."""

    source: StoredFile
    endpoint: str
    window: str
    metadata: dict[str, str]
    hidden_metadata: dict[str, str]


class Provider:
    """Files and batches by id, deleted ones included. `now` is asked once per request: it also starts due batches."""

    def __init__(self, options: Options) -> None:
        if options.dialect not in DIALECTS:
            raise ValueError(f"unknown dialect {options.dialect!r}; known: {', '.join(DIALECTS)}")
        self.options = options
        self.dialect = DIALECTS[options.dialect]
        self.faults = Faults(options.faults, options.seed)
        self.simulation = Simulation(options, expires=self.dialect.expires)
        self.books = Books()
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, Batch] = {}
        self.models_seen: dict[str, None] = {}
        self.waiting: list[Batch] = []
        self.dice = Random(options.seed)

    def now(self) -> float:
        now = self.options.clock()
        due = sorted((batch for batch in self.waiting if batch.starts_at <= now), key=lambda batch: batch.starts_at)
        for batch in due:
            if self.has_room(batch):
                self.simulation.start(batch)
            else:
                self.fail_validation(batch, [queue_full(batch)], batch.starts_at)
        self.waiting = [batch for batch in self.waiting if batch.started_at is None and batch.starts_at < inf]
        return now

    def has_room(self, batch: Batch) -> bool:
        """Whether the model's quota of enqueued tokens, of which every running batch holds a part, has room (F7)."""
        most, at = self.options.enqueued_tokens, batch.starts_at
        if most is None:
            return True
        running = (other for other in self.batches.values() if other.runs(at) and other.model == batch.model)
        return batch.tokens + sum(other.tokens for other in running) <= most

    def file(self, file_id: str, now: float) -> StoredFile:
        """A file a client may see; `Refusal` 404 for one deleted, unknown, or not yet on the replica (F3)."""
        found = self.files.get(file_id)
        if found is None or not self.shows(found, now):
            raise file_not_found(file_id)
        return found

    def shows(self, file: StoredFile, now: float) -> bool:
        if file.deleted or file.visible_at > now:
            return False
        return file.batch is None or self.dialect.has_reply_file(file.batch, file.fate, now)

    def batch(self, batch_id: str, now: float) -> Batch:
        """A batch a client may see; `Refusal` 404 as for `file`."""
        found = self.batches.get(batch_id)
        if found is None or found.deleted_at <= now or found.visible_at > now:
            raise batch_not_found(batch_id)
        return found

    def add_file(self, intake: Intake, fired: Fired, now: float) -> StoredFile:
        file_id = self.dialect.new_file_id(self.dice)
        life = DEFAULT_FILE_LIFE_SECONDS if intake.expires_seconds is None else intake.expires_seconds
        stored = StoredFile(
            id=file_id,
            filename=intake.filename or f"upload-{file_id}",
            purpose=intake.purpose,
            created_at=now,
            nbytes=intake.nbytes,
            expires_at=now + life,
            templates=intake.templates,
            problems=intake.problems,
            visible_at=now + lag(fired),
        )
        self.files[file_id] = stored
        self.books.uploads += 1
        self.models_seen |= dict.fromkeys(template.model for template in intake.templates)
        return stored

    def add_batch(self, order: Order, fired: Fired, now: float) -> Batch:
        """A new batch, always: the server knows no idempotency (doubleword-api 2.1)."""
        traits = {key: fault for key, fault in fired.items() if fault.name in LASTING}
        batch_id = self.new_batch_id(traits)
        batch = Batch(
            id=batch_id,
            line_prefix="" if "colliding-ids" in traits else self.dialect.line_prefix(batch_id),
            source=order.source,
            endpoint=order.endpoint,
            window=order.window,
            metadata=order.metadata,
            hidden_metadata=order.hidden_metadata,
            created_at=now,
            starts_at=now + self.options.validate_seconds,
            expires_at=now + self.options.windows[order.window],
            traits=traits,
            input_file_id=order.source.id,
            visible_at=now + lag(fired),
        )
        self.batches[batch_id] = batch
        self.books.creates += 1
        batch.output = self.reply_file(batch, Fate.DONE, now)
        batch.errors = self.reply_file(batch, Fate.FAILED, now)
        self.foredoom(batch)
        self.waiting.append(batch)
        return batch

    def new_batch_id(self, traits: Fired) -> str:
        batch_id = self.dialect.new_batch_id(self.dice)
        long = traits.get("long-ids")
        return batch_id if long is None else batch_id.ljust(int(long.number("characters")), "0")

    def reply_file(self, batch: Batch, fate: Fate, now: float) -> StoredFile:
        word = "output" if fate is Fate.DONE else "error"
        file = StoredFile(
            id=self.dialect.new_file_id(self.dice),
            filename=f"batch-{batch.id}-{word}.jsonl",
            purpose=f"batch_{word}",
            created_at=now,
            batch=batch,
            fate=fate,
        )
        self.files[file.id] = file
        return file

    def foredoom(self, batch: Batch) -> None:
        """Apply the traits that decide a batch's end before any of its lines runs."""
        self.shorten_window(batch)
        if rows := self.dialect.validation_errors(batch):
            self.fail_validation(batch, rows, batch.starts_at)
        if "stuck-validating" in batch.traits:
            batch.starts_at = inf
        if "validation-failed" in batch.traits:
            self.fail_validation(batch, validation_rows(batch), batch.starts_at)
        if "population-failed" in batch.traits:
            self.fail_validation(batch, [], batch.starts_at)
        if "token-limit" in batch.traits:
            wait = batch.trait("token-limit", "seconds") or 0.0
            self.fail_validation(batch, [queue_full(batch)], batch.created_at + wait)

    def shorten_window(self, batch: Batch) -> None:
        share = batch.trait("expired", "share")
        if share is not None and self.dialect.expires:
            batch.expires_at = batch.starts_at + share * self.options.latency_seconds
        elif share is not None:
            batch.expires_at = batch.created_at

    def fail_validation(self, batch: Batch, rows: list[dict[str, object]], at: float) -> None:
        batch.error_rows, batch.validation_failed_at, batch.starts_at = rows, at, inf

    def close(self, batch: Batch, now: float, *, retrieved: bool) -> None:
        """Write the terminal stamp if it is time: on a GET of the batch, else by the sweep (doubleword-api 2.3)."""
        if batch.closed_at is not None or not batch.is_idle(now) or batch.cancel_at <= now:
            return
        due = batch.idle_at + (batch.trait("long-finalizing", "seconds") or 0.0)
        swept = due + self.options.sweep_seconds
        if (due if retrieved else swept) <= now:
            batch.closed_at = min(now, swept)

    def is_terminal(self, batch: Batch, now: float) -> bool:
        return batch.is_idle(now) or batch.validation_failed_at <= now or batch.cancel_at <= now

    def delete_file(self, file: StoredFile, now: float) -> None:
        """Soft delete; an input file takes its running batches with it, a reply file its link (doubleword-api 1.7)."""
        file.deleted = True
        for batch in self.batches.values():
            if batch.source is file:
                batch.input_file_id = ""
                if not self.is_terminal(batch, now):
                    self.simulation.cancel(batch, now)
            batch.output = None if batch.output is file else batch.output
            batch.errors = None if batch.errors is file else batch.errors

    def delete_batch(self, batch: Batch, now: float) -> None:
        if not self.is_terminal(batch, now):
            self.simulation.cancel(batch, now)
        batch.deleted_at = now


def lag(fired: Fired) -> float:
    fault = fired.get("replica-lag")
    return 0.0 if fault is None else fault.number("seconds")


def queue_full(batch: Batch) -> dict[str, object]:
    return {
        "code": "token_limit_exceeded",
        "message": QUEUE_FULL_TEXT.format(batch.model),
        "param": None,
        "line": None,
    }


def validation_rows(batch: Batch) -> list[dict[str, object]]:
    fault = batch.traits["validation-failed"]
    named = fault.text("lines").split(",")
    lines = [int(number) if number.isdecimal() else None for number in named]
    return [
        {"code": fault.text("code"), "line": line, "message": fault.text("message"), "param": None} for line in lines
    ]
