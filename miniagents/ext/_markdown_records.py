"""File format of `ChatHistoryMD`: messages to records, records to bytes, and back; independent of files.

A record is one message between two HTML comments, so a viewer shows a heading and the text:

    <!-- miniagents {"id":"5f0c1e9a2b7d","role":"user","bytes":6,"class":"UserMessage"} -->
    ## user

    Hello!
    <!-- /miniagents -->

Two properties protect a text, each enough by itself. The length in the first comment tells where the text ends, so
every text is loaded unchanged. And no text contains the beginning of such a comment: a text that would is written with
escapes (as are characters that UTF-8 cannot encode, see `escape`). If a length does not fit, because a person edited
the file or a part of it was lost, the reader goes on at the next comment. It never takes a part of a message for a
message.

`record_of` and `message_of` convert messages; a field that cannot be kept is left out with a warning. `to_bytes` and
`scan` convert records. The two comments of a record are its head and its end, and both are called frames.
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
    """Return an interrupted record, without text, of the fields of a message that are known before its text.

    Without a known role, it has the default role of the class. A field that cannot be written is left out, with a
    warning.
    """
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
    """Convert a message into a record; leave out fields that equal their class's defaults.

    A field that cannot be written is left out, with a warning.
    """
    try:
        meta = message.model_dump(mode="json")
    except (ValueError, RecursionError):  # a serializer of the application fails, or messages are nested too deep
        meta = _dump_field_by_field(message)
    if type(message) is Message:
        del meta[CLASS_KEY]
    for name, declared in type(message).model_fields.items():
        value = getattr(message, name)
        if declared.default_factory is None and value == declared.default and repr(value) == repr(declared.default):
            meta.pop(next(iter(escaped({name: None}))), None)  # loading the class gives the same default
    meta.pop("role", None)
    text = message.content if isinstance(message.content, str) else None
    if text is not None:
        meta.pop("content", None)
    interrupted = meta.get("interrupted") is True
    if interrupted:
        del meta["interrupted"]
    return Record(record_id, message.role, text, meta, interrupted)


def _dump_field_by_field(message: Message) -> dict[str, Any]:
    """Return the fields of a message that can be dumped, and warn of each other field."""
    meta: dict[str, Any] = {CLASS_KEY: message.class_name}
    for name, _ in message:
        try:
            meta |= message.model_dump(mode="json", include={name})
        except (ValueError, RecursionError):
            _warn_of_lost_field(name)
    return meta


def _warn_of_lost_field(name: str) -> None:
    """Log a warning for a field that is left out."""
    logger.warning("The field %r of a message could not be kept in the history", name)


def _describe_error(error: Exception) -> str:
    """Return the names of the invalid fields, or the class of the error, without any values."""
    if isinstance(error, ValidationError):
        return ", ".join(visible_line(".".join(map(str, each["loc"]))) for each in error.errors())
    return type(error).__name__


def message_of(record: Record) -> Message:
    """Convert a record into its message; invalid metadata are left out, with a warning."""
    try:
        fields = {**record.meta, "role": record.role}
        if record.text is not None:
            fields["content"] = record.text
        if record.interrupted:
            fields["interrupted"] = True
        return Message.model_validate(fields)
    except (ValueError, TypeError) as error:  # a person edited the metadata, or another version wrote them
        # without the text of the error, which quotes the value
        logger.warning(
            "The metadata of message %r could not be read, and is left out: %s", record.id, _describe_error(error)
        )
        return Message(record.text, role=record.role, **({"interrupted": True} if record.interrupted else {}))


HEAD = b"<!-- miniagents"
_END = b"<!-- /miniagents -->"
_TORN_END = b"<!-- /miniagents interrupted -->"

_FRAME = re.compile(rb"<!-- (/?)miniagents")
_HEAD_LINE = re.compile(
    rb"<!-- miniagents (\{[^\n]*\}) -->\r?\n(?:## [^\n]*(?:\n|\Z)|##?\0*\Z)?(?:\r?\n)?"
)  # \Z: torn in the heading; zeros: the disk had not written the rest
_EARLIER_VALUE = re.compile(rb'\{"\$(?:dict|datetime|time)":\[')
_END_LINE = re.compile(rb"<!-- /miniagents( interrupted)? -->")

# Control characters are escaped as well: viewers and editors change or hide them, terminals obey them, and NUL bytes
# mark a lost block. CR LF stays unchanged.
_NOT_TEXT = re.compile(f"(?!\r\n)[{CONTROLS}{TAGS}]|<(?=!-- /?miniagents)")
_NOT_IN_HEAD = re.compile(f"[{CONTROLS}<>]|(?<=-)-")  # JSON would spell a tag as two surrogates
_ESCAPED = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}))")
# Two surrogates in a row are two characters in Python, which json would join: so they are unescaped before it parses
_SURROGATE_IN_JSON = re.compile(r"\\(?:u(d[89a-f][0-9a-f]{2})|.)")
_CUT_ESCAPE = re.compile(r"\\(?:x[0-9a-f]?|u[0-9a-f]{0,3}|U[0-9a-f]{0,7})?\Z")

# Blocks that a text may leave open, with the line that closes them: else a Markdown viewer would show the rest of the
# chat inside such a block.
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_HTML_BLOCKS = (
    (re.compile(r" {0,3}<!--"), "-->"),
    *((re.compile(rf" {{0,3}}<{tag}(?=[\s>]|$)", re.IGNORECASE), f"</{tag}>") for tag in ("script", "style", "pre")),
    (re.compile(r" {0,3}<textarea(?=[\s>]|$)", re.IGNORECASE), "</textarea>"),
)


@dataclass(frozen=True)
class Record:
    """Message in the form in which a file holds it.

    Args:
        id: the id, different for each message of the chat.
        role: the role of the message; None if it has none.
        text: the content, if it is a string; None otherwise (the content is then in `meta`).
        meta: the other fields of the message, as JSON values.
        interrupted: True if the text is only a part of the message's text.
    """

    id: str
    role: str | None
    text: str | None
    meta: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False


@dataclass(frozen=True)
class Problem:
    """Place in a file that is damaged or was edited."""

    line: int
    """Number of the line at which it begins, from 1."""
    what: str
    """Description of the problem."""


@dataclass(frozen=True)
class Scan:
    """Records of a file in their order, and the problems of the file."""

    records: tuple[Record, ...]
    problems: tuple[Problem, ...]


def escape(text: str) -> str:
    r"""Double the backslashes of a text, and write control characters and the like as `\x1b` or `\u202e`."""
    return _NOT_TEXT.sub(as_escape, text.replace("\\", "\\\\"))


def _unescape(text: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(lambda match: match[1] or chr(int(match[2] or match[3] or match[4], 16)), text)


def to_bytes(record: Record) -> bytes:
    """Convert a record into its bytes, from its first comment to the blank line after its last comment."""
    text, escaped = record.text or "", False
    if _NOT_TEXT.search(text):
        text, escaped = escape(text), True
    body = text.encode()
    extra: dict[str, Any] = {"escaped": True} if escaped else {}
    if close := _unclosed_block_end(text):
        extra["close"] = close
    length = {} if record.text is None else {"bytes": len(body)}
    return _head(record, length, extra) + body + _suffix(extra) + b"\n\n"


def frame_open(record: Record) -> bytes:
    """Return the first bytes of a journal; the pieces of the message's text follow, each converted by `escape`."""
    return _head(record, {"open": True}, {"escaped": True})


