"""The order of steps of one run, to be read: which task ran which line, what was held back, and which lines race.

`Interleaving` records the lines of the application that each step of a task runs. It looks up the objects that these
lines read and write. Two lines race if one task uses an object, is held back, and another task writes it meanwhile.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import sys
from collections import deque
from collections.abc import MutableMapping, MutableSequence, MutableSet
from functools import cache
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents_testing._waiting import is_application, is_application_file, name_of, suspended_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import CodeType, FrameType

MOST_ROWS = 22
"""Switches that a description shows, so that it fits on a screen."""
_WIDEST_SOURCE = 56
_WIDEST_NAME = 32
_STILL_HELD = "is still held back"
_MOST_RECORDED = 10_000
"""Rows that are recorded: a run that polls without an end is told by its beginning."""
_MOST_LINES = 500
"""Newest lines of a row that are kept."""
_MOST_WAITS = 100
"""Newest waits of tasks that are searched for races."""
_LIKELY = 2
"""First number of the score of a race: a task reads an object, another task writes it, and the first uses it again."""

_READING_METHODS = frozenset(
    {"copy", "count", "empty", "full", "get", "index", "is_set", "items", "keys", "locked", "qsize", "values"}
)
"""Methods that leave their object as it is; all others of the standard library count as writing."""


_Place = tuple[object, ...]
_Use = tuple["_Row", "_Line"]
"""Row and line that use a place."""


class _Access(NamedTuple):
    """One use of an object by a line."""

    place: _Place
    """Identity of the object and attribute; equal for uses of the same place."""
    name: str
    """Name in the source."""
    writes: bool


class _Line(NamedTuple):
    """One line that a step has run."""

    file: str
    number: int
    accesses: tuple[_Access, ...]


class _Row:
    """Part of a run between two switches: what one task did from its resumption to its next wait."""

    def __init__(self, actor: object, time: float) -> None:
        self.actor = actor
        """The task; for a callback, its name."""
        self.name = str(actor)
        self.time = time
        self.lines: deque[_Line] = deque(maxlen=_MOST_LINES)
        self.stop: tuple[str, int] | None = None
        """File and line where the task waits."""
        self.ending = ""
        """How the task ended; empty while it goes on."""
        self.held_since: int | None = None
        """Number of rows at the time when the step was held back; None if it was not."""
        self.is_held_next = False
        """True if the step after this one is held back."""
        self.note = ""
        self.fails = False
        """True if the last line of the row has raised an error."""
        self.shown: _Line | None = None
        """The line to show for this row; None for the one where it stops."""

    def stand(self, task: asyncio.Task[Any]) -> None:
        """Record the name of a task after its step, and the line where it waits or how it has ended."""
        self.name = name_of(task)
        self.ending = _ending_of(task)
        self.fails = bool(self.lines) and self.ending.startswith("raises")
        frames = [frame for frame in suspended_frames(task.get_coro()) if is_application(frame)]
        if frames:
            self.stop = (frames[-1].f_code.co_filename, frames[-1].f_lineno)

    def place(self) -> tuple[str, int] | None:
        """Return file and line that stand for this row: a racing line, else the last one or where the task waits.

        Return None if none of these is known.
        """
        if self.shown is not None:
            return self.shown.file, self.shown.number
        if self.stop is not None and not self.ending:
            return self.stop
        return (self.lines[-1].file, self.lines[-1].number) if self.lines else self.stop


class _Hold(NamedTuple):
    """A step that is held back."""

    task: asyncio.Task[Any]
    since: int
    """Number of rows before it."""


class _Race(NamedTuple):
    """Two lines of two tasks that use the same object, at least one of which writes it."""

    score: tuple[int, ...]
    name: str
    first: _Use
    """Use by the task that was held back."""
    second: _Use
    when: str
    """Words that tell when the first line ran."""


class Interleaving:
    """Record of one run: the steps of tasks in their order, with the lines of the application that they ran."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self._is_over = False
        self._current: _Row | None = None
        self._holds: dict[int, _Hold] = {}
        """Steps that are held back, by their numbers."""
        self._is_traced: dict[CodeType, bool] = {}

    # --- calls of the loop

    def observed(self, callback: Callable[..., object], step: int | None) -> Callable[..., object]:
        """Return a callback that runs `callback` and records what it does; `step` is its number if it is of a task."""
        return _ObservedCallback(self, callback, step)

    def note_hold(self, step: int, task: asyncio.Task[Any]) -> None:
        """Record that a step of a task is held back from now on."""
        self._holds[step] = _Hold(task, len(self.rows))

    def end(self) -> None:
        """Record that some steps are still held back, and nothing more: the rest of the run is clean-up."""
        if self._is_over:
            return
        self._is_over = True
        for task, since in self._holds.values():
            row = _Row(task, _time())
            row.held_since = since
            row.stand(task)
            row.ending = _STILL_HELD
            self.rows.append(row)

    def note(self, text: str) -> None:
        """Record an event that is no step of a task, such as a cancellation from outside.

        It stands before the step that is running, or at the end if none is running.
        """
        row = _Row(None, _time())
        row.note = text
        self.rows.insert(len(self.rows) - (self._current is not None), row)

    def run(self, callback: Callable[..., object], args: tuple[Any, ...], step: int | None) -> None:
        """Run a callback, and record its lines and where its task then stands."""
        if self._is_over or len(self.rows) >= _MOST_RECORDED:
            callback(*args)
            return
        owner = getattr(callback, "__self__", None)
        task = owner if isinstance(owner, asyncio.Task) else None
        row = self._current = _Row(task or getattr(callback, "__qualname__", "a callback"), _time())
        if step in self._holds:
            row.held_since = self._holds.pop(step).since
        self.rows.append(row)
        before = sys.gettrace()
        sys.settrace(self._trace_frame)
        try:
            callback(*args)
        finally:
            sys.settrace(before)
            self._current = None
            if task is not None:
                row.stand(task)

    def _trace_frame(self, frame: FrameType, event: str, argument: object) -> Any:
        """Record the line of a resumed frame, and return the tracer of its later lines.

        Return None for frames of libraries.
        """
        code = frame.f_code
        is_traced = self._is_traced.get(code)
        if is_traced is None:
            is_traced = self._is_traced[code] = is_application(frame)
        if not is_traced:
            return None
        if frame.f_lineno != code.co_firstlineno:
            self._record_line(frame)
        return self._trace_line

    def _trace_line(self, frame: FrameType, event: str, argument: object) -> Any:
        """Record a line that is about to run; return the tracer of the next lines."""
        if event == "line":
            self._record_line(frame)
        return self._trace_line

    def _record_line(self, frame: FrameType) -> None:
        """Record the line of a frame, with the objects that it uses."""
        if self._current is not None:
            number, file = frame.f_lineno, frame.f_code.co_filename
            self._current.lines.append(_Line(file, number, tuple(_accesses(frame, file, number))))

    # --- describing

    def describe(self) -> str:
        """Return lines of text: the two lines that race, if they are known, and then a line for each switch."""
        text = []
        if (race := self._race()) is not None:
            text += self._describe_race(race)
        elif (held := next((row for row in self.rows if row.held_since is not None), None)) is not None:
            text += [f"{held.name} was held back; no object is known that two tasks use meanwhile."]
        rows = self._shown_rows()
        has_times = any(row.time for row in rows)
        width = min(_WIDEST_NAME, max((len(row.name) for row in rows), default=0))
        places = [_short_place(row.place()) for row in rows]
        place_width = max(map(len, places), default=0)
        text.append("Order of the steps, one line a switch:")
        numbers = {id(row): number for number, row in enumerate(rows, 1)}
        last = 0
        for row, place in self._abridged([*zip(rows, places, strict=True)]):
            number = numbers[id(row)]
            if number > last + 1:
                text.append(f"      ... {number - last - 1} more")
            last = number
            time = f"{row.time:9.4g} s" if has_times else ""
            if row.note:
                text.append(f"  {number:3}{time}  {row.note}")
                continue
            cells = f"  {number:3}{time}  {_clipped(row.name, width):{width}}  {place:{place_width}}"
            text.append(f"{cells}  {_source(row.place())}{_remark(row)}".rstrip())
        return "\n".join(text)

    def _describe_race(self, race: _Race) -> list[str]:
        """Return three lines: the object of a race, and the two lines that use it; mark these lines to be shown."""
        sides = [(*race.first, race.when), (*race.second, "meanwhile")]
        places = [_short_place((line.file, line.number)) for _, line, _ in sides]
        sources = [_source((line.file, line.number)) for _, line, _ in sides]
        text = [f"Two lines race for {race.name}:"]
        for (row, line, when_it_ran), place, source in zip(sides, places, sources, strict=True):
            row.shown = line
            cells = f"{place:{max(map(len, places))}}  {source:{max(map(len, sources))}}"
            text.append(f"  {cells}  {row.name}, {when_it_ran}")
        return text

    def _race(self) -> _Race | None:
        """Return the two lines that most likely race, or None.

        What ran while a step was held back goes first. The step may be one of a library, so what ran while a task
        waited counts, too, and in the end what ran after the step.
        """
        rows = [(index, row) for index, row in enumerate(self.rows) if row.lines or row.held_since is not None]
        held = [(index, row.held_since) for index, row in rows if row.held_since is not None]
        waits: list[tuple[int, int]] = []
        newest: dict[int, int] = {}
        for index, row in rows:
            since = newest.get(id(row.actor), index) + 1
            if since < index:
                waits.append((index, since))
            newest[id(row.actor)] = index
        meanwhile = _best(self._races_of(index, since, index, "it was held back") for index, since in held)
        if meanwhile is not None and meanwhile.score[0] == _LIKELY:
            return meanwhile
        waiting = _best(self._races_of(index, since, index, "it waited") for index, since in waits[-_MOST_WAITS:])
        if waiting is not None and waiting.score[0] == _LIKELY:
            return waiting
        return meanwhile or _best(self._races_of(index, since, None, "it was held back") for index, since in held)

    def _races_of(self, index: int, since: int, until: int | None, what: str) -> Iterator[_Race]:
        """Yield the pairs of a line of the task of a row, and of a line of another task that uses the same object.

        Args:
            index: number of the row with which the task went on.
            since: first row of others that counts.
            until: row of others before which the last one is; None for the end.
            what: words that tell why the task did not go on before.
        """
        held = self.rows[index]
        others: dict[tuple[_Place, bool], _Use] = {}  # the newest use that writes, and the newest that does not
        for row in self.rows[since:until]:
            if row.actor is not held.actor:
                for line in row.lines:
                    others.update({(access.place, access.writes): (row, line) for access in line.accesses})
        failing = {access.place for row in self.rows if row.fails for access in row.lines[-1].accesses}
        own: tuple[list[_Use], list[_Use]] = ([], [])
        places: tuple[set[_Place], set[_Place]] = (set(), set())
        for number, row in enumerate(self.rows):
            if row.actor is held.actor:
                own[number < index].extend((row, line) for line in row.lines)
                places[number < index].update(access.place for line in row.lines for access in line.accesses)
        for is_before in (False, True):
            for number, (row, line) in enumerate(own[is_before]):
                accesses = line.accesses
                written = {each.place for each in accesses if each.writes}
                if written:  # a cancellation undoes the rest of what a write begins
                    accesses = (*accesses, _Access((id(held.actor),), held.name, writes=False))
                for access in accesses:
                    # an object that the task uses before and after the hold was most likely meant to stay as it is
                    is_kept = all(access.place in each for each in places)
                    for other_writes in (True, False) if access.writes else (True,):
                        if (other := others.get((access.place, other_writes))) is not None:
                            reads_first = is_before and other_writes and access.place not in written
                            fails = access.place in failing
                            near = number if is_before else -number
                            score = (is_kept + reads_first, fails, other_writes, is_before, near)
                            when = f"{'before' if is_before else 'after'} {what}"
                            yield _Race(score, access.name, (row, line), other, when)

    def _shown_rows(self) -> list[_Row]:
        """Return the rows with code of the application, consecutive ones of a task as one, and mark what is held."""
        shown: list[_Row] = []
        before: dict[int, _Row] = {}
        for row in self.rows:
            if row.held_since is not None and (earlier := before.get(id(row.actor))) is not None:
                earlier.is_held_next = True
            if not (row.lines or row.note or row.held_since is not None):
                continue
            last = shown[-1] if shown and row.held_since is None and not row.note else None
            if last is not None and last.actor is row.actor and last.shown is None and not last.is_held_next:
                row.held_since = shown.pop().held_since
            shown.append(row)
            before[id(row.actor)] = row
        return shown

    def _abridged(self, rows: list[tuple[_Row, str]]) -> list[tuple[_Row, str]]:
        """Return the rows to show: all, or if there are too many, those nearest to the important ones.

        Important are rows that race, were held back, have a note, or end the run.
        """
        if len(rows) <= MOST_ROWS:
            return rows
        key = [
            index
            for index, (row, _) in enumerate(rows)
            if row.shown or row.held_since is not None or row.is_held_next or row.note or index == len(rows) - 1
        ]
        nearest = sorted(range(len(rows)), key=lambda index: (min(abs(index - each) for each in key), -index))
        kept = sorted(nearest[:MOST_ROWS])
        return [rows[index] for index in kept]


