"""Work of tools: functions of each kind, agents, and their results as text (laws 1 and 9)."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from miniagents import (
    InteractionContext,
    Message,
    MiniAgent,
    MiniAgents,
    ToolCall,
    ToolMessage,
    UserMessage,
    miniagent,
    tool,
)
from miniagents_testing import ScriptedLLM, create_scripted_agent
from miniagents_testing._script import Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from miniagents import MessagePromise


async def result_of(work: Any, arguments: dict[str, Any] | None = None, **settings: Any) -> ToolMessage:
    """Let a scripted model call a tool once, and return the result."""
    made = tool(work, name="work", description="Works.", **settings)
    agent = create_scripted_agent([Step(tool_calls=[("work", arguments or {})]), "done"], tools=[made])
    _, result, answer = await agent.trigger("Hi")
    assert isinstance(result, ToolMessage)
    assert str(answer) == "done"
    return result


@dataclass(frozen=True)
class OutOfStockError(Exception):
    """Exception whose attributes cannot be set."""

    item: str


class Model(BaseModel):
    """Model with a field."""

    size: int = 1


@dataclass
class Data:
    """Data with a field."""

    size: int = 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        ("", ""),
        (None, ""),
        (5, "5"),
        (True, "true"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (["a", 1], '["a",1]'),
        (Model(), '{"size":1}'),
        (Data(), '{"size":2}'),
        (datetime.date(2024, 2, 29), '"2024-02-29"'),
        (UserMessage("from a user"), "from a user"),
        ("é😀", "é😀"),
        ({"é": "😀"}, '{"é":"😀"}'),
        (["a", "\udcff.txt"], '["a","\\udcff.txt"]'),
    ],
)
async def test_returned_value_becomes_text(value: object, text: str) -> None:
    """A text is the result as it is, None is an empty result, and any other value is its JSON."""

    async def work() -> Any:
        return value

    async with MiniAgents():
        result = await result_of(work)
    assert (result.content, result.is_error) == (text, False)


async def test_message_of_parts_keeps_its_parts() -> None:
    """A returned message with parts, such as an image, is a result with these parts."""
    parts = [{"type": "text", "text": "a cat"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]

    async def work() -> Message:
        return Message(parts)

    async with MiniAgents():
        assert (await result_of(work)).content == Message(parts).content


async def test_value_that_is_no_json_is_told_as_an_error() -> None:
    """If a tool returns a value without a JSON form, its result is an error, which the model is told."""

    async def work() -> object:
        return object()

    async with MiniAgents():
        result = await result_of(work)
    assert result.is_error
    assert "an object of the class object has no JSON" in str(result)


async def _fetch() -> str:
    return "wet"


async def _read() -> AsyncIterator[str]:
    yield "wet"


async def _forgets_await() -> Any:
    return _fetch()


async def _forgets_await_in_a_list() -> Any:
    return {"weather": [_fetch()]}


def _forgets_await_in_a_thread() -> Any:
    return [_fetch()]


async def _yields_a_coroutine() -> AsyncIterator[Any]:
    yield _fetch()


async def _returns_a_generator_in_a_list() -> Any:
    return [_read()]


async def _returns_a_promise_in_a_list() -> Any:
    return [Message.promise("wet")]


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (_forgets_await, "coroutine of _fetch()"),
        (_forgets_await_in_a_list, "coroutine of _fetch()"),
        (_forgets_await_in_a_thread, "coroutine of _fetch()"),
        (_yields_a_coroutine, "coroutine of _fetch()"),
        (_returns_a_generator_in_a_list, "async_generator of _read()"),
        (_returns_a_promise_in_a_list, "MessagePromise"),
    ],
)
async def test_result_that_was_not_awaited_is_an_error_that_says_what_to_write(
    work: Callable[[], Any], what: str
) -> None:
    """If a tool's value has a coroutine, an async generator or a promise, the result is an error that says to await."""
    async with MiniAgents():
        result = await result_of(work)
    assert result.is_error
    assert f"the function of the tool gave a {what} in place of its value: write `return await ...`" in str(result)


