"""The file format of `ChatHistoryMD`, sans-IO: records to bytes, and bytes to records whatever happened to them.

A record is one message between two HTML comments, so a viewer shows a heading and the text:

    <!-- miniagents {"id":"5f0c1e9a2b7d","role":"user","bytes":6,"class":"UserMessage"} -->
    ## user

    Hello!
    <!-- /miniagents -->

Two things frame a text, each enough by itself. The length says exactly where it ends, so whatever the text looks like
comes back identical. And no text contains the beginning of a frame: one that does is written with escapes (as are
characters that UTF-8 text cannot hold, see `escape`). So a reader whose lengths do not fit, because a person edited
the file or a block of it was lost, goes on at the next frame and can never take a part of a message for a message.

Messages as records of a file, and back: which of their fields are kept, and what happens to those that cannot be.
"""

from __future__ import annotations

import codecs
import itertools
import json
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from miniagents._promising.freezing import CLASS_KEY, escaped
from miniagents.ext._terminal import CONTROLS, TAGS, as_escape, visible_line
from miniagents.messages import Message
from miniagents.values import encode

if TYPE_CHECKING:
    from miniagents.messages import MessagePromise


logger = logging.getLogger("miniagents")


def opening_record(promise: MessagePromise, record_id: str) -> Record:
    """Return what is known of a message before its text has come."""
    fields = dict(promise.known_beforehand)
    role = fields.pop("role", None) or promise.message_class.model_fields["role"].default
    meta = {CLASS_KEY: promise.message_class.class_name}
    for name, value in fields.items():
        try:
            meta |= escaped({name: encode(value)})
        except ValueError:
            _warn_of_lost_field(name)
    return Record(record_id, role if isinstance(role, str) else None, "", meta, interrupted=True)


def record_of(message: Message, record_id: str) -> Record:
    """Return `message` as it is written; a field that cannot be written is left out, with a warning."""
    try:
        meta = message.model_dump(mode="json")
    except (ValueError, RecursionError):  # a serializer of the application's own, or messages hundreds deep
        meta = _dump_of_what_can_be_dumped(message)
    if type(message) is Message:
        del meta[CLASS_KEY]
    for name, declared in type(message).model_fields.items():
        value = getattr(message, name)
        if declared.default_factory is None and value == declared.default and repr(value) == repr(declared.default):
            meta.pop(next(iter(escaped({name: None}))), None)  # the class will say the same when it is read
    meta.pop("role", None)
    text = message.content if isinstance(message.content, str) else None
    if text is not None:
        meta.pop("content", None)
    interrupted = meta.get("interrupted") is True
    if interrupted:
        del meta["interrupted"]
    return Record(record_id, message.role, text, meta, interrupted)


def _dump_of_what_can_be_dumped(message: Message) -> dict[str, Any]:
    meta: dict[str, Any] = {CLASS_KEY: message.class_name}
    for name, _ in message:
        try:
            meta |= message.model_dump(mode="json", include={name})
        except (ValueError, RecursionError):
            _warn_of_lost_field(name)
    return meta


def _warn_of_lost_field(name: str) -> None:
    logger.warning("The field %r of a message could not be kept in the history", name)


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return ", ".join(visible_line(".".join(map(str, each["loc"]))) for each in error.errors())
    return type(error).__name__


def message_of(record: Record) -> Message:
    """Return the message that `record` was; without its metadata, and with a warning, if that makes no sense."""
    try:
        fields = {**record.meta, "role": record.role}
        if record.text is not None:
            fields["content"] = record.text
        if record.interrupted:
            fields["interrupted"] = True
        return Message.model_validate(fields)
    except (ValueError, TypeError) as error:  # edited, or another version
        # not the error's text, which quotes the value
        logger.warning(
            "The metadata of message %r could not be read, and is left out: %s", record.id, _what_is_wrong(error)
        )
        return Message(record.text, role=record.role, **({"interrupted": True} if record.interrupted else {}))


HEAD = b"<!-- miniagents"
END = b"<!-- /miniagents -->"
TORN_END = b"<!-- /miniagents interrupted -->"

_FRAME = re.compile(rb"<!-- (/?)miniagents")
_HEAD_LINE = re.compile(
    rb"<!-- miniagents (\{[^\n]*\}) -->\r?\n(?:## [^\n]*(?:\n|\Z)|##?\0*\Z)?(?:\r?\n)?"
)  # \Z: torn in the heading; zeros: the disk had not written the rest
_EARLIER_VALUE = re.compile(rb'\{"\$(?:dict|datetime|time)":\[')
_END_LINE = re.compile(rb"<!-- /miniagents( interrupted)? -->")

