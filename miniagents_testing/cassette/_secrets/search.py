"""Search of a text for secrets: by the names of fields, by known values, and by the shapes of keys.

`Search.in_body` returns edits of a body. It searches all texts of the body at once, as one long text, and looks for
their places only if there is a finding. A text is also searched as it is without JSON escapes, percent encoding and
base64, and a string of JSON or of a form is entered. The fields of forms and multipart are those of `_bodies`.
"""

from __future__ import annotations

import binascii
import json
import re
from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_plus, unquote_plus

from miniagents.ext.llm._redaction import REDACTED, find_shapes, long_runs
from miniagents_testing.cassette._bodies import member, texts_of
from miniagents_testing.cassette._secrets.names import JSON_TYPES, is_made_of_words, is_stand_in
from miniagents_testing.cassette._secrets.texts import (
    ESCAPES,
    PERCENT,
    SEPARATOR,
    Body,
    Text,
    View,
    is_stream,
    is_structured,
    joined_path,
    restored,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from miniagents_testing.cassette._bodies import BodyText, Headers, Path
    from miniagents_testing.cassette._secrets.names import FieldNames


class Edit(NamedTuple):
    """Replacement of the range from `start` to `end` by `text`."""

    start: int
    end: int
    text: str = REDACTED
    why: str = ""
    """Name of the field, of the variable or of the shape; empty if the edit belongs to the one before it."""
    place: str = ""
    """Path of the text in the part that was searched, such as `messages[0].content`."""
    size: int = 0
    """Number of characters that are replaced, in the decoded text."""


_DEPTH = 4
"""Most encodings in each other that are undone."""
_JSON_DEPTH = 16
"""Most documents in texts of each other; each one doubles the escapes, so that deeper ones are 100 kB of escapes."""
_URL = re.compile(
    r"://(?:(?P<user>[^\s/?#@\"'<>\\:\3]*+)(?P<colon>:(?P<password>[^\s/?#@\"'<>\\\3]*+))?@)?"
    r"[^\s\"'<>\\?\3]*+(?:\?(?P<query>[^\s\"'<>\\#\3]*+))?"
)
_PARAMETER = re.compile(r"([^=&?]+)=([^&]*)")
_LIKE_FORM = re.compile(r"[^\s=&{}\"<>]+=[^\s&\"<>]*(?:&[^\s=&\"<>]+=[^\s&\"<>]*)*&?")
_FORM: Headers = {"content-type": ["application/x-www-form-urlencoded"]}


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """Sort edits, and join overlapping edits into one, with the first text that is not empty and the first reason."""
    result: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, -edit.end)):
        if result and edit.start < result[-1].end:
            last = result[-1]
            result[-1] = last._replace(
                end=max(last.end, edit.end),
                text=last.text or edit.text,
                why=last.why or edit.why,
                place=last.place or edit.place,
                size=max(last.size, edit.size),
            )
        else:
            result.append(edit)
    return result


def replaced(text: str, edits: Iterable[Edit]) -> str:
    """Return a text in which edits are made; edits that overlap count as one."""
    parts: list[str] = []
    position = 0
    for edit in merged(edits):
        parts += (text[position : edit.start], edit.text)
        position = edit.end
    return "".join([*parts, text[position:]])


