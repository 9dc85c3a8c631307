from dataclasses import fields

import pytest

from orchestrator.core.model import Batch, BatchStatus, Lane
from orchestrator.core.polling import Patience, Step, has_news, next_step, next_step_when_answered
from orchestrator.core.remote import RemoteBatch

NOW_MS = 1_800_000_000_000
HOUR_MS = 3600 * 1000
PATIENCE = Patience(stuck_validating_seconds=3600, overdue_seconds=7200, partial_output=True, deletable=True)
BLIND = Patience(stuck_validating_seconds=3600, overdue_seconds=7200, partial_output=False, deletable=True)
ENDLESS = Patience(stuck_validating_seconds=0, overdue_seconds=0, partial_output=True, deletable=True)
KEPT = Patience(stuck_validating_seconds=3600, overdue_seconds=7200, partial_output=True, deletable=False)
ZEROES = dict.fromkeys((field.name for field in fields(Batch)), 0)


def batch(**values):
    known = {"lane": Lane("p", "/v1/x", "24h"), "status": BatchStatus.SUBMITTED, "submitted_at_ms": NOW_MS}
    return Batch(**(ZEROES | {"ended_at_ms": None} | known | values))


def remote(status, **values):
    return RemoteBatch("remote-1", status, **values)


@pytest.mark.parametrize(
    ("ours", "theirs", "patience", "step"),
    [
        # over
        ({}, remote("completed", output_file_id="o", completed=2), PATIENCE, Step.END),
        ({}, remote("COMPLETED", output_file_id="o"), PATIENCE, Step.END),
        ({}, remote("failed", error_file_id="e"), PATIENCE, Step.END),
        ({}, remote("failed"), PATIENCE, Step.END),
        ({}, remote("expired", output_file_id="o", completed=1), PATIENCE, Step.END),
        ({}, remote("cancelled", output_file_id="o", completed=1), PATIENCE, Step.END),
        # over, but its answers have no file yet (F4)
        ({}, remote("completed", completed=1), PATIENCE, Step.WAIT),
        ({"ended_at_ms": NOW_MS - 6 * HOUR_MS + 1}, remote("completed", completed=1), PATIENCE, Step.WAIT),
        ({"ended_at_ms": NOW_MS - 6 * HOUR_MS}, remote("completed", completed=1), PATIENCE, Step.END),
        ({}, remote("completed", completed=0), PATIENCE, Step.END),
        ({}, remote("completed", error_file_id="e", completed=1, failed=0), PATIENCE, Step.WAIT),
        ({}, remote("completed", error_file_id="e", completed=1), PATIENCE, Step.COLLECT),
        ({"remote_completed": 1}, remote("completed", error_file_id="e", completed=0, failed=0), PATIENCE, Step.WAIT),
        ({"remote_completed": 1}, remote("completed", error_file_id="e", failed=2), PATIENCE, Step.COLLECT),
        ({"remote_completed": 1}, remote("failed"), PATIENCE, Step.WAIT),
        ({"output_file_id": "o"}, remote("completed", completed=1), PATIENCE, Step.END),
        ({}, remote("completed"), PATIENCE, Step.WAIT),
        ({}, remote("completed", error_file_id="e"), PATIENCE, Step.COLLECT),
        ({}, remote("completed", error_file_id="e", completed=0, failed=0, total=0), PATIENCE, Step.WAIT),
        ({}, remote("completed", error_file_id="e", completed=0, failed=2, total=2), PATIENCE, Step.END),
        ({}, remote("completed", completed=0, total=0), PATIENCE, Step.WAIT),
        ({}, remote("completed", completed=0, total=2), PATIENCE, Step.END),
        # validating
        ({}, remote("validating"), PATIENCE, Step.WAIT),
        ({"submitted_at_ms": NOW_MS - HOUR_MS}, remote("validating"), PATIENCE, Step.WAIT),
        ({"submitted_at_ms": NOW_MS - HOUR_MS - 1}, remote("validating"), PATIENCE, Step.REPLACE),
        ({"submitted_at_ms": NOW_MS - HOUR_MS - 1}, remote("validating"), KEPT, Step.WAIT),
        ({"submitted_at_ms": 0}, remote("validating"), ENDLESS, Step.WAIT),
        ({"submitted_at_ms": None}, remote("validating"), PATIENCE, Step.WAIT),
        # running
        ({}, remote("in_progress"), PATIENCE, Step.WAIT),
        ({}, remote("in_progress", output_file_id="o", completed=1), PATIENCE, Step.COLLECT),
        ({}, remote("finalizing", output_file_id="o", completed=1), PATIENCE, Step.COLLECT),
        ({}, remote("PROGRESS", output_file_id="o", completed=1), PATIENCE, Step.COLLECT),
        ({}, remote("in_progress", output_file_id="o", completed=1), BLIND, Step.WAIT),
        ({"output_cursor": 1}, remote("in_progress", output_file_id="o", completed=1), PATIENCE, Step.WAIT),
        ({}, remote("cancelling", output_file_id="o", completed=1), PATIENCE, Step.COLLECT),
        # not wanted any more
        ({"cancel_requested": True}, remote("in_progress"), ENDLESS, Step.CANCEL),
        ({"cancel_requested": True}, remote("in_progress", output_file_id="o", completed=1), PATIENCE, Step.CANCEL),
        ({"cancel_requested": True}, remote("validating"), PATIENCE, Step.WAIT),
        ({"cancel_requested": True}, remote("cancelling"), PATIENCE, Step.WAIT),
        ({"cancel_requested": True}, remote("completed", output_file_id="o"), PATIENCE, Step.END),
        # overdue
        ({}, remote("in_progress", expires_at_ms=NOW_MS - 2 * HOUR_MS), PATIENCE, Step.WAIT),
        ({}, remote("in_progress", expires_at_ms=NOW_MS - 2 * HOUR_MS - 1), PATIENCE, Step.CANCEL),
        ({}, remote("in_progress", expires_at_ms=NOW_MS - 2 * HOUR_MS - 1), KEPT, Step.CANCEL),
        ({}, remote("in_progress", expires_at_ms=0), ENDLESS, Step.WAIT),
        # overdue by the window it was asked for, where the provider names no end (F13)
        ({"submitted_at_ms": NOW_MS - 26 * HOUR_MS}, remote("in_progress"), PATIENCE, Step.WAIT),
        ({"submitted_at_ms": NOW_MS - 26 * HOUR_MS - 1}, remote("in_progress"), PATIENCE, Step.CANCEL),
        ({"submitted_at_ms": NOW_MS - 28 * HOUR_MS - 1}, remote("cancelling"), PATIENCE, Step.END),
        ({"submitted_at_ms": 0, "lane": Lane("p", "/v1/x", "background")}, remote("in_progress"), PATIENCE, Step.WAIT),
        ({"submitted_at_ms": 0, "lane": Lane("p", "/v1/x", "7d")}, remote("in_progress"), PATIENCE, Step.CANCEL),
        ({}, remote("validating", expires_at_ms=NOW_MS - 2 * HOUR_MS - 1), PATIENCE, Step.CANCEL),
        ({}, remote("validating", expires_at_ms=0, output_file_id="o", completed=1), ENDLESS, Step.WAIT),
        ({}, remote("cancelling", expires_at_ms=NOW_MS - 4 * HOUR_MS), PATIENCE, Step.WAIT),
        ({}, remote("cancelling", expires_at_ms=NOW_MS - 4 * HOUR_MS - 1), PATIENCE, Step.END),
        ({}, remote("cancelling", expires_at_ms=0), ENDLESS, Step.WAIT),
        ({}, remote("in_progress", expires_at_ms=0, output_file_id="o", completed=1), PATIENCE, Step.CANCEL),
        ({}, remote("cancelling", expires_at_ms=0, output_file_id="o", completed=1), PATIENCE, Step.END),
        ({}, remote("in_progress", expires_at_ms=0, output_file_id="o", completed=1), ENDLESS, Step.COLLECT),
    ],
)
def test_one_look_leads_to_one_step(ours, theirs, patience, step):
    assert next_step(batch(**ours), theirs, patience, NOW_MS) is step


