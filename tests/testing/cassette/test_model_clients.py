"""Clients of model providers, each against a server that speaks its wire format: live, recorded and played alike.

The tests that are marked with `cell` are the columns of the table of model clients in docs/how-to/cassettes.md. The
clients are not among the dependencies: `tox -e clients` has them.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from wire_server import RESET, Answer, Request, WireServer, spaced

from miniagents_testing import use_cassette
from miniagents_testing.cassette import Interaction, ResponseStream, load, save
from miniagents_testing.errors import CassetteMissError, IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # the libraries warn of each other, and leave sockets to the collector
_DOCS = Path(__file__).resolve().parents[3] / "docs/how-to/cassettes.md"
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # litellm would ask for its prices when it is imported

TEXTS = ("Hel", "lo", " to", " you")
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


# --- the server


def _events(*data: Any) -> list[bytes]:
    return [f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n".encode() for each in data]


def _chat(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def _gemini(text: str, **more: str) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}]}


def _ollama(text: str, *, done: bool) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": done}).encode()


CHAT = _events(*(_chat({"role": "assistant", "content": text}) for text in TEXTS), _chat({}, "stop"), "[DONE]")
GEMINI = _events(*(_gemini(text) for text in TEXTS[:-1]), _gemini(TEXTS[-1], finishReason="STOP"))
OLLAMA = [_ollama(text, done=text == TEXTS[-1]) + b"\n" for text in TEXTS]


def answer(request: Request) -> Answer:
    """Answer in the wire format of the path's end; its first part names a redirect, compression, reset or stall."""
    path, _, query = request.path.partition("?")
    behaviour = path.split("/")[1]
    chunks = OLLAMA if path.endswith("/api/chat") else GEMINI if "streamGenerateContent" in path else CHAT
    headers = {"content-type": "application/x-ndjson" if chunks is OLLAMA else "text/event-stream"}
    match behaviour:
        case "redirect":
            location = f"{path.replace('redirect', 'stream')}{query and f'?{query}'}"
            return Answer((), 307, {"location": location, "content-length": "0"})
        case "gzip":
            return Answer([gzip.compress(b"".join(chunks))], headers={**headers, "content-encoding": "gzip"})
        case "reset":
            return Answer([*spaced(chunks[:2]), RESET], headers=headers)
        case "long":
            return Answer([*spaced(chunks[:1]), 600], headers=headers)
    return Answer(spaced(chunks), headers=headers)


@pytest.fixture
def server() -> Iterator[WireServer]:
    """Run a server until the test ends."""
    with WireServer(answer) as started:
        yield started


# --- the clients


class Client:
    """Client of a provider. `texts` is a generator for sync ones, an async generator for async ones."""

    name: ClassVar[str]
    module: ClassVar[str]
    chunks: ClassVar[list[bytes]] = CHAT
    """Chunks of an answer of the server."""
    extra: ClassVar[dict[str, str]] = {}
    """Cells of the table that say something else than yes, by column."""

    def prepare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep the client from requests of its own."""

    def texts(self, url: str, prompt: str, image: bytes | None) -> Any:
        """Yield the texts of an answer."""
        raise NotImplementedError

    def read(self, url: str, prompt: str = "Hi", *, image: bytes | None = None, most: int = 99) -> list[Any]:
        """Return the texts of an answer, at most so many of them, and its error as the last item."""
        seen: list[Any] = []
        try:
            stream = self.texts(url, prompt, image)
            if hasattr(stream, "__aiter__"):
                asyncio.run(self._collect(stream, seen, most))
            else:
                self._collect_sync(stream, seen, most)
        except Exception as error:
            if isinstance(error, (CassetteMissError, IncompleteRecordingError)):
                raise
            seen.append((type(error).__name__, re.sub(r"0x[0-9a-f]+", "", str(error))))
        return seen

    @staticmethod
    async def _collect(stream: Any, seen: list[Any], most: int) -> None:
        """Read an async stream, and close it where the reader stops."""
        try:
            async for text in stream:
                if text:
                    seen.append(text)
                if len(seen) == most:
                    break
        finally:
            await stream.aclose()

    @staticmethod
    def _collect_sync(stream: Any, seen: list[Any], most: int) -> None:
        """Read a stream, and close it where the reader stops."""
        try:
            for text in stream:
                if text:
                    seen.append(text)
                if len(seen) == most:
                    break
        finally:
            stream.close()


def _data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _messages(prompt: str, image: bytes | None) -> list[dict[str, Any]]:
    """Return messages of OpenAI's format."""
    if image is None:
        return [{"role": "user", "content": prompt}]
    parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": _data_url(image)}}]
    return [{"role": "user", "content": parts}]


