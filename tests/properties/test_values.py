"""Laws 24 to 28 as properties over any value: immutable at every depth, one hash for one content, round trips."""

# ruff: noqa: N802 - the names carry the rows of the fault catalogue

from __future__ import annotations

import copy
import pickle
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from miniagents.messages.message import Message, UserMessage
from miniagents.promising.frozen import Frozen, FrozenDict, freeze

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answer(Enum):
    """An Enum."""

    YES = "yes"
    NO = "no"


# Texts with surrogates, `$` and `class_`, which mean something in the canonical form or in a dump.
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=6) | st.sampled_from(
    ["$", "$set", "$$", "class_", "class__", "Message", "\ud83d\ude00", "😀", "x__hash_key"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals(allow_nan=False)
    | TEXTS
    | st.binary(max_size=4)
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.times()
    | st.timedeltas()
    | st.sampled_from([*Answer, PurePosixPath("a"), PurePosixPath("b/c")])
)
HASHABLE = LEAVES | st.tuples(LEAVES) | st.frozensets(st.integers(), max_size=2)
CONTAINERS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=8,
)
# `self` and `content` included, but no names that are attributes of a model
FIELDS = st.dictionaries(
    st.sampled_from(["a", "b", "class_", "class__", "$x", "items", "self"]), CONTAINERS, max_size=3
)
FROZEN = FIELDS.map(lambda fields: Frozen(**fields))
VALUES = st.recursive(
    CONTAINERS | FROZEN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS, inner, max_size=3)
        | st.builds(lambda value: Message(inner=value), inner)
        | st.builds(lambda value: UserMessage("text", values=[value]), inner)
        | FROZEN.map(lambda value: {value})
    ),
    max_leaves=6,
)


def everything_in(value: Any) -> Iterator[Any]:
    """`value` and what is in it, at any depth."""
    yield value
    if isinstance(value, Frozen):
        for _, field in value:
            yield from everything_in(field)
    elif isinstance(value, FrozenDict):
        for key, item in value.items():
            yield key
            yield from everything_in(item)
    elif isinstance(value, (tuple, frozenset)):
        for item in value:
            yield from everything_in(item)


def spoiled(value: Any) -> Any:
    """Change all that can be changed in `value`, as far down as there are mutable containers."""
    if isinstance(value, dict):
        for item in list(value.values()):
            spoiled(item)
        value["spoiled"] = True
    elif isinstance(value, (list, tuple)):
        for item in value:
            spoiled(item)
        if isinstance(value, list):
            value.append("spoiled")
    elif isinstance(value, set):
        value.add("spoiled")
    return value


IMMUTABLE = (
    type(None), bool, int, float, Decimal, str, bytes, UUID, datetime, date, time, timedelta, PurePosixPath, Enum,
    Frozen, tuple, FrozenDict, frozenset,
)  # fmt: skip


@given(VALUES)
def test_everything_in_a_value_is_immutable(value: Any) -> None:
    """At every depth there are only leaves, tuples, FrozenDicts, frozensets and Frozen objects."""
    for each in everything_in(Message(field=value)):
        assert isinstance(each, IMMUTABLE)


@given(CONTAINERS)
def test_C27_what_happens_to_the_original_does_not_show(value: Any) -> None:
    """A value shares nothing mutable with what it was made of, so its digest stays true."""
    frozen = Frozen(field=value)
    reference = Frozen(field=copy.deepcopy(value))
    spoiled(value)
    assert frozen == reference
    assert written_out(frozen) == written_out(reference)


@given(VALUES)
def test_freezing_again_changes_nothing(value: Any) -> None:
    """What is frozen freezes to itself, and hashes as the original does."""
    frozen = freeze(value)
    assert Frozen(field=frozen) == Frozen(field=value)
    assert Frozen(field=frozen).hash_key == Frozen(field=value).hash_key


@given(VALUES)
def test_pickles_and_dumps_come_back_equal(value: Any) -> None:
    """Pickle, deepcopy, and `model_validate(model_dump())` give an equal message with an equal hash."""
    message = Message(field=value)
    for again in (
        pickle.loads(pickle.dumps(message)),
        copy.deepcopy(message),
        Message.model_validate(message.model_dump()),
        message.model_copy(update={"field": value}),
    ):
        assert again == message
        assert hash(again) == hash(message)
        assert again.hash_key == message.hash_key
        assert type(again) is Message


def written_out(value: Any) -> Any:
    """What a value is, in terms in which `==` tells everything apart: a slow, obvious model of "class and content"."""
    if isinstance(value, Frozen):
        fields = {k: v for k, v in value if v is not None or k not in type(value).model_fields}
        return type(value), sorted((k, written_out(v)) for k, v in fields.items()).__repr__()
    if isinstance(value, FrozenDict):
        return FrozenDict, repr(sorted((k, written_out(v)) for k, v in value.items()))
    if isinstance(value, tuple):
        return tuple, repr([written_out(item) for item in value])
    if isinstance(value, frozenset):
        return frozenset, repr(sorted((written_out(item) for item in value), key=repr))
    return type(value), repr(value)


@given(VALUES, VALUES)
def test_equal_hash_means_equal_class_and_content(one: Any, other: Any) -> None:
    """Two values have one hash key if and only if they are the same by type and content, all the way down."""
    first, second = freeze(one), freeze(other)
    assert (Frozen(v=first) == Frozen(v=second)) == (written_out(first) == written_out(second))
    assert (Frozen(v=first).hash_key == Frozen(v=second).hash_key) == (written_out(first) == written_out(second))


@given(VALUES)
def test_a_value_is_not_what_it_is_wrapped_in(value: Any) -> None:
    """A value, a tuple of it, a mapping to it, a Frozen of it and its text all have hashes of their own."""
    wrapped = [
        value,
        [value],
        [[value]],
        {"v": value},
        {"$set": [value]},
        {"$frozen": value},
        Frozen(v=value),
        repr(value),
    ]
    forms = {repr(written_out(freeze(each))) for each in wrapped}
    assert len({Frozen(v=each).hash_key for each in wrapped}) == len(forms)


@given(st.dictionaries(TEXTS, CONTAINERS, max_size=4))
def test_a_frozen_dict_equals_the_dict(items: dict[str, Any]) -> None:
    """It has the same keys in the same order, and equal values once those are frozen."""
    frozen = freeze(items)
    thawed = {key: freeze(value) for key, value in items.items()}
    assert list(frozen) == list(items)
    assert repr(dict(frozen)) == repr(thawed)
    assert all(frozen[key] is not None or value is None for key, value in items.items())


@given(VALUES)
def test_a_repr_is_short(value: Any) -> None:
    """However large a value is, its repr fits on a screen."""
    assert len(repr(Message(field=value, text="x" * 100_000, items=range_of(1_000)))) < 6_000


def range_of(size: int) -> list[int]:
    """Many numbers."""
    return list(range(size))
