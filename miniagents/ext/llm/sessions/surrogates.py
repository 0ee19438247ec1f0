"""Halves of characters outside the basic plane, which JSON may spell as two escapes that a stream then cuts apart."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

__all__ = ["SurrogateJoiner", "mend", "mend_deep"]

T = TypeVar("T")


class SurrogateJoiner:
    r"""Joins `\ud83d` at the end of one piece to `\ude00` at the start of the next; what stays alone becomes U+FFFD."""

    __slots__ = ("half", "lossy")

    def __init__(self) -> None:
        self.half = ""
        """The first half that waits for its second."""
        self.lossy = False

    def feed(self, piece: str) -> str:
        """What of the text can be said now: all but a first half at its end."""
        if not self.half and piece.isascii():
            return piece
        if not piece:
            return ""
        piece = self.half + piece
        self.half = ""
        if "\ud800" <= piece[-1] <= "\udbff":
            self.half = piece[-1]
            piece = piece[:-1]
        whole = mend(piece)
        self.lossy |= whole.count("\ufffd") > piece.count("\ufffd")
        return whole

    def flush(self) -> str:
        """The end of the text."""
        if not self.half:
            return ""
        self.half = ""
        self.lossy = True
        return "\ufffd"


def mend(text: str) -> str:
    """The text with pairs of surrogates joined and lone ones replaced."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend_deep(value: T) -> T:
    """The same for every string in parsed JSON (keys too) and in our own plain values."""
    return cast("T", _mended(value))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, list | tuple):
        return type(value)(_mended(item) for item in value)
    if isinstance(value, dict):
        return {mend(key): _mended(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _mended(getattr(value, field.name)) for field in fields(value)})
    return value
