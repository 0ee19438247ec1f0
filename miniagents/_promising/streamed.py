"""`StreamedPromise`, whose pieces any number of readers read from the first one; `StreamAppender`, which sends pieces.

One task, the pump, reads the source and appends its pieces to a list. A reader walks the list, and waits when it has
read everything; nothing that a reader does can reach the source. A list iterator inside of an async generator costs a
reader what a bare async generator costs.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable
from itertools import repeat
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from miniagents._promising.context import BoundToRun, drop_engine_frames
from miniagents._promising.freezing import freeze
from miniagents._promising.pauses import FIRST_READ, MOST_READ_PER_LOOK, Pauses
from miniagents._promising.promise import Cell, Promise, Spelling
from miniagents.errors import INTERRUPTS, AppenderClosedError, is_failure

if TYPE_CHECKING:
    import contextvars
    from types import TracebackType
    from typing import Self

    from miniagents._promising.promise import Waiters


P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)
W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)


MOST_AHEAD = 64
"""Greatest number of pieces that a source on demand is ahead of its fastest reader."""
_MOST_PER_LOOK = 512
"""Greatest number of pieces of a source between two looks at the clock."""
_MOST_PER_BATCH = 65_536
"""Greatest number of pieces in a list for a reader of batches: to copy more takes too long."""

KEPT_ELSEWHERE: Any = object()
"""Result of `StreamCell.check` for what the source has yielded beside the pieces."""


class StreamCell(Cell[W], Generic[P, W]):
    """State of a stream: a cell that gets pieces before it is settled."""

    resolver: Callable[[list[P]], W] | None = None
    """Makes the result from the pieces; None for a tuple of them."""
    request: asyncio.Future[None] | None = None
    """Future that an on-demand pump awaits until a reader asks for more."""
    most_ahead: ClassVar[int] = MOST_AHEAD
    """Greatest number of pieces that an on-demand pump is ahead of its fastest reader."""

    if TYPE_CHECKING:  # the methods below assign these: pyright would see other types there than in the base class
        done: bool
        on_demand: bool
        waiters: Waiters
        deferred_start: Callable[[], None] | None
        kept_promise: Promise[Any] | None

    def __init__(self, promise_class: type[Promise[Any]]) -> None:
        Cell.__init__(self, promise_class)  # each call of an agent makes three cells, and `super()` takes as long
        self.pieces: list[P] = []

    @property
    def is_closing(self) -> bool:
        """True if no more pieces may be sent."""
        return self.done

    # --- the pump

    def pump_from(
        self,
        source: Callable[[], AsyncIterable[Any]],
        *,
        start_soon: bool | None,
        batches: bool,
        variables: contextvars.Context | None = None,
    ) -> None:
        """Read a source to its end in one task.

        Args:
            source: called once, returns the async iterable.
            start_soon: True to read it at once, False as the readers ask for more; None takes the context's default.
            batches: the iterable yields lists of pieces.
            variables: the context variables the task runs with; None for a copy of the current ones.
        """
        if start_soon is None:
            start_soon = self.context is not None and self.context.start_everything_soon_by_default
        self.on_demand = not start_soon
        pump = self._pump_batches if batches else self._pump
        self.set_work(lambda: self._run(source, pump), start_soon, variables)

    async def _run(self, source: Callable[[], AsyncIterable[Any]], pump: Callable[[AsyncIterable[Any]], Any]) -> None:
        """Read the source by one of the pump functions, settle the cell, and close the source.

        The cell ends with the result or the source's error. An interrupt is raised further, and the cell ends as
        cancelled.
        """
        pieces: AsyncIterable[Any] | None = None
        try:
            pieces = source()
            await pump(pieces)
            self.finish()
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.fail(drop_engine_frames(error))
        finally:
            self.settle_as_cancelled()  # not settled yet: an interrupt is on its way out of the loop
            # an exhausted generator ignores this; one that has not ended runs its `finally` blocks now
            if (aclose := getattr(pieces, "aclose", None)) is not None:
                await aclose()

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        """Append each piece of the source as soon as it comes, and wake the readers.

        Stop early when the cell is settled.
        """
        # No lock, queue, object or call for each piece: this loop is the cost of a token between source and readers.
        pieces, check = self.pieces, self.check
        pauses, woken = PumpPauses(self, self.most_ahead), True  # the first piece may come after a wait
        until_look = repeat(None, 0)
        async for piece in source:
            if piece.__class__ is str or (piece := check(piece)) is not KEPT_ELSEWHERE:
                pieces.append(piece)
                if self.waiters is not None:
                    if self.done:
                        return
                    self.wake()
                    woken = True
            for _ in until_look:  # takes one: the cheapest way to count
                break
            else:
                del piece  # so that a promise which readers have dropped is not kept here
                left, woken = pauses.look(woken=woken) or await pauses.pause(), False
                until_look = repeat(None, left - 1)
                if self.done:
                    return

    async def _pump_batches(self, source: AsyncIterable[Any]) -> None:
        """Append the pieces of each list that the source yields; on demand, wait for a reader after each list.

        Stop early when the cell is settled.
        """
        pauses, left, woken = PumpPauses(self, most_ahead=1), 1, True  # as in `_pump`
        async for batch in source:
            woken = woken or self.waiters is not None
            self.take_batch(batch)
            left -= 1
            if not left:
                left, woken = pauses.look(woken=woken) or await pauses.pause(), False
            if self.done:
                return

    @property
    def has_waiting_reader(self) -> bool:
        """True if a reader waits: for the next piece, having read all before it, or only for the end (`await`)."""
        return bool(self.waiters or self.done_waiters)

    async def wait_for_reader(self) -> None:
        """Wait until a reader waits for the next piece or for the end, or until the stream has ended.

        Meanwhile this task does not keep the context open.
        """
        context, task = self.context, asyncio.current_task()
        assert context is not None
        assert task is not None
        while not (self.has_waiting_reader or self.done):
            self.request = asyncio.get_running_loop().create_future()
            context.park(task)
            try:
                await self.request
            finally:
                self.request = None
                context.unpark(task)

    def wake_pump(self) -> None:
        """Wake an on-demand pump, because a reader waits; do nothing if the pump does not wait for a reader."""
        if self.request is not None and not self.request.done():
            self.request.set_result(None)

    def finish(self) -> None:
        """Resolve with the result of the pieces, because no more will come; do nothing after the end."""
        if not self.done:
            self.resolve(self.whole())

    def whole(self) -> W:
        """Return the result of the promise: what its resolver makes of all pieces, else a tuple of them."""
        if self.resolver is not None:
            return self.resolver(self.pieces)
        return tuple(self.pieces)  # type: ignore[return-value]  # without a resolver, W is that tuple

    def receive(self, piece: Any) -> None:
        """Append a piece that the source has yielded, unless `check` has kept it elsewhere, and wake the readers."""
        piece = self.check(piece)
        if piece is not KEPT_ELSEWHERE:
            self.pieces.append(piece)
            self.wake()

    def take_batch(self, batch: list[Any]) -> None:
        """Append a list of pieces that the source has yielded, and wake the readers."""
        self.pieces.extend(batch)
        self.wake()

    def check(self, piece: Any) -> P:
        """Return a piece of the source in the form in which it is kept: here, as it is.

        A subclass may convert it, or raise `TypeError` for a wrong type. It may also keep the piece in another place
        than `pieces`, and return `KEPT_ELSEWHERE`.
        """
        return piece  # type: ignore[no-any-return]  # pieces of all types are taken here

    # --- when the promise is lost

    def keep_promise(self, promise: Promise[Any]) -> None:
        """Keep the promise alive until the stream ends, if handlers of resolved promises need its result."""
        if self.context is not None and self.context.keeps_results:
            self.kept_promise = promise

    def call_in_loop(self, stop: Callable[[], object]) -> None:
        """Call `stop` in the loop of the cell's task: at once if that loop runs in this thread, else in its next step.

        Do nothing if there is no task, or if the cell is settled.
        """
        task, context = self.task, self.context
        if task is None or context is None or self.done:
            return
        if asyncio._get_running_loop() is task.get_loop():
            stop()
        else:  # the promise was lost in another thread, or between two runs of the loop
            context.call_soon(stop)

    # --- reading

    async def read(self, promise: object) -> AsyncIterator[Any]:
        """Yield all pieces from the first one on, each as soon as it has come; at the end, raise the failure, if any.

        The first `yield` gives `promise` instead of a piece: `start_reader` takes it, before readers get the generator.

        Args:
            promise: the promise of this cell, which is kept alive as long as the generator.
        """
        yield promise
        pieces, position = self.pieces, 0
        pauses: Pauses | None = None
        turn = FIRST_READ
        while True:
            done = self.done
            if position < len(pieces):
                yield pieces[position]
                position += 1
                if position == len(pieces):  # without an iterator for a single token: 1 % of its cost
                    continue
                if len(pieces) - position > turn:
                    if pauses is None:
                        pauses = Pauses(turn, MOST_READ_PER_LOOK)
                    else:
                        turn = pauses.look() or await pauses.pause()
                    for piece in pieces[position : position + turn]:
                        yield piece
                    position = min(position + turn, len(pieces))
                    continue
                unread = iter(pieces)
                unread.__setstate__(position)  # type: ignore[attr-defined]  # sets the position of a list iterator in O(1)
                for piece in unread:  # comes to pieces that are appended meanwhile, too
                    yield piece
                position = len(pieces)
            elif done:
                break
            else:
                future = self.add_waiter()
                try:  # as in `wait`: a coroutine for each token would cost 4 % of a stream of single tokens
                    await future
                except BaseException:
                    self.remove_waiter(future)
                    raise
        self.result()  # raises what it failed with

    async def read_batches(self, promise: object) -> AsyncIterator[Any]:
        """Yield lists of the pieces that have come since the last list; wait if there are none.

        At the end, raise the failure, if any. As in `read`, the first `yield` gives `promise` instead.
        """
        yield promise
        pieces, position = self.pieces, 0
        while True:
            done = self.done
            if position < len(pieces):
                batch = pieces[position : position + _MOST_PER_BATCH]
                position += len(batch)
                yield batch
                if len(batch) == _MOST_PER_BATCH:
                    await asyncio.sleep(0)  # other tasks run
            elif done:
                break
            else:
                await self.wait()
        self.result()  # raises what it failed with


class PumpPauses(Pauses):
    """Pauses of a pump. On demand, there is a pause after each look, and it lasts until a reader waits.

    Args:
        cell: the cell of the pump.
        most_ahead: the greatest number of pieces that the pump is ahead of the fastest reader on demand.
    """

    streams: ClassVar[int] = 1
    __slots__ = ("_cell", "_most_ahead")

    def __init__(self, cell: StreamCell[Any, Any], most_ahead: int) -> None:
        Pauses.__init__(self, 1, _MOST_PER_LOOK)  # `super()` takes as long
        self._cell = cell
        self._most_ahead = most_ahead

    def look(self, *, woken: bool = False) -> int:
        """Return the number of pieces until the next look at the clock, or 0 for a pause; on demand, return 0."""
        left = Pauses.look(self, woken=woken)
        return 0 if self._cell.on_demand else left

    async def pause(self) -> int:
        """Let other tasks run, and return the number of pieces until the next look.

        On demand, go on only when a reader waits. If none waits after one step of the loop, the number is 1 again.
        """
        await asyncio.sleep(0)
        if self._cell.on_demand:
            self._turn = min(self._turn, self._most_ahead)
            if not self._cell.has_waiting_reader:
                await self._cell.wait_for_reader()
                self._turn = 1
        waiters = self._cell.waiters
        readers = len(waiters) if isinstance(waiters, dict) else 1  # those that did not count themselves in a pause
        return self.resume(max(1, readers // 2))  # a reader takes half as long as a pump


def start_reader(pieces: AsyncIterator[P]) -> AsyncIterator[P]:
    """Run an async generator to its first `yield`, drop what that gives, and return the generator for a reader.

    A program that drops the generator (`break`) ends it at once, and so releases the promise that it holds. With
    asyncio's hooks, which are set aside for the first `yield`, a task would close it some steps later.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        pieces.__anext__().send(None)  # type: ignore[attr-defined]  # that of a generator is a coroutine
    except StopIteration:
        return pieces
    finally:
        sys.set_asyncgen_hooks(*hooks)
    raise AssertionError("the generator does not begin with `yield`")


