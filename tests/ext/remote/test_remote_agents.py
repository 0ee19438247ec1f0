"""Remote agents on a broker in memory, in virtual time: what callers get, and what workers do."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_broker import MemoryBroker, worker

from miniagents import (
    AssistantMessage,
    InteractionContext,
    LimitExceededError,
    Limits,
    Message,
    MiniAgent,
    MiniAgents,
    PromiseCancelledError,
    ReasoningDelta,
    StopDialog,
    TextDelta,
    ToolCall,
    ToolCallReady,
    UserMessage,
    miniagent,
)
from miniagents.errors import (
    CallNotFoundError,
    LLMError,
    NoActiveContextError,
    RateLimitedError,
    RemoteAgentError,
    RemoteProtocolError,
    RemoteUnavailableError,
    RemoteWorkerLostError,
)
from miniagents.ext._nats import NatsBroker
from miniagents.ext._remote_broker import Entry
from miniagents.ext._remote_frames import FrameReader, FrameWriter, dump_error, load_error
from miniagents.ext.remote import remote, reopen, serve
from miniagents_testing import ScriptedLLM, Step, create_scripted_agent, run_in_virtual_time, search_schedules
from miniagents_testing._cancelling import Trial, cancel_at_every_step
from miniagents_testing.checks.conformance import AgentConformance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from miniagents import MessageSequencePromise


in_virtual_time = pytest.mark.miniagents_virtual_time


class SignedNote(Message):
    """A message with a field of its own."""

    size: int = 0

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


def tokens(count: int, *, pause: float = 0.05, start: str = "t") -> Any:
    """Return a token streamer of `count` tokens, with a pause before each."""

    async def stream(fields: dict[str, Any]) -> AsyncIterator[str]:
        for number in range(count):
            await asyncio.sleep(pause)
            yield f"{start}{number} "
        fields["count"] = count

    return stream


def text_of(count: int) -> str:
    """Return the text of `tokens`."""
    return "".join(f"t{number} " for number in range(count))


@miniagent
async def talker(ctx: InteractionContext, count: int = 3, pause: float = 0.05) -> None:
    """Replies a message at once, and streams another one."""
    ctx.reply(SignedNote("first", size=7))
    ctx.reply(Message.promise(message_token_streamer=tokens(count, pause=pause), topic="numbers"))


@miniagent
async def streamer(ctx: InteractionContext) -> None:
    """Streams two messages."""
    ctx.reply([Message.promise(message_token_streamer=tokens(4)), Message.promise(message_token_streamer=tokens(2))])


async def outcomes(replies: MessageSequencePromise[Any]) -> list[Any]:
    """Return the messages of replies, with the error in place of each that failed."""
    found: list[Any] = []
    async for promise in replies:
        try:
            found.append(await promise)
        except Exception as error:
            found.append(error)
    return found


class _RemoteConformance(AgentConformance):
    """Tests of any agent, on a remote one."""

    def make_agent(self) -> Any:
        self.broker = MemoryBroker()
        return remote(self.broker, "STREAMER")

    def run(self, check: Coroutine[Any, Any, None]) -> None:
        async def with_worker() -> None:
            async with worker(self.broker, streamer):
                await check

        run_in_virtual_time(with_worker())


class TestRemoteAgentConforms(_RemoteConformance):
    """A remote agent passes the tests of any agent."""

    messages: ClassVar[Any] = ["Hello", UserMessage("Again")]


@in_virtual_time
async def test_R1_replies_of_a_remote_agent_equal_those_in_one_process() -> None:
    """Messages, their classes, fields, tokens and order are the same, remote or not."""
    broker = MemoryBroker()
    async with worker(broker, talker), MiniAgents():
        local = talker.trigger(count=5)
        far = remote(broker, talker).trigger(count=5)
        assert await far == await local
        assert [type(each) for each in await far] == [SignedNote, Message]
        streamed = [promise async for promise in far]
        assert [token async for token in streamed[1]] == [f"t{number} " for number in range(5)]
        assert dict(streamed[1].known_beforehand) == {"topic": "numbers"}


@in_virtual_time
async def test_R1_input_messages_and_arguments_arrive_as_they_are() -> None:
    """The agent gets equal messages, and arguments as JSON has them: lists and dicts, and messages."""
    got: list[Any] = []

    @miniagent
    async def taker(ctx: InteractionContext, **arguments: Any) -> None:
        got.append((await ctx.message_promises, arguments))

    broker = MemoryBroker()
    sent: list[Any] = [
        SignedNote("x", size=2, raw=b"\0\xff", lone="\ud83d"),
        "text",
        AssistantMessage(tool_calls=[ToolCall(id="1")]),
    ]
    arguments: dict[str, Any] = {"names": ["a", {"b": [1.5, None]}], "note": SignedNote("in"), "big": 10**30}
    async with worker(broker, taker), MiniAgents():
        await remote(broker, "TAKER").trigger(sent, **arguments)
    [(messages, kwargs)] = got
    assert messages == (sent[0], Message("text"), sent[2])
    assert kwargs == arguments
    assert type(kwargs["names"]) is list
    assert type(kwargs["names"][1]) is dict


@in_virtual_time
async def test_R1_large_calls_and_messages_go_in_parts() -> None:
    """A call and a reply far above the limit of a frame arrive whole, tokens with lone surrogates included."""
    halves = ["\ud83d", "\ude00" * 3, "é" * 900, "x" * 5000]

    @miniagent
    async def repeater(ctx: InteractionContext) -> None:
        async def stream(_: Any) -> AsyncIterator[str]:
            for token in halves:
                yield token

        ctx.reply(Message.promise(message_token_streamer=stream, raw="\ud83d\ude00" * 300))
        ctx.reply(ctx.message_promises)

    broker = MemoryBroker(largest_frame=700)
    async with worker(broker, repeater), MiniAgents():
        replies = remote(broker, "REPEATER").trigger(['"\\' * 4000, "y" * 1000])
        assert [str(each) for each in await replies] == ["".join(halves), '"\\' * 4000, "y" * 1000]
        first = await anext(aiter(replies))
        assert [token async for token in first] == halves
    assert max(len(entry.data) for log in broker.logs.values() for entry in log) <= 700


@in_virtual_time
async def test_R1_errors_come_in_their_place_and_keep_their_class() -> None:
    """Errors of Python and of MiniAgents keep class and values.

    Another error becomes a `RemoteAgentError` with the name of its class and its text.
    """

    class OwnError(Exception):
        """An error that the caller's process does not know."""

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        async def broken(_: Any) -> AsyncIterator[str]:
            yield "before "
            raise RateLimitedError("slow down", provider="openai", status=429, retry_after=2.5)

        ctx.reply([KeyError("missing"), "between", FileNotFoundError(2, "No such file", "x.txt")])
        ctx.reply(Message.promise(message_token_streamer=broken))
        ctx.reply(OwnError("mine"))
        raise ExceptionGroup("both", [ValueError("one"), OwnError("two")])

    broker = MemoryBroker()
    async with worker(broker, failing), MiniAgents():
        found = await outcomes(remote(broker, "FAILING").trigger())
    missing, between, no_file, limited, own, group = found
    assert (type(missing), missing.args) == (KeyError, ("missing",))
    assert str(between) == "between"
    assert (type(no_file), no_file.errno, no_file.filename) == (FileNotFoundError, 2, "x.txt")
    assert (type(limited), limited.retry_after, limited.status) == (RateLimitedError, 2.5, 429)
    assert str(limited.partial) == "before "
    assert (type(own), own.type_name.rpartition(".")[2]) == (RemoteAgentError, "OwnError")
    assert "mine" in str(own)
    assert [type(each) for each in group.exceptions] == [ValueError, RemoteAgentError]
    assert "Raised in agent FAILING" in group.__notes__


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("text", 3),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        OSError(5, "broken"),
        LLMError("x", provider="p", retryable=True),
        StopDialog("end"),
        PromiseCancelledError("gone"),
        BaseExceptionGroup("all", [ValueError("x")]),
        LimitExceededError("limit", limit="requests", value=3, agent_trace=("A",)),
    ],
    ids=repr,
)
def test_R1_error_keeps_class_and_text(error: BaseException) -> None:
    """An error of Python or of MiniAgents that is dumped to JSON and loaded has the same class, text and attributes."""
    loaded = load_error(json.loads(json.dumps(dump_error(error))))
    assert type(loaded) is type(error)
    assert str(loaded) == str(error)
    assert vars(loaded) == {**vars(error), **vars(loaded)}


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "object", "eval", "MiniAgents"])
def test_R9_error_that_names_no_error_class_becomes_remote_agent_error(name: str) -> None:
    """A frame whose error names an interrupt, a function or a class that is no error loads as `RemoteAgentError`."""
    assert type(load_error({"type": name, "text": "x", "args": ["1"]})) is RemoteAgentError


