"""Laws 24 to 28 and C1 to C3 as properties: any message and value is immutable, has one text, and loses nothing."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from decimal import Decimal
from enum import Enum
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import miniagents
from miniagents._promising.freezing import FrozenDict, freeze
from miniagents._promising.frozen import Frozen
from miniagents.messages import Message
from miniagents.values import canonical_text, decode, encode
from miniagents_testing import strategies
from miniagents_testing.checks import check_message, check_message_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Answer(Enum):
    """Enum whose members are used in random values."""

    YES = "yes"
    NO = "no"


TEXTS = strategies.texts(pieces=["a", "$", "$set", "$$", "class_", "Message", "\ud83d\ude00", "😀"], max_size=2)
LEAVES = strategies.leaves(text=TEXTS) | st.sampled_from(Answer)
VALUES = strategies.values(leaf=LEAVES, text=TEXTS)
PLAIN_VALUES = strategies.values(text=TEXTS)


@given(strategies.messages())
def test_messages_are_immutable_and_their_copies_are_equal(message: Message) -> None:
    """Pickle, deepcopy and dumps of any message give an equal one with its hash; nothing in it can be changed."""
    check_message(message)


@given(VALUES)
def test_C27_message_stays_when_the_given_values_change(value: Any) -> None:
    """A message shares nothing mutable with its fields, of whatever values."""
    check_message_class(lambda fields: Message(**fields), {"field": value, "other": [value]})


def written_out(value: Any) -> Any:
    """Return type and content of a value in terms that `==` tells apart: a slow, obvious model of equality."""
    if isinstance(value, Frozen):
        fields = {k: v for k, v in value if v is not None or k not in type(value).model_fields}
        return type(value), sorted((k, written_out(v)) for k, v in fields.items()).__repr__()
    if isinstance(value, FrozenDict):
        return FrozenDict, repr(sorted((k, written_out(v)) for k, v in value.items()))
    if isinstance(value, tuple):
        return tuple, repr([written_out(item) for item in value])
    if isinstance(value, frozenset):
        return frozenset, repr(sorted((written_out(item) for item in value), key=repr))
    return type(value), hex(value) if type(value) is int else repr(value)  # decimal digits are limited in number


@given(VALUES, VALUES)
def test_equal_hash_means_equal_class_and_content(one: Any, other: Any) -> None:
    """Two values have one hash key if and only if their types and content are equal at every depth."""
    first, second = freeze(one), freeze(other)
    same = written_out(first) == written_out(second)
    assert (Frozen(v=first) == Frozen(v=second)) == same
    assert (Frozen(v=first).hash_key == Frozen(v=second).hash_key) == same


@given(VALUES)
def test_hash_of_a_value_differs_from_that_of_containers_of_it(value: Any) -> None:
    """A frozen value has the value's hash; a tuple, mapping or Frozen around it, and its repr, have others."""
    assert Frozen(v=freeze(value)).hash_key == Frozen(v=value).hash_key
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


ALL_LEAVES = LEAVES | st.one_of(
    st.sampled_from([Decimal("NaN"), Decimal("-Infinity"), Decimal("-0"), Decimal("1E+500")]),
    st.datetimes(timezones=st.timezones()),
    st.times(timezones=st.timezones()),
    st.builds(lambda moment: moment.replace(fold=1), st.datetimes()),
    st.integers(3_999, 4_400).map(lambda digits: 10**digits),
    st.sampled_from([PureWindowsPath(r"C:\a"), Path("a"), "\ud83d", float("nan"), float("inf"), -0.0]),
)
KEYS = TEXTS | st.sampled_from(["$bytes", "$text:", "\ude00", "class_", "class__", ""])
ALL_VALUES = strategies.values(leaf=ALL_LEAVES, text=KEYS)


def refuse_constant(name: str) -> Any:
    """Raise an error for NaN and Infinity: they are no JSON, though Python's parser takes them."""
    raise AssertionError(f"{name} is no JSON")


@given(ALL_VALUES)
def test_H15_value_survives_a_round_trip_through_json(value: Any) -> None:
    """Any value comes back with its types from `encode`, and from its canonical text in strict JSON (C1, C2)."""
    frozen = freeze(value)
    for text in (json.dumps(encode(value), allow_nan=False), canonical_text(value)):
        again = decode(json.loads(text.encode(), parse_constant=refuse_constant))
        assert written_out(again) == written_out(frozen)
        assert Frozen(v=again) == Frozen(v=frozen)


@given(ALL_VALUES, ALL_VALUES)
def test_canonical_texts_are_equal_only_for_equal_values(one: Any, other: Any) -> None:
    """Two values have one canonical text and one hash if and only if types and content are equal (C3)."""
    same = written_out(freeze(one)) == written_out(freeze(other))
    assert (canonical_text(one) == canonical_text(other)) == same
    assert (Frozen(v=one).hash_key == Frozen(v=other).hash_key) == same


@given(strategies.messages(value=ALL_VALUES, max_fields=2))
def test_message_survives_a_round_trip_through_each_dump(message: Message) -> None:
    """Any message, alone and in a list of a model, comes back equal from JSON and Python dumps (C1)."""
    adapter = TypeAdapter(list[Message])
    for again in (
        Message.model_validate_json(message.model_dump_json()),
        Message.model_validate(message.model_dump(mode="json")),
        Message.model_validate(message.model_dump()),
        *adapter.validate_json(adapter.dump_json([message])),
        *adapter.validate_python(adapter.dump_python([message])),
    ):
        assert (again, type(again)) == (message, type(message))
    json.dumps(message.serialize(), allow_nan=False).encode()


@pytest.fixture(scope="module")
def in_another_process() -> Iterator[Callable[[Frozen], str]]:
    """Yield a function that returns a value's hash key as another process computes it, with another order of sets."""
    program = (
        "import base64, pickle, sys\n"
        "for line in sys.stdin:\n"
        "    print(pickle.loads(base64.b64decode(line)).hash_key, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(miniagents.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def hash_key(value: Frozen) -> str:
            print(base64.b64encode(pickle.dumps(value)).decode(), file=requests, flush=True)
            return answers.readline().strip()

        yield hash_key
        requests.close()


@given(value=PLAIN_VALUES)
def test_hash_key_is_the_same_in_another_process(value: Any, in_another_process: Callable[[Frozen], str]) -> None:
    """Another process, which gets any value pickled without its digest, computes the same hash key."""
    assert in_another_process(Frozen(v=value)) == Frozen(v=value).hash_key
