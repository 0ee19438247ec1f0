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
from weakref import ref

from miniagents._promising import deadlock
from miniagents._promising.context import BoundToRun, find_current_context
from miniagents._promising.promise import Cell, Promise, stopped
from miniagents._promising.streamed import StreamAppender, StreamCell, StreamedPromise, is_async_iterable
from miniagents.errors import INTERRUPTS, CyclicValueError, DeadlockError, is_failure

if TYPE_CHECKING:
    from collections.abc import Collection, Generator
    from typing import Self


LEAF = TypeVar("LEAF", bound=Promise[Any])
LEAF_co = TypeVar("LEAF_co", bound=Promise[Any], covariant=True)
WHOLE_co = TypeVar("WHOLE_co", covariant=True)

_NOT_ORDERED = (str, bytes, bytearray, memoryview, range)
_ITEMS_A_TURN = 100
"""How many items of a plain iterator are taken before others get their turn: it never waits by itself."""


_dropped: list[tuple[list[Any], dict[_Lane, None] | None]] = []
"""Pieces and lanes that are being let go of, one after the other instead of one inside the other."""


class SequenceCell(StreamCell[Any, Any]):
    """Pieces are leaves (promises of the sequence's kind) and branches (other sequences, by reference).

    A leaf that was sent as a value is kept as that value. Its promise is made, and takes its place, when somebody
    iterates: whoever awaits the sequence needs none.
    """

    promise_class: type[SequencePromise[Any, Any]]
    produced_only_by_its_task = False
    merges: ClassVar[int] = 0
    """Number of sequences merged in this process; a walk that sees it grow looks whether it has to go back."""
    lanes: dict[_Lane, None] | None = None
    """Of a merged sequence: the sources that its leaves still come from."""
    _in_order: _Lane | None = None
    """Of a merged sequence: the lane of the items sent in order; its cell holds them as one that is not merged does."""
    _closing = False
    _last: Promise[Any] | None = None
    """The failed leaf that comes when everything sent before it has come."""

    @property
    def sources(self) -> Collection[Cell[Any]]:  # type: ignore[override]  # a constant of other cells
        """Cells that the lanes of a merged sequence wait for."""
        return [lane.tip for lane in self.lanes or () if not lane.tip.done]

    # --- sending

    def send(self, item: Any) -> None:
        """Append what `item` flattens to; nothing is appended when a part of it is of a wrong type."""
        self.add(self.promise_class.flatten(item, into=self))

    def add(self, pieces: list[Any]) -> None:
        """Append leaves and branches."""
        if self._in_order is not None:
            self._in_order.cell.pieces.extend(pieces)
            self._advance(self._in_order)
            return
        self.pieces.extend(pieces)
        if self.waiters is not None:
            self.wake()

    def send_out_of_order(self, item: Any) -> None:
        """Append each leaf as soon as it begins: a message that streams, with its first token."""
        self.add_out_of_order(self.promise_class.flatten(item, into=self))

    def add_out_of_order(self, pieces: list[Any]) -> None:
        """Append what is there now, and open a lane for each piece that is not."""
        self._merge()
        for piece in pieces:
            if isinstance(piece, SequencePromise):
                leaves = piece._cell.walk(into=ref(self))
                self._advance(self._new_lane(_as_they_begin(leaves), piece._cell, piece))
            elif isinstance(piece, Promise) and not _has_begun(piece._cell):
                self._advance(self._new_lane(_as_they_begin(iter((piece,))), piece._cell, piece))
            else:
                self.pieces.append(_as_promise(piece, self.promise_class))
        self.wake()

    def _merge(self) -> None:
        """Turn the pieces into leaves in the order of their arrival.

        Readers inside of a branch then come back to this sequence: they have read some of the leaves that are there
        now, in the same order.
        """
        if self._in_order is not None:
            self._advance(self._in_order)  # what has come in order comes before what is sent now
            return
        ordered = SequenceCell(self.promise_class)
        ordered.scope = self.scope
        ordered.pieces, self.pieces = self.pieces, []
        SequenceCell.merges += 1
        lane = self._in_order = self._new_lane(ordered.walk(into=ref(self), is_entered=True), ordered, None)
        self._advance(lane)
        lane.tip.wake()  # readers wait there for what comes next in order

    def _new_lane(self, walk: Iterator[Any], cell: Any, promise: Promise[Any] | None) -> _Lane:
        lane = _Lane(walk, cell, promise)
        if self.lanes is None:
            self.lanes = {}
        self.lanes[lane] = None
        return lane

    def _advance(self, lane: _Lane) -> None:
        """Take the leaves of a lane that are there, and go on when there are more."""
        if lane.is_advancing or self.done or self.lanes is None or lane not in self.lanes:
            return
        lane.is_advancing = True
        before = len(self.pieces)
        try:
            for each in lane.walk:
                if isinstance(each, Promise):
                    self.pieces.append(each)
                elif self._waits_for(each, lane):
                    break
            else:
                self._end_lane(lane)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.pieces.append(self.promise_class.failed_leaf(error))
            self._end_lane(lane)
        finally:
            lane.is_advancing = False
        if self.waiters is not None and len(self.pieces) > before:
            self.wake()
        if self._closing and not self.lanes:
            self._end()

    def _end_lane(self, lane: _Lane) -> None:
        if self.lanes is not None:
            self.lanes.pop(lane, None)
        if lane is self._in_order:
            self._in_order = None

    def _waits_for(self, tip: StreamCell[Any, Any], lane: _Lane) -> bool:
        """Have a lane go on when `tip` has more; returns False if it has more already."""
        lane.tip = tip
        if lane is self._in_order:
            if tip is lane.cell:  # `add` goes on with it
                return True
            if (tip.on_demand or tip.start is not None) and not self.is_wanted:
                lane.is_resting = self.on_demand = True
                return True
        if asyncio._get_running_loop() is None:
            lane.is_resting = self.on_demand = True
            return True
        lane.is_resting = False
        this, that = ref(self), ref(lane)  # a wait alone keeps nothing alive

        def go_on(_: object) -> None:
            cell, lane = this(), that()
            if cell is not None and lane is not None:
                cell._advance(lane)

        before = len(tip.pieces)
        tip.watch(go_on, None if self.context is None else self.context.bare)
        deadlock.check_source(tip)
        return not (tip.done or len(tip.pieces) > before)

    def wake_pump(self) -> None:
        """Wake lanes that rest, and a pump on demand: a reader has read everything."""
        for lane in list(self.lanes or ()):
            if lane.is_resting:
                self._advance(lane)
        super().wake_pump()

    def take(self, piece: Any) -> None:
        """An item that the pump read: a wrong type in it fails in its place, and later items still come."""
        try:
            self.send(piece)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.send(error)

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        async for item in source:
            if self.done:
                return
            self.take(item)
            del item  # only the sequence is to keep it

    # --- ending

    @property
    def is_closing(self) -> bool:
        """Whether nothing may be sent any more."""
        return self.done or self._closing

    def finish(self) -> None:
        """No more items will be sent."""
        self._closing = True
        if self._in_order is not None:
            self._in_order.cell.done = True
            self._advance(self._in_order)
        if not self.lanes:
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
        """End at once: what has not come yet does not come any more."""
        if self.done:
            return
        self._merge()
        for lane in list(self.lanes or ()):
            self._advance(lane)
        if not self.done:
            self._last = self.promise_class.failed_leaf(stopped())
            self._end()

    def cancel(self) -> None:
        """Stop the work for good, with the iterables and token streams in this sequence that were made for it.

        Those are the ones that its agent made, or an agent that was called on its behalf. Agents themselves go on.
        """
        made_for_it = self._made_for_it()
        super().cancel()
        for cell in made_for_it:
            Cell.cancel(cell)

    def _made_for_it(self) -> list[Cell[Any]]:
        """Find the cells to cancel."""
        found: dict[Cell[Any], None] = {}
        unseen: list[SequenceCell] = [self]
        while unseen:
            cell = unseen.pop()
            parts = [piece._cell for piece in cell.pieces if isinstance(piece, Promise)]
            for inner in [*parts, *(lane.cell for lane in cell.lanes or ())]:
                if inner not in found and _is_on_behalf_of(inner.scope, self.scope):
                    found[inner] = None
                    if isinstance(inner, SequenceCell):
                        unseen.append(inner)
        return [cell for cell in found if cell.stops_unread and not cell.done]

    def let_go(self) -> None:
        """Forget the pieces, which no reader can reach any more; those of their sequences go one after the other."""
        _dropped.append((self.pieces, self.lanes))
        self.pieces = []
        self.lanes = self._in_order = None
        if len(_dropped) == 1:
            for pieces, lanes in _dropped:  # it grows meanwhile: a chain of agents, or of iterables, may be long
                pieces.clear()
                if lanes is not None:
                    lanes.clear()
            _dropped.clear()

    def _end(self) -> None:
        if not self.done and self._last is not None:
            self.pieces.append(self._last)
        if self.lanes is not None:
            self.lanes = self._in_order = None
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
                cell, entering = entering, None
                _enter(cell, on_the_way)
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

    def observe_all(self, error: BaseException) -> None:
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
                    unseen += [lane.cell for lane in cell.lanes or ()]
                continue
            cell.observe()
            if cell.failure is not None and cell.failure.error is not error:
                note = f"Another message of the sequence failed as well: {cell.failure.error!r}"
                if note not in notes:
                    error.add_note(note)
                    notes = error.__notes__

    def walk(self, into: ref[SequenceCell] | None = None, *, is_entered: bool = False) -> Iterator[Any]:
        """Yield each leaf, and where none is there yet, the sequence that has to bring it; then go on from there.

        Args:
            into: the sequence that takes the leaves; a branch that would never end is then a failed leaf.
            is_entered: whether this sequence is a part of `into`, and not one that was sent into it.

        Raises:
            DeadlockError: the sequence is a part of itself, or waits in a ring, and would never end.
        """
        on_the_way: dict[SequenceCell, None] = {}
        stack: list[tuple[SequenceCell, list[Any], int, int]] = []
        cell = self
        if not is_entered:
            _enter(cell, on_the_way, into)
        pieces, position = cell.pieces, 0
        given = start = 0  # leaves so far: in all, and before this sequence was entered
        merges = SequenceCell.merges
        while True:
            if merges != SequenceCell.merges:
                merges = SequenceCell.merges
                levels = [*stack, (cell, pieces, position, start)]
                for depth, (outer, earlier_pieces, _, earlier_start) in enumerate(levels):
                    if outer.pieces is not earlier_pieces:  # the same leaves, but no branches any more
                        for inner, *_ in levels[depth + 1 :]:
                            on_the_way.pop(inner, None)
                        cell, pieces, position, start = outer, outer.pieces, given - earlier_start, earlier_start
                        del stack[depth:]
                        break
            done = cell.done
            if position < len(pieces):
                piece = pieces[position]
                position += 1
                if isinstance(piece, SequencePromise):
                    try:
                        _enter(piece._cell, on_the_way, into)
                    except DeadlockError as error:
                        if into is None:
                            raise
                        given += 1
                        yield cell.promise_class.failed_leaf(error)
                        continue
                    stack.append((cell, pieces, position, start))
                    cell, position, start = piece._cell, 0, given
                    pieces = cell.pieces
                else:
                    if not isinstance(piece, Promise):
                        piece = pieces[position - 1] = _as_promise(piece, cell.promise_class)
                    given += 1
                    yield piece
            elif not done:
                yield cell
            elif stack:
                on_the_way.pop(cell, None)
                cell, pieces, position, start = stack.pop()
            else:
                return


