"""The texts of a body, read in one pass: strings of JSON, and the data of events.

`Body` splits a document, or each event of a stream, at its quotes: every second part is a string. Events of one layout
(their syntax and their names are the same) are taken apart only once, and those in a row make a `Run`, of which each
further event costs a few searches. It refuses no body: of a broken one it finds the texts before and after the break.

Parts of one text are joined: those with the same path, in events of the same kind. Names such as `index` and
`output_index` tell elements and events apart. So the deltas of each choice, tool call and content block make one text.

Independent of providers.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from miniagents_testing.cassette._secrets.names import TOP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from miniagents_testing.cassette._secrets.names import FieldNames, Place

SEPARATOR = "\3"
"""Separator of texts that are searched together; no secret contains it."""

_BLOCK = re.compile(r"[^\r\n]++(?:(?:\r\n?|\n)[^\r\n]++)*+")
_LINES = re.compile(r"\}\r?\n\{")
_DATA = re.compile(r"(?<![^\r\n\ufeff])data: ?+([^\r\n]*+)")
_ASIDE = re.compile(r"(?<![^\r\n])(?!\ufeff?data:)[^\r\n]++")
_LONG = 8
"""Length from which a string that all events repeat is one text each time; the deltas of a text are shorter."""


class Run:
    """Document, or some events of a stream in a row, split at their quotes.

    The events of a run differ in few of their parts; the others are kept once for all.

    Args:
        start: of the first event in the body.
        parts: of the first event.
        varying: indices of the parts that may differ from event to event, in order.
    """

    __slots__ = ("_offsets", "_values", "_varying", "parts", "starts")

    def __init__(self, start: int, parts: Sequence[str], varying: Sequence[int] = ()) -> None:
        self.starts = [start]
        self.parts = parts
        self._varying = varying
        self._values = [parts[index] for index in varying]
        """Varying parts of the first event, of the second one, and so on."""
        self._offsets: list[int] | None = None

    def take_similar(self, text: str, end: int, start: int) -> int:
        """Add the next events that differ from the first one in the varying parts only, of syntax in digits only.

        The work for each is a few searches for fixed texts: a stream has thousands of such events.

        Args:
            text: the body.
            end: of the first event.
            start: of the next event.

        Returns:
            The start of the first event that was not added.
        """
        edges = [-1, *self._varying, len(self.parts)]
        between = ['"'.join(["", *self.parts[left + 1 : right], ""]) for left, right in pairwise(edges)]
        between[-1] = between[-1][:-1] + text[end:start]
        first, *others = between[0][1:], *between[1:]
        values, size = self._values, len(self._values)
        of_syntax = [number for number, index in enumerate(self._varying) if index % 2 == 0]
        syntax = [_without_digits(values[number]) for number in of_syntax]
        while text.startswith(first, start):
            stop = self._add_values(text, start + len(first), others)
            if stop < 0 or (syntax and [_without_digits(values[number - size]) for number in of_syntax] != syntax):
                del values[size * len(self.starts) :]
                break
            self.starts.append(start)
            start = stop
        return start

    def _add_values(self, text: str, position: int, others: Sequence[str]) -> int:
        """Add the varying parts of an event, each of which has one of the other fixed texts after it.

        Return the end of the last of these texts, or -1 if one is missing.
        """
        for after in others:
            stop = text.find(after[0], position)
            if stop < 0 or not text.startswith(after, stop):
                return -1
            self._values.append(text[position:stop])
            position = stop + len(after)
        return position

    def column(self, index: int) -> list[str]:
        """Return the part at an index of all events of the run, in their order."""
        if index not in self._varying:
            return [self.parts[index]] * len(self.starts)
        return self._values[self._varying.index(index) :: len(self._varying)]

    def spans(self, index: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of a part in the body, for each event."""
        if self._offsets is None:  # as if the varying parts were empty
            lengths = (len(part) * (number not in self._varying) + 1 for number, part in enumerate(self.parts))
            self._offsets = list(accumulate(lengths, initial=0))
        before = [self.column(number) for number in self._varying if number < index]
        for number, (start, part) in enumerate(zip(self.starts, self.column(index), strict=True)):
            first = start + self._offsets[index] + sum(len(column[number]) for column in before)
            yield first, first + len(part)

    def events(self) -> Iterator[tuple[int, str]]:
        """Yield start and text of each event."""
        parts = list(self.parts)
        columns = [(index, self.column(index)) for index in self._varying]
        for number, start in enumerate(self.starts):
            for index, column in columns:
                parts[index] = column[number]
            yield start, '"'.join(parts)


