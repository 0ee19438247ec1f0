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
    for the whole stream; what a chunk costs is two attribute writes and a look at the clock. The time a consumer takes
    between two tokens does not count. It is entered in the task that waits.

    Args:
        seconds: without progress; None watches nothing.
    """

    def __init__(self, seconds: float | None, provider: str) -> None:
        self._seconds = seconds
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self.since: float | None = None
        """When the wait for progress began, by the loop's clock; to be set to None while the task does something
        else."""
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self.since = self._loop.time()
        if self._seconds is not None:
            self._timer = self._loop.call_later(self._seconds, self._check)
        return self

    def _check(self) -> None:
        seconds = self._seconds or 0.0
        idle = 0.0 if self.since is None else self._loop.time() - self.since
        if self._task is not None and idle >= seconds:
            self._fired = True
            self._cancelling = self._task.cancelling()
            self._task.cancel()
            return
        self._timer = self._loop.call_later(max(seconds - idle, 0.001), self._check)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        task = self._task
        # as asyncio.timeout does it: if somebody else cancelled the task as well, that goes first
        if self._fired and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise StreamStalledError(
                f"{self._provider} made no progress for {self._seconds:g} seconds", provider=self._provider
            ) from error
