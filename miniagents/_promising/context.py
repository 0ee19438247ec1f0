"""The run context: owns the background tasks of a run, waits for them, cancels them, and reports unobserved failures.

A failure is unobserved until a reader gets it from its promise. The context also calls the handlers of resolved
promises. It is independent of how promises get their results.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
from collections import defaultdict
from contextlib import suppress
from functools import partial
from threading import current_thread, get_ident
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self
from weakref import WeakKeyDictionary, WeakValueDictionary

from miniagents.errors import CopyError, NoActiveContextError, PromiseCancelledError, StopDialog, is_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, MutableMapping
    from types import TracebackType

    from miniagents._promising.promise import Promise

    ResolvedHandler = Callable[[Promise[Any], Any], Awaitable[None]]


logger = logging.getLogger("miniagents")

_numbers_from_1 = partial(itertools.count, 1)

current_scope: contextvars.ContextVar[object | None] = contextvars.ContextVar("miniagents_scope", default=None)
"""The agent call that the running code belongs to; `str()` names it in traces, and `task_name` names its tasks."""

current_context: contextvars.ContextVar[PromisingContext | None] = contextvars.ContextVar(
    "miniagents_context", default=None
)
"""The innermost context of `async with`; `find_current_context` also finds one that `activate` opened."""

_activated: WeakKeyDictionary[asyncio.AbstractEventLoop, list[PromisingContext]] = WeakKeyDictionary()
"""Contexts opened by `activate()`. Tasks of a web server do not inherit `current_context` from the task that set it."""


class BoundToRun:
    """Base of objects that belong to the run they were made in, and can be neither copied nor pickled."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse `copy.copy`, `copy.deepcopy` and `pickle`.

        Raises:
            CopyError: in every case.
        """
        raise CopyError(
            f"A {type(self).__name__} cannot be copied or pickled: it belongs to the run it was made in. Pass it on as "
            f"it is, or await it (its promise, its replies) and copy the messages that come of it"
        )


def drop_engine_frames(error: BaseException) -> BaseException:
    """Remove this package's frames from the start of the error's traceback, and return the error.

    The frames would keep the cell alive.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__package__") == __package__:
        traceback = traceback.tb_next
    return error if traceback is None else error.with_traceback(traceback)


def refuse_other_thread(loops: Iterable[asyncio.AbstractEventLoop | None], what: str, right: str) -> None:
    """Raise `RuntimeError` if one of these loops runs in another thread: a call from this one would not wake it.

    Args:
        loops: loops of tasks that the call wakes; None for a loop that is not known.
        what: what the error says first: the call, and that it was made.
        right: the line to write in its place.
    """
    running = asyncio._get_running_loop()
    if any(loop is not None and loop is not running and loop.is_running() for loop in loops):
        raise RuntimeError(
            f"{what} in the thread {current_thread().name!r}, and the event loop runs in another thread, where it "
            f"would not be woken. Take `loop = asyncio.get_running_loop()` in a task of that loop, and write "
            f"`{right}` in this thread"
        )


class Failure:
    """Error of a promise. Promises of one context that failed with the same error share one `_UnobservedError`."""

    __slots__ = ("error", "traceback", "unobserved")

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException = error
        self.traceback: TracebackType | None = error.__traceback__
        self.unobserved: _UnobservedError | None = None

    def reset_traceback(self) -> BaseException:
        """Return the error with the traceback of its first raise, so that it does not grow with every await."""
        return self.error.with_traceback(self.traceback)


class _UnobservedError:
    """Error that no reader has got yet. With `log_when_lost` it is logged when the last promise with it is gone."""

    __slots__ = ("__weakref__", "error", "log_when_lost", "traceback")

    def __init__(self, failure: Failure, *, log_when_lost: bool) -> None:
        self.error: BaseException = failure.error
        self.traceback: TracebackType | None = failure.traceback
        self.log_when_lost: bool = log_when_lost

    def log(self) -> None:
        """Log the error now, and not again."""
        self.log_when_lost = False
        logger.error("An error that no reader observed", exc_info=self.error.with_traceback(self.traceback))

    def __del__(self) -> None:
        if self.log_when_lost:
            self.log()


