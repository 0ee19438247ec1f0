"""One answer of a model, read through the real SDKs in virtual time, with a fault in it.

`Answer` describes the bytes of the answer, and `Cell` asks for it with a fault. `CONSUMERS` has the ways to use the
message: awaiting it, streaming its tokens, cancelling it, and so on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents
from miniagents_testing import ScriptedLLM, Step, run_in_virtual_time
from miniagents_testing.faults import Fault, FaultyTransport, edit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents.messages import MessagePromise, MessageSequencePromise
    from miniagents_testing._script import API
    from miniagents_testing._streams import ResponseStream

KEY = "sk-canary-0123456789abcdef"
PROMPT = "What does the canary sing?"
TOKENS = ("Grüße", " 😀\u2028\x85", " aus", " Zürich.")
"""One token each second, the first one at once. One has line separators that JSON allows in a string (row S11)."""

PATIENCE = 20.0
"""Seconds that client and agent wait, for bytes and for progress."""
EARLY = 0.1
"""Seconds after which a consumer cancels: after a first token without a wait, and before all waits end."""


class Answer:
    """Answer of one API without faults, with the numbers of its events, counted from 1 as faults count them."""

    key = KEY

    def __init__(self, stream: ResponseStream) -> None:
        self.events = [chunk.data for chunk in stream.chunks]
        """All events; a script sends one in each chunk."""
        self.size = len(stream.body)
        """Size of the answer in bytes."""
        self.head = self._first(TOKENS[0].encode()) - 1
        """Number of events before the first token."""
        reasons = (b'"finish_reason":"stop"', b'"stop_reason":"end_turn"', b'"type":"response.completed"')
        self._reason = next(reason for reason in reasons if reason in stream.body)
        self.final = self._first(self._reason)
        """Number of the event with which the answer is complete."""
        self.last = len(self.events)

    @staticmethod
    def step(**more: Any) -> Step:
        """Return the script's step for this answer, with additional arguments."""
        return Step(TOKENS, gap=1.0, **more)

    def token(self, number: int) -> int:
        """Return the number of the event that has the token of this number, both counted from 1."""
        return self.head + number

    def offset(self, text: str) -> int:
        """Return the number of bytes of the answer before this text."""
        return b"".join(self.events).index(text.encode())

    def replace(self, at: int, old: bytes, new: bytes) -> Fault:
        """Return a fault that replaces bytes in event `at`."""
        assert old in self.events[at - 1]
        return edit(lambda event: event.replace(old, new), at=at)

    @property
    def without_reason(self) -> Fault:
        """Fault after which the final event has no finish reason."""
        return self.replace(self.final, self._reason, self._reason.partition(b":")[0] + b":null")

    @property
    def ping(self) -> bytes:
        """An event of this API without content."""
        ping = (event for event in self.events if b'"ping"' in event)
        return next(ping, b'data: {"type": "keepalive", "choices": []}\n\n')

    @property
    def unknown_delta(self) -> bytes:
        """An event with a delta of a kind that the API does not have."""
        return self.events[self.head].replace(b"text_delta", b"mystery_delta")

    def _first(self, needle: bytes) -> int:
        return next(number for number, event in enumerate(self.events, 1) if needle in event)


class Wire(httpx2.AsyncBaseTransport):
    """Transport that passes requests to an inner transport, and counts requests, chunks and open responses."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._transport = transport
        self.requests = 0
        self.last_request_at = 0.0
        """Time of the last request."""
        self.read = 0
        """Number of chunks that were read."""
        self.open = 0
        """Number of responses that are not closed."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response of the other transport, with a body that is counted."""
        self.requests += 1
        self.last_request_at = asyncio.get_running_loop().time()
        response = await self._transport.handle_async_request(request)
        self.open += 1
        body = _WatchedBody(response.stream, self)
        return httpx2.Response(
            response.status_code, headers=response.headers, stream=body, extensions=response.extensions
        )


