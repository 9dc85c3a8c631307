"""Settings: environment over file over built-in defaults, made into one frozen `Config`.

Everything a user can get wrong here ends as a `ConfigError` of one line: where, which key, what is wrong, what to do.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from orchestrator.config.checks import key_leak_problem, problems
from orchestrator.config.fields import fields_of
from orchestrator.config.profiles import BUILT_IN, Provider
from orchestrator.config.sources import (
    TABLES,
    Given,
    from_environment,
    from_file,
    provider_names,
    refuse,
    refuse_without_profile,
    settings_file,
)
from orchestrator.config.tables import (
    Collection,
    Config,
    Database,
    Defaults,
    Log,
    Packing,
    Polling,
    Retention,
    Retry,
    Shutdown,
    Submission,
    Web,
    tables_of,
)

__all__ = [
    "Collection",
    "Config",
    "Database",
    "Defaults",
    "Loaded",
    "Log",
    "Packing",
    "Polling",
    "Provider",
    "Retention",
    "Retry",
    "Setting",
    "Shutdown",
    "Submission",
    "Web",
    "effective",
    "load",
]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """`origins` tells for each dotted key: "default", "file PATH" or "environment NAME"."""

    config: Config
    origins: dict[str, str]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the `config` command; `value` is plain (text, number, truth, list of text, None), never a secret."""

    key: str
    value: object
    origin: str


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """`path` is the file named on the command line, if any."""
    file = settings_file(path, environ)
    given = dict(from_file(file)) if file else {}
    given |= from_environment(environ, provider_names(given))
    config = _assembled(given)
    origins = {key: given[key].origin if key in given else "default" for key in _values(config)}
    _refuse_problems(config, origins)
    return Loaded(config=config, origins=origins)


def effective(loaded: Loaded, environ: Mapping[str, str] | None = None) -> list[Setting]:
    """Every setting and where it came from; of a key's variable only whether it is set."""
    variables = os.environ if environ is None else environ
    return [
        Setting(key=key, value=_presentable(key, value, variables), origin=loaded.origins.get(key, "default"))
        for key, value in _values(loaded.config).items()
    ]


def _assembled(given: Mapping[str, Given]) -> Config:
    tree: dict[str, dict[str, object]] = {table: {} for table in TABLES}
    for key, (value, _) in given.items():
        table, _, name = key.rpartition(".")
        tree.setdefault(table, {})[name] = value
    providers = {name: _resolved(name, tree.pop(f"providers.{name}", {}), given) for name in provider_names(given)}
    return msgspec.convert({**tree, "providers": providers}, Config)


def _resolved(name: str, values: Mapping[str, object], given: Mapping[str, Given]) -> Provider:
    profile = str(values.get("profile", name))
    if profile not in BUILT_IN:
        refuse_without_profile(name, given[f"providers.{name}.{next(iter(values))}"].origin)
    changes = {**values, "name": name}
    if "base_url" in values:
        changes["base_url"] = str(values["base_url"]).rstrip("/")
    provider = msgspec.structs.replace(BUILT_IN[profile], **changes)
    key_named = name in BUILT_IN or "api_key_env" in values or "api_key_file" in values
    problem = key_leak_problem(provider, key_named=key_named)
    if problem is not None:
        refuse(given[f"providers.{name}.base_url"].origin, f"providers.{name}.api_key_env", problem)
    return provider


def _refuse_problems(config: Config, origins: Mapping[str, str]) -> None:
    """The place named is one the user wrote, even where the key that is refused stands at its default."""
    for keys, text in problems(config):
        places = (origins[key] for key in keys if origins[key] != "default")
        refuse(next(places, "default"), keys[0], text)


def _values(config: Config) -> dict[str, object]:
    return {
        f"{title}.{name}": getattr(table, name) for title, table in tables_of(config) for name in fields_of(type(table))
    }


def _presentable(key: str, value: object, environ: Mapping[str, str]) -> object:
    if key == "database.url":
        return re.sub(r"://[^/]*@", "://***@", str(value))
    if key.endswith((".api_key_env", ".token_env")) and value:
        return f"{value} ({'set' if environ.get(str(value), '').strip() else 'not set'})"
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
