"""Schedules, the orders in which tasks run: random and bounded searches, shrinking, and replays by a token."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents import InteractionContext, MiniAgents, StreamAppender, miniagent
from miniagents_testing._clock import VirtualTimeLoop, run_in_virtual_time
from miniagents_testing._decisions import UNTIL_IDLE, Deviation, Steps, schedule_of, token_of
from miniagents_testing._schedules import replay_only, run_once, schedules, search_schedules
from miniagents_testing.errors import IdleLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


class Account:
    """Account that loses money when two tasks pay in at once."""

    def __init__(self) -> None:
        self.balance = 0

    async def pay_in(self, amount: int) -> None:
        """Read the balance, wait, and write the sum, which loses an amount if another task pays in meanwhile."""
        balance = self.balance
        await asyncio.sleep(0)
        self.balance = balance + amount


async def pay_in_one_after_the_other() -> int:
    """Run a race that asyncio's order hides, because the second task pays in some turns later."""
    account = Account()

    async def later() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
        await account.pay_in(1)

    await asyncio.gather(account.pay_in(1), later())
    return account.balance


async def assert_nothing_is_lost() -> None:
    """Fail if the race of `pay_in_one_after_the_other` loses an amount."""
    balance = await pay_in_one_after_the_other()
    assert balance == 2


async def order_of(names: str, steps: int = 3) -> str:
    """Return the names of the tasks in the order in which they took their steps."""
    log: list[str] = []

    async def task(name: str) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
            log.append(name)

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(task(name))
    return "".join(log)


def test_loop_without_a_seed_has_asyncios_order() -> None:
    """Without a seed, ready tasks run by turns, as on asyncio's loop."""
    assert run_in_virtual_time(order_of("abc")) == "abcabcabc"


def test_seed_gives_a_repeatable_order() -> None:
    """A seed gives equal orders in two runs, and many seeds give all 20 orders of two tasks with three steps."""
    first = [run_in_virtual_time(order_of("abc"), seed=seed) for seed in range(60)]
    assert [run_in_virtual_time(order_of("abc"), seed=seed) for seed in range(60)] == first
    assert len(set(first)) > 35
    assert len({run_in_virtual_time(order_of("ab"), seed=seed) for seed in range(1000)}) == 20


def test_schedules_often_delay_one_task_by_many_steps() -> None:
    """In more than 5 of 100 schedules, one task takes ten steps before another has taken two."""
    orders = [run_in_virtual_time(order_of("ab", 10), seed=seed) for seed in range(100)]
    assert sum(order[:11].count("a") > 9 or order[:11].count("b") > 9 for order in orders) > 5


