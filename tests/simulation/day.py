"""One day of a daemon, told by its own log: `python tests/simulation/day.py` lives through it in some minutes
and tells of the first batch and of those in trouble, with `--all` of each.

The daemon is the real one and so is the sandbox that it calls; time, network and disk are the simulator's. Fifty-odd
batches are asked for over the day. At night all is well; then come rate limits, rows that cannot be sent, an outage of
the network, a batch that the provider ends half done, a full disk, an account without credit, and a new version.
"""

import asyncio
import gc
import logging
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
MINUTE, HOUR = 60.0, 3600.0


def plan():
    from plan import Plan  # noqa: PLC0415 - after the environment is set

    return Plan(
        dialect="doubleword",
        horizon=24 * HOUR,
        prompts=0,
        sandbox={
            "validate_seconds": 20.0,
            "latency_seconds": 50 * MINUTE,
            "line_faults": {"fail-once": 0.01, "content-filter": 0.004},
        },
        tables={
            "defaults": {"model": "m"},
            "packing": {"max_lines": 500},
            "polling": {"min_seconds": 240.0, "max_seconds": 300.0},
            "log": {"heartbeat_seconds": HOUR},
        },
    )


class Day:
    """What happens, and when."""

    def __init__(self, world, keeper):
        self.world = world
        self.keeper = keeper
        self.asked = 0

    async def live(self):
        async with asyncio.TaskGroup() as group:
            for hour in range(24):
                group.create_task(self._at(hour + 0.1, self._ask, 60))
                group.create_task(self._at(hour + 0.6, self._ask, 20))
            group.create_task(self._at(1.0, self._ask, 1400))
            group.create_task(self._at(3.0, self._fault, "status-429:rate=0.9", 12 * MINUTE))
            group.create_task(self._at(5.2, self._ask_wrongly, 6))
            group.create_task(self._at(7.5, self._fault, "reset-before:rate=0.9", 25 * MINUTE))
            group.create_task(self._at(9.05, self._fault, "cancelled-by-provider:times=1:share=0.5", 30 * MINUTE))
            group.create_task(self._at(11.3, self._full, 20 * MINUTE))
            group.create_task(self._at(14.0, self._fault, "no-credit:times=60", 70 * MINUTE))
            group.create_task(self._at(17.0, self._restart))

    async def _at(self, hour, work, *details):
        await asyncio.sleep(hour * HOUR - self.world.loop.time())
        await work(*details)

    async def _ask(self, count):
        self.world.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO prompts (custom_id, prompt) SELECT 'q-' || (i + ?), 'Why?' FROM n",
            count, self.asked,
        )  # fmt: skip
        self.asked += count

    async def _ask_wrongly(self, count):
        for number in range(count):
            self.world.sql("INSERT INTO prompts (custom_id, body) VALUES (?, '{')", f"wrong-{number}")

    async def _fault(self, text, seconds):
        fault = self.world.provider.faults.add(text)
        await asyncio.sleep(seconds)
        self.world.provider.faults.remove(fault)

    async def _full(self, seconds):
        self.world.disk.full = True
        await asyncio.sleep(seconds)
        self.world.disk.full = False

    async def _restart(self):
        self.keeper.signal()


def telling_keeper(world):
    """Its daemons tell of their start and their end, which `daemon.run` does: the simulator works in its place."""
    from keeper import Keeper  # noqa: PLC0415

    from orchestrator import daemon as daemons  # noqa: PLC0415
    from orchestrator.config import Loaded  # noqa: PLC0415

    prepare = daemons.prepare
    given = {f"{table}.{key}": "file" for table, values in plan().tables.items() for key in values}

    async def prepared(context):
        released = await prepare(context)
        daemons._announce(context, Loaded(config=world.config, origins=given), released)
        return released

    class TellingKeeper(Keeper):
        async def _live(self, name):
            began_at = world.loop.time()
            await super()._live(name)
            daemons.record("daemon.stopped", seconds=round(world.loop.time() - began_at, 1))

    daemons.prepare = prepared
    return TellingKeeper(world, 1)


async def lived():
    from world import created  # noqa: PLC0415

    async with created(1, plan()) as world:
        keeper = telling_keeper(world)
        kept = asyncio.create_task(keeper.keep())
        await Day(world, keeper).live()
        await asyncio.sleep(24 * HOUR - world.loop.time())
        world.over = True
        keeper.signal()
        await kept
        return world.deeds.log


def story(log):
    """The first batch's whole life, and what is not mere progress of those in trouble with the provider."""
    told = {1} | {event["batch"] for _, event in log if "batch" in event and event["level"] != "info"} - _gave_up(log)
    told |= {
        event["batch"] for _, event in log if event["event"] == "settle.settled" and event["resent"] > event["done"] / 4
    }
    return [(at, event) for at, event in log if event.get("batch") in {None, 1} or _is_news(event, told)]


def _gave_up(log):
    """Batches with prompts that failed for good, and no other trouble."""
    worries = [(event["batch"], event["event"]) for _, event in log if "batch" in event and event["level"] != "info"]
    return {batch for batch, what in worries if what == "settle.gave_up"} - {
        batch for batch, what in worries if what != "settle.gave_up"
    }


def _is_news(event, told):
    whole = event["batch"] in told and event["event"] not in {"collect.received", "poll.changed"}
    return whole or event["event"] == "settle.gave_up"


def line(at, event):
    hidden = {"event", "level", "exc_info", "todo", "key", "duplicates", "strays", "why", "endpoint", "window"}
    told = " ".join(f"{key}={value}" for key, value in event.items() if key not in hidden)
    told = re.sub(r"/\S+/queue\.db", "queue.db", told)
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} {event['level']:<7} {event['event']} {told}"


def main():
    from virtual_loop import VirtualLoop  # noqa: PLC0415

    os.environ["SIMULATED_KEY"] = "sk-simulated-secret"
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    log = loop.run_until_complete(lived())
    for at, event in log if "--all" in sys.argv else story(log):
        print(line(at, event))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.path.insert(0, str(HERE))
    logging.disable()
    gc.disable()
    main()
