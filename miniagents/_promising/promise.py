"""`Promise`: resolved once, awaited by any number of tasks.

A promise is a small handle of a `Cell`, which holds the state: the result or the failure, the task, the waiting tasks.
The task refers to the cell only. So the promise can be lost while the work goes on, and the cell is told of the loss.

An operation on a promise that only its result has raises an error that says what to write in place of what was written.
Type checkers do not see these methods of `NotAwaited`, and refuse each of the mistakes. At run time, too, a promise is
no `Iterable`: `for` finds `__getitem__`, which Python keeps for classes older than iterators.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, NoReturn, TypeVar

from miniagents._promising.context import (
    BoundToRun,
    Failure,
    current_context,
    current_scope,
    drop_engine_frames,
    find_current_context,
    refuse_other_thread,
)
from miniagents._promising.deadlock import check_wait, waiting_on
from miniagents.errors import INTERRUPTS, NoActiveContextError, PromiseCancelledError, is_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
    from typing import Self

    from miniagents._promising.context import PromisingContext


T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


Waiters = asyncio.Future[None] | dict[asyncio.Future[None], None] | None
"""Futures of tasks that wait, in their order: a single one without a dict, because most promises have one reader."""

_NONE_ANY_MORE: dict[asyncio.Future[None], None] = {}
"""The `waiters` of a settled cell. They are not None, so a pump that looks only at `waiters` notices the end, too."""


class Cell(Generic[T]):
    """State of a promise: its result or its failure, the task that works on it, and the futures that wait for it."""

    # Most defaults are class attributes, so that a cell that is made with its result sets few attributes. An agent call
    # makes three cells; setting every attribute of each took a tenth of its time. Four are set in each cell, because
    # they are read for each token that arrives alone, and those of the class take longer to find.
    done: bool = False
    """True once the cell is settled: resolved, failed or cancelled."""
    observed: bool = False
    """True if a failure, past or future, is not reported at the end: a reader has got it, or is going to."""
    value: T | None = None
    failure: Failure | None = None
    task: asyncio.Task[Any] | None = None
    deferred_start: Callable[[], None] | None = None
    """Starts the work, which waits for the first reader; None if there is none to start."""
    waiters: Waiters = None
    """Futures of tasks that wait for more pieces or for the end."""
    done_waiters: Waiters = None
    """Futures of tasks that wait for the end only."""

    kept_promise: Promise[Any] | None = None
    """The promise, kept until the end for a persistence handler, even if no reader can reach it."""
    on_demand: bool = False
    """True if the source goes on only while a reader waits."""
    produced_only_by_its_task: bool = True
    """True if only the task of this cell can end a wait for it: a ring of such waits is a deadlock."""
    lanes: Collection[Any] | None = None
    """Sources from which a merged sequence gets leaves without a task; None of other cells."""
    stops_without_readers: bool = False
    """True if the work stops when no reader can reach the promise any more."""

    def __init__(self, promise_class: type[Promise[Any]]) -> None:
        self.promise_class = promise_class
        self.context: PromisingContext | None = current_context.get() or find_current_context()
        self.scope: Any = current_scope.get()
        self.done = False
        self.waiters = None
        self.deferred_start = None
        self.lanes = None

    # --- working

    def set_work(
        self,
        work: Callable[[], Coroutine[Any, Any, Any]],
        start_soon: bool | None,
        variables: contextvars.Context | None = None,
    ) -> None:
        """Set the coroutine function whose task settles this cell, and start that task now or with the first reader.

        Args:
            work: the coroutine function, without parameters.
            start_soon: True to start now, False with the first reader; None takes the default of the context, and
                is False without a context.
            variables: the context variables the task runs with; None for a copy of the current ones.

        Raises:
            NoActiveContextError: the work is to start now, and no context is open.
        """
        context = self.context
        if start_soon is None:
            start_soon = context is not None and context.start_everything_soon_by_default
        if start_soon:
            self.start_task(work, variables)
        else:
            if variables is None:  # those of the caller, and not of the reader that starts the work
                variables = contextvars.copy_context()
            self.deferred_start = lambda: self.start_task(work, variables)

    def start_task(self, work: Callable[[], Coroutine[Any, Any, Any]], variables: contextvars.Context | None) -> None:
        """Start the task that runs `work`, with these context variables or a copy of the current ones.

        Raises:
            NoActiveContextError: the promise was made outside of a context.
        """
        if self.context is None:
            raise NoActiveContextError(
                "A promise with work to do needs a running context: make it inside `MiniAgents().run(...)` "
                "or `async with MiniAgents():`"
            )
        name = None if self.scope is None else self.scope.task_name
        self.task = self.context.spawn(work(), self, name=name, context=variables)

    def ensure_started(self) -> None:
        """Start the work if it still waits for its first reader.

        If the promise was made outside of a context, each reader gets `NoActiveContextError`.
        """
        if self.deferred_start is not None:
            start, self.deferred_start = self.deferred_start, None
            try:
                start()
            except NoActiveContextError:
                self.deferred_start = start  # so that the next reader gets this error, too, instead of waiting for ever
                raise

    def __call__(self, task: asyncio.Task[Any]) -> None:
        """Call `task_ended`. The cell is the callback of its task: a bound method would be one more object a task."""
        self.task_ended(task)

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """Stop tracking the ended task, and settle the cell if its work has not.

        If the task raised an error, the cell fails with it; a settled cell records it as a late one. Without an error,
        a cell that is not settled ends as cancelled.
        """
        if self.context is not None:
            self.context.forget(task)
        self.task = None
        error = None if task.cancelled() else task.exception()
        if is_failure(error):
            self.fail(error)  # a clean-up failed
        else:
            self.settle_as_cancelled()  # an interrupt has got out of the loop already

    # --- settling

    def resolve(self, value: T) -> None:
        """Settle with a result, unless the cell is settled already."""
        if self.done:
            return
        self.value = value
        self.done = True
        self.notify_settled(value)

    def resolve_at_creation(self, value: T) -> None:
        """Set the result of a new cell, which no task can wait for yet, and start the handlers of resolved promises."""
        self.value = value
        self.done = True
        if self.context is not None and self.context.listens:
            self.notify_settled(value)

    def fail(self, error: BaseException) -> None:
        """Settle with an error, which counts as unobserved until a reader gets it.

        If the cell is settled already, only record the error as a late one.
        """
        if self.done:
            self.record_late_error(error)
            return
        failure = self.failure = Failure(error)
        self.done = True
        if not self.observed and self.context is not None:
            self.context.record_failure(failure)
        self.notify_settled(error)

    def record_late_error(self, error: BaseException) -> None:
        """Record in the context the error of a clean-up after the end of this cell, because no reader can get it."""
        if self.context is not None:
            self.context.record_failure(Failure(error))

    def settle_as_cancelled(self) -> None:
        """Fail with `PromiseCancelledError`, unless the cell is settled already."""
        if not self.done:
            self.fail(make_cancelled_error())

    def cancel(self) -> None:
        """Stop the work for good; readers get the pieces so far, and then `PromiseCancelledError`.

        Do nothing after the end. Work that has not begun never begins.
        """
        if self.done:
            return
        self.deferred_start = None
        self.settle_as_cancelled()
        if self.task is not None and not (self.context is not None and self.context.is_closing):
            self.task.cancel()  # a closing context has cancelled it already: a second time would cut clean-ups short

    def refuse_other_thread(self, what: str, right: str, *loops: asyncio.AbstractEventLoop | None) -> None:
        """Raise `RuntimeError` if the loop of this cell's task, of a reader, or of `loops` runs in another thread.

        See `miniagents._promising.context.refuse_other_thread`.
        """
        tasks: list[asyncio.Future[Any]] = [] if self.task is None else [self.task]
        for waiters in (self.waiters, self.done_waiters):
            tasks += (waiters,) if isinstance(waiters, asyncio.Future) else waiters or ()
        refuse_other_thread([*(each.get_loop() for each in tasks), *loops], what, right)

    def handle_lost_promise(self) -> None:
        """Do nothing: no reader can reach the promise any more, but the work may be done for its effects.

        A subclass overrides this to stop the work.
        """

    def notify_settled(self, result: Any) -> None:
        """Wake all waiting tasks, start the handlers of resolved promises, and drop `kept_promise`.

        The handlers get the result, or the error of a failure.
        """
        self.wake_all()
        if self.kept_promise is not None:
            self.kept_promise = None
        context = self.context
        if context is not None and context.listens:
            context.run_handlers(self.promise_class.of_cell(self), result)

    # --- waiting

    def result(self) -> T:
        """Return the result of a settled cell, or raise its error and mark that error as observed."""
        if self.failure is not None:
            self.mark_observed()
            raise self.failure.reset_traceback()
        return self.value  # type: ignore[return-value]  # settled without a failure, so it has a value

    def mark_observed(self) -> None:
        """Mark the failure of this cell, past or future, as observed."""
        self.observed = True
        if self.failure is not None and self.context is not None:
            self.context.clear_failure(self.failure)

    def wake(self) -> None:
        """Wake the tasks that wait for more to read, but not those that wait for the end."""
        waiters, self.waiters = self.waiters, None
        if waiters is None:
            return
        for future in waiters if isinstance(waiters, dict) else (waiters,):
            waiting_on.pop(future, None)
            if not future.done():
                future.set_result(None)

    def wake_all(self) -> None:
        """Wake the tasks that wait for more, and those that wait for the end, because the cell is settled."""
        if self.waiters is not None:
            self.wake()
        if self.done_waiters is not None:
            self.waiters, self.done_waiters = self.done_waiters, None
            self.wake()
        self.waiters = _NONE_ANY_MORE

    async def wait(self, *, for_end: bool = False) -> None:
        """Wait until there is more to read, or with `for_end` until the end.

        Start work that waits for its first reader. Raise `DeadlockError` if the wait is a part of a ring of waits that
        no other task can end.
        """
        future = self.add_waiter(for_end=for_end)
        try:
            await future
        except BaseException:
            self.remove_waiter(future)
            raise

    def add_waiter(self, *, for_end: bool = False) -> asyncio.Future[None]:
        """Return a future for the running task to await at once; it is done already if the cell is settled.

        Start work that waits for its first reader. If the await raises, the task must call `remove_waiter`. The future
        fails with `DeadlockError` if the wait is a part of a ring that no other task can end.

        Args:
            for_end: True for a future that is done at the end; False for one that is done when there is more to read.
        """
        future: asyncio.Future[None] = asyncio.Future()
        if self.deferred_start is not None:
            self.ensure_started()
        if self.done:  # a task that starts eagerly may have settled the cell just now
            future.set_result(None)
            return future
        waiting_on[future] = self
        check_wait(self, future)
        if for_end:
            self.done_waiters = future if self.done_waiters is None else _added(self.done_waiters, future)
        else:
            self.waiters = future if self.waiters is None else _added(self.waiters, future)
        if self.on_demand:
            self.wake_pump()
        return future

    def watch(self, callback: Callable[[object], None], variables: contextvars.Context | None) -> None:
        """Call `callback` once, a loop step after there is more to read or the end has come.

        As a reader would, this starts work that waits for its first reader, and wakes a source that works on demand.

        Args:
            callback: called with a future.
            variables: the context variables it runs with; None for none.
        """
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(callback, context=contextvars.Context() if variables is None else variables)
        if self.deferred_start is not None:
            self.ensure_started()
        if self.done:
            future.set_result(None)
            return
        self.waiters = future if self.waiters is None else _added(self.waiters, future)
        if self.on_demand:
            self.wake_pump()

    def remove_waiter(self, future: asyncio.Future[None]) -> None:
        """Remove a future that no task awaits any more; do nothing if it was woken."""
        waiting_on.pop(future, None)
        if self.waiters is future:
            self.waiters = None
        elif self.done_waiters is future:
            self.done_waiters = None
        else:
            for waiters in (self.waiters, self.done_waiters):
                if isinstance(waiters, dict):
                    waiters.pop(future, None)

    def is_awaited_to_its_end(self, future: asyncio.Future[Any]) -> bool:
        """Return True if a task waits with this future for the end, and not for more to read."""
        waiters = self.done_waiters
        return future in waiters if isinstance(waiters, dict) else future is waiters

    def wake_pump(self) -> None:
        """Do nothing. A stream overrides this to let a source that works on demand produce more."""


def _added(waiters: asyncio.Future[None] | dict[asyncio.Future[None], None], future: asyncio.Future[None]) -> Waiters:
    """Return a dict of the waiting futures with one more; if `waiters` is a dict already, it gets the future."""
    if not isinstance(waiters, dict):
        waiters = {waiters: None}
    waiters[future] = None
    return waiters


def make_cancelled_error() -> PromiseCancelledError:
    """Return the error of a cancelled promise."""
    return PromiseCancelledError("The source of this promise was stopped before its end")


METHODS_OF_TEXT = frozenset(name for name in dir(str) if not name.startswith("_"))


class Spelling(NamedTuple):
    """Expressions with which the errors of one class of promises show what to write."""

    promise: str = "promise"
    piece: str | None = None
    """Variable of a loop over the promise; None if the promise cannot be read piece by piece."""
    whole: str = "await promise"
    """Result, which has a length and items."""
    single: str = "(await promise)"
    """Object that has the fields: the result, or the last message of it."""
    text: str | None = None
    """Text that the promise becomes; None if the result is no message."""


class NotAwaited:
    """Base of promises: raises an error for an operation on the promise that only its result has."""

    __slots__ = ()

    spelling: ClassVar[Spelling] = Spelling()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Raise `AttributeError`, with the line to write, unless the name begins with an underscore."""
            kind, spelling = type(self).__name__, self.spelling
            if name.startswith("_"):  # not written by a user, but asked for by IPython, pickle and others
                raise AttributeError(f"{kind!r} object has no attribute {name!r}")
            if spelling.text is not None and name in METHODS_OF_TEXT:
                right = f"{spelling.text}.{name}(...)"
            elif spelling.text is not None and name == "text":  # a message has no such field
                right = f"{spelling.single}.content"
            else:
                right = f"{spelling.single}.{name}"
            raise AttributeError(f"A {kind} has no {name!r}: write `{right}`, not `{spelling.promise}.{name}`")

        def __getitem__(self, index: object) -> NoReturn:
            """Raise `TypeError`, with the line to write in place of an index or of `for`."""
            promise, piece, whole, single, _ = self.spelling
            if isinstance(index, str):  # a field, as if the message were a dict
                right = f"{single}.{index}"
            else:
                right = f"({whole})[{_short(index)}]" if whole.startswith("await ") else f"{whole}[{_short(index)}]"
            loop = "" if piece is None else f", and `async for {piece} in {promise}:`, not `for {piece} in {promise}:`"
            raise TypeError(
                f"A {type(self).__name__} has to be awaited: write `{right}`, not `{promise}[{_short(index)}]`{loop}"
            )

        def __len__(self) -> NoReturn:
            """Raise `TypeError`, with the line to write."""
            right, wrong = f"len({self.spelling.whole})", f"len({self.spelling.promise})"
            raise TypeError(f"A {type(self).__name__} has no length before its end: write `{right}`, not `{wrong}`")

        def __contains__(self, item: object) -> NoReturn:
            """Raise `TypeError`, with the line to write."""
            raise self._error_of_expression(f"{_short(item)} in ", "")

        def __format__(self, format_spec: str) -> NoReturn:
            """Raise `TypeError`, with the line to write: the state of a promise is no text for a message."""
            name, result = self.spelling.promise, self.spelling.single[1:-1]
            raise TypeError(
                f'A {type(self).__name__} has to be awaited: write `f"{{{result}}}"`, not `f"{{{name}}}"`. '
                f"`{{{name}!r}}` shows its state"
            )

        def __bool__(self) -> bool:
            """Return True, whatever has come."""
            return True  # without it, `if promise:` would ask for the length

        def __add__(self, other: object) -> NoReturn:
            """Raise `TypeError`, with the line to write."""
            raise self._error_of_expression("", f" + {_short(other)}")

        def __radd__(self, other: object) -> NoReturn:
            """Raise `TypeError`, with the line to write."""
            raise self._error_of_expression(f"{_short(other)} + ", "")

        def _error_of_expression(self, before: str, after: str) -> TypeError:
            """Return the error for the expression `{before}promise{after}`.

            Its text shows the expression with the promise awaited.
            """
            right, wrong = self.spelling.text or self.spelling.single, self.spelling.promise
            return TypeError(
                f"A {type(self).__name__} has to be awaited: write `{before}{right}{after}`, "
                f"not `{before}{wrong}{after}`"
            )


