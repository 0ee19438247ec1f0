"""The text of a cassette as plain data: dicts, lists, texts, numbers. It runs nothing, and costs what its length costs.

This room knows YAML and JSON, and nothing of what stands in a cassette.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import yaml

from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    # libyaml is in every wheel of PyYAML; where somebody built it without, files read the same, 10 times slower.
    _SafeLoader = yaml.SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

__all__ = ["plain_data"]

DEEPEST = 100
"""Levels of lists and mappings in each other; a cassette has a dozen, with a parsed JSON body in it some more."""

LARGEST = 10
"""How often what the file says may be said again: plain vcrpy writes headers that interactions share once."""

MOST_MERGED = 1000
"""Entries that one mapping takes from others; no recorder merges, and who edits by hand merges a few headers."""


def plain_data(text: str | bytes) -> Any:
    """What a text says in YAML or, from its first brace, in JSON: the other form that vcrpy writes.

    Raises:
        CassetteFormatError: it cannot be read; or nesting, repetition or circles make it cost more than its length.
    """
    try:
        # a JSON string may hold an emoji as two escapes, which YAML refuses
        data = json.loads(text) if text[:1] in ("{", b"{") else yaml.load(text, _Loader)
    except Exception as error:  # PyYAML's own, and what its constructors stumble over, as KeyError for `!!bool x`
        raise CassetteFormatError(f"not readable as YAML or JSON in UTF-8: {error}") from error
    if not _in_proportion(data, LARGEST * len(text)):
        raise CassetteFormatError(
            f"not a cassette: its lists and mappings are more than {DEEPEST} levels deep, "
            f"or aliases (`*name`) make it more than {LARGEST} times as long as it is"
        )
    return data


class _Loader(_SafeLoader):
    """The safe loader, with an end to what it does for a short text."""

    _depth = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Called before each node. Before libyaml 0.2.6 only the stack ended nesting, and with it the process."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels of lists and mappings")

    def ascend_resolver(self) -> None:
        """Called after each node."""
        self._depth -= 1

    def flatten_mapping(self, node: Any) -> None:
        """Called for each mapping, to merge what `<<` names. Before PyYAML 6.0.4 merges of merges took forever."""
        written = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > written + MOST_MERGED:
            raise yaml.YAMLError(f"more than {MOST_MERGED} entries of other mappings in one")

    def integer(self, node: Any) -> int:
        """Called for each integer. YAML 1.1 has some to the base 60 (`1:30`), which take PyYAML quadratic time."""
        if len(node.value) > sys.int_info.default_max_str_digits:
            raise yaml.YAMLError(f"a number of {len(node.value)} characters")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)


def _in_proportion(data: Any, limit: int) -> bool:
    """Whether data is no deeper than it may be, and with all aliases spelled out no larger; circles are neither."""
    level, size = [data], 0
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, (str, bytes)):
                size += len(value)
            elif isinstance(value, (dict, list, tuple, set)):
                size += len(value)
                if size > limit:
                    return False
                below += (*value, *value.values()) if isinstance(value, dict) else value
        if not below:
            return size <= limit
        level = below
    return False
