"""Rows that any SQL client may write: refused at once, or ended with one clear reason; nothing else is held up."""

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from effort import tried
from hypothesis import given
from hypothesis import strategies as st
from rig import FLOW, Clock, open_rig

from orchestrator.cli import cli

GOOD = ("good-1", "good-2", "good-3")
NASTY_TEXTS = (
    "", " ", "\0", "a\0b", "\n", "\r\n", "\x7f", "\x1b[2J\x1b]0;x\x07", "\u2028", "\ufeff", "\U0010ffff",
    "e\u0301", "é" * 64,
    "x" * 64, "x" * 65, "../../etc", "%s%n", "'; DROP TABLE prompts; --", "null", "NaN", "-0", "1e999", "9" * 400,
    "{}", "[]", "{", '{"a":', '{"model": 1}', '{"model": ""}', '{"model": null}', '{"messages": []}',
    '{"messages": NaN}',
    '{"messages": [], "messages": 1}', '{"input": "x"}', '{"prompt": "x"}', '{"\\ud800": "\\ud800"}', '"text"', "1",
    '{"messages": 1e999}', '{"a": 1}{"b": 2}', "{" * 2000, "[" * 100_000, '{"a":' * 100_000,
    '{"messages": ' + "[" * 100_000,
    "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/completions", "/v1/batches", "http://elsewhere/v1", "1h",
    "24h", "-1h", "doubleword", "other", "DOUBLEWORD", "now", "2000-01-01", "9999-12-31 23:59:59", "-4713-11-24 12:00",
    "2026-02-30", "24:00", "1e10", "12345678901234567890", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00+99:99",
)  # fmt: skip
NASTY_BYTES = (
    b"",
    b"\xff",
    b"\xc3",
    b"a\xffb",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b'{"model": "\xff"}',
    b"\0",
    b"\xff" * 64,
)
NASTY_NUMBERS = (0, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 0.5, 1e300, -1e300, float("inf"), float("nan"))
COLUMNS = (
    "id", "custom_id", "model", "endpoint", "completion_window", "provider", "priority", "not_before", "tag",
    "created_at", "metadata", "system", "prompt", "body",
)  # fmt: skip

texts = st.sampled_from(NASTY_TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
raw = st.sampled_from(NASTY_BYTES) | st.binary(max_size=20)
cells = st.one_of(
    st.tuples(st.just("?"), texts),
    st.tuples(st.just("?"), raw),
    st.tuples(st.just("CAST(? AS TEXT)"), raw),
    st.tuples(st.just("?"), st.sampled_from(NASTY_NUMBERS) | st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("?"), st.none()),
)
"""What stands in a statement, and the value bound to it: text that is no UTF-8 has to be cast."""
edits = st.dictionaries(st.sampled_from(COLUMNS), cells, min_size=1, max_size=3)


@contextlib.contextmanager
def folder_in_memory():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.exists() else None) as folder:
        yield Path(folder)


@contextlib.asynccontextmanager
async def opened(path):
    async with open_rig(path, Clock()) as rig:
        for custom_id in GOOD:
            rig.ask(custom_id)
        yield rig


def taken(rig, statement, *values):
    """Whether the table takes it."""
    try:
        rig.sql(statement, *values)
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, sqlite3.OperationalError) as refusal:
        assert "full" not in str(refusal)
        return False
    return True


def insert(rig, number, edit):
    row = {"custom_id": ("?", f"odd-{number}"), "model": ("?", "m"), "prompt": ("?", "Why?"), **edit}
    marks, values = zip(*row.values(), strict=True)
    return taken(rig, f"INSERT INTO prompts ({', '.join(row)}) VALUES ({', '.join(marks)})", *values)


def update(rig, number, edit):
    marks = ", ".join(f"{name} = {mark}" for name, (mark, _) in edit.items())
    values = [value for _, value in edit.values()]
    return taken(rig, f"UPDATE prompts SET {marks} WHERE custom_id = ?", *values, f"odd-{number}")


