"""Headers of recordings: which are kept, what becomes of their values, redirects, and waits before a retry."""

from __future__ import annotations

import asyncio
import email.utils
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from miniagents import MiniAgents
from miniagents.errors import LLMError
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import run_in_virtual_time, stream_layer, use_cassette
from miniagents_testing.cassette import Interaction, ResponseStream, load, save
from miniagents_testing.cassette._headers import HeaderRule, is_secret_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

URL = "https://api.example.com/v1/chat"


def test_X4_headers_of_answers_are_kept_without_secrets_and_noise(kit: Kit) -> None:
    """All headers of an answer are recorded and played but those of the connection and noise; secrets are redacted."""
    kept = {
        "content-type": "application/json",
        "mcp-session-id": "1868a90c-5f0f-4e1c-9f3a-2b1d6f8c9e10",
        "www-authenticate": 'Bearer resource_metadata="https://api.example.com/.well-known/x"',
        "x-amzn-bedrock-input-token-count": "12",
        "x-new-thing": "1",
        "x-ratelimit-remaining-tokens": "149984",
        "x-request-id": "req_1",
    }
    redacted = ("openai-organization", "anthropic-organization-id", "openai-project", "x-api-key", "x-auth-token")
    dropped = (
        "date",
        "server",
        "via",
        "alt-svc",
        "nel",
        "report-to",
        "cf-ray",
        "cf-cache-status",
        "x-hop",
        "te",
        "x-mine-1",
    )
    headers = {
        **kept,
        **dict.fromkeys(redacted, "org-of-mine-123"),
        **dict.fromkeys(dropped, "1"),
        "connection": "X-Hop",
    }
    asked = {"user-agent": "x", "x-api-key": "none", "content-type": "application/json", "x-request-id": "1"}
    network = kit.network(kit.Reply([b"{}"], 200, headers))
    with kit.cassette("once", drop_headers=["X-Mine-*"]), httpx2.Client(transport=network) as client:
        client.post(URL, content=b"{}", headers=asked)
    (recorded,) = load(kit.path)
    assert recorded.request_headers == {"content-type": ["application/json"]}
    expected = {**kept, **dict.fromkeys(redacted, "[redacted]")}
    assert recorded.response.headers == {name: [expected[name]] for name in sorted(expected)}
    with kit.cassette(), httpx2.Client() as client:
        assert dict(client.post(URL, content=b"{}").headers) == expected
    assert "org-of-mine-123" not in kit.path.read_text(encoding="utf-8")


def test_cookies_keep_their_names_and_attributes(kit: Kit) -> None:
    """A recorded cookie has its name and attributes; its value is nowhere in the file, and a deleted one is empty."""
    cookies = ["sid=Xy12345678Zq; Path=/; HttpOnly", "gone=; Max-Age=0", "theme=dark", "Xy12345678Zr", "a=b=c; Secure"]
    headers: Any = [("set-cookie", each) for each in cookies]
    answers = [
        kit.Reply([b"{}"], 200, headers),
        kit.Reply([b'{"sid":"Xy12345678Zq"}']),
    ]
    with kit.cassette("once"), httpx2.Client(transport=kit.network(*answers)) as client:
        client.get(URL)
        client.get(URL)
    recorded = [
        "sid=[redacted]; Path=/; HttpOnly",
        "gone=; Max-Age=0",
        "theme=[redacted]",
        "[redacted]",
        "a=[redacted]; Secure",
    ]
    assert load(kit.path)[0].response.headers == {"set-cookie": recorded}
    assert "Xy12345678" not in kit.path.read_text(encoding="utf-8")
    with kit.cassette(), httpx2.Client() as client:
        client.get(URL)
        assert client.cookies["sid"] == "[redacted]"
        assert client.get(URL).json() == {"sid": "[redacted]"}


def test_a_played_cookie_is_no_secret_of_a_recording(kit: Kit) -> None:
    """A recording client may send the placeholder of a redacted cookie back: the placeholder counts as no secret."""
    with (
        kit.cassette("once"),
        httpx2.Client(transport=kit.network(kit.Reply([b"{}"], 200, {"set-cookie": "s=Xy1234567"}))) as client,
    ):
        client.get(URL)
    network = kit.network(kit.Reply([b'"[redacted]"']))
    with kit.cassette("new_episodes"), httpx2.Client(transport=network) as client:
        client.cookies.update(client.get(URL).cookies)
        client.post(URL, headers={"cookie": "s=[redacted]"})
    assert len(load(kit.path)) == 2


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("x-api-key", True),
        ("X-Auth-Token", True),
        ("x-amz-security-token", True),
        ("x_csrf_token", True),
        ("authorization", True),
        ("proxy-authorization", True),
        ("x-session-cookie", True),
        ("x-signature-v2", True),
        ("www-authenticate", False),
        ("idempotency-key", False),
        ("x-ratelimit-key", False),
        ("x-next-page-token", False),
        ("x-amzn-bedrock-output-token-count", False),
        ("mcp-session-id", False),
        ("x-author", False),
        ("access-control-allow-credentials", False),
        ("x-access-token", True),
        ("etag", False),
    ],
)
def test_names_of_headers_tell_secrets(name: str, secret: bool) -> None:
    """Headers of credentials are secret; counts of tokens, page tokens and challenges are not."""
    assert is_secret_header(name) is secret


