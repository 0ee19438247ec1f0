"""Laws 42 to 44 as properties of the splitter: it finds the parts of the whole text, however the text was cut."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from miniagents import join_messages, split_messages
from miniagents.messages._text import SEPARATOR, TEXT, TextSplitter
from miniagents_testing import strategies
from miniagents_testing.checks import check_join_split, check_split_ignores_cuts, check_split_keeps_text

Found = tuple[list[str], list[str]]
"""The parts, and the separators before, between and after them."""


def split_whole(text: str, delimiter: str, fence: str | None) -> Found:
    """Return the parts of a whole text, by applying each rule of splitting at one character after the other."""
    parts: list[str] = []
    separators, current = [""], ""
    position = 0
    after_block = False

    def end_part(separator: str) -> None:
        nonlocal current
        if current:
            parts.append(current)
            separators.append("")
            current = ""
        separators[-1] += separator

    while position < len(text):
        block = block_end(text, position, fence)
        if block > position:
            end_part("")
            current = text[position:block]
            end_part("")
            position, after_block = block, True
            continue
        line_break_at_block = text[position] == "\n" and (
            after_block or block_end(text, position + 1, fence) > position + 1
        )
        after_block = False
        if text.startswith(delimiter, position):
            end_part(delimiter)
            position += len(delimiter)
        elif line_break_at_block:
            end_part("\n")
            position += 1
        else:
            current += text[position]
            position += 1
    end_part("")
    return parts, separators


def block_end(text: str, position: int, fence: str | None) -> int:
    """Return the end of the block that opens at `position`, or `position` if no block opens there."""
    opening = run_at(text, position, fence)
    if fence is None or opening < len(fence):
        return position
    for start in range(position + opening, len(text)):
        closing = run_at(text, start, fence)
        if closing >= opening:
            return start + closing
    return len(text)


def run_at(text: str, position: int, fence: str | None) -> int:
    """Return how many characters of the fence the line at `position` begins with; 0 if no line begins there."""
    if fence is None or (position > 0 and text[position - 1] != "\n"):
        return 0
    rest = text[position:]
    return len(rest) - len(rest.lstrip(fence[0]))


def split_tokens(tokens: list[str], delimiter: str, fence: str | None) -> Found:
    """Return the parts that the splitter reports token by token."""
    splitter = TextSplitter(delimiter, fence)
    parts: list[str] = []
    separators, in_part = [""], False
    for token in [*tokens, None]:
        for kind, piece in splitter.close() if token is None else splitter.feed(token):
            if kind is SEPARATOR:
                separators[-1] += piece
                in_part = False
            elif in_part:
                parts[-1] += piece
            elif piece:
                parts.append(piece)
                separators.append("")
                in_part = True
    return parts, separators


def rejoined(found: Found) -> str:
    """Return parts and separators, joined in their order."""
    parts, separators = found
    return separators[0] + "".join(part + after for part, after in zip(parts, separators[1:], strict=True))


TEXTS = strategies.texts(pieces=strategies.MARKDOWN, characters=st.nothing(), max_size=14)
TOKENS = strategies.token_splits(TEXTS, max_cuts=12)
DELIMITERS = strategies.delimiters()
FENCES = strategies.fences()


@given(TOKENS, DELIMITERS, FENCES)
@example(["a\n```\nb\n\nc\n```\nd"], "\n\n", "```")
@example(["a\n`", "`", "``\n```\n\n````x"], "\n\n", "```")
def test_T3_splitter_finds_the_parts_of_the_whole_text_in_any_tokens(
    tokens: list[str], delimiter: str, fence: str | None
) -> None:
    """Any text in any tokens is split into the parts and separators that a plain model finds in the whole text."""
    assert split_tokens(tokens, delimiter, fence) == split_whole("".join(tokens), delimiter, fence)


@given(TEXTS, DELIMITERS, FENCES)
def test_splitter_finds_the_same_parts_in_single_characters(text: str, delimiter: str, fence: str | None) -> None:
    """Tokens of one character each give the parts of the whole text."""
    assert split_tokens(list(text), delimiter, fence) == split_whole(text, delimiter, fence)


@given(TOKENS, DELIMITERS, FENCES)
def test_T4_parts_and_separators_join_to_the_text(tokens: list[str], delimiter: str, fence: str | None) -> None:
    """Parts and separators that the splitter finds join to the text, and no part is empty."""
    found = split_tokens(tokens, delimiter, fence)
    assert rejoined(found) == "".join(tokens)
    assert all(found[0])


@given(TOKENS, DELIMITERS)
def test_splitter_without_fences_agrees_with_str_split(tokens: list[str], delimiter: str) -> None:
    """Without fences, the splitter finds the non-empty parts of `str.split`."""
    parts, _ = split_tokens(tokens, delimiter, None)
    assert parts == [part for part in "".join(tokens).split(delimiter) if part]


PARTS = st.lists(st.text("ab-\n", min_size=1, max_size=5), min_size=1, max_size=4)


@given(PARTS, st.sampled_from(["\n\n", "--", "ab"]))
async def test_joined_messages_split_into_the_same_parts(parts: list[str], delimiter: str) -> None:
    """Splitting joined messages gives them back, unless the delimiter occurs inside one or across two of them."""
    assume(delimiter.join(parts).split(delimiter) == parts)
    await check_join_split(join_messages, split_messages, parts, delimiter=delimiter)


@given(TOKENS, DELIMITERS)
async def test_split_messages_ignores_cuts_and_keeps_the_text(tokens: list[str], delimiter: str) -> None:
    """`split_messages` gives the parts of the whole text, however its tokens are cut."""
    await check_split_ignores_cuts(split_messages, "".join(tokens), delimiter=delimiter, tokens=tokens)
    await check_split_keeps_text(split_messages, "".join(tokens), delimiter=delimiter)


@given(TOKENS, DELIMITERS)
def test_split_parts_join_to_the_text_up_to_runs_of_delimiters(tokens: list[str], delimiter: str) -> None:
    """Without fences, separators are runs of delimiters, and the parts joined by one are split as `str.split` does."""
    parts, separators = split_tokens(tokens, delimiter, None)
    assert all(not separator.replace(delimiter, "") for separator in separators)
    assert split_tokens([delimiter.join(parts)], delimiter, None)[0] == [
        part for part in delimiter.join(parts).split(delimiter) if part
    ]


@given(TOKENS, DELIMITERS, FENCES)
def test_splitter_holds_back_only_text_that_may_become_a_separator(
    tokens: list[str], delimiter: str, fence: str | None
) -> None:
    """The splitter holds back only text that may still become a delimiter, or a line break and a fence."""
    splitter = TextSplitter(delimiter, fence)
    held = 0
    for token in tokens:
        held += len(token) - sum(len(piece) for _, piece in splitter.feed(token))
        assert held <= max(len(delimiter) - 1, len(fence or ""), 1)
    assert held == sum(len(piece) for _, piece in splitter.close())


@given(st.lists(st.text("abé ", min_size=1), max_size=5))
def test_splitter_passes_plain_tokens_as_they_are(tokens: list[str]) -> None:
    """A token that cannot be part of a delimiter or a fence comes out at once, in one piece."""
    splitter = TextSplitter("\n\n", "```")
    for token in tokens:
        assert splitter.feed(token) == [(TEXT, token)]
    assert splitter.close() == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("\n\n\n\n", []),
        ("a\n\n\n\nb", ["a", "b"]),
        ("a\n\n\nb", ["a", "\nb"]),
        ("a\nb\n\nc", ["a\nb", "c"]),
        ("a\n```py\nx\n\ny\n```\nb", ["a", "```py\nx\n\ny\n```", "b"]),
        ("```\nx\n\ny", ["```\nx\n\ny"]),
        ("````\n```\n\n````", ["````\n```\n\n````"]),
        ("```\n````\n\nb", ["```\n````", "b"]),
        ("``\n\n``", ["``", "``"]),
        ("a ```\n\n```", ["a ```", "```"]),
        ("```\n```\n```\n```", ["```\n```", "```\n```"]),
    ],
    ids=repr,
)
def test_splitter_finds_the_parts_of_known_texts(text: str, parts: list[str]) -> None:
    """Known texts are split into the listed parts, by the rules of law 42."""
    assert split_tokens([text], "\n\n", "```")[0] == parts
    assert split_tokens(list(text), "\n\n", "```")[0] == parts


@pytest.mark.parametrize(("delimiter", "fence"), [("", "```"), ("\n\n", ""), ("\n\n", "`~`")], ids=repr)
def test_splitter_refuses_delimiters_and_fences_that_cannot_split(delimiter: str, fence: str) -> None:
    """The splitter raises `ValueError` for an empty delimiter and for a fence that is no run of one character."""
    with pytest.raises(ValueError, match="delimiter"):
        TextSplitter(delimiter, fence)


@pytest.mark.parametrize("text", ["a", "\n", "`", "-", "\n```", "```\n", "a\n\n"], ids=repr)
def test_work_of_the_splitter_is_linear_in_the_text(text: str) -> None:
    """During ten thousand tokens the splitter never holds back more than four characters, so its work is linear."""
    splitter = TextSplitter("\n\n", "```")
    longest = 0
    for _ in range(10_000):
        splitter.feed(text)
        longest = max(longest, len(splitter._pending))
    assert longest <= 4
