"""`results --follow`: each prompt as it ends, once per end, in the order of ending."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cli.export import FIRST_PAGE_ROWS, RENDERERS, csv_line, next_limit
from orchestrator.store.endings import Watch, begin, look, read_ended
from orchestrator.store.listing import RESULT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.cli.export import Written
    from orchestrator.config import Loaded
    from orchestrator.store.database import Database
    from orchestrator.store.endings import End
    from orchestrator.store.listing import Chosen

LOOK_SECONDS = 1.0


async def follow(
    database: Database, _loaded: Loaded, *, chosen: Chosen, form: str, file: Written, counts: list[int]
) -> None:
    """Print until cancelled; `counts` counts the lines."""
    if form == "csv":
        file.write(csv_line(RESULT_COLUMNS))
        file.flush()
    watch = Watch()
    ends = await database.read(partial(begin, watch=watch))
    while True:
        await _print(database, ends, watch, chosen, form, file, counts)
        await asyncio.sleep(LOOK_SECONDS)
        ends = await database.read(partial(look, watch=watch))


async def _print(
    database: Database,
    ends: Sequence[End],
    watch: Watch,
    chosen: Chosen,
    form: str,
    file: Written,
    counts: list[int],
) -> None:
    start, limit = 0, FIRST_PAGE_ROWS
    while start < len(ends):
        page = ends[start : start + limit]
        ids = [prompt_id for _, prompt_id in page]
        found = await database.read(partial(read_ended, prompt_ids=ids, chosen=chosen))
        watch.seen.update(end for end, _ in found)  # one of them may have ended anew meanwhile
        for _, row in sorted(found, key=lambda item: item[0]):
            rendered = RENDERERS[form](dict(zip(RESULT_COLUMNS, row, strict=True)))
            if rendered is not None:
                file.write(rendered[1])
                counts[0] += 1
        file.flush()
        start += len(page)
        limit = next_limit([row for _, row in found]) if found else limit
