"""Break each guard by one line and see that the suite notices: `python tests/simulation/mutations.py`.

Each mutation is applied to a copy of the package. Most are caught by the simulator, seed after seed until one fails;
the rest name the test that catches them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MINUTES = 8.0


@dataclass(frozen=True)
class Mutation:
    """`old` stands once in `file`; `theme` is the trouble in which the guard is needed, `test` a pytest node."""

    guard: str
    file: str
    old: str
    new: str
    theme: str = "everything"
    test: str = ""


INTENT_FIRST = """\
    if not await context.database.write(partial(_note_creating, context=context, batch=batch)):
        return True
    started = context.clock()
    try:
        remote = await client.create_batch(
            batch.input_file_id or "", batch.lane.endpoint, batch.lane.completion_window, batch.key,
            may_send=partial(require_lease, context, batch),
        )  # fmt: skip
    except ProviderError as error:
        return await _create_failed(context, batch, error)
"""
INTENT_LAST = """\
    started = context.clock()
    try:
        remote = await client.create_batch(
            batch.input_file_id or "", batch.lane.endpoint, batch.lane.completion_window, batch.key,
            may_send=partial(require_lease, context, batch),
        )
    except ProviderError as error:
        await _delay(context, batch, str(error), 30)
        return False
    await _move(context, batch, BatchStatus.CREATING, empty_looks=0)