# Control characters are no text either: viewers and editors change or hide them, terminals obey them, and a NUL in a
# file is how a lost block looks. CR LF is left as it is.
_NOT_TEXT = re.compile(f"(?!\r\n)[{CONTROLS}{TAGS}]|<(?=!-- /?miniagents)")
_NOT_IN_HEAD = re.compile(f"[{CONTROLS}<>]|(?<=-)-")  # JSON would spell a tag as two surrogates
_ESCAPED = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}))")
# Two surrogates in a row are two characters in Python, of which json makes one: so they are put in before it parses
_SURROGATE_IN_JSON = re.compile(r"\\(?:u(d[89a-f][0-9a-f]{2})|.)")
_CUT_ESCAPE = re.compile(r"\\(?:x[0-9a-f]?|u[0-9a-f]{0,3}|U[0-9a-f]{0,7})?\Z")

# What a Markdown viewer needs to leave a block that the text left open: else the rest of the chat would be shown
# inside it.
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_HTML_BLOCKS = (
    (re.compile(r" {0,3}<!--"), "-->"),
    *((re.compile(rf" {{0,3}}<{tag}(?=[\s>]|$)", re.IGNORECASE), f"</{tag}>") for tag in ("script", "style", "pre")),
    (re.compile(r" {0,3}<textarea(?=[\s>]|$)", re.IGNORECASE), "</textarea>"),
)


@dataclass(frozen=True)
class Record:
    """One message as it stands in a file.

    Args:
        id: told apart from every other record of the chat.
        role: the message's role, None if it has none.
        text: its content; None if that is not a string (then it is among the fields).
        meta: everything else there is to keep, as JSON values.
        interrupted: the text is a part of what it was to become.
    """

    id: str
    role: str | None
    text: str | None
    meta: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False


@dataclass(frozen=True)
class Problem:
    """Something in a file that is not as it was written: the line it begins at (from 1), and what was found there."""

    line: int
    what: str


@dataclass(frozen=True)
class Scan:
    """All records of a file in their order, and what was wrong with it."""

    records: tuple[Record, ...]
    problems: tuple[Problem, ...]


def escape(text: str) -> str:
    r"""`text` with backslashes doubled, and what should not stand in a text file as `\x1b` or `\u202e`."""
    return _NOT_TEXT.sub(as_escape, text.replace("\\", "\\\\"))


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: match[1] or chr(int(match[2] or match[3] or match[4], 16)), text)


def to_bytes(record: Record) -> bytes:
    """The whole of `record` as it stands in a file, from its first comment to the blank line after its last."""
    text, escaped = record.text or "", False
    if _NOT_TEXT.search(text):
        text, escaped = escape(text), True
    body = text.encode()
    extra: dict[str, Any] = {"escaped": True} if escaped else {}
    if close := _left_open(text):
        extra["close"] = close
    length = {} if record.text is None else {"bytes": len(body)}
    return _head(record, length, extra) + body + _suffix(extra) + b"\n\n"


def frame_open(record: Record) -> bytes:
    """The beginning of a record whose text follows piece by piece, each through `escape`; for a file of its own."""
    return _head(record, {"open": True}, {"escaped": True})


def _head(record: Record, length: dict[str, Any], extra: dict[str, Any]) -> bytes:
    values = {"id": record.id, "role": record.role, **length, **extra, "meta": record.meta}
    if record.interrupted:
        values["interrupted"] = True
    if not record.meta:
        del values["meta"]
    dumped = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    # All of these can stand only inside JSON strings, where an escape means the same: nothing in a role or in metadata
    # can end the comment, look like a frame, or be no text.
    dumped = _NOT_IN_HEAD.sub(lambda match: f"\\u{ord(match.group()):04x}", dumped)
    return b"%b %b -->\n## %b\n\n" % (HEAD, dumped.encode(), _heading(record).encode())


def _heading(record: Record) -> str:
    """What a person sees above the text; never read back."""
    shown = visible_line("message" if record.role is None else record.role)
    shown = re.sub(r"([\\`*_\[\]<>&#!|~])", r"\\\1", shown).strip() or "(empty)"
    return f"{shown} (interrupted)" if record.interrupted else shown


def _suffix(head: dict[str, Any]) -> bytes:
    close = head.get("close")
    return b"\n" + (f"{close}\n".encode() if isinstance(close, str) else b"") + END


