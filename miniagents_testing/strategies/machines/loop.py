"""What the machines have in common: a loop of their own, and readers that run in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis.stateful import RuleBasedStateMachine

from miniagents import MiniAgents, PromiseCancelledError
from miniagents_testing.strategies._sequences import Boom

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["IDLE_STEPS", "RUNS", "LoopMachine", "Reader"]

RUNS = "it goes on"
PATIENCE = 10.0
"""Seconds after which something is taken to never come."""
IDLE_STEPS = 12
"""Steps of the loop after which everybody who can go on has gone on."""


class LoopMachine(RuleBasedStateMachine):
    """A machine whose rules run in one event loop and one run context."""

    has_failed = False

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()  # its own `run` handles signals each time, which costs more than a rule
        self._context = MiniAgents(unobserved_errors="log")
        self.run(self._open())

    async def _open(self) -> None:
        self._context.activate()

    def expect(self, came: object, expected: object, what: str) -> None:
        """An assertion that reads well also where pytest has not rewritten it."""
        if came != expected:
            self.has_failed = True
            raise AssertionError(f"{what}: expected {expected!r}, came {came!r}")

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Await something in the machine's loop, for as long as anything may take."""

        async def main() -> Any:
            async with asyncio.timeout(PATIENCE):
                return await awaitable

        try:
            return self._loop.run_until_complete(main())
        except TimeoutError:
            self.has_failed = True
            raise AssertionError(f"nothing came for {PATIENCE:g} seconds") from None

    def settle(self, steps: int = IDLE_STEPS) -> None:
        """Let everybody go on as far as they can."""

        async def main() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)

        self._loop.run_until_complete(main())

    def teardown(self) -> None:
        """Close context and loop, whatever the rules have found."""
        try:
            self.run(self._context.afinalize())
        finally:
            self._runner.close()


class Reader:
    """Reads a stream in a task of its own, and keeps what it saw and how it ended."""

    def __init__(self, read: Callable[[list[Any]], Awaitable[object]]) -> None:
        self.seen: list[Any] = []
        self.end = RUNS
        self.task = asyncio.get_running_loop().create_task(self._run(read))

    async def _run(self, read: Callable[[list[Any]], Awaitable[object]]) -> None:
        try:
            await read(self.seen)
            self.end = "end"
        except asyncio.CancelledError:
            self.end = "cancelled here"
        except (Boom, PromiseCancelledError) as error:
            self.end = type(error).__name__
