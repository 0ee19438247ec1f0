"""Values that are immutable at every depth, and the digest of their class and content (laws 24, 25 and 28)."""

from __future__ import annotations

import copy
import gc
import json
import math
import os
import pickle
import subprocess
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from http import HTTPStatus
from pathlib import Path, PurePosixPath, PureWindowsPath
from re import RegexFlag
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypedDict
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, computed_field, model_validator

from miniagents._promising.freezing import FrozenDict, freeze
from miniagents._promising.frozen import Frozen
from miniagents.bounds import MAX_NESTING
from miniagents.errors import CyclicValueError, FreezeError
from miniagents_testing import strategies


class Color(Enum):
    """Enum with members of no other type."""

    RED = 1


class Word(StrEnum):
    """Enum whose members are strs as well."""

    ONE = "1"


class Number(IntEnum):
    """Enum whose members are ints as well."""

    ONE = 1


class Access(Flag):
    """Flag whose combined members have no names."""

    READ = 1
    WRITE = 2


class Point(Frozen, class_="test_frozen.Point"):
    """A value with typed fields."""

    x: int = 0
    y: int | None = None

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


class Box(Frozen, class_="test_frozen.Box"):
    """A value with containers of every kind in its fields."""

    items: list[Any] = Field(default=[])
    table: dict[str, list[int]] = Field(default_factory=dict)
    names: set[str] = Field(default=set())
    inner: Point | None = None

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


