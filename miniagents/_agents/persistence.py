"""Persistence: giving messages to the handlers that store them.

A `MessagePersister` gives each message object once to its handler, after the messages inside it. Messages that a
handler failed to store come again.
"""

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
"""An async function that stores messages; it gets the messages inside a message before that message."""


class _Batch(Cell[None]):
    """Cell of one call of a persistence handler, with the task that makes the call, for the search for deadlocks."""

    def __init__(self) -> None:
        super().__init__(Promise)
        self.task = asyncio.current_task()

    def notify_settled(self, result: Any) -> None:
        """Drop the reference to the task, and wake the tasks that wait for this call of the handler."""
        self.task = None
        self.wake_all()


_surrounding_batches: contextvars.ContextVar[frozenset[_Batch]] = contextvars.ContextVar("miniagents_persistence")
"""Batches whose handlers started the running code: waiting for one of them would be waiting for itself."""


class MessagePersister:
    """Sender of messages to one handler. A message counts as persisted when the handler returned without an error.

    Messages that the handler failed to store are given again, together with the next ones.
    """

    def __init__(self, handler: PersistHandler) -> None:
        if not callable(handler):
            raise TypeError(f"A persistence handler must be an async function of a tuple of messages, not {handler!r}")
        self.handler = handler
        self._waiting: dict[int, Message] = {}
        self._running_batches: dict[int, _Batch] = {}
        self.is_scheduled = False
        """True if a task is about to call `persist_waiting`."""

    def add(self, messages: Iterable[Message]) -> list[int]:
        """Queue messages for the handler, each after its sub-messages; return the keys of those not yet persisted.

        Messages that wait, or that a running call has, are not queued twice.
        """
        keys: list[int] = []
        for message in messages:
            for each in (*message.sub_messages(), message):
                if self.handler not in _persisted_by(each):
                    keys.append(id(each))
                    if id(each) not in self._running_batches:
                        self._waiting.setdefault(id(each), each)
        return keys

    @property
    def has_work(self) -> bool:
        """True if messages wait for the handler."""
        return bool(self._waiting)

    async def persist(self, messages: Iterable[Message]) -> None:
        """Give these messages to the handler, and return when it has stored them.

        For messages that a running call of the handler has, wait for that call. If no call is running, the other
        waiting messages are stored, too; otherwise they wait, because the running call may have messages inside them.
        Code that the handler runs does not wait for the handler's own call.

        Raises:
            Exception: the error of the handler.
        """
        keys = self.add(messages)
        surrounding = _surrounding_batches.get(frozenset())
        while others := {self._running_batches[key] for key in keys if key in self._running_batches} - surrounding:
            await others.pop().wait(for_end=True)
        if self._running_batches:
            await self._call_handler({key: self._waiting[key] for key in keys if key in self._waiting})
        else:
            await self._call_handler(dict(self._waiting))

    async def persist_waiting(self) -> None:
        """Give the waiting messages, if any, to the handler, after its running calls have ended.

        Raise the handler's error.
        """
        while self._running_batches:
            await next(iter(self._running_batches.values())).wait(for_end=True)
        self.is_scheduled = False
        await self._call_handler(dict(self._waiting))

    async def _call_handler(self, messages: dict[int, Message]) -> None:
        """Call the handler with messages, given by their keys, and mark them as persisted by it.

        Do nothing if there are no messages.

        If the handler fails or is cancelled, queue the messages again as the first ones, and raise its error.
        """
        if not messages:
            return
        batch = _Batch()
        for key in messages:
            del self._waiting[key]
            self._running_batches[key] = batch
        token = _surrounding_batches.set(_surrounding_batches.get(frozenset()) | {batch})
        try:
            await self.handler(tuple(messages.values()))
        except BaseException:
            self._waiting = {**messages, **self._waiting}  # first again: waiting messages may contain these
            raise
        else:
            for message in messages.values():
                # The mark belongs to the object and is no part of its immutable value.
                object.__setattr__(message, "_persisted", (*_persisted_by(message), self.handler))
        finally:
            _surrounding_batches.reset(token)
            for key in messages:
                del self._running_batches[key]
            batch.resolve(None)


def _persisted_by(message: Message) -> tuple[PersistHandler, ...]:
    """Return the handlers that have stored this message object."""
    handlers: tuple[PersistHandler, ...] = getattr(message, "_persisted", ())
    return handlers
