"""Fake networks under real HTTP clients, which send replies chunk for chunk, and transports that note the chunks."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from loopback_server import Server

from miniagents_testing.cassette import use_cassette

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from http_clients import Client

    from miniagents_testing.cassette import CassetteContext

KEY = "sk-this-is-a-secret-key"
URL = "https://api.openai.com/v1/chat/completions"
HANG = object()
"""Step of a reply after which no byte comes."""


@dataclass
class Reply:
    """A response: a script of chunks, seconds to wait, names of exceptions of the library to raise, and `HANG`."""

    script: Iterable[Any] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream; charset=utf-8"})
    closed: bool = False
    sent: int = 0


@cache
def transports(library: str) -> tuple[Any, Any]:
    """Return two transport classes of an HTTP library, sync and async: a fake network, and one that notes chunks."""
    module: Any = import_module(library)

    class Body(module.AsyncByteStream, module.SyncByteStream):  # type: ignore[misc]
        def __init__(self, reply: Reply) -> None:
            self.reply = reply

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for step in self.reply.script:
                if step is HANG:
                    await asyncio.get_running_loop().create_future()
                elif isinstance(step, bytes):
                    self.reply.sent += 1
                    yield step
                elif isinstance(step, str):
                    raise getattr(module, step)("it broke")
                else:
                    await asyncio.sleep(step)

        def __iter__(self) -> Iterator[bytes]:
            for step in self.reply.script:
                if isinstance(step, bytes):
                    self.reply.sent += 1
                    yield step
                elif isinstance(step, str):
                    raise getattr(module, step)("it broke")
                else:
                    time.sleep(step)

        async def aclose(self) -> None:
            self.reply.closed = True

        def close(self) -> None:
            self.reply.closed = True

    class Network(module.AsyncBaseTransport, module.BaseTransport):  # type: ignore[misc]
        """Transport that answers with its replies in turn."""

        def __init__(self, *replies: Reply | str) -> None:
            self.replies = list(replies)
            self.requests: list[Any] = []

        async def handle_async_request(self, request: Any) -> Any:
            await request.aread()
            return self._respond(request)

        def handle_request(self, request: Any) -> Any:
            request.read()
            return self._respond(request)

        def _respond(self, request: Any) -> Any:
            self.requests.append(request)
            reply = self.replies[len(self.requests) - 1]
            if isinstance(reply, str):
                raise getattr(module, reply)("it broke")
            return module.Response(reply.status, headers=reply.headers, stream=Body(reply))

    class Noting:
        def __init__(self, stream: Any, chunks: list[bytes]) -> None:
            self.stream = stream
            self.chunks = chunks

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self.stream:
                self.chunks.append(chunk)
                yield chunk

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self.stream:
                self.chunks.append(chunk)
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

        def close(self) -> None:
            self.stream.close()

    noting = type("NotingStream", (Noting, module.AsyncByteStream, module.SyncByteStream), {})

    class Tap(module.AsyncBaseTransport, module.BaseTransport):  # type: ignore[misc]
        """Transport that notes the chunks of each response on their way to the client."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.bodies: list[list[bytes]] = []

        async def handle_async_request(self, request: Any) -> Any:
            return self._noted(await self.inner.handle_async_request(request))

        def handle_request(self, request: Any) -> Any:
            return self._noted(self.inner.handle_request(request))

        def _noted(self, response: Any) -> Any:
            """Return the response with a body that notes its chunks in `bodies`."""
            self.bodies.append([])
            response.stream = noting(response.stream, self.bodies[-1])
            return response

    return Network, Tap


def events(*data: dict[str, Any] | str) -> list[bytes]:
    """Return each item as a server-sent event in a chunk of its own; the `type` of a dict is also the event's name."""
    chunks = []
    for item in data:
        name = f"event: {item['type']}\n" if isinstance(item, dict) and "type" in item else ""
        text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
        chunks.append(f"{name}data: {text}\n\n".encode())
    return chunks


def chat(*deltas: dict[str, Any] | str, finish_reason: str = "stop") -> list[bytes]:
    """Return the chunks of a streamed chat completion."""

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [choice]}

    said = [{"content": delta} if isinstance(delta, str) else delta for delta in deltas]
    return events(*map(chunk, said), chunk({}, finish_reason), "[DONE]")


def message(block: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    """Return the chunks of a streamed message of Anthropic's with one block."""
    head: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "c-1",
        "content": [],
        "stop_reason": None,
    }
    return events(
        {"type": "message_start", "message": {**head, "usage": {"input_tokens": 5, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    )


def response(item: dict[str, Any], kind: str, *deltas: str) -> list[bytes]:
    """Return the chunks of a streamed answer of OpenAI's Responses API: one output item, and deltas of type `kind`."""
    head = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m-1",
        "output": [],
        "status": "in_progress",
    }
    steps: list[dict[str, Any]] = [
        {"type": "response.created", "response": head},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        *({"type": kind, "item_id": "i_1", "output_index": 0, "content_index": 0, "delta": delta} for delta in deltas),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**head, "status": "completed", "output": [item]}},
    ]
    return events(*({**step, "sequence_number": number} for number, step in enumerate(steps)))


def _call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **more}}]}


_ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "too much"}}
_TOOL_ITEM = {"type": "function_call", "id": "i_1", "call_id": "c_1", "name": "weather", "arguments": ""}
_TEXT_ITEM = {"type": "message", "id": "i_1", "role": "assistant", "status": "completed", "content": []}

