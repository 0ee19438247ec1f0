"""Frozen: a pydantic model that is immutable at every depth, with a hash of its content that is the same everywhere.

Values are frozen after validation, whatever validation, a default or an extra field brought in (see `freezing`).
Equality, `hash()` and `hash_key` all go by one digest of class and content (see `canonical`), computed once, on
demand; a nested Frozen takes part by its own digest. So nothing here is recursive over nested Frozen objects, and
chains of many thousands of them work.

Field annotations of a Frozen: `list[X]` is taken as `tuple[X, ...]` and so on, where the class is made.

Values are frozen whatever the annotation says (see `frozen.Frozen`). This is for pydantic's sake, which validates and
dumps a field by its annotation, and warns where the value is of another type.

Pickles of Frozen objects, also of those nested thousands deep, for which pickle's own recursion is too shallow.

Objects from dumps: the way back from `Frozen.model_dump`, with the classes that the dump names.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import pickle
from collections import abc
from collections.abc import Mapping
from types import GenericAlias, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    is_typeddict,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, from_json

from miniagents._promising.freezing import (
    ATOMS,
    BARE,
    CLASS_KEY,
    ClassNames,
    FrozenDict,
    FrozenLeaf,
    FrozenSet,
    escaped,
    freeze,
    short_repr,
    unescaped_key,
)
from miniagents._promising.values import MissingDigest, canonical_digest
from miniagents.errors import FreezeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn, Self

    from pydantic import Field, GetCoreSchemaHandler
    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic_core import CoreSchema


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


FROZEN_CLASSES: Final = ClassNames()
"""Every living subclass of Frozen by its name."""

_PICKLED_BY_RECURSION: Final = 20
"""How deep pickle may go by itself: a Frozen or a container each takes it three levels of recursion."""


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
    class _ModelMetaclass(ModelMetaclass):
        """What type checkers are to know beyond pydantic's own: every subclass is frozen, and so can be hashed."""
else:
    _ModelMetaclass = type(BaseModel)


class Frozen(FrozenLeaf, BaseModel, metaclass=_ModelMetaclass):
    """Base of immutable values. Any extra field is allowed, and everything in it is frozen, as `freeze` does it.

    A subclass is known by its `__qualname__`, in hashes and in dumps, or by a name given in the class statement:
    `class Note(Frozen, class_="note")`. The name should not change once values were stored. `model_dump()` adds it as
    `class_`, and `model_validate` makes an object of the class it names; nothing else looks at `class_`. Private
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
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )
    # What is remembered about a value, outside of its fields: not copied, not pickled, not compared.
    __slots__ = ("__weakref__", "_digest", "_height")

    class_name: ClassVar[str] = "Frozen"
    """The name in hashes and dumps; set by `class_=` in the class statement."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Extra fields are attributes."""

    def __init__(self, /, **fields: Any) -> None:
        if self.__dict__ or (not self.__pydantic_fields__ and _is_made(self)):
            raise TypeError(f"{type(self).__qualname__} is immutable: it cannot be initialized again")
        self.__pydantic_validator__.validate_python(fields, self_instance=self)
        freeze_fields(self)

    def __init_subclass__(cls, *, class_: str | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.class_name = class_ or cls.__qualname__
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
        for name, field in cls.__pydantic_fields__.items():
            field.annotation = frozen_annotation(field.annotation, f"{cls.__qualname__}.{name}")
        return handler(source)

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
        cls.__pydantic_validator__.validate_python({**dict(frozen_fields(self)), **update}, self_instance=copy)
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

    @model_serializer(mode="wrap")
    def _dump_with_class(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo[Any]) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return content if info.context is BARE else {CLASS_KEY: type(self).class_name, **escaped(content)}

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
        """`model_validate` of parsed JSON."""
        return cls.model_validate(from_json(json_data), **options)

    @classmethod
    def class_for_unknown_name(cls) -> type[Frozen]:
        """What an object inside of a dump becomes if nobody knows the class it names."""
        return Frozen


FROZEN_CLASSES.register(Frozen.class_name, Frozen)


def _is_made(self: Frozen) -> bool:
    try:
        BaseModel.__dict__["__pydantic_fields_set__"].__get__(self)
    except AttributeError:
        return False
    return True


def freeze_fields(self: Frozen) -> None:
    """Make what validation left in the fields of a new object immutable."""
    for values in (self.__dict__, self.__pydantic_extra__):
        if values and not ATOMS.issuperset(map(type, values.values())):
            for name, value in values.items():
                if type(value) not in ATOMS:
                    values[name] = freeze(value, name)


def frozen_state(self: Frozen) -> tuple[type[Frozen], dict[str, Any], dict[str, Any], set[str]]:
    """What a pickle holds: class, declared fields, extra fields, names of the fields that were given."""
    declared = {name: self.__dict__[name] for name in type(self).__pydantic_fields__}
    return type(self), declared, self.__pydantic_extra__ or {}, self.__pydantic_fields_set__


def nested_frozen(self: Frozen) -> list[tuple[Frozen, int]]:
    """The Frozen objects directly in the fields of this one, in order, each with the number of containers around it."""
    found: list[tuple[Frozen, int]] = []
    for values in (self.__dict__, self.__pydantic_extra__):
        if values and not ATOMS.issuperset(map(type, values.values())):
            for value in values.values():
                _collect(value, 0, found)
    return found


def _collect(value: Any, level: int, found: list[tuple[Frozen, int]]) -> None:
    kind = type(value)
    if kind is tuple or kind is FrozenDict:
        items = value if kind is tuple else value.values()
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


def _canonical_fields(self: Frozen) -> Iterator[tuple[str, Any]]:
    values = self.__dict__
    for name in type(self).__pydantic_fields__:
        value = values[name]
        if value is not None:
            yield name, value
    if self.__pydantic_extra__:
        yield from self.__pydantic_extra__.items()


# Read by their descriptors: an attribute that is not there yet would go through pydantic's slow __getattr__.
_get_digest: Final = Frozen.__dict__["_digest"].__get__
_get_height: Final = Frozen.__dict__["_height"].__get__


def _digest_of(self: Frozen) -> str:
    try:
        return cast("str", _get_digest(self))
    except AttributeError:
        pass
    try:
        return _seal(self)
    except MissingDigest:
        for node in children_first(self, leave_out=lambda child: child._known_digest() is not None):
            _seal(node)
        return cast("str", _get_digest(self))


def _seal(self: Frozen) -> str:
    """Compute and keep the digest; everything in `self` must have its own."""
    digest = canonical_digest(type(self).class_name, _canonical_fields(self))
    object.__setattr__(self, "_digest", digest)
    return digest


def _height_of(self: Frozen) -> int:
    """How deep Frozen objects and the containers around them nest in `self`; computed once."""
    for node in children_first(self, leave_out=lambda child: _known_height(child) > 0):
        height = 1 + max((level + _known_height(child) for child, level in nested_frozen(node)), default=0)
        object.__setattr__(node, "_height", height)
    return _known_height(self)


def _known_height(self: Frozen) -> int:
    try:
        return cast("int", _get_height(self))
    except AttributeError:
        return 0
