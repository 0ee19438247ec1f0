"""The tool loop, in which a model calls tools: order of replies, start of calls, errors, and how the loop ends."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import AfterValidator
from scripted_loops import agent_of

from miniagents import (
    AWAIT,
    AssistantMessage,
    InteractionContext,
    LLMError,
    MiniAgents,
    PromiseCancelledError,
    StopDialog,
    ToolError,
    ToolMessage,
    TooManyRoundsError,
    achain_loop,
    handoff,
    miniagent,
    tool,
)
from miniagents.ext.llm.openai import Retry
from miniagents_testing import ScriptedLLM, faults
from miniagents_testing._script import Step
from miniagents_testing._streams import Chunk, ResponseStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents import Message, MessageSequencePromise, MiniAgent
    from miniagents_testing._script import API

APIS: list[API] = ["chat", "responses", "messages"]


async def double(number: int) -> int:
    """Double a number."""
    return number * 2


async def fail() -> None:
    """Fail."""
    raise ValueError("broken")


def calls(*named: tuple[str, dict[str, Any]] | str, text: str = "", **settings: Any) -> Step:
    """Return an answer that calls tools; a name alone is a call without arguments."""
    return Step(text, tool_calls=[(each, {}) if isinstance(each, str) else each for each in named], **settings)


def short(messages: tuple[Message, ...] | list[Message]) -> list[str]:
    """Return each message in short: its text, with `!` before an error, and its calls in brackets."""
    return [
        ("!" if getattr(message, "is_error", False) else "")
        + str(message.content)
        + "".join(f"[{call.name}]" for call in getattr(message, "tool_calls", ()))
        for message in messages
    ]


async def outcomes(replies: MessageSequencePromise) -> list[str]:
    """Return each reply in short, with the name of the error in place of one that failed."""
    found = []
    async for promise in replies:
        try:
            found += short([await promise])
        except Exception as error:
            found.append(type(error).__name__)
    return found


def results_in(request: Any) -> list[tuple[str, str]]:
    """Return id and text of each result in a request, for any API."""
    found = []
    for item in request.get("messages", request.get("input")):
        if item.get("role") == "tool":
            found.append((item["tool_call_id"], item["content"]))
        elif item.get("type") == "function_call_output":
            found.append((item["call_id"], item["output"]))
        elif item.get("role") == "user" and isinstance(item["content"], tuple):
            found += [(b["tool_use_id"], b["content"]) for b in item["content"] if b["type"] == "tool_result"]
    return found


# --- replies (law 2)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", APIS)
async def test_loop_replies_answers_and_results_in_order(api: API, stream: bool) -> None:
    """Each answer is followed by a result for each of its calls, in their order, and by the next answer."""
    llm = ScriptedLLM(
        [
            calls(("double", {"number": 1}), ("double", {"number": 2}), text="Let me see."),
            calls(("double", {"number": 4})),
            "It is 8.",
        ]
    )
    async with MiniAgents():
        replies = await agent_of(llm, api, tools=[double], stream=stream).trigger("What is 4 times 2?")
    assert short(replies) == ["Let me see.[double][double]", "2", "4", "[double]", "8", "It is 8."]
    first = replies[0]
    assert isinstance(first, AssistantMessage)
    for call, result in zip(first.tool_calls, replies[1:3], strict=True):
        assert isinstance(result, ToolMessage)
        assert (result.tool_call_id, result.name, result.role) == (call.id, "double", "tool")
    requests = [call.request for call in llm.calls]
    assert [text for _, text in results_in(requests[2])] == ["2", "4", "8"]
    assert requests[0]["tools"] == requests[2]["tools"]
    llm.assert_complete()


@pytest.mark.parametrize(
    ("api", "written"),
    [
        ("chat", {"type": "function", "function": {"name": "n", "description": "D.", "parameters": {}}}),
        ("responses", {"type": "function", "name": "n", "description": "D.", "parameters": {}, "strict": False}),
        ("messages", {"name": "n", "description": "D.", "input_schema": {}}),
    ],
)
async def test_request_has_tools_in_the_form_of_the_api(api: API, written: dict[str, Any]) -> None:
    """Each API gets the tools in its own form, tools that are dicts unchanged, and all in the given order."""
    llm = ScriptedLLM("done")
    made = tool(double, name="n", description="D.")
    made.schema = {}
    async with MiniAgents():
        await agent_of(llm, api, tools=[{"type": "anything", "x": 1}, made]).trigger("Hi")
    assert [dict(each) for each in llm.last_call.tools] == [{"type": "anything", "x": 1}, written]


@pytest.mark.parametrize("tools", [None, [], [{"type": "function", "function": {"name": "x"}}]])
async def test_agent_without_tools_to_run_replies_one_message(tools: Any) -> None:
    """Without tools, or with dicts as the only tools, the model's answer is the agent's only reply."""
    llm = ScriptedLLM([calls("x")])
    async with MiniAgents():
        replies = await llm.agent(tools=tools).trigger("Hi")
    assert short(replies) == ["[x]"]
    assert ("tools" in llm.last_call.request) == bool(tools)


async def test_answer_streams_at_once() -> None:
    """The tokens of an answer can be read while it goes on, also if calls follow."""
    llm = ScriptedLLM([calls("double", text="one two three", then="hold", after=2), "done"])
    async with MiniAgents():
        replies = aiter(llm.agent(tools=[double]).trigger("Hi"))
        answer = await anext(replies)
        tokens = aiter(answer)
        assert [await anext(tokens), await anext(tokens)] == ["one", " two"]
        assert not answer.is_done
        llm.release()
        assert str(await answer) == "one two three"


async def test_result_promise_is_there_when_its_call_starts() -> None:
    """While two calls run, readers have the promises of both results, with call id and name in `known_beforehand`."""
    go_on = asyncio.Event()

    async def wait() -> str:
        """Wait."""
        await go_on.wait()
        return "waited"

    llm = ScriptedLLM([calls("wait", "wait"), "done"])
    async with MiniAgents():
        replies = aiter(llm.agent(tools=[wait]).trigger("Hi"))
        answer, *results = [await anext(replies) for _ in range(3)]
        known = [dict(result.known_beforehand) for result in results]
        assert not results[0].is_done
        go_on.set()
        message = await answer
        assert isinstance(message, AssistantMessage)
        assert known == [{"tool_call_id": call.id, "name": "wait"} for call in message.tool_calls]


async def test_calls_run_in_parallel_and_results_keep_the_order_of_calls() -> None:
    """Calls of one answer run at the same time; results come and are sent in call order, whichever ends first."""
    barrier = asyncio.Barrier(3)
    ended: list[int] = []

    async def meet(number: int) -> int:
        """Meet the others."""
        await barrier.wait()
        for _ in range(10 - 3 * number):
            await asyncio.sleep(0)
        ended.append(number)
        return number

    llm = ScriptedLLM([calls(*(("meet", {"number": number}) for number in range(3))), "done"])
    async with MiniAgents():
        replies = await llm.agent(tools=[meet]).trigger("Hi")
    assert short(replies)[1:-1] == ["0", "1", "2"]
    assert ended == [2, 1, 0]
    assert [text for _, text in results_in(llm.last_call.request)] == ["0", "1", "2"]


async def test_loop_goes_on_without_readers() -> None:
    """An agent runs its tools and asks the model again even if its caller has dropped its replies."""
    done = asyncio.Event()

    async def act() -> None:
        """Act."""
        done.set()

    llm = ScriptedLLM([calls("act"), "done"])
    async with MiniAgents():
        llm.agent(tools=[act]).trigger("Hi")
        await done.wait()
    llm.assert_complete()


async def test_loop_works_on_demand() -> None:
    """With `start_everything_soon_by_default=False`, a tool loop begins with its first reader.

    Its replies are the usual ones.
    """
    llm = ScriptedLLM([calls(("double", {"number": 1})), "done"])
    async with MiniAgents(start_everything_soon_by_default=False):
        replies = llm.agent(tools=[double]).trigger("Hi")
        await asyncio.sleep(0)
        assert not llm.calls
        assert short(await replies) == ["[double]", "2", "done"]


# --- the last reply


async def test_last_is_the_final_answer() -> None:
    """`last` of the replies streams the tokens of the last message, and resolves to that message object."""
    llm = ScriptedLLM([calls(("double", {"number": 1}), text="Let me see."), "It is two."])
    async with MiniAgents():
        replies = llm.agent(tools=[double]).trigger("Hi")
        last = replies.last
        assert [token async for token in last] == ["It", " is", " two."]
        assert await last is (await replies)[-1]
        assert await replies.last is await last


async def test_last_streams_when_the_sequence_has_ended() -> None:
    """The tokens of the last message can be read while it streams, once no other message can follow."""
    llm = ScriptedLLM([Step("one two three", then="hold", after=2)])
    async with MiniAgents():
        last = llm.agent().trigger("Hi").last
        tokens = aiter(last)
        assert await anext(tokens) == "one"
        assert not last.is_done
        llm.release()
        assert str(await last) == "one two three"


async def test_last_fails_as_the_last_message_does() -> None:
    """`last` fails with the error of the last message, and with an `IndexError` if there is no message."""

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        ctx.reply("before")
        raise ValueError("broken")

    @miniagent
    async def silent(ctx: InteractionContext) -> None:
        pass

    async with MiniAgents():
        with pytest.raises(ValueError, match="broken"):
            await failing.trigger().last
        with pytest.raises(IndexError, match="without any"):
            await silent.trigger().last


# --- the text of replies


async def test_single_text_leaves_out_calls_and_results() -> None:
    """`as_single_text_promise` joins only the answers without calls, and has only these as `original_messages`."""
    llm = ScriptedLLM([calls(("double", {"number": 1}), text="Let me see."), "It is two."])
    async with MiniAgents():
        message = await llm.agent(tools=[double]).trigger("Hi").as_single_text_promise()
    assert str(message) == "It is two."
    assert [str(each) for each in message.original_messages] == ["It is two."]


async def test_single_text_of_an_agent_without_tools_streams() -> None:
    """An answer of an agent without tools streams through `as_single_text_promise`."""
    llm = ScriptedLLM([Step("one two three", then="hold", after=2)])
    async with MiniAgents():
        text = llm.agent().trigger("Hi").as_single_text_promise()
        tokens = aiter(text)
        assert await anext(tokens) == "one"
        assert not text.is_done
        llm.release()
        assert str(await text) == "one two three"


async def test_single_text_has_the_tokens_before_an_error() -> None:
    """If an answer of an agent with tools breaks off, `as_single_text_promise` yields its tokens and then raises."""
    llm = ScriptedLLM([Step("one two three", then="reset", after=2)])
    seen: list[str] = []
    async with MiniAgents():
        with pytest.raises(LLMError):
            async for token in llm.agent(tools=[double]).trigger("Hi").as_single_text_promise():
                seen.append(token)
    assert "".join(seen) == "one two"


# --- when calls start (law 3)


def _first_events(api: API, text: bytes) -> Any:
    """Return an overlay that sends the events up to the one with this text, and then nothing more."""

    def overlay(stream: Any) -> Any:
        number = next((n for n, chunk in enumerate(stream.chunks, 1) if text in chunk.data), None)
        return stream if number is None else faults.stall(after=number)(stream)

    return overlay


@pytest.mark.parametrize(
    ("api", "last_event"),
    [("chat", b'"finish_reason":"tool_calls"'), ("messages", b'"stop_reason":"tool_use"')],
)
async def test_calls_start_before_the_response_ends(api: API, last_event: bytes) -> None:
    """A call starts when the provider says that the answer is complete, before usage and the end of the body."""
    started = asyncio.Event()

    async def act() -> str:
        """Act."""
        started.set()
        return "acted"

    llm = ScriptedLLM([calls("act"), "done"], overlay=_first_events(api, last_event))
    async with MiniAgents():
        replies = agent_of(llm, api, tools=[act]).trigger("Hi")
        await started.wait()
        promises = aiter(replies)
        answer, result = await anext(promises), await anext(promises)
        assert str(await result) == "acted"
        assert not answer.is_done
        replies.cancel()
        with pytest.raises(PromiseCancelledError) as caught:
            await answer
    assert [call.name for call in caught.value.partial.tool_calls] == ["act"]


@pytest.mark.parametrize("api", APIS)
async def test_calls_of_a_truncated_answer_do_not_run(api: API) -> None:
    """Of an answer that breaks off before its end, no call runs; the failed answer is the last reply."""
    ran: list[int] = []

    async def act(number: int) -> None:
        """Act."""
        ran.append(number)

    step = calls(("act", {"number": 1}), ("act", {"number": 2}), text="Well.", then="truncate")
    llm = ScriptedLLM([step, "not reached"])
    async with MiniAgents():
        assert await outcomes(agent_of(llm, api, tools=[act]).trigger("Hi")) == ["StreamTruncatedError"]
    assert not ran
    assert len(llm.calls) == 1


async def test_calls_with_arguments_that_are_cut_early_wait_for_the_end() -> None:
    """If the finish reason comes before the rest of the arguments, the call waits for the end of the response."""
    seen: list[int] = []

    async def act(number: int = 0) -> None:
        """Act."""
        seen.append(number)

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"

    head = {"index": 0, "id": "a", "type": "function", "function": {"name": "act", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"number": 7}'}}
    body = (
        event({"tool_calls": [head]}, "tool_calls"),
        event({"tool_calls": [rest]}, "tool_calls"),
        b"data: [DONE]\n\n",
    )
    stream = ResponseStream(tuple(Chunk(0, data) for data in body), headers={"content-type": ["text/event-stream"]})
    llm = ScriptedLLM([stream, "done"])
    async with MiniAgents():
        assert short(await llm.agent(tools=[act]).trigger("Hi")) == ["[act]", "", "done"]
    assert seen == [7]


async def test_answer_that_fails_after_its_calls_have_started_keeps_their_results() -> None:
    """If an answer fails after its calls have started, it is not requested again.

    The results stay, and the tool loop ends.
    """
    ran: list[str] = []

    async def act() -> str:
        """Act."""
        ran.append("yes")
        return "acted"

    def overlay(stream: Any) -> Any:
        number = next((n for n, each in enumerate(stream.chunks, 1) if b'"finish_reason":"tool_calls"' in each.data), 0)
        return faults.malformed(at=number + 1)(stream) if number else stream

    llm = ScriptedLLM([calls("act"), "done"], overlay=overlay)
    async with MiniAgents():
        replies = llm.agent(tools=[act], retry=Retry(first_wait=0)).trigger("Hi")
        assert await outcomes(replies) == ["StreamProtocolError", "acted"]
        with pytest.raises(LLMError) as caught:
            await replies
    assert [call.name for call in caught.value.partial.tool_calls] == ["act"]
    assert caught.value.delivered_any
    assert (len(llm.calls), ran) == (1, ["yes"])


# --- how the answer ends (law 4)


@pytest.mark.parametrize("api", APIS)
async def test_calls_of_a_cut_answer_are_answered_with_an_error(api: API) -> None:
    """If an answer ends at its length limit, its calls do not run: each gets an error, and the model is asked again."""
    ran: list[int] = []

    async def act() -> None:
        """Act."""
        ran.append(1)

    llm = ScriptedLLM([calls("act", "act", finish_reason="length"), "shorter"])
    async with MiniAgents():
        replies = await agent_of(llm, api, tools=[act]).trigger("Hi")
    assert len(replies) == 4
    for result in replies[1:3]:
        assert isinstance(result, ToolMessage)
        assert result.is_error
        assert "length limit" in str(result)
    assert not ran


@pytest.mark.parametrize(
    ("api", "reason"),
    [("chat", "content_filter"), ("responses", "content_filter"), ("messages", "refusal"), ("chat", "refusal")],
)
async def test_calls_of_a_filtered_answer_do_not_run(api: API, reason: str) -> None:
    """If a content filter or a refusal ends an answer, its calls do not run, and the answer is the last reply."""
    llm = ScriptedLLM([calls("fail", finish_reason=reason)])
    async with MiniAgents():
        assert short(await agent_of(llm, api, tools=[fail]).trigger("Hi")) == ["[fail]"]


async def test_calls_run_after_the_finish_reason_stop() -> None:
    """Calls run, too, if the finish reason is "stop" in place of "tool_calls", as many servers send it."""
    llm = ScriptedLLM([calls(("double", {"number": 3}), finish_reason="stop"), "done"])
    async with MiniAgents():
        assert short(await llm.agent(tools=[double]).trigger("Hi")) == ["[double]", "6", "done"]


# --- errors (law 5)


@pytest.mark.parametrize("api", APIS)
async def test_errors_are_told_to_the_model(api: API, caplog: pytest.LogCaptureFixture) -> None:
    """Exceptions, bad arguments and unknown tools become results, which stand in the next request and the log."""
    llm = ScriptedLLM([calls("fail", ("double", {"number": "x"}), "unknown"), "sorry"])
    with caplog.at_level(logging.INFO, "miniagents"):
        async with MiniAgents():
            replies = await agent_of(llm, api, tools=[double, fail]).trigger("Hi")
    texts = short(replies)[1:-1]
    assert texts[0] == "!ValueError: broken"
    assert texts[1].startswith("!ValidationError: the arguments of double are not valid. number:")
    assert texts[2] == "!UnknownToolError: there is no tool 'unknown'. The tools are: double, fail"
    assert [f"!{text}" for _, text in results_in(llm.last_call.request)] == texts
    logged = [(record.levelname, record.getMessage(), record.exc_info) for record in caplog.records]
    assert (
        "WARNING",
        f"{'OPENAI' if api != 'messages' else 'ANTHROPIC'}_AGENT: tool fail: ValueError: broken",
        None,
    ) in logged
    assert len([level for level, *_ in logged if level == "WARNING"]) == 3


async def test_errors_are_redacted(caplog: pytest.LogCaptureFixture) -> None:
    """A text with the shape of a key, and the client's own key, in the error of a tool reach neither model nor log."""

    async def leak(text: str) -> None:
        """Leak."""
        raise ValueError(f"{text} sk-abcdefghijklmnop")

    llm = ScriptedLLM([calls(("leak", {"text": "no-key-is-needed"})), "done"])
    async with MiniAgents():
        replies = await agent_of(llm, "chat", tools=[leak]).trigger("Hi")
    assert str(replies[1]) == "ValueError: [redacted] [redacted]"
    assert "sk-" not in caplog.text


