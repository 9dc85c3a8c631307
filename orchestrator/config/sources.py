"""Where settings are written: file and environment. Each value is checked where it stands."""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from orchestrator.config.fields import Field, fields_of, quoted, shown
from orchestrator.config.profiles import BUILT_IN, Provider
from orchestrator.config.tables import Config
from orchestrator.errors import ConfigError

DEFAULT_FILE = Path("orchestrator.toml")
FILE_VARIABLE = "ORCHESTRATOR_CONFIG"
PREFIX = "ORCHESTRATOR_"
TABLES: Mapping[str, type[msgspec.Struct]] = {
    name: kind for name, kind in Config.__annotations__.items() if name != "providers"
}
FIELDS: Mapping[str, Field] = {
    f"{table}.{name}": field for table, kind in TABLES.items() for name, field in fields_of(kind).items()
}
PROVIDER_FIELDS: Mapping[str, Field] = fields_of(Provider)
PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Given(NamedTuple):
    """A value somebody set. `origin` is "file PATH" or "environment NAME"."""

    value: object
    origin: str


def refuse(origin: str, key: str, text: str) -> NoReturn:
    where = origin.removeprefix("file ").removeprefix("environment ")
    raise ConfigError(f"{shown(where)}: {shown(key)} {text}")


def settings_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if os.path.lexists(DEFAULT_FILE):
        return DEFAULT_FILE
    named = environ.get(FILE_VARIABLE)
    return Path(named) if named else None


def from_file(path: Path) -> Iterator[tuple[str, Given]]:
    for table, content in _document(path).items():
        if table == "providers" and isinstance(content, dict):
            for name, provider in content.items():
                yield from _from_table(f"providers.{name}", provider, f"file {path}")
        else:
            yield from _from_table(table, content, f"file {path}")


def from_environment(environ: Mapping[str, str], providers: Iterable[str]) -> Iterator[tuple[str, Given]]:
    known = _variables(providers)
    for variable in sorted(environ):
        suffix = variable.removeprefix(PREFIX)
        key = None if suffix == variable else _key_of_variable(variable, suffix, known)
        if key is not None:
            yield key, _parsed(key, environ[variable], f"environment {variable}")


def _parsed(key: str, words: str, origin: str) -> Given:
    field = _field(key, origin)
    try:
        return Given(field.parse(words), origin)
    except ValueError:
        refuse(origin, key, f"must be {field.expectation()}")


def provider_names(keys: Iterable[str]) -> Iterator[str]:
    """Names of all providers, built in or met in `keys`."""
    met = (key.split(".")[1] for key in keys if key.startswith("providers."))
    return iter(dict.fromkeys([*BUILT_IN, *met]))


def refuse_without_profile(name: str, origin: str) -> NoReturn:
    nearest = get_close_matches(name, BUILT_IN, n=1)
    meant = f' (or did you mean provider "{nearest[0]}"?)' if nearest else ""
    refuse(origin, f"providers.{name}.profile", f"must be set to one of {quoted(BUILT_IN)}{meant}")


