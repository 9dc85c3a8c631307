"""`/`: the status as one page, drawn here, so that it needs no script; `/status.json`: the same as one object."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator.core.telling import duration, harmless, left_of_window, seconds_ago, shown_status
from orchestrator.remembered import Remembered
from orchestrator.status import Watched
from orchestrator.web.pictures import PLOT_HEIGHT, PLOT_WIDTH, bars, flows, top_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from orchestrator.web.site import Site

    Answer = Callable[[web.Request], Awaitable[web.Response]]

REFRESH_SECONDS, REMEMBERED_SECONDS = 5, 2.0
TAGS_SHOWN, BATCHES_SHOWN = 15, 50
FULL_HOURS_FROM = 7200
STEPS_OF_TABLE = 6
"""Steps of the plot that its table tells in one row: an hour."""
CONTENT_SECURITY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REMEDIES = {
    "invalid": "failed at once: correct the prompt, then retry it",
    "refused": "failed at once: the provider will not answer it",
    "throttled": "sent again later, by itself",
    "server": "sent again later, by itself",
    "timeout": "sent again later, by itself",
    "expired": "sent again, at no attempt",
    "cancelled_remotely": "sent again, at no attempt",
    "missing": "sent again, at no attempt",
    "account": "back in the queue: see to key and credit",
    "unreadable": "sent again; its bytes are kept in attempts.raw",
}


def _finished(value: object) -> object:
    """Every text that is put into the page: what is not printable is spelled out; Jinja escapes the rest."""
    return harmless(value) if type(value) is str else value


_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_finished,
)
_templates.filters |= {"count": "{:,}".format, "duration": duration}


def status_routes(site: Site) -> tuple[Answer, Answer]:
    """The page and the object; both show the same look, remembered for some seconds."""
    look = Remembered(Watched(site.context.database, site.context.config).status, REMEMBERED_SECONDS)

    async def page(_request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        headers = {"Content-Security-Policy": CONTENT_SECURITY.format(nonce=nonce)}
        text = rendered(await look.get(), nonce)
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)

    async def as_json(_request: web.Request) -> web.Response:
        return web.json_response(await look.get())

    return page, as_json


def rendered(status: Mapping[str, Any], nonce: str) -> str:
    """The page of one look."""
    throughput = status["throughput"]
    ended = [done + failed for done, failed in zip(throughput["done"], throughput["failed"], strict=True)]
    top = top_of(max(ended))
    return _templates.get_template("page.html").render(
        status=status,
        nonce=nonce,
        refresh_seconds=REFRESH_SECONDS,
        at=datetime.fromisoformat(status["at"]),
        flows=flows(status["flow"], paused=bool(status["pauses"])),
        plot={"width": PLOT_WIDTH, "height": PLOT_HEIGHT, "top": top, "most": max(ended)},
        bars=bars(throughput, top),
        hours=hours(throughput, status["at"]),
        batches=[batch_shown(batch, status["at"]) for batch in status["batches"][:BATCHES_SHOWN]],
        tags=tags_shown(status["tags"]),
        remedies=REMEDIES,
        faults_span=_span(seconds_ago(status["faults_since"], status["at"])),
        ago=lambda moment: duration(seconds_ago(moment, status["at"])),
    )


def _span(seconds: float) -> str:
    return f"{round(seconds / 3600)} hours" if seconds >= FULL_HOURS_FROM else duration(seconds)


def hours(throughput: Mapping[str, Any], at: str) -> list[tuple[datetime, int, int]]:
    """The plot as rows, the newest first: until when, done, failed."""
    until = datetime.fromisoformat(at).timestamp()
    rows = []
    for end in range(len(throughput["done"]), 0, -STEPS_OF_TABLE):
        steps = slice(end - STEPS_OF_TABLE, end)
        moment = until - (len(throughput["done"]) - end) * throughput["step_seconds"]
        when = datetime.fromtimestamp(moment, tz=datetime.fromisoformat(at).tzinfo)
        rows.append((when, sum(throughput["done"][steps]), sum(throughput["failed"][steps])))
    return rows


def batch_shown(batch: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A batch with what is computed for its row."""
    ended = (batch["remote_completed"] or 0) + (batch["remote_failed"] or 0)
    submitted, window = batch["submitted_at"], batch["window_seconds"]
    used = seconds_ago(submitted, at) if submitted and window else None
    left = left_of_window(batch, at)
    return {**batch, "shown_status": shown_status(batch), "ended": ended, "used_seconds": used, "left": left}


def tags_shown(tags: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The largest tags with their sums; none when no prompt has one."""
    if all(counts["tag"] is None for counts in tags):
        return []
    summed = [{**counts, "sum": sum(n for name, n in counts.items() if name != "tag")} for counts in tags]
    return sorted(summed, key=lambda counts: -counts["sum"])[:TAGS_SHOWN]
