"""Options that several commands share."""

from __future__ import annotations

from typing import Any

import click


class Text(click.types.StringParamType):
    """Text that is UTF-8 and not empty: a shell may pass any bytes, and passes nothing for a variable that is unset."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:  # noqa: ANN401
        text = str(value)
        if not text:
            name = param.opts[-1] if param else "a text"
            raise click.UsageError(f"{name} is empty: is a variable unset?", context)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("not UTF-8 text", param, context)
        return text


TEXT = Text()
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
