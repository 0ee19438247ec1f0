"""Calls of agents: when messages and replies arrive, and which agent a call belongs to (laws 31, 35, 36)."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from common import Boom, echo, failing, steps, texts

from miniagents.errors import AppenderClosedError
from miniagents.messages import Message, UserMessage
from miniagents.miniagents import AgentCall, InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# --- calls (law 31)


async def test_trigger_returns_replies_while_the_agent_runs() -> None:
    """`trigger` returns before the agent runs, and a reader gets each reply before the agent makes the next one."""
    go_on = asyncio.Event()
    started: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        started.append("yes")
        for number in range(3):
            ctx.reply(str(number))
            await go_on.wait()
            go_on.clear()

    async with MiniAgents():
        replies = slow.trigger()
        assert not started
        seen = []
        async for promise in replies:
            seen.append(str(await promise))
            assert not replies.is_done
            go_on.set()
        assert seen == ["0", "1", "2"]


async def test_replies_end_after_the_awaitables_of_make_sure_to_wait() -> None:
    """An awaitable of `make_sure_to_wait` may reply after the agent returned; a call given to it is only awaited."""
    log: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        async def helper(name: str) -> None:
            await steps(5)
            ctx.reply(name)
            log.append(name)

        ctx.make_sure_to_wait(helper("one"))
        ctx.make_sure_to_wait(asyncio.gather(helper("two"), helper("three")))
        ctx.make_sure_to_wait(echo.trigger("not replied"))
        ctx.reply("first")

    async with MiniAgents():
        assert sorted(await texts(agent.trigger()), key=str) == ["first", "one", "three", "two"]


async def test_await_now_waits_for_awaitables_and_raises_their_error() -> None:
    """`await_now` waits for all awaitables of the agent and raises their error, which the replies do not repeat."""
    log: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        async def helper(name: str) -> None:
            await steps(3)
            log.append(name)
            if name == "bad":
                raise Boom

        ctx.make_sure_to_wait(helper("bad"))
        ctx.make_sure_to_wait(helper("good"))
        with pytest.raises(Boom):
            await ctx.await_now()
        assert log == ["bad", "good"]
        ctx.reply("went on")

    async with MiniAgents():
        assert await texts(agent.trigger()) == ["went on"]


async def test_await_now_may_be_stopped_by_a_timeout() -> None:
    """If a timeout ends `await_now`, the awaitables go on, and the end of the replies still waits for them."""
    go_on = asyncio.Event()

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        async def helper() -> None:
            await go_on.wait()
            ctx.reply("helped")

        ctx.make_sure_to_wait(helper())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await ctx.await_now()
        go_on.set()

    async with MiniAgents():
        assert await texts(agent.trigger()) == ["helped"]


async def test_agent_gets_messages_and_keyword_arguments_unchanged() -> None:
    """An agent gets the caller's keyword arguments as the same objects; without messages, its sequence is empty."""
    seen: list[Any] = []

    @miniagent
    async def agent(ctx: InteractionContext, **kwargs: Any) -> None:
        seen.append((kwargs, [str(message) for message in await ctx.message_promises]))

    async with MiniAgents():
        mutable: dict[str, Any] = {"class_": [1]}
        await agent.trigger(["a", [UserMessage("b")]], config=mutable, timeout_s=3)
        await agent.trigger()
    assert seen == [({"config": mutable, "timeout_s": 3}, ["a", "b"]), ({}, [])]
    assert seen[0][0]["config"] is mutable


# --- calls that are sent messages one by one (law 35)


async def test_call_sends_messages_while_its_replies_are_read() -> None:
    """The agent of an open call answers each message before the caller sends the next one."""

    @miniagent
    async def answering(ctx: InteractionContext) -> None:
        async for promise in ctx.message_promises:
            ctx.reply(f"re: {await promise}")

    async with MiniAgents():
        call = answering.initiate_call("zero")
        seen = []
        async for promise in call.reply_sequence(finish_call=False):
            seen.append(str(await promise))
            if len(seen) == 3:
                call.finish()
            else:
                call.send_message(str(len(seen)))
        assert seen == ["re: zero", "re: 1", "re: 2"]
        assert call.is_finished
        with pytest.raises(AppenderClosedError):
            call.send_message("late")
        call.finish()


async def test_call_sends_messages_out_of_order() -> None:
    """A message that a call sends out of order delays no other messages, and `reply_sequence` finishes the call."""
    go_on = asyncio.Event()

    async def late() -> AsyncIterator[str]:
        await go_on.wait()
        yield "late"

    async with MiniAgents():
        call = echo.initiate_call().send_out_of_order(late()).send_message("in order")
        replies = call.reply_sequence()
        go_on.set()
        assert await texts(replies) == ["in order", "late"]