@pytest.mark.parametrize(
    ("ours", "theirs", "step"),
    [
        # it runs on, for nobody
        ({}, remote("in_progress"), Step.CANCEL),
        ({}, remote("in_progress", completed=2, failed=1, total=4), Step.CANCEL),
        ({"output_cursor": 2, "error_cursor": 1}, remote("in_progress", completed=0, total=0), Step.CANCEL),
        # it has ended but for its name
        ({}, remote("finalizing", completed=3, failed=1, total=4), Step.END),
        ({}, remote("finalizing", completed=1, failed=1, total=2), Step.END),  # the others never were in its file
        ({"output_cursor": 3, "error_cursor": 1}, remote("in_progress", completed=0), Step.END),
        # it cannot be cancelled yet, or is
        ({}, remote("validating"), Step.WAIT),
        ({"submitted_at_ms": NOW_MS - HOUR_MS - 1}, remote("validating"), Step.REPLACE),
        ({}, remote("cancelling"), Step.END),
        ({}, remote("completed", completed=1), Step.END),
        ({}, remote("completed", output_file_id="o", completed=1), Step.END),
    ],
)
def test_of_a_batch_whose_lines_all_have_outcomes_only_what_it_runs_yet_is_waited_for(ours, theirs, step):
    unwanted = batch(**({"cancel_requested": True, "lines": 4} | ours))
    assert next_step_when_answered(unwanted, theirs, PATIENCE, NOW_MS) is step