class _GoogleGenAI(Client):
    module = "google.genai"
    chunks = GEMINI

    def _client(self, url: str) -> Any:
        from google import genai

        return genai.Client(api_key="for-tests", http_options=genai.types.HttpOptions(base_url=url))

    @staticmethod
    def _contents(prompt: str, image: bytes | None) -> list[Any]:
        from google.genai import types

        return [prompt] if image is None else [prompt, types.Part.from_bytes(data=image, mime_type="image/png")]


class GoogleGenAISync(_GoogleGenAI):
    """google-genai on httpx."""

    name = "google-genai"

    def texts(self, url: str, prompt: str, image: bytes | None) -> Iterator[str]:
        with self._client(url) as client:
            stream = client.models.generate_content_stream(
                model="gemini-2.0-flash", contents=self._contents(prompt, image)
            )
            yield from (each.text for each in stream)


class GoogleGenAI(_GoogleGenAI):
    """google-genai on aiohttp."""

    name = "google-genai, async"

    async def texts(self, url: str, prompt: str, image: bytes | None) -> AsyncIterator[str]:
        async with self._client(url).aio as client:
            contents = self._contents(prompt, image)
            stream = await client.models.generate_content_stream(model="gemini-2.0-flash", contents=contents)
            async for each in stream:
                yield each.text


class _LiteLLM(Client):
    module = "litellm"
    model = "openai/m"

    def _options(self, url: str, prompt: str, image: bytes | None) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": _messages(prompt, image),
            "api_base": url,
            "api_key": "for-tests",
            "stream": True,
            "max_retries": 0,
        }


class LiteLLMSync(_LiteLLM):
    """litellm with OpenAI's client on httpx."""

    name = "litellm"

    def texts(self, url: str, prompt: str, image: bytes | None) -> Iterator[str]:
        import litellm

        for each in litellm.completion(**self._options(url, prompt, image)):
            yield each.choices[0].delta.content


class LiteLLM(_LiteLLM):
    """litellm with OpenAI's client on its own transport on aiohttp."""

    name = "litellm, async"

    async def texts(self, url: str, prompt: str, image: bytes | None) -> AsyncIterator[str]:
        import litellm

        async for each in await litellm.acompletion(**self._options(url, prompt, image)):
            yield each.choices[0].delta.content


class LiteLLMGemini(LiteLLM):
    """litellm with a client of its own on aiohttp."""

    name = "litellm with Gemini, async"
    model = "gemini/gemini-2.0-flash"
    chunks = GEMINI


class _Mistral(Client):
    module = "mistralai.client"

    def _client(self, url: str) -> Any:
        from mistralai.client import Mistral

        return Mistral(api_key="for-tests", server_url=url)


class MistralSync(_Mistral):
    """mistralai on httpx2."""

    name = "mistralai"

    def texts(self, url: str, prompt: str, image: bytes | None) -> Iterator[str]:
        with self._client(url) as client, client.chat.stream(model="m", messages=_messages(prompt, image)) as events:
            yield from (each.data.choices[0].delta.content for each in events)


class Mistral(_Mistral):
    """mistralai on httpx2, async."""

    name = "mistralai, async"

    async def texts(self, url: str, prompt: str, image: bytes | None) -> AsyncIterator[str]:
        async with self._client(url) as client:
            async with await client.chat.stream_async(model="m", messages=_messages(prompt, image)) as events:
                async for each in events:
                    yield each.data.choices[0].delta.content


