r"""File format of `ChatHistoryMD`: messages to bytes, and back; independent of files.

A record is one message between two HTML comments, so a viewer shows a heading and the text:

    <!-- miniagents {"role":"user","class_":"UserMessage"} -->
    ## user

    Hello!
    <!-- /miniagents -->

The first comment, the head, holds the fields of the message as JSON; the second one is the end. Both are called frames.
A text never holds a frame: `<!-- miniagents` in a text gets a backslash after its `<`, also if it has some already.
A text with control characters stands in the head, as does a content that is no text; a readable form stands below.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from miniagents.ext._storing import restore, storable
from miniagents.ext._terminal import CONTROLS, TAGS, visible, visible_line
from miniagents.messages import Message

TORN_END = b"\n<!-- /miniagents interrupted -->\n\n"
"""Bytes that close a record which was not written to its end."""
_HEAD = b"<!-- miniagents"
_END = "<!-- /miniagents -->"

_FRAME = re.compile(rb"<!-- (/?)miniagents")
_HEAD_LINE = re.compile(rb"<!-- miniagents (\{[^\n]*\}) -->\r?(?:\n|\Z)")
_EARLIER_HEAD = re.compile(rb'<!-- miniagents \{"id":')
_HEADING = re.compile(rb"(?:## [^\n]*\n)?(?:\r?\n)?")
_CUT_HEADING = re.compile(rb"#{0,2}\Z|## [^\n]*\Z")
_END_LINE = re.compile(rb"<!-- /miniagents(?: interrupted)? -->\r?\n(?:(?:`{3,}|~{3,}|</[a-z]+>)\r?\n)?\s*")
_LAST_END = re.compile(_END_LINE.pattern + rb"\Z")
_CUT_FRAME = re.compile(rb"\n?(?:<\\*(?:!-?-? ?/?[miniagets]*)?)?\Z")
"""End of a text that was cut: the newline and the beginning of a frame that may stand there."""

_LIKE_FRAME = re.compile(r"<(?=\\*!-- /?miniagents)")
_ESCAPED_FRAME = re.compile(r"<\\(?=\\*!-- /?miniagents)")
# These characters occur only inside JSON strings, where an escape means the same. So no field can end the comment,
# imitate a frame, or hold characters that a terminal obeys or a viewer hides.
_NOT_IN_HEAD = re.compile(f"[{CONTROLS}{TAGS}<>]|(?<=-)-")

# Blocks that a text may leave open, with the line that closes them: else a Markdown viewer would show the rest of the
# chat inside such a block. An HTML comment is closed by the end of the record.
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_HTML_BLOCK = re.compile(r" {0,3}<(script|style|pre|textarea)(?=[\s>]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """Place in a file that is damaged or does not fit."""

    line: int
    """Number of the line at which it begins, from 1."""
    what: str
    """Description of the problem."""


@dataclass
class Scan:
    """Messages of a file in their order, and the problems of the file."""

    messages: list[Message]
    problems: list[Problem]
    end: int = 0
    """Position behind the last record that has its end: later records begin there."""
    whole: int = 0
    """Number of the messages before that position."""


# --- writing


def to_bytes(message: Message) -> bytes:
    """Convert a message into its record; a field that cannot be written is left out, with a warning."""
    fields = storable(message)
    text = _shown(message)
    if text == message.content:
        fields.pop("content", None)
    head = json.dumps({"role": fields.pop("role", None), **fields}, separators=(",", ":"), ensure_ascii=False)
    head = _NOT_IN_HEAD.sub(_json_escape, head)
    heading = _heading(message.role, fields.get("interrupted") is True)
    body = _LIKE_FRAME.sub(r"<\\", text)
    return f"<!-- miniagents {head} -->\n## {heading}\n\n{body}\n{_END}\n{_closing_line(text)}\n".encode()


def _shown(message: Message) -> str:
    """Return the text that stands below the head: the content if it can stand there, or else a readable form of it."""
    return "" if message.content is None else visible(Message.__str__(message))  # no text of a subclass


def _json_escape(match: re.Match[str]) -> str:
    """Return the matched character as JSON escapes it, by one or two UTF-16 units."""
    units = match[0].encode("utf-16-be").hex("\n", 2).split("\n")
    return "".join(f"\\u{unit}" for unit in units)


@lru_cache(maxsize=64)
def _heading(role: str | None, interrupted: bool) -> str:
    """Return the text of a message's heading: its role, or "message" without one, and "(interrupted)" if it broke off.

    The heading is for people: the loader skips it, and takes role and state from the record's head.
    """
    shown = visible_line("message" if role is None else role)
    shown = re.sub(r"([\\`*_\[\]<>&#!|~])", r"\\\1", shown).strip() or "(empty)"
    return f"{shown} (interrupted)" if interrupted else shown


def _closing_line(text: str) -> str:
    """Return the line that closes the code fence or HTML block which `text` leaves open by CommonMark 0.31, or ""."""
    if "```" not in text and "~~~" not in text and "<" not in text:
        return ""
    end = ""
    for line in text.split("\n"):
        if not end:
            if match := _FENCE.match(line):
                end = match[1]
            elif (match := _HTML_BLOCK.match(line)) and f"</{match[1].lower()}>" not in line.lower():
                end = f"</{match[1].lower()}>"
        elif end[0] == "<":
            end = "" if end in line.lower() else end
        elif line.strip().startswith(end) and not line.strip().strip(end[0]):
            end = ""
    return f"{end}\n" if end else ""


# --- reading


def scan(data: bytes, *, first_line: int = 1) -> Scan:
    """Read the messages of a file, which may be cut off, edited or damaged.

    A message without its end (the process was killed during the write) is `interrupted`, with its text so far. No error
    is raised: everything unreadable is reported as a problem with its line.

    Args:
        data: the bytes of the file, or the rest of these from the end of a record on.
        first_line: the number of the first line in `data`.
    """
    return _Scanner(data, first_line).run()


def has_frames(data: bytes) -> bool:
    """Return True if a record begins or ends in `data`."""
    return _FRAME.search(data) is not None


def may_become_history(data: bytes) -> bool:
    """Return True if a file without records is empty, or has only zeros, white space, or the start of a head."""
    text = data.replace(b"\0", b"").strip()  # a loss of power leaves zeros in place of unwritten data
    return _HEAD.startswith(text)


def earlier_head(data: bytes) -> int | None:
    """Return the line of the first record in the form of an earlier version; None if there is none."""
    match = _EARLIER_HEAD.search(data)
    return None if match is None else data.count(b"\n", 0, match.start()) + 1


def missing_end(data: bytes) -> bytes:
    """Return the bytes that must stand between a file and a new record.

    After a whole record or in an empty file, there are none. A record that was cut gets its end; other text gets a
    blank line.

    Args:
        data: the bytes of the file, or the end of these. If no record begins or ends in it, it must be the whole file.
    """
    if _LAST_END.search(data, max(data.rfind(b"<!-- /miniagents"), 0)):
        return b""
    frames = list(_FRAME.finditer(data))
    if frames and not frames[-1][1]:
        return TORN_END
    return b"\n\n" if data.strip() else b""


class _Scanner:
    """Reader of all records of a file, in one pass over its frames."""

    def __init__(self, data: bytes, first_line: int) -> None:
        self._data = data
        self._is_whole_file = first_line == 1
        self._found = Scan([], [])
        self._counted_to, self._line = 0, first_line

    def run(self) -> Scan:
        """Return the messages and problems of the file; a title may stand before its first record."""
        frames = [(match.start(), bool(match[1])) for match in _FRAME.finditer(self._data)]
        first, is_end = frames[0] if frames else (len(self._data), True)
        if is_end or not self._is_whole_file or b"\0" in self._data[:first]:  # else a title may stand there
            self._check_outside(0, first)
        for (start, is_end), (limit, closed) in pairwise([*frames, (len(self._data), False)]):
            if is_end:
                self._read_end(start, limit)
            else:
                self._read_record(start, limit, closed)
        return self._found

    def _report(self, position: int, what: str) -> None:
        """Add the problem `what` at the line of this byte position; positions come in ascending order."""
        self._line += self._data.count(b"\n", self._counted_to, position)
        self._counted_to = position
        self._found.problems.append(Problem(self._line, what))

    def _check_outside(self, start: int, limit: int) -> None:
        """Report text from `start` to `limit`, which is outside of records, at its first line; ignore white space."""
        if rest := self._data[start:limit].lstrip():
            self._report(limit - len(rest), "text outside of any message, ignored")

    def _read_end(self, start: int, limit: int) -> None:
        """Note the end of a record at `start`, and report text from there to `limit`; accept a cut-off end."""
        match = _END_LINE.match(self._data, start, limit)
        if match is not None:
            self._found.end, self._found.whole = match.end(), len(self._found.messages)
            self._check_outside(match.end(), limit)
        elif not _END.encode().startswith(self._data[start:limit].strip()):
            self._report(start, "a damaged end of a message")

    def _read_record(self, start: int, limit: int, closed: bool) -> None:
        """Read the record from `start` to `limit`, and add its message; `closed` is True if its end follows.

        Report a record that is unreadable, damaged or cut off. An unreadable one is skipped. A record that was cut off,
        and closed by a later append, is added as interrupted without a report.
        """
        repaired = closed and self._data.startswith(TORN_END, limit - 1)
        limit -= repaired  # without the newline that the repair added
        head = _HEAD_LINE.match(self._data, start, limit)
        fields = None if head is None else _fields_of(head[1])
        if head is None or fields is None:
            if not repaired:
                self._report(start, "a message without a readable head, skipped")
            return
        cut = repaired or not closed
        if not closed:
            self._report(start, "a message that was not written to its end")
        text, damaged = _text_of(self._data[head.end() : limit], cut=cut)
        if damaged:
            self._report(start, "a damaged message: lost blocks, or bytes that are no UTF-8")
        if cut or damaged:
            fields["interrupted"] = True
        in_head = "content" in fields
        message = restore(fields if in_head else {**fields, "content": text})
        if in_head and not cut and text != _shown(message):  # a person edited the readable form
            message = message.model_copy(update={"content": text})
        self._found.messages.append(message)


def _fields_of(head: bytes) -> dict[str, Any] | None:
    """Parse the fields in a head; return None if they are malformed JSON or nest too deep."""
    try:
        fields: dict[str, Any] = json.loads(head.decode())
    except (ValueError, RecursionError):
        return None
    return fields


def _text_of(body: bytes, *, cut: bool) -> tuple[str, bool]:
    """Return the text of a record, and True if it is damaged by lost blocks or invalid UTF-8.

    Args:
        body: the bytes between the head of the record and the next frame.
        cut: True if the bytes may end inside the heading, a character or a frame.
    """
    body, zeros, _ = body.partition(b"\0")  # no text holds zeros, and text behind them may be of another message
    cut = cut or bool(zeros)
    if cut and _CUT_HEADING.match(body):
        return "", bool(zeros)
    body = body[_HEADING.match(body).end() :]  # type: ignore[union-attr]  # the pattern matches any bytes
    body = _CUT_FRAME.sub(b"", body, count=1) if cut else body.removesuffix(b"\n").removesuffix(b"\r")
    damaged = bool(zeros)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(body, final=not cut)
    except UnicodeDecodeError:
        text, damaged = body.decode(errors="replace"), True
    return _ESCAPED_FRAME.sub("<", text.replace("\r\n", "\n")), damaged
