"""Providers as data: what each kind of server allows. A `[providers.NAME]` table replaces values of one of them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from orchestrator.config.fields import count, said, seconds, shown, text, texts
from orchestrator.errors import ConfigError

Window = Annotated[str, text("a window such as 24h", "", pattern=r"^[a-z0-9]{1,16}\Z")]
Endpoint = Annotated[str, text("a path such as /v1/chat/completions", "", pattern=r"^/[A-Za-z0-9._/-]{1,127}\Z")]

KEY_BYTES_MAX = 16_384
NOT_BARE = re.compile(r"^[\"'`]|[\"'`]$|^bearer |^authorization:", re.IGNORECASE)


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One account at one server: its address, where its key is found, and its limits."""

    name: str
    profile: Annotated[Literal["doubleword", "openai"], said("Kind of server; supplies every value not set here.")]
    base_url: Annotated[
        str, text("an http(s) address", "Address of the API up to and including /v1; a trailing slash is dropped.")
    ]
    api_key_env: (
        Annotated[
            str,
            text(
                "the name of an environment variable",
                "Variable that holds the API key; the key itself never stands in a file of settings.",
                pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?\Z",
            ),
        ]
        | None
    )
    api_key_file: (
        Annotated[
            str,
            text("a path", "File that holds the API key (systemd credential, Docker secret); goes before api_key_env."),
        ]
        | None
    ) = None
    max_active_batches: Annotated[
        int, count(1, 100_000, "batches", "Batches under way at once; more prompts wait in the queue.")
    ] = 1000
    max_active_batches_per_lane: Annotated[
        int, count(1, 100_000, "batches", "The same for one lane, so that one model or window cannot take every place.")
    ] = 100
    max_file_bytes: Annotated[
        int,
        count(1024, 5_000_000_000, "bytes", "Largest input file the provider takes; see packing.max_bytes."),
    ]
    max_lines: Annotated[
        int, count(1, 10_000_000, "lines", "Most lines the provider takes in one file; see packing.max_lines.")
    ]
    max_line_bytes: Annotated[
        int, count(64, 1_000_000_000, "bytes", "Largest request body of one line; a longer prompt fails as invalid.")
    ]
    completion_windows: Annotated[
        tuple[Window, ...], texts("windows such as 24h", "Windows it sells; prompts with others are invalid.")
    ]
    endpoints: Annotated[
        tuple[Endpoint, ...],
        texts("paths such as /v1/embeddings", "Endpoints it runs in batches; others are invalid."),
    ]
    mix_models: Annotated[bool, said("Whether one file may name several models; if not, each model is its own lane.")]
    resume_parameter: (
        Annotated[
            str,
            text(
                "a query parameter's name",
                "Query parameter that skips lines of a file already read; empty: always read from the start.",
                pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,63})?\Z",
            ),
        ]
        | None
    ) = None
    partial_output: Annotated[bool, said("Whether answers can be read while their batch still runs.")]
    searchable_batches: Annotated[
        bool, said("Whether the listing of batches shows our key, by which a batch is found again after a lost reply.")
    ]
    deletable_batches: Annotated[bool, said("Whether the provider can delete a batch.")]
    request_timeout_seconds: Annotated[
        float, seconds(0.1, 86_400, "Longest wait for one call; creating a batch from a large file takes minutes.")
    ] = 300.0
    upload_timeout_seconds: Annotated[
        float, seconds(1, 86_400, "Longest upload of one file; 200 MB need half an hour at 1 Mbit/s.")
    ] = 1800.0

    def api_key(self, environ: Mapping[str, str] | None = None) -> str:
        """The key, read anew at each call so that a rotated one is seen; it is stored nowhere."""
        if self.api_key_file is not None:
            path = self.api_key_file
            return _checked_key(_read_key(self.name, path), self.name, shown(path), "put the bare key there")
        variable = self.api_key_env or f"providers.{self.name}.api_key_env"
        key = (os.environ if environ is None else environ).get(variable, "")
        return _checked_key(key, self.name, variable, "set it to the bare key")


def _read_key(provider: str, path: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(KEY_BYTES_MAX).decode("latin-1")
    except (OSError, RuntimeError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not a usable path"
        raise ConfigError(
            f"{shown(path)}: the API key of provider {provider} cannot be read: {reason}; "
            f"put the key there or correct providers.{provider}.api_key_file"
        ) from None


def _checked_key(key: str, provider: str, source: str, remedy: str) -> str:
    stripped = key.strip()
    if not stripped:
        raise ConfigError(f"{source}: holds no API key for provider {provider}; {remedy}")
    if not (stripped.isascii() and stripped.isprintable()):
        raise ConfigError(
            f"{source}: the API key of provider {provider} holds characters no key has "
            f"(a second line, a typographic quote, a byte-order mark?); {remedy}"
        )
    if NOT_BARE.search(stripped):
        raise ConfigError(f'{source}: the API key of provider {provider} stands in quotes or after "Bearer"; {remedy}')
    return stripped


BUILT_IN: Mapping[str, Provider] = {
    "doubleword": Provider(
        name="doubleword",
        profile="doubleword",
        base_url="https://api.doubleword.ai/v1",
        api_key_env="DOUBLEWORD_API_KEY",
        max_file_bytes=200_000_000,
        max_lines=50_000,
        max_line_bytes=10_485_760,
        completion_windows=("24h", "1h"),
        endpoints=(
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
        ),
        mix_models=True,
        resume_parameter="skip",
        partial_output=True,
        searchable_batches=True,
        deletable_batches=True,
    ),
    "openai": Provider(
        name="openai",
        profile="openai",
        base_url="https://api.openai.com/v1",
        api_key_env="OPENAI_API_KEY",
        max_active_batches_per_lane=10,
        max_file_bytes=200_000_000,
        max_lines=50_000,
        max_line_bytes=50_000_000,
        completion_windows=("24h",),
        endpoints=("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        mix_models=False,
        partial_output=False,
        searchable_batches=True,
        deletable_batches=False,
    ),
}
