"""Frozen: a pydantic model that is immutable at every depth, with a hash of its content that is the same everywhere.

Values are frozen after validation, whatever validation, a default or an extra field brought in (see `freezing`).
Equality, `hash()` and `hash_key` all go by one digest of class and content (see `values`), computed once, on demand; a
nested Frozen takes part by its own digest. So nothing here is recursive over nested Frozen objects, and chains of many
thousands of them work.

Field annotations of a Frozen: `list[X]` is taken as `tuple[X, ...]` and so on, where the class is made.

Values are frozen whatever the annotation says (see `frozen.Frozen`). This is for pydantic's sake, which validates and
dumps a field by its annotation, and warns where the value is of another type.

Pickles of Frozen objects, also of those nested thousands deep, for which pickle's own recursion is too shallow.

Core schemas of Frozen classes: how pydantic reads and writes dumps of them, in fields of any model.

Objects from dumps: the way back from `Frozen.model_dump`, with the classes that the dump names.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    cast,
    dataclass_transform,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, SchemaSerializer, SchemaValidator, core_schema

from miniagents._promising.freezing import (
    ATOMS,
    BARE,
    CLASS_KEY,
    CONSTRUCTING,
    FROZEN_CLASSES,
    FrozenDict,
    FrozenLeaf,
    FrozenSet,
    escaped,
    freeze,
    freeze_typed,
    last_met,
    mentions,
    met_frozen,
    short_repr,
)
from miniagents._promising.schemas import dump_schema, dumps_plainly, fields_schema, frozen_annotation, unpacked
from miniagents._promising.values import IN_PLACE, MissingDigest, decoded_items, digest
from miniagents.errors import FreezeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn, Self

    from pydantic import Field, GetCoreSchemaHandler
    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic_core import CoreSchema


def unpickled(cls: type[Frozen], declared: dict[str, Any], extra: dict[str, Any], fields_set: set[str]) -> Frozen:
    """Return the object that `frozen_state` described.

    It is not validated again, because the class may have become stricter since, and not frozen again.
    """
    self = cls.__new__(cls)
    object.__setattr__(self, "__dict__", dict(declared))
    object.__setattr__(self, "__pydantic_extra__", dict(extra))
    object.__setattr__(self, "__pydantic_fields_set__", set(fields_set))
    object.__setattr__(self, "__pydantic_private__", None)
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


def restored(cls: type[Frozen], dump: Any, options: dict[str, Any]) -> Frozen:
    """Return `dump` as an object of `cls` or of the subclass it names; `options` are those of `model_validate`."""
    if isinstance(dump, cls):
        return dump
    if not isinstance(dump, Mapping) or isinstance(dump, Frozen):
        return _made(cls, dump, options, {})
    known = FROZEN_CLASSES.find(dump[CLASS_KEY]) if CLASS_KEY in dump else None
    if known is not None and not issubclass(known, cls):
        raise _wrong_class(cls, dump)
    made = known or cls
    met = last_met()
    return of_decoded(made, decoded_items(dump, made.__qualname__), options, met)


def of_decoded(cls: type[Frozen], fields: dict[str, Any], options: dict[str, Any], met: object) -> Frozen:
    """Return an object of `cls` of these fields; `met` is `last_met()` before they were decoded."""
    for computed in cls.__pydantic_decorators__.computed_fields:  # dumped, but not a field to set
        fields.pop(computed, None)
    return _made(cls, fields, options, fields, met)


def _made(
    cls: type[Frozen], fields: Any, options: dict[str, Any], frozen: Mapping[str, Any], met: object = None
) -> Frozen:
    made = cls.__new__(cls)
    cls._fields_validator.validate_python(fields, self_instance=made, **options)
    freeze_fields(made, frozen, met)
    met_frozen()  # by what it is going to be in
    return made


def _wrong_class(cls: type[Frozen], dump: Mapping[str, Any]) -> ValidationError:
    context = {"name": dump[CLASS_KEY], "wanted": cls.class_name}
    error = PydanticCustomError("wrong_class", "The class {name} is not a subclass of {wanted}", context)
    details: InitErrorDetails = {"type": error, "loc": (CLASS_KEY,), "input": dump[CLASS_KEY]}
    return ValidationError.from_exception_data(cls.__qualname__, [details])


_PICKLED_BY_RECURSION: Final = 20
"""How deep pickle may go by itself: a Frozen or a container each takes it three levels of recursion."""


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
    class _ModelMetaclass(ModelMetaclass):
        """What type checkers are to know beyond pydantic's own: every subclass is frozen, and so can be hashed."""
