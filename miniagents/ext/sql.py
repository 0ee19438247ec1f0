"""Chat histories and messages in SQLite or PostgreSQL, by SQLAlchemy. Extras: `sql`, and `postgres` for its driver.

```python
history = SQLChatHistory("sqlite+aiosqlite:///chats.db", chat_id="42")
MiniAgents(on_persist_messages=[persist_to(engine)])  # every message of a run, by its hash
```

- An append is one transaction: the messages that are new, the length of the chat, and an entry for each message. The
  row of the chat is locked meanwhile, so its positions have no gaps and become visible in their order.
- A message is written when it is complete. When `aappend` has returned, a killed process loses nothing of it.
- Rows of a chat never change, so a load reads those that are new.

The tables are `miniagents_message`, `miniagents_chat`, `miniagents_entry` and `miniagents_schema`; they are made, and
brought to a newer version, at the first use of a database.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from miniagents.chat_history import StoringHistory
from miniagents.errors import HistoryError, HistoryFormatError, HistoryWriteError, MissingExtraError
from miniagents.ext._storing import restore, storable
from miniagents.ext._terminal import visible_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from miniagents.ext._sql_store import Row, Written
    from miniagents.messages import Message

__all__ = ["SQLChatHistory", "aload_messages", "persist_to"]

T = TypeVar("T")

_EXTRAS = {"aiosqlite": "sql", "asyncpg": "postgres"}
"""Extras of drivers."""

_prepared: WeakSet[Engine] = WeakSet()
"""Engines of databases whose tables are there in the present version."""


class SQLChatHistory(StoringHistory):
    """Chat history in SQLite or PostgreSQL, to which several objects and processes may append at the same time.

    Args:
        database: URL, such as "sqlite+aiosqlite:///chats.db" or "postgresql+asyncpg://user@host/name", or an
            `AsyncEngine` of the application, which the history never closes.
        chat_id: id of the chat; one database holds any number of chats.

    Raises:
        MissingExtraError: SQLAlchemy or the driver of the database is not installed.
        ValueError: the chat id is empty or holds characters that a database cannot keep, or the URL is of another
            database than SQLite and PostgreSQL.
        TypeError: an argument is of another type.
    """

    def __init__(self, database: str | URL | AsyncEngine, *, chat_id: str) -> None:
        super().__init__()
        if not isinstance(chat_id, str):
            raise TypeError(f"A chat id is a text, not {chat_id!r:.100}")
        if not chat_id or "\0" in chat_id or not _is_utf8(chat_id):
            raise ValueError(f"A chat id is a text without NUL and half characters, and not empty: {chat_id!r:.100}")
        self.chat_id = chat_id
        self._engine, self._is_own = _open_engine(database)
        self._name = f"chat {visible_line(chat_id)!r} in {self._engine.url.render_as_string(hide_password=True)}"
        self._loaded: list[Message] = []
        self._last = 0
        """Position of the last message in `_loaded`."""
        self._uncertain: Written | None = None
        """The first waiting messages, if only the commit of their transaction failed: they may be stored."""
        self._lock = asyncio.Lock()

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Return all messages in their order; read only those that are new since the last load.

        Messages not written yet come last.

        Raises:
            HistoryFormatError: a newer version of miniagents has made the tables.
            HistoryError: the database cannot be read.
        """
        async with self._lock:  # a message that is being written is not read twice
            try:
                rows = await _atransact(self._engine, self._read_new)
            except Exception as error:
                raise _error_of(error, f"cannot read {self._name}", HistoryError) from _cause_of(error)
            for position, body in rows:
                self._loaded.append(_message_of(body, f"{self._name}, message {position}"))
                self._last = position
            return (*self._loaded, *self._waiting)

    def _read_new(self, connection: Connection) -> list[tuple[int, str]]:
        """Read positions and bodies of the messages behind those that are loaded."""
        self._settle(connection)
        return list(_store().new_entries(connection, self.chat_id, self._last))

    async def _awrite_waiting(self) -> None:
        """Write the waiting messages in one transaction, which goes on if this task is cancelled.

        Raises:
            HistoryWriteError: the database cannot be written. The messages are kept, and written with the next append.
            HistoryFormatError: a newer version of miniagents has made the tables.
        """
        # A transaction that is cut in the middle would leave a connection that cannot be used again.
        error = await asyncio.shield(asyncio.create_task(self._awrite(), name=f"write {self._name}"))
        if error is not None:
            raise error

    async def _awrite(self) -> HistoryError | None:
        """Write the waiting messages, after those that another task is writing; return the error, None without one.

        After an error the messages go on waiting.
        """
        async with self._lock:
            try:
                if self._waiting:
                    await _atransact(self._engine, self._write)
            except Exception as error:
                place = (
                    f"cannot write {self._name} ({len(self._waiting)} message(s) are in memory, for the next append)"
                )
                problem = _error_of(error, place, HistoryWriteError)
                problem.__cause__ = _cause_of(error)
                return problem
        return None

    def _write(self, connection: Connection) -> None:
        """Write the waiting messages that were not stored by an earlier commit, and commit."""
        self._settle(connection)
        rows = [_row_of(message) for message in self._waiting]
        if rows:
            self._uncertain = _store().append(connection, self.chat_id, rows, secrets.token_hex(16))
            connection.commit()
            self._uncertain = None
            del self._waiting[: len(rows)]

    def _settle(self, connection: Connection) -> None:
        """Find out if messages whose commit has failed are stored, as a lost connection does not say.

        Stored messages no longer wait.
        """
        if self._uncertain is not None:
            if _store().was_committed(connection, self.chat_id, self._uncertain):
                del self._waiting[: self._uncertain.count]
            self._uncertain = None
            connection.rollback()

    async def aclose(self) -> None:
        """Close the connections of an engine that was made of a URL, after the writes that are running.

        An engine of the application stays open. The history can be used again, which opens new connections.
        """
        async with self._lock:
            if self._is_own:
                await self._engine.dispose()


