"""`deploy/postgresql-roles.sql`: who may drop prompts in and read, and who may also change what waits."""

from pathlib import Path

import psycopg
import pytest

ROLES = (Path(__file__).parents[2] / "deploy/postgresql-roles.sql").read_text()

pytestmark = pytest.mark.postgresql


@pytest.fixture
def acting(user):
    """Act as one of the roles on a queue with one prompt."""
    user.insert(custom_id="a")
    for _ in range(2):
        user.connection.execute(ROLES)

    def acting(role):
        user.run(f"SET ROLE {role}")
        return user

    return acting


def test_a_producer_drops_prompts_in_and_reads_what_became_of_them(acting):
    producer = acting("orchestrator_producer")
    statement = "INSERT INTO prompts (custom_id, prompt, tag) VALUES ('b', 'hi', 't') RETURNING id"
    assert producer.value(statement) == 2
    producer.run("INSERT INTO prompts (custom_id, prompt) VALUES ('b', 'hi') ON CONFLICT (custom_id) DO NOTHING")
    assert producer.rows("SELECT custom_id, status, tag FROM results ORDER BY id") == [
        {"custom_id": "a", "status": "queued", "tag": None},
        {"custom_id": "b", "status": "queued", "tag": "t"},
    ]
    for view in ("attempts", "batches", "progress"):
        producer.rows(f"SELECT * FROM {view}")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT prompt FROM prompts",
        "DELETE FROM prompts",
        "UPDATE prompts SET prompt = 'x'",
        "TRUNCATE prompts",
        "UPDATE prompt_states SET status = 'cancelled'",
        "INSERT INTO prompt_states (prompt_id, due_at_ms, line_bytes) VALUES (9, 0, 0)",
        "SELECT * FROM replies",
        "SELECT * FROM batch_states",
        "UPDATE alembic_version SET version_num = '1'",
        "CREATE TABLE mine (id integer)",
    ],
)
def test_a_producer_may_do_nothing_else(acting, statement):
    producer = acting("orchestrator_producer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        producer.run(statement)


def test_an_operator_may_correct_cancel_queue_again_and_delete(acting):
    operator = acting("orchestrator_operator")
    operator.run("UPDATE prompts SET prompt = 'better' WHERE custom_id = 'a'")
    operator.run("UPDATE prompt_states SET status = 'cancelled'")
    operator.run("UPDATE prompt_states SET status = 'queued'")
    operator.run("DELETE FROM prompts WHERE custom_id = 'a'")
    assert operator.value("SELECT count(*) FROM prompt_states") == 0


def test_an_operator_writes_nothing_that_is_the_daemons(acting):
    operator = acting("orchestrator_operator")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        operator.run("UPDATE prompt_states SET attempts = 0")
    with pytest.raises(psycopg.IntegrityError):
        operator.run("UPDATE prompt_states SET status = 'batched'")
