"""Fields of a message or a call that have no name here: kept as they arrive, and merged at the end.

A provider may need such a field back, unchanged, in a later prompt: thought signatures, `reasoning_details`. A stream
sends it in pieces, and its format is not known, so one rule merges the pieces of every field. The module is
independent of the APIs.
"""

from __future__ import annotations

from typing import Any, Final

REPEATED: Final = frozenset({"id", "type", "format", "index", "signature", "name"})
"""Names of fields whose whole value stands in each piece: the last value that is not empty counts."""


class FieldCollector:
    """Collector of the pieces of fields by name; adding a piece takes the same time however many came before."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: dict[str, list[Any]] = {}

    def add(self, name: str, piece: Any) -> None:
        """Add the next piece of a field."""
        self._pieces.setdefault(name, []).append(piece)

    def whole(self) -> dict[str, Any]:
        """Return the merged fields, in the order in which they began."""
        return {name: merge_pieces(pieces, name) for name, pieces in self._pieces.items()}


def merge_pieces(pieces: list[Any], name: str = "") -> Any:
    """Merge the pieces of one field, which are parsed JSON, in the order of their arrival.

    Strings are joined, except in the fields of `REPEATED`. Dicts are merged field by field, and lists item by item (see
    `_merge_lists`). Of other values the last one counts, and so it is if the type changes. A null changes nothing. A
    single piece is returned unchanged.
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

    Items of one list stay apart, and so do items of one index that differ in `type`: OpenRouter sends the text of
    thoughts and their encrypted form under the same index.
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
