"""The state of a sequence: its pieces, the walk over them, and the merging of items sent out of order.

A sequence that is sent into another one is kept by reference, as a branch. Readers walk into branches, so passing a
sequence on costs neither a task nor a copy, at any depth. As soon as an item is sent out of order, the sequence is
merged: it then keeps leaves only, in the order of their arrival, and each source of leaves is a lane. `sequence` has
the promise and the sender.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import ref

from miniagents._promising import deadlock
from miniagents._promising.promise import Cell, Promise, make_cancelled_error
from miniagents._promising.streamed import PumpPauses, StreamCell, StreamedPromise
from miniagents.errors import INTERRUPTS, DeadlockError, add_note

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Generator, Iterator


LEAF_co = TypeVar("LEAF_co", bound=Promise[Any], covariant=True)
WHOLE_co = TypeVar("WHOLE_co", covariant=True)

_NOT_STOPPED = object()
"""Value in place of a scope, which may be None."""

_dropping: list[tuple[list[Any], dict[_Lane, None] | None]] = []
"""Pieces and lanes to drop one after the other: to drop a long chain by recursion would crash the interpreter."""


class SequenceCell(StreamCell[Any, Any]):
    """State of a sequence. Its pieces are leaves (promises) and branches (other sequences, by reference).

    A leaf that was sent as a value is kept as that value until a reader iterates; then its promise takes its place. A
    reader that awaits the sequence needs no promises.
    """

    promise_class: type[Branch[Any, Any]]
    pieces: list[Any]
    on_demand: bool
    produced_only_by_its_task = False
    merge_count: ClassVar[int] = 0
    """Number of sequences merged in this process. A walk that sees a new number checks the sequences it is in."""
    lanes: dict[_Lane, None] | None = None
    """The sources of leaves of a merged sequence; None before it is merged and after its end."""
    _ordered_lane: _Lane | None = None
    """The lane of the items sent in order; its cell keeps them as pieces."""
    is_closing: bool = False
    """True once no more items may be sent. No property: it is read for each reply of an agent."""
    _stopped_scope: object = _NOT_STOPPED
    """Scope of a cancelled sequence with this one in it: streams of that scope are stopped as soon as they are sent."""
    _final_leaf: Promise[Any] | None = None
    """A failed leaf that comes last, after all leaves that were sent before it."""

    # --- sending

    def send(self, item: Any) -> None:
        """Append the leaves and branches of `item`; append nothing and raise `TypeError` if a part has a wrong type.

        Raise `CyclicValueError` if the item contains itself, or this sequence.
        """
        pieces = self.promise_class.flatten(item, into=self)
        self.add(pieces)
        if self._stopped_scope is not _NOT_STOPPED:
            _stop(_find_parts(_cells_of(pieces), self._stopped_scope), self._stopped_scope)

    def add(self, pieces: list[Any]) -> None:
        """Append leaves and branches in order, and wake the readers.

        In a merged sequence, they go through the lane of the items sent in order.
        """
        if self._ordered_lane is not None:
            self._ordered_lane.cell.pieces.extend(pieces)
            self._advance(self._ordered_lane)
            return
        self.pieces.extend(pieces)
        if self.waiters is not None:
            self.wake()

    def send_out_of_order(self, item: Any) -> None:
        """Append each leaf of `item` as soon as it begins: a leaf that streams, with its first piece.

        Raise the errors of `send`.
        """
        pieces = self.promise_class.flatten(item, into=self)
        self.add_out_of_order(pieces)
        if self._stopped_scope is not _NOT_STOPPED:
            _stop(_find_parts(_cells_of(pieces), self._stopped_scope), self._stopped_scope)

    def add_out_of_order(self, pieces: list[Any]) -> None:
        """Merge the sequence, and add pieces that readers get in the order in which they begin to arrive.

        Append leaves that have begun at once; each other leaf, and each branch, becomes a lane that adds them later.
        """
        self._merge()
        for piece in pieces:
            if isinstance(piece, Branch):
                leaves = piece._cell.walk(into=ref(self))
                self._advance(self._add_lane(_delay_until_begun(leaves), piece._cell, piece))
            elif isinstance(piece, Promise) and not _has_begun(piece._cell):
                self._advance(self._add_lane(_delay_until_begun(iter((piece,))), piece._cell, piece))
            else:
                self.pieces.append(_as_promise(piece, self.promise_class))
        self.wake()

    def _merge(self) -> None:
        """Replace the pieces by leaves in the order of their arrival, and add the lane of items sent in order.

        Readers inside of a branch come back to this sequence then. They find the leaves that they have read in the same
        order. If the sequence is merged already, only append the leaves of its lane in order that have come.
        """
        if self._ordered_lane is not None:
            self._advance(self._ordered_lane)  # leaves that have come in order stand before those sent now
            return
        ordered = SequenceCell(self.promise_class)
        ordered.scope = self.scope
        ordered.pieces, self.pieces = self.pieces, []
        SequenceCell.merge_count += 1
        lane = self._ordered_lane = self._add_lane(ordered.walk(into=ref(self), is_entered=True), ordered, None)
        self._advance(lane)
        lane.blocked_on.wake()  # readers wait there for the next leaf in order

    def _add_lane(self, walk: Iterator[Any], cell: Any, promise: Promise[Any] | None) -> _Lane:
        """Add a lane, from which `_advance` will append leaves, and return it; append nothing yet."""
        lane = _Lane(walk, cell, promise)
        if self.lanes is None:
            self.lanes = {}
        self.lanes[lane] = None
        return lane

    def _advance(self, lane: _Lane) -> None:
        """Append the leaves of a lane that have come, and arrange that the later ones are appended when they come.

        A lane that has ended is removed, and its error becomes a failed leaf. The last lane of a closing sequence ends
        it.
        """
        if lane.is_advancing or self.done or self.lanes is None or lane not in self.lanes:
            return
        lane.is_advancing = True
        before = len(self.pieces)
        try:
            for each in lane.walk:
                if isinstance(each, Promise):
                    self.pieces.append(each)
                elif self._block_lane(each, lane):
                    break
            else:
                self._remove_lane(lane)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.pieces.append(self.promise_class.failed_leaf(error))
            self._remove_lane(lane)
        finally:
            lane.is_advancing = False
        if self.waiters is not None and len(self.pieces) > before:
            self.wake()
        if self.is_closing and not self.lanes:
            self._end()

    def _remove_lane(self, lane: _Lane) -> None:
        """Remove a lane that has ended; the caller ends the sequence if no lane is left."""
        if self.lanes is not None:
            self.lanes.pop(lane, None)
        if lane is self._ordered_lane:
            self._ordered_lane = None

    def _block_lane(self, blocked_on: StreamCell[Any, Any], lane: _Lane) -> bool:
        """Arrange that the lane advances when `blocked_on` has more pieces; return False if it has more already.

        Outside of a running loop, the lane waits for a reader instead. So do items sent in order whose source works on
        demand.
        """
        lane.blocked_on = blocked_on
        if lane is self._ordered_lane:
            if blocked_on is lane.cell:  # then `add` advances it
                return True
            if (blocked_on.on_demand or blocked_on.deferred_start is not None) and not self.has_waiting_reader:
                lane.waits_for_reader = self.on_demand = True
                return True
        if asyncio._get_running_loop() is None:
            lane.waits_for_reader = self.on_demand = True
            return True
        lane.waits_for_reader = False
        get_cell, get_lane = ref(self), ref(lane)  # a callback must not keep them alive

        def advance(_: object) -> None:
            """Advance the lane again, because the cell that blocked it has more pieces."""
            cell, lane = get_cell(), get_lane()
            if cell is not None and lane is not None:
                cell._advance(lane)

        before = len(blocked_on.pieces)
        blocked_on.watch(advance, None if self.context is None else self.context.variables)
        deadlock.check_source(blocked_on)
        return not (blocked_on.done or len(blocked_on.pieces) > before)

    def wake_pump(self) -> None:
        """Let the lanes and the pump that work on demand continue, because a reader waits."""
        for lane in list(self.lanes or ()):
            if lane.waits_for_reader:
                self._advance(lane)
        super().wake_pump()

    def receive(self, piece: Any) -> None:
        """Send an item that the pump has read; in place of one that cannot be sent, send the error."""
        try:
            self.send(piece)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self.send(error)

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        """Send each item that the async iterable yields.

        Stop reading it, at the next item, if the sequence has ended.
        """
        pauses, left, woken = PumpPauses(self, most_ahead=1), 1, True  # the first item may come after a wait
        async for item in source:
            if self.done:
                return
            woken = woken or self.waiters is not None
            self.receive(item)
            del item  # so that the sequence alone keeps it alive
            left -= 1
            if not left:
                left, woken = pauses.look(woken=woken) or await pauses.pause(), False

    # --- ending

    def finish(self) -> None:
        """Close the sequence: it ends when all leaves of the items sent so far have come; do nothing after the end."""
        if self.done:
            return
        self.is_closing = True
        if self._ordered_lane is not None:
            self._ordered_lane.cell.done = True
            self._advance(self._ordered_lane)
        if not self.lanes:
            self._end()

    def fail(self, error: BaseException) -> None:
        """Close the sequence with a failed leaf as its last one; to a reader that iterates, no error is raised.

        If the sequence is closed already, only record the error as a late one.
        """
        if self.is_closing:
            self.record_late_error(error)
        else:
            self._final_leaf = self.leaf_of_error(error)
            self.finish()

    def leaf_of_error(self, error: BaseException) -> Promise[Any]:
        """Return a failed leaf, which stands in the sequence for an error."""
        return self.promise_class.failed_leaf(error, observed=self.observed)

    def settle_as_cancelled(self) -> None:
        """End at once with a cancelled leaf; before it, append leaves that have come, and leave out later ones.

        Do nothing after the end.
        """
        if self.done:
            return
        self._merge()
        for lane in list(self.lanes or ()):
            self._advance(lane)
        if not self.done:
            self._final_leaf = self.promise_class.failed_leaf(make_cancelled_error())
            self._end()

    def cancel(self) -> None:
        """Stop the work for good, and the streams and iterables in this sequence that were made for it.

        The agent of the sequence made these, or an agent that it called, directly or not. Agents are not cancelled, but
        the streams and iterables that they send later are stopped as well.
        """
        parts = _find_parts(self._cells_of_parts(), self.scope)
        super().cancel()
        _stop(parts, self.scope)

    def _cells_of_parts(self) -> list[Cell[Any]]:
        """Return the cells of the promises that were sent into this sequence."""
        return _cells_of(self.pieces) + [lane.cell for lane in self.lanes or ()]

    def drop_pieces(self) -> None:
        """Drop the pieces, which no reader can reach any more, without recursion into sequences among them."""
        _dropping.append((self.pieces, self.lanes))
        self.pieces = []
        self.lanes = self._ordered_lane = None
        if len(_dropping) == 1:
            for pieces, lanes in _dropping:  # which grows meanwhile
                pieces.clear()
                if lanes is not None:
                    lanes.clear()
            _dropping.clear()

    def _end(self) -> None:
        """Resolve the cell, whose pieces are complete; a failed leaf that was kept for the end becomes the last one."""
        self.is_closing = True
        if not self.done and self._final_leaf is not None:
            self.pieces.append(self._final_leaf)
        if self.lanes is not None:
            self.lanes = self._ordered_lane = None
        self.resolve(())

    def collect_leaves(self) -> Generator[Any, None, tuple[list[Any], bool]]:
        """Wait until this sequence and all its branches have ended, and return all leaves.

        Start the work of all pieces. Raise `DeadlockError` if a sequence is a part of itself.

        Returns: the leaves (values stay values), and True if all of them are values.
        """
        leaves: list[Any] = []
        all_values = True
        entered: dict[SequenceCell, None] = {}
        stack: list[tuple[SequenceCell, Iterator[Any]]] = []
        cell: SequenceCell | None = self
        while cell is not None:
            if cell in entered:
                _enter(cell, entered)  # which raises
            if not cell.done:
                yield from cell.wait(for_end=True).__await__()
            if _hold_no_promise(cell.pieces):
                leaves += cell.pieces
            else:
                cell.start_pieces()
                entered[cell] = None
                stack.append((cell, iter(cell.pieces)))
            cell = None
            while stack and cell is None:
                outer, unread = stack[-1]
                for piece in unread:  # meanwhile, a reader that iterates may have put a promise in place of a value
                    if isinstance(piece, Promise):
                        if isinstance(piece, Branch):
                            cell = piece._cell
                            break
                        all_values = False
                    leaves.append(piece)
                else:
                    stack.pop()
                    del entered[outer]
        return leaves, all_values

    def start_pieces(self) -> None:
        """Start the work of all pieces, so that they run concurrently."""
        for piece in self.pieces:
            if isinstance(piece, Promise) and piece._cell.deferred_start is not None:
                piece._cell.ensure_started()

    def mark_all_observed(self, error: BaseException) -> None:
        """Mark the failures of all leaves, past and future, as observed: a reader has got the first one.

        The other failures so far become notes of `error`.

        Args:
            error: the failure that the reader has got.
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
            cell.mark_observed()
            if cell.failure is not None and cell.failure.error is not error:
                note = f"Another message of the sequence failed as well: {cell.failure.error!r}"
                if note not in notes:
                    add_note(error, note)
                    notes = getattr(error, "__notes__", ())

    def walk(self, into: ref[SequenceCell] | None = None, *, is_entered: bool = False) -> Iterator[Any]:
        """Yield each leaf; where the next one has not come yet, yield the cell to wait for.

        Args:
            into: the sequence that copies the leaves. A branch that would never end is then a failed leaf.
            is_entered: True if this sequence has the items sent to `into` in order; False if it was itself sent there.

        Raises:
            DeadlockError: the sequence is a part of itself, or copies from itself, so that it would never end.
        """
        entered: dict[SequenceCell, None] = {}
        stack: list[tuple[SequenceCell, list[Any], int, int]] = []
        cell = self
        if not is_entered:
            _enter(cell, entered, into)
        pieces, position = cell.pieces, 0
        given = start = 0  # numbers of leaves yielded: in all, and before the walk entered `cell`
        merge_count = SequenceCell.merge_count
        while True:
            if merge_count != SequenceCell.merge_count:
                merge_count = SequenceCell.merge_count
                levels = [*stack, (cell, pieces, position, start)]
                for depth, (outer, earlier_pieces, _, earlier_start) in enumerate(levels):
                    if outer.pieces is not earlier_pieces:  # merged: go back to it, behind the leaves it has given
                        for inner, *_ in levels[depth + 1 :]:
                            entered.pop(inner, None)
                        cell, pieces, position, start = outer, outer.pieces, given - earlier_start, earlier_start
                        del stack[depth:]
                        break
            done = cell.done
            if position < len(pieces):
                piece = pieces[position]
                position += 1
                if isinstance(piece, Branch):
                    try:
                        _enter(piece._cell, entered, into)
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
                entered.pop(cell, None)
                cell, pieces, position, start = stack.pop()
            else:
                return


