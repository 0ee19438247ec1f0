"""Cancellation of a task, promise or call at every step of a scenario, with a search for leftovers after each run.

A cancellation can arrive between any two callbacks of an event loop. Code that handles most of these moments fails at
the others: once in a thousand runs, and never under a debugger. A virtual-time loop tries all of them in a second.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple
from weakref import ref

from miniagents_testing._clock import NumberedTask, VirtualTimeLoop
from miniagents_testing._decisions import Steps
from miniagents_testing._interleaving import Interleaving
from miniagents_testing._waiting import describe_line, describe_tasks, name_of
from miniagents_testing.errors import UncleanCancellationError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine, Iterable
    from types import AsyncGeneratorType, FrameType

    Scenario = Callable[["Trial"], Coroutine[Any, Any, object]]


class _Cancellable(Protocol):
    """A task, a promise or a call of an agent."""

    def cancel(self) -> object:
        """Ask the work to stop, as `asyncio.Task.cancel` does."""


C = TypeVar("C", bound=_Cancellable)
Ts = TypeVarTuple("Ts")

_TURNS_TO_SETTLE = 500
"""Turns of the loop after which tasks and generators count as left: asyncio closes lost generators one by one."""
_MAX_STEPS = 100_000


def cancel_at_every_step(
    scenario: Scenario,
    *,
    seeds: Iterable[int | None] = (None,),
    steps: Iterable[int] | None = None,
    sample: int | None = None,
    timeout: float = 3600.0,
) -> int:
    """Run a scenario once to count its steps, and then once for each step, and cancel the victim at that step.

    The victim is the task, promise or call that is cancelled.

    Args:
        scenario: an async function that gets a `Trial`. It names its victim with `trial.victim(...)`; otherwise the
            scenario itself is the victim. It raises an error if it finds a fault itself, such as a reader with too few
            tokens.
        seeds: seeds of the schedules (see `VirtualTimeLoop`) under which all steps are tried; None is asyncio's order.
        steps: the only steps to try, for example to repeat a failure.
        sample: number of steps to try with each seed, chosen by the seed; by default all of them.
        timeout: virtual seconds that a run may take.

    Returns:
        The number of runs in which the victim was cancelled.

    Raises:
        UncleanCancellationError: a run did not end; a task, an async generator, or a resource that the scenario
            `must_close` was left open; a task got a `CancelledError` without being cancelled; the victim continued
            after its cancellation; or the scenario failed.
    """
    undisturbed = Trial(None, timeout=timeout)
    undisturbed.run_and_explain(scenario, None)

    def steps_to_try(seed: int | None) -> Iterable[int]:
        """Return the steps to try under a seed: the given ones, or all or a sample of those that a first run counts."""
        if steps is not None:
            return steps
        if sample is not None:
            count = undisturbed.steps
            return random.Random(seed or 0).sample(range(count), min(sample, count))
        counting = Trial(None, cancels_scenario=undisturbed.cancels_scenario, timeout=timeout)
        counting.run_and_explain(scenario, seed)
        return range(counting.steps)

    cancelled = 0
    for seed in seeds:
        for step in steps_to_try(seed):
            trial = Trial(step, cancels_scenario=undisturbed.cancels_scenario, timeout=timeout)
            trial.run_and_explain(scenario, seed)
            cancelled += trial.has_cancelled
    return cancelled


class Trial:
    """One run of a scenario.

    Args:
        cancel_at: step at which the victim is cancelled, counted from the call of `victim()`; None cancels nothing.
        cancels_scenario: True if the scenario is the victim; `victim()` sets it to False.
        timeout: virtual seconds that the run may take.
        trace: records the order of the steps for the error; None records nothing.
    """

    def __init__(
        self,
        cancel_at: int | None,
        *,
        cancels_scenario: bool = True,
        timeout: float,
        trace: Interleaving | None = None,
    ) -> None:
        self.trace = trace
        self.cancel_at = cancel_at
        self.cancels_scenario = cancels_scenario
        self.steps = 0
        """Steps of the loop so far, while there was a victim."""
        self.has_cancelled = False
        self._timeout = timeout
        self._seed: int | None = None
        self._victim: _Cancellable | None = None
        self._was_in_time: object = False
        self._place = ""
        self._must_close: list[tuple[str, Callable[[], bool]]] = []
        self._problems: list[str] = []
        self._generators: list[ref[AsyncGeneratorType[Any, Any]]] = []

    # --- methods for scenarios

    def victim(self, victim: C) -> C:
        """Choose the task, promise or call that is cancelled in place of the scenario, and return it.

        Steps are counted anew from this call.
        """
        self.cancels_scenario = False
        self._victim = victim
        self.steps = 0
        return victim

    def must_close(self, name: str, is_closed: Callable[[], bool]) -> None:
        """Demand that a response, file or source is closed at the end of the run.

        Args:
            name: its name in messages.
            is_closed: called at the end; returns True if it is closed.
        """
        self._must_close.append((name, is_closed))

    # --- running a scenario

    def run_and_explain(self, scenario: Scenario, seed: int | None) -> None:
        """Run the scenario like `run`; if it fails, repeat the run, so that the error has the order of the steps.

        If the repeated run passes, raise the error of the first run.

        Raises:
            UncleanCancellationError: the run failed, or left something open.
        """
        trace = Interleaving()
        again = Trial(self.cancel_at, cancels_scenario=self.cancels_scenario, timeout=self._timeout, trace=trace)
        try:
            self.run(scenario, seed)
        except UncleanCancellationError as error:
            first = error
        else:
            return
        again.run(scenario, seed)
        raise first  # which does not come again while the steps are recorded

    def run(self, scenario: Scenario, seed: int | None) -> None:
        """Run the scenario in a new loop.

        Args:
            scenario: async function that gets this trial.
            seed: seed of the schedule; None for the order of asyncio.

        Raises:
            UncleanCancellationError: the run failed, or left something open.
        """
        self._seed = seed
        loop = functools.partial(_SteppingLoop, self, seed=seed, timeout=self._timeout)
        try:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(self._run_observed(scenario))
        except Exception as error:
            self._problems.insert(0, f"it failed: {type(error).__name__}: {error}")
            raise self._error(scenario) from error
        if self._problems:
            raise self._error(scenario)

    async def _run_observed(self, scenario: Scenario) -> None:
        """Run the scenario in a task, and record how scenario and victim ended, and what they left open.

        Raise their errors.

        A victim that was cancelled in time must end as cancelled, and no other task may.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._record_loop_error)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=functools.partial(self._track_generator, hooks.firstiter))
        task = loop.create_task(scenario(self), name="scenario")
        if self.cancels_scenario:
            self._victim = task
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        elif not self.cancels_scenario:
            self._problems.append("a CancelledError came out of the scenario, which was not cancelled")
        del task
        if isinstance(self._victim, asyncio.Task):
            await asyncio.wait([self._victim])
            if not self._victim.cancelled():
                self._victim.result()
                if self._was_in_time:
                    self._problems.append("the victim was cancelled, and continued as if it was not")
        self._victim = None
        await self._record_leftovers()

    async def _record_leftovers(self) -> None:
        """Record as problems the tasks, generators and resources that are open after some turns of the loop."""
        await self._settle()
        if left := _other_tasks():
            self._problems.append(f"these tasks are left:\n{describe_tasks(left)}")
        self._problems += [
            f"an async generator was left open:\n{describe_line(frame)}" for frame in self._open_generator_frames()
        ]
        self._problems += [f"{name} was left open" for name, is_closed in self._must_close if not is_closed()]

    async def _settle(self) -> None:
        """Let the loop run until all other tasks and generators have ended, but at most a fixed number of turns."""
        for turn in range(_TURNS_TO_SETTLE):
            await asyncio.sleep(0)
            if turn > 3 and not (_other_tasks() or self._open_generator_frames()):
                return
            if turn == _TURNS_TO_SETTLE // 2:
                gc.collect()  # asyncio closes generators that only a reference cycle holds

    # --- calls of the loop

    def before_callback(self, callback: Any) -> None:
        """Count a callback that the loop is about to run as a step, and cancel the victim if it is the chosen step.

        Do nothing before there is a victim, or after it has ended.

        Note the place of the cancellation. Stop the loop if the run takes too many steps.
        """
        victim = self._victim
        if victim is None or (isinstance(victim, asyncio.Task) and victim.done()):
            return
        if self.steps == self.cancel_at and not self.has_cancelled:
            self.has_cancelled = True
            task = getattr(callback, "__self__", None)
            next_to_run = f"task {name_of(task)}" if isinstance(task, asyncio.Task) else callback
            self._place = f"\nNext to run was {next_to_run}"
            if isinstance(victim, asyncio.Task):
                self._place += f"; the victim was here:\n{describe_tasks([victim])}"
            if self.trace is not None:
                name = name_of(victim) if isinstance(victim, asyncio.Task) else "the victim"
                self.trace.note(f"{name} is cancelled from outside")
            self._was_in_time = victim.cancel()
        self.steps += 1
        if self.steps > _MAX_STEPS:
            self._problems.append(f"it has not ended after {_MAX_STEPS} steps")
            asyncio.get_running_loop().stop()

    def check_ended_task(self, task: asyncio.Task[Any]) -> None:
        """Record a task that ended with a `CancelledError` although its `cancel()` was not called."""
        if task.cancelled() and not task.was_cancelled:  # type: ignore[attr-defined]  # all tasks here are ours
            self._problems.append(f"task {name_of(task)} got a CancelledError without being cancelled")

    def _track_generator(
        self, other_hook: Callable[[Any], object] | None, generator: AsyncGeneratorType[Any, Any]
    ) -> None:
        """Remember an async generator that has begun, to look for open ones later.

        Then call the hook that was set before.
        """
        self._generators.append(ref(generator))
        if other_hook is not None:
            other_hook(generator)

    def _open_generator_frames(self) -> list[FrameType]:
        """Return the frames of async generators that have begun, are alive, and have not ended."""
        alive = (each() for each in self._generators)
        return [each.ag_frame for each in alive if each is not None and each.ag_frame is not None]

    def _record_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Record as a problem an error that the loop gives to its exception handler."""
        self._problems.append(f"the loop reports: {context['message']}: {context.get('exception')!r}")

    def _error(self, scenario: Scenario) -> UncleanCancellationError:
        """Return the error that lists all problems of this run."""
        name = getattr(scenario, "__qualname__", repr(scenario))
        how = "without a cancellation" if self.cancel_at is None else f"cancelled at step {self.cancel_at}"
        schedule = "" if self._seed is None else f" with the schedule of seed {self._seed}"
        problems = "\n- ".join(self._problems)
        order = "" if self.trace is None else f"\n{self.trace.describe()}"
        again = "" if self.cancel_at is None else f", steps=[{self.cancel_at}]"
        return UncleanCancellationError(
            f"{name}, {how}{schedule}, did not end well:\n- {problems}{self._place}{order}\n"
            f"To see it again: cancel_at_every_step(..., seeds=[{self._seed}]{again})"
        )


def _other_tasks() -> set[asyncio.Task[Any]]:
    """Return all unfinished tasks of the loop but the running one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