@pytest.mark.parametrize("ahead_ms", [-100 * HOUR_MS, 0, 100 * HOUR_MS])
@pytest.mark.parametrize(("waited_ms", "step"), [(26 * HOUR_MS, Step.WAIT), (26 * HOUR_MS + 1, Step.CANCEL)])
def test_a_window_is_measured_by_our_clock_alone_however_wrong_one_of_the_clocks_is(ahead_ms, waited_ms, step):
    created_at_ms = NOW_MS - waited_ms + ahead_ms
    theirs = remote("in_progress", created_at_ms=created_at_ms, expires_at_ms=created_at_ms + 24 * HOUR_MS)
    assert next_step(batch(submitted_at_ms=NOW_MS - waited_ms), theirs, PATIENCE, NOW_MS) is step


@pytest.mark.parametrize(
    ("cursors", "counts", "files", "news"),
    [
        ((0, 0), (None, None), (None, None), False),
        ((0, 0), (5, 5), (None, None), False),
        ((5, 0), (None, None), ("o", None), True),
        ((5, 0), (5, 9), ("o", None), False),
        ((5, 0), (6, 0), ("o", None), True),
        ((9, 0), (5, 0), ("o", None), False),
        ((5, 1), (5, 1), ("o", "e"), False),
        ((5, 1), (5, 2), ("o", "e"), True),
        ((5, 1), (5, None), ("o", "e"), True),
        ((5, 1), (9, 2), (None, "e"), True),
    ],
)
def test_there_is_news_where_a_file_may_hold_more_than_was_read(cursors, counts, files, news):
    ours = batch(output_cursor=cursors[0], error_cursor=cursors[1])
    theirs = remote(
        "in_progress", completed=counts[0], failed=counts[1], output_file_id=files[0], error_file_id=files[1]
    )
    assert has_news(ours, theirs) is news


def test_a_batch_names_its_file_and_counts_its_lines():
    ours = batch(key="orc-1", lines_done=1, lines_failed=2, lines_resent=4)
    assert (ours.file_name, ours.lines_received) == ("orc-1.jsonl", 7)