class _Ollama(Client):
    module = "ollama"
    chunks = OLLAMA

    @staticmethod
    def _messages(prompt: str, image: bytes | None) -> list[dict[str, Any]]:
        return [{"role": "user", "content": prompt, **({} if image is None else {"images": [image]})}]


class OllamaSync(_Ollama):
    """ollama on httpx."""

    name = "ollama"

    def texts(self, url: str, prompt: str, image: bytes | None) -> Iterator[str]:
        import ollama

        for each in ollama.Client(host=url).chat("m", self._messages(prompt, image), stream=True):
            yield each.message.content


class Ollama(_Ollama):
    """ollama on httpx, async."""

    name = "ollama, async"

    async def texts(self, url: str, prompt: str, image: bytes | None) -> AsyncIterator[str]:
        import ollama

        async for each in await ollama.AsyncClient(host=url).chat("m", self._messages(prompt, image), stream=True):
            yield each.message.content


class _HuggingFace(Client):
    module = "huggingface_hub"

    def prepare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give the client a list that it would ask for once a day."""
        (folder / "harnesses.json").write_text('{"harnesses": {}}', encoding="utf-8")
        monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(folder / "harnesses.json"))


class HuggingFaceSync(_HuggingFace):
    """huggingface_hub on httpx2."""

    name = "huggingface_hub"

    def texts(self, url: str, prompt: str, image: bytes | None) -> Iterator[str]:
        from huggingface_hub import InferenceClient

        client = InferenceClient(base_url=url, api_key="for-tests")
        for each in client.chat_completion(_messages(prompt, image), stream=True):
            yield each.choices[0].delta.content


class HuggingFace(_HuggingFace):
    """huggingface_hub on httpx2, async."""

    name = "huggingface_hub, async"

    async def texts(self, url: str, prompt: str, image: bytes | None) -> AsyncIterator[str]:
        from huggingface_hub import AsyncInferenceClient

        client = AsyncInferenceClient(base_url=url, api_key="for-tests")
        async for each in await client.chat_completion(_messages(prompt, image), stream=True):
            yield each.choices[0].delta.content


CLIENTS: list[type[Client]] = [
    GoogleGenAISync,
    GoogleGenAI,
    LiteLLMSync,
    LiteLLM,
    LiteLLMGemini,
    MistralSync,
    Mistral,
    OllamaSync,
    Ollama,
    HuggingFaceSync,
    HuggingFace,
]
CELLS: dict[str, str] = {}
"""Names of the tests that are columns of the table, by column."""


def cell(column: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a test a column of the table: it runs for each client."""

    def mark(test: Callable[..., Any]) -> Any:
        CELLS[column] = test.__name__
        return pytest.mark.parametrize("client", CLIENTS, ids=[each.name for each in CLIENTS], indirect=True)(test)

    return mark


