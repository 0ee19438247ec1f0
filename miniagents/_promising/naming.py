"""Names in dumps: of classes of Frozen objects, of options, and of keys, escaped where they look like another name.

Hashes and dumps name classes by their entries in `FROZEN_CLASSES`. Looking a name up imports and calls nothing: only
classes that are defined and alive are found.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from pydantic import SerializationInfo


CLASS_KEY: Final = "class_"
"""The key of a dump whose value is the name of the class. Keys of the content that look like it get one more `_`."""

_SKIPPED_MODULES = ("pydantic", "abc", "typing", "miniagents._promising.frozen", __name__)
"""Beginnings of the names of modules whose frames stand between a class statement and `register`."""


class _ClassRegistry:
    """Classes by their names. They are held weakly: a class defined in a function goes with its last user."""

    unknown: Any = None
    """Class of nested objects of unknown name in a dump; `miniagents.messages` sets it to `Message`."""

    def __init__(self) -> None:
        self._classes: WeakValueDictionary[str, type[Any]] = WeakValueDictionary()
        self._places: dict[str, tuple[str, int]] = {}

    def register(self, name: str, cls: type[Any]) -> None:
        """Give a class its name. Issue a warning if the name belongs to a class from another place in the code.

        A class statement that runs again (in a reloaded module, in a function) replaces its class without a warning.
        """
        frame, depth = _find_class_statement()
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
        """Return the class of this name; None for an unknown name, or a value that is no str."""
        return self._classes.get(name) if isinstance(name, str) else None


FROZEN_CLASSES: Final = _ClassRegistry()
"""All subclasses of Frozen that are alive, by their names."""


def escaped(items: dict[str, Any]) -> dict[str, Any]:
    """Return `items` with their keys escaped, so that none is read as a tag: "class_" becomes "class__", "$x" "$$x"."""
    names = "".join(items)
    if "$" not in names and CLASS_KEY not in names:
        return items
    return {_escaped_key(key): value for key, value in items.items()}


def _escaped_key(key: str) -> str:
    """Return a key of user data in a form that is neither a tag nor the key `class_`."""
    if key[:1] == "$":
        return "$" + key
    return key + "_" if _is_class_like(key) else key


def unescaped_key(key: Any) -> Any:
    """Return the key from which `escaped` made this one; return other keys, and values that are no str, as they are."""
    if not isinstance(key, str):
        return key
    if key[:2] == "$$":
        return key[1:]
    return key[:-1] if key != CLASS_KEY and _is_class_like(key) else key


def _is_class_like(key: str) -> bool:
    """Return True for `class_`, also with further underscores at its end."""
    return key.startswith(CLASS_KEY) and not key[len(CLASS_KEY) :].strip("_")


def are_plain_keys(keys: Iterable[str]) -> bool:
    """Return True if none of the keys is escaped in a dump."""
    names = "".join(keys)
    if names.isascii() and "$" not in names and CLASS_KEY not in names:
        return True
    return all(_escaped_key(key) == key for key in keys) and is_utf8(names)


def dump_options(info: SerializationInfo[Any]) -> dict[str, Any]:
    """Return the options of the dump that pydantic makes, except the mode, as keyword arguments.

    A caller passes them on to the dump of a nested value.
    """
    names = ("include", "exclude", "context", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")
    more = ("exclude_computed_fields", "round_trip", "serialize_as_any")
    return {name: getattr(info, name) for name in (*names, *more)}


def is_utf8(text: str) -> bool:
    """Return True if a text can be encoded as UTF-8, so that it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find_class_statement() -> tuple[FrameType, int]:
    """Return the frame of the class statement, and its number of frames above the caller of this function.

    That is the nearest frame outside of pydantic and of this package's model classes.
    """
    depth = 1
    frame = sys._getframe(depth)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(_SKIPPED_MODULES):
        frame = frame.f_back
        depth += 1
    return frame, depth