def test_schedules_keep_the_promises_of_asyncio() -> None:
    """Under each schedule, callbacks keep their order, none is lost, and the clock does not move."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[int] = []
        future = loop.create_future()

        def note(number: int, future: asyncio.Future[None]) -> None:
            log.append(number)

        for number in range(20):
            loop.call_soon(log.append, number)
        for number in range(20, 40):
            future.add_done_callback(partial(note, number))
        future.set_result(None)
        for number in range(40, 60):
            loop.call_later(0, log.append, number)
        await asyncio.gather(*[order_of("abcd") for _ in range(5)])
        assert loop.time() == 0
        assert sorted(log) == list(range(60))
        assert [number for number in log if number < 40] == list(range(40))
        assert [number for number in log if number >= 40] == list(range(40, 60))

    search_schedules(main)


def test_task_group_cancels_tasks_in_the_same_order_in_each_run() -> None:
    """In each of 20 runs, a failing task group cancels its tasks in the order in which they were made."""

    async def main() -> str:
        log: list[str] = []

        async def task(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append(name)

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for name in "abcdefgh":
                    group.create_task(task(name))
                await asyncio.sleep(1)
                raise ValueError
        return "".join(log)

    assert Counter(run_in_virtual_time(main()) for _ in range(20)) == {"abcdefgh": 20}


def test_search_stops_at_the_first_failing_schedule_and_names_its_seed() -> None:
    """`search_schedules` stops at the first seed that fails; its error names the seed, with which it fails again."""
    with pytest.raises(AssertionError) as caught:
        search_schedules(assert_nothing_is_lost, range(1000))
    (note,) = caught.value.__notes__
    seed = int(note.partition("seed ")[2].partition(",")[0])
    assert run_in_virtual_time(pay_in_one_after_the_other(), seed=seed) == 1
    assert all(run_in_virtual_time(pay_in_one_after_the_other(), seed=earlier) == 2 for earlier in range(seed))
    assert run_in_virtual_time(pay_in_one_after_the_other()) == 2


def test_search_tries_each_seed_once_when_none_fails() -> None:
    """`search_schedules` tries each seed once, and raises nothing if no schedule fails."""
    tried = 0

    async def main() -> None:
        nonlocal tried
        tried += 1
        assert len(await order_of("ab", 1)) == 2

    search_schedules(main, schedules(1000))
    assert tried == 1000


# --- tokens


deviations = st.dictionaries(st.integers(0, 5000), st.integers(1, UNTIL_IDLE), max_size=5)


@given(deviations)
def test_token_gives_its_schedule(chosen: dict[int, int]) -> None:
    """The token of a schedule gives the same schedule, and has no character that a shell would interpret."""
    schedule = tuple(Deviation(*each) for each in sorted(chosen.items()))
    assert schedule_of(token_of(schedule)) == schedule
    assert re.fullmatch(r"[a-z0-9+]+", token_of(schedule))


@pytest.mark.parametrize("token", ["", "x", "3x", "3x0", "3,4", "+3", "-1", "3x2x1", "seed4"])
def test_text_that_is_no_token_is_refused(token: str) -> None:
    """A text that is no token raises a `ValueError` with an example of a token, before anything runs."""
    with pytest.raises(ValueError, match="looks like 17"):
        search_schedules(assert_nothing_is_lost, schedule=token)
    with pytest.raises(ValueError, match="looks like 17"):
        VirtualTimeLoop(schedule=token)


def test_loop_refuses_a_seed_beside_a_token() -> None:
    """A loop that is given a seed and a token raises a `ValueError`."""
    with pytest.raises(ValueError, match="not both"):
        VirtualTimeLoop(seed=1, schedule="3")


def test_deviation_holds_back_one_step_for_its_turns() -> None:
    """A deviation holds one step back for some turns, or until nothing else can run; other steps keep their order."""
    assert run_in_virtual_time(order_of("abc"), schedule="plain") == "abcabcabc"
    first_step_of_a = 4  # after the steps that start main and the three tasks
    assert run_in_virtual_time(order_of("abc"), schedule=f"{first_step_of_a}x1") == "bcabcabca"
    assert run_in_virtual_time(order_of("abc"), schedule=f"{first_step_of_a}x2") == "bcbcabcaa"
    assert run_in_virtual_time(order_of("abc"), schedule=f"{first_step_of_a}") == "bcbcbcaaa"


def test_held_step_runs_before_the_clock_moves() -> None:
    """A step that is held back until nothing else can run goes before any later timer."""

    async def main() -> list[str]:
        log = []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            log.append(f"after {seconds} s")

        async def worker() -> None:
            await asyncio.sleep(0)
            log.append("work")

        await asyncio.gather(sleeper(0.001), worker(), sleeper(0))
        return log

    orders = [run_in_virtual_time(main(), schedule=str(step)) for step in range(8)]
    assert {order[-1] for order in orders} == {"after 0.001 s"}
    assert len({tuple(order) for order in orders}) > 1


def test_token_gives_the_same_order_beside_threads() -> None:
    """A schedule gives one order in each of ten runs, also if steps wait for jobs in threads."""

    async def main() -> str:
        log: list[str] = []

        async def task(name: str) -> None:
            for _ in range(2):
                await asyncio.to_thread(sum, range(100))
                log.append(name)
                await asyncio.sleep(0)
                log.append(name.upper())

        await asyncio.gather(task("a"), task("b"))
        return "".join(log)

    plain = run_in_virtual_time(main())
    orders = {token: {run_in_virtual_time(main(), schedule=token) for _ in range(10)} for token in ("3", "4x2", "5+7")}
    assert all(len(each) == 1 for each in orders.values())
    assert set.union(*orders.values()) != {plain}


def test_token_of_a_random_schedule_gives_its_order() -> None:
    """The deviations of a random schedule, as a token, give the same order as its seed."""
    for seed in range(50):
        steps = Steps(seed=seed)
        orders: list[str] = []

        async def main(orders: list[str] = orders) -> None:
            orders.append(await order_of("abcd"))

        run_once(main, steps)
        assert run_once(main, Steps(tuple(steps.made))).steps.made == steps.made
        assert orders[0] == orders[1]


# --- the bounded search


def test_bounded_search_tries_each_order_of_two_tasks() -> None:
    """With enough deviations, the bounded search gives each of the 20 orders of two tasks with three steps."""
    seen: Counter[str] = Counter()

    async def main() -> None:
        seen[await order_of("ab")] += 1

    tried = search_schedules(main, (), deviations=3, limit=10_000)
    assert tried.is_covered
    assert set(seen) == {"".join(order) for order in itertools.permutations("aaabbb")}
    assert tried.bounded == sum(seen.values())


def test_bounded_search_leaves_out_holds_without_effect() -> None:
    """A scenario of one task has one schedule, because no other task can run while a step of it is held back."""

    async def main() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
            await asyncio.sleep(1)

    tried = search_schedules(main, (), deviations=2)
    assert (tried.bounded, tried.is_covered) == (1, True)


WAITS = {"next turn": lambda: asyncio.sleep(0), "timer": lambda: asyncio.sleep(1), "lock": None}


def tasks_with(all_waits: list[list[str]], seen: set[tuple[object, ...]]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a scenario of tasks with these waits, which adds the order of what they do to `seen`."""

    async def main() -> None:
        loop, lock = asyncio.get_running_loop(), asyncio.Lock()
        log: list[object] = []

        async def task(number: int, waits: list[str]) -> None:
            for wait in waits:
                if wait == "lock":
                    async with lock:
                        await asyncio.sleep(0)
                else:
                    await WAITS[wait]()  # type: ignore[misc]  # not None
                log.append((number, loop.time()))
                loop.call_soon(log.append, f"after {number}")

        await asyncio.gather(*[task(*each) for each in enumerate(all_waits)])
        log.append("end")
        seen.add(tuple(log))

    return main


