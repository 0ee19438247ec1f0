"""What is to be replaced in a text: keys, known values, and what users add."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, takewhile
from typing import NamedTuple

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing.cassette.secrets.patterns import keys_in

__all__ = ["Edit", "JSONPath", "Rule", "TextRule", "key_rules", "merged", "replaced", "text_rule"]


class Edit(NamedTuple):
    """Put `text` where `start` to `end` is."""

    start: int
    end: int
    text: str = REDACTED


class JSONPath:
    """The texts at a path of a JSON body or event, and below it.

    Args:
        path: names with dots between them, `[3]` for one element and `[*]` for all: `messages[*].content.email`. What
            stands inside a string (the arguments of a tool call) has no path. Elements that say their own `index`
            are counted by it.
    """

    def __init__(self, path: str) -> None:
        if not re.fullmatch(r"(?:[^.\[\]]+|\[(?:\d+|\*)\])(?:\.[^.\[\]]+|\[(?:\d+|\*)\])*", path):
            raise ValueError(f"not a JSON path of names, [n] and [*]: {path!r}")
        self.path = path
        self._pattern = re.compile(re.escape(path).replace(r"\[\*\]", r"\[\d+\]") + r"(?:[.\[].*)?", re.DOTALL)

    def __repr__(self) -> str:
        return f"JSONPath({self.path!r})"

    def covers(self, path: str) -> bool:
        """Whether the text at `path` is one of these."""
        return self._pattern.fullmatch(path) is not None


Rule = str | re.Pattern[str] | tuple[re.Pattern[str], str] | JSONPath | Callable[[str], str]
"""A text; a regular expression, also with a replacement as `re.sub` has it; a path; a function from text to text.

All but paths see each text of a body, ids and types too. What a function changes in a stream, from the first change to
the last, comes with the delta where it begins.
"""

TextRule = Callable[[str], Iterable[Edit]]


def key_rules(known_values: Iterable[str]) -> list[TextRule]:
    """Whatever looks like a key, and the values that are known."""
    return [_keys, *(_literal(value) for value in known_values)]


def text_rule(rule: str | re.Pattern[str] | tuple[re.Pattern[str], str] | Callable[[str], str]) -> TextRule:
    """The edits that a rule of a user asks for."""
    match rule:
        case str():
            if not rule:
                raise ValueError("a rule that is an empty text would be found everywhere")
            return _literal(rule)
        case re.Pattern():
            return _pattern(rule, None)
        case (re.Pattern() as pattern, str(replacement)):
            return _pattern(pattern, replacement)
        case _ if callable(rule):
            return lambda text: _difference(text, rule(text))
    raise TypeError(f"a rule is a text, a pattern, (pattern, replacement), a JSONPath or a function, not {rule!r}")


def replaced(text: str, rules: Iterable[TextRule]) -> str:
    """The text after all rules, which all look at it as it was."""
    edits = merged(chain.from_iterable(rule(text) for rule in rules))
    ends = [0, *(edit.end for edit in edits)]
    kept = [text[end : edit.start] + edit.text for end, edit in zip(ends, edits, strict=False)]
    return "".join(kept) + text[ends[-1] :]


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """The edits in order; those that overlap as one, with the first text that is any."""
    result: list[Edit] = []
    for edit in sorted(edits):
        if result and edit.start < result[-1].end:
            last = result[-1]
            result[-1] = Edit(last.start, max(last.end, edit.end), last.text or edit.text)
        else:
            result.append(edit)
    return result


def _keys(text: str) -> Iterator[Edit]:
    return (Edit(start, end) for start, end in keys_in(text))


def _literal(value: str) -> TextRule:
    def edits(text: str) -> Iterator[Edit]:
        start = text.find(value)
        while start >= 0:
            yield Edit(start, start + len(value))
            start = text.find(value, start + len(value))

    return edits


def _pattern(pattern: re.Pattern[str], replacement: str | None) -> TextRule:
    def edits(text: str) -> Iterator[Edit]:
        for match in pattern.finditer(text):
            if match.end() > match.start():
                yield Edit(*match.span(), REDACTED if replacement is None else match.expand(replacement))

    return edits


def _difference(before: str, after: str) -> Iterator[Edit]:
    """One edit, from the first to the last character that differs."""
    if before != after:
        start = _alike(before, after)
        end = _alike(reversed(before[start:]), reversed(after[start:]))
        yield Edit(start, len(before) - end, after[start : len(after) - end])


def _alike(one: Iterable[str], other: Iterable[str]) -> int:
    """How many characters at the start are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
