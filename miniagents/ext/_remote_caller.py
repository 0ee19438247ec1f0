"""Connection of a run to a broker, for calls of remote agents, and regular checks of the calls in progress.

`find_caller` opens one connection for the outermost run and a broker. It is closed when the run ends, after the calls
that the end of the run has cancelled have told their workers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from miniagents._promising.context import PromisingContext
from miniagents.errors import (
    CallNotFoundError,
    MissingExtraError,
    PromiseCancelledError,
    RemoteUnavailableError,
    describe_error,
)
from miniagents.ext._remote_frames import read_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from miniagents.ext._remote_broker import Broker, Connection
    from miniagents.ext._remote_calls import FollowedCall

LOOK_INTERVAL: Final = 0.25
"""Seconds between two looks at the calls in progress."""
STOP_TIMEOUT: Final = 5.0
"""Seconds that a cancelled call may take to tell its worker."""
_MOST_READS: Final = 20
"""Number of logs that are read at one look after a silence, so that a slow caller does not get slower by that."""


class Caller:
    """Calls in progress of a run by one broker, with the connection and the workers that are watched.

    Args:
        connection: open connection.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.calls: set[FollowedCall] = set()
        self.disconnected_since: float | None = None
        self.watched: dict[str, WatchedWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_calls = asyncio.Event()
        self._has_none = asyncio.Event()
        self._has_none.set()
        connection.on_reconnected(self._read_all)

    def add(self, call: FollowedCall) -> None:
        """Add a call, whose method `look` is called at intervals from now on."""
        self.calls.add(call)
        self._has_calls.set()
        self._has_none.clear()

    def remove(self, call: FollowedCall) -> None:
        """Remove a call that has ended, whose method `look` is no longer called."""
        self.calls.discard(call)
        if not self.calls:
            self._has_calls.clear()
            self._has_none.set()

    def do_later(self, work: Coroutine[Any, Any, object]) -> None:
        """Do some work in a task of its own, without waiting for it; ignore a `ConnectionError` of it."""

        async def do() -> None:
            with suppress(ConnectionError):
                await work

        task = asyncio.ensure_future(do())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Wait until no call is in progress, `STOP_TIMEOUT` seconds at most; then cancel the tasks of `do_later`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._has_none.wait()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def look(self) -> None:
        """Call `look` of each call in progress at intervals, until this task is cancelled.

        Note since when the broker is out of reach. In a round, at most `_MOST_READS` calls may read their logs.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._has_calls.wait()
            if self.connection.is_connected:
                self.disconnected_since = None
            elif self.disconnected_since is None:
                self.disconnected_since = loop.time()
            reads = _MOST_READS
            for call in list(self.calls):
                reads -= call.look(loop.time(), may_read=reads > 0)
            await asyncio.sleep(LOOK_INTERVAL)

    def _read_all(self) -> None:
        """Let each call read its log after a reconnect, and count the reconnect as a sign of life of each worker.

        So workers have a whole lease for their own reconnects.
        """
        now = asyncio.get_running_loop().time()
        for worker in self.watched.values():
            worker.last_sign = now
        for call in list(self.calls):
            call.gap_since = None
            call.wake("read")

    async def check_log(self, call_id: str) -> None:
        """Check that a call has a log that begins with its first frame.

        Raises:
            CallNotFoundError: it has none.
            RemoteUnavailableError: the broker does not answer.
            RemoteProtocolError: the first frame cannot be read.
        """
        try:
            entries = await self.connection.read(call_id)
        except ConnectionError as error:
            raise RemoteUnavailableError(f"The broker cannot be reached for the call {call_id}: {error}") from error
        if not entries or read_object(entries[0].data).get("n", 1) != 1:
            raise call_not_found(call_id)

    async def watch(self, worker: str) -> WatchedWorker:
        """Return a worker whose signs of life are noted.

        Calls share it; the watch ends when `unwatch` was called as often.
        """
        if worker not in self.watched:
            watched = WatchedWorker()
            watched.end = await self.connection.watch(worker, watched.note_sign)
            if worker in self.watched:  # another call came first meanwhile
                await watched.end()
            else:
                self.watched[worker] = watched
        self.watched[worker].users += 1
        return self.watched[worker]

    async def unwatch(self, worker: str) -> None:
        """Undo one `watch` of a worker; after the last one, its signs of life are no longer noted."""
        watched = self.watched[worker]
        watched.users -= 1
        if not watched.users:
            del self.watched[worker]
            with suppress(ConnectionError):
                await watched.end()


class WatchedWorker:
    """Worker whose signs of life are noted."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.last_sign: float = self._loop.time()
        """Time of the loop at the last sign of life, or at the start of the watch."""
        self.users = 0
        self.end: Callable[[], Awaitable[None]]

    def note_sign(self) -> None:
        """Note the time of a sign of life, which has just come."""
        self.last_sign = self._loop.time()


def call_not_found(call_id: str) -> CallNotFoundError:
    """Return the error of a call without the first frame of its log."""
    return CallNotFoundError(
        f"There is no log of the call {call_id}: no worker has claimed it, or its log is no longer kept"
    )


_callers: WeakKeyDictionary[PromisingContext, dict[Broker, asyncio.Future[Caller]]] = WeakKeyDictionary()


async def find_caller(broker: Broker, wait: float) -> Caller:
    """Return the `Caller` of the outermost run in this loop and a broker; connect if it is the first call.

    Raises:
        RemoteUnavailableError: the broker cannot be reached in `wait` seconds.
        MissingExtraError: the client of the broker is not installed.
    """
    context = PromisingContext.get_current("A remote agent")
    loop = asyncio.get_running_loop()
    while context.parent is not None and context.parent._loop is loop:  # a thread may begin a run with its own loop
        context = context.parent
    callers = _callers.setdefault(context, {})
    opened = callers.get(broker)
    if opened is None:
        opened = callers[broker] = loop.create_future()
        task = context.spawn(_keep_open(broker, opened, callers), context.forget, name="remote calls")
        context.park(task)  # the run does not wait for it, and cancels it at its end
    try:
        async with asyncio.timeout(wait):
            return await asyncio.shield(opened)
    except TimeoutError:
        raise RemoteUnavailableError(
            f"The broker {broker} cannot be reached: no connection in {wait:g} s. {broker.last_problem}".strip()
        ) from None
    except MissingExtraError:
        raise
    except Exception as error:
        raise RemoteUnavailableError(f"The broker {broker} cannot be reached: {describe_error(error)}") from error


async def _keep_open(broker: Broker, opened: asyncio.Future[Caller], callers: dict[Broker, Any]) -> None:
    """Keep the connection of a run open until this task is cancelled at the end of the run.

    Then wait until the cancelled calls have told their workers.

    Args:
        broker: the broker to connect with.
        opened: gets the `Caller` as its result, or the error of the connection.
        callers: callers of the run by their brokers; the entry of this broker is removed at the end.
    """
    error: BaseException = PromiseCancelledError("The run has ended")
    try:
        async with broker.connect() as connection:
            caller = Caller(connection)
            opened.set_result(caller)
            looking = asyncio.ensure_future(caller.look())
            try:
                await asyncio.shield(looking)
            finally:
                await caller.end()
                looking.cancel()
                await asyncio.wait([looking])
    except Exception as failure:
        error = failure
    finally:
        callers.pop(broker, None)
        if not opened.done():
            opened.set_exception(error)
            opened.exception()  # so that it does not count as unseen if the caller has given up
