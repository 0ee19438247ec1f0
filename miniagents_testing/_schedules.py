"""Search for the schedules under which a scenario fails, and reports that explain the failure.

`search_schedules` tries the plain order, some random schedules, and then each schedule with few deviations. A failing
schedule is shrunk to the fewest deviations that still fail, and its steps are added to the error as a note.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from miniagents_testing._clock import VirtualClock, VirtualTimeLoop
from miniagents_testing._decisions import UNTIL_IDLE, Deviation, Steps, schedule_of, token_of
from miniagents_testing._interleaving import Interleaving
from miniagents_testing._waiting import is_application

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from miniagents_testing._decisions import Schedule

    Scenario = Callable[[], Coroutine[Any, Any, object]]

RANDOM_SCHEDULES = 20
"""Random schedules that are tried before the bounded search, if the caller names no seeds."""
_MOST_TURNS = 8
"""Turns of the bounded search for which a step is held back, besides "until nothing else can run"."""
_MOST_SHRINKING_RUNS = 500
"""Runs after which shrinking stops: a scenario may be slow."""
_DEEPEST_SHRINKING = 2
"""Deviations of the bounded search that ends the shrinking."""

_only_seed: int | None = None
_only_schedule: str | None = None


def replay_only(seed: int | None, schedule: str | None = None) -> None:
    """Make all searches try this seed or the schedule of this token alone from now on; None and None undo that.

    Raise `ValueError` if `schedule` is no token.
    """
    global _only_seed, _only_schedule
    if schedule is not None:
        schedule_of(schedule)
    _only_seed, _only_schedule = seed, schedule


def schedules(count: int = 100) -> Sequence[int]:
    """Return the seeds of `count` schedules; under `pytest --miniagents-schedule-seed=N`, that seed alone.

    For `search_schedules`, and for `@pytest.mark.parametrize("seed", schedules(20))`.

    Args:
        count: number of seeds.
    """
    return range(count) if _only_seed is None else (_only_seed,)


@dataclass(frozen=True)
class SchedulesTried:
    """Number of schedules that a search has tried without a failure."""

    random: int
    """Random schedules."""
    bounded: int
    """Schedules with few deviations, the plain order included."""
    deviations: int
    """Most deviations of a schedule of the bounded search."""
    is_covered: bool
    """True if each schedule with so many deviations was tried, False if the search stopped at its limit before."""

    def __str__(self) -> str:
        extent = "all of them" if self.is_covered else "not all of them"
        bounded = f"{self.bounded} with at most {self.deviations} deviations ({extent})" if self.bounded else ""
        return ", ".join(filter(None, [f"{self.random} random schedules tried", bounded]))


def search_schedules(
    scenario: Scenario,
    seeds: Iterable[int] | None = None,
    *,
    deviations: int | None = None,
    limit: int = 1000,
    schedule: str | None = None,
) -> SchedulesTried:
    """Run a scenario under one schedule after the other, until it fails under one; then shrink that schedule.

    A deviation holds back one step of a task: for 1 to 8 turns of the loop, or until nothing else can run. The bounded
    search tries each schedule with at most `deviations` of them, those with the fewest first.

    Args:
        scenario: makes the coroutine, which runs in a new virtual-time loop for each schedule. It must not keep
            anything between its runs.
        seeds: seeds of random schedules; a few if None. They are tried before the bounded search.
        deviations: most deviations of the bounded search. By default 2; none without a search if seeds are given.
        limit: number of runs after which the bounded search stops.
        schedule: token of the only schedule to try, in place of a search.

    Returns:
        The number of schedules that were tried, and if the bounded search has covered its space.

    Raises:
        Exception: the error of the scenario, with a note: the fewest deviations that fail, the two lines that race, the
            order of the steps, and the token of the schedule.
        ValueError: `schedule` is no token.
    """
    token = schedule if _only_schedule is None else _only_schedule
    if token is not None:
        _replay(scenario, schedule_of(token))
        return SchedulesTried(0, 1, 0, is_covered=False)
    if _only_seed is not None:
        seeds, deviations = [_only_seed], 0
    if deviations is None:
        deviations = 2 if seeds is None else 0
    bounded = _bounded_runs(lambda each: run_once(scenario, Steps(each)), deviations) if deviations else iter(())
    tried = 0
    if (plain := next(bounded, None)) is not None:
        tried += 1
        _raise_failure(scenario, plain, "in the plain order")
    random = 0
    for seed in range(RANDOM_SCHEDULES) if seeds is None else seeds:
        random += 1
        _raise_failure(scenario, run_once(scenario, Steps(seed=seed)), f"by seed {seed}")
    for run in bounded:
        tried += 1
        _raise_failure(scenario, run, f"after {random + tried} schedules")
        if tried >= limit:
            return SchedulesTried(random, tried, deviations, is_covered=False)
    return SchedulesTried(random, tried, deviations, is_covered=tried > 0)


# --- running


class _StepsClock(VirtualClock):
    """Virtual clock for one run with these steps."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def _new_loop(self) -> VirtualTimeLoop:
        """Make the loop of the run, which holds back steps as `Steps` says."""
        loop = super()._new_loop()
        loop.steps = self._steps
        return loop