class _WatchedBody(httpx2.AsyncByteStream):
    def __init__(self, body: Any, wire: Wire) -> None:
        self._body = body
        self._wire = wire
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            self._wire.read += 1
            yield chunk

    async def aclose(self) -> None:
        self._wire.open -= not self._closed
        self._closed = True
        await self._body.aclose()


def agent_on(api: API, transport: httpx2.AsyncBaseTransport, **settings: Any) -> Any:
    """Return the agent of this API, with its SDK's client on a transport."""
    http_client = httpx2.AsyncClient(transport=transport, trust_env=False)
    options: Any = {"api_key": KEY, "http_client": http_client, "timeout": PATIENCE}
    settings = {"stall_timeout": PATIENCE, **settings}
    if api == "messages":
        return create_anthropic_agent("m", async_client=anthropic.AsyncAnthropic(**options), **settings)
    return create_openai_agent("m", api=api, async_client=openai.AsyncOpenAI(**options), **settings)


@cache
def answer_of(api: API) -> Answer:
    """Return the answer without faults, as this API sends it, to which tests apply faults."""
    streams: list[ResponseStream] = []

    def overlay(stream: ResponseStream) -> ResponseStream:
        streams.append(stream)
        return stream

    async def ask() -> None:
        async with MiniAgents():
            await agent_on(api, ScriptedLLM([Answer.step()], overlay=overlay).transport()).trigger(PROMPT)

    run_in_virtual_time(ask())
    return Answer(streams[0])


@dataclass
class Seen:
    """Tokens, message and error of an answer, as a consumer got them."""

    tokens: tuple[str, ...] | None = None
    """None if the consumer does not read tokens."""
    message: Any = None
    error: Any = None
    at: float = field(default_factory=lambda: asyncio.get_running_loop().time(), compare=False)
    """Time at which the consumer ended."""


class Cell:
    """One cell of the matrix: an answer with a fault in it, and one way to use it.

    Args:
        api: API that is called.
        consumer: way to use the answer; a key of `CONSUMERS`.
        made: one fault or several for the answer; or a list of steps before the answer; or a function that changes its
            complete `ResponseStream`.
        settings: settings of the agent.
    """

    def __init__(self, api: API, consumer: str, made: Any, **settings: Any) -> None:
        faults = made if isinstance(made, tuple) else (made,) if isinstance(made, Fault) else ()
        steps = [*(made if isinstance(made, list) else ()), *[Answer.step()] * 3]
        overlay = None if faults or isinstance(made, list) else made
        self.consumer = consumer
        self._faulty = FaultyTransport(ScriptedLLM(steps, overlay=overlay).transport(), *faults)
        self.wire = Wire(self._faulty)
        self._agent = agent_on(api, self.wire, **settings)

    def run(self) -> Seen:
        """Call the agent, use the answer, leave the context, and check that nothing is left open."""
        seen = run_in_virtual_time(self._run(), timeout=600)
        assert self.wire.open == 0, "a response was left open"
        if self.consumer not in ("break", "cancel", "drop"):
            self._faulty.assert_used()
        return seen

    async def _run(self) -> Seen:
        abandoned = abandoned_generators()
        async with MiniAgents() as context:
            seen = await CONSUMERS[self.consumer](partial(self._agent.trigger, PROMPT), self.wire)
        assert not context.tasks
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left"
        assert abandoned == []
        return seen


def abandoned_generators() -> list[str]:
    """Return a list that gets the name of each async generator that its user left for the event loop to close."""
    names: list[str] = []
    hooks = sys.get_asyncgen_hooks()

    def finalizer(generator: Any) -> None:
        names.append(generator.ag_code.co_qualname)
        assert hooks.finalizer is not None
        hooks.finalizer(generator)

    sys.set_asyncgen_hooks(finalizer=finalizer)
    return names


Ask = Callable[[], "MessageSequencePromise"]


