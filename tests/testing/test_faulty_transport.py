"""`FaultyTransport` and `inject`: faults reach real clients, sync and async, for the chosen requests only."""

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
    """Body that streams, and counts the chunks that were read."""

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
    """Mock transport that keeps the bodies of its responses."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks) or EVENTS
        self.bodies: list[Source] = []
        self.transport = httpx2.MockTransport(self.answer)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(Source(self.chunks))
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=self.bodies[-1])


async def read(transport: httpx2.AsyncBaseTransport) -> bytes:
    """Read one response with an async client."""
    async with httpx2.AsyncClient(transport=transport).stream("POST", URL) as response:
        return b"".join([chunk async for chunk in response.aiter_raw()])


def read_sync(transport: httpx2.BaseTransport) -> bytes:
    """Read one response with a sync client."""
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
def test_faulty_transport_changes_a_live_stream_like_a_recorded_one(chosen: list[Fault], chunks: list[bytes]) -> None:
    """Through a `FaultyTransport`, clients get the body that `laid_over` returns for the complete stream."""
    expected = laid_over(ResponseStream(tuple(Chunk(0, chunk) for chunk in chunks)), *chosen).body
    provider = Provider()
    provider.chunks = chunks
    transport = FaultyTransport(provider.transport, *(fault.on(faults.every_request) for fault in chosen))
    assert asyncio.run(read(transport)) == expected
    assert read_sync(transport) == expected


async def test_faulty_transport_returns_responses_without_faults_unchanged() -> None:
    """A response without a fault has the body object of the inner transport, not a copy."""
    provider = Provider()
    transport = FaultyTransport(provider.transport, faults.cut(after=1).on(2))
    response = await transport.handle_async_request(httpx2.Request("POST", URL))
    assert response.stream is provider.bodies[0]


async def test_faulty_transport_reads_no_chunk_ahead_and_closes_the_body() -> None:
    """With a `cut`, a transport reads chunks only as the client asks, and closes the original body at the cut."""
    provider = Provider()
    with inject(provider.transport, faults.cut(after=3)) as transport:
        async with httpx2.AsyncClient(transport=transport).stream("POST", URL) as response:
            chunks = aiter(response.aiter_raw())
            for number in (1, 2, 3):
                assert await anext(chunks) == EVENTS[number - 1]
                assert provider.bodies[0].read == number
            assert await anext(chunks, None) is None
    assert (provider.bodies[0].read, provider.bodies[0].closed) == (3, True)


async def test_on_selects_requests_by_number_or_function() -> None:
    """A fault applies to the first request; with `on`, to requests with given numbers or that functions select."""

    def is_third(request: httpx2.Request) -> bool:
        return request.content == b"third"

    chosen = [faults.cut(after=1), faults.cut(after=2).on(2, 4), faults.cut(after=3).on(is_third, 6)]
    with inject(Provider().transport, *chosen) as transport:
        async with httpx2.AsyncClient(transport=transport) as client:
            bodies = [(await client.post(URL, content=text)).content for text in ("x", "x", "third", "x", "x", "x")]
    assert [body.count(b"data") for body in bodies] == [1, 2, 3, 2, 5, 3]


async def test_inject_raises_an_error_with_the_reason_for_each_unused_fault() -> None:
    """`inject` raises an error that says of each unused fault: too little was read, or no such request came."""
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


def test_inject_raises_the_error_of_the_block_before_that_of_unused_faults() -> None:
    """When the block of `inject` raises an error, that error comes out, not one about unused faults."""
    with pytest.raises(KeyError), inject(Provider().transport, faults.cut(after=1)):
        raise KeyError


def test_faulty_transport_refuses_arguments_that_are_no_faults() -> None:
    """`FaultyTransport` raises a `TypeError` for a fault function that was not called."""
    with pytest.raises(TypeError, match=r"call the function that makes one, such as faults.cut\(after=3\)"):
        FaultyTransport(Provider().transport, faults.empty)  # type: ignore[arg-type]  # the mistake


async def test_faulty_transport_refuses_a_transport_of_the_other_kind() -> None:
    """A sync client on an async transport raises a `TypeError`, and the other way round."""
    with pytest.raises(TypeError, match="serves sync clients only"):
        await read(FaultyTransport(httpx2.BaseTransport()))
    with pytest.raises(TypeError, match="serves async clients only"):
        read_sync(FaultyTransport(httpx2.AsyncBaseTransport()))


# --- on the real SDKs


def openai_agent(transport: httpx2.AsyncBaseTransport, **options: Any) -> Any:
    """Return an agent on OpenAI's client."""
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
async def test_agent_raises_the_typed_error_of_a_fault_with_the_partial_message(
    fault: Fault, error: type[LLMError], partial: str
) -> None:
    """On OpenAI's client, each fault raises an error of its own class, with the text before the fault in `partial`."""
    stall_timeout = 0.05 if error is StreamStalledError else None
    with inject(ScriptedLLM("one two three").transport(), fault) as transport:
        async with MiniAgents():
            with pytest.raises(error) as caught:
                await openai_agent(transport, stall_timeout=stall_timeout).trigger("Hi")
    assert type(caught.value) is error
    assert str(caught.value.partial.content or "") == partial


