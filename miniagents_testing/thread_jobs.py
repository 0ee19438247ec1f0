"""Jobs that an event loop has given to threads, as a virtual-time loop wants them: without chance.

When a thread ends is up to the machine. So that it decides nothing, results are delivered when nothing else can run,
and in the order in which the jobs were given.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple
from weakref import WeakSet, ref

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

__all__ = ["PATIENCE", "ThreadJobs"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE = 2.0
"""Seconds on the wall that a thread gets at least, before anything else comes to its turn."""

MOST_BUSY_TURNS = 1000
"""Turns in which something else can run, after which a result is delivered nevertheless."""


class _Job:
    def __init__(self, job: Future[Any], future: asyncio.Future[Any]) -> None:
        self.job = job
        self.future = future
        self.is_slow = False
        """It had all the patience, and may be waiting for the loop itself."""

    def deliver(self) -> None:
        if self.future.done():
            return
        if self.job.cancelled():
            self.future.cancel()
        elif (error := self.job.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.job.result())


class ThreadJobs:
    """The jobs of one loop.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # which holds us
        self._jobs: list[_Job] = []
        self._busy_turns = 0
        self._known = WeakSet(threading.enumerate())

    def give(self, executor: Executor, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Have a job done."""
        loop = self._loop()
        assert loop is not None
        future: asyncio.Future[T] = loop.create_future()
        job = executor.submit(func, *args)
        self._jobs.append(_Job(job, future))
        future.add_done_callback(lambda future: job.cancel() if future.cancelled() else None)
        job.add_done_callback(self._wake)
        return future

    def _wake(self, job: Future[Any]) -> None:
        loop = self._loop()
        with contextlib.suppress(RuntimeError):  # a loop that was closed: nobody waits any more
            if loop is not None:
                loop.call_soon_threadsafe(lambda: None)

    # --- what the loop asks

    def deliver(self, *, nothing_else: bool) -> bool:
        """Deliver a result whose turn it is; whether there was one.

        Args:
            nothing_else: whether nothing else can run.
        """
        if not self._jobs:
            return False
        self._busy_turns = 0 if nothing_else else self._busy_turns + 1
        if not nothing_else and self._busy_turns % MOST_BUSY_TURNS:
            return False
        for each in self._jobs:
            if each.job.done():
                self._jobs.remove(each)
                each.deliver()
                return True
            if not each.is_slow:
                return False
        return False

    @property
    def are_at_work(self) -> bool:
        """Whether a thread has a job, one of anyio's own included."""
        return bool(self._jobs) or any(worker not in worker.idle_workers for worker in self._anyio_workers())

    def patience(self, timeout: float | None) -> float | None:
        """For how many seconds on the wall to wait for a job at work, when the next deadline is so far away."""
        if timeout is None:  # one that is done may be what the one before it waits for
            return PATIENCE if any(each.job.done() for each in self._jobs) else None
        return timeout if self._jobs and all(each.is_slow for each in self._jobs) else max(timeout, PATIENCE)

    def patience_is_out(self) -> bool:
        """Nothing came: the other jobs, and the clock, may go first now. Whether one of them has a result."""
        for each in self._jobs:
            each.is_slow = True
        return any(each.job.done() for each in self._jobs)

    # --- other threads

    def belongs_here(self) -> None:
        """The running thread does jobs, and nothing else."""
        self._known.add(threading.current_thread())

    def strangers(self) -> bool:
        """Whether a thread was started, by nobody we know, that may still call back."""
        known = self._known.union(self._anyio_workers())
        return any(thread not in known for thread in threading.enumerate())

    def _anyio_workers(self) -> list[Any]:
        """The threads of anyio's own that work for the loop, or are ready to."""
        if "anyio.to_thread" not in sys.modules:
            return []
        loop = self._loop()
        return [thread for thread in threading.enumerate() if getattr(thread, "loop", None) is loop]
