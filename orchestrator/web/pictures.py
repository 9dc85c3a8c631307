"""Where the lines and boxes of the page's pictures stand. Numbers only: the template draws them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLOT_WIDTH, PLOT_HEIGHT, BAR_SHARE = 720, 120, 0.8
TOP_DIGITS = (1, 2, 5, 10)
BOX_SIZE, END_SIZE = (150, 78), (110, 62)


@dataclass(frozen=True, slots=True)
class Box:
    """A place where prompts are, `note` being what else there is to know of it."""

    name: str
    count: int
    x: int
    y: int
    width: int
    height: int
    note: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Arrow:
    """A way that prompts go; its count stands at (x, y)."""

    path: str
    count: int
    x: int
    y: int
    word: str = ""
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Flow:
    """One drawing of the flow, `name` being where it fits."""

    name: str
    width: int
    height: int
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]


@dataclass(frozen=True, slots=True)
class Bar:
    """What ended in one step of time; heights in the plot's units."""

    x: float
    width: float
    done: int
    failed: int
    done_height: float
    failed_height: float
    begins: datetime
    ends: datetime


def flows(flow: Mapping[str, Any], *, paused: bool) -> list[Flow]:
    """The same picture twice, for a wide and for a narrow screen."""
    hour = flow["last_hour"]
    wide = [
        Arrow("M160 119 H242", hour["packed"], 203, 109),
        Arrow("M400 119 H482", hour["submitted"], 443, 109),
        Arrow("M640 105 C690 105 680 51 732 51", hour["done"], 672, 62),
        Arrow("M640 119 H732", hour["failed"], 690, 110),
        Arrow("M565 158 V196 Q565 206 555 206 H95 Q85 206 85 196 V166", hour["resent"], 325, 198, "sent again"),
    ]
    tall = [
        Arrow("M115 88 V140", hour["packed"], 127, 120, anchor="start"),
        Arrow("M115 228 V280", hour["submitted"], 127, 260, anchor="start"),
        Arrow("M80 368 C80 400 60 390 60 422", hour["done"], 48, 400, anchor="end"),
        Arrow("M130 368 C130 400 180 390 180 422", hour["failed"], 174, 392, anchor="start"),
        Arrow("M190 329 H250 Q260 329 260 319 V59 Q260 49 250 49 H198", hour["resent"], 270, 190, "again", "start"),
    ]
    places_wide = ((10, 80), (250, 80), (490, 80), (740, 20), (740, 88), (740, 156))
    places_tall = ((40, 10), (40, 150), (40, 290), (5, 430), (120, 430), (235, 430))
    return [
        Flow("wide", 860, 226, _boxes(flow, places_wide, paused=paused), wide),
        Flow("tall", 352, 500, _boxes(flow, places_tall, paused=paused), tall),
    ]


def _boxes(flow: Mapping[str, Any], places: Sequence[tuple[int, int]], *, paused: bool) -> list[Box]:
    queued = flow["new"] + flow["ready"] + flow["waiting"]
    waiting = f"{flow['waiting']:,} not due yet" if flow["waiting"] else ""
    failed = "bad" if flow["failed"] else ""
    trouble = ("paused", "bad") if paused else ("", "")
    return [
        Box("queued", queued, *places[0], *BOX_SIZE, note=waiting),
        Box("packed", flow["packed"], *places[1], *BOX_SIZE, note="not sent yet" if flow["packed"] else ""),
        Box("at the provider", flow["running"], *places[2], *BOX_SIZE, *trouble),
        Box("done", flow["done"], *places[3], *END_SIZE, kind="good" if flow["done"] else ""),
        Box("failed", flow["failed"], *places[4], *END_SIZE, kind=failed),
        Box("cancelled", flow["cancelled"], *places[5], *END_SIZE),
    ]


def top_of(count: int) -> int:
    """A round number not below this one: the top of the plot."""
    unit = int("1" + "0" * (len(str(count)) - 1))
    return next(digit * unit for digit in TOP_DIGITS if digit * unit >= count)


def bars(throughput: Mapping[str, Any], top: int) -> list[Bar]:
    """One bar for each step, done below, failed on top of it."""
    begins, step = datetime.fromisoformat(throughput["since"]), timedelta(seconds=throughput["step_seconds"])
    width = PLOT_WIDTH / len(throughput["done"])
    return [
        Bar(
            round(at * width + width * (1 - BAR_SHARE) / 2, 2), round(width * BAR_SHARE, 2), done, failed,
            _height(done, top), _height(failed, top), begins + at * step, begins + (at + 1) * step,
        )
        for at, (done, failed) in enumerate(zip(throughput["done"], throughput["failed"], strict=True))
    ]  # fmt: skip


def _height(count: int, top: int) -> float:
    """At least a line where there is anything at all."""
    return round(max(1.5, PLOT_HEIGHT * count / top), 2) if count else 0.0
