"""Schedules, the orders in which tasks run: each seed gives another order, and the same order each time."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from miniagents import InteractionContext, MiniAgents, StreamAppender, miniagent
from miniagents_testing._clock import replay_only, run_in_virtual_time, schedules, search_schedules
from miniagents_testing.errors import IdleLoopError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    assert len(set(first)) > 40
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
    seed = int(note.partition("seed ")[2].partition(";")[0])
    assert f"pytest --miniagents-schedule-seed={seed}" in note
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
    assert "seed" in caught.value.__notes__[0]


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
