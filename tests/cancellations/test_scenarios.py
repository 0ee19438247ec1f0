"""Cancellations at every step of many scenarios: no other task is harmed, hangs, or is left behind.

The victim of a scenario is the task, stream or call that is cancelled, else the scenario itself.
`cancel_at_every_step` runs a scenario once for each step of its victim, and cancels the victim at that step. Each time
the assertions of the scenario must hold, and no task, generator or source may be left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import (
    AWAIT,
    InMemoryChatHistory,
    InteractionContext,
    Message,
    MessageSequence,
    MiniAgents,
    Promise,
    PromiseCancelledError,
    PromisingContext,
    StopDialog,
    StreamAppender,
    StreamedPromise,
    UserMessage,
    achain_loop,
    adialog_loop,
    join_messages,
    miniagent,
    split_messages,
)
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm._failures import Retry
from miniagents_testing import ScriptedLLM, create_scripted_agent, create_scripted_user
from miniagents_testing._cancelling import cancel_at_every_step
from miniagents_testing._script import Failure, Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from miniagents_testing._cancelling import Trial
    from tests.conftest import Effort

    Scenario = Callable[[Trial, Path], Coroutine[Any, Any, object]]

SCENARIOS: list[Scenario] = []
MANY_SEEDS: list[Scenario] = []
"""Scenarios that are also tried under many schedules."""


def scenario(function: Scenario) -> Scenario:
    """Add a function to the list of scenarios, and return it."""
    SCENARIOS.append(function)
    return function


def racy(function: Scenario) -> Scenario:
    """Add a function to the scenarios, and to those that also run under many schedules, and return it."""
    MANY_SEEDS.append(function)
    return scenario(function)


# --- helpers


class Source:
    """Source of words, one in each step of the loop, which the trial expects to be closed at the end."""

    def __init__(self, trial: Trial, words: str = "one two three four") -> None:
        self.words = words.split()
        self.open = 0
        trial.must_close("a source", lambda: self.open == 0)

    async def __call__(self, *_: Any) -> AsyncIterator[str]:
        """Yield the words, each with a blank."""
        self.open += 1
        try:
            for word in self.words:
                await asyncio.sleep(0)
                yield f"{word} "
            await asyncio.sleep(0.1)
        finally:
            try:
                await asyncio.sleep(0)  # a clean-up that waits, and may be cancelled
            finally:
                self.open -= 1


async def read(pieces: Any) -> list[Any]:
    """Return all pieces of a stream."""
    return [piece async for piece in pieces]


async def await_in_coroutine(awaitable: Awaitable[Any]) -> Any:
    """Await an awaitable in a coroutine, from which a task can be made."""
    return await awaitable


def start_victim(trial: Trial, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a task and make it the victim, so that the scenario itself is not cancelled."""
    return trial.victim(asyncio.create_task(coroutine, name="victim"))


def message_of(source: Source, **options: Any) -> Any:
    """Return a message that streams from a source."""
    return Message.promise(message_token_streamer=source, **options)


