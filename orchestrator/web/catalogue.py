"""Every metric of ours: its kind, its labels and what it means. `docs/metrics.md` is drawn from here (`make docs`).

Each label has few values, whatever users and providers write: statuses, faults, stages and events of the code,
providers of the settings, routes as templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS: dict[str, Metric] = {
    "orchestrator_build_info": Metric("gauge", "Always 1; which version runs.", ("version",)),
    "orchestrator_database_up": Metric(
        "gauge", "1 when the database answered this scrape; 0: the levels of the queue are left out."
    ),
    "orchestrator_prompts": Metric(
        "gauge", "Prompts by status; ended are those done, failed and cancelled together.", ("status",)
    ),
    "orchestrator_prompts_waiting": Metric(
        "gauge", "Queued prompts whose time has not come: not_before, or the delay before another try."
    ),
    "orchestrator_queue_age_seconds": Metric(
        "gauge", "Since when the queued prompt that has been due longest might have been sent; 0 when none is due."
    ),
    "orchestrator_outcomes_total": Metric(
        "counter",
        "Outcomes written: done, failed for good, queued for another try, or cancelled by their user meanwhile. "
        "A prompt that is resent, or answered late, has several.",
        ("status",),
    ),
    "orchestrator_faults_total": Metric(
        "counter", "Outcomes that were failures, by fault, whether they are resent or not.", ("fault",)
    ),
    "orchestrator_attempts_total": Metric("counter", "Tries that count against retry.max_attempts: likely paid for."),
    "orchestrator_tokens_total": Metric("counter", "Tokens the provider says it used.", ("kind",)),
    "orchestrator_batches": Metric("gauge", "Batches that are not over.", ("provider", "status")),
    "orchestrator_oldest_batch_age_seconds": Metric(
        "gauge", "Age of the oldest batch in this status, since it was packed; 0 when there is none.", ("status",)
    ),
    "orchestrator_batches_past_window": Metric(
        "gauge", "Submitted batches that run for longer than their window.", ("provider",)
    ),
    "orchestrator_oldest_poll_age_seconds": Metric(
        "gauge",
        "Since when the submitted batch that was not seen longest got no successful poll; 0 when there is none.",
    ),
    "orchestrator_batch_lines": Metric(
        "gauge", "Lines of batches that are not over: those in them, and those received so far.", ("state",)
    ),
    "orchestrator_batch_bytes": Metric("gauge", "Bytes of the input files of batches that are not over."),
    "orchestrator_sealed_lines_total": Metric("counter", "Lines of batches that were packed."),
    "orchestrator_sealed_bytes_total": Metric("counter", "Bytes of batches that were packed."),
    "orchestrator_uploaded_bytes_total": Metric("counter", "Bytes of input files that arrived at the provider."),
    "orchestrator_downloaded_bytes_total": Metric("counter", "Bytes of output and error files that were read."),
    "orchestrator_provider_calls_total": Metric(
        "counter",
        "Calls to a provider by route and HTTP status; none: no reply came, broken: it broke off.",
        ("provider", "route", "status"),
    ),
    "orchestrator_provider_call_duration_seconds": Metric(
        "histogram", "How long calls took, to the end of the reply; uploads and downloads too.", ("provider", "route")
    ),
    "orchestrator_provider_paused": Metric("gauge", "1 while the provider's account is refused.", ("provider",)),
    "orchestrator_provider_pauses_total": Metric("counter", "Pauses that began or were prolonged.", ("provider",)),
    "orchestrator_stage_duration_seconds": Metric("histogram", "How long one tick of a stage took.", ("stage",)),
    "orchestrator_stage_moved_total": Metric("counter", "Rows a stage moved: prompts or batches.", ("stage",)),
    "orchestrator_stage_failures_total": Metric("counter", "Ticks that failed; the stage paused.", ("stage",)),
    "orchestrator_stages_stuck": Metric("gauge", "Stages without a sign of life for too long; see /healthz."),
    "orchestrator_loop_lag_seconds": Metric(
        "histogram", "How much later than asked the event loop woke a sleeper, twice a second."
    ),
    "orchestrator_database_transaction_duration_seconds": Metric(
        "histogram", "How long transactions took, from their begin to their commit.", ("kind",)
    ),
    "orchestrator_database_file_bytes": Metric("gauge", "Size of the SQLite file and of its log (wal).", ("file",)),
    "orchestrator_events_total": Metric(
        "counter",
        "Lines of the log by event, also those below log.level; docs/logs.md has them all.",
        ("event", "level"),
    ),
}

CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
TICK_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
TRANSACTION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
BUCKETS: dict[str, tuple[float, ...]] = {
    "orchestrator_provider_call_duration_seconds": CALL_BUCKETS,
    "orchestrator_stage_duration_seconds": TICK_BUCKETS,
    "orchestrator_database_transaction_duration_seconds": TRANSACTION_BUCKETS,
    "orchestrator_loop_lag_seconds": LAG_BUCKETS,
}