class OffsetOnly(tzinfo):
    """A time zone of a class that `freeze` does not know."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        """Return always the same offset."""
        return timedelta(hours=2)

    def dst(self, dt: datetime | None) -> timedelta | None:
        """Return None."""
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        """Return None."""
        return None


LEAVES: list[Any] = [
    None, True, False, 0, 1, -1, 10**5000, 1.0, -0.0, 0.0, math.inf, -math.inf, Decimal("1.0"),
    Decimal("1.00"), "", "1", "$", "é", "\ud83d\ude00", "😀", "\ud800", b"", b"1", b"\xff", UUID(int=1),
    date(2026, 1, 2), datetime(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, fold=1),
    datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Paris")), time(1),
    time(1, tzinfo=timezone(timedelta(hours=1))), timedelta(1), timedelta(seconds=1), PurePosixPath("a"),
    PureWindowsPath("a"), Point(), Point(x=1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "frozen"),
    [
        ([1, [2]], (1, (2,))),
        ((1, [2]), (1, (2,))),
        ({"a": [{"b": {1}}]}, {"a": ({"b": frozenset({1})},)}),
        (OrderedDict(a=[1]), {"a": (1,)}),
        (MappingProxyType({"a": [1]}), {"a": (1,)}),
        ({1, (2, 3)}, frozenset({1, (2, 3)})),
    ],
)
def test_freeze_makes_containers_immutable(value: Any, frozen: Any) -> None:
    """`freeze` turns lists into tuples, mappings into `FrozenDict` and sets into frozensets, at every depth."""
    result = freeze(value)
    assert result == frozen
    assert isinstance(result, (tuple, FrozenDict, frozenset))
    hash(result)  # raises if a container inside is mutable


@pytest.mark.parametrize("leaf", LEAVES, ids=[f"{type(leaf).__name__}{n}" for n, leaf in enumerate(LEAVES)])
def test_freeze_returns_a_plain_value_itself(leaf: Any) -> None:
    """`freeze` returns a value of an allowed plain type as the same object, alone and in a container."""
    assert freeze(leaf) is leaf
    assert freeze([leaf])[0] is leaf


def test_field_with_enums_refuses_what_contains_itself_or_nests_too_deep() -> None:
    """In a field whose annotation names an Enum, cyclic and deep lists are refused as in any other field."""

    class Palette(Frozen):
        """Value with a field of Enums and anything else."""

        colors: list[Color | Any]

    circle: list[Any] = [Color.RED]
    circle.append(circle)
    with pytest.raises(CyclicValueError, match="contains itself"):
        Palette(colors=circle)
    deep: list[Any] = []
    for _ in range(250):
        deep = [deep]
    with pytest.raises(FreezeError):
        Palette(colors=deep)


@pytest.mark.parametrize(
    ("member", "value"),
    [(Color.RED, 1), (Word.ONE, "1"), (Number.ONE, 1), (Access.READ | Access.WRITE, 3)],
    ids=["Enum", "StrEnum", "IntEnum", "Flag"],
)
def test_enum_member_becomes_its_value_in_an_untyped_field(member: Enum, value: Any) -> None:
    """An Enum member in an extra field becomes its plain value, because no type there names its Enum."""
    frozen = Frozen(alone=member, inside=[{"a": member}, {member}])
    assert frozen == Frozen(alone=value, inside=[{"a": value}, {value}])
    assert type(frozen.alone) is type(value)


class Palette(Frozen):
    """A value with Enums in typed fields."""

    one: Color | None = None
    only: Literal[Color.RED] | None = None
    access: Access | None = None
    some: list[Color] = Field(default=[])
    named: dict[str, Color] = Field(default={})
    each: set[Color] = Field(default=set())

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


def test_enum_member_stays_a_member_in_a_typed_field() -> None:
    """An Enum member in a field typed with its Enum, also in containers, stays a member after pickles and dumps."""
    palette = Palette(
        one=Color.RED,
        only=Color.RED,
        access=Access.READ | Access.WRITE,
        some=[Color.RED],
        named={"a": Color.RED},
        each={Color.RED},
    )
    for copied in (
        palette,
        pickle.loads(pickle.dumps(palette)),
        Palette.model_validate(palette.model_dump()),
        Palette.model_validate_json(palette.model_dump_json()),
    ):
        assert copied == palette
        assert (copied.one, copied.only, copied.access) == (Color.RED, Color.RED, Access.READ | Access.WRITE)
        assert (copied.some, copied.named, copied.each) == ((Color.RED,), {"a": Color.RED}, {Color.RED})


def test_default_of_a_float_field_becomes_a_float() -> None:
    """A default of 1 in a float field becomes 1.0, so that it equals the value from a dump."""

    class Sized(Frozen):
        size: float = 1
        sizes: list[float] = Field(default=[1, 2])

    assert [type(each) for each in (Sized().size, *Sized().sizes)] == [float] * 3
    assert Sized.model_validate(Sized().model_dump()) == Sized()


class TextWithAttributes(str):
    """A str subclass whose instances can have attributes."""


class CountWithAttributes(int):
    """An int subclass whose instances can have attributes."""


def test_freeze_makes_instances_of_str_and_int_subclasses_plain() -> None:
    """An instance of a str or int subclass becomes a plain str or int, without its attributes, which may be mutable."""
    text = TextWithAttributes("a")
    text.attribute = []  # type: ignore[attr-defined]
    frozen = Frozen(text=text, count=CountWithAttributes(3), keys={text: 1})
    assert type(frozen.text) is str
    assert type(frozen.count) is int
    assert [type(key) for key in frozen.keys] == [str]


def test_time_zone_of_another_class_becomes_its_offset() -> None:
    """A datetime with a tzinfo of an unknown class keeps its moment, and gets a fixed offset as time zone."""
    moment = datetime(2026, 1, 2, tzinfo=OffsetOnly())
    frozen = Frozen(moment=moment).moment
    assert frozen == moment
    assert type(frozen.tzinfo) is timezone


class PlainModel(BaseModel):
    """A mutable pydantic model."""


@pytest.mark.parametrize(
    "bad",
    [object(), bytearray(), deque(), PlainModel(), print, iter(()), {1: 2}.keys()],
    ids=lambda bad: type(bad).__name__,
)
def test_freeze_error_names_the_field_and_the_place_in_it(bad: Any) -> None:
    """A value of a type that is not allowed raises a FreezeError with its field and the path inside the field."""
    with pytest.raises(FreezeError, match=r"^settings\[1\]\['a'\]\[0\]: cannot freeze"):
        Frozen(fine=1, settings=[0, {"a": (bad,)}])


def test_mapping_with_a_key_that_is_no_str_is_refused() -> None:
    """A mapping with a key that is not a str raises `FreezeError`."""
    with pytest.raises(FreezeError, match="meta: the key 1 is not a str"):
        Frozen(meta={1: 2})


def test_container_that_contains_itself_is_refused() -> None:
    """A container that contains itself raises `CyclicValueError` and no RecursionError."""
    loop: list[Any] = [1]
    loop.append({"again": (loop, loop)})
    with pytest.raises(CyclicValueError, match="meta contains itself"):
        Frozen(meta=loop)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: (v,)], ids=["list", "dict", "tuple"])
def test_containers_nest_200_deep_and_no_deeper(wrap: Any) -> None:
    """Containers nested 200 deep can be pickled, hashed and shown; one more level is a FreezeError."""
    nested: Any = 1
    for _ in range(MAX_NESTING):
        nested = wrap(nested)
    frozen = Frozen(nested=nested)
    again = pickle.loads(pickle.dumps(frozen))
    assert again == frozen
    assert len(repr(frozen)) < 500
    with pytest.raises(FreezeError, match="nest more than 200 deep"):
        Frozen(nested=wrap(nested))
    with pytest.raises(FreezeError, match="nest more than 200 deep"):
        Frozen(nested=wrap(frozen.nested))


def test_100_000_nested_lists_are_a_freeze_error() -> None:
    """Lists nested 100,000 deep raise `FreezeError` and do not exhaust the stack."""
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(FreezeError, match="nest more than 200 deep"):
        Frozen(nested=nested)


def test_fields_stay_when_the_given_containers_change() -> None:
    """Changes to a container after it was given to a constructor do not show in the field."""
    items, table = [1], {"a": [1]}
    box: Any = Box(items=items, table=table, more=items)
    items.append(2)
    table["a"].append(2)
    assert (box.items, box.table, box.more) == ((1,), {"a": (1,)}, (1,))


def test_defaults_are_frozen() -> None:
    """Mutable defaults of the class statement become immutable, and so do values of `model_construct`."""
    box = Box()
    assert [type(box.items), type(box.table), type(box.names)] == [tuple, FrozenDict, frozenset]
    constructed: Any = Box.model_construct(items=[[1]])
    assert constructed.items == ((1,),)


def test_values_that_a_validator_puts_into_a_dump_are_frozen() -> None:
    """A value that a "before" validator puts into the dict of a dump is frozen and dumped like any other."""

    class Stamped(Frozen):
        @model_validator(mode="before")
        @classmethod
        def stamp(cls, data: dict[str, Any]) -> dict[str, Any]:
            data["stamps"] = [b"x"]
            return data

    dump = {"class_": Stamped.class_name, "stamps": [{"$bytes": "eA=="}]}
    for made in (Stamped(), Stamped.model_validate(dump), Stamped.model_validate_json('{"n": {"a": 1}}')):
        assert dict(made)["stamps"] == (b"x",)
        assert made.model_dump(mode="json")["stamps"] == dump["stamps"]


def test_annotations_of_mutable_containers_become_immutable_ones() -> None:
    """`list[X]` is `tuple[X, ...]` when the class is made, and values are validated by X."""
    assert Box.model_fields["items"].annotation == tuple[Any, ...]
    assert Box.model_fields["table"].annotation == FrozenDict[str, tuple[int, ...]]
    box: Any = Box(table={"a": ["1"]})
    assert box.table == {"a": (1,)}
    with pytest.raises(ValidationError, match=r"table\.a"):
        Box(table={"a": "no"})
    json_schema = Box.model_json_schema()
    assert json_schema["properties"]["table"]["additionalProperties"]["items"] == {"type": "integer"}


class Pair(NamedTuple):
    """NamedTuple with one field."""

    left: int


class Table(TypedDict):
    """TypedDict with known keys."""

    left: int


@dataclass
class Data:
    """A mutable dataclass."""

    left: int


@pytest.mark.parametrize("annotation", [deque[int], Pair, Table, Data, PlainModel, bytearray, dict[int, str]], ids=str)
def test_annotation_of_another_mutable_type_is_refused(annotation: Any) -> None:
    """A class with a field of a mutable type, such as a deque or a dataclass, raises `TypeError` with its name."""
    with pytest.raises(TypeError, match=r"Bad\.field"):
        type("Bad", (Frozen,), {"__annotations__": {"field": tuple[annotation, ...] | None}, "__module__": __name__})


def test_private_attributes_are_refused() -> None:
    """A private attribute in a class statement raises `TypeError`, as it would be mutable; a ClassVar is allowed."""
    with pytest.raises(TypeError, match="no private attributes"):

        class Bad(Frozen):
            _cache: dict[str, int] = PrivateAttr(default_factory=dict)

    class Good(Frozen):
        _cache: ClassVar[dict[str, int]] = {}


@pytest.mark.parametrize("name", ["x", "extra", "brand_new", "_hidden", "__pydantic_extra__", "_digest"])
def test_attributes_cannot_be_set_or_deleted(name: str) -> None:
    """Setting or deleting a declared, extra, new or private attribute of a Frozen object raises an error."""
    point = Point(x=1, extra=2)
    key = point.hash_key
    with pytest.raises((ValidationError, AttributeError)):
        setattr(point, name, 5)
    with pytest.raises((ValidationError, AttributeError)):
        delattr(point, name)
    assert (point, point.hash_key) == (Point(x=1, extra=2), key)


def test_object_cannot_be_changed_through_its_model_attributes() -> None:
    """`model_extra` and `model_fields_set` are copies; `__init__` and `__setstate__` refuse a second call."""
    point = Point(extra=2)
    extra = point.model_extra
    assert extra == {"extra": 2}
    extra["extra"] = 3
    point.model_fields_set.add("y")
    with pytest.raises(TypeError, match="immutable"):
        point.__setstate__({})
    with pytest.raises(TypeError, match="immutable"):
        point.__init__(x=7)  # type: ignore[misc]
    with pytest.raises(TypeError, match="immutable"):
        Frozen(a=1).__init__(a=2)  # type: ignore[misc]
    assert point == Point(extra=2)


def test_model_copy_freezes_validates_and_hashes_anew() -> None:
    """`model_copy` freezes and validates an update, and the copy has a new hash; a copy without update is equal."""
    box = Box(items=[1], extra=1)
    changed = box.model_copy(update={"items": [[2]], "extra": {"a": [1]}, "more": {1}})
    assert changed == Box(items=[[2]], extra={"a": [1]}, more={1})
    assert changed.hash_key != box.hash_key
    assert (box.model_copy(), copy.copy(box), copy.deepcopy(box), box.model_copy(deep=True)) == (box,) * 4
    with pytest.raises(FreezeError, match="extra"):
        box.model_copy(update={"extra": object()})


def test_frozen_dict_behaves_like_a_dict_that_is_read() -> None:
    """A `FrozenDict` reads like a dict with the same items, and can be hashed, copied, pickled and merged."""
    table: FrozenDict[str, Any] = FrozenDict({"b": [1], "a": {"c": 2}}, d=3)
    assert table == {"b": (1,), "a": {"c": 2}, "d": 3}
    assert not table != {"b": (1,), "a": {"c": 2}, "d": 3}  # noqa: SIM202 - __ne__ is what is tested
    assert (list(table), len(table), "a" in table, table["a"]["c"], table.get("x")) == (
        ["b", "a", "d"],
        3,
        True,
        2,
        None,
    )
    assert hash(table) == hash(FrozenDict(table)) == hash(pickle.loads(pickle.dumps(table)))
    assert copy.deepcopy(table) is table
    assert type(table | {"e": [4]}) is FrozenDict
    assert (table | {"e": [4]})["e"] == (4,)
    assert repr(table) == "FrozenDict({'a': FrozenDict({'c': 2}), 'b': (1,), 'd': 3})"


def test_frozen_dict_cannot_be_changed() -> None:
    """Setting or deleting an item or attribute of a `FrozenDict` raises; methods such as `update` do not exist."""
    table: Any = FrozenDict(a=1)
    with pytest.raises(TypeError):
        table["a"] = 2
    with pytest.raises(TypeError):
        del table["a"]
    with pytest.raises(TypeError):
        table._items = {}
    with pytest.raises(TypeError):
        del table._items
    assert not any(hasattr(table, name) for name in ("update", "pop", "clear", "setdefault", "popitem", "__ior__"))


def test_frozen_dict_can_annotate_fields_of_any_pydantic_model() -> None:
    """A pydantic model that is not Frozen validates, freezes and dumps a field annotated with `FrozenDict`."""

    class Settings(BaseModel):
        table: FrozenDict[str, tuple[int, ...]]
        anything: FrozenDict[str, Any] = FrozenDict()

    settings = Settings.model_validate({"table": {"a": ["1"]}, "anything": {"b": [1]}})
    assert settings.table == {"a": (1,)}
    assert settings.anything == {"b": (1,)}
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(FreezeError, match=r"anything\['b'\]"):
        Settings.model_validate({"table": {}, "anything": {"b": object()}})


# --- equality, hash, hash_key


def test_hashes_differ_for_different_plain_values() -> None:
    """Different plain values have different hash keys, alone and in a tuple, as do a value and its text."""
    lookalikes = [
        {"$decimal": "1.0"}, {"$bytes": ""}, {"$text": "7aCA"}, {"$float": "inf"}, {"$$float": "inf"},
        {"$set": ()}, {"$$set": ()}, {"$frozen": Point().full_hash_key}, frozenset(), (), {}, {"$": 1},
        {"class_": "Frozen"}, {"class__": "Frozen"}, [[]], [{}], "NaN", "null", "1.0", {"a": None},
        frozenset({"1"}), ("1",),
    ]  # fmt: skip
    values = [*LEAVES, *lookalikes]
    keys = {Frozen(v=v).full_hash_key for v in values} | {Frozen(v=[v]).full_hash_key for v in values}
    # an array of one is among the look-alikes: [()] and [{}] stand for themselves once
    assert len(keys) == 2 * len(values) - 2 - 1
    assert Frozen(v=[[]]) == Frozen(v=[()])


def test_equality_goes_by_class_and_content() -> None:
    """Equality of Frozen objects tells 1, 1.0, True and classes apart, takes NaN as equal, and ignores field order."""
    assert len({Frozen(v=1), Frozen(v=1.0), Frozen(v=True), Frozen(v="1")}) == 4
    assert Frozen(v=math.nan) == Frozen(v=float("nan"))
    assert Frozen(x=0) != Point(x=0)
    assert Frozen(a=1, b=2) == Frozen(b=2, a=1)
    assert hash(Frozen(a=1, b=2)) == hash(Frozen(b=2, a=1))
    assert Point(x=1) != {"x": 1}
    assert Frozen(v=None) != Frozen()


def test_hash_ignores_a_declared_field_that_is_none() -> None:
    """A declared field that is None does not change the hash key, so that fields can be added; an extra field does."""
    assert Point(x=1, y=None) == Point(x=1)
    assert Frozen(b=1, a=None) != Frozen(b=1)
    assert Point(x=1, z=None) != Point(x=1)


GOLDEN = {
    "empty": "25129c1aaea41fedd6ce4f1afdf7601167153ea0",
    "common": "09799dccd66b0cf0cbf8020674d5696066188d79",
    "numbers": "3dbeb0be5932c835598a334cd472b5fd183128bc",
    "texts": "b45b6da9c43f570440d8a53ba69a7aacea693741",
    "keys": "795d757501f543ce9e763c31c597a37de707a919",
    "times": "a62600df3d07fef261f4c20aac58aea735d56d00",
    "others": "30fced5b509db6f2f084f401f9b7b6f9a1e462ac",
    "sets": "18520da271a2aec93970768b31dfe2303cfd6cbc",
    "nested": "4331fd0bb74e6a020063f64dbd957a0529bbe06e",
}
"""Hash keys that must never change: a store may be full of them."""


def golden_values() -> dict[str, Frozen]:
    """Return the values whose hash keys are committed."""
    return {
        "empty": Frozen(),
        "common": Frozen(a=1, b="é😀", c=[True, None, 1.5], d={"z": {}, "y": []}),
        "numbers": Frozen(
            v=[1, 1.0, -0.0, 1e300, 5e-324, math.nan, math.inf, 10**5000, Decimal("1.50"), Decimal("1E+5")]
        ),
        "texts": Frozen(v=["", "\ud800", "\ud83d\ude00", "😀", '\x00\n"\\/', b"\xff\x00", "$"]),
        "keys": Frozen(v={"$a": 1, "$$a": 2, "b": 3, "": 4, "\uffff": 5, "😀": 6}),
        "times": Frozen(
            v=[
                date(2026, 1, 2),
                datetime(2026, 1, 2, 3, 4, 5, 6),
                datetime(2026, 1, 2, tzinfo=UTC),
                datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
                time(1, 2, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
                timedelta(days=-1, microseconds=5),
            ]
        ),
        "others": Frozen(
            v=[UUID(int=5), PurePosixPath("a/b"), PureWindowsPath("a/b"), SafeUUID.safe, HTTPStatus.OK, RegexFlag(10)]
        ),
        "sets": Frozen(v={"b", "a", "c", 1, 2.5, b"x", (1, "é")}, w={Point(x=2), Point(x=1)}),
        "nested": Point(x=1, inner=Point(x=2, inner=[Point(x=3)])),
    }


@pytest.mark.parametrize(("name", "key"), GOLDEN.items())
def test_golden_hash_keys_never_change(name: str, key: str) -> None:
    """The hash keys of known values are the committed ones, on every machine and Python version."""
    assert golden_values()[name].hash_key == key


@pytest.mark.parametrize("seed", ["0", "1", "2", "3"])
def test_K21_hash_keys_do_not_depend_on_the_process(seed: str, root: Path) -> None:
    """A process with another PYTHONHASHSEED computes the same hash keys, for sets as well."""
    code = (
        "import importlib.util, json, sys\n"
        f"spec = importlib.util.spec_from_file_location('test_frozen', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['test_frozen'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(json.dumps([value.hash_key for value in module.golden_values().values()]))\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [value.hash_key for value in golden_values().values()]


def test_hash_is_independent_of_the_digit_limit_of_the_process() -> None:
    """Large ints have the same hash key under any `sys.set_int_max_str_digits`."""
    limit = sys.get_int_max_str_digits()
    keys = set()
    try:
        for digits in (0, 640, limit):
            sys.set_int_max_str_digits(digits)
            keys.add(Frozen(v=[10**700, {"k": -(10**5000)}, {10**5001}]).hash_key)
    finally:
        sys.set_int_max_str_digits(limit)
    assert len(keys) == 1


def test_hash_key_has_the_first_40_digits_of_the_full_one() -> None:
    """`hash_key` is the first 40 of the 64 hex digits of the full hash key."""
    key = Point().full_hash_key
    assert (len(key), Point().hash_key) == (64, key[:40])


def test_digest_of_an_object_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested object is not hashed again for each object that holds it, and hash() uses the digest."""
    from miniagents._promising import frozen, values

    computed: list[str] = []

    def counted(content: dict[str, Any]) -> str:
        computed.append(values.digest(content))
        return computed[-1]

    monkeypatch.setattr(frozen, "digest", counted)
    inner = Point(x=1)
    outers = [Frozen(inner=inner, n=n) for n in range(100)]
    assert len({outer for outer in outers for _ in range(3)}) == 100
    assert len(computed) == 101