STREAMS = {
    ("chat", "text"): chat("Hel", "lo – ", "日本語 😀"),
    ("chat", "tools"): chat(_call(0, "", name="weather"), _call(0, '{"ci'), _call(0, 'ty": "Zürich"}')),
    ("chat", "error"): [*chat("Hel")[:1], *events({"error": {"message": "too much", "type": "server_error"}})],
    ("responses", "text"): response(_TEXT_ITEM, "response.output_text.delta", "Hel", "lo – ", "日本語 😀"),
    ("responses", "tools"): response(_TOOL_ITEM, "response.function_call_arguments.delta", '{"ci', 'ty": "Zürich"}'),
    ("responses", "error"): [
        *response(_TEXT_ITEM, "response.output_text.delta", "Hel")[:3],
        *events({"type": "error", "code": "server_error", "message": "too much", "sequence_number": 3}),
    ],
    ("messages", "text"): message(
        {"type": "text", "text": ""}, *({"type": "text_delta", "text": text} for text in ("Hel", "lo – ", "日本語 😀"))
    ),
    ("messages", "tools"): message(
        {"type": "tool_use", "id": "t_1", "name": "weather", "input": {}},
        *({"type": "input_json_delta", "partial_json": text} for text in ("", '{"ci', 'ty": "Zürich"}')),
    ),
    ("messages", "error"): [
        *message({"type": "text", "text": ""}, {"type": "text_delta", "text": "Hel"})[:4],
        *events(_ERROR),
    ],
}
"""Streams of the three APIs, event by event."""


def cut(chunks: list[bytes], how: str) -> list[bytes]:
    """Return the same bytes in other chunks: one an event ("event"), 7 bytes each ("odd"), or one for all ("whole")."""
    body = b"".join(chunks)
    sizes = {"event": 0, "odd": 7, "whole": len(body)}
    size = sizes[how]
    return [body[start : start + size] for start in range(0, len(body), size)] if size else chunks


REQUEST: dict[str, Any] = {"model": "m", "stream": True}


def _arguments(api: str, prompt: str) -> dict[str, Any]:
    """Return the arguments of the SDK's call."""
    if api == "responses":
        return {**REQUEST, "input": prompt}
    more = {"max_tokens": 9} if api == "messages" else {}
    return {**REQUEST, **more, "messages": [{"role": "user", "content": prompt}]}


def ask(api: str, http_client: Any, prompt: str = "Hi", **options: Any) -> list[Any]:
    """Return the items of one streamed answer as the provider's SDK gives them; an error is the last of them."""
    import anthropic
    import openai

    sdk: Any = anthropic.Anthropic if api == "messages" else openai.OpenAI
    client = sdk(api_key=KEY, http_client=http_client, **options)
    seen: list[Any] = []
    try:
        seen.extend(item.to_dict() for item in _create(client, api)(**_arguments(api, prompt)))
    except (openai.APIError, anthropic.APIError) as error:
        seen.append((type(error).__name__, str(error)))
    return seen


async def aask(api: str, http_client: Any, prompt: str = "Hi", **options: Any) -> list[Any]:
    """Return the items of one streamed answer as the provider's async SDK gives them; an error is the last item."""
    import anthropic
    import openai

    sdk: Any = anthropic.AsyncAnthropic if api == "messages" else openai.AsyncOpenAI
    client = sdk(api_key=KEY, http_client=http_client, **options)
    seen: list[Any] = []
    try:
        async for item in await _create(client, api)(**_arguments(api, prompt)):
            seen.append(item.to_dict())
    except (openai.APIError, anthropic.APIError) as error:
        seen.append((type(error).__name__, str(error)))
    return seen


def _create(client: Any, api: str) -> Any:
    """Return the method of the SDK's client that creates an answer."""
    resources = {"chat": lambda: client.chat.completions, "responses": lambda: client.responses}
    return resources.get(api, lambda: client.messages)().create


class Kit:
    """Parts of the tests of cassettes: replies, networks, clients and a file."""

    HANG: Any = HANG
    KEY = KEY
    URL = URL
    Reply = Reply
    STREAMS = STREAMS
    ask = staticmethod(ask)
    aask = staticmethod(aask)
    chat = staticmethod(chat)
    cut = staticmethod(cut)
    events = staticmethod(events)

    def __init__(self, path: Path) -> None:
        self.path = path

    def network(self, *replies: Any, library: str = "httpx2") -> Any:
        """Make a transport that answers with these replies in turn."""
        return transports(library)[0](*replies)

    def tap(self, inner: Any, library: str = "httpx2") -> Any:
        """Make a transport around another one; `bodies` are the chunks of each response."""
        return transports(library)[1](inner)

    def aiohttp_client(self, sdk: Any) -> Any:
        """Make the SDK's HTTP client on aiohttp; skip the test if the SDK lacks a package for it."""
        try:
            return sdk.DefaultAioHttpClient()
        except RuntimeError as error:  # older versions want a package more
            pytest.skip(str(error))

    def cassette(self, mode: Any = "none", **settings: Any) -> CassetteContext:
        """Return the context of this test's cassette; while it is open, it also patches the fake networks."""
        networks = [transports(library)[0] for library in ("httpx2", "httpx")]
        return use_cassette(self.path, record_mode=mode, also_patch=networks, **settings)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """Return networks, clients, and a cassette in a folder of its own."""
    return Kit(tmp_path / "cassette.yaml")


@pytest.fixture
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Make a client, with an environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made: Client = request.param()
    made.check_installed()
    return made


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server until the test ends."""
    with Server() as started:
        yield started