@dataclass
class _Run:
    """One run of a scenario: its schedule, its error, and its steps."""

    schedule: Schedule
    steps: Steps
    error: BaseException | None = None
    idle_after: dict[int, int] = field(default_factory=dict)
    """Turns after which nothing else could run when a step of this run was held back; more turns change nothing."""

    @property
    def failure(self) -> tuple[object, ...] | None:
        """Type of the error and its place in the application, to tell failures apart; None if there was no error."""
        error = self.error
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            return None
        place, traceback = None, error.__traceback__
        while traceback is not None:
            if is_application(traceback.tb_frame):
                place = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
            traceback = traceback.tb_next
        return type(error), place


def run_once(scenario: Scenario, steps: Steps) -> _Run:
    """Run a scenario once, and return the run with its error; an error that is no failure of a test is raised."""

    async def main() -> None:
        """Run the scenario in a task of its name; the clean-up of its loop has the plain order."""
        coroutine, task = scenario(), asyncio.current_task()
        assert task is not None
        task.set_name(getattr(coroutine, "__name__", "scenario"))
        try:
            await coroutine
        finally:
            steps.end()

    try:
        _StepsClock(steps).run(main())
    except BaseException as error:
        if not (isinstance(error, Exception) or _is_failed_test(error)):
            raise
        return _Run(tuple(steps.made), steps, error)
    return _Run(tuple(steps.made), steps)


def _is_failed_test(error: BaseException) -> bool:
    """Return True for the error of `pytest.fail`, which is no `Exception`."""
    outcomes = sys.modules.get("_pytest.outcomes")
    return outcomes is not None and isinstance(error, outcomes.Failed)


def _bounded_runs(run: Callable[[Schedule], _Run], most: int) -> Iterator[_Run]:
    """Run each schedule with at most `most` deviations, those with the fewest first, and yield the runs.

    Left out are schedules that would give the order of another schedule: a step that is alone, or the last of its turn,
    is held back without effect, and so is one for more turns than there is anything to do.
    """
    level = [run(())]
    yield level[0]
    for depth in range(1, most + 1):
        longer: list[_Run] = []
        for turns in (UNTIL_IDLE, *range(1, _MOST_TURNS + 1)):
            for parent in level:
                steps = parent.steps
                for step in range(parent.schedule[-1].step + 1 if parent.schedule else 0, steps.count):
                    if step in steps.alone or (turns == 1 and step in steps.last_of_turn):
                        continue
                    if turns != UNTIL_IDLE and turns > parent.idle_after[step]:
                        continue
                    child = run((*parent.schedule, Deviation(step, turns)))
                    if turns == UNTIL_IDLE:
                        parent.idle_after[step] = child.steps.ended_idle.get(step, UNTIL_IDLE)
                    if depth < most:
                        longer.append(child)
                    yield child
        level = longer


# --- explaining


