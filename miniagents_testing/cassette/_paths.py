"""Paths to places in a body or in a query: `metadata`, `messages[*].id`, `**.id`, `?timestamp`.

One language serves all that takes paths: what is not compared, and what is redacted.

| path | places |
|---|---|
| `a.b` | the field `b` of `a`; a form and a multipart body have fields, too: `file.filename` |
| `a[0]` | the first element of `a` |
| `a[*].b`, `a.*.b` | the field `b` of each element and of each field of `a`: `*` is any name or index |
| `**.b` | each field `b`, however deep |
| `["a.b"]` | a field whose name has a point, a bracket, a star, a quote or the like |
| `?b` | the parameter `b` of the query; `?*` is each one |

A text that is JSON itself, such as the arguments of a tool call, is entered: `tools[*].arguments.id`.
"""

from __future__ import annotations

import json
import re
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette._bodies import NO_TREE, json_text, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


_Step = str | EllipsisType | None
"""Name or number, `_ANY` or `_ANY_DEPTH`."""

_ANY = None
_ANY_DEPTH = ...

_PLAIN = re.compile(r"""[^.\[\]*?"'\s](?:[^.\[\]*?"']*[^.\[\]*?"'\s])?""")
"""A name that stands in a path as it is."""
_STEP = re.compile(
    rf"""(?P<stars>\*\*?) | (?P<name>{_PLAIN.pattern})
    | \[(?: (?P<any>\*) | (?P<index>0|[1-9][0-9]*) | (?P<text>"(?:[^"\\]|\\.)*") | '(?P<plain>[^']*)' )\]""",
    re.VERBOSE,
)
_PARAMETER = re.compile(r"\*|[^*&=#]+")


