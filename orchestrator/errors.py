"""Every exception of the package.

A prompt that fails is a value and goes to the database; an exception means that *we* could not do something. Leaves
differ only where the reaction differs.

OrchestratorError            one clear line: what, where, what to do
├── ConfigError              wrong usage or settings; exit code 2
├── InputError               a file or row the user gave cannot be taken
├── StoreError               the database
│   ├── StoreUnavailable     busy, full, read-only or unreachable: try again later
│   ├── StoreInUse           another daemon works on this SQLite file; exit code 2
│   ├── QueueMoved           this copy of the queue is not the one to work on; exit code 2
│   ├── SchemaMismatch       the database is newer or older than this program; exit code 2
│   └── LeaseLost            somebody else holds the batch now: drop it, write nothing
└── ProviderError            one call to a provider
    ├── NotSent              the request certainly did not reach the server
    ├── ReplyLost            the server may have acted: look before sending again (F1, F2)
    ├── Throttled            refused for now: 429, 503; carries how long to wait
    ├── AccountBlocked       401, 402, no permission: pause the provider (F34)
    ├── NotFound             404, 410: no proof of absence (doubleword-api 10, trap 3)
    └── Rejected             refused for what it says; may name a line (F22)
"""

from __future__ import annotations

from orchestrator.keys import hidden


class OrchestratorError(Exception):
    """Base of all; `str()` is the one line a user sees."""

    exit_code = 1


class ConfigError(OrchestratorError):
    exit_code = 2


class InputError(OrchestratorError):
    pass


class StoreError(OrchestratorError):
    pass


class StoreUnavailable(StoreError):
    pass


class StoreInUse(StoreError):
    exit_code = 2


class QueueMoved(StoreError):
    exit_code = 2


class SchemaMismatch(StoreError):
    exit_code = 2


class LeaseLost(StoreError):
    pass


class ProviderError(OrchestratorError):
    """One call failed. `status` is the HTTP status, None when there was no reply.

    `retry_after_seconds` is what the server asked for, the larger of header and body (doubleword-api 5), 0 if nothing.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after_seconds: float = 0.0) -> None:
        super().__init__(hidden(message))
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class NotSent(ProviderError):
    pass


class ReplyLost(ProviderError):
    pass


class Throttled(ProviderError):
    pass


class AccountBlocked(ProviderError):
    pass


class NotFound(ProviderError):
    pass


class Rejected(ProviderError):
    """`line` is the 1-based line the server named, None when it named none."""

    def __init__(self, message: str, *, status: int | None = None, line: int | None = None) -> None:
        super().__init__(message, status=status)
        self.line = line
