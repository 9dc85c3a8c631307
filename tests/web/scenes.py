"""Queues as an operator may meet them, written into a migrated SQLite file: empty, busy, in trouble."""

import contextlib
import sqlite3
import time

HOUR_MS = 3_600_000
HOSTILE = "<script>window.broken=1</script><img src=x onerror='window.broken=1'>\"'`}}{{7*7}}\u202e\x1b[2J"
SECRET_PROMPT = "the secret text of a prompt"


class Scene:
    """Writes what the daemon would have written, on the present time."""

    def __init__(self, path):
        self.path = path
        self.now_ms = int(time.time() * 1000)
        self.prompts = 0

    def sql(self, statement, *values):
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as connection:
            found = connection.execute(statement, values)
            connection.commit()
            return found.lastrowid

    def many(self, statement, rows):
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as connection:
            connection.executemany(statement, rows)
            connection.commit()

    def lane(self, provider="doubleword", model="Qwen/Qwen3.5-35B-A3B-FP8", window="24h"):
        return self.sql(
            "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES (?, '/v1/chat/completions', ?, ?)",
            provider, window, model,
        )  # fmt: skip

    def add(self, count, tag=None, prompt=SECRET_PROMPT):
        """Ids of new prompts."""
        first = self.prompts + 1
        self.prompts += count
        ids = range(first, self.prompts + 1)
        self.many(
            "INSERT INTO prompts (custom_id, prompt, tag) VALUES (?, ?, ?)",
            [(f"question-{each}", prompt, tag) for each in ids],
        )
        return ids

    def end(self, ids, status="done", over_hours=11.0, batch=None, **reply):
        """These ended one after the other, the last of them just now."""
        step = over_hours * HOUR_MS / max(1, len(ids))
        ends = [
            (each, int(self.now_ms - step * (len(ids) - 1 - at) * (1 + 0.3 * (at % 7) / 7)))
            for at, each in enumerate(ids)
        ]
        columns = ("fault", "status_code", "error_code", "error_message")
        told = tuple(reply.get(name) for name in columns)
        self.many(
            "INSERT INTO replies (prompt_id, seq, batch_id, attempt, received_at_ms, fault, status_code, error_code,"
            " error_message) VALUES (?, 1, ?, 1, ?, ?, ?, ?, ?)",
            [(each, batch, at, *told) for each, at in ends],
        )
        if status == "queued":
            return
        self.many(
            "UPDATE prompt_states SET status = ?, replies = 1, attempts = 1, finished_at_ms = ? WHERE prompt_id = ?",
            [(status, at, each) for each, at in ends],
        )

    def batch(self, lane, ids, hours_ago=1.0, **columns):
        row = {
            "key": f"orc-{self.sql('SELECT 1') or 0}-{time.monotonic_ns():x}", "lane_id": lane, "status": "submitted",
            "lines": len(ids), "created_at_ms": int(self.now_ms - hours_ago * HOUR_MS - 60_000),
            "submitted_at_ms": int(self.now_ms - hours_ago * HOUR_MS), **columns,
        }  # fmt: skip
        if row["status"] in ("submitted", "ended", "settled"):
            row.setdefault("remote_batch_id", f"batch_{row['key']}")
            row.setdefault("remote_status", "in_progress")
        else:
            row["submitted_at_ms"] = None
        number = self.sql(
            f"INSERT INTO batch_states ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values()
        )
        if row["status"] != "settled":
            waiting = ids[row.get("lines_done", 0) + row.get("lines_failed", 0) + row.get("lines_resent", 0) :]
            self.many(
                "UPDATE prompt_states SET status = 'batched', lane_id = ?, batch_id = ? WHERE prompt_id = ?",
                [(lane, number, each) for each in waiting],
            )
        return number


def empty(_scene):
    """Nothing was ever dropped in."""


def busy(scene):
    """A queue at work, all is well."""
    lane, other = scene.lane(), scene.lane(model="Qwen/Qwen3-Embedding-8B", window="1h")
    old = scene.add(900, tag="faq-2026-11")
    scene.batch(
        lane, old, hours_ago=9.0, status="settled", remote_status="completed", lines_done=900,
        ended_at_ms=scene.now_ms - 2 * HOUR_MS, settled_at_ms=scene.now_ms - 2 * HOUR_MS + 4000,
    )  # fmt: skip
    scene.end(old)
    running = scene.add(800, tag="faq-2026-11")
    first = scene.batch(
        lane, running, hours_ago=3.5, lines_done=520, remote_total=800, remote_completed=560, remote_failed=0
    )
    scene.end(running[:520], over_hours=3.0, batch=first)
    quick = scene.add(300, tag="embeddings")
    second = scene.batch(other, quick, hours_ago=0.4, lines_done=20, remote_total=300, remote_completed=24)
    scene.end(quick[:20], over_hours=0.3, batch=second)
    scene.batch(lane, scene.add(150, tag="reviews"), hours_ago=0.02, status="uploading")
    scene.sql("UPDATE prompt_states SET lane_id = ? WHERE status = 'queued'", lane)
    scene.add(230, tag="reviews")


def trouble(scene):
    """A paused provider, a batch past its window, faults of every kind, texts that want to break the page."""
    busy(scene)
    lane = scene.lane(provider="openai", model=HOSTILE)
    late = scene.add(60, tag=HOSTILE)
    scene.batch(
        lane, late, hours_ago=26.0, remote_total=60, remote_completed=11, lines_done=11,
        remote_status=f"in_progress{HOSTILE}",
    )  # fmt: skip
    scene.end(late[:11], over_hours=8.0)
    stuck = scene.add(40, tag="reviews")
    scene.batch(
        lane, stuck, hours_ago=0.3, status="creating", tries=9, last_error=f"no reply: {HOSTILE}",
        last_error_at_ms=scene.now_ms - 90_000,
    )  # fmt: skip
    faults = (
        (37, "failed", "invalid", 400, "context_length_exceeded", f"This model takes 131072 tokens. {HOSTILE}"),
        (9, "failed", "refused", 403, "content_filter", "The answer was filtered."),
        (120, "queued", "throttled", 429, "rate_limit_exceeded", "Rate limit reached, try again in 20 s."),
        (14, "queued", "server", 503, None, None),
        (3, "queued", "account", 402, "insufficient_quota", "Add credit."),
    )
    for count, status, fault, status_code, code, message in faults:
        scene.end(
            scene.add(count, tag="long-tail " + "x" * 80), status, over_hours=2.0,
            fault=fault, status_code=status_code, error_code=code, error_message=message,
        )  # fmt: skip
    scene.sql(
        "INSERT INTO provider_states (name, paused_at_ms, resume_at_ms, pauses, pause_reason, paused_by)"
        " VALUES ('doubleword', ?, ?, 3, ?, 'line')",
        scene.now_ms - 700_000, scene.now_ms + 200_000, f"402 insufficient_quota: balance too low {HOSTILE}",
    )  # fmt: skip
    for number in range(30):
        scene.add(2, tag=f"customer-{number:02}")
