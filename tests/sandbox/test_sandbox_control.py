"""The sandbox's own routes."""

import asyncio

import aiohttp
import pytest
from sandbox_client import line

from orchestrator.sandbox import Options, run


def root(client):
    return client.sandbox.url.removesuffix("/v1")


async def test_health_and_control_need_no_key(client):
    client.headers = {}
    reply = await client.get(f"{root(client)}/sandbox/health")
    assert reply.json == {"status": "ok", "dialect": "doubleword"}


async def test_the_ledger_reads_the_same_from_another_process(client):
    batch = await client.finished([line("a"), line("b", "fail-once")], metadata={"n": "1"})
    ledger = (await client.get(f"{root(client)}/sandbox/ledger")).json
    assert ledger["executions"] == {"a": 1, "b": 1}
    assert ledger["successes"] == {"a": 1}
    assert (ledger["creates"], ledger["uploads"]) == (1, 1)
    entry = ledger["batches"][0]
    assert (entry["id"], entry["lines"], entry["filename"], entry["deleted"]) == (batch["id"], 2, "a.jsonl", False)
    assert (entry["executed"], entry["completed"], entry["failed"]) == (2, 1, 1)
    assert entry["metadata"]["n"] == "1"
    assert ledger["files"][0]["lines"] == 2
    assert ledger["requests"] == {"upload": 1, "create": 1, "retrieve": 1}
    assert ledger["statuses"] == {"upload 201": 1, "create 201": 1, "retrieve 200": 1}


async def test_faults_are_switched_from_another_process(client):
    url = f"{root(client)}/sandbox/faults"
    added = await client.ask("POST", url, json={"name": "status-503", "route": "models", "times": 1, "retry_after": 1})
    assert (added.status, added.json["retry_after"], added.json["fired"]) == (201, "1", 0)
    assert (await client.get("/models")).headers["Retry-After"] == "1"
    assert (await client.get(url)).json["faults"][0]["fired"] == 1
    assert (await client.ask("DELETE", url)).status == 204
    assert (await client.get(url)).json == {"faults": []}


@pytest.mark.parametrize("body", [b'{"name":"teapot"}', b"{}", b"{oops", b'{"name":"slow","seconds":[]}'])
async def test_a_mistaken_fault_is_refused_with_400(client, body):
    reply = await client.ask("POST", f"{root(client)}/sandbox/faults", data=body)
    assert reply.status == 400
    assert reply.text


async def test_models_are_listed_with_those_seen_in_uploads(client):
    await client.upload([line("a", body={"model": "seen"})])
    models = (await client.get("/models")).json
    assert models["object"] == "list"
    assert "seen" in [model["id"] for model in models["data"]]


async def test_run_announces_its_url_and_serves_until_cancelled():
    announced = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(Options(), announced.set_result))
    url = await announced
    health = url.replace("/v1", "/sandbox/health")
    async with aiohttp.ClientSession() as session, session.get(health) as response:
        assert response.status == 200
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