class StreamedPromise(Promise[W_co], Generic[P_co, W_co]):
    """Promise whose pieces any number of readers can read while they come, from the first one.

    `async for piece in promise` reads the pieces; `await promise` gives the result.

    Args:
        streamer: async generator function (or any function that returns an async iterable) without parameters.
        resolver: makes the result from the list of pieces; by default, a tuple of them.
        start_soon: True reads the source from the next task switch on. False reads it from the first reader on, and
            stays one piece ahead of a reader that waits between pieces. It stays at most 64 ahead of a reader that does
            not. None takes the default of the context.

    Raises:
        TypeError: the streamer cannot be called.
        NoActiveContextError: the source is to be read at once, and no context is open.
    """

    __slots__ = ()

    _cell: StreamCell[Any, Any]
    spelling: ClassVar[Spelling] = Spelling(piece="piece")

    @overload
    def __init__(
        self: StreamedPromise[P_co, tuple[P_co, ...]],
        streamer: Callable[[], AsyncIterable[P_co]],
        *,
        resolver: None = None,
        start_soon: bool | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        streamer: Callable[[], AsyncIterable[P_co]],
        *,
        resolver: Callable[[list[P_co]], W_co],
        start_soon: bool | None = None,
    ) -> None: ...

    def __init__(
        self,
        streamer: Callable[[], AsyncIterable[P_co]],
        *,
        resolver: Callable[[list[P_co]], W_co] | None = None,
        start_soon: bool | None = None,
    ) -> None:
        if not callable(streamer):
            raise TypeError(f"streamer must be an async generator function without parameters, not {streamer!r}")
        cell: StreamCell[P_co, Any] = StreamCell(type(self))
        cell.resolver = resolver
        self._cell = cell
        cell.pump_from(streamer, start_soon=start_soon, batches=False)

    def __aiter__(self) -> AsyncIterator[P_co]:
        return start_reader(self._cell.read(self))

    def batches(self) -> AsyncIterator[list[P_co]]:
        """Return an iterator over lists of pieces, each with those that have come since the last one, at most 65,536.

        It costs less than an iteration over single pieces.
        """
        return start_reader(self._cell.read_batches(self))