TEXT = "one two three four "


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Reply the received messages one by one."""
    async for promise in ctx.message_promises:
        ctx.reply(promise)


@miniagent
async def slow(ctx: InteractionContext) -> None:
    """Take ten seconds, and reply before and after them."""
    ctx.reply("before")
    await asyncio.sleep(10)
    ctx.reply("after")


# --- promises and their readers


@racy
async def reader_of_a_stream(trial: Trial, _: Path) -> None:
    """Cancel one reader of a stream; readers that begin at the same time or later get all pieces."""
    async with PromisingContext():
        promise = StreamedPromise(Source(trial))
        start_victim(trial, read(promise))
        witness = asyncio.create_task(read(promise))
        assert "".join(await promise) == TEXT
        assert "".join(await witness) == TEXT
        assert "".join(await read(promise)) == TEXT


@racy
async def reader_of_a_stream_on_demand(trial: Trial, _: Path) -> None:
    """Cancel a reader of a stream whose source runs on demand; another reader gets all pieces."""
    async with PromisingContext():
        promise = StreamedPromise(Source(trial), start_soon=False)
        start_victim(trial, read(promise))
        assert "".join(await read(promise)) == TEXT


@scenario
async def only_reader_of_a_stream_on_demand(trial: Trial, _: Path) -> None:
    """Cancel the only reader of a stream that runs on demand; its source is closed when the context is left."""
    async with PromisingContext():
        promise = StreamedPromise(Source(trial), start_soon=False)
        await asyncio.wait([start_victim(trial, read(promise))])


@racy
async def awaiting_task_of_a_promise(trial: Trial, _: Path) -> None:
    """Cancel a task that awaits a promise; other tasks get the result, and the resolver runs once."""
    calls: list[int] = []

    async def resolver() -> str:
        calls.append(1)
        await asyncio.sleep(1)
        return "done"

    async with PromisingContext():
        promise = Promise(resolver, start_soon=False)
        start_victim(trial, await_in_coroutine(promise))
        assert await promise == "done"
        assert await promise == "done"
    assert calls == [1]


@scenario
async def awaiting_task_with_timeouts(trial: Trial, _: Path) -> None:
    """Cancel a task that awaits a promise under short timeouts; another task gets the result."""

    async def impatient(promise: StreamedPromise[str, Any]) -> Any:
        for seconds in (0, 0.01, 1):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await promise
        return None

    async with PromisingContext():
        promise = StreamedPromise(Source(trial))
        start_victim(trial, impatient(promise))
        assert "".join(await promise) == TEXT


@racy
async def stream_of_tokens(trial: Trial, _: Path) -> None:
    """Cancel a stream itself; its reader gets the first pieces, and then perhaps `PromiseCancelledError`."""
    async with PromisingContext():
        promise = trial.victim(StreamedPromise(Source(trial)))
        pieces: list[str] = []
        with contextlib.suppress(PromiseCancelledError):
            async for piece in promise:
                pieces.append(piece)
        assert TEXT.startswith("".join(pieces))
        assert promise.is_done


@racy
async def task_that_fills_an_appender(trial: Trial, _: Path) -> None:
    """Cancel the task that fills an appender; two readers get the same pieces before the end."""

    async def fill(appender: StreamAppender[str]) -> None:
        with appender:
            for word in TEXT.split():
                appender.append(word)
                await asyncio.sleep(0)

    async def collect(promise: Any) -> list[str]:
        pieces = []
        with contextlib.suppress(PromiseCancelledError):
            async for piece in promise:
                pieces.append(piece)
        return pieces

    async with PromisingContext():
        appender = StreamAppender[str]()
        filler = start_victim(trial, fill(appender))
        readers = asyncio.gather(*[collect(appender.promise) for _ in range(2)])
        await asyncio.wait([filler])
        if filler.cancelled() and not appender.promise.is_done:
            appender.open().close()  # the task was cancelled before its first step
        one, other = await readers
        assert one == other == TEXT.split()[: len(one)]


@scenario
async def context_with_handlers(trial: Trial, _: Path) -> None:
    """Cancel the body of a context with a handler for resolved promises, which is called once for each promise."""
    heard: list[Any] = []

    async def sleeper() -> str:
        return await asyncio.sleep(1, "slept")

    async def handler(promise: Any, result: Any) -> None:
        await asyncio.sleep(0)
        heard.append(promise)

    async with PromisingContext(on_promise_resolved=[handler]):
        one = StreamedPromise(Source(trial))
        other = Promise(sleeper)
        assert "".join(await one) == TEXT
        assert await other == "slept"
    assert len(heard) == 2


# --- messages and sequences


@racy
async def reader_of_joined_messages(trial: Trial, _: Path) -> None:
    """Cancel a reader of a joined message; another reader gets the whole message and its first part."""
    async with MiniAgents():
        parts = [message_of(Source(trial)), "and", message_of(Source(trial))]
        joined = join_messages(parts, delimiter="|")
        start_victim(trial, read(joined))
        assert str(await joined) == f"{TEXT}|and|{TEXT}"
        assert str(await parts[0]) == TEXT


@racy
async def reader_of_split_messages(trial: Trial, _: Path) -> None:
    """Cancel a reader of the split parts of a text; another reader gets all parts."""
    async with MiniAgents():
        parts = split_messages(message_of(Source(trial, "one | two | three")), delimiter="|")

        async def read_parts() -> None:
            async for part in parts:
                await read(part)

        start_victim(trial, read_parts())
        assert [str(part).strip() for part in await parts] == ["one", "two", "three"]


@scenario
async def reader_of_nested_sequences(trial: Trial, _: Path) -> None:
    """Cancel a reader of a nested sequence; another reader gets all messages, with an error among them."""

    async def wrong() -> AsyncIterator[Any]:
        yield "before"
        await asyncio.sleep(0)
        raise ValueError("wrong")

    async with MiniAgents():
        sequence = MessageSequence()
        with sequence:
            sequence.append(["first", [message_of(Source(trial)), wrong()], "last"])
        promise = sequence.sequence_promise
        start_victim(trial, read(promise))
        texts = []
        async for each in promise:
            try:
                texts.append(str(await each))
            except ValueError as error:
                texts.append(f"error: {error}")
        assert texts == ["first", TEXT, "before", "error: wrong", "last"]


@scenario
async def reader_of_replies_out_of_order(trial: Trial, _: Path) -> None:
    """Cancel a reader of replies that may come out of order; another reader gets all replies."""

    @miniagent
    async def shuffler(ctx: InteractionContext) -> None:
        ctx.reply_out_of_order(slow.trigger())
        ctx.reply_out_of_order("quick")

    async with MiniAgents():
        replies = shuffler.trigger()
        start_victim(trial, read(replies))
        assert sorted(str(message) for message in await replies) == ["after", "before", "quick"]


# --- agents


@racy
async def awaiting_task_of_an_agent(trial: Trial, _: Path) -> None:
    """Cancel a task that awaits an agent; the agent still runs to its end."""
    log: list[str] = []

    @miniagent
    async def diligent(ctx: InteractionContext) -> None:
        ctx.reply(slow.trigger())
        await asyncio.sleep(1)
        log.append("done")

    async def ask() -> None:
        await diligent.trigger()

    async with MiniAgents():
        asking = start_victim(trial, ask())
        await asyncio.wait([asking])
        begun = not asking.cancelled()
    assert log == ["done"] or not begun


@racy
async def task_in_a_full_duplex_call(trial: Trial, _: Path) -> None:
    """Cancel a task that sends messages to an agent while it reads the replies; the agent ends as well."""

    async def talk() -> None:
        call = echo.initiate_call()
        replies = call.send_message("zero").reply_sequence(finish_call=False)
        number = 0
        async for promise in replies:
            await promise
            number += 1
            if number == 4:
                break
            call.send_message(str(number))
        call.finish()

    async with MiniAgents():
        await asyncio.wait([start_victim(trial, talk())])


@racy
async def agent_call(trial: Trial, _: Path) -> None:
    """Cancel an agent's call; the calls that the agent made end, and readers get all replies or an error."""

    @miniagent
    async def busy(ctx: InteractionContext) -> None:
        ctx.make_sure_to_wait(await_in_coroutine(slow.trigger()))
        ctx.reply(message_of(Source(trial)))
        ctx.reply(slow.trigger())
        await asyncio.sleep(5)

    async with MiniAgents():
        call = busy.initiate_call()
        trial.victim(call)
        replies = call.reply_sequence()
        with contextlib.suppress(PromiseCancelledError):
            assert [str(message) for message in await replies] == [TEXT, "before", "after"]
        with contextlib.suppress(PromiseCancelledError):
            async for promise in replies:
                await promise


