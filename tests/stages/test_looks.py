"""What loops that wake together ask the database: one look for all of them, and each its own answer."""

import asyncio

from rig import admit, collect, pack, poll, settle, submit

from orchestrator.store.database import Database


async def test_stages_that_wake_together_look_once(rig, monkeypatch):
    rig.ask_many(3)
    await rig.run(admit, pack, submit)
    reads, inner = [], Database.read

    async def counted(self, work):
        reads.append(work)
        return await inner(self, work)

    monkeypatch.setattr(Database, "read", counted)
    ticks = await asyncio.gather(*(stage(rig.context) for stage in (poll, poll, collect, settle)))
    assert len(reads) == 1
    due = rig.batches()[0]["next_try_at_ms"]
    assert [tick.due_ms for tick in ticks] == [due, due, None, None]


async def test_a_look_that_fails_fails_for_all_who_asked_and_for_nobody_later(rig, monkeypatch):
    inner = Database.read

    async def broken(self, work):
        raise OSError("gone")

    monkeypatch.setattr(Database, "read", broken)
    found = await asyncio.gather(poll(rig.context), settle(rig.context), return_exceptions=True)
    assert [str(each) for each in found] == ["gone", "gone"]
    monkeypatch.setattr(Database, "read", inner)
    assert (await poll(rig.context)).moved == 0
