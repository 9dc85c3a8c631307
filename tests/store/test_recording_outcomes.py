"""Outcomes are written once per prompt and try, together with the prompt's new state, or not at all."""

import pytest
from sqlalchemy.exc import IntegrityError

from orchestrator.core.model import Fault, PromptStatus
from orchestrator.core.outcomes import Outcome
from orchestrator.store.queue import delete_batched_orphans, delete_orphans, list_unadmitted
from orchestrator.store.replies import (
    Entry,
    count_members,
    find_members,
    get_members,
    keep_unreadable,
    list_members,
    once_in_batch,
    record,
)

NOW_MS = 1_800_000_000_000
DONE = Outcome(None, 200, answer="hello", model="m-2", prompt_tokens=1, completion_tokens=2, response='{"a":1}')
OOPS = Outcome(Fault.SERVER, 500, "oops", "try again")


def entry(member, outcome=DONE, status=PromptStatus.DONE, **values):
    given = {"batch_id": member.batch_id, "attempts": member.attempts + 1, "returns": member.returns}
    return Entry(member, outcome, status=status, **(given | values))


async def member_of(daemon, prompt_id):
    (member,) = await daemon.read(lambda c: get_members(c, [prompt_id]))
    return member


async def recorded(daemon, *entries):
    await daemon.write(lambda c: record(c, entries, NOW_MS))


@pytest.fixture
async def batched(user, daemon):
    """A prompt in a batch, as a member."""
    prompt_id = user.insert(custom_id="a")
    await daemon.admit(prompt_id)
    await daemon.batch(prompt_id)
    return await member_of(daemon, prompt_id)


async def test_an_outcome_and_the_state_it_leaves_come_together(user, daemon, batched):
    await recorded(daemon, entry(batched))
    state = user.state(batched.prompt_id)
    assert (state["status"], state["attempts"], state["replies"], state["batch_id"]) == ("done", 1, 1, None)
    assert state["finished_at_ms"] == NOW_MS
    (reply,) = user.rows("SELECT * FROM replies")
    assert (reply["prompt_id"], reply["seq"], reply["batch_id"], reply["attempt"]) == (batched.prompt_id, 1, 1, 1)
    assert (reply["answer"], reply["response"], reply["fault"]) == ("hello", '{"a":1}', None)


async def test_a_stale_member_writes_nothing_at_all(user, daemon, batched):
    other = user.insert()
    await daemon.admit(other)
    await recorded(daemon, entry(batched))
    before = user.rows("SELECT * FROM prompt_states ORDER BY prompt_id"), user.rows("SELECT * FROM replies")
    with pytest.raises(IntegrityError):
        await recorded(daemon, entry(await member_of(daemon, other), OOPS, PromptStatus.FAILED), entry(batched, OOPS))
    assert before == (user.rows("SELECT * FROM prompt_states ORDER BY prompt_id"), user.rows("SELECT * FROM replies"))


async def test_a_member_whose_status_changed_since_is_not_moved(user, daemon):
    prompt_id = user.insert()
    member = await member_of(daemon, prompt_id)
    user.put(prompt_id, "cancelled")
    await recorded(daemon, entry(member, OOPS, PromptStatus.FAILED))
    assert user.state(prompt_id)["status"] == "cancelled"


@pytest.mark.sqlite
async def test_a_member_whose_row_was_replaced_since_is_not_moved(user, daemon):
    prompt_id = user.insert()
    await recorded(daemon, entry(await member_of(daemon, prompt_id), OOPS, PromptStatus.FAILED))
    user.run("UPDATE prompt_states SET status = 'queued'")
    member = await member_of(daemon, prompt_id)
    user.run("INSERT OR REPLACE INTO prompts (id, prompt) VALUES (?, 'new')", prompt_id)
    before = user.state(prompt_id)
    await recorded(daemon, entry(member))
    assert user.state(prompt_id) == before


async def test_one_prompt_may_come_up_twice_in_one_go_in_order(user, daemon, batched):
    later = await member_of(daemon, batched.prompt_id)
    first = entry(batched, OOPS, PromptStatus.QUEUED, due_at_ms=NOW_MS + 1)
    then = type(later)(later.prompt_id, PromptStatus.QUEUED, None, 1, 0, 0, 1)
    await recorded(daemon, first, entry(then, DONE))
    assert user.values("SELECT fault FROM attempts ORDER BY seq") == ["server", None]
    assert user.value("SELECT status FROM results") == "done"


async def test_who_comes_up_twice_moves_in_order_among_others_that_do(user, daemon, batched):
    other = await member_of(daemon, user.insert(custom_id="b"))
    firsts = [
        entry(member, OOPS, PromptStatus.QUEUED, due_at_ms=NOW_MS + delay)
        for delay, member in ((1, other), (2, batched))
    ]
    thens = [entry(type(one)(one.prompt_id, PromptStatus.QUEUED, None, 1, 0, 0, 1), DONE) for one in (other, batched)]
    await recorded(daemon, firsts[0], thens[0], firsts[1], thens[1])
    assert user.values("SELECT status FROM results ORDER BY custom_id") == ["done", "done"]


