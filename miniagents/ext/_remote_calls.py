"""Calls of remote agents at the side of the caller: send a call, follow its log, and turn frames into replies.

Frames come to a `FollowedCall` in the callbacks of the connection, which put tokens into the cells of messages without
a task. Its own task does what takes a round trip: it reads the log where entries are missing, and finds out if a worker
is lost. `_remote_caller` wakes it for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import secrets
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from miniagents.errors import (
    INTERRUPTS,
    PromiseCancelledError,
    RemoteProtocolError,
    RemoteUnavailableError,
    RemoteWorkerLostError,
    describe_error,
)
from miniagents.ext._remote_caller import LOOK_INTERVAL, STOP_TIMEOUT, call_not_found
from miniagents.ext._remote_frames import (
    VERSION,
    FrameReader,
    FrameWriter,
    is_id,
    load_error,
    load_event,
    load_message,
    load_tokens,
    load_value,
    message_class_of,
)
from miniagents.messages import MessagePromise, MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from miniagents.ext._remote_broker import Entry
    from miniagents.ext._remote_caller import Caller, WatchedWorker
    from miniagents.ext._remote_frames import Call, Record
    from miniagents.miniagents import InteractionContext

logger = logging.getLogger("miniagents.remote")

_SILENCE_BEFORE_CLAIM: Final = 2.0
"""Seconds without an entry after which the log of a call that no worker has claimed is read."""
_LONGEST_GAP: Final = 10.0
"""Seconds in which a worker that can be reached must send frames again that the log lacks."""


class FollowedCall:
    """A call in progress: it follows the log of the call, and replies what the agent replies at the worker.

    Args:
        caller: the calls of this run.
        ctx: context of the local call, which gets the replies.
        call_id: id of the call.
        agent: alias of the agent, for texts of errors.
        wait: seconds in which a worker must claim the call, and for which the broker may be out of reach.
        call: the call to make; None to follow one that was made before, which is never cancelled then.
        is_named: True if the application has chosen the id: the call then goes on without readers.
    """

    def __init__(
        self,
        caller: Caller,
        ctx: InteractionContext,
        call_id: str,
        *,
        agent: str,
        wait: float,
        call: Call | None,
        is_named: bool,
    ) -> None:
        self._caller = caller
        self._connection = caller.connection
        self._ctx = ctx
        self._id = call_id
        self._agent = agent
        self._wait = wait
        self._call = call
        self._must_stop = call is not None
        """True if the agent is stopped at the worker when this call is."""
        self._is_named = is_named
        self._name = f"the call {call_id} of the agent {agent}"
        self._reader = FrameReader()
        self._position = 0
        self._worker: str | None = None
        self._watched: WatchedWorker | None = None
        self._lease = 0.0
        self._may_be_queued = False
        self._started = self._last_entry = asyncio.get_running_loop().time()
        self._messages: dict[int, MessagePromise] = {}
        """Promises of messages that have begun, until they end."""
        self._began = False
        self._stopped_messages: set[int] = set()
        self._replies: asyncio.Queue[MessagePromise | None] = asyncio.Queue()
        self._variables = contextvars.copy_context()
        """Context variables of the local call, for messages that callbacks of the connection make."""
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Future of the end of the replies; messages that have begun may go on."""
        self._done: Record | None = None
        self._error: BaseException | None = None
        self.gap_since: float | None = None
        """Time of the loop at which frames were found missing in the log; None if none are."""
        self._wishes: set[str] = set()
        """Work for the task of this call: read, check, withdraw, stop, give up."""
        self._woken: asyncio.Future[None] | None = None

    # --- the task

    async def run(self) -> None:
        """Make the call, or follow one that exists, and return when all its messages have begun.

        A task of the run follows the call to its end. If this wait is cancelled, cancel the messages and the call.
        Raise the error of the agent, or of the way to the agent.
        """
        # No variable has the promise: it is lost when the last reader goes.
        self._ctx.reply(MessageSequencePromise.of_async_iterable(self._arrivals(), start_soon=True))
        self._caller.add(self)
        self._ctx.run_context.spawn(self._run(), self._ended, name=f"call {self._id}")
        try:
            await self._closed
        finally:
            if self._closed.cancelled():
                self._replies.put_nowait(None)
                self._cancel_messages()
                self.wake("stop")

    async def _run(self) -> None:
        """Follow the call to its end; raise `RemoteUnavailableError` if the broker cannot be reached."""
        async with AsyncExitStack() as stack:
            try:
                await self._follow(stack)
            except ConnectionError as error:
                raise RemoteUnavailableError(f"The broker cannot be reached for {self._name}: {error}") from error

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End messages and replies when the task of this call has ended.

        An error of the task fails the open messages; without any, it is the last reply. After the last reply it is only
        logged.
        """
        self._ctx.run_context.forget(task)
        self._caller.remove(self)
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, INTERRUPTS):
            self._cancel_messages()
            self._close()
        elif self._fail_messages(error):
            self._close()
        elif self._closed.done():
            logger.info("Behind the last message of %s: %s", self._name, describe_error(error))
        else:
            self._close(error)

    def _fail_messages(self, error: BaseException) -> bool:
        """Fail the messages that are open; return True if there were some."""
        cells = [promise._cell for promise in self._messages.values() if not promise.is_done]
        for cell in cells:
            cell.fail(error)
        return bool(cells)

    def _cancel_messages(self) -> None:
        """End the messages that are open as cancelled."""
        for promise in list(self._messages.values()):
            promise._cell.settle_as_cancelled()

    def _close(self, error: BaseException | None = None) -> None:
        """End the replies, with an error or without; do nothing if they have ended."""
        if self._closed.done():
            return
        self._replies.put_nowait(None)
        if error is None:
            self._closed.set_result(None)
        else:
            self._closed.set_exception(error)

    async def _follow(self, stack: AsyncExitStack) -> None:
        """Make the call and follow it to its end; if that is cancelled, or fails here, stop the agent at the worker."""
        stack.push_async_callback(_quietly(await self._connection.follow(self._id, self._on_entry)))
        stack.push_async_callback(self._unwatch)
        try:
            await self._begin()
            while self._done is None:
                await self._do_work()
            self._end()
        except BaseException:
            if self._done is None and self._must_stop:
                await self._stop()
            raise

    async def _begin(self) -> None:
        """Put the call into the queue.

        If its id was chosen by the application, first read its log: a call with a log is not queued again.

        Raises:
            CallNotFoundError: an earlier call is to be followed, and has no log.
        """
        if self._is_named:
            await self._read()
            if self._call is None and not self._reader.number and self._error is None:
                raise call_not_found(self._id)  # it was there a moment ago
        if self._call is not None and not self._reader.number:
            self._may_be_queued = True
            await self._connection.enqueue(self._call.agent, self._id, await self._queued_bytes(self._call))

    async def _queued_bytes(self, call: Call) -> bytes:
        """Return the bytes that the queue gets for a call.

        A large call is written into a log of its own, and the bytes name this log.
        """
        data, limit = call.to_bytes(), self._connection.largest_frame
        if len(data) <= limit:
            return data
        name = f"{self._id}.{secrets.token_hex(8)}"
        for frame in FrameWriter(limit).write([{"k": "call", "d": data.decode()}]):
            await self._connection.append(name, frame, after=None)
        return json.dumps({"v": VERSION, "id": self._id, "agent": call.agent, "parts": name}).encode()

    async def _do_work(self) -> None:
        """Wait until there is work for this task, and do it.

        Raise the error of a frame, or `RemoteUnavailableError` if the broker was out of reach for too long. Work that
        the broker does not answer is dropped.
        """
        if not self._wishes:
            self._woken = asyncio.get_running_loop().create_future()
            try:
                await self._woken
            finally:
                self._woken = None
        wishes, self._wishes = self._wishes, set()
        if self._error is not None:
            raise self._error
        if self._done is not None:
            return
        if "give up" in wishes:
            self._must_stop = False
            raise RemoteUnavailableError(f"The broker was out of reach for {self._wait:g} s during {self._name}")
        if "stop" in wishes:
            if self._must_stop:
                await self._stop()
            self._done = {}
            return
        try:
            if self._worker is not None and self._watched is None:
                self._watched = await self._caller.watch(self._worker)
            if "withdraw" in wishes:
                await self._write_end("unavailable")
            elif "check" in wishes:
                await self._check_worker()
            elif "read" in wishes:
                await self._read()
                await self._ask_for_missing()
        except ConnectionError as error:  # the caller looks again, and gives up after some time
            logger.debug("The broker did not answer for %s: %s", self._name, error)

    def wake(self, wish: str) -> None:
        """Wake the task of this call to do some work: one of the words that `_wishes` names."""
        self._wishes.add(wish)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def look(self, now: float, *, may_read: bool) -> bool:
        """Wake the task of this call if it has work, and return True if it is to read the log after a silence.

        Other work is to give up without a broker, to withdraw an unclaimed call, or to check a silent worker.

        Args:
            now: time of the loop.
            may_read: False to read later.
        """
        since = self._caller.disconnected_since
        if since is not None:
            if now - since > self._wait:
                self.wake("give up")
            return False
        if self._worker is None and self._may_be_queued and now - self._started > self._wait:
            self.wake("withdraw")
        elif self._watched is not None and now - self._watched.last_sign > self._lease:
            self.wake("check")
        elif may_read and now - self._last_entry > (self._lease or _SILENCE_BEFORE_CLAIM):
            self.wake("read")  # the last entry may have been lost on its way
            return True
        return False

    async def _read(self) -> None:
        """Read the entries of the log that are new here, and apply them to the replies."""
        for entry in await self._connection.read(self._id, after=self._position):
            if entry.position > self._position:
                self._variables.run(self._take, entry)
        self._last_entry = asyncio.get_running_loop().time()

    async def _ask_for_missing(self) -> None:
        """Ask the worker to send frames again, if some are missing in the log.

        Raises:
            RemoteProtocolError: they have been missing for too long, as the log is no longer kept up to its beginning.
        """
        if not self._reader.has_gap:
            self.gap_since = None
            return
        now = asyncio.get_running_loop().time()
        if self.gap_since is None:
            self.gap_since = now
        if now - self.gap_since > _LONGEST_GAP:
            raise RemoteProtocolError(
                f"Frames of {self._name} are missing behind frame {self._reader.number}: the call has run for longer "
                f"than frames are kept. Give serve() a longer `keep`"
            )
        if self._worker is not None:
            await self._notify("resend")

    async def _check_worker(self) -> None:
        """Write into the log that the worker is lost, if its last sign of life is older than the lease.

        Make a round trip to the broker first, as a sign may be on its way. Write nothing if no worker is watched, or if
        the log, read again, has the end of the call.
        """
        await self._connection.round_trip()
        now = asyncio.get_running_loop().time()
        if self._watched is None or now - self._watched.last_sign <= self._lease:
            return
        await self._read()
        if self._done is None:
            await self._write_end("lost")

    async def _write_end(self, status: str) -> None:
        """Write the end of the call with this status into the log, unless the log has gone on; then read the log.

        A worker that was declared lost is also told to cancel.
        """
        done: Record = {"k": "done", "s": status}
        if self._call is not None:
            done["h"] = self._call.hash
        writer = FrameWriter(self._connection.largest_frame)
        writer.number = self._reader.number
        [frame] = writer.write([done])
        await self._connection.append(self._id, frame, after=self._position)
        await self._read()
        if status == "lost" and self._worker is not None:
            self._caller.do_later(self._notify("cancel"))  # it may be stopped, and go on later

    # --- stopping the agent

    async def _stop(self) -> None:
        """Stop the agent at the worker, or withdraw a call that no worker has claimed.

        Try for some seconds; then log a warning.
        """
        if not self._may_be_queued and self._worker is None:
            return
        with suppress(TimeoutError, RemoteProtocolError):
            async with asyncio.timeout(STOP_TIMEOUT):
                while True:
                    if await self._try_to_stop():
                        return
                    await asyncio.sleep(LOOK_INTERVAL)
        logger.warning("The worker could not be told to stop %s", self._name)

    async def _try_to_stop(self) -> bool:
        """Tell the worker to cancel the call, or write its end if no worker has claimed it.

        Return True if the agent will stop or has ended, False to try again.
        """
        try:
            if self._worker is None:
                await self._write_end("cancelled")
            if self._done is not None:
                return True
            return self._worker is not None and await self._notify("cancel")
        except ConnectionError:
            return False

    async def _notify(self, wish: str, **more: Any) -> bool:
        """Send the worker a notice about this call, such as "cancel" or "resend"; return True if it has got it."""
        assert self._worker is not None
        notice = {"v": VERSION, "call": self._id, "do": wish, **more}
        return await self._connection.notify(self._worker, json.dumps(notice).encode())

    async def _unwatch(self) -> None:
        """Stop watching the worker for signs of life, if this call watches one."""
        if self._watched is not None and self._worker is not None:
            await self._caller.unwatch(self._worker)

    # --- entries of the log

    def _on_entry(self, entry: Entry) -> None:
        """Take an entry that has just been stored, if it is the next one.

        Ignore one that was read before; if entries are missing before it, wake the task to read the log.
        """
        if entry.position <= self._position or self._done is not None:
            return
        if entry.previous != self._position:
            self.wake("read")
            return
        self._last_entry = asyncio.get_running_loop().time()
        self._variables.run(self._take, entry)

    def _take(self, entry: Entry) -> None:
        """Apply the records of the next entry to the replies.

        An error of them is kept for the task, which ends the call.
        """
        self._position = entry.position
        if self._error is not None:
            return
        try:
            for record in self._reader.read(entry.data):
                self._apply(record)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self._error = error
            self.wake("fail")
        if self._reader.has_gap:
            self.wake("read")

    def _apply(self, record: Record) -> None:
        """Apply a record to the replies; an unknown kind is ignored.

        Raises:
            RemoteProtocolError: the record cannot be read, or does not fit to those before it.
            ValueError: the call with this id has another agent, other messages or other arguments.
        """
        kind = record.get("k")
        if kind == "text":
            self._add_text(record)
        elif kind == "begin":
            self._add_message(record, self._begun_promise(record))
        elif kind == "message":
            self._began = True
            self._replies.put_nowait(load_message(record, ()).as_promise)
        elif kind == "end":
            promise = self._end_of(record)
            if promise is not None:
                promise._cell.resolve(self._loaded(record, promise))
        elif kind == "fail":
            promise = self._end_of(record)
            if promise is not None:
                promise._cell.fail(load_error(record.get("e")))
        elif kind == "event":
            self._add_event(record)
        elif kind == "claim":
            self._check_hash(record)
            worker = record.get("w")
            if not is_id(worker):
                raise RemoteProtocolError(f"The claim of {self._name} has no id of a worker, but {worker!r:.80}")
            self._worker = str(worker)
            self._lease = _number(record.get("lease"))
            self.wake("watch")
        elif kind == "closed":
            self._close()
        elif kind == "done":
            self._check_hash(record)
            self._done = record
            self.wake("done")

    def _check_hash(self, record: Record) -> None:
        """Raise `ValueError` if the log belongs to a call with other content."""
        found = record.get("h")
        if self._call is not None and found is not None and found != self._call.hash:
            self._must_stop = False  # it is another call, which goes on
            raise ValueError(
                f"The call id {self._id!r} belongs to a call with another agent, other messages or other arguments: "
                f"give each call an id of its own"
            )

    def _begun_promise(self, record: Record) -> MessagePromise:
        """Return the promise of a message that begins, with its class and the fields known beforehand."""
        known = record.get("f")
        return MessagePromise.of_fields(
            message_class_of(record.get("c")),
            None if known is None else dict(load_value(known)),
            may_call_tools=bool(record.get("tools")),
        )

    def _add_message(self, record: Record, promise: MessagePromise) -> None:
        """Reply the promise of a message that begins, and keep it until the message ends."""
        self._messages[_index(record)] = promise
        self._began = True
        self._replies.put_nowait(promise)

    def _open_promise(self, record: Record) -> MessagePromise | None:
        """Return the promise of a message that is open.

        If it was cancelled here, tell the worker once to cancel it, and return None.

        Raises:
            RemoteProtocolError: the message has not begun, or has ended.
        """
        index = _index(record)
        promise = self._messages.get(index)
        if promise is None:
            raise RemoteProtocolError(f"A frame of {self._name} is about message {index}, which is not open")
        if not promise.is_done:
            return promise
        if self._must_stop and index not in self._stopped_messages:
            self._stopped_messages.add(index)
            self._caller.do_later(self._notify("cancel", message=index))
        return None

    def _add_text(self, record: Record) -> None:
        """Add the tokens of a record to its message, without those that have come before.

        Raises:
            RemoteProtocolError: tokens before these are missing.
        """
        promise = self._open_promise(record)
        if promise is None:
            return
        cell, position, tokens = promise._cell, record.get("p"), load_tokens(record)
        come = len(cell.pieces)
        if position != come:
            if type(position) is not int or position > come:
                raise RemoteProtocolError(f"Tokens of {self._name} are missing before position {position!r}")
            tokens = tokens[come - position :]
        cell.take_batch(tokens)

    def _add_event(self, record: Record) -> None:
        """Add the event of a record to its message; an event of a class that is unknown here is ignored.

        Raises:
            RemoteProtocolError: the event has no position.
        """
        promise = self._open_promise(record)
        if promise is None:
            return
        event, position = load_event(record), record.get("p")
        if type(position) is not int:
            raise RemoteProtocolError(f"An event of {self._name} has no position")
        cell = promise._cell
        if event is not None:
            if cell.events is None:
                cell.events = []
            cell.events.append((position, event))
            cell.take_batch([])

    def _end_of(self, record: Record) -> MessagePromise | None:
        """Return the promise of a message that ends, and forget it; return None if it was cancelled here.

        Raises:
            RemoteProtocolError: the message is not open.
        """
        index = _index(record)
        promise = self._messages.pop(index, None)
        if promise is None:
            raise RemoteProtocolError(f"A frame of {self._name} ends message {index}, which is not open")
        return None if promise.is_done else promise

    def _loaded(self, record: Record, promise: MessagePromise) -> Any:
        """Return the message of a record `end`; if it cannot be read, fail its promise, and raise."""
        try:
            return load_message(record, promise._cell.pieces)
        except RemoteProtocolError as error:
            promise._cell.fail(error)
            raise

    # --- the end

    async def _arrivals(self) -> AsyncIterator[MessagePromise]:
        """Yield the promises of messages as they begin.

        If all readers go before the end, stop the call, unless the application has chosen its id.
        """
        try:
            while (promise := await self._replies.get()) is not None:
                yield promise
        except INTERRUPTS:  # the pump is stopped, because no reader can reach the replies
            if self._done is None and not self._is_named and self._must_stop:
                self.wake("stop")
            raise

    def _end(self) -> None:
        """Count the usage of the call, and raise the error that it has ended with."""
        done = self._done or {}
        status = done.get("s")
        rows = done.get("u") or ()
        try:
            self._ctx.add_usage([(tuple(path), row) for path, row in rows])
        except (TypeError, ValueError, AttributeError):
            logger.warning("The usage of %s cannot be read", self._name)
        if status == "lost":
            raise RemoteWorkerLostError(
                f"The worker {self._worker} is lost: no sign of life for {self._lease:g} s during {self._name}. "
                f"Nothing is run again by itself",
                began=self._began,
            )
        if status == "unavailable":
            raise RemoteUnavailableError(f"No worker has taken {self._name} in time; it is withdrawn")
        if status == "error":
            raise load_error(done.get("e"))
        if status == "cancelled":
            raise PromiseCancelledError(f"Another process has cancelled {self._name}")


def _quietly(end: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return a function that calls `end` and ignores that the broker cannot be reached."""

    async def end_quietly() -> None:
        with suppress(ConnectionError):
            await end()

    return end_quietly


def _index(record: Record) -> int:
    """Return the number of the message that a record is about; raise `RemoteProtocolError` if there is none."""
    index = record.get("i")
    if type(index) is not int:
        raise RemoteProtocolError(f"A frame of a remote call has no number of a message: {record!r:.80}")
    return index


def _number(value: Any) -> float:
    """Return a value that must be a number of seconds; raise `RemoteProtocolError` if it is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RemoteProtocolError(f"Seconds were expected in a frame of a remote call, not {value!r:.80}")
    return float(value)
