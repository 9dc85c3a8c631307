"""What is remembered of a provider: pauses of its account, limits it lowered."""

import pytest

from orchestrator.store.providers import (
    ProviderState,
    clear_pause,
    forget_limits,
    get_provider_state,
    list_provider_states,
    update_provider,
)

NOW_MS = 1_800_000_000_000
PAUSE = {"pauses": 2, "resume_at_ms": NOW_MS, "paused_at_ms": NOW_MS - 5, "pause_reason": "402"}


@pytest.fixture
async def paused(daemon):
    await daemon.write(lambda c: update_provider(c, "p", paused_by="line", max_lines=7, **PAUSE))
    return daemon


async def test_an_unknown_provider_is_open_and_unlimited(daemon):
    state = await daemon.read(lambda c: get_provider_state(c, "p"))
    assert state == ProviderState("p")
    assert not state.paused(NOW_MS)


async def test_a_second_note_changes_the_first(paused):
    await paused.write(lambda c: update_provider(c, "p", max_file_bytes=9))
    states = await paused.read(list_provider_states)
    assert states == {"p": ProviderState("p", paused_by="line", max_lines=7, max_file_bytes=9, **PAUSE)}


async def test_a_pause_ends_at_its_time(paused):
    state = await paused.read(lambda c: get_provider_state(c, "p"))
    assert (state.paused(NOW_MS - 1), state.paused(NOW_MS)) == (True, False)


@pytest.mark.parametrize(
    ("name", "paused_by", "sent_at_ms", "cleared"),
    [
        ("p", "line", None, True),
        ("p", "line", NOW_MS - 4, True),
        ("p", "line", NOW_MS - 5, False),
        ("p", "call", None, False),
        ("other", "line", None, False),
    ],
)
async def test_a_pause_is_lifted_only_by_what_was_sent_after_it_and_is_of_its_kind(
    paused, name, paused_by, sent_at_ms, cleared
):
    assert await paused.write(lambda c: clear_pause(c, name, paused_by, sent_at_ms)) is cleared
    state = await paused.read(lambda c: get_provider_state(c, "p"))
    assert (state == ProviderState("p", max_lines=7)) is cleared


async def test_learned_limits_are_forgotten_and_pauses_are_not(paused):
    await paused.write(forget_limits)
    state = await paused.read(lambda c: get_provider_state(c, "p"))
    assert state == ProviderState("p", paused_by="line", **PAUSE)