@in_virtual_time
async def test_R1_stop_dialog_and_errors_as_messages_are_as_in_one_process() -> None:
    """`StopDialog` passes through; with `errors_as_messages`, an error of the remote agent becomes a message here."""

    @miniagent
    async def stopping(ctx: InteractionContext, stop: bool = True) -> None:
        ctx.reply("bye")
        raise StopDialog if stop else ValueError("bad")

    broker = MemoryBroker()
    async with worker(broker, stopping), MiniAgents():
        bye, stop = await outcomes(remote(broker, "STOPPING").trigger(errors_as_messages=True))
        assert (str(bye), type(stop)) == ("bye", StopDialog)
        _, bad = await remote(broker, "STOPPING").trigger(stop=False, errors_as_messages=True)
        assert (str(bad), bad.role) == ("ValueError: bad", "error")


@in_virtual_time
async def test_R1_events_travel() -> None:
    """`events()` of a remote reply gives the events of its source, in their order."""
    call = ToolCall(id="c1", name="look", arguments="{}")

    @miniagent
    async def thinker(ctx: InteractionContext) -> None:
        async def stream(_: Any) -> AsyncIterator[Any]:
            yield ReasoningDelta("hm")
            yield "a"
            await asyncio.sleep(1)
            yield "b"
            yield ToolCallReady(call)

        ctx.reply(AssistantMessage.promise(message_token_streamer=stream))

    broker = MemoryBroker()
    async with worker(broker, thinker), MiniAgents():
        [promise] = [each async for each in remote(broker, "THINKER").trigger()]
        assert promise.message_class is AssistantMessage
        events = [event async for event in promise.events()]
    assert events[:-1] == [ReasoningDelta("hm"), TextDelta("a"), TextDelta("b"), ToolCallReady(call)]


