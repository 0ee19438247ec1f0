"""Handing messages to those who keep them: each object once, what it contains first, and again after a failure."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from miniagents._promising.promise import Cell, Promise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miniagents.messages import Message


PersistHandler = Callable[["tuple[Message, ...]"], Awaitable[None]]
"""An async function of messages to keep; those that others refer to come before them."""


class _Batch(Cell[None]):
    """A handler at work. Whoever waits for it waits for its task, which is what the deadlock report wants to know."""

    def __init__(self) -> None:
        super().__init__(Promise)
        self.task = asyncio.current_task()

    def notify_settled(self, result: Any) -> None:
        """There is no promise of it that anybody could have listened for."""
        self.task = None
        self.wake_all()


_around: contextvars.ContextVar[frozenset[_Batch]] = contextvars.ContextVar("miniagents_persistence")
"""On whose behalf code runs that a handler has started: waiting for these would be waiting for itself."""


class MessagePersister:
    """Gives messages to one handler. Only what the handler took without an error counts as persisted.

    What it failed at is offered again together with what comes next.
    """

    def __init__(self, handler: PersistHandler) -> None:
        if not callable(handler):
            raise TypeError(f"A persistence handler must be an async function of a tuple of messages, not {handler!r}")
        self.handler = handler
        self._waiting: dict[int, Message] = {}
        self._in_hand: dict[int, _Batch] = {}
        self.is_scheduled = False
        """Somebody is going to call `persist_all`."""

    def add(self, messages: Iterable[Message]) -> list[int]:
        """Note messages, each with its sub-messages before it, that are to be persisted; returns their keys."""
        keys: list[int] = []
        for message in messages:
            for each in (*message.sub_messages(), message):
                if self.handler not in _persisted_by(each):
                    keys.append(id(each))
                    if id(each) not in self._in_hand:
                        self._waiting.setdefault(id(each), each)
        return keys

    @property
    def has_work(self) -> bool:
        """Whether there is something the handler is to take."""
        return bool(self._waiting)

    async def persist(self, messages: Iterable[Message]) -> None:
        """Return when the handler has taken these, whoever handed them over; its error gets through.

        What else is waiting goes along, unless the handler is at work: parts of it may be in its hands.
        """
        keys = self.add(messages)
        around = _around.get(frozenset())
        while others := {self._in_hand[key] for key in keys if key in self._in_hand} - around:
            await others.pop().wait(for_end=True)
        if self._in_hand:
            await self._hand_over({key: self._waiting[key] for key in keys if key in self._waiting})
        else:
            await self._hand_over(dict(self._waiting))

    async def persist_all(self) -> None:
        """Give the handler what is waiting, as soon as it has nothing else in hand."""
        while self._in_hand:
            await next(iter(self._in_hand.values())).wait(for_end=True)
        self.is_scheduled = False
        await self._hand_over(dict(self._waiting))

    async def _hand_over(self, batch: dict[int, Message]) -> None:
        if not batch:
            return
        handing_over = _Batch()
        for key in batch:
            del self._waiting[key]
            self._in_hand[key] = handing_over
        token = _around.set(_around.get(frozenset()) | {handing_over})
        try:
            await self.handler(tuple(batch.values()))
        except BaseException:
            self._waiting = {**batch, **self._waiting}  # they come first again: others may refer to them
            raise
        else:
            for message in batch.values():
                # the mark sits on the object, which is immutable in everything that is a part of its value
                object.__setattr__(message, "_persisted", (*_persisted_by(message), self.handler))
        finally:
            _around.reset(token)
            for key in batch:
                del self._in_hand[key]
            handing_over.resolve(None)


def _persisted_by(message: Message) -> tuple[PersistHandler, ...]:
    handlers: tuple[PersistHandler, ...] = getattr(message, "_persisted", ())
    return handlers
