"""Options that several commands share."""

from __future__ import annotations

from typing import Any

import click


class Text(click.types.StringParamType):
    """Text that is UTF-8: a shell may pass any bytes, a table takes none but these."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:  # noqa: ANN401
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("not UTF-8 text", param, context)
        return text


TEXT = Text()
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
