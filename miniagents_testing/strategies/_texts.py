"""Texts that have broken programs before, and the ways in which a text can arrive."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from miniagents_testing._odd_texts import LOOKALIKES

if TYPE_CHECKING:
    from collections.abc import Sequence


def texts(
    *, pieces: Sequence[str] = LOOKALIKES, characters: st.SearchStrategy[str] | None = None, max_size: int = 6
) -> st.SearchStrategy[str]:
    """Any text, of pieces that look like something, and between them characters of all kinds.

    Args:
        pieces: what it may be made of; examples shrink to the first ones.
        characters: single characters that come between them; any at all by default, lone surrogates too. Give
            `st.nothing()` for pieces only.
        max_size: the number of pieces, and of characters.
    """
    if not pieces:
        raise ValueError("texts are made of pieces: give at least one")
    # Each piece is drawn as a character, because a text is one draw and a list is many: three times as fast.
    piece_of = {chr(FIRST + number): piece for number, piece in enumerate(pieces)}
    drawn = st.text("".join(piece_of), max_size=max_size)
    between = st.text(st.characters(exclude_categories=()) if characters is None else characters, max_size=max_size)

    @st.composite
    def text(draw: st.DrawFn) -> str:
        mixed = zip_longest(map(piece_of.get, draw(drawn)), draw(between), fillvalue="")
        return "".join(f"{piece}{char}" for piece, char in mixed)

    return text()


FIRST = ord("0")
"""The character for the first piece: what Hypothesis shrinks texts to."""


def token_splits(text: str | st.SearchStrategy[str], *, max_cuts: int = 8) -> st.SearchStrategy[list[str]]:
    """The ways in which a text can arrive as tokens; some may be empty.

    Args:
        text: the text, or what makes one.
        max_cuts: the number of places at which it is cut.
    """
    texts = st.just(text) if isinstance(text, str) else text
    places = st.binary(max_size=max_cuts)  # of a text that is not known yet, and in one draw

    @st.composite
    def split(draw: st.DrawFn) -> list[str]:
        whole = draw(texts)
        size = len(whole)
        edges = sorted(place % (size + 1) if size < 256 else place * size // 255 for place in draw(places))
        return [whole[start:end] for start, end in zip([0, *edges], [*edges, size], strict=True)]

    return split()


def delimiters(*, extra: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """What parts of a text may be separated by: line breaks, pieces of fences, strings that overlap themselves.

    Args:
        extra: further ones.
    """
    return st.sampled_from(
        ("\n\n", "\n", "-", "--", "aa", "aab", "---a", "\n\n\n", "`", "```", "a```", "``\n", "\n`", *extra)
    )


def fences(*, none: bool = True) -> st.SearchStrategy[str | None]:
    """What may fence a block of code: one character, repeated.

    Args:
        none: whether None, for no blocks at all, is among them.
    """
    return st.sampled_from(("```", *([None] if none else []), "~~~", "`", "-"))