async def await_message(ask: Ask, wire: Wire) -> Seen:
    """Await the message, without reading its tokens."""
    try:
        (message,) = await ask()
    except Exception as error:
        return Seen(error=error)
    return Seen(message=message)


async def stream_tokens(ask: Ask, wire: Wire) -> Seen:
    """Read the tokens as they come, and check that a second reader gets equal tokens."""
    promise = await only(ask())
    seen = await read(promise)
    assert await read(promise) == seen
    return seen


async def break_after_first_token(ask: Ask, wire: Wire) -> Seen:
    """Stop reading after the first token, and check that no more chunks are read."""
    promise = await only(ask())
    tokens = []
    try:
        async for token in promise:
            tokens.append(token)
            break
    except Exception as error:
        return Seen((), error=error)
    del promise
    await assert_wire_is_idle(wire)
    return Seen(tuple(tokens))


async def cancel_promise(ask: Ask, wire: Wire) -> Seen:
    """Cancel the promise while a task reads it, and check that no more chunks are read or requests sent."""
    promise = await only(ask())
    reading = asyncio.create_task(read(promise))
    await asyncio.sleep(EARLY)
    promise.cancel()
    await assert_wire_is_idle(wire)
    seen = await reading
    assert await read(promise) == seen
    return seen


async def cancel_one_of_two_readers(ask: Ask, wire: Wire) -> Seen:
    """Read with two tasks, cancel one, and check that a third reader gets all that the other one got."""
    promise = await only(ask())
    first, second = asyncio.create_task(read(promise)), asyncio.create_task(read(promise))
    await asyncio.sleep(EARLY)
    second.cancel()
    seen = await first
    assert await read(promise) == seen
    return seen


async def never_read(ask: Ask, wire: Wire) -> Seen:
    """Keep the promise, but read nothing; leaving the context then raises an error that no reader has seen."""
    try:
        async with MiniAgents():
            unread = ask()
    except ExceptionGroup as group:
        (error,) = group.exceptions
        return Seen(error=error)
    return await await_message(lambda: unread, wire)


async def drop_promise(ask: Ask, wire: Wire) -> Seen:
    """Drop the promise at once, and check that no chunk is read."""
    ask()
    await assert_wire_is_idle(wire)
    assert wire.read == 0
    return Seen()


CONSUMERS: dict[str, Callable[[Ask, Wire], Awaitable[Seen]]] = {
    "await": await_message,
    "stream": stream_tokens,
    "break": break_after_first_token,
    "cancel": cancel_promise,
    "two readers": cancel_one_of_two_readers,
    "never read": never_read,
    "drop": drop_promise,
}


async def only(sequence: MessageSequencePromise) -> MessagePromise:
    """Return the only message of a sequence."""
    (promise,) = [promise async for promise in sequence]
    return promise


async def read(promise: MessagePromise) -> Seen:
    """Read all tokens, and then the message or its error."""
    tokens = []
    try:
        async for token in promise:
            tokens.append(token)
        return Seen(tuple(tokens), await promise)
    except Exception as error:
        return Seen(tuple(tokens), error=error)


async def assert_wire_is_idle(wire: Wire) -> None:
    """Check that responses close within two loop steps, and no chunk is read or request sent in the next minute."""
    for _ in range(2):
        await asyncio.sleep(0)
    assert wire.open == 0, "a response was not closed at once"
    before = wire.read, wire.requests
    await asyncio.sleep(60)
    assert (wire.read, wire.requests) == before, "chunks were read, or requests sent, after the end"


class Kit:
    """Names of this file, as the fixture `kit` gives them to tests."""

    KEY = KEY
    PROMPT = PROMPT
    TOKENS = TOKENS
    EARLY = EARLY
    Cell = Cell
    Wire = Wire
    agent_on = staticmethod(agent_on)
    abandoned_generators = staticmethod(abandoned_generators)
    answer_of = staticmethod(answer_of)


@pytest.fixture
def kit() -> Kit:
    """Return the names that the tests of faults use."""
    return Kit()
