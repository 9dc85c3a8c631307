"""The same prompts through autobatcher and through the daemon, one after the other, each with a provider of its own.

    python benchmarks/compared.py [PROMPTS]

autobatcher is installed into an environment that lives as long as this run. It keeps prompts and answers in memory
alone: what a crash costs is no part of these figures.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from harness import HERE, ended, prompts, stand, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Used

ANSWER_BYTES = 1000
COLUMNS = ("what", "prompts", "wall s", "per wall s", "CPU s", "per CPU s", "peak MB")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    table("the same prompts and answers of 1 kB, an instant provider", COLUMNS, compared(count))


def compared(count: int) -> Iterator[tuple[object, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        theirs = autobatcher(Path(folder), count)
    ours = orchestrator(count)
    yield "autobatcher", count, theirs.wall, count / theirs.wall, theirs.cpu, count / theirs.cpu, theirs.peak_mb
    yield "orchestrator", count, ours.wall, count / ours.wall, ours.cpu, count / ours.cpu, ours.peak_mb
    ratios = (theirs.wall / ours.wall, theirs.cpu / ours.cpu, ours.peak_mb / theirs.peak_mb)
    yield "ratio", "", "", f"{ratios[0]:.2f}", "", f"{ratios[1]:.2f}", f"{ratios[2]:.2f}"


def autobatcher(folder: Path, count: int) -> Used:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "autobatcher"], check=True)
    with stand(answer_bytes=ANSWER_BYTES) as at:
        started = time.monotonic()
        return ended(subprocess.Popen([python, str(HERE / "autobatcher_loop.py"), at.url, str(count)]), started)


def orchestrator(count: int) -> Used:
    with stand(answer_bytes=ANSWER_BYTES) as at:
        at.fill(prompts(count))
        run = at.run_until_idle()
        at.check_done(count)
        return run


if __name__ == "__main__":
    main()
