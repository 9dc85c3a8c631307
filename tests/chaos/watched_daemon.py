"""The daemon as it is installed, seen from inside: files it opens to write and addresses it connects to are noted.

CHAOS_NOTES      the file for these notes, one JSON list a line.
CHAOS_CONSTANTS  JSON of constants to set that are no settings, as {"orchestrator.lease.LEASE_SECONDS": 0.5}.
CHAOS_STOPS_AT   a coroutine function that is given the Context first, or a method of what holds it, or one that asks
                 `may_send`, before whose first call the process stops itself, as SIGSTOP at that very moment does.
                 Never within a write transaction: SQLite's lock is the operating system's, and then nobody could write
                 until it wakes up.
CHAOS_SHARED     if set, other daemons may work on the same queue, as they will on a database server.
"""

import contextlib
import importlib
import json
import os
import signal
import sys

CHANGES = ("os.", "shutil.", "subprocess.", "tempfile.")
NO_CHANGES = ("os.listdir", "os.scandir", "os.fwalk", "os.walk", "os.putenv", "os.unsetenv", "os.getxattr", "os.kill")


def watched(notes):
    def watch(event, args):
        if event == "open":
            written = args[2] is not None and args[2] & (os.O_WRONLY | os.O_RDWR)
            told = ["writes", os.path.realpath(args[0])] if written and isinstance(args[0], str | bytes) else None
        elif event in ("socket.connect", "socket.sendto"):
            told = ["connects", *args[1][:2]] if isinstance(args[1], tuple) else ["connects", args[1]]
        else:
            told = ["changes", event, str(args)] if event.startswith(CHANGES) and event not in NO_CHANGES else None
        if told:
            os.write(notes, json.dumps(told, default=os.fsdecode).encode() + b"\n")

    return watch


def place_of(name):
    """What holds the attribute, a module or a class in one, and its name there."""
    holder, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(holder), attribute
    except ModuleNotFoundError:
        return getattr(*place_of(holder)), attribute


def stopping_before(name):
    holder, attribute = place_of(name)
    inner, left = getattr(holder, attribute), ["once"]

    async def stopped(*args, **named):
        async with lock_of(*args, **named):
            if left:
                left.pop()
                os.kill(os.getpid(), signal.SIGSTOP)
        return await inner(*args, **named)

    setattr(holder, attribute, stopped)


def lock_of(first, *_others, may_send=None, **_named):
    """It is held while we write."""
    context = may_send.args[0] if may_send else getattr(first, "_context", first)
    return context.database._write_lock


def shared():
    async def none_released(_connection):
        return 0

    daemon = importlib.import_module("orchestrator.daemon")
    daemon.only_daemon = contextlib.nullcontext
    daemon.release_all_leases = none_released


def arranged():
    for name, value in json.loads(os.environ.get("CHAOS_CONSTANTS", "{}")).items():
        module, attribute = place_of(name)
        kind = type(getattr(module, attribute))  # a constant that is gone must not be set in vain
        setattr(module, attribute, kind(value))
    if "CHAOS_STOPS_AT" in os.environ:
        stopping_before(os.environ["CHAOS_STOPS_AT"])
    if "CHAOS_SHARED" in os.environ:
        shared()
    notes = os.open(os.environ["CHAOS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    sys.addaudithook(watched(notes))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: nothing in it may stand in for a module of the daemon
    arranged()
    from orchestrator.cli import main

    main()
