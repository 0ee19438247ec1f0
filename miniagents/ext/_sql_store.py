"""Tables and statements of `miniagents.ext.sql`, for SQLite and PostgreSQL; imported at the first use of a database.

The functions with a connection run in `AsyncConnection.run_sync`, in a transaction that their caller ends.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    cast,
    event,
    extract,
    func,
    insert,
    inspect,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from miniagents.errors import HistoryFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import Connection

BUSY_TIMEOUT = 10.0
"""Seconds that SQLite waits for the lock of another writer before it gives up, for an engine that is made here."""
_MIGRATION_LOCK = 7_163_046_912_557_013_121
"""Key of the lock that PostgreSQL gives to one migration at a time; any number that other programs do not use."""

_TABLES = MetaData()
MESSAGE = Table(
    "miniagents_message",
    _TABLES,
    Column("hash", String(64), primary_key=True),
    Column("class", Text, nullable=False),
    Column("role", Text),
    Column("body", Text, nullable=False),
)
CHAT = Table(
    "miniagents_chat",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("length", Integer, nullable=False),
)
ENTRY = Table(
    "miniagents_entry",
    _TABLES,
    Column("chat", Text, ForeignKey(CHAT.c.id), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(64), ForeignKey(MESSAGE.c.hash), nullable=False),
    Column("written_by", String(32), nullable=False),
    sqlite_with_rowid=False,
)
"""`position` counts from 1; `written_by` is a random text, one for each transaction."""
RUN = Table(
    "miniagents_run",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("renewed", Float, nullable=False),
)
"""`holder` is a random text, one for each journal; `renewed` is in seconds of the database's clock."""
STEP = Table(
    "miniagents_step",
    _TABLES,
    Column("run", Text, ForeignKey(RUN.c.id), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("replies", Text, nullable=False),
)
"""`replies` is a JSON list of hashes of messages."""
SCHEMA = Table("miniagents_schema", _TABLES, Column("version", Integer, primary_key=True, autoincrement=False))


def _create_tables(connection: Connection) -> None:
    """Create the tables of version 1 in an empty database: messages, chats with their entries, and the version."""
    _TABLES.create_all(connection, tables=[MESSAGE, CHAT, ENTRY, SCHEMA])
    connection.execute(insert(SCHEMA).values(version=1))


def _create_tables_of_runs(connection: Connection) -> None:
    """Create the tables that version 2 adds to a database of version 1: runs and their steps."""
    _TABLES.create_all(connection, tables=[RUN, STEP])


MIGRATIONS: list[Callable[[Connection], None]] = [_create_tables, _create_tables_of_runs]
"""Functions that bring the schema from the version that is their index to the next one."""


@dataclass(frozen=True)
class Row:
    """Message as a row of the table of messages."""

    hash: str
    class_name: str
    role: str | None
    body: str


@dataclass(frozen=True)
class Written:
    """Messages that one transaction has appended to a chat."""

    last: int
    """Position of the last one in the chat."""
    count: int
    """Number of the messages."""
    written_by: str
    """Random text of the transaction."""


# --- engines


def open_engine(database: str | URL | AsyncEngine) -> tuple[AsyncEngine, bool]:
    """Return an engine, and True if it was made here: of a URL, whose driver may be left out.

    Raises:
        TypeError: `database` is neither a URL nor an `AsyncEngine`.
        ValueError: it is a URL of another database than SQLite and PostgreSQL, or no URL.
        ImportError: the driver is not installed.
    """
    if isinstance(database, AsyncEngine):
        check_dialect(database.dialect.name)
        return database, False
    if not isinstance(database, (str, URL)):
        raise TypeError(f"A database is given as a URL or as an AsyncEngine of SQLAlchemy, not as {database!r:.100}")
    try:
        url = make_url(database)
    except Exception as error:
        raise ValueError("The text is no URL of a database, such as 'sqlite+aiosqlite:///chats.db'") from error
    name = url.get_backend_name()
    check_dialect(name)
    if name == "sqlite":
        if url.drivername == "sqlite":
            url = url.set(drivername="sqlite+aiosqlite")
        # each use ends its transaction, so the pool need not do that again
        settings: Any = {"connect_args": {"timeout": BUSY_TIMEOUT}, "pool_reset_on_return": None}
        engine = create_async_engine(url, hide_parameters=True, **settings)
        event.listen(engine.sync_engine, "do_connect", _make_folder)
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    else:
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+asyncpg")
        engine = create_async_engine(url, hide_parameters=True, pool_pre_ping=True)
    return engine, True


def check_dialect(name: str) -> None:
    """Raise `ValueError` if the database is neither SQLite nor PostgreSQL."""
    if name not in ("sqlite", "postgresql"):
        raise ValueError(f"Histories can be kept in SQLite and PostgreSQL, not in {name!r}")


def _make_folder(_dialect: object, _record: object, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Make the missing folders of a SQLite file before it is opened, as `ChatHistoryMD` does for its file.

    A database in memory has no folder, and nor has a URI, which has options of its own.

    Args:
        arguments: of the driver; the first one is the path of the file.
        options: of the driver; `uri` says that the first argument is a URI.

    Raises:
        OSError: a folder cannot be made; the error names it.
    """
    path = arguments[0]
    if path != ":memory:" and not options.get("uri"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)


def _set_up_sqlite(connection: Any, _record: object) -> None:
    """Set a new connection to SQLite to WAL mode, so that one writer and readers work at the same time.

    A commit survives the process, and needs no `fsync`. The file keeps the mode. SQLite does not wait while another
    connection sets it, so that this one need not do it.
    """
    cursor = connection.cursor()
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


# --- the schema


def prepare(connection: Connection) -> None:
    """Create the tables, or bring older ones to the present version, under a lock for all processes, and commit.

    Raises:
        HistoryFormatError: a newer version of this library has made the tables.
    """
    if not _is_current(_version(connection)):
        _lock_schema(connection)
        version = _version(connection)  # another process may have changed it before this one had the lock
        if not _is_current(version):
            for migrate in MIGRATIONS[version:]:
                migrate(connection)
            connection.execute(update(SCHEMA).values(version=len(MIGRATIONS)))
    connection.commit()


def _version(connection: Connection) -> int:
    """Return the version of the tables; 0 if there are none."""
    if not inspect(connection).has_table(SCHEMA.name):
        return 0
    version: int = connection.execute(select(SCHEMA.c.version)).scalar_one()
    return version


def _is_current(version: int) -> bool:
    """Return True if this is the current version of the tables; raise `HistoryFormatError` if it is a newer one."""
    if version > len(MIGRATIONS):
        raise HistoryFormatError(
            f"the tables have version {version}, and this version of miniagents knows {len(MIGRATIONS)}: "
            f"install a newer miniagents, or use another database"
        )
    return version == len(MIGRATIONS)


def _lock_schema(connection: Connection) -> None:
    """Lock the schema until this transaction ends: other processes wait for that before they read the version."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    elif not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]  # sqlite3 always has one
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's sqlite3 begins no transaction for CREATE


# --- messages and chats


@cache
def _add_messages(dialect: str) -> Any:
    """Return the statement that inserts messages which are not there yet."""
    return _insert(dialect)(MESSAGE).on_conflict_do_nothing()


@cache
def _lengthen_chat(dialect: str) -> Any:
    """Return the statement that adds a count to the length of a chat, which may be new, and returns its new length.

    It locks the row of the chat: other writers wait, so the positions have no gaps and become visible in their order.
    """
    adding = _insert(dialect)(CHAT).values(id=bindparam("chat"), length=bindparam("count"))
    lengthened = {"length": CHAT.c.length + adding.excluded.length}
    return adding.on_conflict_do_update(index_elements=[CHAT.c.id], set_=lengthened).returning(CHAT.c.length)


def _insert(dialect: str) -> Any:
    """Return the function of a dialect that makes an INSERT statement."""
    return sqlite.insert if dialect == "sqlite" else postgresql.insert


_ADD_ENTRIES = insert(ENTRY)
_NEW_ENTRIES = (
    select(ENTRY.c.position, MESSAGE.c.body)
    .join(MESSAGE, MESSAGE.c.hash == ENTRY.c.hash)
    .where(ENTRY.c.chat == bindparam("chat"), ENTRY.c.position > bindparam("last"))
    .order_by(ENTRY.c.position)
)
_WRITTEN_BY = select(ENTRY.c.written_by).where(
    ENTRY.c.chat == bindparam("chat"), ENTRY.c.position == bindparam("position")
)
_KEY_LENGTHS = (40, 64)
"""Lengths of `hash_key` and `full_hash_key`."""
_MOST_KEYS = 400
"""Number of keys in one statement: SQLite takes 999 values at least."""


def add_messages(connection: Connection, rows: Iterable[Row]) -> None:
    """Insert messages that are not there yet."""
    # in one order in all transactions, as two that insert the same messages wait for each other
    values = [
        {"hash": row.hash, "class": row.class_name, "role": row.role, "body": row.body}
        for row in sorted({row.hash: row for row in rows}.values(), key=lambda row: row.hash)
    ]
    if values:
        connection.execute(_add_messages(connection.dialect.name), values)


def append(connection: Connection, chat: str, rows: Sequence[Row], written_by: str) -> Written:
    """Append messages to a chat, which may be new, and return their positions as a `Written`; the caller commits.

    `written_by` is an id of this append: if the commit seems to fail, it shows that the messages are there.
    """
    dialect = connection.dialect.name
    last: int = connection.execute(_lengthen_chat(dialect), {"chat": chat, "count": len(rows)}).scalar_one()
    add_messages(connection, rows)
    first = last - len(rows) + 1
    entries = [
        {"chat": chat, "position": position, "hash": row.hash, "written_by": written_by}
        for position, row in enumerate(rows, first)
    ]
    connection.execute(_ADD_ENTRIES, entries)
    return Written(last, len(rows), written_by)


def was_committed(connection: Connection, chat: str, written: Written) -> bool:
    """Return True if messages are in the chat although their commit has failed; wait for the end of that transaction.

    The row of the chat is locked then; the caller rolls back.
    """
    connection.execute(_lengthen_chat(connection.dialect.name), {"chat": chat, "count": 0})
    found = connection.execute(_WRITTEN_BY, {"chat": chat, "position": written.last}).scalar_one_or_none()
    return found == written.written_by


def new_entries(connection: Connection, chat: str, last: int) -> Sequence[tuple[int, str]]:
    """Return positions and bodies of the messages of a chat after the position `last`."""
    return [tuple(row) for row in connection.execute(_NEW_ENTRIES, {"chat": chat, "last": last})]


def bodies(connection: Connection, keys: Sequence[str]) -> dict[str, str]:
    """Return the bodies of messages, JSON texts, by their keys: values of `hash_key` or `full_hash_key`.

    Unknown keys, and those of another length, are left out.
    """
    known = [key for key in keys if len(key) in _KEY_LENGTHS]
    found: dict[str, str] = {}
    for start in range(0, len(known), _MOST_KEYS):
        # "g" comes behind all hex digits
        wanted = or_(*(MESSAGE.c.hash.between(key, f"{key}g") for key in known[start : start + _MOST_KEYS]))
        for key, body in connection.execute(select(MESSAGE.c.hash, MESSAGE.c.body).where(wanted)):
            found.update({key[:length]: body for length in _KEY_LENGTHS})
    return {key: found[key] for key in known if key in found}


# --- runs and their steps


@cache
def _claim_run(dialect: str) -> Any:
    """Return the statement that gives a run to a holder, unless another holder has renewed its claim within the lease.

    It returns a row if the run belongs to the holder then, and locks that row for the rest of the transaction.
    """
    if dialect == "sqlite":
        now: Any = (func.julianday("now") - 2440587.5) * 86400.0  # the Julian day of 1970-01-01
    else:
        now = cast(extract("epoch", func.clock_timestamp()), Float)
    adding = _insert(dialect)(RUN).values(id=bindparam("run"), holder=bindparam("holder"), renewed=now)
    is_free = or_(RUN.c.holder == adding.excluded.holder, RUN.c.renewed < now - bindparam("lease"))
    changed = {"holder": adding.excluded.holder, "renewed": adding.excluded.renewed}
    return adding.on_conflict_do_update(index_elements=[RUN.c.id], set_=changed, where=is_free).returning(RUN.c.id)


_RELEASE_RUN = (
    update(RUN).where(RUN.c.id == bindparam("run"), RUN.c.holder == bindparam("holder_")).values(holder="", renewed=0.0)
)
_REPLIES = select(STEP.c.replies).where(STEP.c.run == bindparam("run"), STEP.c.key == bindparam("key"))


def claim_run(connection: Connection, run: str, holder: str, lease: float) -> bool:
    """Give the run to the holder; return False if another holder has renewed its claim in the last `lease` seconds."""
    values = {"run": run, "holder": holder, "lease": lease}
    return connection.execute(_claim_run(connection.dialect.name), values).first() is not None


def release_run(connection: Connection, run: str, holder: str) -> None:
    """End the claim of a holder on a run, so that the next holder gets the run at once.

    Do nothing if the run has another holder.
    """
    connection.execute(_RELEASE_RUN, {"run": run, "holder_": holder})


def step_replies(connection: Connection, run: str, key: str) -> list[str] | None:
    """Return the bodies of the messages that the step `key` of a run has replied; None if the step has not finished."""
    replies = connection.execute(_REPLIES, {"run": run, "key": key}).scalar_one_or_none()
    if replies is None:
        return None
    hashes = json.loads(replies)
    found = bodies(connection, hashes)
    return [found[each] for each in hashes]


def add_step(connection: Connection, run: str, key: str, rows: Sequence[Row]) -> None:
    """Insert the finished step `key` of a run, and the rows of the messages that it has replied."""
    add_messages(connection, rows)
    replies = json.dumps([row.hash for row in rows])
    connection.execute(insert(STEP).values(run=run, key=key, replies=replies))


def error_of_driver(error: Exception) -> BaseException:
    """Return the driver's error inside an error of SQLAlchemy, which would show statements with the texts of messages.

    Return any other error unchanged.
    """
    return error.orig or error if isinstance(error, StatementError) else error
