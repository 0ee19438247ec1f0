"""StreamedPromise: one pump, many readers, replayable from the start by anyone.

The pump is the only task that touches the source. It appends pieces to a list; a reader walks that list and waits only
when it has read everything. Measured: a list iterator inside an async generator costs a reader what a bare async
generator costs, and nothing a reader does can reach the source.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from weakref import ref

from miniagents._promising.context import BoundToRun, drop_engine_frames
from miniagents._promising.freezing import freeze
from miniagents._promising.promise import Cell, Promise
from miniagents.errors import INTERRUPTS, AppenderClosedError, is_failure

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)
W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)


class StreamCell(Cell[W], Generic[P, W]):
    """A cell that grows piece by piece before it is settled."""

    resolver: Callable[[list[P]], W] | None = None
    request: asyncio.Future[None] | None = None
    """What a pump on demand waits for while nobody reads."""
    kept_promise: Promise[Any] | None = None
    """The promise, while a persistence handler waits for what is in it, whether it can be read or not."""

    def __init__(self, promise_class: type[Promise[Any]]) -> None:
        super().__init__(promise_class)
        self.pieces: list[P] = []

    @property
    def is_closing(self) -> bool:
        """Whether nothing may be sent any more."""
        return self.done

    # --- the pump

    def pump_from(self, source: Callable[[], AsyncIterable[Any]], *, start_soon: bool | None, batches: bool) -> None:
        """Read `source` to its end in one task, as fast as it goes, or as it is read when `start_soon` is False."""
        if start_soon is None:
            start_soon = self.context is not None and self.context.start_everything_soon_by_default
        self.on_demand = not start_soon
        pump = self._pump_batches if batches else self._pump if start_soon else self._pump_on_demand
        self.set_work(lambda: self._run(source, pump), start_soon)

    async def _run(self, source: Callable[[], AsyncIterable[Any]], pump: Callable[[AsyncIterable[Any]], Any]) -> None:
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
            self.settle_as_cancelled()  # if nothing has settled it: an interrupt is on its way to whoever runs the loop
            # an exhausted generator ignores this; one that was left in the middle runs its `finally` blocks now
            if (aclose := getattr(pieces, "aclose", None)) is not None:
                await aclose()

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        # No lock, queue, object or call a piece: this loop is what a token costs between its source and its readers
        append, check = self.pieces.append, self.check
        # attributes of the class take twice as long to find as those of the cell
        self.waiters, self.done, self.deferred_start = self.waiters, self.done, self.deferred_start
        async for piece in source:
            append(piece if piece.__class__ is str else check(piece))  # type: ignore[arg-type]  # a str is no check's business
            if self.waiters is not None:
                self.wake()
            if self.done:
                return

    async def _pump_batches(self, source: AsyncIterable[Any]) -> None:
        async for batch in source:
            self.pieces.extend(batch)
            self.wake()
            if self.on_demand:
                await self.wait_for_reader()
            if self.done:
                return

    async def _pump_on_demand(self, source: AsyncIterable[Any]) -> None:
        async for piece in source:
            self.take(piece)
            del piece  # a promise that is read and dropped elsewhere is not to be kept here
            await self.wait_for_reader()
            if self.done:
                return

    @property
    def has_waiting_reader(self) -> bool:
        """Whether somebody has read everything and waits for more."""
        return bool(self.waiters or self.done_waiters)

    async def wait_for_reader(self) -> None:
        """Wait for a reader that has read everything; meanwhile the context may close without us."""
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

    def request_more(self) -> None:
        """A reader has read everything: a pump on demand goes on."""
        if self.request is not None and not self.request.done():
            self.request.set_result(None)

    def finish(self) -> None:
        """The source has come to its end."""
        if not self.done:
            self.resolve(self.whole())

    def whole(self) -> W:
        """What the pieces make together."""
        if self.resolver is not None:
            return self.resolver(self.pieces)
        return tuple(self.pieces)  # type: ignore[return-value]  # without a resolver, W is that tuple

    def take(self, piece: Any) -> None:
        """A piece has come."""
        self.pieces.append(self.check(piece))
        self.wake()

    def check(self, piece: Any) -> P:
        """The piece as it is kept, or `TypeError`."""
        return piece  # type: ignore[no-any-return]  # any piece will do, unless a subclass knows better

    # --- when its promise is lost

    def keep_promise(self, promise: Promise[Any]) -> None:
        """Keep the promise to the end, if results are wanted although no reader can reach them."""
        if self.context is not None and self.context.keeps_results:
            self.kept_promise = promise

    def notify_settled(self, result: Any) -> None:
        """Wake readers, and keep the promise no longer."""
        if self.kept_promise is not None:
            self.kept_promise = None
        super().notify_settled(result)

    def call_in_loop(self, stop: Callable[[], object]) -> None:
        """Call this, if there is a task to stop: now if its loop is running here, and otherwise in its next step."""
        task, context = self.task, self.context
        if task is None or context is None or self.done:
            return
        if asyncio._get_running_loop() is task.get_loop():
            stop()
        else:  # the last reference went in another thread, or between two runs of the loop
            context.call_soon(stop)

    # --- reading

    async def read(self, promise: object = None) -> AsyncIterator[P]:
        """All pieces from the first on, each as soon as it is there, and the error at its place.

        Args:
            promise: what is read. It is kept alive while the next piece is waited for, not while there is a piece to
                look at: then it is up to the iterator (see `_Reader`).
        """
        pieces, position, promise_again = self.pieces, 0, _get_weak_reference(promise)
        while True:
            done = self.done
            if position < len(pieces):
                promise = None
                yield pieces[position]
                position += 1
                if position == len(pieces):  # tokens that come alone are spared an iterator each, 1 % of their cost
                    continue
                unread = iter(pieces)
                unread.__setstate__(position)  # type: ignore[attr-defined]  # where a list iterator stands: O(1)
                for piece in unread:  # goes on through what is appended meanwhile
                    yield piece
                position = len(pieces)
            elif done:
                break
            else:
                promise = promise_again()
                future = self.add_waiter()
                try:  # `wait`, of which a coroutine a token costs 4 % of a stream that comes token by token
                    await future
                except BaseException:
                    self.remove_waiter(future)
                    raise
        self.result()  # raises what it failed with

    async def read_batches(self, promise: object = None) -> AsyncIterator[list[P]]:
        """Like `read`, but all that is there at once."""
        pieces, position, promise_again = self.pieces, 0, _get_weak_reference(promise)
        while True:
            done = self.done
            if position < len(pieces):
                promise = None
                batch = pieces[position:]
                position += len(batch)
                yield batch
            elif done:
                break
            else:
                promise = promise_again()
                await self.wait()
        self.result()  # raises what it failed with


def _get_weak_reference(promise: object) -> Callable[[], object]:
    """Gives the promise again, as long as somebody else keeps it."""
    return type(None) if promise is None else ref(promise)


class _Reader(BoundToRun, Generic[P]):
    """Keeps the promise alive while a live stream is read; the generator itself holds only the cell.

    `__anext__` is the generator's own, found through the slot, so that a token costs no Python call here. When a reader
    is dropped (a `break`), the promise is released at once, while asyncio closes the abandoned generator steps later.
    """

    __slots__ = ("__anext__", "_promise")

    def __init__(self, promise: Promise[Any], pieces: AsyncIterator[P]) -> None:
        self._promise = promise
        self.__anext__ = pieces.__anext__

    def __aiter__(self) -> Self:
        return self


class StreamedPromise(Promise[W_co], Generic[P_co, W_co]):
    """A promise whose pieces can be read while they come, from the first one, by any number of readers.

    `async for piece in promise` reads the pieces; `await promise` gives the whole.

    Args:
        streamer: async generator function (or any function that returns an async iterable) without parameters.
        resolver: makes the whole out of the list of pieces; a tuple of them by default.
        start_soon: True begins at the next task switch. False begins with the first reader and stays at most one piece
            ahead of the readers. None takes the context's default.
    """

    __slots__ = ()

    _cell: StreamCell[Any, Any]

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
        cell = self._cell
        if cell.done:
            return cell.read()
        return _Reader(self, cell.read(self))

    def batches(self) -> AsyncIterator[list[P_co]]:
        """Lists of pieces, each with all that had arrived: for those who need not see every piece for itself."""
        cell = self._cell
        if cell.done:
            return cell.read_batches()
        return _Reader(self, cell.read_batches(self))


class StreamAppender(BoundToRun, Generic[P]):
    """The sending end of a stream that is filled by hand.

    Used as `with appender: appender.append(piece)`; its `promise` can be read from anywhere meanwhile.

    Args:
        capture_errors: an error that leaves the `with` block becomes the end of the stream and goes no further.
            Otherwise it ends the stream and goes on. Interrupts and cancellations always go on; the stream then ends as
            cancelled.
    """

    def __init__(self, *, capture_errors: bool = False) -> None:
        self.capture_errors = capture_errors
        self._opened = False
        self._cell: StreamCell[P, tuple[P, ...]] = _AppendedCell(StreamedPromise)

    @property
    def promise(self) -> StreamedPromise[P, tuple[P, ...]]:
        """What readers read."""
        return self._cell.promise_class.of_cell(self._cell)  # type: ignore[return-value]  # the cell of a stream makes streamed promises

    def open(self) -> Self:
        """Begin to accept pieces.

        Raises:
            AppenderClosedError: it was open before.
        """
        if self._opened or self._cell.done:
            raise AppenderClosedError("This appender was open before: make a new one for each stream")
        self._opened = True
        return self

    def append(self, piece: P) -> Self:
        """Send a piece, frozen at once.

        Raises:
            AppenderClosedError: before `open`, or after `close`.
            FreezeError: the piece is of a type that cannot be made immutable.
        """
        self.check_open()
        self._append(piece)
        return self

    def check_open(self) -> None:
        """Raise `AppenderClosedError` unless pieces are accepted now."""
        if not self._opened or self._cell.is_closing:
            state = "has been closed" if self._opened else "is not open yet"
            raise AppenderClosedError(f"This appender {state}: append inside `with appender:`")

    def _append(self, piece: P) -> None:
        self._cell.pieces.append(freeze(piece, "piece"))
        self._cell.wake()

    def close(self) -> None:
        """End the stream; closing twice is fine."""
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
            return False  # there is no place left for it in the stream
        if not is_failure(error):
            self._cell.settle_as_cancelled()
            return False
        self._fail(error)
        return self.capture_errors

    def _fail(self, error: BaseException) -> None:
        if not self.capture_errors:
            self._cell.mark_observed()  # it goes on to the caller, who is responsible for it then
        self._cell.fail(error)


class _AppendedCell(StreamCell[P, W]):
    produced_only_by_its_task = False


def is_async_iterable(value: object) -> bool:
    """Whether `value` can be read with `async for`; a class itself cannot."""
    return isinstance(value, AsyncIterable) and not inspect.isclass(value)
