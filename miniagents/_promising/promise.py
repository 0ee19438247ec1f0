"""Promise: resolved once, awaited by many.

A promise is a small handle; what it will be lives in its `Cell`, which the task that does the work holds as well. So
the handle can be lost while the work goes on, and the work can notice that the handle was lost.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from miniagents._promising.context import BoundToRun, Failure, current_scope, drop_engine_frames, find_current_context
from miniagents._promising.deadlock import check_wait, waiting_on
from miniagents.errors import INTERRUPTS, NoActiveContextError, PromiseCancelledError, is_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
    from typing import Self


T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Cell(Generic[T]):
    """What a promise will be: its result or its failure, who works on it, and who waits for it."""

    # Defaults are class attributes, so that a cell which is settled from the beginning sets little: measured, an agent
    # call makes three cells, and setting every slot of each was a tenth of its time.
    done = False
    observed = False
    """Somebody has taken responsibility for the failure, if there is one or comes one."""
    value: T | None = None
    failure: Failure | None = None
    task: asyncio.Task[Any] | None = None
    deferred_start: Callable[[], None] | None = None
    waiters: dict[asyncio.Future[None], None] | None = None
    """Who waits for more, or for the end."""
    done_waiters: dict[asyncio.Future[None], None] | None = None
    """Who waits for the end only."""

    on_demand = False
    """Whether the source goes on only when somebody waits."""
    produced_only_by_its_task = True
    """Only the task can bring this cell forward: a ring of waits for such cells is a deadlock."""
    lanes: Collection[Any] | None = None
    """Of a merged sequence: the ways by which it takes pieces from other cells, without a task."""
    stops_without_readers = False
    """True if the work is only for readers, and stops when no reader can come any more."""

    def __init__(self, promise_class: type[Promise[Any]]) -> None:
        self.promise_class = promise_class
        self.context = find_current_context()
        self.scope = current_scope.get()

    # --- working

    def set_work(self, work: Callable[[], Coroutine[Any, Any, Any]], start_soon: bool | None) -> None:
        """Set the coroutine function that brings this cell to its end, and start it now or with the first reader."""
        context = self.context
        if start_soon is None:
            start_soon = context is not None and context.start_everything_soon_by_default
        if start_soon:
            self.start_task(work, None)
        else:
            variables = contextvars.copy_context()  # whoever starts it later is not its caller
            self.deferred_start = lambda: self.start_task(work, variables)

    def start_task(self, work: Callable[[], Coroutine[Any, Any, Any]], variables: contextvars.Context | None) -> None:
        """Start the task."""
        if self.context is None:
            raise NoActiveContextError(
                "A promise with work to do needs a running context: make it inside `MiniAgents().run(...)` "
                "or `async with MiniAgents():`"
            )
        name = None if self.scope is None else str(self.scope)
        self.task = self.context.spawn(work(), self.task_ended, name=name, context=variables)

    def ensure_started(self) -> None:
        """Start the work if it waited for a reader."""
        if self.deferred_start is not None:
            start, self.deferred_start = self.deferred_start, None
            try:
                start()
            except NoActiveContextError:
                self.deferred_start = start  # the next reader is to be told the same, instead of waiting for ever
                raise

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """The safety net: a task can end without settling, for one when it is cancelled before its first step."""
        if self.context is not None:
            self.context.forget(task)
        self.task = None
        error = None if task.cancelled() else task.exception()  # whoever runs the loop has got an interrupt already
        if is_failure(error):
            self.fail(error)  # it comes from a clean-up
        else:
            self.settle_as_cancelled()

    # --- settling

    def resolve(self, value: T) -> None:
        """Settle with a result, unless it is settled already."""
        if self.done:
            return
        self.value = value
        self.done = True
        self.notify_settled(value)

    def resolve_at_creation(self, value: T) -> None:
        """Resolve a cell that nobody can be waiting for yet."""
        self.value = value
        self.done = True
        if self.context is not None and self.context.listens:
            self.notify_settled(value)

    def fail(self, error: BaseException) -> None:
        """Settle with an error, which counts as unobserved until somebody awaits it."""
        if self.done:
            self.record_late_error(error)
            return
        failure = self.failure = Failure(error)
        self.done = True
        if not self.observed and self.context is not None:
            self.context.record_failure(failure)
        self.notify_settled(error)

    def record_late_error(self, error: BaseException) -> None:
        """What the clean-up after the end failed with. No reader of this cell can see it: that is up to the context."""
        if self.context is not None:
            self.context.record_failure(Failure(error))

    def settle_as_cancelled(self) -> None:
        """Settle as cancelled, unless it is settled already."""
        if not self.done:
            self.fail(make_cancelled_error())

    def cancel(self) -> None:
        """Stop the work for good; readers get what there is, and then `PromiseCancelledError`."""
        if self.done:
            return
        self.deferred_start = None
        self.settle_as_cancelled()
        if self.task is not None and not (self.context is not None and self.context.is_closing):
            self.task.cancel()  # a context that closes has done so already: twice would cut clean-ups short

    def handle_lost_promise(self) -> None:
        """Do nothing, as most work goes on when its promise is lost: it may be done for its effects."""

    def notify_settled(self, result: Any) -> None:
        """Tell everybody who waits, and everybody who listens."""
        self.wake_all()
        context = self.context
        if context is not None and context.listens:
            context.run_handlers(self.promise_class.of_cell(self), result)

    # --- waiting

    def result(self) -> T:
        """The result of a settled cell, or its error."""
        if self.failure is not None:
            self.mark_observed()
            raise self.failure.raised()
        return self.value  # type: ignore[return-value]  # settled without a failure: the value is there

    def mark_observed(self) -> None:
        """Somebody takes responsibility for the failure of this cell, past or future."""
        self.observed = True
        if self.failure is not None and self.context is not None:
            self.context.clear_failure(self.failure)

    def wake(self) -> None:
        """Let everybody go on who waits for more."""
        waiters, self.waiters = self.waiters, None
        for future in waiters or ():
            waiting_on.pop(future, None)
            if not future.done():
                future.set_result(None)

    def wake_all(self) -> None:
        """Let everybody go on who waits for anything."""
        if self.waiters is not None:
            self.wake()
        if self.done_waiters is not None:
            self.waiters, self.done_waiters = self.done_waiters, None
            self.wake()

    async def wait(self, *, for_end: bool = False) -> None:
        """Wait until there is more to read, or only for the end; see `waiter`."""
        future = self.add_waiter(for_end=for_end)
        try:
            await future
        except BaseException:
            self.remove_waiter(future)
            raise

    def add_waiter(self, *, for_end: bool = False) -> asyncio.Future[None]:
        """Return a future for the running task to await now; the task must `give_up` the future if that raises.

        The future fails with `DeadlockError` if the wait is a part of a ring that no other task can end.

        Args:
            for_end: the future is done at the end only, and not already when there is more to read.
        """
        future: asyncio.Future[None] = asyncio.Future()
        if self.deferred_start is not None:
            self.ensure_started()
        if self.done:  # already, or by a task that has been started eagerly
            future.set_result(None)
            return future
        waiting_on[future] = self
        check_wait(self, future)
        if for_end:
            if self.done_waiters is None:
                self.done_waiters = {}
            self.done_waiters[future] = None
        elif self.waiters is None:
            self.waiters = {future: None}
        else:
            self.waiters[future] = None
        if self.on_demand:
            self.request_more()
        return future

    def watch(self, callback: Callable[[object], None], variables: contextvars.Context | None) -> None:
        """Call back once, a loop step after there is more to read or the end has come; no task waits meanwhile.

        Args:
            callback: is called with a future.
            variables: the context it runs in; None for an empty one.
        """
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(callback, context=contextvars.Context() if variables is None else variables)
        if self.deferred_start is not None:
            self.ensure_started()
        if self.done:
            future.set_result(None)
            return
        if self.waiters is None:
            self.waiters = {}
        self.waiters[future] = None
        if self.on_demand:
            self.request_more()

    def remove_waiter(self, future: asyncio.Future[None]) -> None:
        """The task that awaited this was cancelled, or is not to wait."""
        waiting_on.pop(future, None)
        for waiters in (self.waiters, self.done_waiters):
            if waiters is not None:
                waiters.pop(future, None)

    def request_more(self) -> None:
        """Somebody waits now for a source that goes on only then."""


def make_cancelled_error() -> PromiseCancelledError:
    """The error of a promise that was cancelled."""
    return PromiseCancelledError("The source of this promise was stopped before its end")


class Promise(BoundToRun, Generic[T_co]):
    """The result of work that goes on in the background; any number of tasks may await it.

    Args:
        resolver: async function without parameters that computes the result. It is called at most once.
        start_soon: True begins at the next task switch, False with the first await; None takes the context's default.
    """

    __slots__ = ("__weakref__", "_cell")

    _cell: Cell[Any]

    def __init__(self, resolver: Callable[[], Awaitable[T_co]], *, start_soon: bool | None = None) -> None:
        if not callable(resolver):
            raise TypeError(f"resolver must be an async function without parameters, not {resolver!r}")
        cell: Cell[T_co] = Cell(type(self))
        self._cell = cell

        async def work() -> None:
            try:
                cell.resolve(await resolver())
            except INTERRUPTS:
                raise
            except BaseException as error:
                cell.fail(drop_engine_frames(error))

        cell.set_work(work, start_soon)

    @classmethod
    def of_cell(cls, cell: Cell[Any]) -> Self:
        """A handle of a cell; not for users."""
        promise = cls.__new__(cls)
        promise._cell = cell
        return promise

    def __await__(self) -> Generator[Any, None, T_co]:
        cell = self._cell
        if not cell.done:
            yield from cell.wait(for_end=True).__await__()
        return cell.result()  # type: ignore[no-any-return]  # what kind of cell it is, the subclass knows

    @property
    def is_done(self) -> bool:
        """Whether it is resolved, failed or cancelled."""
        return self._cell.done

    @property
    def is_resolved(self) -> bool:
        """Whether it has a result; not of one that failed or was cancelled."""
        return self._cell.done and self._cell.failure is None

    def cancel(self) -> None:
        """Stop the work behind this promise for good, for everybody.

        Readers get the pieces so far and then `PromiseCancelledError`; the source's `finally` blocks run.
        """
        self._cell.cancel()
