"""Values made immutable at every depth: `freeze` and `FrozenDict`; the names of Frozen classes; short reprs.

Lists and tuples become tuples, mappings with str keys `FrozenDict`, sets frozensets. Leaves of the allowed types stay
as they are; values of other types are refused with an error that says where they were found. This module is independent
of pydantic models: a class whose instances are immutable by themselves inherits from `FrozenLeaf`.

Hashes and dumps name classes by their entries in `FROZEN_CLASSES`. Looking a name up imports and calls nothing: only
classes that are defined and alive are found.
"""

from __future__ import annotations

import copyreg
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, NoReturn, TypeVar, cast, get_args, get_origin
from uuid import UUID
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

from pydantic_core import SchemaSerializer, core_schema

from miniagents.bounds import MAX_NESTING
from miniagents.errors import CyclicValueError, FreezeError

if TYPE_CHECKING:
    from types import FrameType

    from pydantic import GetCoreSchemaHandler


_BIG_INT_BITS: Final = 256


class _ShortRepr(reprlib.Repr):
    """Writer of reprs that are cut in the middle. Classes say by `__short_repr_items__` what their reprs show."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 8
        self.maxstring = self.maxother = 80

    def repr1(self, x: Any, level: int) -> str:
        """Return the shortened repr of a value; of an object with `__short_repr_items__`, show only those items."""
        items = getattr(type(x), "__short_repr_items__", None)
        if items is None:
            return super().repr1(x, level)
        if level <= 0:
            return f"{type(x).__qualname__}(...)"
        shown = [f"{name}={self.repr1(value, level - 1)}" for name, value in items(x)]
        cut = [*shown[: self.maxdict], "..."] if len(shown) > self.maxdict else shown
        return f"{type(x).__qualname__}({', '.join(cut)})"

    def repr_FrozenDict(self, x: Any, level: int) -> str:  # noqa: N802 - reprlib finds methods by the name of the type
        """Return the shortened repr of a `FrozenDict`, with that of a dict in parentheses."""
        return f"FrozenDict({self.repr_dict(x, level)})"

    def repr_FrozenSet(self, x: Any, level: int) -> str:  # noqa: N802 - as above
        """Return the shortened repr of a `FrozenSet`, as that of a frozenset."""
        return self.repr_frozenset(x, level)

    def repr_int(self, x: int, level: int) -> str:
        """Return the repr of an int; of a huge one, the first hex digits."""
        # hex, because the decimal digits of a large int take quadratic time and are limited by the interpreter
        return super().repr_int(x, level) if x.bit_length() < _BIG_INT_BITS else f"{hex(x)[:32]}..."


short_repr = _ShortRepr().repr
"""Return `repr(value)` with "..." in place of texts beyond 80 characters, items beyond 8 and levels beyond 4."""


CLASS_KEY: Final = "class_"
"""The key of a dump whose value is the name of the class. Keys of the content that look like it get one more `_`."""

BARE: Final = object()
"""Pass this as context for a dump of the content only, without names of classes and escaped keys."""

CONSTRUCTING: Final[dict[str, Any]] = {}
"""Context, by identity, of the validation in a constructor: it takes keys such as `class_` as any others."""

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


K = TypeVar("K", bound=str)
V_co = TypeVar("V_co", covariant=True)

ATOMS: Final[frozenset[type]] = frozenset(
    {
        NoneType,
        bool,
        int,
        float,
        Decimal,
        str,
        bytes,
        UUID,
        date,
        timedelta,
        PurePosixPath,
        PureWindowsPath,
        type(Path()),
    }
)
"""Exact types that are immutable as they are. (A subclass may carry attributes, a datetime a mutable tzinfo.)"""

_ALLOWED: Final = (
    "allowed are None, bool, int, float, Decimal, str, bytes, UUID, datetime, date, time, timedelta, Path, Enum, "
    "Frozen, and lists, tuples, sets and dicts with str keys of these"
)


class FrozenLeaf:
    """Base of classes whose instances are immutable at every depth by themselves."""

    __slots__ = ()


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Error of a value that cannot be frozen, with the reason and the path to the value, innermost step first."""

    def __init__(self, reason: str, *, too_deep: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.too_deep = too_deep
        self.path: list[str] = []


_encode: Callable[[Any], Any]
_decode_items: Callable[[Mapping[str, Any], str], Any]


def set_codec(encode: Callable[[Any], Any], decode_items: Callable[[Mapping[str, Any], str], Any]) -> None:
    """Set how pydantic dumps and reads each `FrozenDict`: by functions of `values`, which imports this module."""
    global _encode, _decode_items
    _encode, _decode_items = encode, decode_items


def dump_frozen_dict(value: FrozenDict[str, Any], info: core_schema.SerializationInfo) -> dict[str, Any]:
    """Return the dump of a mapping that pydantic asks for: the plain items with the context `BARE`.

    Otherwise its keys are escaped; for the mode "json", its values are encoded as well.
    """
    if info.context is BARE:
        return dict(value)
    if info.mode == "json":
        return cast("dict[str, Any]", _encode(value))
    return dict(escaped(value._items))


def _read_frozen_dict(value: Any, info: core_schema.ValidationInfo) -> Any:
    """Return the items of a mapping from a dump or for a constructor; return other values as they are."""
    if not isinstance(value, Mapping):
        return value
    if info.context is CONSTRUCTING or isinstance(value, FrozenDict):
        return dict(value)
    return _decode_items(value, info.field_name or "FrozenDict")


def _dump_frozen_set(value: frozenset[Any], info: core_schema.SerializationInfo) -> Any:
    """Return the set as it is in a Python dump, and as a list in a JSON dump."""
    return value if info.mode == "python" else list(value)


def _serializer(dump: Callable[[Any, core_schema.SerializationInfo], Any]) -> SchemaSerializer:
    """Return a pydantic serializer that calls `dump` for each value."""
    dumping = core_schema.plain_serializer_function_ser_schema(dump, info_arg=True)
    return SchemaSerializer(core_schema.any_schema(serialization=dumping))


class FrozenDict(FrozenLeaf, Mapping[K, V_co], Generic[K, V_co]):
    """Immutable mapping with str keys, immutable values and a hash; equal to the dict with the same items.

    It takes the arguments of `dict`, and freezes each value. As the annotation of a field (`FrozenDict[str, int]`) it
    accepts any mapping.

    Raises:
        FreezeError: a key is not a str, or a value cannot be made immutable.
        CyclicValueError: a value contains itself.
    """

    __slots__ = ("__weakref__", "_hash", "_height", "_items")

    _items: dict[K, V_co]
    _hash: int
    _height: int

    def __new__(cls, items: Mapping[K, V_co] | Iterable[tuple[K, V_co]] = (), /, **more: V_co) -> FrozenDict[K, V_co]:
        """Return a mapping with these items; see the class."""
        return cast("FrozenDict[K, V_co]", freeze(dict(items, **more), "FrozenDict"))

    def __getitem__(self, key: K) -> V_co:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenDict):
            return self is other or self._items == other._items
        return self._items == other if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", hash(frozenset(self._items.items())))
            return self._hash

    def __or__(self, other: Mapping[K, Any]) -> FrozenDict[K, Any]:
        return FrozenDict({**self, **other})

    def __repr__(self) -> str:
        return short_repr(self)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise TypeError(f"FrozenDict is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise TypeError(f"FrozenDict is immutable: cannot delete {name!r}")

    def __copy__(self) -> FrozenDict[K, V_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict[K, V_co]:
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[dict[K, V_co]]]:
        return make_frozen_dict, (self._items,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Return the schema of a field: it reads a mapping or its dump, validates keys and values, and freezes them."""
        args = get_args(source)
        keys, values = (handler.generate_schema(arg) for arg in args) if args else (core_schema.str_schema(), None)
        freezing = freeze_with_enums if mentions(source, Enum) else freeze

        def validated(items: dict[K, V_co], info: core_schema.ValidationInfo) -> FrozenDict[K, V_co]:
            return cast("FrozenDict[K, V_co]", freezing(items, info.field_name or "FrozenDict"))

        return core_schema.with_info_after_validator_function(
            validated,
            core_schema.with_info_before_validator_function(_read_frozen_dict, core_schema.dict_schema(keys, values)),
            serialization=core_schema.plain_serializer_function_ser_schema(dump_frozen_dict, info_arg=True),
        )

    # pydantic-core looks here for the way to dump a value of a type it does not know
    __pydantic_serializer__: ClassVar[SchemaSerializer] = _serializer(dump_frozen_dict)


_set_items: Final = FrozenDict.__dict__["_items"].__set__
copyreg.pickle(FrozenDict, FrozenDict.__reduce__)  # the method is not looked up then for each mapping of a message


class FrozenSet(frozenset[Any]):
    """Frozenset of elements whose dumps are dicts, which no set can hold: Python dumps have it as it is."""

    __slots__ = ()
    __pydantic_serializer__ = _serializer(_dump_frozen_set)


def freeze(value: Any, where: str = "value") -> Any:
    """Return `value` with all containers made immutable; values that are immutable already are not copied.

    A member of an Enum becomes its value.

    Args:
        value: a leaf of an allowed type, or lists, tuples, sets and mappings of these, `MAX_NESTING` deep at most.
        where: the name of the value in errors, usually that of a field.

    Raises:
        FreezeError: a part of it is of a type that cannot be made immutable, or it nests too deep.
        CyclicValueError: a container in it contains itself.
    """
    if type(value) in ATOMS:
        return value
    try:
        return _FREEZERS.get(type(value), _freeze_by_base)(value, 0)
    except _Refused as refused:
        if refused.too_deep and _contains_itself(value):
            raise CyclicValueError(f"{where} contains itself") from None
        path = "" if refused.too_deep else "".join(reversed(refused.path))
        raise FreezeError(f"{where}{path}: {refused.reason}") from None


def freeze_with_enums(value: Any, where: str = "value") -> Any:
    """Return what `freeze` returns, but keep members of an Enum, which `freeze` replaces by their values.

    Those in nested lists, tuples, sets and dicts are kept as well. Callers use it for fields whose annotations mention
    an Enum. Validation has checked the keys of dicts by then. Errors name `where`, but not the place inside the value.

    Raises:
        FreezeError, CyclicValueError: as `freeze` does.
    """
    try:
        return _keep_enums(value, where, 0)
    except _Refused as refused:
        if _contains_itself(value):
            raise CyclicValueError(f"{where} contains itself") from None
        raise FreezeError(f"{where}: {refused.reason}") from None


def _keep_enums(value: Any, where: str, level: int) -> Any:
    """Freeze a value that is inside of `level` containers, but keep Enums; raise `_Refused` if it nests too deep."""
    if isinstance(value, (Enum, FrozenDict)):
        return value
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return freeze(value, where)
    if level >= MAX_NESTING:
        raise _make_depth_error()
    if isinstance(value, dict):
        return make_frozen_dict({key: _keep_enums(item, where, level + 1) for key, item in value.items()})
    items = [_keep_enums(item, where, level + 1) for item in value]
    return _make_set(items) if isinstance(value, (set, frozenset)) else tuple(items)


def mentions(annotation: Any, kind: type, *, _seen: tuple[Any, ...] = ()) -> bool:
    """Return True if `annotation` names `kind`, a subclass of it, or a `Literal` value of it, at any depth."""
    if annotation in _seen:  # `type X = list[X]`
        return False
    if isinstance(annotation, type) and issubclass(annotation, kind):
        return True
    args = get_args(annotation)
    if get_origin(annotation) is Literal:
        return any(isinstance(arg, kind) for arg in args)
    inside = getattr(annotation, "__value__", None)
    return any(mentions(arg, kind, _seen=(*_seen, annotation)) for arg in (inside, *args) if arg is not None)


def make_frozen_dict(items: dict[str, Any]) -> FrozenDict[str, Any]:
    """Return a mapping of these items, which are frozen already; the dict is not copied."""
    new: FrozenDict[str, Any] = object.__new__(FrozenDict)
    _set_items(new, items)
    return new


def _freeze_items(items: list[Any] | tuple[Any, ...], level: int) -> tuple[Any, ...]:
    """Return the tuple of the frozen items of a list or tuple that is inside of `level` containers.

    Raise `_Refused`, with the index in its path, if an item cannot be frozen, or if the list nests too deep.
    """
    if level >= MAX_NESTING:
        raise _make_depth_error()
    if ATOMS.issuperset(map(type, items)):
        return tuple(items)
    frozen: list[Any] = []
    try:
        for item in items:
            if type(item) not in ATOMS:
                item = _FREEZERS.get(type(item), _freeze_by_base)(item, level + 1)
            frozen.append(item)
    except _Refused as refused:
        refused.path.append(f"[{len(frozen)}]")
        raise
    return tuple(frozen)


def _freeze_mapping(items: Mapping[Any, Any], level: int) -> FrozenDict[Any, Any]:
    """Return a `FrozenDict` of the frozen values of a mapping that is inside of `level` containers.

    Raise `_Refused` if a key is no str, a value cannot be frozen, or the mapping nests too deep.
    """
    if level >= MAX_NESTING:
        raise _make_depth_error()
    frozen: dict[Any, Any] = {}
    for key, value in items.items():  # one pass, because most dicts are small
        if type(key) is not str:
            key = _str_key(key)
        if type(value) not in ATOMS:
            try:
                value = _FREEZERS.get(type(value), _freeze_by_base)(value, level + 1)
            except _Refused as refused:
                refused.path.append(f"[{key!r}]")
                raise
        frozen[key] = value
    new: FrozenDict[Any, Any] = object.__new__(FrozenDict)
    _set_items(new, frozen)
    return new


def _freeze_set(items: Iterable[Any], level: int) -> frozenset[Any]:
    """Return the frozenset of the frozen elements of a set that is inside of `level` containers.

    Raise `_Refused` if an element cannot be frozen, or if the set nests too deep.
    """
    if level >= MAX_NESTING:
        raise _make_depth_error()
    if ATOMS.issuperset(map(type, items)):
        return frozenset(items)
    try:
        frozen = [_FREEZERS.get(type(item), _freeze_by_base)(item, level + 1) for item in items]
    except _Refused as refused:
        refused.path.append("{...}")
        raise
    return _make_set(frozen)


def _make_set(items: list[Any]) -> frozenset[Any]:
    """Return a frozenset of frozen items; a `FrozenSet` if the dump of an item may be a dict or a list."""
    composite = any(isinstance(item, (tuple, FrozenSet, FrozenLeaf)) for item in items)
    return FrozenSet(items) if composite else frozenset(items)


def _freeze_frozen_dict(value: FrozenDict[Any, Any], level: int) -> FrozenDict[Any, Any]:
    """Return the `FrozenDict` as it is, and renew the marker.

    Raise `_Refused` if it would nest too deep at this level.
    """
    if level and level + _height(value) > MAX_NESTING:
        raise _make_depth_error()
    renew_frozen_marker()  # there may be a Frozen in it
    return value


_frozen_marker = object()


def renew_frozen_marker() -> None:
    """Replace the marker object, to record that a value that is being frozen holds, or may hold, a Frozen."""
    global _frozen_marker
    _frozen_marker = object()


def get_frozen_marker() -> object:
    """Return the marker object; it is another object than before if a Frozen was found in between."""
    return _frozen_marker


def _height(value: Any) -> int:
    """Return how many containers deep a frozen value is; those in a nested Frozen do not count."""
    if isinstance(value, FrozenDict):
        try:
            return value._height
        except AttributeError:
            height = 1 + max(map(_height, value._items.values()), default=0)
            object.__setattr__(value, "_height", height)
            return height
    return 1 + max(map(_height, value), default=0) if isinstance(value, (tuple, frozenset)) else 0


def _freeze_moment(value: datetime | time, level: int) -> datetime | time:
    """Return the value if its zone is None, a `timezone` or a named `ZoneInfo`; else replace the zone by its offset."""
    zone = value.tzinfo
    if zone is None or type(zone) is timezone or (type(zone) is ZoneInfo and zone.key):
        return value
    # Any other tzinfo may be mutable, may not pickle, and has no name that means the same everywhere: its offset does.
    return value.replace(tzinfo=_fixed_offset(zone, value))


def _fixed_offset(zone: tzinfo, value: datetime | time) -> timezone:
    """Return the offset that a time zone has at `value`; raise `_Refused` if it has none."""
    offset = value.utcoffset()
    if offset is None:
        raise _Refused(f"a time zone of type {type(zone).__qualname__} that has no offset cannot be frozen")
    return timezone(offset)


def _freeze_by_base(value: Any, level: int) -> Any:
    """Freeze a value of an unlisted type: one of a subclass becomes plain, and loses attributes of its own.

    A member of an Enum becomes its value, and a `FrozenLeaf` stays. Raise `_Refused` for values of other types.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, FrozenLeaf):
        renew_frozen_marker()
        return value
    if type(value) in ATOMS:
        return value
    if type(value) in _FREEZERS:
        return _FREEZERS[type(value)](value, level)
    for base, plain in _PLAIN_FREEZERS.items():
        if isinstance(value, base):
            return plain(value, level)
    raise _Refused(f"cannot freeze {type(value).__module__}.{type(value).__qualname__} {short_repr(value)}; {_ALLOWED}")


def _plain_datetime(value: datetime, level: int) -> datetime | time:
    """Return a plain datetime in place of one of a subclass."""
    moment = datetime.combine(value.date(), value.time(), value.tzinfo)
    return _freeze_moment(moment, level)


_FREEZERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    list: _freeze_items,
    tuple: _freeze_items,
    dict: _freeze_mapping,
    FrozenDict: _freeze_frozen_dict,
    set: _freeze_set,
    frozenset: _freeze_set,
    FrozenSet: _freeze_set,
    datetime: _freeze_moment,
    time: _freeze_moment,
}