else:
    _ModelMetaclass = type(BaseModel)


def _dump(owner: type[Frozen], value: Any, handler: SerializerFunctionWrapHandler, info: SerializationInfo[Any]) -> Any:
    """Dump an object for pydantic, where a field or a list is declared to hold objects of class `owner`."""
    if not isinstance(value, Frozen):
        return handler(value)  # with pydantic's warning
    if info.mode == "json" and info.context is not BARE:
        return value.model_dump(mode="json", **_options(info))
    if type(value) is not owner:
        return value.model_dump(mode=info.mode, **_options(info))
    content = handler(value)
    if info.context is BARE or not isinstance(content, dict):
        return content
    return {CLASS_KEY: owner.class_name, **escaped(content)}


def _options(info: SerializationInfo[Any]) -> dict[str, Any]:
    names = ("include", "exclude", "context", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")
    more = ("exclude_computed_fields", "round_trip", "serialize_as_any")
    return {name: getattr(info, name) for name in (*names, *more)}


class Frozen(FrozenLeaf, BaseModel, metaclass=_ModelMetaclass):
    """Base of immutable values. Any extra field is allowed, and everything in it is frozen, as `freeze` does it.

    A subclass is known by its `__qualname__`, in hashes and in dumps, or by a name given in the class statement:
    `class Note(Frozen, class_="note")`. The name should not change once values were stored. A dump has it as `class_`,
    and `model_validate` makes an object of the class it names, as does the validation of other pydantic models with
    such a field; a constructor does not look at `class_`. Dumps in JSON have the form of `miniagents.values`. Private
    attributes are refused: they would be mutable state.

    Raises:
        pydantic.ValidationError: a field is not what its annotation says.
        FreezeError: a value cannot be made immutable; names the field.
        CyclicValueError: a container contains itself.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        protected_namespaces=(),  # a field may well be called model_name
        validate_by_name=True,
        validate_by_alias=True,
        ser_json_bytes="base64",  # of a dump without tags, see BARE
    )
    # What is remembered about a value, outside of its fields: not copied, not pickled, not compared.
    __slots__ = ("__weakref__", "_digest", "_height")

    class_name: ClassVar[str] = "Frozen"
    """The name in hashes and dumps; set by `class_=` in the class statement."""
    _fields_validator: ClassVar[Any]
    """Validates the fields of a new object; pydantic's own takes dumps as well."""
    _keys: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Declared fields, each with its key in JSON."""
    _enum_fields: ClassVar[frozenset[str]] = frozenset()
    """Declared fields whose annotations mention an Enum."""
    _dumps_plainly: ClassVar[bool] = True
    """No serializer, alias or computed field of the application has a say in a dump."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Extra fields are attributes."""

    def __init__(self, /, **fields: Any) -> None:
        if self.__dict__ or (not self.__pydantic_fields__ and _is_made(self)):
            raise TypeError(f"{type(self).__qualname__} is immutable: it cannot be initialized again")
        self._fields_validator.validate_python(fields, self_instance=self, context=CONSTRUCTING)
        freeze_fields(self)

    def __init_subclass__(cls, *, class_: str | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.class_name = class_ or cls.__qualname__
        cls._fields_validator = _Unbuilt(cls)
        FROZEN_CLASSES.register(cls.class_name, cls)

    @classmethod
    def __pydantic_init_subclass__(cls, *, class_: str | None = None, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)
        if cls.__private_attributes__:
            names = ", ".join(sorted(cls.__private_attributes__))
            raise TypeError(
                f"{cls.__qualname__} is immutable and has no private attributes ({names}): make them ClassVar"
            )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.__pydantic_complete__:
            for name, field in cls.__pydantic_fields__.items():
                field.annotation = frozen_annotation(field.annotation, f"{cls.__qualname__}.{name}")
                if field.default is not None and mentions(field.annotation, float):
                    field.validate_default = True  # `x: float = 1` is 1.0, as it will be when it is read from a dump
        schema = handler(source)
        if fields_schema(schema) is not None:  # of a class that is complete
            return schema
        return dump_schema(schema, cls._read_dump, partial(_dump, cls))

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        fields, definitions = unpacked(cls.__pydantic_core_schema__)
        cls._dumps_plainly = not cls.model_config.get("serialize_by_alias") and dumps_plainly(fields, definitions)
        cls._keys = tuple(zip(cls.__pydantic_fields__, escaped(cls.__pydantic_fields__), strict=True))
        cls._enum_fields = frozenset(
            name for name, field in cls.__pydantic_fields__.items() if mentions(field.annotation, Enum)
        )
        # Inside of any schema, pydantic-core takes the validator and the serializer that a complete class has; here
        # they are to be built. It takes no serializer that begins with a function, which would add the name of the
        # class twice; so the one of a recursive class is to begin with the function, too.
        cls.__pydantic_complete__ = False
        if definitions:
            fields = core_schema.definitions_schema(fields, definitions)
            cls.__pydantic_serializer__ = SchemaSerializer(fields)
        cls._fields_validator = SchemaValidator(fields)
        cls.__pydantic_complete__ = True

    @classmethod
    def _read_dump(cls, data: Any, info: ValidationInfo) -> Any:
        """Return an object of what a pydantic model, or `model_validate`, is given for one."""
        if info.context is CONSTRUCTING:
            return dict(data) if isinstance(data, Mapping) and not isinstance(data, Frozen) else data

        return restored(cls, data, {"context": info.context})

    @classmethod
    def _of_decoded(cls, fields: dict[str, Any], met: object) -> Frozen:
        """Return an object of fields from a dump; `met` is `last_met()` before they were decoded."""
        return of_decoded(cls, fields, {}, met)

    # --- the digest, and what goes by it

    @property
    def full_hash_key(self) -> str:
        """All 64 hex digits of SHA-256 over the canonical form of class and content."""
        return _digest_of(self)

    @property
    def hash_key(self) -> str:
        """The first 40 hex digits of `full_hash_key`: one value, one key, in every process and Python version."""
        try:
            return cast("str", _get_digest(self)[:40])
        except AttributeError:
            return _digest_of(self)[:40]

    def _known_digest(self) -> str | None:
        try:
            return cast("str", _get_digest(self))
        except AttributeError:
            return None

    def _ready_digest(self) -> str | None:
        """Return the digest if it is known, or can be computed without a look at others."""
        try:
            return cast("str", _get_digest(self))
        except AttributeError:
            return None if nested_frozen(self) else _compute_digest(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Frozen):
            return NotImplemented
        return type(self) is type(other) and _digest_of(self) == _digest_of(other)

    def __hash__(self) -> int:
        return hash(_digest_of(self))

    # --- nothing changes after __init__

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__qualname__} is immutable: cannot set {name!r}")
        super().__setattr__(name, value)  # raises pydantic's own error

    def __delattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__qualname__} is immutable: cannot delete {name!r}")
        super().__delattr__(name)

    def __setstate__(self, state: Any) -> NoReturn:
        raise TypeError(f"{type(self).__qualname__} is immutable: its state cannot be set")

    @property
    def model_extra(self) -> dict[str, Any] | None:
        """A copy of the extra fields."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def model_fields_set(self) -> set[str]:
        """A copy of the names of the fields that were given."""
        return set(self.__pydantic_fields_set__)

    # --- copies

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """This object itself, or another one with some fields replaced, validated and frozen like new ones.

        Args:
            update: fields to replace or to add.
            deep: of no effect on something immutable.
        """
        if not update:
            return self
        cls = type(self)
        copy = cls.__new__(cls)
        fields = {**dict(frozen_fields(self)), **update}
        cls._fields_validator.validate_python(fields, self_instance=copy, context=CONSTRUCTING)
        object.__setattr__(copy, "__pydantic_fields_set__", self.__pydantic_fields_set__ | update.keys())
        freeze_fields(copy)
        return copy

    def copy(self, **options: Any) -> Self:
        """The older name of `model_copy`, without the `include` and `exclude` it had."""
        return self.model_copy(**options)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """An object without validation, and frozen all the same."""
        constructed = super().model_construct(_fields_set, **values)
        freeze_fields(constructed)
        return constructed

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Frozen], tuple[Any, ...]]:

        if _height_of(self) > _PICKLED_BY_RECURSION:
            return unpickled_flat, (pickled_flat(self, protocol),)
        return unpickled, frozen_state(self)

    # --- text and dumps

    def __repr__(self) -> str:
        return short_repr(self)

    def __str__(self) -> str:
        return short_repr(self)

    def __short_repr_items__(self) -> Iterator[tuple[str, Any]]:
        """What the shortened repr shows."""
        for name, value in frozen_fields(self):
            if value is not None or name not in type(self).__pydantic_fields__:
                yield name, value

    def model_dump(self, *, mode: str = "python", **options: Any) -> dict[str, Any]:
        """Return the fields as a dict that `model_validate` takes back; with "json" as mode, of JSON types.

        Args:
            mode: "python" or "json".
            options: as for pydantic (include, exclude, by_alias, ...).

        Raises:
            ValueError: for JSON: it nests more than 300 deep.
        """
        if mode == "json" and options.get("context") is not BARE:
            return cast("dict[str, Any]", IN_PLACE.json(self._to_dump(options), flat=is_flat(self)))
        return super().model_dump(mode=mode, **options)

    def model_dump_json(self, *, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
        """Return the fields as JSON text that `model_validate_json` takes back: nothing is lost.

        Args:
            indent: spaces for each level; None for a text without blanks.
            ensure_ascii: write other characters as escapes.
            options: as for pydantic (include, exclude, by_alias, ...).

        Raises:
            ValueError: it nests more than 300 deep.
        """
        if options.get("context") is BARE:
            return super().model_dump_json(indent=indent, ensure_ascii=ensure_ascii, **options)
        if indent is None and not ensure_ascii:
            return IN_PLACE.text(self._to_dump(options), flat=is_flat(self))
        separators = (",", ":") if indent is None else None
        dump = self.model_dump(mode="json", **options)
        return json.dumps(dump, indent=indent, ensure_ascii=ensure_ascii, separators=separators)

    def _to_dump(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a dump has of this object, with keys escaped, and values that are still to be dumped."""
        cls = type(self)
        if cls._dumps_plainly and all(
            value is None or value is False or name in _NO_MATTER for name, value in options.items()
        ):
            values = self.__dict__
            fields = {CLASS_KEY: cls.class_name, **{key: values[name] for name, key in cls._keys}}
            fields.update(escaped(self.__pydantic_extra__ or {}))
            return fields
        return super().model_dump(**options)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """An object from what `model_dump` gave, of the classes that the dump names, at every depth.

        An unknown name is taken as `cls` here, and further inside as the most general class.

        Args:
            obj: a mapping, or an object of this class, which is returned as it is.
            options: as for pydantic (strict, context, ...).

        Raises:
            pydantic.ValidationError: the content is not valid, or the class it names is not a subclass of this one.
        """
        return cast("Self", restored(cls, obj, options))

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Return an object of what `model_dump_json` gave: `model_validate` of parsed JSON.

        Raises:
            ValueError: it is no JSON, a tag in it is malformed, or as `model_validate` has it.
        """
        try:
            parsed = json.loads(json_data)
        except RecursionError:
            raise FreezeError(f"the JSON of a {cls.__qualname__} nests too deep") from None
        return cls.model_validate(parsed, **options)


FROZEN_CLASSES.register(Frozen.class_name, Frozen)
FROZEN_CLASSES.unknown = Frozen

_NO_MATTER: Final = ("warnings", "context")
"""Options of a dump that change nothing where no serializer of the application is asked."""


class _Unbuilt:
    """Stand-in for the validator of a class that names classes that are not there yet."""

    def __init__(self, cls: type[Frozen]) -> None:
        self._class = cls

    def validate_python(self, fields: Any, **options: Any) -> Any:
        """Complete the class, or raise pydantic's error that says what is missing; then validate."""
        _ = self._class.__pydantic_validator__.validate_python
        return self._class._fields_validator.validate_python(fields, **options)


