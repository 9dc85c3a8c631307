"""Every address there is, in one list: what stands here is served, documented and guarded alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.web.health import healthz, readyz
from orchestrator.web.metrics import metrics
from orchestrator.web.page import status_routes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from orchestrator.web.site import Site


@dataclass(frozen=True, slots=True)
class Route:
    """`open` addresses are answered without a token: they tell nothing that a probe may not know."""

    path: str
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    open: bool = False


def routes(site: Site) -> list[Route]:
    page, status = status_routes(site)
    return [
        Route("/", page),
        Route("/status.json", status),
        Route("/healthz", healthz, open=True),
        Route("/readyz", readyz(site), open=True),
        Route("/metrics", metrics(site)),
    ]
