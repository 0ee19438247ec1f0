"""What is recorded: small programs that ask a model, each beside the script that the local server answers from.

A program takes the clients to ask with, so `record.py` can run it against the local server or a live provider, and a
test from its cassette; what it returns is what the test looks at. The examples are in `example_scenarios.py`.
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
    """Whom a program asks."""

    openai: AsyncOpenAI
    anthropic: AsyncAnthropic


Program = Callable[[Clients], Awaitable[Any]]


@dataclass(frozen=True)
class Scenario:
    """One cassette."""

    program: Program
    script: Script
    live: bool
    """Whether a live provider does that when it is asked to."""


SCENARIOS: dict[str, Scenario] = {}
"""By the path of the cassette, without its ending."""


def recorded_as(name: str, script: Script, *, live: bool = True) -> Callable[[Program], Program]:
    """Makes a scenario of a program; for the arguments see `Scenario`."""

    def add(program: Program) -> Program:
        SCENARIOS[name] = Scenario(program, script, live)
        return program

    return add


PAUSES = (0.02, 0.05, 0.03, 0.09, 0.02, 0.04, 0.06)


def paced(text: Any = "", *, first_wait: float = 0.3, gap: float | tuple[float, ...] = PAUSES, **more: Any) -> Step:
    """An answer with pauses: made up, and uneven on purpose."""
    return Step(text, first_wait=first_wait, gap=gap, **more)


async def _answer(agent: MiniAgent[Any], prompt: MessageType) -> AssistantMessage:
    """The one message that a model replies."""
    (message,) = await agent.trigger(prompt)
    assert isinstance(message, AssistantMessage)
    return message


async def _failure(agent: MiniAgent[Any], prompt: MessageType) -> LLMError:
    """What goes wrong with it; `partial` is what had come until then."""
    try:
        message = await _answer(agent, prompt)
    except LLMError as error:
        return error
    raise AssertionError(f"nothing went wrong: {message}")


# --- tools: two calls in one answer, their results, and the answer to those

WEATHER = {"Oslo": "-3 °C, snow", "Palermo": "19 °C, sunny ☀"}
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
    """What the model wants to know, and what it says when it does."""
    asks = await _answer(agent, _QUESTION)
    results = [
        Message(WEATHER[json.loads(call.arguments)["city"]], role="tool", tool_call_id=call.id)
        for call in asks.tool_calls
    ]
    return [asks, await _answer(agent, [_QUESTION, asks, *results])]


@recorded_as("openai/tool_calls", [paced(tool_calls=_CALLS), _VERDICT])
async def openai_tool_calls(clients: Clients) -> list[AssistantMessage]:
    """Chat completions: parallel tool calls, their arguments in fragments."""
    tools = [{"type": "function", "function": {**_TOOL, "parameters": _PARAMETERS}}]
    return await _answer_with_tools(create_openai_agent("gpt-5.4-mini", async_client=clients.openai, tools=tools))


@recorded_as(
    "openai/reasoning",
    [paced(reasoning="I need to know both.", tool_calls=_CALLS), _VERDICT],
)
async def openai_reasoning(clients: Clients) -> list[AssistantMessage]:
    """Responses: a summary of the model's reasoning before its tool calls; it goes back with their results."""
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
    """Messages: a text and parallel tool calls, each a block of its own."""
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
    """Messages: what the model thinks, before what it says."""
    agent = create_anthropic_agent("claude-sonnet-5-5", async_client=clients.anthropic, thinking={"type": "adaptive"})
    return await _answer(agent, "How many letters r are there in “strawberry”?")


@recorded_as(
    "openai/refusal",
    paced(refusal="I'm sorry, but I can't help with entering somebody else's house."),
)
async def openai_refusal(clients: Clients) -> AssistantMessage:
    """Chat completions: the model declines, in a field of its own."""
    agent = create_openai_agent("gpt-5.4-mini", async_client=clients.openai)
    return await _answer(agent, "How do I get into my neighbour's house without a key?")


@recorded_as("openai/not_streamed", paced({"name": "Häppchen", "age": 3, "sleeps": "on the piano"}))
async def openai_not_streamed(clients: Clients) -> AssistantMessage:
    """Chat completions: one JSON document, and in it an answer that is JSON by a schema."""
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}, "sleeps": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    agent = create_openai_agent(
        "gpt-5.4-mini",
        async_client=clients.openai,
        stream=False,
        response_format={"type": "json_schema", "json_schema": {"name": "cat", "strict": True, "schema": schema}},
    )
    return await _answer(agent, "Invent a cat.")


# --- what goes wrong

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
    """Messages: status 429, which asks to wait for a second; the agent does, and tries again."""
    return await _answer(create_anthropic_agent("claude-sonnet-5-5", async_client=clients.anthropic), "Are you there?")


@recorded_as(
    "openai/connection_reset",
    paced(_TIDE, after=7, then="reset"),
    live=False,
)
async def openai_connection_reset(clients: Clients) -> LLMError:
    """Chat completions: the connection breaks in the middle of the answer."""
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
    """Responses: error events in the middle of the answer, and a response that has failed."""
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
    """Messages: an error event in the middle of the answer."""
    agent = create_anthropic_agent("claude-sonnet-5-5", async_client=clients.anthropic)
    return await _failure(agent, "Tell me of the tide.")


@recorded_as("openai/early_break", paced("one two three four five six seven eight nine ten"))
async def openai_early_break(clients: Clients) -> list[str]:
    """Chat completions, by the SDK itself: a reader who has enough leaves and closes the stream."""
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
