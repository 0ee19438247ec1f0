"""The run context: owns the background tasks of a run, waits for them, cancels them, reports what nobody looked at."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self
from weakref import WeakKeyDictionary, WeakValueDictionary

from miniagents.errors import CopyError, NoActiveContextError, PromiseCancelledError, StopDialog, is_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
    from types import TracebackType

    from miniagents._promising.promise import Promise

    ResolvedHandler = Callable[[Promise[Any], Any], Awaitable[None]]


logger = logging.getLogger("miniagents")

current_scope: contextvars.ContextVar[object | None] = contextvars.ContextVar("miniagents_scope", default=None)
"""On whose behalf the running code works; `str()` of it names it in traces. Room 3 keeps its agents here."""

_current: contextvars.ContextVar[PromisingContext | None] = contextvars.ContextVar("miniagents_context", default=None)

_activated: WeakKeyDictionary[asyncio.AbstractEventLoop, list[PromisingContext]] = WeakKeyDictionary()
"""Contexts opened by `activate()`: a web server's request tasks do not inherit from the task that started it."""


class BoundToRun:
    """Base of what belongs to the run it was made in, and can be neither copied nor pickled."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse `copy.copy`, `copy.deepcopy` and `pickle`.

        Raises:
            CopyError: always.
        """
        raise CopyError(
            f"A {type(self).__name__} cannot be copied or pickled: it belongs to the run it was made in. Pass it on as "
            f"it is, or await it (its promise, its replies) and copy the messages that come of it"
        )