async def test_every_failed_attempt_stays_in_the_history(user, daemon, batched):
    for number in (1, 2, 3):
        member = await member_of(daemon, batched.prompt_id)
        outcome = Outcome(Fault.THROTTLED, 429, f"code-{number}", f"message {number}")
        await recorded(daemon, entry(member, outcome, PromptStatus.QUEUED, due_at_ms=NOW_MS))
        await daemon.batch(batched.prompt_id, key=f"again-{number}")
    await recorded(daemon, entry(await member_of(daemon, batched.prompt_id)))
    rows = user.rows(
        "SELECT custom_id, seq, attempt, batch_id, fault, error_code, error_message FROM attempts ORDER BY seq"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("a", 1, 1, 1, "throttled", "code-1", "message 1"),
        ("a", 2, 2, 2, "throttled", "code-2", "message 2"),
        ("a", 3, 3, 3, "throttled", "code-3", "message 3"),
        ("a", 4, 4, 4, None, None, None),
    ]
    assert user.value("SELECT attempts FROM results") == 4


async def test_a_resent_prompt_waits_for_its_time_and_keeps_its_lane(user, daemon, batched):
    await recorded(daemon, entry(batched, OOPS, PromptStatus.QUEUED, due_at_ms=NOW_MS + 5))
    state = user.state(batched.prompt_id)
    assert (state["status"], state["waiting"], state["due_at_ms"], state["lane_id"]) == ("queued", 1, NOW_MS + 5, 1)
    assert state["finished_at_ms"] is None


async def test_a_prompt_resent_without_delay_is_ready_at_once(user, daemon, batched):
    await recorded(daemon, entry(batched, OOPS, PromptStatus.QUEUED, due_at_ms=NOW_MS))
    assert user.state(batched.prompt_id)["waiting"] == 0


async def test_an_answer_raises_a_prompt_from_every_state_it_can_be_in(user, daemon):
    for status in ("queued", "failed", "cancelled", "batched"):
        prompt_id = user.insert()
        user.put(prompt_id, status)
        await recorded(daemon, entry(await member_of(daemon, prompt_id)))
        assert user.state(prompt_id)["status"] == "done"


async def test_no_outcome_moves_a_prompt_off_the_table(user, daemon):
    prompt_id = user.insert()
    user.put(prompt_id, "done")
    with pytest.raises(IntegrityError, match="no such move"):
        await recorded(daemon, entry(await member_of(daemon, prompt_id), OOPS, PromptStatus.FAILED))
    assert user.values("SELECT count(*) FROM replies") == [0]


async def test_members_are_found_by_custom_id_and_strangers_left_out(user, daemon, batched):
    found = await daemon.read(lambda c: find_members(c, ["a", "nobody", "\x00"]))
    assert found == {"a": batched}
    assert await daemon.read(lambda c: find_members(c, [])) == {}


async def test_members_of_a_batch_are_listed_in_order_and_counted(user, daemon):
    prompt_ids = user.insert_many(5)
    await daemon.admit(*prompt_ids)
    batch = await daemon.batch(*prompt_ids)
    listed = await daemon.read(lambda c: list_members(c, batch.id, 3))
    assert [member.prompt_id for member in listed] == prompt_ids[:3]
    assert await daemon.read(lambda c: count_members(c, batch.id)) == 5
    assert await daemon.read(lambda c: count_members(c, batch.id + 1)) == 0


async def test_who_left_a_batch_with_an_outcome_is_known(user, daemon, batched):
    stranger = user.insert()
    await recorded(daemon, entry(batched, OOPS, PromptStatus.FAILED))
    ids = [batched.prompt_id, stranger]
    assert await daemon.read(lambda c: once_in_batch(c, 1, ids)) == {batched.prompt_id}
    assert await daemon.read(lambda c: once_in_batch(c, 2, ids)) == set()


SENT_ANEW = {
    "prompt": "UPDATE prompts SET prompt = 'new'",
    "system": "UPDATE prompts SET system = 'new'",
    "body": """UPDATE prompts SET body = '{"temperature": 0}'""",
    "model": "UPDATE prompts SET model = 'new'",
    "endpoint": "UPDATE prompts SET endpoint = '/v1/responses'",
    "custom_id": "UPDATE prompts SET custom_id = 'new'",
}
SENT_AS_BEFORE = {
    "tag": "UPDATE prompts SET tag = 'new'",
    "priority": "UPDATE prompts SET priority = 7",
    "window": "UPDATE prompts SET completion_window = '1h'",
    "provider": "UPDATE prompts SET provider = 'new'",
    "the same": "UPDATE prompts SET prompt = prompt, system = system, body = body, provider = provider",
}


