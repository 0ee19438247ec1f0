"""Faults over transports: on the way to real clients, sync and async, and only where they are wanted."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents import MiniAgents
from miniagents.errors import (
    ConnectionFailedError,
    LLMError,
    ProviderOverloadedError,
    StreamBrokenError,
    StreamProtocolError,
    StreamStalledError,
    StreamTruncatedError,
)
from miniagents.ext.llm._failures import Retry
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ScriptedLLM, faults, recut, run_in_virtual_time, strategies, use_cassette
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.cassette import Interaction, ReplayTransport, load
from miniagents_testing.errors import UnplayedError, UnusedFaultError
from miniagents_testing.faults import Fault, FaultyTransport, inject, laid_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

EVENTS = [f"data: {number}\n\n".encode() for number in range(1, 6)]
URL = "https://example.org/"


class Source(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A body that streams, and knows what was read of it."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.read = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.read += 1
            yield chunk

    async def aclose(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True


class Provider:
    """A mock transport that counts what it was asked, and keeps the bodies it gave."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks) or EVENTS
        self.bodies: list[Source] = []
        self.transport = httpx2.MockTransport(self.answer)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(Source(self.chunks))
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=self.bodies[-1])


async def read(transport: httpx2.AsyncBaseTransport) -> bytes:
    """What an async client reads of one response."""
    async with httpx2.AsyncClient(transport=transport).stream("POST", URL) as response:
        return b"".join([chunk async for chunk in response.aiter_raw()])


def read_sync(transport: httpx2.BaseTransport) -> bytes:
    """What a sync client reads of one response."""
    with httpx2.Client(transport=transport).stream("POST", URL) as response:
        return b"".join(response.iter_raw())


CHANGES = [
    faults.cut(after=2),
    faults.cut(after=0, of="bytes"),
    faults.duplicate(at=5),
    faults.drop_last_event(),
    faults.malformed(at=1),
    faults.gzipped(missing=3),
    faults.edit(bytes.upper, at=7, of="bytes"),
    faults.overloaded(at=4),
    faults.html_page(),
    faults.stall(0.001, after=3),
]


@given(st.lists(st.sampled_from(CHANGES), max_size=3), st.lists(st.sampled_from(EVENTS), max_size=6))
def test_a_live_stream_is_changed_as_a_recorded_one(chosen: list[Fault], chunks: list[bytes]) -> None:
    """Through sync and async clients the body is that of the faults laid over the whole stream."""
    expected = laid_over(ResponseStream(tuple(Chunk(0, chunk) for chunk in chunks)), *chosen).body
    provider = Provider()
    provider.chunks = chunks
    transport = FaultyTransport(provider.transport, *(fault.on(faults.every_request) for fault in chosen))
    assert asyncio.run(read(transport)) == expected
    assert read_sync(transport) == expected


async def test_a_stream_without_a_fault_is_the_one_below() -> None:
    """The very response, not a copy."""
    provider = Provider()
    transport = FaultyTransport(provider.transport, faults.cut(after=1).on(2))
    response = await transport.handle_async_request(httpx2.Request("POST", URL))
    assert response.stream is provider.bodies[0]


async def test_chunks_pass_when_they_come_and_the_body_below_is_closed() -> None:
    """Nothing is read ahead of the client, and nothing after the place where the stream ends."""
    provider = Provider()
    with inject(provider.transport, faults.cut(after=3)) as transport:
        async with httpx2.AsyncClient(transport=transport).stream("POST", URL) as response:
            chunks = aiter(response.aiter_raw())
            for number in (1, 2, 3):
                assert await anext(chunks) == EVENTS[number - 1]
                assert provider.bodies[0].read == number
            assert await anext(chunks, None) is None
    assert (provider.bodies[0].read, provider.bodies[0].closed) == (3, True)


async def test_faults_choose_their_requests_by_number_or_by_what_is_asked() -> None:
    """By default the first; several numbers and functions together mean any of them."""

    def is_third(request: httpx2.Request) -> bool:
        return request.content == b"third"

    chosen = [faults.cut(after=1), faults.cut(after=2).on(2, 4), faults.cut(after=3).on(is_third, 6)]
    with inject(Provider().transport, *chosen) as transport:
        async with httpx2.AsyncClient(transport=transport) as client:
            bodies = [(await client.post(URL, content=text)).content for text in ("x", "x", "third", "x", "x", "x")]
    assert [body.count(b"data") for body in bodies] == [1, 2, 3, 2, 5, 3]