@pytest.fixture
def client(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Make a client, or skip the test where its library is not installed."""
    made: Client = request.param()
    pytest.importorskip(made.module)
    made.prepare(tmp_path, monkeypatch)
    yield made
    gc.collect()  # sockets that a library leaves open are closed within its test, where warnings are ignored


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


def in_all_ways(client: Client, server: WireServer, path: Path, behaviour: str = "stream", **options: Any) -> list[Any]:
    """Return the texts of an answer, which are the same live, recorded and played; a replay sends nothing."""
    url = f"{server.url}/{behaviour}"
    live = client.read(url, **options)
    sent = len(server.requests)
    with use_cassette(path, record_mode="once"):
        assert client.read(url, **options) == live
    assert len(server.requests) == 2 * sent
    connections = server.connections
    with use_cassette(path):
        assert client.read(url, **options) == live
    assert (len(server.requests), server.connections) == (2 * sent, connections)
    return live


# --- the table


@cell("record, play")
def test_model_client_streams_the_same_live_recorded_and_played(client: Client, server: WireServer, path: Path) -> None:
    """The client gives the texts of the server one by one, and the cassette has each chunk."""
    assert in_all_ways(client, server, path) == list(TEXTS)
    [recorded] = load(path)
    assert [chunk.data for chunk in recorded.response.chunks] == client.chunks


@cell("early close")
def test_model_client_that_stops_early_does_so_again(client: Client, server: WireServer, path: Path) -> None:
    """If the application stops reading early, the chunks until then are recorded, and played to the same early stop."""
    assert in_all_ways(client, server, path, "long", most=1) == [TEXTS[0]]
    [recorded] = load(path)
    assert recorded.response.end in ("closed", "cancelled", "open")  # litellm closes no sync stream
    assert [chunk.data for chunk in recorded.response.chunks] == client.chunks[:1]


@cell("reset")
def test_model_client_finds_a_reset_again(client: Client, server: WireServer, path: Path) -> None:
    """A reset in mid-answer is an error of the client's own kind, with the same text, after the same texts."""
    *texts, error = in_all_ways(client, server, path, "reset")
    assert texts == list(TEXTS[:2])
    assert isinstance(error, tuple)
    assert load(path)[0].response.end.startswith("raise ")


@cell("redirect")
def test_model_client_is_redirected_again(client: Client, server: WireServer, path: Path) -> None:
    """A client that follows redirects does so in a replay; the others give the same error."""
    live = in_all_ways(client, server, path, "redirect")
    assert len(load(path)) == 1 + (live == list(TEXTS))


@cell("gzip")
def test_model_client_reads_a_compressed_answer(client: Client, server: WireServer, path: Path) -> None:
    """An answer that the server compresses unasked is kept as it is, and the client decompresses it again."""
    assert in_all_ways(client, server, path, "gzip") == list(TEXTS)
    assert load(path)[0].response.body.startswith(b"\x1f\x8b")


@cell("upload")
def test_image_in_a_prompt_is_recorded(client: Client, server: WireServer, path: Path) -> None:
    """The server and the cassette get the whole image, and another image is a miss."""
    assert in_all_ways(client, server, path, image=IMAGE) == list(TEXTS)
    encoded = base64.b64encode(IMAGE)
    sent, kept = server.requests[-1].body, load(path)[0].request_body
    assert encoded in sent or encoded.translate(bytes.maketrans(b"+/", b"-_")) in sent
    assert json.loads(kept) == json.loads(sent)
    with pytest.raises(CassetteMissError), use_cassette(path, unplayed="ignore"):
        client.read(f"{server.url}/stream", image=IMAGE[:-1])


@cell("miss")
def test_model_client_raises_a_miss(client: Client, server: WireServer, path: Path) -> None:
    """A miss reaches the application once, as itself or as the text of another error; the server gets no request.

    Leaving `use_cassette` raises the miss.
    """
    save(path, [Interaction("GET", "https://x.test/", b"", ResponseStream(reason="OK"))])
    with pytest.raises(CassetteMissError, match="has no answer for POST") as outer:
        with use_cassette(path, unplayed="ignore") as session:
            try:
                [(_, text)] = client.read(f"{server.url}/stream")  # litellm makes another error of each
            except CassetteMissError as miss:
                text = str(miss)
            assert "has no answer for POST" in text
    assert session.misses == (outer.value,)
    assert (server.requests, server.connections) == ([], 0)


def table() -> list[str]:
    """Return the table of docs/how-to/cassettes.md, made of the tests of this module."""
    head = ["model client", *CELLS]
    rows = [[each.name, *(each.extra.get(column, "yes") for column in CELLS)] for each in CLIENTS]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def test_page_has_the_table_of_model_clients() -> None:
    """docs/how-to/cassettes.md says which model clients do what, exactly as the tests of this module show."""
    page = _DOCS.read_text(encoding="utf-8").splitlines()
    rows = table()
    start = page.index(rows[0]) if rows[0] in page else -1
    assert page[start : start + len(rows)] == rows, "\n".join(["the page lacks this table:", *rows])
