"""How many requests may be in flight at once."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = ["RequestLimits"]


class RequestLimits:
    """The slots of an agent and of all its forks; each event loop has its own."""

    def __init__(self) -> None:
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, asyncio.Semaphore]] = (
            WeakKeyDictionary()
        )

    def slot(self, at_once: int | None) -> AbstractAsyncContextManager[Any]:
        """A context in which one of `at_once` slots is held; None is no limit.

        Raises:
            ValueError: `at_once` is not positive.
        """
        if at_once is None:
            return nullcontext()
        if at_once < 1:
            raise ValueError(f"max_concurrent_requests must be at least 1, not {at_once!r}")
        semaphores = self._semaphores.setdefault(asyncio.get_running_loop(), {})
        return semaphores.setdefault(at_once, asyncio.Semaphore(at_once))
