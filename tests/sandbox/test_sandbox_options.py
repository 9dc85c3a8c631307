"""How a sandbox may be set up."""

import re

import pytest
from sandbox_client import line

from orchestrator.sandbox import Options, serve


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "random"}, "order must be one of shuffled, input, reversed, not 'random'"),
        ({"line_faults": {"fail": 0.7, "missing": 0.7}}, "add up to at most 1"),
        ({"line_faults": {"odd": 0.1}}, "unknown behaviour 'odd'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Options(**settings)


async def test_an_unknown_dialect_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown dialect 'azure'; known: doubleword, openai"):
        async with serve(Options(dialect="azure")):
            pass


async def test_equal_seeds_give_equal_ids_and_completion_order(clock, start):
    seen = []
    for _ in range(2):
        client = await start(order="shuffled", clock=clock)
        batch = await client.finished([line(str(at)) for at in range(20)])
        seen.append((batch["id"], (await client.content(batch["output_file_id"])).custom_ids))
        clock.now = 1_790_000_000.0
    assert seen[0] == seen[1]
    assert seen[0][1] != sorted(seen[0][1], key=int)


async def test_lines_may_finish_in_reverse(start):
    client = await start(order="reversed")
    batch = await client.finished([line(str(at)) for at in range(5)])
    assert (await client.content(batch["output_file_id"])).custom_ids == list("43210")
