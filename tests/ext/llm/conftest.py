"""Scripted HTTP transport for the real clients of the SDKs, without sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

HANG = object()
"""Step of a script after which nothing is sent."""

API_KEY = "sk-canary-0123456789abcdef"


@dataclass
class Reply:
    """Response of a script: chunks, seconds to wait, exceptions to raise, or `HANG` to send nothing for ever."""

    script: Iterable[Any] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream; charset=utf-8"})

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        """Return a response with one JSON document."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls([json.dumps(value).encode()], status, {"content-type": "application/json", **named})


class _Body(httpx2.AsyncByteStream):
    """Body of a response, which plays the steps of a script."""

    def __init__(self, script: Iterable[Any], wire: Wire, silence: float | None) -> None:
        self.script = script
        self.wire = wire
        self.silence = silence
        self.served = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self.script:
            if step is HANG or isinstance(step, int | float):
                await self.wait(step)
            elif isinstance(step, BaseException):
                raise step
            else:
                self.served += 1
                yield step

    async def wait(self, seconds: Any) -> None:
        """Send nothing for some seconds; a long silence raises the read timeout, as in httpx2's transport."""
        try:
            async with asyncio.timeout(self.silence):
                await (asyncio.Event().wait() if seconds is HANG else asyncio.sleep(seconds))
        except TimeoutError as error:
            raise httpx2.ReadTimeout("") from error

    async def aclose(self) -> None:
        if not self.closed:
            self.wire.in_flight -= 1
        self.closed = True


class Wire(httpx2.AsyncBaseTransport):
    """Transport that plays replies in turn, repeats the last one, and keeps the requests."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[httpx2.Request] = []
        self.responses: list[_Body] = []
        self.in_flight = self.most_in_flight = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Keep the request, and play the next reply."""
        self.requests.append(request)
        reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        body = _Body(reply.script, self, request.extensions.get("timeout", {}).get("read"))
        self.responses.append(body)
        return httpx2.Response(reply.status, headers=reply.headers, stream=body, request=request)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Return the JSON values that were sent."""
        return [json.loads(request.content) for request in self.requests]

    def openai(self, **options: Any) -> AsyncOpenAI:
        """Return OpenAI's client on this transport."""
        import openai

        return openai.AsyncOpenAI(**{"api_key": API_KEY, "http_client": self._http(), **options})

    def azure(self) -> AsyncOpenAI:
        """Return Azure's client on this transport."""
        import openai

        return openai.AsyncAzureOpenAI(
            api_key=API_KEY,
            http_client=self._http(),
            api_version="2024-10-21",
            azure_endpoint="https://example.openai.azure.com",
        )

    def anthropic(self, **options: Any) -> AsyncAnthropic:
        """Return Anthropic's client on this transport."""
        import anthropic

        return anthropic.AsyncAnthropic(**{"api_key": API_KEY, "http_client": self._http(), **options})

    def _http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=self, trust_env=False)


def events(*data: dict[str, Any] | str) -> list[bytes]:
    """Return server-sent events, one in each chunk; an event with a `type` has it as its name."""
    chunks = []
    for item in data:
        name = f"event: {item['type']}\n" if isinstance(item, dict) and "type" in item else ""
        text = item if isinstance(item, str) else json.dumps(item)
        chunks.append(f"{name}data: {text}\n\n".encode())
    return chunks


def chat_chunk(content: str | None = None, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return a chunk of a chat completion."""
    if content is not None:
        delta["content"] = content
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [choice]}


def chat(*texts: str, finish_reason: str = "stop") -> list[bytes]:
    """Return the chunks of a whole chat completion."""
    return events(*map(chat_chunk, texts), chat_chunk(finish_reason=finish_reason), "[DONE]")


def message(*texts: str, stop_reason: str | None = "end_turn") -> list[bytes]:
    """Return the chunks of a whole message of Anthropic's API."""
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c-1", "content": []}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts
    ]
    return events(
        {"type": "message_start", "message": {**start, "usage": {"input_tokens": 5, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    )


@contextlib.asynccontextmanager
async def served(*scripts: Iterable[Any], headers: bytes = b"") -> AsyncIterator[str]:
    """Run a local server that answers requests with these scripts in turn, and give its address.

    Args:
        scripts: what the server sends and waits for in each answer.
        headers: lines of further headers of each answer, each with its line end.
    """
    answers = iter(scripts)
    answering: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line[15:] for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        await reader.readexactly(int(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n" + headers + b"\r\n")
        with contextlib.suppress(ConnectionError):
            for step in next(answers):
                if step is HANG:
                    await reader.read()
                elif isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await asyncio.sleep(step)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*answering)


class Kit:
    """Scripted transport and the functions that make its scripts."""

    HANG: Any = HANG
    KEY = API_KEY
    Reply = Reply
    Wire = Wire
    served = staticmethod(served)
    events = staticmethod(events)
    chat = staticmethod(chat)
    chat_chunk = staticmethod(chat_chunk)
    message = staticmethod(message)


@pytest.fixture
def kit() -> Kit:
    """Return the scripted transport and its parts."""
    return Kit()