@scenario
async def run_with_agents(trial: Trial, _: Path) -> None:
    """Cancel the body of a context that called agents; all these agents end."""

    @miniagent
    async def parent(ctx: InteractionContext) -> None:
        ctx.reply([slow.trigger(), echo.trigger([message_of(Source(trial)), "more"])])

    async with MiniAgents():
        replies = [parent.trigger() for _ in range(2)]
        assert [str(message) for message in await replies[0]] == ["before", "after", TEXT, "more"]


@scenario
async def inner_context(trial: Trial, _: Path) -> None:
    """Cancel the body of an inner context; an agent that was called in the outer context runs to its end."""

    async def inner() -> None:
        async with MiniAgents():
            await slow.trigger()
            await echo.trigger(message_of(Source(trial)))

    async with MiniAgents():
        witness = slow.trigger()
        start_victim(trial, inner())
        assert [str(message) for message in await witness] == ["before", "after"]


@scenario
async def calls_with_timeouts(trial: Trial, _: Path) -> None:
    """Cancel a task that makes two calls with timeouts, the second of which is exceeded."""

    async def ask() -> None:
        await slow.trigger(timeout=20)
        with contextlib.suppress(TimeoutError):
            await slow.trigger(timeout=5)

    async with MiniAgents(unobserved_errors="log"):
        await asyncio.wait([start_victim(trial, ask())])