def _cells_of(pieces: list[Any]) -> list[Cell[Any]]:
    """Return the cells of the promises among pieces."""
    return [piece._cell for piece in pieces if isinstance(piece, Promise)]


def _find_parts(cells: list[Cell[Any]], scope: object) -> list[Cell[Any]]:
    """Return the unfinished cells among these, and among their parts at any depth, that belong to a scope."""
    found: dict[Cell[Any], None] = {}
    for cell in cells:  # which grows meanwhile
        if cell not in found and _belongs_to(cell.scope, scope):
            found[cell] = None
            if isinstance(cell, SequenceCell):
                cells += cell._cells_of_parts()
    return [cell for cell in found if not cell.done]


def _stop(parts: list[Cell[Any]], scope: object) -> None:
    """Cancel the parts that stop without readers.

    Sequences among the other parts will stop streams and iterables of this scope that are sent into them later.
    """
    for cell in parts:
        if cell.stops_without_readers:
            Cell.cancel(cell)
        elif isinstance(cell, SequenceCell):
            cell._stopped_scope = scope


def _belongs_to(scope: object, caller: object) -> bool:
    """Return True if `scope` is `caller`, or the scope of an agent that it called, directly or not."""
    if caller is None:
        return scope is None
    while scope is not None and scope is not caller:
        scope = getattr(scope, "caller", None)
    return scope is not None


