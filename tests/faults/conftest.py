"""One answer of a model, through the real SDKs and in virtual time: how it comes, and what people do with it."""

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
"""One a second, the first one at once. Two of them hold what only JSON takes for no end of a line (row S11)."""

PATIENCE = 20.0
"""Seconds that client and agent wait, for bytes and for progress."""
EARLY = 0.1
"""When whoever cancels does it: after a first token that came at once, before everything that is waited for."""


class Answer:
    """Where things stand in the answer of an API, counted in events from 1, as faults count them."""

    key = KEY

    def __init__(self, stream: ResponseStream) -> None:
        self.events = [chunk.data for chunk in stream.chunks]
        """A script sends one in each chunk."""
        self.size = len(stream.body)
        """Of all in bytes."""
        self.head = self._first(TOKENS[0].encode()) - 1
        """How many come before the first token."""
        reasons = (b'"finish_reason":"stop"', b'"stop_reason":"end_turn"', b'"type":"response.completed"')
        self._reason = next(reason for reason in reasons if reason in stream.body)
        self.word = self._first(self._reason)
        """The event with which the answer is complete."""
        self.last = len(self.events)

    @staticmethod
    def step(**more: Any) -> Step:
        """The step of the script, with something more in it."""
        return Step(TOKENS, gap=1.0, **more)

    def said(self, tokens: int) -> int:
        """The event that says the last of so many tokens."""
        return self.head + tokens

    def to(self, text: str) -> int:
        """How many bytes come before this text."""
        return b"".join(self.events).index(text.encode())

    def with_other(self, at: int, old: bytes, new: bytes) -> Fault:
        """Event `at` with something else in it."""
        assert old in self.events[at - 1]
        return edit(lambda event: event.replace(old, new), at=at)

    @property
    def without_reason(self) -> Fault:
        """The provider says that the answer is complete, and not why."""
        return self.with_other(self.word, self._reason, self._reason.partition(b":")[0] + b":null")

    @property
    def ping(self) -> bytes:
        """An event that says nothing."""
        ping = (event for event in self.events if b'"ping"' in event)
        return next(ping, b'data: {"type": "keepalive", "choices": []}\n\n')

    @property
    def unknown_delta(self) -> bytes:
        """A delta of a kind that nobody knows."""
        return self.events[self.head].replace(b"text_delta", b"mystery_delta")

    def _first(self, needle: bytes) -> int:
        return next(number for number, event in enumerate(self.events, 1) if needle in event)


class Wire(httpx2.AsyncBaseTransport):
    """Another transport, and what its client does with the responses."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._transport = transport
        self.requests = 0
        self.asked_at = 0.0
        """When the last of them was made."""
        self.read = 0
        """Chunks that were read."""
        self.open = 0
        """Responses that nobody has closed yet."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """What the other one answers."""
        self.requests += 1
        self.asked_at = asyncio.get_running_loop().time()
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
    """The agent that speaks this API, with its SDK's client."""
    http_client = httpx2.AsyncClient(transport=transport, trust_env=False)
    options: Any = {"api_key": KEY, "http_client": http_client, "timeout": PATIENCE}
    settings = {"stall_timeout": PATIENCE, **settings}
    if api == "messages":
        return create_anthropic_agent("m", async_client=anthropic.AsyncAnthropic(**options), **settings)
    return create_openai_agent("m", api=api, async_client=openai.AsyncOpenAI(**options), **settings)


@cache
def answer_of(api: API) -> Answer:
    """The answer that all faults are laid over, as this API sends it."""
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
    """What somebody has seen of an answer."""

    tokens: tuple[str, ...] | None = None
    """None: nobody has looked at them."""
    message: Any = None
    error: Any = None
    at: float = field(default_factory=lambda: asyncio.get_running_loop().time(), compare=False)
    """When it was over."""