def _raise_failure(scenario: Scenario, run: _Run, found: str) -> None:
    """Shrink the schedule of a run that has failed, and raise its error with a report as a note.

    Do nothing without an error. If the failure does not repeat, the note says so.

    Args:
        scenario: the scenario.
        run: one run of it.
        found: words that tell how the schedule was found.
    """
    if run.error is None:
        return
    __tracebackhide__ = True
    shrinking = _Shrinking(scenario, run)
    if not shrinking.fails(run.schedule):
        run.error.add_note(
            f"This failed once, found {found}, and not when the schedule was repeated: the scenario keeps something "
            f"between its runs, or depends on a thread, the real time, random numbers or the order of a set."
        )
        raise run.error
    schedule = shrinking.shrink()
    count = len(run.schedule)
    effort = f"shrunk from {count} deviations" if len(schedule) < count else "none can be left out"
    if not schedule:
        how = "This fails in the plain order of asyncio: no step is held back."
    else:
        steps = f"{len(schedule)} step{'s' * (len(schedule) > 1)} held back"
        how = f"This fails with {steps} (found {found}, {effort}, {shrinking.runs} runs)."
    _replay(scenario, schedule, how)
    run.error.add_note(
        f"{how}\nThe order of its steps is not known: the run passes while they are recorded. So it depends on a "
        f"thread, the real time, or when objects are collected.\n{_again(schedule)}"
    )
    raise run.error


def _replay(scenario: Scenario, schedule: Schedule, how: str = "") -> None:
    """Run a scenario with one schedule. If it fails, raise its error with a note of the order of steps.

    Args:
        scenario: the scenario.
        schedule: the deviations.
        how: first line of the note.
    """
    trace = Interleaving()
    error = run_once(scenario, Steps(schedule, trace=trace)).error
    if error is not None:
        how = how or f"This happened with the schedule {token_of(schedule)}."
        error.add_note("\n".join([how, trace.describe(), _again(schedule)]))
        raise error


def _again(schedule: Schedule) -> str:
    """Return the last lines of a report: how to run a schedule again."""
    token = token_of(schedule)
    return (
        f"To see it again: pytest --miniagents-schedule={token}\n"
        f'  or schedule="{token}" for search_schedules, run_in_virtual_time or the marker'
    )


class _Shrinking:
    """Search for the fewest deviations with which a scenario fails as in a given run."""

    def __init__(self, scenario: Scenario, failing: _Run) -> None:
        self._scenario = scenario
        self._failure = failing.failure
        self._schedule = failing.schedule
        self._known: dict[Schedule, bool] = {}
        self.runs = 0
        """Runs so far."""

    def fails(self, schedule: Schedule) -> bool:
        """Return True if the scenario fails with a schedule as in the given run; False also after too many runs."""
        if schedule not in self._known:
            if self.runs >= _MOST_SHRINKING_RUNS:
                return False
            self._known[schedule] = self._tried(schedule).failure == self._failure
        return self._known[schedule]

    def _tried(self, schedule: Schedule) -> _Run:
        """Run the scenario with a schedule, and count the run."""
        self.runs += 1
        return run_once(self._scenario, Steps(schedule))

    def shrink(self) -> Schedule:
        """Return the fewest deviations that still fail; each is "until nothing else can run" if that fails, too."""
        if self.fails(()):
            return ()
        self._leave_out()
        self._search_fewer()
        for index, (step, turns) in enumerate(self._schedule):
            for simpler in (UNTIL_IDLE, *range(1, min(turns, _MOST_TURNS + 1))):
                changed = (*self._schedule[:index], Deviation(step, simpler), *self._schedule[index + 1 :])
                if self.fails(changed):
                    self._schedule = changed
                    break
        return self._schedule

    def _leave_out(self) -> None:
        """Leave out deviations that are not needed: halves first, later ones first, as they do not change earlier ones.

        This is the method of delta debugging (Zeller and Hildebrandt, 2002).
        """
        size = max(1, len(self._schedule) // 2)
        while True:
            before = self._schedule
            end = len(self._schedule)
            while end > 0:
                fewer = self._schedule[: max(0, end - size)] + self._schedule[end:]
                if self.fails(fewer):
                    self._schedule = fewer
                end -= size
            if size == 1 and self._schedule == before:
                return
            size = max(1, size // 2)

    def _search_fewer(self) -> None:
        """Replace the schedule by one that fails alike and reads better; keep it if none is found in some runs.

        Such a schedule has fewer deviations, or holds steps until nothing else can run. Its deviations may be none of
        the given ones.
        """
        if all(turns == UNTIL_IDLE for _, turns in self._schedule) and len(self._schedule) == 1:
            return
        for run in _bounded_runs(self._tried, min(_DEEPEST_SHRINKING, max(1, len(self._schedule) - 1))):
            if run.failure == self._failure and len(run.schedule) <= len(self._schedule):
                self._schedule = run.schedule
                return
            if self.runs >= _MOST_SHRINKING_RUNS:
                return