async def test_tool_error_is_told_in_both_modes() -> None:
    """With `tool_errors` as `tell` or `raise`, the text of a `ToolError` is the result, and the loop goes on."""

    async def refuse() -> None:
        """Refuse."""
        raise ToolError("not today")

    for mode in ("tell", "raise"):
        llm = ScriptedLLM([calls("refuse", ("double", {"number": ""}), "unknown"), "done"])
        async with MiniAgents():
            replies = await llm.agent(tools=[refuse, double], tool_errors=mode).trigger("Hi")
        assert short(replies)[1] == "!not today"
        assert len(replies) == 5


async def test_exception_of_a_validator_is_told() -> None:
    """If a validator of an argument raises any exception, the model gets it as the call's result; other calls run."""

    def look_up(name: str) -> str:
        raise KeyError(name)

    async def find(name: Annotated[str, AfterValidator(look_up)]) -> None:
        """Find a name."""

    llm = ScriptedLLM([calls(("find", {"name": "x"}), ("double", {"number": 1})), "done"])
    async with MiniAgents():
        replies = await llm.agent(tools=[find, double]).trigger("Hi")
    assert short(replies) == ["[find][double]", "!KeyError: 'x'", "2", "done"]


async def test_exceptions_are_let_through_in_raise_mode() -> None:
    """With `tool_errors="raise"` a failed result ends the loop without another request.

    The results of all calls of the answer are replied, the failed one in its place; awaiting the replies raises.
    """
    llm = ScriptedLLM([calls("fail", ("double", {"number": 1})), "not reached"])
    async with MiniAgents():
        replies = llm.agent(tools=[double, fail], tool_errors="raise").trigger("Hi")
        assert await outcomes(replies) == ["[fail][double]", "ValueError", "2"]
        with pytest.raises(ValueError, match="broken"):
            await replies
    assert len(llm.calls) == 1


