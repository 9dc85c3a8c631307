"""Keeps one daemon running: starts the next one some time after it ended, however it ended."""

import asyncio
import random

from virtual_loop import Process

from orchestrator import daemon as daemons
from orchestrator.api.client import Client
from orchestrator.context import Context
from orchestrator.store.database import Database

PAUSES_SECONDS = (0.1, 2.0, 30.0, 600.0)


class Keeper:
    """`process` is the newest one, dead or alive; `daemon` is None until it stands."""

    def __init__(self, world, number):
        self.world = world
        self.name = f"daemon-{number}"
        self.process = None
        self.daemon = None
        self._dice = world.dice(f"keeper of {self.name}")

    async def keep(self):
        count = 0
        while not self.world.over:
            count += 1
            self.daemon = None
            self.process = Process(self.world.loop, f"{self.name}.{count}")
            self.process.start(self._live(self.process.name))
            await self.process.ended.wait()
            self._tell_end()
            await asyncio.sleep(self._dice.choice(PAUSES_SECONDS))

    async def _live(self, name):
        world, dice = self.world, random.Random(f"{self.world.seed} {name}")
        keys = random.Random(f"{world.seed} keys {name}")
        database = Database(world.config.database.url)
        clients = {provider.name: Client(provider) for provider in world.config.providers.values()}
        context = Context(
            world.config, database, clients, name, clock=world.clock, dice=dice.random,
            new_key=lambda: f"orc-{keys.randbytes(12).hex()}", steady=world.loop.time,
        )  # fmt: skip
        self.daemon = daemons.Daemon(context)
        try:
            await daemons.prepare(context)
            await self.daemon.run(until_idle=False)
        finally:
            for client in clients.values():
                await client.close()
            await database.close()

    def _tell_end(self):
        if self.process.dead:
            return
        error = None if self.process.task.cancelled() else self.process.task.exception()
        self.world.tell("daemon ended" if error is None else "daemon failed", process=self.process.name, why=str(error))

    def alive(self):
        return self.process is not None and not self.process.dead and self.daemon is not None

    def signal(self):
        """SIGTERM."""
        if self.alive():
            self.process.context.run(self.daemon.stop, "SIGTERM")

    def freeze(self, steps):
        if self.alive():
            self.process.freezes_at = self.process.steps + steps

    def thaw(self):
        if self.process is not None and not self.process.dead:
            self.process.thaw()
