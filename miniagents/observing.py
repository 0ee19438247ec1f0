"""Observers of a run: functions that are told when an agent call, a request to a model or a call of a tool begins.

An observer returns a context manager, which surrounds the operation. `MiniAgents(observers=[...])` observes one run,
`with observe(observer):` all runs that begin inside. What an observer does changes no reply: its errors are logged.

An operation runs in a task of its own, with its own context variables. A variable that an observer sets is seen by the
code of the operation and by all that this code starts, and by no reader of a message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from miniagents._promising.context import current_scope
from miniagents._promising.freezing import freeze
from miniagents.errors import FreezeError
from miniagents.messages import Message, MessagePromise, MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterator

    from miniagents._agents.interaction import InteractionContext
    from miniagents._promising.context import PromisingContext
    from miniagents._promising.streamed import StreamCell
    from miniagents.messages import MessageEvent
    from miniagents.messages._message import MessageCell

__all__ = ["Observer", "Operation", "observe"]

logger: logging.Logger = logging.getLogger("miniagents")

Kind = Literal["agent", "request", "tool"]


class Operation:
    """One agent call, one request to a model, or one call of a tool, as observers see it."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_read_asked",
        "_read_result",
        "kind",
        "name",
        "on_event",
        "on_token",
        "parent",
        "redact",
    )

    kind: Literal["agent", "request", "tool"]
    name: str
    """The alias of the agent, the name of the model, or the name of the tool."""
    parent: Operation | None
    """The operation that has begun this one; None outside of agents."""
    on_token: Callable[[str], object] | None
    """Function that gets each token of an answer, or each piece of a tool's result, as it comes.

    An observer may set it on entering the operation. Each observer has a function of its own; None for none.
    """
    on_event: Callable[[MessageEvent], object] | None
    """Function that gets the other events of an answer, such as `ReasoningDelta` or `AnswerRestarted`; set likewise."""
    redact: Callable[[str], str]
    """Function that replaces the secrets of the request in a text, such as that of an error.

    An agent call knows no secret: its function returns the text as it is.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        parent: Operation | None,
        read_asked: Callable[[], dict[str, Any]],
        redact: Callable[[str], str],
    ) -> None:
        self.kind = kind
        self.name = name
        self.parent = parent
        self.on_token = self.on_event = None
        self.redact = redact
        self._read_asked = read_asked
        self._asked: Mapping[str, Any] | None = None
        self._read_result: Callable[[], Message] | None = None

    def __repr__(self) -> str:
        return f"<Operation: {self.kind} {self.name}>"

    @property
    def asked(self) -> Mapping[str, Any]:
        """Description of the work, which cannot be changed.

        - agent: `description`, `messages` (a promise, because they may still come; None if no program has it any more),
          `arguments`
        - request: `messages` (a tuple), `system`, `provider`, `api`, `address` and `port` of the server, `stream`, and
          `settings`, the other parameters of the request
        - tool: `call`, the `ToolCall` with its arguments, and `description`
        """
        if self._asked is None:
            self._asked = _Asked(self._read_asked())
        return self._asked

    @property
    def result(self) -> Message | None:
        """Message with which the operation has ended: the answer, the result of the tool, or the agent's last reply.

        After a failure, the part that had come. None before the end, without any message, and if the last reply of an
        agent has not come when the agent ends.
        """
        return None if self._read_result is None else self._read_result()


class _Asked(Mapping[str, Any]):
    """Items of `Operation.asked`; each is made immutable when an observer reads it."""

    __slots__ = ("_frozen", "_items")

    def __init__(self, items: dict[str, Any]) -> None:
        self._items = items
        self._frozen: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._frozen:
            self._frozen[name] = _frozen(self._items[name])
        return self._frozen[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(dict(self))


Observer = Callable[[Operation], AbstractContextManager[None]]
"""Function that gets each operation at its beginning, and returns a context manager, which is left at its end.

Exceptions of the operation are given to the context manager and then raised unchanged, also if it asks to drop them. A
cancelled operation and an abandoned stream end with a `CancelledError`. An observer that has a true attribute `is_idle`
when a run begins is left out of that run.
"""

_observers: ContextVar[tuple[Observer, ...]] = ContextVar("miniagents_observers", default=())
"""Observers of all runs that begin here."""
_current: ContextVar[Operation | None] = ContextVar("miniagents_operation", default=None)
"""The operation that the running code belongs to."""
_ENDED = Context()
"""Variables of all operations that have ended."""


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Return a context manager in which each run that begins has this observer, as if `MiniAgents` had got it.

    It holds for the code inside and for the tasks which that code starts, and not for other threads. An observer that
    is given twice is called once.

    Args:
        observer: function that gets each `Operation`.

    Raises:
        TypeError: the observer cannot be called.
    """
    (checked,) = check_observers([observer])
    token = _observers.set((*_observers.get(), checked))
    try:
        yield
    finally:
        _observers.reset(token)


