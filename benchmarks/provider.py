"""Streams of the providers over a transport that uses no network, and SDKs that read them, without any framework."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.measure import Side

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
