"""The text of `config.example.toml`, written from the same declarations that check the settings."""

import inspect
import json
from collections.abc import Iterator

import msgspec

from orchestrator.config.fields import Field, fields_of, number
from orchestrator.config.tables import Config, tables_of

HEAD = """\
# Settings of the orchestrator: each with its unit, its range and its default, which is the value shown.
#
# Read from the file named by --config, else ./orchestrator.toml, else the file that ORCHESTRATOR_CONFIG names. A file
# need only hold what differs from the defaults. A variable goes before the file: polling.min_seconds is
# ORCHESTRATOR_POLLING__MIN_SECONDS, providers.doubleword.base_url is ORCHESTRATOR_PROVIDERS__DOUBLEWORD__BASE_URL
# (a list is written with commas). Unknown keys are refused.
#
# API keys never stand here: they come from an environment variable or from a file.
"""

SECOND_PROVIDER = "Meanings, units and ranges as above."
OTHER_PROVIDER = """\
# Any other server that speaks the same API, under a name of your own: "profile" supplies what is not set.
# [providers.my-server]
# profile = "openai"
# base_url = "http://127.0.0.1:8000/v1"
# api_key_env = "MY_SERVER_API_KEY"
"""


def example() -> str:
    parts = [HEAD, *(_table(title, table) for title, table in tables_of(Config()))]
    last_provider = max(index for index, part in enumerate(parts) if "[providers." in part)
    parts.insert(last_provider + 1, OTHER_PROVIDER)
    return "\n".join(parts)


def _table(title: str, table: msgspec.Struct) -> str:
    explained = title != "providers.openai"
    lines = [f"# {inspect.getdoc(type(table)) if explained else SECOND_PROVIDER}", f"[{title}]"]
    for name, field in fields_of(type(table)).items():
        value = getattr(table, name)
        lines += [*(_comment(field, value) if explained else ()), f"{name} = {written(value)}"]
    return "\n".join(lines) + "\n"


def _comment(field: Field, value: object) -> Iterator[str]:
    yield f"# {field.meta.description}"
    default = "those below" if isinstance(value, tuple) else written(value)
    yield f"#   {field.expectation()}; default {default}"


def written(value: object) -> str:
    """A value as TOML writes it; empty where there is none."""
    if value is None:
        return '""'
    if isinstance(value, tuple):
        return json.dumps(list(value))
    if isinstance(value, bool | str):
        return json.dumps(value)
    return number(value) if isinstance(value, int | float) else str(value)
