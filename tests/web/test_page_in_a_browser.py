"""The page in a real Chromium: nothing foreign acts, it refreshes itself, it can be read by anybody and anywhere.

A machine without Chromium skips these tests; the gate fails there (`.ci/run` installs it).
"""

import asyncio
import contextlib
import os
import shutil

import pytest
import pytest_asyncio
import scenes
from daemon_process import until
from playwright.async_api import async_playwright

from orchestrator.config import Config
from orchestrator.config.tables import Web
from orchestrator.context import Context
from orchestrator.store.database import Database
from orchestrator.vitals import Vitals
from orchestrator.web import page, server
from orchestrator.web.site import Site

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
ALL = {"empty": scenes.empty, "busy": scenes.busy, "trouble": scenes.trouble}
TOKEN = "a-token-of-this-test"
CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        const box = element.closest("g.box")?.querySelector("rect");
        if (box) return numbers(getComputedStyle(box).fill);
        for (let each = element; each; each = each.parentElement) {
            const colour = numbers(getComputedStyle(each).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const poor = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || element.closest("script, style, title, noscript, [hidden]")) continue;
        const style = getComputedStyle(element);
        const ink = numbers(element.closest("svg") ? style.fill : style.color);
        const [low, high] = [light(ink), light(behind(element))].sort((a, b) => a - b);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) poor.push(`${walker.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return poor;
}"""
BEYOND = """() => [...document.querySelectorAll("main *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth && !each.closest("thead"))
    .map((each) => each.outerHTML.slice(0, 120))"""
UNLABELLED = """() => {
    const wrong = [];
    const want = (selector, fine) => document.querySelectorAll(selector).forEach((each) => {
        if (!fine(each)) wrong.push(each.outerHTML.slice(0, 120));
    });
    want("table", (each) => each.caption?.textContent.trim());
    want("th", (each) => each.scope);
    want("svg", (each) => each.getAttribute("role") === "img" && each.getAttribute("aria-label").trim());
    want("progress", (each) => each.getAttribute("aria-label").trim());
    want("section", (each) => document.getElementById(each.getAttribute("aria-labelledby"))?.innerText.trim());
    want("html", (each) => each.lang === "en");
    want("body", (each) => each.querySelectorAll("h1").length === 1);
    want("[id]", (each) => document.querySelectorAll(`[id="${each.id}"]`).length === 1);
    return wrong;
}"""


def the_browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("no Chromium on this machine: apt-get install chromium")
    return found or pytest.skip("no Chromium on this machine")


class Visit:
    """One page in a fresh context of the browser, and what it complained about."""

    def __init__(self, view):
        self.view = view
        self.complaints = []
        view.on("console", lambda message: self.complaints.append(message.text))
        view.on("pageerror", lambda error: self.complaints.append(str(error)))
        view.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    async def reads(self, selector):
        return await self.view.locator(selector).inner_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium():
    """A browser with an empty profile, which Playwright makes and removes."""
    program = the_browser()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browse(chromium):
    """Open an address in a window of this width."""
    async with contextlib.AsyncExitStack() as stack:

        async def browse(url, width=1000, **options):
            context = await chromium.new_context(viewport={"width": width, "height": 900}, **options)
            stack.push_async_callback(context.close)
            visit = Visit(await context.new_page())
            await visit.view.goto(url)
            return visit

        yield browse


class Shown:
    """A queue behind a page; `task` serves it."""

    def __init__(self, scene, database, task, url):
        self.scene = scene
        self.database = database
        self.task = task
        self.url = url

    async def close(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.database.close()


@pytest_asyncio.fixture(loop_scope="module")
async def show(queue_file, monkeypatch):
    """Serve the page of a scene; it looks anew whenever it is asked, and refreshes itself quickly."""
    monkeypatch.setattr(page, "REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr(page, "REFRESH_SECONDS", 0.1)
    monkeypatch.setattr("orchestrator.remembered.SHARE", 0.0)
    async with contextlib.AsyncExitStack() as stack:

        async def show(name, token=None):
            scene = scenes.Scene(queue_file)
            ALL[name](scene)
            told = []
            monkeypatch.setattr(server, "record", lambda event, **facts: told.append((event, facts)))
            database = Database(f"sqlite:///{queue_file}")
            context = Context(Config(web=Web(listen="127.0.0.1:0")), database, {}, "me")
            task = asyncio.create_task(server.serve(Site(context, Vitals(), token)))
            await until(lambda: told, "it listens")
            shown = Shown(scene, database, task, told[0][1]["url"])
            stack.push_async_callback(shown.close)
            return shown

        yield show


@pytest.mark.parametrize("name", ALL)
async def test_nothing_foreign_acts_and_the_browser_has_nothing_to_complain_about(browse, show, name):
    visit = await browse((await show(name)).url)
    await visit.view.wait_for_timeout(300)  # some refreshes, whose content must be as harmless
    assert visit.complaints == []
    assert await visit.view.evaluate("window.broken") is None
    assert await visit.view.locator("main script, main img").count() == 0
    assert await visit.reads("h1") == "Orchestrator"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ALL)
async def test_every_text_stands_out_from_what_is_behind_it(browse, show, name, scheme):
    visit = await browse((await show(name)).url, color_scheme=scheme)
    grounds = {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 20, 25)"}
    assert await visit.view.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[scheme]
    assert await visit.view.evaluate(CONTRAST) == []


@pytest.mark.parametrize("name", ALL)
async def test_every_table_picture_and_bar_has_a_name(browse, show, name):
    assert await (await browse((await show(name)).url)).view.evaluate(UNLABELLED) == []


@pytest.mark.parametrize("width", [320, 390, 768, 870, 1400])
async def test_nothing_leaves_the_screen_at_any_width(browse, show, width):
    visit = await browse((await show("trouble")).url, width)
    assert await visit.view.evaluate("document.documentElement.scrollWidth") == width
    beyond = (
        "[...document.querySelectorAll('main *')].filter((each) => each.getBoundingClientRect().right > innerWidth)"
    )
    assert await visit.view.evaluate(f"{beyond}.filter((each) => !each.closest('thead')).length") == 0
    picture = "svg.flow.tall" if width <= 640 else "svg.flow.wide"
    assert await visit.view.locator("svg.flow:visible").count() == 1
    assert await visit.view.locator(picture).is_visible()


async def test_it_shows_everything_without_a_script_and_reloads(browse, show, monkeypatch):
    monkeypatch.setattr(page, "REFRESH_SECONDS", 1)
    shown = await show("busy")
    visit = await browse(shown.url, java_script_enabled=False)
    assert "All is well" in await visit.reads("main")
    assert await visit.view.locator("svg.flow.wide").is_visible()
    async with visit.view.expect_navigation(timeout=10_000):
        shown.scene.add(1000, tag="late")
    await visit.view.get_by_text("1,230").first.wait_for()


async def test_it_refreshes_itself_and_leaves_what_the_reader_opened_and_where_he_is(browse, show):
    shown = await show("busy")
    visit = await browse(shown.url)
    await visit.view.evaluate("window.same = true")
    await visit.view.get_by_text("By the hour").click()
    shown.scene.add(1000, tag="late")
    await visit.view.get_by_text("1,230").first.wait_for()
    assert await visit.view.evaluate("window.same")
    assert await visit.view.title() == "1,230 queued, 560 at the provider · Orchestrator"
    assert await visit.view.get_by_role("table", name="Prompts that ended in the hour until").is_visible()
    assert await visit.view.evaluate("document.activeElement.textContent") == "By the hour"


async def test_text_that_is_being_marked_is_left_alone(browse, show):
    shown = await show("busy")
    visit = await browse(shown.url)
    await visit.view.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
    shown.scene.add(1000, tag="late")
    async with visit.view.expect_response(shown.url):
        pass
    await visit.view.wait_for_timeout(300)
    assert await visit.view.get_by_text("1,230").count() == 0
    await visit.view.evaluate("getSelection().removeAllRanges()")
    await visit.view.get_by_text("1,230").first.wait_for()


async def test_a_daemon_that_is_gone_is_told(browse, show):
    shown = await show("busy")
    visit = await browse(shown.url)
    assert not await visit.view.locator("#stale").is_visible()
    shown.task.cancel()
    await visit.view.get_by_text("The daemon does not answer").wait_for()


async def test_it_can_be_used_by_keyboard_alone(browse, show):
    visit = await browse((await show("busy")).url)
    keys, focused = visit.view.keyboard, "document.activeElement.textContent"
    await keys.press("Tab")
    assert await visit.view.evaluate(focused) == "To the status"
    assert await visit.view.locator(".skip").bounding_box() is not None
    await keys.press("Tab")
    assert await visit.view.evaluate(focused) == "By the hour"
    await keys.press("Enter")
    assert await visit.view.locator("details[open] table").is_visible()
    await keys.press("Tab")
    assert await visit.view.evaluate(focused) == "status.json"


@pytest.mark.parametrize("place", ["main", "summary", "main a"])
async def test_a_refresh_takes_the_focus_from_nothing(browse, show, place):
    shown = await show("busy")
    visit = await browse(shown.url)
    await visit.view.locator(place).focus()
    shown.scene.add(1000, tag="late")
    await visit.view.get_by_text("1,230").first.wait_for()
    assert await visit.view.evaluate("(place) => document.activeElement.matches(place)", place)


async def test_a_token_is_asked_for_and_serves_for_every_refresh(browse, show):
    shown = await show("busy", token=TOKEN)
    visit = await browse(shown.url, http_credentials={"username": "anybody", "password": TOKEN})
    shown.scene.add(1000, tag="late")
    await visit.view.get_by_text("1,230").first.wait_for()
    stranger = await browse(shown.url, http_credentials={"username": "anybody", "password": "guessed"})
    assert "the token" in await stranger.reads("body")
