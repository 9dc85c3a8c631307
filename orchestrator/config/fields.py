"""How one setting is described: meaning, unit and range stand beside its type, and every message derives from there."""

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Literal, get_args, get_origin

import msgspec
from msgspec import Meta

SHOWN_CHARACTERS = 200
WORDS: Mapping[str, bool] = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def seconds(low: float, high: float, why: str) -> Meta:
    return Meta(ge=low, le=high, description=why, extra={"range": f"of seconds from {number(low)} to {number(high)}"})


def count(low: int, high: int, unit: str, why: str) -> Meta:
    return Meta(ge=low, le=high, description=why, extra={"range": f"of {unit} from {number(low)} to {number(high)}"})


def text(form: str, why: str, *, pattern: str | None = None) -> Meta:
    return Meta(pattern=pattern, max_length=1024, description=why, extra={"form": form})


def texts(form: str, why: str) -> Meta:
    return Meta(min_length=1, max_length=64, description=why, extra={"form": form})


def said(why: str) -> Meta:
    """Description of a setting whose type alone says what it may be."""
    return Meta(description=why)


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as its struct declares it. `base` is the bare type: `int`, `tuple[…]`, `Literal[…]`."""

    name: str
    type: object
    base: object
    meta: Meta
    optional: bool

    def expectation(self) -> str:
        """What a value must be, as the end of a sentence that begins with "must be"."""
        if self.base is bool:
            return "true or false"
        if get_origin(self.base) is Literal:
            return f"one of {quoted(get_args(self.base))}"
        extra = self.meta.extra or {}
        if "range" in extra:
            return f"{'a whole number' if self.base is int else 'a number'} {extra['range']}"
        form = f"a list of {extra['form']}" if get_origin(self.base) is tuple else str(extra["form"])
        return f"{form}, or empty" if self.optional else form

    def convert(self, value: object) -> object:
        """The value checked against type and range; ValueError says no more than that it does not fit."""
        if self.optional and value == "":
            return None
        return msgspec.convert(value, self.type)

    def parse(self, words: str) -> object:
        """A value written as text, as in an environment variable; bytes that are not UTF-8 fit nowhere."""
        words.encode()
        if self.base is str:
            return self.convert(words)
        if self.base is bool:
            return self.convert(WORDS.get(words.strip().lower()))
        if get_origin(self.base) is tuple:
            return self.convert([part.strip() for part in words.split(",") if part.strip()])
        if get_origin(self.base) is Literal:
            return self.convert(words.strip().lower())
        return msgspec.convert(words.strip().replace("_", ""), self.type, strict=False)


def fields_of(table: type[msgspec.Struct]) -> dict[str, Field]:
    return {
        field.name: _field(field.name, field.type)
        for field in msgspec.structs.fields(table)
        if field.name != "name"  # stands in the table's own title
    }


def _field(name: str, kind: object) -> Field:
    arguments = get_args(kind)
    optional = NoneType in arguments
    base, meta = get_args(arguments[0]) if optional else arguments
    return Field(name=name, type=kind, base=base, meta=meta, optional=optional)


def number(value: float) -> str:
    return f"{value:,.10g}".replace(",", "_")


def quoted(names: Iterable[object]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def shown(words: str) -> str:
    """Foreign text made fit for one line of a message."""
    plain = words if words.isprintable() else ascii(words)[1:-1]
    return plain if len(plain) <= SHOWN_CHARACTERS else plain[:SHOWN_CHARACTERS] + "…"
