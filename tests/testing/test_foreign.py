"""Recordings that other recorders wrote: each form of their files is read, and the recorded bodies can be played."""

from __future__ import annotations

import base64
import gzip
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
import vcr
import yaml
from hypothesis import given
from hypothesis import strategies as st

from miniagents_testing import ReplayTransport
from miniagents_testing.cassette import load, use_cassette
from miniagents_testing.cassette._document import foreign_interaction
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URI = "https://api.openai.com/v1/chat/completions"
EVENTS = (
    'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Grüß "}}]}\n\n'.encode(),
    'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"dich 😀"}}]}\n\n'.encode(),
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)
BODY = b"".join(EVENTS)
RAW_DEFLATE = zlib.compress(BODY)[2:-4]
ENCODED = {
    "gzip": gzip.compress(BODY, mtime=0),
    "x-gzip": gzip.compress(BODY, mtime=0),
    "deflate": zlib.compress(BODY),
    "Deflate": RAW_DEFLATE,  # what many servers mean by it
    "deflate, gzip": gzip.compress(zlib.compress(BODY), mtime=0),
    "identity": BODY,
}


def entry(**response: Any) -> dict[str, Any]:
    """Make an entry of a plain vcrpy cassette with another response."""
    return {
        "request": {"method": "POST", "uri": URI, "body": '{"model":"m"}', "headers": {"Host": ["api.openai.com"]}},
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {"Content-Type": ["text/event-stream; charset=utf-8"]},
            "body": {"string": BODY.decode()},
            **response,
        },
    }


class _Provider(BaseHTTPRequestHandler):
    """Server that answers with a chat completion, compressed if the client accepts that."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        compressed = "gzip" in self.headers.get("accept-encoding", "")
        body = ENCODED["gzip"] if compressed else BODY
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("set-cookie", "a=1")
        self.send_header("set-cookie", "b=2")
        if compressed:
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Log no requests."""


@contextmanager
def _provider() -> Iterator[str]:
    """Run a server that answers as a provider, and yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Provider) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


async def _ask(base_url: str, transport: httpx2.AsyncBaseTransport | None = None, encoding: str = "identity") -> str:
    """Return the text of an answer, asked for with OpenAI's SDK."""
    http_client = httpx2.AsyncClient(transport=transport, headers={"accept-encoding": encoding})
    async with openai.AsyncOpenAI(api_key="none", base_url=base_url, http_client=http_client) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


@pytest.mark.parametrize(
    ("serializer", "encoding", "options"),
    [
        ("yaml", "identity", {}),
        ("json", "identity", {}),
        ("yaml", "gzip", {}),
        ("yaml", "gzip", {"decode_compressed_response": True}),
        ("json", "gzip", {"decode_compressed_response": True}),
    ],
)
async def test_recording_of_plain_vcrpy_plays(
    tmp_path: Path, serializer: str, encoding: str, options: dict[str, Any]
) -> None:
    """A file that plain vcrpy recorded plays to OpenAI's SDK, event by event, with the text of the live answer."""
    path = tmp_path / f"c.{serializer}"
    with _provider() as base_url:
        with vcr.use_cassette(str(path), serializer=serializer, **options):
            assert await _ask(base_url, encoding=encoding) == "Grüß dich 😀"
    transport = ReplayTransport(path)
    assert await _ask(base_url, transport) == "Grüß dich 😀"
    transport.assert_complete()
    (interaction,) = load(path)
    assert tuple(chunk.data for chunk in interaction.response.chunks) == EVENTS
    assert interaction.response.headers["set-cookie"] == ["a=1", "b=2"]
    assert not {"content-encoding", "content-length"} & interaction.response.headers.keys()


@pytest.mark.parametrize(
    "response",
    [
        {"body": {"string": BODY}},
        {"body": {"base64_string": base64.b64encode(BODY).decode(), "encoding": "utf-8"}},
        {"body": BODY.decode()},
        {"body": None, "status": None, "content": BODY.decode(), "status_code": 200, "http_version": "HTTP/1.1"},
    ],
)
def test_body_is_read_in_each_form_of_other_recorders(response: dict[str, Any]) -> None:
    """A recorded body is read as text, as bytes, in base64, and in the form of older vcrpy for httpx."""
    kept = entry(**response)
    if "content" in kept["response"]:
        del kept["response"]["body"], kept["response"]["status"]
    read = foreign_interaction(kept, "c.yaml").response
    assert (read.body, read.status, read.reason, read.end, read.complete) == (BODY, 200, "OK", "eof", True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": ["text/event-stream"], "Vary": ["a", "b"]},
        {"content-type": "text/event-stream", "vary": ["a", "b"]},
        {"content-type": [b"text/event-stream"], "vary": ["a"], "Vary": ["b"]},
        [["Content-Type", "text/event-stream"], ["Vary", "a"], ["Vary", "b"]],
    ],
)
def test_headers_are_read_in_each_form_of_other_recorders(headers: Any) -> None:
    """Recorded headers are read from single values, lists of values or pairs, with names in any case."""
    read = foreign_interaction(entry(headers=headers), "c.yaml").response
    assert read.headers == {"content-type": ["text/event-stream"], "vary": ["a", "b"]}


