"""The local provider server, used by both real SDKs over a real socket."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest
from recorded_script import recorded

from miniagents import MiniAgents, UserMessage
from miniagents.errors import StreamBrokenError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import Failure, ProviderServer, ScriptedLLM, Step
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream
from miniagents_testing.errors import UnconsumedStepsError, UnexpectedCallError
from miniagents_testing.recut import byte_by_byte

if TYPE_CHECKING:
    from miniagents_testing._script import Call

TEXT = "Hello, wörld 😀!\n\nTwo  spaces. "
CALLS: Any = [("get_weather", {"city": "Paris"}), ("get_time", {})]
CHAT_BODY = b'data: {"choices":[{"index":0,"delta":{"content":"Said"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
EVERY_WAY = [
    pytest.param(api, streamed, sync, id=f"{api}-{'streamed' if streamed else 'whole'}-{'sync' if sync else 'async'}")
    for api, streamed, sync in itertools.product(("chat", "responses", "messages"), (True, False), (True, False))
]
NEVER = 3600.0
"""A wait in seconds that is longer than any test."""


def _openai(server: ProviderServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url=server.openai_base_url, max_retries=0)


# --- answers


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_sdk_gets_text_reasoning_and_tool_calls_of_a_step(
    sdks: Any, api: str, streamed: bool, sync: bool
) -> None:
    """Over a real socket, each SDK reads text, reasoning and tool calls of a step, sync or async, streamed or whole."""
    step = Step(TEXT, reasoning="Let me think.", tool_calls=CALLS)
    async with ProviderServer([step]) as server:
        said = await sdks.ask(api, streamed=streamed, sync=sync, url=server.url)
        server.assert_complete()
    assert (said.text, said.reasoning, said.tool_calls) == (TEXT, "Let me think.", CALLS)


async def test_stream_arrives_in_many_events() -> None:
    """Text arrives in more than three deltas, with finish reason and usage; `last_call` has model and messages."""
    async with ProviderServer([TEXT]) as server, _openai(server) as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="gpt-4",
                messages=[{"role": "user", "content": "Hi"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == TEXT
    assert sum(map(bool, texts)) > 3
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert (server.last_call.model, server.last_call.messages) == ("gpt-4", (UserMessage("Hi"),))


async def test_requests_get_the_steps_in_order_and_an_error_after_the_last() -> None:
    """Requests get the steps in order; one more request fails without retries, and `assert_complete` raises for it."""
    async with ProviderServer(["one", "two"]) as server, _openai(server) as client:
        texts = []
        for _ in range(2):
            answer = await client.responses.create(model="m", input="Hi")
            texts.append(answer.output_text)
        assert texts == ["one", "two"]
        with pytest.raises(openai.InternalServerError, match=r"call 3\), and no step is left"):
            await client.with_options(max_retries=2).responses.create(model="m", input="Hi")
        assert len(server.calls) == 3
        with pytest.raises(UnexpectedCallError, match=r"\(call 3\)"):
            server.assert_complete()


async def test_chunk_does_not_wait_until_the_client_has_got_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of the server send small chunks at once: else each would wait up to 40 ms for an acknowledgement."""
    options: list[int] = []
    accept = socket.socket.accept

    def accepting(listener: socket.socket) -> tuple[socket.socket, Any]:
        connection, address = accept(listener)
        options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return connection, address

    monkeypatch.setattr(socket.socket, "accept", accepting)
    async with ProviderServer(["Hi"]) as server, _openai(server) as client:
        await client.responses.create(model="m", input="Hi")
    assert options
    assert all(options)


_MESSAGE: Any = {"role": "user", "content": "Hi"}
_ASKED_WITH_WRONG_URLS: dict[str, Any] = {
    "chat": (openai, "", lambda client: client.chat.completions.create(model="m", messages=[_MESSAGE])),
    "chat twice": (openai, "/v1/v1", lambda client: client.chat.completions.create(model="m", messages=[_MESSAGE])),
    "responses": (openai, "", lambda client: client.responses.create(model="m", input="Hi")),
    "models": (openai, "", lambda client: client.models.list()),
    "messages": (anthropic, "/v1", lambda client: client.messages.create(model="m", max_tokens=9, messages=[_MESSAGE])),
    "models twice": (anthropic, "/v1", lambda client: client.models.list()),
}
"""The SDK, the path of a wrong base URL, and a request."""


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("sdk", "path", "ask"), _ASKED_WITH_WRONG_URLS.values(), ids=_ASKED_WITH_WRONG_URLS)
async def test_client_with_a_wrong_base_url_gets_404_and_the_right_one(
    sdk: Any, path: str, ask: Any, *, is_async: bool
) -> None:
    """A base URL without the version, or with it twice, gets the status 404; the message has the right URLs."""
    async with ProviderServer(["Hi"]) as server:
        wrong = {"api_key": "none", "base_url": f"{server.url}{path}"}
        said = (
            f"the base URL of OpenAI's clients is {server.openai_base_url}, "
            f"and that of Anthropic's is {server.anthropic_base_url}"
        )
        with pytest.raises(sdk.NotFoundError, match=said):
            if is_async:
                async with (sdk.AsyncOpenAI if sdk is openai else sdk.AsyncAnthropic)(**wrong) as client:
                    await ask(client)
            else:
                with (sdk.OpenAI if sdk is openai else sdk.Anthropic)(**wrong) as client:
                    await asyncio.to_thread(ask, client)
        assert server.calls == ()


