"""Errors of agents: their place among the replies, and failures that no reader observes (laws 4 and 32)."""

from __future__ import annotations

import asyncio
import gc
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from common import Boom, echo, failing, steps, texts

from miniagents._promising.promise import Promise
from miniagents.errors import AppenderClosedError, PromiseCancelledError, StopDialog
from miniagents.messages import ErrorMessage, Message, MessageSequence
from miniagents.messages._text import join_messages, split_messages
from miniagents.miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents.messages import MessagePromise


# --- errors (law 32)


async def test_C8_agent_error_comes_after_the_replies_before_it() -> None:
    """If an agent replies and then fails, every reader gets the replies first and the error after them."""
    async with MiniAgents():
        replies = failing.trigger()
        assert await texts(replies) == await texts(replies) == ["before", "Boom"]
        with pytest.raises(Boom):
            await replies


async def test_agent_error_passes_through_agents_that_forward_replies() -> None:
    """If agents forward a failing agent's replies, readers get the error after those, with a note of the callers."""

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
async def test_error_of_make_sure_to_wait_is_the_last_reply(also_the_agent: bool) -> None:
    """If an awaitable fails, its error ends the agent's replies, and other awaitables run on.

    If the agent fails as well, the agent's own error ends the replies, and the other awaitables are cancelled.
    """
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


async def test_context_waits_for_the_clean_up_of_awaitables_that_it_cancels() -> None:
    """An error in the context's block cancels the awaitables of agents, and is raised after their clean-up."""
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


async def test_agent_error_after_an_early_finish_is_unobserved() -> None:
    """If an agent ends its replies early and then fails, the caller reads them, and the context raises the error."""
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


async def test_cancelled_wait_keeps_the_errors_that_it_has_seen() -> None:
    """If an awaitable fails and then `await_now` times out, the next `await_now` or the replies raise the error."""

    async def bad() -> None:
        raise Boom("early")

    @miniagent
    async def agent(ctx: InteractionContext, again: bool) -> None:
        """Stop the wait for two awaitables by a timeout, after the first one has failed."""
        slow = asyncio.get_running_loop().create_future()
        ctx.make_sure_to_wait(bad())
        ctx.make_sure_to_wait(slow)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ctx.await_now()
        slow.set_result(None)
        if again:
            with pytest.raises(Boom, match="early"):
                await ctx.await_now()

    async with MiniAgents():
        assert await agent.trigger(again=True) == ()
        with pytest.raises(Boom, match="early"):
            await agent.trigger(again=False)


async def test_early_finish_waits_for_awaitables_unless_await_now_is_false() -> None:
    """`afinish_early` waits for the agent's awaitables, and with `await_now=False` ends the replies without them."""

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


async def test_errors_as_messages_turns_errors_into_error_messages() -> None:
    """With `errors_as_messages`, an error or timeout is the last reply; `StopDialog` and cancellations are raised."""

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


@pytest.mark.miniagents_virtual_time
async def test_C12_timeout_cancels_the_agent() -> None:
    """A call that takes longer than its `timeout` gives the replies so far and a `TimeoutError` with the agent's name.

    A `TimeoutError` that the agent raises itself is passed on unchanged.
    """
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


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("how", ["await", "read"])
async def test_C12_timeout_stops_the_stream_that_the_agent_was_reading(how: str) -> None:
    """A timeout of an agent closes the stream it reads, even if the error and its traceback are kept."""
    log: list[str] = []

    async def endless(fields: dict[str, Any]) -> AsyncIterator[str]:
        try:
            while True:
                yield "token"
                await asyncio.sleep(0.001)
        finally:
            log.append("stopped")

    @miniagent
    async def source(ctx: InteractionContext) -> None:
        ctx.reply(Message.promise(message_token_streamer=endless))

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        replies = source.trigger()
        try:
            if how == "await":
                await replies
            async for promise in replies:
                async for _ in promise:
                    await asyncio.sleep(0)
        finally:
            log.append("cancelled")

    async with MiniAgents():
        with pytest.raises(TimeoutError) as kept:
            await reader.trigger(timeout=0.01)
        await steps()
        assert log == ["cancelled", "stopped"]
    assert "in reader" in "".join(traceback.format_exception(kept.value)), "the traceback has lost its lines"


