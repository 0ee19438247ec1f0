"""Peer llama-index-workflows: a workflow of one step that writes tokens to its stream of events. It has no models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from benchmarks.bare import tokens_of
from benchmarks.peers.peer import Peer, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Token(Event):
    text: str


class Streaming(Workflow):
    """Workflow that streams fixed tokens, or those of another workflow."""

    @step
    async def stream(self, ctx: Context, event: StartEvent) -> StopEvent:
        async for token in said_by(event.count, event.agents - 1) if event.agents > 1 else tokens_of(event.count):
            ctx.write_event_to_stream(Token(text=token))
        return StopEvent(result="done")


class Echo(Workflow):
    """Workflow that returns its text."""

    @step
    async def echo(self, event: StartEvent) -> StopEvent:
        for _ in range(event.turns):
            await asyncio.sleep(0)
        return StopEvent(result=event.text)


STREAMING, ECHO = Streaming(timeout=None), Echo(timeout=None)


async def said_by(count: int, agents: int) -> AsyncIterator[str]:
    handler = STREAMING.run(count=count, agents=agents)
    async for event in handler.stream_events():
        if isinstance(event, Token):
            yield event.text
    await handler


async def tokens(count: int, agents: int) -> int:
    came = 0
    handler = STREAMING.run(count=count, agents=agents)
    async for event in handler.stream_events():
        if isinstance(event, Token):
            came += 1
    await handler
    return came


async def call(turns: int) -> str:
    result: Any = await ECHO.run(text="hello", turns=turns)
    return str(result)


PEER = Peer(packages=("llama-index-workflows",), tokens=tokens, call=call)

if __name__ == "__main__":
    main(PEER)
