"""Faults switched on at run time, and which requests each one strikes."""

import re
from dataclasses import dataclass, field
from random import Random

from orchestrator.sandbox.behaviours import effect
from orchestrator.sandbox.fault_table import ANY, F_NUMBERS, KINDS, ROUTES, STATUS, Kind, Value

STATUS_NAME = re.compile(r"^status-([1-5]\d\d)$")
SWITCHES = ("route", "times", "rate", "after")

Setting = Value | None


@dataclass(slots=True)
class Fault:
    """One switched-on fault.

    routes: names of the routes it watches; "any" is all. times: how often it strikes, None for ever. rate: the share of
    matching requests it strikes, 0 to 1. after: how many matching requests it lets pass first. params: its own
    settings, complete and typed as in the fault table.
    """

    name: str
    routes: frozenset[str]
    params: dict[str, Value] = field(default_factory=dict)
    times: int | None = None
    rate: float = 1.0
    after: int = 0
    matched: int = 0
    fired: int = 0

    @classmethod
    def make(cls, name: str, **settings: Setting) -> "Fault":
        """A fault from a slug or an F-number (its canonical form) and settings; `ValueError` names the mistake."""
        if name in F_NUMBERS:
            slug, base = split(F_NUMBERS[name][0])
            return cls.make(slug, **{**base, **settings})
        kind = kind_of(name)
        refuse_unknown(name, kind, settings)
        params = {key: typed(name, key, settings.get(key, value), value) for key, value in kind.params.items()}
        if name == "lines":
            effect(str(params["behaviour"]), 1)
        times = settings.get("times")
        return cls(
            name=name,
            routes=route_names(name, str(settings.get("route") or kind.route)),
            params=params,
            times=None if times in {None, "none"} else int(typed(name, "times", times, 0)),
            rate=float(typed(name, "rate", settings.get("rate", 1.0), 1.0)),
            after=int(typed(name, "after", settings.get("after", 0), 0)),
        )

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """A fault from `NAME[:key=value]...`, such as `status-503:route=retrieve:times=3:retry_after=1`."""
        name, settings = split(text)
        return cls.make(name, **settings)

    @property
    def status(self) -> int | None:
        """The NNN of `status-NNN`, else None."""
        found = STATUS_NAME.match(self.name)
        return int(found[1]) if found else None

    @property
    def key(self) -> str:
        """What tells faults apart that strike together; several `lines` faults may share one batch."""
        return f"{self.name}:{self.params['behaviour']}" if self.name == "lines" else self.name

    def number(self, key: str) -> float:
        return float(self.params[key])

    def text(self, key: str) -> str:
        return str(self.params[key])

    def watches(self, route: str) -> bool:
        return ANY in self.routes or route in self.routes

    def strikes(self, dice: Random) -> bool:
        """Whether it strikes the matching request at hand; counts it."""
        self.matched += 1
        if self.matched <= self.after or (self.times is not None and self.fired >= self.times):
            return False
        if dice.random() >= self.rate:
            return False
        self.fired += 1
        return True


Fired = dict[str, Fault]


class Faults:
    """The faults switched on now. Two of the same name may stand side by side, say for different routes."""

    def __init__(self, texts: tuple[str, ...] = (), seed: int | None = None) -> None:
        self.active = [Fault.parse(text) for text in texts]
        self.dice = Random(seed)

    def add(self, name: str, **settings: Setting) -> Fault:
        """Switch a fault on by slug, F-number or textual form; the returned one counts its strikes in `fired`."""
        slug, written = split(name)
        fault = Fault.make(slug, **{**written, **settings})
        self.active.append(fault)
        return fault

    def clear(self) -> None:
        self.active.clear()

    def remove(self, fault: Fault) -> None:
        self.active = [other for other in self.active if other is not fault]

    def draw(self, route: str) -> Fired:
        """The faults that strike this request, by name (by name and behaviour for `lines`)."""
        return {fault.key: fault for fault in self.active if fault.watches(route) and fault.strikes(self.dice)}


def split(text: str) -> tuple[str, dict[str, Setting]]:
    name, *pairs = text.strip().split(":")
    settings: dict[str, Setting] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise ValueError(f"fault {name!r}: {pair!r} is not key=value")
        settings[key.strip()] = value.strip()
    return name, settings


def kind_of(name: str) -> Kind:
    if STATUS_NAME.match(name):
        return STATUS
    if name not in KINDS:
        known = ", ".join([*KINDS, "status-NNN", *F_NUMBERS])
        raise ValueError(f"unknown fault {name!r}; known: {known}")
    return KINDS[name]


def refuse_unknown(name: str, kind: Kind, settings: dict[str, Setting]) -> None:
    if unknown := settings.keys() - {*SWITCHES, *kind.params}:
        known = ", ".join([*SWITCHES, *kind.params])
        raise ValueError(f"fault {name!r} has no setting {min(unknown)!r}; it has: {known}")


def typed(name: str, key: str, value: Setting, default: Value) -> Value:
    """The value in the type of its default; None is the word "none"."""
    if isinstance(default, str):
        return "none" if value is None else str(value)
    try:
        number = type(default)(value if value is not None else "none")
    except ValueError:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"fault {name!r}: {key} must be {wanted}, not {value!r}") from None
    if number < 0:
        raise ValueError(f"fault {name!r}: {key} must not be negative, not {value!r}")
    if key in {"share", "rate"} and number > 1:
        raise ValueError(f"fault {name!r}: {key} must lie between 0 and 1, not {value!r}")
    return number


def route_names(name: str, text: str) -> frozenset[str]:
    names = frozenset(text.split("+"))
    if unknown := names - {*ROUTES, ANY}:
        raise ValueError(f"fault {name!r}: unknown route {min(unknown)!r}; known: {ANY}, {', '.join(ROUTES)}")
    return names