async def test_async_generator_streams_into_the_result() -> None:
    """What an async generator yields can be read while it runs; a yielded value that is no text is a line of JSON."""
    go_on = asyncio.Event()

    async def work() -> AsyncIterator[Any]:
        """Works."""
        yield "one "
        await go_on.wait()
        yield {"two": 2}
        yield "three"

    agent = create_scripted_agent([Step(tool_calls=[("work", {})]), "done"], tools=[work])
    async with MiniAgents():
        replies = aiter(agent.trigger("Hi"))
        await anext(replies)
        result: MessagePromise = await anext(replies)
        tokens = aiter(result)
        assert await anext(tokens) == "one "
        assert not result.is_done
        go_on.set()
        assert str(await result) == 'one {"two":2}\nthree'


@pytest.mark.parametrize("is_async", [True, False])
async def test_error_of_a_generator_follows_the_text_before_it(is_async: bool) -> None:
    """A generator that fails keeps the text that it has yielded; the error is on a line of its own."""

    async def work() -> AsyncIterator[str]:
        yield "half"
        raise ValueError("no more")

    def work_in_thread() -> Iterator[str]:
        yield "half"
        raise ValueError("no more")

    async with MiniAgents():
        result = await result_of(work if is_async else work_in_thread)
    assert (result.content, result.is_error) == ("half\nValueError: no more", True)


async def test_sync_function_runs_in_a_daemon_thread_with_the_context_variables() -> None:
    """A function that is not async blocks no event loop, and sees the context variables of the agent."""
    variable = contextvars.ContextVar("variable", default="none")
    seen: list[Any] = []

    def work() -> str:
        seen.append((threading.current_thread().daemon, threading.current_thread() is threading.main_thread()))
        return variable.get()

    variable.set("set")
    async with MiniAgents():
        assert str(await result_of(work)) == "set"
    assert seen == [(True, False)]


async def test_sync_generator_is_read_in_its_thread() -> None:
    """The values of a generator function that is not async are read in the thread, and joined."""
    threads: set[Any] = set()

    def work() -> Iterator[Any]:
        for value in ("one ", 2, "three"):
            threads.add(threading.current_thread())
            yield value

    async with MiniAgents():
        assert str(await result_of(work)) == "one 2\nthree"
    assert threading.current_thread() not in threads


async def test_partial_of_an_async_function_is_awaited() -> None:
    """A partial of an async function runs with the bound arguments and those of the model, and is awaited."""

    async def work(left: str, right: str) -> str:
        return left + right

    async with MiniAgents():
        assert str(await result_of(partial(work, right="b"), {"left": "a"})) == "ab"


async def test_lambda_that_returns_a_coroutine_is_awaited() -> None:
    """A function that is not async may return an awaitable, which is awaited on the event loop."""

    async def inner() -> str:
        return "inner"

    async with MiniAgents():
        assert str(await result_of(lambda: inner())) == "inner"


@pytest.mark.parametrize("is_async", [True, False])
async def test_error_whose_attributes_cannot_be_set_is_told_as_it_is(is_async: bool) -> None:
    """A frozen dataclass can be an exception of a tool: the model is told its class and text."""

    def fail() -> None:
        raise OutOfStockError("tea")

    async def fail_async() -> None:
        raise OutOfStockError("tea")

    async with MiniAgents():
        result = await result_of(fail_async if is_async else fail)
    assert str(result) == "OutOfStockError: tea"


@pytest.mark.parametrize("error", [StopIteration("x"), StopAsyncIteration("x"), KeyError("x"), ValueError()])
async def test_exception_of_a_thread_is_told(error: Exception) -> None:
    """Any exception of a function in a thread becomes a result, even `StopIteration`, which no coroutine may raise."""

    def work() -> None:
        raise error

    async with MiniAgents():
        result = await result_of(work)
    assert result.is_error
    assert type(error).__name__ in str(result)