def _best(races: Iterable[Iterable[_Race]]) -> _Race | None:
    """Return the race with the highest score; None if there is no race."""
    return max(chain.from_iterable(races), key=lambda race: race.score, default=None)


class _ObservedCallback:
    """Wrapper of a callback whose run is recorded; the loop and messages see it as the callback."""

    def __init__(self, trace: Interleaving, callback: Callable[..., object], step: int | None) -> None:
        self._trace = trace
        self._callback = callback
        self._step = step
        self.__self__ = getattr(callback, "__self__", None)

    def __call__(self, *args: Any) -> None:
        self._trace.run(self._callback, args, self._step)

    def __repr__(self) -> str:
        return repr(self._callback)


def _time() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()


def _ending_of(task: asyncio.Task[Any]) -> str:
    """Return how a task has ended, such as `raises ValueError`; an empty text if it is not done."""
    if not task.done():
        return ""
    if task.cancelled():
        return "is cancelled"
    error = task._exception  # `exception()` would count as observing it
    return "ends" if error is None else f"raises {type(error).__name__}"


def _remark(row: _Row) -> str:
    """Return the words after the line of a row: if the task was or will be held back, and how it ended."""
    parts = ["was held back"] if row.held_since is not None and row.ending != _STILL_HELD else []
    if row.fails and row.shown not in (None, row.lines[-1]):
        parts += [f"{row.ending} at {_short_place(row.lines[-1][:2])}"]
    elif row.ending:
        parts += [row.ending]
    parts += ["then held back"] if row.is_held_next else []
    return f"  <- {', '.join(parts)}" if parts else ""


