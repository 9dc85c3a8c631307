"""The sandbox's own routes, for tests and rehearsals in another process: health, ledger, faults."""

from collections import Counter
from typing import Any

import msgspec
from aiohttp import web

from orchestrator.sandbox.behaviours import Fate
from orchestrator.sandbox.call import reply
from orchestrator.sandbox.faults import Fault
from orchestrator.sandbox.ledger import BatchEntry, FileEntry, Ledger
from orchestrator.sandbox.provider import Provider
from orchestrator.sandbox.records import Batch, Line, StoredFile


def snapshot(provider: Provider) -> Ledger:
    """The ledger at this moment."""
    now = provider.now()
    executions: Counter[str] = Counter()
    successes: Counter[str] = Counter()
    for batch in provider.batches.values():
        count_runs(batch.lines, now, executions, successes)
    books = provider.books
    return Ledger(
        executions=dict(executions),
        successes=dict(successes),
        batches=[batch_entry(provider, batch, now) for batch in provider.batches.values()],
        files=[file_entry(file) for file in provider.files.values() if file.batch is None],
        creates=books.creates,
        uploads=books.uploads,
        bytes_served=books.bytes_served,
        requests=dict(books.requests),
        statuses=dict(books.statuses),
    )


def count_runs(lines: list[Line], now: float, executions: Counter[str], successes: Counter[str]) -> None:
    for line in lines:
        ran = line.ran(now)
        if ran or line.earlier:
            executions[line.template.custom_id] += line.earlier + ran
        if ran and line.effect.fate in {Fate.DONE, Fate.HIDDEN}:
            successes[line.template.custom_id] += 1


def batch_entry(provider: Provider, batch: Batch, now: float) -> BatchEntry:
    return BatchEntry(
        id=batch.id,
        status=provider.dialect.status(batch, now),
        endpoint=batch.endpoint,
        completion_window=batch.window,
        metadata=batch.metadata,
        input_file_id=batch.source.id,
        filename=batch.source.filename,
        created_at=batch.created_at,
        lines=batch.total,
        executed=sum(line.earlier + line.ran(now) for line in batch.lines),
        completed=batch.completed_count(now),
        failed=batch.failed_count(now),
        deleted=batch.deleted_at <= now,
    )


def file_entry(file: StoredFile) -> FileEntry:
    return FileEntry(file.id, file.filename, file.nbytes, len(file.templates), file.created_at, file.deleted)


def fault_entry(fault: Fault) -> dict[str, Any]:
    return {
        "name": fault.name,
        "routes": sorted(fault.routes),
        "times": fault.times,
        "rate": fault.rate,
        "after": fault.after,
        "matched": fault.matched,
        "fired": fault.fired,
        **fault.params,
    }


def add_routes(app: web.Application, provider: Provider) -> None:
    """GET /sandbox/health and /sandbox/ledger; GET, POST and DELETE /sandbox/faults. No key is asked for."""

    async def health(_: web.Request) -> web.Response:
        return reply({"status": "ok", "dialect": provider.dialect.name})

    async def ledger(_: web.Request) -> web.Response:
        return reply(msgspec.to_builtins(snapshot(provider)))

    async def list_faults(_: web.Request) -> web.Response:
        return reply({"faults": [fault_entry(fault) for fault in provider.faults.active]})

    async def add_fault(request: web.Request) -> web.Response:
        try:
            settings = msgspec.json.decode(await request.read(), type=dict[str, str | int | float | None])
            fault = provider.faults.add(str(settings.pop("name")), **settings)
        except KeyError:
            return web.Response(status=400, text="a fault needs a name")
        except (ValueError, UnicodeError) as error:
            return web.Response(status=400, text=str(error))
        return reply(fault_entry(fault), 201)

    async def clear_faults(_: web.Request) -> web.Response:
        provider.faults.clear()
        return web.Response(status=204)

    app.router.add_get("/sandbox/health", health)
    app.router.add_get("/sandbox/ledger", ledger)
    app.router.add_get("/sandbox/faults", list_faults)
    app.router.add_post("/sandbox/faults", add_fault)
    app.router.add_delete("/sandbox/faults", clear_faults)
