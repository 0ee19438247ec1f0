"""`Frozen`: a pydantic model that is immutable at every depth, with a hash of its content that is the same everywhere.

Values are frozen after validation (see `freezing`), and dumped and read as `schemas` and `values` say. Equality,
`hash()` and `hash_key` go by one digest of class and content, computed once, on demand. In the
digest of an outer object, a nested Frozen counts by its own digest: chains of many thousands need no recursion.
"""

from __future__ import annotations

import json
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
    CONSTRUCTING,
    FrozenDict,
    FrozenLeaf,
    FrozenSet,
    freeze,
    freeze_with_enums,
    get_marker,
    is_plain,
    mentions,
    short_repr,
)
from miniagents._promising.naming import CLASS_KEY, FROZEN_CLASSES, dump_options, escaped
from miniagents._promising.schemas import (
    UnbuiltValidator,
    dumps_plainly,
    find_fields_schema,
    freeze_annotation,
    make_dump_schema,
    unpack_class_schema,
)
from miniagents._promising.values import IN_PLACE, MissingDigest, decode_mapping, digest, read_plain_json
from miniagents.errors import FreezeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn, Self

    from pydantic import Field, GetCoreSchemaHandler
    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic_core import CoreSchema


_MAX_PICKLE_RECURSION: Final = 20
"""The greatest height that pickle may walk by itself: each Frozen or container takes it three levels of recursion."""


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
    class _ModelMetaclass(ModelMetaclass):
        """Metaclass that tells type checkers that each subclass is frozen, and so can be hashed."""
else:
    _ModelMetaclass = type(BaseModel)


def _dump(owner: type[Frozen], value: Any, handler: SerializerFunctionWrapHandler, info: SerializationInfo[Any]) -> Any:
    """Dump an object for pydantic, where an annotation says that it is of class `owner`, but by its own class.

    The dump names the class, except with the context `BARE`. A value that is no Frozen gets pydantic's warning.
    """
    if not isinstance(value, Frozen):
        return handler(value)  # with pydantic's warning
    if info.mode == "json" and info.context is not BARE:
        return value.model_dump(mode="json", **dump_options(info))
    if type(value) is not owner:
        return value.model_dump(mode=info.mode, **dump_options(info))
    content = handler(value)
    if info.context is BARE or not isinstance(content, dict):
        return content
    return {CLASS_KEY: owner.class_name, **escaped(content)}