class _SteppingLoop(VirtualTimeLoop):
    """Event loop that tells a trial of each callback before the callback runs."""

    def __init__(self, trial: Trial, **options: Any) -> None:
        self._trial = trial
        super().__init__(**options)
        self.set_task_factory(functools.partial(_ObservedTask, trial))
        if trial.trace is not None:
            self.steps = self.steps or Steps()
            self.steps.trace = trial.trace

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback that the trial counts as a step."""
        counted: Any = _CountedCallback(self._trial, callback)
        return super().call_soon(counted, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback for a time of the clock; the trial counts it as a step."""
        counted: Any = _CountedCallback(self._trial, callback)
        return super().call_at(when, counted, *args, context=context)


class _CountedCallback:
    """Wrapper of a callback whose run the trial counts as a step; the loop and messages see it as the callback."""

    def __init__(self, trial: Trial, callback: Callable[..., object]) -> None:
        self._trial = trial
        self._callback = callback
        self.__self__ = getattr(callback, "__self__", None)

    def __call__(self, *args: Any) -> None:
        self._trial.before_callback(self._callback)
        self._callback(*args)

    def __repr__(self) -> str:
        return repr(self._callback)


class _ObservedTask(NumberedTask):
    """Task that remembers a call of its `cancel()`, and tells a trial when it has ended."""

    was_cancelled = False

    def __init__(self, trial: Trial, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_done_callback(trial.check_ended_task)

    def cancel(self, msg: Any = None) -> bool:
        """Note that this task was cancelled, and cancel it."""
        self.was_cancelled = True
        return super().cancel(msg)