def _is_on_behalf_of(scope: object, caller: object) -> bool:
    """Whether `scope` is this caller, or was called by it, directly or not."""
    if caller is None:
        return scope is None
    while scope is not None and scope is not caller:
        scope = getattr(scope, "caller", None)
    return scope is not None


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

    stops_unread = True

    def abandon(self) -> None:
        """Stop reading the iterable, and let go of what it has yielded."""
        self.call_in_loop(self._stop_unread)

    def _stop_unread(self) -> None:
        self.let_go()
        Cell.cancel(self)


class _Lane:
    """Way into a merged sequence, of what was sent in order or of one piece that was sent out of order.

    Args:
        walk: gives leaves, and cells where it has to wait.
        cell: the cell of what was sent.
        promise: its promise, which is kept as long as the lane is.
    """

    __slots__ = ("__weakref__", "cell", "is_advancing", "is_resting", "promise", "tip", "walk")

    def __init__(self, walk: Iterator[Any], cell: Any, promise: Promise[Any] | None) -> None:
        self.walk = walk
        self.cell = cell
        self.tip: StreamCell[Any, Any] = cell
        """Where it waits."""
        self.promise = promise
        self.is_advancing = False
        self.is_resting = False
        """It goes on when somebody reads, as its source is one that begins, or goes on, only then."""