@scenario
async def task_that_gathers(trial: Trial, _: Path) -> None:
    """Cancel a task that waits for a task group and `gather`; another reader of the message it sent gets all of it."""

    async def ask_all() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(await_in_coroutine(echo.trigger(shared)))
        await asyncio.gather(*[await_in_coroutine(slow.trigger()) for _ in range(2)])

    async with MiniAgents():
        shared = message_of(Source(trial))
        asking = start_victim(trial, ask_all())
        assert [str(message) for message in await echo.trigger(shared)] == [TEXT]
        await asyncio.wait([asking])


@scenario
async def reader_of_errors_as_messages(trial: Trial, _: Path) -> None:
    """Cancel a reader of replies with `errors_as_messages`; another reader gets the reply and the error's message."""

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        ctx.reply(message_of(Source(trial)))
        await asyncio.sleep(0)
        raise ValueError("broken")

    async with MiniAgents(errors_as_messages=True):
        replies = failing.trigger()
        start_victim(trial, read(replies))
        texts = [str(message) for message in await replies]
        assert texts[0] == TEXT
        assert "broken" in texts[1]


# --- loops and histories


@scenario
async def loop_of_agents(trial: Trial, _: Path) -> None:
    """Cancel a task that runs `achain_loop` until an agent raises `StopDialog`."""
    rounds = 0

    @miniagent
    async def counter(ctx: InteractionContext) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise StopDialog
        ctx.reply([ctx.message_promises, message_of(Source(trial, "word"))])

    async with MiniAgents():
        await asyncio.wait([start_victim(trial, achain_loop([counter, AWAIT, echo]))])


@scenario
async def dialog_with_a_history(trial: Trial, _: Path) -> None:
    """Cancel a dialog between a scripted user and model; the history is empty or begins with the first line."""
    history = InMemoryChatHistory()
    user = create_scripted_user(["hello", "and now?"], chat_history=history)
    assistant = create_scripted_agent(["Hi there!", Step("Nothing.", gap=0.1)])

    async with MiniAgents():
        await asyncio.wait([start_victim(trial, adialog_loop(user, assistant))])
    texts = [str(message) for message in await history.aload_chat_history()]
    assert texts[:1] in ([], ["hello"])
    assert len(texts) <= 4


@scenario
async def writer_of_a_file(trial: Trial, folder: Path) -> None:
    """Cancel a task that appends to a history file; the next append and a later load still work."""
    history = ChatHistoryMD(folder / "chat.md")
    async with MiniAgents():
        await history.aappend(UserMessage("first"))
        await asyncio.wait([start_victim(trial, history.aappend(message_of(Source(trial))))])
        await history.aappend(UserMessage("last"))
        texts = [str(message) for message in await history.aload_chat_history()]
    assert texts[0] == "first"
    assert texts[-1] == "last"
    assert all(TEXT.startswith(text) for text in texts[1:-1])
    (folder / "chat.md").unlink()