class _Fatal(BaseException):
    """Exception of a test framework."""


@pytest.mark.parametrize("error", [StopDialog(), PromiseCancelledError("stopped")])
async def test_exception_that_is_never_told_is_found_in_a_group(error: Exception) -> None:
    """A task group of a tool raises a group; an exception in it that the model is not told ends the tool loop."""

    async def fail() -> None:
        raise error

    async def work() -> None:
        async with asyncio.TaskGroup() as outer:

            async def inner() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())

            outer.create_task(inner())

    made = tool(work, description="Works.")
    async with MiniAgents(unobserved_errors="log"):
        with pytest.raises(type(error)) as raised:
            await ScriptedLLM([calls("work")]).agent(tools=[made]).trigger("Hi")
    assert raised.value is error


async def test_model_is_told_the_members_of_a_group_of_errors() -> None:
    """The result of a tool that raises a group has class and text of each member."""

    async def work() -> None:
        raise ExceptionGroup("two failed", [ValueError("no such city"), ExceptionGroup("more", [KeyError("day")])])

    made = tool(work, description="Works.")
    async with MiniAgents():
        result = (await ScriptedLLM([calls("work"), "done"]).agent(tools=[made]).trigger("Hi"))[1]
    assert "ValueError: no such city; ExceptionGroup: more (1 sub-exception): KeyError: 'day'" in str(result)