class PromisingContext(BoundToRun):
    """Owner of the tasks that start inside `async with`: all of them end before the block is left.

    Leaving the block normally waits for the background work. Leaving it by an exception cancels that work and waits
    for its clean-up. Contexts nest.

    Args:
        start_everything_soon_by_default: True if promises start their work at once, False if with their first reader.
        unobserved_errors: "raise" raises the unobserved failures at a clean exit, as an `ExceptionGroup`; a single one
            that is no `Exception` is raised itself. "log" logs each failure when its promise is gone, at the latest at
            the exit, and keeps nothing of it.
        on_promise_resolved: async functions that get a promise and its result (or its exception). Each is called once
            for each promise.

    Raises:
        ValueError: `unobserved_errors` is neither "raise" nor "log".
    """

    how_to_open = "`async with PromisingContext():`"

    def __init__(
        self,
        *,
        start_everything_soon_by_default: bool = True,
        unobserved_errors: Literal["raise", "log"] = "raise",
        on_promise_resolved: Iterable[ResolvedHandler] = (),
    ) -> None:
        if unobserved_errors not in ("raise", "log"):
            raise ValueError(f"unobserved_errors must be 'raise' or 'log', not {unobserved_errors!r}")
        self.start_everything_soon_by_default = start_everything_soon_by_default
        self.unobserved_errors = unobserved_errors
        self.parent: PromisingContext | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.parked: set[asyncio.Task[Any]] = set()
        """Tasks that wait until a reader asks them for more. They do not keep the context open."""
        self._handlers = list(on_promise_resolved)
        self.listens: bool = bool(self._handlers)
        """True if this context or an outer one has handlers that are called with resolved promises."""
        self.keeps_results: bool = False
        """True if handlers need the results of promises that no reader can reach any more."""
        self._unobserved: MutableMapping[int, _UnobservedError] = (
            {} if unobserved_errors == "raise" else WeakValueDictionary()
        )
        self.call_numbers: defaultdict[str, Iterator[int]] = defaultdict(_numbers_from_1)
        """Number of the next call of each agent, by its alias."""
        self._idle: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread: int = 0
        """Identity of the thread that has opened the context; 0 before."""
        self._token: contextvars.Token[PromisingContext | None] | None = None
        self.variables: contextvars.Context = contextvars.Context()
        """Context variables in which only this context is set, for callbacks that must keep nothing else alive."""
        self.variables.run(current_context.set, self)
        self.is_closing: bool = False
        """True once all tasks were cancelled; a task that starts in a clean-up is cancelled before its first step."""
        self.interrupted: bool = False
        """True after Ctrl-C: leaving the context then cancels its tasks, also if the body caught the interrupt."""

    # --- finding the context

    @classmethod
    def get_current(cls, needed_by: str = "This") -> Self:
        """Return the innermost open context of this class.

        Args:
            needed_by: what the text of the error names as the call that needs a context.

        Raises:
            NoActiveContextError: no context of this class is open.
        """
        context = current_context.get()
        if isinstance(context, cls):  # the usual case, without further calls: each call of an agent comes here
            return context
        context = cls.find_current()
        if context is None:
            raise NoActiveContextError(f"{needed_by} needs a running context: call it inside {cls.how_to_open}")
        return context

    @classmethod
    def find_current(cls) -> Self | None:
        """Return the innermost open context of this class, or None."""
        context = find_current_context()
        while context is not None and not isinstance(context, cls):
            context = context.parent
        return context

    # --- opening and leaving

    def _open(self) -> None:
        """Bind the context to the running loop and to the context around it.

        If the outer context `listens` for resolved promises, or `keeps_results`, this one does, too.

        Raises:
            RuntimeError: the context was opened before, or no loop is running.
        """
        if self._loop is not None:
            raise RuntimeError(f"This {type(self).__name__} was opened before: make a new one for each run")
        self._loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.parent = find_current_context()
        if self.parent is not None:
            self.listens = self.listens or self.parent.listens
            self.keeps_results = self.keeps_results or self.parent.keeps_results

    async def __aenter__(self) -> Self:
        self._open()
        self._token = current_context.set(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):
            return  # the coroutine is being destroyed without its loop: nothing can be awaited any more
        try:
            await self._leave(error)
        finally:
            if self._token is not None:
                current_context.reset(self._token)
                self._token = None

    def activate(self) -> Self:
        """Open the context for all tasks of the running loop, until `afinalize`, and return the context; for servers.

        Raise `RuntimeError` if the context was opened before.

        Unobserved failures are logged when their promises are collected, so that memory does not grow.
        """
        self._open()
        self.unobserved_errors = "log"
        self._unobserved = WeakValueDictionary()
        assert self._loop is not None
        _activated.setdefault(self._loop, []).append(self)
        return self

    async def afinalize(self) -> None:
        """Wait for the background work, cancel tasks that are left, and close a context that `activate` opened.

        Raises:
            RuntimeError: the calling task belongs to this context.
        """
        if asyncio.current_task() in self.tasks:
            raise RuntimeError("afinalize() was called from a task of this context, and would wait for itself")
        try:
            await self._leave(None)
        finally:
            if self._loop is not None and self in _activated.get(self._loop, ()):
                _activated[self._loop].remove(self)

    async def _leave(self, error: BaseException | None) -> None:
        """Wait for the tasks, or cancel them if the block raised `error` or was interrupted.

        Report unobserved failures last. Tasks that are left after the wait are cancelled, too.
        """
        try:
            if error is None and not self.interrupted:
                self.before_drain()
                await self._drain()
                await self.after_drain()
        except BaseException as drain_error:
            error = drain_error
            raise
        finally:
            await self._cancel_all()
            self._report_unobserved(error)

    def before_drain(self) -> None:
        """Do nothing. A subclass overrides this to end what tasks wait for, before the context waits for the tasks."""

    async def after_drain(self) -> None:
        """Wait for the tasks again. A subclass overrides this to start its last work first."""
        await self._drain()

    async def _drain(self) -> None:
        """Wait until all tasks have ended that keep the context open."""
        while self.tasks:
            await self._wait_until_idle()

    async def _cancel_all(self) -> None:
        """Cancel all tasks and wait for their clean-ups; an interruption of that wait is raised after it."""
        self.is_closing = True
        interruption: BaseException | None = None
        for task in self.tasks | self.parked:
            task.cancel()
        while self.tasks or self.parked:
            try:
                await self._wait_until_idle()
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit) as error:
                interruption = error  # clean-ups go on: another cancellation would cut them short
        if interruption is not None:
            raise interruption

    async def _wait_until_idle(self) -> None:
        """Wait until no task keeps the context open; only for a context with such a task, whose end wakes this."""
        self._idle = asyncio.get_running_loop().create_future()
        try:
            await self._idle
        finally:
            self._idle = None

    # --- tasks

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, Any],
        ended: Callable[[asyncio.Task[Any]], object],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """Run a coroutine in a task that ends with this context at the latest.

        While the context is closing, the new task is cancelled at once.

        Args:
            coroutine: the work of the task.
            ended: called with the task when the task has ended in any way. It must call `forget`.
            name: the name of the task.
            context: the variables the task runs with; None for a copy of the current ones.

        Raises:
            NoActiveContextError: the context has not been entered yet.
            RuntimeError: the loop of the context runs in another thread.
        """
        if self._loop is None:
            coroutine.close()
            raise NoActiveContextError(f"This {type(self).__name__} has not been entered yet")
        if get_ident() != self.thread:
            try:
                self.refuse_other_thread(
                    "An agent or another promise was started", "asyncio.run_coroutine_threadsafe(ask(), loop).result()"
                )
            except RuntimeError:
                coroutine.close()
                raise
        task = self._loop.create_task(coroutine, name=name, context=context)
        self.tasks.add(task)
        if self.is_closing:
            task.cancel()
        task.add_done_callback(ended, context=context)
        return task

    def refuse_other_thread(self, what: str, right: str) -> None:
        """Raise `RuntimeError` if the loop of this context runs in another thread, see the function of this name."""
        refuse_other_thread((self._loop,), what, right)

    def call_soon(self, action: Callable[[], object]) -> None:
        """Call `action` in the next step of the loop, if the loop is still open.

        A `__del__` needs this, because it may run in any thread and between any two operations.
        """
        if self._loop is not None and not self._loop.is_closed():
            with suppress(RuntimeError):  # its own thread has closed it meanwhile
                self._loop.call_soon_threadsafe(action)

    def forget(self, task: asyncio.Task[Any]) -> None:
        """Stop tracking an ended task, and wake the wait for the end of all tasks if it was the last one."""
        self.tasks.discard(task)
        self.parked.discard(task)
        if self._idle is not None:
            self._check_idle()

    def park(self, task: asyncio.Task[Any]) -> None:
        """Mark a task as waiting for a reader: the context does not wait for it at its end."""
        self.tasks.discard(task)
        self.parked.add(task)
        self._check_idle()

    def unpark(self, task: asyncio.Task[Any]) -> None:
        """Mark a parked task as working again: the context waits for it at its end."""
        self.parked.discard(task)
        self.tasks.add(task)

    def _check_idle(self) -> None:
        """Wake `_wait_until_idle` if no task is left; parked tasks count only while the context is closing."""
        idle = self._idle
        if idle is None or self.tasks or (self.is_closing and self.parked):
            return
        if not idle.done():
            idle.set_result(None)

    # --- failures and handlers

    def record_failure(self, failure: Failure) -> None:
        """Record a failure as unobserved, once for each error; `StopDialog` and cancellations are no failures."""
        if isinstance(failure.error, (StopDialog, PromiseCancelledError, asyncio.CancelledError)):
            return
        logs = self.unobserved_errors == "log"
        unobserved = self._unobserved.get(id(failure.error))
        if unobserved is None:
            unobserved = self._unobserved[id(failure.error)] = _UnobservedError(failure, log_when_lost=logs)
        failure.unobserved = unobserved

    def clear_failure(self, failure: Failure) -> None:
        """Remove an unobserved failure, for all promises with the same error, because a reader has got it."""
        unobserved, failure.unobserved = failure.unobserved, None
        if unobserved is not None:
            unobserved.log_when_lost = False
            if self._unobserved.get(id(failure.error)) is unobserved:
                del self._unobserved[id(failure.error)]

    def _report_unobserved(self, error: BaseException | None) -> None:
        """Raise the unobserved failures as a group; log them in the mode "log", or if the context is left by `error`.

        `error` itself is not logged. A single failure that is no `Exception` is raised by itself; with such a failure
        among several, the group is a `BaseExceptionGroup`. Afterwards, no failure counts as unobserved.
        """
        failures = list(self._unobserved.values())
        self._unobserved.clear()
        if error is not None or self.unobserved_errors == "log":
            for failure in failures:
                if failure.error is not error:
                    failure.log()
                failure.log_when_lost = False
            return
        errors = [failure.error.with_traceback(failure.traceback) for failure in failures]
        if len(errors) == 1 and not isinstance(errors[0], Exception):
            raise errors[0]
        if errors:
            raise BaseExceptionGroup(f"{len(errors)} error(s) that no reader observed", errors)

    def run_handlers(self, promise: Promise[Any], result: Any) -> None:
        """Start the handlers of this context and of the outer ones, each in a task of its own."""
        context: PromisingContext | None = self
        while context is not None:
            for handler in context._handlers:
                context._run_handler(handler, promise, result)
            context = context.parent

    def _run_handler(self, handler: ResolvedHandler, promise: Promise[Any], result: Any) -> None:
        """Call one handler of resolved promises in a task of its own; its error counts as an unobserved failure.

        The promise may belong to a run in another thread, around which this context is: the handler runs in this loop.
        """

        async def run() -> None:
            await handler(promise, result)

        if get_ident() == self.thread:
            self.spawn(run(), self.handler_ended)
        else:
            self.call_soon(lambda: self.spawn(run(), self.handler_ended))

    def handler_ended(self, task: asyncio.Task[Any]) -> None:
        """Stop tracking the task of a handler, and record its error as unobserved; a cancellation is no error."""
        self.forget(task)
        if not task.cancelled() and is_failure(error := task.exception()):
            self.record_failure(Failure(error))


def find_current_context() -> PromisingContext | None:
    """Return the innermost open context of any class, or None."""
    return current_context.get() or _find_activated()


def _find_activated() -> PromisingContext | None:
    """Return the last context that `activate` opened in the running loop; None if there is none, or no loop runs."""
    if not _activated:
        return None
    try:
        contexts = _activated.get(asyncio.get_running_loop())
    except RuntimeError:
        return None
    return contexts[-1] if contexts else None