async def test_C4_cancelled_call_stops_the_agent() -> None:
    """If a call is cancelled, its agent cleans up, and readers get the replies so far and `PromiseCancelledError`."""
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


@pytest.mark.parametrize("fails", ["the agent", "what it waits for"])
async def test_error_in_the_clean_up_of_a_cancelled_call_is_unobserved(fails: str) -> None:
    """The context raises an error in an agent's clean-up, because the cancelled replies have ended without it."""

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom("in the clean-up")

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        if fails == "the agent":
            await stuck()
        ctx.make_sure_to_wait(stuck())

    with pytest.raises(ExceptionGroup, match="1 error") as raised:
        async with MiniAgents():
            replies = agent.trigger()
            await steps()
            replies.cancel()
            assert await texts(replies) == ["PromiseCancelledError"]
    assert [type(error) for error in raised.value.exceptions] == [Boom]


async def test_C22_reply_after_the_end_of_the_agent_is_refused() -> None:
    """`reply` raises an error with the agent's name if a task calls it after the agent has ended."""
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


async def test_agent_error_comes_after_out_of_order_replies() -> None:
    """An agent's error comes to readers after the out-of-order replies that the agent sent before it failed."""
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


# --- errors that derive from BaseException (law 4)


class Own(BaseException):
    """Exception class of an application, which `except Exception` does not catch."""


def fail_with_a_cause() -> NoReturn:
    """Raise `Own` with another error as its cause."""
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise Own("the text") from error


class Raising:
    """Functions of agents that raise `Own`: in the agent, in a stream, in an awaitable, or in an agent they call."""

    async def in_an_agent(self, ctx: InteractionContext) -> None:
        ctx.reply("before")
        fail_with_a_cause()

    async def in_the_tokens_of_a_message(self, ctx: InteractionContext) -> None:
        ctx.reply(Message.promise(message_token_streamer=self.tokens))

    async def tokens(self, fields: dict[str, Any]) -> AsyncIterator[str]:
        yield "before"
        fail_with_a_cause()

    async def in_a_message_that_is_joined(self, ctx: InteractionContext) -> None:
        ctx.reply(join_messages([Message.promise(message_token_streamer=self.tokens)]))

    async def in_a_message_that_is_split(self, ctx: InteractionContext) -> None:
        ctx.reply(split_messages(Message.promise(message_token_streamer=self.tokens)))

    async def items(self) -> AsyncIterator[str]:
        yield "before"
        fail_with_a_cause()

    async def in_an_async_iterable(self, ctx: InteractionContext) -> None:
        ctx.reply(self.items())

    async def in_an_async_iterable_sent_out_of_order(self, ctx: InteractionContext) -> None:
        ctx.reply_out_of_order(self.items())

    async def in_an_iterator(self, ctx: InteractionContext) -> None:
        ctx.reply("before" if number == 0 else fail_with_a_cause() for number in range(2))

    async def in_a_promise(self, ctx: InteractionContext) -> None:
        async def resolver() -> None:
            fail_with_a_cause()

        ctx.reply("before")
        await Promise(resolver)

    async def in_what_is_waited_for(self, ctx: InteractionContext) -> None:
        async def helper() -> None:
            fail_with_a_cause()

        ctx.make_sure_to_wait(helper())
        ctx.reply("before")

    async def in_an_agent_that_it_calls(self, ctx: InteractionContext) -> None:
        ctx.reply("before")
        await MiniAgent(self.in_an_agent).trigger()

    async def in_an_agent_that_it_passes_on(self, ctx: InteractionContext) -> None:
        ctx.reply(MiniAgent(self.in_an_agent).trigger())

    async def in_an_appender(self, ctx: InteractionContext) -> None:
        with MessageSequence(capture_errors=True) as sequence:
            ctx.reply(sequence.append("before").sequence_promise)
            fail_with_a_cause()

    async def as_an_object(self, ctx: InteractionContext) -> None:
        ctx.reply("before")
        try:
            fail_with_a_cause()
        except Own as error:
            ctx.reply(error)  # type: ignore[arg-type]  # annotations name what is usual


class RaisingAgent:
    """A class agent that raises `Own`."""

    def __init__(self, ctx: InteractionContext) -> None:
        self.ctx = ctx

    async def __call__(self) -> None:
        """Reply, and raise."""
        await Raising().in_an_agent(self.ctx)


