"""Errors for operations on a promise that only its result has: each says what to write in place of what was written.

Type checkers do not see these methods, and refuse each of the mistakes. At run time, too, a promise is no `Iterable`:
`for` finds `__getitem__`, which Python keeps for classes older than iterators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, NoReturn

_METHODS_OF_TEXT = frozenset(name for name in dir(str) if not name.startswith("_"))


class Spelling(NamedTuple):
    """Expressions with which the errors of one class of promises show what to write."""

    promise: str = "promise"
    piece: str | None = None
    """Variable of a loop over the promise; None if the promise cannot be read piece by piece."""
    whole: str = "await promise"
    """Result, which has a length and items."""
    single: str = "(await promise)"
    """Object that has the fields: the result, or the last message of it."""
    text: str | None = None
    """Text that the promise becomes; None if the result is no message."""


class NotAwaited:
    """Base of promises: raises an error for an operation on the promise that only its result has."""

    __slots__ = ()

    spelling: ClassVar[Spelling] = Spelling()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Raise `AttributeError`, with the line to write, unless the name begins with an underscore."""
            kind, spelling = type(self).__name__, self.spelling
            if name.startswith("_"):  # not written by a user, but asked for by IPython, pickle and others
                raise AttributeError(f"{kind!r} object has no attribute {name!r}")
            if spelling.text is not None and name in _METHODS_OF_TEXT:
                right = f"{spelling.text}.{name}(...)"
            else:
                right = f"{spelling.single}.{name}"
            raise AttributeError(f"A {kind} has no {name!r}: write `{right}`, not `{spelling.promise}.{name}`")

        def __getitem__(self, index: object) -> NoReturn:
            """Raise `TypeError`, with the line to write in place of an index, of `for` or of `in`."""
            promise, piece, whole, single, _ = self.spelling
            if isinstance(index, str):  # a field, as if the message were a dict
                right = f"{single}.{index}"
            else:
                right = f"({whole})[{_short(index)}]" if whole.startswith("await ") else f"{whole}[{_short(index)}]"
            loop = "" if piece is None else f", and `async for {piece} in {promise}:`, not `for {piece} in {promise}:`"
            raise TypeError(
                f"A {type(self).__name__} has to be awaited: write `{right}`, not `{promise}[{_short(index)}]`{loop}"
            )

        def __len__(self) -> NoReturn:
            """Raise `TypeError`, with the line to write."""
            right, wrong = f"len({self.spelling.whole})", f"len({self.spelling.promise})"
            raise TypeError(f"A {type(self).__name__} has no length before its end: write `{right}`, not `{wrong}`")

        def __bool__(self) -> bool:
            """Return True, whatever has come."""
            return True  # without it, `if promise:` would ask for the length

        def __add__(self, other: object) -> NoReturn:
            """Raise `TypeError`, with the line to write."""
            raise self._error_of_sum("", f" + {_short(other)}")

        def __radd__(self, other: object) -> NoReturn:
            """Raise `TypeError`, with the line to write."""
            raise self._error_of_sum(f"{_short(other)} + ", "")

        def _error_of_sum(self, before: str, after: str) -> TypeError:
            """Return the error for the sum `{before}promise{after}`.

            Its text shows the sum with the promise awaited.
            """
            right, wrong = self.spelling.text or self.spelling.single, self.spelling.promise
            return TypeError(
                f"A {type(self).__name__} has to be awaited: write `{before}{right}{after}`, "
                f"not `{before}{wrong}{after}`"
            )


def _short(value: object) -> str:
    """Return the repr of a number or a short text, and three dots for anything else."""
    return repr(value) if isinstance(value, (str, int)) and len(repr(value)) <= 30 else "..."
