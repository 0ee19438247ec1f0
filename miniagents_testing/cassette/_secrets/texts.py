"""The texts of a body with their places, and the decodings of a text.

`pieces_of` reads a body token by token, as JSON or as events that hold JSON. It refuses no body: of a broken one it
finds the texts before and after the break. `groups` joins the pieces of one text. Pieces belong together if their paths
are equal; an element with a field `index` has that number. Events are also told apart by `type`, `output_index` and
similar fields. So the deltas of each choice, tool call and content block make one text, and so do tokens of logprobs.

`decodings` undoes percent signs, JSON escapes, base64 and hexadecimal, in any order. The text is decoded,
rather than the secret encoded. So secrets are also found that were encoded with their surroundings or several times,
and those that are known by their form only.

Independent of providers.
"""

from __future__ import annotations

import binascii
import json
import re
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


SHORTEST = 8
"""Bytes of the shortest secret that is found in base64 and hexadecimal."""

_MAX_LAYERS = 5
"""Most encodings that are undone: enough for a nested JSON string with a URL that is encoded three times."""

SEPARATOR = b"\0"
"""Separator of pieces that do not belong together; no secret contains it."""

_ESCAPE = re.compile(rb'(?:\\u[0-9a-fA-F]{4})++|\\["\\/bfnrt]')
_SIMPLE = dict(zip(rb'"\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))
_BASE64 = re.compile(rb"[\w+/-]{%d,}+(?:\r?\n[\w+/-]++)*+" % -(-SHORTEST * 4 // 3))
_ONE_BASE64 = bytes.maketrans(b"-_", b"+/")
_PRINTABLE = re.compile(rb"[\t\n\r -~]{%d,}+" % SHORTEST)
_HEX = re.compile(rb"[0-9a-fA-F]{%d,}+" % (SHORTEST * 2))


def decodings(text: bytes) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield the text, then its decodings by one encoding, by two and so on, each after the names of its encodings.

    Equal results are yielded once. The total length of the results is at most proportional to that of the text.
    """
    seen = {text}
    level: list[tuple[tuple[str, ...], bytes]] = [((), text)]
    for depth in range(_MAX_LAYERS + 1):
        below: list[tuple[tuple[str, ...], bytes]] = []
        for names, outer in level:
            yield names, outer
            if depth == _MAX_LAYERS:
                continue
            noisy = bool(names) and names[-1] in ("base64", "hexadecimal")  # most of it was not encoded so
            source = SEPARATOR.join(_PRINTABLE.findall(outer)) if noisy else outer
            for name, decode in _DECODERS.items():
                inner = decode(source)
                if inner and inner not in seen:
                    seen.add(inner)
                    below.append(((*names, name), inner))
        level = below


def named(names: tuple[str, ...]) -> str:
    """Describe the encodings of a text of `decodings` for people, the outermost first."""
    words: list[str] = []
    for name in names:
        if words and words[-1].startswith(name):
            words[-1] = name + (" three times" if words[-1].endswith(" twice") else " twice")
        else:
            words.append(name)
    return ", ".join(words) or "plain"


def _unescaped(text: bytes) -> bytes:
    """Return the text with the escapes of JSON strings decoded."""
    return _ESCAPE.sub(_character, text) if b"\\" in text else text


def _character(escape: re.Match[bytes]) -> bytes:
    """Return the bytes that an escape stands for."""
    code = escape[0]
    if code[1] != ord("u"):
        return _SIMPLE[code[1]].to_bytes()
    # Lone surrogates have no UTF-8; no secret contains one.
    return str(json.loads(b'"%b"' % code)).encode("utf-8", "surrogatepass")


def _unquoted(text: bytes) -> bytes:
    """Return the text with percent encodings (`%2F`) decoded."""
    return unquote_to_bytes(text) if b"%" in text else text


def _from_base64(text: bytes) -> bytes:
    """Decode each run of base64 characters from each of the four positions where its encoding may begin."""
    found = []
    for run in set(_BASE64.findall(text)):
        digits = run.translate(_ONE_BASE64, b"\r\n")
        for start in range(4):
            part = digits[start:]
            part = part[: len(part) - (len(part) % 4 == 1)]
            found.append(binascii.a2b_base64(part + b"=" * (-len(part) % 4)))
    return SEPARATOR.join(found)


def _from_hex(text: bytes) -> bytes:
    """Decode each run of hexadecimal digits from its first and from its second digit; join the results.

    A separator stands between results, so that no text is found across two of them.
    """
    return SEPARATOR.join(
        binascii.unhexlify(run[start : start + (len(run) - start) // 2 * 2])
        for run in set(_HEX.findall(text))
        for start in (0, 1)
    )


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "percent-encoded": _unquoted,
    "JSON-escaped": _unescaped,
    "base64": _from_base64,
    "hexadecimal": _from_hex,
}


_STRING = rb'[^"\\\r\n]*+(?:\\.[^"\\\r\n]*+)*+'  # a string without its end matches, too
_TOKEN = re.compile(
    rb'(?:"(%b)"\s*+:\s*+)?(?:"(%b)"?|([{\[])|(-?\d[\d.eE+-]*+|true|false|null))|([}\]])' % (_STRING, _STRING)
)
_TEXT, _OPEN, _SCALAR = 2, 3, 4
_MAX_DEPTH = 64
"""Most levels that are told apart; deeper ones count as one, because such long paths cost time and help no reader."""
_IS_STREAM = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data:")
_LINE = re.compile(rb"[^\r\n]++")
_NUMBERS = re.compile(rb"\s*+\d{1,3}+(?:\s*+,\s*+\d{1,3}+)*+\s*+")
_LAST_WORD = re.compile(r"[._][^._\[]++(?=\[|$)")
_POSITION = re.compile(r"\[\d++\]")


class _Frame:
    """JSON object or array around a text in a body; without a parent, the whole event or document."""

    __slots__ = ("_path", "_place", "below", "count", "depth", "index", "is_list", "label", "name", "parent", "start")

    def __init__(self, parent: _Frame | None, name: str, is_list: bool, start: int) -> None:
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.below = 0
        """Open levels below the deepest level that is told apart."""
        self.name = name
        """Place in the parent: a name, or a number in brackets."""
        self.is_list = is_list
        self.start = start
        self.count = 0
        """Number of elements of an array so far."""
        self.index = ""
        """Values of the object's fields like `index`, in brackets."""
        self.label = ""
        """The `type` of an event."""
        self._path: str | None = None
        self._place: tuple[str, ...] | None = None

    def place(self, *, by_index: bool) -> tuple[str, ...]:
        """Return the names and numbers from the event or document down to this object or array, as a `Path` has them.

        Args:
            by_index: True to number elements by their field `index`, as in events; False by position.
        """
        if self._place is None:
            if self.parent is None:
                self._place = ()
            else:
                index = self.index.partition("]")[0].lstrip("[") if by_index and self.parent.is_list else ""
                name = index or self.name
                self._place = (*self.parent.place(by_index=by_index), *_step(name, self.parent))
        return self._place

    @property
    def path(self) -> str:
        """Path from the event or document down to this object or array. Ask after its end, as `index` may come last."""
        if self._path is None:
            if self.parent is None:
                self._path = ""
            else:
                own = f"[={self.index[1:]}" if self.index and self.parent.is_list else self.name
                self._path = _path(self.parent.path, own)
        return self._path

    @property
    def event(self) -> str:
        """Type and index of the event around the object or array."""
        frame = self
        while frame.parent is not None and frame.parent.parent is not None:
            frame = frame.parent
        return frame.label + frame.index


class Piece(NamedTuple):
    """A text, or a part of one, as bytes `start` to `end` of the body."""

    start: int
    end: int
    frame: _Frame
    name: str
    form: str
    """`json`: the inside of a string; `plain`: data that is no JSON; `numbers`: the inside of an array of bytes;
    `name`: the inside of the name of a field; `beside`: a line of an event stream that is no data."""

    @property
    def path(self) -> str:
        """Path in the document or event: `choices[0].delta.content`."""
        return self._path.replace("[=", "[")

    @property
    def place(self) -> str:
        """Path with the event before it, for people: `content_block_delta[0].delta.text`."""
        return _path(self.frame.event, self.path)

    @property
    def _path(self) -> str:
        """Path in which `[=n]` marks an index that the element itself names."""
        return _path(self.frame.path, self.name)

    def steps(self, *, by_index: bool) -> tuple[str, ...]:
        """Return the place of the text as names and numbers, see `_Frame.place`."""
        return (*self.frame.place(by_index=by_index), *_step(self.name, self.frame))

    def keys(self) -> tuple[str, str]:
        """Return two keys that all pieces of a text share; only the first one tells elements of an array apart."""
        return _keys(self.frame.event, self._path, self.form)


def pieces_of(data: bytes, *, everything: bool = False) -> list[Piece]:
    """Return the texts in a body (strings in its JSON, lines that are not JSON) as pieces with their places, in order.

    Args:
        data: the body.
        everything: True to return also names of fields, and lines of events that are no data, such as comments.
    """
    pieces: list[Piece] = []
    top = _Frame(None, "", False, 0)
    frame = top
    as_json = False
    for start, end, is_data, begins in _regions(data):
        if begins:
            frame = top = _Frame(None, "", False, start)
            as_json = data[start:end].lstrip()[:1] in (b"{", b"[", b'"')
        if not is_data:
            if everything:
                pieces.append(Piece(start, end, top, "", "beside"))
        elif as_json:
            frame = _read_json(data, start, end, frame, pieces, names=everything)
        else:
            pieces.append(Piece(start, end, top, "", "plain"))
    return pieces


def is_stream(data: bytes) -> bool:
    """Return True if a body is a stream of events; its content type is wrong too often."""
    return _IS_STREAM.search(data) is not None


def groups(pieces: Iterable[Piece]) -> tuple[list[list[Piece]], list[list[Piece]]]:
    """Return the pieces of each text, and those of each text that runs through the elements of an array.

    Names of fields and lines that are no data are no part of a text.
    """
    apart: dict[str, list[Piece]] = {}
    through: dict[str, list[Piece]] = {}
    for piece in pieces:
        if piece.form in ("name", "beside"):
            continue
        key, loose = piece.keys()
        apart.setdefault(key, []).append(piece)
        if "[]" in loose:
            through.setdefault(loose, []).append(piece)
    return list(apart.values()), [group for group in through.values() if len(group) > 1]


def joined(data: bytes, group: Iterable[Piece]) -> bytes:
    """Join the pieces of a text as they are in the body: JSON strings with their escapes."""
    return b"".join(
        _from_numbers(data[piece.start : piece.end]) if piece.form == "numbers" else data[piece.start : piece.end]
        for piece in group
    )


def _regions(data: bytes) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield start and end of each line of a stream, or of a whole document.

    Two flags follow: it is data of an event or document; an event or document begins in it.
    """
    if not is_stream(data):
        yield 0, len(data), True, True
        return
    last = 0
    begins = True
    for line in _LINE.finditer(data, 3 if data.startswith(b"\xef\xbb\xbf") else 0):
        begins = begins or data[last : line.start()] not in (b"\n", b"\r", b"\r\n")  # else: a blank line
        start, last = line.span()
        is_data = data.startswith(b"data:", start)
        if is_data:
            start += 5
            start += data.startswith(b" ", start)
        yield start, last, is_data, begins and is_data
        begins = begins and not is_data


def _read_json(data: bytes, start: int, end: int, frame: _Frame, pieces: list[Piece], *, names: bool) -> _Frame:
    """Append the texts between `start` and `end`; return the object or array that is open at the end."""
    for token in _TOKEN.finditer(data, start, end):
        kind = token.lastindex
        if kind is None or kind > _SCALAR:
            if frame.below:
                frame.below -= 1
            elif frame.parent is not None:
                if frame.name == "bytes" and frame.is_list and _NUMBERS.fullmatch(data, frame.start, token.start()):
                    pieces.append(Piece(frame.start, token.start(), frame, "", "numbers"))
                frame = frame.parent
            continue
        if frame.is_list:
            name = f"[{frame.count}]"
            frame.count += 1
        else:
            name = (token[1] or b"").decode(errors="replace")
            if names and token[1]:
                pieces.append(Piece(*token.span(1), frame, name, "name"))
        if kind == _OPEN and frame.depth == _MAX_DEPTH:
            frame.below += 1
        elif kind == _OPEN:
            frame = _Frame(frame, name, token[_OPEN] == b"[", token.end())
        elif kind == _TEXT:
            pieces.append(Piece(*token.span(_TEXT), frame, name, "json"))
            if name == "type" and frame.parent is not None and frame.parent.parent is None:
                frame.label = token[_TEXT].decode(errors="replace")
        elif name.endswith("index") and token[_SCALAR].isdigit():
            frame.index += f"[{token[_SCALAR].decode()}]"
    return frame


def _step(name: str, frame: _Frame) -> tuple[str, ...]:
    """Return the name of a place in an object or array as a path has it: a number without its brackets, no escapes."""
    if frame.is_list:
        return (name.strip("[]"),) if name else ()
    if "\\" in name:
        with suppress(ValueError):
            name = json.loads(f'"{name}"')
    return (name,) if name or frame.parent is not None else ()


def _path(parent: str, name: str) -> str:
    """Join a path and a name."""
    return f"{parent}.{name}" if parent and name and name[0] != "[" else parent + name


@lru_cache(4096)  # a stream has a few dozen different ones
def _keys(event: str, path: str, form: str) -> tuple[str, str]:
    """Return the two keys of `Piece.keys` for the texts with this event type, JSON path and form.

    Events that start, continue and end a block get the same keys: such words are left out of type and path.
    """
    event = _LAST_WORD.sub("", event)
    path = path.removeprefix("delta.").removeprefix(event.partition("[")[0] + ".")
    head = f"{form} {event} "
    return head + path.replace("[=", "["), head + _POSITION.sub("[]", path)


def _from_numbers(text: bytes) -> bytes:
    """Return the bytes of an array of numbers, without numbers above 255."""
    return bytes(value for value in map(int, text.split(b",")) if value < 256)
