"""Cost of chat histories: appends and loads in SQLite and Markdown, beside the same by hand and at two sizes."""

from __future__ import annotations

import tempfile
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosqlite

from benchmarks.measure import Plan, Side, Table, main
from miniagents import AssistantMessage, ChatHistory, Message, MiniAgents, UserMessage
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.sql import SQLChatHistory

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT, LONG = 100, 10_000
"""Messages in a chat."""
TABLES = (
    "CREATE TABLE message (hash TEXT PRIMARY KEY, class TEXT, role TEXT, body TEXT)",
    "CREATE TABLE chat (id TEXT PRIMARY KEY, length INTEGER)",
    "CREATE TABLE entry (chat TEXT, position INTEGER, hash TEXT, by TEXT, PRIMARY KEY (chat, position)) WITHOUT ROWID",
)
LENGTHEN = (
    "INSERT INTO chat VALUES ('chat', 1) ON CONFLICT (id) DO UPDATE SET length = chat.length + 1 RETURNING length"
)


def messages(numbers: Iterator[int]) -> Iterator[Message]:
    """Yield messages of some 220 characters, which differ from each other."""
    for number in numbers:
        yield (AssistantMessage if number % 2 else UserMessage)(f"{number} {'word ' * 42}")


async def by_hand(database: aiosqlite.Connection, sent: Iterator[Message]) -> Any:
    """Append a message with the statements that a `SQLChatHistory` uses."""
    message = next(sent)
    cursor = await database.execute(LENGTHEN)
    [(length,)] = await cursor.fetchall()
    values = (message.full_hash_key, message.class_name, message.role, message.model_dump_json())
    await database.execute("INSERT INTO message VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", values)
    await database.execute("INSERT INTO entry VALUES ('chat', ?, ?, 'x')", (length, values[0]))
    await database.commit()


async def one_insert(database: aiosqlite.Connection, sent: Iterator[Message]) -> Any:
    """Append a message with one statement and no order among writers."""
    await database.execute("INSERT INTO log (body) VALUES (?)", (next(sent).model_dump_json(),))
    await database.commit()


def appending(history: ChatHistory, sent: Iterator[Message], number: int) -> Side:
    """Return a side that appends so many messages, one by one."""

    async def side() -> None:
        for _ in range(number):
            await history.aappend(next(sent))

    return side


def turns(history: ChatHistory, sent: Iterator[Message], number: int) -> Side:
    """Return a side that, so many times, appends a message and loads the chat."""

    async def side() -> None:
        for _ in range(number):
            await history.aappend(next(sent))
            await history.aload_chat_history()

    return side


async def benchmark(plan: Plan) -> Table:
    """Measure appends, turns of chats of two sizes, and first loads."""
    table = Table("Histories in SQLite and Markdown")
    sent = messages(count())
    number = plan.sized(200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            MiniAgents(),
            aiosqlite.connect(folder / "hand.db") as database,
            aclosing(SQLChatHistory(f"sqlite:///{folder / 'chats.db'}", chat_id="append")) as history,
        ):
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", *TABLES):
                await database.execute(statement)
            await database.execute("CREATE TABLE log (number INTEGER PRIMARY KEY, body TEXT)")

            async def same() -> None:
                for _ in range(number):
                    await by_hand(database, sent)

            async def bare() -> None:
                for _ in range(number):
                    await one_insert(database, sent)

            for name, base, goal in (
                ("the same statements on aiosqlite", same, None),
                ("one INSERT on aiosqlite", bare, 12),
            ):
                await table.compare(
                    f"append to SQLite, beside {name.split(' on ')[0]}",
                    base,
                    appending(history, sent, number),
                    plan,
                    units=number,
                    unit="us an append",
                    base_name=name,
                    goal=goal,
                )
            await _compare_sizes(table, plan, folder, sent)
    return table


async def _compare_sizes(table: Table, plan: Plan, folder: Path, sent: Iterator[Message]) -> None:
    """Measure a turn of a long chat beside one of a short chat, and first loads of the long chats."""
    url = f"sqlite:///{folder / 'turns.db'}"
    async with (
        aclosing(SQLChatHistory(url, chat_id="short")) as short,
        aclosing(SQLChatHistory(url, chat_id="long")) as long,
    ):
        await _compare_turns(table, plan, sent, "SQLite", short, long, goal=1.3)
    path = folder / "long.md"
    await _compare_turns(
        table, plan, sent, "Markdown (goal: <= 300 us)", ChatHistoryMD(folder / "short.md"), ChatHistoryMD(path)
    )

    async def load_markdown() -> None:
        await ChatHistoryMD(path).aload_chat_history()

    async def load_sqlite() -> None:
        async with aclosing(SQLChatHistory(url, chat_id="long")) as history:
            await history.aload_chat_history()

    await table.compare(
        f"first load from SQLite, {LONG:,} messages",
        load_markdown,
        load_sqlite,
        plan,
        units=plan.sized(LONG),
        unit="us a message",
        base_name="Markdown",
        goal=4,
    )


async def _compare_turns(
    table: Table,
    plan: Plan,
    sent: Iterator[Message],
    kind: str,
    short: ChatHistory,
    long: ChatHistory,
    goal: float | None = None,
) -> None:
    """Fill two chats, and measure a turn of the long one beside a turn of the short one."""
    number = plan.sized(50)
    for history, size in ((short, SHORT), (long, LONG)):
        await history.aappend([next(sent) for _ in range(plan.sized(size))])
        await history.aload_chat_history()
    await table.compare(
        f"append and load at {LONG:,} messages, {kind}",
        turns(short, sent, number),
        turns(long, sent, number),
        plan,
        units=number,
        unit="us a turn",
        base_name=f"at {SHORT}",
        goal=goal,
    )


if __name__ == "__main__":
    main(benchmark)
