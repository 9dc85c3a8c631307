"""The official Python SDK drives the sandbox, in both dialects."""

import asyncio
import json

import openai
import pytest
from openai import OpenAI
from openai.types import Batch, Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from sdk_lines import CHAT, ENDPOINTS, expected, jsonl, line, lines

TYPES = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/responses": Response,
    "/v1/embeddings": CreateEmbeddingResponse,
    "/v1/completions": Completion,
}
MISSING = {"doubleword": "00000000-0000-4000-8000-000000000000", "openai": "missing"}


def rows_of(content):
    return [json.loads(row) for row in content.text.splitlines()]


def text_of(answer):
    if isinstance(answer, ChatCompletion):
        return answer.choices[0].message.content
    if isinstance(answer, Completion):
        return answer.choices[0].text
    if isinstance(answer, Response):
        return answer.output_text
    return json.dumps(answer.data[0].embedding, separators=(",", ":"))


# ---------------------------------------------------------------- files


async def test_a_file_is_uploaded_retrieved_read_and_deleted(desk):
    files, rows = desk.client.files, lines("a", "b")
    uploaded = await desk.upload(rows, expires_after={"anchor": "created_at", "seconds": 86_400})
    assert (uploaded.object, uploaded.purpose, uploaded.filename) == ("file", "batch", "questions.jsonl")
    assert uploaded.bytes == len(jsonl(rows))
    assert uploaded.expires_at == uploaded.created_at + 86_400
    assert uploaded.id.startswith("file-") is (desk.dialect == "openai")
    retrieved = await files.retrieve(uploaded.id)
    assert (retrieved.id, retrieved.bytes, retrieved.created_at) == (uploaded.id, uploaded.bytes, uploaded.created_at)
    assert rows_of(await files.content(uploaded.id)) == rows
    deleted = await files.delete(uploaded.id)
    assert (deleted.id, deleted.deleted) == (uploaded.id, True)
    for gone in (files.retrieve, files.content, files.delete):
        with pytest.raises(openai.NotFoundError):
            await gone(uploaded.id)


async def test_a_file_on_disk_is_uploaded_under_its_own_name(desk, tmp_path):
    path = tmp_path / "on-disk.jsonl"
    path.write_bytes(jsonl(lines("a")))
    uploaded = await desk.client.files.create(file=path, purpose="batch")
    assert (uploaded.filename, uploaded.bytes) == ("on-disk.jsonl", path.stat().st_size)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_files_are_listed_page_by_page_and_by_iteration(desk, order):
    made = []
    for number in range(5):
        made.append((await desk.upload(lines("a"), f"{number}.jsonl")).id)
        desk.clock.advance(1)
    wanted = made if order == "asc" else made[::-1]
    page = await desk.client.files.list(limit=2, order=order, purpose="batch")
    assert ([file.id for file in page.data], page.has_more) == (wanted[:2], True)
    second = await page.get_next_page()
    assert [file.id for file in second.data] == wanted[2:4]
    last = await second.get_next_page()
    assert ([file.id for file in last.data], last.has_next_page()) == (wanted[4:], False)
    assert [file.id async for file in desk.client.files.list(limit=2, order=order)] == wanted
    assert [file.id async for file in desk.client.files.list(purpose="batch_output")] == []


async def test_an_ended_batchs_output_is_listed_among_the_files_by_its_purpose(desk):
    ended = await desk.ended()
    found = [file async for file in desk.client.files.list(purpose="batch_output")]
    assert [file.id for file in found] == [ended.output_file_id]


# ---------------------------------------------------------------- batches