@in_virtual_time
async def test_R9_usage_counts_to_the_caller_and_limits_to_the_worker() -> None:
    """Requests of the worker count for the remote agent, its callers and the run.

    The worker enforces the caller's `limits=`.
    """
    model = create_scripted_agent(["one", "two", "three"], alias="MODEL")

    @miniagent
    async def asker(ctx: InteractionContext, times: int = 2) -> None:
        for _ in range(times):
            await model.trigger("Hi")
        ctx.reply("done")

    broker = MemoryBroker()

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply(await remote(broker, "ASKER").trigger())
        assert ctx.usage.requests == 2

    async with worker(broker, asker), MiniAgents() as run:
        await boss.trigger()
        assert run.usage.requests == 2
        assert run.usage.by_agent["BOSS"].requests == 2
        assert run.usage.by_agent["ASKER"].requests == 2
        assert run.usage.by_agent["MODEL"].requests == 2
        [error] = await outcomes(remote(broker, "ASKER").trigger(limits=Limits(requests=1)))
        assert isinstance(error, LimitExceededError)
        assert (error.limit, error.value) == ("requests", 1)
        assert run.usage.requests == 3


def counted_agent(runs: list[int]) -> MiniAgent[...]:
    """Return an agent that adds to `runs` at each call, and replies four tokens."""

    @miniagent
    async def counted(ctx: InteractionContext) -> None:
        runs.append(1)
        ctx.reply(Message.promise(message_token_streamer=tokens(4)))

    return counted


@in_virtual_time
async def test_R2_call_id_is_one_call_with_two_readers() -> None:
    """Three triggers with the same `call_id`, one of them later, run the agent once, and each gets its replies."""
    runs: list[int] = []
    counted = counted_agent(runs)
    broker = MemoryBroker()
    async with worker(broker, counted), worker(broker, counted), MiniAgents():
        agent = remote(broker, "COUNTED")
        first, second = agent.trigger("x", call_id="job-7"), agent.trigger("x", call_id="job-7")
        assert [str(each) for each in await first] == [text_of(4)]
        assert await second == await first
        assert await agent.trigger("x", call_id="job-7") == await first
        assert await agent.trigger("x") == await first
    assert len(runs) == 2


@in_virtual_time
@pytest.mark.parametrize("record", ["claim", "done"])
async def test_R2_call_runs_once_when_the_answer_to_a_frame_is_lost(record: str) -> None:
    """A worker that does not hear if its claim, or its last frame, was stored finds it in the log; calls run once."""
    runs: list[int] = []
    counted = counted_agent(runs)
    broker = MemoryBroker()
    answers = iter([True, False, True])
    broker.loses_answer = lambda frame: f'"{record}"'.encode() in frame and next(answers, False)
    broker.stale_reads = 1 if record == "claim" else 0
    async with worker(broker, counted), worker(broker, counted), MiniAgents():
        for _ in range(3):
            assert [str(each) for each in await remote(broker, "COUNTED").trigger()] == [text_of(4)]
    assert len(runs) == 3


@in_virtual_time
async def test_R2_call_id_with_other_content_raises_value_error() -> None:
    """A call with the id of an earlier call, but other messages or arguments, is a `ValueError`.

    The earlier call goes on.
    """
    broker = MemoryBroker()
    async with worker(broker, talker), MiniAgents():
        agent = remote(broker, "TALKER")
        first = agent.trigger("x", call_id="one")
        second = agent.trigger("y", call_id="one")
        [error] = await outcomes(second)
        assert isinstance(error, ValueError)
        assert "'one'" in str(error)
        assert [str(each) for each in await first] == ["first", text_of(3)]
        [error] = await outcomes(agent.trigger("x", call_id="one", count=4))
        assert isinstance(error, ValueError)


@in_virtual_time
async def test_R10_reopen_gives_the_replies_from_the_start() -> None:
    """`reopen` gives all replies, while the agent works and in a later run.

    Cancelling the reopened replies does not stop the agent.
    """
    broker = MemoryBroker()
    async with worker(broker, talker):
        async with MiniAgents():
            replies = remote(broker, "TALKER").trigger(count=10, call_id="live")
            await asyncio.sleep(0.3)
            async with MiniAgents():
                reopened = await reopen(broker, "live")
                await anext(aiter(reopened))
                reopened.cancel()
            again = await reopen(broker, "live")
            assert await again == await replies
        async with MiniAgents():
            assert [str(each) for each in await (await reopen(broker, "live"))] == ["first", text_of(10)]
            broker.logs["cut"] = broker.logs["live"][1:]
            for missing in ("other", "cut"):
                with pytest.raises(CallNotFoundError, match="no longer kept"):
                    await reopen(broker, missing)


@in_virtual_time
async def test_R5_cancelled_replies_stop_the_agent_at_the_worker() -> None:
    """`cancel()`, a timeout, an error that leaves the context, and the loss of the last reader stop the agent."""
    ended: list[str] = []

    @miniagent
    async def endless(ctx: InteractionContext, name: str) -> None:
        async def stream(_: Any) -> AsyncIterator[str]:
            try:
                while True:
                    await asyncio.sleep(0.1)
                    yield "x"
            finally:
                ended.append(f"stream {name}")

        ctx.reply(Message.promise(message_token_streamer=stream))
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(name)

    broker = MemoryBroker()
    agent = remote(broker, "ENDLESS")
    async with worker(broker, endless):
        async with MiniAgents():
            replies = agent.trigger(name="cancel", call_id="known")
            promise = await anext(aiter(replies))
            await anext(aiter(promise))
            replies.cancel()
            with pytest.raises(PromiseCancelledError):
                await promise
            found = await outcomes(agent.trigger(name="timeout", timeout=1))
            assert [type(each) for each in found] == [PromiseCancelledError, TimeoutError]
            lost = agent.trigger(name="lost")
            await anext(aiter(lost))
            del lost
            await asyncio.sleep(1)
        with pytest.raises(ZeroDivisionError):
            async with MiniAgents():
                replies = agent.trigger(name="error")
                await asyncio.sleep(1)
                raise ZeroDivisionError
        assert {"cancel", "timeout", "lost", "error"} <= set(ended)
        assert {f"stream {name}" for name in ("cancel", "timeout", "lost", "error")} <= set(ended)