class Frozen(FrozenLeaf, BaseModel, metaclass=_ModelMetaclass):
    """Base of immutable values. Extra fields are allowed; `freeze` makes the values of all fields immutable.

    Hashes and dumps have the name of the class: its `__qualname__`, or a name from the class statement, as in
    `class Note(Frozen, class_="note")`. The name should not change once values were stored. A dump has the name under
    the key `class_`. `model_validate` makes an object of the class that the dump names, and so do pydantic models with
    a field that holds a Frozen; a constructor ignores `class_`. Dumps in JSON have the form of `miniagents.values`.
    A field annotation such as `list[X]` is taken as the immutable `tuple[X, ...]`. Private attributes are refused: they
    would be mutable state.

    Raises:
        pydantic.ValidationError: a field is not what its annotation says.
        FreezeError: a value cannot be made immutable; the message names the field.
        CyclicValueError: a container contains itself.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="allow",
        protected_namespaces=(),  # a field may well be called model_name
        validate_by_name=True,
        validate_by_alias=True,
        ser_json_bytes="base64",  # in dumps without tags, see BARE
    )
    # Results computed from the fields: neither copied nor pickled nor compared.
    __slots__ = ("__weakref__", "_digest", "_height", "_plain")

    class_name: ClassVar[str] = "Frozen"
    """The name in hashes and dumps; set by `class_=` in the class statement."""
    _fields_validator: ClassVar[Any]
    """Validator of the fields of a new object; pydantic's own validator takes dumps as well."""
    _keys: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Declared fields, each with its key in JSON."""
    _enum_fields: ClassVar[frozenset[str]] = frozenset()
    """Declared fields whose annotations mention an Enum."""
    _dumps_plainly: ClassVar[bool] = True
    """True if no serializer, alias or computed field of the application changes dumps."""

    if TYPE_CHECKING:
        __pydantic_serializer__: ClassVar[SchemaSerializer]
        __pydantic_complete__: ClassVar[bool]

        def __getattr__(self, name: str) -> Any:
            """Return an extra field."""

    def __init__(self, /, **fields: Any) -> None:
        if self.__dict__ or (not self.__pydantic_fields__ and _is_initialized(self)):
            raise TypeError(f"{type(self).__qualname__} is immutable: it cannot be initialized again")
        self._fields_validator.validate_python(fields, self_instance=self, context=CONSTRUCTING)
        freeze_fields(self)

    def __init_subclass__(cls, *, class_: str | None = None, **config: Any) -> None:
        """Give the class its name, and register it under the name; a validator follows when the class is complete."""
        super().__init_subclass__(**config)
        cls.class_name = class_ or cls.__qualname__
        cls._fields_validator = UnbuiltValidator(cls)
        FROZEN_CLASSES.register(cls.class_name, cls)

    @classmethod
    def __pydantic_init_subclass__(cls, *, class_: str | None = None, **config: Any) -> None:
        """Raise `TypeError` for a class with private attributes."""
        super().__pydantic_init_subclass__(**config)
        if cls.__private_attributes__:
            names = ", ".join(sorted(cls.__private_attributes__))
            raise TypeError(
                f"{cls.__qualname__} is immutable and has no private attributes ({names}): make them ClassVar"
            )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema that validates and dumps objects of the class, after annotations were made immutable.

        For a class that is complete, the annotations are immutable already.
        """
        if not cls.__pydantic_complete__:
            for name, field in cls.__pydantic_fields__.items():
                field.annotation = freeze_annotation(field.annotation, f"{cls.__qualname__}.{name}")
                if field.default is not None and mentions(field.annotation, float):
                    field.validate_default = True  # `x: float = 1` is 1.0, as it will be when it is read from a dump
        schema = handler(source)
        if find_fields_schema(schema) is not None:  # a complete class has a schema of dumps already
            return schema
        return make_dump_schema(schema, cls._read_dump, partial(_dump, cls))

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        """Keep what the schema of a complete class says: its validator of fields, the keys of dumps, and Enum fields.

        Note also if a dump has each field under its name, with its value.
        """
        fields, definitions = unpack_class_schema(cls.__pydantic_core_schema__)
        cls._dumps_plainly = not cls.model_config.get("serialize_by_alias") and dumps_plainly(fields, definitions)
        cls._keys = tuple(zip(cls.__pydantic_fields__, escaped(cls.__pydantic_fields__), strict=True))
        cls._enum_fields = frozenset(
            name for name, field in cls.__pydantic_fields__.items() if mentions(field.annotation, Enum)
        )
        # Inside of any schema, pydantic-core reuses the validator and the serializer of a complete class. They are to
        # be built here, so the class counts as incomplete meanwhile. pydantic-core does not reuse a serializer that
        # begins with a function, which would add the name of the class twice. That of a recursive class begins with
        # definitions; built from `fields`, it begins with the function as well.
        cls.__pydantic_complete__ = False
        if definitions:
            fields = core_schema.definitions_schema(fields, definitions)
            cls.__pydantic_serializer__ = SchemaSerializer(fields)
        cls._fields_validator = SchemaValidator(fields)
        cls.__pydantic_complete__ = True

    @classmethod
    def _read_dump(cls, data: Any, info: ValidationInfo) -> Any:
        """Return an object of this class, made of the input of `model_validate` or of a pydantic model's field.

        In a constructor, return its fields as they are: pydantic validates them next.
        """
        if info.context is CONSTRUCTING:
            return dict(data) if isinstance(data, Mapping) and not isinstance(data, Frozen) else data
        return _restore(cls, data, {"context": info.context})

    @classmethod
    def _construct_decoded(cls, fields: dict[str, Any]) -> Frozen:
        """Return an object of decoded fields."""
        return _construct_from_dump(cls, fields, {})

    # --- the digest, equality and hash

    @property
    def full_hash_key(self) -> str:
        """All 64 hex digits of SHA-256 over the canonical form of class and content."""
        return _digest_of(self)

    @property
    def hash_key(self) -> str:
        """The first 40 hex digits of `full_hash_key`, the same for equal values in every process and Python version."""
        try:
            return cast("str", _get_digest(self)[:40])
        except AttributeError:
            return _digest_of(self)[:40]

    def _known_digest(self) -> str | None:
        """Return the digest, or None if it has not been computed yet."""
        try:
            return cast("str", _get_digest(self))
        except AttributeError:
            return None

    def _digest_if_ready(self) -> str | None:
        """Return the digest if it is known, or compute it if no Frozen is nested in the fields; None otherwise."""
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
        """Raise an error: `AttributeError` for a name with an underscore, else that of pydantic for frozen models."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__qualname__} is immutable: cannot set {name!r}")
        super().__setattr__(name, value)  # raises pydantic's own error

    def __delattr__(self, name: str) -> None:
        """Raise an error: `AttributeError` for a name with an underscore, else that of pydantic for frozen models."""
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
        """Return this object, or a new object with some fields replaced; those are validated and frozen.

        Raise the errors of the constructor.

        Args:
            update: fields to replace or to add.
            deep: has no effect, as the object is immutable.
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
        """Do what `model_copy` does: return this object, or a new object with the fields of `update`.

        It is pydantic's older name, without the options `include` and `exclude`.
        """
        return self.model_copy(**options)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Return an object whose fields are frozen, but not validated.

        Raise `FreezeError` for one that cannot be frozen.
        """
        constructed = super().model_construct(_fields_set, **values)
        freeze_fields(constructed)
        return constructed

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Frozen], tuple[Any, ...]]:
        """Return what pickle needs to rebuild the object; objects that nest deep go into one flat pickle."""
        from miniagents._promising import pickling  # few programs need the pickle module

        if _height_of(self) > _MAX_PICKLE_RECURSION:
            return pickling.load_flat, (pickling.dump_flat(children_first(self), protocol),)
        return pickling.rebuild, pickling.get_state(self)

    # --- text and dumps

    def __repr__(self) -> str:
        return short_repr(self)

    def __str__(self) -> str:
        return short_repr(self)

    def __short_repr_items__(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values of fields for the shortened repr; leave out declared fields that hold None."""
        for name, value in frozen_fields(self):
            if value is not None or name not in type(self).__pydantic_fields__:
                yield name, value

    def model_dump(self, *, mode: str = "python", **options: Any) -> dict[str, Any]:
        """Return the fields as a dict, from which `model_validate` makes an equal object.

        Args:
            mode: "python", or "json" for a dict of JSON types.
            options: those of pydantic (include, exclude, by_alias, ...).

        Raises:
            ValueError: the mode is "json", and the object nests more than 300 deep.
        """
        if mode == "json" and options.get("context") is not BARE:
            plain = self._dumps_plainly and self._has_plain_fields()
            return cast("dict[str, Any]", IN_PLACE.json(self._dump_shallow(options), plain=plain))
        return super().model_dump(mode=mode, **options)

    def model_dump_json(self, *, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
        """Return the fields as JSON text, from which `model_validate_json` makes an equal object.

        Args:
            indent: number of spaces for each level; None for a text without blanks.
            ensure_ascii: write characters beyond ASCII as escapes.
            options: those of pydantic (include, exclude, by_alias, ...).

        Raises:
            ValueError: the object nests more than 300 deep.
        """
        if options.get("context") is BARE:
            return super().model_dump_json(indent=indent, ensure_ascii=ensure_ascii, **options)
        if indent is None and not ensure_ascii:
            return IN_PLACE.text(self._dump_shallow(options), plain=self._dumps_plainly and self._has_plain_fields())
        separators = (",", ":") if indent is None else None
        dump = self.model_dump(mode="json", **options)
        return json.dumps(dump, indent=indent, ensure_ascii=ensure_ascii, separators=separators)

    def _dump_shallow(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the dict of a dump, with `class_` and escaped keys; its values are not dumped yet.

        If an option selects or changes fields, or if the class has serializers, pydantic makes the dump, and its
        values are dumped as well.
        """
        cls = type(self)
        if cls._dumps_plainly and all(
            value is None or value is False or name in _IRRELEVANT_OPTIONS for name, value in options.items()
        ):
            values = self.__dict__
            fields = {CLASS_KEY: cls.class_name, **{key: values[name] for name, key in cls._keys}}
            fields.update(escaped(self.__pydantic_extra__ or {}))
            return fields
        return super().model_dump(**options)

    def _has_plain_fields(self) -> bool:
        """Return True if all fields are plain, as `is_plain` says; computed once."""
        try:
            return cast("bool", _get_plain(self))
        except AttributeError:
            fields = [value for _, value in frozen_fields(self)]
            _set_plain(self, all(map(is_plain, fields)))
            return cast("bool", _get_plain(self))

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return an object from what `model_dump` gave, with the classes that the dump names, at every depth.

        Where the name of a class is not known, `cls` is taken for the outermost object, and `Message` for nested ones.

        Args:
            obj: a mapping, or an object of this class, which is returned as it is.
            options: those of pydantic (strict, context, ...).

        Raises:
            pydantic.ValidationError: the content is not valid, or the dump names a class that is no subclass of `cls`.
        """
        return cast("Self", _restore(cls, obj, options))

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Parse a text of `model_dump_json`, and return the object that `model_validate` makes of it.

        Raises:
            ValueError: the text is no JSON, a tag in it such as `{"$date": ...}` is malformed, or `model_validate`
                refuses the content.
            FreezeError: the JSON nests too deep.
        """
        plain = read_plain_json(json_data)
        if plain is not None:
            return cast("Self", _restore_plain(cls, plain, options))
        try:
            parsed = json.loads(json_data)
        except RecursionError:
            raise FreezeError(f"the JSON of a {cls.__qualname__} nests too deep") from None
        return cls.model_validate(parsed, **options)


FROZEN_CLASSES.register(Frozen.class_name, Frozen)
FROZEN_CLASSES.unknown = Frozen

_IRRELEVANT_OPTIONS: Final = ("warnings", "context")
"""Options that change a dump only where the application has serializers of its own."""


def _is_initialized(self: Frozen) -> bool:
    """Return True if `__init__` has run on this object; needed where the class declares no fields to show it."""
    try:
        BaseModel.__dict__["__pydantic_fields_set__"].__get__(self)
    except AttributeError:
        return False
    return True


# --- objects from dumps


def _restore(cls: type[Frozen], dump: Any, options: dict[str, Any]) -> Frozen:
    """Return an object of the class that `dump` names, or of `cls`; `options` are those of `model_validate`.

    An object of `cls` is returned as it is. If the named class is not a subclass of `cls`, raise `ValidationError`; an
    unknown name counts as `cls`.
    """
    if isinstance(dump, cls):
        return dump
    if not isinstance(dump, Mapping) or isinstance(dump, Frozen):
        return _construct(cls, dump, options, {})
    made = _find_class(cls, dump)
    return _construct_from_dump(made, decode_mapping(dump, made.__qualname__), options)


def _restore_plain(cls: type[Frozen], fields: dict[str, Any], options: dict[str, Any]) -> Frozen:
    """Return an object of the class that `fields` names, or of `cls`, from fields that `read_plain_json` has read.

    If the named class is not a subclass of `cls`, raise `ValidationError`; an unknown name counts as `cls`.
    """
    made = _find_class(cls, fields)
    fields.pop(CLASS_KEY, None)
    return _construct_from_dump(made, fields, options, plain=True)


def _find_class(cls: type[Frozen], dump: Mapping[str, Any]) -> type[Frozen]:
    """Return the class that `dump` names, or `cls` if its name is not known.

    If the named class is not a subclass of `cls`, raise `ValidationError`.
    """
    known = FROZEN_CLASSES.find(dump[CLASS_KEY]) if CLASS_KEY in dump else None
    if known is not None and not issubclass(known, cls):
        raise _make_class_error(cls, dump)
    return known or cls


def _construct_from_dump(
    cls: type[Frozen], fields: dict[str, Any], options: dict[str, Any], *, plain: bool = False
) -> Frozen:
    """Return an object of decoded fields; `plain` is True if it is known that they are plain."""
    for computed in cls.__pydantic_decorators__.computed_fields:  # dumped, but not a field to set
        fields.pop(computed, None)
    return _construct(cls, dict(fields), options, fields, plain=plain)  # a validator may change its dict


def _construct(
    cls: type[Frozen], fields: Any, options: dict[str, Any], frozen: Mapping[str, Any], *, plain: bool = False
) -> Frozen:
    """Validate and freeze the fields, and return an object of them; raise pydantic's `ValidationError`.

    The values in `frozen` are immutable already, under the names of their fields; with `plain`, they are plain, too.
    """
    made = cls.__new__(cls)
    cls._fields_validator.validate_python(fields, self_instance=made, **options)
    freeze_fields(made, frozen, plain=plain)
    return made


def _make_class_error(cls: type[Frozen], dump: Mapping[str, Any]) -> ValidationError:
    """Return the error of a dump that names a class which is no subclass of `cls`."""
    context = {"name": dump[CLASS_KEY], "wanted": cls.class_name}
    error = PydanticCustomError("wrong_class", "The class {name} is not a subclass of {wanted}", context)
    details: InitErrorDetails = {"type": error, "loc": (CLASS_KEY,), "input": dump[CLASS_KEY]}
    return ValidationError.from_exception_data(cls.__qualname__, [details])


# --- what is in an object


def freeze_fields(self: Frozen, frozen: Mapping[str, Any] = CONSTRUCTING, *, plain: bool = False) -> None:
    """Freeze the values of all declared and extra fields of a new object, in place; note if all of them are plain.

    Raise `FreezeError`, with the name of the field, for a value that cannot be frozen.

    Args:
        self: the object.
        frozen: values that are immutable already, under the names of their fields.
        plain: True if it is known that the values in `frozen` are plain, as `is_plain` says.
    """
    declared, extra = self.__dict__, self.__pydantic_extra__ or {}
    if ATOMS.issuperset(map(type, declared.values())) and ATOMS.issuperset(map(type, extra.values())):
        return
    marker = get_marker()
    all_plain = True
    typed = type(self)._enum_fields
    for values in (declared, extra):
        for name, value in values.items():
            if type(value) in ATOMS:
                all_plain = all_plain and is_plain(value)
            elif value is frozen.get(name):
                all_plain = all_plain and (plain or is_plain(value))
            else:
                values[name] = (freeze_with_enums if name in typed else freeze)(value, name)
    if all_plain and get_marker() is marker:
        _set_plain(self, True)


def nested_frozen(self: Frozen) -> list[tuple[Frozen, int]]:
    """Return the Frozen objects in the fields, in order, each with the number of containers around it.

    Those inside of other Frozen objects are left out. An object in several places comes several times.
    """
    found: list[tuple[Frozen, int]] = []
    if _known_height(self) == 1:
        return found
    for values in (self.__dict__, self.__pydantic_extra__):
        if values and not ATOMS.issuperset(map(type, values.values())):
            for value in values.values():
                _collect_nested(value, 0, found)
    return found


def _collect_nested(value: Any, level: int, found: list[tuple[Frozen, int]]) -> None:
    """Append the Frozen objects in `value`, which is inside of `level` containers, to `found`; do not look inside them.

    Frozen objects of a set come in the order of their digests.
    """
    kind = type(value)
    if kind is FrozenDict and is_plain(value):
        return
    if kind is tuple or kind is FrozenDict:
        items = value if kind is tuple else value._items.values()
        if not ATOMS.issuperset(map(type, items)):
            for item in items:
                _collect_nested(item, level + 1, found)
    elif kind is FrozenSet:
        nested: list[tuple[Frozen, int]] = []
        for item in value:
            _collect_nested(item, level + 1, nested)
        found.extend(sorted(nested, key=lambda pair: _digest_of(pair[0])))  # the order of a set differs by process
    elif isinstance(value, FrozenLeaf):
        found.append((cast("Frozen", value), level))


def children_first(root: Frozen, *, leave_out: Callable[[Frozen], bool] = lambda _: False) -> list[Frozen]:
    """Return `root` and the Frozen objects in it at any depth, each object once, children before what holds them.

    Args:
        root: the object that comes last.
        leave_out: returns True for an object to leave out with all that is in it; not asked about `root`.
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
    """Yield names and values of the declared fields, then of the extra ones."""
    values = self.__dict__
    for name in type(self).__pydantic_fields__:
        yield name, values[name]
    if self.__pydantic_extra__:
        yield from self.__pydantic_extra__.items()


def _fields_to_hash(self: Frozen) -> dict[str, Any]:
    """Return the class name and the fields, from which the digest is computed.

    Keys are escaped, so that none of them is read as a tag such as `class_`. Declared fields that hold None are left
    out, so that a class can get new fields and its old objects keep their digests.
    """
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


# Read by their descriptors: an attribute that is not set yet would go through pydantic's slow __getattr__.
_get_digest: Final = Frozen.__dict__["_digest"].__get__
_get_height: Final = Frozen.__dict__["_height"].__get__
_get_plain: Final = Frozen.__dict__["_plain"].__get__
_set_digest: Final = Frozen.__dict__["_digest"].__set__
_set_height: Final = Frozen.__dict__["_height"].__set__
_set_plain: Final = Frozen.__dict__["_plain"].__set__


def _digest_of(self: Frozen) -> str:
    """Return the digest; compute it and those of nested objects where they are not known yet."""
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
    """Compute and keep the digest; raise `MissingDigest` if a nested object has none yet."""
    computed = digest(_fields_to_hash(self))
    _set_digest(self, computed)
    return computed


def _height_of(self: Frozen) -> int:
    """Return how deep Frozen objects, and the containers around them, nest in `self`; computed once."""
    for node in children_first(self, leave_out=lambda child: _known_height(child) > 0):
        height = 1 + max((level + _known_height(child) for child, level in nested_frozen(node)), default=0)
        _set_height(node, height)
    return _known_height(self)


def _known_height(self: Frozen) -> int:
    """Return the height, or 0 if it has not been computed yet."""
    try:
        return cast("int", _get_height(self))
    except AttributeError:
        pass
    try:
        return 1 if _get_plain(self) else 0  # plain fields hold no Frozen
    except AttributeError:
        return 0
