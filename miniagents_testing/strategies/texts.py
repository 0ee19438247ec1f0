"""Texts that have broken programs before, and the ways in which a text can arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from miniagents_testing.odd_texts import LOOKALIKES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["delimiters", "fences", "texts", "token_splits"]


def texts(
    *, pieces: Sequence[str] = LOOKALIKES, characters: st.SearchStrategy[str] | None = None, max_size: int = 6
) -> st.SearchStrategy[str]:
    """Any text, of pieces that look like something and of characters of all kinds.

    Args:
        pieces: what it may be made of.
        characters: single characters that come between them; any at all by default, lone surrogates too. Give
            `st.nothing()` for pieces only.
        max_size: the number of pieces and characters.
    """
    if not pieces:
        raise ValueError("texts are made of pieces: give at least one")
    parts = st.sampled_from(tuple(pieces)) | (
        st.characters(exclude_categories=()) if characters is None else characters
    )
    return st.lists(parts, max_size=max_size).map("".join)


def token_splits(text: str | st.SearchStrategy[str], *, max_cuts: int = 8) -> st.SearchStrategy[list[str]]:
    """The ways in which a text can arrive as tokens; some may be empty.

    Args:
        text: the text, or what makes one.
        max_cuts: the number of places at which it is cut.
    """
    texts = st.just(text) if isinstance(text, str) else text
    # Places are drawn from the same range for any text: an example then shrinks without drawing anew.
    places = st.lists(st.integers(0, 1_000), max_size=max_cuts)

    @st.composite
    def split(draw: st.DrawFn) -> list[str]:
        whole = draw(texts)
        edges = sorted(place % (len(whole) + 1) for place in draw(places))
        return [whole[start:end] for start, end in zip([0, *edges], [*edges, len(whole)], strict=True)]

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