"""

MUTATIONS = (
    Mutation(
        "a lost reply to a creation is looked up before it is sent again",
        "stages/submit.py",
        "    ours = [remote for remote in found if remote.id not in batch.abandoned_remote_ids.split()]",
        "    ours = []",
        theme="network",
    ),
    Mutation(
        "several empty looks over time come before a second creation",
        "stages/submit.py",
        "    if looks >= needed:",
        "    if looks >= 1:",
        theme="provider",
    ),
    Mutation(
        "the intent is committed before the call that creates a batch",
        "stages/submit.py",
        INTENT_FIRST,
        INTENT_LAST,
        theme="network",
    ),
    Mutation(
        "a poll that failed changes nothing but the time of the next one",
        "stages/poll.py",
        "        await _poll_failed(context, batch, error)\n    else:",
        "        await context.database.write(partial(move_batch, batch=batch, after=BatchStatus.ENDED, by='poll',"
        " collect_due=True))\n    else:",
        theme="network",
    ),
    Mutation(
        "rows and cursor are one transaction",
        "stages/collect.py",
        "    await record(connection, ours, now_ms)  # first",
        "    await connection.commit()\n    await connection.exec_driver_sql('BEGIN IMMEDIATE')\n"
        "    await record(connection, ours, now_ms)  # first",
        theme="crashes",
        test="tests/stages/test_collect.py",
    ),
    Mutation(
        "what is missing at the end is read once more from the start",
        "stages/settle.py",
        "        elif left and (not batch.rereads or batch.reread_news or _owes_lines(context, batch)):",
        "        elif False:",
        theme="provider",
        test="tests/stages/test_settle.py",
    ),
    Mutation(
        "what was uploaded is created only as long as all of it is wanted",
        "stages/submit.py",
        "    if nbytes != batch.nbytes:",
        "    if False:",
        theme="resends",
        test="tests/stages/test_collect.py",
    ),
    Mutation(
        "a line counts for the batch its prompt is in, and for no other",
        "stages/collect.py",
        "        elif member.status is PromptStatus.BATCHED and member.batch_id == batch.id:",
        "        elif member.status is PromptStatus.BATCHED:",
        theme="resends",
    ),
    Mutation(
        "a late success is taken only by a prompt that was in that batch",
        "stages/collect.py",
        "    known = await once_in_batch(connection, batch.id, list(hopeful)) if hopeful else set()",
        "    known = set(hopeful)",
        theme="people",
        test="tests/stages/test_collect.py",
    ),
    Mutation(
        "a success of the text before an edit is no answer of the text after it",
        "store/replies.py",
        "        .where(replies.c.prompt_id.in_(prompt_ids), replies.c.seq > prompt_states.c.sent_from_seq)",
        "        .where(replies.c.prompt_id.in_(prompt_ids))",
        theme="people",
        test="tests/stages/test_collect.py",
    ),
    Mutation(
        "the first success wins",
        "stages/collect.py",
        "        if left.outcome.fault is None and left.member.status is not PromptStatus.DONE",
        "        if left.outcome.fault is None",
    ),
    Mutation(
        "writes carry the fence of the lease",
        "store/batches.py",
        'batch_states.c.fence == bindparam("holding"))',
        'batch_states.c.fence >= bindparam("holding"))',
        theme="several",
        test="tests/stages/test_leases_of_submit.py",
    ),
    Mutation(
        "a process that was frozen beyond its lease creates nothing",
        "lease.py",
        "    if context.steady() >= context.holding.get(batch.id, 0.0):",
        "    if False:",
        theme="several",
        test="tests/stages/test_leases_of_submit.py",
    ),
    Mutation(
        "our own loops leave each other's work alone when the clock jumps",
        "lease.py",
        " & OTHER_THAN",
        "",
        theme="clocks",
        test="tests/stages/test_clocks.py",
    ),
    Mutation(
        "transactions are shielded from the cancelling of their callers",
        "store/database.py",
        "        return await asyncio.shield(task)",
        "        return await task",
        test="tests/store/test_transactions.py",
    ),
    Mutation(
        "a finished batch without a named output is asked again",
        "core/polling.py",
        "    if not _output_still_unnamed(batch, remote, now_ms):\n        return Step.END",
        "    if True:\n        return Step.END",
        theme="provider",
    ),
    Mutation(
        "an attempt is counted for each paid try",
        "core/retry.py",
        "        attempts += 1\n    if",
        "        attempts += 0\n    if",
        theme="resends",
        test="tests/core/test_retry.py",
    ),
    Mutation(
        "a download that ends within a line is read again",
        "stages/collect.py",
        "        torn = tail and not whole and not stands_so and self._batch.status is BatchStatus.ENDED",
        "        torn = False",
        theme="provider",
        test="tests/stages/test_downloads.py",
    ),
    Mutation(
        "deleted for its age is only what is old enough",
        "stages/prune.py",
        "    before_ms = context.now_ms() - days * DAY_MS",
        "    before_ms = context.now_ms()",
    ),
    Mutation(
        "deleted for its age is no prompt that an open batch may still answer",
        "store/retention.py",
        "        .where(text(ENDED), prompt_states.c.finished_at_ms < before_ms, ~in_open_batch)",
        "        .where(text(ENDED), prompt_states.c.finished_at_ms < before_ms)",
        theme="resends",
        test="tests/stages/test_prune.py",
    ),
    Mutation(
        "a batch is kept until its files at the provider are deleted",
        "stages/prune.py",
        '    with_files = context.config.retention.remote_files == "keep"',
        "    with_files = True",
    ),
)


def mutated(mutation, folder):
    """A copy of the package with that one line changed."""
    package = folder / "orchestrator"
    shutil.copytree(ROOT / "orchestrator", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "migrations", package / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (package / mutation.file).write_text(broken_text(mutation))
    return folder


def broken_text(mutation):
    """The file with that one line changed. Raises ValueError when the line does not stand there exactly once."""
    text = (ROOT / "orchestrator" / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file}: the line to break stands {text.count(mutation.old)} times: {mutation.old}")
    return text.replace(mutation.old, mutation.new)


def noticed_by(mutation, minutes):
    """What noticed the breakage, None if nothing did."""
    with tempfile.TemporaryDirectory() as name:
        folder = mutated(mutation, Path(name))
        environ = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"}
        simulate = [sys.executable, HERE / "simulate.py", "--seeds", "1-2000", "--short", "--first", "--minutes"]
        done = subprocess.run(
            [*simulate, str(minutes), "--theme", mutation.theme],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return next((line for line in done.stdout.splitlines() if line.startswith("SEED")), "the simulator")
        if mutation.test:
            command = [sys.executable, "-P", "-m", "pytest", "-x", "-p", "no:cacheprovider", mutation.test]
            failed = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, check=False).returncode
            return mutation.test if failed else None
    return None


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--minutes", type=float, default=MINUTES, help="how long the simulator looks for each breakage"
    )
    options.add_argument("--only", help="part of the name of a guard")
    chosen = options.parse_args()
    missed = 0
    for mutation in MUTATIONS:
        if chosen.only and chosen.only not in mutation.guard:
            continue
        started = time.monotonic()
        found = noticed_by(mutation, chosen.minutes)
        missed += found is None
        verdict, seconds = "MISSED" if found is None else "caught", time.monotonic() - started
        print(f"{verdict:7} {seconds:4.0f} s  {mutation.guard}: {found}", flush=True)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