def _head(record: Record, length: dict[str, Any], extra: dict[str, Any]) -> bytes:
    """Return the head of a record: its first comment, the heading and a blank line."""
    values = {"id": record.id, "role": record.role, **length, **extra, "meta": record.meta}
    if record.interrupted:
        values["interrupted"] = True
    if not record.meta:
        del values["meta"]
    dumped = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    # These characters occur only inside JSON strings, where an escape means the same. So no role and no metadata can
    # end the comment, imitate a frame, or hold control characters.
    dumped = _NOT_IN_HEAD.sub(lambda match: f"\\u{ord(match.group()):04x}", dumped)
    return b"%b %b -->\n## %b\n\n" % (HEAD, dumped.encode(), _heading(record).encode())


def _heading(record: Record) -> str:
    """Return the heading above the text, for people only; it is never read."""
    shown = visible_line("message" if record.role is None else record.role)
    shown = re.sub(r"([\\`*_\[\]<>&#!|~])", r"\\\1", shown).strip() or "(empty)"
    return f"{shown} (interrupted)" if record.interrupted else shown


def _suffix(head: dict[str, Any]) -> bytes:
    """Return the lines after a text: the line that closes an open block, and the end of the record."""
    close = head.get("close")
    return b"\n" + (f"{close}\n".encode() if isinstance(close, str) else b"") + _END


def _unclosed_block_end(text: str) -> str:
    """Return the line that closes the code fence or HTML block that `text` leaves open by CommonMark 0.31, or ""."""
    if "```" not in text and "~~~" not in text and "<" not in text:
        return ""
    end = ""
    for line in text.split("\n"):
        if not end:
            end = _end_of_opened_block(line)
        elif end.startswith("<") or end == "-->":
            end = "" if end in line.lower() else end
        elif line.strip().startswith(end) and not line.strip().strip(end[0]):
            end = ""
    return end


