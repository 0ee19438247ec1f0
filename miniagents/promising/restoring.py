"""Objects from dumps: the way back from `Frozen.model_dump`, with the classes that the dump names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from miniagents.errors import FreezeError
from miniagents.promising.class_names import CLASS_KEY, unescaped_key
from miniagents.promising.frozen import FROZEN_CLASSES, Frozen

__all__ = ["restored"]

_MAX_DEPTH: Final = 300
"""More than a dump can have: pydantic gives up at 255 levels."""


def restored(cls: type[Frozen], dump: Any, options: dict[str, Any]) -> Frozen:
    """`dump` as an object of `cls` or of the subclass it names; `options` are those of `model_validate`."""
    if not isinstance(dump, Mapping) or isinstance(dump, Frozen):
        return _validated(cls, dump, options)
    known = FROZEN_CLASSES.find(dump[CLASS_KEY]) if CLASS_KEY in dump else None
    if known is not None and not issubclass(known, cls):
        raise _wrong_class(cls, dump)
    return _validated(known or cls, _fields(dump, cls, options, 0), options)


def _validated(cls: type[Frozen], fields: Any, options: dict[str, Any]) -> Frozen:
    if isinstance(fields, dict):
        for computed in cls.__pydantic_decorators__.computed_fields:  # dumped, but not a field to set
            fields.pop(computed, None)
    result: Frozen = super(Frozen, cls).model_validate(fields, **options)
    return result


def _fields(dump: Mapping[Any, Any], root: type[Frozen], options: dict[str, Any], level: int) -> dict[Any, Any]:
    fields = {}
    for key, value in dump.items():
        if key != CLASS_KEY:
            composite = isinstance(value, (Mapping, list, tuple))
            fields[unescaped_key(key)] = _restored_inside(value, root, options, level + 1) if composite else value
    return fields


def _restored_inside(value: Any, root: type[Frozen], options: dict[str, Any], level: int) -> Any:
    if level > _MAX_DEPTH:
        raise FreezeError(f"a dump of {root.__qualname__} nests more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        fields = _fields(value, root, options, level)
        if CLASS_KEY not in value:
            return fields
        known = FROZEN_CLASSES.find(value[CLASS_KEY])
        return _validated(known or root.class_for_unknown_name(), fields, options)
    if isinstance(value, (list, tuple)):
        items = []
        for item in value:
            composite = isinstance(item, (Mapping, list, tuple))
            items.append(_restored_inside(item, root, options, level + 1) if composite else item)
        return items if isinstance(value, list) else tuple(items)
    return value


def _wrong_class(cls: type[Frozen], dump: Mapping[Any, Any]) -> ValidationError:
    context = {"name": dump[CLASS_KEY], "wanted": cls.class_name}
    error = PydanticCustomError("wrong_class", "The class {name} is not a subclass of {wanted}", context)
    details: InitErrorDetails = {"type": error, "loc": (CLASS_KEY,), "input": dump[CLASS_KEY]}
    return ValidationError.from_exception_data(cls.__qualname__, [details])
