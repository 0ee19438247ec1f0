"""Making agents: the callables that can be one, their names, and their arguments (laws 32-34)."""

from __future__ import annotations

import functools
import inspect
import sys
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
from common import Boom, echo, failing, texts

from miniagents._promising.context import PromisingContext
from miniagents.errors import NoActiveContextError
from miniagents.messages import Message
from miniagents.miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# --- making agents (laws 32-34)


async def test_class_agent_makes_an_instance_for_each_call() -> None:
    """Each call of a class agent makes an instance with `ctx` and the keyword arguments of decorator and call."""

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
def test_default_alias_is_the_name_in_upper_case(name: str, alias: str) -> None:
    """The default alias is the function's or class's name in upper case, with camel case split by underscores."""

    async def function(ctx: InteractionContext) -> None:
        """Nothing."""

    function.__name__ = name
    assert miniagent(function).alias == alias
    assert miniagent(alias="Any thing")(function).alias == "Any thing"


def test_T6_description_keeps_braces_and_percent_signs() -> None:
    """The description is the agent's docstring without indentation, or the given text; braces stay as they are."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        """Fills {this} and %s.

        And {{that}}.
        """

    assert agent.description == "Fills {this} and %s.\n\nAnd {{that}}."
    assert agent.__doc__ == agent.description
    assert miniagent(description="{other}")(agent.function).description == "{other}"


async def test_fork_merges_keyword_arguments() -> None:
    """Keyword arguments of a call replace those of a later fork, which replace those of an earlier fork."""

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


async def test_decorator_refuses_everything_that_is_not_async() -> None:
    """`miniagent` raises `TypeError` for plain functions, generators, objects whose call is not async, and agents."""

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


# --- wrong arguments (law 32)


async def with_words(ctx: InteractionContext, word: str, *, more: str = "") -> None:
    """Reply a word, and the other text if there is one."""
    ctx.reply(word + more)


async def with_anything(context: InteractionContext, **words: str) -> None:
    """Reply any keyword arguments."""
    context.reply(" ".join(words.values()))


class WithWords:
    """Class agent with the arguments of `with_words`."""

    def __init__(self, ctx: InteractionContext, word: str, more: str = "") -> None:
        self.ctx = ctx
        self.words = word + more

    async def __call__(self) -> None:
        """Reply the word, and the other text if there is one."""
        self.ctx.reply(self.words)


class Speaker:
    """Object with an async `__call__` with the arguments of `with_words`."""

    async def __call__(self, ctx: InteractionContext, word: str, more: str = "") -> None:
        """Reply the word, and the other text if there is one."""
        ctx.reply(word + more)


KNOWN_ARGUMENTS = {
    "function": with_words,
    "class": WithWords,
    "object": Speaker(),
    "method": Speaker().__call__,
    "partial": functools.partial(with_words, more=""),
}


@pytest.mark.parametrize("call", ["trigger", "initiate_call"])
@pytest.mark.parametrize("function", KNOWN_ARGUMENTS.values(), ids=KNOWN_ARGUMENTS)
async def test_call_refuses_unknown_and_missing_keyword_arguments(function: Any, call: str) -> None:
    """A call, fork or decorator with unknown or missing keyword arguments raises `TypeError`, and no task begins."""
    agent = miniagent(function)
    fork = agent.fork(word="a")
    async with MiniAgents() as context:
        with pytest.raises(TypeError, match=r"does not take the keyword argument\(s\) 'wrong'; it takes: more, word"):
            getattr(agent, call)("text", word="a", wrong=1)
        with pytest.raises(TypeError, match=r"needs the keyword argument\(s\) 'word'"):
            getattr(agent, call)("text", more="b")
        with pytest.raises(TypeError, match="'ctx'"):
            getattr(fork, call)("text", ctx=1)
        assert not context.tasks
        assert await texts(fork.trigger(more="b")) == ["ab"]
    with pytest.raises(TypeError, match="'wrong'"):
        fork.fork(wrong=1)
    with pytest.raises(TypeError, match="'wrong'"):
        miniagent(wrong=1)(function)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where the function is defined")
def test_agent_does_not_evaluate_annotations() -> None:
    """The arguments of an agent are known even if its annotations name types that only type checkers import."""
    names: dict[str, Any] = {}
    exec(compile("async def agent(ctx: Missing, word: Missing): ...", "user", "exec", dont_inherit=True), names)
    with pytest.raises(TypeError, match="it takes: word"):
        miniagent(names["agent"]).fork(wrong=1)


async def test_agent_with_variable_keyword_arguments_takes_any_but_its_context() -> None:
    """A function with `**kwargs` takes any keyword but its context's name; of a wrapper, its own signature counts."""

    @functools.wraps(with_words)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        await with_words(*args, **{"word": "default", **kwargs})

    @functools.wraps(with_anything)
    async def narrow(ctx: InteractionContext) -> None:
        ctx.reply("narrow")

    anything, wrapped = miniagent(with_anything), miniagent(wrapper)
    async with MiniAgents():
        assert await texts(anything.trigger(any="any", ctx="word")) == ["any word"]
        with pytest.raises(TypeError, match="gets 'context' from MiniAgents"):
            anything.trigger(context="mine")
        assert await texts(wrapped.trigger()) == ["default"]
        assert await texts(wrapped.trigger(wrong="x")) == ["TypeError"]
        with pytest.raises(TypeError, match="it takes: none"):
            miniagent(narrow).trigger(any="any")  # type: ignore[call-overload]  # wrong on purpose


@pytest.mark.parametrize(
    ("timeout", "error"),
    [("1", TypeError), (True, TypeError), ([], TypeError), (-1, ValueError), (-0.1, ValueError), (nan, ValueError)],
)
async def test_call_refuses_a_wrong_timeout(timeout: Any, error: type[Exception]) -> None:
    """A call with a `timeout` that is no number, or is negative or NaN, raises an error."""
    async with MiniAgents() as context:
        for call in (echo.trigger, echo.initiate_call):
            with pytest.raises(error, match="timeout must"):
                call("text", timeout=timeout)
        assert not context.tasks
        assert await texts(echo.trigger("text", timeout=inf)) == ["text"]


async def test_decorator_takes_every_async_callable() -> None:
    """Partials, objects with an async `__call__`, bound methods and wrapped functions become agents, and reply."""

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
    assert inspect.unwrap(agents[0]) is function  # type: ignore[arg-type]  # `inspect` finds the function by `__wrapped__`


async def test_call_without_a_context_raises_no_active_context_error() -> None:
    """A call outside of a `MiniAgents` context raises `NoActiveContextError`, even with wrong arguments."""

    async def calls() -> None:
        choices: list[dict[str, Any]] = [{}, {"errors_as_messages": True}, {"start_soon": False, "timeout": 1}]
        for arguments in choices:
            with pytest.raises(NoActiveContextError, match="MiniAgents"):
                echo.trigger("hello", **arguments)
            with pytest.raises(NoActiveContextError, match="MiniAgents"):
                echo.initiate_call("hello", **arguments)

    await calls()
    async with PromisingContext():
        await calls()


async def test_T10_wrong_reply_raises_in_the_agent() -> None:
    """`reply` with a value that is no message raises in the agent's own line, and later replies still arrive."""

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


def test_run_agent_returns_the_replies_of_one_agent() -> None:
    """`run_agent` runs an agent in an event loop of its own, and returns its replies or raises its error."""
    assert MiniAgents().run_agent(echo, ["a", "b"]) == (Message("a"), Message("b"))
    with pytest.raises(Boom):
        MiniAgents().run_agent(failing)
