"""What any SQL client may write into `prompts`, and what the table itself refuses."""

import re
import string

import pytest

COLUMNS = {
    "id": ("INTEGER", None),
    "custom_id": ("TEXT", "generated"),
    "prompt": ("TEXT", None),
    "system": ("TEXT", None),
    "body": ("TEXT", None),
    "model": ("TEXT", None),
    "endpoint": ("TEXT", "'/v1/chat/completions'"),
    "completion_window": ("TEXT", None),
    "provider": ("TEXT", None),
    "priority": ("INTEGER", "0"),
    "not_before": ("TEXT", None),
    "tag": ("TEXT", None),
    "metadata": ("TEXT", None),
    "created_at": ("TEXT", "generated"),
}
PRINTABLE = "".join(map(chr, range(32, 127)))


@pytest.mark.sqlite
def test_the_table_has_the_promised_columns_with_the_promised_defaults(user):
    found = {row["name"]: (row["type"], row["dflt_value"]) for row in user.rows("PRAGMA table_info(prompts)")}
    assert found.keys() == COLUMNS.keys()
    for name, (type_, default) in COLUMNS.items():
        assert found[name][0] == type_
        assert default == "generated" or found[name][1] == default


def test_the_large_columns_stand_last(user):
    assert user.columns("prompts")[-3:] == ["system", "prompt", "body"]


def test_a_prompt_alone_is_enough(user):
    user.run("INSERT INTO prompts (prompt) VALUES ('Write a haiku about rain')")
    (row,) = user.rows("SELECT * FROM prompts")
    assert re.fullmatch(r"p-[0-9a-f]{11}-[0-9a-f]{16}", row.pop("custom_id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", row.pop("created_at"))
    given = {"id": 1, "prompt": "Write a haiku about rain", "endpoint": "/v1/chat/completions", "priority": 0}
    assert row == dict.fromkeys(row) | given


def test_a_body_alone_is_enough(user):
    user.run("INSERT INTO prompts (custom_id, endpoint, body) VALUES ('doc-7', '/v1/embeddings', '{\"input\": 1}')")
    assert user.value("SELECT body FROM prompts") == '{"input": 1}'


def test_generated_ids_differ_and_sort_by_time(user):
    user.run_many("INSERT INTO prompts (prompt) VALUES (?)", [("x",)] * 500)
    assert user.value("SELECT count(DISTINCT custom_id) FROM prompts") == 500


@pytest.mark.parametrize("column", ["custom_id", "priority", "created_at"])
def test_a_null_is_a_column_left_out(user, column):
    user.insert(**{column: None})
    assert user.value(f"SELECT {column} IS NOT NULL FROM prompts") == 1


@pytest.mark.parametrize(
    "custom_id", ["a", "user-123-question-5", "x" * 64, " ", "a b", "'", '"', "%", "*", "[a]", *(string.punctuation)]
)
def test_one_to_64_printable_ascii_bytes_are_an_id(user, custom_id):
    user.insert(custom_id=custom_id)
    assert user.value("SELECT custom_id FROM prompts") == custom_id


def test_every_printable_character_is_allowed(user):
    for start in (0, 50):
        user.insert(custom_id=PRINTABLE[start : start + 50])
    assert user.value("SELECT count(*) FROM prompts") == 2


@pytest.mark.parametrize(
    "custom_id",
    [
        "",
        "x" * 65,
        "é",
        "a\u2028",
        "日本",
        "a\x00",
        "a\x00b",
        "\x00",
        "a\n",
        "a\t",
        "\x7f",
        "a\x1f",
        "x" * 63 + "é",
        "\u00a0",
    ],
)
def test_any_other_id_is_refused(user, custom_id):
    with pytest.raises(user.refused, match=r"(?i)check|NUL"):
        user.insert(custom_id=custom_id)


@pytest.mark.sqlite
@pytest.mark.parametrize("custom_id", ["CAST(x'ff' AS TEXT)", "CAST(x'61ff' AS TEXT)", "CAST(x'6100' AS TEXT)"])
def test_bytes_that_are_no_text_are_no_id(user, custom_id):
    with pytest.raises(user.refused, match=r"(?i)check"):
        user.run(f"INSERT INTO prompts (custom_id, prompt) VALUES ({custom_id}, 'x')")


def test_neither_prompt_nor_body_is_refused(user):
    with pytest.raises(user.refused, match="prompts_needs_prompt_or_body"):
        user.run("INSERT INTO prompts (custom_id) VALUES ('a')")


def test_an_id_in_use_is_refused(user):
    user.insert(custom_id="a")
    with pytest.raises(user.refused, match=r"(?i)unique.*custom_id"):
        user.insert(custom_id="a")


@pytest.mark.sqlite
@pytest.mark.parametrize("column", ["priority", "prompt", "body", "tag"])
def test_a_blob_is_no_text_and_no_number(user, column):
    with pytest.raises(user.refused, match="cannot store BLOB"):
        user.insert(**{column: b"\xff"})


@pytest.mark.sqlite
def test_a_priority_is_a_whole_number(user):
    with pytest.raises(user.refused, match="cannot store REAL"):
        user.insert(priority=1.5)
    with pytest.raises(user.refused, match="cannot store TEXT"):
        user.insert(priority="high")


@pytest.mark.sqlite
def test_what_sql_cannot_see_cheaply_is_taken_in(user):
    user.insert(body="{broken", prompt=None, provider="nobody", not_before="soon", metadata="[")
    assert user.value("SELECT count(*) FROM prompt_states") == 1


@pytest.mark.sqlite
def test_or_ignore_skips_a_known_id_and_touches_nothing(user):
    first = user.insert(custom_id="a", prompt="first")
    user.put(first, "failed")
    user.run("INSERT OR IGNORE INTO prompts (custom_id, prompt) VALUES ('a', 'second'), ('b', 'third')")
    assert user.values("SELECT prompt FROM prompts ORDER BY id") == ["first", "third"]
    assert user.state(first)["status"] == "failed"
    assert user.value("SELECT count(*) FROM prompt_states") == 2


def test_on_conflict_do_nothing_skips_a_known_id(user):
    user.insert(custom_id="a", prompt="first")
    user.run("INSERT INTO prompts (custom_id, prompt) VALUES ('a', 'second') ON CONFLICT (custom_id) DO NOTHING")
    user.run("INSERT INTO prompts (custom_id, prompt) VALUES ('b', 'third') ON CONFLICT DO NOTHING")
    assert user.values("SELECT prompt FROM prompts ORDER BY id") == ["first", "third"]
    assert user.value("SELECT count(*) FROM prompt_states") == 2


def test_ids_are_never_used_again(user):
    user.run("DELETE FROM prompts WHERE id = ?", user.insert())
    assert user.insert() == 2


def test_a_body_keeps_its_bytes(user):
    body = '{ "z":1.0, "a":1E+2, "b":"\\u00e9é\u2028", "c":"\\ud83d\\ude00" }'
    user.insert(body=body, prompt=None)
    assert user.value("SELECT body FROM prompts") == body