PLACES = [name for name in vars(Raising) if name.startswith(("in_", "as_"))]


@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize("place", [*PLACES, "in_a_class"])
async def test_C30_base_exception_of_an_agent_reaches_every_reader(place: str, timeout: float | None) -> None:
    """If an agent raises a `BaseException`, each reader gets it with text and cause, and the context raises nothing."""
    agent: MiniAgent[Any] = MiniAgent(RaisingAgent if place == "in_a_class" else getattr(Raising(), place))
    async with MiniAgents():
        replies = agent.trigger(timeout=timeout)
        for _ in range(2):
            with pytest.raises(Own, match="the text") as caught:
                await replies
            assert isinstance(caught.value.__cause__, KeyError)
        promises = [promise async for promise in replies]
        assert "".join([token async for token in _up_to_the_error(promises)]) == "before"


async def _up_to_the_error(promises: list[MessagePromise]) -> AsyncIterator[str]:
    """Yield the tokens of the messages until `Own` is raised; fail if they end without it."""
    try:
        for promise in promises:
            async for token in promise:
                yield token
    except Own:
        return
    raise AssertionError("no error came")


@pytest.mark.parametrize("place", ["in_an_agent", "in_what_is_waited_for", "in_an_agent_that_it_calls", "in_a_promise"])
async def test_C30_unobserved_base_exception_is_raised_by_the_context(place: str) -> None:
    """The context raises a `BaseException` that no reader got: unchanged if it is the only error, else in a group."""
    agent: MiniAgent[Any] = MiniAgent(getattr(Raising(), place))
    with pytest.raises(Own, match="the text"):
        async with MiniAgents():
            agent.trigger()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with MiniAgents():
            agent.trigger()
            failing.trigger()
    assert {type(error) for error in caught.value.exceptions} == {Own, Boom}


@pytest.mark.parametrize(
    "place", ["in_an_agent", "in_the_tokens_of_a_message", "in_what_is_waited_for", "in_a_promise"]
)
async def test_errors_as_messages_turns_base_exceptions_into_error_messages(place: str) -> None:
    """With `errors_as_messages`, a `BaseException` of an agent becomes an `ErrorMessage` with its class and text."""
    async with MiniAgents(errors_as_messages=True):
        replies = await MiniAgent(getattr(Raising(), place)).trigger()
    assert [(type(each), str(each)) for each in replies] == [(Message, "before"), (ErrorMessage, "Own: the text")]


@pytest.mark.parametrize("kind", ["on_promise_resolved", "on_persist_messages"])
async def test_base_exception_of_a_handler_is_raised_by_the_context(kind: str) -> None:
    """If a handler of promises or of persistence raises a `BaseException`, the context raises it at its end."""
    raised: list[Own] = []

    async def handler(*_: Any) -> None:
        if not raised:
            raised.append(Own())
            raise raised[0]

    options: dict[str, Any] = {kind: [handler]}
    with pytest.raises(Own) as caught:
        async with MiniAgents(**options):
            await echo.trigger("text")
    assert caught.value is raised[0]


@pytest.mark.parametrize(("outcome", "told"), [("fail", "failed=3"), ("skip", "skipped=3"), ("xfail", "xfailed=3")])
def test_C30_outcome_that_an_agent_raises_is_that_of_its_test(
    outcome: str, told: str, pytester: pytest.Pytester
) -> None:
    """A test gets the outcome that its agent raises by `pytest.fail`, `skip` or `xfail`, even without a reader."""
    pytester.makepyfile(
        f"""
        import asyncio
        import pytest
        from miniagents import MiniAgents, miniagent

        @miniagent
        async def ending(ctx):
            pytest.{outcome}("the reason")

        @miniagent
        async def caller(ctx):
            ending.trigger()
            ctx.reply("done")

        @pytest.mark.asyncio
        async def test_read():
            async with MiniAgents():
                await ending.trigger()

        @pytest.mark.asyncio
        async def test_unread():
            async with MiniAgents():
                await caller.trigger()

        @pytest.mark.asyncio
        @pytest.mark.miniagents_virtual_time
        async def test_virtual():
            async with MiniAgents():
                await asyncio.sleep(3600)
                await ending.trigger()
        """
    )
    result = pytester.runpytest_subprocess("-rA", "-p", "no:cacheprovider")
    name, count = told.split("=")
    result.assert_outcomes(**{name: int(count)})
    assert "the reason" in result.stdout.str()


