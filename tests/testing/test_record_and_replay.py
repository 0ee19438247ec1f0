"""Recording and replaying under the real SDKs: the same chunks at the same moments, and the same end."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

from miniagents import MiniAgents
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ProviderServer, RecordingTransport, ReplayTransport, Step
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load
from miniagents_testing.errors import CassetteError, CassetteMissError, IncompleteRecordingError, UnplayedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

URI = "https://api.openai.com/v1/chat/completions"
KEY = "sk-this-is-a-secret-key"


def _client(transport: httpx2.AsyncBaseTransport, base_url: str | None = None) -> openai.AsyncOpenAI:
    http_client = httpx2.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(api_key=KEY, base_url=base_url, http_client=http_client)


async def _texts(client: openai.AsyncOpenAI, prompt: str) -> list[str]:
    """The deltas of one streamed answer."""
    stream = await client.chat.completions.create(
        model="gpt-4", messages=[{"role": "user", "content": prompt}], stream=True
    )
    return [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]


@asynccontextmanager
async def _recorded(path: Path, *answers: str | Step) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client whose conversation with a local server goes into `path`, under OpenAI's own address."""
    async with ProviderServer(answers) as server:
        transport = RecordingTransport(path, record_as={server.openai_base_url: "https://api.openai.com/v1"})
        async with _client(transport, server.openai_base_url) as client:
            yield client


def _streamed(*chunks: Chunk, request_body: bytes = b"{}", uri: str = URI, **response: Any) -> Interaction:
    answer = ResponseStream(chunks, headers={"content-type": ["text/event-stream"]}, **response)
    return Interaction("POST", uri, request_body, answer)


async def test_what_was_recorded_is_played(tmp_path: Path) -> None:
    """The default base URL gets the answers of the local server, each request its own."""
    path = tmp_path / "c.yaml"
    async with _recorded(path, "Hello there, 😀", "Fine, thanks.") as client:
        live = [await _texts(client, "Hi"), await _texts(client, "How are you?")]
    transport = ReplayTransport(path)
    async with _client(transport) as client:
        played = [await _texts(client, "How are you?"), await _texts(client, "Hi")]
    assert played == live[::-1]
    transport.assert_complete()


async def test_tokens_flow_while_recording(tmp_path: Path) -> None:
    """A delta is with the reader while the provider has not sent the next one."""
    async with ProviderServer([Step(["a", "b"], after=1, then="hold")]) as server:
        async with _client(RecordingTransport(tmp_path / "c.yaml"), server.openai_base_url) as client:
            seen = []
            async for chunk in await client.chat.completions.create(model="m", messages=[], stream=True):
                seen.append(chunk.choices[0].delta.content)
                if seen[-1] == "a":
                    server.release()
    assert seen == ["", "a", "b", None]


async def test_anthropic_is_recorded_and_played(tmp_path: Path) -> None:
    """The other SDK, through the same transports."""
    path = tmp_path / "c.yaml"

    async def ask(transport: httpx2.AsyncBaseTransport, base_url: str | None) -> str:
        http_client = httpx2.AsyncClient(transport=transport)
        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=base_url, http_client=http_client) as client:
            async with client.messages.stream(
                model="claude", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
            ) as stream:
                return await stream.get_final_text()

    async with ProviderServer(["Hello."]) as server:
        record_as = {server.anthropic_base_url: "https://api.anthropic.com"}
        assert await ask(RecordingTransport(path, record_as=record_as), server.anthropic_base_url) == "Hello."
    assert await ask(ReplayTransport(path), None) == "Hello."


async def test_no_secret_is_written(tmp_path: Path) -> None:
    """Headers go by a list of what is kept, so that keys and cookies of any name stay out."""
    path = tmp_path / "c.yaml"
    async with _recorded(path, "Hello") as client:
        await _texts(client, "Hi")
    text = path.read_text(encoding="utf-8")
    assert KEY not in text
    (interaction,) = load(path)
    assert list(interaction.request_headers) == ["content-type"]
    assert list(interaction.response.headers) == ["content-type", "x-request-id"]


