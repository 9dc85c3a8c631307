import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from orchestrator.sandbox.behaviours import effect

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
WINDOWS: Mapping[str, float] = MappingProxyType({"24h": 86_400.0, "1h": 3_600.0})
ORDERS = ("shuffled", "input", "reversed")
ROUNDING = 1e-9
NO_LINE_FAULTS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one sandbox behaves; every value has the default of the hosted service where that is known.

    host, port:        where to listen; port 0 takes a free one.
    dialect:           "doubleword" or "openai".
    api_key:           the only key accepted; None accepts any that is not empty.
    seed:              makes ids, completion order and every draw repeatable; None draws fresh ones at each start.
    clock:             Unix seconds; all progress is computed from it at the moment of reading.
    validate_seconds:  a batch stays `validating` this long after its creation.
    latency_seconds:   its lines finish spread over this long after that; 0 finishes all at once.
    order:             "shuffled", "input" or "reversed": the order in which lines finish.
    slow_seconds:      how much later than the others a line marked `slow` finishes.
    abort_seconds:     lines due within this time after a cancel still complete (doubleword-api 2.6); None is a tenth
                       of the latency, at most 5.
    sweep_seconds:     a batch nobody retrieves shows `finalizing` in lists this long (doubleword-api 2.3).
    purge_seconds:     replies of a deleted batch are served this long (doubleword-api 2.8).
    answer_bytes:      answers are padded to at least this many bytes.
    huge_bytes:        how much a line marked `huge` carries.
    models:            the models served; None serves every name that does not start with `unknown-`.
    line_faults:       behaviour -> share of executions that show it, 0 to 1; the shares add up to at most 1.
    faults:            faults switched on from the start, as `Fault.parse` reads them.
    credit_lines:      successes the account can pay for, after which every line ends with 402; None is no limit.
    enqueued_tokens:   tokens (of four bytes) that batches of one model may hold while they run; one too many fails
                       when its validation ends (F7). None is no limit.
    windows:           completion window -> seconds until `expires_at`.
    max_*:             limits of doubleword-api 1.1; 0 switches that one off.
    """

    host: str = "127.0.0.1"
    port: int = 0
    dialect: str = "doubleword"
    api_key: str | None = None
    seed: int | None = None
    clock: Callable[[], float] = time.time
    validate_seconds: float = 0.2
    latency_seconds: float = 1.0
    order: str = "shuffled"
    slow_seconds: float = 5.0
    abort_seconds: float | None = None
    sweep_seconds: float = 10.0
    purge_seconds: float = 600.0
    answer_bytes: int = 0
    huge_bytes: int = 1 << 20
    models: tuple[str, ...] | None = None
    line_faults: Mapping[str, float] = field(default_factory=lambda: NO_LINE_FAULTS)
    faults: tuple[str, ...] = ()
    credit_lines: int | None = None
    enqueued_tokens: int | None = None
    windows: Mapping[str, float] = field(default_factory=lambda: WINDOWS)
    endpoints: tuple[str, ...] = ENDPOINTS
    max_file_bytes: int = 200_000_000
    max_file_lines: int = 50_000
    max_body_bytes: int = 10 << 20

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, with one `ValueError` that names it."""
        for behaviour in self.line_faults:
            effect(behaviour, 1)
        shares = list(self.line_faults.values())
        if min(shares, default=0.0) < 0 or sum(shares) > 1 + ROUNDING:
            raise ValueError(f"line_faults must be shares that add up to at most 1, not {dict(self.line_faults)}")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {self.order!r}")

    @property
    def abort_after_cancel_seconds(self) -> float:
        """Time in which lines already running still finish after a cancel (doubleword-api 2.6)."""
        return min(5.0, self.latency_seconds / 10) if self.abort_seconds is None else self.abort_seconds
