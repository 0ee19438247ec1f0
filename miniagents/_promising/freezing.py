"""Values made immutable at every depth: `freeze` and `FrozenDict`, and which of them are plain; short reprs.

Lists and tuples become tuples, mappings with str keys `FrozenDict`, sets frozensets. Leaves of the allowed types stay
as they are; values of other types are refused with an error that says where they were found. This module is independent
of pydantic models: a class whose instances are immutable by themselves inherits from `FrozenLeaf`.

A value is plain if its JSON, as pydantic-core writes it, is that of `miniagents.values`: most are. `freeze` notes it
in each `FrozenDict`, so that dumps of plain ones need no call of Python for each mapping.
"""

from __future__ import annotations

import copyreg
import reprlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NoReturn, TypeVar, cast, get_args, get_origin
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic_core import SchemaSerializer, core_schema

from miniagents._promising.naming import are_plain_keys, dump_options, escaped, is_utf8
from miniagents.bounds import MAX_NESTING
from miniagents.errors import CyclicValueError, FreezeError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


_BIG_INT_BITS: Final = 256


class _ShortRepr(reprlib.Repr):
    """Writer of shortened reprs. Classes say by `__short_repr_items__` what their reprs show."""

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


BARE: Final = object()
"""Pass this as context for a dump of the content only, without names of classes and escaped keys."""

CONSTRUCTING: Final[dict[str, Any]] = {}
"""Context, by identity, of the validation in a constructor: it takes keys such as `class_` as any others."""

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

LARGE_BITS: Final = 13_288
"""Number of bits of the least int with more than 4,000 digits. Ints with fewer bits are written as numbers in JSON."""
_FEW: Final = 8
"""Number of items above which calls in C that look at all items are faster than a step of Python for each."""

