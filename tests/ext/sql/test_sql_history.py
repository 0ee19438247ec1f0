"""`SQLChatHistory`, `persist_to` and `aload_messages` on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
import re
import secrets
import sqlite3
import sys
import traceback
from contextlib import aclosing, closing
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest
from databases import empty_database
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from miniagents import AssistantMessage, InteractionContext, Message, MiniAgents, SystemMessage, UserMessage, miniagent
from miniagents.errors import HistoryError, HistoryFormatError, HistoryWriteError, MissingExtraError, install_line
from miniagents.ext.sql import Journal, SQLChatHistory, aload_messages, persist_to
from miniagents_testing import strategies
from miniagents_testing.checks.conformance import HistoryConformance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from miniagents import ChatHistory
    from tests.conftest import Effort


@pytest.fixture
async def agents() -> AsyncIterator[None]:
    """Run a test in a context of agents."""
    async with MiniAgents():
        yield


pytestmark = pytest.mark.usefixtures("agents")


async def load(engine: AsyncEngine, chat_id: str = "chat") -> tuple[Message, ...]:
    """Return the messages that a new reader loads."""
    return await SQLChatHistory(engine, chat_id=chat_id).aload_chat_history()


async def texts(engine: AsyncEngine, chat_id: str = "chat") -> list[str]:
    """Return the texts that a new reader loads."""
    return [str(message) for message in await load(engine, chat_id)]


def streamed(*tokens: str, error: Exception | None = None, until: asyncio.Event | None = None) -> Any:
    """Return a message of these tokens, which fails after them, or waits for an event."""

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            yield token
        if until is not None:
            await until.wait()
        if error is not None:
            raise error

    return AssistantMessage.promise(message_token_streamer=streamer)


# --- messages


class Mood(Enum):
    """Enum for a field."""

    GOOD = "good"


class Mooded(Message):
    """Message with fields of its own."""

    mood: Mood
    size: float = 0.5

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


ODD = (
    UserMessage("\x00 and \ud83d and \x1b[2J\u202e", role="r\x00\ud800", name="\x00"),
    Mooded("", mood=Mood.GOOD, values=[b"\x00\xff", float("inf"), 10**5000, None, {"$bytes": 1, "class_": 2}]),
    Message(["part", {"type": "text", "text": "other"}]),
    Message(None),
    AssistantMessage("half", interrupted=True, inner=[SystemMessage("in"), {"x": SystemMessage("deeper")}]),
)


async def test_history_loads_any_messages_equal_and_with_their_hashes(engine: AsyncEngine) -> None:
    """NUL, surrogates, bytes, infinities, parts, None and nested messages come back equal, with their hashes."""
    history = SQLChatHistory(engine, chat_id="chat")
    await history.aappend([*ODD, ODD])
    for loaded in (await history.aload_chat_history(), await load(engine)):
        assert loaded == (*ODD, *ODD)
        assert [message.full_hash_key for message in loaded] == [message.full_hash_key for message in (*ODD, *ODD)]


async def test_history_keeps_messages_whose_fields_cannot_be_written(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """A message with a field that is nested too deep is stored without this field, with a warning that names it."""
    message = UserMessage("deepest")
    for number in range(1_000):
        message = UserMessage(f"level {number}", before=message)
    await SQLChatHistory(engine, chat_id="chat").aappend(message)
    assert await load(engine) == (UserMessage("level 999"),)
    assert "'before'" in caplog.text


async def test_history_leaves_out_fields_that_cannot_be_read(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """A row whose field was made invalid is loaded without its fields, and a body that is no JSON is an error."""
    await SQLChatHistory(engine, chat_id="chat").aappend(Mooded("kept", mood=Mood.GOOD))
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE miniagents_message SET body = replace(body, 'good', 'bad')"))
    assert [(type(each), each.content) for each in await load(engine)] == [(Message, "kept")]
    assert "left out: mood" in caplog.text
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE miniagents_message SET body = 'x'"))
    with pytest.raises(HistoryFormatError, match="message 1: the body is no JSON"):
        await load(engine)


class TestSQLite(HistoryConformance):
    """The history in SQLite."""

    def make_history(self, folder: Path) -> ChatHistory:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'chats.db'}", poolclass=NullPool)
        return SQLChatHistory(engine, chat_id="chat")


class TestPostgreSQL(HistoryConformance):
    """The history in PostgreSQL."""

    @pytest.fixture(autouse=True)
    async def _database(self, postgres: str) -> AsyncIterator[None]:
        async with empty_database(postgres) as self.url:
            yield

    def make_history(self, folder: Path) -> ChatHistory:
        return SQLChatHistory(create_async_engine(self.url, poolclass=NullPool), chat_id=str(folder))


def test_postgresql_returns_random_messages(postgres: str, effort: Effort) -> None:
    """A history in PostgreSQL returns random messages equal to those that were appended."""
    with asyncio.Runner() as runner:

        async def check(url: str, sent: list[Message]) -> None:
            engine = create_async_engine(url, poolclass=NullPool)
            async with MiniAgents():
                await SQLChatHistory(engine, chat_id=(chat := secrets.token_hex())).aappend(sent)
            assert await load(engine, chat) == tuple(sent)

        database = empty_database(postgres)
        url = runner.run(database.__aenter__())
        try:
            tried = settings(max_examples=effort(20, ci=200, nightly=5_000))
            tried(given(st.lists(strategies.messages(), max_size=3))(lambda sent: runner.run(check(url, sent))))()
        finally:
            runner.run(database.__aexit__(None, None, None))


# --- chats


async def test_chats_of_one_database_are_independent(engine: AsyncEngine) -> None:
    """A message of one chat is in no other chat, also if a chat id has quotes.

    Messages that are equal in several chats are stored once.
    """
    odd = "č / \n' \"; --"
    for chat_id in ("1", odd):
        await SQLChatHistory(engine, chat_id=chat_id).aappend(["equal", chat_id, "equal"])
    assert await texts(engine, "1") == ["equal", "1", "equal"]
    assert await texts(engine, odd) == ["equal", odd, "equal"]
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM miniagents_message"))).scalar_one() == 3


async def test_append_waits_for_a_connection_that_is_about_to_write(tmp_path: Path) -> None:
    """An SQLite file can be opened while another connection has reserved the next write; the append waits for it."""
    path = tmp_path / "chats.db"
    async with aclosing(SQLChatHistory(f"sqlite:///{path}", chat_id="chat")) as history:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("CREATE TABLE others (id)")
            other.execute("BEGIN IMMEDIATE")
            appending = asyncio.create_task(history.aappend("Hello"))
            await asyncio.sleep(0.1)
            assert not appending.done()
            other.execute("COMMIT")
        await appending
        assert [str(message) for message in await history.aload_chat_history()] == ["Hello"]


async def test_load_reads_only_messages_that_are_new(engine: AsyncEngine) -> None:
    """A second load returns all messages, also of other writers, and fetches only rows that came since the first."""
    history, other = (SQLChatHistory(engine, chat_id="chat") for _ in range(2))
    fetched: list[int] = []
    store = importlib.import_module("miniagents.ext._sql_store")
    real = store.new_entries

    def counting(*place: Any) -> Any:
        fetched.append(len(rows := real(*place)))
        return rows

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "new_entries", counting)
        for number in range(3):
            await (history if number else other).aappend([f"{number}a", f"{number}b"])
            assert len(await history.aload_chat_history()) == 2 * number + 2
        await history.aload_chat_history()
    assert fetched == [2, 2, 2, 0]


async def test_append_writes_complete_messages_in_one_transaction(engine: AsyncEngine) -> None:
    """Complete messages share a transaction: one for those before a streaming message, one for it and those after."""
    history = SQLChatHistory(engine, chat_id="chat")
    await history.aload_chat_history()
    commits: list[int] = []
    event.listen(engine.sync_engine, "commit", lambda _: commits.append(len(history._waiting)))
    await history.aappend([*map(str, range(100)), streamed("a", "b"), "c", "d"])
    assert commits == [100, 3]
    assert await texts(engine) == [*map(str, range(100)), "ab", "c", "d"]


async def test_tasks_that_load_at_once_get_each_message_once(engine: AsyncEngine) -> None:
    """Loads and appends of one history at the same time give each message once, in its order."""
    history = SQLChatHistory(engine, chat_id="chat")
    appends = [history.aappend(str(number)) for number in range(20)]
    loads = [history.aload_chat_history() for _ in range(20)]
    results = await asyncio.gather(*(work for pair in zip(appends, loads, strict=True) for work in pair))
    for loaded in results[1::2]:
        numbers = [str(message) for message in loaded or ()]
        assert numbers == [str(number) for number in range(len(numbers))]
    assert await texts(engine) == [str(number) for number in range(20)]


async def test_H3_ten_writers_append_to_one_chat_in_their_order(database: str) -> None:
    """Of ten writers with engines of their own, each message is there once, in the order of its writer."""

    async def write(name: str) -> None:
        async with aclosing(SQLChatHistory(database, chat_id="chat")) as history:
            for number in range(10):
                await history.aappend([f"{name} {number} first", f"{name} {number} second"])

    names = "abcdefghij"
    await asyncio.gather(*map(write, names))
    async with aclosing(SQLChatHistory(database, chat_id="chat")) as history:
        found = [str(message) for message in await history.aload_chat_history()]
    assert len(found) == 200
    for name in names:
        expected = [f"{name} {number} {part}" for number in range(10) for part in ("first", "second")]
        assert [each for each in found if each[0] == name] == expected


async def test_engine_of_the_application_stays_open(engine: AsyncEngine) -> None:
    """`aclose` of a history on an engine of the application closes no connection of that engine."""
    closed: list[object] = []
    history = SQLChatHistory(engine, chat_id="chat")
    await history.aappend("one")
    event.listen(engine.sync_engine, "close", lambda *connection: closed.append(connection))
    await history.aclose()
    assert not closed
    await history.aappend("two")
    assert await texts(engine) == ["one", "two"]


async def test_history_of_a_url_closes_its_connections(database: str) -> None:
    """`aclose` of a history on a URL closes its connections, and the history can still be used."""
    history = SQLChatHistory(database, chat_id="chat")
    await history.aappend("one")
    closed: list[object] = []
    event.listen(history._engine.sync_engine, "close", lambda *connection: closed.append(connection))
    await history.aclose()
    assert len(closed) == 1
    assert [str(message) for message in await history.aload_chat_history()] == ["one"]
    await history.aclose()


async def test_sqlite_of_a_url_is_set_for_one_writer_and_many_readers(tmp_path: Path) -> None:
    """A database of a URL without a driver has a write-ahead log and needs no flush of the disk for each commit."""
    async with aclosing(SQLChatHistory(f"sqlite:///{tmp_path / 'x.db'}", chat_id="chat")) as history:
        await history.aappend("one")
        async with history._engine.connect() as connection:
            pragmas = [await connection.execute(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")]
            assert [row.scalar_one() for row in pragmas] == ["wal", 1]


async def test_history_in_a_database_in_memory_lives_as_long_as_its_engine() -> None:
    """An engine of a database in memory can hold histories; a second one on the same engine loads the messages."""
    engine = create_async_engine("sqlite+aiosqlite://")
    await SQLChatHistory(engine, chat_id="chat").aappend("one")
    assert await texts(engine) == ["one"]
    await engine.dispose()


@pytest.mark.parametrize("chat_id", ["", "a\0b", "\ud800"], ids=ascii)
def test_history_refuses_a_chat_id_that_a_database_cannot_keep(chat_id: str) -> None:
    """A chat id is refused if it is empty, or has a NUL or a lone surrogate, which some database cannot keep."""
    with pytest.raises(ValueError, match="chat id"):
        SQLChatHistory("sqlite://", chat_id=chat_id)


@pytest.mark.parametrize(
    ("database", "error", "words"),
    [
        ("mysql+aiomysql://host/name", ValueError, "not in 'mysql'"),
        ("no url", ValueError, "no URL"),
        (7, TypeError, "not as 7"),
        (create_engine("sqlite://"), TypeError, "AsyncEngine"),
    ],
    ids=["another database", "no URL", "no database", "an engine without asyncio"],
)
def test_history_refuses_what_is_no_database(database: Any, error: type[Exception], words: str) -> None:
    """Another database, a text that is no URL, or an engine without asyncio is an error at once."""
    with pytest.raises(error, match=words):
        SQLChatHistory(database, chat_id="chat")


def test_history_and_handler_check_their_arguments() -> None:
    """A chat id that is no text, and a URL for `persist_to`, are errors that say what is needed."""
    with pytest.raises(TypeError, match="A chat id is a text, not 7"):
        SQLChatHistory("sqlite://", chat_id=7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="An AsyncEngine of SQLAlchemy is needed"):
        persist_to("sqlite://")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [
        ("sqlalchemy", "sqlite://", "sql"),
        ("aiosqlite", "sqlite://", "sql"),
        ("asyncpg", "postgresql://host/name", "postgres"),
    ],
)
def test_history_names_the_extra_that_is_missing(
    package: str, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without SQLAlchemy or a driver, making a history raises an error with the command that installs the package."""
    monkeypatch.setitem(sys.modules, package, None)
    if package == "sqlalchemy":
        monkeypatch.delitem(sys.modules, "miniagents.ext._sql_store", raising=False)
        monkeypatch.delattr("miniagents.ext._sql_store", raising=False)
    with pytest.raises(MissingExtraError, match=re.escape(f"{package!r} is not installed")) as raised:
        SQLChatHistory(url, chat_id="chat")
    assert install_line(extra) in str(raised.value)


