"""Right and wrong uses of what is typed, with the verdicts of mypy and pyright on each.

`mypy` and `pyright -p tests/types` (both by `tox -e typing`) accept this file as it is: a right use has no error, and
its type is that of `assert_type`; a wrong use has an error, as a comment that ignores no error is one itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, assert_type

from pydantic import BaseModel

from miniagents import (
    AssistantMessage,
    InteractionContext,
    Limits,
    Message,
    MessagePromise,
    MessageSequencePromise,
    MiniAgent,
    MiniAgents,
    miniagent,
    tool,
)
from miniagents.ext.llm.anthropic import AnthropicMessage, create_anthropic_agent
from miniagents.ext.llm.openai import OpenAIMessage, create_openai_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Verdict(BaseModel):
    """A verdict."""

    good: bool


class Note(Message):
    """A message with a field of its own."""

    size: int


@miniagent
async def researcher(ctx: InteractionContext, topic: str, *, depth: int = 1) -> None:
    """Finds sources on a topic."""
    ctx.reply(topic * depth)


@miniagent(alias="WRITER")
async def writer(ctx: InteractionContext) -> str:
    """Writes."""
    return "text"


async def double(number: int) -> int:
    """Double a number."""
    return number * 2


# --- keyword arguments of agents


async def arguments_of_agents() -> None:
    """Call agents with right and wrong keyword arguments."""
    researcher.trigger("Hello", topic="bees")
    researcher.trigger("Hello", topic="bees", depth=2)
    researcher.trigger(["Hello", Message("x")], topic="bees", timeout=1.5)
    researcher.trigger(topic="bees", limits=Limits(requests=3), start_soon=True, errors_as_messages=False)
    writer.trigger()

    researcher.trigger("Hello", topik="bees")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    researcher.trigger("Hello", topic="bees", depht=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    researcher.trigger("Hello", topic=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    researcher.trigger("Hello", topic="bees", depth="2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    researcher.trigger("Hello")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    researcher.trigger(3, topic="bees")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    writer.trigger("Hello", topic="bees")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    writer.trigger("Hello", timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    writer.trigger("Hello", limits=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    writer.trigger("Hello", timeuot=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def forks() -> None:
    """Fork agents: what a fork binds need not be given again, and is checked when it runs."""
    assert_type(writer.fork(alias="EDITOR"), MiniAgent[[], Message])
    researcher.fork(topic="bees").trigger("Hello", depth=2)
    writer.fork(alias=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# --- outputs


async def outputs() -> None:
    """Read the outputs of model agents."""
    critic = create_openai_agent("m", output=Verdict)
    assert_type(critic, MiniAgent[..., OpenAIMessage[Verdict]])
    assert_type(critic.trigger("Hello"), MessageSequencePromise[OpenAIMessage[Verdict]])
    assert_type(critic.trigger("Hello").last, MessagePromise[OpenAIMessage[Verdict]])
    assert_type((await critic.trigger("Hello").last).parsed, Verdict)
    assert_type((await critic.trigger("Hello", timeout=3).last).parsed, Verdict)
    assert_type((await critic.fork(temperature=0).trigger("Hello"))[0].parsed, Verdict)

    both = create_anthropic_agent("m", output=list[Verdict], output_mode="tool", tools=[double, tool(writer)])
    assert_type((await both.trigger("Hello").last).parsed, list[Verdict])
    maybe = create_anthropic_agent("m", output=Verdict | None)
    assert_type(await maybe.trigger("Hello").last, AnthropicMessage[Verdict | None])
    assert_type((await create_openai_agent("m", output=int).trigger("Hello").last).parsed, int)
    assert_type((await create_openai_agent("m", output=dict[str, int]).trigger("Hello").last).parsed, dict[str, int])
    assert_type((await create_openai_agent("m", output=Literal["a", "b"]).trigger("").last).parsed, Literal["a", "b"])
    assert_type((await create_openai_agent("m").trigger("Hello").last).parsed, None)
    assert_type(await critic.fork(output=int).trigger("Hello").last, Any)

    _ = (await critic.trigger("Hello").last).parsed.bad  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    create_openai_agent("m", output=Verdict(good=True))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    create_openai_agent("m", output=Verdict, output_mode="json")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    create_openai_agent("m", tools=[3])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    create_anthropic_agent("m", max_rounds="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def parsing(message: Message, answer: AssistantMessage, typed: AssistantMessage[int]) -> None:
    """Read the text of any message as a value."""
    assert_type(message.parse(Verdict), Verdict)
    assert_type(message.parse(list[int]), list[int])
    assert_type(message.parse(Verdict | None), Verdict | None)
    assert_type(answer.parsed, Any)
    assert_type(typed.parsed, int)
    message.parse("Verdict, please")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def takes_any_answer(answer: AssistantMessage) -> None:
    """Take any answer, whatever its output is."""


# --- messages and their promises


async def replies() -> None:
    """Read the replies of an agent: any messages, unless the agent says more."""
    assert_type(await writer.trigger("Hello"), tuple[Message, ...])
    assert_type(await writer.trigger("Hello").last, Message)
    assert_type(await writer.trigger("Hello").as_single_text_promise(), Message)
    async for promise in writer.trigger("Hello"):
        assert_type(promise, MessagePromise[Message])
        async for token in promise:
            assert_type(token, str)
    verdicts = create_openai_agent("m", output=Verdict).trigger("Hello")
    writer.trigger(verdicts)
    writer.trigger([verdicts.last, "more"])
    takes_any_answer(await verdicts.last)
    note: MessagePromise[Note] = MessagePromise(stream_note, message_class=Note)
    assert_type((await note).size, int)
    wrong: MessagePromise[Note] = writer.trigger("Hello").last  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    MiniAgents().run_agent(writer, wrong)
    writer.trigger(double)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def stream_note(fields: dict[str, Any]) -> AsyncIterator[str]:
    """Stream a note."""
    fields["size"] = 1
    yield "text"


def agents_as_values(any_agent: MiniAgent[Any], typed: MiniAgent[..., OpenAIMessage[Verdict]]) -> None:
    """Pass agents to functions that take any agent, or one with certain replies."""
    agents_as_values(researcher, create_openai_agent("m", output=Verdict))
    agents_as_values(typed, typed)
    agents_as_values(researcher, researcher)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    agents_as_values(any_agent, create_openai_agent("m", output=int))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
