"""The terminal filter: no text of a model can control a terminal, and ordinary text is unchanged."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miniagents.ext._terminal import TerminalFilter, visible, visible_line

# The kinds of payload used against chat programs: clipboard, title, link, clearing, colours, queries, 8-bit forms.
PAYLOADS = {
    "clipboard": "\x1b]52;c;ZWNobyBoaQ==\x07",
    "title": "\x1b]0;root@bank\x1b\\",
    "link": "\x1b]8;;http://evil.example\x1b\\good.example\x1b]8;;\x1b\\",
    "clear": "\x1b[2J\x1b[H",
    "conceal": "\x1b[8mhidden\x1b[0m",
    "cursor_up": "\x1b[3A\x1b[2Kforged line",
    "query": "\x1b[6n\x1bP$qm\x1b\\\x1b[c",
    "c1_csi": "\x9b2J",
    "c1_osc": "\x9d0;title\x9c",
    "backspaces": "safe\x08\x08\x08\x08evil",
    "carriage_return": "safe\revil",
    "bidi_override": "access\u202e\u2066// admin\u2069",
    "invisible_tags": "hi\U000e0041\U000e0042",
    "nul": "a\x00b",
    "next_line": "a\x85b\u2028c",
    "surrogate": "a\ud800b",
}

pieces_of_text = st.lists(
    st.text(
        st.one_of(
            st.characters(), st.sampled_from("\r\n\t\x1b\x9b\x9d\x07\u202e[]mJ0;"), st.characters(categories=["Cs"])
        )
    )
)


def is_obeyed(char: str) -> bool:
    """Return True if a terminal might do more than draw `char`."""
    if char in "\n\t":
        return False
    return unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or "\u202a" <= char <= "\u202e"


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_X10_filter_makes_known_attacks_harmless_for_every_cut(payload: str) -> None:
    """No control character of a known attack is left, wherever the text is split into two pieces."""
    expected = visible(payload)
    assert not any(map(is_obeyed, expected))
    for cut in range(len(payload) + 1):
        terminal_filter = TerminalFilter()
        shown = terminal_filter.feed(payload[:cut]) + terminal_filter.feed(payload[cut:]) + terminal_filter.finish()
        assert shown == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202etxt", r"\u202etxt"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff", r"\udcff"),
        ("a\rb", r"a\x0db"),
        ("\x7f", r"\x7f"),
    ],
)
def test_visible_returns_control_characters_as_escapes(text: str, shown: str) -> None:
    r"""A control character becomes visible text with its code, such as `\x1b`."""
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text", ["plain", "tab\tand\nnewline", "日本語 žluťoučký", "👨‍👩‍👧 ❤️", "می‌خواهم", "e\u0301", "שלום\u200f!", "\\x1b"]
)
def test_visible_returns_ordinary_text_unchanged(text: str) -> None:
    """Text in any script, emoji sequences, tabs and newlines are unchanged."""
    assert visible(text) == text


def test_filter_returns_cr_lf_as_a_newline() -> None:
    r"""The filter turns CR LF, even split over two pieces, into one newline.

    A CR at the very end becomes the visible text `\x0d`.
    """
    terminal_filter = TerminalFilter()
    assert terminal_filter.feed("a\r") == "a"
    assert terminal_filter.feed("\nb\r") == "\nb"
    assert terminal_filter.finish() == r"\x0d"
    assert terminal_filter.finish() == ""


def test_visible_line_returns_one_line() -> None:
    """`visible_line` shows line breaks as codes, so that a role or an alias cannot start a second line."""
    assert visible_line("user\nassistant\t\x1b[2J") == r"user\x0aassistant\x09\x1b[2J"
    assert visible_line("writer") == "writer"


@given(pieces_of_text)
@example(["\r"])
@example(["\r", "\n"])
@example(["\r", "\r\n\r"])
def test_X10_filter_returns_the_same_text_for_any_pieces(pieces: list[str]) -> None:
    """Any text in any pieces gives the same output as the whole text, without control characters."""
    terminal_filter = TerminalFilter()
    shown = "".join([terminal_filter.feed(piece) for piece in pieces])
    shown += terminal_filter.finish()
    assert shown == visible("".join(pieces))
    assert not any(map(is_obeyed, shown))
    assert shown.encode().decode() == shown  # and every output stream can hold it


@given(st.text())
def test_visible_returns_its_own_output_unchanged(text: str) -> None:
    """`visible` of a text that `visible` returned changes nothing."""
    assert visible(visible(text)) == visible(text)
    assert visible_line(visible_line(text)) == visible_line(text)
