"""Cost of agent calls: an agent that echoes one message, compared with a task of a coroutine that echoes it.

Calls that run at once are all alive at the same time: each lets the others run before it replies.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.bare import at_once, bare_call, bytes_a_call, one_by_one
from benchmarks.measure import Plan, Side, Table, main
from miniagents import InteractionContext, Message, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from benchmarks.bare import Call

HELLO = Message("hello")
_UNIT = "us a call"


@miniagent
async def echo(ctx: InteractionContext, turns: int = 0) -> None:
    """Reply the messages after some steps of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    ctx.reply(ctx.message_promises)


def agent_call(turns: int) -> Awaitable[Any]:
    """Call the agent `echo`, and return the promise of its replies."""
    return echo.trigger(HELLO, turns=turns)


async def awaited(calls: list[Awaitable[Any]]) -> None:
    """Await all calls one after the other, without a task for each, which `gather` makes."""
    for call in calls:
        await call


def all_awaited(call: Call, count: int) -> Side:
    """Return a side that makes all calls at once, and awaits one after the other."""

    async def side() -> None:
        await awaited([call(1) for _ in range(count)])

    return side


async def compare_calls(table: Table, call: Call, plan: Plan) -> None:
    """Compare calls with tasks: many at once by `gather` on both sides, and one after the other."""
    for name, goal, count, side in (
        ("10,000 calls at once, both by gather", 4, 10_000, at_once),
        ("calls one after the other", 3, 5_000, one_by_one),
    ):
        size = plan.sized(count)
        sides = side(bare_call, size), side(call, size)
        await table.compare(name, *sides, plan, units=size, unit=_UNIT, base_name="bare task", goal=goal)


def agents_at_once(count: int) -> Side:
    """Return a side that makes all agent calls at once, and awaits one after the other."""
    return all_awaited(agent_call, count)


async def tasks_a_call(count: int) -> float:
    """Return the number of tasks that are created for each of `count` calls."""
    loop = asyncio.get_running_loop()
    created = 0

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        nonlocal created
        created += 1
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        await agents_at_once(count)()
    finally:
        loop.set_task_factory(None)
    return created / count


async def benchmark(plan: Plan) -> Table:
    """Measure calls one by one and at once, their memory and their tasks."""
    table = Table("Agent calls")
    async with MiniAgents():
        size = plan.sized(5_000)
        sides = one_by_one(bare_call, size), one_by_one(agent_call, size)
        await table.compare("one after the other", *sides, plan, units=size, unit=_UNIT, base_name="bare task", goal=4)
        for count in (1_000, 10_000):
            size = plan.sized(count)
            sides = all_awaited(bare_call, size), agents_at_once(size)
            name, repeat = f"{count:,} at once, awaited one by one", 10_000 // count
            await table.compare(
                name, *sides, plan, units=size, unit=_UNIT, repeat=repeat, base_name="bare task", goal=4
            )
        size = plan.sized(10_000)
        table.facts["bytes a bare task, 10,000 at once"] = await bytes_a_call(partial(at_once, bare_call), size)
        table.facts["bytes a call, 10,000 at once (goal: <= 6,000)"] = await bytes_a_call(agents_at_once, size)
        table.facts["tasks a call (goal: 1)"] = await tasks_a_call(size)
    return table


if __name__ == "__main__":
    main(benchmark)
