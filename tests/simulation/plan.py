"""What a seed stands for: the provider's nature, the settings, how long, how much and how bad."""

import random
from dataclasses import dataclass, field

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

MILD_LINES = (
    "fail-once",
    "rate-limited-once",
    "timeout-once",
    "late",
    "duplicate",
    "u2028",
    "nul",
    "slow",
    "crlf",
    "bom",
)
HARSH_LINES = (
    "fail", "rate-limited", "bad-request", "context-length", "content-filter", "forbidden", "no-model", "timeout",
    "network", "terminated", "builder-error", "missing-once", "missing-counted-once", "missing", "batch-expired-once",
    "error-shape-response-once", "error-shape-code-once", "error-shape-type-once", "status-in-output-once",
    "status-zero-once", "bad-utf8-once", "bad-json-once", "not-object-once", "torn", "huge", "string-body",
    "lone-surrogate", "model-differs", "multi-output", "text-parts", "content-filter-answer", "refusal", "length",
    "empty-answer", "no-credit-once", "unauthorized-once", "no-quota-once", "too-large", "unprocessable",
)  # fmt: skip


@dataclass
class Plan:
    """Times in seconds. `troubles` gives for each kind of trouble how many of them are to be expected."""

    dialect: str
    horizon: float
    prompts: int
    daemons: int = 1
    sandbox: dict = field(default_factory=dict)
    provider: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)
    troubles: dict = field(default_factory=dict)


THEMES = {
    "calm": {},
    "network": {"fault": 20, "outage": 3, "bad-connections": 3, "kill": 1},
    "provider": {"fault": 40},
    "crashes": {"kill": 15, "kill-at": 15, "stop": 3, "fault": 6},
    "disk": {"full": 5, "bad-commit": 12, "lying-commit": 6, "lock": 6, "kill": 3, "fault": 3},
    "people": {"deed": 60, "kill": 2, "fault": 4, "lock": 2},
    "clocks": {"jump": 5, "fault": 8, "kill": 4},
    "resends": {"fault": 3, "kill-at": 2},
    "several": {"freeze": 6, "freeze-at": 15, "kill": 4, "kill-at": 6, "fault": 8, "bad-connections": 1},
    "everything": {
        "fault": 25, "outage": 2, "bad-connections": 2, "kill": 10, "stop": 2, "full": 2, "bad-commit": 3,
        "lying-commit": 2, "lock": 3, "deed": 25, "jump": 1, "freeze": 1, "kill-at": 5, "freeze-at": 1,
    },
}  # fmt: skip


def draw(seed, theme=None, *, short=False):
    """The theme and the plan of a seed; a short one covers less time, so that many fit into a minute."""
    rng = random.Random(f"{seed} plan")
    drawn = rng.choices(list(THEMES), weights=(1, 3, 4, 5, 3, 4, 2, 2, 4, 8))[0]
    theme = theme or drawn
    dialect = "openai" if rng.random() < 0.3 else "doubleword"
    horizon = rng.choices((10 * MINUTE, 40 * MINUTE, 2 * HOUR, 12 * HOUR, 7 * DAY), weights=(8, 8, 6, 2, 1))[0]
    horizon = min(horizon, 20 * MINUTE) if short else horizon
    plan = Plan(dialect, horizon, prompts=rng.choice((3, 8) if short else (3, 20, 60, 150)))
    plan.daemons = rng.choice((2, 3)) if theme == "several" else 1
    plan.sandbox = _sandbox(rng, plan)
    plan.provider = _provider(rng)
    plan.tables = _tables(rng, horizon, short=short)
    plan.tables["retention"] = _retention(random.Random(f"{seed} retention"))
    if theme == "resends":
        _hurry(rng, plan)
    share = 1.0 if short else 2.0
    plan.troubles = {kind: rng.uniform(0, share * count) for kind, count in THEMES[theme].items()}
    return theme, plan


def _sandbox(rng, plan):
    harsh = rng.sample(HARSH_LINES, rng.choice((0, 0, 1, 3, 6)))
    mild = rng.sample(MILD_LINES, rng.choice((0, 1, 2)))
    options = {
        "dialect": plan.dialect,
        "validate_seconds": rng.choice((0.0, 1.0, 60.0, 600.0)),
        "latency_seconds": rng.choice((0.0, 5.0, 300.0, plan.horizon / 2)),
        "order": rng.choice(("shuffled", "shuffled", "input", "reversed")),
        "slow_seconds": rng.choice((5.0, 900.0)),
        "windows": {"24h": max(HOUR, plan.horizon / 3), "1h": HOUR},
        "huge_bytes": 150_000,
        "line_faults": {name: rng.uniform(0.01, 0.08) for name in (*harsh, *mild)},
        "answer_bytes": rng.choice((0, 0, 2000)),
    }
    if rng.random() < 0.15:
        options["credit_lines"] = rng.randint(0, plan.prompts)
    if plan.dialect == "openai" and rng.random() < 0.3:
        options["enqueued_tokens"] = rng.randint(200, 3000)
    return options


def _retention(rng):
    files = {"remote_files": "delete", "remote_files_days": 0} if rng.random() < 0.3 else {}
    return {"finished_days": rng.choice((0, 0, 1)), **files}


def _hurry(rng, plan):
    """Failed lines are in their next batch while the one they failed in still runs and is read again and again."""
    plan.dialect = plan.sandbox["dialect"] = "doubleword"
    plan.sandbox |= {
        "latency_seconds": plan.horizon,
        "line_faults": {"fail-once": 0.3, "rate-limited-2": 0.2, "duplicate": 0.1, "late": 0.1},
    }
    plan.sandbox.pop("enqueued_tokens", None)
    plan.tables["packing"] |= {"linger_seconds": rng.choice((0.0, 5.0)), "max_lines": 10}
    plan.tables["retry"] |= {"max_attempts": 5, "base_seconds": 1.0}


def _provider(rng):
    changes = {}
    if rng.random() < 0.3:
        changes["max_lines"] = rng.choice((1, 2, 5, 20))
    if rng.random() < 0.2:
        changes["max_active_batches_per_lane"] = rng.choice((1, 2))
    if rng.random() < 0.1:
        changes["resume_parameter"] = None
    return changes


def _tables(rng, horizon, *, short):
    polls = rng.choice(((30.0, 60.0), (120.0, 300.0), (120.0, 300.0))) if horizon < 12 * HOUR else (1000.0, 2000.0)
    polls = rng.choice(((50.0, 90.0), (200.0, 300.0))) if short else polls
    return {
        "defaults": {"model": "m"},
        "packing": {"linger_seconds": rng.choice((0.0, 5.0, 60.0)), "max_lines": rng.choice((3, 10, 50, 50_000))},
        "polling": {"min_seconds": polls[0], "max_seconds": polls[1], "overdue_seconds": HOUR / 2},
        "submission": {"concurrency": 1 if short else rng.choice((1, 2, 3)), "adopt_checks": rng.choice((12, 13))},
        "collection": {
            "concurrency": rng.choice((1, 2)),
            "overlap_lines": rng.choice((0, 2, 64)),
            "max_line_bytes": rng.choice((100_000, 67_108_864)),
        },
        "retry": {
            "max_attempts": rng.choice((1, 2, 5)),
            "max_returns": rng.choice((0, 3, 20)),
            "base_seconds": rng.choice((1.0, 30.0)),
            "max_seconds": 600.0,
        },
        "log": {"heartbeat_seconds": HOUR},
        "shutdown": {"grace_seconds": rng.choice((0.0, 5.0, 30.0))},
    }