@racy
async def run_with_persisting_handlers(trial: Trial, _: Path) -> None:
    """Cancel a task that awaits one of two calls; no message is passed to the persisting handler twice."""
    kept: list[Message] = []

    async def keep(messages: tuple[Message, ...]) -> None:
        await asyncio.sleep(0.01)
        kept.extend(messages)

    async with MiniAgents(on_persist_messages=[keep]):
        asking = start_victim(trial, await_in_coroutine(echo.trigger(["one", message_of(Source(trial))])))
        await echo.trigger(message_of(Source(trial)))
        await asyncio.wait([asking])
    assert len({id(message) for message in kept}) == len(kept)
    assert TEXT in [str(message) for message in kept]


# --- models


@scenario
async def awaiting_task_of_a_model(trial: Trial, _: Path) -> None:
    """Cancel a task that awaits a scripted model; the next call of the model is answered."""
    llm = ScriptedLLM([Step("one two three", gap=0.1), "again"])
    agent = llm.agent()

    async with MiniAgents():
        await asyncio.wait([start_victim(trial, await_in_coroutine(agent.trigger("hello")))])
        answer = [str(message) for message in await agent.trigger("again")]
        assert answer in (["again"], ["one two three"])  # either call may come first


@scenario
async def awaiting_task_of_a_busy_model(trial: Trial, _: Path) -> None:
    """Cancel a task that awaits a model with retries, in a request or in a wait between requests."""
    llm = ScriptedLLM([Failure(429, headers={"retry-after": "2"}), Failure(503), "Hello"])
    agent = llm.agent(retry=Retry(first_wait=1))

    async with MiniAgents():
        await asyncio.wait([start_victim(trial, await_in_coroutine(agent.trigger("hello")))])


@scenario
async def reader_through_the_sdk(trial: Trial, _: Path) -> None:
    """Cancel a task that reads a scripted model's stream through OpenAI's client."""
    llm = ScriptedLLM(Step("one two three", gap=0.1))

    async def ask() -> None:
        async with llm.openai_client() as client:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            async with stream:
                async for _ in stream:
                    pass

    await asyncio.wait([start_victim(trial, ask())])


@scenario
async def run_with_a_streaming_model(trial: Trial, _: Path) -> None:
    """Cancel the body of a context in which a model streams an answer."""
    model = create_scripted_agent([Step("one two three", gap=0.1), Step("four", first_wait=1)])

    async with MiniAgents():
        answer = model.trigger("hello")
        assert "".join([token async for promise in answer async for token in promise]) == "one two three"
        await model.trigger(answer)


# --- tests


def bind_folder(each: Scenario, folder: Path) -> Any:
    """Return a scenario with its folder bound, so that it takes a trial only; its name stays."""
    return functools.update_wrapper(lambda trial: each(trial, folder), each)


ROWS = {
    reader_of_a_stream: "C2",
    awaiting_task_with_timeouts: "C3",
    awaiting_task_of_an_agent: "C4",
    run_with_agents: "C5",
    only_reader_of_a_stream_on_demand: "C24",
    awaiting_task_of_a_model: "C1",
    awaiting_task_of_a_busy_model: "P15",
}
"""Rows of docs/maintainers/faults.md that a scenario shows. All show C17: a cancellation before the first step."""


def name_of(each: Scenario) -> str:
    """Return the id of a parametrized test: the row of docs/maintainers/faults.md and the name of the scenario."""
    return f"{ROWS.get(each, 'C17')}-{each.__name__}"


@pytest.mark.parametrize("each", SCENARIOS, ids=name_of)
def test_scenario_survives_a_cancellation_at_every_step(each: Scenario, tmp_path: Path) -> None:
    """In asyncio's order of tasks, each scenario passes and leaves nothing open for a cancellation at each step."""
    assert cancel_at_every_step(bind_folder(each, tmp_path)) > 3


@pytest.mark.parametrize("each", MANY_SEEDS, ids=name_of)
def test_scenario_survives_cancellations_under_many_schedules(each: Scenario, tmp_path: Path, effort: Effort) -> None:
    """Under each of many schedules, each racy scenario passes when its victim is cancelled at one random step."""
    seeds = range(effort(50, ci=1000, nightly=5000))
    assert cancel_at_every_step(bind_folder(each, tmp_path), seeds=seeds, sample=1) > len(seeds) / 2
