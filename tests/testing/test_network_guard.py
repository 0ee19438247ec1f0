"""The guard: what it refuses, what it lets through, and that nobody can hide a refusal."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from miniagents import InteractionContext, LLMError, MiniAgents, miniagent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing._network_guard import block_live_requests
from miniagents_testing.errors import LiveRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUTSIDE = "192.0.2.1"
"""An address that is nobody's (RFC 5737)."""


def ask_openai() -> None:
    """Through OpenAI's client, which would try three times."""
    with openai.OpenAI(api_key="none") as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])


async def ask_openai_async() -> None:
    """As above."""
    async with openai.AsyncOpenAI(api_key="none") as client:
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])


def ask_anthropic() -> None:
    """Through Anthropic's client, which would try three times."""
    with anthropic.Anthropic(api_key="none") as client:
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])


async def ask_anthropic_async() -> None:
    """As above."""
    async with anthropic.AsyncAnthropic(api_key="none") as client:
        await client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])


async def ask_httpx_async() -> None:
    """Through the other HTTP library."""
    async with httpx.AsyncClient() as client:
        await client.get("https://api.example.com/v1?key=secret")


@pytest.mark.parametrize(
    ("way", "request_line"),
    [
        (ask_openai, "POST https://api.openai.com/v1/chat/completions"),
        (lambda: asyncio.run(ask_openai_async()), "POST https://api.openai.com/v1/chat/completions"),
        (ask_anthropic, "POST https://api.anthropic.com/v1/messages"),
        (lambda: asyncio.run(ask_anthropic_async()), "POST https://api.anthropic.com/v1/messages"),
        (lambda: httpx2.get("https://api.example.com/v1?key=secret"), "GET https://api.example.com/v1"),
        (lambda: httpx.get("https://api.example.com/v1?key=secret"), "GET https://api.example.com/v1"),
        (lambda: asyncio.run(ask_httpx_async()), "GET https://api.example.com/v1"),
    ],
    ids=["openai", "openai async", "anthropic", "anthropic async", "httpx2", "httpx", "httpx async"],
)
def test_X13_requests_are_refused_with_their_url(way: Callable[[], Any], request_line: str) -> None:
    """Once, as it is, and without the query, which may hold a key; the line that led there is told."""
    with pytest.raises(LiveRequestError) as caught, block_live_requests() as guard:
        way()
    assert str(caught.value).startswith(
        f"{request_line} was about to be sent, while live requests are blocked:\n    File"
    )
    assert f'File "{__file__}"' in str(caught.value)
    assert not guard.refused


@pytest.mark.parametrize(
    ("way", "what"),
    [
        (lambda: socket.create_connection((OUTSIDE, 443)), f"A connection to {OUTSIDE} port 443"),
        (lambda: socket.getaddrinfo("api.example.com", 443), "The address of api.example.com"),
        (lambda: socket.gethostbyname("api.example.com"), "The address of api.example.com"),
        (lambda: asyncio.run(asyncio.open_connection("api.example.com", 443)), "The address of api.example.com"),
        (lambda: asyncio.run(asyncio.open_connection(OUTSIDE, 443)), f"A connection to {OUTSIDE} port 443"),
    ],
    ids=["connect", "getaddrinfo", "gethostbyname", "asyncio name", "asyncio"],
)
def test_X13_everything_else_is_refused_too(way: Callable[[], Any], what: str) -> None:
    """By the interpreter itself, whichever library it is; look-ups of names as well, in whatever thread."""
    with pytest.raises(LiveRequestError, match=re.escape(f"{what}")), block_live_requests():
        way()