@pytest.mark.parametrize(
    ("drop", "error"), [("x-a", TypeError), ([5], TypeError), (["x a"], ValueError), ([""], ValueError)]
)
def test_drop_headers_that_are_no_names_are_refused(tmp_path: Path, drop: Any, error: type[Exception]) -> None:
    """`drop_headers` raises an error for one text in place of a list, a number, and a text that can name no header."""
    with pytest.raises(error, match="drop_headers"):
        use_cassette(tmp_path / "c.yaml", drop_headers=drop)
    with pytest.raises(error, match="drop_headers"):
        stream_layer(None, drop_headers=drop)


@pytest.mark.parametrize(("method", "length", "kept"), [("GET", "2", True), ("GET", "9", False), ("HEAD", "9", True)])
def test_the_length_of_a_body_is_kept_if_it_is_true(kit: Kit, method: str, length: str, kept: bool) -> None:
    """`content-length` is recorded if it is the length of the recorded body, and for an answer to HEAD."""
    reply = kit.Reply([] if method == "HEAD" else [b"{}"], 200, {"content-length": length, "content-md5": "x"})
    with kit.cassette("once"), httpx2.Client(transport=kit.network(reply)) as client:
        client.request(method, URL)
    assert ("content-length" in load(kit.path)[0].response.headers) is kept


def test_a_redacted_body_loses_the_headers_about_its_bytes(kit: Kit) -> None:
    """After a redaction of its body, an answer has no length and no checksum."""
    body = b'{"key":"%b"}' % kit.KEY.encode()
    reply = kit.Reply([body], 200, {"content-length": str(len(body)), "content-md5": "x", "x-other": "1"})
    with kit.cassette("once"), httpx2.Client(transport=kit.network(reply)) as client:
        client.get(URL, headers={"authorization": f"Bearer {kit.KEY}"})
    assert load(kit.path)[0].response.headers == {"x-other": ["1"]}


def test_urls_in_headers_are_recorded_as_others() -> None:
    """`record_as` changes the URLs in all headers of answers; relative ones and other hosts stay."""
    rule = HeaderRule(recorded_url=lambda url: url.replace("http://127.0.0.1:5", "https://api.example.com"))
    assert rule.of_response(
        [
            ("Location", "http://127.0.0.1:5/new?a=1"),
            ("Operation-Location", "http://127.0.0.1:5/operations/1"),
            ("Link", '<http://127.0.0.1:5/list?page=2>; rel="next", </list?page=9>; rel="last"'),
            ("x-other", "see http://127.0.0.2:5/ too"),
        ]
    ) == {
        "link": ['<https://api.example.com/list?page=2>; rel="next", </list?page=9>; rel="last"'],
        "location": ["https://api.example.com/new?a=1"],
        "operation-location": ["https://api.example.com/operations/1"],
        "x-other": ["see http://127.0.0.2:5/ too"],
    }


# --- redirects


@contextmanager
def _server(answer: Callable[[str, str], tuple[int, dict[str, str], bytes]]) -> Iterator[str]:
    """Run a server on this machine, and return its address; `answer` gets method and path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            status, headers, body = answer(self.command, self.path)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that the server calls

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


_JSON = {"content-type": "application/json"}


def _said(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Return a whole answer of either provider that says with which method it was asked."""
    text = f"moved by {method}"
    if path.endswith("messages"):
        block = {"type": "text", "text": text}
        usage = {"input_tokens": 1, "output_tokens": 1}
        said = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [block], "usage": usage}
        return 200, _JSON, json.dumps({**said, "stop_reason": "end_turn", "stop_sequence": None}).encode()
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return (
        200,
        _JSON,
        json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}).encode(),
    )


