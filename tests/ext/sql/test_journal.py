"""Journals of runs: calls that have finished are not made again when the run is started again."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from miniagents import (
    AssistantMessage,
    ErrorMessage,
    InteractionContext,
    Message,
    MiniAgent,
    MiniAgents,
    UserMessage,
    miniagent,
)
from miniagents.errors import HistoryError, PromiseCancelledError
from miniagents.ext import sql
from miniagents.ext._sql_store import RUN
from miniagents.ext.sql import Journal
from miniagents_testing import ScriptedLLM, Step

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the lease to one second, after which another journal may take over a run that is not renewed."""
    monkeypatch.setattr(sql, "LEASE", 1.0)


def counting_agent(answer: Callable[[int], Any] = str) -> tuple[MiniAgent[...], list[str]]:
    """Return an agent that replies `answer(n)` to its n-th call, and the list of the messages that it gets.

    If `answer` returns an exception, the agent replies "begun", and raises it.
    """
    made: list[str] = []

    @miniagent(alias="WORKER")
    async def worker(ctx: InteractionContext, **_: Any) -> None:
        made.append("".join([str(message) for message in await ctx.message_promises]))
        reply = answer(len(made))
        if isinstance(reply, Exception):
            ctx.reply("begun")
            raise reply
        ctx.reply(reply)

    return worker, made


async def run_again(database: str | AsyncEngine, agent: MiniAgent[...], *calls: Any, **arguments: Any) -> list[Any]:
    """Run `agent` as a step of the run "run" for each of the messages in turn, and return the replies of each call."""
    async with aclosing(Journal(database, run_id="run")) as journal, MiniAgents():
        step = journal.step(agent, version=arguments.pop("version", "1"))
        return [await step.trigger(messages, **arguments) for messages in calls]


KILLED = """
import asyncio, os, signal, sys
from miniagents import MiniAgents, miniagent
from miniagents.ext.sql import Journal

@miniagent(alias="WORKER")
async def worker(ctx):
    (message,) = await ctx.message_promises
    if str(message) == "8":
        os.kill(os.getpid(), signal.SIGKILL)
    ctx.reply(f"answer to {message}")

async def main():
    journal = Journal(sys.argv[1], run_id="run")
    async with MiniAgents():
        for number in range(12):
            await journal.step(worker).trigger(str(number))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGKILL")
async def test_H23_killed_run_makes_only_the_calls_that_did_not_finish(database: str, short_lease: None) -> None:
    """A run of 12 calls whose process is killed in the ninth makes four calls when it is started again, then none."""
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, database], check=False)
    assert killed.returncode == -signal.SIGKILL
    worker, made = counting_agent()
    first = await run_again(database, worker, *map(str, range(12)))
    assert made == ["8", "9", "10", "11"]
    assert [str(reply) for (reply,) in first] == [*(f"answer to {number}" for number in range(8)), "1", "2", "3", "4"]
    assert await run_again(database, worker, *map(str, range(12))) == first
    assert len(made) == 4


async def test_H23_step_replies_equal_messages_of_their_classes_in_order(database: str) -> None:
    """If a run is started again, the replies of a finished call come back in order, with classes, fields and hashes."""
    replies = [UserMessage("a\0\ud83d", picture=b"\xff"), AssistantMessage("b", model="m"), Message(None), "c"]
    worker, made = counting_agent(lambda _: replies)
    (first,) = await run_again(database, worker, "go")
    (again,) = await run_again(database, worker, "go")
    assert len(made) == 1
    assert again == first
    assert [(type(each), each.full_hash_key) for each in again] == [(type(each), each.full_hash_key) for each in first]


async def test_call_without_replies_is_not_made_again(database: str) -> None:
    """When a run is started again, a call that finished without a reply is not made again."""
    worker, made = counting_agent(lambda _: [])
    assert await run_again(database, worker, "go") == await run_again(database, worker, "go") == [()]
    assert len(made) == 1


async def test_equal_calls_keep_their_own_answers(database: str) -> None:
    """The second of two equal calls has its own answer in a later run."""
    worker, made = counting_agent()
    first = await run_again(database, worker, "same", "same")
    assert await run_again(database, worker, "same", "same") == first
    assert [str(reply) for (reply,) in first] == ["1", "2"]
    assert len(made) == 2


@pytest.mark.parametrize("change", ["messages", "arguments", "version", "alias"])
async def test_other_call_is_made(database: str, change: str) -> None:
    """In a second start of a run, a call that differs in messages, arguments, version or agent is made."""
    worker, made = counting_agent()
    await run_again(database, worker, "go", number=1)
    other = worker.fork(alias="OTHER") if change == "alias" else worker
    number = 2 if change == "arguments" else 1
    version = "2" if change == "version" else "1"
    await run_again(database, other, "went" if change == "messages" else "go", number=number, version=version)
    assert len(made) == 2


async def test_H24_failed_call_is_made_again(database: str) -> None:
    """A call that failed raises its error once, with the replies before it, and is made again in the next run."""
    worker, made = counting_agent(lambda number: ValueError("not now") if number == 1 else "done")
    async with aclosing(Journal(database, run_id="run")) as journal, MiniAgents():
        replies = journal.step(worker).trigger("go", errors_as_messages=True)
        begun, error = await replies
        assert (str(begun), type(error)) == ("begun", ErrorMessage)
        assert "not now" in str(error)
    assert [str(reply) for (reply,) in await run_again(database, worker, "go")] == ["done"]
    assert len(made) == 2


@pytest.mark.parametrize("reply", [Message("cut", interrupted=True), ErrorMessage("failed")])
async def test_H24_call_with_an_incomplete_reply_is_made_again(database: str, reply: Message) -> None:
    """A call that replied an interrupted message or an error message is made again in a later run."""
    worker, made = counting_agent(lambda _: reply)
    await run_again(database, worker, "go")
    await run_again(database, worker, "go")
    assert len(made) == 2


async def test_H24_cancelled_step_stops_its_agent_and_is_made_again(database: str) -> None:
    """If a `Journal.step` agent is cancelled, so is the agent that it calls; the next run makes the call again."""
    ended = []

    @miniagent(alias="WORKER")
    async def slow(ctx: InteractionContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async with aclosing(Journal(database, run_id="run")) as journal:
        async with MiniAgents():
            with pytest.raises(PromiseCancelledError) as caught:
                await journal.step(slow).trigger("go", timeout=0.2)
            assert "TimeoutError" in caught.value.__notes__[-1]
        assert ended == ["cancelled"]
    worker, made = counting_agent()
    await run_again(database, worker, "go")
    assert len(made) == 1


async def test_step_streams_while_its_agent_works(database: str) -> None:
    """A reader gets the first reply of a `Journal.step` agent before the agent's call is finished."""
    go_on = asyncio.Event()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        ctx.reply("first")
        await go_on.wait()
        ctx.reply("second")

    async with aclosing(Journal(database, run_id="run")) as journal, MiniAgents():
        texts = []
        async for promise in journal.step(slow).trigger():
            texts.append(str(await promise))
            go_on.set()
        assert texts == ["first", "second"]


