"""Virtual time: an event loop whose clock jumps to the next deadline as soon as nothing can run.

An hour of sleeping takes no time, and each run has the same order of events. A schedule is another order: some steps of
tasks are held back, as its token says, or at random from a seed. The same token or seed gives the same order.

`run_in_virtual_time` runs a coroutine. The loop handles callbacks, timers and jobs in threads. It refuses sockets, and
does not change `time.monotonic()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import math
import selectors
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple
from weakref import WeakSet, ref

from miniagents_testing._decisions import Steps, schedule_of, token_of
from miniagents_testing._interleaving import Interleaving
from miniagents_testing._waiting import describe_tasks
from miniagents_testing.errors import IdleLoopError, NotVirtualError, VirtualTimeoutError, with_sdk_bases

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor, Future


class NumberedTask(asyncio.Task[Any]):
    """Task that keeps its context for reports, and has the same place in a set in each run.

    `asyncio.TaskGroup` and other code keeps tasks in sets, and cancels tasks in the order of the set.
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
        self.default_name = loop.name_task(coro)
        """Name for reports if the task has none of its own: asyncio's, as in `Task-1234`, differs between runs."""

    def __hash__(self) -> int:
        return self.number

    def set_name(self, value: object) -> None:
        """Set the name; keep it for None, which some Pythons 3.13 give to a task that is made without a name."""
        if value is not None:
            super().set_name(value)


T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_POOL_THREAD_PREFIXES = ("asyncio_", "AnyIO worker thread")
"""Beginnings of the names of threads that do jobs, and call the loop only at the end of a job."""