def test_X13_datagrams_are_refused() -> None:
    """Those of statsd, of DNS, and of whoever else does without a connection."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock, block_live_requests() as guard:
        with pytest.raises(LiveRequestError, match=r"A datagram to 192\.0\.2\.1 port 53") as caught:
            sock.sendto(b"x", (OUTSIDE, 53))
        guard.mark_seen(caught.value)
        with pytest.raises(LiveRequestError, match=r"A message to 192\.0\.2\.1 port 53") as caught:
            sock.sendmsg([b"x"], [], 0, (OUTSIDE, 53))
        guard.mark_seen(caught.value)


def test_an_agent_is_told_with_its_callers() -> None:
    """The error comes out of the agents as it is, and says on whose behalf the request was made."""

    @miniagent
    async def boss(ctx: InteractionContext, client: openai.AsyncOpenAI) -> None:
        ctx.reply(create_openai_agent(model="m", async_client=client).trigger("hello"))

    async def main() -> None:
        async with openai.AsyncOpenAI(api_key="none") as client:
            await boss.trigger(client=client)

    with pytest.raises(LiveRequestError, match=r"by agent OPENAI_AGENT <- BOSS\n"), block_live_requests():
        MiniAgents().run(main())


def test_X13_a_refusal_that_was_caught_comes_up_at_the_end() -> None:
    """An application that goes on without its answer must not pass its test."""
    with pytest.raises(LiveRequestError, match=r"refusal was caught \(2\):\nPOST https://api.openai.com") as caught:
        with block_live_requests():
            for _ in range(2):
                with suppress(openai.OpenAIError):
                    ask_openai()
    assert str(caught.value).count(f'File "{__file__}"') == 2


def test_a_refusal_that_was_wrapped_is_seen() -> None:
    """It comes out as the cause of another error: once is enough."""
    with pytest.raises(ExceptionGroup) as caught, block_live_requests():
        try:
            ask_openai()
        except openai.OpenAIError as error:
            raise ExceptionGroup("all went wrong", [LLMError("no answer")]) from error
    assert not hasattr(caught.value, "__notes__")


def ask_in_vain() -> None:
    """For a thread."""
    with suppress(openai.OpenAIError):
        ask_openai()


def test_another_error_tells_of_the_refusals_before_it() -> None:
    """They may be why."""
    with pytest.raises(KeyError) as caught, block_live_requests():
        thread = threading.Thread(target=ask_in_vain)
        thread.start()
        thread.join()
        raise KeyError("answer")
    assert "POST https://api.openai.com/v1/chat/completions" in caught.value.__notes__[0]


@pytest.fixture
def port() -> Iterator[int]:
    """A server on this machine that accepts and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_this_machine_is_outside_too_unless_it_is_allowed(port: int) -> None:
    """A forgotten local model is as live as any other."""
    with pytest.raises(LiveRequestError, match=f"A connection to 127.0.0.1 port {port}"), block_live_requests():
        socket.create_connection(("localhost", port))
    with block_live_requests(allow_loopback=True):
        socket.create_connection(("localhost", port)).close()
        socket.create_connection(("::ffff:127.0.0.1", port)).close()


def test_a_proxy_on_this_machine_is_no_way_out(port: int) -> None:
    """What counts is where a request goes in the end."""
    with (
        pytest.raises(LiveRequestError, match=r"GET https://api\.example\.com/ was about"),
        block_live_requests(allow_loopback=True),
    ):
        httpx2.get("https://api.example.com/", proxy=f"http://127.0.0.1:{port}")


def test_a_connection_from_before_is_no_way_out() -> None:
    """One that a client has kept open: the request on it is refused."""
    received: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server, httpx2.Client() as client:

        def serve() -> None:
            connection, _ = server.accept()
            with closing(connection):
                while request := connection.recv(10_000):
                    received.append(request)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert client.get(url).status_code == 200
        with pytest.raises(LiveRequestError, match=f"GET {url} was about to be sent"), block_live_requests():
            client.get(url)
        thread.join()
    assert len(received) == 1


def test_who_traces_requests_still_does(port: int) -> None:
    """A trace of the application's own hears what it would hear without the guard."""
    events: list[str] = []
    with (
        pytest.raises(httpx2.ReadTimeout),
        block_live_requests(allow_loopback=True),
        httpx2.Client(timeout=0.05) as client,
    ):
        client.get(
            f"http://localhost:{port}/", extensions={"trace": lambda event, info: events.append(event.split(".")[1])}
        )
    assert [event for event in dict.fromkeys(events) if event.startswith(("connect", "send", "receive"))] == [
        "connect_tcp",
        "send_request_headers",
        "send_request_body",
        "receive_response_headers",
    ]


def test_what_answers_without_the_network_is_not_disturbed(port: int) -> None:
    """Transports that play, apps in this process, pairs of sockets, files, this machine's name; and other processes."""
    with block_live_requests():
        mock = httpx2.MockTransport(lambda request: httpx2.Response(200, text="played"))
        with httpx2.Client(transport=mock) as client:
            assert client.get("https://api.example.com/").text == "played"
        for end in socket.socketpair():
            end.close()
        assert asyncio.run(asyncio.sleep(0, "a loop with its pipe")) == "a loop with its pipe"
        assert socket.getaddrinfo("127.0.0.1", port)
        assert socket.getaddrinfo("localhost", port)
        with closing(socket.socket(socket.AF_UNIX)) as sock, pytest.raises(FileNotFoundError):
            sock.connect("/nowhere")
        if hasattr(socket, "_fallback_socketpair"):  # how pairs are made where the system has none
            for end in socket._fallback_socketpair():
                end.close()
    assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout.strip() == b"1"


def test_belts_nest_and_come_off(port: int) -> None:
    """The innermost decides; after the last one everything is as before."""
    before = httpx2.AsyncHTTPTransport.handle_async_request, httpx2.HTTPTransport.handle_request
    with block_live_requests():
        with block_live_requests(allow_loopback=True):
            socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(LiveRequestError), block_live_requests():
            socket.create_connection(("127.0.0.1", port))
    socket.create_connection(("127.0.0.1", port)).close()
    assert before == (httpx2.AsyncHTTPTransport.handle_async_request, httpx2.HTTPTransport.handle_request)