# --- errors and cancellations


async def test_H21_history_keeps_messages_in_memory_when_the_database_is_locked(tmp_path: Path) -> None:
    """An append while another program holds the lock is an error; the next append after it writes all the messages."""
    path = tmp_path / "chats.db"
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0.01})
    history = SQLChatHistory(engine, chat_id="chat")
    await history.aappend("before")
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for words in ("secret one", "two"):
            with pytest.raises(HistoryWriteError, match=r"chats\.db \(\d .*in memory.*database is locked") as raised:
                await history.aappend(words)
            assert "secret" not in "".join(traceback.format_exception(raised.value))
        with pytest.raises(HistoryError, match=r"cannot read chat 'chat' in .*database is locked"):
            await history.aload_chat_history()
        other.rollback()
    assert [str(message) for message in await history.aload_chat_history()] == ["before", "secret one", "two"]
    await history.aappend("three")
    assert await texts(engine) == ["before", "secret one", "two", "three"]
    await engine.dispose()


@pytest.mark.parametrize("reached", [False, True], ids=["before the database", "after the database"])
async def test_H21_history_stores_a_message_once_when_its_commit_fails(
    reached: bool, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message is stored once if the connection is lost in the commit, before or after the commit took effect.

    The append raises `HistoryWriteError`; loads and the next append find out what is stored, and add what is missing.
    """
    history = SQLChatHistory(engine, chat_id="chat")
    await history.aappend("before")
    real = Connection.commit
    failures = 2

    def commit(connection: Connection) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            if reached:
                real(connection)
            raise ConnectionResetError("lost")
        real(connection)

    monkeypatch.setattr(Connection, "commit", commit)
    with pytest.raises(HistoryWriteError, match="lost"):
        await history.aappend(["one", "one"])
    assert [str(message) for message in await history.aload_chat_history()] == ["before", "one", "one"]
    with pytest.raises(HistoryWriteError, match="lost"):
        await history.aappend(["two"])
    await history.aappend("one")
    assert await texts(engine) == ["before", "one", "one", "two", "one"]


async def test_H21_history_opens_new_connections_when_the_server_has_closed_them(postgres: str) -> None:
    """If the server closes all connections between two appends, the second one opens a new connection."""
    async with (
        empty_database(postgres) as url,
        aclosing(SQLChatHistory(url, chat_id="chat")) as history,
        aclosing(SQLChatHistory(url, chat_id="chat")) as other,
    ):
        await history.aappend("one")
        async with other._engine.connect() as connection:
            ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            await connection.execute(text(ending + " AND datname = current_database()"))
        await history.aappend("two")
        assert [str(message) for message in await other.aload_chat_history()] == ["one", "two"]


async def test_history_names_a_server_that_cannot_be_reached() -> None:
    """A server that refuses connections is an error of the history, without the password."""
    pytest.importorskip("asyncpg", reason="`tox -e databases` has it")
    async with aclosing(SQLChatHistory("postgresql://user:secret@127.0.0.1:1/x", chat_id="chat")) as history:
        with pytest.raises(HistoryError, match=r"user:\*\*\*@127\.0\.0\.1:1/x: ") as raised:
            await history.aload_chat_history()
    assert "secret" not in str(raised.value)


async def test_H22_history_stores_a_message_once_when_its_append_is_cancelled_at_any_step(engine: AsyncEngine) -> None:
    """An append that is cancelled still stores its messages exactly once before it ends; the history stays usable."""
    history = SQLChatHistory(engine, chat_id="chat")
    await history.aappend("before")
    expected = ["before"]
    for steps in range(40):
        appending = asyncio.create_task(history.aappend([f"{steps} a", f"{steps} b"]))
        for _ in range(steps):
            await asyncio.sleep(0 if steps % 2 else 0.0001)
        appending.cancel()
        await asyncio.wait([appending])
        expected += [f"{steps} a", f"{steps} b"] if steps else []  # a task that never began stores nothing
        assert [str(message) for message in await history.aload_chat_history()] == expected
    assert await texts(engine) == expected


async def test_H22_history_stores_the_part_that_arrived_when_storing_is_cancelled(engine: AsyncEngine) -> None:
    """If the task that stores is cancelled in a stream, the text so far is stored and marked as interrupted."""
    history = SQLChatHistory(engine, chat_id="chat")
    streaming = streamed("half", until=asyncio.Event())
    appending = asyncio.create_task(history.aappend(["one", streaming, "three"]))
    await anext(aiter(streaming))
    while not await history.aload_chat_history():
        pass
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    streaming.cancel()
    assert await load(engine) == (Message("one"), AssistantMessage("half", interrupted=True), Message("three"))


# --- messages of runs


async def test_persist_to_stores_every_message_of_a_run_by_its_hash(engine: AsyncEngine) -> None:
    """Each message of a run, also one inside another, is stored once, and loaded by both forms of its hash key."""

    @miniagent
    async def answer(ctx: InteractionContext) -> None:
        ctx.reply(AssistantMessage("Hello", inside=UserMessage("inner\0")))

    async with MiniAgents(on_persist_messages=[persist_to(engine)]):
        for _ in range(2):
            [reply] = await answer.trigger(UserMessage("Hi"))
    keys = [reply.hash_key, reply.full_hash_key, reply.inside.hash_key, "0" * 40, "", "x"]
    assert await aload_messages(engine, keys) == {
        reply.hash_key: reply,
        reply.full_hash_key: reply,
        reply.inside.hash_key: UserMessage("inner\0"),
    }
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT count(*), count(DISTINCT hash) FROM miniagents_message"))
        assert len(set(found.one())) == 1


async def test_aload_messages_loads_thousands_of_messages(engine: AsyncEngine) -> None:
    """`aload_messages` loads 2,000 messages by their keys in one call, in the order of the keys."""
    messages = tuple(UserMessage(str(number)) for number in range(2_000))
    await persist_to(engine)(())
    await persist_to(engine)(messages)
    loaded = await aload_messages(engine, (message.hash_key for message in messages))
    assert tuple(loaded.values()) == messages


async def test_handlers_of_two_runs_that_store_the_same_messages_do_not_block_each_other(database: str) -> None:
    """Transactions that insert the same messages in different orders wait for each other, and none fails."""
    messages = [UserMessage(str(number)) for number in range(1_000)]
    engines = [create_async_engine(database) for _ in range(4)]
    for engine in engines:
        await aload_messages(engine, [])
    stores = [persist_to(engine)(tuple(messages[:: 1 - 2 * (n % 2)])) for n, engine in enumerate(engines)]
    await asyncio.gather(*stores)
    assert len(await aload_messages(engines[0], [message.hash_key for message in messages])) == 1_000
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("reads_first", [False, True])
async def test_missing_folders_of_a_sqlite_file_are_made(tmp_path: Path, *, reads_first: bool) -> None:
    """A history and a journal with the URL of a file make its folders; a file in the place of a folder is named."""
    url = f"sqlite+aiosqlite:///{tmp_path}/new/er/chats.db"
    async with aclosing(SQLChatHistory(url, chat_id="chat")) as history:
        if reads_first:
            assert await history.aload_chat_history() == ()
        await history.aappend("Hi")
        assert [str(message) for message in await history.aload_chat_history()] == ["Hi"]

    @miniagent
    async def answer(ctx: InteractionContext) -> None:
        ctx.reply("Ho")

    async with aclosing(Journal(f"sqlite:///{tmp_path}/runs/runs.db", run_id="run")) as journal:
        assert str(await journal.step(answer).trigger("Hi").last) == "Ho"
    assert (tmp_path / "runs" / "runs.db").exists()

    (tmp_path / "file").touch()
    async with aclosing(SQLChatHistory(f"sqlite:///{tmp_path}/file/chats.db", chat_id="chat")) as history:
        with pytest.raises(HistoryWriteError, match=rf"FileExistsError: .*{re.escape(str(tmp_path / 'file'))}"):
            await history.aappend("Hi")


@pytest.mark.parametrize("database", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:{}/chats.db?uri=true"])
async def test_database_without_a_folder_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    """A history in memory makes no file, and one of a SQLite URI makes its file alone."""
    monkeypatch.chdir(tmp_path)
    async with aclosing(SQLChatHistory(database.format(tmp_path), chat_id="chat")) as history:
        await history.aappend("Hi")
        assert [str(message) for message in await history.aload_chat_history()] == ["Hi"]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # noqa: ASYNC240 - no other task waits


async def test_persist_to_and_aload_messages_raise_errors_of_histories(tmp_path: Path) -> None:
    """For a database that cannot be opened, both functions raise a `HistoryError` with the name of the database."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'missing' / 'x.db'}")
    with pytest.raises(HistoryWriteError, match=r"cannot write messages to .*x\.db: .*unable to open"):
        await persist_to(engine)((Message("x"),))
    with pytest.raises(HistoryError, match=r"cannot read messages from .*x\.db: .*unable to open"):
        await aload_messages(engine, [Message("x").hash_key])
    await engine.dispose()