async def _raise_cancelled() -> None:
    """Await a task that was cancelled, which raises `CancelledError` in a task that was not."""
    inner = asyncio.create_task(asyncio.sleep(60))
    inner.cancel()
    await inner


def _works_that_raise(cancelled: bool) -> dict[str, Any]:
    """Return tools that raise `CancelledError` by themselves, or, if not `cancelled`, an error whose `str` fails."""

    class OddError(Exception):
        """Error whose text cannot be made."""

        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def coroutine() -> None:
        if cancelled:
            await _raise_cancelled()
        raise OddError

    def function() -> None:
        raise asyncio.CancelledError if cancelled else OddError

    async def generator() -> AsyncIterator[str]:
        yield "half"
        await coroutine()

    def thread_generator() -> Iterator[str]:
        yield "half"
        function()

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        await coroutine()

    @miniagent
    async def caller(ctx: InteractionContext) -> None:
        await agent.trigger()

    @miniagent
    async def replier(ctx: InteractionContext) -> None:
        ctx.reply(generator())

    works = (coroutine, function, generator, thread_generator, agent, caller)
    return {str(getattr(work, "__name__", work)): work for work in works} | ({} if cancelled else {"replier": replier})


@pytest.mark.parametrize("name", _works_that_raise(cancelled=True))
async def test_cancellation_that_a_tool_raises_by_itself_is_told(name: str) -> None:
    """A tool that raises `CancelledError` without being cancelled has failed like with any other exception."""
    work = _works_that_raise(cancelled=True)[name]
    async with MiniAgents():
        result = await result_of(work, {"message": "Hi"} if isinstance(work, MiniAgent) else {})
    assert result.is_error
    assert "CancelledError" in str(result)


@pytest.mark.parametrize("name", _works_that_raise(cancelled=False))
async def test_error_without_a_text_is_told_by_its_class(name: str) -> None:
    """An exception whose text cannot be made becomes a result that names its class."""
    work = _works_that_raise(cancelled=False)[name]
    async with MiniAgents():
        result = await result_of(work, {"message": "Hi"} if isinstance(work, MiniAgent) else {})
    assert result.is_error
    assert str(result).splitlines()[-1] == "OddError"


async def test_cancellation_that_a_tool_raises_by_itself_is_an_error_in_raise_mode() -> None:
    """With `tool_errors="raise"`, a tool that raises `CancelledError` by itself is a `RuntimeError` that names it."""

    async def work() -> None:
        """Work."""
        await _raise_cancelled()

    agent = create_scripted_agent([Step(tool_calls=[("work", {})])], tools=[work], tool_errors="raise")
    async with MiniAgents():
        with pytest.raises(RuntimeError, match="the tool work raised CancelledError"):
            await agent.trigger("Hi")


async def test_function_may_return_replies_of_an_agent() -> None:
    """A tool may return an agent's replies, whose texts are joined by blank lines, or one message promise."""

    @miniagent
    async def inner(ctx: InteractionContext) -> None:
        ctx.reply(["one", "two"])

    async def work() -> Any:
        return inner.trigger()

    async def first() -> Any:
        return await anext(aiter(inner.trigger()))

    async with MiniAgents():
        assert str(await result_of(work)) == "one\n\ntwo"
        assert str(await result_of(first)) == "one"


async def test_agent_gets_its_arguments_and_the_call() -> None:
    """An agent as a tool gets the model's arguments and those of `fork`, no messages, and the call as `ctx.tool_call`.

    An agent that it triggers has no `ctx.tool_call`. The result of the tool is the joined text of its replies.
    """
    seen: list[Any] = []

    @miniagent
    async def inner(ctx: InteractionContext) -> None:
        seen.append(ctx.tool_call)

    @miniagent
    async def work(ctx: InteractionContext, topic: str, *, db: str) -> None:
        seen.append((topic, db, await ctx.message_promises, ctx.tool_call, ctx.get_agent_trace()))
        await inner.trigger()
        ctx.reply(["about", topic])

    async with MiniAgents():
        result = await result_of(work.fork(db="db"), {"topic": "rain"})
    topic, db, messages, call, trace = seen[0]
    assert (topic, db, messages, trace) == ("rain", "db", (), ["WORK", "SCRIPTED_AGENT"])
    assert isinstance(call, ToolCall)
    assert (call.name, json.loads(call.arguments), call.id) == ("work", {"topic": "rain"}, result.tool_call_id)
    assert seen[1] is None
    assert str(result) == "about\n\nrain"