def _short_place(place: tuple[str, int] | None) -> str:
    """Return the name of a file and a line, such as `bank.py:12`."""
    return "" if place is None else f"{PurePath(place[0]).name}:{place[1]}"


def _source(place: tuple[str, int] | None) -> str:
    """Return the text of a line, shortened if it is long; "(a library)" if the place is None, as it is not known."""
    return "(a library)" if place is None else _clipped(linecache.getline(*place).strip(), _WIDEST_SOURCE)


def _clipped(text: str, width: int) -> str:
    """Return a text of at most `width` characters; a longer one is cut, and ends in three points."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


# --- the objects that a line uses


def _accesses(frame: FrameType, file: str, number: int) -> Iterator[_Access]:
    """Yield the uses of objects by a line of a file: attributes, shared variables, and contents of containers.

    `frame` is at the line with this number, and gives the values.
    """
    for node, writes in _nodes_of_lines(file).get(number, ()):
        if isinstance(node, ast.Attribute):
            owner = _value(node.value, frame)
            if owner is not _UNKNOWN and not inspect.ismodule(owner):
                yield _Access((id(owner), node.attr), ast.unparse(node), writes)
            if not writes and _is_container(value := _value(node, frame)):
                yield _Access((id(value),), ast.unparse(node), writes=False)
        elif isinstance(node, ast.Name):
            if _is_shared(node.id, frame):
                variables = frame.f_globals if node.id not in frame.f_locals else None
                yield _Access(("variable", id(variables) if variables else node.id, node.id), node.id, writes)
            if not writes and _is_container(value := _value(node, frame)):
                yield _Access((id(value),), node.id, writes=False)
        elif isinstance(node, _Content):
            value = _value(node.of, frame)
            if value is _UNKNOWN or inspect.ismodule(value) or inspect.isclass(value):
                continue
            if node.method is None or not _is_traced_method(value, node.method):
                is_known = type(value).__module__.partition(".")[0] in sys.stdlib_module_names
                yield _Access((id(value),), ast.unparse(node.of), writes and is_known)


def _is_shared(name: str, frame: FrameType) -> bool:
    """Return True for a variable that several functions share, and that is no function, class or module."""
    code = frame.f_code
    if name in code.co_varnames and name not in code.co_cellvars:
        return False
    value = frame.f_locals.get(name, frame.f_globals.get(name, _UNKNOWN))
    return value is not _UNKNOWN and not (inspect.isroutine(value) or inspect.isclass(value) or inspect.ismodule(value))


def _is_container(value: object) -> bool:
    """Return True for a list, dict, set, deque and the like."""
    return isinstance(value, MutableSequence | MutableMapping | MutableSet | deque)


_UNKNOWN = object()


def _value(node: ast.expr, frame: FrameType) -> object:
    """Return the value of a name or a chain of attributes without running code of the application, else `_UNKNOWN`."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id, _UNKNOWN))
    if isinstance(node, ast.Attribute) and (owner := _value(node.value, frame)) is not _UNKNOWN:
        value = inspect.getattr_static(owner, node.attr, _UNKNOWN)
        if inspect.ismemberdescriptor(value):  # a slot
            return getattr(owner, node.attr, _UNKNOWN)
        return _UNKNOWN if inspect.isdatadescriptor(value) else value
    return _UNKNOWN


