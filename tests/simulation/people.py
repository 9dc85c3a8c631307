"""The users: they drop prompts in by plain SQL and change their minds by every means that the documents allow."""

import asyncio
import json
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import select
from world import Asked

from orchestrator.core.model import PromptStatus
from orchestrator.errors import StoreUnavailable
from orchestrator.store.cancel import cancel, request_cancels
from orchestrator.store.database import Database
from orchestrator.store.requeue import RETRYABLE, Selection, list_selected, requeue
from orchestrator.store.tables import prompts

CHAT = "/v1/chat/completions"
PATIENCE = 1000
"""Tries: a daemon that is frozen within a transaction keeps the file locked."""


class People:
    def __init__(self, world):
        self.world = world
        self.rng = world.dice("people")
        self.number = 0

    # ---------------------------------------------------------------- dropping prompts in

    async def arrive(self):
        """Prompts come in bursts over the first two thirds of the time."""
        left, span = self.world.plan.prompts, self.world.plan.horizon * 2 / 3
        bursts = []
        while left > 0:
            size = min(left, self.rng.choice((1, 1, 5, 20, 60)))
            bursts.append((self.rng.uniform(0, span), size))
            left -= size
        for moment, size in sorted(bursts):
            await asyncio.sleep(max(0.0, moment - self.world.loop.time()))
            await self._write(partial(self._insert_burst, size=size))

    def _insert_burst(self, connection, size):
        for _ in range(size):
            columns, asked = self._prompt()
            names = ", ".join(columns)
            marks = ", ".join("?" * len(columns))
            connection.execute(f"INSERT INTO prompts ({names}) VALUES ({marks})", [*columns.values()])
            self.world.asked[asked.custom_id] = asked

    def _prompt(self):
        self.number += 1
        custom_id = f"q-{self.number}"
        model = self.rng.choice(("m", "m", "m", "n"))
        question = f"What about {custom_id}? {self.rng.choice(('', 'ü', chr(0x2028), 'x' * 300))}"
        columns = {"custom_id": custom_id, "model": model, "tag": self.rng.choice((None, "a", "b"))}
        columns["priority"] = self.rng.choice((0, 0, 0, 5))
        if self.rng.random() < 0.1:
            columns["not_before"] = self._soon()
        body = {"model": model, "messages": [{"role": "user", "content": question}]}
        endpoint = CHAT
        kind = self.rng.random()
        if kind < 0.6:
            columns["prompt"] = question
        elif kind < 0.75:
            columns |= {"prompt": question, "body": '{"temperature": 0.5}'}
            body["temperature"] = 0.5
        elif kind < 0.85:
            columns["body"] = json.dumps(body)
        elif kind < 0.92 and self.world.plan.dialect == "doubleword":
            endpoint, body = "/v1/embeddings", {"model": model, "input": question}
            columns |= {"prompt": question, "endpoint": endpoint}
        elif kind < 0.96:
            columns["body"] = self.rng.choice(("[1]", "{", '{"temperature": 1}', '{"messages": [], "prompt": 1'))
        else:
            columns |= {"prompt": question, "completion_window": self.rng.choice(("1h", "2h"))}
        return columns, Asked(custom_id, endpoint, body)

    def _soon(self):
        soon = datetime.fromtimestamp(self.world.clock() + self.rng.uniform(0, self.world.plan.horizon / 2), UTC)
        return soon.isoformat(" ", "milliseconds").removesuffix("+00:00")

    async def _write(self, work):
        """One transaction of a plain client, which tries again while the file is locked."""
        for attempt in range(PATIENCE):
            connection = self.world.disk.open()
            try:
                connection.execute(self.world.disk.begin)
                work(connection)
                connection.execute("COMMIT")
            except Exception as error:
                if not self.world.disk.is_busy(error):
                    raise
                await asyncio.sleep(min(0.21 * (attempt + 1), 10.0))
            else:
                return
            finally:
                connection.close()
        raise AssertionError("a user waited for hours and could not write")

    # ---------------------------------------------------------------- changing their minds

    async def deed(self):
        deeds = [
            ("cancel by SQL", self._cancel_by_sql),
            ("retry by SQL", self._retry_by_sql),
            ("delete", self._delete),
            ("edit", self._edit),
            ("cancel by command", self._cancel_by_command),
            ("retry by command", self._retry_by_command),
        ]
        if self.world.disk.can_replace:
            deeds.append(("replace", self._replace))
        name, work = self.rng.choice(deeds)
        self.world.tell("deed", name=name)
        try:
            await work()
        except StoreUnavailable as error:
            self.world.tell("refused", name=name, why=str(error)[:80])

    def _some(self, connection, condition):
        rows = connection.execute(
            f"SELECT p.id, p.custom_id FROM prompts p JOIN prompt_states s ON s.prompt_id = p.id WHERE {condition}"
        ).fetchall()
        return self.rng.sample(rows, min(len(rows), self.rng.choice((1, 1, 5))))

    async def _cancel_by_sql(self):
        def work(connection):
            for prompt_id, custom_id in self._some(connection, "s.status = 'queued'"):
                connection.execute("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = ?", (prompt_id,))
                self.world.tell("cancelled", of=custom_id)

        await self._write(work)

    async def _retry_by_sql(self):
        def work(connection):
            for prompt_id, custom_id in self._some(connection, "s.status IN ('failed', 'cancelled')"):
                connection.execute("UPDATE prompt_states SET status = 'queued' WHERE prompt_id = ?", (prompt_id,))
                self.world.asked[custom_id].retries += 1
                self.world.tell("retried", of=custom_id)

        await self._write(work)

    async def _delete(self):
        def work(connection):
            for prompt_id, custom_id in self._some(connection, "s.status <> 'batched'"):
                connection.execute("DELETE FROM prompts WHERE id = ?", (prompt_id,))
                self.world.asked[custom_id].deleted = True
                self.world.tell("deleted", of=custom_id)

        await self._write(work)

    async def _edit(self):
        """A new question in an old row: refused by the table when it was sent, else what is answered from now on."""

        def work(connection):
            for prompt_id, custom_id in self._some(
                connection, "p.body IS NULL AND s.status NOT IN ('batched', 'done')"
            ):
                asked, question = self.world.asked[custom_id], f"Rather this, {custom_id}? {self.rng.random()}"
                connection.execute("UPDATE prompts SET prompt = ? WHERE id = ?", (question, prompt_id))
                key = "messages" if asked.endpoint == CHAT else "input"
                content = [{"role": "user", "content": question}] if asked.endpoint == CHAT else question
                asked.body = {**asked.body, key: content}
                self.world.tell("edited", of=custom_id)

        await self._write(work)

    async def _replace(self):
        """INSERT OR REPLACE takes a row away without its trigger."""

        def work(connection):
            for _prompt_id, custom_id in self._some(connection, "s.status <> 'batched'"):
                question = f"Instead, {custom_id}? {self.rng.random()}"
                columns = "INSERT OR REPLACE INTO prompts (custom_id, model, prompt) VALUES (?, 'm', ?)"
                connection.execute(columns, (custom_id, question))
                body = {"model": "m", "messages": [{"role": "user", "content": question}]}
                self.world.asked[custom_id] = Asked(custom_id, CHAT, body, retries=1000)
                self.world.tell("replaced", of=custom_id)

        await self._write(work)

    async def _cancel_by_command(self):
        """As `orchestrator cancel --tag` does it, with the daemon running beside."""
        database = Database(self.world.config.database.url)
        selection = Selection((PromptStatus.QUEUED, PromptStatus.BATCHED), tag=self.rng.choice(("a", "b")))
        try:
            page = await database.read(partial(list_selected, selection=selection, first_id=0))
            now_ms = int(self.world.clock() * 1000)
            done = await database.write(partial(cancel, prompt_ids=page, now_ms=now_ms))
            await database.write(partial(request_cancels, batch_ids=sorted(done.batches)))
            self.world.tell("cancelled many", at_once=done.at_once, sent=done.sent)
        finally:
            await database.close()

    async def _retry_by_command(self):
        database = Database(self.world.config.database.url)
        selection = Selection(RETRYABLE, tag=self.rng.choice((None, "a")))
        try:
            page = await database.read(partial(list_selected, selection=selection, first_id=0))
            await database.write(partial(self._requeue, page=page))
        finally:
            await database.close()

    async def _requeue(self, connection, page):
        await requeue(connection, page, RETRYABLE)
        for prompt_id in page:
            found = await connection.execute(select(prompts.c.custom_id).where(prompts.c.id == prompt_id))
            for (custom_id,) in found:
                self.world.asked[custom_id].retries += 1
                self.world.tell("retried", of=custom_id)