class _ThreadJobs:
    """Queue of the jobs that one loop gives to threads; their results come in the order of the jobs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # the loop holds this object
        self._jobs: dict[Future[Any], asyncio.Future[Any]] = {}
        self._known = WeakSet(threading.enumerate())

    def submit(self, executor: Executor, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Start a job in a thread of `executor`, and return the future of its result.

        Cancelling the future cancels the job.
        """
        loop = self._loop()
        assert loop is not None
        future: asyncio.Future[T] = loop.create_future()
        job = executor.submit(func, *args)
        self._jobs[job] = future
        future.add_done_callback(lambda future: job.cancel() if future.cancelled() else None)
        job.add_done_callback(self._wake_loop)
        return future

    def _wake_loop(self, job: Future[Any]) -> None:
        """Wake the loop from the thread in which a job has ended, so that the loop looks for its result."""
        loop = self._loop()
        with contextlib.suppress(RuntimeError):  # a closed loop: no task waits any more
            if loop is not None:
                loop.call_soon_threadsafe(lambda: None)

    def deliver(self, *, in_order: bool = True) -> bool:
        """Set the result, error or cancellation of one job on its future, unless that is done; return True.

        Return False without a job, or if the job has not ended.

        Args:
            in_order: deliver the oldest job; otherwise the oldest job that has ended.
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
    def has_jobs(self) -> bool:
        """True if the result of a job of this queue has not been delivered."""
        return bool(self._jobs)

    @property
    def are_running(self) -> bool:
        """True if a thread has a job, from this queue or from anyio."""
        if self._jobs:
            return True
        if "anyio.to_thread" not in sys.modules:
            return False
        workers = [thread for thread in threading.enumerate() if getattr(thread, "loop", None) is self._loop()]
        return any(worker not in worker.idle_workers for worker in workers)  # type: ignore[attr-defined]  # anyio's

    def has_other_threads(self) -> bool:
        """Return True if a thread outside the pools was started since the loop was made: it may call the loop."""
        return any(
            thread not in self._known and not thread.name.startswith(_POOL_THREAD_PREFIXES)
            for thread in threading.enumerate()
        )


_PATIENCE = 2.0
"""Minimum of seconds of real time that threads get before the clock moves on, or the loop counts as idle."""

_FREE_TURNS = 100_000
"""Turns in a row with something to run that take no virtual time: a real loop takes about a second for as many."""
_SECONDS_A_TURN = 1e-5
"""Virtual seconds of each turn after those; the price doubles with every `_TURNS_A_DOUBLING` turns."""
_TURNS_A_DOUBLING = 100_000
_BUSY_PATIENCE = 5.0
"""Seconds of real time without a pause after which the clock goes at least as fast as real time."""
_FREE_SLOW_TURNS = 1_000
"""Turns that take no virtual time however slow they are: a few with much work, on a busy machine, are no polling."""
_LONGEST_POLLING = 86_400.0
"""Virtual seconds of busy turns after which polling counts as waiting for ever."""

_MOST_DEVIATIONS_SHOWN = 40
"""Deviations of a random schedule whose token is shown: it fits on two lines of a terminal."""

_REFUSED_METHODS = (
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
"""Methods that use the network or a subprocess before they watch a file descriptor; watching is refused anyway."""


def run_in_virtual_time(
    coro: Coroutine[Any, Any, T], *, seed: int | None = None, schedule: str | None = None, timeout: float | None = None
) -> T:
    """Run a coroutine in a new virtual-time loop and return its result, like `asyncio.run`.

    Args:
        coro: the coroutine to run.
        seed: seed of the schedule, see `VirtualTimeLoop`. An error gets a note with the seed.
        schedule: token of the schedule, in place of a seed. An error gets a note with the order of the steps.
        timeout: virtual seconds that the coroutine may take. No limit by default.

    Raises:
        IdleLoopError: a task waits, and no timer, thread or file can wake it.
        VirtualTimeoutError: the coroutine took longer than `timeout`.
        ValueError: `schedule` is no token, or both a seed and a token are given.
        RuntimeError: an event loop runs in this thread already.
    """
    return VirtualClock(seed=seed, schedule=schedule, timeout=timeout).run(coro)


class VirtualClock:
    """Runner of coroutines in virtual time, for code that is not async, and value of the fixture `virtual_clock`.

    Args:
        seed: seed of the schedule, see `run_in_virtual_time`.
        schedule: token of the schedule.
        timeout: virtual seconds that each coroutine may take.
    """

    def __init__(self, *, seed: int | None = None, schedule: str | None = None, timeout: float | None = None) -> None:
        self.seed = seed
        self._schedule = schedule
        self._timeout = timeout
        self._loop: VirtualTimeLoop | None = None

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in a new loop and return its result; see `run_in_virtual_time`.

        Raise `RuntimeError` if a loop is running in this thread already.
        """
        if _running_loop() is not None:
            coro.close()
            raise RuntimeError(
                "An event loop is running in this thread already: await the coroutine, or run it in a test that is not "
                "async"
            )
        __tracebackhide__ = True
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                return runner.run(coro)
        except Exception as error:
            add_schedule_note(error, self._loop)
            if isinstance(error, IdleLoopError | VirtualTimeoutError):
                error.__traceback__ = None  # its lines are those of the loop; the message has those of the application
            raise

    def time(self) -> float:
        """Return the virtual seconds of the running loop, or else those at the end of the last coroutine."""
        loop = _running_loop() or self._loop
        return 0.0 if loop is None else loop.time()

    def _new_loop(self) -> VirtualTimeLoop:
        """Make a loop with the schedule and the time limit of this clock, and remember it for `time`."""
        self._loop = VirtualTimeLoop(seed=self.seed, schedule=self._schedule, timeout=self._timeout)
        return self._loop


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running loop of this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def add_schedule_note(error: BaseException, loop: VirtualTimeLoop | None) -> None:
    """Add a note to an error: the seed of the loop's schedule, or the order of steps that its token gave."""
    if loop is None or loop.steps is None:
        return
    if loop.seed is not None:
        error.add_note(
            f"This happened with the schedule of seed {loop.seed}; to see it again: "
            f"run_in_virtual_time(..., seed={loop.seed}), or pytest --miniagents-schedule-seed={loop.seed}"
        )
        if len(loop.steps.made) <= _MOST_DEVIATIONS_SHOWN:
            token = token_of(loop.steps.made)
            error.add_note(
                f'To see the order of its steps: schedule="{token}" in code, or pytest --miniagents-schedule={token}'
            )
    elif loop.schedule is not None and loop.steps.trace is not None:
        error.add_note(f"This happened with the schedule {loop.schedule}.\n{loop.steps.trace.describe()}")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0, and jumps to the next deadline when nothing can run.

    Callbacks that are due at the same moment run in the order in which they were scheduled. While a task polls
    (`while not done: await asyncio.sleep(0)`), the clock moves after 100,000 turns, by 10 microseconds a turn and more.
    While a job runs in a thread (`run_in_executor`, `asyncio.to_thread`, `anyio.to_thread`), the clock stands still.
    The clock moves on if the job takes more than two real seconds and more than the time to the next deadline: the job
    may wait for it.
    Results of jobs come when nothing else can run, in the order in which the jobs were submitted (except anyio's).
    Other threads do not stop the clock, and may use `call_soon_threadsafe` as with any loop.

    The class itself is a loop factory: `asyncio.Runner(loop_factory=VirtualTimeLoop)`,
    `MiniAgents().run(..., loop_factory=VirtualTimeLoop)`; with a seed, `functools.partial(VirtualTimeLoop, seed=7)`.

    Args:
        seed: seed of the schedule: steps of tasks are held back at random, some tasks more than others. The promises
            of asyncio hold: callbacks (of futures, `call_soon`, timers) run in their order, and none is lost. asyncio
            promises neither how many turns a task needs, nor which of two ready tasks runs first. So each schedule is
            one that a slower network or a busier machine could cause.
        schedule: token of the schedule, in place of a seed: the same steps are held back as in the run that it is
            from. The loop records the lines that each step runs, which is slow.
        timeout: virtual seconds that the loop may run; no limit if None.
        allow_io: allow sockets, pipes and subprocesses. While the loop watches any of them, its clock follows real
            time.

    Raises:
        IdleLoopError: raised by `run_until_complete` as soon as tasks wait, and no timer, thread or file can wake any
            of them.
        VirtualTimeoutError: raised by `run_until_complete` when the clock would pass `timeout`.
        NotVirtualError: raised where a socket, pipe or subprocess is opened.
        ValueError: `schedule` is no token, or both a seed and a token are given.
    """

    has_virtual_time = True
    """Tells code that looks at a clock to look at that of this loop."""

    # No other private names of asyncio are used here; these are the same from Python 3.11 to 3.15.
    _ready: deque[asyncio.Handle]
    """Callbacks of the next turn, in their order."""
    _scheduled: list[asyncio.TimerHandle]
    """Heap of timers, the next one first."""
    _clock_resolution: float
    """Seconds before its deadline at which a timer counts as due."""

    def __init__(
        self,
        *,
        seed: int | None = None,
        schedule: str | None = None,
        timeout: float | None = None,
        allow_io: bool = False,
    ) -> None:
        self.seed = seed
        self.schedule = schedule
        self.steps: Steps | None = None
        """Steps of tasks of the run; None without a schedule, which is the plain order."""
        self.timeout = timeout
        self.allows_io = allow_io
        self.task_numbers = itertools.count()
        self._now = 0.0
        self._busy_turns = 0
        self._busy_seconds = 0.0
        self._busy_since = self._last_busy_turn = 0.0
        self._task_names: Counter[str] = Counter()
        self._timer_numbers = itertools.count()
        self._thread_jobs = _ThreadJobs(self)
        self._pool: ThreadPoolExecutor | None = None
        self._closing_pool = False
        super().__init__(_Selector(self))
        try:
            self.steps = _steps_of(seed, schedule)
        except ValueError:
            self.close()
            raise
        self.set_task_factory(NumberedTask)  # type: ignore[arg-type]  # made for this loop and for coroutines
        if not allow_io:
            for name in _REFUSED_METHODS:
                setattr(self, name, functools.partial(_refuse_io, f"{name}()"))

    # --- the clock

    def time(self) -> float:
        """Return the seconds of virtual time since the loop was made."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback for a time of the clock; those of equal deadlines run in the order of these calls."""
        deadline = _Deadline(when)
        deadline.number = next(self._timer_numbers)
        if self.steps is not None:
            callback = self.steps.observed(callback, None)
        return super().call_at(deadline, callback, *args, context=context)

    def _wait(self, timeout: float | None, poll: Callable[[float | None], list[Any]], *, watches: bool) -> list[Any]:
        """Deliver a job, run a step that is held back, wait for threads and files, or else move the clock.

        Return the file events.

        Called when no callback can run. Raise `IdleLoopError` if tasks wait and nothing can wake them.

        Args:
            timeout: seconds to the next deadline, None if there is none.
            poll: waits for at most so many seconds of real time, and returns the file events that came.
            watches: True if the loop watches files or sockets.
        """
        self._busy_turns, self._busy_seconds = 0, 0.0
        if self._thread_jobs.deliver():
            return []
        if self.steps is not None and self.steps.has_held:
            return self._release_step(self.steps, poll)
        if timeout is not None and math.isinf(self._scheduled[0].when()):
            timeout = None  # `sleep(math.inf)` means for ever: it is no deadline
        if watches:
            started = time.monotonic()
            if file_events := poll(timeout):
                self._set_clock(self._now + min(time.monotonic() - started, math.inf if timeout is None else timeout))
        elif self._closing_pool or self._thread_jobs.are_running:
            file_events = poll(max(timeout or 0, _PATIENCE))
            # a job may wait for the result of a later one
            if not file_events and (self._thread_jobs.deliver(in_order=False) or timeout is None):
                return []
        else:
            file_events = poll(_PATIENCE if timeout is None and self._thread_jobs.has_other_threads() else 0)
        if file_events:
            return file_events
        if timeout is None:
            return self._poll_or_report_idle(poll)
        self._set_clock(self._scheduled[0].when())
        return []

    def _count_busy_turn(self, *, watches: bool) -> None:
        """Count a turn in which something can run; after many or slow ones, move the clock or end jobs of threads.

        So time passes for a task that polls without waiting.

        Args:
            watches: True if the loop watches files or sockets.

        Raises:
            IdleLoopError: tasks have polled for a day of virtual time.
        """
        before, self._last_busy_turn = self._last_busy_turn, time.monotonic()
        if not self._busy_turns:
            self._busy_since = self._last_busy_turn
        self._busy_turns += 1
        turns = self._busy_turns - _FREE_TURNS
        # a turn of a task that polls may have work to do
        is_slow = self._busy_turns > _FREE_SLOW_TURNS and self._last_busy_turn - self._busy_since > _BUSY_PATIENCE
        if (turns <= 0 and not is_slow) or self._thread_jobs.deliver(in_order=False) or self._thread_jobs.has_jobs:
            return
        seconds = _SECONDS_A_TURN * (1 if watches or turns <= 0 else 2 ** (turns // _TURNS_A_DOUBLING))
        if is_slow:
            seconds = max(seconds, self._last_busy_turn - before)
        self._busy_seconds += seconds
        if self._busy_seconds > _LONGEST_POLLING and not self._thread_jobs.has_other_threads():
            turns, self._busy_turns, self._busy_seconds = self._busy_turns, 0, 0.0  # clean-up code of the tasks may run
            self._end_schedule()
            raise IdleLoopError(
                f"Tasks have polled for a day of virtual time, {turns:,} turns of the loop in a row: await an event "
                f"instead of asyncio.sleep(0). These tasks are not done:\n"
                f"{describe_tasks(asyncio.all_tasks(self))}"
            )
        self._set_clock(self._now + seconds)

    def _set_clock(self, now: float) -> None:
        """Move the clock forward to `now`, never back; raise `VirtualTimeoutError` if that is beyond the time limit.

        The error comes once only, so that tasks can clean up afterwards without a limit.
        """
        if self.timeout is not None and now > self.timeout:
            timeout, self.timeout = self.timeout, None  # clean-up code of the tasks has no limit
            self._end_schedule()
            raise VirtualTimeoutError(
                f"{timeout:g} s of virtual time were not enough; these tasks are not done:\n"
                f"{describe_tasks(asyncio.all_tasks(self))}"
            )
        self._now = max(self._now, float(now))
        self._clock_resolution = math.ulp(self._now)  # timers that are due now run, and no later ones

    def _poll_or_report_idle(self, poll: Callable[[float | None], list[Any]]) -> list[Any]:
        """Raise `IdleLoopError` if tasks wait; without any task, poll until another thread calls the loop."""
        if waiting := asyncio.all_tasks(self):
            self._end_schedule()
            raise IdleLoopError(
                f"Nothing can run, {self._now:g} s of virtual time after the start: no timer is set, no thread has a "
                f"job, and these tasks wait for ever:\n{describe_tasks(waiting)}"
            )
        return poll(None)

    # --- threads

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run a function in a thread. The clock stands still until the function returns, even after a cancellation.

        Raise `RuntimeError` if the loop is closed.
        """
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        return self._thread_jobs.submit(executor or self._default_pool(), func, *args)

    def _default_pool(self) -> ThreadPoolExecutor:
        """Return the default executor; the first call makes it."""
        if self._pool is None:
            pool = ThreadPoolExecutor(thread_name_prefix="asyncio")
            self.set_default_executor(pool)
            return pool
        return self._pool

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override]
        """Set the executor of functions that name none."""
        super().set_default_executor(executor)
        self._pool = executor

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """Wait in real time until the threads of the default executor have ended."""
        self._closing_pool = True
        try:
            await super().shutdown_default_executor(*args, **options)
        finally:
            self._closing_pool = False

    # --- schedules

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback for the next turn; with a schedule, a step of a task may run later."""
        steps = self.steps
        if steps is None:
            return super().call_soon(callback, *args, context=context)
        task = getattr(callback, "__self__", None)
        if not isinstance(task, asyncio.Task):
            steps.has_scheduled = True
            return super().call_soon(steps.observed(callback, None), *args, context=context)
        turns = steps.turns_of_next(task)
        number = steps.count - 1
        step = steps.observed(callback, number)
        if turns and not self.is_closed():
            handle = asyncio.Handle(step, args, self, context)
            steps.hold(task, handle, turns)
            return handle
        steps.has_scheduled = True
        handle = super().call_soon(step, *args, context=context)
        steps.newest = number, handle
        return handle

    def _end_schedule(self) -> None:
        """Hold back no further steps after an error of the loop: what runs from now on is clean-up."""
        if self.steps is not None:
            self.steps.end()

    def begin_turn(self) -> bool:
        """Make steps ready whose time of being held back is over.

        Return True if a callback can run in this turn of the loop.
        """
        if self.steps is None:
            return False
        self.steps.begin_turn(self._ready, self._is_quiet)
        return bool(self._ready)

    def _is_quiet(self) -> bool:
        """Return True if no timer is due and no thread has a job, so that nothing but ready callbacks can run."""
        due = self._scheduled and self._scheduled[0].when() < self._now + self._clock_resolution
        return not (due or self._thread_jobs.are_running)

    def _release_step(self, steps: Steps, poll: Callable[[float | None], list[Any]]) -> list[Any]:
        """Let the step run that is held back the shortest, because nothing else can run.

        First wait for running thread jobs. Return the file events that came meanwhile.
        """
        if self._thread_jobs.are_running and (file_events := poll(_PATIENCE)):
            return file_events
        steps.release(self._ready)
        return poll(0)

    def name_task(self, coro: Any) -> str:
        """Return a name for a task of this loop: that of its coroutine function, and a number."""
        name = getattr(coro, "__qualname__", type(coro).__qualname__).rpartition("<locals>.")[2]
        self._task_names[name] += 1
        return f"{name}#{self._task_names[name]}"


def _steps_of(seed: int | None, schedule: str | None) -> Steps | None:
    """Return the steps of a run with the schedule of a seed or token; None without either.

    Raise `ValueError` for both, and for a text that is no token.
    """
    if schedule is None:
        return None if seed is None else Steps(seed=seed)
    if seed is not None:
        raise ValueError("A loop has a seed or a schedule, not both")
    return Steps(schedule_of(schedule), trace=Interleaving())


class _Deadline(float):
    """A deadline; of two equal ones, the one that was set first comes first."""

    __slots__ = ("number",)

    number: int

    def __lt__(self, other: float) -> bool:
        if isinstance(other, _Deadline) and float(self) == other:
            return self.number < other.number
        return super().__lt__(other)


class _Selector(selectors.BaseSelector):
    """Selector of the loop, which lets the loop decide whether to wait in real time or to move its clock."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Poll files at once if a callback is ready; otherwise let the loop wait or move its clock."""
        if self._loop.begin_turn() or (timeout is not None and timeout <= 0):
            self._loop._count_busy_turn(watches=len(self._real.get_map()) > 1)
            return self._real.select(0)
        return self._loop._wait(timeout, self._real.select, watches=len(self._real.get_map()) > 1)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file or socket; raise `NotVirtualError` unless the loop allows it."""
        # asyncio registers the pipe first through which threads wake the loop
        if self._real.get_map() and not self._loop.allows_io:
            _refuse_io("Watching a file or socket")
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching a file or socket."""
        return self._real.unregister(fileobj)

    def get_map(self) -> Any:
        """Return the watched files by their numbers."""
        return self._real.get_map()

    def close(self) -> None:
        """Close the real selector, and drop the reference to the loop."""
        self._real.close()
        del self._loop  # the loop and its selector refer to each other


def _refuse_io(what: str, *args: Any, **kwargs: Any) -> NoReturn:
    """Raise `NotVirtualError` for an operation whose result comes in real time; `what` names it in the message."""
    raise with_sdk_bases(NotVirtualError)(
        f"{what} was asked for on a loop whose time is virtual: sockets, pipes and subprocesses answer in real time, "
        f"and the virtual clock does not wait for them. Play a script or a cassette through a transport; or make the "
        f"loop with allow_io=True: its clock then follows real time while it watches a file or socket."
    )
