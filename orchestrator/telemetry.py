"""The log: one vocabulary `<stage>.<fact>`, written in one place. Never a prompt, an answer or a key."""

from __future__ import annotations

import contextlib
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from orchestrator.keys import hidden
from orchestrator.measures import measure

if TYPE_CHECKING:
    from structlog.typing import Processor


@dataclass(frozen=True, slots=True)
class Event:
    """`level` of the line, what it means, the fields it carries and what to do about it (empty: nothing)."""

    level: str
    meaning: str
    fields: str
    todo: str = ""


_BATCH = "batch, key"
_FOLDED = "Folded; `others` counts what was left out of other batches."

EVENTS: dict[str, Event] = {
    "daemon.started": Event("info", "The daemon runs.", "version, database, owner, providers, released_leases"),
    "daemon.config": Event("info", "The effective settings that differ from the defaults, once at start.", "settings"),
    "daemon.migrated": Event("info", "The database was brought to the newest revision.", "before, after"),
    "daemon.provider_missing": Event(
        "error",
        "Batches wait for a provider that left the settings.",
        "provider",
        "Put the [providers.NAME] table back, with its key: its batches go on from where they are.",
    ),
    "daemon.heartbeat": Event(
        "info",
        "The queue's counts, at a steady interval; done and failed since the last one; what is not well: batches whose "
        "last call failed, paused providers.",
        "queued, batched, active_batches, done, failed, failing_batches, paused",
    ),
    "daemon.clock_differs": Event(
        "warning",
        "This machine's clock and that of the PostgreSQL server are more than 30 seconds apart: leases no longer keep "
        "daemons off each other's batches. Logged at the 1st, 2nd, 4th, 8th … look in a row, one a minute.",
        "ahead_seconds, looks",
        "Let NTP set the clocks of all machines. ahead_seconds is how far this one is ahead of the server's.",
    ),
    "daemon.clock_agrees": Event("info", "The clocks agree again.", "looks"),
    "daemon.clock_jumped": Event(
        "warning",
        "The machine's clock has jumped ahead by more than an hour: nothing is deleted for its age, here or at the "
        "provider, until it has stayed there for an hour.",
        "ahead_seconds, pause_seconds",
        "Nothing if the clock is right now; else let NTP set it within that time, lest young prompts count as old.",
    ),
    "daemon.clock_set_back": Event(
        "warning",
        "The machine's clock was set back: polls, pauses and holds that were scheduled by it are brought forward.",
        "seconds",
        "Nothing if the clock is right now.",
    ),
    "daemon.idle": Event("info", "Every prompt has ended; `--until-idle` stops here.", "done, failed, cancelled"),
    "daemon.stopping": Event("info", "A signal asked for a stop; ticks in hand are finished.", "signal, grace_seconds"),
    "daemon.stopped": Event("info", "The daemon has stopped; nothing is lost, the next start goes on.", "seconds"),
    "daemon.cut_short": Event(
        "warning",
        "Something held up the end for longer than it may, so the process ends as by `kill -9`; nothing is lost.",
        "seconds",
        "See what holds the database: another program's transaction, or a server that does not answer.",
    ),
    "loop.failed": Event(
        "warning",
        "Stages cannot work and pause, longer each time; told once for all that share the reason, then at their 2nd, "
        "4th, 8th … failure in a row.",
        "stages, reason, failures, pause_seconds",
        "Read the reason: it names the remedy. Work goes on by itself.",
    ),
    "loop.crashed": Event(
        "error",
        "A stage hit a bug; it goes on after a pause.",
        "stages, reason, failures, pause_seconds, exception",
        "Report it with this line. Prompts are safe: nothing was committed.",
    ),
    "loop.recovered": Event(
        "info", "Every stage that failed for one reason works again; the last of them is named.", "stage, failures"
    ),
    "loop.deaf": Event(
        "warning",
        "PostgreSQL cannot be listened to: new rows are seen by looking, every five seconds. Logged at the 1st, 2nd, "
        "4th, 8th … try in a row.",
        "reason, tries",
        "If it lasts, check the server and that no pooler in transaction mode stands before it. Work goes on.",
    ),
    "loop.hears": Event("info", "PostgreSQL is listened to again.", "tries"),
    "page.listening": Event("info", "The page is served.", "url, token"),
    "page.unavailable": Event(
        "warning",
        "The page cannot be served; the work goes on without it, and it is tried again. Folded.",
        "listen, reason, tries",
        "Free the address, or set web.listen to another one and restart the daemon.",
    ),
    "page.failed": Event(
        "error", "A request for the page hit a bug.", "path, reason, exception", "Report it with this line."
    ),
    "admit.admitted": Event("info", "Rows were checked and joined the queue.", "prompts"),
    "admit.rejected": Event(
        "warning",
        "Rows ended as failed/invalid.",
        "prompts, example_custom_id, example",
        "See `orchestrator results --status failed`; correct the rows and `orchestrator retry` them.",
    ),
    "pack.sealed": Event(
        "info", "A batch was packed.", f"{_BATCH}, provider, endpoint, window, model, lines, bytes, why"
    ),
    "submit.uploaded": Event("info", "The batch's file is at the provider.", f"{_BATCH}, file_id, bytes, seconds"),
    "submit.submitted": Event("info", "The provider accepted the batch.", f"{_BATCH}, remote_batch_id, seconds"),
    "submit.adopted": Event(
        "info",
        "After a lost reply or a crash the file or batch was found at the provider: nothing is sent twice.",
        f"{_BATCH}, what, remote_id",
    ),
    "submit.surplus_cancelled": Event(
        "error",
        "The provider holds a second batch under our key; it is cancelled if it still runs.",
        f"{_BATCH}, remote_batch_id",
        "Check the provider's bill for this batch; report it with these lines.",
    ),
    "submit.not_found_yet": Event(
        "info",
        "A call's reply was lost; the provider's listing does not show it (yet).",
        f"{_BATCH}, what, looks, needed",
    ),
    "submit.sent_again": Event(
        "warning",
        "Several listings over time show nothing: the call is made again.",
        f"{_BATCH}, what, looks",
        "Nothing.",
    ),
    "submit.undecided": Event(
        "error",
        "A batch's creation got no reply, or one to be replaced is not found, and this provider's listing cannot show "
        "it: held, to not pay twice.",
        _BATCH,
        "Look at the provider's batch list for this key; if it is not there, set the provider's "
        "searchable_batches to true for one start.",
    ),
    "submit.delayed": Event(
        "warning",
        f"A call failed and is tried again later. {_FOLDED}",
        f"{_BATCH}, provider, reason, tries, others, pause_seconds",
        "If it lasts, check the network and the provider's status page, or run `orchestrator check`.",
    ),
    "submit.lines_refused": Event(
        "warning",
        "The provider refuses these lines; they failed, the rest of the batch is sent at once.",
        f"{_BATCH}, lines, fault, reason",
        "See the prompts' error_message; correct and retry them.",
    ),
    "submit.split": Event(
        "warning",
        "The provider refused a file without naming a line, or it does not get through though the provider answers: "
        "halved, to find the line or the size.",
        f"{_BATCH}, lines, reason",
        "Nothing; the line that is to blame will be named. If it does not get through, lower packing.max_bytes.",
    ),
    "submit.limit_lowered": Event(
        "warning",
        "The provider takes smaller files than configured.",
        f"{_BATCH}, provider, max_bytes, max_lines, reason",
        "Nothing; to spare the refusals, set packing.max_bytes or max_lines to these figures.",
    ),
    "submit.repacked": Event(
        "info", "A batch was dissolved unsent; its lines are packed anew.", f"{_BATCH}, lines, why"
    ),
    "submit.held": Event(
        "warning",
        "The provider takes no more waiting tokens now: the batch was dissolved unsent, smaller files follow later. A "
        "prompt that is turned away though it had the quota to itself pays a return.",
        f"{_BATCH}, lines, pause_seconds, reason",
        "Nothing; to lessen it, set the provider's max_active_batches_per_lane lower.",
    ),
    "submit.cancelled": Event(
        "info", "A batch was cancelled before it was created: nothing is paid.", f"{_BATCH}, lines"
    ),
    "submit.replaced": Event(
        "warning",
        "A batch that never left validating was deleted and is created anew.",
        f"{_BATCH}, remote_batch_id",
        "Nothing.",
    ),
    "provider.paused": Event(
        "error",
        "The provider refuses the account: nothing is submitted; polling and collecting go on. Logged at the 1st, 2nd, "
        "4th, 8th … refusal in a row; each heartbeat names who is paused.",
        "provider, reason, pauses, pause_seconds",
        "Check key, credit, spending cap or stored files, as the reason says. It resumes by itself once the account "
        "works; where the key is in a variable, set it and start the daemon again: one that runs does not see it.",
    ),
    "provider.resumed": Event("info", "The provider's account works again.", "provider"),
    "poll.changed": Event(
        "info",
        "The provider shows a new status, or one more tenth of the batch, of which nothing can be read yet.",
        f"{_BATCH}, remote_status, total, completed, failed, received",
    ),
    "poll.failed": Event(
        "warning",
        f"A poll got no answer; the batch is left as it is. {_FOLDED}",
        f"{_BATCH}, provider, reason, tries, others",
        "If it lasts, check the network, the key and the provider's status page.",
    ),
    "poll.stuck": Event(
        "warning",
        "A batch never leaves validating; it is replaced.",
        f"{_BATCH}, minutes",
        "Nothing; if it repeats, ask the provider why.",
    ),
    "poll.overdue": Event(
        "warning",
        "A batch is long past its window; it is cancelled and its rest resent.",
        f"{_BATCH}, remote_batch_id",
        "Nothing; if it repeats, ask the provider why. polling.overdue_seconds sets the patience.",
    ),
    "poll.gone": Event(
        "error",
        "The provider knows a batch no more, which nobody wants or whose window is long over: it is given up there.",
        f"{_BATCH}, remote_batch_id, reason",
        "Look whether the key is still that of the account which made the batch, and whether somebody deleted it.",
    ),
    "poll.cancelling": Event(
        "info", "Nobody wants the rest of a batch any more: it is cancelled there.", f"{_BATCH}, remote_batch_id"
    ),
    "poll.output_unnamed": Event(
        "warning",
        "The batch is over and counts answers, but names no file with them; it is asked again for some hours.",
        f"{_BATCH}, completed",
        "If it lasts, show the provider the batch's id: its lines are resent, and paid for again, after six hours.",
    ),
    "poll.ended": Event(
        "info", "The batch is over at the provider.", f"{_BATCH}, remote_status, total, completed, failed"
    ),
    "collect.received": Event(
        "info",
        "Lines were read and stored; told at each further tenth of the batch, with what the last read brought.",
        f"{_BATCH}, file, received, of, lines, done, resent, failed, duplicates, strays, faults",
    ),
    "collect.unreadable": Event(
        "warning",
        "Lines that are no readable JSON; their bytes are kept in `attempts.raw`.",
        f"{_BATCH}, lines",
        "They are resent by themselves; if it repeats, show the bytes to the provider.",
    ),
    "collect.late_success": Event(
        "info", "Answers arrived for prompts already given up on: kept.", f"{_BATCH}, prompts"
    ),
    "collect.failed": Event(
        "warning",
        f"A download broke off; what arrived is stored, the rest is read later. {_FOLDED}",
        f"{_BATCH}, provider, file, reason, tries, others",
        "If it lasts, check the network and the provider's status page.",
    ),
    "collect.skip_ignored": Event(
        "warning",
        "The provider ignores the resume parameter; lines already read are skipped here.",
        f"{_BATCH}, file",
        "Set the provider's resume_parameter to what it understands, or to empty.",
    ),
    "collect.file_gone": Event(
        "error",
        "A finished batch's file is gone at the provider; lines not yet read are resent.",
        f"{_BATCH}, file",
        "Check whether somebody deletes files there; shorten the time between daemon runs.",
    ),
    "settle.rereading": Event(
        "info",
        "Lines are missing at the batch's end: it is polled once more, and its files are read from the start.",
        f"{_BATCH}, missing",
    ),
    "settle.missing": Event(
        "warning",
        "Lines stand in neither file; they are resent or failed.",
        f"{_BATCH}, lines, fault, resent, failed",
        "Nothing; if it repeats, show the provider the batch's id.",
    ),
    "settle.rejected": Event(
        "warning",
        "The provider rejected a file after taking it; lines it blames failed, the others are back in the queue.",
        f"{_BATCH}, lines, fault, resent, failed, reason",
        "See the prompts' error_message; correct and retry them.",
    ),
    "settle.held": Event(
        "warning",
        "The provider's quota of waiting tokens is full: the lines are back in the queue, smaller files follow later. "
        "A prompt that is turned away though it had the quota to itself pays a return.",
        f"{_BATCH}, lines, pause_seconds",
        "Nothing; to lessen it, set the provider's max_active_batches_per_lane lower.",
    ),
    "settle.settled": Event(
        "info",
        "The batch is closed: received = done + failed + resent.",
        f"{_BATCH}, remote_status, lines, done, failed, resent, faults, seconds",
    ),
    "settle.gave_up": Event(
        "warning",
        "Prompts of the batch failed for good; the faults are those of all its lines.",
        f"{_BATCH}, failed, faults",
        "`orchestrator failures` shows why; correct the prompts and `orchestrator retry` them.",
    ),
    "reclaim.begun": Event(
        "warning",
        "This queue was restored from a backup: what was sent since is looked for before anything else is done.",
        "backed_up_at",
        "Nothing; it takes `submission.adopt_checks` looks at the provider's listing, six minutes with the defaults.",
    ),
    "reclaim.adopted": Event(
        "info",
        "A batch that was sent after the backup is back with its prompts, and paid for once. Of its lines, those not "
        "counted are of prompts that the backup does not have.",
        f"{_BATCH}, remote_batch_id, lines, total",
    ),
    "reclaim.stranger": Event(
        "warning",
        "A batch of this queue holds no prompt that the backup still waits for.",
        "key, remote_batch_id, lines",
        "Fetch its answers from the provider by hand if they are wanted; enqueue its prompts again if they are not.",
    ),
    "reclaim.unreadable": Event(
        "error",
        "A batch was sent after the backup and its input file cannot be read. Prompts that its answers name are taken "
        "back with it, by their custom_id alone; `unknown` of its lines are not known, and those prompts are sent, and "
        "paid for where they were answered, again.",
        "key, remote_batch_id, reason, lines, unknown",
        "Nothing can be done now; let `retention.remote_files_days` be longer than your backups are old. If a "
        "custom_id of it was given to another question after the backup, its answer belongs to that one: compare.",
    ),
    "reclaim.done": Event("info", "Nothing more turned up: the queue goes on from here.", "unreadable"),
    "prune.pruned": Event(
        "info",
        "Prompts and batches older than `retention.finished_days` were deleted; at most one line a minute.",
        "prompts, batches",
    ),
    "clear.deleted": Event("info", "A closed batch's files were deleted at the provider.", f"{_BATCH}, files"),
    "clear.kept": Event(
        "warning",
        "A file was not deleted at the provider, since it refuses that, or does not show the file to be ours.",
        f"{_BATCH}, file_id, reason",
        "Read the reason; delete the file by hand if it is yours.",
    ),
    "clear.failed": Event(
        "warning",
        f"Files could not be deleted at the provider now; tried again later, less and less often. {_FOLDED}",
        f"{_BATCH}, provider, reason, tries, others",
        "If it lasts, check the network, the key and the provider's status page.",
    ),
}

