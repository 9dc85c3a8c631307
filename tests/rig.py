"""A queue in a file, the sandbox over real HTTP and the stages between them, all on one clock that tests move."""

import contextlib
import re
import time
from collections import Counter
from pathlib import Path

import msgspec
import structlog
from proxy import proxied
from users import asked

from orchestrator.api.client import Client
from orchestrator.config import Config, Defaults
from orchestrator.config.profiles import BUILT_IN
from orchestrator.context import Context
from orchestrator.sandbox import Options, serve
from orchestrator.sandbox.answers import expected_answer
from orchestrator.stages import FLOW, admit, collect, pack, poll, settle, submit
from orchestrator.store.database import Database

TURNS = 600
MODEL = "m"
PLAIN = re.compile(r"^[^+]*$|-once$|-\d$")
"""Models whose last execution is undisturbed."""


class Clock:
    """Starts a little after now, since triggers stamp new rows with the real time. `ahead`: how far it was set."""

    def __init__(self):
        self.now = float(int(time.time()) + 3600)
        self.ahead = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds

    def jump(self, seconds):
        self.now += seconds
        self.ahead += seconds

    def steady(self):
        """Seconds that nobody sets."""
        return self.now - self.ahead


def chat_body(text, model=MODEL, system=None):
    roles = [("system", system), ("user", text)] if system is not None else [("user", text)]
    return {"model": model, "messages": [{"role": role, "content": content} for role, content in roles]}


class Rig:
    def __init__(self, path, clock, sandbox, proxy, context, events):
        self.path = path if is_address(path) else Path(path)
        self.clock = clock
        self.sandbox = sandbox
        self.proxy = proxy
        self.context = context
        self.events = events

    # ------------------------------------------------------------ the user's side: plain SQL

    def sql(self, statement, *values):
        """Rows of one statement, run and committed by another connection, as a user's client would."""
        return asked(self.path, statement, values)

    def value(self, statement, *values):
        return self.sql(statement, *values)[0][0]

    def ask(self, custom_id, prompt="", **columns):
        """Insert one prompt with a question of its own."""
        row = {"custom_id": custom_id, "model": MODEL, **columns}
        if prompt or "body" not in row:
            row["prompt"] = prompt or f"What about {custom_id}?"
        names = ", ".join(row)
        self.sql(f"INSERT INTO prompts ({names}) VALUES ({', '.join('?' * len(row))})", *row.values())
        return custom_id

    def ask_many(self, count, **columns):
        return [self.ask(f"q-{number}", **columns) for number in range(1, count + 1)]

    def results(self):
        return {row["custom_id"]: row for row in self.sql("SELECT * FROM results ORDER BY id")}

    def result(self, custom_id):
        return self.results()[custom_id]

    def statuses(self):
        return {custom_id: row["status"] for custom_id, row in self.results().items()}

    def count(self):
        return Counter(self.statuses().values())

    def history(self, custom_id):
        """The faults of every attempt, in order; None is a success."""
        rows = self.sql("SELECT fault FROM attempts WHERE custom_id = ? ORDER BY seq", custom_id)
        return [row["fault"] for row in rows]

    def state(self, custom_id):
        return self.sql(
            "SELECT s.* FROM prompt_states s JOIN prompts p ON p.id = s.prompt_id WHERE p.custom_id = ?", custom_id
        )[0]

    def batches(self):
        return self.sql("SELECT * FROM batch_states ORDER BY id")

    def batch(self):
        """The newest batch."""
        return self.batches()[-1]

    def provider(self):
        return self.sql("SELECT * FROM provider_states")[0]

    # ------------------------------------------------------------ the sandbox's side

    @property
    def ledger(self):
        return self.sandbox.ledger

    @property
    def faults(self):
        return self.sandbox.faults

    def told(self, event):
        return [facts for facts in self.events if facts["event"] == event]

    # ------------------------------------------------------------ the daemon's side

    async def run(self, *stages):
        """Each stage until it has nothing more to do at this moment."""
        for stage in stages:
            for _ in range(TURNS):
                if not (await stage(self.context)).more:
                    break
            else:
                raise AssertionError(f"{stage.__name__} never comes to rest")

    async def turn(self):
        await self.run(*FLOW)

    async def sealed(self):
        await self.run(admit, pack)
        return self.batch()

    async def submitted(self):
        await self.run(admit, pack, submit)
        return self.batch()

    async def ended(self, seconds=60):
        """Carry one batch until the provider is done with it, nothing of it read."""
        await self.submitted()
        self.clock.advance(seconds)
        await self.run(poll)
        return self.batch()

    async def collected(self, seconds=60):
        await self.ended(seconds)
        await self.run(collect)
        return self.batch()

    async def later(self, *stages, seconds=60):
        self.clock.advance(seconds)
        await self.run(*(stages or FLOW))

    async def until(self, condition, turns=TURNS):
        """Turn after turn, each at the moment at which the next thing is due."""
        for _ in range(turns):
            await self.turn()
            if condition():
                return
            self.clock.advance(self._wait())
        raise AssertionError(f"never came true: {self.count()} {[dict(b) for b in self.batches()[-3:]]}")

    async def until_idle(self, turns=TURNS):
        await self.until(self.is_idle, turns)
        self.check_books()

    def is_idle(self):
        open_prompts = "SELECT EXISTS (SELECT 1 FROM prompt_states WHERE status IN ('queued', 'batched'))"
        open_batches = "SELECT EXISTS (SELECT 1 FROM batch_states WHERE status NOT IN ('settled', 'discarded'))"
        return not self.value(open_prompts) and not self.value(open_batches)

    def _wait(self):
        """Seconds until the next thing that is due; 15 when something due now is kept back."""
        now_ms = self.clock() * 1000
        next_ms = self.value(
            "SELECT min(at) FROM (SELECT next_try_at_ms AS at FROM batch_states"
            " WHERE status NOT IN ('settled', 'discarded')"
            " UNION ALL SELECT due_at_ms FROM prompt_states WHERE waiting = 1 AND status = 'queued'"
            " UNION ALL SELECT resume_at_ms FROM provider_states) AS times WHERE at > ?",
            int(now_ms),
        )
        return (next_ms - now_ms) / 1000 + 0.001 if next_ms else 15.0

    # ------------------------------------------------------------ what must hold of any run

    def check_books(self):
        """Every line of every settled batch is accounted for, and every plain answer belongs to its question."""
        for batch in self.batches():
            if batch["status"] == "settled":
                received = batch["lines_done"] + batch["lines_failed"] + batch["lines_resent"]
                assert batch["lines"] == received, dict(batch)
        for row in self.sql(
            "SELECT r.*, p.prompt, p.system, p.body, p.endpoint, p.model AS sent_as"
            " FROM results r JOIN prompts p USING (id) WHERE r.status = 'done'"
        ):
            assert row["fault"] is None
            assert row["response"] is not None
            is_chat = row["body"] is None and row["endpoint"].endswith("chat/completions")
            if is_chat and PLAIN.search(row["sent_as"] or MODEL):
                assert row["answer"] == self.answer_to(row), row["custom_id"]

    def answer_to(self, row):
        body = chat_body(row["prompt"], row["sent_as"] or MODEL, row["system"])
        return expected_answer(body, row["endpoint"], self.sandbox.provider.options.answer_bytes)


