"""Field annotations of a Frozen: `list[X]` is taken as `tuple[X, ...]` and so on, where the class is made.

Values are frozen whatever the annotation says (see `frozen.Frozen`). This is for pydantic's sake, which validates and
dumps a field by its annotation, and warns where the value is of another type.
"""

from __future__ import annotations

import collections
import dataclasses
from collections import abc
from types import GenericAlias, UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, is_typeddict

from pydantic import BaseModel, SerializeAsAny

from miniagents.promising.freezing import FrozenDict, FrozenLeaf

__all__ = ["frozen_annotation"]

_AS_TUPLE: Final[frozenset[Any]] = frozenset({list, abc.Sequence, abc.MutableSequence, abc.Collection})
_AS_FROZEN_DICT: Final[frozenset[Any]] = frozenset({dict, abc.Mapping, abc.MutableMapping, FrozenDict})
_AS_FROZENSET: Final[frozenset[Any]] = frozenset({set, frozenset, abc.Set, abc.MutableSet})
_MUTABLE: Final = (bytearray, memoryview, collections.deque, collections.OrderedDict, collections.defaultdict)
_BY_VALUE: Final[Any] = cast("Any", SerializeAsAny)()  # a dump goes by the class of the value, not by the annotation
_ADVICE: Final = "take tuple[X, ...], FrozenDict[str, X], frozenset[X], a Frozen class, or a leaf"


def frozen_annotation(annotation: Any, where: str) -> Any:
    """The annotation of the immutable values that stand for values of `annotation`.

    Raises:
        TypeError: values of this annotation cannot be made immutable, or would no longer be what the annotation says.
    """
    origin = get_origin(annotation) or annotation
    args = get_args(annotation)
    if origin is Annotated:
        return Annotated[(frozen_annotation(args[0], where), *annotation.__metadata__)]
    if origin is Literal:
        return annotation
    if origin is Union or origin is UnionType:
        return Union[tuple(frozen_annotation(arg, where) for arg in args)]  # noqa: UP007 - of a computed tuple
    if hasattr(annotation, "__value__"):  # `type X = ...`, maybe recursive: dumped without a look at the types it names
        return Annotated[annotation, _BY_VALUE]
    if not isinstance(origin, type):
        return annotation
    return _frozen_class(annotation, origin, args, where)


def _frozen_class(annotation: Any, origin: type, args: tuple[Any, ...], where: str) -> Any:
    if origin in _AS_TUPLE:
        return GenericAlias(tuple, (frozen_annotation(args[0], where) if args else Any, ...))
    if origin in _AS_FROZENSET:
        # dumped by what the elements are: those that dump as a dict cannot be in a set
        frozen_set = GenericAlias(frozenset, (frozen_annotation(args[0], where) if args else Any,))
        return Annotated[frozen_set, _BY_VALUE]
    if origin in _AS_FROZEN_DICT:
        key, value = args or (str, Any)
        if not (key in (str, Any) or get_origin(key) is Literal):
            raise TypeError(f"{where}: the keys of a FrozenDict are str, not {key!r}")
        return GenericAlias(FrozenDict, (str if key is Any else key, frozen_annotation(value, where)))
    if origin is tuple and args:
        return GenericAlias(tuple, tuple(arg if arg is Ellipsis else frozen_annotation(arg, where) for arg in args))
    if issubclass(origin, BaseModel) and issubclass(origin, FrozenLeaf):
        return Annotated[annotation, _BY_VALUE]
    _refuse_mutable(annotation, origin, where)
    return annotation


def _refuse_mutable(annotation: Any, origin: type, where: str) -> None:
    mutable = (
        issubclass(origin, (BaseModel, *_MUTABLE))
        or dataclasses.is_dataclass(origin)
        or is_typeddict(origin)
        or (issubclass(origin, tuple) and hasattr(origin, "_fields"))
    )
    if mutable:
        raise TypeError(f"{where}: values of {annotation!r} cannot be kept immutable as such; {_ADVICE}")