async def test_a_batch_walks_from_validating_to_completed(desk):
    created = await desk.batch(lines("a", "b"), metadata={"job": "7"})
    assert isinstance(created, Batch)
    assert (created.status, created.metadata["job"]) == ("validating", "7")
    assert created.expires_at == created.created_at + 86_400
    assert (created.output_file_id is None) is (desk.dialect == "openai")
    desk.clock.advance(7)
    running = await desk.client.batches.retrieve(created.id)
    assert (running.status, running.request_counts.total, running.request_counts.completed) == ("in_progress", 2, 1)
    desk.clock.advance(10)
    ended = await desk.client.batches.retrieve(created.id)
    assert (ended.status, ended.request_counts.completed, ended.request_counts.failed) == ("completed", 2, 0)
    assert ended.completed_at
    assert [row["custom_id"] for row in rows_of(await desk.client.files.content(ended.output_file_id))] == ["a", "b"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_answers_of_every_endpoint_are_what_the_sdk_calls_them(desk, endpoint):
    ended = await desk.ended([line("a", endpoint)], endpoint)
    (row,) = rows_of(await desk.client.files.content(ended.output_file_id))
    assert (row["custom_id"], row["response"]["status_code"], row["error"]) == ("a", 200, None)
    answer = TYPES[endpoint].model_validate(row["response"]["body"], strict=True)
    assert text_of(answer) == expected(endpoint)
    assert answer.usage.total_tokens > 0


async def test_an_answer_cut_short_is_an_incomplete_response(desk):
    rows = [line("a", "/v1/responses", metadata={"sandbox": "length"})]
    ended = await desk.ended(rows, "/v1/responses")
    (row,) = rows_of(await desk.client.files.content(ended.output_file_id))
    answer = Response.model_validate(row["response"]["body"])
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_failed_lines_stand_in_the_error_file(desk):
    ended = await desk.ended([line("good"), line("bad", metadata={"sandbox": "bad-request"})])
    assert (ended.status, ended.request_counts.failed) == ("completed", 1)
    (row,) = rows_of(await desk.client.files.content(ended.error_file_id))
    assert row["custom_id"] == "bad"
    if desk.dialect == "openai":
        assert (row["response"]["status_code"], row["error"]) == (400, None)
        assert row["response"]["body"]["error"]["code"] == "invalid_request"
    else:
        assert (row["response"], row["error"]["code"]) == (None, None)
        assert json.loads(row["error"]["message"])["details"]["status"] == 400


async def test_batches_are_listed_newest_first_page_by_page_and_by_iteration(desk):
    uploaded, made = await desk.upload(lines("a")), []
    for _ in range(5):
        made.insert(0, (await desk.create(uploaded.id)).id)
        desk.clock.advance(1)
    page = await desk.client.batches.list(limit=2)
    assert ([batch.id for batch in page.data], page.has_more) == (made[:2], True)
    second = await page.get_next_page()
    assert [batch.id for batch in second.data] == made[2:4]
    last = await second.get_next_page()
    assert ([batch.id for batch in last.data], last.has_next_page()) == (made[4:], False)
    assert [batch.id async for batch in desk.client.batches.list(limit=2)] == made
    assert [batch.id async for batch in desk.client.batches.list(after=made[3])] == made[4:]


async def test_a_list_of_nothing_is_empty(desk):
    assert [batch async for batch in desk.client.batches.list()] == []
    assert [file async for file in desk.client.files.list()] == []


async def test_a_running_batch_is_cancelled_and_keeps_its_output(desk):
    created = await desk.batch(lines(*"abcdefghij"))
    desk.clock.advance(4)
    cancelled = await desk.client.batches.cancel(created.id)
    assert cancelled.status == ("cancelling" if desk.dialect == "openai" else "cancelled")
    desk.clock.advance(60)
    ended = await desk.client.batches.retrieve(created.id)
    assert (ended.status, ended.request_counts.total) == ("cancelled", 10)
    answered = rows_of(await desk.client.files.content(ended.output_file_id))
    assert 0 < len(answered) == ended.request_counts.completed < 10


async def test_an_ended_batch_can_be_cancelled_at_doubleword_alone(desk):
    ended = await desk.ended()
    if desk.dialect == "doubleword":
        assert (await desk.client.batches.cancel(ended.id)).status == "cancelled"
    else:
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a batch with status 'completed'"):
            await desk.client.batches.cancel(ended.id)


async def test_models_are_listed(desk):
    assert "sandbox-model" in [model.id async for model in desk.client.models.list()]


async def test_the_blocking_client_walks_the_same_way(desk, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(jsonl(lines("a", "b")))

    def walk():
        with OpenAI(base_url=desk.sandbox.url, api_key="sk-of-the-test", max_retries=0) as client:
            uploaded = client.files.create(file=path, purpose="batch")
            created = client.batches.create(input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h")
            desk.clock.advance(60)
            ended = client.batches.retrieve(created.id)
            client.files.content(ended.output_file_id).write_to_file(tmp_path / "answers.jsonl")
            return [batch.id for batch in client.batches.list(limit=1)] == [ended.id]

    assert await asyncio.to_thread(walk)
    answers = (tmp_path / "answers.jsonl").read_bytes().splitlines()
    assert [json.loads(row)["custom_id"] for row in answers] == ["a", "b"]


# ---------------------------------------------------------------- what only one dialect has


async def test_output_is_streamed_while_a_doubleword_batch_runs_and_resumed_by_skip(open_desk):
    desk = await open_desk("doubleword")
    batch = await desk.batch(lines(*"abcdefghij"))
    streaming = desk.client.files.with_streaming_response
    desk.clock.advance(4)
    async with streaming.content(batch.output_file_id) as reply:
        first = [json.loads(row)["custom_id"] async for row in reply.iter_lines()]
        assert reply.headers["X-Incomplete"] == "true"
        assert int(reply.headers["X-Last-Line"]) == len(first) == 3
    desk.clock.advance(60)
    async with streaming.content(batch.output_file_id, extra_query={"skip": 3}) as reply:
        rest = [json.loads(row)["custom_id"] async for row in reply.iter_lines()]
        assert (reply.headers["X-Incomplete"], reply.headers["X-Last-Line"]) == ("false", "10")
    assert first + rest == list("abcdefghij")


async def test_doublewords_own_calls_are_within_the_sdks_reach(open_desk):
    desk = await open_desk("doubleword")
    ended = await desk.ended([line("a"), line("b", metadata={"sandbox": "fail-once"})])
    assert ended.request_counts.failed == 1
    again = await desk.client.post(f"/batches/{ended.id}/retry", cast_to=Batch)
    assert (again.status, again.request_counts.failed) == ("in_progress", 0)
    desk.clock.advance(60)
    found = desk.client.batches.list(extra_query={"search": ended.id, "status": "completed"})
    assert [batch.request_counts.completed async for batch in found] == [2]
    await desk.client.delete(f"/batches/{ended.id}", cast_to=type(None))
    with pytest.raises(openai.NotFoundError):
        await desk.client.batches.retrieve(ended.id)


async def test_bad_lines_fail_an_openai_batch_and_are_named(open_desk):
    desk = await open_desk()
    ended = await desk.ended([line("a"), line("a"), line("c", model="other")])
    assert (ended.status, ended.output_file_id, ended.error_file_id) == ("failed", None, None)
    assert ended.failed_at
    named = [(error.code, error.line) for error in ended.errors.data]
    assert named == [("mismatched_model", 3), ("duplicate_custom_id", 2)]


async def test_a_full_token_quota_shows_minutes_after_the_create(open_desk):
    desk = await open_desk()
    desk.sandbox.faults.add("token-limit", seconds=120)
    created = await desk.batch()
    desk.clock.advance(119)
    assert (await desk.client.batches.retrieve(created.id)).status == "validating"
    desk.clock.advance(1)
    failed = await desk.client.batches.retrieve(created.id)
    assert (failed.status, failed.errors.data[0].code) == ("failed", "token_limit_exceeded")


async def test_an_expired_batch_has_an_output_and_its_late_lines_as_batch_expired(open_desk):
    desk = await open_desk()
    desk.sandbox.faults.add("expired", share=0.5)
    ended = await desk.ended(lines(*"abcd"))
    assert (ended.status, ended.expired_at) == ("expired", ended.expires_at)
    answered = rows_of(await desk.client.files.content(ended.output_file_id))
    late = rows_of(await desk.client.files.content(ended.error_file_id))
    assert [row["custom_id"] for row in answered] == ["a", "b"]
    assert [(row["custom_id"], row["error"]["code"]) for row in late] == [
        ("c", "batch_expired"),
        ("d", "batch_expired"),
    ]


# ---------------------------------------------------------------- errors

ERRORS = {
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize(("status", "kind"), ERRORS.items())
async def test_a_refusal_is_the_sdks_exception_for_its_status(desk, status, kind):
    desk.sandbox.faults.add(f"status-{status}:route=retrieve")
    with pytest.raises(openai.APIStatusError) as caught:
        await desk.client.batches.retrieve(MISSING[desk.dialect])
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    plain = desk.dialect == "doubleword" and status not in {409, 429, 503}
    kind_of_body = caught.value.response.headers["Content-Type"].partition(";")[0]
    assert kind_of_body == ("text/plain" if plain else "application/json")
    if desk.dialect == "openai":
        assert {"message", "type", "param", "code"} == set(caught.value.body)
    elif plain:
        assert isinstance(caught.value.body, str)


async def test_what_is_not_there_is_worded_as_the_dialect_does(desk):
    name = MISSING[desk.dialect]
    with pytest.raises(openai.NotFoundError) as caught:
        await desk.client.files.retrieve(name)
    with pytest.raises(openai.NotFoundError) as other:
        await desk.client.batches.cancel(name)
    if desk.dialect == "openai":
        assert caught.value.body["message"] == "No such File object: missing"
        assert other.value.body["message"] == "No batch found with id 'missing'."
        assert (other.value.type, other.value.param) == ("invalid_request_error", "batch_id")
    else:
        assert caught.value.body == f"File with ID {name} not found"
        assert other.value.body == f"Batch with ID {name} not found"


async def test_an_id_of_the_other_kind_is_a_bad_request_at_doubleword_and_unknown_at_openai(desk):
    kind = openai.BadRequestError if desk.dialect == "doubleword" else openai.NotFoundError
    for name in ("file-abc", "batch_abc"):
        with pytest.raises(kind):
            await desk.client.batches.retrieve(name)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"completion_window": "2h"}, "completion_window"),
        ({"endpoint": "/v1/songs"}, "endpoint"),
    ],
)
async def test_a_create_that_asks_for_what_is_not_sold_is_a_bad_request(desk, wish, said):
    uploaded = await desk.upload(lines("a"))
    order = {"input_file_id": uploaded.id, "endpoint": CHAT, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as caught:
        await desk.client.batches.create(**(order | wish))
    assert said in str(caught.value.body)
    assert caught.value.param == (said if desk.dialect == "openai" else None)


async def test_a_create_from_a_file_that_is_gone_is_not_found(desk):
    uploaded = await desk.upload(lines("a"))
    await desk.client.files.delete(uploaded.id)
    with pytest.raises(openai.NotFoundError):
        await desk.create(uploaded.id)


async def test_a_bad_line_refuses_the_upload_at_doubleword_alone(desk):
    bad = [{"method": "POST", "url": CHAT, "body": {"model": "m"}}]
    if desk.dialect == "openai":
        assert (await desk.upload(bad)).status == "processed"
        return
    with pytest.raises(openai.BadRequestError) as caught:
        await desk.upload(bad)
    assert "Invalid JSON on line 1: missing field `custom_id`" in caught.value.body
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await desk.upload([line("a", model="unknown-x")])
    assert caught.value.body == "Line 1: Model 'unknown-x' has not been configured or is not available to user"


async def test_a_wrong_key_is_an_authentication_error(open_desk):
    for dialect in ("doubleword", "openai"):
        desk = await open_desk(dialect, api_key="another")
        with pytest.raises(openai.AuthenticationError) as caught:
            await desk.client.files.list()
        assert caught.value.code == ("invalid_api_key" if dialect == "openai" else None)


async def test_an_empty_balance_is_402_at_doubleword_and_a_quota_of_429_at_openai(desk):
    uploaded = await desk.upload(lines("a"))
    desk.sandbox.faults.add("no-credit")
    with pytest.raises(openai.APIStatusError) as caught:
        await desk.create(uploaded.id)
    if desk.dialect == "openai":
        assert isinstance(caught.value, openai.RateLimitError)
        assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    else:
        assert (caught.value.status_code, caught.value.body[:23]) == (402, "Account balance too low")


async def test_a_429_says_when_to_come_back(desk):
    desk.sandbox.faults.add("status-429:route=create", times=1)
    with pytest.raises(openai.RateLimitError) as caught:
        await desk.create(MISSING[desk.dialect])
    assert caught.value.response.headers["Retry-After"] == "60"
    assert caught.value.code == ("rate_limit_exceeded" if desk.dialect == "openai" else None)


async def test_a_proxys_page_and_a_reset_are_the_sdks_own_errors(desk):
    desk.sandbox.faults.add("html-error:route=retrieve", times=1)
    with pytest.raises(openai.InternalServerError):
        await desk.client.batches.retrieve(MISSING[desk.dialect])
    desk.sandbox.faults.add("reset-before:route=retrieve", times=1)
    with pytest.raises(openai.APIConnectionError):
        await desk.client.batches.retrieve(MISSING[desk.dialect])


async def test_the_sdks_own_retry_after_a_lost_reply_makes_a_second_batch(open_desk):
    desk = await open_desk("openai", sdk={"max_retries": 1})
    uploaded = await desk.upload(lines("a"))
    desk.sandbox.faults.add("create-lost-reply", times=1)
    kept = await desk.create(uploaded.id)
    assert desk.sandbox.ledger.creates == 2
    assert desk.sandbox.ledger.batches[1].id == kept.id