async def _ask(client: str, url: str) -> str:
    """Ask a question with a client, and return the text of the answer."""
    name, _, how = client.partition(" ")
    question: Any = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    if name in ("httpx", "httpx2"):
        module: Any = {"httpx": httpx, "httpx2": httpx2}[name]
        if how == "sync":
            response = module.post(f"{url}/v1/chat/completions", json={}, follow_redirects=True)
        else:
            async with module.AsyncClient(follow_redirects=True) as http:
                response = await http.post(f"{url}/v1/chat/completions", json={})
        return str(response.json()["choices"][0]["message"]["content"])
    sdk: Any = {"openai sync": openai.OpenAI, "openai async": openai.AsyncOpenAI}.get(client)
    sdk = sdk or {"anthropic sync": anthropic.Anthropic, "anthropic async": anthropic.AsyncAnthropic}[client]
    base_url = f"{url}/v1" if name == "openai" else url
    client_of_sdk = sdk(api_key="none needed", base_url=base_url, max_retries=0)
    chat = client_of_sdk.chat.completions if name == "openai" else client_of_sdk.messages
    said = chat.create(**question, **({"max_tokens": 9} if name == "anthropic" else {}))
    said = await said if how == "async" else said
    await client_of_sdk.close() if how == "async" else client_of_sdk.close()
    return str(said.choices[0].message.content if name == "openai" else said.content[0].text)


CLIENTS = [f"{name} {how}" for name in ("httpx2", "httpx", "openai", "anthropic") for how in ("sync", "async")]


def _head_of(client: str, url: str) -> tuple[str, str]:
    """Return the reason phrase and the header `x-note` of the answer that a client of this name gets."""

    async def of_async_httpx(library: Any) -> tuple[str, str]:
        async with library.AsyncClient() as session:
            response = await session.get(url)
        return response.reason_phrase, response.headers["x-note"]

    async def of_aiohttp(library: Any) -> tuple[str, str]:
        async with library.ClientSession() as session, session.get(url) as response:
            return response.reason, response.headers["x-note"]

    name, _, kind = client.partition(" ")
    library = pytest.importorskip(name)
    if name == "aiohttp":
        return asyncio.run(of_aiohttp(library))
    if kind == "async":
        return asyncio.run(of_async_httpx(library))
    if name in ("httpx", "httpx2"):
        response = library.get(url)
        return response.reason_phrase, response.headers["x-note"]
    if name == "urllib.request":
        with library.urlopen(url) as response:
            return response.reason, response.headers["x-note"]
    if name == "urllib3":
        with library.PoolManager() as pool:
            response = pool.request("GET", url)
    else:
        response = library.get(url)
    return response.reason, response.headers["x-note"]


