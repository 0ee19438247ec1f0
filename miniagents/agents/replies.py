"""The replies of one call: how they reach the caller and end, and what becomes of them when nobody can read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from miniagents._promising.sequence import SequenceCell
from miniagents.agents.shown_errors import error_message, with_its_error_shown
from miniagents.errors import StopDialog
from miniagents.messages import MessagePromise, MessageSequencePromise

if TYPE_CHECKING:
    import asyncio

    from miniagents._promising.promise import Promise
    from miniagents.agents.interaction import InteractionContext

__all__ = ["ReplyCell", "ReplyPromise"]

_dropped: list[list[Promise[Any]]] = []
"""Replies that are being let go of, one after the other instead of one inside the other."""


class ReplyCell(SequenceCell):
    """The replies of one call. Its end is the end of the call, told by the agent's task."""

    scope: InteractionContext
    errors_as_messages = False
    forsaken = False
    """Nobody can read these replies any more: what they would hold must not be kept alive by them."""

    def add(self, pieces: list[Promise[Any]]) -> None:
        """Append leaves and branches, unless nobody can read them."""
        if self.forsaken:
            return
        if self.errors_as_messages:
            pieces = [with_its_error_shown(piece) if _may_fail(piece) else piece for piece in pieces]
        super().add(pieces)

    def forsake(self) -> None:
        """The promise of these replies was lost while the agent is still running."""
        self.forsaken = True
        _dropped.append(self.pieces)
        self.pieces = []
        if len(_dropped) == 1:
            for pieces in _dropped:  # it grows while replies to replies are dropped: a chain of agents may be long
                pieces.clear()
            _dropped.clear()

    def leaf_of_error(self, error: BaseException) -> Promise[Any]:
        """An agent's error is the last of its replies, as an `ErrorMessage` where that was asked for."""
        if self.errors_as_messages and isinstance(error, Exception) and not isinstance(error, StopDialog):
            return MessagePromise.of_message(error_message(error))
        return super().leaf_of_error(error)

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """Everything that ends a call comes through here, also its cancellation before the first step."""
        if self.context is not None:
            self.context.forget(task)
        self.task = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and not isinstance(error, Exception)):
            self.cancelled()
        elif error is None:
            self.finish()
        else:
            self.fail(error)
        self.scope.ended()


def _may_fail(piece: Promise[Any]) -> TypeGuard[MessagePromise]:
    return isinstance(piece, MessagePromise) and not piece.is_resolved


class ReplyPromise(MessageSequencePromise):
    """What the caller of an agent reads. It is the only handle of its replies, and tells them when it is lost."""

    __slots__ = ()

    _cell: ReplyCell

    def __del__(self) -> None:
        if not self._cell.done:
            self._cell.forsake()
