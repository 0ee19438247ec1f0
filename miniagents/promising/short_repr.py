"""A repr that stays short whatever the value: long texts, large containers and deep nesting are cut."""

from __future__ import annotations

import reprlib
from typing import Any, Final

__all__ = ["short_repr"]

_BIG_INT_BITS: Final = 256


class _ShortRepr(reprlib.Repr):
    """Cuts in the middle, as `reprlib` does; a class takes part by a method `__short_repr_items__`."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 8
        self.maxstring = self.maxother = 80

    def repr1(self, x: Any, level: int) -> str:
        items = getattr(type(x), "__short_repr_items__", None)
        if items is None:
            return super().repr1(x, level)
        if level <= 0:
            return f"{type(x).__qualname__}(...)"
        shown = [f"{name}={self.repr1(value, level - 1)}" for name, value in items(x)]
        cut = [*shown[: self.maxdict], "..."] if len(shown) > self.maxdict else shown
        return f"{type(x).__qualname__}({', '.join(cut)})"

    def repr_FrozenDict(self, x: Any, level: int) -> str:  # noqa: N802 - reprlib looks methods up by the name of the type
        return f"FrozenDict({self.repr_dict(x, level)})"

    def repr_FrozenSet(self, x: Any, level: int) -> str:  # noqa: N802 - as above
        return self.repr_frozenset(x, level)

    def repr_int(self, x: int, level: int) -> str:
        # hex, because the decimal digits of a large int take quadratic time and are limited by the interpreter
        return super().repr_int(x, level) if x.bit_length() < _BIG_INT_BITS else f"{hex(x)[:32]}..."


short_repr = _ShortRepr().repr
"""`repr(value)`, with "..." for what is beyond 80 characters, 8 items or 4 levels."""