def _is_made(self: Frozen) -> bool:
    try:
        BaseModel.__dict__["__pydantic_fields_set__"].__get__(self)
    except AttributeError:
        return False
    return True


def freeze_fields(self: Frozen, frozen: Mapping[str, Any] = CONSTRUCTING, met: object = None) -> None:
    """Make what validation left in the fields of a new object immutable.

    Args:
        self: the object.
        frozen: values that are immutable already, under the names of their fields.
        met: `last_met()` before those were made.
    """
    declared, extra = self.__dict__, self.__pydantic_extra__ or {}
    if ATOMS.issuperset(map(type, declared.values())) and ATOMS.issuperset(map(type, extra.values())):
        return
    met = met or last_met()
    typed = type(self)._enum_fields
    for values in (declared, extra):
        for name, value in values.items():
            if type(value) not in ATOMS and value is not frozen.get(name):
                values[name] = (freeze_typed if name in typed else freeze)(value, name)
    if last_met() is met:
        _set_height(self, 1)


def frozen_state(self: Frozen) -> tuple[type[Frozen], dict[str, Any], dict[str, Any], set[str]]:
    """What a pickle holds: class, declared fields, extra fields, names of the fields that were given."""
    declared = {name: self.__dict__[name] for name in type(self).__pydantic_fields__}
    return type(self), declared, self.__pydantic_extra__ or {}, self.__pydantic_fields_set__


