r"""Filter that makes untrusted text safe to print: control characters are replaced with visible escapes (`\x1b`).

All text from a model, a provider or a file is filtered before it is printed: tokens, roles, error texts, log lines.
Markdown histories (`_markdown_records`) show texts in the same way, and keep the originals. This module returns
text and is independent of streams and colours.
"""

from __future__ import annotations

import re

# Replacing single characters makes every escape sequence harmless: without ESC (or its one-character C1 form), the rest
# of a sequence is plain text. So no sequence is parsed, and it does not matter if tokens split one.
CONTROLS = (
    "\x00-\x08\x0b-\x1f"  # C0 without tab and newline; CR is included, because text after it overwrites the line
    "\x7f-\x9f"  # DEL and C1: U+009B alone is a CSI, U+009D an OSC (ECMA-48, 8-bit forms)
    "\u2028\u2029"  # line and paragraph separator
    "\u202a-\u202e\u2066-\u2069"  # bidirectional overrides and isolates reorder what is read (CVE-2021-42574)
    "\u200b\u2060-\u2064\ufeff\ufff9-\ufffb"  # invisible; ZWJ and ZWNJ stay, emoji and Persian need them
    "\ud800-\udfff"  # half a surrogate pair: printing it raises UnicodeEncodeError
)
"""Characters that a terminal obeys or hides, but for tab and newline, for use in a regular expression's `[...]`."""
TAGS = "\U000e0000-\U000e007f"
"""Tag characters, an invisible copy of ASCII, for use in a regular expression's `[...]`."""

_IN_TEXT = re.compile(f"[{CONTROLS}{TAGS}]")
_IN_LINE = re.compile(f"[\t\n{CONTROLS}{TAGS}]")


def as_escape(match: re.Match[str]) -> str:
    r"""Return the matched character as an escape, such as `\x1b`, `\u202e` or `\U000e0041`."""
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    r"""Return text with control characters as escapes; newlines and tabs stay, CR LF becomes a newline."""
    if text.isprintable():  # fast path for most tokens; newlines and tabs are not printable, and take the slow path
        return text
    return _IN_TEXT.sub(as_escape, text.replace("\r\n", "\n"))


def visible_line(text: str) -> str:
    r"""Return text for one line, such as a role or an alias: newlines and tabs become escapes, too."""
    return text if text.isprintable() else _IN_LINE.sub(as_escape, text)


class TerminalFilter:
    r"""Filter for text that arrives in pieces: together, the outputs are `visible` of the whole text.

    The only state is a CR at the end of a piece, which is held until the next piece arrives. CR LF is a newline; a CR
    alone becomes an escape.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return a piece of text with control characters escaped; a CR at its end is held back for the next piece."""
        if self._held:
            piece, self._held = self._held + piece, ""
        if piece.endswith("\r"):
            piece, self._held = piece[:-1], "\r"
        return visible(piece)

    def finish(self) -> str:
        """Return the text that was held back, and reset the filter."""
        held, self._held = self._held, ""
        return visible(held)
