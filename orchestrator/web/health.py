"""`/healthz`: is the daemon alive; `/readyz`: can it do its work now. Both say only words of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from orchestrator.errors import SchemaMismatch, StoreError
from orchestrator.remembered import Remembered
from orchestrator.store.providers import list_provider_states
from orchestrator.store.restoring import read_restored
from orchestrator.store.schema import require_current
from orchestrator.web.site import SITE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.web.site import Site

REMEMBERED_SECONDS = 2.0


async def healthz(request: web.Request) -> web.Response:
    """200 while every loop ticks; 503 names the stages whose loop gave no sign of life for too long."""
    stuck = request.app[SITE].vitals.stuck()
    return web.json_response({"alive": not stuck, "stuck": stuck}, status=503 if stuck else 200)


def readyz(site: Site) -> Callable[[web.Request], Awaitable[web.Response]]:
    """200 when the database answers, is current and complete, and no provider is paused; 503 says what is not so."""
    problems = Remembered(lambda: _problems(site), REMEMBERED_SECONDS)

    async def answer(_request: web.Request) -> web.Response:
        try:
            found = await problems.get()
        except TimeoutError:
            found = ["the database does not answer in time"]
        if site.vitals.stopping:
            found = ["the daemon is stopping", *found]
        return web.json_response({"ready": not found, "problems": found}, status=503 if found else 200)

    return answer


async def _problems(site: Site) -> list[str]:
    context = site.context
    try:
        await require_current(context.database)
        states = await context.database.read(list_provider_states)
        restored = await context.database.read(read_restored)
    except SchemaMismatch:
        return ["the database is at another revision than this program"]
    except StoreError:
        return ["the database cannot be read"]
    waits = [] if restored is None else ["the queue was restored and finds out what was sent since its backup"]
    return waits + [f"provider {name} is paused" for name in context.clients if name in states and states[name].pauses]
