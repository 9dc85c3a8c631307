"""What people read: `results`, `batches`, `attempts`, `progress`."""

import pytest

from orchestrator.core.lines import Reply
from orchestrator.core.model import BatchStatus, Fault, Lane, PromptStatus
from orchestrator.core.outcomes import MOST_TOKENS, Outcome, judge
from orchestrator.store.batches import move_batch, update_batch
from orchestrator.store.replies import Entry, get_members, record

NOW_MS = 1_800_000_000_000
NOW_TEXT = "2027-01-15 08:00:00.000"

RESULTS = (
    "id, custom_id, tag, status, answer, response, finish_reason, status_code, fault, error_code, error_message, "
    "attempts, model, prompt_tokens, completion_tokens, batch_id, created_at, finished_at, metadata"
)
BATCHES = (
    "id, key, provider, endpoint, model, completion_window, status, remote_status, remote_batch_id, input_file_id, "
    "output_file_id, error_file_id, lines, bytes, remote_total, remote_completed, remote_failed, lines_received, "
    "lines_done, lines_failed, lines_resent, duplicates, unreadable, created_at, uploaded_at, submitted_at, polled_at, "
    "ended_at, settled_at, next_poll_at, last_error, last_error_at, files_deleted_at"
)
ATTEMPTS = (
    "id, prompt_id, custom_id, seq, attempt, batch_id, fault, status_code, error_code, error_message, received_at, raw"
)
PROGRESS = "tag, status, prompts, prompt_tokens, completion_tokens"
DONE = Outcome(None, 200, None, None, "hello", "stop", 5, 7, "m-2", '{ "a": 1.0 }')
FAILED = Outcome(Fault.INVALID, 400, "bad", "no such thing", response='{"error":1}')
NOTHING = dict.fromkeys(["answer", "response", "finish_reason", "status_code", "fault", "error_code", "error_message"])
NOTHING |= dict.fromkeys(["prompt_tokens", "completion_tokens", "batch_id", "finished_at"])


async def recorded(daemon, prompt_id, outcome, status, **values):
    async def work(connection):
        (member,) = await get_members(connection, [prompt_id])
        given = {"attempts": member.attempts + 1, "returns": 0, "batch_id": member.batch_id}
        await record(connection, [Entry(member, outcome, status=status, **(given | values))], NOW_MS)

    await daemon.write(work)


async def batched(user, daemon, *, key="orc-1", **columns):
    prompt_id = user.insert(**columns)
    await daemon.admit(prompt_id)
    await daemon.batch(prompt_id, key=key)
    return prompt_id


@pytest.mark.parametrize(
    ("view", "columns"),
    [("results", RESULTS), ("batches", BATCHES), ("attempts", ATTEMPTS), ("progress", PROGRESS)],
)
def test_a_view_has_the_promised_columns_in_order(user, view, columns):
    assert user.columns(view) == columns.split(", ")


def test_a_new_prompt_is_a_result_without_an_answer(user):
    prompt_id = user.insert(custom_id="a", tag="run", model="m", metadata='{"n": 1}')
    (row,) = user.rows("SELECT * FROM results")
    assert row.pop("created_at") == user.value("SELECT created_at FROM prompts")
    given = {"id": prompt_id, "custom_id": "a", "tag": "run", "status": "queued", "attempts": 0, "model": "m"}
    assert row == NOTHING | given | {"metadata": '{"n": 1}'}


async def test_a_batched_prompt_names_its_batch_and_its_model(user, daemon):
    await batched(user, daemon)
    (row,) = user.rows("SELECT status, batch_id, model, answer, finished_at FROM results")
    assert row == {"status": "batched", "batch_id": 1, "model": "m", "answer": None, "finished_at": None}


async def test_an_answered_prompt_shows_the_answer_and_the_response_as_sent(user, daemon):
    prompt_id = await batched(user, daemon, custom_id="a")
    await recorded(daemon, prompt_id, DONE, PromptStatus.DONE)
    (row,) = user.rows("SELECT * FROM results")
    del row["created_at"]
    expected = {"answer": "hello", "response": '{ "a": 1.0 }', "finish_reason": "stop", "status_code": 200}
    expected |= {"prompt_tokens": 5, "completion_tokens": 7, "model": "m-2", "finished_at": NOW_TEXT, "batch_id": 1}
    expected |= {"id": prompt_id, "custom_id": "a", "tag": None, "status": "done", "attempts": 1, "metadata": None}
    assert row == NOTHING | expected