async def test_server_answers_the_paths_of_other_clients() -> None:
    """The server answers Azure's client, whose paths have another beginning."""
    async with (
        ProviderServer(["Hi"]) as server,
        openai.AsyncAzureOpenAI(api_key="none", azure_endpoint=server.url, api_version="2024-10-21") as client,
    ):
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "Hi"


def test_assert_complete_raises_when_steps_are_left() -> None:
    """`assert_complete` of a server raises an error when fewer requests came than the script has steps."""
    with (
        ProviderServer(["never asked for"]) as server,
        pytest.raises(UnconsumedStepsError, match="1 step was not used"),
    ):
        server.assert_complete()


async def test_server_answers_from_a_scripted_model() -> None:
    """A server that is given a `ScriptedLLM` answers with its script, and has the same `calls`."""
    llm = ScriptedLLM(lambda call: call.text.upper())
    async with ProviderServer(llm) as server, _openai(server) as client:
        answer = await client.responses.create(model="m", input="hi")
    assert answer.output_text == "HI"
    assert server.calls == llm.calls


async def test_overlay_changes_the_chunks() -> None:
    """With an overlay that cuts the response byte by byte, the client still reads the same text."""
    async with ProviderServer([TEXT], overlay=byte_by_byte) as server, _openai(server) as client:
        async with client.responses.stream(model="m", input="Hi") as stream:
            assert (await stream.get_final_response()).output_text == TEXT


async def test_held_answer_goes_on_when_it_is_released() -> None:
    """The client of a held answer gets the tokens before the hold at once, and the others after `release`."""
    async with ProviderServer([Step(["a", "b"], after=1, then="hold")]) as server, _openai(server) as client:
        seen = []
        async for chunk in await client.chat.completions.create(model="m", messages=[], stream=True):
            seen.append(chunk.choices[0].delta.content)
            if seen[-1] == "a":
                server.release()
    assert seen == ["", "a", "b", None]


# --- failures


@pytest.mark.parametrize("stream", [True, False])
async def test_failure_is_sent_with_its_headers(stream: bool) -> None:
    """A scripted rate limit reaches the SDK as its error, with the `retry-after` header."""
    failure = Failure(429, "Too fast", headers={"retry-after": "7"})
    async with ProviderServer([failure]) as server, _openai(server) as client:
        with pytest.raises(openai.RateLimitError, match="Too fast") as caught:
            await client.chat.completions.create(model="m", messages=[], stream=stream)
    assert caught.value.response.headers["retry-after"] == "7"


async def test_connection_is_reset_in_the_middle_of_an_answer() -> None:
    """With a reset in the script, the client gets all bytes before the reset, and then a socket error."""
    async with ProviderServer([Step(["a", "b", "c"], after=2, then="reset")] * 2) as server:
        received = b""
        async with httpx2.AsyncClient() as client:
            url, request = f"{server.openai_base_url}/responses", {"stream": True, "input": "Hi"}
            async with client.stream("POST", url, json=request) as response:
                with pytest.raises(httpx2.ReadError):
                    async for chunk in response.aiter_raw():
                        received += chunk
        assert b'"delta":"b"' in received
        assert b'"delta":"c"' not in received
        async with _openai(server) as openai_client, MiniAgents():
            agent = create_openai_agent("m", async_client=openai_client)
            with pytest.raises(StreamBrokenError) as caught:
                await agent.trigger("Hi")
        assert caught.value.partial.content == "ab"


async def test_truncated_stream_ends_without_the_last_event() -> None:
    """With a truncation in the script, the connection ends normally, but without the final event of the API."""
    async with ProviderServer([Step("one two", after=1, then="truncate")]) as server, httpx2.AsyncClient() as client:
        response = await client.post(f"{server.anthropic_base_url}/v1/messages", json={"stream": True, "messages": []})
    assert "one" in response.text
    assert "message_stop" not in response.text