def nested_frozen(self: Frozen) -> list[tuple[Frozen, int]]:
    """The Frozen objects directly in the fields of this one, in order, each with the number of containers around it."""
    found: list[tuple[Frozen, int]] = []
    if _known_height(self) == 1:
        return found
    for values in (self.__dict__, self.__pydantic_extra__):
        if values and not ATOMS.issuperset(map(type, values.values())):
            for value in values.values():
                _collect(value, 0, found)
    return found


def _collect(value: Any, level: int, found: list[tuple[Frozen, int]]) -> None:
    kind = type(value)
    if kind is tuple or kind is FrozenDict:
        items = value if kind is tuple else value._items.values()
        if not ATOMS.issuperset(map(type, items)):
            for item in items:
                _collect(item, level + 1, found)
    elif kind is FrozenSet:
        nested: list[tuple[Frozen, int]] = []
        for item in value:
            _collect(item, level + 1, nested)
        found.extend(sorted(nested, key=lambda pair: _digest_of(pair[0])))  # the order of a set differs by process
    elif isinstance(value, FrozenLeaf):
        found.append((cast("Frozen", value), level))


def is_flat(self: Frozen) -> bool:
    """Return True if no Frozen is known to be nested in this one; False if that is not known yet."""
    return _known_height(self) == 1


