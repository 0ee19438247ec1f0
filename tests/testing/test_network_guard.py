"""The guard against live requests: refused and allowed access, and the report of refusals that were caught."""

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
"""An address that is reserved for documentation (RFC 5737)."""


def ask_openai() -> None:
    """Send a request through OpenAI's client, which retries twice by default."""
    with openai.OpenAI(api_key="none") as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])


async def ask_openai_async() -> None:
    """Send a request through OpenAI's async client."""
    async with openai.AsyncOpenAI(api_key="none") as client:
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])


def ask_anthropic() -> None:
    """Send a request through Anthropic's client, which retries twice by default."""
    with anthropic.Anthropic(api_key="none") as client:
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])


async def ask_anthropic_async() -> None:
    """Send a request through Anthropic's async client."""
    async with anthropic.AsyncAnthropic(api_key="none") as client:
        await client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])


async def ask_httpx_async() -> None:
    """Send a request through httpx, the other HTTP library."""
    async with httpx.AsyncClient() as client:
        await client.get("https://api.example.com/v1?key=secret")


@pytest.mark.parametrize(
    ("send", "request_line"),
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
def test_X13_requests_are_refused_with_their_url(send: Callable[[], Any], request_line: str) -> None:
    """Within the guard, a request raises a `LiveRequestError` with the line of code, and the URL without its query."""
    with pytest.raises(LiveRequestError) as caught, block_live_requests() as guard:
        send()
    assert str(caught.value).startswith(
        f"{request_line} was about to be sent, while live requests are blocked:\n    File"
    )
    assert f'File "{__file__}"' in str(caught.value)
    assert not guard.refused


@pytest.mark.parametrize(
    ("send", "what"),
    [
        (lambda: socket.create_connection((OUTSIDE, 443)), f"A connection to {OUTSIDE} port 443"),
        (lambda: socket.getaddrinfo("api.example.com", 443), "The address of api.example.com"),
        (lambda: socket.gethostbyname("api.example.com"), "The address of api.example.com"),
        (lambda: asyncio.run(asyncio.open_connection("api.example.com", 443)), "The address of api.example.com"),
        (lambda: asyncio.run(asyncio.open_connection(OUTSIDE, 443)), f"A connection to {OUTSIDE} port 443"),
    ],
    ids=["connect", "getaddrinfo", "gethostbyname", "asyncio name", "asyncio"],
)
def test_X13_other_connections_and_lookups_are_refused(send: Callable[[], Any], what: str) -> None:
    """Within the guard, connections and name look-ups of any library raise an error."""
    with pytest.raises(LiveRequestError, match=re.escape(f"{what}")), block_live_requests():
        send()


def test_X13_datagrams_are_refused() -> None:
    """Within the guard, sending a datagram, which needs no connection, raises an error."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock, block_live_requests() as guard:
        with pytest.raises(LiveRequestError, match=r"A datagram to 192\.0\.2\.1 port 53") as caught:
            sock.sendto(b"x", (OUTSIDE, 53))
        guard.mark_seen(caught.value)
        with pytest.raises(LiveRequestError, match=r"A message to 192\.0\.2\.1 port 53") as caught:
            sock.sendmsg([b"x"], [], 0, (OUTSIDE, 53))
        guard.mark_seen(caught.value)


def test_refusal_names_the_agent_and_its_callers() -> None:
    """The guard's error passes through agents unchanged, and names the agent that sent the request and its callers."""

    @miniagent
    async def boss(ctx: InteractionContext, client: openai.AsyncOpenAI) -> None:
        ctx.reply(create_openai_agent(model="m", async_client=client).trigger("hello"))

    async def main() -> None:
        async with openai.AsyncOpenAI(api_key="none") as client:
            await boss.trigger(client=client)

    with pytest.raises(LiveRequestError, match=r"by agent OPENAI_AGENT <- BOSS\n"), block_live_requests():
        MiniAgents().run(main())


def test_X13_a_refusal_is_raised_at_the_end_when_the_application_caught_it() -> None:
    """If an application catches the errors of refused requests, the guard's block ends with an error listing them."""
    with pytest.raises(LiveRequestError, match=r"refusal was caught \(2\):\nPOST https://api.openai.com") as caught:
        with block_live_requests():
            for _ in range(2):
                with suppress(openai.OpenAIError):
                    ask_openai()
    assert str(caught.value).count(f'File "{__file__}"') == 2


def test_refusal_is_not_reported_again_when_it_caused_another_error() -> None:
    """If a refusal is the cause of the error that leaves the block, the guard adds no note to this error."""
    with pytest.raises(ExceptionGroup) as caught, block_live_requests():
        try:
            ask_openai()
        except openai.OpenAIError as error:
            raise ExceptionGroup("all went wrong", [LLMError("no answer")]) from error
    assert not hasattr(caught.value, "__notes__")


def ask_openai_and_ignore_the_error() -> None:
    """Send a request through OpenAI's client, and catch the refusal."""
    with suppress(openai.OpenAIError):
        ask_openai()


def test_unrelated_error_has_a_note_about_refusals_before_it() -> None:
    """An error that leaves the guard's block has a note about refusals that another thread caught before."""
    with pytest.raises(KeyError) as caught, block_live_requests():
        thread = threading.Thread(target=ask_openai_and_ignore_the_error)
        thread.start()
        thread.join()
        raise KeyError("answer")
    assert "POST https://api.openai.com/v1/chat/completions" in caught.value.__notes__[0]


@pytest.fixture
def port() -> Iterator[int]:
    """Return the port of a server on this machine that accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_connections_to_this_machine_are_refused_unless_allowed(port: int) -> None:
    """A local server is refused by default, and can be reached with `allow_loopback`."""
    with pytest.raises(LiveRequestError, match=f"A connection to 127.0.0.1 port {port}"), block_live_requests():
        socket.create_connection(("localhost", port))
    with block_live_requests(allow_loopback=True):
        socket.create_connection(("localhost", port)).close()
        socket.create_connection(("::ffff:127.0.0.1", port)).close()


def test_request_through_a_proxy_on_this_machine_is_refused(port: int) -> None:
    """A request through a proxy on this machine is refused because of its own host, even if loopback is allowed."""
    with (
        pytest.raises(LiveRequestError, match=r"GET https://api\.example\.com/ was about"),
        block_live_requests(allow_loopback=True),
    ):
        httpx2.get("https://api.example.com/", proxy=f"http://127.0.0.1:{port}")


def test_request_on_an_open_connection_is_refused() -> None:
    """A request on a connection that the client opened before the block does not reach the server."""
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


def test_trace_of_the_application_still_gets_all_events(port: int) -> None:
    """Under the guard, a `trace` function of an httpx2 request gets the events of connecting, sending and receiving."""
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


def test_local_work_is_not_refused(port: int) -> None:
    """Mock transports, pairs of sockets, event loops, files, local names and subprocesses work inside the block."""
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
        if hasattr(socket, "_fallback_socketpair"):  # makes pairs of sockets on systems without them
            for end in socket._fallback_socketpair():
                end.close()
    assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout.strip() == b"1"


def test_innermost_guard_decides_and_the_last_one_restores_the_transports(port: int) -> None:
    """The innermost of nested guards decides; after the last one, connections work and transports are restored."""
    before = httpx2.AsyncHTTPTransport.handle_async_request, httpx2.HTTPTransport.handle_request
    with block_live_requests():
        with block_live_requests(allow_loopback=True):
            socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(LiveRequestError), block_live_requests():
            socket.create_connection(("127.0.0.1", port))
    socket.create_connection(("127.0.0.1", port)).close()
    assert before == (httpx2.AsyncHTTPTransport.handle_async_request, httpx2.HTTPTransport.handle_request)
