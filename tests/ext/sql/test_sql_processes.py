"""Histories in SQL with several processes: writers that are killed, writers at once, and changes of the schema."""

# ruff: noqa: ASYNC220 - no other task needs the loop

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import aclosing
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from miniagents import MiniAgents, UserMessage
from miniagents.errors import HistoryFormatError, HistoryWriteError
from miniagents.ext import _sql_store
from miniagents.ext.sql import SQLChatHistory, aload_messages, persist_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Effort

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork and no SIGKILL")

WRITERS = """
import asyncio, itertools, os, random, signal, sys, time
from miniagents import MiniAgents, UserMessage
from miniagents.ext import _sql_store
from miniagents.ext.sql import SQLChatHistory

url, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

async def write(writer, acknowledged):
    history = SQLChatHistory(url, chat_id="chat")
    async with MiniAgents():
        for number in itertools.count() if seconds else range(20):
            await history.aappend([UserMessage(f"{writer} {number} {part} " + "x" * number * 100) for part in "ab"])
            os.write(acknowledged, b".")
    await history.aclose()

def start(writer):
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        asyncio.run(write(writer, writing))
        os._exit(0)
    os.close(writing)
    return process, reading

def end(writer, process, reading):
    os.waitpid(process, 0)
    with open(reading, "rb") as acknowledged:
        print(writer, len(acknowledged.read()), flush=True)

if seconds:
    for writer in range(count):
        process, reading = start(writer)
        time.sleep(random.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        end(writer, process, reading)
else:
    started = [(writer, *start(writer)) for writer in range(count)]
    for each in started:
        end(*each)
"""
"""Program that runs writers, each in a process, and prints how many appends of each have returned.

The arguments are the URL, the number of writers, and the seconds after which a writer is killed at the latest. The
writers then run one after the other; for 0 seconds they run at once, and each ends after 20 appends.
"""