@in_virtual_time
async def test_R5_call_with_an_id_goes_on_without_readers() -> None:
    """The loss of the last reader does not stop a call whose id the application has chosen."""
    broker = MemoryBroker()
    async with worker(broker, talker), MiniAgents():
        replies = remote(broker, "TALKER").trigger(count=20, call_id="kept")
        await anext(aiter(replies))
        del replies
        await asyncio.sleep(5)
        assert [str(each) for each in await (await reopen(broker, "kept"))] == ["first", text_of(20)]


@in_virtual_time
async def test_R5_cancelled_message_stops_its_source_at_the_worker() -> None:
    """Cancelling one reply stops its token source when the next token comes, and does not stop the other reply."""
    closed: list[str] = []

    @miniagent
    async def two(ctx: InteractionContext) -> None:
        async def endless(_: Any) -> AsyncIterator[str]:
            try:
                while True:
                    await asyncio.sleep(0.1)
                    yield "x"
            finally:
                closed.append("endless")

        ctx.reply([Message.promise(message_token_streamer=endless), Message.promise(message_token_streamer=tokens(30))])

    broker = MemoryBroker()
    async with worker(broker, two), MiniAgents():
        found = [promise async for promise in remote(broker, "TWO").trigger()]
        await anext(aiter(found[0]))
        found[0].cancel()
        assert str(await found[1]) == text_of(30)
    assert closed == ["endless"]


@in_virtual_time
async def test_R5_cancel_before_the_start_withdraws_the_call() -> None:
    """A call that is cancelled while it waits in the queue never runs."""
    runs: list[int] = []

    @miniagent
    async def counted(ctx: InteractionContext) -> None:
        runs.append(1)

    broker = MemoryBroker()
    async with MiniAgents():
        replies = remote(broker, "COUNTED").trigger(call_id="early")
        await asyncio.sleep(1)
        replies.cancel()
        await asyncio.sleep(1)
        async with worker(broker, counted):
            await asyncio.sleep(10)
            [error] = await outcomes(await reopen(broker, "early"))
            assert isinstance(error, PromiseCancelledError)
    assert runs == []


@in_virtual_time
async def test_R7_call_without_a_worker_is_withdrawn_after_the_wait() -> None:
    """A call that no worker claims fails after `wait` seconds, and never runs later."""
    broker = MemoryBroker()
    async with MiniAgents():
        began = asyncio.get_running_loop().time()
        [error] = await outcomes(remote(broker, "TALKER", wait=5).trigger(call_id="alone"))
        assert isinstance(error, RemoteUnavailableError)
        assert 5 <= asyncio.get_running_loop().time() - began < 6
        async with worker(broker, talker):
            await asyncio.sleep(10)
            [error] = await outcomes(await reopen(broker, "alone"))
            assert isinstance(error, RemoteUnavailableError)


@in_virtual_time
async def test_R7_unreachable_broker_raises_unavailable() -> None:
    """A broker that cannot be reached, before a call or during one, fails the call after `wait` seconds."""
    broker = MemoryBroker()
    broker.go_down()
    async with MiniAgents():
        [error] = await outcomes(remote(broker, "TALKER", wait=3).trigger())
        assert isinstance(error, RemoteUnavailableError)
    broker.come_up()
    async with worker(broker, talker), MiniAgents():
        replies = remote(broker, "TALKER", wait=3).trigger(count=1000)
        await anext(aiter(replies))
        broker.go_down()
        *_, error = await outcomes(replies)
        assert isinstance(error, RemoteUnavailableError)
        broker.come_up()


@in_virtual_time
async def test_R4_lost_worker_raises_an_error_after_the_tokens_that_came() -> None:
    """A worker without a sign of life for a lease is lost: readers get its tokens, and then the error.

    `reopen` gives the same later.
    """
    broker = MemoryBroker()
    async with worker(broker, talker, lease=2), MiniAgents():
        replies = remote(broker, "TALKER").trigger(count=1000, call_id="gone")
        _, promise = [each async for _, each in _first(replies, 2)]
        text = ""
        async for token in promise:
            text += token
            if text.endswith("t9 "):
                break
        broker.connections[0].stop()
        began = asyncio.get_running_loop().time()
        with pytest.raises(RemoteWorkerLostError) as caught:
            await promise
        assert asyncio.get_running_loop().time() - began <= 1.5 * 2 + 2
        assert str(caught.value.partial).startswith(text)
        assert caught.value.began
        *_, again = await outcomes(await reopen(broker, "gone"))
        assert isinstance(again, RemoteWorkerLostError)
        assert again.partial == caught.value.partial
        broker.connections[0].go_on()