def _end_of_opened_block(line: str) -> str:
    """Return the text that closes the block that `line` opens, or ""."""
    if match := _FENCE.match(line):
        return match[1]
    for start, end in _HTML_BLOCKS:
        if (match := start.match(line)) and end not in line[match.end() :].lower():
            return end
    return ""


def scan(data: bytes, *, first_line: int = 1) -> Scan:
    """Read the records of a file, which may be cut, edited or damaged.

    A record without its end (the process was killed during the write) is `interrupted`, with its text so far. No error
    is raised: everything unreadable is reported as a problem with its line.

    Args:
        data: the bytes of the file, or the rest of these from the end of a record on.
        first_line: the number of the first line in `data`.
    """
    return _Scanner(data, first_line).run()


def scan_open(data: bytes) -> Record | None:
    """Read a journal that begins with `frame_open`, and return its interrupted record; None if its head is cut."""
    match = _HEAD_LINE.match(data)
    head = _head_values(match)
    if match is None or head is None:
        return None
    text, _ = _text_of(data[match.end() :], head, cut=True)
    return _record(head, text, interrupted=True)


def has_frames(data: bytes) -> bool:
    """Return True if a record begins or ends in `data`."""
    return _FRAME.search(data) is not None


def earlier_head(data: bytes) -> int | None:
    """Return the line of the first record whose metadata have the form of an earlier version; None without one."""
    if _EARLIER_VALUE.search(data):  # a text may contain the same characters
        for head in _HEAD_LINE.finditer(data):
            if _EARLIER_VALUE.search(head[1]):
                return data.count(b"\n", 0, head.start()) + 1
    return None


def missing_end(data: bytes) -> bytes:
    """Return the bytes that close the cut last record of a file, before a new one; "" if that record is whole.

    Args:
        data: the bytes of the file, or the end of these, from the last head on or longer.
    """
    frames = list(_FRAME.finditer(data))
    if not frames or frames[-1][1]:
        line_end = data.rfind(b"\n") + 1
        return b"" if not data[line_end:].strip() else b"\n"
    match = _HEAD_LINE.match(data, frames[-1].start())
    head = _head_values(match)
    if match is None or head is None or _is_torn_head(match) or not _has_whole_text(head, len(data) - match.end()):
        return b"\n" + _TORN_END + b"\n\n"
    return b"\n" + _END + b"\n\n"


def _is_torn_head(head: re.Match[bytes]) -> bool:
    """Return True if the write of a record was cut in its start comment or heading: the blank line is missing."""
    return not head.group().endswith((b"\n\n", b"\n\r\n"))


def _has_whole_text(head: dict[str, Any], length: int) -> bool:
    """Return True if `length` bytes after the head hold the whole text of the record."""
    return length >= _text_length(head) >= 0


def _text_length(head: dict[str, Any]) -> int:
    """Return the length of a record's text in bytes: 0 without a text, -1 if the metadata do not say it."""
    length = head.get("bytes", -1 if "open" in head else 0)
    return length if isinstance(length, int) and not isinstance(length, bool) else -1


def _head_values(match: re.Match[bytes] | None) -> dict[str, Any] | None:
    """Parse the values in a head; return None if the head is missing or invalid."""
    if match is None:
        return None
    try:
        head = json.loads(_SURROGATE_IN_JSON.sub(_unescape_surrogate, match[1].decode()))
    except (ValueError, RecursionError):
        return None
    role = head.get("role")
    right = isinstance(head.get("id"), str) and (role is None or isinstance(role, str))
    return head if right and isinstance(head.get("meta", {}), dict) else None


def _unescape_surrogate(match: re.Match[str]) -> str:
    """Return the surrogate that an escape in JSON stands for; other escapes stay."""
    return chr(int(match[1], 16)) if match[1] else match.group()


def _record(head: dict[str, Any], text: str, *, interrupted: bool) -> Record:
    """Make a record of the values in a head and a text.

    The text is dropped if the head has neither a length nor the mark of a journal.
    """
    return Record(
        id=head["id"],
        role=head.get("role"),
        text=text if "bytes" in head or "open" in head else None,
        meta=head.get("meta", {}),
        interrupted=interrupted or head.get("interrupted") is True,
    )


def _text_of(body: bytes, head: dict[str, Any], *, cut: bool) -> tuple[str, bool]:
    """Decode the text of a record.

    Args:
        body: the bytes of the text.
        head: the values of the head.
        cut: True if the bytes may end inside a character or an escape.

    Returns: the text, and True if it is damaged by lost blocks or invalid UTF-8.
    """
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
            text = _remove_cut_escape(text)
        text = _unescape(text)
    return text, damaged


def _remove_cut_escape(text: str) -> str:
    """Remove a cut escape from the end of a text. A backslash after an odd number of others ends a whole escape."""
    match = _CUT_ESCAPE.search(text)
    if match is None:
        return text
    before = text[: match.start()]
    return text if (len(before) - len(before.rstrip("\\"))) % 2 else before


