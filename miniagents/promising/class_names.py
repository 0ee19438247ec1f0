"""The names under which classes are known outside of the process: in hashes, and in the `class_` key of a dump.

A closed look-up: only classes that were defined as subclasses and are alive are found, nothing is imported and
nothing is called.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

__all__ = ["BARE", "CLASS_KEY", "ClassNames", "escaped", "unescaped_key"]

CLASS_KEY: Final = "class_"
"""The key of a dump that has the name of the class. Keys of the content that look like it get one more `_`."""

BARE: Final = object()
"""The context of a dump that shall hold content only: no names of classes, no escaped keys."""

_MACHINERY = ("pydantic", "abc", "typing", "miniagents.promising.frozen", __name__)


class ClassNames:
    """Names of classes, each held weakly: a class defined in a function goes when nobody needs it."""

    def __init__(self) -> None:
        self._classes: WeakValueDictionary[str, type[Any]] = WeakValueDictionary()
        self._places: dict[str, tuple[str, int]] = {}

    def register(self, name: str, cls: type[Any]) -> None:
        """From now on `name` finds `cls`. Warns if the name belongs to a class from another place in the code.

        The same class statement run again (a module reloaded, a function called again) replaces the class silently.
        """
        frame, depth = _caller()
        place = (frame.f_code.co_filename, frame.f_lineno)
        if name in self._classes and self._places.get(name) != place:
            other = self._classes[name]
            warnings.warn(
                f"Two classes have the name {name!r}: {other.__module__}.{other.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}. Messages are read back as the second. "
                f'Name one of them explicitly: class {cls.__name__}(..., class_="another name").',
                stacklevel=depth,
            )
        self._classes[name] = cls
        self._places[name] = place

    def find(self, name: object) -> type[Any] | None:
        """The class known by `name`, or None."""
        return self._classes.get(name) if isinstance(name, str) else None


def escaped(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `content` in which no key can be mistaken for `CLASS_KEY`: "class_" becomes "class__", and so on."""
    return {key + "_" if _is_class_like(key) else key: value for key, value in content.items()}


def unescaped_key(key: Any) -> Any:
    """The key that `escaped` made this one of."""
    return key[:-1] if isinstance(key, str) and key != CLASS_KEY and _is_class_like(key) else key


def _is_class_like(key: str) -> bool:
    return key.startswith(CLASS_KEY) and not key[len(CLASS_KEY) :].strip("_")


def _caller() -> tuple[FrameType, int]:
    """The frame of the class statement, and how far up it is from the caller of this function."""
    depth = 1
    frame = sys._getframe(depth)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(_MACHINERY):
        frame = frame.f_back
        depth += 1
    return frame, depth
