"""Handing messages to those who keep them: each object once, what it contains first, and again after a failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miniagents.messages import Message

__all__ = ["MessagePersister", "PersistHandler"]

PersistHandler = Callable[["tuple[Message, ...]"], Awaitable[None]]
"""An async function of messages to keep; those that others refer to come before them."""


class MessagePersister:
    """Gives messages to one handler. Only what the handler took without an error counts as persisted.

    What it failed at is offered again together with what comes next.
    """

    def __init__(self, handler: PersistHandler) -> None:
        if not callable(handler):
            raise TypeError(f"A persistence handler must be an async function of a tuple of messages, not {handler!r}")
        self.handler = handler
        self._waiting: dict[int, Message] = {}
        self._in_hand: set[int] = set()

    def add(self, messages: Iterable[Message]) -> None:
        """Note messages, each with its sub-messages before it, that are to be persisted."""
        for message in messages:
            for each in (*message.sub_messages(), message):
                if self.handler not in _persisted_by(each):
                    self._waiting.setdefault(id(each), each)

    @property
    def has_work(self) -> bool:
        """Whether there is something the handler has not taken yet."""
        return bool(self._waiting)

    async def persist(self) -> None:
        """Give the handler what is waiting; its error gets through, and the messages wait on."""
        batch = {key: message for key, message in self._waiting.items() if key not in self._in_hand}
        if not batch:
            return
        self._in_hand |= batch.keys()
        try:
            await self.handler(tuple(batch.values()))
        finally:
            self._in_hand -= batch.keys()
        for key, message in batch.items():
            # the mark sits on the object, which is immutable in everything that is a part of its value
            object.__setattr__(message, "_persisted", (*_persisted_by(message), self.handler))
            del self._waiting[key]


def _persisted_by(message: Message) -> tuple[PersistHandler, ...]:
    handlers: tuple[PersistHandler, ...] = getattr(message, "_persisted", ())
    return handlers
