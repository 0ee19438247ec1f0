"""Observers: when they are entered and left, what they see, and that they change no reply."""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from common import Boom, echo, texts
from scripted_loops import agent_of

from miniagents import (
    AnswerRestarted,
    InteractionContext,
    LLMError,
    MiniAgents,
    PromiseCancelledError,
    PromisingContext,
    ReasoningDelta,
    ToolMessage,
    miniagent,
    observing,
    tool,
)
from miniagents.ext.llm.openai import Retry
from miniagents.observing import Operation, observe
from miniagents_testing import Failure, ScriptedLLM, Step, cancel_at_every_step, run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from miniagents.observing import Observer
    from miniagents_testing._cancelling import Trial

KINDS = ["chat", "responses", "messages", "scripted"]
NEVER = 3600.0
SOON = Retry(first_wait=0.001)

inside: ContextVar[str | None] = ContextVar("inside", default=None)
"""Names of the operations that the running code is in."""


class Recorder:
    """Observer that keeps operations with their tokens, events, errors and results, and sets `inside` in each."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.tokens: dict[Operation, list[str]] = {}
        self.events: dict[Operation, list[Any]] = {}
        self.tasks: dict[Operation, asyncio.Task[Any] | None] = {}
        self.ends: list[tuple[Operation, BaseException | None]] = []
        self._signals: asyncio.Queue[None] = asyncio.Queue()

    @contextmanager
    def __call__(self, operation: Operation) -> Iterator[None]:
        self.operations.append(operation)
        self.tasks[operation] = asyncio.current_task()
        self.tokens[operation], self.events[operation] = [], []
        operation.on_token = self.tokens[operation].append
        operation.on_event = self.events[operation].append
        outer = inside.get()
        token = inside.set(operation.name if outer is None else f"{outer} > {operation.name}")
        failed = None
        try:
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            inside.reset(token)  # raises in other variables than those it was set in
            self.ends.append((operation, failed))
            self._signals.put_nowait(None)

    async def wait_for_ends(self, count: int) -> None:
        """Wait until so many operations have ended."""
        for _ in range(count):
            await self._signals.get()

    def __getitem__(self, name: str) -> Operation:
        """Return the only operation of this name."""
        (operation,) = (each for each in self.operations if each.name == name)
        return operation

    def error_of(self, name: str) -> BaseException | None:
        """Return the error with which the only operation of this name ended."""
        (error,) = (error for operation, error in self.ends if operation.name == name)
        return error

    def check_closed(self, caplog: pytest.LogCaptureFixture) -> None:
        """Check that each operation was left once, and that no observer has failed."""
        assert sorted(map(id, self.operations)) == sorted(id(operation) for operation, _ in self.ends)
        assert "is off for the rest of this run" not in caplog.text


async def search(query: str) -> str:
    """Search for something."""
    if query == "nothing":
        raise ValueError("no such thing")
    return f"{query} found in {inside.get()}"


# --- agents


async def test_observer_is_entered_in_the_task_of_the_agent_before_its_function() -> None:
    """An agent's function sees the context variables that the observer has set in its task; the caller does not."""
    recorder = Recorder()
    tasks = []

    @miniagent
    async def inner(ctx: InteractionContext) -> str:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return str(inside.get())

    @miniagent
    async def outer(ctx: InteractionContext) -> None:
        tasks.append(asyncio.current_task())
        ctx.reply(inner.trigger())
        ctx.reply(str(inside.get()))

    async with MiniAgents(observers=[recorder]):
        assert await texts(outer.trigger("Hi", start_soon=False)) == ["OUTER > INNER", "OUTER"]
        assert inside.get() is None
    assert [*recorder.tasks.values()] == tasks
    assert recorder["INNER"].parent is recorder["OUTER"]
    assert recorder["OUTER"].parent is None
    assert [operation.kind for operation in recorder.operations] == ["agent", "agent"]


