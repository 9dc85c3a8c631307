"""A prompt made from a template and the fields of a row. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from orchestrator.config.fields import shown
from orchestrator.intake.rows import BadLine, checked_row, line_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.intake.rows import Row

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_decode_text = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class Template:
    """`texts` and `fields` alternate, a text first and last: one more text than fields."""

    texts: tuple[str, ...]
    fields: tuple[str, ...]

    def fill(self, value_of: Callable[[str], str]) -> str:
        pieces = [self.texts[0]]
        for field, text in zip(self.fields, self.texts[1:], strict=True):
            pieces += (value_of(field), text)
        return "".join(pieces)


def parse_template(text: str) -> Template:
    """`{name}` stands for a field, `{{` and `}}` for braces. Raises ValueError for lone braces and without a field."""
    texts, fields, start = [""], list[str](), 0
    for token in _TOKEN.finditer(text):
        texts[-1] += text[start : token.start()]
        start = token.end()
        if token[0] in {"{{", "}}"}:
            texts[-1] += token[0][0]
        elif token[1]:
            fields.append(token[1])
            texts.append("")
        else:
            raise ValueError(f"{token[0]!r} at character {token.start() + 1}: write {{field}}, or {{{{ for a brace")
    texts[-1] += text[start:]
    if not fields:
        raise ValueError("it has no field: write the name of one in braces, such as {question}")
    return Template(tuple(texts), tuple(fields))


def parse_with_template(line: bytes, template: Template) -> Row:
    """Fill the template from a JSON object. Text goes in as it is, anything else as JSON; `custom_id` is taken along.

    Raises BadLine for a field that is missing or null.
    """
    members = line_members(line)

    def value_of(field: str) -> str:
        raw = bytes(members.get(field, b"null"))
        if raw == b"null":
            raise missing_field(field, members)
        return _decode_text(raw) if raw.startswith(b'"') else raw.decode()

    custom_id = members.get("custom_id", b"null")
    named = None if bytes(custom_id) == b"null" else value_of("custom_id")
    return checked_row({"custom_id": named, "prompt": template.fill(value_of)}, priority=0, body=None, metadata=None)


def missing_field(field: str, row: Mapping[str, object]) -> BadLine:
    has = ", ".join(f'"{shown(name)}"' for name in list(row)[:10])
    state = "is null" if field in row else "is missing"
    return BadLine(f'field "{shown(field)}" of the template {state}: the row has {has or "no fields"}')