def check_that_no_order_is_lost(all_waits: list[list[str]], deviations: int) -> None:
    """Check that the bounded search sees each order that holding back any steps gives, for tasks with these waits."""
    seen: set[tuple[object, ...]] = set()
    main = tasks_with(all_waits, seen)
    tried = search_schedules(main, (), deviations=deviations, limit=100_000)
    assert tried.is_covered
    found = set(seen)

    def try_longer(schedule: tuple[Deviation, ...]) -> None:
        """Try each schedule that begins with this one, without leaving out any."""
        steps = run_once(main, Steps(schedule)).steps
        if len(schedule) < deviations:
            for step in range(schedule[-1].step + 1 if schedule else 0, steps.count):
                for turns in (*range(1, 9), UNTIL_IDLE):
                    try_longer((*schedule, Deviation(step, turns)))

    try_longer(())
    assert seen == found


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from(sorted(WAITS)), max_size=3), min_size=1, max_size=3))
def test_bounded_search_loses_no_order_by_what_it_leaves_out(all_waits: list[list[str]]) -> None:
    """With one deviation, the search sees each order that holding back a step gives, for 1 to 8 turns or until idle.

    No task uses a thread here: when the job of a thread ends depends on the machine.
    """
    check_that_no_order_is_lost(all_waits, 1)


@pytest.mark.parametrize("waits", [["next turn", "next turn"], ["timer", "next turn"], ["lock"]], ids=" ".join)
def test_bounded_search_loses_no_order_of_two_deviations(waits: list[str]) -> None:
    """With two deviations, the search sees each order that holding back two steps gives, for two tasks alike."""
    check_that_no_order_is_lost([waits, waits], 2)