def _as_they_begin(leaves: Iterator[Any]) -> Iterator[Any]:
    """Yield the leaves of a walk, each when there is something to read of it."""
    for leaf in leaves:
        if isinstance(leaf, Promise):
            while not _has_begun(leaf._cell):
                yield leaf._cell
        yield leaf


def _has_begun(cell: Cell[Any]) -> bool:
    """Whether there is something to read of a leaf; one that works on demand may be read at any time."""
    return cell.done or cell.on_demand or cell.start is not None or bool(getattr(cell, "pieces", True))


def _as_promise(piece: Any, promise_class: type[SequencePromise[Any, Any]]) -> Promise[Any]:
    return piece if isinstance(piece, Promise) else promise_class.leaf_of_value(piece)


def _enter(cell: SequenceCell, on_the_way: dict[SequenceCell, None], into: ref[SequenceCell] | None = None) -> None:
    """Enter a sequence, unless it is one of those it is a part of, or is filled by: it would never end."""
    target = None if into is None else into()
    if cell in on_the_way:
        circle = [*on_the_way][[*on_the_way].index(cell) :]
    elif target is not None and (cell is target or (cell.lanes and _is_fed_from(cell, target))):
        circle = [target, *on_the_way] if cell is target else [target, *on_the_way, cell]
    else:
        on_the_way[cell] = None
        return
    names = [str(each.scope or "a sequence") for each in circle]
    raise DeadlockError(f"These sequences are parts of each other: {' -> '.join([*names, names[0]])}")


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
            unseen.extend(lane.cell for lane in each.lanes or () if isinstance(lane.cell, SequenceCell))
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
            cell.abandon()

    async def _resolve(self) -> WHOLE_co:
        leaves, all_values = await self._cell.all_leaves()
        if all_values:
            return tuple(leaves)  # type: ignore[return-value]  # WHOLE_co is that tuple
        try:
            return tuple([await leaf if isinstance(leaf, Promise) else leaf for leaf in leaves])  # type: ignore[return-value]  # as above
        except INTERRUPTS:
            raise
        except BaseException as error:
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
        if isinstance(item, BaseException) and is_failure(item):
            return cls.failed_leaf(item)
        if isinstance(item, Iterator):
            return cls.pumped(_turns(item))
        if is_async_iterable(item) and not isinstance(item, Promise):
            return cls.pumped(item)
        return cls.make_value(item)

    @classmethod
    def pumped(cls, items: AsyncIterable[Any]) -> Self:
        """The sequence of what an async iterable yields, read by a pump of its own."""
        cell = _PumpedCell(cls)
        promise = cls.of_cell(cell)
        cell.keep(promise)
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

    def _fail(self, error: BaseException) -> None:
        # without capture_errors the error goes on to the caller, who is responsible for it then
        self._cell.observed = not self.capture_errors
        self._cell.fail(error)


async def _turns(items: Iterator[Any]) -> AsyncIterator[Any]:
    for number in count(1):
        try:
            yield next(items)  # no variable here keeps an item alive
        except StopIteration:
            return
        if not number % _ITEMS_A_TURN:
            await asyncio.sleep(0)
