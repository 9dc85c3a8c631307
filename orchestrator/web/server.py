"""Serving the page from inside the daemon: a port that is taken, or a request that fails, costs the work nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp import web

from orchestrator.errors import OrchestratorError
from orchestrator.measures import listening
from orchestrator.telemetry import record, worth_telling
from orchestrator.web.access import add_headers, guarded
from orchestrator.web.routes import routes
from orchestrator.web.site import SITE, Site

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RETRY_SECONDS = 10.0
CONNECTIONS = 64
"""More at once are closed unread: each takes a file descriptor that the work may need."""
FAREWELL_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""How long a connection may take for its first request: enough that say nothing would keep out the probes."""
_silent: set[object] = set()


async def serve(site: Site) -> None:
    """Serve until cancelled, and count meanwhile; while the address cannot be had, try again every RETRY_SECONDS."""
    with listening(site.counters.hear):
        lag = asyncio.create_task(site.counters.watch_lag())
        try:
            await _serve(site)
        finally:
            lag.cancel()


async def _serve(site: Site) -> None:
    runner = web.AppRunner(
        application(site), access_log=None, handle_signals=False, shutdown_timeout=FAREWELL_SECONDS
    )  # fmt: skip
    await runner.setup()
    server = None
    try:
        server = await _listening(cast("web.Server", runner.server), site)
        await asyncio.Event().wait()
    finally:
        if server is not None:
            server.close()
        await runner.cleanup()


def application(site: Site) -> web.Application:
    made = web.Application(middlewares=[_survived])
    made[SITE] = site
    for route in routes(site):
        made.router.add_get(route.path, route.answer if route.open else guarded(route.answer, site.token))
    made.on_response_prepare.append(add_headers)
    return made


async def _listening(server: web.Server, site: Site) -> asyncio.Server:
    host, port = site.context.config.web.address()
    tries = 0
    while True:
        try:
            listening = await asyncio.get_running_loop().create_server(_Door(server), host, port)
        except (OSError, UnicodeError) as error:
            tries += 1
            if worth_telling(tries):
                reason = getattr(error, "strerror", None) or str(error)
                record("page.unavailable", listen=site.context.config.web.listen, reason=reason, tries=tries)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        record("page.listening", url=_url(listening), token="needed" if site.token else "none")
        return listening


def _url(server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Door:
    """Makes the protocol of each new connection, as long as there is room; one that asks nothing is shown out."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def __call__(self) -> asyncio.BaseProtocol:
        if len(self._server.connections) >= CONNECTIONS:
            return _Closed()
        made = self._server()
        _silent.add(made)
        asyncio.get_running_loop().call_later(SILENCE_SECONDS, _show_out, made)
        return made


def _show_out(connection: web.RequestHandler) -> None:
    if connection in _silent:
        _silent.remove(connection)
        connection.force_close()


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@web.middleware
async def _survived(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """One clear line for what the daemon cannot tell now; anything else is a bug of ours, and is logged."""
    _silent.discard(request.protocol)
    try:
        return await handler(request)
    except (web.HTTPException, ConnectionError):
        raise
    except (OrchestratorError, TimeoutError) as error:
        return web.Response(status=503, text=f"{str(error) or 'the database does not answer in time'}\n")
    except Exception as error:  # noqa: BLE001 - the page never takes the daemon down
        record("page.failed", path=request.path, reason=str(error), exc_info=error)
        return web.Response(status=500, text="this is a bug: see the daemon's log for page.failed\n")