class Path:
    """Places in a body, or a parameter of the query.

    Args:
        text: the path, as the table of this module says.

    Raises:
        ValueError: the path cannot be read; the message says why.
        TypeError: it is no text.
    """

    __slots__ = ("_steps", "parameter", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a path is a text such as `messages[*].id`, not {text!r}")
        self.text = text
        self.parameter = text.removeprefix("?") if text.startswith("?") else None
        """Name of a parameter of the query, or `*`; None for a path into a body."""
        self._steps: tuple[_Step, ...] = () if text.startswith("?") else tuple(_steps_of(text))
        if self.parameter is not None and not _PARAMETER.fullmatch(self.parameter):
            raise _error(text, "behind `?` stands the name of a parameter, or `*` for all")

    def __repr__(self) -> str:
        return f"Path({self.text!r})"

    def covers(self, place: Iterable[str]) -> bool:
        """Return True if a place in a body is one of this path, or is below one.

        Args:
            place: names and numbers of elements, from the top of the body.
        """
        return self._next_steps(place) is None

    def leads_below(self, place: Iterable[str]) -> bool:
        """Return True if this path may have places below one that it does not cover itself."""
        return bool(self._next_steps(place))

    def covers_parameter(self, name: str) -> bool:
        """Return True if this is the path of a parameter of the query."""
        return self.parameter is not None and self.parameter in ("*", name)

    def _next_steps(self, place: Iterable[str]) -> set[int] | None:
        """Return the numbers of the steps that may come after a place; None if the path covers the place."""
        steps = self._steps
        reached = self._with_depths([0] if steps else [])
        for name in place:
            following: list[int] = []
            for number in reached:
                if steps[number] is _ANY_DEPTH:
                    following.append(number)
                elif steps[number] in (_ANY, name):
                    if number + 1 == len(steps):
                        return None
                    following.append(number + 1)
            reached = self._with_depths(following)
        return reached

    def _with_depths(self, reached: Iterable[int]) -> set[int]:
        """Return the steps with those after a `**`, which stands for no level, too."""
        found = set(reached)
        return found | {number + 1 for number in found if self._steps[number] is _ANY_DEPTH}

    def removed_from(self, tree: Any) -> Any:
        """Return a tree without the values at this path. Its objects and arrays are changed in place."""
        return tree if self.parameter is not None else _removed(tree, self._steps)


def member(name: str) -> str:
    """Return the step to a field as it stands in a path behind others: `.name`, or `["a.b"]`."""
    return f".{name}" if _PLAIN.fullmatch(name) and name != "$" else f"[{json.dumps(name, ensure_ascii=False)}]"


def _steps_of(text: str) -> Iterator[_Step]:
    """Yield the steps of a path into a body.

    Raises:
        ValueError: the path cannot be read.
    """
    position = 0
    step: _Step = ""
    while position < len(text):
        dotted = position > 0 and text[position] == "."
        found = _STEP.match(text, position + dotted)
        if found is None or (position > 0 and dotted is (text[found.start()] == "[")):
            raise _error(text, _reason(text, position))
        if found["name"] == "$":
            raise _error(text, 'a path begins at the top of the body, without `$`; a field of that name is `["$"]`')
        before, step = step, _step_of(found)
        if not (before is step is _ANY_DEPTH):  # several are one
            yield step
        position = found.end()
    if not text:
        raise _error(text, "it is empty")
    if step is _ANY_DEPTH:
        raise _error(text, "`**` is any depth, and needs a name behind it")


def _step_of(found: re.Match[str]) -> _Step:
    """Return the step that `_STEP` has found: a name or an index as text, `_ANY` or `_ANY_DEPTH`.

    Raise `ValueError` for a quoted name that is no JSON string.
    """
    if found["stars"] or found["any"]:
        return _ANY_DEPTH if found["stars"] == "**" else _ANY
    if found["text"] is not None:
        try:
            return str(json.loads(found["text"]))
        except ValueError as error:
            raise _error(found.string, f"{found['text']} is no JSON string: {error}") from None
    return next(name for name in (found["name"], found["index"], found["plain"]) if name is not None)


def _reason(text: str, position: int) -> str:
    """Return the reason why a path cannot be read from a position on."""
    left = text[position:]
    if left[0] == "." and left[1:2] in ("", ".", "["):
        return f"a name is missing in {left!r}"
    if left[0] == "[" and "]" in left:
        inside = left[1:].partition("]")[0]
        return f"in brackets stands a number from 0, `*`, or a name in quotes, not {inside!r}"
    if left[0] == "[":
        return f"the bracket of {left!r} is not closed"
    if left[0] == "?":
        return "`?name`, alone, is a parameter of the query"
    if "*" in text[position - 1 :]:
        return f"`*` stands for a whole name, so {left!r} cannot be read"
    return f'{left!r} cannot be read; a name with such characters stands in brackets and quotes, as in `["a.b"]`'


def _error(text: str, reason: str) -> ValueError:
    """Make the error about a path that cannot be read."""
    return ValueError(
        f"{text!r} is no path into a body: {reason}. "
        "Paths look like `metadata`, `messages[*].id`, `**.id` or `?timestamp`"
    )


def _removed(value: Any, steps: Sequence[_Step]) -> Any:
    """Return a value without the values at these steps. JSON in a text is entered, and written in one spelling.

    Objects and arrays are changed in place.
    """
    if isinstance(value, str):
        inside = parse_json(value) if value.lstrip()[:1] in ("{", "[") else NO_TREE
        return value if inside is NO_TREE else json_text(_removed(inside, steps))
    step, rest = steps[0], steps[1:]
    if step is _ANY_DEPTH:
        value = _removed(value, rest)
        step, rest = _ANY, steps
    for place in _places_of(value, step):
        if rest:
            value[place] = _removed(value[place], rest)
        else:
            del value[place]
    return value


def _places_of(value: Any, step: _Step) -> Sequence[Any]:
    """Return the keys or indices that a step names in an object or array, the last index first.

    None in other values.
    """
    if isinstance(value, dict):
        return list(value) if step is _ANY else [step] if step in value else ()
    if not isinstance(value, list):
        return ()
    if step is _ANY:
        return range(len(value) - 1, -1, -1)
    assert isinstance(step, str)
    return [int(step)] if step.isascii() and step.isdigit() and int(step) < len(value) else ()
