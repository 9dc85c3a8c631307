"""What no single value can be wrong about alone, and the addresses whose form a pattern cannot tell."""

import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from orchestrator.config.fields import quoted
from orchestrator.config.profiles import BUILT_IN, Provider
from orchestrator.config.tables import Config, Web, is_loopback

MODEL_CHARACTERS_MAX = 256
PORT_MAX = 65_535
LISTEN = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]{0,62})|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


class Problem(NamedTuple):
    """`keys` are the dotted keys that disagree, the likelier culprit first."""

    keys: tuple[str, ...]
    text: str


def problems(config: Config) -> Iterator[Problem]:
    yield from _database_problems(config.database.url)
    yield from _order_problems(config)
    for provider in config.providers.values():
        yield from _provider_problems(provider)
    yield from _default_problems(config)
    yield from _web_problems(config.web)


def _database_problems(url: str) -> Iterator[Problem]:
    text = database_problem(url)
    if text:
        yield Problem(("database.url",), text)


def database_problem(url: str) -> str | None:
    """The url itself is never quoted: it may hold a password."""
    scheme, _, rest = url.partition("://")
    dialect, plus, _ = scheme.partition("+")
    forms = {"sqlite": '"sqlite:///FILE"', "postgresql": '"postgresql://USER@HOST/DATABASE"'}
    if dialect not in forms:
        return f'must be {" or ".join(forms.values())}, such as "sqlite:///orchestrator.db"'
    if plus:
        return f"must not name a driver; write {forms[dialect]}"
    return _file_problem(rest) if dialect == "sqlite" else _server_problem(url)


def _server_problem(url: str) -> str | None:
    wrong = 'must be "postgresql://USER:PASSWORD@HOST:PORT/DATABASE", with % codes for special characters'
    if not url.startswith("postgresql://") or not url.isascii() or not url.isprintable() or " " in url or "#" in url:
        return wrong
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and parts.path.strip("/")
    except ValueError:
        return wrong
    return None if usable else wrong


def _file_problem(rest: str) -> str | None:
    path = rest.removeprefix("/")
    if path == rest or not path or path.endswith("/"):
        return 'must name a file: "sqlite:///FILE" in the working folder, "sqlite:////FOLDER/FILE" from the root'
    if path.startswith((":memory:", "file:")):
        return 'must name a file that outlives the daemon, such as "sqlite:///orchestrator.db"'
    if "?" in path or "#" in path or not path.isprintable():
        return 'must be a plain path after "sqlite:///", without "?", "#" or control characters'
    return None


def _order_problems(config: Config) -> Iterator[Problem]:
    pairs = (
        ("polling", "min_seconds", "max_seconds"),
        ("retry", "base_seconds", "max_seconds"),
        ("submission", "pause_seconds", "pause_max_seconds"),
    )
    for table, low, high in pairs:
        values = getattr(config, table)
        if getattr(values, low) > getattr(values, high):
            keys = f"{table}.{low}", f"{table}.{high}"
            text = (
                f"({getattr(values, low):g}) must not be above {keys[1]} ({getattr(values, high):g}); "
                "lower the first or raise the second"
            )
            yield Problem(keys, text)


def _provider_problems(provider: Provider) -> Iterator[Problem]:
    key = f"providers.{provider.name}"
    if provider.name in BUILT_IN and provider.profile != provider.name:
        yield Problem((f"{key}.profile",), f'must be "{provider.name}"; choose another name for another profile')
    text = base_url_problem(provider.base_url)
    if text:
        yield Problem((f"{key}.base_url",), text)
    if provider.max_line_bytes > provider.max_file_bytes:
        text = f"must not be above {key}.max_file_bytes; lower the first or raise the second"
        yield Problem((f"{key}.max_line_bytes", f"{key}.max_file_bytes"), text)
    if provider.api_key_env is None and provider.api_key_file is None:
        text = f"and {key}.api_key_file are both empty; name the variable or the file that holds the API key"
        yield Problem((f"{key}.api_key_env", f"{key}.api_key_file"), text)


def base_url_problem(url: str) -> str | None:
    """The url itself is never quoted: it may hold a password."""
    wrong = 'must be an http(s) address such as "https://api.example.com/v1"'
    if not url.isascii() or not url.isprintable() or " " in url:
        return wrong
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return wrong
    if not usable:
        return wrong
    if "@" in parts.netloc:
        return "must hold no user or password; name the key's variable in api_key_env"
    if "?" in url or "#" in url:
        return 'must end with its path, without "?" or "#"'
    return None


def key_leak_problem(provider: Provider, *, key_named: bool) -> str | None:
    """A second provider at another address must not get the key of the first by silence."""
    if key_named or provider.base_url.rstrip("/") == BUILT_IN[provider.profile].base_url:
        return None
    return f"must be set: the key of {provider.profile} is not sent to another address unasked"


def _default_problems(config: Config) -> Iterator[Problem]:
    defaults = config.defaults
    provider = config.providers.get(defaults.provider)
    if provider is None:
        yield Problem(("defaults.provider",), f"must be one of {quoted(config.providers)}; or add that table")
        return
    for key, value, allowed in (
        ("endpoint", defaults.endpoint, provider.endpoints),
        ("completion_window", defaults.completion_window, provider.completion_windows),
    ):
        if value not in allowed:
            text = f"must be one of what provider {provider.name} offers: {quoted(allowed)}"
            yield Problem((f"defaults.{key}", f"providers.{provider.name}.{key}s", "defaults.provider"), text)
    model = defaults.model
    if model is not None and (model != model.strip() or not model.isprintable() or len(model) > MODEL_CHARACTERS_MAX):
        text = f"must be a model's name: at most {MODEL_CHARACTERS_MAX} printable characters, no space at either end"
        yield Problem(("defaults.model",), text)


def _web_problems(web: Web) -> Iterator[Problem]:
    if not web.listen:
        return
    form = LISTEN.fullmatch(web.listen)
    if form is None or int(form[2]) > PORT_MAX or not _is_host(form[1]):
        text = 'must be HOST:PORT, such as "127.0.0.1:8080", or "[::1]:8080"; "0.0.0.0:8080" listens everywhere'
        yield Problem(("web.listen",), text)
    elif not web.token_env and not is_loopback(web.address()[0]):
        text = "lets other machines in: name the variable of a token in web.token_env, or listen on 127.0.0.1"
        yield Problem(("web.listen", "web.token_env"), text)


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return True
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
