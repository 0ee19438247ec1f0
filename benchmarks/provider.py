"""Answers of providers, and the SDKs that read them without any framework.

The answers come over a transport that uses no network, or from a provider on a socket. `unpaced`, `over_a_socket` and
`first_token` compare a framework with the SDK; they serve MiniAgents and the peers alike.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from benchmarks.served import provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from benchmarks.measure import Plan, Side, Table

    Reading = Callable[[Any, int], Side]
    """Function that returns a side which reads an answer of a client, and checks the number of its words."""
    Answer = Callable[[], AsyncIterator[object]]
    """Function that asks for an answer, and yields an item for each of its tokens."""

BY_SDK = "SDK create(stream=True)"
"""Name of the base of answers."""
TURN: Any = {"role": "user", "content": "Tell me something"}


class Body(httpx2.AsyncByteStream):
    """Body of a response that yields chunks as a socket would."""

    def __init__(self, chunks: list[bytes], paced: bool) -> None:
        self.chunks = chunks
        self.paced = paced

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            if self.paced:
                await asyncio.sleep(0)
            yield chunk


def http_client(chunks: list[bytes], *, paced: bool = False) -> httpx2.AsyncClient:
    """Return a client that gets these chunks; when paced, the loop runs one step before each."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body(chunks, paced))

    return httpx2.AsyncClient(transport=httpx2.MockTransport(respond))


def openai_chunks(count: int) -> list[bytes]:
    """Return a chat completion of `count` words as the API streams it."""
    common = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "system_fingerprint": "fp",
    }

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return f"data: {json.dumps({**common, 'choices': [choice]})}\n\n".encode()

    first, last = chunk({"role": "assistant", "content": ""}), chunk({}, "stop")
    return [first, *[chunk({"content": f" word{n}"}) for n in range(count)], last, b"data: [DONE]\n\n"]


def anthropic_chunks(count: int) -> list[bytes]:
    """Return an Anthropic message of `count` words as the API streams it."""

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    message: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    deltas = [
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": f" word{n}"}) for n in range(count)
    ]
    return [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *deltas,
        event("content_block_stop", index=0),
        event(
            "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": count}
        ),
        event("message_stop"),
    ]


def openai_client(count: int) -> AsyncOpenAI:
    """Return a client whose every answer has `count` words."""
    return AsyncOpenAI(api_key="none", http_client=http_client(openai_chunks(count)))


def anthropic_client(count: int) -> AsyncAnthropic:
    """Return a client whose every answer has `count` words."""
    return AsyncAnthropic(api_key="none", http_client=http_client(anthropic_chunks(count)))


async def said_by_openai(client: AsyncOpenAI) -> AsyncIterator[str]:
    """Ask for an answer with the SDK, and yield its texts."""
    async for chunk in await client.chat.completions.create(model="gpt-4o", messages=[TURN], stream=True):
        if text := chunk.choices[0].delta.content:
            yield text


async def said_by_anthropic(client: AsyncAnthropic) -> AsyncIterator[object]:
    """Ask for an answer with the SDK, and yield its deltas."""
    async for event in await client.messages.create(model="claude", max_tokens=9, messages=[TURN], stream=True):
        if event.type == "content_block_delta":
            yield event.delta


def raw_openai(client: AsyncOpenAI, words: int) -> Side:
    """Return a side that reads an answer with the SDK, and checks the number of words."""

    async def side() -> None:
        stream = await client.chat.completions.create(model="gpt-4o", messages=[TURN], stream=True)
        assert sum([bool(chunk.choices[0].delta.content) async for chunk in stream]) == words

    return side


def raw_anthropic(client: AsyncAnthropic, words: int) -> Side:
    """Return a side that reads an answer with the SDK, and checks the number of words."""

    async def side() -> None:
        stream = await client.messages.create(model="claude", max_tokens=9, messages=[TURN], stream=True)
        deltas = [event async for event in stream if event.type == "content_block_delta"]
        assert len(deltas) == words

    return side