def test_search_stops_at_its_limit_and_says_so() -> None:
    """A bounded search that reaches its limit returns the number of runs, and that its space was not covered."""
    runs = 0

    async def main() -> None:
        nonlocal runs
        runs += 1
        await order_of("abcd")

    tried = search_schedules(main, limit=50)
    assert (tried.random, tried.bounded, tried.deviations, tried.is_covered) == (20, 50, 2, False)
    assert runs == 70
    assert str(tried) == "20 random schedules tried, 50 with at most 2 deviations (not all of them)"


def test_search_covers_a_small_scenario_by_default() -> None:
    """By default, a search runs 20 random schedules and those with at most two deviations, and says that it ran all."""

    async def main() -> None:
        await order_of("ab", 2)

    tried = search_schedules(main)
    assert tried.is_covered
    assert str(tried).endswith("with at most 2 deviations (all of them)")


def test_bounded_search_finds_what_random_schedules_miss() -> None:
    """A race that needs one task to fall exactly three turns behind among many steps is found by the bounded search."""

    async def main() -> None:
        seen: list[int] = []

        async def slow() -> None:
            for number in range(30):
                await asyncio.sleep(0)
                seen.append(number)

        async def watcher() -> None:
            for number in range(30):
                await asyncio.sleep(0)
                assert not (number == 17 and len(seen) == 17 - 3)

        await asyncio.gather(watcher(), slow())

    search_schedules(main, range(20))
    with pytest.raises(AssertionError) as caught:
        search_schedules(main)
    assert "This fails with 1 step held back" in caught.value.__notes__[0]


# --- shrinking


def token_in(error: BaseException) -> str:
    """Return the token that the note of an error names for the command line."""
    (note,) = error.__notes__
    (token,) = re.findall(r"pytest --miniagents-schedule=(\S+)", note)
    return str(token)


@pytest.mark.parametrize("seeds", [range(100), range(100, 200), None], ids=["first seeds", "other seeds", "default"])
def test_failing_schedule_shrinks_to_one_deviation(seeds: range | None) -> None:
    """Whatever search finds the lost update, its report names one deviation, and its token fails in the same way."""
    with pytest.raises(AssertionError) as caught:
        search_schedules(assert_nothing_is_lost, seeds)
    token = token_in(caught.value)
    assert len(schedule_of(token)) == 1
    assert run_in_virtual_time(pay_in_one_after_the_other(), schedule=token) == 1
    with pytest.raises(AssertionError) as again:
        search_schedules(assert_nothing_is_lost, schedule=token)
    assert token_in(again.value) == token


def test_failure_of_the_plain_order_has_no_deviation() -> None:
    """A scenario that fails in asyncio's order is reported with the token `plain`."""

    async def main() -> None:
        await order_of("ab")
        raise ValueError("always")

    for seeds in (None, range(3)):
        with pytest.raises(ValueError, match="always") as caught:
            search_schedules(main, seeds)
        assert token_in(caught.value) == "plain"
        assert "This fails in the plain order of asyncio" in caught.value.__notes__[0]


def test_shrinking_keeps_the_failure_that_was_found() -> None:
    """A schedule is not shrunk to one that fails at another place, even if that one has fewer deviations."""

    async def main() -> None:
        order = await order_of("abc", 1)
        assert order != "cba", "found"
        assert order != "bca", "another"

    (seed,) = [seed for seed in range(100) if run_in_virtual_time(order_of("abc", 1), seed=seed) == "cba"][:1]
    with pytest.raises(AssertionError, match="found") as caught:
        search_schedules(main, [seed])
    assert len(schedule_of(token_in(caught.value))) == 2


def test_failure_that_does_not_come_again_is_reported_as_such() -> None:
    """An error that is not repeated by its schedule has a note that names the likely reasons, and no token."""
    runs = itertools.count()

    async def main() -> None:
        await order_of("ab")
        assert next(runs) != 3

    with pytest.raises(AssertionError) as caught:
        search_schedules(main)
    (note,) = caught.value.__notes__
    assert "keeps something between its runs" in note
    assert "--miniagents-schedule" not in note


