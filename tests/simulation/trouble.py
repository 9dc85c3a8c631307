"""What goes wrong, and when."""

import asyncio

from virtual_network import CUT, SILENT

FAULTS = (
    "reset-before", "unauthorized:times=1", "no-credit:times=1", "html-error", "redirect", "file-not-found-on-create",
    "batch-gone:times=3", "file-gone:times=3", "slow:seconds=20", "slow:seconds=320:times=1", "lost-reply",
    "create-lost-reply", "upload-lost-reply", "create-500-made", "create-502-made", "reset-after-4xx",
    "malformed-json", "gzip", "wrapped-reply", "iso-dates", "no-nulls", "errors-list", "errors-text", "unknown-status",
    "upper-case-status", "null-counts", "zero-counts", "counts-backwards", "empty-error-file-id", "file-uploaded",
    "bad-list", "old-list", "old-list:seconds=99999", "replica-lag:seconds=5", "replica-lag:seconds=60",
    "replica-lag:route=upload:seconds=60", "stuck-validating:times=1", "stuck-in-progress:times=1:share=0.3",
    "stuck-cancelling:times=1",
    "validation-failed:times=2", "validation-failed:lines=none:times=1", "token-limit:times=2:seconds=60",
    "null-output-id:seconds=30", "null-output-id:seconds=700", "long-finalizing", "expired:times=2:share=0.5",
    "cancelled-by-provider:times=2:share=0.5", "lines:behaviour=missing-once:share=0.2",
    "lines:behaviour=late:share=0.3", "lines:behaviour=fail-once:share=0.5", "lines:behaviour=duplicate:share=0.3",
    "long-ids", "colliding-ids", "empty-error-file", "reject-line:times=1", "reject-line:numbered=0:times=1",
    "file-too-large:times=2:max_bytes=3000", "reset-mid-body:nbytes=300", "truncated-chunk:nbytes=500",
    "torn-tail:nbytes=30:times=3", "no-final-newline", "skip-ignored", "crlf", "bom",
    "one-byte-a-second:bytes_per_second=2000:times=2", "status-400:times=1:route=create", "status-404:times=2",
    "status-408", "status-409:times=1:route=create", "status-413:times=1:route=upload",
    "status-422:times=1:route=create", "status-429", "status-429:route=create", "status-500", "status-502",
    "status-503", "status-504:route=create",
)  # fmt: skip


COSTLY = (
    "create-lost-reply", "create-500-made", "create-502-made", "lost-reply:route=create", "reset-before:route=create",
    "slow:seconds=320:route=create", "slow:seconds=60:route=create", "status-504:route=create",
    "malformed-json:route=create",
)  # fmt: skip
"""Faults after which a careless client pays twice: drawn more often."""


STEPS_OF_A_BATCH = (
    "batched",
    "sealed",
    "uploading",
    "uploaded",
    "creating",
    "creating",
    "submitted",
    "ended",
    "settled",
)