def drop_engine_frames(error: BaseException) -> BaseException:
    """Drop the frames from a traceback that only called the failed source: they would keep its cell in a cycle."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__package__") == __package__:
        traceback = traceback.tb_next
    return error if traceback is None else error.with_traceback(traceback)


class Failure:
    """Error of a promise; promises of one context that failed with the same one share what is told of it."""

    __slots__ = ("error", "traceback", "unobserved")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.traceback = error.__traceback__
        self.unobserved: _UnobservedError | None = None

    def raised(self) -> BaseException:
        """The same instance every time, its traceback reset so that it does not grow with every await."""
        return self.error.with_traceback(self.traceback)


class _UnobservedError:
    """An error that no reader has got yet. It is logged when it goes, that is, when no promise has it any more."""

    __slots__ = ("__weakref__", "error", "log_when_lost", "traceback")

    def __init__(self, failure: Failure, *, log_when_lost: bool) -> None:
        self.error = failure.error
        self.traceback = failure.traceback
        self.log_when_lost = log_when_lost

    def log(self) -> None:
        """Log it now, and not again."""
        self.log_when_lost = False
        logger.error("An error that nobody observed", exc_info=self.error.with_traceback(self.traceback))

    def __del__(self) -> None:
        if self.log_when_lost:
            self.log()


class PromisingContext(BoundToRun):
    """Everything that is started inside `async with` ends with it.

    Leaving it normally waits for the background work; leaving it by an exception cancels that work and waits for its
    clean-up. Contexts nest.

    Args:
        start_everything_soon_by_default: whether promises begin their work without waiting for a reader.
        unobserved_errors: what to do at a clean exit with failures that nobody ever observed: "raise" an
            `ExceptionGroup` of them (one that is no `Exception` is raised itself). "log" logs each when its promise is
            gone, at the latest at the exit, and keeps nothing of it.
        on_promise_resolved: async functions of a promise and its result (or its exception), scheduled once each.
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
        """Tasks that produce on demand and that nobody asks now: they do not keep the context open."""
        self._handlers = list(on_promise_resolved)
        self.listens = bool(self._handlers)
        """Whether anybody, here or in an outer context, wants to hear of resolved promises."""
        self.keeps_results = False
        """Whether results are wanted although nobody can read them any more."""
        self._unobserved: MutableMapping[int, _UnobservedError] = (
            {} if unobserved_errors == "raise" else WeakValueDictionary()
        )
        self._idle: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._token: contextvars.Token[PromisingContext | None] | None = None
        self.bare = contextvars.Context()
        """Variables of which only the current context is set, for callbacks that are to keep nothing else alive."""
        self.bare.run(_current.set, self)
        self.is_closing = False
        """Everything has been cancelled; what a clean-up still starts is cancelled before its first step."""
        self.interrupted = False
        """Ctrl-C was pressed: leaving the context cancels its tasks, also when the body caught the interrupt."""

    # --- finding the context

    @classmethod
    def get_current(cls) -> Self:
        """The innermost context that is open here.

        Raises:
            NoActiveContextError: there is none, or it is of another class.
        """
        context = cls.find_current()
        if context is None:
            raise NoActiveContextError(f"This needs a running context: call it inside {cls.how_to_open}")
        return context

    @classmethod
    def find_current(cls) -> Self | None:
        """Like `get_current`, but None where there is none."""
        context = find_current_context()
        while context is not None and not isinstance(context, cls):
            context = context.parent
        return context

    # --- opening and leaving

    def _open(self) -> None:
        if self._loop is not None:
            raise RuntimeError(f"This {type(self).__name__} was opened before: make a new one for each run")
        self._loop = asyncio.get_running_loop()
        self.parent = find_current_context()
        if self.parent is not None:
            self.listens = self.listens or self.parent.listens
            self.keeps_results = self.keeps_results or self.parent.keeps_results

    async def __aenter__(self) -> Self:
        self._open()
        self._token = _current.set(self)
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
                _current.reset(self._token)
                self._token = None

    def activate(self) -> Self:
        """Open the context for every task of the running loop, until `afinalize`; made for servers.

        A failure that nobody observes is then logged when its promise is collected, so that nothing grows.
        """
        self._open()
        self.unobserved_errors = "log"
        self._unobserved = WeakValueDictionary()
        assert self._loop is not None
        _activated.setdefault(self._loop, []).append(self)
        return self

    async def afinalize(self) -> None:
        """Wait for what `activate()` let start, and close the context; may be called from any task of the loop."""
        if asyncio.current_task() in self.tasks:
            raise RuntimeError("afinalize() was called from a task of this context, and would wait for itself")
        try:
            await self._leave(None)
        finally:
            if self._loop is not None and self in _activated.get(self._loop, ()):
                _activated[self._loop].remove(self)

    async def _leave(self, error: BaseException | None) -> None:
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
        """What a subclass ends before waiting for the tasks."""

    async def after_drain(self) -> None:
        """What a subclass does when all work has ended well."""
        await self._drain()

    async def _drain(self) -> None:
        while self.tasks:
            await self._wait_until_idle()

    async def _cancel_all(self) -> None:
        self.is_closing = True
        interruption: BaseException | None = None
        for task in self.tasks | self.parked:
            task.cancel()
        while self.tasks or self.parked:
            try:
                await self._wait_until_idle()
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit) as again:
                interruption = again  # clean-ups go on: another cancellation would cut them short
        if interruption is not None:
            raise interruption

    async def _wait_until_idle(self) -> None:
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
        """Run a coroutine in the background, at most until this context is left.

        However the task ends, `ended` is called with it, and must pass it to `forget`: one callback a task is enough.
        """
        if self._loop is None:
            coroutine.close()
            raise NoActiveContextError(f"This {type(self).__name__} has not been entered yet")
        task = self._loop.create_task(coroutine, name=name, context=context)
        self.tasks.add(task)
        if self.is_closing:
            task.cancel()
        task.add_done_callback(ended, context=context)
        return task

    def call_soon(self, action: Callable[[], object]) -> None:
        """Do this at the next step of the loop, if it is still open.

        For what a `__del__` has to do: it may run in any thread, and in the middle of everything.
        """
        if self._loop is not None and not self._loop.is_closed():
            with suppress(RuntimeError):  # its own thread has closed it meanwhile
                self._loop.call_soon_threadsafe(action)

    def forget(self, task: asyncio.Task[Any]) -> None:
        """The task has ended."""
        self.tasks.discard(task)
        self.parked.discard(task)
        if self._idle is not None:
            self._check_idle()

    def park(self, task: asyncio.Task[Any]) -> None:
        """This task waits for a reader: it does not keep the context open."""
        self.tasks.discard(task)
        self.parked.add(task)
        self._check_idle()

    def unpark(self, task: asyncio.Task[Any]) -> None:
        """The task goes on."""
        self.parked.discard(task)
        self.tasks.add(task)

    def _check_idle(self) -> None:
        idle = self._idle
        if idle is None or self.tasks or (self.is_closing and self.parked):
            return
        if not idle.done():
            idle.set_result(None)

    # --- failures and handlers

    def record_failure(self, failure: Failure) -> None:
        """Remember a failure until somebody observes it."""
        if isinstance(failure.error, (StopDialog, PromiseCancelledError, asyncio.CancelledError)):
            return
        logs = self.unobserved_errors == "log"
        unobserved = self._unobserved.get(id(failure.error))
        if unobserved is None:
            unobserved = self._unobserved[id(failure.error)] = _UnobservedError(failure, log_when_lost=logs)
        failure.unobserved = unobserved

    def clear_failure(self, failure: Failure) -> None:
        """Remove an unobserved failure: a reader has got it."""
        unobserved, failure.unobserved = failure.unobserved, None
        if unobserved is not None:
            unobserved.log_when_lost = False
            if self._unobserved.get(id(failure.error)) is unobserved:
                del self._unobserved[id(failure.error)]

    def _report_unobserved(self, error: BaseException | None) -> None:
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
            raise BaseExceptionGroup(f"{len(errors)} error(s) that nobody observed", errors)

    def run_handlers(self, promise: Promise[Any], result: Any) -> None:
        """Schedule the handlers of this context and of the outer ones."""
        context: PromisingContext | None = self
        while context is not None:
            for handler in context._handlers:
                context._run_handler(handler, promise, result)
            context = context.parent

    def _run_handler(self, handler: ResolvedHandler, promise: Promise[Any], result: Any) -> None:
        async def run() -> None:
            await handler(promise, result)

        self.spawn(run(), self.handler_ended)

    def handler_ended(self, task: asyncio.Task[Any]) -> None:
        """A handler's error is nobody's to observe, so it counts as unobserved at once."""
        self.forget(task)
        if not task.cancelled() and is_failure(error := task.exception()):
            self.record_failure(Failure(error))


def find_current_context() -> PromisingContext | None:
    """The innermost context that is open here, of whatever class."""
    return _current.get() or _find_activated()


def _find_activated() -> PromisingContext | None:
    if not _activated:
        return None
    try:
        contexts = _activated.get(asyncio.get_running_loop())
    except RuntimeError:
        return None
    return contexts[-1] if contexts else None
