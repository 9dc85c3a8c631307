"""The batch routes of doubleword-api 2, apart from results."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from orchestrator.sandbox.answers import response_body
from orchestrator.sandbox.behaviours import Fate
from orchestrator.sandbox.call import Call, reply
from orchestrator.sandbox.distortions import distorted
from orchestrator.sandbox.errors import Refusal, batch_not_found
from orchestrator.sandbox.listing import envelope, matches, page, page_limit
from orchestrator.sandbox.orders import decoded, metadata_text, order_of
from orchestrator.sandbox.prices import cost
from orchestrator.sandbox.records import Batch, Line
from orchestrator.sandbox.replies import request_id

# `status` of the list filter -> statuses it stands for (doubleword-api 2.4); `expired` is a condition of its own.
FILTERS = {
    "in_progress": {"in_progress", "validating", "finalizing"},
    "completed": {"completed"},
    "failed": {"failed"},
    "cancelled": {"cancelled", "cancelling"},
    "expired": set[str](),
}
NO_TOKENS = (0, 0)


def shown(call: Call, batch: Batch, *, listed: bool) -> dict[str, Any]:
    """The batch as the client sees it; listed is False in the reply to a create alone, which lacks the context."""
    body = call.dialect.batch_object(batch, as_of(call, batch))
    if listed and call.dialect.batch_context:
        body["metadata"] = body["metadata"] | call.dialect.batch_context
    wait = batch.trait("null-output-id", "seconds")
    if wait is not None and call.now < batch.idle_at + wait:
        body["output_file_id"] = None
    return distorted(body, call.fired)


def as_of(call: Call, batch: Batch) -> float:
    fault = call.fired.get("old-list")
    return call.now if fault is None else max(batch.created_at, call.now - fault.number("seconds"))


async def create(call: Call) -> web.Response:
    batch = call.provider.add_batch(await order_of(call), call.fired, call.now)
    body = shown(call, batch, listed=False)
    return reply({"job": body, "warning": ""} if "wrapped-reply" in call.fired else body, call.dialect.created)


async def retrieve(call: Call) -> web.Response:
    if "batch-gone" in call.fired:
        raise batch_not_found(call.id)
    batch = call.batch()
    call.provider.close(batch, call.now, retrieved=True)
    return reply(shown(call, batch, listed=True))


async def list_batches(call: Call) -> web.Response:
    for batch in call.provider.batches.values():
        call.provider.close(batch, call.now, retrieved=False)
    wanted = [batch for batch in call.provider.batches.values() if is_listed(call, batch)]
    query = call.request.query
    after = call.provider.batches.get(query.get("after", ""))
    if query.get("active_first") == "true":
        return reply(envelope_of(call, active_page(call, wanted, after)))
    limit = page_limit(query, call.dialect.page_limits)
    return reply(envelope_of(call, page(wanted, after, limit, descending=True)))


def active_page(call: Call, wanted: list[Batch], after: Batch | None) -> tuple[list[Batch], bool]:
    """One page with running batches before ended ones, newest first within each."""
    limit = page_limit(call.request.query, call.dialect.page_limits)
    newest, _ = page(wanted, None, len(wanted), descending=True)
    newest.sort(key=lambda batch: call.provider.is_terminal(batch, call.now))
    start = newest.index(after) + 1 if after in newest else 0
    return newest[start : start + limit], len(newest) > start + limit


def envelope_of(call: Call, one_page: tuple[list[Batch], bool]) -> dict[str, Any]:
    found, has_more = one_page
    rows = [shown(call, batch, listed=True) for batch in found]
    if call.request.query.get("include") == "analytics" and call.dialect.extensions:
        rows = [row | {"analytics": totals(call, batch)} for row, batch in zip(rows, found, strict=True)]
    return envelope(rows, has_more=has_more)


def is_listed(call: Call, batch: Batch) -> bool:
    if batch.deleted_at <= call.now or batch.visible_at > call.now:
        return False
    return not call.dialect.extensions or all(test(call, batch) for test in LIST_TESTS)


def has_searched_text(call: Call, batch: Batch) -> bool:
    search = None if "bad-list" in call.fired else call.searched()
    text = metadata_text(batch.metadata | batch.hidden_metadata)
    filename = batch.source.filename if batch.input_file_id else ""
    return matches(search, text, filename, batch.id)


def has_wanted_status(call: Call, batch: Batch) -> bool:
    wanted = call.request.query.get("status")
    if wanted is None:
        return True
    if wanted not in FILTERS:
        raise Refusal(400, f"Invalid status filter '{wanted}'", param="status")
    ended = min(batch.idle_at, batch.cancel_at)
    overdue = batch.expires_at < min(call.now, ended)
    return overdue if wanted == "expired" else call.dialect.status(batch, call.now) in FILTERS[wanted]


def has_wanted_window(call: Call, batch: Batch) -> bool:
    windows = call.request.query.get("completion_window")
    return windows is None or batch.window in windows.split(",")


def has_wanted_age(call: Call, batch: Batch) -> bool:
    after, before = moment(call, "created_after"), moment(call, "created_before")
    return (after is None or batch.created_at >= after) and (before is None or batch.created_at <= before)


def moment(call: Call, key: str) -> float | None:
    """An ISO 8601 query value as Unix seconds; text without a zone is UTC."""
    text = call.request.query.get(key)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(400, f"Failed to deserialize query string: {key}: {error}", param=key) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


LIST_TESTS: tuple[Callable[[Call, Batch], bool], ...] = (
    has_wanted_status,
    has_wanted_age,
    has_wanted_window,
    has_searched_text,
)


async def cancel(call: Call) -> web.Response:
    """No terminal-state guard: an ended batch is relabelled `cancelled` (doubleword-api 2.3)."""
    batch = call.batch()
    call.dialect.check_cancel(batch, call.now)
    call.provider.simulation.cancel(batch, call.now)
    return reply(shown(call, batch, listed=True))


async def retry(call: Call) -> web.Response:
    batch = call.batch()
    again = [line for line in batch.lines if line.cancelled_at is not None or is_failed(line, call.now)]
    if not again:
        raise Refusal(400, "Nothing to retry: batch has no failed or cancelled requests")
    call.provider.simulation.retry(batch, again, call.now)
    return reply(shown(call, batch, listed=True))


async def retry_requests(call: Call) -> web.Response:
    """Membership of the ids in this batch is not checked; nothing retried is still 200 (doubleword-api 2.7)."""
    wanted = (await decoded(call, RetryBody)).request_ids
    call.batch()
    ids = {str(UUID(text)) for text in wanted if call.dialect.valid_id(text)}
    if not ids:
        raise Refusal(400, "No valid request IDs provided")
    for batch in call.provider.batches.values():
        again = [line for line in batch.lines if request_id(batch, line) in ids and is_failed(line, call.now)]
        if again:
            call.provider.simulation.retry(batch, again, call.now)
    return reply(shown(call, call.batch(), listed=True))


class RetryBody(msgspec.Struct):
    request_ids: list[str]


def is_failed(line: Line, now: float) -> bool:
    return line.seen_at <= now and line.effect.fate is Fate.FAILED


async def delete_batch(call: Call) -> web.Response:
    call.provider.delete_batch(call.batch(), call.now)
    return web.Response(status=204)


async def analytics(call: Call) -> web.Response:
    return reply(totals(call, call.batch()))


def totals(call: Call, batch: Batch) -> dict[str, Any]:
    """Tokens and cost of what has succeeded so far (doubleword-api 2.9); amounts are decimal strings."""
    tokens = [line_tokens(call, line) for line in batch.done if line.seen_at <= call.now]
    prompt, completion = map(sum, zip(*(tokens or [NO_TOKENS]), strict=True))
    price = cost(prompt, completion)
    return {
        "total_requests": batch.total,
        "total_prompt_tokens": prompt,
        "total_completion_tokens": completion,
        "total_tokens": prompt + completion,
        "total_cost": price,
        "total_list_cost": price,
    }


def line_tokens(call: Call, line: Line) -> tuple[int, int]:
    usage = response_body(line.template.body, line.template.url, line.effect, call.options.answer_bytes)["usage"]
    prompt = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    return prompt, usage.get("completion_tokens", usage.get("output_tokens", 0))