def bytes_only(client: httpx2.AsyncClient, url: str = "http://provider/", request: Any = None) -> Side:
    """Return a side that reads the same chunks with the HTTP library alone."""

    async def side() -> None:
        async with client.stream("POST", url, json=request) as response:
            async for _ in response.aiter_raw():
                pass

    return side


@dataclass(frozen=True)
class API:
    """API of a provider, with its SDK."""

    name: str
    mocked: Callable[[int], Any]
    """Return a client whose every answer has that many words, without a network."""
    connect: Callable[[str], Any]
    """Return a client of the provider with that URL."""
    raw: Reading
    said: Callable[[Any], AsyncIterator[object]]
    """Ask for an answer with the SDK, and yield an item for each of its tokens."""


OPENAI = API(
    "OpenAI",
    openai_client,
    lambda url: AsyncOpenAI(api_key="none", base_url=f"{url}/v1"),
    raw_openai,
    said_by_openai,
)
ANTHROPIC = API(
    "Anthropic",
    anthropic_client,
    lambda url: AsyncAnthropic(api_key="none", base_url=url),
    raw_anthropic,
    said_by_anthropic,
)


def many(side: Side, count: int) -> Side:
    """Return a side that reads so many answers at once."""

    async def sides() -> None:
        await asyncio.gather(*[side() for _ in range(count)])

    return sides


async def unpaced(
    table: Table, plan: Plan, api: API, ours: Reading, count: int, *, name: str = "", goal: float | None = None
) -> None:
    """Compare reading an answer of `count` chunks whose bytes are all there with the SDK.

    A round reads many answers: garbage is collected before it, which empties the caches of the processor, and that
    would be a sixth of the cost of 15 short answers.
    """
    words, repeat = plan.sized(count), min(300, 3_000 // count)
    async with api.mocked(words) as client:
        row: dict[str, Any] = {"units": 1, "unit": "us an answer", "base_name": BY_SDK, "repeat": repeat}
        await table.compare(name, api.raw(client, words), ours(client, words), plan, goal=goal, **row)


async def over_a_socket(
    table: Table,
    plan: Plan,
    api: API,
    ours: Reading,
    count: int,
    gap: float,
    at_once: int = 1,
    *,
    name: str = "",
    goal: float | None = None,
) -> None:
    """Compare reading `at_once` answers of `count` chunks over a socket, `gap` seconds apart, with the SDK."""
    words, number = plan.sized(count), plan.sized(at_once)
    with provider(words, gap=gap) as url:
        async with api.connect(url) as theirs, api.connect(url) as client:  # each opens connections of its own
            sides = many(api.raw(theirs, words), number), many(ours(client, words), number)
            row: dict[str, Any] = {"units": number, "unit": "us an answer", "base_name": BY_SDK}
            await table.compare(name, *sides, plan, goal=goal, **row)


async def first_token(
    table: Table,
    plan: Plan,
    api: API,
    ours: Callable[[Any], Answer],
    *,
    name: str = "",
    goal: float | None = None,
) -> None:
    """Compare the time on the clock until the first token of an answer over a socket with the SDK."""
    with provider(1) as url:
        async with api.connect(url) as client:
            times: tuple[list[float], list[float]] = ([], [])
            sides = (lambda: api.said(client)), ours(client)
            began = time.perf_counter()
            for number in range(plan.sized(300)):
                taken = [await _milliseconds(answer) for answer in sides]
                if number and time.perf_counter() - began > plan.seconds:
                    break
                if number:  # the first ones fill caches and connect
                    for side, took in zip(times, taken, strict=True):
                        side.append(took)
    table.add(name, "ms on the clock", *times, base_name=BY_SDK, goal=goal)


async def _milliseconds(answer: Answer) -> float:
    """Return the milliseconds until the first token of an answer, and read the answer to its end."""
    began, came = time.perf_counter(), 0.0
    async for _ in answer():
        came = came or time.perf_counter()
    return (came - began) * 1000