def children_first(root: Frozen, *, leave_out: Callable[[Frozen], bool] = lambda _: False) -> list[Frozen]:
    """`root` and the Frozen objects in it at any depth, each object once, children before what holds them.

    Args:
        root: where to begin.
        leave_out: says of which objects neither they nor what is in them are wanted; `root` itself always is.
    """
    nested = nested_frozen(root)
    if not nested:
        return [root]
    done: dict[int, Frozen] = {}
    stack = [(root, iter(nested))]
    while stack:
        node, rest = stack[-1]
        for child, _ in rest:
            if id(child) not in done and not leave_out(child):
                stack.append((child, iter(nested_frozen(child))))
                break
        else:
            done[id(node)] = node
            stack.pop()
    return list(done.values())


def frozen_fields(self: Frozen) -> Iterator[tuple[str, Any]]:
    """Names and values of the declared fields, then of the extra ones."""
    values = self.__dict__
    for name in type(self).__pydantic_fields__:
        yield name, values[name]
    if self.__pydantic_extra__:
        yield from self.__pydantic_extra__.items()


def _hashed_fields(self: Frozen) -> dict[str, Any]:
    cls = type(self)
    values = self.__dict__
    fields: dict[str, Any] = {CLASS_KEY: cls.class_name}
    for name, key in cls._keys:
        value = values[name]
        if value is not None:
            fields[key] = value
    extra = self.__pydantic_extra__
    if extra:
        fields.update(escaped(extra))
    return fields


# Read by their descriptors: an attribute that is not there yet would go through pydantic's slow __getattr__.
_get_digest: Final = Frozen.__dict__["_digest"].__get__
_get_height: Final = Frozen.__dict__["_height"].__get__
_set_digest: Final = Frozen.__dict__["_digest"].__set__
_set_height: Final = Frozen.__dict__["_height"].__set__


def _digest_of(self: Frozen) -> str:
    try:
        return cast("str", _get_digest(self))
    except AttributeError:
        pass
    try:
        return _compute_digest(self)
    except MissingDigest:
        for node in children_first(self, leave_out=lambda child: child._known_digest() is not None):
            _compute_digest(node)
        return cast("str", _get_digest(self))


def _compute_digest(self: Frozen) -> str:
    """Compute and keep the digest; everything in `self` must have its own."""
    computed = digest(_hashed_fields(self))
    _set_digest(self, computed)
    return computed


def _height_of(self: Frozen) -> int:
    """How deep Frozen objects and the containers around them nest in `self`; computed once."""
    for node in children_first(self, leave_out=lambda child: _known_height(child) > 0):
        height = 1 + max((level + _known_height(child) for child, level in nested_frozen(node)), default=0)
        _set_height(node, height)
    return _known_height(self)


def _known_height(self: Frozen) -> int:
    try:
        return cast("int", _get_height(self))
    except AttributeError:
        return 0
