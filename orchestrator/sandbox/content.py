"""GET /v1/files/{id}/content and /v1/batches/{id}/results: a stream that can be resumed (doubleword-api 1.4, 2.5)."""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import hdrs, web

from orchestrator.sandbox.answers import in_64_bits, response_body
from orchestrator.sandbox.behaviours import Fate
from orchestrator.sandbox.call import Call
from orchestrator.sandbox.doubleword import reason
from orchestrator.sandbox.errors import Refusal, file_not_found, internal_error
from orchestrator.sandbox.images import show_tokens
from orchestrator.sandbox.listing import matches, whole_number
from orchestrator.sandbox.records import Batch, Line, Template
from orchestrator.sandbox.replies import reply_line, request_id
from orchestrator.sandbox.wire import Stream, framed, hung_up

PIECE_BYTES = 1 << 18
MAX_LIMIT = 101
STATES = ("pending", "in_progress", "completed", "failed")


@dataclass(frozen=True, slots=True)
class Span:
    """Which lines a request wants; limit None is everything from skip on."""

    skip: int = 0
    limit: int | None = None
    search: str | None = None

    @classmethod
    def of(cls, call: Call) -> "Span":
        """The query's `skip`, `limit` (clamped to 1..101) and `search`; every other key, `offset` too, is ignored."""
        if not call.dialect.extensions:
            return cls()
        query = call.request.query
        skip, limit = whole_number(query, "skip") or 0, whole_number(query, "limit")
        if skip < 0:
            raise Refusal(400, "Failed to deserialize query string: skip: invalid digit found in string", param="skip")
        return cls(
            skip=0 if "skip-ignored" in call.fired else skip,
            limit=None if limit is None else min(max(limit, 1), MAX_LIMIT),
            search=query.get("search") or None,
        )

    def cut(self, lines: Sequence[Line]) -> tuple[Sequence[Line], bool]:
        """The wanted lines, and whether a page of them has successors."""
        found = [line for line in lines if matches(self.search, line.template.custom_id)] if self.search else lines
        end = len(found) if self.limit is None else self.skip + self.limit
        return found[self.skip : end], end < len(found)

    def after(self, shown: int) -> int:
        return self.skip + shown


async def content(call: Call) -> web.StreamResponse:
    if "file-gone" in call.fired:
        raise file_not_found(call.id)
    file, span = call.file(), Span.of(call)
    if file.batch is None:
        shown, more = span.cut([Line(index, template) for index, template in enumerate(file.templates)])
        headers = promises(call, span, len(shown), incomplete=more, promised=None)
        return await stream(call, headers, (input_line(call, line.template) for line in shown))
    batch, readable = file.batch, reply_lines(call, file.batch, file.fate)
    shown, more = span.cut(readable)
    deleted = batch.deleted_at <= call.now
    incomplete = more or not (deleted or batch.is_idle(call.now))
    promised = None if deleted or span.search else max(span.skip, len(readable))
    headers = promises(call, span, len(shown), incomplete=incomplete, promised=promised)
    return await stream(call, headers, (reply_line(batch, line, call.options, call.dialect) for line in shown))


def reply_lines(call: Call, batch: Batch, fate: Fate) -> list[Line]:
    """What stands in a reply file now; those of a deleted batch are purged after a while (doubleword-api 2.8)."""
    purged = batch.deleted_at + call.options.purge_seconds <= call.now
    return [] if purged else batch.replies(fate, call.now)


def promises(call: Call, span: Span, shown: int, *, incomplete: bool, promised: int | None) -> dict[str, str]:
    """The headers of doubleword-api 1.4, which a dialect without extensions lacks.

    promised is the last line without a limit, None for no promise; a page always tells its own last line.
    """
    if not call.dialect.extensions:
        return {}
    last = promised if span.limit is None else span.after(shown)
    headers = {"X-Incomplete": str(incomplete).lower()}
    return headers if last is None else headers | {"X-Last-Line": str(last)}


def input_line(call: Call, template: Template) -> bytes:
    """A line of an input file as the server gives it back: its bytes are not those uploaded (doubleword-api 1.5)."""
    line = {
        "custom_id": template.custom_id,
        "method": template.method,
        "url": template.url,
        "body": stored_body(call, template),
    }
    return msgspec.json.encode(line) + b"\n"


def stored_body(call: Call, template: Template) -> object:
    body = msgspec.json.decode(template.body)
    if call.dialect.extensions:
        show_tokens(body)
    return in_64_bits(body)


async def stream(call: Call, headers: dict[str, str], lines: Iterable[bytes]) -> web.StreamResponse:
    """Send the lines chunked, without a length; a HEAD gets the headers alone."""
    request, kind = call.request, "application/x-ndjson"
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers=headers, content_type=kind)
    if "gzip" in call.fired and "gzip" in request.headers.get("Accept-Encoding", ""):
        body = gzip.compress(b"".join(framed(lines, call.fired)))
        call.provider.books.bytes_served += len(body)
        return web.Response(body=body, headers={**headers, "Content-Encoding": "gzip"}, content_type=kind)
    response = web.StreamResponse(headers={**headers, "Content-Type": kind})
    response.enable_chunked_encoding()
    out = Stream(request, response, call.fired)
    try:
        await out.send(joined(lines))
    finally:
        call.provider.books.bytes_served += out.sent
    return response


def joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines in pieces of a quarter megabyte or one line, whichever is more."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


async def results(call: Call) -> web.StreamResponse:
    """All lines in input order with their state; fails once the input file is gone (doubleword-api 2.5)."""
    batch, span = call.batch(), Span.of(call)
    wanted = call.request.query.get("status")
    if wanted is not None and wanted not in STATES:
        raise Refusal(400, f"Failed to deserialize query string: status: unknown variant `{wanted}`")
    if batch.source.deleted:
        if span.limit is not None:
            raise internal_error()
        await web.StreamResponse().prepare(call.request)
        raise hung_up(call.request)
    rows = [line for line in batch.lines if wanted in {None, line_state(line, call.now)}]
    shown, _ = span.cut(rows)
    incomplete = not batch.is_idle(call.now)
    headers = promises(call, span, len(shown), incomplete=incomplete, promised=span.after(batch.total))
    return await stream(call, headers, (result_line(call, batch, line) for line in shown))


def line_state(line: Line, now: float) -> str:
    """Cancelled and unfinished lines both show as pending (doubleword-api 2.5)."""
    if line.seen_at > now:
        return "in_progress" if line.cancelled_at is None else "pending"
    return {Fate.DONE: "completed", Fate.HIDDEN: "completed", Fate.FAILED: "failed"}.get(line.effect.fate, "pending")


def result_line(call: Call, batch: Batch, line: Line) -> bytes:
    state, template = line_state(line, call.now), line.template
    answer = b"null"
    if state == "completed":
        body = response_body(template.body, template.url, line.effect, call.options.answer_bytes)
        answer = msgspec.json.encode(body, order="sorted")
    shown = {
        "id": request_id(batch, line),
        "custom_id": template.custom_id,
        "model": template.model,
        "input_body": stored_body(call, template),
        "response_body": msgspec.Raw(answer),
        "error": msgspec.json.encode(reason(line.effect)).decode() if state == "failed" else None,
        "status": state,
    }
    return msgspec.json.encode(shown) + b"\n"
