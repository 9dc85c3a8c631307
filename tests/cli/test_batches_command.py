import re

import pytest


@pytest.fixture
def batched(queue):
    """A settled batch with every outcome, and one under way with two prompts in it."""
    queue.sql(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('doubleword', '/v1/x', '1h', '')"
    )
    queue.sql(
        "INSERT INTO batch_states (key, lane_id, status, lines, nbytes, lines_done, lines_failed, remote_batch_id,"
        " input_file_id, remote_status, created_at_ms, settled_at_ms, files_deleted_at_ms)"
        " VALUES ('orc-1', 1, 'settled', 3, 300, 2, 1, 'r-1', 'f-1', 'completed', 1700000000000, 1700000060000,"
        " 1700086400000)"
    )
    queue.sql(
        "INSERT INTO batch_states (key, lane_id, status, lines, remote_batch_id, created_at_ms, last_error)"
        " VALUES ('orc-2', 1, 'submitted', 2, 'r-2', 1700000100000, 'poll: 503')"
    )
    for number, fault in enumerate((None, None, "server"), 1):
        queue.add(f"q-{number}")
        queue.end(f"q-{number}", "failed" if fault else "done", fault=fault, batch_id=1)
    for number in (4, 5):
        queue.add(f"q-{number}")
        queue.sql("UPDATE prompt_states SET status = 'batched', batch_id = 2 WHERE prompt_id = ?", number)
    return queue


def test_batches_are_listed_newest_first(command, batched):
    said = command("batches")
    assert (said.code, said.err) == (0, "")
    rows = said.out.splitlines()[2:4]
    assert [row.split()[0] for row in rows] == ["2", "1"]
    assert re.search(r"1 +doubleword +any +settled +completed +3/3 +11-14 22:13$", rows[1])


def test_json_has_every_column_of_the_view(command, batched):
    columns = {row["name"] for row in batched.sql("SELECT name FROM pragma_table_info('batches')")}
    newest, oldest = command("batches", "--json").json["batches"]
    assert set(newest) == columns
    assert (newest["key"], oldest["key"]) == ("orc-2", "orc-1")


def test_the_list_ends_at_its_limit(command, batched):
    assert [batch["id"] for batch in command("batches", "--limit", 1, "--json").json["batches"]] == [2]


def test_of_two_batches_to_which_two_providers_gave_one_id_the_newest_is_shown(command, batched):
    batched.sql("UPDATE batch_states SET remote_batch_id = 'same'")
    assert command("batches", "same", "--json").json["batch"]["id"] == 2


def test_a_list_longer_than_a_page_is_whole(command, batched):
    values = ", ".join(f"('k-{at}', 1, 'settled', 1)" for at in range(1200))
    batched.sql(f"INSERT INTO batch_states (key, lane_id, status, created_at_ms) VALUES {values}")
    ids = [batch["id"] for batch in command("batches", "--limit", 5000, "--json").json["batches"]]
    assert ids == list(range(1202, 0, -1))


@pytest.mark.parametrize("named", ["1", "orc-1", "r-1"])
def test_a_batch_is_found_by_our_id_its_key_and_the_providers_id(command, batched, named):
    told = command("batches", named, "--json").json
    assert (told["batch"]["id"], told["batch"]["input_file_id"]) == (1, "f-1")
    assert told["outcomes"] == {"done": 2, "server": 1}


def test_prompts_still_in_a_batch_are_waiting(command, batched):
    assert command("batches", 2, "--json").json["outcomes"] == {"waiting": 2}


def test_a_pipe_gets_ids_files_timeline_and_outcomes(command, batched):
    said = command("batches", 1)
    assert (said.code, said.err) == (0, "")
    for line in (
        r"batch 1:",
        r"key +orc-1",
        r"input_file_id +f-1",
        r"created +2023-11-14 22:13:20",
        r"settled +2023-11-14 22:14:20",
        r"files_deleted +2023-11-15 22:13:20",
        r"done +2",
        r"server +1",
    ):
        assert re.search(rf"^ *{line}$", said.out, re.MULTILINE), line


@pytest.mark.parametrize("named", ["99", "nobody", "9" * 40, "²", "'"])
def test_an_unknown_batch_is_one_line_with_exit_code_1(command, batched, named):
    said = command("batches", named)
    assert (said.code, said.out) == (1, "")
    assert said.err == f"orchestrator: no batch {named}: `orchestrator batches` lists them\n"


def test_before_the_first_batch_there_is_a_word(command, queue):
    assert command("batches").out == "no batches yet\n"
    assert command("batches", "--json").json == {"batches": []}
