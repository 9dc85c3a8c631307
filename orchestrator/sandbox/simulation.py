"""When each line of a batch ends, and how: fixed when the batch starts, changed only by a cancel or a retry."""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import ceil, inf
from random import Random

from orchestrator.sandbox.behaviours import SUCCESS, Effect, Fate, effect, refused
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.records import Batch, Line

EXPIRED = Effect(fate=Fate.FAILED, twist="batch-expired", status=0)
NO_CREDIT = refused(402, "insufficient_credits")


class Simulation:
    """Runs batches on paper.

    executions counts the runs of each custom_id at this server, planned ones included until a cancel takes them back.
    credit is the number of successes the account can still pay for, None for no limit. expires: whether lines that are
    late for the window end as `batch_expired`; the doubleword dialect runs them all the same (doubleword-api 2.3).
    """

    def __init__(self, options: Options, *, expires: bool) -> None:
        self.options = options
        self.expires = expires
        self.executions: Counter[str] = Counter()
        self.credit = options.credit_lines
        self.salt = Random(options.seed).randbytes(8).hex()

    def start(self, batch: Batch) -> None:
        """End the validation of a batch whose time has come: its lines come into being and their ends are fixed."""
        batch.started_at = batch.starts_at
        batch.lines = [Line(index, template) for index, template in enumerate(batch.source.templates)]
        self.plan(batch, batch.lines, batch.starts_at)
        share = batch.trait("cancelled-by-provider", "share")
        if share is not None:
            self.cancel(batch, batch.starts_at + share * self.options.latency_seconds)

    def plan(self, batch: Batch, lines: Sequence[Line], start: float) -> None:
        """Fix effect and times of lines that begin to run at `start`."""
        step = self.options.latency_seconds / max(1, len(lines))
        for position, line in enumerate(self.in_order(lines), 1):
            self.run(batch, line)
            line.stamp = line.seen_at = start + position * step + line.effect.slow * self.options.slow_seconds
            self.pay(line)
        self.delay(batch, lines, start)
        if self.expires:
            self.expire(batch, lines)
        batch.reindex()

    def in_order(self, lines: Sequence[Line]) -> list[Line]:
        """The lines in the order in which they will end."""
        if self.options.order == "input":
            return list(lines)
        if self.options.order == "reversed":
            return list(reversed(lines))
        first = lines[0].template.custom_id if lines else ""
        return Random(f"{self.salt}{first}").sample(lines, len(lines))

    def run(self, batch: Batch, line: Line) -> None:
        custom_id = line.template.custom_id
        self.executions[custom_id] += 1
        line.execution = self.executions[custom_id]
        line.cancelled_at, line.expired = None, False
        behaviour = line.template.behaviour or self.drawn(batch, line)
        line.effect = SUCCESS if behaviour is None else effect(behaviour, line.execution)

    def drawn(self, batch: Batch, line: Line) -> str | None:
        """The behaviour that chance gives a line which asks for none itself."""
        wishes = {
            fault.text("behaviour"): fault.number("share") for fault in batch.traits.values() if fault.name == "lines"
        }
        # A batch's own share is drawn once per custom_id, so that `-once` hits and misses the same prompts.
        found = self.pick(wishes, line.template.custom_id) if wishes else None
        if found is None and self.options.line_faults:
            found = self.pick(self.options.line_faults, f"{line.template.custom_id} {line.execution}")
        return found

    def pick(self, shares: Mapping[str, float], key: str) -> str | None:
        raw = blake2b(f"{self.salt}{key}".encode(), digest_size=8).digest()
        chance = int.from_bytes(raw, "big") / 2**64
        for behaviour, share in shares.items():
            chance -= share
            if chance < 0:
                return behaviour
        return None

    def pay(self, line: Line) -> None:
        """Take one success off the credit; a line that nobody can pay for ends with 402 (doubleword-api 4)."""
        if self.credit is None or line.effect.fate is not Fate.DONE:
            return
        if self.credit > 0:
            self.credit -= 1
        else:
            line.effect = NO_CREDIT

    def delay(self, batch: Batch, lines: Sequence[Line], start: float) -> None:
        """Late inserts take an old stamp to the end; stuck lines and lines without a template never end."""
        last = max((line.seen_at for line in lines), default=start)
        for line in lines:
            if line.effect.late:
                line.stamp, line.seen_at = start, last
        share = batch.trait("stuck-in-progress", "share")
        if batch.source.deleted:
            share = 1.0
        if share is not None:
            by_end = sorted(lines, key=lambda line: line.seen_at)
            for line in by_end[len(by_end) - ceil(share * len(by_end)) :]:
                line.stamp = line.seen_at = inf

    def expire(self, batch: Batch, lines: Sequence[Line]) -> None:
        for line in lines:
            if line.seen_at > batch.expires_at:
                self.take_back(line)
                line.effect, line.expired = EXPIRED, True
                line.stamp = line.seen_at = batch.expires_at

    def take_back(self, line: Line) -> None:
        """Undo the planned run of a line that will not take place."""
        self.executions[line.template.custom_id] -= 1
        if self.credit is not None and line.effect.fate is Fate.DONE:
            self.credit += 1

    def cancel(self, batch: Batch, at: float) -> None:
        """Stop a batch: what is about to end still does, the rest never runs (doubleword-api 2.6)."""
        last = at + self.options.abort_after_cancel_seconds
        batch.cancel_at = min(batch.cancel_at, at)
        if "stuck-cancelling" not in batch.traits:
            batch.cancel_ends_at = min(batch.cancel_ends_at, last)
        if batch.started_at is None:
            batch.starts_at = inf
            return
        for line in batch.lines:
            if line.seen_at > last and line.cancelled_at is None:
                self.take_back(line)
                line.cancelled_at = at
                line.stamp = line.seen_at = inf
        batch.reindex()

    def retry(self, batch: Batch, lines: Sequence[Line], now: float) -> None:
        """Run failed and cancelled lines again in their own batch, under their old ids (doubleword-api 2.7)."""
        for line in lines:
            line.earlier += line.ran(now)
        batch.cancel_at = batch.cancel_ends_at = inf
        batch.closed_at = None
        self.plan(batch, lines, now)