# --- chains


def chain(length: int) -> Frozen:
    """Return Frozen objects of this number, each held by the next."""
    value = Frozen(n=0)
    for n in range(1, length):
        value = Frozen(n=n, inner=value) if n % 2 else Frozen(n=n, inner=[{"k": value}])
    return value


def test_chains_of_10_000_objects_need_no_recursion() -> None:
    """Hash, equality, pickle, deepcopy, repr, str and deallocation work for 10,000 objects inside each other."""
    one, other = chain(10_000), chain(10_000)
    assert one == other
    assert hash(one) == hash(other)
    assert one != chain(9_999)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(one, protocol)) == one
    assert copy.deepcopy(one) is one
    assert len(repr(one)) < 500
    assert str(one) == repr(one)
    del one, other
    gc.collect()


def test_pickle_keeps_shared_objects_shared() -> None:
    """A value that occurs many times in a deep value is pickled once, and is one object again after unpickling."""
    value = Frozen(n=0)
    for _ in range(1_000):
        value = Frozen(left=value, right=value)
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert again.left is again.right


def test_pickle_keeps_the_set_of_given_fields() -> None:
    """A dump with `exclude_unset` leaves out the same fields before and after pickling."""
    assert pickle.loads(pickle.dumps(Point(x=0))).model_dump(exclude_unset=True) == Point(x=0).model_dump(
        exclude_unset=True
    )