async def test_a_key_in_a_body_is_refused(tmp_path: Path) -> None:
    """A file with a secret in it is not written at all."""
    path = tmp_path / "c.yaml"
    with pytest.raises(CassetteError, match="key of a request stands in a request body"):
        async with _recorded(path, "Hello") as client:
            await _texts(client, f"My key is {KEY}")
    assert not path.exists()


@pytest.mark.parametrize(
    ("stop_at", "end", "complete"), [("b", "closed", False), ("[DONE]", "closed", True), (None, "eof", True)]
)
async def test_the_end_is_recorded(tmp_path: Path, stop_at: str | None, end: str, complete: bool) -> None:
    """Whether the reader left, and whether it had everything when it did."""
    path = tmp_path / "c.yaml"
    async with ProviderServer([Step(["a", "b", "c"])]) as server:
        async with httpx2.AsyncClient(transport=RecordingTransport(path)) as client:
            url = f"{server.openai_base_url}/chat/completions"
            async with client.stream("POST", url, json={"stream": True}) as response:
                async for line in response.aiter_lines():
                    if stop_at is not None and (f'"{stop_at}"' in line or line.endswith(stop_at)):
                        break
    (interaction,) = load(path)
    # Where the last chunk came together with the end of the stream, leaving there is no leaving early.
    assert interaction.response.end == end or (complete and interaction.response.end == "eof")
    assert interaction.response.complete is complete


async def test_a_broken_connection_is_played_as_the_same_error(tmp_path: Path) -> None:
    """The class and message of a transport error are part of the recording."""
    path = tmp_path / "c.yaml"

    class Breaking(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            raise httpx2.ReadError("peer reset")

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, stream=Breaking())

    async def read(transport: httpx2.AsyncBaseTransport) -> None:
        async with httpx2.AsyncClient(transport=transport) as client, client.stream("GET", URI) as response:
            async for _ in response.aiter_raw():
                pass

    for transport in (RecordingTransport(path, inner=httpx2.MockTransport(respond)), ReplayTransport):
        with pytest.raises(httpx2.ReadError, match="peer reset"):
            await read(transport if isinstance(transport, RecordingTransport) else ReplayTransport(path))
    assert load(path)[0].response.end == "raise ReadError: peer reset"


async def test_a_cancelled_reader_is_recorded_as_one(tmp_path: Path) -> None:
    """What had arrived is kept, and marked."""
    path = tmp_path / "c.yaml"
    async with ProviderServer([Step(["a", "b"], after=1, then="hold")]) as server:
        transport = RecordingTransport(path)
        client = httpx2.AsyncClient(transport=transport)
        arrived = asyncio.Event()

        async def read() -> None:
            url = f"{server.openai_base_url}/chat/completions"
            async with client.stream("POST", url, json={"stream": True}) as response:
                async for chunk in response.aiter_raw():
                    if b'"a"' in chunk:
                        arrived.set()

        reader = asyncio.create_task(read())
        await arrived.wait()
        reader.cancel()
        await asyncio.wait([reader])
        await client.aclose()
    (interaction,) = load(path)
    assert interaction.response.end == "cancelled"
    assert b'"a"' in interaction.response.body


async def test_chunks_are_played_as_they_were_cut() -> None:
    """Cuts inside events and inside a character are kept."""
    chunks = ("data: é".encode()[:-1], "é".encode()[1:] + b"\n", b"\ndata: 2\n\ndata: 3\n\n")
    transport = ReplayTransport([_streamed(*(Chunk(0, data) for data in chunks))])
    async with httpx2.AsyncClient(transport=transport) as client:
        async with client.stream("POST", URI, json={}) as response:
            assert tuple([chunk async for chunk in response.aiter_raw()]) == chunks