@pytest.mark.parametrize("error", [StopDialog(), PromiseCancelledError("stopped"), _Fatal("failed")])
async def test_some_exceptions_are_never_told(error: BaseException) -> None:
    """A `StopDialog`, a cancellation or a `BaseException` of a tool is no result: awaiting the replies raises it."""

    async def act() -> None:
        """Act."""
        raise error

    llm = ScriptedLLM([calls("act"), "not reached"])
    async with MiniAgents():
        with pytest.raises(type(error)):
            await llm.agent(tools=[act]).trigger("Hi")
    assert len(llm.calls) == 1


async def test_tool_can_end_a_dialog() -> None:
    """`StopDialog` from a tool ends `achain_loop`, in which the model is one of the agents."""

    async def leave() -> None:
        """Leave."""
        raise StopDialog

    llm = ScriptedLLM([calls("leave")])
    async with MiniAgents():
        await achain_loop([llm.agent(tools=[leave]), AWAIT], initial_input="Hi")
    llm.assert_complete()


async def test_unobserved_error_of_a_tool_is_reported_once() -> None:
    """With `tool_errors="raise"`, an exception of a tool that no reader gets is raised once at the end of the run."""
    llm = ScriptedLLM([calls("fail")])
    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            llm.agent(tools=[fail], tool_errors="raise").trigger("Hi")
    assert [repr(each) for each in caught.value.exceptions] == ["ValueError('broken')"]