@pytest.mark.parametrize("edit", [*SENT_ANEW, *SENT_AS_BEFORE])
async def test_an_outcome_of_what_was_sent_before_an_edit_says_nothing_of_what_is_sent_now(user, daemon, batched, edit):
    await recorded(daemon, entry(batched, OOPS, PromptStatus.FAILED))
    user.run((SENT_ANEW | SENT_AS_BEFORE)[edit])
    known = {batched.prompt_id} if edit in SENT_AS_BEFORE else set()
    assert await daemon.read(lambda c: once_in_batch(c, 1, [batched.prompt_id])) == known


async def test_what_failed_after_the_edit_is_known_again(user, daemon, batched):
    await recorded(daemon, entry(batched, OOPS, PromptStatus.FAILED))
    user.run("UPDATE prompts SET prompt = 'new'")
    user.run("UPDATE prompt_states SET status = 'queued'")
    await daemon.admit(batched.prompt_id)
    batch = await daemon.batch(batched.prompt_id, key="orc-2")
    await recorded(daemon, entry(await member_of(daemon, batched.prompt_id), OOPS, PromptStatus.FAILED))
    assert await daemon.read(lambda c: once_in_batch(c, batch.id, [batched.prompt_id])) == {batched.prompt_id}
    assert await daemon.read(lambda c: once_in_batch(c, 1, [batched.prompt_id])) == set()


async def test_lines_that_are_nobodys_are_kept_with_their_bytes(user, daemon):
    lost = [Outcome(Fault.UNREADABLE, raw=b"\xff\x00"), Outcome(Fault.UNREADABLE, raw=b"{")]
    for _ in range(2):
        await daemon.write(lambda c: keep_unreadable(c, 7, lost, NOW_MS))
    assert user.values("SELECT raw FROM attempts ORDER BY id") == [b"\xff\x00", b"{"] * 2
    assert user.values("SELECT DISTINCT batch_id FROM attempts WHERE custom_id IS NULL") == [7]


# ---------------------------------------------------------------- INSERT OR REPLACE, which fires no delete trigger


@pytest.mark.sqlite
@pytest.mark.parametrize("status", ["queued", "done", "failed", "cancelled"])
async def test_a_row_replaced_under_its_number_can_end_like_any_other(user, daemon, status):
    prompt_id = user.insert()
    await daemon.admit(prompt_id)
    await recorded(daemon, entry(await member_of(daemon, prompt_id), OOPS, PromptStatus.FAILED))
    if status != "failed":
        user.run("UPDATE prompt_states SET status = 'queued' WHERE prompt_id = ?", prompt_id)
        user.put(prompt_id, status)
    user.run("INSERT OR REPLACE INTO prompts (id, prompt) VALUES (?, 'new')", prompt_id)
    member = await member_of(daemon, prompt_id)
    assert member.status == "queued"
    await recorded(daemon, entry(member))
    assert user.rows("SELECT status, answer, attempts FROM results") == [
        {"status": "done", "answer": "hello", "attempts": 1}
    ]


@pytest.mark.sqlite
@pytest.mark.parametrize("insert", ["INSERT", "INSERT OR IGNORE", "INSERT OR REPLACE"])
async def test_a_number_given_again_brings_no_state_of_the_row_that_had_it(user, daemon, insert):
    prompt_id = user.insert(custom_id="a")
    await daemon.admit(prompt_id)
    await recorded(daemon, entry(await member_of(daemon, prompt_id), OOPS, PromptStatus.FAILED))
    user.run("INSERT OR REPLACE INTO prompts (custom_id, prompt) VALUES ('a', 'second')")
    user.run(f"{insert} INTO prompts (id, custom_id, prompt, priority) VALUES (?, 'b', 'third', 0)", prompt_id)
    member = await member_of(daemon, prompt_id)
    assert (member.status, member.attempts, member.replies) == ("queued", 0, 0)


@pytest.mark.sqlite
async def test_a_row_replaced_by_its_custom_id_leaves_nothing_that_waits_for_ever(user, daemon):
    user.insert(custom_id="a")
    user.run("INSERT OR REPLACE INTO prompts (custom_id, prompt) VALUES ('a', 'new')")
    waiting = await daemon.read(list_unadmitted)
    assert [line.prompt_id for line in waiting] == [1, 2]
    assert await daemon.write(lambda c: delete_orphans(c, [1, 2])) == 1
    assert user.values("SELECT prompt_id FROM prompt_states") == [2]


@pytest.mark.sqlite
async def test_a_row_replaced_while_it_is_batched_leaves_its_batch(user, daemon, batched):
    user.run("INSERT OR REPLACE INTO prompts (custom_id, prompt) VALUES ('a', 'new')")
    assert await daemon.write(lambda c: delete_orphans(c, [*range(100)])) == 0
    assert await daemon.write(lambda c: delete_batched_orphans(c, 1)) == 1
    assert user.values("SELECT status FROM prompt_states") == ["queued"]


async def test_a_row_that_is_still_there_is_no_orphan(user, daemon, batched):
    user.insert_many(3)
    assert await daemon.write(lambda c: delete_orphans(c, [*range(100)])) == 0
    assert await daemon.write(lambda c: delete_batched_orphans(c, 1)) == 0