async def test_anthropic_agent_raises_the_same_errors_for_faults() -> None:
    """On Anthropic's client, the faults `overloaded` and `rate_limit` raise the errors that they raise on OpenAI's."""
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
    """Return a cassette with one answer."""
    request = {"messages": [{"role": "user", "content": "Hi"}], "model": "m", "stream": True}
    uri, body = "https://api.openai.com/v1/chat/completions", json.dumps(request).encode()
    return ReplayTransport([Interaction("POST", uri, body, ScriptedLLM(text).respond("chat", request))])


async def test_fault_with_its_own_response_leaves_the_recorded_answer_unplayed() -> None:
    """A fault that answers a request by itself leaves the recorded answer in the cassette for the retry."""
    cassette = recorded("Hello.")
    with inject(cassette, faults.rate_limit(retry_after=0), faults.overloaded().on(2)) as transport:
        async with MiniAgents():
            (message,) = await openai_agent(transport, retry=Retry(first_wait=0)).trigger("Hi")
    assert message.content == "Hello."
    cassette.assert_complete()


async def test_fault_within_a_stream_counts_as_playing_the_recorded_answer() -> None:
    """A recorded answer that a fault breaks counts as played."""
    cassette = recorded("Hello.")
    with pytest.raises(UnplayedError):
        cassette.assert_complete()
    with inject(cassette, faults.reset(after=1)) as transport:
        async with MiniAgents():
            with pytest.raises(StreamBrokenError):
                await openai_agent(transport).trigger("Hi")
    cassette.assert_complete()


def test_sync_sdk_client_gets_the_same_faults() -> None:
    """A sync client of OpenAI's SDK gets the tokens before a reset, and then an error."""
    with inject(ScriptedLLM("one two").transport(), faults.reset(after=2)) as transport:
        client = openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=transport), max_retries=0)
        texts = []
        with pytest.raises((openai.APIConnectionError, httpx2.ReadError)):
            for chunk in client.chat.completions.create(model="m", messages=[], stream=True):
                texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "one"]


# --- with cassettes and in virtual time


def test_cassette_takes_faults_and_cuts_as_chunking(root: Path) -> None:
    """`use_cassette(chunking=...)` takes a recut, which keeps the tokens as recorded, or a fault, which breaks them."""
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


def test_stall_waits_in_virtual_time() -> None:
    """In virtual time a stall takes virtual seconds; one above the agent's `stall_timeout` raises its error."""

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
def test_cancelled_reader_takes_no_token_from_another_one(seed: int, steps: int) -> None:
    """A reader that is cancelled at any step, under any schedule, takes nothing from another reader."""

    async def answer() -> str:
        async with MiniAgents():
            promise = await anext(aiter(ScriptedLLM(["one two three"]).agent().trigger("Hi")))
            reader = asyncio.ensure_future(anext(aiter(promise)))
            for _ in range(steps):
                await asyncio.sleep(0)
            reader.cancel()
            return str(await promise)

    assert run_in_virtual_time(answer(), seed=seed) == "one two three"