def test_headers_of_the_connection_are_dropped() -> None:
    """Length, transfer encoding and connection headers of a foreign recording are not played."""
    headers = {"Transfer-Encoding": ["chunked"], "Content-Length": ["7"], "connection": ["close"], "x-id": ["1"]}
    assert foreign_interaction(entry(headers=headers), "c.yaml").response.headers == {"x-id": ["1"]}
    assert foreign_interaction(entry(headers=None), "c.yaml").response.headers == {}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("kept", ["encoded", "plain"])
def test_compression_is_undone_unless_the_recorder_has_undone_it(encoding: str, kept: str) -> None:
    """A body with `content-encoding` is read uncompressed, whether the file keeps it compressed or not."""
    body = ENCODED[encoding] if kept == "encoded" else BODY.decode()
    read = foreign_interaction(entry(headers={"content-encoding": [encoding]}, body={"string": body}), "c").response
    assert read.body == BODY
    assert read.headers == {}


@pytest.mark.parametrize(("content_type", "inflated"), [("application/json", True), ("application/gzip", False)])
def test_compression_without_header_is_undone_in_text(content_type: str, inflated: bool) -> None:
    """A gzipped body without `content-encoding` is inflated if it is JSON, and kept if it is a gzip file."""
    headers = {"content-type": [content_type]}
    read = foreign_interaction(entry(headers=headers, body={"string": ENCODED["gzip"]}), "c").response
    assert read.body == (BODY if inflated else ENCODED["gzip"])


def test_unknown_compression_is_left_to_the_client() -> None:
    """A body in an encoding that we cannot undo keeps its bytes and its `content-encoding` header."""
    headers = {"content-encoding": ["br, gzip"]}
    body = gzip.compress(b"\x8b\x05\x80\xff")
    read = foreign_interaction(entry(headers=headers, body={"string": body}), "c").response
    assert read.body == body
    assert read.headers == headers


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (ENCODED["gzip"][:-9], "the gzip body of the response was cut before its end"),
        (ENCODED["gzip"][:-8] + bytes(8), "is not the gzip its headers promise"),
        (gzip.compress(bytes(40 * 1024 * 1024)), "decompression bomb"),
    ],
    ids=["cut", "changed", "bomb"],
)
def test_X9_a_damaged_or_hostile_body_is_refused(tmp_path: Path, body: bytes, says: str) -> None:
    """Loading a foreign body that is damaged or inflates without limit raises an error that names the interaction."""
    path = tmp_path / "c.yaml"
    entries = [entry(), entry(headers={"content-encoding": ["gzip"]}, body={"string": body})]
    path.write_text(yaml.dump({"interactions": entries, "version": 1}, Dumper=yaml.CSafeDumper), encoding="utf-8")
    with pytest.raises(CassetteFormatError, match=rf"c\.yaml, interaction 2: .*{says}"):
        load(path)


async def test_parsed_body_is_read_as_json(tmp_path: Path) -> None:
    """A body that pydantic-ai stored as parsed YAML is played to an SDK as JSON, whatever headers say of its bytes."""
    path = tmp_path / "c.yaml"
    path.write_text(
        """
interactions:
- request:
    headers:
      content-length: ['999']
      content-type: [application/json]
    method: POST
    parsed_body:
      messages:
      - content: Hi 😀
        role: user
      model: m
    uri: https://api.openai.com/v1/chat/completions
  response:
    headers:
      content-encoding: [gzip]
      content-length: ['411']
      content-type: [application/json]
      transfer-encoding: [chunked]
    parsed_body:
      choices:
      - finish_reason: stop
        index: 0
        message: {content: Grüß dich, role: assistant}
      created: 1740000000
      id: c
      model: m
      object: chat.completion
    status: {code: 200, message: OK}
version: 1
""",
        encoding="utf-8",
    )
    async with use_cassette(path), openai.AsyncOpenAI(api_key="none") as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi 😀"}])
    assert answer.choices[0].message.content == "Grüß dich"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["gzip", "deflate", "br", "zstd", ""]))
def test_text_is_never_taken_for_compressed(text: str, encoding: str) -> None:
    """A body that is plain text stays as it is, also with a header that says it is compressed."""
    kept = entry(headers={"content-encoding": [encoding]}, body={"string": text})
    read = foreign_interaction(kept, "c").response
    assert read.body == text.encode()
    assert "content-encoding" not in read.headers
