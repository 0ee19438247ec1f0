"""Requests of tool loops fit the types that the SDKs publish, over several rounds and after any cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from prompt_rules import check_prompt
from pydantic import BaseModel
from request_schemas import check_body
from scripted_loops import agent_of

from miniagents import InMemoryChatHistory, MiniAgents, PromiseCancelledError, ToolError
from miniagents_testing import ScriptedLLM
from miniagents_testing._script import Step

if TYPE_CHECKING:
    from miniagents_testing._script import API, Call

APIS: list[API] = ["chat", "responses", "messages"]


class Verdict(BaseModel):
    """A verdict."""

    good: bool
    why: str | None = None


async def double(number: int, *, times: list[int] | None = None) -> int:
    """Double a number."""
    await asyncio.sleep(0)
    return number * 2


async def refuse() -> None:
    """Refuse."""
    raise ToolError("not today")


def check_call(call: Call) -> None:
    """Check the types of a request's body, and that its calls and results are paired."""
    check_body(call.api, call.request)
    check_prompt(call.api, [dict(item) for item in call._items], has_tools=bool(call.tools))


THREE = Step("Let me see.", tool_calls=[("double", {"number": 1}), ("double", {"number": "x"}), ("refuse", {})])
MORE = Step(tool_calls=[("double", {"number": 2, "times": [1]}), ("unknown", {})])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("output_mode", ["schema", "tool"])
@pytest.mark.parametrize("api", APIS)
async def test_each_request_of_a_loop_is_valid_by_the_types_of_the_sdk(
    api: API, output_mode: str, stream: bool
) -> None:
    """Each request fits the SDK's types.

    The requests are three of a tool loop with an output, and one of a fork without tools and output.
    """
    llm = ScriptedLLM([THREE, MORE, Step.of_output(Verdict(good=True)), "Thanks."])
    async with MiniAgents():
        agent = agent_of(
            llm,
            api,
            tools=[double, refuse],
            output=Verdict,
            output_mode=output_mode,
            stream=stream,
            system="Be brief.",
        )
        replies = await agent.trigger("Hello")
        await agent.fork(tools=None, output=None).trigger(["Hello", replies, "And now?"])
    assert len(llm.calls) == 4
    for call in llm.calls:
        check_call(call)


@pytest.mark.parametrize("other", APIS)
@pytest.mark.parametrize("api", APIS)
async def test_a_loop_goes_on_with_another_api(api: API, other: API) -> None:
    """A conversation with calls and reasoning of one API makes valid bodies for another API."""
    llm = ScriptedLLM([THREE, Step("4.", reasoning="Twice two."), Step(tool_calls=[("double", {"number": 3})]), "6."])
    async with MiniAgents():
        replies = await agent_of(llm, api, tools=[double, refuse]).trigger("Hello")
        await agent_of(llm, other, tools=[double, refuse]).trigger(["Hello", replies, "And now?"])
    for call in llm.calls:
        check_call(call)


@pytest.mark.parametrize("api", APIS)
async def test_a_request_after_a_cancellation_at_any_step_is_valid(api: API) -> None:
    """At whichever step a tool loop is cancelled, the messages that a history has stored make a valid next request."""
    finished = False
    for steps in range(0, 400, 7):
        llm, history = ScriptedLLM([THREE, MORE, "Done."]), InMemoryChatHistory()
        async with MiniAgents():
            replies = agent_of(llm, api, tools=[double, refuse]).trigger("Hello")
            keeping = asyncio.ensure_future(history.aappend(["Hello", replies]))
            for _ in range(steps):
                await asyncio.sleep(0)
            finished = keeping.done()
            replies.cancel()
            with suppress(PromiseCancelledError):
                await keeping
            again = ScriptedLLM(["Let us go on."])
            kept = await history.aload_chat_history()
            await agent_of(again, api, tools=[double, refuse]).trigger([kept, "And now?"])
        check_call(again.last_call)
        if finished:
            break
    assert finished, "no run came to its end"


def test_the_types_of_the_sdks_refuse_what_an_api_does_not_know() -> None:
    """`check_body` refuses unknown parameters, wrong types, and unknown keys at any depth."""
    user = {"role": "user", "content": "Hello"}
    good: dict[str, dict[str, Any]] = {
        "chat": {"model": "m", "messages": [user], "stream": True},
        "responses": {"model": "m", "input": [user], "stream": True},
        "messages": {"model": "m", "messages": [user], "max_tokens": 9, "stream": True},
    }
    for api, body in good.items():
        check_body(api, body)
        items = "input" if api == "responses" else "messages"
        for wrong in ({"modle": "m"}, {"stream": "yes"}, {items: [{**user, "colour": "red"}]}, {"model": 3}):
            with pytest.raises(AssertionError):
                check_body(api, {**body, **wrong})