async def test_call_that_outlives_its_journal_is_not_stored(database: str) -> None:
    """A call that ends after its journal was closed raises `HistoryError`.

    Another journal can hold the run at once, and makes the call again.
    """
    began, may_end = asyncio.Event(), asyncio.Event()

    @miniagent(alias="WORKER")
    async def worker(ctx: InteractionContext) -> None:
        began.set()
        await may_end.wait()
        ctx.reply("late")

    async with MiniAgents():
        async with aclosing(Journal(database, run_id="run")) as journal:
            await journal.step(counting_agent()[0]).trigger("first")
            late = journal.step(worker).trigger("second", start_soon=True)
            await began.wait()
        may_end.set()
        with pytest.raises(HistoryError, match="closed while the call ran"):
            await late
        async with aclosing(Journal(database, run_id="run")) as journal:
            assert [str(each) for each in await journal.step(worker).trigger("second")] == ["late"]


async def test_error_of_a_run_stays_when_its_journal_cannot_be_written(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """If a locked database keeps a failed run from being released, that is a warning, and the run's error is raised."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/runs.db", connect_args={"timeout": 0.1})
    with closing(sqlite3.connect(tmp_path / "runs.db")) as other, pytest.raises(ValueError, match="of the run"):
        async with aclosing(Journal(engine, run_id="run")) as journal, MiniAgents():
            await journal.step(counting_agent()[0]).trigger("first")
            other.execute("BEGIN EXCLUSIVE")
            raise ValueError("of the run")
    await engine.dispose()
    assert "Could not give run 'run'" in caplog.text
    assert "database is locked" in caplog.text


async def test_step_is_a_tool_with_the_parameters_of_its_agent(database: str) -> None:
    """A model that calls a `Journal.step` agent as a tool sees the agent's parameters that `fork` has not bound."""

    @miniagent
    async def adder(ctx: InteractionContext, first: int, second: int) -> None:
        """Adds two numbers."""
        ctx.reply(str(first + second))

    llm = ScriptedLLM([Step(tool_calls=[("adder", {"first": 2})]), "done"])
    async with aclosing(Journal(database, run_id="run")) as journal, MiniAgents():
        replies = await llm.agent(tools=[journal.step(adder.fork(second=3))]).trigger("Add.")
    assert [str(each) for each in replies[1:]] == ["5", "done"]
    assert list(llm.calls[0].tools[0]["function"]["parameters"]["properties"]) == ["first"]


async def test_argument_that_cannot_be_a_key_is_refused_at_trigger(tmp_path: Any) -> None:
    """An argument without a hash is a `TypeError` at `trigger` that names it.

    It is legal if `fork` has bound it before `step`.
    """
    worker, made = counting_agent()
    database = f"sqlite+aiosqlite:///{tmp_path / 'runs.db'}"
    async with aclosing(Journal(database, run_id="run")) as journal, MiniAgents():
        with pytest.raises(TypeError, match="'callback' cannot be a part of a key"):
            journal.step(worker).trigger("go", callback=print)
        await journal.step(worker.fork(callback=print)).trigger("go")
    assert len(made) == 1


@pytest.mark.parametrize(
    ("database", "run_id", "error"),
    [
        ("sqlite+aiosqlite:///runs.db", "", ValueError),
        ("sqlite+aiosqlite:///runs.db", 7, TypeError),
        ("sqlite+aiosqlite://", "run", ValueError),
        ("sqlite+aiosqlite:///:memory:", "run", ValueError),
        ("mysql+aiomysql://host/name", "run", ValueError),
    ],
)
def test_journal_refuses_arguments_at_once(database: str, run_id: Any, error: type[Exception]) -> None:
    """A wrong id, a database in memory and another kind of database are refused when the journal is made."""
    with pytest.raises(error):
        Journal(database, run_id=run_id)


async def test_H25_second_holder_waits_and_then_fails(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another journal holds a run, a step of the run waits for the lease, and then raises `HistoryError`.

    After `aclose` of the other journal, the run can be held at once.
    """
    monkeypatch.setattr(sql, "RETRY", 0.01)
    worker, made = counting_agent()
    async with aclosing(Journal(database, run_id="run")) as holder:
        async with MiniAgents():
            await holder.step(worker).trigger("go")
        async with aclosing(Journal(database, run_id="run")) as second, MiniAgents():
            with pytest.raises(HistoryError, match="another process holds this run"):
                await second.step(worker).trigger("other")
    await run_again(database, worker, "go", "other")
    assert made == ["go", "other"]


async def test_H25_holder_that_lost_its_run_stores_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal whose run another journal took over gets an error for a step; the other journal's step stays."""
    worker, made = counting_agent()
    async with aclosing(Journal(database, run_id="run")) as holder, MiniAgents():
        await holder.step(worker).trigger("go")
        monkeypatch.setattr(sql, "LEASE", -1.0)  # any claim is stale
        async with aclosing(Journal(database, run_id="run")) as second:
            await second.step(worker).trigger("more")
            monkeypatch.setattr(sql, "LEASE", 60.0)
            with pytest.raises(HistoryError, match="another process holds this run"):
                await holder.step(worker).trigger("late")
    await run_again(database, worker, "more", "late")
    assert made == ["go", "more", "late", "late"]


async def test_H25_claim_is_renewed_while_the_loop_is_blocked(
    database: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Code that blocks the event loop of the run does not lose the claim: a thread renews it."""
    monkeypatch.setattr(sql, "RENEWAL", 0.02)

    async def renewed() -> float:
        """Return the time of the last renewal, by a connection of an event loop of its own."""
        own = create_async_engine(engine.url)
        try:
            async with own.connect() as connection:
                return float((await connection.execute(select(RUN.c.renewed))).scalar_one())
        finally:
            await own.dispose()

    def wait_for_renewals() -> None:
        """Return after two renewals."""
        for _ in range(2):
            before = asyncio.run(renewed())
            while asyncio.run(renewed()) == before:
                pass

    worker, _ = counting_agent()
    async with aclosing(Journal(engine, run_id="run")) as journal, MiniAgents():
        await journal.step(worker).trigger("go")
        thread = threading.Thread(target=wait_for_renewals)
        thread.start()
        thread.join()  # blocks the event loop
    assert not caplog.records
