"""What a batch at the provider asks of this queue: its input file tells, and where that does not, its answers."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from orchestrator.api.failures import FORBIDDEN, NO_VERDICTS, TOO_MANY
from orchestrator.core.lines import InvalidPrompt, Overlong, Reply, Splitter, encode_body, parse_reply
from orchestrator.core.restoring import Request, parse_request, same_question
from orchestrator.errors import AccountBlocked, NotFound, ProviderError
from orchestrator.store.restoring import Candidate, find_candidates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from orchestrator.api.client import Client
    from orchestrator.context import Context
    from orchestrator.core.remote import RemoteBatch

    Lines = list[bytes | Overlong]


@dataclass(slots=True)
class Sent:
    """Prompts of ours that a batch asks, each with its lane, and the custom_ids of all its lines that were read.

    `gap` is why there may be more of them, None when there are not; `gone`: asking for them again brings nothing.
    """

    prompts: dict[int, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    strays: int = 0
    gap: str | None = None
    gone: bool = False


async def read_input(context: Context, client: Client, remote: RemoteBatch) -> Sent:
    """Read its input file. Raises ProviderError when it cannot be had now, for a reason that is not the file's own."""
    sent = Sent()
    if remote.input_file_id is None:
        sent.gap, sent.gone = "it names no input file", True
        return sent
    trouble = await _read(context, client, remote.input_file_id, partial(_take_requests, context, client, sent))
    if trouble is not None:
        sent.gap, sent.gone = str(trouble), isinstance(trouble, NotFound)
        return sent
    expected = max(remote.total or 1, len(sent.names) + sent.strays)
    if len(sent.names) < expected:
        sent.gap = f"its input file came with {len(sent.names)} of {expected} lines"
    return sent


async def read_answers(context: Context, client: Client, remote: RemoteBatch, sent: Sent) -> None:
    """Add the prompts that its output and error file name. Raises ProviderError as `read_input` does.

    They tell no question, only a custom_id: one that was given to another question since is taken for the same.
    """
    for file_id in filter(None, (remote.output_file_id, remote.error_file_id)):
        await _read(context, client, file_id, partial(_take_replies, context, client, sent))


async def _read(
    context: Context, client: Client, file_id: str, take: Callable[[Lines], Awaitable[None]]
) -> ProviderError | None:
    """Hand over all lines of a file; what is wrong with the file itself, if anything is."""
    splitter, opened = Splitter(context.config.collection.max_line_bytes), False
    try:
        async with client.content(file_id, 0) as content:
            opened = True
            async for data in content.chunks():
                await take(list(splitter.feed(data)))
    except ProviderError as error:
        if opened or _is_verdict(error):
            return error
        raise
    await take(list(filter(None, [splitter.tail()])))
    return None


def _is_verdict(error: ProviderError) -> bool:
    """Whether the provider was there, took the key, and yet did not give this file."""
    status = error.status or 0
    if isinstance(error, AccountBlocked):
        return status == FORBIDDEN
    return 200 <= status < 300 or (400 <= status < 500 and status not in (TOO_MANY, *NO_VERDICTS))  # noqa: PLR2004


async def _take_requests(context: Context, client: Client, sent: Sent, lines: Lines) -> None:
    parsed = [parse_request(line) if isinstance(line, bytes) else None for line in lines]
    requests = {request.custom_id: request for request in parsed if request}
    sent.strays += parsed.count(None)
    sent.names |= requests.keys()
    for custom_id, there in (await _candidates(context, client, requests)).items():
        if _same(requests[custom_id], there):
            sent.prompts[there.prompt.id] = there.lane_id


async def _take_replies(context: Context, client: Client, sent: Sent, lines: Lines) -> None:
    new = {reply.custom_id for reply in map(parse_reply, lines) if isinstance(reply, Reply)} - sent.names
    sent.names |= new
    for there in (await _candidates(context, client, new)).values():
        sent.prompts[there.prompt.id] = there.lane_id


async def _candidates(context: Context, client: Client, custom_ids: Iterable[str]) -> dict[str, Candidate]:
    look = partial(find_candidates, provider=client.provider.name, custom_ids=list(custom_ids))
    return await context.database.read(look)


def _same(request: Request, there: Candidate) -> bool:
    """A custom_id may have been given to another question since."""
    try:
        body, _ = encode_body(there.prompt, there.endpoint, None)
    except InvalidPrompt:
        return False
    return same_question(request, body, _hash_of)


def _hash_of(image: str) -> str | None:
    """By the bytes in a `data:` URI, which is what a provider's token for it names; None where there are none."""
    try:
        return sha256(b64decode(image.partition(",")[2])).hexdigest()
    except ValueError:
        return None