def _open_engine(database: str | URL | AsyncEngine) -> tuple[AsyncEngine, bool]:
    """Return what `_sql_store.open_engine` returns.

    Raise its errors, and `MissingExtraError` for a driver of an extra.
    """
    try:
        opened: tuple[AsyncEngine, bool] = _store().open_engine(database)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise  # the driver of a URL that names another one
        raise MissingExtraError.of(error.name, _EXTRAS[error.name]) from error
    return opened


def persist_to(engine: AsyncEngine) -> Callable[[tuple[Message, ...]], Awaitable[None]]:
    """Return a handler for `MiniAgents(on_persist_messages=)` that stores every message of a run once, by its hash.

    `aload_messages` reads them. They are in the same table as the messages of chats.

    Args:
        engine: `AsyncEngine` of the application, which closes it.

    Raises:
        MissingExtraError: SQLAlchemy is not installed.
        TypeError: `engine` is of another type.
        ValueError: it is an engine of another database than SQLite or PostgreSQL.
    """
    name = _name_of(engine)

    async def store(messages: tuple[Message, ...]) -> None:
        """Store messages that are not there yet; raise `HistoryWriteError` if they cannot be written."""

        def write(connection: Connection) -> None:
            """Insert the messages in one transaction."""
            _store().add_messages(connection, map(_row_of, messages))
            connection.commit()

        try:
            await _atransact(engine, write)
        except Exception as error:
            raise _error_of(error, f"cannot write messages to {name}", HistoryWriteError) from _cause_of(error)

    return store


async def aload_messages(engine: AsyncEngine, hash_keys: Iterable[str]) -> dict[str, Message]:
    """Return the stored messages with these hash keys, by their keys; keys of no stored message are left out.

    Args:
        engine: `AsyncEngine` of the application.
        hash_keys: values of `hash_key` or `full_hash_key`.

    Raises:
        HistoryFormatError: a newer version of miniagents has made the tables.
        HistoryError: the database cannot be read.
    """
    name, keys = _name_of(engine), list(dict.fromkeys(hash_keys))
    try:
        bodies = await _atransact(engine, lambda connection: _store().bodies(connection, keys))
    except Exception as error:
        raise _error_of(error, f"cannot read messages from {name}", HistoryError) from _cause_of(error)
    return {key: _message_of(bodies[key], f"message {key} in {name}") for key in keys if key in bodies}


def _store() -> Any:
    """Return the module with the tables; raise `MissingExtraError` if SQLAlchemy is not installed."""
    try:
        from miniagents.ext import _sql_store
    except ImportError as error:
        raise MissingExtraError.of("sqlalchemy", "sql") from error
    return _sql_store


def _name_of(engine: AsyncEngine) -> str:
    """Return the URL of an engine of the application, for texts of errors; raise the errors of `persist_to`."""
    if isinstance(engine, str):  # type: ignore[unreachable]  # for a caller without types
        raise TypeError("An AsyncEngine of SQLAlchemy is needed here, not a URL: the application closes it")
    opened, _ = _open_engine(engine)
    return str(opened.url.render_as_string(hide_password=True))


async def _atransact(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    """Run `work` in a transaction that it commits itself, and return its result; without a commit, nothing stays.

    The first use of an engine makes the tables, or brings them to the present version.
    """
    async with engine.connect() as connection:
        if engine.sync_engine not in _prepared:
            await connection.run_sync(_store().prepare)
            _prepared.add(engine.sync_engine)
        return await connection.run_sync(work)


def _error_of(error: Exception, place: str, kind: type[HistoryError]) -> HistoryError:
    """Return the error to raise for an error of a database, without statements and values.

    A `HistoryError` keeps its class.
    """
    cause = _cause_of(error)
    if isinstance(cause, HistoryError):
        return type(cause)(f"{place}: {cause}")
    return kind(f"{place}: {type(cause).__name__}: {cause}")


def _cause_of(error: Exception) -> BaseException:
    """Return the error of the driver, whose text and traceback show no texts of messages."""
    cause: BaseException = _store().error_of_driver(error)
    return cause


def _row_of(message: Message) -> Row:
    """Convert a message into a row; a field that cannot be written is left out, with a warning."""
    try:
        body = message.model_dump_json()
    except (ValueError, RecursionError):  # a serializer of the application fails, or messages are nested too deep
        fields = storable(message)
        body, message = json.dumps(fields), restore(fields)
    role = None if message.role is None else visible_line(message.role)  # for people: databases refuse NUL
    row: Row = _store().Row(message.full_hash_key, message.class_name, role, body)
    return row


def _message_of(body: str, place: str) -> Message:
    """Convert the body of a row into its message; fields that cannot be read are left out, with a warning.

    Raises:
        HistoryFormatError: the body is no JSON.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HistoryFormatError(f"{place}: the body is no JSON: {error}") from error
    return restore(fields)


def _is_utf8(text: str) -> bool:
    """Return True if the text has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