async def test_a_fault_that_changed_nothing_is_an_error_that_says_why() -> None:
    """The stream was too short, it was left early, or the request was never made."""
    with pytest.raises(UnusedFaultError) as caught:
        with inject(
            Provider().transport,
            faults.cut(after=9),
            faults.malformed(at=4).on(2),
            faults.reset(after=1).on(3),
            faults.duplicate(at=1),
            faults.drop_last_event().on(2),
        ) as transport:
            await read(transport)
            async with httpx2.AsyncClient(transport=transport).stream("POST", URL) as response:
                await anext(response.aiter_raw())
    assert str(caught.value).split("\n") == [
        "cut after event 9 changed nothing: it was for request 1, and only 5 events of its stream were read",
        "malformed at event 4 changed nothing: it was for request 2, and only 2 events of its stream were read",
        "reset after event 1 changed nothing: it was for none of the 2 requests",
        "drop of the last event changed nothing: it was for request 2, and its stream was not read to its end",
    ]


def test_an_error_of_the_test_itself_is_not_hidden_by_unused_faults() -> None:
    """Whatever failed first is what is shown."""
    with pytest.raises(KeyError), inject(Provider().transport, faults.cut(after=1)):
        raise KeyError


def test_what_is_no_fault_is_refused() -> None:
    """A forgotten call is the usual mistake."""
    with pytest.raises(TypeError, match=r"call what makes one, such as faults.cut\(after=3\)"):
        FaultyTransport(Provider().transport, faults.empty)  # type: ignore[arg-type]  # the mistake


async def test_a_transport_for_other_clients_is_told_apart() -> None:
    """Sync clients need a sync transport, async ones an async one."""
    with pytest.raises(TypeError, match="serves sync clients only"):
        await read(FaultyTransport(httpx2.BaseTransport()))
    with pytest.raises(TypeError, match="serves async clients only"):
        read_sync(FaultyTransport(httpx2.AsyncBaseTransport()))


# --- on the real SDKs


def openai_agent(transport: httpx2.AsyncBaseTransport, **options: Any) -> Any:
    """An agent on OpenAI's client."""
    client = openai.AsyncOpenAI(api_key="k", http_client=httpx2.AsyncClient(transport=transport))
    return create_openai_agent("m", async_client=client, **{"retry": None, **options})


@pytest.mark.parametrize(
    ("fault", "error", "partial"),
    [
        (faults.cut(after=3), StreamTruncatedError, "one two"),
        (faults.reset(after=2), StreamBrokenError, "one"),
        (faults.stall(after=3), StreamStalledError, "one two"),
        (faults.malformed(at=3), StreamProtocolError, "one"),
        (faults.overloaded(at=3), ProviderOverloadedError, "one"),
        (faults.overloaded(), ProviderOverloadedError, ""),
        (faults.html_page(), StreamProtocolError, ""),
        (faults.gzipped(missing=8), StreamTruncatedError, "one two three"),
        (faults.refuse(), ConnectionFailedError, ""),
    ],
    ids=str,
)
async def test_an_agent_gives_the_error_of_the_fault_and_what_had_come(
    fault: Fault, error: type[LLMError], partial: str
) -> None:
    """On the real client: the class says what happened, the message has the text before it."""
    stall_timeout = 0.05 if error is StreamStalledError else None
    with inject(ScriptedLLM("one two three").transport(), fault) as transport:
        async with MiniAgents():
            with pytest.raises(error) as caught:
                await openai_agent(transport, stall_timeout=stall_timeout).trigger("Hi")
    assert type(caught.value) is error
    assert str(caught.value.partial.content or "") == partial


async def test_an_anthropic_agent_understands_the_same_faults() -> None:
    """One form of errors for all providers."""
    script = ScriptedLLM("one two three").transport()
    with inject(script, faults.overloaded(at=6), faults.rate_limit().on(2)) as transport:
        client = anthropic.AsyncAnthropic(api_key="k", http_client=httpx2.AsyncClient(transport=transport))
        agent = create_anthropic_agent("m", async_client=client, retry=None)
        async with MiniAgents():
            with pytest.raises(ProviderOverloadedError) as caught:
                await agent.trigger("Hi")
            with pytest.raises(LLMError, match="429"):
                await agent.trigger("Hi")
    assert caught.value.partial.content == "one two"