class StreamAppender(BoundToRun, Generic[P]):
    """Sender of pieces, which readers get from its `promise`: `with appender: appender.append(piece)`.

    Args:
        capture_errors: True if an error that leaves the `with` block ends the stream and is not raised further. With
            False it ends the stream and is raised further. `KeyboardInterrupt`, `SystemExit` and cancellations are
            always raised further; the stream then ends as cancelled.
    """

    spelling: ClassVar[tuple[str, str]] = "appender.append", "appender.close"
    """Methods that the error of a call from another thread names."""
    _cell: StreamCell[P, tuple[P, ...]]

    def __init__(self, *, capture_errors: bool = False) -> None:
        self._set_cell(_AppendedCell(StreamedPromise), capture_errors=capture_errors)

    def _set_cell(self, cell: StreamCell[P, tuple[P, ...]], *, capture_errors: bool) -> None:
        """Set the state of a new appender, which sends pieces into `cell`."""
        self.capture_errors = capture_errors
        self._opened = False
        self._cell = cell
        context = cell.context
        self._thread = get_ident() if context is None or context.thread == get_ident() else 0
        """Identity of the thread that may append; 0 if this object was made in another one than that of its run."""

    @property
    def promise(self) -> StreamedPromise[P, tuple[P, ...]]:
        """The promise of all pieces, for readers."""
        return self._cell.promise_class.of_cell(self._cell)  # type: ignore[return-value]  # the cell of a stream makes streamed promises

    def open(self) -> Self:
        """Begin to accept pieces.

        Raises:
            AppenderClosedError: the appender was opened or closed before.
        """
        if self._opened or self._cell.done:
            raise AppenderClosedError("This appender was opened or closed before: make a new one for each stream")
        self._opened = True
        return self

    def append(self, piece: P) -> Self:
        """Freeze a piece and send it.

        Raises:
            AppenderClosedError: before `open`, or after `close`.
            FreezeError: the piece is of a type that cannot be made immutable.
            RuntimeError: the loop of the readers runs in another thread.
        """
        self.check_open()
        self._append(piece)
        return self

    def check_open(self) -> None:
        """Raise `AppenderClosedError` unless pieces are accepted now; in the wrong thread, raise `RuntimeError`."""
        if not self._opened or self._cell.is_closing:
            state = "has been closed" if self._opened else "is not open yet"
            raise AppenderClosedError(f"This appender {state}: append inside `with appender:`")
        if get_ident() != self._thread:
            self._refuse_other_thread(self.spelling[0], ", ...")

    def _refuse_other_thread(self, method: str, arguments: str) -> None:
        """Raise `RuntimeError` if the loop of the readers runs in another thread.

        An appender that was made in a thread without a loop may be filled there before a task reads it.

        Args:
            method: the method that was called, as the caller writes it.
            arguments: the rest of the arguments of `call_soon_threadsafe`.
        """
        context = self._cell.context if self._thread else None
        loop = None if context is None else context._loop
        right = f"loop.call_soon_threadsafe({method}{arguments})"
        self._cell.refuse_other_thread(f"{method}() was called", right, loop)

    def _append(self, piece: P) -> None:
        """Freeze a piece and send it to the readers, without a check that the stream is open."""
        self._cell.pieces.append(freeze(piece, "piece"))
        self._cell.wake()

    def close(self) -> None:
        """End the stream; do nothing if it has ended.

        Raises:
            RuntimeError: the loop of the readers runs in another thread.
        """
        if get_ident() != self._thread and not self._cell.is_closing:
            self._refuse_other_thread(self.spelling[1], "")
        self._cell.finish()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            self.close()
            return False
        if self._cell.is_closing:
            return False  # a stream that has ended cannot take the error
        if not is_failure(error):
            self._cell.settle_as_cancelled()
            return False
        self._fail(error)
        return self.capture_errors

    def _fail(self, error: BaseException) -> None:
        """End the stream with an error; that error counts as observed if the `with` block raises it."""
        if not self.capture_errors:
            self._cell.mark_observed()  # the caller of the `with` block gets the error
        self._cell.fail(error)


class _AppendedCell(StreamCell[P, W]):
    """State of a stream whose pieces any task may send."""

    produced_only_by_its_task = False


def is_async_iterable(value: object) -> bool:
    """Return True if `async for` can read `value`; a class itself is no iterable."""
    return isinstance(value, AsyncIterable) and not inspect.isclass(value)
