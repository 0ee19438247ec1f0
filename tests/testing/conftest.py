"""Client of the real SDKs, which asks through the SDK of each API and returns the answers in one form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
import pytest

MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@dataclass
class SDKAnswer:
    """Answer of a model, in one form for all SDKs."""

    text: str
    reasoning: str
    refusal: str
    tool_calls: list[tuple[str, Any]]
    ended: str
    """Finish reason, in the words of the provider."""
    tokens: tuple[int, int]
    """Tokens of input and output."""


class SDKs:
    """Client that asks one question through the SDK of an API: sync or async, and streamed or as a whole."""

    async def ask(
        self, api: str, *, streamed: bool, sync: bool, transport: Any = None, url: str | None = None
    ) -> SDKAnswer:
        """Return the answer that the SDK gives.

        Args:
            api: chat, responses or messages.
            streamed: True for the SDK's own streaming helper.
            sync: True for the client without an event loop.
            transport: transport of the client.
            url: address that the client sends to.
        """
        kind: Any = anthropic if api == "messages" else openai
        base_url = None if url is None else url if api == "messages" else f"{url}/v1"
        options = {"api_key": "none", "base_url": base_url, "max_retries": 0}
        if sync:
            name = "Anthropic" if api == "messages" else "OpenAI"
            with getattr(kind, name)(http_client=httpx2.Client(transport=transport), **options) as client:
                create, stream, request = self._methods(client, api)
                if not streamed:
                    return read_answer(create(**request))
                with stream(**request) as events:
                    for _ in events:
                        pass
                    return read_answer(self._final(api, events))
        name = "AsyncAnthropic" if api == "messages" else "AsyncOpenAI"
        async with getattr(kind, name)(http_client=httpx2.AsyncClient(transport=transport), **options) as client:
            create, stream, request = self._methods(client, api)
            if not streamed:
                return read_answer(await create(**request))
            async with stream(**request) as events:
                async for _ in events:
                    pass
                return read_answer(await self._final(api, events))

    def _methods(self, client: Any, api: str) -> tuple[Any, Any, dict[str, Any]]:
        """Return the SDK's methods that create and stream an answer, and the arguments of a request."""
        if api == "chat":
            methods = client.chat.completions
            return methods.create, _counting(methods.stream), {"model": "m", "messages": MESSAGES}
        if api == "responses":
            return client.responses.create, client.responses.stream, {"model": "m", "input": "Hi"}
        request = {"model": "m", "messages": MESSAGES, "max_tokens": 9}
        return client.messages.create, client.messages.stream, request

    def _final(self, api: str, events: Any) -> Any:
        """Return the SDK's method that gives the whole answer after a stream."""
        getters = {"chat": "completion", "responses": "response", "messages": "message"}
        return getattr(events, f"get_final_{getters[api]}")()


def _counting(stream: Any) -> Any:
    """Return a function that calls the SDK's method `stream` with a request for the token usage."""
    return lambda **request: stream(stream_options={"include_usage": True}, **request)


def read_answer(answer: Any) -> SDKAnswer:
    """Return the content of an answer object of any of the three APIs."""
    kind = getattr(answer, "object", None) or answer.type
    if kind == "chat.completion":
        choice = answer.choices[0]
        message = choice.message
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
        usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
        reasoning = getattr(message, "reasoning_content", None) or ""
        return SDKAnswer(message.content or "", reasoning, message.refusal or "", calls, choice.finish_reason, usage)
    usage = (answer.usage.input_tokens, answer.usage.output_tokens)
    if kind == "response":
        parts = [part for item in answer.output if item.type == "message" for part in item.content]
        calls = [(item.name, json.loads(item.arguments)) for item in answer.output if item.type == "function_call"]
        summaries = [part.text for item in answer.output if item.type == "reasoning" for part in item.summary]
        refusal = "".join(part.refusal for part in parts if part.type == "refusal")
        return SDKAnswer(answer.output_text, "".join(summaries), refusal, calls, answer.status, usage)
    blocks = answer.content
    return SDKAnswer(
        "".join(block.text for block in blocks if block.type == "text"),
        "".join(block.thinking for block in blocks if block.type == "thinking"),
        (answer.stop_details.explanation or "") if answer.stop_details else "",
        [(block.name, block.input) for block in blocks if block.type == "tool_use"],
        answer.stop_reason,
        usage,
    )


@pytest.fixture
def sdks() -> SDKs:
    """Return a client of both SDKs."""
    return SDKs()
