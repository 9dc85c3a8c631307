"""The sandbox as a running server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate

from aiohttp import hdrs, web

from orchestrator.sandbox import batches, content, control, files
from orchestrator.sandbox.call import Call, reply
from orchestrator.sandbox.faults import Faults
from orchestrator.sandbox.gate import Route, gated, unrouted
from orchestrator.sandbox.ledger import Ledger
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.provider import Provider

DEFAULT_MODELS = ("sandbox-model", "sandbox-embedding", "Qwen/Qwen3.5-35B-A3B-FP8", "Qwen/Qwen3-Embedding-8B")
# Uploads are judged by the provider's own limits, not by the web server's.
NO_BODY_LIMIT = sys.maxsize


async def list_models(call: Call) -> web.Response:
    names = call.options.models
    if names is None:
        names = tuple(dict.fromkeys([*DEFAULT_MODELS, *call.provider.models_seen]))
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "sandbox"} for name in names]
    return reply({"object": "list", "data": data})


# Fault route -> method, path, and what answers it; the extensions exist in some dialects alone.
ROUTES: Mapping[str, tuple[str, str, Route]] = {
    "upload": ("POST", "/v1/files", files.upload),
    "list-files": ("GET", "/v1/files", files.list_files),
    "retrieve-file": ("GET", "/v1/files/{id}", files.retrieve_file),
    "delete-file": ("DELETE", "/v1/files/{id}", files.delete_file),
    "content": ("GET", "/v1/files/{id}/content", content.content),
    "create": ("POST", "/v1/batches", batches.create),
    "list-batches": ("GET", "/v1/batches", batches.list_batches),
    "retrieve": ("GET", "/v1/batches/{id}", batches.retrieve),
    "cancel": ("POST", "/v1/batches/{id}/cancel", batches.cancel),
    "models": ("GET", "/v1/models", list_models),
}
EXTENSIONS: Mapping[str, tuple[str, str, Route]] = {
    "cost-estimate": ("GET", "/v1/files/{id}/cost-estimate", files.cost_estimate),
    "delete-batch": ("DELETE", "/v1/batches/{id}", batches.delete_batch),
    "analytics": ("GET", "/v1/batches/{id}/analytics", batches.analytics),
    "results": ("GET", "/v1/batches/{id}/results", content.results),
    "retry": ("POST", "/v1/batches/{id}/retry", batches.retry),
    "retry-requests": ("POST", "/v1/batches/{id}/retry-requests", batches.retry_requests),
}


def dated(provider: Provider) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """The `Date` header by the sandbox's own clock, as every other time it shows."""

    async def date(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers[hdrs.DATE] = formatdate(provider.options.clock(), usegmt=True)

    return date


def application(provider: Provider) -> web.Application:
    app = web.Application(client_max_size=NO_BODY_LIMIT, middlewares=[unrouted(provider.dialect)])
    app.on_response_prepare.append(dated(provider))
    served = {**ROUTES, **EXTENSIONS} if provider.dialect.extensions else ROUTES
    for name, (method, path, route) in served.items():
        endpoint = gated(provider, name, route)
        if method == "GET":
            # aiohttp answers HEAD on the same route, as the real server does.
            app.router.add_get(path, endpoint)
        else:
            app.router.add_route(method, path, endpoint)
    control.add_routes(app, provider)
    return app


class Sandbox:
    """A running sandbox, seen from its own process.

    url is where clients point their base URL; faults is the switchboard; ledger is computed at each look.
    """

    def __init__(self, provider: Provider, url: str) -> None:
        self.provider = provider
        self.url = url

    @property
    def faults(self) -> Faults:
        return self.provider.faults

    @property
    def ledger(self) -> Ledger:
        return control.snapshot(self.provider)


@asynccontextmanager
async def serve(options: Options | None = None) -> AsyncIterator[Sandbox]:
    """A sandbox that listens while the block runs; `OSError` when the port is taken, `ValueError` for bad options."""
    chosen = options or Options()
    provider = Provider(chosen)
    runner = web.AppRunner(application(provider), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, chosen.host, chosen.port)
        await site.start()
        port = runner.addresses[0][1]
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        yield Sandbox(provider, f"http://{host}:{port}/v1")
    finally:
        await runner.cleanup()


async def run(options: Options, announce: Callable[[str], None] | None = None) -> None:
    """Serve until cancelled; `announce` is called once with the base URL when requests can come in."""
    async with serve(options) as sandbox:
        if announce is not None:
            announce(sandbox.url)
        await asyncio.Event().wait()
