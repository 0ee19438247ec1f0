"""Virtual time: an event loop whose clock jumps to the next deadline as soon as nothing can run.

An hour of sleeping takes no time, and always the same course. The loop knows what asyncio shows it: callbacks, timers,
jobs in threads. It knows nothing of `time.monotonic()`, which goes on as ever, and of sockets, which it refuses.

With a seed, the steps of tasks are held back at random: another order of events for each seed, the same one for the
same seed.

What makes a schedule repeatable, and another seed another schedule.

Jobs that an event loop in virtual time gives to threads: their results come in the order of the jobs.

Searching the orders in which things can happen for one in which an application fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import math
import random
import selectors
import sys
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary, WeakSet, ref

from miniagents_testing._waiting import described
from miniagents_testing.errors import IdleLoopError, NotVirtualError, VirtualTimeoutError, with_sdk_bases

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from concurrent.futures import Executor, Future


class NumberedTask(asyncio.Task[Any]):
    """A task that keeps its context for reports, and whose place in a set is the same in each run.

    `asyncio.TaskGroup` and others keep tasks in sets, and cancel them in the order of these.
    """

    def __init__(
        self,
        loop: VirtualTimeLoop,
        coro: Coroutine[Any, Any, Any],
        *,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> None:
        self.number = next(loop.task_numbers)
        self.variables = contextvars.copy_context() if context is None else context
        super().__init__(coro, loop=loop, context=self.variables, **options)

    def __hash__(self) -> int:
        return self.number


class Holding:
    """Decides which steps of tasks are held back, and for how many turns of the loop.

    Measured on planted races: holding each step back with the same chance hardly ever lets one task fall ten steps
    behind another; tasks that differ in how slow they are find that in every sixth schedule.
    """

    SLOWNESS = (0.0, 0.5, 0.9)
    MOST_TURNS = 20

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._slowness: WeakKeyDictionary[asyncio.Task[Any], float] = WeakKeyDictionary()

    def turns(self, task: asyncio.Task[Any]) -> int:
        """How many turns the next step of `task` is late."""
        slowness = self._slowness.get(task)
        if slowness is None:
            slowness = self._slowness[task] = self._random.choice(self.SLOWNESS)
        turns = 0
        while turns < self.MOST_TURNS and self._random.random() < slowness:
            turns += 1
        return turns


T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_POOLS = ("asyncio_", "AnyIO worker thread")
"""Beginnings of the names of threads that do jobs, and call the loop only at the end of one."""


class ThreadJobs:
    """Queue of the jobs of one loop.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # the loop holds this object
        self._jobs: dict[Future[Any], asyncio.Future[Any]] = {}
        self._known = WeakSet(threading.enumerate())

    def give(self, executor: Executor, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Start a job."""
        loop = self._loop()
        assert loop is not None
        future: asyncio.Future[T] = loop.create_future()
        job = executor.submit(func, *args)
        self._jobs[job] = future
        future.add_done_callback(lambda future: job.cancel() if future.cancelled() else None)
        job.add_done_callback(self._wake)
        return future

    def _wake(self, job: Future[Any]) -> None:
        loop = self._loop()
        with contextlib.suppress(RuntimeError):  # a closed loop: no task waits any more
            if loop is not None:
                loop.call_soon_threadsafe(lambda: None)

    def deliver(self, *, in_order: bool = True) -> bool:
        """Hand the result of one job to its future. Return False if the job whose turn it is has none yet.

        Args:
            in_order: deliver the oldest job; otherwise the oldest that has ended.
        """
        job = next((job for job in self._jobs if in_order or job.done()), None)
        if job is None or not job.done():
            return False
        future = self._jobs.pop(job)
        if future.done():
            return True
        if job.cancelled():
            future.cancel()
        elif (error := job.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(job.result())
        return True

    @property
    def are_at_work(self) -> bool:
        """Whether a thread has a job, given here or by anyio."""
        if self._jobs:
            return True
        if "anyio.to_thread" not in sys.modules:
            return False
        workers = [thread for thread in threading.enumerate() if getattr(thread, "loop", None) is self._loop()]
        return any(worker not in worker.idle_workers for worker in workers)  # type: ignore[attr-defined]  # anyio's

    def strangers(self) -> bool:
        """Return True if a thread of no pool was started since the loop was made: it may call back."""
        return any(thread not in self._known and not thread.name.startswith(_POOLS) for thread in threading.enumerate())


PATIENCE = 2.0
"""Seconds on the wall that threads get at least before the clock moves on, or the loop is called idle."""

_OUTSIDE = (
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "getaddrinfo",
    "getnameinfo",
    "sock_connect",
    "subprocess_exec",
    "subprocess_shell",
)
"""What reaches out of the process before a file descriptor is watched, which is refused in any case."""


def run_in_virtual_time(coro: Coroutine[Any, Any, T], *, seed: int | None = None, timeout: float | None = None) -> T:
    """Run a coroutine in a virtual-time loop of its own, and return its result; like `asyncio.run`.

    Args:
        coro: what to run.
        seed: of the schedule, see `VirtualTimeLoop`. An error then says with which seed it happened.
        timeout: virtual seconds that it may take; without a limit, what polls in vain polls for ever.

    Raises:
        IdleLoopError: something waits that nothing can wake.
        VirtualTimeoutError: it took longer than `timeout`.
    """
    return VirtualClock(seed=seed, timeout=timeout).run(coro)


class VirtualClock:
    """Runs coroutines in virtual time, for code that is not async; pytest's fixture `virtual_clock` is one.

    Args:
        seed: see `run_in_virtual_time`.
        timeout: as above, for each coroutine.
    """

    def __init__(self, *, seed: int | None = None, timeout: float | None = None) -> None:
        self.seed = seed
        self._timeout = timeout
        self._loop: VirtualTimeLoop | None = None

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in a loop of its own; see `run_in_virtual_time`."""
        if _running_loop() is not None:
            coro.close()
            raise RuntimeError("A loop is running here: await it instead, or let a test that is not async run it")
        __tracebackhide__ = True
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                return runner.run(coro)
        except Exception as error:
            name_seed(error, self.seed)
            if isinstance(error, IdleLoopError | VirtualTimeoutError):
                error.__traceback__ = None  # the lines that count are not those of the loop, but in the message
            raise

    def time(self) -> float:
        """Seconds of virtual time: of the running loop, or else at the end of the last coroutine that was run."""
        loop = _running_loop() or self._loop
        return 0.0 if loop is None else loop.time()

    def _new_loop(self) -> VirtualTimeLoop:
        self._loop = VirtualTimeLoop(seed=self.seed, timeout=self._timeout)
        return self._loop


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def name_seed(error: BaseException, seed: int | None) -> None:
    """Tell with which schedule an error happened, if with any."""
    if seed is not None:
        error.add_note(
            f"This happened with the schedule of seed {seed}; to see it again: run_in_virtual_time(..., seed={seed}), "
            f"or pytest --miniagents-schedule-seed={seed}"
        )


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and moves only when nothing can run, straight to the next deadline.

    Callbacks that are due at the same moment run in the order in which they were scheduled. While a job runs in a
    thread (`run_in_executor`, `asyncio.to_thread`, `anyio.to_thread`) the clock stands still; only a job that takes
    longer than two seconds, and longer than the next deadline is away, is taken for one that waits for that deadline.
    Results come in the order in which the jobs were given (anyio's excepted), when nothing else can run. Threads of
    other kinds do not stop the clock, but may call `call_soon_threadsafe` as ever.

    The class itself is a loop factory: `asyncio.Runner(loop_factory=VirtualTimeLoop)`,
    `MiniAgents().run(..., loop_factory=VirtualTimeLoop)`; with a seed, `functools.partial(VirtualTimeLoop, seed=7)`.

    Args:
        seed: holds steps of tasks back at random, some tasks more than others. What asyncio promises stays: callbacks
            (of futures, `call_soon`, timers) run in their order, and none is lost. How many turns of the loop a task
            needs, and which of two tasks that are ready goes first, is nothing to rely on: so another schedule is one
            that a slower network or a busier machine could have brought.
        timeout: virtual seconds that the loop may run; no limit if None.
        allow_io: let sockets, pipes and subprocesses be used. While any of them is watched, the clock goes with the
            wall.

    Raises:
        IdleLoopError: out of `run_until_complete`, as soon as tasks wait, and no timer, no thread and no file can wake
            any of them.
        VirtualTimeoutError: likewise, instead of going beyond `timeout`.
        NotVirtualError: where a socket, pipe or subprocess is opened.
    """

    # The only private names of asyncio that are used here; the same ones from 3.11 to 3.15.
    _scheduled: list[asyncio.TimerHandle]
    """A heap of timers, the next one first."""
    _clock_resolution: float
    """What is due so many seconds from now is due."""

    def __init__(self, *, seed: int | None = None, timeout: float | None = None, allow_io: bool = False) -> None:
        self.seed = seed
        self.timeout = timeout
        self.allows_io = allow_io
        self.task_numbers = itertools.count()
        self._now = 0.0
        self._holding = None if seed is None else Holding(seed)
        self._timer_numbers = itertools.count()
        self._threads = ThreadJobs(self)
        self._pool: ThreadPoolExecutor | None = None
        self._closing_pool = False
        super().__init__(_Selector(self))
        self.set_task_factory(NumberedTask)  # type: ignore[arg-type]  # made for this loop and for coroutines
        if not allow_io:
            for name in _OUTSIDE:
                setattr(self, name, functools.partial(refuse, f"{name}()"))

    # --- the clock

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Like any loop's, and first come, first served among equal deadlines."""
        moment = _Moment(when)
        moment.number = next(self._timer_numbers)
        return super().call_at(moment, callback, *args, context=context)

    def _wait(self, timeout: float | None, poll: Callable[[float | None], list[Any]], *, watches: bool) -> list[Any]:
        """Nothing can run: wait for the outside if it works for us, or else move the clock.

        Args:
            timeout: seconds to the next deadline, None if there is none.
            poll: waits on the wall for at most so many seconds, and returns what came.
            watches: whether files or sockets are watched.
        """
        if self._threads.deliver():
            return []
        if timeout is not None and math.isinf(self._scheduled[0].when()):
            timeout = None  # `sleep(math.inf)`: a way to say for ever
        if watches:
            started = time.monotonic()
            if happened := poll(timeout):
                self._set_clock(self._now + min(time.monotonic() - started, math.inf if timeout is None else timeout))
        elif self._closing_pool or self._threads.are_at_work:
            happened = poll(max(timeout or 0, PATIENCE))
            # a job may wait for the result of a later one
            if not happened and (self._threads.deliver(in_order=False) or timeout is None):
                return []
        else:
            happened = poll(PATIENCE if timeout is None and self._threads.strangers() else 0)
        if happened:
            return happened
        if timeout is None:
            return self._idle(poll)
        self._set_clock(self._scheduled[0].when())
        return []

    def _set_clock(self, now: float) -> None:
        if self.timeout is not None and now > self.timeout:
            timeout, self.timeout = self.timeout, None  # the clean-up has all the time
            raise VirtualTimeoutError(
                f"{timeout:g} s of virtual time were not enough; these are still at work, or wait:\n"
                f"{described(asyncio.all_tasks(self))}"
            )
        self._now = max(self._now, float(now))
        self._clock_resolution = math.ulp(self._now)  # what is due now, and nothing that is due later

    def _idle(self, poll: Callable[[float | None], list[Any]]) -> list[Any]:
        if waiting := asyncio.all_tasks(self):
            raise IdleLoopError(
                f"Nothing can go on, {self._now:g} s of virtual time after the start: no timer is set, no thread is at "
                f"work, and these wait for something that never comes:\n{described(waiting)}"
            )
        return poll(None)  # whoever runs a loop without any task has other threads give it work

    # --- threads

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Like any loop's; the clock stands still until the job has ended, even if its reader was cancelled."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        return self._threads.give(executor or self._default_pool(), func, *args)

    def _default_pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            pool = ThreadPoolExecutor(thread_name_prefix="asyncio")
            self.set_default_executor(pool)
            return pool
        return self._pool

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override]
        """Like any loop's."""
        super().set_default_executor(executor)
        self._pool = executor

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """Like any loop's; it waits for its threads, on the wall."""
        self._closing_pool = True
        try:
            await super().shutdown_default_executor(*args, **options)
        finally:
            self._closing_pool = False

    # --- schedules

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Like any loop's; with a seed, steps of tasks may come some turns later."""
        if self._holding is not None and isinstance(task := getattr(callback, "__self__", None), asyncio.Task):
            turns = self._holding.turns(task)
            if turns:
                return super().call_soon(self._hold, turns, callback, args, context, context=context)
        return super().call_soon(callback, *args, context=context)

    def _hold(
        self, turns: int, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        # what is held back is always a callback that is ready, so that nobody takes the loop for idle
        if turns > 1:
            super().call_soon(self._hold, turns - 1, callback, args, context, context=context)
        else:
            super().call_soon(callback, *args, context=context)


class _Moment(float):
    """A deadline; of two equal ones, the one that was set first comes first."""

    __slots__ = ("number",)

    number: int

    def __lt__(self, other: float) -> bool:
        if isinstance(other, _Moment) and float(self) == other:
            return self.number < other.number
        return super().__lt__(other)


class _Selector(selectors.BaseSelector):
    """What the loop waits with: it asks the loop whether there is anything to wait for."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return self._real.select(0)
        return self._loop._wait(timeout, self._real.select, watches=len(self._real.get_map()) > 1)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        # the first one is the pipe through which threads wake the loop
        if self._real.get_map() and not self._loop.allows_io:
            refuse("Watching a file or socket")
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()
        del self._loop  # which holds us


def refuse(what: str, *args: Any, **kwargs: Any) -> NoReturn:
    """Raise the error of something that only the real world can bring forward."""
    raise with_sdk_bases(NotVirtualError)(
        f"{what} was asked for on a loop whose time is virtual: sockets, pipes and subprocesses answer in real time, "
        f"and the clock does not wait. Play a script or a cassette through a transport; or make the loop with "
        f"allow_io=True, then the clock goes with the wall while something is watched."
    )


_only: int | None = None


def replay_only(seed: int | None) -> None:
    """From now on, `schedules` gives this one seed; None: all of them again."""
    global _only
    _only = seed


def schedules(count: int = 100) -> Sequence[int]:
    """The seeds of `count` schedules; under `pytest --miniagents-schedule-seed=N`, that one alone.

    For `search_schedules`, and for `@pytest.mark.parametrize("seed", schedules(20))`.
    """
    return range(count) if _only is None else (_only,)


def search_schedules(scenario: Callable[[], Coroutine[Any, Any, object]], seeds: Iterable[int] | None = None) -> None:
    """Run a scenario under one schedule after the other, until it fails under one.

    Args:
        scenario: makes the coroutine that is run, each time in a virtual-time loop of its own.
        seeds: of the schedules; `schedules()` if None.

    Raises:
        Exception: what the scenario failed with first; a note of it has the seed.
    """
    for seed in schedules() if seeds is None else seeds:
        run_in_virtual_time(scenario(), seed=seed)
