"""What Python and the C library do about memory that is not used any more, for a process that runs for months."""

import ctypes
import gc

COLLECT_AFTER = 20_000
"""New objects after which the garbage collector looks: a page of prompts makes thousands, and no cycle."""
RETURN_FROM_BYTES = 1 << 18
M_MMAP_THRESHOLD = -3
"""The parameter's number in malloc.h."""


def collect_seldom() -> None:
    """Leave alone what was imported, which stays for good: walking it was a twelfth of the daemon's CPU time."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def return_large() -> None:
    """Give large blocks back to the system as soon as they are freed, where the C library can be told to.

    After its first prompt of 10 MB it would keep all that are no larger for the next one, and the gaps between them.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, RETURN_FROM_BYTES)
