"""What Python and the C library do about memory that is not used any more, for a process that runs for months."""

import gc

COLLECT_AFTER = 20_000
"""New objects after which the garbage collector looks: a page of prompts makes thousands, and no cycle."""
RETURN_FROM_BYTES = 1 << 18
M_MMAP_THRESHOLD = -3
"""The parameter's number in malloc.h."""


def collect_seldom() -> None:
    """Asked for before anything is imported: a sixth of the CPU time of a command went into looking at that."""
    gc.set_threshold(COLLECT_AFTER)


def leave_alone() -> None:
    """Never look again at what exists now: it was imported, and stays for good, or the process ends.

    Walking what was imported was a twelfth of the daemon's CPU time.
    """
    gc.freeze()


def return_large() -> None:
    """Give large blocks back to the system as soon as they are freed, where the C library can be told to.

    After its first prompt of 10 MB it would keep all that are no larger for the next one, and the gaps between them.
    """
    import ctypes  # noqa: PLC0415 - commands that give nothing back start sooner

    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, RETURN_FROM_BYTES)
