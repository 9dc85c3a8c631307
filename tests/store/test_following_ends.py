"""Who follows the results gets each end once, in whatever order transactions are committed."""

import asyncio

import pytest
from users import NOW_MS, Daemon

from orchestrator.core.model import PromptStatus
from orchestrator.core.outcomes import Outcome
from orchestrator.store import endings
from orchestrator.store.database import Database
from orchestrator.store.endings import BEFORE_ALL_ENDS, Gap, Watch, begin, gaps_in, list_earlier, look
from orchestrator.store.replies import Entry, get_members, record


@pytest.fixture
async def other(queue_url):
    """Another loop that collects, beside that of `daemon`."""
    database = Database(queue_url)
    yield Daemon(database)
    await database.close()


async def end(connection, ids):
    members = await get_members(connection, ids)
    entries = [Entry(member, Outcome(None, 200), None, PromptStatus.DONE, 1, 0) for member in members]
    await record(connection, entries, NOW_MS)


class Slow:
    """A chunk that is written and not committed until it is let."""

    def __init__(self, daemon, ids):
        self._written, self._let = asyncio.Event(), asyncio.Event()
        self._task = asyncio.ensure_future(daemon.write(lambda c: self._store(c, ids)))

    async def _store(self, connection, ids):
        await end(connection, ids)
        self._written.set()
        await self._let.wait()

    async def written(self):
        await self._written.wait()
        return self

    async def commit(self):
        self._let.set()
        await self._task


async def looks(daemon, watch, count=1):
    return [prompt_id for _ in range(count) for _, prompt_id in await daemon.read(lambda c: look(c, watch))]


async def earlier_ones(daemon, watch):
    earlier = await daemon.read(lambda c: begin(c, watch))
    return earlier, [place[2] for place in await listed(daemon, earlier)]


async def listed(daemon, earlier):
    return await daemon.read(lambda c: list_earlier(c, earlier, BEFORE_ALL_ENDS, 10_000))


@pytest.mark.postgresql
async def test_a_chunk_that_is_committed_after_thousands_of_later_replies_is_not_missed(user, daemon, other):
    ids = user.insert_many(3000)
    watch = Watch()
    await daemon.read(lambda c: begin(c, watch))
    slow = await Slow(daemon, ids[:1000]).written()
    found = []
    for start in (1000, 2000):
        await other.write(lambda c, start=start: end(c, ids[start : start + 1000]))
        found += await looks(other, watch)
    await slow.commit()
    found += await looks(other, watch, 3)
    assert sorted(found) == ids


@pytest.mark.postgresql
async def test_what_is_not_committed_as_a_watch_begins_comes_later_and_once(user, daemon, other):
    ids = user.insert_many(30)
    await other.write(lambda c: end(c, ids[:10]))
    slow = await Slow(daemon, ids[10:20]).written()
    await other.write(lambda c: end(c, ids[20:]))
    watch = Watch()
    earlier, first = await earlier_ones(other, watch)
    await slow.commit()
    assert [place[2] for place in await listed(other, earlier)] == first == ids[:10]
    assert sorted(await looks(other, watch, 3)) == ids[10:]


@pytest.mark.postgresql
async def test_many_small_gaps_are_looked_at_together_and_given_up_in_the_end(user, daemon, other, monkeypatch):
    ids = user.insert_many(100)
    watch = Watch()
    await daemon.read(lambda c: begin(c, watch))
    await daemon.write(lambda c: end(c, ids))
    user.run("DELETE FROM prompts WHERE id % 2 = 0")
    calls, list_replied = [], endings.list_replied
    monkeypatch.setattr(endings, "list_replied", lambda *given: calls.append(given[1:]) or list_replied(*given))
    assert len(await looks(other, watch)) == 50
    assert len(watch.gaps) == 49
    assert await looks(other, watch) == []
    assert len(calls) == 3
    monkeypatch.setattr(endings, "OVERLAP_SECONDS", 0.0)
    assert await looks(other, watch, 2) == []
    assert watch.gaps == []


async def test_one_look_goes_no_further_than_so_many_replies(user, daemon, monkeypatch):
    monkeypatch.setattr(endings, "LOOK_REPLIES", 10)
    monkeypatch.setattr(endings, "_LIST_IDS", endings._LIST_IDS.limit(10))
    ids = user.insert_many(25)
    watch = Watch()
    await daemon.read(lambda c: begin(c, watch))
    await daemon.write(lambda c: end(c, ids))
    assert [len(await looks(daemon, watch)) for _ in range(4)] == [10, 10, 5, 0]


@pytest.mark.parametrize(
    ("ids", "gaps"),
    [([], []), ([5], []), ([5, 6], []), ([7], [(5, 6)]), ([5, 8, 9, 11], [(6, 7), (10, 10)])],
)
def test_gaps_are_what_is_missing_up_to_the_last(ids, gaps):
    assert gaps_in(ids, 5, 1.0) == [Gap(first, last, 1.0) for first, last in gaps]
