"""Run seeds: `python tests/simulation/simulate.py --seeds 1-300`. A failing one tells its story and replays exactly."""

import argparse
import asyncio
import contextlib
import gc
import hashlib
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

from keeper import Keeper
from people import People
from plan import draw
from promises import broken
from pruned import DAY_SECONDS, bring_back
from story import story
from trouble import Trouble
from virtual_loop import VirtualLoop
from virtual_server import running
from world import QUIET_SECONDS, created

sys.path.append(str(Path(__file__).parents[1]))
from compiled import share

DRAIN_SECONDS, DRAIN_CPU_SECONDS = 30 * 86_400.0, 900.0
"""How long everything may take to end once peace has come: in simulated time, and in ours."""
LOOK_SECONDS = 120.0
SEEDS_PER_WORKER = 20
SHOWN_LINES = 200


async def live(seed, theme, server, *, short):
    """One seed from its first moment to the last check; the world as it is then, and the promises it broke."""
    theme, plan = draw(seed, theme, short=short)
    async with created(seed, plan, server) as world:
        people = People(world)
        keepers = [Keeper(world, number) for number in range(1, plan.daemons + 1)]
        kept = [asyncio.create_task(keeper.keep()) for keeper in keepers]
        async with asyncio.TaskGroup() as group:
            group.create_task(people.arrive())
            group.create_task(Trouble(world, people, keepers).brew())
        await asyncio.sleep(max(0.0, plan.horizon - world.loop.time()))
        world.make_peace()
        in_time = await _drain(world)
        if plan.tables["retention"]["finished_days"]:
            await asyncio.sleep(2 * DAY_SECONDS + QUIET_SECONDS)
        world.over = True
        for keeper in keepers:
            keeper.signal()
        await asyncio.gather(*kept)
        bring_back(world)
        found = list(broken(world)) if in_time else [("it ends", None, f"not within {DRAIN_CPU_SECONDS:.0f} s of CPU")]
        return report(world, theme, found)


async def _drain(world):
    deadline, patience = world.loop.time() + DRAIN_SECONDS, time.process_time() + DRAIN_CPU_SECONDS
    while not world.is_idle() and world.loop.time() < deadline and time.process_time() < patience:
        await asyncio.sleep(LOOK_SECONDS)
    return time.process_time() < patience


def report(world, theme, found):
    told = []
    for promise, custom_id, why in found[:3]:
        told += [f"BROKEN: {promise}: {custom_id}: {why}", *story(world, custom_id)[-SHOWN_LINES:], ""]
    counts = Counter(f"prompts {status}" for (status,) in world.sql("SELECT status FROM results"))
    trace = repr([(at, sorted(event.items(), key=str)) for at, event in world.deeds.log])
    trace = hashlib.sha256(trace.replace(world.disk.url.removeprefix("sqlite:///"), "").encode())
    return {
        "seed": world.seed,
        "theme": theme,
        "broken": [promise for promise, _, _ in found],
        "told": told,
        "seconds": world.loop.time(),
        "deeds": Counter(world.deeds.counts) + counts,
        "events": Counter(event["event"] for _, event in world.deeds.log),
        "trace": trace.hexdigest()[:16],
    }


def run_seed(seed, theme=None, server=None, *, short=False):
    """`server` is the folder of a PostgreSQL server, None for SQLite."""
    os.environ["SIMULATED_KEY"] = "sk-simulated-secret"
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    started = time.process_time()
    try:
        found = loop.run_until_complete(live(seed, theme, server, short=short))
    except BaseException as error:  # noqa: BLE001 - a world that fell apart is a finding
        found = _fell_apart(seed, loop.time(), error)
    found["cpu"] = time.process_time() - started
    return found


def _fell_apart(seed, seconds, error):
    return {
        "seed": seed,
        "theme": "?",
        "broken": ["the world fell apart"],
        "told": traceback.format_exception(error),
        "seconds": seconds,
        "deeds": Counter(),
        "events": Counter(),
        "trace": "",
    }


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", default="1-20", help="a seed or a range such as 1-300")
    options.add_argument("--theme", help="give every seed this kind of trouble")
    options.add_argument("--postgresql", action="store_true", help="keep the queues on a PostgreSQL server")
    options.add_argument("--short", action="store_true", help="less time and fewer prompts per seed")
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--minutes", type=float, default=0, help="stop after about so long; 0: run all seeds")
    options.add_argument("--first", action="store_true", help="stop at the first broken promise")
    options.add_argument("--each", action="store_true", help="one line per seed")
    chosen = options.parse_args()
    first, _, last = chosen.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    with running() if chosen.postgresql else contextlib.nullcontext() as server:
        failed = _run_all(seeds, chosen, server)
    sys.exit(failed)


def _run_all(seeds, chosen, server):
    total, failed, count, seconds, cpu = Counter(), [], 0, 0.0, 0.0
    events, started = Counter(), time.monotonic()
    with multiprocessing.get_context("fork").Pool(chosen.jobs, maxtasksperchild=SEEDS_PER_WORKER) as pool:
        for found in pool.imap_unordered(
            partial(run_seed, theme=chosen.theme, server=server, short=chosen.short), seeds
        ):
            count, seconds, cpu = count + 1, seconds + found["seconds"], cpu + found["cpu"]
            total += found["deeds"]
            events += found["events"]
            if chosen.each:
                print(
                    found["seed"], found["theme"], found["trace"], f"{found['cpu']:.1f}s", found["broken"], flush=True
                )
            if found["broken"]:
                failed.append(found["seed"])
                print(f"\nSEED {found['seed']} ({found['theme']}): {Counter(found['broken'])}")
                print("\n".join(found["told"]), flush=True)
            over = chosen.minutes and time.monotonic() - started > chosen.minutes * 60
            if over or (chosen.first and failed):
                pool.terminate()
                break
    days = seconds / 86_400
    print(f"\n{count} seeds, {days:.0f} simulated days, {cpu:.0f} s of CPU, {len(failed)} failed: {failed[:50]}")
    print("happened: " + ", ".join(f"{name} {n}" for name, n in sorted(total.items())))
    print("logged: " + ", ".join(f"{name} {n}" for name, n in sorted(events.items())))
    return int(bool(failed))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    logging.disable()
    share()
    gc.disable()
    gc.freeze()
    main()
