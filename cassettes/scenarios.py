"""Scenarios to record: small programs that ask a model, each with the script that the local server answers from.

A program gets the clients as an argument. So `record.py` can run it with the local server or a live provider, and a
test with its cassette; the test checks what the program returns. The examples are in `example_scenarios.py`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miniagents import AssistantMessage, Message, UserMessage
from miniagents.errors import LLMError
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import Failure, Step

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from miniagents import MiniAgent
    from miniagents.messages import MessageType
    from miniagents_testing._script import Script

__all__ = ["SCENARIOS", "Clients", "Scenario", "paced", "recorded_as"]


@dataclass(frozen=True)
class Clients:
    """Clients that a program sends its requests with."""

    openai: AsyncOpenAI
    anthropic: AsyncAnthropic


_Program = Callable[[Clients], Awaitable[Any]]


@dataclass(frozen=True)
class Scenario:
    """_Program and script of one cassette."""

    program: _Program
    script: Script
    live: bool
    """True if a live provider does the same on demand."""


SCENARIOS: dict[str, Scenario] = {}
"""Scenarios by the path of their cassette, without `.yaml`."""


def recorded_as(name: str, script: Script, *, live: bool = True) -> Callable[[_Program], _Program]:
    """Add a program to `SCENARIOS`, as a decorator; for the arguments see `Scenario`."""

    def add(program: _Program) -> _Program:
        SCENARIOS[name] = Scenario(program, script, live)
        return program

    return add


_PAUSES = (0.02, 0.05, 0.03, 0.09, 0.02, 0.04, 0.06)


def paced(text: Any = "", *, first_wait: float = 0.3, gap: float | tuple[float, ...] = _PAUSES, **more: Any) -> Step:
    """Make an answer with uneven pauses."""
    return Step(text, first_wait=first_wait, gap=gap, **more)


async def _answer(agent: MiniAgent[Any], prompt: MessageType) -> AssistantMessage:
    """Return the one message that a model replies."""
    (message,) = await agent.trigger(prompt)
    assert isinstance(message, AssistantMessage)
    return message


async def _failure(agent: MiniAgent[Any], prompt: MessageType) -> LLMError:
    """Return the error that a request ends with; its `partial` is the text that came before."""
    try:
        message = await _answer(agent, prompt)
    except LLMError as error:
        return error
    raise AssertionError(f"nothing went wrong: {message}")


# --- tools: two calls in one answer, their results, and the answer to those

_WEATHER = {"Oslo": "-3 °C, snow", "Palermo": "19 °C, sunny ☀"}
_TOOL = {"name": "get_weather", "description": "The weather in a city, now."}
_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_QUESTION = UserMessage("Which city is warmer now, Oslo or Palermo? Look up both, then say it in one sentence.")
_CALLS = [("get_weather", ['{"city": ', '"Oslo"}']), ("get_weather", ['{"city": "Pal', 'ermo"}'])]
_VERDICT = paced("Palermo, by 22 degrees: the sun shines there, and Oslo has snow.")


async def _answer_with_tools(agent: MiniAgent[Any]) -> list[AssistantMessage]:
    """Return the message with the tool calls of a model, and its answer to their results."""
    asks = await _answer(agent, _QUESTION)
    results = [
        Message(_WEATHER[json.loads(call.arguments)["city"]], role="tool", tool_call_id=call.id)
        for call in asks.tool_calls
    ]
    return [asks, await _answer(agent, [_QUESTION, asks, *results])]


@recorded_as("openai/tool_calls", [paced(tool_calls=_CALLS), _VERDICT])
async def openai_tool_calls(clients: Clients) -> list[AssistantMessage]:
    """Record, for chat completions, parallel tool calls with their arguments in fragments."""
    tools = [{"type": "function", "function": {**_TOOL, "parameters": _PARAMETERS}}]
    return await _answer_with_tools(create_openai_agent("gpt-5.4-mini", async_client=clients.openai, tools=tools))


@recorded_as(
    "openai/reasoning",
    [paced(reasoning="I need to know both.", tool_calls=_CALLS), _VERDICT],
)
async def openai_reasoning(clients: Clients) -> list[AssistantMessage]:
    """Record, for Responses, a summary of reasoning before tool calls; it goes back with their results."""
    agent = create_openai_agent(
        "gpt-5.4-mini",
        async_client=clients.openai,
        api="responses",
        reasoning={"effort": "low", "summary": "auto"},
        tools=[{"type": "function", **_TOOL, "parameters": _PARAMETERS}],
    )
    return await _answer_with_tools(agent)


@recorded_as(
    "anthropic/tool_calls",
    [paced("I look up both.", tool_calls=_CALLS), _VERDICT],
)
async def anthropic_tool_calls(clients: Clients) -> list[AssistantMessage]:
    """Record, for Messages, a text and parallel tool calls, each in a block of its own."""
    agent = create_anthropic_agent(
        "claude-sonnet-5-5", async_client=clients.anthropic, tools=[{**_TOOL, "input_schema": _PARAMETERS}]
    )
    return await _answer_with_tools(agent)


# --- other answers


@recorded_as(
    "anthropic/thinking",
    paced(
        "Three: one in the straw, two in the berry. 🍓",
        reasoning="s-t-r-a-w-b-e-r-r-y: the third letter, the eighth and the ninth.",
    ),
)
async def anthropic_thinking(clients: Clients) -> AssistantMessage:
    """Record, for Messages, the thinking of a model before its text."""
    agent = create_anthropic_agent("claude-sonnet-5-5", async_client=clients.anthropic, thinking={"type": "adaptive"})
    return await _answer(agent, "How many letters r are there in “strawberry”?")


@recorded_as(
    "openai/refusal",
    paced(refusal="I'm sorry, but I can't help with entering somebody else's house."),
)
async def openai_refusal(clients: Clients) -> AssistantMessage:
    """Record, for chat completions, a refusal, which has a field of its own."""
    agent = create_openai_agent("gpt-5.4-mini", async_client=clients.openai)
    return await _answer(agent, "How do I get into my neighbour's house without a key?")


@recorded_as("openai/not_streamed", paced({"name": "Häppchen", "age": 3, "sleeps": "on the piano"}))
async def openai_not_streamed(clients: Clients) -> AssistantMessage:
    """Record, for chat completions, one JSON document with an answer that is JSON by a schema."""
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}, "sleeps": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    agent = create_openai_agent(
        "gpt-5.4-mini",
        async_client=clients.openai,
        stream=False,
        response_format={"type": "json_schema", "json_schema": {"name": "cat", "strict": True, "schema": schema}},
    )
    return await _answer(agent, "Invent a cat.")


# --- errors

_TIDE = "The tide comes twice a day, and twice a day it goes."


@recorded_as(
    "anthropic/rate_limited",
    [
        Failure(429, "This request would exceed your rate limit", headers={"retry-after": "1"}),
        paced("I am, and rested. What can I do for you?"),
    ],
    live=False,
)
async def anthropic_rate_limited(clients: Clients) -> AssistantMessage:
    """Record, for Messages, status 429 with a wait of a second, after which the agent tries again."""
    return await _answer(create_anthropic_agent("claude-sonnet-5-5", async_client=clients.anthropic), "Are you there?")


@recorded_as(
    "openai/connection_reset",
    paced(_TIDE, after=7, then="reset"),
    live=False,
)
async def openai_connection_reset(clients: Clients) -> LLMError:
    """Record, for chat completions, a connection that breaks in the middle of the answer."""
    return await _failure(create_openai_agent("gpt-5.4-mini", async_client=clients.openai), "Tell me of the tide.")


@recorded_as(
    "openai/response_failed",
    paced(
        _TIDE,
        after=7,
        then=Failure(500, "The server had an error while processing your request"),
    ),
    live=False,
)
async def openai_response_failed(clients: Clients) -> LLMError:
    """Record, for Responses, error events in the middle of the answer, and a failed response."""
    agent = create_openai_agent("gpt-5.4-mini", async_client=clients.openai, api="responses")
    return await _failure(agent, "Tell me of the tide.")


@recorded_as(
    "anthropic/overloaded",
    paced(
        _TIDE,
        after=7,
        then=Failure(529, "Overloaded"),
    ),
    live=False,
)
async def anthropic_overloaded(clients: Clients) -> LLMError:
    """Record, for Messages, an error event in the middle of the answer."""
    agent = create_anthropic_agent("claude-sonnet-5-5", async_client=clients.anthropic)
    return await _failure(agent, "Tell me of the tide.")


@recorded_as("openai/early_break", paced("one two three four five six seven eight nine ten"))
async def openai_early_break(clients: Clients) -> list[str]:
    """Record, with the SDK of chat completions, a reader that closes the stream early."""
    words = []
    async with await clients.openai.chat.completions.create(
        model="gpt-5.4-mini",
        messages=[{"role": "user", "content": "Count to ten, in words, with spaces between."}],
        stream=True,
    ) as stream:
        async for chunk in stream:
            words.append(chunk.choices[0].delta.content or "")
            if "five" in words[-1]:
                break
    return words