async def test_exception_of_a_script_reaches_the_client() -> None:
    """A scripted network error breaks the connection; another exception becomes a status that clients do not retry."""
    recorded_failure = ResponseStream(status=0, end="raise ConnectError: no route", complete=False)
    network_errors: list[Any] = [ConnectionError("no route"), httpx2.ReadTimeout("late"), recorded_failure]
    async with ProviderServer([*network_errors, KeyError("k")]) as server:
        async with _openai(server) as client:
            for _ in network_errors:
                with pytest.raises(openai.APIConnectionError):
                    await client.responses.create(model="m", input="Hi")
            with pytest.raises(openai.InternalServerError, match="the script raises KeyError"):
                await client.with_options(max_retries=2).responses.create(model="m", input="Hi")
        server.assert_complete()


async def test_server_answers_others_after_a_client_has_left() -> None:
    """A client that leaves in the middle of an answer does not block the next request."""
    async with ProviderServer([Step("one two", after=1, then="stall"), "next"]) as server:
        async with httpx2.AsyncClient() as client:
            url = f"{server.openai_base_url}/responses"
            async with client.stream("POST", url, json={"stream": True, "input": "Hi"}) as response:
                async for _ in response.aiter_raw():
                    break
            assert "next" in (await client.post(url, json={"input": "Hi"})).text


# --- stopping


@pytest.mark.parametrize(
    "step",
    [
        Step("a b", after=1, then="stall"),
        Step("a b", after=0, then="hold"),
        Step("a b", gap=NEVER),
        Step("a b", first_wait=NEVER),
        Failure(500, first_wait=NEVER),
    ],
    ids=["stall", "hold", "gap", "first_wait", "failure"],
)
def test_server_stops_in_the_middle_of_an_answer(step: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Leaving `with` while an answer is sent stops the server, and leaves no thread, socket or log entry."""
    threads = set(threading.enumerate())
    asked = threading.Event()

    def answer(call: Call) -> Any:
        asked.set()
        return step

    with ProviderServer(answer) as server:
        asking = threading.Thread(target=_expect_a_network_error, args=(f"{server.openai_base_url}/chat/completions",))
        asking.start()
        asked.wait()
    asking.join()
    assert set(threading.enumerate()) <= threads  # others, of earlier tests, may have ended
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(server.url)


def _expect_a_network_error(url: str) -> None:
    with pytest.raises(httpx2.TransportError):
        httpx2.post(url, json={"stream": True}, timeout=None)


# --- recordings


def _interaction(text: str, path: str = "chat/completions", prompt: str = "Hi") -> Interaction:
    body = CHAT_BODY.replace(b"Said", text.encode())
    request = f'{{"messages": [{{"role": "user", "content": "{prompt}"}}], "model": "m", "stream": true}}'.encode()
    headers = {"content-type": ["text/event-stream"], "transfer-encoding": ["chunked"], "content-length": ["7"]}
    response = ResponseStream((Chunk(0, body),), headers=headers)
    return Interaction("POST", f"https://api.openai.com/v1/{path}", request, response)


async def _ask(client: openai.AsyncOpenAI, prompt: str) -> str:
    messages: Any = [{"role": "user", "content": prompt}]
    chunks = await client.chat.completions.create(model="m", messages=messages, stream=True)
    return "".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices])


async def test_recordings_answer_their_own_requests() -> None:
    """A server with recordings answers a request with the response recorded for it, equal ones in recorded order."""
    script = recorded([_interaction("one"), _interaction("other", prompt="Ho"), _interaction("two")])
    async with ProviderServer(script) as server, _openai(server) as client:
        assert [await _ask(client, prompt) for prompt in ("Ho", "Hi", "Hi")] == ["other", "one", "two"]


@pytest.mark.parametrize(
    ("prompt", "why"),
    [("Hu", r"messages\[0\].content: recorded 'Hi', now 'Hu'"), ("Hi", "the same request was answered already")],
)
async def test_request_without_a_recording_is_refused(prompt: str, why: str) -> None:
    """A server with recordings answers an unknown or used-up request with status 500 and a text that says why."""
    async with ProviderServer(recorded([_interaction("one"), _interaction("x", "responses")])) as server:
        async with _openai(server) as client:
            assert await _ask(client, "Hi") == "one"
            with pytest.raises(openai.InternalServerError, match=why):
                await _ask(client, prompt)


async def test_recorded_responses_as_a_script_answer_in_their_order() -> None:
    """A server with a list of recorded responses answers any requests with them, in order."""
    script = [_interaction("one").response, _interaction("two").response]
    async with ProviderServer(script) as server, _openai(server) as client:
        assert [await _ask(client, prompt) for prompt in ("What", "ever")] == ["one", "two"]


# --- the command


async def test_model_list_can_be_read_by_both_sdks() -> None:
    """Both SDKs can list the models of the server, which has one."""
    async with ProviderServer([]) as server, _openai(server) as client:
        assert [model.id async for model in client.models.list()] == ["scripted-model"]
        async with anthropic.AsyncAnthropic(api_key="none", base_url=server.anthropic_base_url) as other:
            assert [model.id async for model in other.models.list()] == ["scripted-model"]
