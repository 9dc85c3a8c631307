"""What must hold of every run, whatever was done to it. Each promise yields what breaks it: custom_id and why."""

from collections import Counter, defaultdict

from pruned import only_what_ended_long_ago_is_pruned

from orchestrator.sandbox.answers import canonical, digest, vector
from orchestrator.sandbox.behaviours import Fate
from orchestrator.telemetry import EVENTS

UNREADABLE = {"bad-utf8", "bad-json", "not-object", "torn", "huge"}
"""Answers that nobody could read: too long for this world's limit, or no JSON."""
NO_ANSWER = {"status-in-output", "content-filter-answer"}
SURE_SIGNS = {"loop.crashed": "a stage hit a bug", "submit.surplus_cancelled": "a second batch was created"}


def broken(world):
    for promise in PROMISES:
        for custom_id, why in promise(world):
            yield promise.__name__.replace("_", " "), custom_id, why


def every_prompt_has_one_end(world):
    for row in world.rows("SELECT custom_id, status FROM results"):
        if row["status"] not in ("done", "failed", "cancelled"):
            yield row["custom_id"], f"it is {row['status']} for ever"
    missing = {name for name, asked in world.asked.items() if not asked.deleted}
    missing -= {row["custom_id"] for row in world.rows("SELECT custom_id FROM results")}
    for custom_id in missing:
        yield custom_id, "its row is gone"


def every_answer_belongs_to_its_question(world):
    for row in world.rows("SELECT custom_id, response, fault FROM results WHERE status = 'done'"):
        asked = world.asked[row["custom_id"]]
        mark = digest(canonical(asked.body))
        if asked.endpoint == "/v1/embeddings":
            mark = str(vector(mark, 0)[0])
        if row["fault"] is not None or row["response"] is None:
            yield row["custom_id"], f"it is done with fault {row['fault']}"
        elif mark not in row["response"]:
            yield row["custom_id"], f"it is done with the answer to another question: {row['response'][:200]}"


def every_end_is_written_once(world):
    successes = world.sql(
        "SELECT p.custom_id, s.status, count(r.id) FROM prompts p JOIN prompt_states s ON s.prompt_id = p.id"
        " LEFT JOIN replies r ON r.prompt_id = p.id AND r.fault IS NULL GROUP BY p.id, p.custom_id, s.status"
    )
    for custom_id, status, count in successes:
        if count != (status == "done"):
            yield custom_id, f"it is {status} with {count} stored answers"
    for custom_id, before, after in world.sql(
        "SELECT p.custom_id, a.before, a.after FROM audit a JOIN prompts p ON p.id = a.id"
        " WHERE a.kind = 'prompt' AND a.before = 'done'"
    ):
        yield custom_id, f"it went from {before} to {after}"


def nothing_is_paid_twice(world):
    """Every answered run of a prompt but one must have been of no use to us, for a reason of the provider's."""
    runs = defaultdict(list)
    for batch in world.provider.batches.values():
        for line in batch.lines:
            if line.ran(world.provider_clock()) and line.effect.fate in (Fate.DONE, Fate.HIDDEN):
                runs[line.template.custom_id].append((batch, line))
    for custom_id, found in runs.items():
        if len(found) > 1 and custom_id in world.asked and world.asked[custom_id].retries == 0:
            useless = [_useless(world, custom_id, batch, line) for batch, line in found]
            if useless.count(None) > 1:
                names = [batch.id for batch, _line in found]
                yield custom_id, f"it was answered usefully {useless.count(None)} times, in {names}"
        world.deeds.counts["prompts run twice by the provider's fault"] += len(found) > 1


def _useless(world, custom_id, batch, line):
    """Why this answered run was of no use to us; None when it was."""
    if line.effect.fate is Fate.HIDDEN:
        return "counted, in no file"
    if line.effect.twist in UNREADABLE | NO_ANSWER:
        return f"the line is {line.effect.twist}"
    given_up = world.sql(
        "SELECT r.received_at_ms, r.fault FROM replies r JOIN prompts p ON p.id = r.prompt_id"
        " JOIN batch_states b ON b.id = r.batch_id WHERE p.custom_id = ? AND b.remote_batch_id = ?"
        " AND r.fault IN ('missing', 'expired', 'cancelled_remotely', 'unreadable')",
        custom_id, batch.id,
    )  # fmt: skip
    for received_at_ms, fault in given_up:
        if received_at_ms <= (line.seen_at + world.clock_offset) * 1000:
            return f"it came after the line was given up as {fault}"
        if world.deeds.counts["file gone"] or batch.deleted_at < line.seen_at:
            return "its file was gone"
        if "stuck-cancelling" in batch.traits and _names_no_output(world, batch, received_at_ms):
            return "its batch hung in cancelling for ever and named no file"
    return None


def _names_no_output(world, batch, at_ms):
    shown = world.provider.dialect.batch_object(batch, at_ms / 1000 - world.clock_offset)
    return shown["status"] == "cancelling" and shown.get("output_file_id") is None


def attempts_stay_within_their_limit(world):
    most = world.config.retry.max_attempts
    for custom_id, attempts in world.sql("SELECT custom_id, attempts FROM results"):
        asked = world.asked.get(custom_id)
        if asked is not None and attempts > most * (1 + asked.retries):
            yield custom_id, f"{attempts} attempts, {most} allowed, {asked.retries} retries by hand"


def every_remote_batch_is_known(world):
    known = set()
    for remote, abandoned in world.sql("SELECT remote_batch_id, abandoned_remote_ids FROM batch_states"):
        known |= {remote, *abandoned.split()}
    for batch in world.provider.batches.values():
        if batch.id not in known:
            yield None, f"remote batch {batch.id} of {batch.source.filename} is known to nobody here"


def the_books_agree(world):
    for batch in world.rows("SELECT * FROM batch_states"):
        received = batch["lines_done"] + batch["lines_failed"] + batch["lines_resent"]
        if batch["status"] == "settled" and batch["lines"] != received:
            yield None, f"batch {batch['id']}: {batch['lines']} lines, {received} received"
        if batch["status"] not in ("settled", "discarded"):
            yield None, f"batch {batch['id']} is {batch['status']} for ever"
        if batch["lease_until_ms"]:
            yield None, f"batch {batch['id']} is still leased"
    by_status = Counter(status for (status,) in world.sql("SELECT status FROM results"))
    by_progress = Counter()
    for status, count in world.sql("SELECT status, sum(prompts) FROM progress GROUP BY status"):
        by_progress[status] = count
    if by_status != by_progress:
        yield None, f"results count {dict(by_status)}, progress {dict(by_progress)}"


def the_log_tells_of_no_bug_and_no_secret(world):
    for _at, event in world.deeds.log:
        name = event["event"]
        if name not in EVENTS:
            yield None, f"the log holds an event nobody documented: {name}"
        if name in SURE_SIGNS:
            yield None, f"{SURE_SIGNS[name]}: {event}"
        if "What about" in str(event) or world.secret in str(event):
            yield None, f"the log holds a prompt, an answer or a key: {event}"
    for complaint in world.loop.complaints:
        yield None, f"an exception that nobody took: {complaint}"


PROMISES = (
    every_prompt_has_one_end,
    every_answer_belongs_to_its_question,
    every_end_is_written_once,
    nothing_is_paid_twice,
    attempts_stay_within_their_limit,
    every_remote_batch_is_known,
    the_books_agree,
    the_log_tells_of_no_bug_and_no_secret,
    only_what_ended_long_ago_is_pruned,
)
