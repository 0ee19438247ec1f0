"""Fields of an answer: numbers of tokens, reasons for the end, fields of a message or a call without a name here.

`Tokens` holds the numbers of the providers' usage objects as the documentation of `Usage` defines them: the input
includes cache reads and writes, the output includes reasoning. Providers differ there, and the module corrects what
their numbers show.

A provider may need such a field back, unchanged, in a later prompt: thought signatures, `reasoning_details`. A stream
sends it in pieces, and its format is not known, so one rule merges the pieces of every field. The module is independent
of the APIs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

_is_integer = re.compile(r"\s*-?[0-9]{1,18}(\.0*)?\s*").fullmatch


@dataclass(slots=True)
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
        """Return the numbers of a provider whose input should include the cache, and whose output the reasoning.

        Where they do not, correct them: a part that is larger than its whole was not counted in it. A total that is
        larger than input and output has the rest in the output: xAI and Gemini leave out their reasoning there.
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
    """Return a usage object updated by a later one: numbers are running totals, so the later one of each name counts.

    A null replaces nothing.
    """
    old = old or {}
    return {**old, **{name: value for name, value in new.items() if value is not None or name not in old}}


def count_at(usage: Any, *paths: str) -> int | None:
    """Return the first number of tokens that stands at one of these paths, such as `details.cached_tokens`.

    Values that are no whole number from 0 up are passed over. Return None if no path has a number.
    """
    for path in paths:
        value = usage
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and (count := as_count(value)) is not None:
            return count
    return None


def as_count(value: Any) -> int | None:
    """Return a count as an int, None if it is no whole number from 0 up; some servers write "12" or 12.0."""
    if type(value) is str and _is_integer(value):
        value = int(value.partition(".")[0])
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


# --- the reason for the end

_FINISH_REASONS: Final = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",  # Gemini
    "sensitive": "content_filter",  # Zhipu
    "refusal": "refusal",
    "pause_turn": "pause",
}
"""Reasons for the end by the words of the providers, in lower case and with underscores.

One table for all APIs, because compatible servers use the words of the models behind them.
"""
_BROKE_OFF: Final = frozenset({"error", "insufficient_system_resource", "network_error"})
"""Words with which servers (DeepSeek, Zhipu) report that they broke off."""


def finish_reason_of(word: str) -> str:
    """Return a provider's word in the vocabulary of `Outcome.finish_reason`; an unknown word stays as it is."""
    return _FINISH_REASONS.get(word) or _FINISH_REASONS.get(_folded(word), word)


def broke_off(word: str) -> bool:
    """Return True for a finish reason with which a server reports that it broke off."""
    return word not in _FINISH_REASONS and _folded(word) in _BROKE_OFF


def _folded(word: str) -> str:
    """Return a word in lower case, with underscores in place of hyphens."""
    return word.lower().replace("-", "_")


# --- fields that this package does not name


REPEATED: Final = frozenset({"id", "type", "format", "index", "signature", "name"})
"""Names of fields whose whole value stands in each piece: the last value that is not empty counts."""


EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})
"""Values of fields that say nothing."""


class FieldCollector:
    """Collector of the pieces of fields by name, which `merge_pieces` merges at the end.

    Adding a piece takes the same time however many came before.
    """

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: dict[str, list[Any]] = {}

    def add(self, name: str, piece: Any) -> None:
        """Add the next piece of a field, unmerged: a value of parsed JSON."""
        self._pieces.setdefault(name, []).append(piece)

    def add_unnamed(self, holder: dict[str, Any], named: frozenset[str]) -> None:
        """Add the fields of `holder`, a delta or a call, that are not in `named`; leave out empty ones."""
        for key, value in holder.items():
            if key not in named and value not in EMPTY:
                self.add(key, value)

    def whole(self) -> dict[str, Any]:
        """Return the merged fields, in the order in which they began."""
        return {name: merge_pieces(pieces, name) for name, pieces in self._pieces.items()}


def merge_pieces(pieces: list[Any], name: str = "") -> Any:
    """Merge the pieces of the field `name`, which are parsed JSON, in the order of their arrival.

    Strings are joined, except in the fields of `REPEATED`. Dicts are merged field by field, and lists item by item (see
    `_merge_lists`). Of other values the last one counts. If the type changes, only the pieces since the last change
    count. A null changes nothing. A single piece is returned unchanged.
    """
    pieces = [piece for piece in pieces if piece is not None] or pieces[-1:]
    last = pieces[-1]
    kind = type(last)
    if kind not in (str, list, dict):
        return last
    start = next((place for place in range(len(pieces), 0, -1) if type(pieces[place - 1]) is not kind), 0)
    pieces = pieces[start:]
    if len(pieces) == 1:
        return last
    if kind is dict:
        fields = FieldCollector()
        for piece in pieces:
            for key, value in piece.items():
                fields.add(key, value)
        return fields.whole()
    if kind is list:
        return _merge_lists(pieces)
    if name in REPEATED:
        return next((piece for piece in reversed(pieces) if piece), "")
    return "".join(pieces)


def _merge_lists(lists: list[list[Any]]) -> list[Any]:
    """Merge items that have the same `index`, and append all others, in the order in which the items began.

    An index is an integer or a string. Items of one list stay apart, and so do items of one index that differ in
    `type`: OpenRouter sends the text of thoughts and their encrypted form under the same index. An item without `type`
    takes the latest type of its index; one with a `type` may continue an item without.
    """
    merged: list[list[Any]] = []
    known: dict[tuple[Any, Any], list[Any]] = {}
    types: dict[Any, Any] = {}
    for items in lists:
        extended: set[int] = set()
        for item in items:
            index = item.get("index") if isinstance(item, dict) else None
            if not isinstance(index, int | str):
                merged.append([item])
                continue
            kind = item.get("type")
            kind = kind if kind and isinstance(kind, str) else types.get(index)
            parts = known.pop((index, kind), None) or known.pop((index, None), None)
            if parts is None or id(parts) in extended:
                merged.append(parts := [])
            parts.append(item)
            extended.add(id(parts))
            known[index, kind], types[index] = parts, kind
    return [merge_pieces(pieces) for pieces in merged]
