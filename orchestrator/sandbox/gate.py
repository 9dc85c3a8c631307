"""What stands before and behind every route: key, counting, and the faults of the HTTP level."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from orchestrator.sandbox.call import Call
from orchestrator.sandbox.dialects import Dialect
from orchestrator.sandbox.errors import (
    Refusal,
    internal_error,
    service_unavailable,
    too_many_requests,
)
from orchestrator.sandbox.faults import Fault, Fired
from orchestrator.sandbox.provider import Provider
from orchestrator.sandbox.wire import Cut, reset

Route = Callable[[Call], Awaitable[web.StreamResponse]]
Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

AUTHENTICATION_REQUIRED = "Authentication required"
LOW_BALANCE = "Account balance too low. Please add credits to continue."
LOST = ("lost-reply", "create-lost-reply", "upload-lost-reply")
STANDARD_TEXTS = {
    401: AUTHENTICATION_REQUIRED,
    402: LOW_BALANCE,
    403: "Insufficient permissions",
    404: "Resource not found",
    500: "Internal server error",
}
OTHER_TEXT = "The sandbox was told to answer like this."
HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>proxy</body></html>\n"
FIRST_CLIENT_ERROR, FIRST_SERVER_ERROR = 400, 500


def gated(provider: Provider, name: str, route: Route) -> Endpoint:
    """The route as aiohttp calls it."""

    async def endpoint(request: web.Request) -> web.StreamResponse:
        books = provider.books
        books.requests[name] += 1
        try:
            response = await answered(provider, name, route, request)
        except Cut:
            books.statuses[f"{name} reset"] += 1
            # The connection is gone; aiohttp wants a response all the same and finds that it cannot send it.
            return web.Response()
        books.statuses[f"{name} {response.status}"] += 1
        return response

    return endpoint


def unrouted(dialect: Dialect) -> Middleware:
    """Words paths and methods that do not exist as the dialect does."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            return dialect.refusal(Refusal(error.status, dialect.unrouted_text.format(request.method, request.path)))

    return middleware


async def answered(provider: Provider, name: str, route: Route, request: web.Request) -> web.StreamResponse:
    fired = provider.faults.draw(name)
    if "slow" in fired:
        await asyncio.sleep(fired["slow"].number("seconds"))
    call = Call(provider, request, fired, provider.now())
    response: web.StreamResponse | None
    try:
        response = instead(call)
        if response is None:
            authenticate(call)
            response = await route(call)
    except Refusal as refusal:
        response = provider.dialect.refusal(refusal)
    return await spoiled(call, response)


def authenticate(call: Call) -> None:
    """Every failure of the key is one and the same 401 (doubleword-api 5)."""
    scheme, _, key = call.request.headers.get("Authorization", "").partition(" ")
    accepted = call.options.api_key
    if scheme.lower() != "bearer" or not key.strip() or accepted not in {None, key.strip()}:
        raise Refusal(401, AUTHENTICATION_REQUIRED, code="invalid_api_key")


def instead(call: Call) -> web.Response | None:
    """The answer of a fault that keeps the request from being executed."""
    fired = call.fired
    if "reset-before" in fired:
        raise reset(call.request)
    if "unauthorized" in fired:
        raise Refusal(401, AUTHENTICATION_REQUIRED, code="invalid_api_key")
    if "no-credit" in fired:
        raise Refusal(402, LOW_BALANCE, code="insufficient_quota")
    if "html-error" in fired:
        return html(int(fired["html-error"].number("status")))
    if "redirect" in fired:
        fault = fired["redirect"]
        return web.Response(status=int(fault.number("status")), headers={"Location": fault.text("location")})
    told = next((fault for fault in fired.values() if fault.status is not None), None)
    return None if told is None else call.dialect.refusal(told_refusal(told))


def told_refusal(fault: Fault) -> Refusal:
    """The refusal of a `status-NNN` fault, with what it was told about `Retry-After` and text."""
    standard = standard_refusal(fault.status or FIRST_SERVER_ERROR)
    if fault.text("text") != "standard":
        standard.text = fault.text("text")
    standard.retry_header = told_seconds(fault.text("retry_after"), standard.retry_header)
    standard.retry_body = told_seconds(fault.text("body_retry_after"), standard.retry_body)
    return standard


def standard_refusal(status: int) -> Refusal:
    match status:
        case 429:
            return too_many_requests("Too many requests. Please try again later.")
        case 503:
            return service_unavailable("The service is temporarily unavailable.")
        case _:
            return Refusal(status, STANDARD_TEXTS.get(status, OTHER_TEXT))


def told_seconds(told: str, standard: int | None) -> int | None:
    if told == "standard":
        return standard
    return None if told == "none" else int(told)


def html(status: int) -> web.Response:
    return web.Response(status=status, text=HTML.format(f"{status} Bad Gateway"), content_type="text/html")


async def spoiled(call: Call, response: web.StreamResponse) -> web.StreamResponse:
    """The reply as the faults let it through; the request has been executed."""
    fired = call.fired
    if any(name in fired for name in LOST):
        raise reset(call.request)
    if "create-502-made" in fired:
        return html(502)
    if "create-500-made" in fired:
        return call.dialect.refusal(internal_error())
    if "reset-after-4xx" in fired and FIRST_CLIENT_ERROR <= response.status < FIRST_SERVER_ERROR:
        await response.prepare(call.request)
        await response.write_eof()
        raise reset(call.request)
    if isinstance(response, web.Response) and response.content_type == "application/json":
        return damaged_json(call, response, fired)
    return response


def damaged_json(call: Call, response: web.Response, fired: Fired) -> web.Response:
    body = response.body if isinstance(response.body, bytes) else b""
    if "malformed-json" in fired:
        response.body = body[: len(body) // 2]
    elif "gzip" in fired and "gzip" in call.request.headers.get("Accept-Encoding", ""):
        response.body = gzip.compress(body)
        response.headers["Content-Encoding"] = "gzip"
    return response
