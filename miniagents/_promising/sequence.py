"""`FlatSequence`, into which nested items are sent, and `SequencePromise`, whose readers get them flat.

Items come in order, or out of order where the sender asks for it. Lists are flattened when they are sent. Another
sequence is kept by reference (see `sequence_cell`). An iterator or an async iterable gets a task that reads it. Leaves
may be promises of any kind: subclasses say how values become leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from miniagents._promising.context import BoundToRun, current_context, find_current_context
from miniagents._promising.promise import Cell, Promise
from miniagents._promising.sequence_cell import Branch, LEAF_co, SequenceCell, WHOLE_co
from miniagents._promising.streamed import StreamAppender, is_async_iterable
from miniagents.errors import INTERRUPTS, CyclicValueError, is_failure

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self


LEAF = TypeVar("LEAF", bound=Promise[Any])

_NOT_FLATTENED = (str, bytes, bytearray, memoryview, range)
"""Types of Python that count as sequences, but not as lists of items."""


class _LeafReader(BoundToRun):
    """Iterator that gives each leaf of a sequence as soon as it has come, and never raises the failure of a leaf.

    It is no async generator, because asyncio closes a dropped one some loop steps later, and it keeps its promise till
    then.
    """

    __slots__ = ("_last", "_promise", "_walk")

    def __init__(self, promise: SequencePromise[Any, Any]) -> None:
        self._promise = promise
        self._walk = promise._cell.walk()
        self._last: Promise[Any] | None = None
        """The leaf that was given last."""

    def __del__(self) -> None:
        """Mark all failures of the sequence as observed if its reader has got the failure of a leaf and stopped there.

        An agent that waits for replies which it passes on fails with their error: its caller has that error by then.
        """
        cell = None if self._last is None else self._last._cell
        if cell is not None and cell.failure is not None and cell.observed:
            self._promise._cell.mark_all_observed(cell.failure.error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        for leaf_or_cell in self._walk:
            if isinstance(leaf_or_cell, Promise):
                self._last = leaf_or_cell
                return leaf_or_cell
            await leaf_or_cell.wait()
        self._last = None
        raise StopAsyncIteration


class _BatchReader(_LeafReader):
    """Iterator over a sequence that gives each leaf in a list of its own."""

    __slots__ = ()

    async def __anext__(self) -> list[Any]:
        return [await super().__anext__()]


class _PumpedCell(SequenceCell):
    """State of a sequence of the items of an async iterable. The pump stops when the promise is lost."""

    stops_without_readers = True

    def handle_lost_promise(self) -> None:
        """Stop reading the iterable, and drop the items that it has yielded."""
        self.call_in_loop(self._stop)

    def _stop(self) -> None:
        """Drop the leaves and cancel the task that reads the iterable."""
        self.drop_pieces()
        Cell.cancel(self)


class SequencePromise(Branch[LEAF_co, WHOLE_co]):
    """Promise of a flat sequence of promises, its leaves.

    `async for leaf in sequence` gives the leaves as they come, and never raises their failures. `await sequence` gives
    a tuple of the results of the leaves, or raises the first failure in their order.
    """

    __slots__ = ()

    leaf_class: ClassVar[type[Promise[Any]]]
    """Class of the leaves."""
    value_class: ClassVar[type]
    """Class of the results of leaves. A value of this class can be sent in place of a leaf."""

    def __await__(self) -> Generator[Any, None, WHOLE_co]:
        cell = self._cell
        if not cell.done:  # without a coroutine, which each of many waiting tasks would keep alive
            future = cell.add_waiter(for_end=True)
            try:
                if not future.done():  # what the future's own iterator does, which would be one more object a reader
                    future._asyncio_future_blocking = True
                    yield future
                future.result()
            except BaseException:
                cell.remove_waiter(future)
                raise
        leaves, all_values = yield from cell.collect_leaves()
        if all_values:
            return tuple(leaves)  # type: ignore[return-value]  # WHOLE_co is that tuple
        return (yield from _resolve(cell, leaves).__await__())  # type: ignore[no-any-return]  # as above

    def __aiter__(self) -> AsyncIterator[LEAF_co]:
        return _LeafReader(self)

    def batches(self) -> AsyncIterator[list[LEAF_co]]:
        """Return an iterator over the leaves, each in a list of its own."""
        return _BatchReader(self)

    def __del__(self) -> None:
        """Tell an unfinished cell that no reader can reach the promise any more."""
        try:
            cell = self._cell
        except AttributeError:
            return  # the constructor has failed
        if not cell.done:
            cell.handle_lost_promise()

    @classmethod
    def make_value(cls, item: Any) -> Any:
        """Raise `TypeError`, because items of this type cannot be sent.

        A subclass returns the result of a leaf for an item that is neither a promise nor a container, or raises the
        error.
        """
        raise TypeError(f"Cannot send {item!r:.100} of type {type(item).__name__}")

    @classmethod
    def flatten(cls, item: Any, *, into: SequenceCell | None = None) -> list[Any]:
        """Return the leaves, values and branches of an item. Each iterator or async iterable becomes a branch.

        If the context has handlers of promises, each value becomes a resolved promise.

        Args:
            item: a value, a promise, an exception, or lists and iterables of these, nested at will.
            into: the sequence that the item is sent into.

        Raises:
            TypeError: a part of the item cannot be sent.
            CyclicValueError: a list contains itself, or a sequence was sent into itself.
        """
        if cls.value_class in type(item).__mro__:
            pieces = [item]
        elif isinstance(item, (str, Promise)):
            pieces = [cls._to_piece(item, into)]
        else:
            pieces = cls._flatten_lists(item, into)
        context = current_context.get() or find_current_context()
        if context is not None and context.listens:  # its handlers are called with promises: each value needs one
            return [piece if isinstance(piece, Promise) else cls.leaf_of_value(piece) for piece in pieces]
        return pieces

    @classmethod
    def _flatten_lists(cls, item: Any, into: SequenceCell | None) -> list[Any]:
        """Return the leaves, values and branches of an item that may be a list or a tuple, or hold some, at any depth.

        Raises:
            TypeError: a part of the item cannot be sent.
            CyclicValueError: a list contains itself, or the item holds the sequence `into`.
        """
        pieces: list[Any] = []
        stack: list[tuple[Any, Iterator[Any]]] = [(None, iter((item,)))]
        enclosing: set[int] = set()
        while stack:
            container, items = stack[-1]
            for each in items:
                kind = type(each)
                if cls.value_class in kind.__mro__:  # isinstance takes ten times as long for a pydantic model
                    pieces.append(each)
                elif (kind is list or kind is tuple) and cls._are_all_values(each):
                    pieces += each
                elif isinstance(each, Sequence) and not isinstance(each, _NOT_FLATTENED):
                    if id(each) in enclosing:
                        raise CyclicValueError(f"A {kind.__name__} that contains itself cannot be sent")
                    enclosing.add(id(each))
                    stack.append((each, iter(each)))
                    break
                else:
                    pieces.append(cls._to_piece(each, into))
            else:
                enclosing.discard(id(container))
                stack.pop()
        return pieces

    @classmethod
    def _are_all_values(cls, items: list[Any] | tuple[Any, ...]) -> bool:
        """Return True if all items are of the class of values, so that none has to be converted."""
        return all(cls.value_class in kind.__mro__ for kind in set(map(type, items)))

    @classmethod
    def _to_piece(cls, item: Any, into: SequenceCell | None) -> Any:
        """Return the form in which a sequence keeps an item that is no list: promise, value or nested sequence.

        Promises, sequences and values stay as they are. An exception becomes a failed promise. An iterator or async
        iterable becomes a sequence, which a task reads. Any other item becomes a value by `make_value`.

        Args:
            item: an item that is sent, no list.
            into: state of the sequence that the item is sent into; None if no sequence keeps it yet.

        Raises:
            TypeError: items of this type cannot be sent.
            CyclicValueError: the item is the sequence of `into` itself.
        """
        if isinstance(item, SequencePromise):
            if item._cell is into:
                raise CyclicValueError("A sequence cannot be sent into itself")
            return item
        if cls.value_class in type(item).__mro__ or isinstance(item, cls.leaf_class):
            return item
        if isinstance(item, BaseException) and is_failure(item):
            return cls.failed_leaf(item)
        if isinstance(item, Iterator):
            return cls.of_async_iterable(_read(item))
        if is_async_iterable(item) and not isinstance(item, Promise):
            return cls.of_async_iterable(item)
        return cls.make_value(item)

    @classmethod
    def of_async_iterable(cls, items: AsyncIterable[Any], *, start_soon: bool | None = None) -> Self:
        """Return the sequence of the items of an async iterable, which a task of its own reads.

        Args:
            items: the items.
            start_soon: True to read them at once, False as readers ask for more; None takes the context's default.
        """
        cell = _PumpedCell(cls)
        promise = cls.of_cell(cell)
        cell.keep_promise(promise)
        cell.pump_from(lambda: items, start_soon=start_soon, batches=False)
        return promise

    @classmethod
    def of_items(cls, items: Any) -> Self:
        """Return a closed sequence of `items`, empty for None.

        Return a sequence promise as it is, also if it is the only item.
        """
        if isinstance(items, cls):
            return items
        pieces = cls.flatten(items) if items is not None else []
        if len(pieces) == 1 and isinstance(pieces[0], cls):
            return pieces[0]
        cell = SequenceCell(cls)
        cell.pieces = pieces
        cell.is_closing = True
        cell.resolve_at_creation(())
        return cls.of_cell(cell)


async def _resolve(cell: SequenceCell, leaves: list[Any]) -> Any:
    """Return the results of all leaves of a sequence.

    Raise the first failure; the failures of all other leaves then count as observed, too.
    """
    try:
        return tuple([await leaf if isinstance(leaf, Promise) else leaf for leaf in leaves])
    except INTERRUPTS:
        raise
    except BaseException as error:
        cell.mark_all_observed(error)
        raise


class FlatSequence(StreamAppender[Any], Generic[LEAF]):
    """Sender of items, which readers get flat from its `promise`: `with sequence: sequence.append(item)`.

    Args:
        capture_errors: True if an error that leaves the `with` block ends the sequence and is not raised further. With
            False it ends the sequence and is raised further.
    """

    promise_class: ClassVar[type[SequencePromise[Any, Any]]] = SequencePromise
    _cell: SequenceCell

    def __init__(self, *, capture_errors: bool = False) -> None:
        self._set_cell(SequenceCell(self.promise_class), capture_errors=capture_errors)

    def _append(self, piece: Any) -> None:
        """Send an item in order, without a check that the sequence is open; raise `TypeError` if it cannot be sent."""
        self._cell.send(piece)

    def append_out_of_order(self, item: Any) -> Self:
        """Send an item whose leaves come as soon as each begins; they neither wait for other leaves nor delay them.

        Raises:
            AppenderClosedError: before `open`, or after `close`.
            TypeError: a part of the item cannot be sent.
            RuntimeError: the loop of the readers runs in another thread.
        """
        self.check_open()
        self._cell.send_out_of_order(item)
        return self

    def _fail(self, error: BaseException) -> None:
        """End the sequence with an error; that error counts as observed if the `with` block raises it."""
        # without capture_errors, the caller of the `with` block gets the error
        self._cell.observed = not self.capture_errors
        self._cell.fail(error)


async def _read(items: Iterator[Any]) -> AsyncIterator[Any]:
    """Yield the items of a plain iterator."""
    while True:
        try:
            yield next(items)  # without a variable, which would keep the item alive
        except StopIteration:
            return
