import asyncio
import json
import os
import re
import sys

import pytest

from orchestrator.sandbox import Options, serve


async def check(*words, key="sk-1", **settings):
    """Run it as a process of its own in this folder; exit code, lines and stderr."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    environ |= {f"ORCHESTRATOR_{name.upper()}": str(value) for name, value in settings.items()}
    if key:
        environ["DOUBLEWORD_API_KEY"] = key
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator", "check", *words, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await running.communicate()
    assert b"Traceback" not in err
    return running.returncode, out.decode(), err.decode()


def states(out):
    return {found["check"]: (found["state"], found["message"]) for found in json.loads(out)["checks"]}


def at(sandbox, **settings):
    return {"providers__doubleword__base_url": sandbox.url, **settings}


@pytest.fixture
async def sandbox():
    async with serve(Options(seed=7, validate_seconds=0, latency_seconds=0, models=("m",), api_key="sk-1")) as served:
        yield served


async def test_a_good_installation_is_one_ok_line_per_check(queue, sandbox):
    code, out, err = await check(**at(sandbox, defaults__model="m"))
    assert (code, err) == (0, "")
    checks = [re.fullmatch(r"(ok|warning) +([a-z ]+): .+", line).groups() for line in out.splitlines()]
    assert [name for _, name in checks] == [
        "settings", "database", "sqlite", "disk", "doubleword address", "doubleword key", "doubleword clock",
        "doubleword models",
    ]  # fmt: skip
    assert {name for state, name in checks if state != "ok"} <= {"sqlite", "disk"}


async def test_json_is_one_object(queue, sandbox):
    code, out, _ = await check("--json", **at(sandbox, defaults__model="m"))
    told = json.loads(out)
    assert (code, told["ok"]) == (0, True)
    assert all(set(each) == {"check", "state", "message"} for each in told["checks"])


async def test_nothing_is_changed(queue, sandbox, folder):
    before = queue.path.read_bytes()
    await check(**at(sandbox))
    assert queue.path.read_bytes() == before
    assert (sandbox.ledger.uploads, sandbox.ledger.creates) == (0, 0)


async def test_a_missing_database_fails_with_the_remedy_and_is_not_made(folder, sandbox):
    code, out, _ = await check("--json", **at(sandbox))
    assert code == 1
    assert states(out)["database"] == (
        "failed",
        "database orchestrator.db does not exist: run `orchestrator migrate` or `run` first",
    )
    assert list(folder.iterdir()) == []


async def test_a_missing_folder_fails(folder, sandbox):
    code, out, _ = await check("--json", **at(sandbox, database__url="sqlite:///nowhere/queue.db"))
    assert (code, states(out)["disk"][0]) == (1, "failed")


async def test_wrong_settings_fail(folder):
    code, out, err = await check(polling__min_seconds="soon")
    assert (code, err) == (1, "")
    assert re.fullmatch(r"failed +settings: .*POLLING__MIN_SECONDS.*\n", out)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "DOUBLEWORD_API_KEY: holds no API key"),
        ('"sk-wrong"', "stands in quotes"),
        ("sk-wrong", "check the key and the account"),
    ],
)
async def test_a_key_that_is_missing_or_refused_fails_with_the_remedy(queue, sandbox, key, told):
    code, out, _ = await check("--json", key=key, **at(sandbox))
    state, message = states(out)["doubleword key"]
    assert (code, state) == (1, "failed")
    assert told in message
    assert "sk-wrong" not in out


async def test_an_address_where_nobody_listens_fails_with_the_remedy(queue):
    code, out, _ = await check("--json", providers__doubleword__base_url="http://127.0.0.1:9/v1")
    state, message = states(out)["doubleword address"]
    assert (code, state) == (1, "failed")
    assert message.endswith("check the network and providers.doubleword.base_url")


async def test_a_default_model_that_is_not_served_fails(queue, sandbox):
    code, out, _ = await check("--json", **at(sandbox, defaults__model="other"))
    state, message = states(out)["doubleword models"]
    assert (code, state) == (1, "failed")
    assert message == "1 available, but not 'other': correct defaults.model"


@pytest.mark.parametrize(
    ("date", "state"),
    [
        ("Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n", "failed"),
        ("Date: nonsense\r\n", "warning"),
        ("", "warning"),
    ],
)
async def test_the_clocks_are_compared_by_the_date_header(queue, date, state):
    body = b'{"object": "list", "data": [{"id": "m"}]}'
    head = f"HTTP/1.1 200 OK\r\n{date}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, out, _ = await check("--json", providers__doubleword__base_url=f"http://127.0.0.1:{port}/v1")
    assert states(out)["doubleword clock"][0] == state
    assert states(out)["doubleword models"][0] == "ok"


async def test_live_sends_one_tiny_batch_past_the_queue_and_deletes_its_files(queue, sandbox):
    code, out, _ = await check("--live", "--json", **at(sandbox, defaults__model="m"))
    state, message = states(out)["doubleword live"]
    assert (code, state) == (0, "ok")
    assert re.fullmatch(r"batch \S+ was answered in \d+ s", message)
    ledger = sandbox.ledger
    assert (ledger.uploads, ledger.creates, ledger.executions) == (1, 1, {"check": 1})
    assert all(file.deleted for file in ledger.files)
    assert queue.prompts() == []


async def test_live_tells_why_the_question_was_refused(queue):
    model = "m+sandbox-status-403"
    async with serve(Options(seed=7, validate_seconds=0, latency_seconds=0)) as sandbox:
        code, out, _ = await check("--live", "--json", **at(sandbox, defaults__model=model))
        state, message = states(out)["doubleword live"]
        assert (code, state) == (1, "failed")
        assert "the question was refused" in message
        assert all(file.deleted for file in sandbox.ledger.files)


async def test_live_without_a_model_fails_and_sends_nothing(queue, sandbox):
    code, out, _ = await check("--live", "--json", **at(sandbox))
    assert (code, states(out)["doubleword live"]) == (1, ("failed", "no model to ask: set defaults.model"))
    assert sandbox.ledger.uploads == 0


async def test_live_outlasts_lost_replies_and_files_that_are_not_visible_at_once(queue, sandbox):
    sandbox.faults.add("status-404:route=create", times=1, text="Input file not found")
    sandbox.faults.add("status-503:route=retrieve", times=1)
    code, out, _ = await check("--live", "--json", **at(sandbox, defaults__model="m"))
    assert (code, states(out)["doubleword live"][0]) == (0, "ok")
    assert sandbox.ledger.creates == 1
