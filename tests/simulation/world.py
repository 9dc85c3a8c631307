"""One simulated world: a provider, a network, a machine with a disk and a clock, and what happened in it so far."""

import asyncio
import contextlib
import dataclasses
import importlib
import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import structlog
from aiohttp import web
from pruned import DAY_SECONDS
from virtual_disk import Disk
from virtual_network import Connector, Network
from virtual_server import places_on

from orchestrator import daemon as daemons
from orchestrator import loop as loops
from orchestrator.config import Config
from orchestrator.config.profiles import BUILT_IN
from orchestrator.sandbox import Options
from orchestrator.sandbox.provider import Provider
from orchestrator.sandbox.server import application
from orchestrator.store.batches import release_all_leases

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
EPOCH = 1_900_000_000.0
KEY = "sk-simulated-secret"
QUIET_SECONDS = 900.0
"""How long an idle stage rests in here: longer than in earnest, so that a quiet hour costs little."""
CHUNK_LINES, TAKE_LINES = 3, 4
"""So that files of ten lines are packed and collected in several transactions, between which something may happen."""
LISTED_PER_CALL = 2
"""So that a listing is read for two batches already: few lives in here have ten under way."""
WATCH_SECONDS = 60.0


@dataclass
class Asked:
    """What a user wants of one prompt: the body as the provider must get it, and how often it was asked for anew."""

    custom_id: str
    endpoint: str
    body: dict
    retries: int = 0
    deleted: bool = False


@dataclass
class Deeds:
    """What has happened so far, for the summary and the stories; times are seconds of the loop."""

    counts: Counter = field(default_factory=Counter)
    told: list = field(default_factory=list)
    log: list = field(default_factory=list)


class World:
    """Everything of one seed. `plan` holds what was drawn for it, `asked` every prompt by custom_id."""

    def __init__(self, seed, plan, loop, folder, server=None):
        self.seed = seed
        self.plan = plan
        self.loop = loop
        self.deeds = Deeds()
        self.asked = {}
        self.clock_offset = 0.0
        self.secret = KEY
        self.over = False
        place = Disk if server is None else places_on(server)
        self.disk = place(folder, self.clock, self.dice("disk"))
        self.provider = Provider(Options(**plan.sandbox, api_key=KEY, clock=self.provider_clock, seed=seed))
        self._watch_faults()
        self.config = self._config()

    def dice(self, name):
        """Each part has its own, so that a change in one does not change all the others."""
        return random.Random(f"{self.seed} {name}")

    def clock(self):
        """The machine's wall clock, which may jump."""
        return EPOCH + self.loop.time() + self.clock_offset

    def provider_clock(self):
        return EPOCH + self.loop.time()

    def tell(self, what, **facts):
        self.deeds.counts[what] += 1
        self.deeds.told.append((self.loop.time(), what, facts))

    def _config(self):
        built_in = BUILT_IN[self.plan.dialect]
        changes = {"name": "doubleword", "base_url": "http://provider.test/v1", "api_key_env": "SIMULATED_KEY"}
        provider = msgspec.structs.replace(built_in, **changes, **self.plan.provider)
        tables = {
            name: msgspec.convert(values, Config.__annotations__[name]) for name, values in self.plan.tables.items()
        }
        database = msgspec.convert({"url": self.disk.url}, Config.__annotations__["database"])
        return Config(database=database, providers={"doubleword": provider}, **tables)

    def _watch_faults(self):
        draw = self.provider.faults.draw

        def watched(route):
            fired = draw(route)
            for name in fired:
                self.tell("fault", name=name, route=route)
            return fired

        self.provider.faults.draw = watched

    def make_peace(self):
        """Nothing new goes wrong from here on; what was begun must come to its end."""
        self.tell("peace")
        self.provider.faults.clear()
        self.network.up = True
        self.network.odds = dict.fromkeys(self.network.odds, 0.0)
        self.disk.full = False
        self.disk.bad_commits = self.disk.lying_commits = 0
        self.disk.traps.clear()
        simulation = self.provider.simulation
        simulation.options = dataclasses.replace(simulation.options, line_faults={})
        simulation.credit = None

    # ---------------------------------------------------------------- the user's side

    def seconds(self, at_ms):
        """Seconds of the loop at a time that the machine's clock gave; off by what it jumped since."""
        return at_ms / 1000 - EPOCH - self.clock_offset

    def since_epoch(self, at):
        return at - EPOCH

    def sql(self, statement, *values):
        """Rows of one statement, by a client of its own."""
        with contextlib.closing(self.disk.open()) as connection:
            return connection.execute(statement, values).fetchall()

    def rows(self, statement, *values):
        with contextlib.closing(self.disk.open()) as connection:
            cursor = connection.execute(statement, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def is_idle(self):
        open_prompts = "EXISTS (SELECT 1 FROM prompt_states WHERE status IN ('queued', 'batched'))"
        open_batches = "EXISTS (SELECT 1 FROM batch_states WHERE status NOT IN ('settled', 'discarded'))"
        return not self.sql(f"SELECT {open_prompts} OR {open_batches}")[0][0]


@contextlib.asynccontextmanager
async def created(seed, plan, server=None):
    """A world whose queue exists and in which nothing has happened yet."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        world = World(seed, plan, loop, Path(name), server)
        with contextlib.closing(world.disk), _in_place(world):
            runner = web.AppRunner(application(world.provider), access_log=None)
            await runner.setup()
            world.network = Network(runner.server, world.dice("network"))
            await world.disk.make()
            yield world


async def _release_none(_connection):
    """Where several daemons share a queue, each waits for the others' leases to run out."""
    return 0


@contextlib.contextmanager
def _in_place(world):
    """The parts of the real world that the daemon reaches for by name."""

    def remember(_logger, _method, event):
        world.deeds.log.append((world.loop.time(), event))
        raise structlog.DropEvent

    before = {
        **world.disk.in_place(),
        (aiohttp, "TCPConnector"): lambda limit: Connector(world.network, limit),
        (loops, "LONGEST_REST_SECONDS"): QUIET_SECONDS,
        (importlib.import_module("orchestrator.stages.clear"), "LOOK_SECONDS"): QUIET_SECONDS,
        (importlib.import_module("orchestrator.stages.collect"), "CHUNK_LINES"): CHUNK_LINES,
        (importlib.import_module("orchestrator.stages.pack"), "TAKE_LINES"): TAKE_LINES,
        (importlib.import_module("orchestrator.stages.poll"), "LISTED_PER_CALL"): LISTED_PER_CALL,
        (importlib.import_module("orchestrator.stages.prune"), "DAY_MS"): int(DAY_SECONDS * 1000),
        (importlib.import_module("orchestrator.stages.prune"), "LOOK_SECONDS"): QUIET_SECONDS,
        (daemons, "WATCH_SECONDS"): WATCH_SECONDS,
        (daemons, "release_all_leases"): release_all_leases if world.plan.daemons == 1 else _release_none,
    }
    saved = {place: getattr(*place) for place in before}
    structlog.configure(processors=[structlog.processors.add_log_level, remember], cache_logger_on_first_use=False)
    for (owner, name), value in before.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name), value in saved.items():
            setattr(owner, name, value)
        structlog.reset_defaults()