async def test_agent_without_parameters_gets_the_message() -> None:
    """An agent without parameters gets the argument `message` as its message.

    If no tool loop calls the agent, `ctx.tool_call` is None.
    """
    seen: list[Any] = []

    @miniagent
    async def work(ctx: InteractionContext) -> str:
        seen.append((await ctx.message_promises, ctx.tool_call is not None))
        return "heard"

    async with MiniAgents():
        assert str(await result_of(work, {"message": "Hello"})) == "heard"
        await work.trigger("other")
    assert [([str(message) for message in messages], called) for messages, called in seen] == [
        (["Hello"], True),
        (["other"], False),
    ]


async def test_agent_on_a_model_as_a_tool_leaves_out_its_own_calls() -> None:
    """If a model agent with tools is a tool, the result is its text, without the calls and results of its own tools."""

    async def clock() -> str:
        """Tells the time."""
        return "noon"

    inner = ScriptedLLM([Step("Let me look.", tool_calls=[("clock", {})]), "It is noon."])
    async with MiniAgents():
        result = await result_of(inner.agent(tools=[clock]), {"message": "What time is it?"})
    assert str(result) == "It is noon."
    assert inner.calls[0].text == "What time is it?"
    inner.assert_complete()


async def test_failing_agent_is_told_also_with_errors_as_messages() -> None:
    """The error of an agent is an error of the tool, even if the run turns errors of agents into messages."""

    @miniagent
    async def work(ctx: InteractionContext) -> None:
        ctx.reply("half")
        raise ValueError("broken")

    async with MiniAgents(errors_as_messages=True):
        result = await result_of(work, {"message": "Hi"})
    assert result.is_error
    assert str(result).split() == ["half", "ValueError:", "broken"]


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("is_agent", [False, True])
async def test_timeout_of_a_tool_is_told(is_agent: bool) -> None:
    """A call that takes longer than the tool's timeout is stopped, and ends with an error that says so."""
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("yes")

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        await work()

    async with MiniAgents():
        result = await result_of(agent if is_agent else work, {"message": "Hi"} if is_agent else {}, timeout=0.5)
        assert ended
    assert result.is_error
    assert str(result) == "TimeoutError: the tool work did not end within 0.5 s"


async def test_timeout_of_a_tool_abandons_a_thread() -> None:
    """If a function that is not async exceeds the timeout, the result is an error while its thread works on."""
    release = threading.Event()
    ended = threading.Event()

    def work() -> None:
        release.wait(30)
        ended.set()

    async with MiniAgents():
        result = await result_of(work, timeout=0.01)
        assert result.is_error
        assert not ended.is_set()
        release.set()


def test_process_does_not_wait_for_an_abandoned_thread() -> None:
    """A tool that blocks in its thread keeps neither the run nor the process from ending after a cancellation."""
    program = """
import asyncio, threading
from miniagents import MiniAgents
from miniagents_testing import create_scripted_agent
from miniagents_testing._script import Step

started = threading.Event()

def work() -> None:
    "Works."
    started.set()
    threading.Event().wait()

async def amain() -> None:
    agent = create_scripted_agent([Step(tool_calls=[("work", {})]), "done"], tools=[work])
    replies = agent.trigger("Hi")
    while not started.is_set():
        await asyncio.sleep(0.001)
    replies.cancel()
    print("cancelled")

MiniAgents().run(amain())
print("ended")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout.split(), ended.stderr, ended.returncode) == (["cancelled", "ended"], "", 0)
