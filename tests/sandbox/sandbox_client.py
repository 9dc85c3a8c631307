import json
from dataclasses import dataclass, field
from io import BytesIO

import aiohttp

CHAT = "/v1/chat/completions"
KEY = {"Authorization": "Bearer any-key"}


class Clock:
    def __init__(self):
        self.now = 1_790_000_000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def lines(self):
        assert not self.body or self.body.endswith(b"\n")
        return [json.loads(line) for line in self.body.split(b"\n")[:-1]]

    @property
    def custom_ids(self):
        return [line["custom_id"] for line in self.lines]


def line(custom_id, behaviour=None, **overrides):
    body = {"model": "m", "messages": [{"role": "user", "content": f"question of {custom_id}"}]}
    if behaviour:
        body["metadata"] = {"sandbox": behaviour}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | overrides


def jsonl(lines):
    return b"".join(json.dumps(row).encode() + b"\n" for row in lines)


@dataclass
class Client:
    sandbox: object
    session: aiohttp.ClientSession
    clock: Clock
    headers: dict = field(default_factory=lambda: dict(KEY))

    async def ask(self, method, path, **options):
        headers = self.headers | options.pop("headers", {})
        url = path if path.startswith("http") else self.sandbox.url + path
        async with self.session.request(method, url, headers=headers, allow_redirects=False, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path, **query):
        return await self.ask("GET", path, params=query)

    async def post(self, path, **options):
        return await self.ask("POST", path, **options)

    async def delete(self, path):
        return await self.ask("DELETE", path)

    async def upload(self, data, filename="a.jsonl", fields=(("purpose", "batch"),), *, file_first=False):
        data = BytesIO(data if isinstance(data, bytes) else jsonl(data))
        form = aiohttp.FormData()
        if file_first:
            form.add_field("file", data, filename=filename)
        for name, value in fields:
            form.add_field(name, value)
        if not file_first:
            form.add_field("file", data, filename=filename)
        return await self.post("/files", data=form)

    async def order(self, file_id, **overrides):
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | overrides
        return await self.post("/batches", json=body)

    async def batch(self, lines, **overrides):
        uploaded = (await self.upload(lines)).json
        return (await self.order(uploaded["id"], **overrides)).json

    async def retrieve(self, batch):
        return (await self.get(f"/batches/{batch['id']}")).json

    async def finished(self, lines, **overrides):
        batch = await self.batch(lines, **overrides)
        self.clock.advance(1000)
        return await self.retrieve(batch)

    async def content(self, file_id, **query):
        return await self.get(f"/files/{file_id}/content", **query)

    async def replies(self, batch):
        output = await self.content(batch["output_file_id"])
        errors = await self.content(batch["error_file_id"])
        return output, errors