def check_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Return the observers as a tuple; raise `TypeError` if one cannot be called, or if this is no iterable."""
    if not isinstance(observers, Iterable):
        raise TypeError(f"observers must be a list of functions, as in observers=[...], not {observers!r:.100}")
    checked = tuple(observers)
    for each in checked:
        if not callable(each):
            raise TypeError(f"an observer must be a function of an Operation, not {each!r:.100}")
    return checked


def observers_of_run(given: Iterable[Observer], outer: PromisingContext | None) -> tuple[RunObserver, ...]:
    """Return the observers of a run that begins: those of the run around it, of `observe`, and the given ones.

    Args:
        given: observers of this run.
        outer: the context around it. Its observers are off in both runs once they have failed.
    """
    while outer is not None and not hasattr(outer, "observers"):
        outer = outer.parent
    found: list[RunObserver] = [*getattr(outer, "observers", ())]
    for each in (*_observers.get(), *given):
        if not getattr(each, "is_idle", False) and all(each != known.observer for known in found):
            found.append(RunObserver(each))
    return tuple(found)


class RunObserver:
    """An observer in one run; it is off after its first error."""

    __slots__ = ("is_off", "observer")

    def __init__(self, observer: Observer) -> None:
        self.observer: Observer = observer
        self.is_off: bool = False

    def turn_off(self, operation: Operation, error: BaseException) -> None:
        """Log an error of the observer, and call it no more; log no second error.

        Raises:
            KeyboardInterrupt, SystemExit: the error is one of these, which no observer causes.
        """
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if not self.is_off:
            self.is_off = True
            logger.error(
                "The observer %r failed at %r, and is off for the rest of this run",
                self.observer,
                operation,
                exc_info=error,
            )


class Observation:
    """One operation with the observers that have entered it.

    Args:
        observers: the observers of the run.
        kind: the kind of the operation.
        name: its name, see `Operation`.
        redact: function that replaces secrets in a text.
        agent: the observation of the agent that this operation works for. It does not end before this observation, and
            fails with it.
    """

    __slots__ = (
        "_agent",
        "_entered",
        "_error",
        "_kind",
        "_listeners",
        "_name",
        "_observers",
        "_open",
        "_read_result",
        "_redact",
        "failure",
        "operation",
        "variables",
    )

    def __init__(
        self,
        observers: tuple[RunObserver, ...],
        kind: Kind,
        name: str,
        redact: Callable[[str], str] = str,
        agent: Observation | None = None,
    ) -> None:
        self.variables: Context = (copy_context if agent is None else agent.copy_variables)()
        """The context variables with which the task of the operation runs; empty after the end."""
        self.operation: Operation | None = None
        """The operation, once it has begun."""
        self.failure: BaseException | None = None
        """An error with which the operation ends, and which is not raised because a model is told of it."""
        self._observers = observers
        self._kind: Kind = kind
        self._name = name
        self._redact = redact
        self._entered: list[tuple[RunObserver, AbstractContextManager[None]]] = []
        self._listeners: list[tuple[RunObserver, Callable[[str], object] | None, Callable[[Any], object] | None]] = []
        self._error: BaseException | None = None
        self._read_result: Callable[[], Message] | None = None
        self._open: int = 1
        """Number of operations that have not ended: this one, and those that work for it."""
        self._agent = agent
        if agent is not None:
            agent._open += 1

    def __del__(self) -> None:
        """End an operation that nothing has ended, so that its observers are left."""
        if self._open > 0:  # the task was cancelled before its first step
            self.end(None)

    def copy_variables(self) -> Context:
        """Return the variables for the task of an operation that works for this one.

        If this one has ended, return the current ones.
        """
        return self.variables.copy() if self._open > 0 else copy_context()

    def begin(self, read_asked: Callable[[], dict[str, Any]]) -> None:
        """Begin the operation, and enter the observers; the task of the operation calls this.

        Args:
            read_asked: function that returns the items of `Operation.asked`. It is called if an observer asks.
        """
        operation = self.operation = Operation(self._kind, self._name, _current.get(), read_asked, self._redact)
        _current.set(operation)
        for observer in self._observers:
            if observer.is_off:
                continue
            try:
                manager = observer.observer(operation)
                type(manager).__enter__(manager)
            except BaseException as error:
                observer.turn_off(operation, error)
            else:
                self._entered.append((observer, manager))
                if operation.on_token is not None or operation.on_event is not None:
                    self._listeners.append((observer, operation.on_token, operation.on_event))
            operation.on_token = operation.on_event = None

    async def run(
        self,
        ctx: InteractionContext,
        work: Callable[[], Awaitable[object]],
        arguments: dict[str, Any],
        replies: StreamCell[Any, Any],
    ) -> None:
        """Await the work of an agent as the operation, and raise its error.

        Args:
            ctx: the context of the agent's call.
            work: function that returns the awaitable.
            arguments: keyword arguments of the agent.
            replies: the state of the agent's replies.
        """
        current_scope.set(ctx)
        description, messages = ctx.this_agent.description, ref(ctx.message_promises)
        try:
            # An observer must not keep messages alive that all readers have dropped.
            self.begin(lambda: {"description": description, "messages": messages(), "arguments": arguments})
            await work()
        except BaseException as error:
            self.end(error, _last_reply(replies))
            raise
        self.end(None, _last_reply(replies), in_its_task=True)

    async def stream(self, cell: MessageCell, source: Callable[[], AsyncIterable[Any]]) -> AsyncGenerator[Any]:
        """Yield what a source yields, give it to the observers' functions, and end the operation with the source.

        Args:
            cell: the state of the message that the source streams.
            source: function that returns the source, which calls `begin` when the operation begins.
        """
        listeners = self._listeners
        pieces = None
        try:
            try:
                pieces = source()
                async for piece in pieces:
                    if listeners:
                        self._tell(piece)
                    yield piece
            finally:
                if (aclose := getattr(pieces, "aclose", None)) is not None:
                    await aclose()
        except BaseException as error:
            self.end(error, partial(_message_so_far, cell))
            raise
        self.end(self.failure, partial(_message_so_far, cell), in_its_task=True)

    def _tell(self, piece: Any) -> None:
        """Give a token or an event to the functions that observers have set."""
        is_token = isinstance(piece, str)
        for observer, on_token, on_event in self._listeners:
            function: Callable[[Any], object] | None = on_token if is_token else on_event
            if function is not None and not observer.is_off:
                try:
                    function(piece)
                except BaseException as error:
                    assert self.operation is not None
                    observer.turn_off(self.operation, error)

    def end(
        self,
        error: BaseException | None,
        read_result: Callable[[], Message] | None = None,
        *,
        in_its_task: bool = False,
    ) -> None:
        """End this operation, or one of the operations that work for it; the last of these ends leaves the observers.

        Args:
            error: the error that the operation has raised; None if it has succeeded.
            read_result: function that returns the result, which is called if an observer asks; None for no result.
            in_its_task: True if the caller runs in the operation's task, and so in its context variables; if False,
                the observers are left in these variables.
        """
        if isinstance(error, GeneratorExit):  # a stream that is closed was cancelled while its source did not work
            error = asyncio.CancelledError()
        self._error = self._error or error
        self._read_result = read_result or self._read_result
        self._open -= 1
        if self._open:
            return
        if not self._entered:
            pass
        elif in_its_task:
            self._leave()
        else:
            try:
                # Another task or the garbage collector may end this. Variables can be reset only where they were set.
                self.variables.run(self._leave)
            except RuntimeError:  # this is the task of the operation, in which these variables are set already
                self._leave()
        self._error, self.variables = None, _ENDED  # both refer to the code that refers to this
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.end(None if error is self.failure else error, read_result if self._kind == "request" else None)

    def leave_agent(self) -> None:
        """Let the operation of the agent end without a wait for this one, which no longer counts as a part of it."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.end(None)

    def _leave(self) -> None:
        """Leave the observers in reverse order; none of them can change or drop the error."""
        operation, error, entered = self.operation, self._error, self._entered
        assert operation is not None
        operation._read_result = self._read_result
        self._entered = []
        kind, traceback = (None, None) if error is None else (type(error), error.__traceback__)
        for observer, manager in reversed(entered):
            try:
                type(manager).__exit__(manager, kind, error, traceback)
            except BaseException as raised:
                if raised is not error:
                    observer.turn_off(operation, raised)
        _current.set(operation.parent)


