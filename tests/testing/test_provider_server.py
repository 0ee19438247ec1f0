"""The local provider: both real SDKs take it for theirs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

from miniagents import UserMessage
from miniagents_testing import Failure, ProviderServer, Step
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save
from miniagents_testing.errors import ScriptError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "Hello, wörld 😀!\n\nTwo  spaces. "


def _openai(server: ProviderServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url=server.openai_base_url, max_retries=0)


async def test_openai_streams_the_scripted_text() -> None:
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
    assert server.last_call.messages == (UserMessage("Hi"),)


async def test_openai_gets_whole_answers_too() -> None:
    """Without `stream` the answer is one JSON object."""
    async with ProviderServer([Step(TEXT, finish_reason="length")]) as server, _openai(server) as client:
        answer = await client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [True, False])
async def test_anthropic_gets_the_scripted_text(stream: bool) -> None:
    """Streamed or whole, Anthropic's SDK puts the same message together."""
    async with (
        ProviderServer([TEXT]) as server,
        anthropic.AsyncAnthropic(api_key="none", base_url=server.anthropic_base_url, max_retries=0) as client,
    ):
        request: dict[str, Any] = {
            "model": "claude",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "Hi"}],
        }
        if stream:
            async with client.messages.stream(**request) as events:
                message = await events.get_final_message()
        else:
            message = await client.messages.create(**request)
    assert [block.text for block in message.content if block.type == "text"] == [TEXT]
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("stream", [True, False])
async def test_errors_are_scripted_too(stream: bool) -> None:
    """The SDK raises its own error, with our message."""
    async with ProviderServer([Failure(429, "too fast")]) as server, _openai(server) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="m", messages=[], stream=stream)
    assert "too fast" in str(caught.value)


async def test_an_exhausted_script_is_an_error() -> None:
    """Answers are not repeated: a request too many is a fault of the application."""
    async with ProviderServer([]) as server, _openai(server) as client:
        with pytest.raises(openai.BadRequestError, match=r"call 1 .* was not expected"):
            await client.chat.completions.create(model="m", messages=[])


async def test_a_function_may_look_at_the_request() -> None:
    """The answer depends on what was asked."""
    async with ProviderServer(lambda call: call.text.upper()) as server:
        async with _openai(server) as client:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        server.assert_complete()
    assert answer.choices[0].message.content == "HI"


def test_answers_left_over_are_an_error() -> None:
    """Fewer requests than scripted is a fault too."""
    with ProviderServer(["never asked for"]) as server, pytest.raises(ScriptError, match="1 of 1 steps were not used"):
        server.assert_complete()


async def test_a_held_answer_goes_on_when_it_is_released() -> None:
    """What came before the hold is with the client while the rest is not sent yet."""
    async with ProviderServer([Step(["a", "b"], after=1, then="hold")]) as server, _openai(server) as client:
        seen = []
        async for chunk in await client.chat.completions.create(model="m", messages=[], stream=True):
            seen.append(chunk.choices[0].delta.content)
            if seen[-1] == "a":
                server.release()
    assert seen == ["", "a", "b", None]


def test_a_server_stops_while_it_holds_an_answer() -> None:
    """Leaving `with` never waits for a client that nobody serves any more."""
    with ProviderServer([Step(["a", "b"], after=0, then="hold")]) as server:
        client = httpx2.Client()
        with client.stream("POST", f"{server.openai_base_url}/chat/completions", json={"stream": True}) as response:
            assert response.status_code == 200
        client.close()


@pytest.mark.parametrize("source", ["echo", "texts", "cassette"])
def test_the_command_line_serves(source: str, tmp_path: Path) -> None:
    """It says its address in the form that a shell takes, answers, and ends at Ctrl-C."""
    arguments = {"echo": [], "texts": ["Said"], "cassette": ["--cassette", str(tmp_path / "c.yaml")]}[source]
    body = b'data: {"choices":[{"index":0,"delta":{"content":"Said"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    save(tmp_path / "c.yaml", [Interaction("POST", "https://x.test/v1", b"", ResponseStream((Chunk(0, body),)))])
    with subprocess.Popen(
        [sys.executable, "-m", "miniagents_testing", "serve", "--gap", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            address = re.fullmatch(r"OPENAI_BASE_URL=(\S+)\n", server.stdout.readline())
            assert address is not None
            request = {"stream": True, "messages": [{"role": "user", "content": "Said"}]}
            response = httpx2.post(f"{address[1]}/chat/completions", json=request)
            assert "Said" in response.text
            assert response.text.endswith("data: [DONE]\n\n")
        finally:
            server.send_signal(signal.SIGINT)
        server.stdout.read()
    assert server.returncode == 0