async def test_operation_of_an_agent_says_what_it_was_asked_and_replied() -> None:
    """An agent's operation has description, messages and arguments in `asked`, and the last reply in `result`."""
    recorder = Recorder()

    @miniagent(description="Greets.")
    async def greeter(ctx: InteractionContext, *, greeting: dict[str, str]) -> str:
        ctx.reply("one")
        return greeting["en"]

    async with MiniAgents(observers=[recorder]):
        await greeter.trigger("Hi", greeting={"en": "Hello"})
        operation = recorder["GREETER"]
        assert operation.asked["description"] == "Greets."
        assert await texts(operation.asked["messages"]) == ["Hi"]
        assert operation.asked["arguments"] == {"greeting": {"en": "Hello"}}
    assert str(operation.result) == "Hello"
    with pytest.raises(TypeError):
        operation.asked["arguments"]["greeting"]["en"] = "Bye"


@pytest.mark.parametrize("error", [Boom("broken"), TimeoutError("late"), StopAsyncIteration()], ids=repr)
async def test_error_of_an_agent_passes_the_observer_unchanged(error: BaseException) -> None:
    """The observer and the reader get the very error that the agent has raised."""
    recorder = Recorder()

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        raise error

    async with MiniAgents(observers=[recorder]):
        with pytest.raises(type(error)) as caught:
            await failing.trigger()
    assert recorder.error_of("FAILING") is caught.value is error


async def test_observer_cannot_drop_an_error() -> None:
    """An error comes to the reader, also if the observer's context manager asks to drop it."""

    @contextmanager
    def greedy(operation: Operation) -> Iterator[None]:
        try:
            yield
        except Boom:
            return

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        raise Boom

    async with MiniAgents(observers=[greedy]):
        with pytest.raises(Boom):
            await failing.trigger()


async def test_cancelled_agent_is_left_with_the_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """The observer gets a cancelled agent's `CancelledError`, and nothing of one cancelled before its first step."""
    recorder = Recorder()

    @miniagent
    async def waiting(ctx: InteractionContext) -> None:
        await asyncio.sleep(NEVER)

    async with MiniAgents(observers=[recorder]):
        replies, early = waiting.trigger(), waiting.trigger()
        early.cancel()
        await asyncio.sleep(0)
        replies.cancel()
        for each in (replies, early):
            with pytest.raises(PromiseCancelledError):
                await each
    assert isinstance(recorder.error_of("WAITING"), asyncio.CancelledError)
    recorder.check_closed(caplog)


def test_agent_that_is_closed_without_its_loop_is_left_once(caplog: pytest.LogCaptureFixture) -> None:
    """If an agent's coroutine is closed after its loop, the observer is left once, with a `CancelledError`."""
    recorder = Recorder()

    @miniagent
    async def waiting(ctx: InteractionContext) -> None:
        await asyncio.sleep(NEVER)

    async def main() -> None:
        async with MiniAgents(observers=[recorder]):
            await waiting.trigger()

    loop = asyncio.new_event_loop()
    main_task = loop.create_task(main())
    while not recorder.operations:
        loop.run_until_complete(asyncio.sleep(0))
    loop.set_exception_handler(lambda loop, context: None)  # tasks are destroyed, as this test wants it
    loop.close()
    for task in (*recorder.tasks.values(), main_task):
        coroutine: Any = task and task.get_coro()
        coroutine.close()
    assert isinstance(recorder.error_of("WAITING"), asyncio.CancelledError)
    recorder.check_closed(caplog)


# --- requests