@pytest.mark.parametrize("text", [b"caf\xe9", b"caf\xc3\xa9", b"\xff\xa0", b"Good   one", b""])
@pytest.mark.parametrize(
    "client", ["httpx2", "httpx2 async", "httpx", "httpx async", "aiohttp", "urllib.request", "urllib3", "requests"]
)
def test_reason_and_header_are_the_same_live_recorded_and_played(client: str, text: bytes, tmp_path: Path) -> None:
    """Each client decodes a reason phrase and a header of any bytes in a replay as it does live and recorded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(
                b"HTTP/1.1 200 %b\r\nx-note: %b\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok" % (text, text)
            )

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            live = _head_of(client, url)
            with use_cassette(tmp_path / "c.yaml", record_mode="once"):
                assert _head_of(client, url) == live
        finally:
            server.shutdown()
            thread.join()
    with use_cassette(tmp_path / "c.yaml"):
        assert _head_of(client, url) == live


@pytest.mark.parametrize("to", ["relative", "absolute", "another host"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_redirect_plays(kit: Kit, client: str, status: int, to: str) -> None:
    """A client follows a recorded redirect as it did live: relative, absolute, or to another host that is recorded."""
    with _server(_said) as other:
        urls = {"relative": "", "another host": other}

        def redirect(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
            if not path.startswith("/old"):
                return _said(method, path)
            return status, {"location": f"{urls[to]}{path.removeprefix('/old')}"}, b""

        with _server(redirect) as url:
            urls["absolute"] = url
            record_as = {url: "https://api.example.com", other: "https://other.example.com"}
            with use_cassette(kit.path, record_mode="once", record_as=record_as):
                live = await _ask(client, f"{url}/old")
    with use_cassette(kit.path):
        played = await _ask(client, "https://api.example.com/old")
    assert played == live == f"moved by {'POST' if status > 303 else 'GET'}"
    assert [each.response.status for each in load(kit.path)] == [status, 200]
    assert "127.0.0.1" not in kit.path.read_text(encoding="utf-8")


def test_a_signed_redirect_plays_without_its_signature(kit: Kit) -> None:
    """The signature in the address of a redirect is redacted in the file, and the redirect plays."""
    for location in ("https://cdn.example.com/f?sig=Xy12345678Zq&n=1", "/f?sig=Xy12345678Zq&n=1"):
        replies = [kit.Reply([], 302, {"location": location}), kit.Reply([b"file"])]
        with kit.cassette("rewrite"), httpx2.Client(transport=kit.network(*replies), follow_redirects=True) as client:
            assert client.get(URL).content == b"file"
        assert "Xy12345678Zq" not in kit.path.read_text(encoding="utf-8")
        with kit.cassette(), httpx2.Client(follow_redirects=True) as client:
            assert client.get(URL).content == b"file"


# --- waits before a retry


async def _retry_after(provider: str, network: Any = None) -> tuple[float | None, bool]:
    """Ask an agent, and return `retry_after` of its error."""
    http = httpx2.AsyncClient(transport=network)
    agent: Any
    if provider == "openai":
        agent = create_openai_agent("m", async_client=openai.AsyncOpenAI(api_key="none", http_client=http), retry=None)
    else:
        sdk = anthropic.AsyncAnthropic(api_key="none", http_client=http)
        agent = create_anthropic_agent("m", async_client=sdk, retry=None)
    async with MiniAgents():
        with pytest.raises(LLMError) as caught:
            await agent.trigger("Hi")
    return caught.value.retry_after, caught.value.retryable


_IN_A_MINUTE = "in a minute"
WAITS: list[tuple[dict[str, str], Any]] = [
    ({}, None),
    ({"retry-after": "30"}, 30),
    ({"retry-after": "0"}, 0),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
    ({"retry-after": _IN_A_MINUTE}, pytest.approx(60, abs=30)),
    ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
    ({"retry-after": "soon"}, None),
]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [429, 500, 529, 400])
@pytest.mark.parametrize("number", range(len(WAITS)))
async def test_retry_after_is_the_same_live_and_played(kit: Kit, provider: str, status: int, number: int) -> None:
    """`error.retry_after` is equal live and in a replay, whether the provider sent seconds, ms, a date or nothing."""
    headers, expected = WAITS[number]
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    headers = {name: date if value is _IN_A_MINUTE else value for name, value in headers.items()}
    body = [b'{"error": {"message": "overloaded", "type": "x"}}']
    live = await _retry_after(provider, kit.network(kit.Reply(body, status, headers)))
    with kit.cassette("once"):
        recorded = await _retry_after(provider, kit.network(kit.Reply(body, status, headers)))
    assert recorded[0] == expected
    assert recorded == (live[0] if expected is None else pytest.approx(live[0], abs=30), live[1])
    for settings in ({}, {"retry_after": "keep"}, {"pace": 1e-6}):
        with kit.cassette(**settings):
            assert await _retry_after(provider) == recorded


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_a_date_to_wait_for_is_recorded_as_seconds(kit: Kit, library: str) -> None:
    """A date of the future in `retry-after` is recorded as seconds, so that it is not past when it is played."""
    module: Any = {"httpx2": httpx2, "httpx": httpx}[library]
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    network = kit.network(kit.Reply([b"{}"], 429, {"retry-after": date}), library=library)
    with kit.cassette("once"), module.Client(transport=network) as client:
        assert client.get(URL).headers["retry-after"] == date
    with kit.cassette(retry_after="keep"), module.Client() as client:
        assert float(client.get(URL).headers["retry-after"]) == pytest.approx(60, abs=30)


@pytest.mark.parametrize("setting", ["skip", "keep"])
def test_an_agent_waits_for_a_retry_only_where_waits_are_kept(tmp_path: Path, setting: Any) -> None:
    """With `retry_after="keep"`, an agent waits the recorded time before it retries a played 429, with "skip" none.

    The error has the recorded time in both cases.
    """
    url = "https://api.openai.com/v1/chat/completions"
    refusal = ResponseStream(status=429, headers={"retry-after": ["30"]})
    body = b'{"messages":[{"role":"user","content":"Hi"}],"model":"m","stream":true}'
    save(tmp_path / "c.yaml", [Interaction("POST", url, body, refusal)] * 3)

    async def ask() -> float:
        now = asyncio.get_running_loop().time
        agent = create_openai_agent("m", async_client=openai.AsyncOpenAI(api_key="none"))
        started = now()
        async with MiniAgents():
            with pytest.raises(LLMError) as caught:
                await agent.trigger("Hi")
        assert caught.value.retry_after == 30
        return now() - started

    with use_cassette(tmp_path / "c.yaml", retry_after=setting):
        waited = run_in_virtual_time(ask())
    assert waited == pytest.approx(60 if setting == "keep" else 0, abs=0.1)
