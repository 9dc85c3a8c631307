"""The tables of the settings file, one struct each; a field's `Meta` is the one home of its meaning, unit and range."""

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from orchestrator.config.fields import count, said, seconds, text
from orchestrator.config.profiles import BUILT_IN, Provider
from orchestrator.errors import ConfigError
from orchestrator.keys import remember

DAY_SECONDS = 86_400.0
TOKEN_CHARACTERS_MIN = 16


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of settings."""


class Database(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the queue lives."""

    url: Annotated[
        str,
        text(
            "sqlite:///FILE or postgresql://USER@HOST/DATABASE",
            "The queue's SQLite file, from the working folder (with a fourth slash: from the root), or PostgreSQL.",
        ),
    ] = "sqlite:///orchestrator.db"

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))


class Defaults(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a prompt gets that names nothing itself."""

    provider: Annotated[
        str, text("a provider's name", "Provider of prompts that name none: the NAME of a [providers.NAME] table.")
    ] = "doubleword"
    model: (
        Annotated[str, text("a model's name", "Model of prompts that name none; empty: such prompts fail as invalid.")]
        | None
    ) = None
    endpoint: Annotated[
        str,
        text(
            "a path such as /v1/chat/completions",
            "Endpoint of prompts that name none; the default provider must offer it.",
        ),
    ] = "/v1/chat/completions"
    completion_window: Annotated[
        str, text("a window such as 24h", "Window of prompts that name none; shorter windows cost more.")
    ] = "24h"


class Packing(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When prompts become a batch. The provider's own limits hold as well; the lower one decides."""

    max_bytes: Annotated[
        int, count(1024, 5_000_000_000, "bytes", "Largest input file; a little under the 200 MB that providers take.")
    ] = 199_000_000
    max_lines: Annotated[
        int,
        count(
            1, 10_000_000, "lines", "Most prompts in one batch; smaller batches lose less when one fails as a whole."
        ),
    ] = 50_000
    linger_seconds: Annotated[
        float,
        seconds(0, DAY_SECONDS, "How long a batch that is not full waits for more prompts; 0 sends what is there."),
    ] = 60.0


class Submission(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How batches are sent, and how one is found again after a lost reply."""

    concurrency: Annotated[int, count(1, 64, "batches", "Batches sent at once; one alone seldom fills the line.")] = 2
    adopt_checks: Annotated[
        int, count(1, 100, "listings", "Listings without our batch before it is sent again; fewer risk paying twice.")
    ] = 12
    """As many as take longer than one call may: a provider can still be creating what it got before we were killed."""
    adopt_interval_seconds: Annotated[
        float, seconds(0, 3600, "Time between those listings; a listing may lag behind what was created.")
    ] = 30.0
    stuck_validating_seconds: Annotated[
        float,
        seconds(
            1,
            30 * DAY_SECONDS,
            "How long a batch may stay in validating before it is replaced; a provider may lose one at birth.",
        ),
    ] = 1800.0
    pause_seconds: Annotated[
        float, seconds(0.01, DAY_SECONDS, "First pause of a provider whose account refuses (key, balance, quota).")
    ] = 60.0
    pause_max_seconds: Annotated[
        float,
        seconds(
            0.01, DAY_SECONDS, "Longest such pause; they grow up to this, so that a mended account is soon noticed."
        ),
    ] = 900.0


class Polling(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often running batches are looked at; each next look is drawn between the two."""

    min_seconds: Annotated[
        float, seconds(0.01, DAY_SECONDS, "Shortest time between two looks at one batch; a limit on calls.")
    ] = 30.0
    max_seconds: Annotated[
        float, seconds(0.01, DAY_SECONDS, "Longest time between two looks; how late an answer may be seen.")
    ] = 60.0
    overdue_seconds: Annotated[
        float,
        seconds(
            0,
            30 * DAY_SECONDS,
            "How far past its window a batch may run before it is cancelled and the rest resent; 0: for ever.",
        ),
    ] = DAY_SECONDS


class Collection(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers are read."""

    concurrency: Annotated[int, count(1, 64, "batches", "Batches read at once; more keep more answers in memory.")] = 2
    max_line_bytes: Annotated[
        int,
        count(1024, 1_073_741_824, "bytes", "Longest answer line held in memory; a longer one is unreadable."),
    ] = 67_108_864
    overlap_lines: Annotated[
        int, count(0, 1_000_000, "lines", "Lines read again on each look, as a late line may be put before read ones.")
    ] = 64
    quiet_seconds: Annotated[
        float, seconds(0, DAY_SECONDS, "How long an ended batch with missing lines is left before the last full read.")
    ] = 60.0


class Retry(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a prompt that failed is sent again."""

    max_attempts: Annotated[
        int, count(1, 100, "attempts", "Paid tries of one prompt before it fails for good; 1: never sent again.")
    ] = 5
    max_returns: Annotated[
        int, count(0, 1000, "returns", "Times a prompt may come back unanswered at no charge before it fails for good.")
    ] = 20
    base_seconds: Annotated[
        float,
        seconds(
            0,
            DAY_SECONDS,
            "Delay before the second try, growing with each further one so that a sick server recovers; 0: at once.",
        ),
    ] = 30.0
    max_seconds: Annotated[
        float, seconds(0, 7 * DAY_SECONDS, "Longest delay between two tries, however many there were.")
    ] = 3600.0


class Retention(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long things are kept."""

    finished_days: Annotated[
        int,
        count(
            0,
            36_500,
            "days",
            "Age at which ended prompts are deleted with their answers, and their custom_ids are free again; 0: never.",
        ),
    ] = 0
    remote_files: Annotated[
        Literal["keep", "delete"], said("What becomes of a batch's files at the provider when its answers are stored.")
    ] = "keep"
    remote_files_days: Annotated[
        int,
        count(
            0,
            36_500,
            "days",
            "How long they stay before they are deleted; an older backup that is restored pays for its answers again.",
        ),
    ] = 7


class Shutdown(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the daemon stops."""

    grace_seconds: Annotated[
        float, seconds(0, 3600, "Time for the work in hand after SIGTERM; keep it under the service manager's own.")
    ] = 30.0


class Web(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the daemon shows over HTTP: the status page, health, readiness."""

    listen: Annotated[
        str,
        text(
            "HOST:PORT or empty",
            "Address to listen on, such as 127.0.0.1:8080; one that other machines reach needs a token. Empty: off.",
        ),
    ] = ""
    token_env: Annotated[
        str,
        text(
            "the name of an environment variable, or empty",
            "Variable that holds the page's token, of 16 characters or more; empty: none is asked for.",
            pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?\Z",
        ),
    ] = ""
    show_content: Annotated[
        bool, said("Whether a fault's example shows the beginning of its prompt; false: no text of a prompt is shown.")
    ] = False

    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def token(self, environ: Mapping[str, str] | None = None) -> str | None:
        """What a visitor must know, None where nothing is asked for."""
        if not self.token_env:
            return None
        token = (os.environ if environ is None else environ).get(self.token_env, "").strip()
        if len(token) < TOKEN_CHARACTERS_MIN or not (token.isascii() and token.isprintable()):
            raise ConfigError(
                f"{self.token_env}: holds no token for the page of web.listen; "
                f"put {TOKEN_CHARACTERS_MIN} or more plain characters there, or empty web.listen"
            )
        return remember(token)


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can speak to that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Log(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the daemon says on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], said("Least severity shown; info follows each batch by its id.")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"], said("Form of the lines; auto: console on a terminal, JSON elsewhere.")
    ] = "auto"
    heartbeat_seconds: Annotated[
        float, seconds(0.1, DAY_SECONDS, "Time between two heartbeats with the queue's counts; silence means trouble.")
    ] = 60.0


class Config(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, resolved."""

    database: Database = Database()
    providers: dict[str, Provider] = msgspec.field(default_factory=lambda: dict(BUILT_IN))
    defaults: Defaults = Defaults()
    packing: Packing = Packing()
    submission: Submission = Submission()
    polling: Polling = Polling()
    collection: Collection = Collection()
    retry: Retry = Retry()
    retention: Retention = Retention()
    shutdown: Shutdown = Shutdown()
    web: Web = Web()
    log: Log = Log()


def tables_of(config: Config) -> Iterator[tuple[str, msgspec.Struct]]:
    """Each table with its title, in the order of the example file."""
    for name in config.__struct_fields__:
        if name != "providers":
            yield name, getattr(config, name)
            continue
        for provider in config.providers.values():
            yield f"providers.{provider.name}", provider
