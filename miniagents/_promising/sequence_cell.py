"""The cell of a sequence: its pieces, the walk over them, and the merging of items sent out of order.

A sequence that is sent into another one is kept by reference, as a branch. Readers walk the branches, so passing a
sequence on costs no task and no copy, however deep it goes. `sequence` has the promise and the sending end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import ref

from miniagents._promising import deadlock
from miniagents._promising.promise import Cell, Promise, make_cancelled_error
from miniagents._promising.streamed import StreamCell, StreamedPromise
from miniagents.errors import INTERRUPTS, DeadlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterator


LEAF_co = TypeVar("LEAF_co", bound=Promise[Any], covariant=True)
WHOLE_co = TypeVar("WHOLE_co", covariant=True)

_dropping: list[tuple[list[Any], dict[_Lane, None] | None]] = []
"""Pieces and lanes that are being let go of, one after the other instead of one inside the other."""


class SequenceCell(StreamCell[Any, Any]):
    """Pieces are leaves (promises of the sequence's kind) and branches (other sequences, by reference).

    A leaf that was sent as a value is kept as that value. Its promise is made, and takes its place, when somebody
    iterates: whoever awaits the sequence needs none.
    """

    promise_class: type[Branch[Any, Any]]
    produced_only_by_its_task = False
    merge_count: ClassVar[int] = 0
    """Number of sequences merged in this process; a walk that sees it grow looks whether it has to go back."""
    lanes: dict[_Lane, None] | None = None
    """Of a merged sequence: the sources that its leaves still come from."""
    _ordered_lane: _Lane | None = None
    """Of a merged sequence: the lane of the items sent in order; its cell holds them as one that is not merged does."""
    _closing = False
    _final_leaf: Promise[Any] | None = None
    """The failed leaf that comes when everything sent before it has come."""

    # --- sending

    def send(self, item: Any) -> None:
        """Append what `item` flattens to; nothing is appended when a part of it is of a wrong type."""
        self.add(self.promise_class.flatten(item, into=self))

    def add(self, pieces: list[Any]) -> None:
        """Append leaves and branches."""
        if self._ordered_lane is not None:
            self._ordered_lane.cell.pieces.extend(pieces)
            self._advance(self._ordered_lane)
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
            if isinstance(piece, Branch):
                leaves = piece._cell.walk(into=ref(self))
                self._advance(self._add_lane(_delay_until_begun(leaves), piece._cell, piece))
            elif isinstance(piece, Promise) and not _has_begun(piece._cell):
                self._advance(self._add_lane(_delay_until_begun(iter((piece,))), piece._cell, piece))
            else:
                self.pieces.append(_as_promise(piece, self.promise_class))
        self.wake()

    def _merge(self) -> None:
        """Turn the pieces into leaves in the order of their arrival.

        Readers inside of a branch then come back to this sequence: they have read some of the leaves that are there
        now, in the same order.
        """
        if self._ordered_lane is not None:
            self._advance(self._ordered_lane)  # what has come in order comes before what is sent now
            return
        ordered = SequenceCell(self.promise_class)
        ordered.scope = self.scope
        ordered.pieces, self.pieces = self.pieces, []
        SequenceCell.merge_count += 1
        lane = self._ordered_lane = self._add_lane(ordered.walk(into=ref(self), is_entered=True), ordered, None)
        self._advance(lane)
        lane.blocked_on.wake()  # readers wait there for what comes next in order

    def _add_lane(self, walk: Iterator[Any], cell: Any, promise: Promise[Any] | None) -> _Lane:
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
        if self._closing and not self.lanes:
            self._end()

    def _remove_lane(self, lane: _Lane) -> None:
        if self.lanes is not None:
            self.lanes.pop(lane, None)
        if lane is self._ordered_lane:
            self._ordered_lane = None

    def _waits_for(self, blocked_on: StreamCell[Any, Any], lane: _Lane) -> bool:
        """Have a lane go on when `tip` has more; returns False if it has more already."""
        lane.blocked_on = blocked_on
        if lane is self._ordered_lane:
            if blocked_on is lane.cell:  # `add` goes on with it
                return True
            if (blocked_on.on_demand or blocked_on.deferred_start is not None) and not self.has_waiting_reader:
                lane.waits_for_reader = self.on_demand = True
                return True
        if asyncio._get_running_loop() is None:
            lane.waits_for_reader = self.on_demand = True
            return True
        lane.waits_for_reader = False
        this, that = ref(self), ref(lane)  # a wait alone keeps nothing alive

        def go_on(_: object) -> None:
            cell, lane = this(), that()
            if cell is not None and lane is not None:
                cell._advance(lane)

        before = len(blocked_on.pieces)
        blocked_on.watch(go_on, None if self.context is None else self.context.variables)
        deadlock.check_source(blocked_on)
        return not (blocked_on.done or len(blocked_on.pieces) > before)

    def request_more(self) -> None:
        """Wake lanes that rest, and a pump on demand: a reader has read everything."""
        for lane in list(self.lanes or ()):
            if lane.waits_for_reader:
                self._advance(lane)
        super().request_more()

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
        if self._ordered_lane is not None:
            self._ordered_lane.cell.done = True
            self._advance(self._ordered_lane)
        if not self.lanes:
            self._end()

    def fail(self, error: BaseException) -> None:
        """An error is a failed leaf in its place: those who iterate do not stumble over it."""
        if self.is_closing:
            self.record_late_error(error)
        else:
            self._final_leaf = self.leaf_of_error(error)
            self.finish()

    def leaf_of_error(self, error: BaseException) -> Promise[Any]:
        """What stands for an error in the sequence."""
        return self.promise_class.failed_leaf(error, observed=self.observed)

    def settle_as_cancelled(self) -> None:
        """End at once: what has not come yet does not come any more."""
        if self.done:
            return
        self._merge()
        for lane in list(self.lanes or ()):
            self._advance(lane)
        if not self.done:
            self._final_leaf = self.promise_class.failed_leaf(make_cancelled_error())
            self._end()

    def cancel(self) -> None:
        """Stop the work for good, with the iterables and token streams in this sequence that were made for it.

        Those are the ones that its agent made, or an agent that was called on its behalf. Agents themselves go on.
        """
        made_for_it = self._find_cells_to_cancel()
        super().cancel()
        for cell in made_for_it:
            Cell.cancel(cell)

    def _find_cells_to_cancel(self) -> list[Cell[Any]]:
        """Find the cells to cancel."""
        found: dict[Cell[Any], None] = {}
        unseen: list[SequenceCell] = [self]
        while unseen:
            cell = unseen.pop()
            parts = [piece._cell for piece in cell.pieces if isinstance(piece, Promise)]
            for inner in [*parts, *(lane.cell for lane in cell.lanes or ())]:
                if inner not in found and _belongs_to(inner.scope, self.scope):
                    found[inner] = None
                    if isinstance(inner, SequenceCell):
                        unseen.append(inner)
        return [cell for cell in found if cell.stops_without_readers and not cell.done]

    def drop_pieces(self) -> None:
        """Forget the pieces, which no reader can reach any more; those of their sequences go one after the other."""
        _dropping.append((self.pieces, self.lanes))
        self.pieces = []
        self.lanes = self._ordered_lane = None
        if len(_dropping) == 1:
            for pieces, lanes in _dropping:  # it grows meanwhile: a chain of agents, or of iterables, may be long
                pieces.clear()
                if lanes is not None:
                    lanes.clear()
            _dropping.clear()

    def _end(self) -> None:
        if not self.done and self._final_leaf is not None:
            self.pieces.append(self._final_leaf)
        if self.lanes is not None:
            self.lanes = self._ordered_lane = None
        self.resolve(())

    async def collect_leaves(self) -> tuple[list[Any], bool]:
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
                if _are_all_values(cell.pieces):
                    leaves += cell.pieces
                    del on_the_way[cell]
                    continue
                all_values = cell.start_pieces() and all_values
                stack.append((cell, iter(cell.pieces)))
            cell, unread = stack[-1]
            for piece in unread:
                if isinstance(piece, Branch):
                    entering = piece._cell
                    break
                leaves.append(piece)
            else:
                stack.pop()
                del on_the_way[cell]
        return leaves, all_values

    def start_pieces(self) -> bool:
        """Let all pieces work at the same time; returns whether those that are no branches are values."""
        all_values = True
        for piece in self.pieces:
            if isinstance(piece, Promise):
                piece._cell.ensure_started()
                all_values = all_values and isinstance(piece, Branch)
        return all_values

    def mark_all_observed(self, error: BaseException) -> None:
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
            cell.mark_observed()
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
        merge_count = SequenceCell.merge_count
        while True:
            if merge_count != SequenceCell.merge_count:
                merge_count = SequenceCell.merge_count
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
                if isinstance(piece, Branch):
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


def _belongs_to(scope: object, caller: object) -> bool:
    """Whether `scope` is this caller, or was called by it, directly or not."""
    if caller is None:
        return scope is None
    while scope is not None and scope is not caller:
        scope = getattr(scope, "caller", None)
    return scope is not None


class _Lane:
    """Way into a merged sequence, of what was sent in order or of one piece that was sent out of order.

    Args:
        walk: gives leaves, and cells where it has to wait.
        cell: the cell of what was sent.
        promise: its promise, which is kept as long as the lane is.
    """

    __slots__ = ("__weakref__", "blocked_on", "cell", "is_advancing", "promise", "waits_for_reader", "walk")

    def __init__(self, walk: Iterator[Any], cell: Any, promise: Promise[Any] | None) -> None:
        self.walk = walk
        self.cell = cell
        self.blocked_on: StreamCell[Any, Any] = cell
        """Where it waits."""
        self.promise = promise
        self.is_advancing = False
        self.waits_for_reader = False
        """It goes on when somebody reads, as its source is one that begins, or goes on, only then."""


def _delay_until_begun(leaves: Iterator[Any]) -> Iterator[Any]:
    """Yield the leaves of a walk, each when there is something to read of it."""
    for leaf in leaves:
        if isinstance(leaf, Promise):
            while not _has_begun(leaf._cell):
                yield leaf._cell
        yield leaf


def _has_begun(cell: Cell[Any]) -> bool:
    """Whether there is something to read of a leaf; one that works on demand may be read at any time."""
    return cell.done or cell.on_demand or cell.deferred_start is not None or bool(getattr(cell, "pieces", True))


def _as_promise(piece: Any, promise_class: type[Branch[Any, Any]]) -> Promise[Any]:
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


def _are_all_values(pieces: list[Any]) -> bool:
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
            unseen.extend(piece._cell for piece in each.pieces if isinstance(piece, Branch))
    return False


class Branch(StreamedPromise[LEAF_co, WHOLE_co]):
    """Promise of a sequence, which readers of a sequence around it walk into.

    The methods make what can be sent into leaves; `SequencePromise` and its subclasses say how.
    """

    __slots__ = ()

    _cell: SequenceCell

    @classmethod
    def leaf_of_value(cls, value: Any) -> Promise[Any]:
        """Return a leaf that is resolved already."""
        raise TypeError(f"{cls.__name__} has no place for values")

    @classmethod
    def failed_leaf(cls, error: BaseException, *, observed: bool = False) -> Promise[Any]:
        """Return a leaf that has failed already."""
        raise TypeError(f"{cls.__name__} has no place for errors")

    @classmethod
    def flatten(cls, item: Any, *, into: SequenceCell | None = None) -> list[Any]:
        """Return the leaves and branches of what was sent; see `SequencePromise.flatten`."""
        raise TypeError(f"{cls.__name__} takes nothing")
