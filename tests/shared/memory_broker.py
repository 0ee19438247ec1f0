"""A broker in memory, for tests in virtual time, which can lose, duplicate and delay what it carries."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from miniagents import MiniAgents
from miniagents.ext._remote_broker import Entry, QueuedCall
from miniagents.ext.remote import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from miniagents import MiniAgent

_LATENCY = 0.001


class MemoryBroker:
    """Broker whose connections are in one event loop."""

    def __init__(self, *, largest_frame: int = 100_000, delivery: Callable[[], list[float]] | None = None) -> None:
        self.largest_frame = largest_frame
        self.delivery = delivery or (lambda: [_LATENCY])
        """Returns the delays after which a follower gets a live entry, once for each delay; none if it is lost."""
        self.loses_frame: Callable[[bytes], bool] = lambda frame: False
        """Returns True for a frame without acknowledgement that is lost before it is stored."""
        self.is_up = asyncio.Event()
        self.is_up.set()
        self.loses_answer: Callable[[bytes], bool] = lambda frame: False
        """Returns True for a frame that is stored, while its writer gets no answer."""
        self.stale_reads = 0
        """Number of reads that find nothing, as at a server of a cluster that has not heard of the last entries."""
        self.last_problem = ""
        self.is_beating = True
        """False if signs of life of workers are lost."""
        self.queues: dict[str, deque[tuple[str, bytes]]] = defaultdict(deque)
        self.queued: set[str] = set()
        self.logs: dict[str, list[Entry]] = defaultdict(list)
        self.followers: dict[str, list[Callable[[Entry], None]]] = defaultdict(list)
        self.watchers: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self.listeners: dict[str, tuple[MemoryConnection, Callable[[bytes], None]]] = {}
        self.connections: list[MemoryConnection] = []
        self.missed: list[tuple[str, bytes]] = []
        self.changed = asyncio.Event()
        self.position = 0

    def __str__(self) -> str:
        return "in memory"

    @asynccontextmanager
    async def connect(self, *, keep: float | None = None) -> AsyncIterator[MemoryConnection]:
        """Open a connection."""
        await self.is_up.wait()
        connection = MemoryConnection(self)
        self.connections.append(connection)
        try:
            yield connection
        finally:
            self.connections.remove(connection)

    def go_down(self) -> None:
        """Leave all requests unanswered, like a broker that is down."""
        self.is_up.clear()

    def come_up(self) -> None:
        """Answer requests again, and tell the connections."""
        self.is_up.set()
        for connection in self.connections:
            for callback in connection.callbacks:
                callback()

    def store(self, call_id: str, frame: bytes) -> int:
        """Store a frame, and tell followers."""
        log = self.logs[call_id]
        self.position += 1
        entry = Entry(self.position, log[-1].position if log else 0, frame)
        log.append(entry)
        for callback in self.followers[call_id]:
            for delay in self.delivery():
                asyncio.get_running_loop().call_later(delay, self._deliver, call_id, callback, entry)
        return self.position

    def _deliver(self, call_id: str, callback: Callable[[Entry], None], entry: Entry) -> None:
        if callback in self.followers[call_id] and self.is_up.is_set():
            callback(entry)


class MemoryConnection:
    """Connection to a `MemoryBroker`, with the methods of the framework's protocol `Connection`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._going = asyncio.Event()
        self._going.set()
        self.callbacks: list[Callable[[], None]] = []

    def stop(self) -> None:
        """Stop like the connection of a process that is stopped or killed: nothing is sent any more."""
        self._going.clear()

    def go_on(self) -> None:
        """Go on after a stop, with the notices that came meanwhile."""
        self._going.set()
        for worker, notice in self._broker.missed:
            self._broker.listeners[worker][1](notice)
        self._broker.missed.clear()

    @property
    def largest_frame(self) -> int:
        return self._broker.largest_frame

    @property
    def is_connected(self) -> bool:
        return self._broker.is_up.is_set()

    async def wait_until_connected(self) -> None:
        await asyncio.sleep(0.1)
        await self._broker.is_up.wait()

    def on_reconnected(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    async def round_trip(self) -> None:
        await asyncio.sleep(_LATENCY)
        await self._going.wait()
        if not self._broker.is_up.is_set():
            await asyncio.sleep(1)
            raise ConnectionError("the broker is down")

    async def enqueue(self, agent: str, call_id: str, call: bytes) -> None:
        await self.round_trip()
        if call_id not in self._broker.queued:
            self._broker.queued.add(call_id)
            self._broker.queues[agent].append((call_id, call))
            self._broker.changed.set()

    async def take(self, agent: str, count: int) -> list[QueuedCall]:
        await self.round_trip()
        queue = self._broker.queues[agent]
        try:
            async with asyncio.timeout(5):
                while not queue:
                    self._broker.changed.clear()
                    await self._broker.changed.wait()
        except TimeoutError:
            return []
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        return [QueuedCall(each[1], self.round_trip, partial(self._give_back, agent, each)) for each in taken]

    async def _give_back(self, agent: str, call: tuple[str, bytes]) -> None:
        self._broker.queues[agent].appendleft(call)
        await asyncio.sleep(0.1)
        self._broker.changed.set()

    async def append(self, call_id: str, frame: bytes, *, after: int | None) -> int | None:
        await self.round_trip()
        log = self._broker.logs[call_id]
        if after is not None and after != (log[-1].position if log else 0):
            return None
        position = self._broker.store(call_id, frame)
        if self._broker.loses_answer(frame):
            raise ConnectionError("the answer is lost")
        return position

    async def publish(self, call_id: str, frame: bytes) -> None:
        await self._going.wait()
        if self._broker.is_up.is_set() and not self._broker.loses_frame(frame):
            self._broker.store(call_id, frame)

    async def read(self, call_id: str, *, after: int = 0) -> list[Entry]:
        await self.round_trip()
        if self._broker.stale_reads:
            self._broker.stale_reads -= 1
            return []
        return [entry for entry in self._broker.logs[call_id] if entry.position > after]

    async def count(self, call_id: str) -> int:
        await self.round_trip()
        return len(self._broker.logs[call_id])

    async def follow(self, call_id: str, callback: Callable[[Entry], None]) -> Callable[[], Awaitable[None]]:
        return self._add(self._broker.followers[call_id], callback)

    def _add(
        self, callbacks: list[Callable[..., None]], callback: Callable[..., None]
    ) -> Callable[[], Awaitable[None]]:
        callbacks.append(callback)

        async def end() -> None:
            callbacks.remove(callback)

        return end

    async def beat(self, worker: str, interval: float) -> None:
        while True:
            await self._going.wait()
            if self._broker.is_beating and self._broker.is_up.is_set():
                for callback in list(self._broker.watchers[worker]):
                    callback()
            await asyncio.sleep(interval)

    async def watch(self, worker: str, callback: Callable[[], None]) -> Callable[[], Awaitable[None]]:
        return self._add(self._broker.watchers[worker], callback)

    async def listen(self, worker: str, callback: Callable[[bytes], None]) -> None:
        self._broker.listeners[worker] = self, callback

    async def notify(self, worker: str, notice: bytes) -> bool:
        await self.round_trip()
        connection, callback = self._broker.listeners[worker]
        if not connection._going.is_set():
            await asyncio.sleep(1)
            self._broker.missed.append((worker, notice))
            return False
        callback(notice)
        return True


@asynccontextmanager
async def worker(broker: MemoryBroker, *agents: MiniAgent[Any], **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Serve agents in a task with a run of its own, which is cancelled at the end."""

    async def work() -> None:
        async with MiniAgents(unobserved_errors="log"):
            await serve(broker, *agents, **options)

    task = asyncio.create_task(work())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
