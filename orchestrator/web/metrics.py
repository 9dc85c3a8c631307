"""`/metrics`: counters as they stand, and the queue's levels, read at the scrape and remembered for some seconds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from orchestrator import __version__
from orchestrator.core.model import BatchStatus
from orchestrator.core.polling import window_ms
from orchestrator.core.states import BATCH_ENDS
from orchestrator.errors import StoreError
from orchestrator.remembered import Remembered
from orchestrator.store.levels import Levels, Underway, read_levels
from orchestrator.web.catalogue import METRICS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from orchestrator.web.site import Site

REMEMBERED_SECONDS = 5.0
ACTIVE_STATUSES = [status.value for status in BatchStatus if status not in BATCH_ENDS]

Samples = dict[tuple[str, ...], float]


def metrics(site: Site) -> Callable[[web.Request], Awaitable[web.Response]]:
    levels = Remembered(lambda: site.context.database.read(read_levels), REMEMBERED_SECONDS)
    latest = Latest(site)
    site.counters.registry.register(latest)

    async def answer(request: web.Request) -> web.Response:
        try:
            latest.levels = await levels.get()
        except (StoreError, TimeoutError):
            latest.levels = None
        latest.file_bytes = await asyncio.to_thread(_file_bytes, site.context.database.path)
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(site.counters.registry), headers={"Content-Type": content_type})

    return answer


class Latest:
    """The gauges of one scrape. `levels` is None while the database does not answer: then they are left out."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.levels: Levels | None = None
        self.file_bytes: Samples = {}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [_family(name, {}) for name, metric in METRICS.items() if metric.kind == "gauge"]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        samples = {**self._of_daemon(), **(self._of_queue(self.levels) if self.levels else {})}
        for name, found in samples.items():
            yield _family(name, found)

    def _of_daemon(self) -> dict[str, Samples]:
        return {
            "orchestrator_build_info": {(__version__,): 1},
            "orchestrator_database_up": {(): float(self.levels is not None)},
            "orchestrator_stages_stuck": {(): len(self._site.vitals.stuck())},
            "orchestrator_database_file_bytes": self.file_bytes,
        }

    def _of_queue(self, levels: Levels) -> dict[str, Samples]:
        now_ms, providers = self._site.context.now_ms(), list(self._site.context.clients)
        counts = {"queued": levels.queued, "batched": levels.batched, "ended": levels.ended}
        return {
            "orchestrator_prompts": {(status,): count for status, count in counts.items()},
            "orchestrator_prompts_waiting": {(): levels.waiting},
            "orchestrator_queue_age_seconds": {(): age_seconds([levels.due_since_ms], now_ms)},
            "orchestrator_provider_paused": {(name,): float(name in levels.paused) for name in providers},
            **_of_batches(levels.batches, providers, now_ms),
        }


def _of_batches(batches: list[Underway], providers: list[str], now_ms: int) -> dict[str, Samples]:
    by_place: Samples = {(provider, status): 0 for provider in providers for status in ACTIVE_STATUSES}
    past: Samples = {(provider,): 0 for provider in providers}
    for batch in batches:
        place = (batch.provider, batch.status)
        by_place[place] = by_place.get(place, 0) + 1
        past[batch.provider,] = past.get((batch.provider,), 0) + is_past_window(batch, now_ms)
    submitted = [batch for batch in batches if batch.status == BatchStatus.SUBMITTED]
    ages: Samples = {
        (status,): age_seconds((batch.created_at_ms for batch in batches if batch.status == status), now_ms)
        for status in ACTIVE_STATUSES
    }
    seen = [batch.polled_at_ms or batch.submitted_at_ms for batch in submitted]
    received = sum(batch.lines_received for batch in batches)
    return {
        "orchestrator_batches": by_place,
        "orchestrator_oldest_batch_age_seconds": ages,
        "orchestrator_batches_past_window": past,
        "orchestrator_oldest_poll_age_seconds": {(): age_seconds(seen, now_ms)},
        "orchestrator_batch_lines": {("in_batch",): sum(b.lines for b in batches), ("received",): received},
        "orchestrator_batch_bytes": {(): sum(batch.nbytes for batch in batches)},
    }


def age_seconds(since_ms: Iterable[int | None], now_ms: int) -> float:
    """Since the first of these times; 0 where there is none, or where it lies ahead."""
    first_ms = min((time_ms for time_ms in since_ms if time_ms is not None), default=now_ms)
    return max(0, now_ms - first_ms) / 1000


def is_past_window(batch: Underway, now_ms: int) -> bool:
    """By our own clock; a window whose length its name does not tell has no end."""
    length_ms = window_ms(batch.completion_window)
    if length_ms is None or batch.status != BatchStatus.SUBMITTED or batch.submitted_at_ms is None:
        return False
    return now_ms > batch.submitted_at_ms + length_ms


def _family(name: str, samples: Samples) -> GaugeMetricFamily:
    metric = METRICS[name]
    family = GaugeMetricFamily(name, metric.help, labels=metric.labels)
    for labels, value in samples.items():
        family.add_metric(labels, value)
    return family


def _file_bytes(path: str | None) -> Samples:
    """Empty for a database that is no file, and while one is missing."""
    files = {} if path is None else {"main": Path(path), "wal": Path(f"{path}-wal")}
    found: Samples = {}
    for name, file in files.items():
        try:
            found[name,] = file.stat().st_size
        except OSError:
            continue
    return found
