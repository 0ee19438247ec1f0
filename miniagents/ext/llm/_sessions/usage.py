"""Numbers of tokens: read from the providers' usage objects, and brought to one meaning.

`Tokens` holds them as the documentation of `Usage` defines them: the input includes cache reads and writes, the output
includes reasoning. Providers differ there, and the module corrects what their numbers show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_is_integer = re.compile(r"\s*-?[0-9]{1,18}(\.0*)?\s*").fullmatch


@dataclass(frozen=True, slots=True)
class Tokens:
    """Numbers of tokens of an answer; None for numbers that the provider did not send."""

    input: int | None = None
    """Tokens of the prompt, including those that were read from or written to a cache."""
    output: int | None = None
    """Tokens of the answer, including reasoning."""
    cached: int | None = None
    """Tokens read from a cache, which `input` includes."""
    written: int | None = None
    """Tokens written to a cache, which `input` includes."""
    reasoning: int | None = None
    """Tokens of reasoning, which `output` includes."""
    total: int | None = None
    """Tokens of prompt and answer."""

    @classmethod
    def of_parts(
        cls,
        *,
        input: int | None,  # noqa: A002 - as the field is called
        output: int | None,
        cached: int | None = None,
        written: int | None = None,
        reasoning: int | None = None,
        total: int | None = None,
    ) -> Tokens:
        """Return the numbers of a provider that says to count the parts in the whole, corrected where it does not.

        A part that is larger than its whole was not counted in it. A total that is larger than input and output
        has the rest in the output: xAI and Gemini leave out their reasoning there.
        """
        in_cache = (cached or 0) + (written or 0)
        if input is not None and in_cache > input:
            input += in_cache  # noqa: A001 - as above
        if output is not None and (reasoning or 0) > output:
            output += reasoning or 0
        if input is not None and output is not None:
            output = max(output, (total or 0) - input)
            total = input + output
        return cls(input, output, cached, written, reasoning, total)


def merge_usage(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return a usage object after a later one: its numbers are running totals, so the last of each name counts."""
    old = old or {}
    return {**old, **{name: value for name, value in new.items() if value is not None or name not in old}}


def count_at(usage: Any, *paths: str) -> int | None:
    """Return the first number of tokens that stands at one of these paths, such as `details.cached_tokens`."""
    for path in paths:
        value = usage
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if (count := as_count(value)) is not None:
            return count
    return None


def as_count(value: Any) -> int | None:
    """Return a count as an int, None if it is no whole number from 0 up; some servers write "12" or 12.0."""
    if type(value) is str and _is_integer(value):
        value = int(value.partition(".")[0])
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None
