"""Agents and their calls (laws 31-36)."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from miniagents.errors import AppenderClosedError, NoActiveContextError, PromiseCancelledError, StopDialog
from miniagents.messages import ErrorMessage, Message, MessageSequencePromise, UserMessage
from miniagents.miniagents import AgentCall, InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.promising.context import PromisingContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Boom(Exception):  # noqa: N818 - what happens, in one word
    """What agents here fail with."""


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Replies what it was sent."""
    ctx.reply(ctx.message_promises)


@miniagent
async def failing(ctx: InteractionContext) -> None:
    """Replies, and then fails."""
    ctx.reply("before")
    raise Boom("broken")


async def texts(sequence: MessageSequencePromise) -> list[str]:
    """The text of each reply, or the name of its error in its place."""
    result = []
    async for promise in sequence:
        try:
            result.append(str(await promise))
        except Exception as error:
            result.append(type(error).__name__)
    return result


async def steps(count: int = 10) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- calls (law 31)


async def test_replies_arrive_while_the_agent_runs() -> None:
    """`trigger` returns at once; each reply can be read before the next one is made."""
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


async def test_the_sequence_ends_with_what_is_to_be_waited_for() -> None:
    """Helpers given to `make_sure_to_wait` may reply after the function returned."""
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


async def test_await_now_waits_for_what_was_given_so_far() -> None:
    """Afterwards their effects are there; an error of theirs is raised there, and only there."""
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


async def test_an_interrupted_await_now_forgets_nothing() -> None:
    """A timeout of the wait says nothing about what is waited for."""
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


async def test_agents_get_what_they_are_sent_and_their_keyword_arguments_untouched() -> None:
    """Keyword arguments are the same objects; without messages the sequence is empty."""
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


# --- errors (law 32)


async def test_an_error_comes_after_the_replies_before_it() -> None:
    """In its place, for every reader."""
    async with MiniAgents():
        replies = failing.trigger()
        assert await texts(replies) == await texts(replies) == ["before", "Boom"]
        with pytest.raises(Boom):
            await replies


async def test_an_error_travels_up_through_agents_that_pass_it_on() -> None:
    """The same instance, in its place, with the trace of where it was raised."""

    @miniagent
    async def middle(ctx: InteractionContext, depth: int) -> None:
        ctx.reply(["down", middle.trigger(depth=depth - 1) if depth else failing.trigger(), "up"])

    async with MiniAgents():
        replies = middle.trigger(depth=2)
        assert await texts(replies) == ["down"] * 3 + ["before", "Boom"] + ["up"] * 3
        with pytest.raises(Boom) as caught:
            await replies
        assert caught.value.__notes__ == ["Raised in agent FAILING <- MIDDLE <- MIDDLE <- MIDDLE"]


@pytest.mark.parametrize("also_the_agent", [False, True])
async def test_an_error_of_what_is_waited_for_is_the_last_reply(also_the_agent: bool) -> None:
    """Others that are waited for go on to their end; if the agent itself fails, they are cancelled."""
    log: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        async def bad() -> None:
            await asyncio.sleep(0)
            raise Boom

        async def good() -> None:
            try:
                await steps()
                log.append("done")
            finally:
                log.append("end")

        ctx.make_sure_to_wait(bad())
        ctx.make_sure_to_wait(good())
        await asyncio.sleep(0)
        ctx.reply("reply")
        if also_the_agent:
            raise KeyError

    async with MiniAgents(unobserved_errors="log"):
        assert await texts(agent.trigger()) == ["reply", "KeyError" if also_the_agent else "Boom"]
    assert log == (["end"] if also_the_agent else ["done", "end"])


async def test_what_an_agent_waits_for_has_ended_with_the_context() -> None:
    """Also its clean-up, when everything is cancelled: no task outlives its context."""
    log: list[str] = []

    async def helper() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await steps()
            log.append("cleaned up")

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.make_sure_to_wait(helper())
        await asyncio.Event().wait()

    with pytest.raises(Boom):
        async with MiniAgents():
            agent.trigger()
            await steps()
            raise Boom
    assert log == ["cleaned up"]


