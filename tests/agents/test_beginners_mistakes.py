"""Mistakes of the first hour: each gets an error with the line that was written and the line to write (law 27).

The wrong lines stand here as code, each with the error code of mypy that refuses it: mypy reports an `ignore` that
ignores no error, so an operation that a type checker would come to accept fails the check of types.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import inspect
import pickle
import pprint
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytest
from common import echo

from miniagents import (
    AgentCall,
    InteractionContext,
    Limits,
    Message,
    MessagePromise,
    MessageSequencePromise,
    MiniAgents,
    NoActiveContextError,
    Promise,
    miniagent,
)
from miniagents.errors import AppenderClosedError, CopyError
from miniagents.ext.llm.openai import Retry
from miniagents_testing import Failure, Step


class Given:
    """Objects that the wrong lines use."""

    def __init__(self) -> None:
        self.replies = echo.trigger("Hi")
        self.promise = Message.promise("Hi")
        self.number = Promise(self.count)

    @staticmethod
    async def count() -> int:
        """Return a number."""
        return 3


async def amain() -> None:
    """Do nothing, as the main function of a program."""


async def await_it(awaitable: Awaitable[Any]) -> Any:
    """Await an awaitable."""
    return await awaitable


def sync_main() -> None:
    """Do nothing, as a main function that lacks `async`."""


WRONG_LINES: dict[str, tuple[Callable[[Given], Any], type[Exception], str, str]] = {
    "call of an agent": (
        lambda given: echo("Hi"),  # type: ignore[operator]
        TypeError,
        "`agent(...)`",
        "`agent.trigger(...)`",
    ),
    "await of an agent": (
        lambda given: await_it(echo),  # type: ignore[arg-type]
        TypeError,
        "`await agent`",
        "`await agent.trigger(...)`",
    ),
    **{
        f"{method} of an agent": (
            partial(lambda method, given: getattr(echo, method)("Hi"), method),
            AttributeError,
            f"`agent.{method}(...)`",
            "`await agent.trigger(...)`",
        )
        for method in (
            "run",
            "run_sync",
            "run_stream",
            "arun",
            "invoke",
            "ainvoke",
            "stream",
            "astream",
            "chat",
            "send",
        )
    },
    "text of a promise": (
        lambda given: given.promise.text,  # type: ignore[attr-defined]
        AttributeError,
        "`promise.text`",
        "`(await promise).content`",
    ),
    "for over replies": (
        lambda given: [reply for reply in given.replies],  # type: ignore[attr-defined]  # noqa: C416
        TypeError,
        "`for reply in replies:`",
        "`async for reply in replies:`",
    ),
    "star of replies": (
        lambda given: asyncio.gather(*given.replies),  # type: ignore[misc]
        TypeError,
        "`for reply in replies:`",
        "`async for reply in replies:`",
    ),
    "for over a promise": (
        lambda given: list(given.promise),  # type: ignore[call-overload]
        TypeError,
        "`for token in promise:`",
        "`async for token in promise:`",
    ),
    "in": (
        lambda given: "x" in given.promise,  # type: ignore[operator]
        TypeError,
        "`'x' in promise`",
        "`'x' in str(await promise)`",
    ),
    "in replies": (
        lambda given: "x" in given.replies,  # type: ignore[operator]
        TypeError,
        "`'x' in replies`",
        "`'x' in str(await replies.last)`",
    ),
    "in a message": (
        lambda given: "x" not in Message("x"),
        TypeError,
        "`'x' in message`",
        "`'x' in str(message)`",
    ),
    "promise in an f-string": (
        lambda given: f"Judge: {given.promise}",
        TypeError,
        '`f"{promise}"`',
        '`f"{await promise}"`',
    ),
    "replies in an f-string": (
        lambda given: f"Judge: {given.replies}",
        TypeError,
        '`f"{replies}"`',
        '`f"{await replies.last}"`',
    ),
    "promise in a format": (
        lambda given: "Judge: {}".format(given.promise),  # noqa: UP032 - it asks in another way
        TypeError,
        '`f"{promise}"`',
        '`f"{await promise}"`',
    ),
    "index of replies": (
        lambda given: given.replies[-1],  # type: ignore[index]
        TypeError,
        "`replies[-1]`",
        "`(await replies)[-1]`",
    ),
    "index of a promise": (
        lambda given: given.promise["content"],  # type: ignore[index]
        TypeError,
        "`promise['content']`",
        "`(await promise).content`",
    ),
    "length of replies": (
        lambda given: len(given.replies),  # type: ignore[arg-type]
        TypeError,
        "`len(replies)`",
        "`len(await replies)`",
    ),
    "length of a promise": (
        lambda given: len(given.promise),  # type: ignore[arg-type]
        TypeError,
        "`len(promise)`",
        "`len(str(await promise))`",
    ),
    "promise + text": (
        lambda given: given.promise + "x",  # type: ignore[operator]
        TypeError,
        "`promise + 'x'`",
        "`str(await promise) + 'x'`",
    ),
    "text + promise": (
        lambda given: "x{}" + given.promise,  # type: ignore[operator]
        TypeError,
        "`'x{}' + promise`",
        "`'x{}' + str(await promise)`",
    ),
    "text + replies": (
        lambda given: "x" + given.replies,  # type: ignore[operator]
        TypeError,
        "`'x' + replies`",
        "`'x' + str(await replies.last)`",
    ),
    "field of a promise": (
        lambda given: given.promise.content,  # type: ignore[attr-defined]
        AttributeError,
        "`promise.content`",
        "`(await promise).content`",
    ),
    "method of a text": (
        lambda given: given.promise.upper(),  # type: ignore[attr-defined]
        AttributeError,
        "`promise.upper`",
        "`str(await promise).upper(...)`",
    ),
    "field of replies": (
        lambda given: given.replies.content,  # type: ignore[attr-defined]
        AttributeError,
        "`replies.content`",
        "`(await replies.last).content`",
    ),
    "sum of a promise of another value": (
        lambda given: given.number + 1,  # type: ignore[operator]
        TypeError,
        "`promise + 1`",
        "`(await promise) + 1`",
    ),
    "sending an agent": (
        lambda given: echo.trigger(echo),  # type: ignore[call-overload]
        TypeError,
        "`agent`",
        "`agent.trigger(...)`",
    ),
    "sending a coroutine": (
        lambda given: echo.trigger(amain()),  # type: ignore[call-overload]
        TypeError,
        "`coroutine`",
        "`await coroutine`",
    ),
    "sending a number": (
        lambda given: echo.trigger(5),  # type: ignore[call-overload]
        TypeError,
        "`5`",
        '`"5"`',
    ),
    "sending a content that is no text": (
        lambda given: echo.trigger({"role": "user", "content": 5}),
        TypeError,
        "`{'content': 5}`",
        "`{'content': '...'}`",
    ),
    "sending a role that is no text": (
        lambda given: echo.trigger({"role": 5}),
        TypeError,
        "`{'role': 5}`",
        "`{'role': '...'}`",
    ),
    "run in a running loop": (
        lambda given: MiniAgents().run(amain()),
        RuntimeError,
        "`MiniAgents().run(amain())`",
        "`async with MiniAgents():`",
    ),
    "run_agent in a running loop": (
        lambda given: MiniAgents().run_agent(echo),
        RuntimeError,
        "`MiniAgents().run(amain())`",
        "`async with MiniAgents():`",
    ),
    "run of a function": (
        lambda given: MiniAgents().run(amain),  # type: ignore[arg-type]
        TypeError,
        "`run(amain)`",
        "`run(amain())`",
    ),
    "run of an agent": (
        lambda given: MiniAgents().run(echo),  # type: ignore[arg-type]
        TypeError,
        "`run(agent)`",
        "`run_agent(agent, ...)`",
    ),
    "run of a function without async": (
        lambda given: MiniAgents().run(sync_main()),  # type: ignore[arg-type,func-returns-value]
        TypeError,
        "not `def`",
        "`async def amain():`",
    ),
    "run_agent of a function": (
        lambda given: MiniAgents().run_agent(amain),  # type: ignore[arg-type]
        TypeError,
        "`async def`",
        "`@miniagent`",
    ),
    "with without async": (
        lambda given: enter(MiniAgents()),  # type: ignore[arg-type]
        TypeError,
        "`with MiniAgents():`",
        "`async with MiniAgents():`",
    ),
    "agent of an agent": (
        lambda given: miniagent(echo),  # type: ignore[call-overload]
        TypeError,
        "`miniagent(agent)`",
        "`agent.fork(...)`",
    ),
    "agent that yields": (
        lambda given: miniagent(yielding),
        TypeError,
        "`yield ...`",
        "`ctx.reply(...)`",
    ),
    "agent without async": (lambda given: miniagent(sync_main), TypeError, "`def`", "`async def sync_main(ctx):`"),
    "agent without a context": (
        lambda given: miniagent(amain),
        TypeError,
        "`async def amain(...):`",
        "`async def amain(ctx, ...):`",
    ),
}


def enter(manager: contextlib.AbstractContextManager[Any]) -> None:
    """Enter a context manager with `with`."""
    with manager:
        pass


async def yielding(ctx: InteractionContext) -> AsyncIterator[str]:
    """Yield a reply, as an agent does not."""
    yield "reply"


@pytest.mark.parametrize("name", WRONG_LINES)
async def test_mistake_is_answered_with_the_line_to_write(name: str) -> None:
    """Each mistake raises an error with the wrong line and the right one, and leaves nothing that Python warns of."""
    act, kind, wrong, right = WRONG_LINES[name]
    async with MiniAgents():
        with pytest.raises(kind) as raised:
            result = act(Given())
            await result
    assert wrong in str(raised.value)
    assert right in str(raised.value)
    assert "\n" not in str(raised.value)


def test_call_outside_of_a_run_is_answered_with_both_ways_to_run() -> None:
    """A call of an agent without a run raises an error that names `run` and `async with`."""
    for call in (echo.trigger, echo.initiate_call):
        with pytest.raises(NoActiveContextError) as raised:
            call("Hi")
        for part in ("`agent.trigger(...)`", "`MiniAgents().run(amain())`", "`async with MiniAgents():`"):
            assert part in str(raised.value)


def test_second_run_of_a_context_leaves_no_coroutine() -> None:
    """A context that is run again raises an error, and closes the coroutine that it was given."""
    app = MiniAgents()
    app.run(amain())
    main = amain()
    with pytest.raises(RuntimeError, match="make a new one for each run"):
        app.run(main)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        main.send(None)


async def test_promises_stay_what_they_were_for_other_code() -> None:
    """A promise is true, no `Iterable`, lacks attributes that libraries look for by `hasattr`, and refuses copies."""
    async with MiniAgents():
        given = Given()
        for promise in (given.replies, given.promise, given.number):
            assert bool(promise) is True
            assert not isinstance(promise, (Iterable, Sequence))
            assert not hasattr(promise, "content")
            assert not hasattr(promise, "__iter__")
            assert not hasattr(promise, "_repr_html_")
            assert not hasattr(promise, "model_dump")
            assert pprint.pformat([promise]) == f"[{promise!r}]"
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(CopyError):
                    copied(promise)


class Slow:
    """Message whose second token comes when `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def tokens(self, fields: dict[str, Any]) -> AsyncIterator[str]:
        """Yield two tokens, or fail in place of the second."""
        yield "one "
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        yield "two"


@miniagent
async def writer(ctx: InteractionContext, slow: Slow) -> None:
    """Reply a text, and then a message that streams."""
    ctx.reply("Here it comes:")
    ctx.reply(Message.promise(message_token_streamer=slow.tokens))


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (lambda slow, promise: None, "resolved"),
        (lambda slow, promise: setattr(slow, "error", ValueError("no")), "failed: ValueError"),
        (lambda slow, promise: promise.cancel(), "cancelled"),
    ],
    ids=["resolved", "failed", "cancelled"],
)
async def test_printed_promise_names_its_agent_and_its_state(
    act: Callable[[Slow, MessagePromise], object], state: str
) -> None:
    """A promise is printed with its class, the agent that makes its text, and its state."""
    slow = Slow()
    async with MiniAgents():
        replies: MessageSequencePromise = writer.trigger(slow=slow)
        assert str(replies) == "<MessageSequencePromise of WRITER, pending>"
        given, promise = [reply async for reply in replies]
        assert str(given) == "<MessagePromise, resolved>"  # a text that was replied has no agent that still works on it
        assert f"{promise!r}" == "<MessagePromise of WRITER, pending>"
        act(slow, promise)
        slow.go_on.set()
        await asyncio.wait([asyncio.ensure_future(iterate_quietly(promise))])
        assert repr(promise) == f"<MessagePromise of WRITER, {state}>"
        assert repr(replies) == "<MessageSequencePromise of WRITER, resolved>"


async def iterate_quietly(promise: MessagePromise) -> None:
    """Read all tokens, and ignore an error at their end."""
    with contextlib.suppress(Exception):
        async for _ in promise:
            pass


async def late(send_out_of_order: bool, end: Callable[[AgentCall], object]) -> None:
    """Send a message to a call that has ended."""
    call = echo.initiate_call("Hi")
    end(call)
    await asyncio.sleep(0)
    (call.send_out_of_order if send_out_of_order else call.send_message)("late")


@pytest.mark.parametrize("send_out_of_order", [False, True])
@pytest.mark.parametrize("end", [AgentCall.reply_sequence, AgentCall.finish, AgentCall.cancel])
async def test_message_to_a_finished_call_says_what_finished_it(
    end: Callable[[AgentCall], object], *, send_out_of_order: bool
) -> None:
    """A message that is sent after the end of a call raises an error that names the ways in which it may have ended."""
    async with MiniAgents():
        with pytest.raises(AppenderClosedError, match=r"The call is finished.*reply_sequence\(\).*finish_call=False"):
            await late(send_out_of_order, end)


def test_method_as_an_agent_is_refused_with_the_three_ways_to_write_it() -> None:
    """`@miniagent` on a method raises an error that shows other ways; a bound and a static method become agents."""
    with pytest.raises(
        TypeError, match=r"Team\.ask is a method: write `async def ask\(ctx\):` .*`miniagent\(team\.ask\)`"
    ):

        class Team:
            @miniagent
            async def ask(self, ctx: InteractionContext) -> None:
                """Reply with a word."""

    class Squad:
        async def ask(self, ctx: InteractionContext) -> None:
            ctx.reply("Hi")

        @staticmethod
        @miniagent
        async def tell(ctx: InteractionContext) -> None:
            ctx.reply("Ho")

    assert [str(each) for each in MiniAgents().run_agent(miniagent(Squad().ask))] == ["Hi"]
    assert [str(each) for each in MiniAgents().run_agent(Squad.tell)] == ["Ho"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("limit", "MiniAgents() takes no argument 'limit', did you mean 'limits'? Its arguments are "),
        ("stream_tokens_by_default", "did you mean 'stream_llm_tokens_by_default'? Its"),
        ("unobserved_error", "did you mean 'unobserved_errors'? Its"),
        ("xyz", "MiniAgents() takes no argument 'xyz': Its arguments are errors_as_messages, limits, "),
    ],
)
def test_unknown_argument_of_a_run_names_the_nearest_one(name: str, said: str) -> None:
    """A wrong keyword of `MiniAgents` raises an error with a similar one, if there is one, and with all arguments."""
    unknown: dict[str, Any] = {name: 3}
    with pytest.raises(TypeError, match=re.escape(said)):
        MiniAgents(**unknown)


async def test_several_messages_are_one_argument() -> None:
    """Messages that are given one by one raise an error with the line that sends a list of them."""
    async with MiniAgents():
        calls: list[tuple[Any, str]] = [
            (echo.trigger, "agent.trigger("),
            (echo.initiate_call, "agent.initiate_call("),
        ]
        for call, line in calls:
            with pytest.raises(
                TypeError, match=re.escape(f"write `{line}[first, second])`, not `{line}first, second)`")
            ):
                call("a", "b")
    with pytest.raises(TypeError, match=re.escape("write `run_agent(agent, [first, second])`")):
        MiniAgents().run_agent(echo, "a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name", "nearest"),
    [
        (Limits, "costs", "cost"),
        (Limits, "request", "requests"),
        (Limits, "max_output_tokens", "output_tokens"),
        (Retry, "attempt", "attempts"),
        (Step, "tool_call", "tool_calls"),
        (Step, "delay", None),
        (Failure, "header", "headers"),
    ],
)
def test_unknown_argument_of_an_object_names_the_nearest_one(kind: Any, name: str, nearest: str | None) -> None:
    """An argument that limits, policies and steps of scripts do not take is a `TypeError` with the nearest name."""
    with pytest.raises(TypeError) as raised:
        kind(**{name: 1})
    said = f"{kind.__name__}() takes no argument {name!r}"
    assert str(raised.value).startswith(said + (":" if nearest is None else f", did you mean {nearest!r}?"))
    for field in dataclasses.fields(kind):
        assert (field.name in str(raised.value).partition("Its arguments are ")[2]) == field.init


def test_objects_that_name_their_arguments_stay_dataclasses() -> None:
    """The objects keep their signatures, are copied, replaced and pickled, and refuse values as before."""
    assert list(inspect.signature(Limits).parameters) == ["requests", "input_tokens", "output_tokens", "cost"]
    assert next(iter(inspect.signature(Step).parameters)) == "text"
    limits = Limits(cost=1)
    assert dataclasses.replace(limits, requests=2) == Limits(cost=1, requests=2)
    assert pickle.loads(pickle.dumps(limits)) == copy.deepcopy(limits) == limits
    assert Step("Hi", gap=1).gap == 1
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'status'"):
        Failure()  # type: ignore[call-arg]
