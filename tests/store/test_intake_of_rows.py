"""Rows that `enqueue` inserts: those whose custom_id is free, all or none in a transaction."""

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.intake import WRITTEN, CustomIdTaken, insert_new


def rows(*names):
    return [dict.fromkeys(WRITTEN) | {"custom_id": name, "prompt": "x", "priority": 0} for name in names]


async def inserted(daemon, *names, look=False):
    return await daemon.write(lambda c: insert_new(c, rows(*names), look=look))


async def test_new_names_and_rows_without_one_need_no_look(user, daemon):
    assert await inserted(daemon, "a", None, "b", None) == set()
    assert user.value("SELECT count(*) FROM prompts") == 4


@pytest.mark.parametrize("names", [("b", "a"), ("b", "b")])
async def test_a_name_that_is_taken_stores_nothing_without_a_look(user, daemon, names):
    user.insert(custom_id="a")
    with pytest.raises(CustomIdTaken):
        await inserted(daemon, *names)
    assert user.values("SELECT custom_id FROM prompts") == ["a"]


async def test_a_look_tells_which_are_taken_and_stores_the_others(user, daemon):
    user.insert(custom_id="a")
    assert await inserted(daemon, "a", "b", "b", "c", look=True) == {0, 2}
    assert sorted(user.values("SELECT custom_id FROM prompts")) == ["a", "b", "c"]


async def test_another_refusal_is_told_as_it_is(user, daemon):
    user.run("CREATE UNIQUE INDEX prompts_once ON prompts (tag)")
    twice = [row | {"tag": "t"} for row in rows("a", "b")]
    with pytest.raises(StoreError, match=r"the table prompts refuses a row: .*(prompts_once|prompts\.tag)"):
        await daemon.write(lambda c: insert_new(c, twice, look=False))
    assert user.value("SELECT count(*) FROM prompts") == 0
