"""Chats, messages and finished calls in SQLite or PostgreSQL. Extras: `sql`, and `postgres` for its driver.

```python
history = SQLChatHistory("sqlite+aiosqlite:///chats.db", chat_id="42")
MiniAgents(on_persist_messages=[persist_to(engine)])  # every message of a run, by its hash
journal = Journal("sqlite+aiosqlite:///runs.db", run_id="report-42")
researcher = journal.step(researcher)  # its finished calls are not made again
```

- An append is one transaction: the messages that are new, the length of the chat, and an entry for each message. The
  row of the chat is locked meanwhile, so its positions have no gaps and become visible in their order.
- A message is written when it is complete. When `aappend` has returned, a killed process loses nothing of it.
- Rows of a chat never change, so a load reads those that are new.
- A run belongs to one journal at a time, which renews its claim. A step is stored only while the claim holds.

The tables are `miniagents_message`, `miniagents_chat`, `miniagents_entry`, `miniagents_run`, `miniagents_step` and
`miniagents_schema`; they are made, and brought to a newer version, at the first use of a database.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet, finalize

from typing_extensions import ParamSpec

from miniagents._agents.agent import MiniAgent
from miniagents._promising.naming import is_utf8
from miniagents.chat_history import StoringHistory
from miniagents.errors import HistoryError, HistoryFormatError, HistoryWriteError, MissingExtraError
from miniagents.ext._storing import restore, storable
from miniagents.ext._terminal import visible_line
from miniagents.messages import ErrorMessage, Message
from miniagents.values import canonical_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from miniagents._agents.interaction import InteractionContext
    from miniagents.ext._sql_store import Row, Written

__all__ = ["Journal", "SQLChatHistory", "aload_messages", "persist_to"]

logger: logging.Logger = logging.getLogger("miniagents")

T = TypeVar("T")
P = ParamSpec("P")
M = TypeVar("M", bound=Message)

_EXTRAS = {"aiosqlite": "sql", "asyncpg": "postgres"}
"""Extras of drivers."""

LEASE = 10.0
"""Seconds after which a run whose holder has not renewed its claim may be taken over, by the clock of the database."""
RENEWAL = 3.0
"""Seconds between two renewals of the claim on a run."""
RETRY = 1.0
"""Seconds between two attempts to claim a run that has another holder."""

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
        _check_id("chat", chat_id)
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
        # A transaction that is interrupted would leave a connection that cannot be used again.
        error = await asyncio.shield(asyncio.create_task(self._awrite(), name=f"write {self._name}"))
        if error is not None:
            raise error

    async def _awrite(self) -> HistoryError | None:
        """Write the waiting messages, after those that another task is writing; return the error, or None.

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
    """Return an engine of SQLAlchemy for a database, and True if it was made here of a URL.

    Raise the errors of `_sql_store.open_engine`, and `MissingExtraError` for a driver of an extra.
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
        try:
            await _awrite_to(engine, lambda each: _store().add_messages(each, map(_row_of, messages)))
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


class Journal:
    """Journal of one run: calls of agents that have finished are not made again when the run is started again.

    A finished call is replied from the database, with equal messages in their order. Calls that have failed, were
    cancelled or interrupted are made again from their start, so effects of such a call may happen twice. A call is
    recognised by the alias and the version of its agent, its messages, its keyword arguments, and its number among
    equal calls of this run. Changed code is not noticed: give another version.

    Args:
        database: URL or `AsyncEngine`, as for `SQLChatHistory`; not a database in memory.
        run_id: id of the run, the same one when the run is started again.

    Raises:
        MissingExtraError: SQLAlchemy or the driver of the database is not installed.
        ValueError: the id is empty or holds characters that a database cannot keep, or the database is in memory, or
            neither SQLite nor PostgreSQL.
        TypeError: an argument is of another type.
    """

    def __init__(self, database: str | URL | AsyncEngine, *, run_id: str) -> None:
        _check_id("run", run_id)
        self.run_id = run_id
        self._engine, self._is_own = _open_engine(database)
        if self._engine.url.get_backend_name() == "sqlite" and self._engine.url.database in (None, "", ":memory:"):
            raise ValueError("A run cannot be started again from a database in memory: give the path of a file")
        self._name = f"run {visible_line(run_id)!r} in {self._engine.url.render_as_string(hide_password=True)}"
        self._holder = secrets.token_hex(16)
        self._numbers: Counter[str] = Counter()
        """Numbers of calls by their keys."""
        self._renewal: threading.Thread | None = None
        self._stopped = threading.Event()
        self._lock = asyncio.Lock()
        finalize(self, self._stopped.set)

    def step(self, agent: MiniAgent[P, M], *, version: str = "1") -> MiniAgent[P, M]:
        """Return an agent that calls `agent` once for each call, and replies what it has replied in earlier runs.

        Its keyword arguments must be values that a message can hold, else `trigger` raises `TypeError`: give clients
        and callbacks to `agent` by `fork`, where they are no part of the key.

        The first call waits up to `LEASE` seconds for another holder of the run. The replies of a call end with an
        error of the journal if there is one: `HistoryError` if another process holds the run, or the database cannot be
        read; `HistoryWriteError` if the replies could not be stored.

        Args:
            agent: the agent to call, of any kind.
            version: any text; another one makes all calls again.
        """
        step: MiniAgent[Any, Any] = _Step(agent, version, self)
        return step

    async def find(self, call: str) -> tuple[str, list[Message] | None]:
        """Return the key of a call, and the messages that it replied if it finished earlier, else None.

        Claim the run at the first call. Equal calls are numbered, so each has a key of its own.

        Raises:
            HistoryError: another process holds the run, or the database cannot be read.
        """
        number = self._numbers[call]
        self._numbers[call] += 1
        key = hashlib.sha256(f"{number} {call}".encode()).hexdigest()
        async with self._lock:
            try:
                if self._renewal is None:
                    await self._hold()
                bodies = await _atransact(self._engine, lambda each: _store().step_replies(each, self.run_id, key))
            except Exception as error:
                raise _error_of(error, f"cannot read {self._name}", HistoryError) from _cause_of(error)
        return key, bodies and [_message_of(body, f"{self._name}, step {key}") for body in bodies]

    async def store(self, key: str, replies: Iterable[Message]) -> None:
        """Store what a finished call has replied, under the key that `find` has returned for the call.

        Raises:
            HistoryError: the run has another holder now, or the journal was closed, so that it may get one.
            HistoryWriteError: the database cannot be written.
        """

        def write(connection: Connection) -> None:
            """Insert the step while the row of the run is locked."""
            _claim(connection, self.run_id, self._holder)
            _store().add_step(connection, self.run_id, key, [_row_of(message) for message in replies])

        async def store_held() -> None:
            """Write the step; raise `HistoryError` if the journal was closed, and no longer holds the run."""
            async with self._lock:
                if self._renewal is None:
                    raise HistoryError("the journal was closed while the call ran: close it after the run")
                await _awrite_to(self._engine, write)

        try:
            await asyncio.shield(store_held())  # an interrupted transaction leaves a connection that cannot be used
        except Exception as error:
            place = f"cannot write a step of {self._name}"
            raise _error_of(error, place, HistoryWriteError) from _cause_of(error)

    async def _hold(self) -> None:
        """Claim the run, and start the thread that renews the claim.

        While another holder has it, try again for `LEASE` seconds at least; then raise `HistoryError`.
        """
        attempts = 2 + int(LEASE / RETRY)
        while True:
            try:
                await _awrite_to(self._engine, lambda each: _claim(each, self.run_id, self._holder))
                break
            except HistoryError:
                attempts -= 1
                if not attempts:
                    raise
                await asyncio.sleep(RETRY)
        self._stopped.clear()
        arguments = (self._engine, self.run_id, self._holder, self._name, self._stopped)
        self._renewal = threading.Thread(target=_renew, args=arguments, name=f"renew {self._name}", daemon=True)
        self._renewal.start()

    async def aclose(self) -> None:
        """Give the run back, so that another process can hold it at once; close an engine that was made of a URL.

        If the database cannot be written, a warning is logged, and the next holder has to wait. Calls that are still
        running are not stored any more.
        """
        async with self._lock:
            try:
                if self._renewal is not None:
                    self._stopped.set()
                    await asyncio.to_thread(self._renewal.join)
                    self._renewal = None
                    await _awrite_to(self._engine, lambda each: _store().release_run(each, self.run_id, self._holder))
            except Exception as error:  # the run is free in any case when its claim has not been renewed for a while
                logger.warning("Could not give %s back: %s", self._name, _cause_of(error))
            finally:
                if self._is_own:
                    await self._engine.dispose()


class _Step(MiniAgent[..., Any]):
    """Agent that replies from a journal what another agent has replied in an earlier run."""

    _stands_for: MiniAgent[..., Any]

    def __init__(self, agent: MiniAgent[..., Any], version: str, journal: Journal) -> None:
        super().__init__(self._reply_once, alias=agent.alias, description=agent.description)
        self._stands_for, self._version, self._journal = agent, version, journal

    def check_arguments(self, kwargs: dict[str, Any]) -> None:
        """Raise `TypeError` if the agent cannot be called with these arguments, or if one of them cannot be a key."""
        self._stands_for.check_arguments({**self._stands_for.kwargs, **kwargs})
        for name, value in kwargs.items():
            try:
                canonical_text(value)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"Agent {self.alias} is a step of a journal, and its argument {name!r} cannot be a part of a key "
                    f"({error}): give it to the agent below the step, by `fork`"
                ) from error

    async def _reply_once(self, ctx: InteractionContext, **kwargs: Any) -> None:
        """Reply what the journal has of this call; if it has nothing, call the agent, and store complete replies."""
        messages = await ctx.message_promises
        hashes = [message.full_hash_key for message in messages]
        key, stored = await self._journal.find(canonical_text([self.alias, self._version, hashes, kwargs]))
        if stored is not None:
            ctx.reply(stored)
            return
        replies = self._stands_for.trigger(messages, errors_as_messages=ctx.errors_as_messages, **kwargs)
        ctx.reply(replies)
        try:
            complete = await replies
        except asyncio.CancelledError:
            replies.cancel()
            raise
        except Exception:  # it is among the replies
            return
        if not any(getattr(reply, "interrupted", False) or isinstance(reply, ErrorMessage) for reply in complete):
            await self._journal.store(key, complete)


def _claim(connection: Connection, run: str, holder: str) -> None:
    """Claim a run for a holder, or renew the claim, and lock its row.

    Raises:
        HistoryError: another holder has claimed the run, or renewed its claim, in the last `LEASE` seconds.
    """
    if not _store().claim_run(connection, run, holder, LEASE):
        raise HistoryError("another process holds this run: wait until it has ended, or use another run id")


def _renew(engine: AsyncEngine, run: str, holder: str, name: str, stopped: threading.Event) -> None:
    """Renew the claim of a holder on a run at intervals until `stopped` is set; end with a logged error if it is lost.

    The log names the run by `name`. This runs in a thread, as code of the application may block its loop.
    """

    async def renew() -> None:
        """Renew the claim once, over a connection of this thread's loop."""
        from sqlalchemy.ext.asyncio import create_async_engine

        own = create_async_engine(engine.url, pool=engine.sync_engine.pool.recreate(), hide_parameters=True)
        try:
            async with own.begin() as connection:
                await connection.run_sync(_claim, run, holder)
        finally:
            await own.dispose()

    while not stopped.wait(RENEWAL):
        try:
            asyncio.run(renew())
        except HistoryError as error:  # further steps cannot be stored
            logger.error("Lost the claim on %s: %s", name, error)  # noqa: TRY400 - the traceback has nothing more
            return
        except Exception as error:
            logger.warning("Could not renew the claim on %s: %s", name, _cause_of(error))


