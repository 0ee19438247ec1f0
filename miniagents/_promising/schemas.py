"""Annotations and core schemas of Frozen classes: how pydantic validates, reads and dumps their fields.

An annotation of a mutable container is taken as that of the immutable one, or refused with advice. A Frozen in a field
of any model is dumped with the name of its class, and read as an object of that class.
"""

from __future__ import annotations

import collections
import dataclasses
from collections import abc
from enum import Enum
from functools import lru_cache, partial
from types import GenericAlias, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    Union,
    cast,
    get_args,
    get_origin,
    is_typeddict,
)

from pydantic import (
    BaseModel,
    BeforeValidator,
    SerializeAsAny,
)
from pydantic_core import core_schema

from miniagents._promising.freezing import (
    FrozenDict,
    FrozenLeaf,
    dump_frozen_dict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import CoreSchema


_AS_TUPLE: Final[frozenset[Any]] = frozenset({list, abc.Sequence, abc.MutableSequence, abc.Collection})
_AS_FROZEN_DICT: Final[frozenset[Any]] = frozenset({dict, abc.Mapping, abc.MutableMapping, FrozenDict})
_AS_FROZENSET: Final[frozenset[Any]] = frozenset({set, frozenset, abc.Set, abc.MutableSet})
_MUTABLE: Final = (bytearray, memoryview, collections.deque, collections.OrderedDict, collections.defaultdict)
_BY_VALUE: Final[Any] = cast("Any", SerializeAsAny)()  # dumps a value by its class instead of the annotation
_ADVICE: Final = "take tuple[X, ...], FrozenDict[str, X], frozenset[X], a Frozen class, or a leaf"


def freeze_annotation(annotation: Any, where: str) -> Any:
    """Return the annotation of the immutable values that stand for values of `annotation`.

    Args:
        annotation: the annotation of a field.
        where: the name of the field in errors.

    Raises:
        TypeError: values of this annotation cannot be made immutable, or would no longer be what the annotation says.
    """
    origin = get_origin(annotation) or annotation
    args = get_args(annotation)
    if origin is Annotated:
        return Annotated[(freeze_annotation(args[0], where), *annotation.__metadata__)]
    if origin is Literal:
        # a dump has the value of the member; pydantic makes a member of it for an Enum, and not for a Literal
        members = tuple(arg for arg in args if isinstance(arg, Enum))
        return Annotated[annotation, BeforeValidator(partial(_find_member, members))] if members else annotation
    if origin is Union or origin is UnionType:
        return Union[tuple(freeze_annotation(arg, where) for arg in args)]  # noqa: UP007 - of a computed tuple
    if hasattr(annotation, "__value__"):  # `type X = ...` may be recursive
        return Annotated[annotation, _BY_VALUE]
    if not isinstance(origin, type):
        return annotation
    return _freeze_class_annotation(annotation, origin, args, where)


def _find_member(members: tuple[Enum, ...], value: Any) -> Any:
    """Return the first enum member with this value and the value's type; return the value itself if there is none."""
    return next((each for each in members if each.value == value and type(each.value) is type(value)), value)


def _freeze_class_annotation(annotation: Any, origin: type, args: tuple[Any, ...], where: str) -> Any:
    """Return the immutable counterpart of an annotation of one class, such as tuple for list.

    Args:
        annotation: the annotation of a field, such as `list[int]`.
        origin: its class, such as `list`.
        args: its parameters, such as `(int,)`.
        where: the name of the field in errors.

    Raises:
        TypeError: keys of a mapping are no str, or values of the class can be changed.
    """
    if origin in _AS_TUPLE:
        return GenericAlias(tuple, (freeze_annotation(args[0], where) if args else Any, ...))
    if origin in _AS_FROZENSET:
        # dumped by the class of the set: elements whose dumps are dicts cannot be in a set
        frozen_set = GenericAlias(frozenset, (freeze_annotation(args[0], where) if args else Any,))
        return Annotated[frozen_set, _BY_VALUE]
    if origin in _AS_FROZEN_DICT:
        key, value = args or (str, Any)
        if not (key in (str, Any) or get_origin(key) is Literal):
            raise TypeError(f"{where}: the keys of a FrozenDict are str, not {key!r}")
        return GenericAlias(FrozenDict, (str if key is Any else key, freeze_annotation(value, where)))
    if origin is tuple and args:
        return GenericAlias(tuple, tuple(arg if arg is Ellipsis else freeze_annotation(arg, where) for arg in args))
    if issubclass(origin, BaseModel) and issubclass(origin, FrozenLeaf):
        return Annotated[annotation, _BY_VALUE]
    _refuse_mutable(annotation, origin, where)
    return annotation


def _refuse_mutable(annotation: Any, origin: type, where: str) -> None:
    """Raise `TypeError`, which names the field `where`, if instances of the class `origin` would be mutable.

    Instances of dataclasses, plain models, typed dicts, named tuples, and of classes such as `bytearray` are mutable
    or hold values that are.
    """
    mutable = (
        issubclass(origin, (BaseModel, *_MUTABLE))
        or dataclasses.is_dataclass(origin)
        or is_typeddict(origin)
        or (issubclass(origin, tuple) and hasattr(origin, "_fields"))
    )
    if mutable:
        raise TypeError(f"{where}: values of {annotation!r} cannot be kept immutable as such; {_ADVICE}")


def make_dump_schema(fields: CoreSchema, read: Callable[..., Any], write: Callable[..., Any]) -> CoreSchema:
    """Return a schema that validates dumps by `fields` and dumps objects by `write`; change `fields` in place.

    Args:
        fields: the schema that pydantic made for the fields of the class.
        read: called with a dump before `fields` validates; returns an object, or the fields.
        write: serializer that makes a dump of an object; it wraps a serializer of the application, or that of pydantic.
    """
    reference = cast("dict[str, Any]", fields).pop("ref", None)  # references to the class are to dumps, too
    model = _find_model(fields)
    own = dict(model) if "serialization" in model else None  # a serializer of the application
    # At the model itself, where pydantic-core reuses the serializer of a complete class instead of building one.
    model["serialization"] = core_schema.wrap_serializer_function_ser_schema(
        write, info_arg=True, schema=cast("CoreSchema", own)
    )
    return core_schema.with_info_before_validator_function(read, fields, ref=reference)


def _find_model(fields: Any) -> dict[str, Any]:
    """Return the model schema inside of the validators that a class puts around it."""
    while fields["type"] != "model":  # validators of the class are around it
        fields = fields["schema"]
    return cast("dict[str, Any]", fields)


def find_fields_schema(schema: Any) -> CoreSchema | None:
    """Return the schema of the fields in a schema that `make_dump_schema` made; None of any other schema."""
    if schema["type"] != "function-before":
        return None
    owner = getattr(schema["function"]["function"], "__self__", None)
    is_ours = isinstance(owner, type) and issubclass(owner, FrozenLeaf)
    return cast("CoreSchema", schema["schema"]) if is_ours else None


def unpack_class_schema(schema: Any) -> tuple[CoreSchema, list[CoreSchema]]:
    """Return the schema of the fields, and the definitions that it refers to, from the schema of a complete class."""
    definitions: list[Any] = []
    if schema["type"] == "definitions":
        schema, definitions = schema["schema"], schema["definitions"]
    if schema["type"] == "definition-ref":
        schema = next(each for each in definitions if each["ref"] == schema["schema_ref"])
    fields = find_fields_schema(schema)
    assert fields is not None, "the schema of a class that is complete is one of dumps"
    return fields, definitions


def dumps_plainly(fields: Any, definitions: list[CoreSchema]) -> bool:
    """Return True if dumps by this schema have each field under its name, with its value.

    Serializers of the application, computed fields and excluded fields make it False.
    """
    model = _find_model(fields)
    return "schema" not in model["serialization"] and not any(
        map(_is_dumped_otherwise, (model["schema"], *definitions))
    )


def _is_dumped_otherwise(schema: Any) -> bool:
    """Return True if computed fields, exclusions or serializers make dumps differ from the plain fields.

    Other Frozen classes in the schema do not count.
    """
    if isinstance(schema, dict):
        if schema.get("type") == "function-before" and find_fields_schema(schema) is not None:
            return False  # another class, which has its own `_dumps_plainly`
        if any(schema.get(name) for name in ("computed_fields", "serialization_exclude", "serialization_exclude_if")):
            return True
        function = schema.get("serialization", {}).get("function")
        if function is not None and function is not dump_frozen_dict:
            return True
        schema = [part for name, part in schema.items() if name not in ("serialization", "metadata", "config")]
    return isinstance(schema, (list, tuple)) and any(map(_is_dumped_otherwise, schema))


@lru_cache(maxsize=1024)  # the same names are asked for again and again, and pydantic takes 2 us to say no
def has_attribute(kind: type[BaseModel], name: str) -> bool:
    """Return True if objects of a class have a declared field, a method or a property of this name."""
    return name in kind.model_fields or hasattr(kind, name)


class UnbuiltValidator:
    """Stand-in for the validator of a class whose annotations name classes that are not defined yet."""

    def __init__(self, cls: type[Any]) -> None:
        self._class = cls

    def validate_python(self, fields: Any, **options: Any) -> Any:
        """Complete the class and validate; if a class is still missing, raise pydantic's error, which names it."""
        _ = self._class.__pydantic_validator__.validate_python
        return self._class._fields_validator.validate_python(fields, **options)