class Trouble:
    def __init__(self, world, people, keepers):
        self.world = world
        self.people = people
        self.keepers = keepers
        self.rng = world.dice("trouble")

    async def brew(self):
        """Each trouble at its own moment, until the time is over."""
        kinds = {
            "fault": self._fault, "outage": self._outage, "bad-connections": self._bad_connections,
            "kill": self._kill, "stop": self._stop, "freeze": self._freeze, "full": self._full,
            "bad-commit": self._bad_commit, "lying-commit": self._lying_commit, "lock": self._lock,
            "kill-at": self._kill_at, "freeze-at": self._freeze_at, "jump": self._jump, "deed": self.people.deed,
        }  # fmt: skip
        moments = [
            (self.rng.uniform(0, self.world.plan.horizon), kind)
            for kind, count in self.world.plan.troubles.items()
            for _ in range(round(count))
        ]
        async with asyncio.TaskGroup() as group:
            for moment, kind in sorted(moments):
                await asyncio.sleep(max(0.0, moment - self.world.loop.time()))
                group.create_task(kinds[kind]())

    async def _fault(self):
        text = self.rng.choice(COSTLY if self.rng.random() < 0.25 else FAULTS)
        settings = {} if "times=" in text else {"times": self.rng.choice((1, 1, 2, 5, 20))}
        if "rate" not in text and self.rng.random() < 0.5:
            settings["rate"] = self.rng.uniform(0.1, 0.9)
        fault = self.world.provider.faults.add(text, **settings)
        self.world.tell("fault on", name=text)
        await self._wait(30, 3600)
        self.world.provider.faults.remove(fault)

    async def _wait(self, low, high):
        await asyncio.sleep(low * (high / low) ** self.rng.random())

    async def _outage(self):
        self.world.tell("outage")
        self.world.network.up = False
        await self._wait(1, 1800)
        self.world.network.up = True

    async def _bad_connections(self):
        self.world.tell("bad connections")
        odds = self.world.network.odds
        odds[CUT], odds[SILENT] = self.rng.uniform(0, 0.5), self.rng.uniform(0, 0.3)
        await self._wait(10, 1800)
        odds[CUT] = odds[SILENT] = 0.0

    async def _kill(self):
        """Some steps from now, wherever that is."""
        keeper = self.rng.choice(self.keepers)
        if keeper.alive():
            process = keeper.process
            process.dies_at = process.steps + self._some_steps()
            self.world.tell("kill", process=process.name, at_step=process.dies_at)

    def _some_steps(self):
        return int(10 ** self.rng.uniform(0, 3.3))

    async def _stop(self):
        """SIGTERM, and perhaps the second one."""
        keeper = self.rng.choice(self.keepers)
        self.world.tell("stop", process=keeper.name)
        keeper.signal()
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.uniform(0, 2))
            keeper.signal()

    async def _freeze(self):
        """SIGSTOP some steps from now, often for longer than a lease."""
        keeper = self.rng.choice(self.keepers)
        self.world.tell("freeze", process=keeper.name)
        keeper.freeze(self._some_steps())
        await self._wait(1, 1200)
        self.world.tell("thaw", process=keeper.name)
        keeper.thaw()

    async def _kill_at(self):
        """A few steps after a batch takes its next step in the table."""
        word = self.rng.choice(STEPS_OF_A_BATCH)

        def strike(process):
            process.dies_at = process.steps + self.rng.randint(1, 40)
            self.world.tell("kill", process=process.name, at=word)

        self.world.disk.traps.append((word, strike))

    async def _freeze_at(self):
        word, caught = self.rng.choice(STEPS_OF_A_BATCH), asyncio.get_running_loop().create_future()

        def strike(process):
            process.freezes_at = process.steps + self.rng.randint(1, 40)
            self.world.tell("freeze", process=process.name, at=word)
            caught.set_result(process)

        trap = (word, strike)
        self.world.disk.traps.append(trap)
        try:
            process = await asyncio.wait_for(caught, self.world.plan.horizon)
        except TimeoutError:
            self.world.disk.traps.remove(trap)
            return
        await self._wait(1, 1200)
        self.world.tell("thaw", process=process.name)
        if not process.dead:
            process.thaw()

    async def _full(self):
        self.world.tell("disk full")
        self.world.disk.full = True
        await self._wait(1, 600)
        self.world.disk.full = False

    async def _bad_commit(self):
        self.world.tell("commits fail")
        self.world.disk.bad_commits += self.rng.choice((1, 2, 5))

    async def _lying_commit(self):
        self.world.tell("commits seem to fail")
        self.world.disk.lying_commits += 1

    async def _lock(self):
        connection = self.world.disk.open()
        try:
            self.world.disk.lock(connection)
        except Exception:  # noqa: BLE001 - the daemon was faster
            connection.close()
            return
        self.world.tell("locked")
        await self._wait(0.5, 60)
        connection.execute("ROLLBACK")
        connection.close()

    async def _jump(self):
        by = self.rng.choice((-1, 1)) * 10 ** self.rng.uniform(0, 4.3)
        self.world.tell("clock jumps", seconds=round(by))
        self.world.clock_offset += by