class Search:
    """Search for secrets.

    Args:
        known: values that are secret, each with its origin.
        names: of secret fields.
        paths: rules of the user for places of bodies.
        rules: rules of the user for texts.
    """

    def __init__(
        self,
        known: Mapping[str, str],
        names: FieldNames,
        paths: Sequence[Path] = (),
        rules: Sequence[Callable[[str], Iterable[Edit]]] = (),
    ) -> None:
        self._known = sorted(known.items(), key=lambda item: (-len(item[0]), item[0]))
        self._names = names
        self._paths = paths
        self._rules = rules

    def in_body(self, body: bytes, headers: Headers) -> list[Edit]:
        """Return the edits of a body, as ranges of bytes, sorted and without overlaps.

        Args:
            body: without compression.
            headers: which say how to read the body. Forms and multipart are also known by their content.
        """
        fields = list(texts_of(body, headers)) if headers else []
        if not fields:
            text = _text_of(body)
            if is_structured(text):
                return _in_bytes(merged(self._in_structure(text, (), 0)), text, body)
            fields = list(texts_of(body, _headers_by_content(text)))
            if not fields:
                return _in_bytes(self.ruled(text), text, body)
        return merged(self._in_fields(body, fields, (), 0))

    def in_text(self, text: str) -> list[Edit]:
        """Return the edits of a text outside of bodies, such as that of a header; it may be JSON or a form itself."""
        return merged([*self._in_text(text, 0), *self._inside(text, (), 1)])

    def ruled(self, text: str) -> list[Edit]:
        """Return the edits of a text as `in_text` does, and those by the user's rules."""
        return merged([*self.in_text(text), *self._by_rules(text)])

    def _by_rules(self, text: str) -> Iterator[Edit]:
        """Yield the edits of a text by the user's rules."""
        for rule in self._rules:
            yield from rule(text)

    def _in_structure(self, text: str, outer: tuple[str, ...], depth: int) -> Iterator[Edit]:
        """Yield the edits of JSON or of a stream of events: of its texts, alone and joined, and of what is beside them.

        The user's rules for texts are applied to the outermost body only.
        """
        body = Body(text, self._names, is_stream=not depth and is_stream(text), joins=not depth)
        strings = body.strings(body.texts)
        joined = list(self._in_joined(strings, depth))
        if self._rules and not depth:
            joined += [(number, edit) for number, string in enumerate(strings) for edit in self._by_rules(string)]
        if body.is_array and not depth:  # its elements are joined, but have places of their own
            yield from self._of_texts(body.texts, joined)
            body, joined = Body(text, self._names, is_stream=False, joins=False), []
            strings = body.strings(body.texts)
        for number, (each, string) in enumerate(zip(body.texts, strings, strict=True)):
            if string:
                place = (*outer, *each.steps(by_index=body.is_stream))
                for edit in self._at_place(
                    each.secret, string, place
                ):  # in each piece: those of events are often whole
                    yield from _in_pieces(each, edit)
                joined += [(number, edit) for edit in self._inside(string, place, depth)]
        yield from self._of_texts(body.texts, joined)
        if any(True for _ in self._in_text(body.rest(), depth)):
            spans = list(body.besides())
            for number, edit in self._in_joined([text[start:end] for start, end in spans], depth):
                yield _shifted(edit, spans[number][0])

    @staticmethod
    def _of_texts(texts: Sequence[Text], edits: Iterable[tuple[int, Edit]]) -> Iterator[Edit]:
        """Yield edits of the body that has these texts, made of edits of the texts; those of one text are merged first.

        Args:
            texts: of the body.
            edits: each with the number of the text that it changes.
        """
        found: defaultdict[int, list[Edit]] = defaultdict(list)
        for number, edit in edits:
            found[number].append(edit)
        for number, of_text in found.items():
            yield from _to_body(texts[number], merged(of_text))

    def _in_joined(self, texts: Sequence[str], depth: int) -> Iterator[tuple[int, Edit]]:
        """Yield the edits of texts that are searched as one, each with the number of its text."""
        ends = list(accumulate(len(text) + 1 for text in texts))
        for edit in self._in_text(SEPARATOR.join(texts), depth):
            number = bisect_right(ends, edit.start)
            begin = ends[number] - len(texts[number]) - 1
            yield number, edit._replace(start=edit.start - begin, end=edit.end - begin)

    def _at_place(self, secret: str, string: str, place: tuple[str, ...]) -> Iterator[Edit]:
        """Yield edits that replace the whole of `string` because of its place; none if neither reason holds.

        Args:
            secret: name of the secret field that contains the text; empty if no secret field does.
            string: the text. Placeholders, and JSON types in a field `type`, count as no secrets.
            place: path of the text in the body, which the user's paths are compared with.
        """
        is_type = place[-1:] == ("type",) and string.lower() in JSON_TYPES
        if secret and not is_type and not is_stand_in(string):
            yield Edit(0, len(string), why=secret, size=len(string))
        for path in self._paths:
            if path.covers(place):
                yield Edit(0, len(string), why=f"JSONPath({path.text!r})", size=len(string))

    def _inside(self, string: str, place: tuple[str, ...], depth: int) -> Iterable[Edit]:
        """Return the edits of a string that is JSON or a form itself.

        Another string, or one at too many levels, has no edits.
        """
        if depth < _JSON_DEPTH and is_structured(string, streams=False):
            return self._in_structure(string, place, depth + 1)
        if depth < _DEPTH and _is_like_form(string):
            data = string.encode("utf-8", "surrogatepass")
            edits = merged(self._in_fields(data, list(texts_of(data, _FORM)), place, depth + 1))
            return _in_characters(edits, string, data)
        return ()

    def _in_fields(self, body: bytes, fields: Sequence[BodyText], outer: tuple[str, ...], depth: int) -> Iterator[Edit]:
        """Yield the edits of a form or of multipart, as ranges of bytes: those of its values, and those between them.

        A key may begin with the name of a field of a form, so forms are searched as a whole, too.
        """
        ends = [0, *(field.end for field in fields)]
        starts = [*(field.start for field in fields), len(body)]
        spans = [(0, len(body))] if fields[0].is_encoded else list(zip(ends, starts, strict=True))
        between = [_text_of(body[start:end]) for start, end in spans]
        found: defaultdict[int, list[Edit]] = defaultdict(list)
        for number, edit in self._in_joined(between, depth):
            found[number].append(edit)
        for number, edits in found.items():
            start, end = spans[number]
            yield from (_shifted(edit, start) for edit in _in_bytes(edits, between[number], body[start:end]))
        for field in fields:
            data = body[field.start : field.end]
            text = _text_of(data)
            value = unquote_plus(text, errors="surrogateescape") if field.is_encoded else text
            edits = merged(self._in_value(field, value, outer, depth)) if value else []
            shown = "".join(map(member, field.place)).removeprefix(".")
            if field.is_encoded and edits and edits[0].why:
                after = quote_plus(replaced(value, edits), errors="surrogateescape")
                yield edits[0]._replace(start=field.start, end=field.end, text=after, place=shown)
            for edit in () if field.is_encoded else _in_bytes(edits, text, data):
                yield _shifted(edit, field.start)._replace(place=joined_path(shown, edit.place))

    def _in_value(self, field: BodyText, value: str, outer: tuple[str, ...], depth: int) -> Iterator[Edit]:
        """Yield the edits of a form's value, or of a text of a part of multipart.

        They come from the field's name and place, from the text itself, from the user's rules, and from JSON or a form
        inside.
        """
        place = (*outer, *field.place)
        is_value = field.is_encoded or field.place[-1] == "body"
        secret = field.place[0] if is_value and self._names.has_nested(field.place[0]) else ""
        yield from self._at_place(secret, value, place)
        yield from self._in_text(value, depth + 1)
        yield from self._by_rules(value)
        yield from self._inside(value, place, depth)

    def _in_text(self, text: str, depth: int) -> Iterator[Edit]:
        """Yield the edits of a text by known values and shapes, also in URLs and in encodings."""
        for value, origin in self._known:
            start = text.find(value)
            while start >= 0:
                yield Edit(start, start + len(value), why=origin, size=len(value))
                start = text.find(value, start + len(value))
        runs = long_runs(text)
        for start, end, shape in find_shapes(text, runs):
            yield Edit(start, end, why=f"{shape.name} key", size=end - start)
        if "://" in text:
            yield from self._in_urls(text, depth)
        if depth >= _DEPTH:
            return
        for mark, units in (("%", PERCENT), ("\\", ESCAPES)):
            if mark in text and units.search(text):
                view = View(text, units)
                for edit in self._in_text(view.text, depth + 1):
                    start, end = view.back(edit.start, edit.end)
                    yield edit._replace(start=start, end=end)
        yield from self._in_base64(text, runs, depth)

    def _in_urls(self, text: str, depth: int) -> Iterator[Edit]:
        """Yield edits of the passwords, lone user names, and secret parameters in the URLs of a text.

        A parameter is secret because of its name, or because it is JSON or a form with a secret.
        Words and placeholders are no secrets.
        """
        at = text.find("://")
        while at >= 0:
            url = _URL.match(text, at)
            if url is None:
                return
            password = url["password"] or ((url["colon"] or not is_made_of_words(url["user"] or "")) and url["user"])
            if password and not is_stand_in(password):
                start, end = url.span("password" if url["password"] else "user")
                yield Edit(start, end, why="password of a URL", size=end - start)
            for parameter in _PARAMETER.finditer(text, *url.span("query")) if url["query"] else ():
                name, value = map(unquote_plus, parameter.groups())
                secret = self._names.has_nested(name) or (self._names.in_query(name) and not is_made_of_words(value))
                why = name if secret else next((edit.why for edit in self._inside(value, (), depth + 1)), "")
                if why and value and not is_stand_in(value):
                    start, end = parameter.span(2)
                    yield Edit(start, end, why=why, size=end - start)
            at = text.find("://", url.end())

    def _in_base64(self, text: str, words: Iterable[tuple[int, int]], depth: int) -> Iterator[Edit]:
        """Yield edits of the runs of base64 that have a secret; such a run is replaced as a whole, wherever it stands.

        Runs of one case, and long ones that do not begin with text, such as images, are not searched.
        """
        runs: list[tuple[int, int]] = []
        decoded: list[str] = []
        seen: set[str] = set()
        reached = 0
        for start, _ in words:
            if start < reached or not (match := _RUN.match(text, start)):
                continue
            reached = match.end()
            word = text[start : min(reached, start + 200)]
            if word.islower() or word.isupper():  # base64 of a text has letters of both kinds
                continue
            if reached - start > _LONG_RUN and not _PRINTABLE.match(binascii.a2b_base64(word[:40].translate(_DIGITS))):
                continue  # long base64 of data that does not begin with text, such as an image
            run = match[0]
            if run not in seen:
                seen.add(run)
                for plain in _decoded(run):
                    runs.append((start, reached))
                    decoded.append(plain)
        for number, edit in self._in_joined(decoded, depth + 1) if decoded else ():
            start, end = runs[number]
            again = start
            while again >= 0:  # the same run may be there several times
                yield edit._replace(start=again, end=again + end - start, text=REDACTED, size=end - start)
                again = text.find(text[start:end], again + end - start)