async def test_failed_answer_is_one_failed_reply() -> None:
    """If an answer breaks off, it is the last reply of the tool loop, and awaiting it raises its error."""
    llm = ScriptedLLM([Step("half of", then="reset", after=1)])
    async with MiniAgents():
        assert await outcomes(llm.agent(tools=[double]).trigger("Hi")) == ["StreamBrokenError"]


async def test_unread_failed_answer_is_reported_once() -> None:
    """If an answer breaks and no reader gets it, its error is raised once at the end of the run."""
    llm = ScriptedLLM([Step("half of", then="reset", after=1)])
    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            llm.agent(tools=[double]).trigger("Hi")
    assert [type(each).__name__ for each in caught.value.exceptions] == ["StreamBrokenError"]


async def test_loop_works_with_errors_as_messages() -> None:
    """With `errors_as_messages`, a tool's exception is replied as a message in place of its result; the loop ends."""
    llm = ScriptedLLM([calls(("double", {"number": 1}), "fail"), "not reached"])
    async with MiniAgents(errors_as_messages=True):
        replies = await llm.agent(tools=[double, fail], tool_errors="raise").trigger("Hi")
    assert short(replies) == ["[double][fail]", "2", "ValueError: broken"]


# --- tools of the caller


@pytest.mark.parametrize("api", APIS)
async def test_calls_of_dict_tools_end_the_loop(api: API) -> None:
    """Calls of a tool that was given as a dict are left to the caller; other calls run, and the replies end."""
    schema = {"type": "object", "properties": {}}
    own: dict[str, Any] = {"type": "function", "function": {"name": "own", "parameters": schema}}
    if api == "responses":
        own = {"type": "function", "name": "own", "parameters": schema, "strict": False}
    elif api == "messages":
        own = {"name": "own", "input_schema": schema}
    llm = ScriptedLLM([calls("own", ("double", {"number": 1})), "went on"])
    agent = agent_of(llm, api, tools=[double, own])
    async with MiniAgents():
        replies = await agent.trigger("Hi")
        assert short(replies) == ["[own][double]", "2"]
        [call, _] = replies[0].tool_calls
        result = ToolMessage("mine", tool_call_id=call.id)
        assert short(await agent.trigger(["Hi", *replies, result])) == ["went on"]
    assert [text for _, text in results_in(llm.last_call.request)] == ["mine", "2"]


