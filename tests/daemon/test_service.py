"""What the service manager hears, on a real datagram socket."""

import asyncio
import contextlib
import os
import socket
from types import SimpleNamespace

import pytest
from daemon_process import until

from orchestrator import vitals
from orchestrator.context import Tick
from orchestrator.core.model import PromptStatus
from orchestrator.measures import is_listened, measure
from orchestrator.service import report, watchdog_seconds
from orchestrator.vitals import Vitals

WATCHED = {"WATCHDOG_USEC": "20000"}


class Manager:
    """The manager's end of the socket."""

    def __init__(self, address):
        self.address = address
        self.heard = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(address.replace("@", "\0"))

    def listen(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard.append(self._socket.recv(4096).decode())
        return self.heard

    async def hears(self, line):
        await until(lambda: [told for told in self.listen() if told.startswith(line)], line)

    def close(self):
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request, quick_folder):
    address = str(quick_folder / "notify") if request.param == "file" else f"@orchestrator-test-{os.getpid()}"
    made = Manager(address)
    yield made
    made.close()


@contextlib.asynccontextmanager
async def reported(manager, made, **environ):
    task = asyncio.create_task(report(made, {"NOTIFY_SOCKET": manager.address, **environ}))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_it_hears_ready_then_signs_of_life_then_stopping(manager):
    async with reported(manager, Vitals(), **WATCHED):
        await manager.hears("WATCHDOG=1")
    assert manager.listen()[0] == "READY=1"
    assert manager.heard[-1] == "STOPPING=1"


async def test_signs_of_life_come_twice_as_often_as_asked(manager):
    loop = asyncio.get_running_loop()
    async with reported(manager, Vitals(), **WATCHED):
        began_at = loop.time()
        await until(lambda: manager.listen().count("WATCHDOG=1") >= 21)
        assert loop.time() - began_at >= 20 * 0.009


async def test_a_stuck_loop_ends_the_signs_of_life_and_only_those(manager, monkeypatch):
    monkeypatch.setattr(vitals, "TICK_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(vitals, "REST_PATIENCE_SECONDS", 60)
    made, hanging = Vitals(), asyncio.Event()

    async def hangs():
        await hanging.wait()
        return Tick()

    async with reported(manager, made, **WATCHED):
        await manager.hears("WATCHDOG=1")
        ticking = asyncio.create_task(made.watched("poll", hangs, 0)())
        await until(made.stuck)
        manager.listen().clear()
        await asyncio.sleep(0.1)
        assert manager.listen() == []
        hanging.set()
        await ticking
        await manager.hears("WATCHDOG=1")


async def test_each_heartbeat_says_where_the_work_stands(manager, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("orchestrator.service.time", SimpleNamespace(monotonic=lambda: now[0]))
    async with reported(manager, Vitals()):
        await manager.hears("READY=1")
        measure("store.recorded", statuses={PromptStatus.DONE: 1560, PromptStatus.FAILED: 7})
        now[0] += 30
        measure("daemon.heartbeat", queued=48201, batched=7, active_batches=12)
        now[0] += 60
        measure("daemon.heartbeat", queued=0, batched=0, active_batches=1)
    said = [line for line in manager.listen() if line.startswith("STATUS=")]
    assert said == ["STATUS=12 batches, 48,201 queued, 3,120 done/min", "STATUS=1 batch, 0 queued, 0 done/min"]


async def test_a_stop_is_told_when_it_begins(manager):
    async with reported(manager, Vitals()):
        await manager.hears("READY=1")
        measure("daemon.stopping", signal="SIGTERM", grace_seconds=30.0)
        assert manager.listen()[-1] == "STOPPING=1"


async def test_where_nobody_asks_nothing_is_told_and_nothing_heard():
    await report(Vitals(), {})
    assert not is_listened()


@pytest.mark.parametrize("address", ["/no/such/socket", "relative", "\0", "x" * 300])
async def test_a_manager_that_cannot_be_reached_is_no_reason_to_end(address):
    task = asyncio.create_task(report(Vitals(), {"NOTIFY_SOCKET": address, **WATCHED}))
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_fed_when_it_asks_this_very_process(environ, seconds):
    assert watchdog_seconds(environ) == seconds


async def test_a_daemon_under_a_manager_reports_its_life_from_ready_to_stopping(make_daemon, sandbox, manager):
    daemon = make_daemon(sandbox.url, log={"heartbeat_seconds": 0.1})
    daemon.environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    await daemon.start()
    await manager.hears("READY=1")
    assert daemon.events("daemon.started")
    daemon.queue.ask_many(3)
    await manager.hears("WATCHDOG=1")
    await manager.hears("STATUS=1 batch, 0 queued, ")
    await manager.hears("STATUS=0 batches, 0 queued, ")
    assert not [line for line in manager.heard if line == "STOPPING=1"]
    daemon.signal()
    await manager.hears("STOPPING=1")
    assert await daemon.ended() == 0