class Cell:
    """One answer with a fault in it, and one way to use it.

    Args:
        api: which API is asked.
        consumer: what is done with the answer; a key of `CONSUMERS`.
        made: one fault or several, laid over the answer; or a list of steps that come before it; or a function that
            makes another one of its whole `ResponseStream`.
        settings: of the agent.
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
        """Ask, use the answer, and leave the context; then nothing is left."""
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
        assert abandoned == (["StreamCell.read"] if self.consumer == "break" and seen.tokens else [])
        return seen


def abandoned_generators() -> list[str]:
    """Names of the async generators that nobody has closed, so that the event loop has to; it grows while it runs."""
    names: list[str] = []
    hooks = sys.get_asyncgen_hooks()

    def finalizer(generator: Any) -> None:
        names.append(generator.ag_code.co_qualname)
        assert hooks.finalizer is not None
        hooks.finalizer(generator)

    sys.set_asyncgen_hooks(finalizer=finalizer)
    return names


Ask = Callable[[], "MessageSequencePromise"]


async def awaits(ask: Ask, wire: Wire) -> Seen:
    """Wait for the message."""
    try:
        (message,) = await ask()
    except Exception as error:
        return Seen(error=error)
    return Seen(message=message)


async def streams(ask: Ask, wire: Wire) -> Seen:
    """Read the tokens as they come; whoever reads again sees the same."""
    promise = await only(ask())
    seen = await read(promise)
    assert await read(promise) == seen
    return seen


async def breaks(ask: Ask, wire: Wire) -> Seen:
    """Leave after the first token, as nobody else reads it; then nothing more is read."""
    promise = await only(ask())
    tokens = []
    try:
        async for token in promise:
            tokens.append(token)
            break
    except Exception as error:
        return Seen((), error=error)
    del promise
    await nothing_goes_on(wire)
    return Seen(tuple(tokens))


async def cancels(ask: Ask, wire: Wire) -> Seen:
    """Cancel the promise while somebody reads it; then nothing more is read, or asked."""
    promise = await only(ask())
    reading = asyncio.create_task(read(promise))
    await asyncio.sleep(EARLY)
    promise.cancel()
    await nothing_goes_on(wire)
    seen = await reading
    assert await read(promise) == seen
    return seen


async def two_readers(ask: Ask, wire: Wire) -> Seen:
    """Two read at the same time, and one of them is cancelled; a third one comes when all is over."""
    promise = await only(ask())
    first, second = asyncio.create_task(read(promise)), asyncio.create_task(read(promise))
    await asyncio.sleep(EARLY)
    second.cancel()
    seen = await first
    assert await read(promise) == seen
    return seen


async def never_reads(ask: Ask, wire: Wire) -> Seen:
    """Keep the promise without a look at it, until the context is left: that raises what has failed, once."""
    try:
        async with MiniAgents():
            unread = ask()
    except ExceptionGroup as group:
        (error,) = group.exceptions
        return Seen(error=error)
    return await awaits(lambda: unread, wire)


async def drops(ask: Ask, wire: Wire) -> Seen:
    """Do not even keep the promise; then nothing is read."""
    ask()
    await nothing_goes_on(wire)
    assert wire.read == 0
    return Seen()


CONSUMERS: dict[str, Callable[[Ask, Wire], Awaitable[Seen]]] = {
    "await": awaits,
    "stream": streams,
    "break": breaks,
    "cancel": cancels,
    "two readers": two_readers,
    "never read": never_reads,
    "drop": drops,
}


async def only(sequence: MessageSequencePromise) -> MessagePromise:
    """The one message of a sequence."""
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


async def nothing_goes_on(wire: Wire) -> None:
    """Responses are closed within two steps of the loop, and in a minute nothing is read or asked."""
    for _ in range(2):
        await asyncio.sleep(0)
    assert wire.open == 0, "a response was not closed at once"
    before = wire.read, wire.requests
    await asyncio.sleep(60)
    assert (wire.read, wire.requests) == before, "it went on"


class Kit:
    """What the tests make their answers of."""

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
    """A watched wire, and what people do with an answer."""
    return Kit()
