"""Whatever is cancelled, and at whichever moment: nobody else is harmed, nothing hangs, and nothing is left behind."""

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
"""Those that are tried under a thousand schedules, too."""


def scenario(function: Scenario) -> Scenario:
    """One of the scenarios below."""
    SCENARIOS.append(function)
    return function


def racy(function: Scenario) -> Scenario:
    """One whose outcome could depend on who is late."""
    MANY_SEEDS.append(function)
    return scenario(function)


# --- what they are made of


class Source:
    """Words, one a turn of the loop; it notes whether it was closed."""

    def __init__(self, trial: Trial, words: str = "one two three four") -> None:
        self.words = words.split()
        self.open = 0
        trial.must_close("a source", lambda: self.open == 0)

    async def __call__(self, *_: Any) -> AsyncIterator[str]:
        """The words, with what separates them."""
        self.open += 1
        try:
            for word in self.words:
                await asyncio.sleep(0)
                yield f"{word} "
            await asyncio.sleep(0.1)
        finally:
            try:
                await asyncio.sleep(0)  # a clean-up that takes its time, and may be cancelled, too
            finally:
                self.open -= 1


async def read(pieces: Any) -> list[Any]:
    """All pieces."""
    return [piece async for piece in pieces]


async def awaited(awaitable: Awaitable[Any]) -> Any:
    """Something to make a task of."""
    return await awaitable


