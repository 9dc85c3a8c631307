"""A batch's lines on their way out: read page by page, encoded as they are sent, never a whole file in memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.core.lines import encode_body, encode_line
from orchestrator.errors import OrchestratorError
from orchestrator.store.queue import pages, read_batched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orchestrator.context import Context
    from orchestrator.core.model import Batch
    from orchestrator.store.queue import Line


class LinesChanged(OrchestratorError):
    """What stands in the table is no longer what was measured: nothing of it may be sent."""


class Upload:
    """The lines of one batch. `failure` holds what stopped `chunks()`: the HTTP client hides it."""

    def __init__(self, context: Context, batch: Batch, lines: Sequence[Line]) -> None:
        self._context = context
        self._batch = batch
        self._lines = lines
        self.failure: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file in pieces of about one page. Raises LinesChanged when a line's size is not as declared."""
        try:
            for start, stop in pages(self._lines):
                yield await self._encoded(self._lines[start:stop])
        except Exception as error:
            self.failure = error
            raise

    async def _encoded(self, lines: Sequence[Line]) -> bytes:
        read = partial(read_batched, batch_id=self._batch.id, first_id=lines[0].prompt_id, last_id=lines[-1].prompt_id)
        endpoint = self._batch.lane.endpoint
        data = b"".join(
            encode_line(prompt.custom_id, endpoint, encode_body(prompt, endpoint, None)[0])
            for prompt in await self._context.database.read(read)
        )
        if len(data) != sum(line.nbytes for line in lines):
            raise LinesChanged(f"batch {self._batch.key}: its prompts changed while it was being sent")
        return data
