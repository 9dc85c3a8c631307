"""Who may see the page. A token by Bearer (programs) or Basic (browsers ask for it by themselves); never in an address.

Without a token only this machine is served, and only by a name of this machine: else any web page could have a browser
here read it under a name of its own (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from orchestrator.config.tables import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHALLENGE = 'Basic realm="orchestrator: any user name, the token as password", charset="UTF-8"'
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def guarded(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], token: str | None
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """`answer` for those who may see it. An address may set a wider Content-Security-Policy of its own."""

    async def guarded_answer(request: web.Request) -> web.StreamResponse:
        refusal = _refusal(request, token)
        return refusal if refusal is not None else await answer(request)

    return guarded_answer


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "orchestrator"


def _refusal(request: web.Request, token: str | None) -> web.Response | None:
    if token is None:
        if _names_this_machine(request.headers.get("Host", "")):
            return None
        text = "without a token this page is served as 127.0.0.1 or localhost only: use that name, or set web.token_env"
        return web.Response(status=403, text=f"{text}\n")
    if hmac.compare_digest(_shown_token(request.headers.get("Authorization", "")), token.encode()):
        return None
    text = "the token that web.token_env names is needed: as bearer token, or as password of any user"
    return web.Response(status=401, text=f"{text}\n", headers={"WWW-Authenticate": CHALLENGE})


def _names_this_machine(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _shown_token(authorization: str) -> bytes:
    """The token as the visitor gave it, empty when there is none."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode(errors="replace")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