class _Lane:
    """Source of leaves of a merged sequence: all items sent in order, or one piece that was sent out of order.

    Args:
        walk: yields leaves, and cells to wait for.
        cell: the cell of the source.
        promise: the promise of that cell, kept alive as long as the lane.
    """

    __slots__ = ("__weakref__", "blocked_on", "cell", "is_advancing", "promise", "waits_for_reader", "walk")

    def __init__(self, walk: Iterator[Any], cell: Any, promise: Promise[Any] | None) -> None:
        self.walk = walk
        self.cell = cell
        self.blocked_on: StreamCell[Any, Any] = cell
        """The cell that the walk waits for."""
        self.promise = promise
        self.is_advancing = False
        self.waits_for_reader = False
        """True if the lane advances only when a reader has read everything, because its source works on demand."""


def _delay_until_begun(leaves: Iterator[Any]) -> Iterator[Any]:
    """Yield the leaves and cells of a walk.

    As long as a leaf has not begun, yield its cell instead: the lane waits for that cell before it takes the next item.
    """
    for leaf in leaves:
        if isinstance(leaf, Promise):
            while not _has_begun(leaf._cell):
                yield leaf._cell
        yield leaf


def _has_begun(cell: Cell[Any]) -> bool:
    """Return True if a leaf has a piece to read, or has ended.

    A leaf that works on demand or waits for its first reader counts as begun, as does a promise without pieces.
    """
    return cell.done or cell.on_demand or cell.deferred_start is not None or bool(getattr(cell, "pieces", True))


