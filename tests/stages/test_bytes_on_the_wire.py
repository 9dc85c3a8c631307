"""Bodies reach the provider as the user wrote them; each answer belongs to its own question."""

import json
import re

import pytest
from rig import submit

from orchestrator.store import queue

BODIES = (
    '{"model":"m","zeta":1,"alpha":2,"messages":[{"role":"user","content":"x"}]}',
    '{"model":"m","messages":[{"content":"x","role":"user"}],"n":1.0,"big":123456789012345678901234567890,"e":1E2}',
    '{"model":"m","messages":[{"role":"user","content":"\\u00e9 é \\ud83d\\ude00 😀 \u2028 \\/"}]}',
    '{ "model" : "m" ,\t"messages" : [ {"role":"user","content":"x"} ] }',
    (
        '{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":'
        '{"schema":{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"number"}}}}}}'
    ),
)


def lines_sent(rig):
    (body,) = [body for method, path, body in rig.proxy.bodies if (method, path) == ("POST", "/v1/files")]
    content = body.split(b"Content-Type: application/jsonl\r\n\r\n")[1]
    return content.rsplit(b"\r\n--", 1)[0].split(b"\n")[:-1]


@pytest.mark.parametrize("body", BODIES)
async def test_a_whole_body_goes_through_byte_for_byte(start, body):
    rig = await start(through_proxy=True)
    rig.ask("one", body=body, model=None)
    await rig.submitted()
    (line,) = lines_sent(rig)
    assert line == (b'{"custom_id":"one","method":"POST","url":"/v1/chat/completions","body":' + body.encode() + b"}")
    await rig.until_idle()


async def test_parameters_beside_a_prompt_keep_their_bytes_and_order(start):
    rig = await start(through_proxy=True)
    rig.ask("one", body='{"zeta": 1.50, "alpha": {"z": 1, "a": 2}}', prompt="Hello é", system="Be terse.")
    await rig.submitted()
    (line,) = lines_sent(rig)
    assert '"content":"Hello é"'.encode() in line
    assert re.search(rb'"zeta":\s*1\.50,\s*"alpha":\s*\{"z": 1, "a": 2\}', line)
    await rig.until_idle()


async def test_line_breaks_inside_a_body_become_spaces_and_nothing_else(start):
    rig = await start(through_proxy=True)
    rig.ask("one", body='{\r\n "model": "m",\n "messages": [{"role": "user",\n "content": "a\\nb"}]\n}', model=None)
    await rig.submitted()
    (line,) = lines_sent(rig)
    assert b'"body":{   "model": "m",  "messages": [{"role": "user",  "content": "a\\nb"}] }}' in line


@pytest.mark.sqlite
async def test_prompts_whose_ids_lie_at_and_below_zero_are_sent(start):
    rig = await start()
    for prompt_id in (-(1 << 63), -(1 << 62), -1, 0, 7):
        rig.ask(f"q{prompt_id}", id=prompt_id)
    await rig.until_idle()
    assert {*rig.statuses().values()} == {"done"}


@pytest.mark.parametrize("page", [1, 7, 30, 31])
async def test_a_file_is_read_in_pages_and_sent_in_order(start, monkeypatch, page):
    monkeypatch.setattr("orchestrator.store.queue.PAGE_BYTES", 400)
    monkeypatch.setattr("orchestrator.store.queue._LIST_NEXT_LINES", queue._LIST_NEXT_LINES.limit(page))
    rig = await start(through_proxy=True)
    asked = rig.ask_many(30)
    await rig.submitted()
    assert [json.loads(line)["custom_id"] for line in lines_sent(rig)] == asked
    await rig.until_idle()


async def test_a_thousand_answers_in_any_order_each_belong_to_their_question(start):
    rig = await start(sandbox={"order": "shuffled", "line_faults": {"fail": 0.1, "duplicate": 0.1, "late": 0.05}})
    rig.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
        " INSERT INTO prompts (custom_id, model, prompt) SELECT 'q-' || i, 'm', 'Question number ' || i FROM n"
    )
    await rig.until_idle()
    assert rig.count() == {"done": 1000}
    assert set(rig.ledger.successes.values()) == {1}
    wrong = rig.value(
        "SELECT count(*) FROM results r JOIN prompts p USING (id) WHERE r.answer NOT LIKE '%You asked: ' || p.prompt"
    )
    assert wrong == 0


async def test_the_upload_has_a_known_length_and_names_its_purpose(start):
    rig = await start(through_proxy=True)
    rig.ask_many(3)
    await rig.sealed()
    await rig.run(submit)
    ((_, _, headers),) = [seen for seen in rig.proxy.seen if seen[:2] == ("POST", "/v1/files")]
    body = next(body for _, path, body in rig.proxy.bodies if path == "/v1/files")
    assert int(headers["Content-Length"]) == len(body)
    assert "Transfer-Encoding" not in headers
    assert b'name="purpose"\r\n\r\nbatch\r\n' in body
