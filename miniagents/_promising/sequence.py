"""FlatSequence: nested in, flat out, in order (or out of order where asked).

A sequence that is sent into another one is kept by reference, as a branch. Readers walk the branches, so passing a
sequence on costs no task and no copy, however deep it goes. Only what has to be waited for (an async iterable, an
iterator) gets a pump.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from miniagents._promising.context import BoundToRun, find_current_context
from miniagents._promising.promise import Cell, Promise
from miniagents._promising.sequence_cell import Branch, LEAF_co, SequenceCell, WHOLE_co
from miniagents._promising.streamed import StreamAppender, is_async_iterable
from miniagents.errors import INTERRUPTS, CyclicValueError, is_failure

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self


LEAF = TypeVar("LEAF", bound=Promise[Any])

_NOT_FLATTENED = (str, bytes, bytearray, memoryview, range)
_ITEMS_PER_TURN = 100
"""How many items of a plain iterator are taken before others get their turn: it never waits by itself."""


class _LeafReader(BoundToRun):
    """Reader of a sequence: gives each leaf as soon as it is there, and does not raise what leaves have failed with.

    No async generator: asyncio closes one that is left some loop steps later, and till then it keeps what it reads.
    """

    __slots__ = ("_promise", "_walk")

    def __init__(self, promise: SequencePromise[Any, Any]) -> None:
        self._promise = promise
        self._walk = promise._cell.walk()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        for each in self._walk:
            if isinstance(each, Promise):
                return each
            await each.wait()
        raise StopAsyncIteration


class _BatchReader(_LeafReader):
    """The same, with each leaf in a list of its own, as each may have to be waited for."""

    __slots__ = ()

    async def __anext__(self) -> list[Any]:
        return [await super().__anext__()]


class _PumpedCell(SequenceCell):
    """What an async iterable yields. Its promise is the only handle of it, and stops the pump when it is lost."""

    stops_without_readers = True

    def handle_lost_promise(self) -> None:
        """Stop reading the iterable, and let go of what it has yielded."""
        self.call_in_loop(self._stop_unread)

    def _stop_unread(self) -> None:
        self.drop_pieces()
        Cell.cancel(self)


class SequencePromise(Branch[LEAF_co, WHOLE_co]):
    """A promise of a flat sequence of promises.

    `async for leaf in sequence` gives the leaves as they come and never raises what one failed with. `await sequence`
    gives a tuple of what the leaves resolve to, or raises the first error in their order.
    """

    __slots__ = ()

    leaf_class: ClassVar[type[Promise[Any]]]
    value_class: ClassVar[type]
    """What leaves resolve to; a value of it can be sent in place of a leaf."""

    def __await__(self) -> Generator[Any, None, WHOLE_co]:
        return self._resolve().__await__()

    def __aiter__(self) -> AsyncIterator[LEAF_co]:
        return _LeafReader(self)

    def batches(self) -> AsyncIterator[list[LEAF_co]]:
        """The leaves one by one, each in a list."""
        return _BatchReader(self)

    def __del__(self) -> None:
        try:
            cell = self._cell
        except AttributeError:
            return  # it could not be made
        if not cell.done:
            cell.handle_lost_promise()

    async def _resolve(self) -> WHOLE_co:
        leaves, all_values = await self._cell.collect_leaves()
        if all_values:
            return tuple(leaves)  # type: ignore[return-value]  # WHOLE_co is that tuple
        try:
            return tuple([await leaf if isinstance(leaf, Promise) else leaf for leaf in leaves])  # type: ignore[return-value]  # as above
        except INTERRUPTS:
            raise
        except BaseException as error:
            self._cell.mark_all_observed(error)
            raise

    @classmethod
    def make_value(cls, item: Any) -> Any:
        """What a leaf resolves to, out of something that is neither a promise nor a container.

        Raises:
            TypeError: nothing of this type can be sent.
        """
        raise TypeError(f"Cannot send {item!r:.100} of type {type(item).__name__}")

    @classmethod
    def flatten(cls, item: Any, *, into: SequenceCell | None = None) -> list[Any]:
        """The leaves and branches of whatever was sent: lists are walked now, what must be waited for becomes a branch.

        Args:
            item: what was sent.
            into: the sequence that it is sent into.

        Raises:
            TypeError: a part of it cannot be sent.
            CyclicValueError: a list contains itself, or a sequence was sent into itself.
        """
        is_single = isinstance(item, (str, Promise)) or cls.value_class in type(item).__mro__
        pieces = [cls._to_piece(item, into)] if is_single else cls._walk(item, into)
        context = find_current_context()
        if context is not None and context.listens:  # to promises: then each message needs its own
            return [piece if isinstance(piece, Promise) else cls.leaf_of_value(piece) for piece in pieces]
        return pieces

    @classmethod
    def _walk(cls, item: Any, into: SequenceCell | None) -> list[Any]:
        pieces: list[Any] = []
        stack: list[tuple[Any, Iterator[Any]]] = [(None, iter((item,)))]
        on_the_way: set[int] = set()
        while stack:
            container, items = stack[-1]
            for each in items:
                kind = type(each)
                if cls.value_class in kind.__mro__:  # to ask a model class for its instances takes ten times as long
                    pieces.append(each)
                elif (kind is list or kind is tuple) and cls._are_all_values(each):
                    pieces += each
                elif isinstance(each, Sequence) and not isinstance(each, _NOT_FLATTENED):
                    if id(each) in on_the_way:
                        raise CyclicValueError(f"A {kind.__name__} that contains itself cannot be sent")
                    on_the_way.add(id(each))
                    stack.append((each, iter(each)))
                    break
                else:
                    pieces.append(cls._to_piece(each, into))
            else:
                on_the_way.discard(id(container))
                stack.pop()
        return pieces

    @classmethod
    def _are_all_values(cls, items: list[Any] | tuple[Any, ...]) -> bool:
        return all(cls.value_class in kind.__mro__ for kind in set(map(type, items)))

    @classmethod
    def _to_piece(cls, item: Any, into: SequenceCell | None) -> Any:
        if isinstance(item, SequencePromise):
            if item._cell is into:
                raise CyclicValueError("A sequence cannot be sent into itself")
            return item
        if cls.value_class in type(item).__mro__ or isinstance(item, cls.leaf_class):
            return item
        if isinstance(item, BaseException) and is_failure(item):
            return cls.failed_leaf(item)
        if isinstance(item, Iterator):
            return cls.of_async_iterable(_read_in_turns(item))
        if is_async_iterable(item) and not isinstance(item, Promise):
            return cls.of_async_iterable(item)
        return cls.make_value(item)

    @classmethod
    def of_async_iterable(cls, items: AsyncIterable[Any]) -> Self:
        """The sequence of what an async iterable yields, read by a pump of its own."""
        cell = _PumpedCell(cls)
        promise = cls.of_cell(cell)
        cell.keep_promise(promise)
        cell.pump_from(lambda: items, start_soon=None, batches=False)
        return promise

    @classmethod
    def of_items(cls, items: Any) -> Self:
        """A closed sequence of `items`; a sequence promise is returned as it is."""
        if isinstance(items, cls):
            return items
        pieces = cls.flatten(items) if items is not None else []
        if len(pieces) == 1 and isinstance(pieces[0], cls):
            return pieces[0]
        cell = SequenceCell(cls)
        cell.pieces = pieces
        cell.resolve_at_creation(())
        return cls.of_cell(cell)


class FlatSequence(StreamAppender[Any], Generic[LEAF]):
    """The sending end of a sequence: `with sequence: sequence.append(item)`, read through `sequence.promise`.

    Args:
        capture_errors: see `StreamAppender`.
    """

    promise_class: ClassVar[type[SequencePromise[Any, Any]]] = SequencePromise
    _cell: SequenceCell

    def __init__(self, *, capture_errors: bool = False) -> None:
        self.capture_errors = capture_errors
        self._opened = False
        self._cell = SequenceCell(self.promise_class)

    def _append(self, piece: Any) -> None:
        self._cell.send(piece)

    def append_out_of_order(self, item: Any) -> Self:
        """Send something whose messages come as soon as each is there, without keeping others waiting.

        Raises:
            AppenderClosedError: before `open`, or after `close`.
            TypeError: a part of it cannot be sent.
        """
        self.check_open()
        self._cell.send_out_of_order(item)
        return self

    def _fail(self, error: BaseException) -> None:
        # without capture_errors the error goes on to the caller, who is responsible for it then
        self._cell.observed = not self.capture_errors
        self._cell.fail(error)


async def _read_in_turns(items: Iterator[Any]) -> AsyncIterator[Any]:
    for number in count(1):
        try:
            yield next(items)  # no variable here keeps an item alive
        except StopIteration:
            return
        if not number % _ITEMS_PER_TURN:
            await asyncio.sleep(0)