def _as_promise(piece: Any, promise_class: type[Branch[Any, Any]]) -> Promise[Any]:
    """Return a leaf as a promise: a promise as it is, a value as a resolved promise, which the class makes."""
    return piece if isinstance(piece, Promise) else promise_class.leaf_of_value(piece)


def _enter(cell: SequenceCell, entered: dict[SequenceCell, None], into: ref[SequenceCell] | None = None) -> None:
    """Add a sequence to `entered`, those that a walk is inside of; raise `DeadlockError` if it is among them.

    Raise it also if the sequence gets leaves from `into`, the sequence for which the walk is made.
    """
    target = None if into is None else into()
    if cell in entered:
        circle = [*entered][[*entered].index(cell) :]
    elif target is not None and (cell is target or (cell.lanes and _is_fed_from(cell, target))):
        circle = [target, *entered] if cell is target else [target, *entered, cell]
    else:
        entered[cell] = None
        return
    names = [str(each.scope or "a sequence") for each in circle]
    raise DeadlockError(f"These sequences are parts of each other: {' -> '.join([*names, names[0]])}")


def _hold_no_promise(pieces: list[Any]) -> bool:
    """Return True if no piece is a promise.

    Of many pieces, each class is looked at once: a history has thousands of them. For a few, a set costs more.
    """
    kinds = map(type, pieces)
    for kind in kinds if len(pieces) < 4 else set(kinds):  # noqa: SIM110 - a generator costs more than the rest
        if issubclass(kind, Promise):
            return False
    return True


