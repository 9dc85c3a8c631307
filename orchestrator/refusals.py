"""A file or batch refused for what it says: drop the lines to blame, and send the rest at once (F22, F35)."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.core.model import Batch, BatchStatus, Fault
from orchestrator.core.outcomes import Outcome
from orchestrator.recording import refused
from orchestrator.store.batches import get_batch, insert_sealed, move_batch
from orchestrator.store.providers import get_provider_state, update_provider
from orchestrator.store.queue import list_batched_of_models, list_lines, model_of, models_in, move_lines, return_lines
from orchestrator.store.replies import get_members_of, record
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.context import Context
    from orchestrator.errors import Rejected
    from orchestrator.store.queue import Line

FORBIDDEN, TOO_LARGE = 403, 413
MARGIN = 0.99
PAGE = 1000

_TOO_LARGE = re.compile(r"too large|maximum allowed size|exceeds the maximum size", re.IGNORECASE)
_TOO_MANY = re.compile(r"contains (\d+) requests, which exceeds the maximum of (\d+)", re.IGNORECASE)
_MOST_BYTES = re.compile(r"(?:size of|limit of|maximum of|most)\D{0,20}(\d{3,12}) ?bytes", re.IGNORECASE)
_WHOLE_LANE = re.compile(r"completion_window|unsupported endpoint", re.IGNORECASE)
_MODEL = re.compile(r"\bmodel\b|\bmodels?\(s\)|\bmodels\b", re.IGNORECASE)


async def refuse(context: Context, batch: Batch, error: Rejected) -> bool:
    """Act on a definite refusal of this batch; True when it can be sent again at once, False when it is dissolved."""
    lines = await context.database.read(partial(list_lines, batch_id=batch.id))
    message = str(error)
    if not lines or (error.line is not None and not await _are_as_sent(context, batch, lines)):
        await context.database.write(partial(_send_rest, context=context, batch=batch, left=len(lines)))
        return bool(lines)
    if _too_big(error) and len(lines) > 1:
        await _lower_limit(context, batch, message, len(lines), sum(line.nbytes for line in lines))
        return False
    blamed = await _blamed(context, batch, error, [line.prompt_id for line in lines])
    if blamed:
        return await _drop(context, batch, error, blamed, left=len(lines) - len(blamed))
    await halve(context, batch, message, [line.prompt_id for line in lines])
    return True


async def _are_as_sent(context: Context, batch: Batch, lines: Sequence[Line]) -> bool:
    """A late success may have taken a line out of the batch meanwhile: then numbers count other lines (F30)."""
    sent = await context.database.read(partial(get_batch, batch_id=batch.id))
    return sum(line.nbytes for line in lines) == sent.nbytes


def _too_big(error: Rejected) -> bool:
    message = str(error)
    about_file = error.line is None and (error.status == TOO_LARGE or _TOO_LARGE.search(message) is not None)
    return about_file or _TOO_MANY.search(message) is not None


async def _blamed(context: Context, batch: Batch, error: Rejected, prompt_ids: Sequence[int]) -> Sequence[int]:
    """The prompts this refusal is about; empty when it names none and more than one could be meant."""
    message = str(error)
    if len(prompt_ids) <= 1 or _WHOLE_LANE.search(message):
        return prompt_ids
    if error.line is not None and error.line <= len(prompt_ids):
        culprit = prompt_ids[error.line - 1]
        return await _same_model(context, batch, culprit, message) or [culprit]
    if _MODEL.search(message):
        return await _of_named_models(context, batch, message)
    return []


async def _same_model(context: Context, batch: Batch, prompt_id: int, message: str) -> list[int]:
    """All lines of the model a refusal names: sending them one refusal at a time would cost an upload each."""
    model = await context.database.read(partial(model_of, prompt_id=prompt_id))
    if not model or f"'{model}'" not in message or not _MODEL.search(message):
        return []
    return await context.database.read(partial(list_batched_of_models, batch_id=batch.id, models=[model]))


async def _of_named_models(context: Context, batch: Batch, message: str) -> list[int]:
    models = await context.database.read(partial(models_in, batch_id=batch.id))
    named = [model for model in models if re.search(rf"(?<![\w./-]){re.escape(model)}(?![\w/-])", message)]
    if not named:
        return []
    return await context.database.read(partial(list_batched_of_models, batch_id=batch.id, models=named))


async def _drop(context: Context, batch: Batch, error: Rejected, blamed: Sequence[int], left: int) -> bool:
    fault = Fault.REFUSED if error.status == FORBIDDEN else Fault.INVALID
    code = fault.value if error.status is None else str(error.status)
    outcome = Outcome(fault, error.status, code, str(error))

    async def work(connection: AsyncConnection) -> None:
        for start in range(0, len(blamed), PAGE):
            members = await get_members_of(connection, batch.id, blamed[start : start + PAGE])
            await record(connection, [refused(context, m, outcome, batch.id) for m in members], context.now_ms())
        await _send_rest(connection, context, batch, left)

    await context.database.write(work)
    tell("submit.lines_refused", batch=batch.id, key=batch.key, lines=len(blamed), fault=fault.value, reason=str(error))
    return left > 0


async def _send_rest(connection: AsyncConnection, context: Context, batch: Batch, left: int) -> None:
    """What is left is another file, so it gets another key: the old one may stand on a file at the provider."""
    after = BatchStatus.SEALED if left else BatchStatus.DISCARDED
    await move_batch(connection, batch, after, "submit", key=context.new_key(), tries=0, input_file_id=None)


async def halve(context: Context, batch: Batch, reason: str, prompt_ids: Sequence[int]) -> None:
    """Make two files of one: it is not known which of its lines is to blame, or whether its size is."""

    async def work(connection: AsyncConnection) -> None:
        other = await insert_sealed(connection, context.new_key(), batch.lane_id, context.now_ms())
        await move_lines(connection, batch.id, prompt_ids[len(prompt_ids) // 2], other)
        await _send_rest(connection, context, batch, left=1)

    await context.database.write(work)
    tell("submit.split", batch=batch.id, key=batch.key, lines=len(prompt_ids), reason=reason)


async def _lower_limit(context: Context, batch: Batch, message: str, lines: int, nbytes: int) -> None:
    """Remember what the provider takes, and let the lines be packed anew under it (F35)."""
    too_many, most_bytes = _TOO_MANY.search(message), _MOST_BYTES.search(message)
    max_lines = max(1, min(int(too_many.group(2)), lines - 1)) if too_many else None
    told = int(most_bytes.group(1)) if most_bytes else nbytes // 2
    max_bytes = None if too_many else max(1, int(min(told, nbytes - 1) * MARGIN))

    async def work(connection: AsyncConnection) -> int:
        name = batch.lane.provider
        known = await get_provider_state(connection, name)
        if max_lines is not None:
            await update_provider(connection, name, max_lines=min(max_lines, known.max_lines or max_lines))
        if max_bytes is not None:
            await update_provider(connection, name, max_file_bytes=min(max_bytes, known.max_file_bytes or max_bytes))
        count = await return_lines(connection, batch.id)
        await move_batch(connection, batch, BatchStatus.DISCARDED, "submit")
        return count

    returned = await context.database.write(work)
    facts = {"batch": batch.id, "key": batch.key}
    tell(
        "submit.limit_lowered", **facts, provider=batch.lane.provider, max_bytes=max_bytes, max_lines=max_lines,
        reason=message,
    )  # fmt: skip
    tell("submit.repacked", **facts, lines=returned, why="the provider takes smaller files")