async def _first(replies: Any, count: int) -> AsyncIterator[Any]:
    """Yield the first `count` replies, each with its number."""
    number = 0
    async for promise in replies:
        yield number, promise
        number += 1
        if number == count:
            return


@in_virtual_time
async def test_R3_silent_worker_is_lost_for_all_readers_and_gets_the_cancel() -> None:
    """All readers of a call get the error of a silent worker; if it goes on later, it is stopped and adds nothing."""
    ended: list[str] = []

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        try:
            await asyncio.sleep(100)
            ctx.reply("late")
        finally:
            ended.append("slow")

    broker = MemoryBroker()
    async with worker(broker, slow, lease=2), MiniAgents():
        agent = remote(broker, "SLOW")
        first, second = agent.trigger(call_id="s"), agent.trigger(call_id="s")
        await asyncio.sleep(1)
        broker.connections[0].stop()
        for replies in (first, second):
            [error] = await outcomes(replies)
            assert isinstance(error, RemoteWorkerLostError)
            assert not error.began
        await asyncio.sleep(10)
        broker.connections[0].go_on()
        await asyncio.sleep(1)
        assert ended == ["slow"]
        await asyncio.sleep(200)
        [error] = await outcomes(await reopen(broker, "s"))
        assert isinstance(error, RemoteWorkerLostError)
        assert len(broker.logs["s"]) == 2


@in_virtual_time
async def test_R4_lost_signs_of_life_lose_no_call() -> None:
    """A worker whose signs of life pause for less than a lease is not lost."""
    broker = MemoryBroker()
    async with worker(broker, talker, lease=4), MiniAgents():
        replies = remote(broker, "TALKER").trigger(count=400)
        for _ in range(4):
            await asyncio.sleep(2)
            broker.is_beating = False
            await asyncio.sleep(2)
            broker.is_beating = True
        assert [str(each) for each in await replies] == ["first", text_of(400)]


@in_virtual_time
async def test_R6_broker_restart_loses_and_doubles_no_token() -> None:
    """Calls survive a broker that is away for a while: frames that were lost are sent again."""
    broker = MemoryBroker()
    async with worker(broker, talker, lease=2), MiniAgents():
        calls = [remote(broker, "TALKER").trigger(count=100) for _ in range(5)]
        for _ in range(3):
            await asyncio.sleep(0.7)
            broker.loses_frame = lambda frame: True
            await asyncio.sleep(0.2)
            broker.go_down()
            await asyncio.sleep(1.5)
            broker.loses_frame = lambda frame: False
            broker.stale_reads = 3
            broker.come_up()
        for replies in calls:
            assert [str(each) for each in await replies] == ["first", text_of(100)]


@in_virtual_time
async def test_remote_agent_is_a_tool_with_the_parameters_of_the_agent() -> None:
    """A model that calls a remote agent sees the agent's own parameters.

    If only the agent's alias is known here, the model sees one parameter: the message.
    """

    @miniagent
    async def adder(ctx: InteractionContext, first: int, second: int) -> None:
        """Adds two numbers."""
        ctx.reply(str(first + second))

    @miniagent
    async def repeater(ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)

    broker = MemoryBroker()
    tools = [remote(broker, adder), remote(broker, "REPEATER").fork(description="Says it again.")]
    calls = Step(tool_calls=[("adder", {"first": 2, "second": 3}), ("repeater", {"message": "again"})])
    llm = ScriptedLLM([calls, "done"])
    async with worker(broker, adder, repeater), MiniAgents():
        replies = await llm.agent(tools=tools).trigger("Add.")
    assert [str(each) for each in replies[1:]] == ["5", "again", "done"]


@in_virtual_time
async def test_remote_agent_of_a_class_is_a_tool_without_the_bound_arguments() -> None:
    """A model sees no argument that a fork has bound, and no context, whichever field of the class is the context."""

    @dataclass
    class Adder:
        """Adds two numbers."""

        first: int
        ctx: InteractionContext
        lookup: object = None

        async def __call__(self) -> None:
            self.ctx.reply(str(self.first + 3))

    broker, adder = MemoryBroker(), miniagent(Adder)
    llm = ScriptedLLM([Step(tool_calls=[("adder", {"first": 2})]), "done"])
    async with worker(broker, adder), MiniAgents():
        replies = await llm.agent(tools=[remote(broker, adder.fork(lookup=object()))]).trigger("Add.")
    assert [str(each) for each in replies[1:]] == ["5", "done"]
    assert list(llm.calls[0].tools[0]["function"]["parameters"]["properties"]) == ["first"]


async def test_run_in_another_thread_has_a_connection_of_its_own() -> None:
    """A run in another thread, with an event loop of its own, can call remote agents while the first run is open."""

    @miniagent
    async def echo(ctx: InteractionContext) -> None:
        ctx.reply(ctx.message_promises)

    async def ask() -> list[str]:
        broker = MemoryBroker()
        async with worker(broker, echo):
            return [str(each) for each in await remote(broker, "ECHO", wait=1).trigger("Hello")]

    async with MiniAgents():
        assert await asyncio.to_thread(lambda: MiniAgents().run(ask())) == ["Hello"]
        assert await ask() == ["Hello"]


