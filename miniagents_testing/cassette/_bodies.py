"""Bodies of requests as trees, which compare by meaning, and paths to places in them.

A JSON body is its value. A form is `{name: value}`, and multipart is `{name: {filename, content_type, body}}`; a name
that comes several times has a list. A content that is no text is there by its SHA-256. `tree_of` makes the tree,
`json_text` writes it in one spelling, and `texts_of` tells where the texts of a form are.

One language of paths serves all that takes paths: what is not compared, and what is redacted.

| path | places |
|---|---|
| `a.b` | the field `b` of `a`; a form and a multipart body have fields, too: `file.filename` |
| `a[0]` | the first element of `a` |
| `a[*].b`, `a.*.b` | the field `b` of each element and of each field of `a`: `*` is any name or index |
| `**.b` | each field `b`, however deep |
| `["a.b"]` | a field whose name has a point, a bracket, a star, a quote or the like |
| `?b` | the parameter `b` of the query; `?*` is each one |

A text that is JSON itself, such as the arguments of a tool call, is entered: `tools[*].arguments.id`.

Independent of files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from types import EllipsisType
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from miniagents.bounds import MAX_STREAM_BYTES
from miniagents.errors import LLMError
from miniagents.ext.llm.sse import Inflater, encodings_in

Headers = Mapping[str, Sequence[str]]
"""Headers of a request: all values by name, in any case."""

CONTENT_HEADERS = frozenset({"content-encoding", "content-type"})
"""Headers of a request that say how to read its body."""

NO_TREE: Any = object()
"""Result for a body that has no tree, such as an image."""

_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/"
_FORM_DATA = "multipart/form-data"
_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.IGNORECASE)
_FILENAME = re.compile(rb"""\bfilename(?:="(?=(?:[^"\\]|\\.)*")|\*?=)((?<=")(?:[^"\\]|\\.)*|[^;\s]*)""", re.IGNORECASE)
_PAIR = re.compile(rb"[^&]+")
_DECODED_PIECE = 64 * 1024
"""Bytes of a compressed body that a decoder gets at once, so that it never makes much more than the limit."""


def tree_of(body: bytes, headers: Headers) -> Any:
    """Return the tree of a body without compression, or `NO_TREE` if it has none.

    JSON is known by its content, because old recordings lack the header. A form or multipart is known by its
    `content-type`; a "form" that begins like JSON is JSON, which some clients send under that type.
    """
    kind = _kind_of(body, headers)
    if kind == _FORM:
        return _by_name((field.name, field.value) for field in _fields(body))
    return _multipart_tree(body, headers, kind) if kind else parse_json(body)


def content_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the headers of a request that say how to read its body, by lower-case name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.lower() in CONTENT_HEADERS:
            found.setdefault(name.lower(), []).append(value)
    return found


def header_value(headers: Headers, name: str) -> str:
    """Return the values of a header, joined by commas; an empty text without the header. Case does not matter."""
    return ", ".join(value for each, values in headers.items() if each.lower() == name for value in values)


def parse_json(body: bytes | str) -> Any:
    """Return the value of a JSON text, whole numbers as `int` however they are written; `NO_TREE` if it is not JSON."""
    try:
        return json.loads(body, parse_float=_number)
    except (ValueError, RecursionError):  # UnicodeDecodeError too
        return NO_TREE


def _number(text: str) -> float:
    """Return the number of a JSON text with a point or an exponent, as an `int` if it is whole.

    Infinity stays a float.
    """
    number = float(text)
    return int(number) if number.is_integer() else number


def json_text(tree: Any) -> str:
    """Return the JSON text of a tree in one spelling: keys sorted, without spaces, in ASCII."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def plain_body(body: bytes, headers: Headers) -> bytes:
    """Return a body without the compression that `content-encoding` names.

    The body itself is returned if it is not compressed so, if a decoder is missing, or if it inflates to more than
    `MAX_STREAM_BYTES`. gzip and deflate are always known; br and zstd if the installed httpx2 or httpx can read them.
    """
    plain = body
    for encoding in reversed(encodings_in(header_value(headers, "content-encoding"))):
        plain = _inflated(plain, encoding) if encoding in ("gzip", "deflate") else _decoded(plain, encoding)
        if plain is NO_TREE:
            return body
    return plain


def _inflated(body: bytes, encoding: str) -> Any:
    """Return a body without gzip or deflate, or `NO_TREE` if it is damaged, cut or too large."""
    inflater = Inflater(encoding)
    try:
        plain = inflater.feed(body)
        inflater.close()
    except LLMError:
        return NO_TREE
    return plain


def _decoded(body: bytes, encoding: str) -> Any:
    """Decompress a body with the decoders of `httpx2` or `httpx`, as its `content-encoding` says.

    Return `NO_TREE` if both fail or leave the body unchanged, or beyond `MAX_STREAM_BYTES`.
    """
    for library in ("httpx2", "httpx"):
        try:
            module = import_module(library)
        except ImportError:
            continue
        pieces = (body[start : start + _DECODED_PIECE] for start in range(0, len(body), _DECODED_PIECE))
        response = module.Response(200, headers={"content-encoding": encoding}, content=pieces)
        parts: list[bytes] = []
        size = 0
        try:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > MAX_STREAM_BYTES:
                    return NO_TREE
        except module.DecodingError:
            continue
        plain = b"".join(parts)
        if plain != body:  # a library without the decoder leaves the body as it is
            return plain
    return NO_TREE


class BodyText(NamedTuple):
    """Text of a form or of multipart, as bytes `start` to `end` of the body."""

    place: tuple[str, ...]
    """Names from the top of the tree: `("file", "filename")`."""
    start: int
    end: int
    is_encoded: bool
    """True for a value of a form, which is percent-encoded."""


def texts_of(body: bytes, headers: Headers) -> Iterator[BodyText]:
    """Yield the values of a form, or the file names, types and contents of multipart; nothing for other bodies.

    The content of a part is yielded even if it is no text.
    """
    kind = _kind_of(body, headers)
    if kind == _FORM:
        fields = list(_fields(body))
        for place, field in zip(_places(field.name for field in fields), fields, strict=True):
            yield BodyText(place, field.start, field.end, is_encoded=True)
    elif kind.startswith(_MULTIPART):
        parts = _parts(body, headers) or []
        for place, part in zip(_places_of_parts(parts, kind), parts, strict=True):
            for what, span in (("filename", part.filename), ("content_type", part.content_type), ("body", part.body)):
                if span is not None:
                    yield BodyText((*place, what), *span, is_encoded=False)


def _kind_of(body: bytes, headers: Headers) -> str:
    """Return the type of a body without its parameters: in lower case, and empty for what may be JSON."""
    kind = header_value(headers, "content-type").partition(";")[0].strip().lower()
    if kind.startswith(_MULTIPART) or (kind == _FORM and body.lstrip()[:1] not in (b"{", b"[")):
        return kind
    return ""


def _places(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield the place of each name in the tree: the name alone, or with its number if it comes several times."""
    names = list(names)
    counts = Counter(names)
    numbers: Counter[str] = Counter()
    for name in names:
        yield (name,) if counts[name] == 1 else (name, str(numbers[name]))
        numbers[name] += 1


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the values by name; a name that comes several times has a list of its values, in their order."""
    listed: dict[str, list[Any]] = {}
    for name, value in pairs:
        listed.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in listed.items()}


class _Field(NamedTuple):
    """Field of a form, its value as text and as bytes `start` to `end` of the body."""

    name: str
    value: str
    start: int
    end: int


def _fields(body: bytes) -> Iterator[_Field]:
    """Yield the fields of a form, decoded as `urllib.parse` does; bytes that are no UTF-8 stay different."""
    for match in _PAIR.finditer(body):
        name, equals, value = match[0].partition(b"=")
        start = match.start() + len(name) + len(equals)
        yield _Field(_unquoted(name), _unquoted(value), start, match.end())


def _unquoted(text: bytes) -> str:
    """Return the text of a name or value in a form, without its `%XX` and `+`.

    Bytes that are no UTF-8 become surrogates.
    """
    return unquote_plus(text.decode("utf-8", "surrogateescape"), errors="surrogateescape")


_Span = tuple[int, int]
"""Start and end in a body, in bytes."""


class _Part(NamedTuple):
    """Part of a multipart body: its name, and where its other texts are."""

    name: str
    filename: _Span | None
    content_type: _Span | None
    body: _Span


def _multipart_tree(body: bytes, headers: Headers, kind: str) -> Any:
    """Return the tree of a multipart body: its parts by name for a form, else a list of them in their order.

    Return `NO_TREE` if the body is not as its header says. `kind` is the media type, such as "multipart/form-data".
    """
    parts = _parts(body, headers)
    if parts is None:
        return NO_TREE
    trees = [_part_tree(body, part) for part in parts]
    if kind != _FORM_DATA:  # such as multipart/related, whose parts have an order and no names
        return trees
    return _by_name(zip((part.name for part in parts), trees, strict=True))


def _places_of_parts(parts: Sequence[_Part], kind: str) -> Iterator[tuple[str, ...]]:
    """Return the place of each part in the tree: by its name if the media type `kind` is a form, else by its number."""
    if kind == _FORM_DATA:
        return _places(part.name for part in parts)
    return ((str(number),) for number in range(len(parts)))


def _part_tree(body: bytes, part: _Part) -> dict[str, Any]:
    """Return file name, type and content of a part. JSON is its value, and what is no text its SHA-256."""
    tree: dict[str, Any] = {}
    for name, span in (("filename", part.filename), ("content_type", part.content_type)):
        if span is not None:
            tree[name] = _text(body[slice(*span)])
    content = memoryview(body)[slice(*part.body)]
    tree["body"] = NO_TREE
    if _JSON_TYPE.match(tree.get("content_type", "")):
        tree["body"] = parse_json(bytes(content))
    if tree["body"] is NO_TREE:
        try:
            tree["body"] = str(content, "utf-8")
        except UnicodeDecodeError:
            tree["body"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return tree


def _text(data: bytes) -> str:
    """Return bytes of a header as text; bytes that are no UTF-8 stay different."""
    return data.decode("utf-8", "surrogateescape")


def _parts(body: bytes, headers: Headers) -> list[_Part] | None:
    """Return the parts of a multipart body, or None if it is damaged or has no boundary."""
    from python_multipart import MultipartParser
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    boundary = parse_options_header(header_value(headers, "content-type"))[1].get(b"boundary")
    if not boundary:
        return None
    reader = _PartReader()
    try:
        MultipartParser(boundary, reader.callbacks()).write(body)  # at once, so that positions are those of the body
    except FormParserError:
        return None
    return reader.parts if reader.is_whole else None


class _PartReader:
    """Reader of the parts of a body, which the parser of python-multipart calls."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.is_whole = False
        """True after the closing boundary."""
        self._name = b""
        self._value: _Span = (0, 0)
        self._headers: dict[bytes, tuple[bytes, int]] = {}
        self._content: _Span = (0, 0)

    def callbacks(self) -> Any:
        """Return the functions that the parser of python-multipart calls, by their names."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._read_name,
            "on_header_value": self._read_value,
            "on_part_data": self._read_content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        """Forget headers and content of the part before."""
        self._headers = {}
        self._content = (0, 0)

    def _read_name(self, data: bytes, start: int, end: int) -> None:
        """Keep the name of a header, in lower case."""
        self._name = data[start:end].lower()

    def _read_value(self, data: bytes, start: int, end: int) -> None:
        """Keep the value of the header whose name came last, with its place in the body."""
        self._headers[self._name] = data[start:end], start

    def _read_content(self, data: bytes, start: int, end: int) -> None:
        """Keep the place of the content in the body."""
        self._content = start, end

    def _end_part(self) -> None:
        """Add the part that has ended to `parts`, with the places of its file name, content type and content."""
        from python_multipart.multipart import parse_options_header

        disposition, start = self._headers.get(b"content-disposition", (b"", 0))
        filename = _FILENAME.search(disposition)
        content_type = self._headers.get(b"content-type")
        self.parts.append(
            _Part(
                _text(parse_options_header(disposition)[1].get(b"name", b"")),
                filename and (start + filename.start(1), start + filename.end(1)),
                content_type and (content_type[1], content_type[1] + len(content_type[0])),
                self._content,
            )
        )

    def _end(self) -> None:
        """Note that the closing boundary has come."""
        self.is_whole = True


# --- paths


_Step = str | EllipsisType | None
"""Name or number, `_ANY` or `_ANY_DEPTH`."""

_ANY = None
_ANY_DEPTH = ...

_PLAIN = re.compile(r"""[^.\[\]*?"'\s](?:[^.\[\]*?"']*[^.\[\]*?"'\s])?""")
"""A name that stands in a path as it is."""
_STEP = re.compile(
    rf"""(?P<stars>\*\*?) | (?P<name>{_PLAIN.pattern})
    | \[(?: (?P<any>\*) | (?P<index>0|[1-9][0-9]*) | (?P<text>"(?:[^"\\]|\\.)*") | '(?P<plain>[^']*)' )\]""",
    re.VERBOSE,
)
_PARAMETER = re.compile(r"\*|[^*&=#]+")


