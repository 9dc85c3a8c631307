"""Start-up: `orchestrator --help` over a bare interpreter, and `run` on a long queue until it works.

python benchmarks/startup.py [PROMPTS]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from harness import Stand, prompts, stand, table

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMES = 10


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    table("commands, median of ten", ("command", "CPU ms", "over bare ms"), commands())
    with stand() as at:
        at.fill(prompts(count, nbytes=100))
        title = f"`run` on a queue of {count:,} prompts"
        table(title, ("until", "s"), started(at))


def commands() -> Iterator[tuple[object, ...]]:
    bare = spent([sys.executable, "-c", "pass"])
    yield "python -c pass", bare, ""
    for words in (["--help"], ["--version"], ["status", "--help"]):
        took = spent([sys.executable, "-m", "orchestrator", *words])
        yield f"orchestrator {' '.join(words)}", took, took - bare


def spent(command: list[str]) -> float:
    return sorted(once(command) for _ in range(TIMES))[TIMES // 2]


def once(command: list[str]) -> float:
    """CPU milliseconds of a child from its start to its end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return (used.ru_utime + used.ru_stime) * 1000


def started(at: Stand) -> Iterator[tuple[object, ...]]:
    """Its second start: the first one made the file. `daemon.config` is its last word before the stages run."""
    for event in ("daemon.config", "admit.admitted"):
        before = time.monotonic()
        daemon = at.started()
        size = at.log.stat().st_size if at.log.exists() else 0
        while event not in at.log.read_text()[size:] and daemon.poll() is None:
            time.sleep(0.005)
        yield event, time.monotonic() - before
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


if __name__ == "__main__":
    main()