# --- unobserved failures (law 4)


async def test_unobserved_failure_names_its_agents() -> None:
    """An unobserved failure of an agent, or of a message it replied, has a note with the agent and its callers."""

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


@pytest.mark.parametrize(
    "place", ["in_an_agent", "in_what_is_waited_for", "in_an_agent_that_it_calls", "in_an_agent_that_it_passes_on"]
)
async def test_C31_unobserved_failure_is_logged_when_its_replies_are_collected(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With `unobserved_errors="log"`, a failure is logged once, when the agent's unread replies are collected."""
    agent: MiniAgent[Any] = MiniAgent(getattr(Raising(), place), alias="OUTER")
    async with MiniAgents(unobserved_errors="log"):
        replies = agent.trigger()
        await steps(20)
        gc.collect()
        assert caplog.records == []
        del replies
        gc.collect()
        [record] = caplog.records
        assert record.exc_info
        assert isinstance(record.exc_info[1], Own)
        assert record.exc_info[1].__notes__[0].endswith("OUTER")
        read = agent.trigger()
        with pytest.raises(Own):
            await read
        del read
        gc.collect()
    assert caplog.records == [record]


async def test_unobserved_failure_that_was_passed_on_is_raised_once() -> None:
    """If an agent's failure makes its callers fail as well, the context raises that one error only."""

    @miniagent
    async def parent(ctx: InteractionContext, depth: int) -> None:
        replies = parent.trigger(depth=depth - 1) if depth else failing.trigger()
        ctx.reply(await replies)

    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            parent.trigger(depth=3)
    assert [type(error) for error in caught.value.exceptions] == [Boom]


@pytest.mark.parametrize("tokens", [False, True])
async def test_error_that_a_reader_got_is_not_raised_again_if_the_agent_fails_with_it(tokens: bool) -> None:
    """If a caller reads a forwarded error, the context does not raise it, even if the agent also fails with it."""
    read = asyncio.Event()

    @miniagent
    async def passing_on(ctx: InteractionContext, *, late: bool) -> None:
        replies = failing.trigger()
        ctx.reply(replies)
        if late:
            await read.wait()
        await replies

    async with MiniAgents():
        for late in (False, True):
            with pytest.raises(Boom):
                async for promise in passing_on.trigger(late=late):
                    if tokens:
                        async for _ in promise:
                            pass
                    await promise
        read.set()


@pytest.mark.parametrize("waits", [False, True])
async def test_error_that_only_the_agent_got_is_raised_at_the_end(waits: bool) -> None:
    """If a caller stops reading before a failed reply, the context raises the error, even if the agent awaited it."""

    @miniagent
    async def passing_on(ctx: InteractionContext) -> None:
        replies = failing.trigger()
        ctx.reply(replies)
        if waits:
            await replies

    with pytest.raises(BaseExceptionGroup, match="1 error") as caught:
        async with MiniAgents():
            async for promise in passing_on.trigger():
                assert str(await promise) == "before"
                break
    assert [type(each) for each in caught.value.exceptions] == [Boom]


async def test_C18_one_failing_agent_of_ten_thousand_leaves_the_others_alone() -> None:
    """If one of 10,000 agents fails, its caller replies 9,999 messages, and the error in the failed agent's place."""

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


async def test_C21_replies_and_errors_pass_through_a_thousand_agents() -> None:
    """A reply or an error of the innermost of a thousand nested agents reaches the reader of the outermost."""

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


@dataclass(frozen=True)
class OutOfStockError(Exception):
    """Exception whose attributes cannot be set."""

    item: str


@pytest.mark.parametrize("how", ["raised", "sent"])
async def test_error_whose_attributes_cannot_be_set_reaches_its_readers(how: str) -> None:
    """An exception that is a frozen dataclass takes no note about the agent; each reader gets the object itself."""
    error = OutOfStockError("tea")

    @miniagent
    async def shop(ctx: InteractionContext) -> None:
        if how == "raised":
            raise error
        ctx.reply(error)

    async with MiniAgents():
        replies = shop.trigger()
        for _ in range(2):
            with pytest.raises(OutOfStockError) as raised:
                await replies
            assert raised.value is error