def recorded(text: str) -> ReplayTransport:
    """A cassette with one answer."""
    request = {"messages": [{"role": "user", "content": "Hi"}], "model": "m", "stream": True}
    uri, body = "https://api.openai.com/v1/chat/completions", json.dumps(request).encode()
    return ReplayTransport([Interaction("POST", uri, body, ScriptedLLM(text).respond("chat", request))])


async def test_a_recorded_answer_is_still_there_after_a_refusal() -> None:
    """The cassette is not asked for a response that a fault gives, and stays as it is."""
    cassette = recorded("Hello.")
    with inject(cassette, faults.rate_limit(retry_after=0), faults.overloaded().on(2)) as transport:
        async with MiniAgents():
            (message,) = await openai_agent(transport, retry=Retry(first_wait=0)).trigger("Hi")
    assert message.content == "Hello."
    cassette.assert_complete()


async def test_a_recorded_answer_that_breaks_has_been_played() -> None:
    """A fault inside a stream takes the recording with it."""
    cassette = recorded("Hello.")
    with pytest.raises(UnplayedError):
        cassette.assert_complete()
    with inject(cassette, faults.reset(after=1)) as transport:
        async with MiniAgents():
            with pytest.raises(StreamBrokenError):
                await openai_agent(transport).trigger("Hi")
    cassette.assert_complete()


def test_the_sync_clients_of_the_sdks_meet_the_same_faults() -> None:
    """The transport serves both."""
    with inject(ScriptedLLM("one two").transport(), faults.reset(after=2)) as transport:
        client = openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=transport), max_retries=0)
        texts = []
        with pytest.raises((openai.APIConnectionError, httpx2.ReadError)):
            for chunk in client.chat.completions.create(model="m", messages=[], stream=True):
                texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "one"]


# --- with cassettes and in virtual time


def test_faults_and_cuts_are_ways_to_play_a_cassette(root: Path) -> None:
    """Each is a function from a stream to a stream, which is what `chunking` takes."""
    path = root / "cassettes/openai/conversation.yaml"
    request = json.loads(load(path)[0].request_body)

    async def tokens(chunking: Any) -> list[str]:
        with use_cassette(path, chunking=chunking, unplayed="ignore"):
            async with MiniAgents():
                agent = create_openai_agent(request["model"], async_client=openai.AsyncOpenAI(api_key="k"), retry=None)
                async for promise in agent.trigger(request["messages"]):
                    return [token async for token in promise]
        raise AssertionError("no reply")

    recorded = asyncio.run(tokens("recorded"))
    assert asyncio.run(tokens(recut.byte_by_byte)) == asyncio.run(tokens(recut.all_at_once)) == recorded
    with pytest.raises(StreamTruncatedError):
        asyncio.run(tokens(faults.cut(after=3)))


def test_a_stall_of_half_an_hour_takes_no_time() -> None:
    """Stalls wait by the clock of the loop; what is stalled longer than the agent allows is given up."""

    async def answer(stall: float) -> tuple[str, float]:
        with inject(ScriptedLLM("one two").transport(), faults.stall(stall, after=2)) as transport:
            async with MiniAgents():
                (message,) = await openai_agent(transport, stall_timeout=3_600).trigger("Hi")
        return str(message), asyncio.get_running_loop().time()

    assert run_in_virtual_time(answer(500)) == ("one two", 500)
    with pytest.raises(StreamStalledError):
        run_in_virtual_time(answer(7_200))


@given(strategies.schedule_seeds(), strategies.cancellation_points(max_steps=30))
@settings(max_examples=20)
def test_schedules_and_cancellations_change_no_answer(seed: int, steps: int) -> None:
    """A reader that is cancelled anywhere, in any order of events, takes nothing from another one."""

    async def answer() -> str:
        async with MiniAgents():
            promise = await anext(aiter(ScriptedLLM(["one two three"]).agent().trigger("Hi")))
            reader = asyncio.ensure_future(anext(aiter(promise)))
            for _ in range(steps):
                await asyncio.sleep(0)
            reader.cancel()
            return str(await promise)

    assert run_in_virtual_time(answer(), seed=seed) == "one two three"