async def test_a_failed_prompt_shows_its_last_reason(user, daemon):
    prompt_id = await batched(user, daemon)
    await recorded(daemon, prompt_id, Outcome(Fault.SERVER, 500, "oops", "first"), PromptStatus.QUEUED)
    await daemon.batch(prompt_id, key="orc-2")
    await recorded(daemon, prompt_id, FAILED, PromptStatus.FAILED)
    (row,) = user.rows("SELECT status, fault, status_code, error_code, error_message, attempts, batch_id FROM results")
    assert tuple(row.values()) == ("failed", "invalid", 400, "bad", "no such thing", 2, 2)


async def test_a_prompt_between_retries_shows_what_went_wrong_so_far(user, daemon):
    prompt_id = await batched(user, daemon)
    await recorded(daemon, prompt_id, FAILED, PromptStatus.QUEUED)
    (row,) = user.rows("SELECT status, fault, batch_id, finished_at FROM results")
    assert row == {"status": "queued", "fault": "invalid", "batch_id": 1, "finished_at": None}


def test_a_cancelled_prompt_shows_when(user):
    user.put(user.insert(), "cancelled")
    (row,) = user.rows("SELECT status, finished_at FROM results")
    assert (row["status"], row["finished_at"] is None) == ("cancelled", False)


async def test_every_prompt_is_one_result_whatever_its_history(user, daemon):
    for number in range(4):
        prompt_id = await batched(user, daemon, key=f"orc-{number}")
        for _ in range(number):
            await recorded(daemon, prompt_id, FAILED, PromptStatus.QUEUED)
    assert user.values("SELECT id FROM results ORDER BY id") == [1, 2, 3, 4]


async def test_a_batch_shows_its_counts_and_its_timeline(user, daemon):
    prompt_id = user.insert()
    lane = Lane("p", "/v1/embeddings", "1h")
    await daemon.admit(prompt_id, lane=lane)
    batch = await daemon.batch(prompt_id, lane=lane)
    moves = [
        (BatchStatus.SEALED, "pack", {"lines": 9, "nbytes": 90}),
        (BatchStatus.UPLOADING, "submit", {}),
        (BatchStatus.UPLOADED, "submit", {"uploaded_at_ms": NOW_MS, "input_file_id": "in"}),
        (BatchStatus.CREATING, "submit", {}),
        (BatchStatus.SUBMITTED, "submit", {"submitted_at_ms": NOW_MS, "remote_batch_id": "r"}),
    ]
    for after, by, values in moves:
        await daemon.write(lambda c, a=after, b=by, v=values: move_batch(c, batch, a, b, **v))
    counts = {"lines_done": 1, "lines_failed": 2, "lines_resent": 4, "next_try_at_ms": NOW_MS}
    await daemon.write(lambda c: update_batch(c, batch, **counts))
    (row,) = user.rows("SELECT * FROM batches")
    shown = (row["provider"], row["endpoint"], row["completion_window"], row["model"])
    assert shown == ("p", "/v1/embeddings", "1h", None)
    assert (row["lines"], row["bytes"], row["lines_received"]) == (9, 90, 7)
    assert row["created_at"] == row["uploaded_at"] == row["submitted_at"] == row["next_poll_at"] == NOW_TEXT
    assert (row["ended_at"], row["settled_at"], row["remote_batch_id"]) == (None, None, "r")


async def test_only_a_submitted_batch_has_a_next_poll(user, daemon):
    await batched(user, daemon)
    assert user.values("SELECT next_poll_at FROM batches") == [None]


async def test_progress_counts_prompts_and_tokens_by_tag_and_status(user, daemon):
    for number, tag in enumerate(["a", "a", "b"]):
        prompt_id = await batched(user, daemon, key=f"orc-{number}", tag=tag)
        await recorded(daemon, prompt_id, DONE, PromptStatus.DONE)
    user.insert(tag="a")
    user.insert()
    rows = user.rows("SELECT * FROM progress ORDER BY tag NULLS FIRST, status")
    assert [tuple(row.values()) for row in rows] == [
        (None, "queued", 1, None, None),
        ("a", "done", 2, 10, 14),
        ("a", "queued", 1, None, None),
        ("b", "done", 1, 5, 7),
    ]


@pytest.mark.parametrize("told", [4 * 10**18, MOST_TOKENS + 1, MOST_TOKENS])
async def test_progress_can_be_read_whatever_tokens_a_provider_counts(user, daemon, told):
    body = b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": %d}}' % told
    for number in range(3):
        outcome = judge(Reply("q", 200, body, None))
        await recorded(daemon, await batched(user, daemon, key=f"orc-{number}"), outcome, PromptStatus.DONE)
    assert user.values("SELECT prompt_tokens FROM progress") == [3 * told if told <= MOST_TOKENS else None]
