"""Cancels something at every step of a scenario, and looks at what is left each time.

A cancellation can arrive between any two callbacks of an event loop, and code that is right about most of these moments
fails at the others: once in a thousand runs, and never under a debugger. On a virtual-time loop all of them are tried
in a second.
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
from miniagents_testing._waiting import described, line_of
from miniagents_testing.errors import UncleanCancellationError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine, Iterable
    from types import AsyncGeneratorType, FrameType

    Scenario = Callable[["Trial"], Coroutine[Any, Any, object]]


class Cancellable(Protocol):
    """A task, a promise, a call of an agent."""

    def cancel(self) -> object:
        """Stop it."""


C = TypeVar("C", bound=Cancellable)
Ts = TypeVarTuple("Ts")

TURNS_TO_SETTLE = 500
"""Turns of the loop after which what is left is left for good: asyncio closes lost generators one after the other."""
MOST_STEPS = 100_000


def cancel_at_every_step(
    scenario: Scenario,
    *,
    seeds: Iterable[int | None] = (None,),
    steps: Iterable[int] | None = None,
    sample: int | None = None,
    timeout: float = 3600.0,
) -> int:
    """Run a scenario once to count its steps, and then once for each of them, with the victim cancelled there.

    Args:
        scenario: an async function of a `Trial`. It names its victim with `trial.victim(...)`, or is the victim itself;
            and raises if something is wrong that only it can know, such as a reader that did not get everything.
        seeds: of the schedules (see `VirtualTimeLoop`) under which all this is done; None is asyncio's own order.
        steps: only these, to see one again.
        sample: only so many steps with each seed, chosen by the seed.
        timeout: virtual seconds that a run may take.

    Returns:
        How many runs there were in which the victim was cancelled.

    Raises:
        UncleanCancellationError: a run did not end; or it left a task, an async generator or anything that the
            scenario `must_close`; or somebody got a `CancelledError` that nobody had cancelled; or the victim went on
            as if it had not been cancelled; or the scenario failed.
    """
    undisturbed = Trial(None, timeout=timeout)
    undisturbed.run(scenario, None)

    def steps_to_try(seed: int | None) -> Iterable[int]:
        if steps is not None:
            return steps
        if sample is not None:
            count = undisturbed.steps
            return random.Random(seed or 0).sample(range(count), min(sample, count))
        counting = Trial(None, by_itself=undisturbed.by_itself, timeout=timeout)
        counting.run(scenario, seed)
        return range(counting.steps)

    cancelled = 0
    for seed in seeds:
        for step in steps_to_try(seed):
            trial = Trial(step, by_itself=undisturbed.by_itself, timeout=timeout)
            trial.run(scenario, seed)
            cancelled += trial.has_cancelled
    return cancelled


class Trial:
    """One run of a scenario.

    Args:
        cancel_at: the step at which the victim is cancelled, counted from when it became the victim; None: never.
        by_itself: whether the scenario is its own victim.
        timeout: virtual seconds that it may take.
    """

    def __init__(self, cancel_at: int | None, *, by_itself: bool = True, timeout: float) -> None:
        self.cancel_at = cancel_at
        self.by_itself = by_itself
        self.steps = 0
        """Steps of the loop so far, while there was a victim."""
        self.has_cancelled = False
        self._timeout = timeout
        self._seed: int | None = None
        self._victim: Cancellable | None = None
        self._was_in_time: object = False
        self._where = ""
        self._must_close: list[tuple[str, Callable[[], bool]]] = []
        self._wrong: list[str] = []
        self._generators: list[ref[AsyncGeneratorType[Any, Any]]] = []

    # --- what a scenario says

    def victim(self, victim: C) -> C:
        """What is cancelled: a task, a promise, a call; the scenario itself is spared then."""
        self.by_itself = False
        self._victim = victim
        self.steps = 0
        return victim

    def must_close(self, name: str, is_closed: Callable[[], bool]) -> None:
        """At the end, `is_closed` must say yes: of a response, a file, a source."""
        self._must_close.append((name, is_closed))

    # --- running it

    def run(self, scenario: Scenario, seed: int | None) -> None:
        """Run the scenario in a loop of its own.

        Raises:
            UncleanCancellationError: it did not end well.
        """
        self._seed = seed
        loop = functools.partial(_SteppingLoop, self, seed=seed, timeout=self._timeout)
        try:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(self._observed(scenario))
        except Exception as error:
            self._wrong.insert(0, f"it failed: {type(error).__name__}: {error}")
            raise self._report(scenario) from error
        if self._wrong:
            raise self._report(scenario)

    async def _observed(self, scenario: Scenario) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._handle)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=functools.partial(self._generator_began, hooks.firstiter))
        task = loop.create_task(scenario(self), name="scenario")
        if self.by_itself:
            self._victim = task
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        elif not self.by_itself:
            self._wrong.append("a CancelledError came out of the scenario, which was not cancelled")
        del task
        if isinstance(self._victim, asyncio.Task):
            await asyncio.wait([self._victim])
            if not self._victim.cancelled():
                self._victim.result()
                if self._was_in_time:
                    self._wrong.append("the victim was cancelled, and went on as if it was not")
        self._victim = None
        await self._look_around()

    async def _look_around(self) -> None:
        await self._settle()
        if left := _others():
            self._wrong.append(f"these tasks are left:\n{described(left)}")
        self._wrong += [f"an async generator was left open:\n{line_of(frame)}" for frame in self._open_generators()]
        self._wrong += [f"{name} was left open" for name, is_closed in self._must_close if not is_closed()]

    async def _settle(self) -> None:
        for turn in range(TURNS_TO_SETTLE):
            await asyncio.sleep(0)
            if turn > 3 and not (_others() or self._open_generators()):
                return
            if turn == TURNS_TO_SETTLE // 2:
                gc.collect()  # what only hangs in a circle is lost, and will be closed

    # --- what is seen on the way

    def step(self, callback: Any) -> None:
        """The loop is about to run a callback."""
        victim = self._victim
        if victim is None or (isinstance(victim, asyncio.Task) and victim.done()):
            return
        if self.steps == self.cancel_at and not self.has_cancelled:
            self.has_cancelled = True
            who = getattr(callback, "__self__", None)
            self._where = f"\nNext to run was {f'task {who.get_name()}' if isinstance(who, asyncio.Task) else callback}"
            if isinstance(victim, asyncio.Task):
                self._where += f"; the victim was here:\n{described([victim])}"
            self._was_in_time = victim.cancel()
        self.steps += 1
        if self.steps > MOST_STEPS:
            self._wrong.append(f"it has not ended after {MOST_STEPS} steps")
            asyncio.get_running_loop().stop()

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """A task is done: did it end with a cancellation that nobody had asked for?"""
        if task.cancelled() and not task.was_cancelled:  # type: ignore[attr-defined]  # all tasks here are ours
            self._wrong.append(f"task {task.get_name()} got a CancelledError, and nobody had cancelled it")

    def _generator_began(self, first: Callable[[Any], object] | None, generator: AsyncGeneratorType[Any, Any]) -> None:
        self._generators.append(ref(generator))
        if first is not None:
            first(generator)

    def _open_generators(self) -> list[FrameType]:
        """Where those stand that have begun and not ended."""
        alive = (each() for each in self._generators)
        return [each.ag_frame for each in alive if each is not None and each.ag_frame is not None]

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._wrong.append(f"the loop reports: {context['message']}: {context.get('exception')!r}")

    def _report(self, scenario: Scenario) -> UncleanCancellationError:
        name = getattr(scenario, "__qualname__", repr(scenario))
        how = "undisturbed" if self.cancel_at is None else f"cancelled at step {self.cancel_at}"
        schedule = "" if self._seed is None else f" with the schedule of seed {self._seed}"
        wrong = "\n- ".join(self._wrong)
        again = "" if self.cancel_at is None else f", steps=[{self.cancel_at}]"
        return UncleanCancellationError(
            f"{name}, {how}{schedule}, did not end well:\n- {wrong}{self._where}\n"
            f"To see it again: cancel_at_every_step(..., seeds=[{self._seed}]{again})"
        )


def _others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


class _SteppingLoop(VirtualTimeLoop):
    """Tells a trial of each callback before it is run."""

    def __init__(self, trial: Trial, **options: Any) -> None:
        self._trial = trial
        super().__init__(**options)
        self.set_task_factory(functools.partial(_TracedTask, trial))

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        stepped: Any = _Stepped(self._trial, callback)
        return super().call_soon(stepped, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        stepped: Any = _Stepped(self._trial, callback)
        return super().call_at(when, stepped, *args, context=context)


class _Stepped:
    """A callback that is counted; for everybody else it passes for the one inside."""

    def __init__(self, trial: Trial, callback: Callable[..., object]) -> None:
        self._trial = trial
        self._callback = callback
        self.__self__ = getattr(callback, "__self__", None)

    def __call__(self, *args: Any) -> None:
        self._trial.step(self._callback)
        self._callback(*args)

    def __repr__(self) -> str:
        return repr(self._callback)


class _TracedTask(NumberedTask):
    """A task that knows whether anybody cancelled it."""

    was_cancelled = False

    def __init__(self, trial: Trial, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_done_callback(trial.task_ended)

    def cancel(self, msg: Any = None) -> bool:
        self.was_cancelled = True
        return super().cancel(msg)