async def test_after_an_early_finish_a_later_error_is_unobserved() -> None:
    """The sequence has ended without it; the context reports it, with the agent's trace."""
    go_on = asyncio.Event()

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.reply("early")
        await ctx.afinish_early()
        with pytest.raises(AppenderClosedError, match="AGENT cannot reply any more"):
            ctx.reply("late")
        await go_on.wait()
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            assert await texts(agent.trigger()) == ["early"]
            go_on.set()
    (error,) = caught.value.exceptions
    assert isinstance(error, Boom)
    assert error.__notes__ == ["Raised in agent AGENT"]


async def test_an_early_finish_waits_for_what_must_be_waited_for() -> None:
    """Unless it is told not to."""

    @miniagent
    async def agent(ctx: InteractionContext, await_now: bool) -> None:
        async def helper() -> None:
            await steps()
            if await_now:
                ctx.reply("helped")

        ctx.make_sure_to_wait(helper())
        await ctx.afinish_early(await_now=await_now)

    async with MiniAgents():
        assert await texts(agent.trigger(await_now=True)) == ["helped"]
        assert await texts(agent.trigger(await_now=False)) == []


async def test_errors_as_messages() -> None:
    """An error is an `ErrorMessage` in place, never a part of another message; signals and cancellations are not."""

    @miniagent
    async def stopping(ctx: InteractionContext) -> None:
        raise StopDialog

    @miniagent
    async def forever(ctx: InteractionContext) -> None:
        await asyncio.Event().wait()

    async with MiniAgents(errors_as_messages=True):
        replies = await failing.trigger()
        assert [(type(reply), str(reply)) for reply in replies] == [(Message, "before"), (ErrorMessage, "Boom: broken")]
        assert replies[1].role == "error"
        assert await texts(failing.trigger(errors_as_messages=False)) == ["before", "Boom"]
        with pytest.raises(StopDialog):
            await stopping.trigger()
        cancelled = forever.trigger()
        await steps()
        cancelled.cancel()
        with pytest.raises(PromiseCancelledError):
            await cancelled
        assert [type(reply) for reply in await forever.trigger(timeout=0)] == [ErrorMessage]


async def test_a_timeout_ends_the_call() -> None:
    """The function is cancelled, the replies so far come, and then a `TimeoutError` that names the agent."""
    log: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext, how: str) -> None:
        try:
            ctx.reply("so far")
            if how == "wait":
                await asyncio.Event().wait()
            elif how == "helper":
                ctx.make_sure_to_wait(asyncio.Event().wait())
            elif how == "own":
                raise TimeoutError("my own")
        finally:
            log.append(how)

    async with MiniAgents():
        for how in ("wait", "helper"):
            replies = slow.trigger(timeout=0.01, how=how)
            with pytest.raises(TimeoutError, match=r"SLOW did not end within 0.01 s"):
                await replies
            assert await texts(replies) == ["so far", "TimeoutError"]
        with pytest.raises(TimeoutError, match="my own"):
            await slow.trigger(timeout=10, how="own")
        assert await texts(slow.trigger(timeout=10, how="none")) == ["so far"]
    assert log == ["wait", "helper", "own", "none"]


async def test_cancelling_a_call_stops_the_agent() -> None:
    """Its `finally` runs; its readers get the replies so far and then `PromiseCancelledError`."""
    log: list[str] = []

    @miniagent
    async def forever(ctx: InteractionContext) -> None:
        ctx.reply("so far")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    async with MiniAgents():
        replies = forever.trigger()
        call = forever.initiate_call()
        await steps()
        replies.cancel()
        call.cancel()
        for each in (replies, call.reply_sequence()):
            assert await texts(each) == ["so far", "PromiseCancelledError"]
        assert call.is_finished
    assert log == ["cleaned up"] * 2