def _is_traced_method(owner: object, name: str) -> bool:
    """Return True if a method of an object is code of the application, so that its own lines are recorded."""
    function = inspect.getattr_static(type(owner), name, None)
    return inspect.isfunction(function) and is_application_file(function.__code__.co_filename)


class _Content(ast.AST):
    """Use of what an object holds, such as an item of a list, or its state by a method of this name."""

    def __init__(self, of: ast.expr, method: str | None = None) -> None:
        super().__init__()
        self.of = of
        self.method = method


@cache
def _nodes_of_lines(file: str) -> dict[int, list[tuple[ast.AST, bool]]]:
    """Return for each line of a file the expressions that use objects, and True for those that write."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    found: dict[int, list[tuple[ast.AST, bool]]] = {}

    def add(number: int, node: ast.AST, *, writes: bool) -> None:
        found.setdefault(number, []).append((node, writes))

    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name | ast.Attribute):
            add(node.lineno, node.target, writes=False)
        if isinstance(node, ast.Attribute | ast.Name):
            add(node.lineno, node, writes=not isinstance(node.ctx, ast.Load))
        elif isinstance(node, ast.Subscript):
            add(node.lineno, _Content(node.value), writes=not isinstance(node.ctx, ast.Load))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            writes = node.func.attr not in _READING_METHODS
            add(node.lineno, _Content(node.func.value, node.func.attr), writes=writes)
        elif isinstance(node, ast.AsyncWith | ast.With):
            for item in node.items:
                add(item.context_expr.lineno, _Content(item.context_expr), writes=True)
    return found
