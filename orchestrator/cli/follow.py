"""`results --follow`: each prompt as it ends, once per end, in the order of ending."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cli.export import FIRST_PAGE_ROWS, RENDERERS, csv_line, next_limit
from orchestrator.store.endings import BEFORE_ALL_ENDS, Watch, begin, list_earlier, look, read_ended
from orchestrator.store.listing import RESULT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

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
    async for page in _ends(database, watch):
        ids = [prompt_id for _, prompt_id in page.ends]
        found = await database.read(partial(read_ended, prompt_ids=ids, chosen=chosen))
        watch.seen.update(end for end, _ in found if end[0] >= watch.since_ms)  # some may have ended anew meanwhile
        for _, row in sorted(found, key=lambda item: item[0]):
            rendered = RENDERERS[form](dict(zip(RESULT_COLUMNS, row, strict=True)))
            if rendered is not None:
                file.write(rendered[1])
                counts[0] += 1
        file.flush()
        if found:
            page.next_limit = next_limit([row for _, row in found])


@dataclass(slots=True)
class Page:
    """Ends whose results are read together; whoever did so says how many are to be next, by their size."""

    ends: Sequence[End]
    next_limit: int


async def _ends(database: Database, watch: Watch) -> AsyncIterator[Page]:
    """Without end: what had ended, in order, then what ends, look after look."""
    earlier = await database.read(partial(begin, watch=watch))
    after, limit = BEFORE_ALL_ENDS, FIRST_PAGE_ROWS
    while places := await database.read(partial(list_earlier, earlier=earlier, after=after, count=limit)):
        page = Page([(at_ms, prompt_id) for at_ms, _, prompt_id in places], limit)
        yield page
        after, limit = places[-1], page.next_limit
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        ends = await database.read(partial(look, watch=watch))
        while ends:
            page = Page(ends[:limit], limit)
            yield page
            ends, limit = ends[limit:], page.next_limit