async def test_replying_after_the_end_is_an_error_of_the_agent() -> None:
    """A helper that nobody was told to wait for comes too late; the error names the agent."""
    late: list[Any] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        late.append(ctx)

    async with MiniAgents():
        await agent.trigger()
        for reply in (late[0].reply, late[0].reply_out_of_order):
            with pytest.raises(AppenderClosedError, match="AGENT cannot reply any more"):
                reply("late")
        await late[0].afinish_early()


async def test_errors_wait_for_what_was_replied_out_of_order() -> None:
    """What was replied before an error comes before it, whenever it comes."""
    go_on = asyncio.Event()

    async def late() -> AsyncIterator[str]:
        await go_on.wait()
        yield "late"

    @miniagent
    async def agent(ctx: InteractionContext, fail: bool) -> None:
        ctx.reply_out_of_order(late())
        ctx.reply("at once")
        if fail:
            raise Boom

    async with MiniAgents():
        good, bad, told = (
            agent.trigger(fail=False),
            agent.trigger(fail=True),
            agent.trigger(fail=True, errors_as_messages=True),
        )
        await steps()
        go_on.set()
        assert await texts(good) == ["at once", "late"]
        assert await texts(bad) == ["at once", "late", "Boom"]
        assert await texts(told) == ["at once", "late", "Boom: "]


# --- what nobody observed (law 4)


async def test_failures_nobody_observed_name_their_agents() -> None:
    """An agent that failed, a message of an agent that failed, and a helper of an agent: each with its trace."""

    @miniagent
    async def parent(ctx: InteractionContext, how: str) -> None:
        if how == "agent":
            failing.trigger()
        elif how == "message":

            async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
                yield "x"
                raise Boom

            ctx.reply(Message.promise(message_token_streamer=streamer))
            await steps()
        else:
            ctx.make_sure_to_wait(steps(0))
            raise Boom

    for how, trace in (("agent", "FAILING <- PARENT"), ("message", "PARENT"), ("itself", "PARENT")):
        with pytest.raises(ExceptionGroup) as caught:
            async with MiniAgents():
                replies = parent.trigger(how=how)
        assert replies.is_done
        (error,) = caught.value.exceptions
        assert isinstance(error, Boom)
        assert error.__notes__ == [f"Raised in agent {trace}"]


async def test_a_failure_that_was_passed_on_is_reported_once() -> None:
    """However many agents passed it on without anybody looking at it."""

    @miniagent
    async def parent(ctx: InteractionContext, depth: int) -> None:
        replies = parent.trigger(depth=depth - 1) if depth else failing.trigger()
        ctx.reply(await replies)

    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            parent.trigger(depth=3)
    assert [type(error) for error in caught.value.exceptions] == [Boom]


async def test_ten_thousand_agents_of_which_one_fails() -> None:
    """All the others reply; together they are 9,999 messages and one error in its place."""

    @miniagent
    async def worker(ctx: InteractionContext, number: int) -> None:
        await asyncio.sleep(0)
        if number == 5_000:
            raise Boom
        ctx.reply(str(number))

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply([worker.trigger(number=number) for number in range(10_000)])

    async with MiniAgents():
        result = await texts(boss.trigger())
    assert len(result) == 10_000
    assert [each for each in result if not each.isdigit()] == ["Boom"]
    assert result[5_000] == "Boom"


async def test_a_chain_of_a_thousand_agents() -> None:
    """Each calls the next one and passes its replies on; an error at the end comes through all of them."""

    @miniagent
    async def link(ctx: InteractionContext, depth: int, fail: bool) -> None:
        if depth:
            ctx.reply(link.trigger(ctx.message_promises, depth=depth - 1, fail=fail))
        elif fail:
            raise Boom
        else:
            ctx.reply(ctx.message_promises)

    async with MiniAgents():
        assert await texts(link.trigger("hello", depth=1000, fail=False)) == ["hello"]
        with pytest.raises(Boom) as caught:
            await link.trigger(depth=1000, fail=True)
        assert caught.value.__notes__[0].count("LINK") == 1001