# The order counts: a datetime is a date as well. Methods are those of the base, because a subclass may override them.
_PLAIN_FREEZERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    str: lambda value, level: str.__str__(value),
    int: lambda value, level: int.__int__(value),
    float: lambda value, level: float.__float__(value),
    bytes: lambda value, level: bytes.__bytes__(value),
    datetime: _plain_datetime,
    date: lambda value, level: date(value.year, value.month, value.day),
    timedelta: lambda value, level: timedelta(value.days, value.seconds, value.microseconds),
    Decimal: lambda value, level: Decimal(value),
    UUID: lambda value, level: UUID(int=value.int),
    Mapping: _freeze_mapping,
    list: _freeze_items,
    tuple: _freeze_items,
    set: _freeze_set,
    frozenset: _freeze_set,
}


def _str_key(key: object) -> str:
    """Return a key of a subclass of str as a plain str; raise `_Refused` for any other key."""
    if not isinstance(key, str):
        raise _Refused(f"the key {short_repr(key)} is not a str")
    return key.value if isinstance(key, Enum) and type(key.value) is str else str.__str__(key)


def _make_depth_error() -> _Refused:
    """Return the error of containers that nest deeper than `MAX_NESTING`."""
    return _Refused(f"containers nest more than {MAX_NESTING} deep", too_deep=True)


def _contains_itself(value: Any) -> bool:
    """Return True if a container contains itself at any depth; look at each container once, without recursion."""
    enclosing: set[int] = set()
    done: set[int] = set()
    stack: list[tuple[Any, Iterator[Any]]] = [(value, _inner_containers(value))]
    enclosing.add(id(value))
    while stack:
        container, rest = stack[-1]
        child = next(rest, None)
        if child is None:
            stack.pop()
            enclosing.discard(id(container))
            done.add(id(container))
        elif id(child) in enclosing:
            return True
        elif id(child) not in done:
            enclosing.add(id(child))
            stack.append((child, _inner_containers(child)))
    return False


def _inner_containers(container: Any) -> Iterator[Any]:
    """Return an iterator over the containers directly in `container`, among the values of a mapping.

    Skip `FrozenDict`.
    """
    elements = container.values() if isinstance(container, Mapping) else container
    return (
        e for e in elements if isinstance(e, (Mapping, list, tuple, set, frozenset)) and not isinstance(e, FrozenDict)
    )
