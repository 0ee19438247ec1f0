"""Agents without a waiting reader, and agents that block the loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("how", ["cancelled", "timed out", "dropped"])
async def test_C4_C6_agent_without_a_waiting_reader_works_to_its_end(how: str) -> None:
    """If an agent's reader is cancelled, times out or drops the replies, the agent still ends before its context."""
    go_on = asyncio.Event()
    done: list[str] = []

    @miniagent
    async def worker(ctx: InteractionContext) -> None:
        await go_on.wait()
        done.append("worked")

    async with MiniAgents():
        if how == "dropped":
            worker.trigger()
        elif how == "timed out":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(worker.trigger(), 0.001)
        else:
            waiting = asyncio.ensure_future(worker.trigger())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not done
        asyncio.get_running_loop().call_soon(go_on.set)
    assert done == ["worked"]


def test_C23_debug_mode_of_asyncio_names_the_agent_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """If an agent blocks the event loop, asyncio's warning in debug mode has its alias and the number of the call."""

    @miniagent
    async def blocker(ctx: InteractionContext) -> None:
        time.sleep(0.02)  # noqa: ASYNC251 - the mistake

    def debugging(make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> asyncio.AbstractEventLoop:
        loop = make()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.01
        return loop

    async def amain() -> None:
        await blocker.trigger()

    MiniAgents().run(amain(), loop_factory=debugging)
    warnings = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert any("name='BLOCKER#1'" in warning and "took" in warning for warning in warnings)
