"""Pack: seal a lane's ready prompts into a batch when a file is full or its oldest prompt has lingered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.context import Context, Tick, earliest
from orchestrator.core.model import Batch, BatchStatus
from orchestrator.core.packing import Limits, Seal, fitting, lingers_until_ms, seal
from orchestrator.lease import LEASE_SECONDS, held, keep_lease
from orchestrator.store.batches import (
    ActiveBatches,
    count_active,
    get_batch,
    insert_batch,
    move_batch,
    release_leases,
    statuses,
)
from orchestrator.store.dialect import take_turn
from orchestrator.store.lanes import next_release_ms, note_packed
from orchestrator.store.providers import ProviderState, list_provider_states, next_resume_ms
from orchestrator.store.queue import (
    Line,
    ReadyLane,
    admit_again,
    list_ready,
    list_ready_lanes,
    measure_batch,
    take_into_batch,
)
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

TAKE_LINES = 2000
"""Lines moved per transaction, so that a user's INSERT never waits long (measurements 3.6)."""
LANES_PER_TICK = 100
BACKLOG_SECONDS, BACKLOG_LOOK_SECONDS = 300.0, 1.0
"""How long, at most, a lane that has lingered waits for rows that are being admitted: they may fill its batch."""
HALF_PACKED = statuses(BatchStatus.PACKING)


async def pack(context: Context) -> Tick:
    """Finish a batch that a crash left half packed, then seal what is due, the lane longest unserved first."""
    mended = await _seal_abandoned(context)
    states, ready, active, opening_ms = await context.database.read(partial(_look, context))
    sealed = moved = 0
    lingering_ms = list[int]()
    for lane in ready:
        if sealed >= LANES_PER_TICK:
            break
        if context.provider(lane.lane.provider) is None:
            moved += await context.database.write(partial(admit_again, lane_id=lane.id))
        elif not _has_place(context, lane, states.get(lane.lane.provider), active):
            continue
        elif await _seal_if_due(context, lane, states.get(lane.lane.provider), active):
            sealed += 1
        else:
            lingering_ms.append(_next_look_ms(context, lane))
    due_ms = earliest(mended.due_ms, opening_ms, *lingering_ms)
    return Tick(mended.moved + sealed + moved, more=bool(sealed or moved), due_ms=due_ms)


def _next_look_ms(context: Context, lane: ReadyLane) -> int:
    until_ms = lingers_until_ms(lane.waiting, context.config.packing.linger_seconds)
    return max(until_ms, context.in_ms(BACKLOG_LOOK_SECONDS)) if _has_backlog(context) else until_ms


def _has_backlog(context: Context) -> bool:
    """False when admission takes so long that it may never be done, and where nothing lingers at all."""
    since = context.backlog.since if context.config.packing.linger_seconds else None
    return since is not None and context.steady() - since < BACKLOG_SECONDS


async def _look(
    context: Context, connection: AsyncConnection
) -> tuple[dict[str, ProviderState], list[ReadyLane], ActiveBatches, int | None]:
    """What is ready and what may take it, and when something that takes nothing now opens next."""
    ready = await list_ready_lanes(connection, context.config.packing.max_lines, context.now_ms())
    active = await count_active(connection) if ready else ActiveBatches()
    states, now_ms = await list_provider_states(connection), context.now_ms()
    opening_ms = earliest(await next_release_ms(connection, now_ms), next_resume_ms(states, now_ms))
    return states, ready, active, opening_ms


def _has_place(context: Context, lane: ReadyLane, state: ProviderState | None, active: ActiveBatches) -> bool:
    """False while the provider is paused or on trial after a pause, or when it or the lane has batches enough.

    Nor while another daemon fills a batch of the lane: two would be half full.

    A lane that met its quota sends one batch after the other, each once the one before it runs (F7, F8).
    """
    name = lane.lane.provider
    provider = context.config.providers[name]
    if state is not None and (state.paused(context.now_ms()) or (state.pauses and active.unsent[name])):
        return False
    if lane.over_quota and active.unproven[lane.id]:
        return False
    if active.packers[lane.id] - {context.owner}:
        return False
    return (
        active.by_lane[lane.id] < provider.max_active_batches_per_lane
        and active.by_provider[name] < provider.max_active_batches
    )


