"""Workers: processes that take calls of remote agents from a broker, run the agents, and write their replies to logs.

One task sends what is new of all calls: it sends, waits for a round trip, waits a little, and starts again, so that
frames grow with the load. It looks at the cells of the messages, so that a token needs no task. What it has sent is not
kept: after a reconnect, and where a log has a gap, the log says what is there, and the promises of the replies have the
rest.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from miniagents._agents.running import catch_signal
from miniagents.errors import INTERRUPTS, RemoteProtocolError, describe_error, is_failure
from miniagents.ext._remote_frames import (
    Call,
    FrameReader,
    FrameWriter,
    continue_trace,
    dump_error,
    dump_event,
    dump_message,
    is_id,
    load_arguments,
    load_limits,
    load_value,
    read_object,
)
from miniagents.values import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import TypeVar

    from miniagents.ext._remote_broker import Connection, Entry, QueuedCall
    from miniagents.ext._remote_frames import Record
    from miniagents.messages import MessagePromise, MessageSequencePromise
    from miniagents.miniagents import MiniAgent

    T = TypeVar("T")

logger = logging.getLogger("miniagents.remote")

_PAUSE: Final = 0.02
"""Least seconds between two rounds of the sender; after a longer round, the pause is as long."""
_CLEAN_UP_TIMEOUT: Final = 1.0
"""Seconds in which cancelled calls may write their ends."""
_MOST_EMPTY_READS: Final = 20
"""Number of reads after which an empty log is no longer kept; before, a server of a cluster may not know it yet."""
_MOST_REPAIRS: Final = 50
"""Number of calls whose logs are compared at the same time after a reconnect."""


class Worker:
    """Worker: it takes calls from a broker, runs their agents in this process, and sends the replies.

    Args:
        connection: open connection.
        agents: the agents by their aliases.
        concurrency: largest number of calls in progress.
        lease: seconds without a sign of life after which callers take the worker for lost.
        drain: seconds that calls in progress get after SIGTERM.
    """

    def __init__(
        self,
        connection: Connection,
        agents: Mapping[str, MiniAgent[Any]],
        *,
        concurrency: int,
        lease: float,
        drain: float,
    ) -> None:
        self.id = secrets.token_hex(12)
        self._connection = connection
        self._agents = agents
        self._concurrency = concurrency
        self._lease = lease
        self._drain = drain
        self._calls: dict[str, RunningCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_calls = asyncio.Event()
        self._may_start = asyncio.Event()
        self._may_start.set()

    async def run(self) -> None:
        """Take and run calls until SIGTERM, then end those in progress; cancel them if this task is cancelled."""
        terminated = asyncio.Event()
        self._connection.on_reconnected(self._compare_all)
        async with asyncio.TaskGroup() as group:  # if a task of it fails, the worker ends
            helpers = [
                group.create_task(self._connection.beat(self.id, self._lease / 4), name="heartbeat"),
                group.create_task(self._send(), name="sender"),
            ]
            try:
                await self._until_connected(lambda: self._connection.listen(self.id, self._on_notice))
                takers = [group.create_task(self._take(alias), name=f"queue of {alias}") for alias in self._agents]
                with catch_signal(signal.SIGTERM, terminated.set):
                    try:
                        await terminated.wait()
                    finally:
                        await _cancel_all(takers)
                    logger.info("The worker ends: it takes no more calls, and has %d in progress", len(self._tasks))
                    await self._end_calls(self._drain)
            except asyncio.CancelledError:
                await self._end_calls(0)
                raise
            finally:
                await _cancel_all(helpers)

    async def _end_calls(self, patience: float) -> None:
        """Wait `patience` seconds for the calls in progress, then cancel the others.

        These get some seconds for their clean-up; then their tasks are cancelled.
        """
        if self._tasks and patience:
            await asyncio.wait(self._tasks, timeout=patience)
        for call in list(self._calls.values()):
            call.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLEAN_UP_TIMEOUT)
        await _cancel_all(self._tasks)

    async def _until_connected(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat some work until it raises no `ConnectionError`, and return its result.

        Wait for the broker in between.
        """
        while True:
            try:
                return await work()
            except ConnectionError as error:
                logger.warning("The broker did not answer, and is asked again: %s", error)
                await self._connection.wait_until_connected()

    # --- taking calls

    async def _take(self, alias: str) -> None:
        """Take calls of one agent from its queue while fewer than `concurrency` calls are in progress, and start them.

        If as many are in progress when a call comes, give the call back to the queue.
        """
        while True:
            await self._may_start.wait()
            count = max(1, self._startable_calls // len(self._agents))
            for queued in await self._until_connected(partial(self._connection.take, alias, count)):
                if self._startable_calls > 0:
                    self._start(queued)
                else:  # other agents of this worker have taken calls meanwhile
                    with suppress(ConnectionError):
                        await queued.give_back()

    @property
    def _startable_calls(self) -> int:
        """Number of calls that may be started now."""
        return self._concurrency - len(self._tasks)

    def _start(self, queued: QueuedCall) -> None:
        """Start the task of a call; if `concurrency` calls are in progress then, take no more."""
        task = asyncio.create_task(self._run_call(queued), name="remote call")
        self._tasks.add(task)
        task.add_done_callback(self._on_ended)
        if self._startable_calls <= 0:
            self._may_start.clear()

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        """Remove the task of a call that has ended, so that another call can be taken; log an error of the task."""
        self._tasks.discard(task)
        self._may_start.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A remote call has failed at the worker", exc_info=error)

    async def _run_call(self, queued: QueuedCall) -> None:
        """Claim a call of the queue, run its agent, and write its replies to the log.

        Only remove it from the queue if it cannot be read, runs here already, or is claimed by another worker.
        """
        try:
            call = await self._load_call(queued.data)
        except RemoteProtocolError as error:
            logger.warning("A call in the queue cannot be read, and is dropped: %s", error)
            await self._until_connected(queued.remove)
            return
        if call is None or call.id in self._calls:
            await self._until_connected(queued.remove)
            return
        running = RunningCall(self._connection, call.id)
        claim = running.writer.write([{"k": "claim", "w": self.id, "h": call.hash, "lease": self._lease}])[0]
        self._calls[call.id] = running
        try:
            if await self._claim(call.id, claim):
                with suppress(ConnectionError):  # the next worker finds that it is claimed
                    await queued.remove()
                await self._run_agent(call, running)
            else:
                await self._until_connected(queued.remove)
        finally:
            del self._calls[call.id]
            if not self._calls:
                self._has_calls.clear()

    async def _load_call(self, data: bytes) -> Call | None:
        """Return a call of the queue; None if its parts are no longer kept.

        Raises:
            RemoteProtocolError: the call cannot be read.
        """
        name = read_object(data).get("parts")
        if name is None:
            return Call.from_bytes(data)
        if not (isinstance(name, str) and all(map(is_id, name.split(".")))):
            raise RemoteProtocolError(f"A remote call has no name of its parts, but {name!r:.80}")
        reader = FrameReader()
        for entry in await self._until_connected(lambda: self._connection.read(name)):
            for record in reader.read(entry.data):
                return Call.from_bytes(str(record.get("d")).encode())
        return None

    async def _claim(self, call_id: str, claim: bytes) -> bool:
        """Write the first frame of a call's log, and return True.

        Return False if the log already begins with another claim or with the end of the call. Repeat this until the
        broker answers.
        """
        while True:
            with suppress(ConnectionError):  # the claim may be stored: then the log refuses it, and tells whose it has
                if await self._connection.append(call_id, claim, after=0) is not None:
                    return True
                entries = await self._connection.read(call_id)
                if entries:
                    return entries[0].data == claim
            await self._connection.wait_until_connected()

    # --- running the agent

    async def _run_agent(self, call: Call, running: RunningCall) -> None:
        """Run the agent of a claimed call; return when the whole log is stored, or another process has ended the call.

        If this task is cancelled, the agent is cancelled.
        """
        self._has_calls.set()
        error: BaseException | None = None
        try:
            try:
                with continue_trace(call.trace):
                    running.start(self._agents[call.agent], call)
                await running.wait_for_replies()
            except INTERRUPTS:
                raise
            except BaseException as problem:  # of the arguments, or of a message that cannot be read
                error = problem
        finally:
            running.cancel()  # does nothing to an agent that has ended
        await running.finish(error)

    # --- sending

    async def _send(self) -> None:
        """Send what was not sent yet of all calls, in rounds, until cancelled; pause at least as long as a round took.

        In each round, first compare the logs that may have lost frames.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._has_calls.wait()
            if not self._connection.is_connected:
                await self._connection.wait_until_connected()
            gone_wrong = [call for call in self._calls.values() if call.must_compare and call.is_sending]
            if gone_wrong:
                await self._compare(gone_wrong)
            began, sent = loop.time(), False
            with suppress(ConnectionError):  # a reconnect lets the logs be compared
                for call in list(self._calls.values()):
                    sent = await call.send_news() or sent
                if sent:
                    await self._connection.round_trip()
            await asyncio.sleep(max(_PAUSE, loop.time() - began))

    async def _compare(self, calls: list[RunningCall]) -> None:
        """Compare the logs of calls with what was sent, and send what is missing."""
        limit = asyncio.Semaphore(_MOST_REPAIRS)

        async def compare(call: RunningCall) -> None:
            """Compare the log of one call; try again later if the broker does not answer."""
            async with limit:
                with suppress(ConnectionError):
                    await call.compare()

        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(compare(call))

    def _compare_all(self) -> None:
        """Let the logs of all calls be compared, because frames may have been lost."""
        for call in self._calls.values():
            call.must_compare = True

    def _on_notice(self, data: bytes) -> None:
        """Carry out the notice of a caller; ignore one about another call.

        It asks to send missing frames of a call again, or to cancel a call or one of its messages.
        """
        try:
            notice = read_object(data)
        except RemoteProtocolError as error:
            logger.warning("A notice to this worker cannot be read: %s", error)
            return
        call = self._calls.get(str(notice.get("call")))
        if call is None:
            return
        if notice.get("do") == "resend":
            call.must_compare = True
        elif notice.get("do") == "cancel":
            call.must_compare = True  # the caller may have ended the call, which then gets no more frames
            call.cancel(notice.get("message"))


class RunningCall:
    """A call in progress at the worker: the agent's replies, and what of them was sent.

    Args:
        connection: open connection.
        call_id: id of the call.
    """

    def __init__(self, connection: Connection, call_id: str) -> None:
        self._connection = connection
        self._id = call_id
        self.writer = FrameWriter(connection.largest_frame)
        self.must_compare = False
        """True if frames may be missing in the log."""
        self._was_compared = False
        """True if the log may have frames that do not count, so that their number says nothing."""
        self.is_sending = False
        """True if the agent has been started, and another process has not ended the call."""
        self._is_cancelled = False
        self._replies: MessageSequencePromise[Any] | None = None
        self._messages: list[_SentMessage] = []
        self._is_closed = False
        """True if the agent replies no further messages."""
        self._is_closed_sent = False
        self._first_open = 0
        """Number of messages at the beginning whose end was sent."""
        self._empty_reads = 0
        """Number of times that the log was empty, one after the other."""
        self._done: Record | None = None
        """The last record, once the agent has ended."""
        self._readers: list[asyncio.Task[None]] = []
        self._lock = asyncio.Lock()
        """Frames of a call go to the broker one after the other."""

    def start(self, agent: MiniAgent[Any], call: Call) -> None:
        """Call the agent.

        Raises:
            TypeError: the agent cannot be called with these arguments.
            RemoteProtocolError: a message, an argument or a limit cannot be read.
        """
        self.is_sending = True
        messages = [load_value(message) for message in call.messages]
        arguments, limits = load_arguments(call.arguments), load_limits(call.limits)
        self._replies = agent.trigger(messages, errors_as_messages=False, limits=limits, **arguments)
        if self._is_cancelled:
            self._replies.cancel()

    def cancel(self, message: object = None) -> None:
        """Cancel the message of the replies with this number.

        Without a number, cancel the agent, also one that starts later.
        """
        if type(message) is int:
            if 0 <= message < len(self._messages):
                self._messages[message].promise.cancel()
            return
        self._is_cancelled = True
        if self._replies is not None:
            self._replies.cancel()

    async def wait_for_replies(self) -> None:
        """Collect the replies of the agent for the sender, and return when all have ended.

        Messages that begin only with a reader get one.
        """
        assert self._replies is not None
        try:
            async for promise in self._replies:
                self._messages.append(_SentMessage(promise))
                if promise._cell.on_demand or promise._cell.deferred_start is not None:
                    self._readers.append(asyncio.create_task(_read(promise)))
            self._is_closed = True
            for message in self._messages:
                await _read(message.promise)
        finally:
            for reader in self._readers:
                reader.cancel()

    def _usage(self) -> list[list[Any]]:
        """Return the rows of usage of the agent and of those that it has called: their path and numbers."""
        scope = None if self._replies is None else self._replies._cell.scope
        usage = getattr(scope, "usage", None)
        return [] if usage is None else [[list(path), row] for path, row in usage.rows()]

    # --- sending

    def _take_news(self) -> list[Record]:
        """Return the records of what was not sent yet, which counts as sent from now on."""
        records: list[Record] = []
        for index in range(self._first_open, len(self._messages)):
            message = self._messages[index]
            if not message.is_ended:
                records += message.take_news(index)
            if message.is_ended and index == self._first_open:
                self._first_open += 1
        if self._is_closed and not self._is_closed_sent:
            self._is_closed_sent = True
            records.append({"k": "closed"})
        return records

    async def send_news(self) -> bool:
        """Send what was not sent yet, without an acknowledgement; return True if there was something.

        Do nothing if the log must be compared first, the call has ended, or another task is sending.

        Raises:
            ConnectionError: the broker cannot be reached.
        """
        if self.must_compare or not self.is_sending or self._lock.locked() or self._done is not None:
            return False
        records = self._take_news()
        if not records:
            return False
        async with self._lock:
            try:
                for frame in self.writer.write(records):
                    await self._connection.publish(self._id, frame)
            except ConnectionError:
                self.must_compare = True
                raise
        return True

    async def finish(self, error: BaseException | None) -> None:
        """Send the rest and the end of the call; return when all is stored, or another process has ended the call.

        Args:
            error: the error of a call that could not be made, which is sent as its end; None if the call was made.
        """
        self._done = {"k": "done", "s": "ok"}
        if error is not None:
            self._done |= {"s": "error", "e": dump_error(error)}
        usage = self._usage()
        if usage:
            self._done["u"] = usage
        while self.is_sending:
            try:
                if self.must_compare or self._was_compared:
                    await self.compare()
                elif await self._send_end():
                    return
            except ConnectionError:
                self.must_compare = True
                await self._connection.wait_until_connected()

    async def _send_end(self) -> bool:
        """Send the rest and the end; return True if the log has as many entries as frames were sent."""
        assert self._done is not None
        async with self._lock:
            frames = self.writer.write([*self._take_news(), self._done])
            for frame in frames[:-1]:
                await self._connection.publish(self._id, frame)
            await self._connection.append(self._id, frames[-1], after=None)
            self.must_compare = await self._connection.count(self._id) != self.writer.number
        return not self.must_compare

    # --- comparing

    async def compare(self) -> None:
        """Read the log, and send what is missing in it; stop sending if another process has ended the call.

        Raises:
            ConnectionError: the broker cannot be reached.
        """
        async with self._lock:
            self._was_compared = True
            while self.is_sending:
                entries = await self._connection.read(self._id)
                self._empty_reads = 0 if entries else self._empty_reads + 1
                if 0 < self._empty_reads < _MOST_EMPTY_READS:
                    raise ConnectionError("the broker has not heard of the log yet")
                self.must_compare = False
                reader = FrameReader()
                if not self._rewind(reader, entries):
                    return
                ends = self._done is not None  # it may come while the frames are appended, which then lack the end
                frames = self._frames_behind(reader)
                position: int | None = entries[-1].position if entries else 0
                for frame in frames:
                    position = await self._connection.append(self._id, frame, after=position)
                    if position is None:  # a frame that was sent before has arrived, or the end of another process
                        break
                else:
                    if ends:
                        self.is_sending = False
                    return

    def _frames_behind(self, reader: FrameReader) -> list[bytes]:
        """Return the frames with all that the log lacks after the frames of `reader`.

        They are numbered on from its last one.
        """
        records = self._take_news() + ([] if self._done is None else [self._done])
        self.writer.number = reader.number
        return self.writer.write(records) if records else []

    def _rewind(self, reader: FrameReader, entries: list[Entry]) -> bool:
        """Count as sent only what the log has in frames that count; return False if there is nothing more to send.

        Frames that are no longer kept were read in time, and count as well. If the log has its end, cancel the agent.
        """
        first = read_object(entries[0].data)["n"] if entries else self.writer.number + 1
        if first == 1:
            for message in self._messages:
                message.forget_sent()
            self._first_open, self._is_closed_sent = 0, False
        reader.number = first - 1
        for entry in entries:
            for record in reader.read(entry.data):
                index = record.get("i")
                self._is_closed_sent |= record.get("k") == "closed"
                if isinstance(index, int) and index < len(self._messages):
                    self._messages[index].count_sent(record)
        if reader.is_done:  # ended by this worker, or by a caller
            self.is_sending = False
            self.cancel()
        return self.is_sending


class _SentMessage:
    """A message of the replies, and how much of it was sent."""

    def __init__(self, promise: MessagePromise) -> None:
        self.promise = promise
        self.is_ended = False
        self._is_begun = False
        self._tokens = 0
        self._events = 0

    def forget_sent(self) -> None:
        """Reset the counts: nothing of this message counts as sent."""
        self.is_ended = self._is_begun = False
        self._tokens = self._events = 0

    def count_sent(self, record: Record) -> None:
        """Count the beginning, tokens, event or end in a record of the log as sent."""
        kind = record.get("k")
        self._is_begun = True
        if kind == "text":
            self._tokens = record["p"] + len(record["t"])
        elif kind == "event":
            self._events += 1
        elif kind in ("end", "fail", "message"):
            self.is_ended = True

    def take_news(self, index: int) -> list[Record]:
        """Return the records of what was not sent yet, which counts as sent from now on.

        `index` is the number of the message among the replies.
        """
        cell = self.promise._cell
        done = cell.done  # what comes after this line is sent the next time
        records: list[Record] = []
        if not self._is_begun:
            self._is_begun = True
            if done and cell.failure is None and cell.known_fields is None and not cell.events:
                whole = self._ending(index, ())
                if whole["k"] == "end":
                    self.is_ended = True
                    return [{**whole, "k": "message"}]
            records.append(self._beginning(index))
        tokens = cell.pieces[self._tokens :]
        if tokens:
            records.append({"k": "text", "i": index, "p": self._tokens, "t": tokens})
            self._tokens += len(tokens)
        for position, event in (cell.events or ())[self._events :]:
            records.append({"k": "event", "i": index, "p": position, **dump_event(event)})
            self._events += 1
        if done:
            self.is_ended = True
            records.append(self._ending(index, cell.pieces))
        return records

    def _beginning(self, index: int) -> Record:
        """Return the record of a message that begins: its class, its known fields, and whether it may call tools."""
        cell = self.promise._cell
        record: Record = {"k": "begin", "i": index, "c": self.promise.message_class.class_name}
        if cell.known_fields is not None:
            with suppress(TypeError, ValueError, RecursionError):  # then the end has them
                record["f"] = {name: encode(value) for name, value in cell.known_fields.items()}
        if self.promise.may_call_tools:
            record["tools"] = True
        return record

    def _ending(self, index: int, tokens: Sequence[str]) -> Record:
        """Return the record of the end of a message, or of its failure, which counts as observed here.

        Args:
            index: number of the message.
            tokens: tokens that were sent before.
        """
        cell = self.promise._cell
        try:
            message = cell.result()
        except INTERRUPTS:
            raise
        except BaseException as error:
            return {"k": "fail", "i": index, "e": dump_error(error)}
        try:
            return {"k": "end", "i": index, **dump_message(message, tokens)}
        except (TypeError, ValueError, RecursionError) as error:
            problem = RemoteProtocolError(f"A reply cannot be sent to another process: {describe_error(error)}")
            return {"k": "fail", "i": index, "e": dump_error(problem)}


async def _read(promise: MessagePromise) -> None:
    """Wait for the end of a message, as a reader who wants all of it; its failure is sent by the sender."""
    try:
        await promise
    except BaseException as error:
        if not is_failure(error):
            raise


async def _cancel_all(tasks: Any) -> None:
    """Cancel tasks, and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
