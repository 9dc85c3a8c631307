"""A batch's lines on their way out: read page by page, encoded as they are sent, never a whole file in memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.core.lines import encode_body, encode_line
from orchestrator.errors import OrchestratorError
from orchestrator.store.queue import list_next_lines, pages, read_batched
from orchestrator.store.windows import FIRST_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orchestrator.context import Context
    from orchestrator.core.model import Batch
    from orchestrator.store.queue import Line


class LinesChanged(OrchestratorError):
    """What stands in the table is no longer what was measured: nothing of it may be sent."""


class Upload:
    """The lines of one batch, `nbytes` in all. `failure` holds what stopped `chunks()`: the HTTP client hides it."""

    def __init__(self, context: Context, batch: Batch, nbytes: int) -> None:
        self._context = context
        self._batch = batch
        self._left = nbytes
        self.failure: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file in pieces of about one page. Raises LinesChanged when they are not as declared."""
        try:
            async for lines in self._pages():
                yield await self._encoded(lines)
            self._require(self._left == 0)
        except Exception as error:
            self.failure = error
            raise

    async def _pages(self) -> AsyncIterator[Sequence[Line]]:
        first_id = FIRST_ID
        while lines := await self._next_lines(first_id):
            for start, stop in pages(lines):
                yield lines[start:stop]
            first_id = lines[-1].prompt_id + 1

    async def _next_lines(self, first_id: int) -> list[Line]:
        return await self._context.database.read(partial(list_next_lines, batch_id=self._batch.id, first_id=first_id))

    async def _encoded(self, lines: Sequence[Line]) -> bytes:
        read = partial(read_batched, batch_id=self._batch.id, first_id=lines[0].prompt_id, last_id=lines[-1].prompt_id)
        endpoint = self._batch.lane.endpoint
        data = b"".join(
            encode_line(prompt.custom_id, endpoint, encode_body(prompt, endpoint, None)[0])
            for prompt in await self._context.database.read(read)
        )
        self._left -= len(data)
        self._require(self._left >= 0 and len(data) == sum(line.nbytes for line in lines))
        return data

    def _require(self, as_declared: bool) -> None:  # noqa: FBT001
        if not as_declared:
            raise LinesChanged(f"batch {self._batch.key}: its prompts changed while it was being sent")
