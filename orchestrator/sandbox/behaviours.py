"""What one line does when it is executed, chosen by the request itself.

The marker is the end of the model name (`sandbox-fail-once`, `some-model+sandbox-fail-once`) or
`body.metadata.sandbox`. A suffix says for how many executions of that custom_id the behaviour lasts: `-once`, `-<n>`,
`-always` (the default).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

PLAIN = "ok"
MARKER = re.compile(r"(?:^|\+)sandbox-([a-z0-9-]+)$")
PLAIN_MODELS = frozenset({"sandbox-model", "sandbox-embedding"})
LASTING = re.compile(r"^(?P<name>.+?)-(?:(?P<once>once)|(?P<always>always)|(?P<count>\d+))$")
STATUS = re.compile(r"^status-([45]\d\d)$")
HUGE = re.compile(r"^huge-(\d+)$")


class Fate(Enum):
    """Where an executed line ends: in the output file, in the error file, or in neither (F18)."""

    DONE = "done"
    FAILED = "failed"
    MISSING = "missing"
    # Counted as completed and yet in no file.
    HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class Effect:
    """What an execution does.

    twist names how the answer or its line is spoiled (`answers.py`, `replies.py`); reason is the `type` of
    doubleword-api 3; status and code describe the upstream's refusal; size is in bytes, None for the server's default.
    """

    fate: Fate = Fate.DONE
    twist: str | None = None
    reason: str = "NonRetriableHttpStatus"
    status: int = 200
    code: str | None = None
    size: int | None = None
    slow: bool = False
    late: bool = False
    twice: bool = False


SUCCESS = Effect()
# doubleword-api 4: what the server itself retries until attempts or deadline are used up.
RETRIED = frozenset({404, 408, 429, 499})
FIRST_SERVER_ERROR = 500


def refused(status: int, code: str | None = None, twist: str | None = None) -> Effect:
    """The effect of an upstream that answers every try of this execution with `status`."""
    retried = status >= FIRST_SERVER_ERROR or status in RETRIED
    reason = "RetriableHttpStatus" if retried else "NonRetriableHttpStatus"
    return Effect(fate=Fate.FAILED, reason=reason, status=status, code=code, twist=twist)


def broken(reason: str) -> Effect:
    return Effect(fate=Fate.FAILED, reason=reason, status=0)


def twisted(*names: str) -> dict[str, Effect]:
    return {name: Effect(twist=name) for name in names}


EFFECTS: Mapping[str, Effect] = {
    "fail": refused(500),
    "rate-limited": refused(429, "rate_limit_exceeded"),
    "no-quota": refused(429, "insufficient_quota"),
    "bad-request": refused(400, "invalid_request"),
    "context-length": refused(400, "context_length_exceeded"),
    "content-filter": refused(400, "content_filter"),
    "unauthorized": refused(401, "invalid_api_key"),
    "no-credit": refused(402, "insufficient_credits"),
    "forbidden": refused(403, "forbidden"),
    "no-model": refused(404, "model_not_found"),
    "too-large": refused(413, "request_too_large"),
    "unprocessable": refused(422, "unprocessable_entity"),
    "timeout": broken("Timeout"),
    "network": broken("NetworkError"),
    "terminated": broken("TaskTerminated"),
    "builder-error": broken("RequestBuilderError"),
    "missing": Effect(fate=Fate.MISSING),
    "missing-counted": Effect(fate=Fate.HIDDEN),
    "batch-expired": Effect(fate=Fate.FAILED, twist="batch-expired", status=0),
    "error-shape-response": refused(429, "rate_limit_exceeded", "error-shape-response"),
    "error-shape-code": refused(429, "rate_limit_exceeded", "error-shape-code"),
    "error-shape-type": refused(429, "rate_limit_exceeded", "error-shape-type"),
    "error-shape-text": refused(502, None, "error-shape-text"),
    "error-shape-unknown": refused(500, None, "error-shape-unknown"),
    "duplicate": Effect(twice=True),
    "slow": Effect(slow=True),
    "late": Effect(late=True),
    "status-in-output": Effect(twist="status-in-output", status=500),
    "status-zero": Effect(twist="status-in-output", status=0),
    **twisted("bad-utf8", "bad-json", "not-object", "torn", "huge", "nul", "u2028", "crlf", "bom", "string-body"),
    **twisted("lone-surrogate", "model-differs", "multi-output", "text-parts", "content-filter-answer", "refusal"),
    **twisted("length", "empty-answer"),
}


def effect(behaviour: str, execution: int) -> Effect:
    """What `behaviour` does at the execution-th run (1-based) of a custom_id; `ValueError` for an unknown name."""
    if behaviour == PLAIN:
        return SUCCESS
    if sized := HUGE.match(behaviour):
        return Effect(twist="huge", size=int(sized[1]))
    if status := STATUS.match(behaviour):
        return refused(int(status[1]))
    if behaviour in EFFECTS:
        return EFFECTS[behaviour]
    name, lasts = lasting(behaviour)
    return effect(name, execution) if lasts is None or execution <= lasts else SUCCESS


def lasting(behaviour: str) -> tuple[str, int | None]:
    """The behaviour's name and for how many executions it lasts; None is for ever."""
    found = LASTING.match(behaviour)
    if found is None:
        raise ValueError(f"unknown behaviour {behaviour!r}; known: {', '.join(sorted(EFFECTS))}")
    if found["always"]:
        return found["name"], None
    return found["name"], 1 if found["once"] else int(found["count"])


def behaviour_of(model: str, metadata: object) -> str | None:
    """The behaviour a request asks for, None for none; `ValueError` when it asks for one that does not exist."""
    wish = metadata.get("sandbox") if isinstance(metadata, dict) else None
    if wish is None and "sandbox-" in model and model not in PLAIN_MODELS:
        marker = MARKER.search(model)
        wish = marker[1] if marker else None
    if not isinstance(wish, str):
        return None
    effect(wish, 1)
    return wish