def _left_open(text: str) -> str:
    """The line that ends the fence or HTML block that `text` leaves open (as CommonMark 0.31 reads it), or ""."""
    if "```" not in text and "~~~" not in text and "<" not in text:
        return ""
    end = ""
    for line in text.split("\n"):
        if not end:
            end = _opens(line)
        elif end.startswith("<") or end == "-->":
            end = "" if end in line.lower() else end
        elif line.strip().startswith(end) and not line.strip().strip(end[0]):
            end = ""
    return end


def _opens(line: str) -> str:
    if match := _FENCE.match(line):
        return match[1]
    for start, end in _HTML_BLOCKS:
        if (match := start.match(line)) and end not in line[match.end() :].lower():
            return end
    return ""


def scan(data: bytes, *, first_line: int = 1) -> Scan:
    """Read a file, torn, edited or damaged as it may be; every record that can be told is told.

    A record without its end (the process was killed while writing it) is `interrupted` and has what there is of its
    text. Never raises: what is wrong is among the problems, with its line.

    Args:
        data: the file, or the rest of it from where a record ends.
        first_line: the number of the first line in `data`.
    """
    return _Scanner(data, first_line).run()


def scan_open(data: bytes) -> Record | None:
    """What there is of a record begun with `frame_open`; None if there is not even a whole head."""
    match = _HEAD_LINE.match(data)
    head = _head_values(match)
    if match is None or head is None:
        return None
    text, _ = _text_of(data[match.end() :], head, cut=True)
    return _record(head, text, interrupted=True)


def has_frames(data: bytes) -> bool:
    """Whether a record begins or ends in `data`."""
    return _FRAME.search(data) is not None


def earlier_head(data: bytes) -> int | None:
    """Return the line of the first head with a value in the form of an earlier version, or None."""
    if _EARLIER_VALUE.search(data):  # a text may well look like that
        for head in _HEAD_LINE.finditer(data):
            if _EARLIER_VALUE.search(head[1]):
                return data.count(b"\n", 0, head.start()) + 1
    return None


def missing_end(data: bytes) -> bytes:
    """What to append to a file (or to the end of one, from its last head on) so that a new record may follow."""
    frames = list(_FRAME.finditer(data))
    if not frames or frames[-1][1]:
        line_end = data.rfind(b"\n") + 1
        return b"" if not data[line_end:].strip() else b"\n"
    match = _HEAD_LINE.match(data, frames[-1].start())
    head = _head_values(match)
    if match is None or head is None or _is_torn(match) or not _holds_all(head, len(data) - match.end()):
        return b"\n" + TORN_END + b"\n\n"
    return b"\n" + END + b"\n\n"


def _is_torn(head: re.Match[bytes]) -> bool:
    """Whether the blank line after a head is not there yet."""
    return not head.group().endswith((b"\n\n", b"\n\r\n"))


def _holds_all(head: dict[str, Any], length: int) -> bool:
    return length >= _length(head) >= 0


def _length(head: dict[str, Any]) -> int:
    """How long the text is, in bytes; -1 if the head does not say so. A content that is no text has none."""
    length = head.get("bytes", -1 if "open" in head else 0)
    return length if isinstance(length, int) and not isinstance(length, bool) else -1


def _head_values(match: re.Match[bytes] | None) -> dict[str, Any] | None:
    if match is None:
        return None
    try:
        head = json.loads(_SURROGATE_IN_JSON.sub(_as_it_was, match[1].decode()))
    except (ValueError, RecursionError):
        return None
    role = head.get("role")
    right = isinstance(head.get("id"), str) and (role is None or isinstance(role, str))
    return head if right and isinstance(head.get("meta", {}), dict) else None


