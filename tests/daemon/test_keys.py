"""A key that was sent is said nowhere, whatever repeats it."""

import re

import pytest
import structlog

from orchestrator import telemetry
from orchestrator.errors import ReplyLost
from orchestrator.keys import hidden, remember
from orchestrator.telemetry import record

KEY = "sk-only-of-this-test-0123456789"


def test_a_key_that_was_sent_stands_in_no_log_line_and_in_no_error():
    remember(KEY)
    with structlog.testing.capture_logs() as lines:
        record("provider.paused", provider="doubleword", reason=f"401 who is {KEY}?", pause_seconds=1.0)
    assert lines[0]["reason"] == "401 who is [key]?"
    assert str(ReplyLost(f"no {KEY}")) == "no [key]"


def test_what_is_too_short_for_a_secret_is_left_as_it_is():
    assert remember("x") == "x"
    assert hidden("x of x") == "x of x"
    assert hidden(b"x of x") == b"x of x"


@pytest.fixture
def configuring():
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["console", "json"])
def test_what_others_wrote_steers_no_terminal_and_begins_no_line(form, capsys, configuring):
    telemetry.configure("info", form)
    record("poll.failed", batch=1, key="orc", reason="a\x1b[2J\rb\nc\u202ed\ud800e \N{SNOWMAN}", tries=1)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told.rstrip("\n"))  # our own colours
    assert plain.isprintable()
    for part in (r"x1b[2J", r"rb", r"nc", r"u202ed", r"ud800e"):
        assert f"\\{part}" in plain
