"""What we learned about a provider while running: pauses of its account, limits it lowered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from orchestrator.store.dialect import storable, take_turn
from orchestrator.store.tables import provider_states

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class ProviderState:
    """`resume_at_ms` is when the next try is due; `pauses` counts pauses in a row, 0 when the account works.

    `paused_by` is `call` (a refused request) or `line` (a line that failed for want of credit). The limits are None
    until the provider refused a file for its size.
    """

    name: str
    paused_at_ms: int | None = None
    resume_at_ms: int = 0
    pauses: int = 0
    pause_reason: str | None = None
    paused_by: str | None = None
    max_file_bytes: int | None = None
    max_lines: int | None = None

    def paused(self, now_ms: int) -> bool:
        return self.resume_at_ms > now_ms


_COLUMNS = [provider_states.c[field.name] for field in fields(ProviderState)]


_LIST = select(*_COLUMNS)


async def list_provider_states(connection: AsyncConnection) -> dict[str, ProviderState]:
    return {row[0]: ProviderState(*row) for row in await connection.execute(_LIST)}


async def get_provider_state(connection: AsyncConnection, name: str) -> ProviderState:
    """What is known of it; nobody else changes it until the transaction ends."""
    await take_turn(connection)
    row = (await connection.execute(_LIST.where(provider_states.c.name == name))).one_or_none()
    return ProviderState(name) if row is None else ProviderState(*row)


def next_resume_ms(states: Mapping[str, ProviderState], now_ms: int) -> int | None:
    """When the first pause ends that still lasts; None when none does."""
    return min((state.resume_at_ms for state in states.values() if state.paused(now_ms)), default=None)


async def forget_limits(connection: AsyncConnection) -> None:
    """At each start: a limit learned from one refusal is no law; the next refusal teaches it again."""
    await take_turn(connection)
    await connection.execute(update(provider_states).values(max_file_bytes=None, max_lines=None))


async def update_provider(connection: AsyncConnection, name: str, **values: Any) -> None:  # noqa: ANN401
    await take_turn(connection)
    (values,) = storable(connection, [values])
    changed = update(provider_states).where(provider_states.c.name == name).values(**values)
    if (await connection.execute(changed)).rowcount == 0:
        await connection.execute(insert(provider_states).values(name=name, **values))


async def clear_pause(connection: AsyncConnection, name: str, paused_by: str, sent_at_ms: int | None = None) -> bool:
    """The account works again; True when it was paused for reasons of this kind.

    `sent_at_ms` is when the batch that shows it was sent: one sent before the pause proves nothing.
    """
    await take_turn(connection)
    paused = [provider_states.c.name == name, provider_states.c.pauses > 0, provider_states.c.paused_by == paused_by]
    if sent_at_ms is not None:
        paused.append(provider_states.c.paused_at_ms < sent_at_ms)
    cleared = update(provider_states).where(*paused)
    cleared = cleared.values(pauses=0, resume_at_ms=0, paused_at_ms=None, pause_reason=None, paused_by=None)
    return (await connection.execute(cleared)).rowcount > 0
