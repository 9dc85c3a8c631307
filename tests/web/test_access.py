"""Who may see the page: everybody on this machine, or whoever knows the token."""

import base64

import pytest
from aiohttp import web

from orchestrator.web import routes, server
from orchestrator.web.site import Site

TOKEN = "a-token-of-this-test"
OPEN = {"/healthz", "/readyz"}


def basic(password, user="anybody"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def secret_page(start, serving, guarded_route):
    return await serving(await start(web={"listen": "127.0.0.1:0"}), TOKEN)


@pytest.fixture
def guarded_route(monkeypatch):
    """One address more, that is not open to all."""

    async def answer(_request):
        return web.Response(text="shown")

    real = routes.routes
    monkeypatch.setattr(server, "routes", lambda site: [*real(site), routes.Route("/guarded", answer)])
    return "/guarded"


@pytest.mark.parametrize("headers", [bearer(TOKEN), basic(TOKEN), basic(TOKEN, user="")])
async def test_the_token_opens_the_page_as_bearer_and_as_a_browser_sends_it(secret_page, headers):
    assert (await secret_page.get("/guarded", headers=headers))[::2] == (200, "shown")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        basic(""),
        basic("x", user=TOKEN),
        basic("", user=TOKEN),
        {"Authorization": TOKEN},
        {"Authorization": "Basic !"},
        {"Authorization": "Basic \u00fc"},
        {"Authorization": "Bearer \u00fc\u20ac"},
    ],
)
async def test_anything_else_is_refused_and_a_browser_is_told_to_ask(secret_page, headers):
    status, told, body = await secret_page.get("/guarded", headers=headers)
    assert status == 401
    assert told["WWW-Authenticate"].startswith("Basic ")
    assert TOKEN not in body


async def test_the_token_in_an_address_opens_nothing(secret_page):
    assert (await secret_page.get(f"/guarded?token={TOKEN}"))[0] == 401


async def test_probes_need_no_token(secret_page):
    assert [(await secret_page.get(path))[0] for path in sorted(OPEN)] == [200, 200]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9", "localhost:9", "LOCALHOST", "[::1]:9"])
async def test_without_a_token_this_machine_may_look_by_its_own_names(page_with_route, host):
    assert (await page_with_route.get("/guarded", headers={"Host": host}))[::2] == (200, "shown")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"])
async def test_without_a_token_any_other_name_is_refused(page_with_route, host):
    """A web page elsewhere may give this machine a name of its own, and then read what the browser gets."""
    assert (await page_with_route.get("/guarded", headers={"Host": host}))[0] in (400, 403)


@pytest.fixture
async def page_with_route(start, serving, guarded_route):
    return await serving(await start(web={"listen": "127.0.0.1:0"}))


async def test_every_answer_forbids_foreign_content_frames_and_caches(page):
    for path in ("/healthz", "/no-such-page"):
        _, told, _ = await page.get(path)
        assert told["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert told["Cache-Control"] == "no-store"
        assert told["X-Content-Type-Options"] == "nosniff"
        assert told["Server"] == "orchestrator"


@pytest.mark.parametrize("method", ["post", "put", "delete"])
async def test_nothing_can_be_changed_through_the_page(page, method):
    async with getattr(page.visitor, method)(page.url + "/healthz") as response:
        assert response.status == 405


async def test_only_health_and_readiness_are_open_to_all(page):
    listed = routes.routes(Site(page.rig.context, page.vitals, TOKEN))
    assert {route.path for route in listed if route.open} == OPEN