def _check_id(kind: str, text: str) -> None:
    """Raise `TypeError` for an id that is no text, and `ValueError` for one that a database cannot keep.

    The error names the id by `kind`, such as "chat".
    """
    if not isinstance(text, str):
        raise TypeError(f"A {kind} id is a text, not {text!r:.100}")
    if not text or "\0" in text or not is_utf8(text):
        raise ValueError(f"A {kind} id is a text without NUL and lone surrogates, and not empty: {text!r:.100}")


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


async def _awrite_to(engine: AsyncEngine, work: Callable[[Connection], object]) -> None:
    """Run `work` in a transaction, and commit it."""

    def write(connection: Connection) -> None:
        """Do the work, and commit."""
        work(connection)
        connection.commit()

    await _atransact(engine, write)


def _error_of(error: Exception, place: str, kind: type[HistoryError]) -> HistoryError:
    """Return the error to raise for an error of a database, without statements and values.

    It is of class `kind`, or of the class of its cause if that is a `HistoryError`. Its text begins with `place`, such
    as "cannot read a chat".
    """
    cause = _cause_of(error)
    if isinstance(cause, HistoryError):
        return type(cause)(f"{place}: {cause}")
    return kind(f"{place}: {type(cause).__name__}: {cause}")


def _cause_of(error: Exception) -> BaseException:
    """Return the error of the driver, whose text and traceback show no texts of messages; return others unchanged."""
    cause: BaseException = _store().error_of_driver(error)
    return cause


def _row_of(message: Message) -> Row:
    """Convert a message into a row of the table of messages.

    A field that cannot be written is left out, with a warning.
    """
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
        HistoryFormatError: the body is no JSON; the message names the row by `place`.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HistoryFormatError(f"{place}: the body is no JSON: {error}") from error
    return restore(fields)
