"""Strategies for texts that have broken programs before, for their cuts into tokens, and for delimiters and fences."""

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
    """Return a strategy for texts of special pieces, with characters of all kinds between them.

    Raise `ValueError` without pieces.

    Args:
        pieces: pieces of the texts; examples shrink to the first ones.
        characters: strategy for single characters between the pieces; by default any, lone surrogates included. Give
            `st.nothing()` for pieces only.
        max_size: maximum number of pieces, and of characters.
    """
    if not pieces:
        raise ValueError("pieces is empty: give at least one piece of text")
    # Each piece is drawn as a character: a text is one draw and a list is many, which takes three times as long.
    piece_of = {chr(_FIRST_CODE + number): piece for number, piece in enumerate(pieces)}
    drawn = st.text("".join(piece_of), max_size=max_size)
    between = st.text(st.characters(exclude_categories=()) if characters is None else characters, max_size=max_size)

    @st.composite
    def text(draw: st.DrawFn) -> str:
        mixed = zip_longest(map(piece_of.get, draw(drawn)), draw(between), fillvalue="")
        return "".join(f"{piece}{char}" for piece, char in mixed)

    return text()


_FIRST_CODE = ord("0")
"""Code of the character for the first piece: Hypothesis shrinks texts to this character."""


def token_splits(text: str | st.SearchStrategy[str], *, max_cuts: int = 8) -> st.SearchStrategy[list[str]]:
    """Return a strategy for ways to cut a text into tokens, some of which may be empty.

    Args:
        text: the text, or a strategy for it.
        max_cuts: maximum number of cuts.
    """
    texts = st.just(text) if isinstance(text, str) else text
    places = st.binary(max_size=max_cuts)  # one draw, and the length of the text is not known yet

    @st.composite
    def split(draw: st.DrawFn) -> list[str]:
        """Draw a text and places in it, and return the pieces between these places."""
        whole = draw(texts)
        size = len(whole)
        edges = sorted(place % (size + 1) if size < 256 else place * size // 255 for place in draw(places))
        return [whole[start:end] for start, end in zip([0, *edges], [*edges, size], strict=True)]

    return split()


def delimiters(*, extra: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Return a strategy for delimiters of parts: line breaks, pieces of fences, strings that overlap themselves.

    Args:
        extra: further delimiters.
    """
    return st.sampled_from(
        ("\n\n", "\n", "-", "--", "aa", "aab", "---a", "\n\n\n", "`", "```", "a```", "``\n", "\n`", *extra)
    )


def fences(*, none: bool = True) -> st.SearchStrategy[str | None]:
    """Return a strategy for fences of code blocks: one character, repeated.

    Args:
        none: True to include None, for no code blocks.
    """
    return st.sampled_from(("```", *([None] if none else []), "~~~", "`", "-"))