# --- too many rounds (law 9)


async def test_too_many_rounds_are_an_error_after_all_replies() -> None:
    """More than `max_rounds` answers with calls are an error; the calls of the last of them do not run."""
    ran: list[int] = []

    async def act() -> str:
        """Act."""
        ran.append(1)
        return "acted"

    llm = ScriptedLLM(lambda call: calls("act"))
    async with MiniAgents():
        replies = llm.agent(tools=[act], max_rounds=2, alias="LOOPER").trigger("Hi")
        assert await outcomes(replies) == ["[act]", "acted"] * 2 + ["[act]", "TooManyRoundsError"]
        with pytest.raises(TooManyRoundsError, match="LOOPER has called tools in more than max_rounds=2") as caught:
            await replies
    assert len(ran) == 2
    assert [call.name for call in caught.value.partial.tool_calls] == ["act"]


async def test_exactly_max_rounds_are_no_error() -> None:
    """After `max_rounds` answers with calls, an answer without calls ends the loop."""
    llm = ScriptedLLM([calls(("double", {"number": 1})), calls(("double", {"number": 1})), "done"])
    async with MiniAgents():
        assert len(await llm.agent(tools=[double], max_rounds=2).trigger("Hi")) == 5


# --- handoff (law 10)


async def test_handoff_ends_the_loop_with_the_agent_it_names() -> None:
    """The agent of a handoff gets all messages so far, with results of other calls; its replies are the last ones."""
    seen: list[Any] = []

    @miniagent
    async def expert(ctx: InteractionContext) -> None:
        """Knows everything."""
        seen.extend(short(await ctx.message_promises))
        ctx.reply(["I take over.", "Done."])

    llm = ScriptedLLM([calls("handoff_to_expert", ("double", {"number": 1}))])
    async with MiniAgents():
        replies = llm.agent(tools=[handoff(expert), double]).trigger("Hi")
        assert short(await replies) == [
            "[handoff_to_expert][double]",
            "The conversation goes on with expert.",
            "2",
            "I take over.",
            "Done.",
        ]
        assert str(await replies.last) == "Done."
    assert seen == ["Hi", "[handoff_to_expert][double]", "The conversation goes on with expert.", "2"]
    assert "Knows everything." in llm.last_call.request["tools"][0]["function"]["description"]