# --- calls that are sent to bit by bit (law 35)


async def test_full_duplex() -> None:
    """Replies are read while messages are still sent."""

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


async def test_messages_sent_out_of_order() -> None:
    """What is still to come holds up nobody; `reply_sequence` finishes the call."""
    go_on = asyncio.Event()

    async def late() -> AsyncIterator[str]:
        await go_on.wait()
        yield "late"

    async with MiniAgents():
        call = echo.initiate_call().send_out_of_order(late()).send_message("in order")
        replies = call.reply_sequence()
        go_on.set()
        assert await texts(replies) == ["in order", "late"]


async def test_an_unfinished_call_is_finished_with_its_callers_scope() -> None:
    """That of the calling agent, however it ends, and that of the body of the run."""
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


async def test_wrong_messages_do_not_start_a_call() -> None:
    """The `TypeError` comes at the call, and no agent was bothered."""
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


# --- whose call it is (law 36)


async def test_traces_name_the_callers() -> None:
    """The innermost first, also in helpers, and none outside of agents."""
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


async def test_a_call_that_somebody_else_starts_belongs_to_whoever_made_it() -> None:
    """It was made on demand by one agent, and read first by another: the trace names the one that made it."""
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


async def test_a_lazy_call_that_fails_is_reported_by_the_context_that_it_was_made_in() -> None:
    """Not by an inner one that happened to start it."""
    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            replies = failing.trigger(start_soon=False)
            async with MiniAgents():
                async for promise in replies:
                    assert str(await promise) == "before"
                    break
                await steps()
    assert [type(error) for error in caught.value.exceptions] == [Boom]


# --- making agents (laws 32-34)


async def test_class_agents() -> None:
    """An instance is made for each call, with `ctx` and the keyword arguments."""

    class Counter:
        """Counts what it is sent."""

        def __init__(self, ctx: InteractionContext, start: int) -> None:
            self.ctx = ctx
            self.count = start

        async def __call__(self) -> None:
            async for _ in self.ctx.message_promises:
                self.count += 1
            self.ctx.reply(str(self.count))

    counter: MiniAgent[...] = miniagent(alias="COUNT", start=10)(Counter)  # as a decorator: mypy does not see it
    async with MiniAgents():
        assert await texts(counter.trigger(["a", "b"])) == ["12"]
        assert await texts(counter.trigger("a", start=0)) == ["1"]
        assert await texts(counter.trigger(wrong=1)) == ["TypeError"]
    assert (counter.alias, counter.description) == ("COUNT", "Counts what it is sent.")
    assert miniagent(Counter).alias == "COUNTER"


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("OpenAIAgent", "OPENAI_AGENT"),
        ("echo", "ECHO"),
        ("my_agent", "MY_AGENT"),
        ("MyAgent", "MY_AGENT"),
        ("Gpt4Agent", "GPT4_AGENT"),
        ("My_Agent", "MY_AGENT"),
        ("_Hidden", "_HIDDEN"),
    ],
)
def test_aliases(name: str, alias: str) -> None:
    """The name in upper case, with camel case split before a capital that begins a word."""

    async def function(ctx: InteractionContext) -> None:
        """Nothing."""

    function.__name__ = name
    assert miniagent(function).alias == alias
    assert miniagent(alias="Any thing")(function).alias == "Any thing"


