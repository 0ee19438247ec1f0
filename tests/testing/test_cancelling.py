"""`cancel_at_every_step` finds planted defects, reports them with the step, and passes clean code."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._cancelling import cancel_at_every_step
from miniagents_testing.errors import UncleanCancellationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from miniagents_testing._cancelling import Trial


async def nap(turns: int = 3) -> None:
    """Let the loop run for some steps."""
    for _ in range(turns):
        await asyncio.sleep(0)


# --- planted defects


async def leaves_a_task(trial: Trial) -> None:
    """Leave a helper task running when the task that started it is cancelled."""
    helper = asyncio.create_task(asyncio.sleep(10), name="helper")
    await nap()
    await helper


async def leaves_a_generator(trial: Trial) -> None:
    """Leave a generator open, which the trial still references, when its reader is cancelled."""
    generator = numbers()
    trial.must_close("nothing", lambda: generator is not None)  # which holds it
    async for number in generator:
        if number == 2:
            break
        await nap(1)
    await generator.aclose()


async def numbers() -> AsyncGenerator[int]:
    """Yield numbers without an end."""
    number = 0
    while True:
        await asyncio.sleep(0)
        yield number
        number += 1


class Shared:
    """Future without the protection of a promise: the first reader does the work, for all readers."""

    def __init__(self) -> None:
        self.future: asyncio.Future[str] | None = None

    async def get(self) -> str:
        """Return the result, and do the work first if no other reader has begun it."""
        if self.future is None:
            self.future = asyncio.get_running_loop().create_future()
            try:
                await nap()
                self.future.set_result("done")
            except asyncio.CancelledError:
                self.future.cancel()
                raise
        return await self.future


async def poisons_others(trial: Trial) -> None:
    """Let a second reader be cancelled together with the cancelled first one."""
    shared = Shared()
    trial.victim(asyncio.create_task(shared.get()))
    await asyncio.sleep(0)
    await asyncio.wait([asyncio.create_task(shared.get(), name="witness")])


async def swallows(trial: Trial) -> None:
    """Treat a cancellation as a failed attempt, and try again, so that the task is not cancelled."""
    for _ in range(3):
        try:
            await nap()
        except BaseException:
            continue


async def raises_another_error(trial: Trial) -> None:
    """Raise another error in a clean-up that expects a connection before it is open."""
    connection: list[str] = []
    try:
        await nap()
        connection.append("open")
        await nap()
    finally:
        connection.pop()


async def hangs(trial: Trial) -> None:
    """Wait for a lock that a cancelled task did not release."""
    lock = asyncio.Lock()

    async def work() -> None:
        await lock.acquire()
        await nap()
        lock.release()

    trial.victim(asyncio.create_task(work()))
    await nap(2)
    async with lock:
        pass


async def polls_for_ever(trial: Trial) -> None:
    """Poll for a result that a cancelled task will never deliver."""
    done: list[bool] = []

    async def work() -> None:
        await nap()
        done.append(True)

    trial.victim(asyncio.create_task(work()))
    while not done:  # noqa: ASYNC110 - that is what is wrong here
        await asyncio.sleep(60)


async def leaves_something_open(trial: Trial) -> None:
    """Leave a response open that was reported to the trial with `must_close`."""
    still_open: list[str] = ["response"]
    trial.must_close("the response", lambda: not still_open)
    await nap()
    still_open.clear()


async def expects_too_much(trial: Trial) -> None:
    """Fail in an assertion of the scenario itself when the victim was cancelled."""
    log: list[str] = []

    async def work() -> None:
        await nap()
        log.append("done")

    await asyncio.wait([trial.victim(asyncio.create_task(work()))])
    assert log == ["done"]


async def fails_in_a_callback(trial: Trial) -> None:
    """Raise an error in a callback, where only the loop sees it."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda future: future.result())
    try:
        await nap()
        future.set_result(None)
    finally:
        future.cancel()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("scenario", "problem"),
    [
        (leaves_a_task, r"these tasks are left:\n  helper\n    File .*\n      return await future"),
        (leaves_a_generator, r"an async generator was left open:\n    File .*, in numbers\n      yield number"),
        (poisons_others, r"task witness got a CancelledError without being cancelled"),
        (swallows, r"the victim was cancelled, and continued as if it was not"),
        (raises_another_error, r"it failed: IndexError: pop from empty list"),
        (hangs, r"it failed: IdleLoopError: Nothing can run[\s\S]*async with lock:"),
        (polls_for_ever, r"it failed: VirtualTimeoutError: 3600 s of virtual time were not enough"),
        (leaves_something_open, r"the response was left open"),
        (expects_too_much, r"it failed: AssertionError: assert \[\] == \['done'\]"),
        (fails_in_a_callback, r"the loop reports: Exception in callback .*: CancelledError\(\)"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_cancel_at_every_step_reports_each_planted_defect(
    scenario: Callable[[Trial], Coroutine[Any, Any, object]], problem: str
) -> None:
    """`cancel_at_every_step` reports each planted defect with its step, and again when it tries that step alone."""
    with pytest.raises(UncleanCancellationError, match=problem) as caught:
        cancel_at_every_step(scenario)
    text = str(caught.value)
    assert text.startswith(f"{scenario.__name__}, cancelled at step ")
    assert "\nNext to run was task " in text
    again = re.search(r"cancel_at_every_step\(\.\.\., seeds=\[None\], steps=\[(\d+)\]\)$", text)
    assert again is not None
    with pytest.raises(UncleanCancellationError, match=problem):
        cancel_at_every_step(scenario, steps=[int(again[1])])


async def counts_on_an_order(trial: Trial) -> None:
    """Fail if the second of two tasks with the same number of steps ends first, which asyncio does not exclude."""
    order: list[str] = []

    async def step(name: str) -> None:
        await nap(2)
        order.append(name)

    witness = asyncio.create_task(step("witness"))
    await asyncio.wait([witness, trial.victim(asyncio.create_task(step("victim")))])
    assert order != ["victim", "witness"]


def test_cancel_at_every_step_finds_defects_of_other_schedules() -> None:
    """A defect that asyncio's order hides is found with `seeds`, and reported with a seed that shows it again."""
    assert cancel_at_every_step(counts_on_an_order) > 3
    with pytest.raises(UncleanCancellationError, match=r"with the schedule of seed \d+, did not end well") as caught:
        cancel_at_every_step(counts_on_an_order, seeds=range(20))
    (seed,) = re.findall(r"seeds=\[(\d+)\]", str(caught.value))
    with pytest.raises(UncleanCancellationError):
        cancel_at_every_step(counts_on_an_order, seeds=[int(seed)])


def test_failure_without_a_cancellation_is_reported_as_such() -> None:
    """The error for a scenario that fails before any cancellation says that it failed without a cancellation."""

    async def broken(trial: Trial) -> None:
        raise ValueError("broken")

    with pytest.raises(
        UncleanCancellationError, match=r"broken, without a cancellation, did not end well:\n- it failed: ValueError"
    ):
        cancel_at_every_step(broken)


def test_cancel_at_every_step_tries_each_step_once() -> None:
    """`cancel_at_every_step` cancels the victim once at each of its steps, also before its first one."""
    reached: list[int] = []

    async def three_waits(trial: Trial) -> None:
        for number in range(3):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                reached.append(number)
                raise

    runs = cancel_at_every_step(three_waits)
    assert set(reached) == {0, 1, 2}
    assert runs == len(reached) + 1  # cancelled before it began, too


def test_sample_limits_the_steps_of_each_seed() -> None:
    """With `sample=2`, at most two steps of the victim are tried with each seed."""

    async def long(trial: Trial) -> None:
        await nap(50)

    assert cancel_at_every_step(long, seeds=range(30), sample=2) <= 60
    assert cancel_at_every_step(long, seeds=range(30), sample=2) > 40


async def clean(trial: Trial) -> None:
    """Use a task group, a generator, a timeout and a lock, and close them all."""
    lock = asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(5))
        async with lock, asyncio.timeout(10):
            generator = numbers()
            try:
                async for number in generator:
                    if number == 3:
                        break
            finally:
                await generator.aclose()


def test_cancel_at_every_step_passes_clean_code() -> None:
    """`cancel_at_every_step` passes code that cleans up, in asyncio's order and with seeds."""
    assert cancel_at_every_step(clean) > 10
    assert cancel_at_every_step(clean, seeds=range(20)) > 20 * 10


def test_report_says_step_place_leftovers_and_repetition() -> None:
    """The report names the step and line of the cancellation, what is left open, and how to repeat it."""
    with pytest.raises(UncleanCancellationError) as caught:
        cancel_at_every_step(leaves_a_task)
    place = rf'    File "{re.escape(__file__)}", line \d+, in'
    assert re.fullmatch(
        rf"""leaves_a_task, cancelled at step 1, did not end well:
- these tasks are left:
  helper
    File ".*tasks\.py", line \d+, in sleep
      return await future
Next to run was task helper; the victim was here:
  scenario
{place} nap
      await asyncio\.sleep\(0\)
Order of the steps, one line a switch:
    1  scenario  test_cancelling\.py:\d+ +await asyncio\.sleep\(0\)
    2  scenario is cancelled from outside
    3  scenario  test_cancelling\.py:\d+ +await nap\(\)  <- is cancelled
To see it again: cancel_at_every_step\(\.\.\., seeds=\[None\], steps=\[1\]\)""",
        str(caught.value),
    )
