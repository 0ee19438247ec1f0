"""A clock that notices when an answer makes no progress any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from miniagents.errors import StreamStalledError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["StallWatch"]


class StallWatch:
    """Interrupts whoever waits for the next bytes when the last progress is too long ago.

    Progress is what the answer gains, not the bytes that arrive: pings and keep-alives can come for ever. One timer
    for the whole stream; what a chunk costs is two attribute writes and two look-ups. The time a consumer takes
    between two chunks does not count.

    Args:
        seconds: without progress; None watches nothing.
    """

    def __init__(self, seconds: float | None, provider: str) -> None:
        self._seconds = seconds
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self.waiting: asyncio.Task[object] | None = None
        """The task that waits for bytes; to be set to None while it does something else."""
        self._spent = 0.0  # seconds of waiting since the last progress, before the current wait
        self._since = self._loop.time()
        self._cancelling = 0
        self._fired = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._timer = self._loop.call_later(self._seconds, self._check)
        self.wait_begins(progress=True)
        return self

    def wait_begins(self, progress: bool) -> None:
        """The current task is about to wait for bytes; `progress`: whether the last ones brought any."""
        now = self._loop.time()
        self._spent = 0.0 if progress else self._spent + now - self._since
        self._since = now
        self.waiting = asyncio.current_task()

    def _check(self) -> None:
        seconds = self._seconds or 0.0
        task = self.waiting
        idle = self._spent + self._loop.time() - self._since if task is not None else 0.0
        if task is not None and idle >= seconds:
            self._fired = True
            self._cancelling = task.cancelling()
            task.cancel()
            return
        self._timer = self._loop.call_later(max(seconds - idle, 0.001), self._check)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        task = asyncio.current_task()
        # as asyncio.timeout does it: if somebody else cancelled the task as well, that goes first
        if self._fired and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise StreamStalledError(
                f"{self._provider} made no progress for {self._seconds:g} seconds", provider=self._provider
            ) from error