def _short(value: object) -> str:
    """Return the repr of a number or a short text, and three dots for anything else."""
    return repr(value) if isinstance(value, (str, int)) and len(repr(value)) <= 30 else "..."


class Promise(BoundToRun, NotAwaited, Generic[T_co]):
    """Result of work that goes on in the background; any number of tasks may await it.

    Args:
        resolver: async function without parameters that computes the result. It is called at most once.
        start_soon: True starts the work at the next task switch, False with the first await. None takes the default of
            the context.

    Raises:
        TypeError: the resolver cannot be called.
        NoActiveContextError: the work is to start, and no context is open.
    """

    __slots__ = ("__weakref__", "_cell")

    _cell: Cell[Any]

    def __init__(self, resolver: Callable[[], Awaitable[T_co]], *, start_soon: bool | None = None) -> None:
        if not callable(resolver):
            raise TypeError(f"resolver must be an async function without parameters, not {resolver!r}")
        cell: Cell[T_co] = Cell(type(self))
        self._cell = cell

        async def work() -> None:
            """Await the resolver, and settle the cell with its result or its error; let interrupts pass."""
            try:
                cell.resolve(await resolver())
            except INTERRUPTS:
                raise
            except BaseException as error:
                cell.fail(drop_engine_frames(error))

        cell.set_work(work, start_soon)

    @classmethod
    def of_cell(cls, cell: Cell[Any]) -> Self:
        """Return a promise of a cell; not for users."""
        promise = cls.__new__(cls)
        promise._cell = cell
        return promise

    def __repr__(self) -> str:
        scope = self._scope()
        maker = "" if scope is None else f" of {scope}"
        return f"<{type(self).__name__}{maker}, {self._state()}>"

    def _scope(self) -> object:
        """Return the agent call that makes the result; None if it is not known, or not an agent."""
        return self._cell.scope

    def _state(self) -> str:
        """Return one word for the state of the promise, and the class of the error of a failed one."""
        cell = self._cell
        if not cell.done:
            return "pending"
        if cell.failure is None:
            return "resolved"
        error = cell.failure.error
        return "cancelled" if isinstance(error, PromiseCancelledError) else f"failed: {type(error).__name__}"

    def __await__(self) -> Generator[Any, None, T_co]:
        cell = self._cell
        if not cell.done:
            yield from cell.wait(for_end=True).__await__()
        return cell.result()  # type: ignore[no-any-return]  # the subclass says what its cell holds

    @property
    def is_done(self) -> bool:
        """True once the promise is resolved, failed or cancelled."""
        return self._cell.done

    @property
    def is_resolved(self) -> bool:
        """True once the promise has a result, and so neither failed nor was cancelled."""
        return self._cell.done and self._cell.failure is None

    def cancel(self) -> None:
        """Stop the work behind this promise for good, for all readers; do nothing after its end.

        Readers get the pieces so far and then `PromiseCancelledError`; the source's `finally` blocks run.

        Raises:
            RuntimeError: the loop of the work, or of a reader, runs in another thread.
        """
        if not self._cell.done:
            self._cell.refuse_other_thread("cancel() was called", "loop.call_soon_threadsafe(promise.cancel)")
        self._cell.cancel()