def test_descriptions_are_taken_as_they_are() -> None:
    """The docstring with its braces and per cents, without indentation."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        """Fills {this} and %s.

        And {{that}}.
        """

    assert agent.description == "Fills {this} and %s.\n\nAnd {{that}}."
    assert agent.__doc__ == agent.description
    assert miniagent(description="{other}")(agent.function).description == "{other}"


async def test_forks() -> None:
    """A fork of a fork merges keyword arguments, the later wins, and those of the call win over all."""

    @miniagent(a=1, b=1, c=1)
    async def agent(ctx: InteractionContext, **kwargs: Any) -> None:
        ctx.reply(repr(kwargs))

    fork = agent.fork(b=2, c=2, alias="FORK").fork(c=3)
    async with MiniAgents():
        assert await texts(fork.trigger(d=4)) == [repr({"a": 1, "b": 2, "c": 3, "d": 4})]
        assert await texts(fork.trigger(a=5)) == [repr({"a": 5, "b": 2, "c": 3})]
        assert await texts(agent.trigger()) == [repr({"a": 1, "b": 1, "c": 1})]
    assert (fork.alias, agent.alias) == ("FORK", "AGENT")
    assert fork != agent
    assert agent.fork(a=2) != agent.fork(a=3)


async def test_what_is_not_async_is_refused_when_it_is_decorated() -> None:
    """Plain functions, generators, instances and classes without an async `__call__`."""

    def plain(ctx: InteractionContext) -> None: ...

    async def generator(ctx: InteractionContext) -> AsyncIterator[str]:
        yield "x"

    class WithoutCall:
        """Cannot be called."""

    class WithPlainCall:
        """Can be called, but not awaited."""

        def __call__(self) -> None: ...

    wrongs: list[Any] = [plain, generator, WithoutCall, WithPlainCall, WithPlainCall(), 1, "name", echo]
    for wrong in wrongs:
        with pytest.raises(TypeError, match="must be an async function"):
            miniagent(wrong)


async def test_whatever_is_async_can_be_an_agent() -> None:
    """Partials, instances with an async `__call__`, bound methods, and wrapped functions."""

    async def function(ctx: InteractionContext, text: str = "function") -> None:
        ctx.reply(text)

    class Speaker:
        """An object that speaks."""

        async def __call__(self, ctx: InteractionContext) -> None:
            ctx.reply("instance")

        async def speak(self, ctx: InteractionContext) -> None:
            """Reply."""
            ctx.reply("method")

    @functools.wraps(function)
    def wrapper(ctx: InteractionContext) -> Any:
        return function(ctx, "wrapped")

    agents: list[MiniAgent[Any]] = [
        miniagent(function),
        miniagent(functools.partial(function, text="partial")),
        miniagent(Speaker()),
        miniagent(Speaker().speak),
        miniagent(wrapper),
    ]
    async with MiniAgents():
        replies = [await texts(agent.trigger()) for agent in agents]
    assert replies == [["function"], ["partial"], ["instance"], ["method"], ["wrapped"]]
    assert inspect.unwrap(agents[0]) is function  # type: ignore[arg-type]  # what it wraps is found the usual way


async def test_without_a_context_the_call_says_so() -> None:
    """Whatever its arguments, and in a context that knows no agents as well."""

    async def calls() -> None:
        for arguments in ({}, {"errors_as_messages": True}, {"start_soon": False, "errors_as_messages": False}):
            with pytest.raises(NoActiveContextError, match="MiniAgents"):
                echo.trigger("hello", **arguments)
            with pytest.raises(NoActiveContextError, match="MiniAgents"):
                echo.initiate_call("hello", **arguments)

    await calls()
    async with PromisingContext():
        await calls()


async def test_wrong_replies_fail_where_they_are_replied() -> None:
    """In the agent, at that line; what it replies afterwards still comes."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        for reply in (ctx.reply, ctx.reply_out_of_order):
            with pytest.raises(TypeError, match="Cannot send 1 of type int"):
                reply(["lost", 1])  # type: ignore[list-item]  # that is the mistake
        with pytest.raises(TypeError, match="needs an awaitable"):
            ctx.make_sure_to_wait(1)  # type: ignore[arg-type]  # that is the mistake
        ctx.reply("fine")

    async with MiniAgents():
        assert await texts(agent.trigger()) == ["fine"]


def test_run_agent_runs_one_agent() -> None:
    """In a loop of its own, with its keyword arguments."""
    assert MiniAgents().run_agent(echo, ["a", "b"]) == (Message("a"), Message("b"))
    with pytest.raises(Boom):
        MiniAgents().run_agent(failing)