def observe_part(ctx: InteractionContext, kind: Kind, name: str, redact: Callable[[str], str]) -> Observation:
    """Return the observation of a request or tool call that works for an agent, for a run with observers.

    Args:
        ctx: the context of the agent's call.
        kind: the kind of the operation.
        name: its name, see `Operation`.
        redact: function that replaces secrets in a text.
    """
    return Observation(ctx.run_context.observers, kind, name, redact, ctx.observation)


def _last_reply(replies: StreamCell[Any, Any]) -> Callable[[], Message] | None:
    """Return a function that returns the last message among replies; None if that message has not come."""
    piece: Any = replies.pieces[-1] if replies.pieces else None
    while isinstance(piece, MessageSequencePromise):
        pieces = piece._cell.pieces
        piece = pieces[-1] if pieces else None
    if isinstance(piece, MessagePromise) and piece.is_done:
        return partial(_message_so_far, piece._cell)
    return (lambda: piece) if isinstance(piece, Message) else None


def _message_so_far(cell: MessageCell) -> Message:
    """Return the message, or before its end the one of the tokens so far."""
    return cell.so_far() if cell.value is None else cell.value


def _frozen(value: Any) -> Any:
    """Return a value with its containers made immutable; objects of the application stay what they are."""
    try:
        return freeze(value)
    except FreezeError:
        pass
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
