"""Pickles of Frozen objects, also of those that nest thousands deep, for which pickle's own recursion is too shallow.

A flat pickle has the objects one after the other, children first; each refers to the earlier ones by number. A state
names its class, so this module is independent of `frozen`.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents._promising.frozen import Frozen

    State = tuple[type[Frozen], dict[str, Any], dict[str, Any], set[str]]
    """Class, declared fields, extra fields, and names of the fields that were given."""


def get_state(value: Frozen) -> State:
    """Return the class, fields and names of given fields of an object, from which `rebuild` makes it again."""
    declared = {name: value.__dict__[name] for name in type(value).__pydantic_fields__}
    return type(value), declared, value.__pydantic_extra__ or {}, value.__pydantic_fields_set__


def rebuild(cls: type[Frozen], declared: dict[str, Any], extra: dict[str, Any], fields_set: set[str]) -> Frozen:
    """Return the object that `get_state` described.

    It is not validated again, because the class may have become stricter since, and not frozen again.
    """
    value = cls.__new__(cls)
    object.__setattr__(value, "__dict__", dict(declared))
    object.__setattr__(value, "__pydantic_extra__", dict(extra))
    object.__setattr__(value, "__pydantic_fields_set__", set(fields_set))
    object.__setattr__(value, "__pydantic_private__", None)
    return value


def dump_flat(objects: Sequence[Frozen], protocol: int) -> bytes:
    """Return a flat pickle of `objects`: one after the other, each with numbers in place of those before it.

    Children must come before the objects that hold them.
    """
    buffer = io.BytesIO()
    pickler = _FlatPickler(buffer, objects, protocol)
    for each in objects:
        pickler.dump(get_state(each))
    return buffer.getvalue()


def load_flat(data: bytes) -> Frozen:
    """Return the last object of a flat pickle, which holds the others."""
    objects: list[Frozen] = []
    buffer = io.BytesIO(data)
    unpickler = _FlatUnpickler(buffer, objects)
    while buffer.tell() < len(data):
        objects.append(rebuild(*unpickler.load()))
    return objects[-1]


class _FlatPickler(pickle.Pickler):
    """Pickler that writes the number of an object instead of the object."""

    def __init__(self, buffer: io.BytesIO, objects: Sequence[Frozen], protocol: int) -> None:
        super().__init__(buffer, protocol)
        self._numbers = {id(each): number for number, each in enumerate(objects)}

    def persistent_id(self, obj: Any) -> int | None:
        """Return the number of an object that is in the pickle already; None for a value to pickle as usual."""
        return self._numbers.get(id(obj))  # `objects` are alive: no other object has one of their ids


class _FlatUnpickler(pickle.Unpickler):
    """Unpickler that finds objects by their numbers."""

    def __init__(self, buffer: io.BytesIO, objects: Sequence[Frozen]) -> None:
        super().__init__(buffer)
        self._objects = objects

    def persistent_load(self, pid: Any) -> Frozen:
        """Return the object of this number, which was unpickled before."""
        return self._objects[int(pid)]