async def _seal_if_due(context: Context, lane: ReadyLane, state: ProviderState | None, active: ActiveBatches) -> bool:
    limits = context.file_limits(context.config.providers[lane.lane.provider], state)
    if lane.max_bytes is not None:
        limits = Limits(min(limits.max_bytes, lane.max_bytes), limits.max_lines)
    why = seal(lane.waiting, limits, context.config.packing.linger_seconds, context.now_ms())
    if why is Seal.LINGERED and _has_backlog(context):
        return False
    if why is None or not await _pack_batch(context, lane, state, limits, why):
        return False
    active.by_lane[lane.id] += 1
    active.by_provider[lane.lane.provider] += 1
    active.unsent[lane.lane.provider] += 1
    active.unproven[lane.id] += 1
    return True


async def _pack_batch(
    context: Context, lane: ReadyLane, state: ProviderState | None, limits: Limits, why: Seal
) -> bool:
    """Fill one batch in short transactions and seal it; False when nothing was left to take."""
    opened = await context.database.write(partial(_open_batch, context=context, lane=lane, state=state, limits=limits))
    if opened is None:
        return False
    batch, room = opened
    while room is not None and room.max_lines > 0:
        room = await context.database.write(partial(_take_still_more, context=context, batch=batch, room=room))
    return await _seal(context, batch, why)


async def _open_batch(
    connection: AsyncConnection, context: Context, lane: ReadyLane, state: ProviderState | None, limits: Limits
) -> tuple[Batch, Limits | None] | None:
    """A batch with its first lines, and the room that is left in it; None when another daemon was quicker."""
    await take_turn(connection)
    if not _has_place(context, lane, state, await count_active(connection)):
        return None
    if not await list_ready(connection, lane.id, 1):
        return None
    lease_until_ms = context.in_ms(LEASE_SECONDS)
    key, now_ms = context.new_key(), context.now_ms()
    batch_id = await insert_batch(connection, key, lane.id, context.owner, now_ms, lease_until_ms)
    await note_packed(connection, lane.id, now_ms)
    batch = await get_batch(connection, batch_id)
    return batch, await _take_more(connection, batch, limits, at_least=1)


async def _take_still_more(connection: AsyncConnection, context: Context, batch: Batch, room: Limits) -> Limits | None:
    """Take more while the batch is ours: raises LeaseLost when another daemon found it half packed."""
    await keep_lease(connection, context, batch)
    return await _take_more(connection, batch, room)


async def _take_more(connection: AsyncConnection, batch: Batch, room: Limits, at_least: int = 0) -> Limits | None:
    """Take the lane's next lines; the room that is left, None when the batch is full or the lane empty."""
    wanted = min(TAKE_LINES, room.max_lines)
    offered = await list_ready(connection, batch.lane_id, wanted)
    taken = offered[: max(fitting((line.nbytes for line in offered), room), at_least)]
    await take_into_batch(connection, batch.id, taken)
    if len(taken) < wanted:
        return None
    return _less(room, taken)


def _less(room: Limits, taken: list[Line]) -> Limits:
    return Limits(room.max_bytes - sum(line.nbytes for line in taken), room.max_lines - len(taken))


async def _seal(context: Context, batch: Batch, why: str) -> bool:
    lines, nbytes = await context.database.write(partial(_note_sealed, batch=batch, now_ms=context.now_ms()))
    if lines:
        lane = batch.lane
        tell(
            "pack.sealed", batch=batch.id, key=batch.key, provider=lane.provider, endpoint=lane.endpoint,
            window=lane.completion_window, model=lane.model or None, lines=lines, bytes=nbytes, why=why,
        )  # fmt: skip
    return lines > 0


async def _note_sealed(connection: AsyncConnection, batch: Batch, now_ms: int) -> tuple[int, int]:
    lines, nbytes = await measure_batch(connection, batch.id)
    after = BatchStatus.SEALED if lines else BatchStatus.DISCARDED
    await move_batch(connection, batch, after, "pack", lines=lines, nbytes=nbytes, next_try_at_ms=now_ms)
    await release_leases(connection, [batch])
    return lines, nbytes


async def _seal_abandoned(context: Context) -> Tick:
    async with held(context, HALF_PACKED) as batch:
        return batch if isinstance(batch, Tick) else Tick(int(await _seal(context, batch, "found half packed")))