class Text:
    """A text of a body, in one or several pieces.

    Args:
        frame: object or array around the text.
        key: name of the text in it, or its number in brackets.
        secret: name of the secret field that the text is in; empty if there is none.
        is_json: True for the inside of a JSON string.
    """

    __slots__ = ("_ends", "_frame", "_key", "_spans", "is_json", "pieces", "repeats", "secret")

    def __init__(self, frame: _Frame, key: str, secret: str = "", *, is_json: bool = True) -> None:
        self._frame = frame
        self._key = key
        self.secret = secret
        self.is_json = is_json
        self.pieces: list[tuple[Run, int]] = []
        """Runs of events, with the index of the part in each event."""
        self.repeats = False
        """True for a long string that all events repeat; `raw` finds it out."""
        self._spans: list[tuple[int, int]] | None = None
        self._ends: list[int] = []

    def steps(self, *, by_index: bool) -> tuple[str, ...]:
        """Return the names and numbers from the top of the document or event, as a `Path` has them.

        Args:
            by_index: True to number elements by their field `index`, as in events; False by position.
        """
        return (*self._frame.steps(by_index=by_index), *_step(self._key, self._frame))

    @property
    def path(self) -> str:
        """Path in the document or event: `choices[0].delta.content`."""
        return joined_path(self._frame.path, self._key)

    @property
    def place(self) -> str:
        """Path with the kind of the event before it, for people: `content_block_delta[0].delta.text`."""
        return joined_path(self._frame.event, self.path)

    @property
    def group(self) -> str:
        """Key that all pieces of a text have: kind and indices of the event, without the words for start and delta."""
        kind, bracket, indices = self._frame.event.partition("[")
        kind = _LAST_WORD.sub("", kind)
        path = _ELEMENT.sub("", self.path).removeprefix("delta.").removeprefix(f"{kind}.")
        return f"{self.is_json} {self.secret} {kind}{bracket}{indices} {path}"

    def raw(self) -> str:
        """Return the pieces joined as they are in the body, or one of them if all events repeat a long string.

        Set `repeats` to say which of the two it is.
        """
        parts = [part for run, index in self.pieces for part in run.column(index)]
        first = parts[0]
        self.repeats = len(first) >= _LONG and len(parts) > 1 and parts.count(first) == len(parts)
        return first if self.repeats else "".join(parts)

    def spans(self) -> list[tuple[int, int]]:
        """Return start and end of each piece in the body."""
        if self._spans is None:
            self._spans = [span for run, index in self.pieces for span in run.spans(index)]
            self._ends = list(accumulate(end - start for start, end in self._spans))
        return self._spans

    def to_body(self, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the ranges of the body that a range of the raw text stands for, once for each repetition of the text.

        Call `raw` before. A range over several pieces gives one for each.
        """
        spans = self.spans()
        if self.repeats:
            yield from ([(first + start, first + end)] for first, _ in spans)
            return
        ranges: list[tuple[int, int]] = []
        for number in range(bisect_right(self._ends, start), bisect_left(self._ends, end) + 1):
            first, last = spans[number]
            begin = self._ends[number] - (last - first)
            ranges.append((first + max(start - begin, 0), first + min(end - begin, last - first)))
        yield [each for each in ranges if each[0] < each[1]]


class Body:
    """The texts of a body.

    Args:
        text: the body.
        names: of secret fields.
        is_stream: True for a stream of events.
        joins: False to take each string of a document for a text of its own. With True, the elements of an array, or
            the lines, have their texts joined: some providers send a stream as such a document.
    """

    def __init__(self, text: str, names: FieldNames, *, is_stream: bool, joins: bool = True) -> None:
        self._names = names
        self.is_stream = is_stream
        self.is_array = False
        """True for a document that is an array."""
        self._escaped = "\\" in text
        if self._escaped:  # of the same length, and without quotes that do not end a string
            text = text.replace("\0", "\2").replace("\\\\", "\0\0").replace('\\"', "\0\1")
        self.texts: list[Text] = []
        """The texts, each of which stands in one or several pieces."""
        self._groups: dict[str, Text] = {}
        self._first: dict[str, _Layout] = {}
        """First layout with each syntax."""
        self._layouts: dict[tuple[str, tuple[str, ...]], _Layout] = {}
        """Layouts by syntax, and by the values that the first layout with this syntax asks for."""
        self._runs: list[tuple[Run, _Layout | None]] = []
        if is_stream:
            self._read_stream(text)
        else:
            self.is_array = text[:64].lstrip("\ufeff \t\r\n")[:1] == "["
            self._joins = joins and (self.is_array or _LINES.search(text) is not None)
            run = Run(0, text.split('"'))
            self._add(run, _Layout(run.parts, self._names, self._text_of))

    def _read_stream(self, text: str) -> None:
        """Collect the texts of all events: the strings of JSON, and the data of other events as they are."""
        self._joins = True
        last: _Layout | None = None
        before: Sequence[str] = ()
        block = _BLOCK.search(text)
        while block is not None:
            parts = block[0].split('"')
            layout = self._layout(block[0], parts)
            following = _BLOCK.search(text, block.end())
            run = Run(block.start(), parts)
            if layout is not None and layout is last:
                layout.varying.update(index for index, part in enumerate(before) if part != parts[index])
                if following is not None and len(layout.varying) <= _MOST_VARYING:
                    run = Run(block.start(), parts, sorted(layout.varying))
                    start = run.take_similar(text, block.end(), following.start())
                    following = _BLOCK.search(text, start)
            self._add(run, layout)
            for data in _DATA.finditer(block[0]) if layout is None else ():
                plain = Run(block.start() + data.start(1) - 1, ["", data[1]])
                self._text_of(Text(_Frame(None, "", is_list=False), "", is_json=False)).pieces.append((plain, 1))
            last, before, block = layout, parts, following

    def _add(self, run: Run, layout: _Layout | None) -> None:
        """Add a run of events, and its strings to their texts."""
        self._runs.append((run, layout))
        if layout is not None:
            for index, pieces in layout.strings:
                pieces.append((run, index))

    def _layout(self, block: str, parts: Sequence[str]) -> _Layout | None:
        """Return the layout of an event, or None if its data is not JSON."""
        key = f"{len(parts)} " + _without_digits('"'.join(parts[::2]))
        first = self._first.get(key)
        layout = None if first is None else self._layouts.get((key, first.values(parts)))
        if layout is not None and layout.fits(parts):
            return layout
        data = _DATA.search(block)
        if data is None or data[1].lstrip()[:1] not in ("{", "[", '"'):
            return None
        layout = _Layout(parts, self._names, self._text_of)
        self._layouts[key, self._first.setdefault(key, layout).values(parts)] = layout
        return layout

    def _text_of(self, text: Text) -> Text:
        """Return the text to which a piece belongs: the first one of its group, or a new one that begins with it."""
        known = self._groups.setdefault(text.group, text) if self._joins else text
        if known is text:
            self.texts.append(text)
        return known

    def strings(self, texts: Sequence[Text]) -> list[str]:
        """Return the strings that texts stand for, in the order of the texts, with the escapes of JSON decoded.

        Escapes that are no JSON stay as they are.
        """
        raws = [text.raw() for text in texts]
        if not self._escaped:
            return raws
        whole = SEPARATOR.join(raws).replace("\0\0", "\\\\").replace("\0\1", '\\"')
        try:
            decoded: list[str] = json.loads(f'"{whole}"', strict=False).split(SEPARATOR)
        except ValueError:
            decoded = []
        if len(decoded) == len(raws):
            return decoded
        return [
            View(restored(raw), ESCAPES).text if text.is_json else restored(raw)
            for text, raw in zip(texts, raws, strict=True)
        ]

    def rest(self) -> str:
        """Return names, syntax, and lines that are no data, with those of each layout only once."""
        layouts = {id(layout): (run, layout) for run, layout in self._runs if layout is not None}
        found = [restored(part) for run, layout in layouts.values() for part in layout.besides(run.parts)]
        found += [restored(part) for run, layout in self._runs if layout is None for part in run.parts]
        return SEPARATOR.join(found)

    def besides(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of each name of a field, and of each line of a stream that is no data."""
        for run, layout in self._runs:
            for index in () if layout is None else layout.names:
                yield from run.spans(index)
            for start, event in run.events() if self.is_stream else ():
                for line in _ASIDE.finditer(event):
                    yield start + line.start(), start + line.end()


def restored(raw: str) -> str:
    """Return a part of a body with the escapes that were replaced for reading."""
    return raw.replace("\0\0", "\\\\").replace("\0\1", '\\"') if "\0" in raw else raw


def is_structured(text: str, *, streams: bool = True) -> bool:
    """Return True if a text is JSON or, with `streams`, a stream of events; content types are wrong too often."""
    return text[:64].lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"') or (streams and is_stream(text))


def is_stream(text: str) -> bool:
    """Return True if a text is a stream of events."""
    if text[:64].lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"'):
        return False
    return text.startswith(("data:", "\ufeffdata:")) or "\ndata:" in text or "\rdata:" in text


_MOST_VARYING = 16
"""Most parts of an event that are tried for a run, as the work for an event grows with them."""

_SYNTAX = re.compile(r"[{}\[\]]|[^{}\[\]]+")
_NUMBER = re.compile(r"\d+")
_DIGITS = dict.fromkeys(map(ord, "0123456789"))
_LAST_WORD = re.compile(r"[._](?:start|delta)$")
_ELEMENT = re.compile(r"^\[\d+\]\.?")
_MAX_DEPTH = 64
"""Most levels that are told apart; deeper ones count as one, because such long paths cost time and help no reader."""


def _without_digits(syntax: str) -> str:
    """Return syntax without digits: events of one layout have the same."""
    return syntax.translate(_DIGITS)


class _Frame:
    """JSON object or array around a string; without a parent, the surroundings of a document or event."""

    __slots__ = ("_path", "_steps", "count", "index", "is_list", "label", "name", "parent")

    def __init__(self, parent: _Frame | None, name: str, *, is_list: bool) -> None:
        self.parent = parent
        self.name = name
        """Place in the parent: a name, or a number in brackets."""
        self.is_list = is_list
        self.count = 0
        """Number of elements of an array so far."""
        self.index = ""
        """Values of the object's fields like `index`, in brackets."""
        self.label = ""
        """The `type` of an event."""
        self._path: str | None = None
        self._steps: tuple[str, ...] | None = None

    def steps(self, *, by_index: bool) -> tuple[str, ...]:
        """Return the names and numbers from the top down to this object or array.

        The first call decides about `by_index`.
        """
        if self._steps is None:
            if self.parent is None:
                self._steps = ()
            else:
                index = self.index.partition("]")[0] if by_index and self.parent.is_list else ""
                self._steps = (*self.parent.steps(by_index=by_index), *_step(index or self.name, self.parent))
        return self._steps

    @property
    def path(self) -> str:
        """Path from the event or document down to this object or array.

        An object in an array stands under its own field `index`, if it has one. That field may come last, and the first
        answer is kept, so ask after the end of the object.
        """
        if self._path is None:
            own = self.name
            if self.parent is not None and self.parent.is_list and self.index:
                own = self.index
            self._path = own if self.parent is None else joined_path(self.parent.path, own)
        return self._path

    @property
    def event(self) -> str:
        """Type and indices of the event around the object or array; empty outside of events."""
        frame = self
        while frame.parent is not None and frame.parent.parent is not None:
            frame = frame.parent
        return frame.label + frame.index if frame.parent is not None else ""


def _step(name: str, frame: _Frame) -> tuple[str, ...]:
    """Return the name of a place in an object or array as a `Path` has it: a number is without its brackets."""
    if frame.is_list:
        return (name.strip("[]"),) if name else ()
    return (_unescaped(name),) if name or frame.parent is not None else ()


def _unescaped(name: str) -> str:
    """Return the name of a field without escapes."""
    name = restored(name)
    return View(name, ESCAPES).text if "\\" in name else name


def joined_path(parent: str, name: str) -> str:
    """Join a path and a name by a dot, but without the dot if either is empty, or the name is a number in brackets."""
    return f"{parent}.{name}" if parent and name and name[0] != "[" else parent + name


_NAMES = frozenset({"name", "Name", "NAME", "key", "Key", "KEY"})
"""Fields with the name in an object that is a pair: `{"name": "password", "value": "..."}`."""
_VALUES = frozenset({"value", "Value", "VALUE"})
"""Fields with the value in such a pair."""


def _name_of_pair(pairs: Mapping[_Frame, str], frame: _Frame, key: str) -> str:
    """Return the name of the pair whose value a string is, or is in; empty if there is no such pair.

    Args:
        pairs: objects that are pairs with a secret name.
        frame: object or array around the string.
        key: name of the string in it.
    """
    above: _Frame | None = frame
    while above is not None:
        if key in _VALUES and above in pairs:
            return pairs[above]
        key, above = above.name, above.parent
    return ""


class _Layout:
    """Places of the strings in events with the same syntax and the same names.

    Args:
        parts: of the first such event.
        names: of secret fields.
        text_of: takes a piece of a text, and returns that text.
    """

    def __init__(self, parts: Sequence[str], names: FieldNames, text_of: Callable[[Text], Text]) -> None:
        self.names: list[int] = []
        self.varying: set[int] = set()
        """Indices of the parts in which events were seen to differ."""
        fixed: list[int] = []
        strings: list[tuple[int, _Frame, str, str]] = []
        valued: set[_Frame] = set()  # objects with a field `value`
        places, are_lists = [TOP], [False]  # of each open object and array, also of those that are not told apart
        top = frame = _Frame(None, "", is_list=False)
        name = ""

        def place_in(name: str) -> Place:
            """Return the place of a field, or of the next element, in the innermost open object or array."""
            around = places[-1]
            if are_lists[-1]:
                return around if around is TOP else names.below(around, None)
            return names.below(around, _unescaped(name) if "\\" in name or "\0" in name else name)

        for index, part in enumerate(parts):
            if index & 1:
                if not are_lists[-1] and index + 1 < len(parts) and parts[index + 1].lstrip()[:1] == ":":
                    name = part
                    self.names.append(index)
                    continue
                key = f"[{frame.count}]" if frame.is_list else name
                strings.append((index, frame, key, place_in(name).secret))
                if key in _VALUES:
                    valued.add(frame)
                if name == "type" and frame.parent is top:
                    frame.label = part
                    fixed.append(index)
                continue
            for token in _SYNTAX.findall(part):
                if token in "{[":
                    if name in _VALUES:
                        valued.add(frame)
                    places.append(place_in(name))
                    are_lists.append(token == "[")
                    if len(places) <= _MAX_DEPTH + 1:
                        frame = _Frame(frame, f"[{frame.count}]" if frame.is_list else name, is_list=token == "[")
                    name = ""
                elif token in "}]":
                    if frame.parent is not None:
                        if len(places) <= _MAX_DEPTH + 1:
                            frame = frame.parent
                        places.pop()
                        are_lists.pop()
                    name = ""
                elif frame.is_list:
                    frame.count += token.count(",")
                elif name.endswith("index") and (number := _NUMBER.search(token)):
                    frame.index += f"[{number[0]}]"
                    fixed.append(index)
                    name = ""
        if valued:
            named = [(index, frame) for index, frame, key, _ in strings if key in _NAMES and frame in valued]
            fixed += [index for index, _ in named]
            pairs = {frame: name for index, frame in named if (name := _unescaped(parts[index])) in names}
            strings = [
                (index, frame, key, secret or _name_of_pair(pairs, frame, key)) for index, frame, key, secret in strings
            ]
        # the part that is named twice makes it return a tuple in any case
        self._get: Callable[[Sequence[str]], tuple[str, ...]] = itemgetter(*[*self.names, *fixed, 0, 0])
        self._fixed = self.values(parts)
        self.strings = [(index, text_of(Text(frame, key, secret)).pieces) for index, frame, key, secret in strings]

    def values(self, parts: Sequence[str]) -> tuple[str, ...]:
        """Return the names, the type and the indices of an event whose syntax differs in numbers only."""
        return self._get(parts)[:-2]

    def fits(self, parts: Sequence[str]) -> bool:
        """Return True if an event whose syntax differs in numbers only has the same names, type and indices."""
        return self.values(parts) == self._fixed

    def besides(self, parts: Sequence[str]) -> Iterable[str]:
        """Return what is no string value of an event: its syntax, and the names of its fields."""
        return [*parts[::2], *(parts[index] for index in self.names)]


ESCAPES = re.compile(r'\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]')
"""Escapes of one character in a JSON string."""
PERCENT = re.compile(
    r"%[0-7][0-9a-fA-F]|%(?:[cdCD][0-9a-fA-F]%|[eE][0-9a-fA-F]%[89abAB][0-9a-fA-F]%"
    r"|[fF][0-7]%[89abAB][0-9a-fA-F]%[89abAB][0-9a-fA-F]%)[89abAB][0-9a-fA-F]"
)
"""Percent encoding of one character in UTF-8."""


class View:
    """A text with its encoded characters decoded, and the way back.

    Args:
        source: the text.
        units: pattern of an encoded character.
    """

    def __init__(self, source: str, units: re.Pattern[str]) -> None:
        parts: list[str] = []
        self._texts, self._sources = [0], [0]
        position = length = 0
        for unit in units.finditer(source):
            start, end = unit.span()
            before = source[position:start]
            decoded = _decoded(unit[0])
            parts += (before, decoded)
            length += len(before)
            self._texts += (length, length + len(decoded))
            self._sources += (start, end)
            length += len(decoded)
            position = end
        parts.append(source[position:])
        self.text = "".join(parts)

    def back(self, start: int, end: int) -> tuple[int, int]:
        """Return the range of the encoded source for a range of the decoded text."""
        first = bisect_right(self._texts, start) - 1
        last = bisect_right(self._texts, end) - 1
        return self._sources[first] + start - self._texts[first], self._sources[last] + end - self._texts[last]


def _decoded(unit: str) -> str:
    """Return the character that an escape of JSON or a percent encoding stands for.

    U+FFFD for bytes that are no UTF-8.
    """
    if unit[0] == "\\":
        character: str = json.loads(f'"{unit}"')
        return character
    return unquote_to_bytes(unit).decode("utf-8", "replace")[:1]
