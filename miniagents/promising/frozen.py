"""Frozen: a pydantic model that is immutable at every depth, with a hash of its content that is the same everywhere.

Values are frozen after validation, whatever validation, a default or an extra field brought in (see `freezing`).
Equality, `hash()` and `hash_key` all go by one digest of class and content (see `canonical`), computed once, on
demand; a nested Frozen takes part by its own digest. So nothing here is recursive over nested Frozen objects, and
chains of many thousands of them work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, cast, dataclass_transform

from pydantic import BaseModel, ConfigDict, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import from_json

from miniagents.promising.canonical import Unsealed, canonical_digest
from miniagents.promising.class_names import BARE, CLASS_KEY, ClassNames, escaped
from miniagents.promising.freezing import ATOMS, FrozenDict, FrozenLeaf, FrozenSet, freeze
from miniagents.promising.frozen_annotations import frozen_annotation
from miniagents.promising.short_repr import short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import NoReturn, Self

    from pydantic import Field, GetCoreSchemaHandler
    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic_core import CoreSchema

__all__ = [
    "FROZEN_CLASSES",
    "Frozen",
    "FrozenDict",
    "children_first",
    "freeze",
    "freeze_fields",
    "frozen_fields",
    "frozen_state",
]

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
        from miniagents.promising.frozen_pickle import pickled_flat, unpickled, unpickled_flat

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
        from miniagents.promising.restoring import restored

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
    except Unsealed:
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
