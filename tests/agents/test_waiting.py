"""Who waits for whom, and for how long: agents nobody waits for any more, and those that do not let others work."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("how", ["cancelled", "timed out", "dropped"])
async def test_C4_C6_an_agent_nobody_waits_for_works_to_its_end(how: str) -> None:
    """It may have been called for what it does; leaving the context waits for it."""
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


def test_C23_asyncios_debug_mode_names_the_agent_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """A task is called like its agent, so the warning about a step that took too long says whose it was."""

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
    assert any("name='BLOCKER'" in warning and "took" in warning for warning in warnings)