def run_writers(url: str, count: int, seconds: float) -> dict[int, int]:
    """Run the program, and return the number of appends of each writer that have returned."""
    command = [sys.executable, "-c", WRITERS, url, str(count), str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {int(writer): int(number) for writer, number in (line.split() for line in done.stdout.splitlines())}


async def load(database: str) -> list[str]:
    """Return the texts of the chat."""
    async with MiniAgents(), aclosing(SQLChatHistory(database, chat_id="chat")) as history:
        return [str(message) for message in await history.aload_chat_history()]


def texts_of(writer: int, appends: int) -> list[str]:
    """Return the texts that a writer has sent in so many appends."""
    return [f"{writer} {number} {part} " + "x" * number * 100 for number in range(appends) for part in "ab"]


@FORKS
async def test_H19_killed_writers_lose_repeat_and_change_no_message(database: str, effort: Effort) -> None:
    """If writers are killed at random moments, each append that has returned is there whole, once, in its order."""
    returned = run_writers(database, effort(6, ci=50, nightly=500), seconds=0.4)
    assert sum(returned.values()) > 0
    found = {int(writer): list(each) for writer, each in groupby(await load(database), lambda text: text.split()[0])}
    for writer, appends in returned.items():
        written = found.pop(writer, [])
        assert len(written) in range(2 * appends, 2 * appends + 3)  # messages of an append that has not returned yet
        assert written == texts_of(writer, appends + 1)[: len(written)]
    assert not found


@FORKS
async def test_H3_ten_processes_append_to_a_new_database_at_once(database: str) -> None:
    """Ten processes that make the tables and append to one chat at once lose nothing, and keep their orders."""
    assert run_writers(database, 10, seconds=0) == dict.fromkeys(range(10), 20)
    found = await load(database)
    assert len(found) == 10 * 20 * 2
    for writer in range(10):
        assert [text for text in found if text.split()[0] == str(writer)] == texts_of(writer, 20)


STREAMING = """
import asyncio, sys
from miniagents import AssistantMessage, MiniAgents, UserMessage
from miniagents.ext.sql import SQLChatHistory

async def streamer(metadata):
    for n in range(10**9):
        yield f"token{n} "
        await asyncio.sleep(0.001)
        if n == 20:
            print("streaming", flush=True)

async def amain():
    history = SQLChatHistory(sys.argv[1], chat_id="chat")
    await history.aappend(UserMessage("question"))
    await history.aappend(AssistantMessage.promise(message_token_streamer=streamer))

MiniAgents().run(amain())
"""


@FORKS
@pytest.mark.parametrize("number", ["SIGKILL", "SIGINT"])
async def test_H19_process_that_ends_in_a_stream_keeps_whole_messages(database: str, number: str) -> None:
    """A killed process loses the message that was streaming; after Ctrl-C, the text so far is there and marked."""
    command = [sys.executable, "-c", STREAMING, database]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        process.send_signal(signal.Signals[number])
    async with aclosing(SQLChatHistory(database, chat_id="chat")) as history:
        question, *rest = await history.aload_chat_history()
    assert question == UserMessage("question")
    if number == "SIGKILL":
        assert not rest
    else:
        [partial] = rest
        assert str(partial).startswith("token0 token1 token2 ")
        assert partial.interrupted


# --- the schema


@pytest.fixture
async def agents() -> AsyncIterator[None]:
    """Run a test in a context of agents."""
    async with MiniAgents():
        yield


@pytest.mark.usefixtures("agents")
async def test_H20_newer_schema_is_refused_and_left_unchanged(engine: AsyncEngine, database: str) -> None:
    """Tables of a newer version are a `HistoryFormatError` for every use, and stay as they are."""
    await SQLChatHistory(engine, chat_id="chat").aappend("one")
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE miniagents_schema SET version = 99"))
    later = create_async_engine(database)
    history = SQLChatHistory(later, chat_id="chat")
    words = rf"(chats\.db|/miniagents_\w+).*version 99, and .* knows {len(_sql_store.MIGRATIONS)}: install"
    for use in (
        history.aload_chat_history(),
        history.aappend("two"),
        aload_messages(later, []),
        persist_to(later)((UserMessage("two"),)),
    ):
        with pytest.raises(HistoryFormatError, match=words):
            await use
    async with later.begin() as connection:
        await connection.execute(text("UPDATE miniagents_schema SET version = 1"))
        assert (await connection.execute(text("SELECT count(*) FROM miniagents_message"))).scalar_one() == 1
    assert [str(message) for message in await history.aload_chat_history()] == ["one", "two"]
    await later.dispose()


@pytest.mark.usefixtures("agents")
async def test_H20_older_schema_is_migrated_once_when_many_begin_at_once(
    engine: AsyncEngine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several processes that find an older schema, one migrates it, and the others wait; no message is lost."""
    await SQLChatHistory(engine, chat_id="chat").aappend("before")
    migrated: list[int] = []

    def add_column(connection: Connection) -> None:
        migrated.append(1)
        connection.execute(text("ALTER TABLE miniagents_chat ADD COLUMN title TEXT"))

    monkeypatch.setattr(_sql_store, "MIGRATIONS", [*_sql_store.MIGRATIONS, add_column])
    engines = [create_async_engine(database) for _ in range(6)]
    await asyncio.gather(*(SQLChatHistory(each, chat_id="chat").aappend("after") for each in engines))
    assert migrated == [1]
    async with engine.connect() as connection:
        versions = (await connection.execute(text("SELECT version FROM miniagents_schema"))).scalars().all()
        assert versions == [len(_sql_store.MIGRATIONS)]
        assert (await connection.execute(text("SELECT length, title FROM miniagents_chat"))).one() == (7, None)
    for each in engines:
        await each.dispose()


@pytest.mark.usefixtures("agents")
async def test_H20_migration_that_fails_leaves_the_schema_as_it_was(
    engine: AsyncEngine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a migration fails in the middle, nothing of it is left, and the next use tries again."""
    await SQLChatHistory(engine, chat_id="chat").aappend("before")
    fails = True

    def add_column(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE miniagents_chat ADD COLUMN title TEXT"))
        if fails:
            raise OSError("the power failed")

    monkeypatch.setattr(_sql_store, "MIGRATIONS", [*_sql_store.MIGRATIONS, add_column])
    later = create_async_engine(database)
    history = SQLChatHistory(later, chat_id="chat")
    with pytest.raises(HistoryWriteError, match="the power failed"):
        await history.aappend("after")
    fails = False
    assert [str(message) for message in await history.aload_chat_history()] == ["before", "after"]
    await history.aappend("next")
    assert await load(database) == ["before", "after", "next"]
    await later.dispose()
