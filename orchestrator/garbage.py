"""Python's garbage collector, kept from looking where there are no cycles."""

import gc

COLLECT_AFTER = 20_000
"""New objects after which it looks: a page of prompts makes thousands, and no cycle."""


def collect_seldom() -> None:
    """Leave alone what was imported, which stays for good: walking it was a twelfth of the daemon's CPU time."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
