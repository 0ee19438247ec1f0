"""Pickles of Frozen objects, also of those nested thousands deep, for which pickle's own recursion is too shallow."""

from __future__ import annotations

import io
import pickle
from typing import Any

from miniagents.promising.frozen import Frozen, children_first, freeze_fields, frozen_state

__all__ = ["pickled_flat", "unpickled", "unpickled_flat"]


def unpickled(cls: type[Frozen], declared: dict[str, Any], extra: dict[str, Any], fields_set: set[str]) -> Frozen:
    """The object that `frozen_state` described. Not validated again: the class may have become stricter since."""
    self = cls.__new__(cls)
    object.__setattr__(self, "__dict__", dict(declared))
    object.__setattr__(self, "__pydantic_extra__", dict(extra))
    object.__setattr__(self, "__pydantic_fields_set__", set(fields_set))
    object.__setattr__(self, "__pydantic_private__", None)
    freeze_fields(self)
    return self


def pickled_flat(root: Frozen, protocol: int) -> bytes:
    """A pickle of `root` and everything in it, one after the other, each referring to the earlier ones by number."""
    objects = children_first(root)
    numbers = {id(each): number for number, each in enumerate(objects)}
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, numbers, protocol)
    for each in objects:
        pickler.dump(frozen_state(each))
    return buffer.getvalue()


def unpickled_flat(data: bytes) -> Frozen:
    """The last of the objects that `pickled_flat` wrote."""
    objects: list[Frozen] = []
    unpickler = _Unpickler(io.BytesIO(data), objects)
    size = len(data)
    while unpickler.position() < size:
        objects.append(unpickled(*unpickler.load()))
    return objects[-1]


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, numbers: dict[int, int], protocol: int) -> None:
        super().__init__(buffer, protocol)
        self._numbers = numbers

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers[id(obj)] if isinstance(obj, Frozen) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, objects: list[Frozen]) -> None:
        super().__init__(buffer)
        self._buffer = buffer
        self._objects = objects

    def position(self) -> int:
        return self._buffer.tell()

    def persistent_load(self, pid: Any) -> Frozen:
        return self._objects[int(pid)]