def is_address(path):
    return str(path).startswith("postgresql:")


def address_of(path):
    return str(path) if is_address(path) else f"sqlite:///{path}"


def settings(url, path, provider=None, other=None, profile="doubleword", **tables):
    """The settings of a rig. `provider` changes the profile, `other` adds a second provider at its own address."""
    changes = {"name": "doubleword", "api_key_env": "DOUBLEWORD_API_KEY", "base_url": url, **(provider or {})}
    doubleword = msgspec.structs.replace(BUILT_IN[profile], **changes)
    providers = {"doubleword": doubleword}
    if other is not None:
        providers["other"] = msgspec.structs.replace(doubleword, name="other", **other)
    tables = {"packing": {"linger_seconds": 0}, **tables}
    built = {name: msgspec.convert(values, Config.__annotations__[name]) for name, values in tables.items()}
    return Config(
        database=msgspec.convert({"url": address_of(path)}, Config.__annotations__["database"]),
        providers=providers,
        **{"defaults": Defaults(), **built},
    )


@contextlib.asynccontextmanager
async def open_rig(
    path, clock, *, sandbox=None, owner="rig", dice=lambda: 0.5, through_proxy=False, behind_seconds=0.0, **tables
):
    """`behind_seconds`: how far the provider's clock is behind that of the machine."""
    options = {
        "clock": lambda: clock() - behind_seconds,
        "seed": 7,
        "validate_seconds": 1.0,
        "latency_seconds": 10.0,
        "order": "input",
        **(sandbox or {}),
    }
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(serve(Options(**options)))
        proxy = await stack.enter_async_context(proxied(served.url))
        config = settings(proxy.url if through_proxy else served.url, path, **tables)
        database = Database(config.database.url)
        stack.push_async_callback(database.close)
        clients = {name: Client(provider) for name, provider in config.providers.items()}
        for client in clients.values():
            stack.push_async_callback(client.close)
        context = Context(config, database, clients, owner, clock, dice, steady=clock.steady)
        events = stack.enter_context(structlog.testing.capture_logs())
        yield Rig(path, clock, served, proxy, context, events)


__all__ = ["FLOW", "Clock", "Rig", "admit", "chat_body", "collect", "open_rig", "pack", "poll", "settle", "submit"]
