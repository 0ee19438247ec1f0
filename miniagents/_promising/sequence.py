"""FlatSequence: nested in, flat out, in order (or out of order where asked).

A sequence that is sent into another one is kept by reference, as a branch. Readers walk the branches, so passing a
sequence on costs no task and no copy, however deep it goes. Only what has to be waited for (an async iterable, an
iterator) gets a pump.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from miniagents._promising.context import find_current_context
from miniagents._promising.promise import Cell, Promise, stopped
from miniagents._promising.streamed import StreamAppender, StreamCell, StreamedPromise, is_async_iterable, weakly
from miniagents.errors import CyclicValueError, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self


LEAF = TypeVar("LEAF", bound=Promise[Any])
LEAF_co = TypeVar("LEAF_co", bound=Promise[Any], covariant=True)
WHOLE_co = TypeVar("WHOLE_co", covariant=True)

_NOT_ORDERED = (str, bytes, bytearray, memoryview, range)
_ITEMS_A_TURN = 100
"""How many items of a plain iterator are taken before others get their turn: it never waits by itself."""


class SequenceCell(StreamCell[Any, Any]):
    """Pieces are leaves (promises of the sequence's kind) and branches (other sequences, by reference).

    A leaf that was sent as a value is kept as that value. Its promise is made, and takes its place, when somebody
    iterates: whoever awaits the sequence needs none.
    """

    promise_class: type[SequencePromise[Any, Any]]
    produced_only_by_its_task = False
    forwarders: dict[asyncio.Task[Any], SequenceCell] | None = None
    """Tasks that copy into this sequence what was sent out of order, and from where."""
    _closing = False
    _last: Promise[Any] | None = None
    """The failed leaf that comes when everything sent before it has come."""

    # --- sending

    def send(self, item: Any) -> None:
        """Append what `item` flattens to; nothing is appended when a part of it is of a wrong type."""
        self.add(self.promise_class.flatten(item, into=self))

    def add(self, pieces: list[Any]) -> None:
        """Append leaves and branches."""
        self.pieces.extend(pieces)
        if self.waiters is not None:
            self.wake()

    def send_out_of_order(self, item: Any) -> None:
        """Append leaves at once, and those of branches as soon as each is there."""
        for piece in self.promise_class.flatten(item, into=self):
            if isinstance(piece, SequencePromise):
                self._forward(piece)
            else:
                self.add([piece])

    def _forward(self, branch: SequencePromise[Any, Any]) -> None:
        context = self.context
        if context is None:
            self.add([branch])  # nobody can wait for it here; in order is one of the orders it may come in
            return

        async def forward() -> None:
            async for leaf in branch._cell.read(branch, into=self):
                if self.done:
                    return
                self.add([leaf])

        def ended(task: asyncio.Task[Any]) -> None:
            context.forget(task)
            forwarders.pop(task)
            if task.cancelled():
                self.cancelled()
            elif isinstance(error := task.exception(), Exception):
                if self.done:
                    self.fail_too_late(error)
                else:
                    self.send(error)
            if self._closing:
                self.finish()

        if self.forwarders is None:
            self.forwarders = {}
        forwarders = self.forwarders
        forwarders[context.spawn(forward(), ended, name=str(self.scope or "sequence"))] = branch._cell

    def take(self, piece: Any) -> None:
        """An item that the pump read: a wrong type in it fails in its place, and later items still come."""
        try:
            self.send(piece)
        except Exception as error:
            self.send(error)

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        async for item in source:
            if self.done:
                return
            self.take(item)

    # --- ending

    @property
    def is_closing(self) -> bool:
        """Whether nothing may be sent any more."""
        return self.done or self._closing

    def finish(self) -> None:
        """No more items will be sent."""
        self._closing = True
        if not self.forwarders:
            self._end()

    def fail(self, error: BaseException) -> None:
        """An error is a failed leaf in its place: those who iterate do not stumble over it."""
        if self.is_closing:
            self.fail_too_late(error)
        else:
            self._last = self.leaf_of_error(error)
            self.finish()

    def leaf_of_error(self, error: BaseException) -> Promise[Any]:
        """What stands for an error in the sequence."""
        return self.promise_class.failed_leaf(error, observed=self.observed)

    def cancelled(self) -> None:
        """End at once: what was sent out of order and has not come yet does not come any more."""
        if not self.done:
            self._last = self.promise_class.failed_leaf(stopped())
            self._end()

    def _end(self) -> None:
        if not self.done and self._last is not None:
            self.pieces.append(self._last)
        self.resolve(())

    async def all_leaves(self) -> tuple[list[Any], bool]:
        """Wait until this sequence and all its branches have ended.

        Returns: all leaves, those that are values as values; and whether there are no others.
        """
        leaves: list[Any] = []
        all_values = True
        on_the_way: dict[SequenceCell, None] = {}
        stack: list[tuple[SequenceCell, Iterator[Any]]] = []
        entering: SequenceCell | None = self
        while entering is not None or stack:
            if entering is not None:
                cell, entering = _entered(entering, on_the_way), None
                if not cell.done:
                    await cell.wait(for_end=True)
                if _are_values(cell.pieces):
                    leaves += cell.pieces
                    del on_the_way[cell]
                    continue
                all_values = cell.begin_pieces() and all_values
                stack.append((cell, iter(cell.pieces)))
            cell, unread = stack[-1]
            for piece in unread:
                if isinstance(piece, SequencePromise):
                    entering = piece._cell
                    break
                leaves.append(piece)
            else:
                stack.pop()
                del on_the_way[cell]
        return leaves, all_values

    def begin_pieces(self) -> bool:
        """Let all pieces work at the same time; returns whether those that are no branches are values."""
        all_values = True
        for piece in self.pieces:
            if isinstance(piece, Promise):
                piece._cell.begin()
                all_values = all_values and isinstance(piece, SequencePromise)
        return all_values

    def observe_all(self, error: Exception) -> None:
        """Whoever got the first error of this sequence is responsible for the others, and for those still to come.

        What has failed already becomes notes.
        """
        notes = getattr(error, "__notes__", ())
        seen: set[SequenceCell] = set()
        unseen: list[Cell[Any]] = [self]
        while unseen:
            cell = unseen.pop()
            if isinstance(cell, SequenceCell):
                if cell not in seen:
                    seen.add(cell)
                    cell.observed = True
                    unseen += [piece._cell for piece in reversed(cell.pieces) if isinstance(piece, Promise)]
                continue
            cell.observe()
            if cell.failure is not None and cell.failure.error is not error:
                note = f"Another message of the sequence failed as well: {cell.failure.error!r}"
                if note not in notes:
                    error.add_note(note)
                    notes = error.__notes__

    async def read_batches(self, promise: object = None) -> AsyncIterator[list[Any]]:
        """The leaves one by one: each may have to be waited for."""
        async for leaf in self.read(promise):
            yield [leaf]

    async def read(self, promise: object = None, *, into: SequenceCell | None = None) -> AsyncIterator[Any]:
        """The leaves, each as soon as it is there; it does not raise what leaves have failed with.

        Args:
            promise: see `StreamCell.read`.
            into: where the leaves are copied to.

        Raises:
            DeadlockError: the sequence is a part of itself, or waits in a ring, and would never end.
        """
        promise_again = weakly(promise)
        on_the_way: dict[SequenceCell, None] = {} if into is None else {into: None}
        stack: list[tuple[SequenceCell, int]] = [(_entered(self, on_the_way, into), 0)]
        while stack:
            cell, position = stack.pop()
            while True:
                done = cell.done
                if position < len(cell.pieces):
                    piece = cell.pieces[position]
                    position += 1
                    if isinstance(piece, SequencePromise):
                        stack.append((cell, position))
                        cell, position = _entered(piece._cell, on_the_way, into), 0
                    else:
                        if not isinstance(piece, Promise):
                            piece = cell.pieces[position - 1] = cell.promise_class.leaf_of_value(piece)
                        promise = None
                        yield piece
                elif done:
                    del on_the_way[cell]
                    break
                else:
                    promise = promise_again()
                    await cell.wait()


def _entered(
    cell: SequenceCell, on_the_way: dict[SequenceCell, None], into: SequenceCell | None = None
) -> SequenceCell:
    """Enter a sequence, unless it is one of those it is a part of, or is filled by: it would never end."""
    start = cell if cell in on_the_way else None
    if into is not None and cell.forwarders and _is_fed_from(cell, into):
        start = into
    on_the_way[cell] = None
    if start is not None:
        names = [str(each.scope or "a sequence") for each in on_the_way]
        circle = names[list(on_the_way).index(start) :]
        raise DeadlockError(f"These sequences are parts of each other: {' -> '.join([*circle, circle[0]])}")
    return cell


def _are_values(pieces: list[Any]) -> bool:
    """Whether there is nothing to wait for in them; asked of each class, because a history has thousands of pieces."""
    for kind in set(map(type, pieces)):  # noqa: SIM110 - a generator would cost each call of an agent more than the rest
        if issubclass(kind, Promise):
            return False
    return True


def _is_fed_from(cell: SequenceCell, source: SequenceCell) -> bool:
    """Whether what is sent into `source` comes into `cell` as well, on any way there is now."""
    seen: set[SequenceCell] = set()
    unseen = [cell]
    while unseen:
        each = unseen.pop()
        if each is source:
            return True
        if each not in seen:
            seen.add(each)
            unseen.extend((each.forwarders or {}).values())
            unseen.extend(piece._cell for piece in each.pieces if isinstance(piece, SequencePromise))
    return False


class SequencePromise(StreamedPromise[LEAF_co, WHOLE_co]):
    """A promise of a flat sequence of promises.

    `async for leaf in sequence` gives the leaves as they come and never raises what one failed with. `await sequence`
    gives a tuple of what the leaves resolve to, or raises the first error in their order.
    """

    __slots__ = ()

    _cell: SequenceCell
    leaf_class: ClassVar[type[Promise[Any]]]
    value_class: ClassVar[type]
    """What leaves resolve to; a value of it can be sent in place of a leaf."""

    def __await__(self) -> Generator[Any, None, WHOLE_co]:
        return self._resolve().__await__()

    async def _resolve(self) -> WHOLE_co:
        leaves, all_values = await self._cell.all_leaves()
        if all_values:
            return tuple(leaves)  # type: ignore[return-value]  # WHOLE_co is that tuple
        try:
            return tuple([await leaf if isinstance(leaf, Promise) else leaf for leaf in leaves])  # type: ignore[return-value]  # as above
        except Exception as error:
            self._cell.observe_all(error)
            raise

    @classmethod
    def make_value(cls, item: Any) -> Any:
        """What a leaf resolves to, out of something that is neither a promise nor a container.

        Raises:
            TypeError: nothing of this type can be sent.
        """
        raise TypeError(f"Cannot send {item!r:.100} of type {type(item).__name__}")

    @classmethod
    def leaf_of_value(cls, value: Any) -> Promise[Any]:
        """A leaf that is resolved already."""
        raise TypeError(f"{cls.__name__} has no place for values")

    @classmethod
    def failed_leaf(cls, error: BaseException, *, observed: bool = False) -> Promise[Any]:
        """A leaf that has failed already."""
        raise TypeError(f"{cls.__name__} has no place for errors")

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
        pieces = [cls._piece(item, into)] if is_single else cls._walk(item, into)
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
                elif isinstance(each, Sequence) and not isinstance(each, _NOT_ORDERED):
                    if id(each) in on_the_way:
                        raise CyclicValueError(f"A {kind.__name__} that contains itself cannot be sent")
                    on_the_way.add(id(each))
                    stack.append((each, iter(each)))
                    break
                else:
                    pieces.append(cls._piece(each, into))
            else:
                on_the_way.discard(id(container))
                stack.pop()
        return pieces

    @classmethod
    def _are_all_values(cls, items: list[Any] | tuple[Any, ...]) -> bool:
        return all(cls.value_class in kind.__mro__ for kind in set(map(type, items)))

    @classmethod
    def _piece(cls, item: Any, into: SequenceCell | None) -> Any:
        if isinstance(item, SequencePromise):
            if item._cell is into:
                raise CyclicValueError("A sequence cannot be sent into itself")
            return item
        if cls.value_class in type(item).__mro__ or isinstance(item, cls.leaf_class):
            return item
        if isinstance(item, Exception):
            return cls.failed_leaf(item)
        if isinstance(item, Iterator):
            return cls.pumped(_turns(item))
        if is_async_iterable(item) and not isinstance(item, Promise):
            return cls.pumped(item)
        return cls.make_value(item)

    @classmethod
    def pumped(cls, items: AsyncIterable[Any]) -> Self:
        """The sequence of what an async iterable yields, read by a pump of its own."""
        cell = SequenceCell(cls)
        cell.pump_from(lambda: items, start_soon=None, batches=False)
        return cls.of_cell(cell)

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
        cell.settle_unseen(())
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

    def _fail(self, error: Exception) -> None:
        # without capture_errors the error goes on to the caller, who is responsible for it then
        self._cell.observed = not self.capture_errors
        self._cell.fail(error)


async def _turns(items: Iterator[Any]) -> AsyncIterator[Any]:
    for count, item in enumerate(items, 1):
        yield item
        if not count % _ITEMS_A_TURN:
            await asyncio.sleep(0)