def in_background(trial: Trial, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A victim of its own; the scenario itself goes on."""
    return trial.victim(asyncio.create_task(coroutine, name="victim"))


def message_of(source: Source, **options: Any) -> Any:
    """A message that streams from a source."""
    return Message.promise(message_token_streamer=source, **options)


TEXT = "one two three four "


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Passes on what it is sent, message by message."""
    async for promise in ctx.message_promises:
        ctx.reply(promise)


@miniagent
async def slow(ctx: InteractionContext) -> None:
    """Takes ten seconds, and replies before and after."""
    ctx.reply("before")
    await asyncio.sleep(10)
    ctx.reply("after")


# --- promises and their readers


@racy
async def a_reader_of_a_stream(trial: Trial, _: Path) -> None:
    """Others read on, from the beginning, during and after."""
    async with PromisingContext():
        promise = StreamedPromise(Source(trial))
        in_background(trial, read(promise))
        witness = asyncio.create_task(read(promise))
        assert "".join(await promise) == TEXT
        assert "".join(await witness) == TEXT
        assert "".join(await read(promise)) == TEXT


@racy
async def a_reader_on_demand(trial: Trial, _: Path) -> None:
    """The source produces for the others as before."""
    async with PromisingContext():
        promise = StreamedPromise(Source(trial), start_soon=False)
        in_background(trial, read(promise))
        assert "".join(await read(promise)) == TEXT


@scenario
async def the_only_reader_on_demand(trial: Trial, _: Path) -> None:
    """A source that stands still, because nobody asks any more, is closed when the context is left."""
    async with PromisingContext():
        promise = StreamedPromise(Source(trial), start_soon=False)
        await asyncio.wait([in_background(trial, read(promise))])


@racy
async def one_who_awaits_a_promise(trial: Trial, _: Path) -> None:
    """The result is there for everybody else."""
    calls: list[int] = []

    async def resolver() -> str:
        calls.append(1)
        await asyncio.sleep(1)
        return "done"

    async with PromisingContext():
        promise = Promise(resolver, start_soon=False)
        in_background(trial, awaited(promise))
        assert await promise == "done"
        assert await promise == "done"
    assert calls == [1]


@scenario
async def one_who_waits_for_a_while(trial: Trial, _: Path) -> None:
    """With deadlines of its own."""

    async def impatient(promise: StreamedPromise[str, Any]) -> Any:
        for seconds in (0, 0.01, 1):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await promise
        return None

    async with PromisingContext():
        promise = StreamedPromise(Source(trial))
        in_background(trial, impatient(promise))
        assert "".join(await promise) == TEXT


@racy
async def a_stream_itself(trial: Trial, _: Path) -> None:
    """Readers get the pieces so far, and then the error."""
    async with PromisingContext():
        promise = trial.victim(StreamedPromise(Source(trial)))
        pieces: list[str] = []
        with contextlib.suppress(PromiseCancelledError):
            async for piece in promise:
                pieces.append(piece)
        assert TEXT.startswith("".join(pieces))
        assert promise.is_done


@racy
async def who_fills_an_appender(trial: Trial, _: Path) -> None:
    """The stream ends there, for every reader alike."""

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
        filler = in_background(trial, fill(appender))
        readers = asyncio.gather(*[collect(appender.promise) for _ in range(2)])
        await asyncio.wait([filler])
        if filler.cancelled() and not appender.promise.is_done:
            appender.open().close()  # it had not even begun
        one, other = await readers
        assert one == other == TEXT.split()[: len(one)]


@scenario
async def a_context_with_handlers(trial: Trial, _: Path) -> None:
    """Whoever listens for results hears of each promise once at most."""
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
async def a_reader_of_joined_messages(trial: Trial, _: Path) -> None:
    """The whole is whole for the others, and so are its parts."""
    async with MiniAgents():
        parts = [message_of(Source(trial)), "and", message_of(Source(trial))]
        joined = join_messages(parts, delimiter="|")
        in_background(trial, read(joined))
        assert str(await joined) == f"{TEXT}|and|{TEXT}"
        assert str(await parts[0]) == TEXT


@racy
async def a_reader_of_a_part(trial: Trial, _: Path) -> None:
    """The parts of a split text come all the same."""
    async with MiniAgents():
        parts = split_messages(message_of(Source(trial, "one | two | three")), delimiter="|")

        async def read_parts() -> None:
            async for part in parts:
                await read(part)

        in_background(trial, read_parts())
        assert [str(part).strip() for part in await parts] == ["one", "two", "three"]


@scenario
async def a_reader_of_nested_sequences(trial: Trial, _: Path) -> None:
    """With an error in its place."""

    async def wrong() -> AsyncIterator[Any]:
        yield "before"
        await asyncio.sleep(0)
        raise ValueError("wrong")

    async with MiniAgents():
        sequence = MessageSequence()
        with sequence:
            sequence.append(["first", [message_of(Source(trial)), wrong()], "last"])
        promise = sequence.sequence_promise
        in_background(trial, read(promise))
        texts = []
        async for each in promise:
            try:
                texts.append(str(await each))
            except ValueError as error:
                texts.append(f"error: {error}")
        assert texts == ["first", TEXT, "before", "error: wrong", "last"]


@scenario
async def a_reader_out_of_order(trial: Trial, _: Path) -> None:
    """What is ready first comes first, for everybody."""

    @miniagent
    async def shuffler(ctx: InteractionContext) -> None:
        ctx.reply_out_of_order(slow.trigger())
        ctx.reply_out_of_order("quick")

    async with MiniAgents():
        replies = shuffler.trigger()
        in_background(trial, read(replies))
        assert sorted(str(message) for message in await replies) == ["after", "before", "quick"]


# --- agents


@racy
async def one_who_awaits_an_agent(trial: Trial, _: Path) -> None:
    """Agents may be called for their effects: this one goes on."""
    log: list[str] = []

    @miniagent
    async def diligent(ctx: InteractionContext) -> None:
        ctx.reply(slow.trigger())
        await asyncio.sleep(1)
        log.append("done")

    async def ask() -> None:
        await diligent.trigger()

    async with MiniAgents():
        asking = in_background(trial, ask())
        await asyncio.wait([asking])
        begun = not asking.cancelled()
    assert log == ["done"] or not begun


@racy
async def a_call_in_full_duplex(trial: Trial, _: Path) -> None:
    """Who sends and reads at once leaves, and the call is finished."""

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
        await asyncio.wait([in_background(trial, talk())])


@racy
async def a_call_itself(trial: Trial, _: Path) -> None:
    """The agent is stopped, with all it has begun; its readers get the replies so far, and the error."""

    @miniagent
    async def busy(ctx: InteractionContext) -> None:
        ctx.make_sure_to_wait(awaited(slow.trigger()))
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
async def a_run_with_agents(trial: Trial, _: Path) -> None:
    """The body of the context: everything that it started ends with it."""

    @miniagent
    async def parent(ctx: InteractionContext) -> None:
        ctx.reply([slow.trigger(), echo.trigger([message_of(Source(trial)), "more"])])

    async with MiniAgents():
        replies = [parent.trigger() for _ in range(2)]
        assert [str(message) for message in await replies[0]] == ["before", "after", TEXT, "more"]


@scenario
async def a_context_within_another(trial: Trial, _: Path) -> None:
    """The outer one, and what runs in it, is not concerned."""

    async def inner() -> None:
        async with MiniAgents():
            await slow.trigger()
            await echo.trigger(message_of(Source(trial)))

    async with MiniAgents():
        witness = slow.trigger()
        in_background(trial, inner())
        assert [str(message) for message in await witness] == ["before", "after"]


@scenario
async def calls_with_a_deadline(trial: Trial, _: Path) -> None:
    """A call that is stopped by its own deadline, and one that is not."""

    async def ask() -> None:
        await slow.trigger(timeout=20)
        with contextlib.suppress(TimeoutError):
            await slow.trigger(timeout=5)

    async with MiniAgents(unobserved_errors="log"):
        await asyncio.wait([in_background(trial, ask())])


@scenario
async def one_of_many_who_gather(trial: Trial, _: Path) -> None:
    """In a group of tasks and with `gather`."""

    async def ask_all() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(awaited(echo.trigger(shared)))
        await asyncio.gather(*[awaited(slow.trigger()) for _ in range(2)])

    async with MiniAgents():
        shared = message_of(Source(trial))
        asking = in_background(trial, ask_all())
        assert [str(message) for message in await echo.trigger(shared)] == [TEXT]
        await asyncio.wait([asking])


@scenario
async def who_reads_errors_as_messages(trial: Trial, _: Path) -> None:
    """An agent that fails after a part of its reply."""

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        ctx.reply(message_of(Source(trial)))
        await asyncio.sleep(0)
        raise ValueError("broken")

    async with MiniAgents(errors_as_messages=True):
        replies = failing.trigger()
        in_background(trial, read(replies))
        texts = [str(message) for message in await replies]
        assert texts[0] == TEXT
        assert "broken" in texts[1]


# --- loops and histories


@scenario
async def a_loop_of_agents(trial: Trial, _: Path) -> None:
    """Round and round, until it is stopped."""
    rounds = 0

    @miniagent
    async def counter(ctx: InteractionContext) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise StopDialog
        ctx.reply([ctx.message_promises, message_of(Source(trial, "word"))])

    async with MiniAgents():
        await asyncio.wait([in_background(trial, achain_loop([counter, AWAIT, echo]))])


@scenario
async def a_dialog(trial: Trial, _: Path) -> None:
    """Between a person and a model, with a history."""
    history = InMemoryChatHistory()
    user = create_scripted_user(["hello", "and now?"], chat_history=history)
    assistant = create_scripted_agent(["Hi there!", Step("Nothing.", gap=0.1)])

    async with MiniAgents():
        await asyncio.wait([in_background(trial, adialog_loop(user, assistant))])
    texts = [str(message) for message in await history.aload_chat_history()]
    assert texts[:1] in ([], ["hello"])
    assert len(texts) <= 4


@scenario
async def who_writes_to_a_file(trial: Trial, folder: Path) -> None:
    """A history on disk can be read, and written to, afterwards."""
    history = ChatHistoryMD(folder / "chat.md")
    async with MiniAgents():
        await history.aappend(UserMessage("first"))
        await asyncio.wait([in_background(trial, history.aappend(message_of(Source(trial))))])
        await history.aappend(UserMessage("last"))
        texts = [str(message) for message in await history.aload_chat_history()]
    assert texts[0] == "first"
    assert texts[-1] == "last"
    assert all(TEXT.startswith(text) for text in texts[1:-1])
    (folder / "chat.md").unlink()


@racy
async def a_run_that_persists(trial: Trial, _: Path) -> None:
    """Each message is handed over once, whatever becomes of the rest."""
    kept: list[Message] = []

    async def keep(messages: tuple[Message, ...]) -> None:
        await asyncio.sleep(0.01)
        kept.extend(messages)

    async with MiniAgents(on_persist_messages=[keep]):
        asking = in_background(trial, awaited(echo.trigger(["one", message_of(Source(trial))])))
        await echo.trigger(message_of(Source(trial)))
        await asyncio.wait([asking])
    assert len({id(message) for message in kept}) == len(kept)
    assert TEXT in [str(message) for message in kept]


# --- models


@scenario
async def who_waits_for_a_model(trial: Trial, _: Path) -> None:
    """The response is closed as soon as nobody can read it, and the next call is answered."""
    llm = ScriptedLLM([Step("one two three", gap=0.1), "again"])
    agent = llm.agent()

    async with MiniAgents():
        await asyncio.wait([in_background(trial, awaited(agent.trigger("hello")))])
        answer = [str(message) for message in await agent.trigger("again")]
        assert answer in (["again"], ["one two three"])  # whose call comes first is open


@scenario
async def who_waits_for_a_model_that_is_busy(trial: Trial, _: Path) -> None:
    """During the waits between the attempts, too: no further request is sent then."""
    llm = ScriptedLLM([Failure(429, headers={"retry-after": "2"}), Failure(503), "Hello"])
    agent = llm.agent(retry=Retry(first_wait=1))

    async with MiniAgents():
        await asyncio.wait([in_background(trial, awaited(agent.trigger("hello")))])


@scenario
async def who_reads_through_the_sdk(trial: Trial, _: Path) -> None:
    """The same with OpenAI's own client above a transport: its response and its stream are closed."""
    llm = ScriptedLLM(Step("one two three", gap=0.1))

    async def ask() -> None:
        async with llm.openai_client() as client:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            async with stream:
                async for _ in stream:
                    pass

    await asyncio.wait([in_background(trial, ask())])


@scenario
async def a_run_whose_model_streams(trial: Trial, _: Path) -> None:
    """The whole run is given up in the middle of an answer."""
    model = create_scripted_agent([Step("one two three", gap=0.1), Step("four", first_wait=1)])

    async with MiniAgents():
        answer = model.trigger("hello")
        assert "".join([token async for promise in answer async for token in promise]) == "one two three"
        await model.trigger(answer)


# --- trying them


def bound(each: Scenario, folder: Path) -> Any:
    """A scenario of a trial alone, under its own name."""
    return functools.update_wrapper(lambda trial: each(trial, folder), each)


ROWS = {
    a_reader_of_a_stream: "C2",
    one_who_waits_for_a_while: "C3",
    one_who_awaits_an_agent: "C4",
    a_run_with_agents: "C5",
    the_only_reader_on_demand: "C24",
    who_waits_for_a_model: "C1",
    who_waits_for_a_model_that_is_busy: "P15",
}
"""The rows of the fault catalogue that a scenario is about. All are about C17: cancelled before the first step."""


def name_of(each: Scenario) -> str:
    """For the id of a test."""
    return f"{ROWS.get(each, 'C17')}-{each.__name__}"


@pytest.mark.parametrize("each", SCENARIOS, ids=name_of)
def test_cancelled_at_every_step(each: Scenario, tmp_path: Path) -> None:
    """In asyncio's own order: at each moment once."""
    assert cancel_at_every_step(bound(each, tmp_path)) > 3


@pytest.mark.parametrize("each", MANY_SEEDS, ids=name_of)
def test_cancelled_under_many_schedules(each: Scenario, tmp_path: Path, effort: Effort) -> None:
    """At a moment of its own under each schedule."""
    seeds = range(effort(50, ci=1000, nightly=5000))
    assert cancel_at_every_step(bound(each, tmp_path), seeds=seeds, sample=1) > len(seeds) / 2