async def test_unfinished_call_is_finished_when_its_caller_ends() -> None:
    """A call left open is finished when its caller ends: an agent that returns or fails, or the context's body."""
    calls: list[AgentCall] = []
    seen: list[list[str]] = []

    @miniagent
    async def callee(ctx: InteractionContext) -> None:
        seen.append([str(message) for message in await ctx.message_promises])

    @miniagent
    async def caller(ctx: InteractionContext, fail: bool) -> None:
        calls.append(callee.initiate_call("from an agent"))
        if fail:
            raise Boom

    async with MiniAgents():
        await caller.trigger(fail=False)
        assert calls[0].is_finished
        with pytest.raises(Boom):
            await caller.trigger(fail=True)
        assert calls[1].is_finished
        callee.initiate_call("from the body").send_message("more")
    assert seen == [["from an agent"], ["from an agent"], ["from the body", "more"]]


async def test_open_call_is_finished_when_its_handle_is_collected() -> None:
    """In an activated context, garbage collection of an `AgentCall`, in any thread, finishes the call and its agent."""
    ended: list[str] = []

    @miniagent
    async def callee(ctx: InteractionContext) -> None:
        [message] = await ctx.message_promises
        ended.append(str(message))

    async def request(name: str) -> None:
        box = [callee.initiate_call(name)]
        if name == "in a cycle":
            box.append(box)  # type: ignore[arg-type]  # a reference cycle
        if name == "by another thread":
            await asyncio.to_thread(box.clear)

    context = MiniAgents().activate()
    kept = callee.initiate_call("kept")
    for name in ("at once", "in a cycle", "by another thread"):
        await asyncio.create_task(request(name))
        gc.collect()
        await steps()
        assert ended.pop() == name
        assert len(context.tasks) == 1
    assert not kept.is_finished
    await context.afinalize()
    assert ended == ["kept"]


def test_call_is_collected_without_an_error_after_its_loop_was_closed() -> None:
    """An open call that is garbage-collected after its event loop was closed raises and logs no error."""

    async def main() -> AgentCall:
        MiniAgents().activate()
        return echo.initiate_call()

    call = asyncio.run(main())
    del call
    gc.collect()


async def test_call_with_wrong_messages_starts_no_agent() -> None:
    """A call with values that are no messages raises `TypeError`, and the agent does not run."""
    started: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        started.append("yes")

    async with MiniAgents():
        for call in (agent.trigger, agent.initiate_call):
            with pytest.raises(TypeError, match="Cannot send"):
                call(["fine", 1])  # type: ignore[list-item]  # that is the mistake
        await steps()
    assert not started


# --- traces of calls (law 36)


async def test_tasks_have_the_name_of_their_agent_and_the_number_of_its_call() -> None:
    """In each run, the tasks of an agent and those of its messages are named by its alias and the call's number."""
    names: list[str] = []

    def note() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    async def tokens(fields: object) -> AsyncIterator[str]:
        note()
        yield "token"

    @miniagent
    async def writer(ctx: InteractionContext) -> None:
        note()
        ctx.reply(Message.promise(message_token_streamer=tokens))

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        note()
        await writer.trigger()
        await writer.fork(alias="EDITOR").trigger()
        await writer.trigger()

    for _ in range(2):
        async with MiniAgents():
            await boss.trigger()
        assert names == ["BOSS#1", "WRITER#1", "WRITER#1", "EDITOR#1", "EDITOR#1", "WRITER#2", "WRITER#2"]
        names.clear()


async def test_agent_trace_names_the_agent_and_its_callers() -> None:
    """The agent trace is the running agent and its callers, also in helper tasks; outside of agents it is empty."""
    traces: list[list[str]] = []

    def note() -> None:
        traces.append(InteractionContext.get_current().get_agent_trace())

    @miniagent
    async def inner(ctx: InteractionContext) -> None:
        assert InteractionContext.get_current() is ctx
        note()

    @miniagent
    async def outer(ctx: InteractionContext) -> None:
        async def helper() -> None:
            note()

        ctx.make_sure_to_wait(helper())
        await inner.trigger()

    async with MiniAgents():
        await outer.trigger()
        with pytest.raises(LookupError, match="inside an agent"):
            InteractionContext.get_current()
    assert sorted(traces) == [["INNER", "OUTER"], ["OUTER"]]


async def test_agent_trace_names_the_maker_of_a_call_and_not_its_reader() -> None:
    """If one agent makes a call on demand and another reads it, the trace names the agent that made the call."""
    traces: list[list[str]] = []

    @miniagent
    async def lazy(ctx: InteractionContext) -> None:
        traces.append(ctx.get_agent_trace())
        raise Boom

    @miniagent
    async def maker(ctx: InteractionContext) -> None:
        ctx.reply(lazy.trigger(start_soon=False))

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        with pytest.raises(Boom) as caught:
            await ctx.message_promises
        assert caught.value.__notes__ == ["Raised in agent LAZY <- MAKER"]
        ctx.reply("read")

    async with MiniAgents():
        made = maker.trigger()
        await steps()
        assert not traces
        assert await texts(reader.trigger(made)) == ["read"]
    assert traces == [["LAZY", "MAKER"]]


async def test_failure_of_a_call_on_demand_is_raised_by_the_context_of_its_maker() -> None:
    """If a call of an outer context, read in an inner one, fails unobserved, the outer context raises the error."""
    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            replies = failing.trigger(start_soon=False)
            async with MiniAgents():
                async for promise in replies:
                    assert str(await promise) == "before"
                    break
                await steps()
    assert [type(error) for error in caught.value.exceptions] == [Boom]