_SMALL: Final = 32
"""Greatest number of keys of a dict whose keys are remembered as plain."""
_MAX_PLAIN_KEYS: Final = 1000

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

    Otherwise its keys are escaped, after pydantic-core has selected those of `include` and `exclude`, as it does in a
    plain mapping; for the mode "json", its values are encoded as well.
    """
    if info.context is BARE:
        return dict(value)
    if info.include is not None or info.exclude is not None:
        selected = dict(escaped(_ITEMS.to_python(value._items, **dump_options(info))))
        return cast("dict[str, Any]", _encode(selected)) if info.mode == "json" else selected
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


class Storage:
    """Attributes of a `FrozenDict`: it begins as an object of this class, where they can be set, and changes class."""

    __slots__ = ("__pydantic_serializer__", "__weakref__", "_hash", "_height", "_items")

    __pydantic_serializer__: SchemaSerializer
    """The way in which pydantic-core dumps the mapping, where no annotation says it: `PLAIN` or `_TAGGED`."""
    _items: dict[Any, Any]
    _hash: int
    _height: int


class FrozenDict(Storage, FrozenLeaf, Mapping[K, V_co], Generic[K, V_co]):
    """Immutable mapping with str keys, immutable values and a hash; equal to the dict with the same items.

    It takes the arguments of `dict`, and freezes each value. As the annotation of a field (`FrozenDict[str, int]`) it
    accepts any mapping.

    Raises:
        FreezeError: a key is not a str, or a value cannot be made immutable.
        CyclicValueError: a value contains itself.
    """

    __slots__ = ()

    _items: dict[K, V_co]

    # pydantic-core reads the items of a plain mapping as those of a root model: by these names, and without a call
    root = Storage.__dict__["_items"]
    __dict__: Any = MappingProxyType({})  # in place of the attribute that a model has

    def __new__(cls, items: Mapping[K, V_co] | Iterable[tuple[K, V_co]] = (), /, **more: V_co) -> FrozenDict[K, V_co]:
        """Return a mapping with these items, whose values are frozen."""
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
        return make_plain_dict if self.__pydantic_serializer__ is PLAIN else make_frozen_dict, (self._items,)

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


_ITEMS: Final = SchemaSerializer(core_schema.dict_schema())
PLAIN: Final = SchemaSerializer(core_schema.model_schema(FrozenDict, core_schema.dict_schema(), root_model=True))
"""Serializer of a plain `FrozenDict`: one whose JSON, as pydantic-core writes it, is that of `miniagents.values`."""
_TAGGED: Final = _serializer(dump_frozen_dict)
"""Serializer of a `FrozenDict` with anything that gets a tag, an escape or the name of a class."""
_get_serializer: Final = Storage.__dict__["__pydantic_serializer__"].__get__

copyreg.pickle(FrozenDict, FrozenDict.__reduce__)  # the method is not looked up then for each mapping of a message


class FrozenSet(frozenset[Any]):
    """Frozenset of elements whose dumps are dicts or lists, which no set can hold; a Python dump has the set itself."""

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
        frozen = _keep_enums(value, where, 0)
    except _Refused as refused:
        if _contains_itself(value):
            raise CyclicValueError(f"{where} contains itself") from None
        raise FreezeError(f"{where}: {refused.reason}") from None
    if not is_plain(frozen):
        renew_marker()
    return frozen


def _keep_enums(value: Any, where: str, level: int) -> Any:
    """Freeze a value inside of `level` containers, but keep Enums; raise `_Refused`, or `FreezeError` with `where`."""
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
    """Return a mapping of these items, which are frozen already; it counts as not plain. The dict is not copied."""
    return make_plain_dict(items, _TAGGED)


def make_plain_dict(items: dict[str, Any], serializer: SchemaSerializer = PLAIN) -> FrozenDict[str, Any]:
    """Return a mapping of these items, which are plain as `is_plain` says, or dumped by another serializer."""
    new: FrozenDict[str, Any] = Storage()  # type: ignore[assignment]  # it gets the class below
    new._items = items
    new.__pydantic_serializer__ = serializer
    new.__class__ = FrozenDict  # a tenth of a microsecond less than setting attributes of a FrozenDict
    return new


def is_plain(value: Any) -> bool:
    """Return True if the JSON of a frozen value, as pydantic-core writes it, is that of `miniagents.values`.

    So nothing in it needs a tag, an escaped key, or the name of a class. False may also mean that it is not known.
    """
    kind = type(value)
    if kind is str:
        return value.isascii() or is_utf8(value)
    if kind is FrozenDict:
        return value.__pydantic_serializer__ is PLAIN
    if kind is int:
        return int.bit_length(value) < LARGE_BITS
    if kind is float:
        return isfinite(value)
    if kind is tuple:
        return _are_plain(value, set(map(type, value)))
    return value is None or kind is bool


def _are_plain(items: Sequence[Any], kinds: set[type]) -> bool:
    """Return True if all items, of these types, are plain; look at items of one type by few calls."""
    if kinds == {str}:
        text = "".join(items)
        return text.isascii() or is_utf8(text)
    if kinds == {float}:
        return isfinite(sum(items))  # finite numbers may have an infinite sum; they count as not plain then
    if kinds == {int}:
        return max(map(int.bit_length, items)) < LARGE_BITS
    if kinds == {FrozenDict}:
        return set(map(_get_serializer, items)) == {PLAIN}
    return all(map(is_plain, items))


def _freeze_items(items: list[Any] | tuple[Any, ...], level: int) -> tuple[Any, ...]:
    """Return the tuple of the frozen items of a list or tuple that is inside of `level` containers.

    Raise `_Refused`, with the index in its path, if an item cannot be frozen, or if the list nests too deep.
    """
    if level >= MAX_NESTING:
        raise _make_depth_error()
    if len(items) > _FEW and type(items[0]) in ATOMS:
        kinds = set(map(type, items))
        if len(kinds) == 1:
            if not _are_plain(items, kinds):
                renew_marker()
            return tuple(items)
    frozen: list[Any] = []
    try:
        for item in items:
            kind = type(item)
            if kind is str:
                if not item.isascii():
                    _check_text(item)
            elif kind is dict:
                item = _freeze_dict(item, level + 1)
            elif kind is int:
                if item.bit_length() >= LARGE_BITS:
                    renew_marker()
            elif kind is float:
                if not isfinite(item):
                    renew_marker()
            elif not (item is None or kind is bool):
                item = _FREEZERS.get(kind, _freeze_by_base)(item, level + 1)
            frozen.append(item)
    except _Refused as refused:
        refused.path.append(f"[{len(frozen)}]")
        raise
    return tuple(frozen)


def _freeze_dict(items: dict[Any, Any], level: int) -> FrozenDict[Any, Any]:
    """Return a `FrozenDict` of the frozen values of a dict that is inside of `level` containers.

    Raise `_Refused` if a key is no str, a value cannot be frozen, or the dict nests too deep.
    """
    if level >= MAX_NESTING:
        raise _make_depth_error()
    marker = _marker
    frozen = items.copy()
    known: Container[Any] = _PLAIN_KEYS
    for key, value in frozen.items():  # one pass, because most dicts are small
        if key not in known:
            known = _check_keys(frozen)
        if type(key) is not str:
            return _freeze_dict({_str_key(each): item for each, item in frozen.items()}, level)
        kind = type(value)
        if kind is str:
            if not value.isascii():
                _check_text(value)
        elif kind is int:
            if value.bit_length() >= LARGE_BITS:
                renew_marker()
        elif kind is float:
            if not isfinite(value):
                renew_marker()
        else:
            try:
                if kind is list:
                    frozen[key] = _freeze_items(value, level + 1)
                elif kind is dict:
                    frozen[key] = _freeze_dict(value, level + 1)
                elif not (value is None or kind is bool):
                    frozen[key] = _FREEZERS.get(kind, _freeze_by_base)(value, level + 1)
            except _Refused as refused:
                refused.path.append(f"[{key!r}]")
                raise
    new: FrozenDict[Any, Any] = Storage()  # type: ignore[assignment]  # as in `make_plain_dict`
    new._items = frozen
    new.__pydantic_serializer__ = PLAIN if _marker is marker else _TAGGED
    new.__class__ = FrozenDict
    return new


_PLAIN_KEYS: Final[set[str]] = set()
"""Some keys that are not escaped in dumps: those of small dicts, because others often have the same keys."""


def _check_keys(items: dict[Any, Any]) -> Container[Any]:
    """Renew the marker if a key is escaped in dumps, else remember the keys of a small dict; return all keys."""
    if not all(type(key) is str for key in items):
        return items  # their plain forms come here again
    if not are_plain_keys(items):
        renew_marker()
    elif len(items) <= _SMALL:
        if len(_PLAIN_KEYS) > _MAX_PLAIN_KEYS:
            _PLAIN_KEYS.clear()
        _PLAIN_KEYS.update(items)
    return items


def _freeze_set(items: Iterable[Any], level: int) -> frozenset[Any]:
    """Return the frozenset of the frozen elements of a set that is inside of `level` containers.

    Raise `_Refused` if an element cannot be frozen, or if the set nests too deep.
    """
    if level >= MAX_NESTING:
        raise _make_depth_error()
    renew_marker()
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
    """Return the `FrozenDict` as it is; renew the marker if it is not plain.

    Raise `_Refused` if it would nest too deep inside of `level` containers.
    """
    if level and level + _height(value) > MAX_NESTING:
        raise _make_depth_error()
    if value.__pydantic_serializer__ is not PLAIN:
        renew_marker()
    return value


_marker = object()


def renew_marker() -> None:
    """Replace the marker object, to record that a value that is being frozen is not plain."""
    global _marker
    _marker = object()


def get_marker() -> object:
    """Return the marker object; it is another object than before if a value that is not plain was found in between."""
    return _marker


def _check_text(text: str) -> None:
    """Renew the marker of values that are not plain if a text has lone surrogates."""
    if not is_utf8(text):
        renew_marker()


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
    renew_marker()
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
    """Freeze a value of an unlisted type: one of a subclass becomes one of its base, and loses its own attributes.

    A member of an Enum becomes its value; atoms and a `FrozenLeaf` stay. Raise `_Refused` for values of other types.
    """
    frozen = _find_base(value, level)
    if not is_plain(frozen):
        renew_marker()
    return frozen


def _find_base(value: Any, level: int) -> Any:
    """Return what `_freeze_by_base` returns, or raise its error, without renewing the marker for values not plain."""
    if isinstance(value, Enum):
        value = value.value
    if type(value) in ATOMS or isinstance(value, FrozenLeaf):
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
    dict: _freeze_dict,
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
    Mapping: lambda value, level: _freeze_dict(dict(value.items()), level),
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