def _is_fed_from(cell: SequenceCell, source: SequenceCell) -> bool:
    """Return True if the leaves of `source` also come into the sequence `cell`, through lanes or branches."""
    seen: set[SequenceCell] = set()
    unseen = [cell]
    while unseen:
        each = unseen.pop()
        if each is source:
            return True
        if each not in seen:
            seen.add(each)
            unseen.extend(lane.cell for lane in each.lanes or () if isinstance(lane.cell, SequenceCell))
            unseen.extend(piece._cell for piece in each.pieces if isinstance(piece, Branch))
    return False


class Branch(StreamedPromise[LEAF_co, WHOLE_co]):
    """Promise of a sequence, which can be a branch of another one.

    Its class methods make leaves; `SequencePromise` and its subclasses override them.
    """

    __slots__ = ()

    _cell: SequenceCell

    @classmethod
    def leaf_of_value(cls, value: Any) -> Promise[Any]:
        """Return a leaf that is resolved with `value`; this base class raises `TypeError`."""
        raise TypeError(f"{cls.__name__} takes no values")

    @classmethod
    def failed_leaf(cls, error: BaseException, *, observed: bool = False) -> Promise[Any]:
        """Return a leaf that has failed with `error`; this base class raises `TypeError`."""
        raise TypeError(f"{cls.__name__} takes no errors")

    @classmethod
    def flatten(cls, item: Any, *, into: SequenceCell | None = None) -> list[Any]:
        """Return the leaves and branches of an item that is sent; this base class raises `TypeError`."""
        raise TypeError(f"{cls.__name__} takes no items")
