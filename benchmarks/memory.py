"""Peak memory of the daemon: queues of several lengths, large files in flight, long prompts, long answers.

python benchmarks/memory.py [PROMPTS …]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness import prompts, stand, table

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1_000_000
EIGHT_AT_ONCE = {"SUBMISSION__CONCURRENCY": "8", "COLLECTION__CONCURRENCY": "8"}


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [100_000, 1_000_000]
    table("peak memory", ("queue", "peak MB", "wall s"), rows(counts))


def rows(counts: list[int]) -> Iterator[tuple[object, ...]]:
    for count in counts:
        yield f"{count:,} prompts and answers of 1 kB", *peak(count, 1000, 1000)
    yield "8 files of 200 MB in flight (10 kB each)", *peak(160_000, 10_000, 1000, EIGHT_AT_ONCE)
    yield "40 prompts of 10 MB", *peak(40, 10 * MB - 500, 1000)
    yield "8 answers of 60 MB", *peak(8, 1000, 60 * MB)


def peak(count: int, nbytes: int, answer_bytes: int, settings: dict[str, str] | None = None) -> tuple[float, float]:
    with stand(settings, answer_bytes=answer_bytes) as at:
        at.fill(prompts(count, nbytes))
        run = at.run_until_idle()
        at.check_done(count)
        return run.peak_mb, run.wall


if __name__ == "__main__":
    main()
