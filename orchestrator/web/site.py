"""What every address of the page is given: the daemon it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from orchestrator.web.counters import Counters

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.vitals import Vitals


@dataclass(slots=True)
class Site:
    """One daemon as it is shown. `token` is what a visitor must know, None where anybody on this machine may look."""

    context: Context
    vitals: Vitals
    token: str | None
    counters: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.counters = Counters(self.context.clients)


SITE = web.AppKey("site", Site)
