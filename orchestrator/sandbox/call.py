from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from orchestrator.sandbox.dialects import Dialect
from orchestrator.sandbox.errors import Refusal
from orchestrator.sandbox.faults import Fired
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.provider import Provider
from orchestrator.sandbox.records import Batch, StoredFile


@dataclass(frozen=True, slots=True)
class Call:
    """One authorised request: the faults that strike it and the moment (Unix seconds) at which it sees the world."""

    provider: Provider
    request: web.Request
    fired: Fired
    now: float

    @property
    def options(self) -> Options:
        return self.provider.options

    @property
    def dialect(self) -> Dialect:
        return self.provider.dialect

    @property
    def id(self) -> str:
        return self.request.match_info["id"]

    def file(self) -> StoredFile:
        """The file named in the path; `Refusal` 400 for a malformed id, 404 for one not to be seen."""
        self.require_valid("file", known=self.id in self.provider.files)
        return self.provider.file(self.id, self.now)

    def batch(self) -> Batch:
        """The batch named in the path, as for `file`."""
        self.require_valid("batch", known=self.id in self.provider.batches)
        return self.provider.batch(self.id, self.now)

    def searched(self) -> str | None:
        """The query's `search`, where the dialect knows one."""
        return self.request.query.get("search") if self.dialect.extensions else None

    def require_valid(self, kind: str, *, known: bool) -> None:
        if not known and not self.dialect.valid_id(self.id):
            raise Refusal(400, f"Invalid {kind} ID format", param="id")


def reply(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