def test_failure_that_goes_away_while_it_is_recorded_is_reported_as_such() -> None:
    """An error that does not come while the steps are recorded has a note that says so, with the token."""

    async def main() -> None:
        await order_of("ab")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        assert loop.steps is not None
        assert loop.steps.trace is not None

    with pytest.raises(AssertionError) as caught:
        search_schedules(main)
    assert token_in(caught.value) == "plain"
    assert "The order of its steps is not known" in caught.value.__notes__[0]


def test_interrupt_ends_a_search() -> None:
    """A `KeyboardInterrupt` of a scenario comes out of the search as it is."""

    async def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        search_schedules(main)
    assert not hasattr(caught.value, "__notes__")


def test_failure_by_pytest_fail_is_shrunk() -> None:
    """A scenario that fails by `pytest.fail` is searched and shrunk to one deviation like one that raises."""

    async def main() -> None:
        if await pay_in_one_after_the_other() != 2:
            pytest.fail("an amount is lost")

    with pytest.raises(pytest.fail.Exception, match="an amount is lost") as caught:
        search_schedules(main)
    assert len(schedule_of(token_in(caught.value))) == 1


# --- the command line


@pytest.fixture
def only_token() -> Iterator[None]:
    """Choose the schedule as `--miniagents-schedule=3` does."""
    replay_only(None, "3")
    yield
    replay_only(None)


@pytest.mark.usefixtures("only_token")
def test_search_tries_the_chosen_token_alone() -> None:
    """When the user chose a token on the command line, a search runs that schedule only."""
    orders: list[str] = []

    async def main() -> None:
        orders.append(await order_of("ab"))

    assert search_schedules(main).bounded == 1
    assert orders == [run_in_virtual_time(order_of("ab"), schedule="3")]


@pytest.fixture
def only_seven() -> Iterator[None]:
    """Choose the schedule as `--miniagents-schedule-seed=7` does."""
    replay_only(7)
    yield
    replay_only(None)


@pytest.mark.usefixtures("only_seven")
def test_schedules_returns_the_chosen_seed_alone() -> None:
    """When the user chose a seed on the command line, `schedules` returns that seed only."""
    assert list(schedules(1000)) == [7]


def test_search_finds_a_deadlock_of_some_schedules() -> None:
    """`search_schedules` finds a deadlock of two locks that the usual schedule does not meet, and names the seed."""

    async def main() -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def both(one: asyncio.Lock, other: asyncio.Lock, pause: int) -> None:
            for _ in range(pause):
                await asyncio.sleep(0)
            async with one:
                await asyncio.sleep(0)
                async with other:
                    pass

        await asyncio.gather(both(first, second, 0), both(second, first, 4))

    run_in_virtual_time(main())
    with pytest.raises(IdleLoopError, match="async with other:") as caught:
        search_schedules(main, range(100))
    assert "found by seed" in caught.value.__notes__[0]


def test_agents_reply_the_same_under_every_schedule() -> None:
    """An agent that is sent the pieces of an appender one by one replies to each in order, under 200 schedules."""

    @miniagent
    async def shouter(ctx: InteractionContext) -> None:
        async for promise in ctx.message_promises:
            ctx.reply("".join([token.upper() async for token in promise]))

    async def main() -> None:
        async with MiniAgents():
            appender = StreamAppender[str]()
            call = shouter.initiate_call()
            replies = call.send_message("a").reply_sequence(finish_call=False)

            async def fill() -> None:
                with appender:
                    for letter in "bcd":
                        await asyncio.sleep(0)
                        appender.append(letter)

            task = asyncio.create_task(fill())
            async for piece in appender.promise:
                call.send_message(piece)
            call.finish()
            await task
            assert [str(message) for message in await replies] == ["A", "B", "C", "D"]

    search_schedules(main, range(200))
