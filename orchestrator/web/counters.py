"""Counters and histograms of one daemon: fed by what it measures, a handful of additions per transaction or call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from orchestrator.core.model import Fault, PromptStatus
from orchestrator.stages import CHORES, FLOW
from orchestrator.telemetry import EVENTS
from orchestrator.web.catalogue import BUCKETS, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LAG_SECONDS = 0.5
KINDS_OF_TOKENS = ("prompt", "completion")
STAGES = [stage.__name__ for stage in (*FLOW, *CHORES)]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nothing here needs


class Counters:
    """Everything counted since the page was opened; `hear` is given each event and each figure."""

    def __init__(self, providers: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._counters = {name: self._counter(name) for name, metric in METRICS.items() if metric.kind == "counter"}
        self._histograms = {name: self._histogram(name) for name in BUCKETS}
        self._begin_at_zero(providers)
        self._hearers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "store.recorded": self._recorded,
            "store.transacted": self._transacted,
            "loop.ticked": self._ticked,
            "provider.called": self._called,
            "provider.downloaded": lambda facts: self._add("orchestrator_downloaded_bytes_total", facts["nbytes"]),
            "provider.paused": lambda facts: self._add("orchestrator_provider_pauses_total", 1, facts["provider"]),
            "pack.sealed": self._sealed,
            "submit.uploaded": lambda facts: self._add("orchestrator_uploaded_bytes_total", facts["bytes"]),
        }

    def hear(self, what: str, facts: Mapping[str, Any]) -> None:
        if what in EVENTS:
            self._add("orchestrator_events_total", 1, what, EVENTS[what].level)
        hearer = self._hearers.get(what)
        if hearer is not None:
            hearer(facts)

    async def watch_lag(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_at = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._observe("orchestrator_loop_lag_seconds", max(0.0, loop.time() - due_at))

    def _counter(self, name: str) -> Counter:
        metric = METRICS[name]
        return Counter(name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        metric = METRICS[name]
        return Histogram(name, metric.help, metric.labels, registry=self.registry, buckets=BUCKETS[name])

    def _begin_at_zero(self, providers: Iterable[str]) -> None:
        """A series that begins with its first event hides that event from every rate."""
        known: dict[str, Iterable[str]] = {
            "orchestrator_outcomes_total": [status for status in PromptStatus if status is not PromptStatus.BATCHED],
            "orchestrator_faults_total": list(Fault),
            "orchestrator_tokens_total": KINDS_OF_TOKENS,
            "orchestrator_provider_pauses_total": providers,
            "orchestrator_stage_moved_total": STAGES,
            "orchestrator_stage_failures_total": STAGES,
        }
        for name, values in known.items():
            for value in values:
                self._counters[name].labels(value)
        for event, told in EVENTS.items():
            self._counters["orchestrator_events_total"].labels(event, told.level)

    def _add(self, name: str, amount: float, *labels: str) -> None:
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def _observe(self, name: str, seconds: float, *labels: str) -> None:
        histogram = self._histograms[name]
        (histogram.labels(*labels) if labels else histogram).observe(seconds)

    # ------------------------------------------------------------ what is heard

    def _recorded(self, facts: Mapping[str, Any]) -> None:
        for status, count in facts["statuses"].items():
            self._add("orchestrator_outcomes_total", count, status)
        for fault, count in facts["faults"].items():
            self._add("orchestrator_faults_total", count, fault)
        self._add("orchestrator_attempts_total", facts["attempts"])
        for kind in KINDS_OF_TOKENS:
            self._add("orchestrator_tokens_total", facts[f"{kind}_tokens"], kind)

    def _transacted(self, facts: Mapping[str, Any]) -> None:
        self._observe("orchestrator_database_transaction_duration_seconds", facts["seconds"], facts["kind"])

    def _ticked(self, facts: Mapping[str, Any]) -> None:
        stage, moved = facts["stage"], facts["moved"]
        self._observe("orchestrator_stage_duration_seconds", facts["seconds"], stage)
        if moved is None:
            self._add("orchestrator_stage_failures_total", 1, stage)
        else:
            self._add("orchestrator_stage_moved_total", moved, stage)

    def _called(self, facts: Mapping[str, Any]) -> None:
        provider, route = facts["provider"], facts["route"]
        self._add("orchestrator_provider_calls_total", 1, provider, route, facts["status"])
        self._observe("orchestrator_provider_call_duration_seconds", facts["seconds"], provider, route)

    def _sealed(self, facts: Mapping[str, Any]) -> None:
        self._add("orchestrator_sealed_lines_total", facts["lines"])
        self._add("orchestrator_sealed_bytes_total", facts["bytes"])
