"""An event loop in which time passes only when nobody has anything to do, and whose processes die between two steps.

A process is whatever was started under its name: its tasks, callbacks, connections. Nothing of a dead one runs again,
not even a `finally`, as after kill -9.

Files may be watched, of a database server that is real: time stands still until it answers, but for a statement that
waits for a lock, which somebody may hold until later.
"""

import asyncio
import contextvars
import heapq
import selectors

PROCESS = contextvars.ContextVar("PROCESS", default=None)
_GRAVEYARD = []
"""Tasks of dead processes are kept: collecting one would run its `finally` blocks."""


class Process:
    """`dies_at` is the step before which it is killed, `freezes_at` that after which it is stopped (SIGSTOP).

    `ended` is set when it is dead or has come to its end.
    """

    def __init__(self, loop, name):
        self.loop = loop
        self.name = name
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)
        self.dead = False
        self.steps = 0
        self.dies_at = None
        self.frozen = False
        self.freezes_at = None
        self.backlog = []
        self.ended = asyncio.Event()
        self.belongings = []
        self.task = None
        _GRAVEYARD.append(self)

    def start(self, coroutine):
        self.task = self.loop.create_task(coroutine, context=self.context)
        self.task.add_done_callback(lambda _task: self.ended.set(), context=contextvars.Context())

    def step(self, handle):
        """Whether the next step may be taken now; one of a frozen process is kept for later."""
        if self.dead:
            return False
        if self.frozen:
            self.backlog.append(handle)
            return False
        self.steps += 1
        if self.steps == self.freezes_at:
            self.frozen = True
        if self.steps == self.dies_at:
            self.kill()
        return not self.dead

    def thaw(self):
        """SIGCONT: everything that would have happened meanwhile happens now."""
        self.frozen, self.freezes_at = False, None
        self.loop.again(self.backlog)
        self.backlog = []

    def kill(self):
        """Belongings (connections, sockets) are lost at this moment; the system cleans up after them."""
        self.dead = True
        for belonging in self.belongings:
            belonging.vanish()
        self.ended.set()


ANSWER_SECONDS, LOCK_SECONDS = 0.05, 0.001
"""How long, in our time, a server may take before it counts as waiting for a lock, and how often it is asked then."""
LOCK_STEP_SECONDS = 0.5


class _Selector:
    """Waiting takes no time, unless somebody waits for a real file."""

    def __init__(self, loop):
        self.loop = loop
        self.files = selectors.DefaultSelector()
        self._patience = ANSWER_SECONDS

    def select(self, timeout):
        if self.files.get_map():
            found = self.files.select(0 if timeout == 0 else self._patience)
            if found or timeout == 0:
                self._patience = ANSWER_SECONDS if found else self._patience
                return found
            self._patience = LOCK_SECONDS
            timeout = LOCK_STEP_SECONDS if timeout is None else min(timeout, LOCK_STEP_SECONDS)
        if timeout is None:
            raise RuntimeError("nothing will ever happen again")
        self.loop.now += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`now` is in seconds since the loop began; `complaints` holds what a real loop would log."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.complaints = []
        self._selector = _Selector(self)
        self._clock_resolution = 1e-9
        self.set_task_factory(_kept)
        self.set_exception_handler(lambda _loop, context: self.complaints.append(context))

    def time(self):
        return self.now

    def again(self, handles):
        self._ready.extend(handles)

    def _process_events(self, event_list):
        """Each is told once, and watched again by whoever waits for more: the dead and the frozen do not."""
        for key, mask in event_list:
            for kind in [kind for kind in key.data if mask & kind]:
                self._ready.append(key.data[kind])
                self._watch(key.fd, kind, None)

    def add_reader(self, file, callback, *args):
        self._watch(file, selectors.EVENT_READ, _Handle(callback, args, self, None))

    def add_writer(self, file, callback, *args):
        self._watch(file, selectors.EVENT_WRITE, _Handle(callback, args, self, None))

    def remove_reader(self, file):
        return self._watch(file, selectors.EVENT_READ, None)

    def remove_writer(self, file):
        return self._watch(file, selectors.EVENT_WRITE, None)

    def _watch(self, file, kind, handle):
        """Whether this kind was watched before."""
        files = self._selector.files
        watched = dict(files.unregister(file).data) if file in files.get_map() else {}
        before = watched.pop(kind, None)
        if handle is not None:
            watched[kind] = handle
        if watched:
            files.register(file, sum(watched), watched)
        return before is not None

    def _write_to_self(self):
        pass

    def _call_soon(self, callback, args, context):
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when, callback, *args, context=None):
        timer = _Timer(when, callback, args, self, context)
        timer._scheduled = True
        heapq.heappush(self._scheduled, timer)
        return timer


class _Handle(asyncio.Handle):
    def _run(self):
        process = self._context.get(PROCESS)
        if process is None or process.step(self):
            super()._run()


class _Timer(asyncio.TimerHandle):
    def _run(self):
        process = self._context.get(PROCESS)
        if process is None or process.step(self):
            super()._run()


def _kept(loop, coroutine, context=None):
    task = asyncio.Task(coroutine, loop=loop, context=context)
    owner = (context or contextvars.copy_context()).get(PROCESS)
    if owner is not None:
        owner.belongings.append(_Kept(task))
    return task


class _Kept:
    """Holds a task for as long as its process is remembered."""

    def __init__(self, task):
        self.task = task

    def vanish(self):
        pass