@in_virtual_time
async def test_trace_context_travels() -> None:
    """With OpenTelemetry, the agent at the worker runs in the trace of its caller."""
    trace = pytest.importorskip("opentelemetry.trace")
    seen: list[int] = []

    @miniagent
    async def traced(ctx: InteractionContext) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    span_context = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    broker = MemoryBroker()
    async with worker(broker, traced), MiniAgents():
        with trace.use_span(trace.NonRecordingSpan(span_context)):
            await remote(broker, "TRACED").trigger()
        await remote(broker, "TRACED").trigger()
    assert seen == [0xABC, 0]


@in_virtual_time
@pytest.mark.parametrize("kept", [0, 5])
async def test_R6_call_outlives_the_first_frames_of_its_log(kept: int) -> None:
    """If a log loses its first frames during a call, its reader gets the whole text, or a `RemoteProtocolError`."""
    broker = MemoryBroker()
    async with worker(broker, talker, lease=2), MiniAgents():
        replies = remote(broker, "TALKER").trigger(count=100, call_id="long")
        await asyncio.sleep(2)
        broker.loses_frame = lambda frame: True
        await asyncio.sleep(0.2)
        broker.loses_frame = lambda frame: False
        await asyncio.sleep(0.2)
        broker.logs["long"][:] = broker.logs["long"][-kept:] if kept else []
        broker.come_up()
        found = await outcomes(replies)
        assert str(found[0]) == "first"
        assert str(found[1]) == text_of(100) or isinstance(found[1], RemoteProtocolError)


@in_virtual_time
async def test_R7_worker_holds_at_most_its_concurrency() -> None:
    """A worker runs at most `concurrency` calls at once; the queue of each agent keeps the other calls in order."""
    running: list[int] = []
    most: list[int] = []
    order: list[str] = []

    @miniagent
    async def busy(ctx: InteractionContext) -> None:
        order.append(str(await ctx.message_promises.last))
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(1)
        running.pop()

    other = busy.fork(alias="OTHER")
    broker = MemoryBroker()
    async with worker(broker, busy, other, concurrency=3), MiniAgents():
        calls = []
        for number in range(12):
            calls.append(remote(broker, "BUSY").trigger(f"{number:02}"))
            await asyncio.sleep(0.01)
        calls += [remote(broker, "OTHER").trigger("other") for _ in range(4)]
        for replies in calls:
            await replies
    assert max(most) == 3
    names = [name for name in order if name != "other"]
    assert names == sorted(names)
    assert order.count("other") == 4


@in_virtual_time
@pytest.mark.parametrize("patience", [30.0, 0.5])
async def test_R8_drain_ends_running_calls_and_takes_no_more(patience: float) -> None:
    """On SIGTERM a worker waits `drain` seconds for its calls, and cancels those that go on.

    Calls in the queue wait for another worker.
    """
    import signal

    broker = MemoryBroker()
    async with worker(broker, talker, drain=patience) as task, MiniAgents():
        agent = remote(broker, "TALKER", wait=20)
        replies = agent.trigger(count=100)
        await asyncio.sleep(1)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        late = agent.trigger(count=1)
        await task
        found = await outcomes(replies)
        if patience > 10:
            assert str(found[1]) == text_of(100)
        else:
            assert isinstance(found[1], PromiseCancelledError)
            assert str(found[1].partial).startswith("t0 t1 ")
        async with worker(broker, talker):
            assert [str(each) for each in await late] == ["first", text_of(1)]


@in_virtual_time
async def test_R8_worker_that_is_cancelled_ends_its_calls() -> None:
    """If the task of a worker is cancelled, its calls are cancelled, and their readers get `PromiseCancelledError`."""
    broker = MemoryBroker()
    async with MiniAgents():
        async with worker(broker, talker):
            replies = remote(broker, "TALKER").trigger(count=100)
            await asyncio.sleep(1)
        found = await outcomes(replies)
        assert isinstance(found[1], PromiseCancelledError)


@in_virtual_time
async def test_R9_wrong_arguments_fail_at_the_call_or_at_the_worker() -> None:
    """A remote agent checks arguments at `trigger` if it knows the agent; the worker checks them in any case."""
    broker = MemoryBroker()
    async with worker(broker, talker), MiniAgents():
        known, by_alias = remote(broker, talker), remote(broker, "TALKER")
        with pytest.raises(TypeError, match="'size'"):
            known.trigger(size=3)
        with pytest.raises(TypeError, match="'count'"):
            by_alias.trigger(count=print)
        for wrong in ("", "a b", "ü", "x" * 65, "a.b", "a\n"):
            with pytest.raises(ValueError, match="call_id"):
                by_alias.trigger(call_id=wrong)
        with pytest.raises(TypeError, match="call_id"):
            by_alias.trigger(call_id=7)
        [error] = await outcomes(by_alias.trigger(size=3))
        assert isinstance(error, TypeError)
        assert "'size'" in str(error)


@pytest.mark.parametrize("url", ["", "nats://", "http://a:1", "nats://a:b", "a:0", "nats://u:secret@a:99999", "nats:a"])
def test_R9_malformed_url_of_a_broker_is_refused(url: str) -> None:
    """A URL that cannot be one of a NATS server is a `ValueError` at once; the error does not show its password."""
    with pytest.raises(ValueError, match="is no URL of a NATS server, such as nats://127") as caught:
        remote(url, "TALKER")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost", "10.0.0.1:4222", "nats://a", "tls://u:p@a:1", "wss://a/nats", "[::1]:4222"]
)
def test_R9_urls_that_nats_py_takes_are_taken(url: str) -> None:
    """A broker takes the forms of URLs that nats-py takes, also a host without a scheme."""
    assert NatsBroker(url).servers == (url,)