def _document(path: Path) -> dict[str, object]:
    text = _text(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        reason = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        line = re.search(r"at line (\d+)", reason)
        number = line[1] if line else text.count("\n") + 1
        raise ConfigError(f"{shown(str(path))}:{number}: is not valid TOML: {_mended(reason)}") from None


def _mended(reason: str) -> str:
    """What the parser says, and what to do; in plain words where a second part was pasted below the first."""
    if reason.startswith("Cannot overwrite a value"):
        return "the same key stands above already; leave one of the two"
    twice = re.match(r"Cannot declare \(([^)]*)\) twice", reason)
    if twice is None:
        return f"{shown(reason)}; correct it"
    table = shown(".".join(re.findall(r"'([^']*)'", twice[1])))
    return f"settings of {table} stand above already; put all of them below one line [{table}]"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{shown(str(path))}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not a usable path"
        raise ConfigError(
            f"{shown(str(path))}: settings cannot be read: {reason}; correct --config or {FILE_VARIABLE}"
        ) from None


def _from_table(table: str, content: object, origin: str) -> Iterator[tuple[str, Given]]:
    if not _is_table(table) and table != "providers":
        _refuse_table(table, origin)
    if not isinstance(content, dict):
        title = "providers.NAME" if table == "providers" else table
        refuse(origin, table, f"must be a table; write [{title}] on a line of its own")
    name = _provider_name(table)
    if name is not None and name not in BUILT_IN and "profile" not in content:
        refuse_without_profile(name, origin)
    for key, value in content.items():
        yield f"{table}.{key}", _converted(f"{table}.{key}", value, origin)


def _refuse_table(table: str, origin: str) -> NoReturn:
    if table.startswith("providers."):
        refuse(origin, table, "is no provider's name; use up to 64 letters, digits, - and _")
    refuse(origin, table, f"is not a table of settings{_hint(table, (*TABLES, 'providers', *FIELDS))}")


def _is_table(table: str) -> bool:
    return table in TABLES or _provider_name(table) is not None


def _provider_name(table: str) -> str | None:
    name = table.removeprefix("providers.")
    return name if name != table and PROVIDER_NAME.fullmatch(name) else None


def _converted(key: str, value: object, origin: str) -> Given:
    field = _field(key, origin)
    try:
        return Given(field.convert(value), origin)
    except ValueError:
        refuse(origin, key, f"must be {field.expectation()}")


def _field(key: str, origin: str) -> Field:
    table, _, name = key.rpartition(".")
    if _provider_name(table) is None:
        known = FIELDS
    elif name == "api_key":
        text = (
            "must not hold the key; put it in the variable that api_key_env names or the file that api_key_file names"
        )
        refuse(origin, key, text)
    else:
        known = {f"{table}.{field}": found for field, found in PROVIDER_FIELDS.items()}
    if key not in known:
        refuse(origin, key, f"is not a setting{_hint(key, known)}")
    return known[key]


def _hint(key: str, known: Iterable[str]) -> str:
    candidates = list(known)
    same_ending = [candidate for candidate in candidates if candidate.rpartition(".")[2] == key.rpartition(".")[2]]
    nearest = get_close_matches(key, candidates, n=1) or same_ending
    return f'; did you mean "{nearest[0]}"?' if nearest else "; remove it (config.example.toml has every setting)"


def _variables(providers: Iterable[str]) -> dict[str, list[str]]:
    """Dotted keys by variable, less the prefix; two keys where providers' names differ only in case or in - and _."""
    keys = [*FIELDS, *(f"providers.{name}.{key}" for name in providers for key in PROVIDER_FIELDS)]
    known: dict[str, list[str]] = {}
    for key in keys:
        known.setdefault(key.upper().replace(".", "__").replace("-", "_"), []).append(key)
    return known


def _key_of_variable(variable: str, suffix: str, known: Mapping[str, list[str]]) -> str | None:
    keys = known.get(suffix, [])
    if len(keys) > 1:
        refuse(f"environment {variable}", keys[0], f"and {keys[1]} share this variable; set them in the file")
    if keys:
        return keys[0]
    if "__" not in suffix:
        _refuse_single_underscores(variable, suffix, known)
        return None
    return _key_of_new_provider(suffix) or _refuse_variable(variable, suffix, known)


def _key_of_new_provider(suffix: str) -> str | None:
    table, _, name = suffix.rpartition("__")
    provider, key = table.removeprefix("PROVIDERS__").lower(), name.lower()
    if provider == table.lower() or suffix != suffix.upper() or key not in {*PROVIDER_FIELDS, "api_key"}:
        return None
    return f"providers.{provider}.{key}"


def _refuse_variable(variable: str, suffix: str, known: Iterable[str]) -> NoReturn:
    nearest = get_close_matches(suffix.upper(), known, n=1)
    remedy = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "unset it"
    raise ConfigError(f"{shown(variable)}: names no setting; {remedy}")


def _refuse_single_underscores(variable: str, suffix: str, known: Iterable[str]) -> None:
    """Other ORCHESTRATOR_ names are let be: container platforms set such for any service of that name."""
    for candidate in known:
        if suffix == candidate.replace("__", "_"):
            raise ConfigError(f"{variable}: names no setting; write two underscores: {PREFIX}{candidate}")