async def test_second_handoff_is_refused() -> None:
    """Of two handoffs in one answer, the first takes place, and the second is answered with an error."""
    first = ScriptedLLM(["from the first"])
    second = ScriptedLLM([])
    tools = [handoff(first.agent(alias="FIRST")), handoff(second.agent(alias="SECOND"))]
    llm = ScriptedLLM([calls("handoff_to_first", "handoff_to_second")])
    async with MiniAgents():
        replies = await llm.agent(tools=tools).trigger("Hi")
    assert short(replies)[2].startswith("!The call did not run: the conversation goes to FIRST already")
    assert short(replies)[3:] == ["from the first"]
    assert [text for _, text in results_in(first.last_call.request)] == [str(each) for each in replies[1:3]]


async def test_handoff_with_wrong_arguments_goes_on() -> None:
    """A handoff whose arguments are not valid is answered with an error, and the model is asked again."""

    @miniagent
    async def expert(ctx: InteractionContext, topic: str) -> str:
        """Knows a topic."""
        return f"about {topic}"

    llm = ScriptedLLM([calls("handoff_to_expert"), calls(("handoff_to_expert", {"topic": "rain"}))])
    async with MiniAgents():
        replies = await llm.agent(tools=[handoff(expert)]).trigger("Hi")
    assert short(replies)[1].startswith("!ValidationError")
    assert short(replies)[-1] == "about rain"