async def test_R9_serve_and_remote_refuse_wrong_arguments() -> None:
    """Wrong agents, aliases, numbers and call ids raise `ValueError` or `TypeError`.

    `serve` outside of a run raises `NoActiveContextError`.
    """

    @miniagent
    async def with_id(ctx: InteractionContext, call_id: str = "") -> None: ...

    broker: Any = MemoryBroker()
    no_agent: Any = print
    wrong: list[tuple[type[Exception], Any]] = [
        (ValueError, lambda: serve(broker)),
        (ValueError, lambda: serve(broker, talker, talker.fork())),
        (TypeError, lambda: serve(broker, with_id)),
        (TypeError, lambda: serve(broker, no_agent)),
        (ValueError, lambda: serve(broker, talker, concurrency=0)),
        (ValueError, lambda: serve(broker, talker, lease=0)),
        (ValueError, lambda: serve(broker, talker, drain=-1)),
        (ValueError, lambda: serve(broker, talker, keep=float("nan"))),
    ]
    for kind, make in wrong:
        with pytest.raises(kind):
            await make()
    with pytest.raises(NoActiveContextError, match="serve"):
        await serve(broker, talker)
    with pytest.raises(TypeError, match="rename it"):
        remote(broker, with_id)
    with pytest.raises(TypeError):
        remote(broker, no_agent)
    with pytest.raises(ValueError, match="alias"):
        remote(broker, "")
    with pytest.raises(ValueError, match="wait"):
        remote(broker, "X", wait=0)
    with pytest.raises(ValueError, match="call_id"):
        await reopen(broker, "a.b")


@in_virtual_time
async def test_R1_fork_of_a_remote_agent_has_arguments_of_its_own() -> None:
    """`fork` binds arguments of a remote agent as of any other, and another alias still calls the same agent."""
    broker = MemoryBroker()
    async with worker(broker, talker), MiniAgents():
        fork = remote(broker, talker).fork(count=2, alias="SHORT")
        assert [str(each) for each in await fork.trigger()] == ["first", text_of(2)]
        assert [str(each) for each in await fork.trigger(count=1)] == ["first", text_of(1)]


@settings(max_examples=30)
@given(
    delays=st.lists(st.lists(st.sampled_from([0.001, 0.03, 0.3]), max_size=2), min_size=1, max_size=20),
    lost=st.sets(st.integers(1, 40), max_size=10),
    messages=st.lists(st.lists(st.text(max_size=8), max_size=8), min_size=1, max_size=3),
)
@example(delays=[[0.001]], lost={1, 3}, messages=[["", "", "", ""]])  # as many entries as frames, and one missing
@example(delays=[[0.3, 0.001]], lost={1, 5, 10}, messages=[["a"] * 7, []])  # the agent ends while its log is repaired
def test_R6_any_faults_of_the_broker_give_the_same_text(
    delays: list[list[float]], lost: set[int], messages: list[list[str]]
) -> None:
    """Live entries lost, doubled and reordered, and frames lost before they are stored, change no token."""

    @miniagent
    async def scripted(ctx: InteractionContext) -> None:
        def streamer(pieces: list[str]) -> Any:
            async def stream(_: Any) -> AsyncIterator[str]:
                for piece in pieces:
                    await asyncio.sleep(0.03)
                    yield piece

            return stream

        ctx.reply([Message.promise(message_token_streamer=streamer(pieces)) for pieces in messages])

    async def run() -> None:
        each_delay = itertools.cycle(delays)
        broker = MemoryBroker(delivery=lambda: next(each_delay), largest_frame=300)
        sent = iter(range(1000))
        broker.loses_frame = lambda frame: next(sent) in lost
        async with worker(broker, scripted, lease=2), MiniAgents():
            replies = remote(broker, "SCRIPTED").trigger()
            assert [[token async for token in each] async for each in replies] == messages

    run_in_virtual_time(run())


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=8))
def test_R3_frames_count_once_and_in_order(order: list[int], doubled: list[int]) -> None:
    """Of frames in any order, some of them twice, a reader takes each at most once, in the order of their numbers."""
    writer = FrameWriter(1000)
    frames = [writer.write([{"k": "text", "x": number}])[0] for number in range(8)]
    reader, counted = FrameReader(), []
    for number in [*order, *doubled]:
        counted += [record["x"] for record in reader.read(frames[number])]
    assert counted == list(range(len(counted)))


@in_virtual_time
@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"v":2,"n":1,"r":[]}',
        b'{"v":1,"r":[]}',
        b'{"v":1,"n":1}',
        b'{"v":1,"n":1,"r":[1]}',
        b'{"v":1,"n":1,"part":[0],"d":""}',
        b'{"v":1,"n":1,"part":[0,1],"d":"{"}',
        b'{"v":1,"n":1,"r":[{"k":"text","i":0,"p":0,"t":["x"]}]}',
        b'{"v":1,"n":1,"r":[{"k":"begin","i":0},{"k":"text","i":0,"p":1,"t":["x"]}]}',
        b'{"v":1,"n":1,"r":[{"k":"begin","i":0},{"k":"text","i":0,"p":0,"t":"x"}]}',
        b'{"v":1,"n":1,"r":[{"k":"begin","i":0},{"k":"end","i":0,"m":{"class_":"Usage"}}]}',
        b'{"v":1,"n":1,"r":[{"k":"begin","i":0},{"k":"event","i":0,"p":0,"c":"ReasoningDelta","f":{"x":1}}]}',
        b'{"v":1,"n":1,"r":[{"k":"message","i":0,"m":{"class_":"Message","at":{"$date":"x"}}}]}',
        b'{"v":1,"n":1,"r":[{"k":"claim","w":"w","lease":"long"}]}',
        b'{"v":1,"n":1,"r":[{"k":"claim","w":"w.>","lease":1}]}',
    ],
)
async def test_R9_frame_that_cannot_be_read_raises_protocol_error(frame: bytes) -> None:
    """A reader of a log with an entry of an unknown version, or one that is no frame, gets a `RemoteProtocolError`."""
    broker = MemoryBroker()
    broker.logs["bad"] = [Entry(1, 0, frame)]
    broker.position = 1
    async with MiniAgents():
        with pytest.raises(RemoteProtocolError):
            await (await reopen(broker, "bad"))