class _Scanner:
    """Reader of all records of a file, in one pass over its frames."""

    def __init__(self, data: bytes, first_line: int) -> None:
        self._data = data
        self._from_the_start = first_line == 1
        self._records: list[Record] = []
        self._problems: list[Problem] = []
        self._counted_to, self._line = 0, first_line

    def run(self) -> Scan:
        """Return the records and problems of the file."""
        frames = [(match.start(), bool(match[1])) for match in _FRAME.finditer(self._data)]
        frames.append((len(self._data), False))
        self._check_outside(0, frames[0][0], allow_text=len(frames) > 1 and self._from_the_start)
        for (start, is_end), (limit, closed) in itertools.pairwise(frames):
            if is_end:
                self._check_after_end(start, limit)
            else:
                self._read_record(start, limit, closed)
        return Scan(tuple(self._records), tuple(self._problems))

    def _report(self, position: int, what: str) -> None:
        """Add a problem at this position."""
        self._line += self._data.count(b"\n", self._counted_to, position)
        self._counted_to = position
        self._problems.append(Problem(self._line, what))

    def _check_outside(self, start: int, limit: int, *, allow_text: bool = False) -> None:
        """Report text that stands outside of records; `allow_text` accepts it, for a title before the first record."""
        rest = self._data[start:limit]
        if rest.strip() and not (allow_text and _is_text(rest)):
            self._report(limit - len(rest.lstrip()), "text outside of any message, ignored")

    def _check_after_end(self, start: int, limit: int) -> None:
        """Report a damaged end of a record, or text behind it; an end that is only cut is not reported."""
        match = _END_LINE.match(self._data, start)
        if match is None:  # cut or damaged; the length of the record counts
            rest = self._data[start:limit].strip()
            if not _END.startswith(rest):
                self._report(start, "a damaged end of a message")
            return
        self._check_outside(match.end(), limit)

    def _read_record(self, start: int, limit: int, closed: bool) -> None:
        """Read the record that begins at `start`; report a record that is unreadable or was cut.

        A record that was cut, and closed by a later append, is added as interrupted without a report.
        """
        data = self._data
        repaired = closed and data.startswith(_TORN_END, limit)
        if repaired:
            limit -= 1  # the repair added the newline before the end
        match = _HEAD_LINE.match(data, start, limit)
        head = _head_values(match)
        if match is None or head is None:
            if not repaired:
                self._report(start, "a message without a readable head, skipped")
            return
        body = data[match.end() : limit]
        torn = not closed and _is_torn_head(match)
        if torn:
            self._report(start, "a message that was not written to its end")
        if repaired or torn:
            text, _ = _text_of(body, head, cut=True)
            self._records.append(_record(head, text, interrupted=True))
            return
        self._records.append(self._record_from_frame(start, body, head, closed, crlf=b"\r\n" in match.group()))

    def _record_from_frame(self, start: int, body: bytes, head: dict[str, Any], closed: bool, *, crlf: bool) -> Record:
        """Make a record of the bytes after a head, and report what was edited, cut or damaged.

        A cut or damaged text makes the record interrupted. The written length tells the text's end, or else the next
        frame does.
        """
        if "bytes" not in head and "open" not in head:  # a record without a text
            return _record(head, "", interrupted=False)
        length, cut = _text_length(head), False
        whole = 0 <= length <= len(body)
        rest = body[length:] if whole else b""
        if whole and (not rest.strip() or _suffix(head).startswith(rest.rstrip(b"\r\n"))):
            body = body[:length]  # the rest is the expected end of the record, or the beginning of that
        elif whole and not (closed and _is_text(rest)):
            body = body[:length]
            self._report(start, "something unreadable after a message, skipped")
        elif closed:
            body = _text_without_end(body, head, crlf=crlf)
            self._report(start, "a message that was edited: its length is not the one written down")
        else:
            cut = True
            self._report(start, "a message that was not written to its end")
        text, damaged = _text_of(body, head, cut=cut)
        if damaged:
            self._report(start, "a damaged message: lost blocks, or bytes that are no UTF-8")
        return _record(head, text, interrupted=cut or damaged)


def _text_without_end(body: bytes, head: dict[str, Any], *, crlf: bool) -> bytes:
    """Return the bytes of an edited text without the line that closes its open block, and with LF for CR LF."""
    body = body.rstrip(b"\r\n")
    close = head.get("close")
    if isinstance(close, str):
        body = body.removesuffix(close.encode()).rstrip(b"\r\n")
    return body.replace(b"\r\n", b"\n") if crlf else body


def _is_text(data: bytes) -> bool:
    """Return True if the bytes are UTF-8 without NUL."""
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False