# --- stopping (law 9)


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("way", ["cancel", "timeout", "exit"])
async def test_stopping_the_call_stops_its_tools(way: str) -> None:
    """Cancelling the replies, a timeout of the call, and an error of the run stop async tools and agents in tools."""
    running: list[str] = []
    both = asyncio.Event()

    async def work(name: str) -> None:
        running.append(name)
        if len(running) == 2:
            both.set()
        try:
            await asyncio.sleep(1000)
        finally:
            running.remove(name)

    async def function() -> None:
        """Work."""
        await work("function")

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        """Works."""
        await work("agent")

    async def run() -> None:
        """Stop the call in one of the ways, and check that nothing goes on."""
        async with MiniAgents():
            replies = llm.agent(tools=[function, agent]).trigger("Hi", timeout=60 if way == "timeout" else None)
            await both.wait()
            if way == "exit":
                raise ValueError("leave")
            if way == "cancel":
                replies.cancel()
            found = await outcomes(replies)
            assert found[0] == "[function][agent]"
            assert set(found[1:]) == {"PromiseCancelledError"} | ({"TimeoutError"} if way == "timeout" else set())
            await asyncio.sleep(0.01)
            assert not running

    llm = ScriptedLLM([calls("function", ("agent", {"message": "Hi"}))])
    if way == "exit":
        with pytest.raises(ValueError, match="leave"):
            await run()
    else:
        await run()
    assert not running


async def test_agents_in_tools_are_cancelled_through_models() -> None:
    """Cancelling an agent's replies cancels a model agent that runs as its tool, and the tools of this inner agent."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def act() -> None:
        """Act."""
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    inner = ScriptedLLM([calls("act")]).agent(alias="INNER", tools=[act])
    outer = ScriptedLLM([calls(("inner", {"message": "Hi"}))]).agent(tools=[inner])
    async with MiniAgents():
        replies = outer.trigger("Hi")
        await started.wait()
        replies.cancel()
        await asyncio.wait_for(ended.wait(), 5)


async def test_result_that_is_cancelled_ends_the_loop() -> None:
    """Cancelling the promise of one result stops its tool; a `PromiseCancelledError` ends the replies."""
    stopped = asyncio.Event()

    async def act() -> AsyncIterator[str]:
        """Act."""
        try:
            yield "begun"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    llm = ScriptedLLM([calls("act")])
    async with MiniAgents():
        replies = llm.agent(tools=[act]).trigger("Hi")
        promises = aiter(replies)
        await anext(promises)
        result = await anext(promises)
        await anext(aiter(result))
        result.cancel()
        assert await outcomes(replies) == ["[act]", "PromiseCancelledError"]
        assert stopped.is_set()


async def test_guardrail_cancels_the_replies() -> None:
    """An agent that runs beside a model with tools can cancel the model's replies before a tool has an effect."""
    effects: list[str] = []

    async def act() -> None:
        """Act."""
        await asyncio.sleep(0.01)
        effects.append("done")

    @miniagent
    async def guarded(ctx: InteractionContext, model: MiniAgent[Any]) -> None:
        replies = model.trigger(ctx.message_promises)
        if "forbidden" in str(await ctx.message_promises.as_single_text_promise()):
            replies.cancel()
            ctx.reply("I cannot help with that.")
        else:
            ctx.reply(replies)

    llm = ScriptedLLM([calls("act"), "done"])
    async with MiniAgents():
        assert short(await guarded.trigger("forbidden", model=llm.agent(tools=[act]))) == ["I cannot help with that."]
    assert not effects


async def test_tool_that_waits_for_its_own_loop_is_a_deadlock() -> None:
    """A tool that waits for the replies it is a part of is stopped, and the replies end with a `DeadlockError`."""
    loop: list[MessageSequencePromise] = []

    async def wait() -> str:
        """Wait for everything."""
        return str(await loop[0])

    llm = ScriptedLLM([calls("wait"), "not reached"])
    async with MiniAgents():
        loop.append(llm.agent(tools=[wait]).trigger("Hi"))
        assert await outcomes(loop[0]) == ["[wait]", "PromiseCancelledError", "DeadlockError"]
    assert len(llm.calls) == 1


async def test_tools_of_a_fork_and_of_a_call_replace_those_of_the_agent() -> None:
    """`tools=` of `fork` and `trigger` replaces the agent's tools in the request; None sends none."""

    async def triple(number: int) -> int:
        """Triple a number."""
        return number * 3

    llm = ScriptedLLM(["a", "b", "c"])
    agent = llm.agent(tools=[double])
    async with MiniAgents():
        await agent.trigger("Hi")
        await agent.fork(tools=[*agent.kwargs["tools"], triple]).trigger("Hi")
        await agent.trigger("Hi", tools=None)
    assert [[each["function"]["name"] for each in call.tools] for call in llm.calls] == [
        ["double"],
        ["double", "triple"],
        [],
    ]