@in_virtual_time
async def test_R9_call_that_cannot_be_read_is_dropped() -> None:
    """A worker drops what is no call, or has an id that could name other subjects, and takes the next call."""
    broker = MemoryBroker()
    for wrong in (
        b"{",
        b'{"v":1}',
        b'{"v":1,"id":"a.>","agent":"TALKER","messages":[],"arguments":{}}',
        b'{"v":1,"parts":"*"}',
    ):
        broker.queues["TALKER"].append(("", wrong))
    async with worker(broker, talker), MiniAgents():
        assert [str(each) for each in await remote(broker, "TALKER").trigger()] == ["first", text_of(3)]
    assert len(broker.logs) == 1


@in_virtual_time
async def test_R9_unknown_fields_and_records_are_ignored() -> None:
    """Unknown fields, records and events in a frame with the known `v`, as later versions send them, are ignored."""
    records = [
        {"k": "claim", "w": "w", "lease": 5, "new": 1},
        {"k": "later", "x": 1},
        {"k": "begin", "i": 0, "c": "UnknownNote", "f": {"role": "user"}, "new": [1]},
        {"k": "event", "i": 0, "p": 0, "c": "LaterDelta", "f": {}},
        {"k": "event", "i": 0, "p": 0, "c": "ReasoningDelta", "f": {"text": "hm", "new": 1}},
        {"k": "text", "i": 0, "p": 0, "t": ["a"]},
        {"k": "end", "i": 0, "m": {"class_": "UnknownNote", "size": 1}, "j": True},
        {"k": "done", "s": "ok", "new": 1},
    ]
    broker = MemoryBroker()
    broker.logs["new"] = [Entry(1, 0, json.dumps({"v": 1, "n": 1, "r": records, "new": 1}).encode())]
    async with MiniAgents():
        [promise] = [each async for each in await reopen(broker, "new")]
        assert await promise == Message("a", size=1)
        assert await anext(promise.events()) == ReasoningDelta("hm")


def quick_agent(ended: list[str]) -> MiniAgent[...]:
    """Return an agent that replies three tokens, works a bit longer, and adds its name to `ended` when it ends."""

    @miniagent
    async def quick(ctx: InteractionContext) -> None:
        try:
            ctx.reply(Message.promise(message_token_streamer=tokens(3, pause=0.01)))
            await asyncio.sleep(0.1)
        finally:
            ended.append("quick")

    return quick


async def scenario(trial: Trial) -> None:
    """Call a remote agent; its replies are what the trial cancels."""
    ended: list[str] = []
    broker = MemoryBroker()
    async with worker(broker, quick_agent(ended), lease=2):
        async with MiniAgents():
            replies = remote(broker, "QUICK").trigger()
            trial.victim(replies)
            found = await outcomes(replies)
            assert [str(each) for each in found] == [text_of(3)] or isinstance(found[-1], PromiseCancelledError)
            await asyncio.sleep(3)
        assert len(ended) == len([log for log in broker.logs.values() if b"claim" in log[0].data])


async def application_scenario(trial: Trial) -> None:
    """Call a remote agent in an application, whose task is what the trial cancels, while the worker goes on."""
    ended: list[str] = []
    broker = MemoryBroker()

    async def application() -> None:
        async with MiniAgents():
            await remote(broker, "QUICK").trigger()

    async with worker(broker, quick_agent(ended), lease=2):
        task = trial.victim(asyncio.create_task(application()))
        await asyncio.wait([task])
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(1)
        assert broker.connections[1:] == []
        assert asyncio.get_running_loop().time() - began < 2
        assert len(ended) == len([log for log in broker.logs.values() if b"claim" in log[0].data])


@pytest.mark.parametrize("tried", [scenario, application_scenario])
def test_R5_call_can_be_cancelled_at_every_step(tried: Any) -> None:
    """Wherever replies or application are cancelled, the agent ends at the worker, and no connection is left open."""
    assert cancel_at_every_step(tried, timeout=100) > 20


def test_R2_calls_are_exact_under_many_schedules() -> None:
    """Under ten random orders of events, calls on two workers give their replies."""

    async def run() -> None:
        broker = MemoryBroker()
        async with worker(broker, talker, lease=2), worker(broker, talker, lease=2), MiniAgents():
            calls = [remote(broker, "TALKER").trigger(count=5) for _ in range(6)]
            for replies in calls:
                assert [str(each) for each in await replies] == ["first", text_of(5)]

    search_schedules(run, seeds=range(10))
