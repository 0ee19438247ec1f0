"""Protocol of a broker between callers and workers of remote agents: queues of calls, logs of frames, and notices.

A broker has queues of calls, one for each agent, and logs of frames, one for each call. A log keeps its order, and
numbers its entries. It lets one of several writers be the first, and tells followers of each entry that it has stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager


class Entry(NamedTuple):
    """Frame in a log."""

    position: int
    """Position of the entry; it grows, with gaps, and is above 0."""
    previous: int
    """Position of the entry before it in this log; 0 for the first. Only entries that a follower gets have it."""
    data: bytes


class QueuedCall(NamedTuple):
    """Call that a worker has taken from a queue. Unless the worker claims it soon, the broker gives it to another."""

    data: bytes
    remove: Callable[[], Awaitable[None]]
    """Removes the call from the queue."""
    give_back: Callable[[], Awaitable[None]]
    """Leaves the call to other workers."""


class Connection(Protocol):
    """Open connection of one event loop to a broker.

    Each method may raise `ConnectionError` if the broker does not answer for some seconds; then it may have done the
    work or not.
    """

    @property
    def largest_frame(self) -> int:
        """Number of bytes that a frame may have."""

    @property
    def is_connected(self) -> bool:
        """True unless the broker cannot be reached now."""

    async def wait_until_connected(self) -> None:
        """Return as soon as the broker can be reached again; called after a request has failed."""

    def on_reconnected(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each reconnect: frames without acknowledgement, and live entries, may be lost."""

    async def round_trip(self) -> None:
        """Return when the broker has got all that was sent, and this process all that the broker sent before."""

    # --- queues

    async def enqueue(self, agent: str, call_id: str, call: bytes) -> None:
        """Append a call to the queue of an agent; do nothing if it was appended before."""

    async def take(self, agent: str, count: int) -> list[QueuedCall]:
        """Return calls of the queue of an agent, at most `count`, as soon as there are some.

        Return none after some seconds without any.
        """

    # --- logs

    async def append(self, call_id: str, frame: bytes, *, after: int | None) -> int | None:
        """Append a frame to the log of a call, and return its position when it is stored.

        Args:
            call_id: id of the call.
            frame: the frame.
            after: position of the last entry; 0 if there must be none, None if there may be others. Return None,
                and append nothing, if the log has gone on.
        """

    async def publish(self, call_id: str, frame: bytes) -> None:
        """Append a frame to the log of a call without an acknowledgement."""

    async def read(self, call_id: str, *, after: int = 0) -> list[Entry]:
        """Return the entries of a call's log after the position `after`; all entries by default."""

    async def count(self, call_id: str) -> int:
        """Return the number of entries of a log."""

    async def follow(self, call_id: str, callback: Callable[[Entry], None]) -> Callable[[], Awaitable[None]]:
        """Call `callback` with each entry that is stored in a call's log from now on; some may be lost.

        Return an async function that ends the subscription.
        """

    # --- workers

    async def beat(self, worker: str, interval: float) -> None:
        """Send a sign of life of a worker every `interval` seconds until cancelled, also while this loop is blocked."""

    async def watch(self, worker: str, callback: Callable[[], None]) -> Callable[[], Awaitable[None]]:
        """Call `callback` at each sign of life of a worker; return an async function that ends the subscription."""

    async def listen(self, worker: str, callback: Callable[[bytes], None]) -> None:
        """Call `callback` with each notice for a worker."""

    async def notify(self, worker: str, notice: bytes) -> bool:
        """Send a notice to a worker; return True if the worker has got it."""


class Broker(Protocol):
    """Address of a broker; its `str` is for texts of errors."""

    @property
    def last_problem(self) -> str:
        """Text of the last error of a connection that could not be opened; "" if there is none."""

    def connect(self, *, keep: float | None = None) -> AbstractAsyncContextManager[Connection]:
        """Return the context manager of a connection; entering it waits until the broker can be reached.

        Args:
            keep: seconds for which a frame is kept; None to leave that to workers.
        """