@pytest.mark.parametrize("pace", [0.0, 0.5, 1.0])
async def test_chunks_are_due_at_their_recorded_moments(pace: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are added up from the start of the request, on the loop's clock, times the pace."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    moments = []
    monkeypatch.setattr(loop, "time", lambda: now)
    real_sleep = asyncio.sleep

    async def sleep(delay: float) -> None:
        nonlocal now
        now += delay + 0.001 * pace  # every timer fires a little late, and the delays must not add up
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    transport = ReplayTransport(
        [_streamed(Chunk(1000, b"1"), Chunk(2000, b"2"), Chunk(500, b"3"), headers_ms=100)], pace=pace
    )
    start = now
    async with httpx2.AsyncClient(transport=transport, timeout=None) as client:
        async with client.stream("POST", URI, json={}) as response:
            moments.append(now - start)
            moments.extend([now - start async for _ in response.aiter_raw()])
    assert moments == pytest.approx([(0.1 + wait + 0.001) * pace for wait in (0, 0.01, 0.03, 0.035)])


async def test_a_stream_that_its_reader_left_does_not_end_as_if_it_were_whole() -> None:
    """Reading on where nobody knows what comes is an error."""
    transport = ReplayTransport([_streamed(Chunk(0, b"data: 1\n\n"), end="closed", complete=False)])
    async with httpx2.AsyncClient(transport=transport) as client:
        with pytest.raises(IncompleteRecordingError, match="its reader had enough"):
            await client.post(URI, json={})


async def test_equal_requests_get_their_recordings_in_order() -> None:
    """The n-th to ask gets the n-th recorded."""
    transport = ReplayTransport([_streamed(Chunk(0, data)) for data in (b"first", b"second")])
    async with httpx2.AsyncClient(transport=transport) as client:
        assert [(await client.post(URI, json={})).content for _ in range(2)] == [b"first", b"second"]
        with pytest.raises(CassetteMissError, match="same request, and was played already"):
            await client.post(URI, json={})


@pytest.mark.parametrize("make_client", [openai.AsyncOpenAI, anthropic.AsyncAnthropic])
async def test_a_changed_prompt_is_a_miss_that_says_what_changed(
    tmp_path: Path, make_client: Callable[..., openai.AsyncOpenAI | anthropic.AsyncAnthropic]
) -> None:
    """Neither SDK retries or wraps it; the nearest recording and the field stand in the message."""
    body = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"stream":true}'
    uris = {openai.AsyncOpenAI: URI, anthropic.AsyncAnthropic: "https://api.anthropic.com/v1/messages"}
    asked = 0

    class Counting(ReplayTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            nonlocal asked
            asked += 1
            return await super().handle_async_request(request)

    transport = Counting([_streamed(request_body=body, uri=uri) for uri in uris.values()])
    async with make_client(api_key=KEY, http_client=httpx2.AsyncClient(transport=transport)) as client:
        request: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Ho"}]}
        with pytest.raises(CassetteMissError) as caught:
            if isinstance(client, openai.AsyncOpenAI):
                await client.chat.completions.create(**request, stream=True)
            else:
                await client.messages.create(**request, stream=True)
    assert "messages[0].content: recorded 'Hi', now 'Ho'" in str(caught.value)
    assert asked == 1


async def test_a_miss_reaches_the_reader_of_an_agent() -> None:
    """Our agents pass it on as it is: it is no failure of a provider."""
    openai_client = _client(ReplayTransport([]))
    anthropic_client = anthropic.AsyncAnthropic(
        api_key=KEY, http_client=httpx2.AsyncClient(transport=ReplayTransport([]))
    )
    async with MiniAgents():
        for agent in (
            create_openai_agent(model="m", async_client=openai_client),
            create_anthropic_agent(model="m", async_client=anthropic_client),
        ):
            with pytest.raises(CassetteMissError, match="is empty"):
                await agent.trigger("Hi")


async def test_volatile_fields_and_spelling_do_not_matter() -> None:
    """The same question in other words of JSON is the same question."""
    body = b'{"model":"m","n":1,"user":"Ann"}'
    transport = ReplayTransport([_streamed(Chunk(0, b"yes"), request_body=body)])
    async with httpx2.AsyncClient(transport=transport) as client:
        response = await client.post(URI, content=b'{ "user": "Bob", "n": 1, "model": "\\u006d" }')
    assert response.content == b"yes"


async def test_what_was_not_played_is_named() -> None:
    """An application that asks less than it did is noticed."""
    with pytest.raises(UnplayedError, match=f"1 interactions were not played: POST {URI}"):
        ReplayTransport([_streamed()]).assert_complete()
    ReplayTransport([]).assert_complete()


async def test_an_empty_cassette_says_so() -> None:
    """There is no nearest request to show."""
    async with httpx2.AsyncClient(transport=ReplayTransport([])) as client:
        with pytest.raises(CassetteMissError, match="is empty"):
            await client.get(URI)
