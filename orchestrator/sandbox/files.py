"""The file routes of doubleword-api 1, apart from content."""

from decimal import Decimal

from aiohttp import web

from orchestrator.sandbox.call import Call, reply
from orchestrator.sandbox.errors import Refusal
from orchestrator.sandbox.listing import envelope, matches, page, page_limit
from orchestrator.sandbox.prices import estimate
from orchestrator.sandbox.records import StoredFile
from orchestrator.sandbox.uploads import Upload


async def upload(call: Call) -> web.Response:
    intake = await Upload(call.options, call.fired, strict=call.dialect.strict_upload).receive(call.request)
    stored = call.provider.add_file(intake, call.fired, call.provider.now())
    return reply(shown(call, stored, listed=False), call.dialect.created)


def shown(call: Call, file: StoredFile, *, listed: bool) -> dict[str, object]:
    """The file as the client sees it; listed is False in the reply to an upload alone, which lacks the owner."""
    body = call.dialect.file_object(file, call.now)
    if listed:
        body |= call.dialect.file_context
    return body | {"status": "uploaded"} if "file-uploaded" in call.fired else body


async def list_files(call: Call) -> web.Response:
    query = call.request.query
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise Refusal(400, "Order must be 'asc' or 'desc'", param="order")
    search = None if "bad-list" in call.fired else call.searched()
    visible = [
        file
        for file in call.provider.files.values()
        if call.provider.shows(file, call.now)
        and query.get("purpose") in {None, file.purpose}
        and matches(search, file.filename)
    ]
    after = call.provider.files.get(query.get("after", ""))
    limit = page_limit(query, call.dialect.file_page_limits)
    found, has_more = page(visible, after, limit, descending=order == "desc")
    return reply(envelope([shown(call, file, listed=True) for file in found], has_more=has_more))


async def retrieve_file(call: Call) -> web.Response:
    return reply(shown(call, call.file(), listed=True))


async def delete_file(call: Call) -> web.Response:
    file = call.file()
    call.provider.delete_file(file, call.now)
    return reply({"id": file.id, "object": "file", "deleted": True})


async def cost_estimate(call: Call) -> web.Response:
    """What the file would cost (doubleword-api 1.8); amounts are decimal strings."""
    file = call.file()
    models = estimate(file.templates)
    total = sum((Decimal(entry.estimated_cost) for entry in models), Decimal(0))
    body = {
        "file_id": file.id,
        "total_requests": len(file.templates),
        "total_estimated_input_tokens": sum(entry.estimated_input_tokens for entry in models),
        "total_estimated_output_tokens": sum(entry.estimated_output_tokens for entry in models),
        "total_estimated_cost": str(total),
        "models": models,
    }
    return reply(body)