_logger: Any = structlog.get_logger("orchestrator")


def record(event: str, **facts: object) -> None:
    """Write one fact of EVENTS with its fields; a field that is None is left out."""
    told = {name: _sayable(value) for name, value in facts.items() if value is not None}
    if EVENTS[event].todo:
        told["todo"] = EVENTS[event].todo
    with contextlib.suppress(OSError, ValueError):  # a full disk, a reader who left: the work goes on without a log
        getattr(_logger, EVENTS[event].level)(event, **told)
    measure(event, **facts)


def _sayable(value: object) -> object:
    """A text without a key and without what steers a terminal: some of it was written by others."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in hidden(value))


def configure(level: str, form: str) -> None:
    """Log to stderr: JSON lines, or readable text when `form` is `console` or, with `auto`, stderr is a terminal."""
    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    last: Processor = structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer()
    shape: list[Processor] = [] if readable else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *shape,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def further_tenth(before: int, after: int, whole: int) -> bool:
    """True when progress passed one more tenth of the whole: a long way is told in ten lines."""
    return after * 10 // max(1, whole) > before * 10 // max(1, whole)


def worth_telling(count: int) -> bool:
    """True for the 1st, 2nd, 4th, 8th … time: repeated trouble is folded."""
    return count > 0 and count & (count - 1) == 0
