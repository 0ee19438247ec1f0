r"""Text of models made safe to print: what a terminal would obey is shown as an escape (`\x1b`) instead.

Sans-IO: text in, text out. Whoever prints decides about streams and colours. Everything that comes from a model, a
provider or a file goes through here before it reaches a terminal: tokens, roles, error texts, log lines. Files that
people look at (`markdown_records`) escape the same characters, in a way that can be undone.
"""

from __future__ import annotations

import re

# One class of characters is enough to disarm every escape sequence: without its ESC (or its one-character C1 form)
# the rest of it is plain text. So nothing is parsed, and a sequence split over tokens is as harmless as a whole one.
CONTROLS = (
    "\x00-\x08\x0b-\x1f"  # C0 but tab and newline; CR too, which lets text overwrite what stands on its line
    "\x7f-\x9f"  # DEL and C1: U+009B alone is a CSI, U+009D an OSC (ECMA-48, 8-bit forms)
    "\u2028\u2029"  # line and paragraph separator
    "\u202a-\u202e\u2066-\u2069"  # bidirectional overrides and isolates reorder what is read (CVE-2021-42574)
    "\u200b\u2060-\u2064\ufeff\ufff9-\ufffb"  # invisible; ZWJ and ZWNJ stay, emoji and Persian need them
    "\ud800-\udfff"  # half a surrogate pair: printing it raises UnicodeEncodeError
)
"""What a terminal obeys or hides, but for tabs and newlines; to stand between the brackets of a regular expression."""
TAGS = "\U000e0000-\U000e007f"
"""Tag characters, a whole invisible ASCII; for regular expressions too."""

_IN_TEXT = re.compile(f"[{CONTROLS}{TAGS}]")
_IN_LINE = re.compile(f"[\t\n{CONTROLS}{TAGS}]")


def as_escape(match: re.Match[str]) -> str:
    r"""The character that was matched as `\x1b`, `\u202e` or `\U000e0041`."""
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    r"""`text` with all that a terminal would obey shown as escapes; newlines and tabs stay, CR LF becomes a newline."""
    if text.isprintable():  # the usual token; newlines and tabs are not printable either, and take the slower way
        return text
    return _IN_TEXT.sub(as_escape, text.replace("\r\n", "\n"))


def visible_line(text: str) -> str:
    r"""`text` for a place where a second line would be a lie (a role, an alias): newlines and tabs are escaped too."""
    return text if text.isprintable() else _IN_LINE.sub(as_escape, text)


class TerminalFilter:
    r"""`visible` for a text that arrives in pieces: the output does not depend on where the text was cut.

    The state is one character: a CR at the end of a piece waits for the next one, because CR LF is a newline and a
    lone CR is not.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be printed now that `piece` has arrived."""
        if self._held:
            piece, self._held = self._held + piece, ""
        if piece.endswith("\r"):
            piece, self._held = piece[:-1], "\r"
        return visible(piece)

    def finish(self) -> str:
        """What was still held back; the filter is then as new."""
        held, self._held = self._held, ""
        return visible(held)