class Path:
    """Places in a body, or a parameter of the query.

    Args:
        text: the path, as the table of this module says.

    Raises:
        ValueError: the path cannot be read; the message says why.
        TypeError: it is no text.
    """

    __slots__ = ("_steps", "parameter", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a path is a text such as `messages[*].id`, not {text!r}")
        self.text = text
        self.parameter = text.removeprefix("?") if text.startswith("?") else None
        """Name of a parameter of the query, or `*`; None for a path into a body."""
        self._steps: tuple[_Step, ...] = () if text.startswith("?") else tuple(_steps_of(text))
        if self.parameter is not None and not _PARAMETER.fullmatch(self.parameter):
            raise _error(text, "behind `?` stands the name of a parameter, or `*` for all")

    def __repr__(self) -> str:
        return f"Path({self.text!r})"

    def covers(self, place: Iterable[str]) -> bool:
        """Return True if a place in a body is one of this path, or is below one.

        Args:
            place: names and numbers of elements, from the top of the body.
        """
        return self._next_steps(place) is None

    def leads_below(self, place: Iterable[str]) -> bool:
        """Return True if this path may have places below one that it does not cover itself."""
        return bool(self._next_steps(place))

    def covers_parameter(self, name: str) -> bool:
        """Return True if this path names the parameter `name` of the query, or all parameters."""
        return self.parameter is not None and self.parameter in ("*", name)

    def _next_steps(self, place: Iterable[str]) -> set[int] | None:
        """Return the numbers of the steps that may come after a place; None if the path covers the place."""
        steps = self._steps
        reached = self._with_depths([0] if steps else [])
        for name in place:
            following: list[int] = []
            for number in reached:
                if steps[number] is _ANY_DEPTH:
                    following.append(number)
                elif steps[number] in (_ANY, name):
                    if number + 1 == len(steps):
                        return None
                    following.append(number + 1)
            reached = self._with_depths(following)
        return reached

    def _with_depths(self, reached: Iterable[int]) -> set[int]:
        """Return the numbers of steps, and after each `**` also the next one, because `**` may stand for no level."""
        found = set(reached)
        return found | {number + 1 for number in found if self._steps[number] is _ANY_DEPTH}

    def removed_from(self, tree: Any) -> Any:
        """Return a tree without the values at this path. Its objects and arrays are changed in place."""
        return tree if self.parameter is not None else _removed(tree, self._steps)


def member(name: str) -> str:
    """Return the step to a field as it stands in a path behind others: `.name`, or `["a.b"]`."""
    return f".{name}" if _PLAIN.fullmatch(name) and name != "$" else f"[{json.dumps(name, ensure_ascii=False)}]"


def _steps_of(text: str) -> Iterator[_Step]:
    """Yield the steps of a path into a body.

    Raises:
        ValueError: the path cannot be read.
    """
    position = 0
    step: _Step = ""
    while position < len(text):
        dotted = position > 0 and text[position] == "."
        found = _STEP.match(text, position + dotted)
        if found is None or (position > 0 and dotted is (text[found.start()] == "[")):
            raise _error(text, _reason(text, position))
        if found["name"] == "$":
            raise _error(text, 'a path begins at the top of the body, without `$`; a field of that name is `["$"]`')
        before, step = step, _step_of(found)
        if not (before is step is _ANY_DEPTH):  # several are one
            yield step
        position = found.end()
    if not text:
        raise _error(text, "it is empty")
    if step is _ANY_DEPTH:
        raise _error(text, "`**` is any depth, and needs a name behind it")


def _step_of(found: re.Match[str]) -> _Step:
    """Return the step that `_STEP` has found: a name or an index as text, `_ANY` or `_ANY_DEPTH`.

    Raise `ValueError` for a quoted name that is no JSON string.
    """
    if found["stars"] or found["any"]:
        return _ANY_DEPTH if found["stars"] == "**" else _ANY
    if found["text"] is not None:
        try:
            return str(json.loads(found["text"]))
        except ValueError as error:
            raise _error(found.string, f"{found['text']} is no JSON string: {error}") from None
    return next(name for name in (found["name"], found["index"], found["plain"]) if name is not None)


def _reason(text: str, position: int) -> str:
    """Return the reason why a path cannot be read from a position on."""
    left = text[position:]
    if left[0] == "." and left[1:2] in ("", ".", "["):
        return f"a name is missing in {left!r}"
    if left[0] == "[" and "]" in left:
        inside = left[1:].partition("]")[0]
        return f"in brackets stands a number from 0, `*`, or a name in quotes, not {inside!r}"
    if left[0] == "[":
        return f"the bracket of {left!r} is not closed"
    if left[0] == "?":
        return "`?name`, alone, is a parameter of the query"
    if "*" in text[position - 1 :]:
        return f"`*` stands for a whole name, so {left!r} cannot be read"
    return f'{left!r} cannot be read; a name with such characters stands in brackets and quotes, as in `["a.b"]`'


def _error(text: str, reason: str) -> ValueError:
    """Return the error about a path that cannot be read, with the reason and examples."""
    return ValueError(
        f"{text!r} is no path into a body: {reason}. "
        "Paths look like `metadata`, `messages[*].id`, `**.id` or `?timestamp`"
    )


def _removed(value: Any, steps: Sequence[_Step]) -> Any:
    """Return a value without the values at these steps. JSON in a text is entered, and written in one spelling.

    Objects and arrays are changed in place.
    """
    if isinstance(value, str):
        inside = parse_json(value) if value.lstrip()[:1] in ("{", "[") else NO_TREE
        return value if inside is NO_TREE else json_text(_removed(inside, steps))
    step, rest = steps[0], steps[1:]
    if step is _ANY_DEPTH:
        value = _removed(value, rest)
        step, rest = _ANY, steps
    for place in _places_of(value, step):
        if rest:
            value[place] = _removed(value[place], rest)
        else:
            del value[place]
    return value


def _places_of(value: Any, step: _Step) -> Sequence[Any]:
    """Return the keys or indices that a step names in an object or array, the last index first.

    None in other values.
    """
    if isinstance(value, dict):
        return list(value) if step is _ANY else [step] if step in value else ()
    if not isinstance(value, list):
        return ()
    if step is _ANY:
        return range(len(value) - 1, -1, -1)
    assert isinstance(step, str)
    return [int(step)] if step.isascii() and step.isdigit() and int(step) < len(value) else ()
