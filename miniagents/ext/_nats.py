"""NATS with JetStream as the broker of remote agents, by nats-py, which is imported at the first connection.

| subject | stream | what |
|---|---|---|
| `miniagents.call.<agent>` | `MINIAGENTS_CALLS`, a work queue | calls that no worker has claimed |
| `miniagents.log.<call>` | `MINIAGENTS_LOGS` | frames, kept for some time |
| `miniagents.live.<call>` | | each frame again, as soon as it is stored, with its position |
| `miniagents.beat.<worker>` | | signs of life |
| `miniagents.tell.<worker>` | | notices for a worker, which answers each |

A frame that must be the next one has the header `Nats-Expected-Last-Subject-Sequence`: the server refuses it otherwise.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from miniagents.errors import MissingExtraError, describe_error
from miniagents.ext._remote_broker import Entry, QueuedCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

logger = logging.getLogger("miniagents.remote")

_CALLS: Final = "MINIAGENTS_CALLS"
_LOGS: Final = "MINIAGENTS_LOGS"
_DEFAULT_KEEP: Final = 3600.0
"""Seconds for which frames are kept if a caller makes the streams before a worker says how long."""
_KEEP_QUEUED: Final = 24 * 3600.0
"""Seconds for which a call stays in a queue; callers withdraw it earlier."""
_DUPLICATE_WINDOW: Final = 120.0
"""Seconds in which the server knows a message again, by default."""
_REQUEST_TIMEOUT: Final = 4.0
"""Seconds in which the server must answer a request."""
_APPEND_TIMEOUT: Final = 10.0
"""Seconds in which a frame must be stored, with further attempts, as after the loss of a leader."""
_TAKE_TIMEOUT: Final = 2.0
"""Seconds for which a request for calls waits at the server; after a reconnect, a request may be lost for as long."""
_ACK_WAIT: Final = 2.0
"""Seconds after which the server gives a call to another worker, if the first has neither claimed nor returned it."""
_GIVE_BACK_DELAY: Final = 0.5
_BATCH: Final = 500
"""Number of entries that one request reads."""
_WRONG_LAST_SEQUENCE: Final = (10071, 10164)
"""Error codes of JetStream for a message that is not the next one; the second is that of a replicated stream."""
_NONE_FOUND: Final = "404"
_MOST_STALE_READS: Final = 10
_RETRY_PAUSE: Final = 0.1
_MOST_PENDING: Final = 2**29
"""Bytes, or messages, that may wait for a blocked loop before nats-py drops some."""


class NatsBroker:
    """NATS server, or a cluster of them, with JetStream: version 2.11 or newer.

    Args:
        servers: URL, or URLs of several servers of one cluster.
        replicas: number of servers that keep each frame and each call; above 1 in a cluster only.
        options: arguments of `nats.connect`, such as `tls`, `user`, `password`, `token` and `user_credentials`.

    Raises:
        ValueError: there is no server, a URL is malformed, or the number of replicas is below 1.
    """

    def __init__(self, servers: str | Sequence[str], *, replicas: int = 1, **options: Any) -> None:
        self.servers: tuple[str, ...] = (servers,) if isinstance(servers, str) else tuple(servers)
        if not self.servers:
            raise ValueError("A NatsBroker needs the URL of at least one server")
        for server in self.servers:
            _check_url(server)
        if replicas < 1:
            raise ValueError(f"replicas must be 1 or more, not {replicas!r}")
        self.replicas = replicas
        self.last_problem: str = ""
        self._options = {"reconnect_time_wait": 0.25, "connect_timeout": 2, "name": "miniagents", **options}

    def __str__(self) -> str:
        return ", ".join(map(_without_password, self.servers))

    def __repr__(self) -> str:
        return f"<NatsBroker {self}>"

    @asynccontextmanager
    async def connect(self, *, keep: float | None = None) -> AsyncIterator[NatsConnection]:
        """Open a connection for the block; wait until a server can be reached.

        Args:
            keep: seconds for which the streams keep a frame; None to leave that to workers.

        Raises:
            MissingExtraError: the package nats-py is not installed.
        """
        connection = NatsConnection(self, keep)
        await connection.open()
        try:
            yield connection
        finally:
            await connection.close()

    async def open_client(self, reconnected: Callable[[], None]) -> Any:
        """Return a connected client of nats-py; try again and again, with a warning, while no server can be reached.

        `reconnected` is called after each reconnect.

        Raises:
            MissingExtraError: the package nats-py is not installed.
        """
        try:
            import nats.errors
            from nats.aio.client import Client
        except ImportError as error:
            raise MissingExtraError.of("nats-py", "nats") from error

        async def on_error(error: Exception) -> None:
            """Log an error; without this function, nats-py prints tracebacks."""
            logger.info("NATS at %s: %s", self, describe_error(error))

        async def on_reconnected() -> None:
            logger.info("Connected to NATS at %s again", self)
            reconnected()

        task, is_first = asyncio.current_task(), True
        assert task is not None
        cancellations = task.cancelling()
        while True:
            client = Client()
            try:
                # One attempt more for each server: nats-py may lose a cancellation while it tries for ever.
                options = {"max_reconnect_attempts": 1, **self._options}
                await client.connect(list(self.servers), error_cb=on_error, reconnected_cb=on_reconnected, **options)
            except (OSError, TimeoutError, nats.errors.Error) as error:
                level = logging.WARNING if is_first else logging.INFO
                self.last_problem = describe_error(error)
                logger.log(level, "NATS at %s cannot be reached, and is asked again: %s", self, self.last_problem)
                is_first = False
            else:
                client.options["max_reconnect_attempts"] = self._options.get("max_reconnect_attempts", -1)
                if task.cancelling() <= cancellations:
                    return client
                await client.close()
            if task.cancelling() > cancellations:
                raise asyncio.CancelledError
            await asyncio.sleep(_RETRY_PAUSE)


def _check_url(url: str) -> None:
    """Raise `ValueError` for the URL of a server that nats-py cannot connect to, however long it tries.

    As for nats-py, a host without a scheme is one of `nats://`.
    """
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    try:
        is_known = parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number, or too high
        is_known = False
    if not is_known:
        raise ValueError(f"{_without_password(url)!r} is no URL of a NATS server, such as nats://127.0.0.1:4222")


def _without_password(url: str) -> str:
    """Return a URL without user and password."""
    return url.replace(f"{urlsplit(url).netloc.rpartition('@')[0]}@", "", 1) if "@" in url else url


class NatsConnection:
    """Connection of one event loop to NATS, with the methods of `miniagents.ext._remote_broker.Connection`.

    Args:
        broker: the servers.
        keep: seconds for which frames are kept; None for a caller.
    """

    def __init__(self, broker: NatsBroker, keep: float | None) -> None:
        self._broker = broker
        self._keep = keep
        self._callbacks: list[Callable[[], None]] = []
        self._queues: dict[str, _Queue] = {}
        self._round_trips: dict[str, asyncio.Future[None]] = {}
        self._numbers = count()

    async def open(self) -> None:
        """Connect, and make the streams that are missing; wait until a server can be reached."""

        async def on_arrived(message: Any) -> None:
            arrived = self._round_trips.get(message.data.decode())
            if arrived is not None and not arrived.done():
                arrived.set_result(None)

        self._client = await self._broker.open_client(self._reconnected)
        self._own_inbox = self._client.new_inbox()
        try:
            await self._subscribe(self._own_inbox, on_arrived)
            await self._until_answered(self._make_streams)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection, after what was sent has got to the server, if it can be reached."""
        with suppress(ConnectionError):
            if self._client.is_connected:
                await self.round_trip()
        await self._client.close()

    def _reconnected(self) -> None:
        """Call all callbacks of `on_reconnected`: the connection was lost, and is open again."""
        for callback in self._callbacks:
            callback()

    async def _make_streams(self) -> None:
        """Make the streams; a worker sets how long frames are kept, and how many servers keep them."""
        from nats.js import api

        keep = _DEFAULT_KEEP if self._keep is None else self._keep
        calls = api.StreamConfig(
            name=_CALLS,
            subjects=["miniagents.call.*"],
            retention=api.RetentionPolicy.WORK_QUEUE,
            max_age=_KEEP_QUEUED,
            num_replicas=self._broker.replicas,
        )
        logs = api.StreamConfig(
            name=_LOGS,
            subjects=["miniagents.log.>"],
            max_age=keep,
            duplicate_window=min(keep, _DUPLICATE_WINDOW),
            num_replicas=self._broker.replicas,
            allow_direct=True,
            republish=api.RePublish(src="miniagents.log.>", dest="miniagents.live.>"),
        )
        manager = self._client.jetstream(timeout=_REQUEST_TIMEOUT)
        for config in (calls, logs):
            await self._make_stream(manager, config)

    async def _make_stream(self, manager: Any, config: Any) -> None:
        """Make a stream, or update the one that is there if a worker wants another age or number of replicas."""
        from nats.js.errors import NotFoundError

        try:
            found = (await manager.stream_info(config.name)).config
        except NotFoundError:
            await manager.add_stream(config)
            return
        if self._keep is not None and (found.max_age, found.num_replicas) != (config.max_age, config.num_replicas):
            await manager.update_stream(config)

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat some work until it raises no `ConnectionError`, with a warning and a pause between two attempts."""
        while True:
            try:
                async with _as_connection_error():
                    return await work()
            except ConnectionError as error:
                self._broker.last_problem = str(error)
                logger.warning("NATS at %s has not made its streams, and is asked again: %s", self._broker, error)
                await asyncio.sleep(_RETRY_PAUSE)

    # --- the connection

    @property
    def largest_frame(self) -> int:
        """Number of bytes that a frame may have: half of what the server takes, so that headers fit, too."""
        return int(self._client.max_payload) // 2

    @property
    def is_connected(self) -> bool:
        """True unless the server cannot be reached now."""
        return bool(self._client.is_connected)

    async def wait_until_connected(self) -> None:
        """Wait for a pause, as a request has just failed, and then until a server is connected.

        Raise `RuntimeError` if the connection was closed.
        """
        await asyncio.sleep(_RETRY_PAUSE)
        while not self._client.is_connected:
            if self._client.is_closed:
                raise RuntimeError(f"The connection to NATS at {self._broker} is closed: {self._client.last_error}")
            await asyncio.sleep(_RETRY_PAUSE)

    def on_reconnected(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each reconnect."""
        self._callbacks.append(callback)

    async def round_trip(self) -> None:
        """Return when the server has got all that was sent, and this process all that the server sent before.

        Raise `ConnectionError` if that takes too long.
        """
        # A message to itself, as nats-py ends its reading task if it gets the answer of a `flush` that was given up.
        number = str(next(self._numbers))
        arrived = self._round_trips[number] = asyncio.get_running_loop().create_future()
        try:
            async with _as_connection_error(), asyncio.timeout(_REQUEST_TIMEOUT):
                await self._client.publish(self._own_inbox, number.encode())
                await arrived
        finally:
            del self._round_trips[number]
        await asyncio.sleep(0)  # tasks of subscriptions take what has come
        await asyncio.sleep(0)

    # --- queues

    async def enqueue(self, agent: str, call_id: str, call: bytes) -> None:
        """Append a call to the queue of an agent; the server ignores one that it has got before."""
        await self._store(f"miniagents.call.{_token(agent)}", call, {"Nats-Msg-Id": call_id})

    async def take(self, agent: str, count: int) -> list[QueuedCall]:
        """Return calls of the queue of an agent as soon as there are some; [] after some seconds without any."""
        queue = self._queues.get(agent)
        if queue is None:
            queue = self._queues[agent] = _Queue(self._client, _token(agent))
        async with _as_connection_error():
            try:
                return await queue.take(count)
            except BaseException:  # what the server still sends for its requests must go to other workers
                del self._queues[agent]
                await queue.close()
                raise

    # --- logs

    async def append(self, call_id: str, frame: bytes, *, after: int | None) -> int | None:
        """Append a frame to the log of a call, and return its position.

        If `after` is given, the frame must follow the entry at that position; return None if it does not.
        """
        headers = None if after is None else {"Nats-Expected-Last-Subject-Sequence": str(after)}
        return await self._store(f"miniagents.log.{call_id}", frame, headers, after=after or 0)

    async def _store(self, subject: str, data: bytes, headers: dict[str, str] | None, *, after: int = 0) -> int | None:
        """Store a message under a subject, and return its position; None if the headers demand another position.

        After a connection error, try again for some seconds, and look if an earlier attempt has stored it.
        """
        from nats.js.errors import APIError

        deadline = time.monotonic() + _APPEND_TIMEOUT
        is_repeated = False
        while True:
            try:
                async with _as_connection_error():
                    try:
                        answer = await self._client.jetstream().publish(
                            subject, data, timeout=_REQUEST_TIMEOUT, headers=None if headers is None else dict(headers)
                        )
                    except APIError as error:
                        if error.err_code not in _WRONG_LAST_SEQUENCE:
                            raise
                        # After an attempt without an answer, the log tells if that attempt was the next one.
                        return await self._position_of(subject, data, after) if is_repeated else None
                    return int(answer.seq)
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                is_repeated = True
                await asyncio.sleep(_RETRY_PAUSE)

    async def _position_of(self, subject: str, data: bytes, after: int) -> int | None:
        """Return the position of the entry with these data behind the position `after`; None if others are there.

        NATS may show late what it has stored, so an empty log is read again.

        Raises:
            ConnectionError: there is no entry behind `after`: the one for which NATS refused these data is lost.
        """
        for _ in range(_MOST_STALE_READS):
            entries = await self._read(subject, after)
            if entries:
                return next((entry.position for entry in entries if entry.data == data), None)
            await asyncio.sleep(_RETRY_PAUSE)  # a server of the cluster that has not heard of the last entries
        raise ConnectionError("NATS has refused a frame, and has no other in its place")

    async def publish(self, call_id: str, frame: bytes) -> None:
        """Append a frame to the log of a call without an acknowledgement.

        Raise `ConnectionError` if no server is connected.
        """
        if not self._client.is_connected:
            raise ConnectionError("NATS cannot be reached")
        try:  # without `_as_connection_error`, as this is the one method that is called for each frame
            await self._client.publish(f"miniagents.log.{call_id}", frame)
        except Exception as error:
            raise ConnectionError(describe_error(error)) from error

    async def read(self, call_id: str, *, after: int = 0) -> list[Entry]:
        """Return the entries of a call's log after the position `after`; all entries by default."""
        return await self._read(f"miniagents.log.{call_id}", after)

    async def _read(self, subject: str, after: int) -> list[Entry]:
        """Return the messages of a subject after the position `after`, by as many requests as are needed."""
        entries: list[Entry] = []
        async with _as_connection_error():
            while True:
                batch, pending = await self._read_batch(subject, after)
                entries += batch
                if not pending or not batch:
                    return entries
                after = batch[-1].position

    async def _read_batch(self, subject: str, after: int) -> tuple[list[Entry], int]:
        """Return the next messages of a subject after the position `after`, and the number of those left.

        Make one request. Raise `ConnectionError` if the server refuses it.
        """
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        request = {"seq": after + 1, "next_by_subj": subject, "batch": _BATCH}
        entries: list[Entry] = []
        try:
            await self._client.publish(f"$JS.API.DIRECT.GET.{_LOGS}", json.dumps(request).encode(), reply=inbox)
            while True:
                message = await subscription.next_msg(timeout=_REQUEST_TIMEOUT)
                headers = message.headers or {}
                if "Status" in headers:
                    if headers["Status"] not in ("204", _NONE_FOUND):
                        raise ConnectionError(f"NATS cannot read a log: {headers}")
                    return entries, int(headers.get("Nats-Num-Pending", 0))
                entries.append(Entry(int(headers["Nats-Sequence"]), 0, message.data))
        finally:
            with suppress(Exception):
                await subscription.unsubscribe()

    async def count(self, call_id: str) -> int:
        """Return the number of entries of a log."""
        subject = f"miniagents.log.{call_id}"
        request = {"seq": 1, "next_by_subj": subject, "batch": 1}
        async with _as_connection_error():
            answer = await self._client.request(
                f"$JS.API.DIRECT.GET.{_LOGS}", json.dumps(request).encode(), timeout=_REQUEST_TIMEOUT
            )
        headers = answer.headers or {}
        return 0 if headers.get("Status") == _NONE_FOUND else int(headers["Nats-Num-Pending"]) + 1

    async def follow(self, call_id: str, callback: Callable[[Entry], None]) -> Callable[[], Awaitable[None]]:
        """Call `callback` with each entry that is stored in a call's log from now on.

        Return an async function that ends the subscription.
        """

        async def on_message(message: Any) -> None:
            headers = message.headers
            callback(Entry(int(headers["Nats-Sequence"]), int(headers["Nats-Last-Sequence"]), message.data))

        return await self._subscribe(f"miniagents.live.{call_id}", on_message)

    async def _subscribe(self, subject: str, on_message: Any) -> Callable[[], Awaitable[None]]:
        """Call `on_message` with each message of a subject; return an async function that ends the subscription."""
        async with _as_connection_error():
            subscription = await self._client.subscribe(
                subject, cb=on_message, pending_msgs_limit=_MOST_PENDING, pending_bytes_limit=_MOST_PENDING
            )

        async def end() -> None:
            if not self._client.is_closed:
                async with _as_connection_error():
                    await subscription.unsubscribe()

        return end

    # --- workers

    async def beat(self, worker: str, interval: float) -> None:
        """Send a sign of life of a worker every `interval` seconds until cancelled.

        A thread sends them, over a connection of its own, so they go on while this loop is blocked. Raise the error
        that ends the thread.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        must_end = threading.Event()

        def settle(error: BaseException | None) -> None:
            """Tell the waiting task that the thread has ended."""
            if not ended.done():
                ended.set_exception(error or RuntimeError("The thread with the signs of life has ended"))

        def run() -> None:
            """Send signs of life in a loop of this thread, and report its end to the waiting task."""
            error: BaseException | None = None
            try:
                asyncio.run(self._beat(f"miniagents.beat.{worker}", interval, must_end))
            except BaseException as problem:
                error = problem
            with suppress(RuntimeError):  # the other loop is closed
                loop.call_soon_threadsafe(settle, error)

        thread = threading.Thread(target=run, name="miniagents heartbeat", daemon=True)
        thread.start()
        try:
            await asyncio.shield(ended)
        finally:
            must_end.set()
            with suppress(BaseException):
                async with asyncio.timeout(_REQUEST_TIMEOUT):
                    await ended

    async def _beat(self, subject: str, interval: float, must_end: threading.Event) -> None:
        """Send a sign of life every `interval` seconds until `must_end` is set; runs in the thread's loop.

        One that cannot be sent is left out.
        """
        client = await self._broker.open_client(lambda: None)
        try:
            last = 0.0
            while not must_end.is_set():
                if time.monotonic() - last >= interval and client.is_connected:
                    last = time.monotonic()
                    with suppress(Exception):
                        await client.publish(subject, b"")
                await asyncio.sleep(min(interval, _RETRY_PAUSE))
        finally:
            await client.close()

    async def watch(self, worker: str, callback: Callable[[], None]) -> Callable[[], Awaitable[None]]:
        """Call `callback` at each sign of life of a worker; return an async function that ends the subscription."""

        async def on_message(_: Any) -> None:
            callback()

        return await self._subscribe(f"miniagents.beat.{worker}", on_message)

    async def listen(self, worker: str, callback: Callable[[bytes], None]) -> None:
        """Call `callback` with each notice for a worker, and answer it."""

        async def on_message(message: Any) -> None:
            callback(message.data)
            await message.respond(b"")

        await self._subscribe(f"miniagents.tell.{worker}", on_message)

    async def notify(self, worker: str, notice: bytes) -> bool:
        """Send a notice to a worker.

        Return True if the worker has answered, False if it does not listen or answer in time.
        """
        from nats.errors import NoRespondersError
        from nats.errors import TimeoutError as NatsTimeoutError

        async with _as_connection_error():
            try:
                await self._client.request(f"miniagents.tell.{worker}", notice, timeout=_REQUEST_TIMEOUT)
            except (NoRespondersError, NatsTimeoutError):
                return False
        return True


class _Queue:
    """Queue of calls of one agent, for its workers.

    Args:
        client: client of nats-py.
        agent: the alias as a token of a subject.
    """

    def __init__(self, client: Any, agent: str) -> None:
        self._client = client
        self._agent = agent
        self._name = f"worker_{agent}"
        self._inbox = ""
        self._subscription: Any = None
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._asked = 0
        """Number of calls that the server may still send for earlier requests."""
        self._asked_until = 0.0

    async def take(self, count: int) -> list[QueuedCall]:
        """Return calls as soon as there are some, at most `count`; [] after some seconds without any."""
        if not self._inbox:
            await self._open()
        now = time.monotonic()
        if now > self._asked_until:
            self._asked = 0
        if count > self._asked:
            request = {"batch": count - self._asked, "expires": int(_TAKE_TIMEOUT * 1e9)}
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{_CALLS}.{self._name}"
            await self._client.publish(subject, json.dumps(request).encode(), reply=self._inbox)
            self._asked = count
            self._asked_until = now + _TAKE_TIMEOUT + 0.5
        found: list[QueuedCall] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_TAKE_TIMEOUT):
                while not found and self._asked:
                    self._add(await self._arrived.get(), found)
        while not self._arrived.empty() and len(found) < count:
            self._add(self._arrived.get_nowait(), found)
        return found

    def _add(self, message: Any, found: list[QueuedCall]) -> None:
        """Add a call to `found`; a message with a status only tells that an earlier request has ended.

        Raises:
            ConnectionError: the status is an error.
        """
        status = (message.headers or {}).get("Status")
        if status is None:
            self._asked = max(self._asked - 1, 0)
            found.append(
                QueuedCall(message.data, partial(_answer, message.ack), partial(_answer, message.nak, _GIVE_BACK_DELAY))
            )
            return
        self._asked = max(self._asked - int(message.headers.get("Nats-Pending-Messages", self._asked)), 0)
        if status not in ("404", "408", "409"):
            raise ConnectionError(f"NATS does not give calls: {message.headers}")

    async def _open(self) -> None:
        """Make the consumer that all workers of this agent share, and subscribe to the answers."""
        from nats.js import api

        await self._client.jetstream(timeout=_REQUEST_TIMEOUT).add_consumer(
            _CALLS,
            api.ConsumerConfig(
                durable_name=self._name,
                filter_subject=f"miniagents.call.{self._agent}",
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=_ACK_WAIT,
                max_ack_pending=-1,
                max_waiting=10_000,
            ),
        )
        inbox = self._client.new_inbox()

        async def on_message(message: Any) -> None:
            self._arrived.put_nowait(message)

        self._subscription = await self._client.subscribe(inbox, cb=on_message)
        self._inbox = inbox

    async def close(self) -> None:
        """Unsubscribe from the answers, which ends the requests at the server."""
        if self._subscription is not None:
            with suppress(Exception):
                await self._subscription.unsubscribe()


async def _answer(answer: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Tell the server by `answer` that a call was taken or is given back; raise `ConnectionError` if that fails."""
    async with _as_connection_error():
        await answer(*arguments)


def _token(alias: str) -> str:
    """Return an agent's alias as one token of a NATS subject, or a part of a name: special characters become %XX."""
    return quote(alias, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")


@asynccontextmanager
async def _as_connection_error() -> AsyncIterator[None]:
    """Raise `ConnectionError` in place of errors of nats-py and of the network.

    Raise `CancelledError` if the task was cancelled in the block: nats-py and `asyncio.wait_for` may lose that.
    """
    import nats.errors

    task = asyncio.current_task()
    cancellations = 0 if task is None else task.cancelling()
    try:
        yield
    except ConnectionError:
        raise
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise ConnectionError(describe_error(error)) from error
    finally:
        if task is not None and task.cancelling() > cancellations:
            raise asyncio.CancelledError
