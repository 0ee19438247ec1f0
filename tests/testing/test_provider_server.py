"""The local provider: both real SDKs take it for theirs, over a real socket."""

from __future__ import annotations

import itertools
import logging
import re
import signal
import subprocess
import sys
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
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save
from miniagents_testing.errors import UnconsumedStepsError, UnexpectedCallError
from miniagents_testing.recut import byte_by_byte

if TYPE_CHECKING:
    from pathlib import Path

    from miniagents_testing._script import Call

TEXT = "Hello, wörld 😀!\n\nTwo  spaces. "
CALLS: Any = [("get_weather", {"city": "Paris"}), ("get_time", {})]
CHAT_BODY = b'data: {"choices":[{"index":0,"delta":{"content":"Said"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
EVERY_WAY = [
    pytest.param(api, streamed, sync, id=f"{api}-{'streamed' if streamed else 'whole'}-{'sync' if sync else 'async'}")
    for api, streamed, sync in itertools.product(("chat", "responses", "messages"), (True, False), (True, False))
]
NEVER = 3600.0
"""Seconds that no test has."""


def _openai(server: ProviderServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url=server.openai_base_url, max_retries=0)


# --- answers


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_all_that_a_step_says_arrives(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """Over a socket as without one."""
    step = Step(TEXT, reasoning="Let me think.", tool_calls=CALLS)
    async with ProviderServer([step]) as server:
        said = await sdks.ask(api, streamed=streamed, sync=sync, url=server.url)
        server.assert_complete()
    assert (said.text, said.reasoning, said.tool_calls) == (TEXT, "Let me think.", CALLS)


async def test_a_stream_comes_event_by_event() -> None:
    """Deltas join to the text; finish reason and usage come as from OpenAI."""
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


async def test_requests_on_one_connection_get_their_steps() -> None:
    """A script that is exhausted, or not used up, is noticed by both sides."""
    async with ProviderServer(["one", "two"]) as server, _openai(server) as client:
        texts = []
        for _ in range(2):
            answer = await client.responses.create(model="m", input="Hi")
            texts.append(answer.output_text)
        assert texts == ["one", "two"]
        with pytest.raises(openai.BadRequestError, match=r"call 3 .* was not expected"):
            await client.with_options(max_retries=2).responses.create(model="m", input="Hi")
        assert len(server.calls) == 3
        with pytest.raises(UnexpectedCallError, match="call 3 "):
            server.assert_complete()


def test_answers_left_over_are_an_error() -> None:
    """Fewer requests than scripted is a fault too."""
    with ProviderServer(["never asked for"]) as server, pytest.raises(UnconsumedStepsError, match="1 of 1 steps"):
        server.assert_complete()


async def test_a_scripted_model_can_stand_behind_it() -> None:
    """One script for a server and for agents without one."""
    llm = ScriptedLLM(lambda call: call.text.upper())
    async with ProviderServer(llm) as server, _openai(server) as client:
        answer = await client.responses.create(model="m", input="hi")
    assert answer.output_text == "HI"
    assert server.calls == llm.calls


async def test_chunks_are_cut_as_one_says() -> None:
    """Not one byte is different."""
    async with ProviderServer([TEXT], overlay=byte_by_byte) as server, _openai(server) as client:
        async with client.responses.stream(model="m", input="Hi") as stream:
            assert (await stream.get_final_response()).output_text == TEXT


async def test_a_held_answer_goes_on_when_it_is_released() -> None:
    """What came before the hold is with the client while the rest is not sent yet."""
    async with ProviderServer([Step(["a", "b"], after=1, then="hold")]) as server, _openai(server) as client:
        seen = []
        async for chunk in await client.chat.completions.create(model="m", messages=[], stream=True):
            seen.append(chunk.choices[0].delta.content)
            if seen[-1] == "a":
                server.release()
    assert seen == ["", "a", "b", None]


# --- what goes wrong


@pytest.mark.parametrize("stream", [True, False])
async def test_failures_come_with_their_headers(stream: bool) -> None:
    """A rate limit says how long to wait, as it does with a provider."""
    failure = Failure(429, "Too fast", headers={"retry-after": "7"})
    async with ProviderServer([failure]) as server, _openai(server) as client:
        with pytest.raises(openai.RateLimitError, match="Too fast") as caught:
            await client.chat.completions.create(model="m", messages=[], stream=stream)
    assert caught.value.response.headers["retry-after"] == "7"


async def test_a_connection_is_reset_in_the_middle() -> None:
    """The client has all that came before, and then the error of a socket; nothing pretends to be an end."""
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


async def test_a_truncated_stream_ends_as_if_it_were_whole() -> None:
    """Only the provider's last word is missing."""
    async with ProviderServer([Step("one two", after=1, then="truncate")]) as server, httpx2.AsyncClient() as client:
        response = await client.post(f"{server.anthropic_base_url}/v1/messages", json={"stream": True, "messages": []})
    assert "one" in response.text
    assert "message_stop" not in response.text


async def test_exceptions_of_a_script_are_told_to_the_client() -> None:
    """Network errors break the connection, others are a status that no client repeats."""
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


async def test_a_client_that_leaves_is_not_waited_for() -> None:
    """The server goes on with others."""
    async with ProviderServer([Step("one two", after=1, then="stall"), "next"]) as server:
        async with httpx2.AsyncClient() as client:
            url = f"{server.openai_base_url}/responses"
            async with client.stream("POST", url, json={"stream": True, "input": "Hi"}) as response:
                async for _ in response.aiter_raw():
                    break
            assert "next" in (await client.post(url, json={"input": "Hi"})).text


# --- the end


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
def test_a_server_stops_in_the_middle_of_an_answer(step: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Leaving `with` waits for no answer; no thread, no socket and no complaint in the log is left."""
    threads = threading.active_count()
    asked = threading.Event()

    def answer(call: Call) -> Any:
        asked.set()
        return step

    with ProviderServer(answer) as server:
        asking = threading.Thread(target=_ask_in_vain, args=(f"{server.openai_base_url}/chat/completions",))
        asking.start()
        asked.wait()
    asking.join()
    assert threading.active_count() == threads
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(server.url)


def _ask_in_vain(url: str) -> None:
    with pytest.raises(httpx2.TransportError):
        httpx2.post(url, json={"stream": True}, timeout=None)


# --- recordings


def _interaction(text: str, path: str = "chat/completions", prompt: str = "Hi") -> Interaction:
    body = CHAT_BODY.replace(b"Said", text.encode())
    request = f'{{"messages": [{{"role": "user", "content": "{prompt}"}}], "model": "m", "stream": true}}'.encode()
    headers = {"content-type": ["text/event-stream"], "transfer-encoding": ["chunked"], "content-length": ["7"]}
    response = ResponseStream((Chunk(0, body),), headers=headers)
    return Interaction("POST", f"https://api.openai.com/v1/{path}", request, response)


async def _said(client: openai.AsyncOpenAI, prompt: str) -> str:
    messages: Any = [{"role": "user", "content": prompt}]
    chunks = await client.chat.completions.create(model="m", messages=messages, stream=True)
    return "".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices])


async def test_recordings_answer_the_requests_that_they_were_made_of() -> None:
    """In any order, and equal ones in the order in which they were recorded."""
    script = recorded([_interaction("one"), _interaction("other", prompt="Ho"), _interaction("two")])
    async with ProviderServer(script) as server, _openai(server) as client:
        assert [await _said(client, prompt) for prompt in ("Ho", "Hi", "Hi")] == ["other", "one", "two"]


@pytest.mark.parametrize(
    ("prompt", "why"),
    [("Hu", r"messages\[0\].content: recorded 'Hi', now 'Hu'"), ("Hi", "the same request was answered already")],
)
async def test_what_was_not_recorded_is_refused(prompt: str, why: str) -> None:
    """The refusal says what differs."""
    async with ProviderServer(recorded([_interaction("one"), _interaction("x", "responses")])) as server:
        async with _openai(server) as client:
            assert await _said(client, "Hi") == "one"
            with pytest.raises(openai.BadRequestError, match=why):
                await _said(client, prompt)


async def test_recordings_can_answer_in_their_order() -> None:
    """Whatever is asked."""
    script = [_interaction("one").response, _interaction("two").response]
    async with ProviderServer(script) as server, _openai(server) as client:
        assert [await _said(client, prompt) for prompt in ("What", "ever")] == ["one", "two"]


# --- as a program


@pytest.mark.parametrize("source", ["echo", "texts", "cassette"])
def test_the_command_line_serves(source: str, tmp_path: Path) -> None:
    """It says its address in the form that a shell takes, answers, and ends at Ctrl-C."""
    arguments = {"echo": [], "texts": ["Said"], "cassette": ["--cassette", str(tmp_path / "c.yaml")]}[source]
    save(tmp_path / "c.yaml", [Interaction("POST", "https://x.test/v1", b"", ResponseStream((Chunk(0, CHAT_BODY),)))])
    with subprocess.Popen(
        [sys.executable, "-m", "miniagents_testing", "serve", "--gap", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stderr is not None
            address = re.fullmatch(r"OPENAI_BASE_URL=(\S+)\n", server.stdout.readline())
            assert address is not None
            request = {"stream": True, "messages": [{"role": "user", "content": "Said"}]}
            response = httpx2.post(f"{address[1]}/chat/completions", json=request)
            assert "Said" in response.text
            assert response.text.endswith("data: [DONE]\n\n")
        finally:
            server.send_signal(signal.SIGINT)
        server.stdout.read()
        assert server.stderr.read() == ""
    assert server.returncode == 0


async def test_the_same_model_list_for_both() -> None:
    """Any other name of a model works as well."""
    async with ProviderServer([]) as server, _openai(server) as client:
        assert [model.id async for model in client.models.list()] == ["scripted-model"]
        async with anthropic.AsyncAnthropic(api_key="none", base_url=server.anthropic_base_url) as other:
            assert [model.id async for model in other.models.list()] == ["scripted-model"]
