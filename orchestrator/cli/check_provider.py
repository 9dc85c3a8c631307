"""What `check` asks a provider: address, key, clock, models; with --live, one tiny batch."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from orchestrator.api.client import Client
from orchestrator.cli.check import Finding, State
from orchestrator.context import new_key
from orchestrator.core.lines import CHAT, Reply, Splitter, encode_body, encode_line, parse_reply
from orchestrator.core.model import Prompt
from orchestrator.errors import AccountBlocked, InputError, NotFound, ProviderError, ReplyLost, Throttled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from orchestrator.api.client import Models
    from orchestrator.config import Config
    from orchestrator.core.lines import Overlong, Unreadable
    from orchestrator.core.remote import RemoteBatch

T = TypeVar("T")
ASK_SECONDS = 30.0
CLOCK_WARNING_SECONDS, CLOCK_FAILED_SECONDS = 60.0, 1800.0
LOOK_SECONDS = 1.0
TRIES = 5
CUSTOM_ID = "check"
ANSWER_BYTES = 1 << 20


async def asked(name: str, config: Config) -> AsyncIterator[Finding]:
    client = Client(config.providers[name])
    try:
        models = await client.models(ASK_SECONDS)
    except AccountBlocked as error:
        yield _key_refused(name, error)
        return
    except NotFound as error:
        yield Finding(f"{name} models", State.WARNING, f"{error}: they cannot be listed there; base_url may be wrong")
        return
    except ProviderError as error:
        yield Finding(f"{name} address", State.FAILED, f"{error}: check the network and providers.{name}.base_url")
        return
    finally:
        await client.close()
    yield Finding(f"{name} address", State.OK, f"{config.providers[name].base_url} answers")
    yield Finding(f"{name} key", State.OK, "accepted")
    yield _clock(name, models, time.time())
    yield _models(name, models, config)


def _key_refused(name: str, error: AccountBlocked) -> Finding:
    if error.status is None:  # no key was found, and the message says where to put one
        return Finding(f"{name} key", State.FAILED, str(error))
    return Finding(f"{name} key", State.FAILED, f"{error}: check the key and the account at the provider")


def _clock(name: str, models: Models, now: float) -> Finding:
    check = f"{name} clock"
    if models.server_time is None:
        return Finding(check, State.WARNING, "the provider tells no time: compare this machine's clock yourself")
    off = abs(now - models.server_time)
    if off < CLOCK_WARNING_SECONDS:
        return Finding(check, State.OK, "agrees with ours")
    state = State.FAILED if off >= CLOCK_FAILED_SECONDS else State.WARNING
    return Finding(check, state, f"{off:.0f} s away from ours: set this machine's clock (NTP)")


def _models(name: str, models: Models, config: Config) -> Finding:
    check, listed = f"{name} models", f"{len(models.names)} available"
    wanted = config.defaults.model if name == config.defaults.provider else None
    if wanted is not None and wanted not in models.names:
        return Finding(check, State.FAILED, f"{listed}, but not {wanted!r}: correct defaults.model")
    if wanted is not None:
        return Finding(check, State.OK, f"{listed}, {wanted!r} among them")
    if name == config.defaults.provider:
        return Finding(check, State.OK, f"{listed}; each prompt must name one, since defaults.model is not set")
    return Finding(check, State.OK, listed)


# ---------------------------------------------------------------- live


async def checked_live(config: Config) -> Finding:
    """Send one question as a batch of its own, past the queue, and wait for the answer."""
    name, model = config.defaults.provider, config.defaults.model
    check = f"{name} live"
    if model is None:
        return Finding(check, State.FAILED, "no model to ask: set defaults.model")
    client, started = Client(config.providers[name]), time.monotonic()
    try:
        batch = await _answered(client, model, config.defaults.completion_window)
    except (ProviderError, InputError) as error:
        return Finding(check, State.FAILED, f"{error}: see the lines above, then try again")
    finally:
        await client.close()
    return Finding(check, State.OK, f"batch {batch.id} was answered in {time.monotonic() - started:.0f} s")


async def _answered(client: Client, model: str, window: str) -> RemoteBatch:
    """The batch, over and answered. Whatever happens, it is stopped and its files are deleted."""
    key = new_key()
    body, _ = encode_body(Prompt(0, CUSTOM_ID, b"Say only: ok"), CHAT, model)
    line = encode_line(CUSTOM_ID, CHAT, body)
    async with contextlib.AsyncExitStack() as undo:
        with _progress() as say:
            file = await client.upload(f"{key}.jsonl", len(line), _once(line))
            undo.push_async_callback(_quietly, client.delete_file, file.id)
            batch = await _patiently(client.create_batch, file.id, CHAT, window, key)
            undo.push_async_callback(_stop, client, batch.id)
            while not batch.state.over:
                say(f"batch {batch.id} is {batch.status}")
                await asyncio.sleep(LOOK_SECONDS)
                batch = await _patiently(client.get_batch, batch.id)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            undo.push_async_callback(_quietly, client.delete_file, file_id)
        await _require_answer(client, batch)
    return batch


async def _patiently(call: Callable[..., Awaitable[T]], *words: str) -> T:
    """The call's result; files and batches just made may not be visible at once, and replies get lost.

    Only calls that find out are repeated after a lost reply: a creation may have been heard.
    """
    again = (NotFound, Throttled) if len(words) > 1 else (NotFound, Throttled, ReplyLost)
    for _ in range(TRIES - 1):
        try:
            return await call(*words)
        except again:
            await asyncio.sleep(LOOK_SECONDS)
    return await call(*words)


async def _stop(client: Client, batch_id: str) -> None:
    """Cancel the batch if it still runs: nobody waits for it any more."""
    with contextlib.suppress(ProviderError):
        if not (await client.get_batch(batch_id)).state.over:
            await client.cancel_batch(batch_id)


async def _quietly(call: Callable[[str], Awaitable[None]], named: str) -> None:
    with contextlib.suppress(ProviderError):  # the file expires by itself
        await call(named)


async def _require_answer(client: Client, batch: RemoteBatch) -> None:
    """Raises InputError with the reason when the line was not answered."""
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        for line in await _patiently(partial(_lines, client), file_id):
            if not isinstance(line, Reply):
                raise InputError(f"batch {batch.id}: its answer is unreadable: {line.reason}")
            if line.status_code == 200 and line.body is not None:  # noqa: PLR2004
                return
            told = (line.error or line.body or b"").decode(errors="replace")[:300]
            raise InputError(f"batch {batch.id}: the question was refused ({line.status_code}): {told}")
    said = "; ".join(error.message or error.code or "" for error in batch.errors)
    raise InputError(
        f"batch {batch.id} ended as {batch.status} without an answer: {said or 'the provider says no more'}"
    )


async def _lines(client: Client, file_id: str) -> list[Reply | Unreadable]:
    splitter = Splitter(ANSWER_BYTES)
    found: list[bytes | Overlong] = []
    async with client.content(file_id, 0) as content:
        async for chunk in content.chunks():
            found += splitter.feed(chunk)
    return [parse_reply(line) for line in (*found, splitter.tail()) if line]


async def _once(line: bytes) -> AsyncIterator[bytes]:
    yield line


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal; silence in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status("sending one tiny batch") as status:
        yield status.update