def _as_it_was(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else match.group()


def _record(head: dict[str, Any], text: str, *, interrupted: bool) -> Record:
    return Record(
        id=head["id"],
        role=head.get("role"),
        text=text if "bytes" in head or "open" in head else None,
        meta=head.get("meta", {}),
        interrupted=interrupted or head.get("interrupted") is True,
    )


def _text_of(body: bytes, head: dict[str, Any], *, cut: bool) -> tuple[str, bool]:
    """The text in `body`, and whether it is what was written; `cut`: it may end inside a character or an escape."""
    damaged = b"\0" in body
    if damaged:
        cut = cut or body.endswith(b"\0")
        body = body.replace(b"\0", b"")
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(body, final=not cut)
    except UnicodeDecodeError:
        text, damaged = body.decode(errors="replace"), True
    if head.get("escaped") is True:
        if cut:
            text = _without_cut_escape(text)
        text = _unescape(text)
    return text, damaged


def _without_cut_escape(text: str) -> str:
    """`text` without half an escape at its end. A backslash after an odd number of others is the second of a pair."""
    match = _CUT_ESCAPE.search(text)
    if match is None:
        return text
    before = text[: match.start()]
    return text if (len(before) - len(before.rstrip("\\"))) % 2 else before


class _Scanner:
    """One pass over the frames of a file."""

    def __init__(self, data: bytes, first_line: int) -> None:
        self._data = data
        self._from_the_start = first_line == 1
        self._records: list[Record] = []
        self._problems: list[Problem] = []
        self._counted_to, self._line = 0, first_line

    def run(self) -> Scan:
        frames = [(match.start(), bool(match[1])) for match in _FRAME.finditer(self._data)]
        frames.append((len(self._data), False))
        self._outside(0, frames[0][0], anything_goes=len(frames) > 1 and self._from_the_start)
        for (start, is_end), (limit, closed) in itertools.pairwise(frames):
            if is_end:
                self._after_end(start, limit)
            else:
                self._one(start, limit, closed)
        return Scan(tuple(self._records), tuple(self._problems))

    def _report(self, position: int, what: str) -> None:
        self._line += self._data.count(b"\n", self._counted_to, position)
        self._counted_to = position
        self._problems.append(Problem(self._line, what))

    def _outside(self, start: int, limit: int, *, anything_goes: bool = False) -> None:
        """Between records there is nothing; before the first one a person may have put a title."""
        rest = self._data[start:limit]
        if rest.strip() and not (anything_goes and _is_text(rest)):
            self._report(limit - len(rest.lstrip()), "text outside of any message, ignored")

    def _after_end(self, start: int, limit: int) -> None:
        match = _END_LINE.match(self._data, start)
        if match is None:  # torn, or damaged: what the record is was decided by its length
            rest = self._data[start:limit].strip()
            if not END.startswith(rest):
                self._report(start, "a damaged end of a message")
            return
        self._outside(match.end(), limit)

    def _one(self, start: int, limit: int, closed: bool) -> None:
        data = self._data
        repaired = closed and data.startswith(TORN_END, limit)
        if repaired:
            limit -= 1  # the newline before it came with the repair
        match = _HEAD_LINE.match(data, start, limit)
        head = _head_values(match)
        if match is None or head is None:
            if not repaired:
                self._report(start, "a message without a readable head, skipped")
            return
        body = data[match.end() : limit]
        torn = not closed and _is_torn(match)
        if torn:
            self._report(start, "a message that was not written to its end")
        if repaired or torn:
            text, _ = _text_of(body, head, cut=True)
            self._records.append(_record(head, text, interrupted=True))
            return
        self._records.append(self._framed(start, body, head, closed, crlf=b"\r\n" in match.group()))

    def _framed(self, start: int, body: bytes, head: dict[str, Any], closed: bool, *, crlf: bool) -> Record:
        if "bytes" not in head and "open" not in head:  # no text, so nothing of it can be missing
            return _record(head, "", interrupted=False)
        length, cut = _length(head), False
        whole = 0 <= length <= len(body)
        rest = body[length:] if whole else b""
        if whole and (not rest.strip() or _suffix(head).startswith(rest.rstrip(b"\r\n"))):
            body = body[:length]  # what follows the text is what was put there, or the beginning of that
        elif whole and not (closed and _is_text(rest)):
            body = body[:length]
            self._report(start, "something unreadable after a message, skipped")
        elif closed:
            body = _edited(body, head, crlf=crlf)
            self._report(start, "a message that was edited: its length is not the one written down")
        else:
            cut = True
            self._report(start, "a message that was not written to its end")
        text, damaged = _text_of(body, head, cut=cut)
        if damaged:
            self._report(start, "a damaged message: lost blocks, or bytes that are no UTF-8")
        return _record(head, text, interrupted=cut or damaged)


def _edited(body: bytes, head: dict[str, Any], *, crlf: bool) -> bytes:
    body = body.rstrip(b"\r\n")
    close = head.get("close")
    if isinstance(close, str):
        body = body.removesuffix(close.encode()).rstrip(b"\r\n")
    return body.replace(b"\r\n", b"\n") if crlf else body


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False