@pytest.mark.parametrize("kind", KINDS)
async def test_request_is_one_operation_with_its_retries(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A request and its retries are one operation, with tokens, an `AnswerRestarted` for each retry, and the answer."""
    recorder = Recorder()
    llm = ScriptedLLM([Failure(529), Failure(500), Step("Hello, you", first_wait=0.001)])
    agent = agent_of(llm, kind, alias="WRITER", system="Be brief.", temperature=0.5).fork(retry=SOON)
    async with MiniAgents(observers=[recorder]):
        (answer,) = await agent.trigger("Hi")
    request = next(each for each in recorder.operations if each.kind == "request")
    assert len(llm.calls) == 3
    assert recorder.tokens[request] == ["Hello,", " you"]
    assert recorder.events[request] == [AnswerRestarted()] * 2
    assert request.result == answer
    assert request.parent is recorder["WRITER"]
    assert [operation for operation, _ in recorder.ends] == [request, recorder["WRITER"]]
    assert recorder["WRITER"].result == answer
    recorder.check_closed(caplog)


@pytest.mark.parametrize("kind", KINDS)
async def test_operation_of_a_request_says_what_is_sent(kind: str) -> None:
    """A request's operation has messages and settings in `asked`, read-only, and no headers, as these contain keys."""
    recorder = Recorder()
    agent = agent_of(ScriptedLLM("Hello"), kind, system="Be brief.", temperature=0.5, tools=[search])
    async with MiniAgents(observers=[recorder]):
        await agent.trigger(
            ["Hi", "there"], extra_headers={"Authorization": "Bearer canary"}, metadata={"a": {"b": "c"}}
        )
    request = next(each for each in recorder.operations if each.kind == "request")
    asked: Any = request.asked
    anthropic = kind == "messages"
    assert request.name == ("scripted-model" if kind == "scripted" else "m")
    assert [str(message) for message in asked["messages"]] == ["Hi", "there"]
    assert asked["system"] == "Be brief."
    assert asked["provider"] == ("anthropic" if anthropic else "openai")
    assert asked["api"] == ("chat" if kind == "scripted" else kind)
    assert (asked["address"], asked["port"]) == (f"api.{asked['provider']}.com", 443)
    assert asked["stream"] is True
    assert asked["settings"]["temperature"] == 0.5
    assert len(asked["settings"]["tools"]) == 1
    assert "canary" not in repr(asked)
    with pytest.raises(TypeError):
        asked["settings"]["metadata"]["a"]["b"] = "changed"
    with pytest.raises(TypeError):
        asked["settings"] = {}


@pytest.mark.parametrize("kind", KINDS)
async def test_failed_request_is_left_with_its_error_and_partial_answer(kind: str) -> None:
    """The observer gets the error of a request that broke off, with the part of the answer that had come."""
    recorder = Recorder()
    step = Step("Hello there", after=1, then="reset")
    async with MiniAgents(observers=[recorder]):
        with pytest.raises(LLMError) as caught:
            await agent_of(ScriptedLLM(step), kind, alias="WRITER").trigger("Hi")
    request = next(each for each in recorder.operations if each.kind == "request")
    assert [error for _, error in recorder.ends] == [caught.value] * 2
    assert str(request.result) == "Hello"
    assert getattr(request.result, "interrupted", False)


@pytest.mark.parametrize("how", ["break", "cancel", "collect", "leave"])
@pytest.mark.parametrize("on_demand", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_abandoned_stream_is_left_once(
    kind: str, on_demand: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If a stream is abandoned, the observer is left once for each operation, in the context where it was entered."""
    recorder = Recorder()
    agent = agent_of(ScriptedLLM(Step("one two three", gap=0.001, after=3, then="hold")), kind, alias="WRITER")
    with pytest.raises(Boom):
        async with MiniAgents(observers=[recorder], start_everything_soon_by_default=not on_demand):
            replies = agent.trigger("Hi")
            promise = await anext(aiter(replies))
            async for token in promise:
                assert token.startswith("one")
                assert inside.get() is None
                break
            if how == "cancel":
                promise.cancel()
            if how in ("break", "collect"):
                del promise, replies
            if how == "collect":
                gc.collect()
            if how != "leave":
                await recorder.wait_for_ends(2)
            raise Boom
    assert len(recorder.ends) == 2
    assert isinstance({each.kind: error for each, error in recorder.ends}["request"], asyncio.CancelledError)
    recorder.check_closed(caplog)


async def test_reader_sees_no_variable_of_an_observer() -> None:
    """What an observer sets while a message streams is seen by the client of the request, and by no reader."""
    seen: list[str | None] = []

    def answer(call: Any) -> str:
        seen.append(inside.get())
        return "one two three"

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        async for _ in agent_of(ScriptedLLM(answer), "chat", alias="WRITER").trigger("Hi").as_single_text_promise():
            seen.append(inside.get())

    async with MiniAgents(observers=[Recorder()]):
        await reader.trigger()
    assert seen == ["READER > WRITER > m", "READER", "READER", "READER"]


async def test_answer_without_a_reader_does_not_hold_its_agent() -> None:
    """An agent whose answer is made on demand ends before the request, which is observed once a reader awaits it."""
    recorder = Recorder()
    async with MiniAgents(observers=[recorder], start_everything_soon_by_default=False):
        replies = agent_of(ScriptedLLM("Hello"), "chat", alias="WRITER").trigger("Hi")
        promise = await anext(aiter(replies))
        assert [operation.name for operation, _ in recorder.ends] == ["WRITER"]
        assert str(await promise) == "Hello"
    assert [operation.name for operation, _ in recorder.ends] == ["WRITER", "m"]
    assert recorder["m"].parent is recorder["WRITER"]


# --- tools


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_of_tools_are_operations_of_their_agent(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each tool call is an operation with arguments and result, and ends with an error if the tool fails."""
    recorder = Recorder()
    llm = ScriptedLLM(
        [
            Step(
                tool_calls=[("search", {"query": "it"}), ("search", {"query": "nothing"}), ("lost", {}), ("search", {})]
            ),
            "Done",
        ]
    )
    async with MiniAgents(observers=[recorder]):
        replies = await agent_of(llm, kind, alias="SEEKER", tools=[search]).trigger("Hi")
    tools = [each for each in recorder.operations if each.kind == "tool"]
    assert [each.name for each in tools] == ["search", "search", "lost", "search"]
    assert {each.parent for each in tools} == {recorder["SEEKER"]}
    assert [each.asked["call"] for each in tools] == [*replies[0].tool_calls]
    assert [each.asked["description"] for each in tools] == ["Search for something."] * 2 + [None] * 2
    results = [message for message in replies if isinstance(message, ToolMessage)]
    assert [each.result for each in tools] == results
    assert str(results[0]) == "it found in SEEKER > search"
    errors = [error for operation, error in recorder.ends if operation.kind == "tool"]
    assert sorted(type(error).__name__ for error in errors) == ["NoneType", "ToolError", "ToolError", "ValueError"]
    assert recorder.error_of("SEEKER") is None
    assert recorder["SEEKER"].result == replies[-1]
    assert recorder.ends[-1][0] is recorder["SEEKER"]
    recorder.check_closed(caplog)


async def test_agent_as_a_tool_works_for_the_call_of_the_tool() -> None:
    """If a model calls an agent as a tool, the agent's parent is the tool call, whose parent is the model's agent."""
    recorder = Recorder()
    llm = ScriptedLLM([Step(tool_calls=[("echo", {"message": "Hi"})]), "Done"])
    async with MiniAgents(observers=[recorder]):
        await agent_of(llm, "chat", alias="BOSS", tools=[tool(echo, description="Echoes.")]).trigger("Hi")
    assert recorder["ECHO"].parent is recorder["echo"]
    assert recorder["echo"].parent is recorder["BOSS"]


async def test_cancelled_tool_loop_leaves_its_tools_before_its_agent(caplog: pytest.LogCaptureFixture) -> None:
    """If a tool loop is cancelled, the observer is left for each stopping tool before it is left for the agent."""
    recorder = Recorder()
    started = asyncio.Event()

    async def slow() -> None:
        """Wait, and take a while to stop."""
        started.set()
        try:
            await asyncio.sleep(NEVER)
        finally:
            await asyncio.sleep(0.001)

    async with MiniAgents(observers=[recorder]):
        replies = agent_of(ScriptedLLM(Step(tool_calls=[("slow", {})])), "chat", alias="BOSS", tools=[slow]).trigger(
            "Hi"
        )
        await started.wait()
        replies.cancel()
        await recorder.wait_for_ends(3)
    assert [operation.name for operation, _ in recorder.ends] == ["m", "slow", "BOSS"]
    assert isinstance(recorder.error_of("slow"), asyncio.CancelledError)
    recorder.check_closed(caplog)


@pytest.mark.parametrize("victim", ["replies", "reader", "run"])
@pytest.mark.parametrize("kind", KINDS)
def test_tool_loop_that_is_cancelled_at_any_step_is_left_once(
    kind: str, victim: str, caplog: pytest.LogCaptureFixture, effort: Callable[..., Any]
) -> None:
    """If replies, their reader or the run are cancelled at any step, the observer is left once for each operation."""

    async def scenario(trial: Trial) -> None:
        recorder = Recorder()
        llm = ScriptedLLM([Step("So", tool_calls=[("search", {"query": "it"})], gap=0.01), Step("Done then", gap=0.01)])
        agent = agent_of(llm, kind, tools=[search], alias="SEEKER")

        async def read() -> None:
            with suppress(PromiseCancelledError):
                await texts(replies)

        try:
            async with MiniAgents(observers=[recorder]):
                replies = agent.trigger("Hi")
                reading = asyncio.create_task(read())
                if victim != "run":
                    trial.victim(replies if victim == "replies" else reading)
                await asyncio.wait([reading])
        finally:
            if len(recorder.ends) < len(recorder.operations):
                gc.collect()  # Python 3.12 keeps what was cancelled before its first step in a circle of references
            recorder.check_closed(caplog)

    assert cancel_at_every_step(scenario, seeds=[None, 1], sample=effort(8, ci=100, nightly=None)) > 4


# --- observers that fail


class FailingManager:
    """Context manager that fails on entering or leaving."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        if self.where == "enter":
            raise Boom("enter")

    def __exit__(self, *error: object) -> None:
        if self.where == "exit":
            raise Boom("exit")


def failing_observer(where: str, seen: list[Operation]) -> Observer:
    """Return an observer that appends each operation to `seen`, and fails at the place `where`."""

    def fail(piece: object) -> None:
        raise Boom(where)

    def observer(operation: Operation) -> Any:
        seen.append(operation)
        if where == "call":
            raise Boom("call")
        if where == "cancel":
            raise asyncio.CancelledError
        if where == "token":
            operation.on_token = fail
        if where == "event":
            operation.on_event = fail
        return None if where == "nothing" else FailingManager(where)

    return observer


@pytest.mark.parametrize("where", ["call", "cancel", "nothing", "enter", "exit", "token", "event"])
@pytest.mark.parametrize("kind", KINDS)
async def test_observer_that_fails_is_logged_once_and_off_for_the_run(
    kind: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If an observer fails, replies and other observers do not change; each run logs it once and calls it no more."""

    def llm() -> ScriptedLLM:
        return ScriptedLLM(
            [Step("So", reasoning="Hm", tool_calls=[("search", {"query": "it"})]), "Done so far", "Done again"]
        )

    def agent() -> Any:
        return agent_of(llm(), kind, tools=[search])

    async with MiniAgents():
        expected = [*await (plain := agent()).trigger("Hi"), *await plain.trigger("Hi")]
    seen: list[Operation] = []
    recorder = Recorder()
    failing = failing_observer(where, seen)
    runs = []
    for _ in range(2):
        observed = agent()
        async with MiniAgents(observers=[failing, recorder]):
            replies = [*await observed.trigger("Hi"), *await observed.trigger("Hi")]
        assert [str(each).partition(" in ")[0] for each in replies] == [
            str(each).partition(" in ")[0] for each in expected
        ]
        runs.append(len(seen))
    logged = [record for record in caplog.records if "is off for the rest of this run" in record.getMessage()]
    assert len(logged) == 2
    assert all(record.exc_info for record in logged)
    assert repr(failing) in logged[0].getMessage()
    assert len(recorder.operations) == len(recorder.ends) == 2 * 6
    assert 0 < runs[0] < 6
    assert runs[1] == 2 * runs[0]


async def test_interrupt_in_an_observer_is_no_failure_of_the_observer() -> None:
    """Ctrl-C while an observer works ends the run like any other Ctrl-C."""

    def interrupted(operation: Operation) -> Any:
        raise KeyboardInterrupt

    async def main() -> None:
        await echo.trigger("Hi")

    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(MiniAgents(observers=[interrupted]).run, main())


# --- which runs are observed


async def test_observe_observes_all_runs_that_begin_inside() -> None:
    """Runs that begin in `with observe(observer):` give it each operation once, even if the observer is given twice."""
    recorder, other = Recorder(), Recorder()
    async with MiniAgents():
        with observe(recorder), observe(recorder), observe(other):
            await echo.trigger("before")
            async with MiniAgents(observers=[recorder]), PromisingContext(), MiniAgents():
                await echo.trigger("inside")
            async with MiniAgents():
                await echo.trigger("inside")
        async with MiniAgents():
            await echo.trigger("after")
    assert len(recorder.operations) == len(other.operations) == 2


def test_observe_observes_programs_and_servers() -> None:
    """`with observe(observer):` observes a program that `run` runs, and a run that `activate` opens."""
    recorder = Recorder()

    async def serve() -> None:
        context = MiniAgents().activate()
        await echo.trigger("Hi")
        await context.afinalize()

    with observe(recorder):
        MiniAgents().run_agent(echo, "Hi")
        asyncio.run(serve())
    assert [operation.name for operation in recorder.operations] == ["ECHO", "ECHO"]


def test_observer_that_cannot_be_called_is_refused() -> None:
    """An observer that is no function, or that is not in a list, is a `TypeError` where it is given."""
    alone: Any = nullcontext
    with pytest.raises(
        TypeError, match=r"observers must be a list of functions, as in observers=\[\.\.\.\], not <class"
    ):
        MiniAgents(observers=alone)
    wrong: Any = "no function"
    with pytest.raises(TypeError, match="an observer must be a function of an Operation, not 'no function'"):
        MiniAgents(observers=[wrong])
    with pytest.raises(TypeError, match="an observer must be"), observe(wrong):
        pass


# --- what it costs


def calls_in(module: Any, work: Callable[[], object]) -> int:
    """Return how often functions of a module are called during `work`."""
    gc.collect()
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename == module.__file__

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", ["scripted", "chat"])
def test_run_without_observers_calls_nothing_of_the_observing(kind: str) -> None:
    """Without an observer, three agent calls with tools call no more functions of `miniagents.observing` than one."""

    async def main(times: int) -> None:
        for _ in range(times):
            llm = ScriptedLLM([Step("one two", tool_calls=[("search", {"query": "it"})]), "three four five"])
            await agent_of(llm, kind, tools=[search]).trigger("Hi")

    MiniAgents().run(main(1))  # what a first run imports
    once = calls_in(observing, lambda: MiniAgents().run(main(1)))
    assert calls_in(observing, lambda: MiniAgents().run(main(3))) == once
    observed = calls_in(observing, lambda: MiniAgents(observers=[lambda operation: nullcontext()]).run(main(1)))
    assert observed > once + 10


def test_operations_have_times_of_the_loop() -> None:
    """An observer that reads the loop's clock gets the times of the script, also in virtual time."""
    times: list[tuple[str, float]] = []

    @contextmanager
    def clock(operation: Operation) -> Iterator[None]:
        now = asyncio.get_running_loop().time
        start = now()
        operation.on_token = lambda token: times.append((token, now() - start))
        yield
        times.append((operation.kind, now() - start))

    async def main() -> None:
        async with MiniAgents(observers=[clock]):
            await ScriptedLLM(Step("one two", first_wait=2.0, gap=0.5)).agent().trigger("Hi")

    run_in_virtual_time(main())
    assert [(name, round(seconds, 6)) for name, seconds in times] == [
        ("one", 2.0),
        (" two", 2.5),
        ("request", times[2][1].__round__(6)),
        ("agent", times[2][1].__round__(6)),
    ]


def test_events_of_an_answer_come_to_the_observer() -> None:
    """An observer gets the reasoning of a model before the tokens of its answer, in the order in which they came."""
    pieces: list[Any] = []

    def observer(operation: Operation) -> Any:
        if operation.kind == "request":
            operation.on_token = operation.on_event = pieces.append
        return nullcontext()

    llm = ScriptedLLM(Step("So be it", reasoning=["Hm"]))
    MiniAgents(observers=[observer]).run_agent(llm.agent(), "Hi")
    assert pieces == [ReasoningDelta("Hm"), "So", " be", " it"]