# --- classes by name


def test_second_class_of_a_name_warns() -> None:
    """Two class statements with the same name give a warning that says how to name them apart."""

    class First(Frozen, class_="test_frozen.claimed"):
        pass

    with pytest.warns(UserWarning, match=r'Two classes have the name.*class_="another name"'):

        class Second(Frozen, class_="test_frozen.claimed"):
            pass

    assert (First.class_name, Second.class_name) == ("test_frozen.claimed",) * 2


def test_class_statement_that_runs_again_does_not_warn() -> None:
    """Running one class statement again, in a reloaded module or a function, replaces the class without a warning."""
    kept = []
    for _ in range(2):

        class Local(Frozen):
            pass

        kept.append(Local)
    assert kept[0].class_name == kept[1].class_name == Local.__qualname__


def test_computed_field_of_a_dump_becomes_no_extra_field() -> None:
    """An object with a computed field equals the one from its dump."""

    class Square(Frozen):
        side: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def area(self) -> int:
            return self.side**2

    assert Square.model_validate(Square(side=3).model_dump()) == Square(side=3)


def test_model_dump_gives_no_warning_of_pydantic() -> None:
    """`model_dump` gives no pydantic warning for typed and untyped containers, sets of values and nested subclasses."""

    class Special(Point):
        more: list[int] = Field(default=[])

    box = Box(
        items=[[1]], table={"a": [1]}, names={"n"}, inner=Special(x=1, more=[2]), sets={Point(x=1)}, color=Color.RED
    )
    dump = box.model_dump()
    assert dump["table"] == {"a": (1,)}
    assert dump["inner"]["more"] == (2,)
    assert Box.model_validate(dump) == box
    assert json.loads(box.model_dump_json())["sets"] == {"$set": [{"class_": "test_frozen.Point", "x": 1, "y": None}]}


@given(st.dictionaries(strategies.texts(max_size=2), strategies.values(max_leaves=3), max_size=3))
def test_frozen_dict_has_the_keys_and_frozen_values_of_the_dict(items: dict[str, Any]) -> None:
    """A `FrozenDict` of any dict has its keys in their order, and its values frozen."""
    frozen = freeze(items)
    thawed = {key: freeze(value) for key, value in items.items()}
    assert list(frozen) == list(items)
    assert repr(dict(frozen)) == repr(thawed)
    assert all(frozen[key] is not None or value is None for key, value in items.items())


@given(strategies.values())
def test_repr_is_short_for_any_value(value: Any) -> None:
    """The repr of an object with huge fields has less than 6,000 characters."""
    assert len(repr(Frozen(field=value, text="x" * 100_000, items=list(range(1_000))))) < 6_000