async def come_to_rest(rig):
    """Until every prompt has ended or waits for its own time."""
    now = (
        "SELECT count(*) FROM prompt_states"
        " WHERE status = 'batched' OR (status = 'queued' AND (waiting = 0 OR attempts))"
    )
    await rig.until(lambda: not rig.value(now), turns=200)


def check(rig):
    """Good rows are answered, each odd one has an end that says why, or its time to wait for."""
    with contextlib.closing(sqlite3.connect(rig.path)) as connection:
        connection.text_factory = bytes
        found = connection.execute(
            "SELECT s.status, r.fault, r.error_message, s.waiting, s.due_at_ms, CAST(p.custom_id AS BLOB)"
            " FROM prompt_states s JOIN prompts p ON p.id = s.prompt_id"
            " LEFT JOIN replies r ON r.prompt_id = p.id AND r.seq = s.replies"
        ).fetchall()
    ends = {custom_id: status for status, *_, custom_id in found}
    assert {ends.get(name.encode()) for name in GOOD} == {b"done"}
    for status, fault, message, waiting, due_at_ms, _ in found:
        if status == b"failed":
            assert fault in (b"invalid", b"refused")
            assert message
            assert message.decode().isprintable()
            assert len(message) < 1000
        elif status == b"queued":
            assert waiting
            assert due_at_ms > rig.clock() * 1000
        else:
            assert status == b"done"
    assert set(rig.ledger.successes.values()) <= {1}


def read_all(path):
    """Every command that reads prints them, whatever they hold."""
    settings = {"ORCHESTRATOR_DATABASE__URL": f"sqlite:///{path}"}
    for words in (
        "results", "results --format csv", "results --format openai", "results --tag x", "status --json",
        "failures --json", "batches --json", "status", "failures", "batches", "retry --tag x",
    ):  # fmt: skip
        ran = CliRunner(env=settings).invoke(cli, words.split(), catch_exceptions=False, standalone_mode=False)
        assert ran.exit_code == 0


@pytest.fixture(scope="session")
def keyed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
        yield


def every_odd_row():
    """Each column once with each nasty value."""
    odd = [("?", value) for value in (*NASTY_TEXTS, *NASTY_BYTES, *NASTY_NUMBERS, None)]
    odd += [("CAST(? AS TEXT)", value) for value in NASTY_BYTES]
    return [{name: cell} for name in COLUMNS for cell in odd]


def lived(empty_queue, live):
    with folder_in_memory() as folder:
        path = folder / "queue.db"
        shutil.copyfile(empty_queue, path)
        asyncio.run(live(path))
        read_all(path)


async def rest_with(path, rows):
    async with opened(path) as rig:
        for number, edit in enumerate(rows):
            insert(rig, number, edit)
        await come_to_rest(rig)
        check(rig)


def test_a_nasty_value_in_any_column_holds_up_no_other_row_and_ends_with_a_reason(empty_queue, keyed):
    lived(empty_queue, lambda path: rest_with(path, every_odd_row()))


@tried(3)
@given(st.lists(edits, min_size=20, max_size=40))
def test_no_row_of_any_kind_holds_up_another_and_each_ends_with_a_reason(empty_queue, keyed, rows):
    lived(empty_queue, lambda path: rest_with(path, rows))


@tried(3)
@given(st.lists(st.tuples(st.sampled_from(FLOW), st.integers(0, 4), edits), min_size=5, max_size=12))
def test_no_edit_of_any_kind_at_any_moment_holds_up_another_row(empty_queue, keyed, edits):
    async def live(path):
        async with opened(path) as rig:
            for number in range(5):
                insert(rig, number, {})
            for stage, number, edit in edits:
                await rig.run(stage)
                update(rig, number, edit)
            await come_to_rest(rig)
            check(rig)

    lived(empty_queue, live)