def _text_of(data: bytes) -> str:
    """Return the text of a body or of a part of it; each byte is a character if the data is no UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _in_bytes(edits: Sequence[Edit], text: str, data: bytes) -> list[Edit]:
    """Return edits of a text as those of the bytes that it was decoded from."""
    if len(text) == len(data):
        return list(edits)
    return _moved(edits, lambda start, end: len(text[start:end].encode("utf-8", "surrogatepass")))


def _in_characters(edits: Sequence[Edit], text: str, data: bytes) -> list[Edit]:
    """Return edits of the UTF-8 of a text as those of the text."""
    if len(text) == len(data):
        return list(edits)
    return _moved(edits, lambda start, end: len(data[start:end].decode("utf-8", "surrogatepass")))


def _moved(edits: Sequence[Edit], length: Callable[[int, int], int]) -> list[Edit]:
    """Return edits with other positions, such as bytes in place of characters.

    `length` returns how long a range of the old positions is in new ones.
    """
    positions = sorted({position for edit in edits for position in edit[:2]})
    lengths = (length(start, end) for start, end in zip([0, *positions], positions, strict=False))
    at = dict(zip(positions, accumulate(lengths), strict=True))
    return [edit._replace(start=at[edit.start], end=at[edit.end]) for edit in edits]


def _shifted(edit: Edit, start: int) -> Edit:
    """Return an edit of a part as one of the whole, in which the part begins at `start`."""
    return edit._replace(start=edit.start + start, end=edit.end + start)


def _headers_by_content(text: str) -> Headers:
    """Return the header `content-type` that a body would have as a form or multipart, judged by its beginning.

    Return {} for others.
    """
    if text.startswith("--") and "form-data" in text[:1000]:
        boundary = text[2:1000].partition("\n")[0].rstrip("\r")
        return {"content-type": [f'multipart/form-data; boundary="{boundary}"']}
    return _FORM if _is_like_form(text) else {}


def _is_like_form(text: str) -> bool:
    """Return True if a text has the syntax of an URL-encoded form: `name=value&...`."""
    return "=" in text[:500] and _LIKE_FORM.fullmatch(text) is not None


def _in_pieces(text: Text, edit: Edit) -> Iterator[Edit]:
    """Yield edits of a body that make one edit of a text in each of its pieces."""
    for start, end in text.spans():
        if start < end:
            yield edit._replace(start=start, end=end, place=text.place)


def _to_body(text: Text, edits: Iterable[Edit]) -> Iterator[Edit]:
    """Yield edits of a text as edits of the body.

    Replacements are escaped for JSON; one that spans several pieces goes into the first.
    """
    raw = restored(text.raw())
    view = View(raw, ESCAPES) if text.is_json and "\\" in raw else None
    for edit in edits:
        start, end = (edit.start, edit.end) if view is None else view.back(edit.start, edit.end)
        place = joined_path(text.place, edit.place)
        escaped = json.dumps(edit.text, ensure_ascii=False)[1:-1] if text.is_json else edit.text
        for ranges in text.to_body(start, end):
            for number, (first, last) in enumerate(ranges):
                if number:
                    yield Edit(first, last, "")
                else:
                    yield edit._replace(start=first, end=last, text=escaped, place=place)


_RUN = re.compile(r"(?:[A-Za-z0-9+/_-]{60,}+\r?\n)*+[A-Za-z0-9+/_-]++={0,2}+")
_DIGITS = str.maketrans("-_", "+/", "\r\n=")
_PRINTABLE = re.compile(rb"[\t\n\r -~]{8,}+")
_LONG_RUN = 4096


def _decoded(run: str) -> Iterator[str]:
    """Yield the texts that a run of base64 may stand for: it may begin with letters that do not belong to it."""
    digits = run.translate(_DIGITS)
    for start in range(4 if len(digits) <= _LONG_RUN else 1):
        part = digits[start:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        data = binascii.a2b_base64(part + "=" * (-len(part) % 4))
        try:
            text = data.decode()
        except UnicodeDecodeError:
            yield from (found.decode() for found in _PRINTABLE.findall(data))
        else:
            yield text
            return
