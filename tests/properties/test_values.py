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
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

import miniagents
from miniagents._promising.freezing import FrozenDict, freeze
from miniagents._promising.frozen import Frozen
from miniagents._promising.naming import escaped
from miniagents._promising.values import IN_PLACE
from miniagents.errors import FreezeError
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
    """A message stays the same when the values that its constructor got, of any kind, change."""
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
    st.sampled_from([PureWindowsPath(r"C:\a"), Path("a"), Path("\udcff"), "\ud83d", float("nan"), float("inf"), -0.0]),
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


class Holder(BaseModel):
    """A model of an application, which is not Frozen, with values in fields of several annotations."""

    anything: Any
    table: FrozenDict[str, Any]
    message: Message


def python_dump(value: Any) -> Any:
    """Return the dump of a frozen value in Python's types: a slow, obvious model of it."""
    if isinstance(value, Frozen):
        return value.model_dump()
    if isinstance(value, FrozenDict):
        return {key: python_dump(item) for key, item in escaped(dict(value)).items()}
    return tuple(map(python_dump, value)) if isinstance(value, tuple) else value


@given(ALL_VALUES)
def test_dumps_by_pydantic_core_are_those_of_the_python_code(value: Any) -> None:
    """Any value, new, reused, copied or unpickled, gets the same JSON from pydantic-core as from the Python code."""
    message = Message(value=value, table={"inner": value})
    reused = Message(value=message.value, table=message.table)
    decoded = Message.model_validate(message.model_dump(mode="json"))
    for each in (message, reused, decoded, pickle.loads(pickle.dumps(message)), message.model_copy(update={"n": 1})):
        slow = IN_PLACE._to_strict_json(each)
        assert repr(each.model_dump(mode="json")) == repr(slow)
        assert repr(json.loads(each.model_dump_json())) == repr(slow)
        assert repr(encode(each.table)) == repr(IN_PLACE._to_strict_json(each.table))
        if not list(each.sub_messages()):
            assert repr(each.serialize()) == repr(slow)


@given(ALL_VALUES)
def test_other_models_dump_mappings_and_messages_in_the_form_of_the_codec(value: Any) -> None:
    """A pydantic model dumps a `FrozenDict` or a message with any value as the codec does, in each field and mode."""
    table = freeze({"inner": value, "items": [{"inner": value}]})
    holder = Holder(anything=table, table=table, message=Message(table=table))
    slow = {name: IN_PLACE._to_strict_json(inner) for name, inner in holder}
    assert repr(holder.model_dump(mode="json")) == repr(slow)
    assert repr(json.loads(holder.model_dump_json())) == repr(slow)
    python_types = {name: python_dump(inner) for name, inner in holder}
    assert canonical_text(holder.model_dump()) == canonical_text(python_types)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from(["NaN", "$5", 10**3999, 1e300]),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(KEYS | st.sampled_from("ab"), inner, max_size=3),
    max_leaves=6,
)


@given(JSON_VALUES, st.booleans(), st.sampled_from([None, "Message", "UserMessage", "gone"]))
def test_message_from_json_text_is_that_of_the_parsed_text(value: Any, ensure_ascii: bool, name: str | None) -> None:
    """`model_validate_json` gives the message, or the error, that `model_validate` gives for the parsed text."""
    fields = {"content": "x", "value": value, "table": {"a": value}, **({"class_": name} if name else {})}
    text = json.dumps(fields, ensure_ascii=ensure_ascii)
    assert outcome(lambda: Message.model_validate_json(text)) == outcome(lambda: from_parsed(text))


ODD_JSON = [
    '{"x": 1e999}',
    '{"x": [NaN, -Infinity]}',
    '{"x": -0.0, "y": -0}',
    '{"a": 1, "b": 2, "a": [3]}',
    '{"x": 12345678901234567890}',
    '{"x": "\\u0024", "y": {"\\u0024date": "2026-01-02"}}',
    '{"x": { "$date" : "2026-01-02"}}',
    '{"\\u0024date": "2026-01-02"}',
    '{"x": {"class_": "UserMessage"}}',
    '{"x": {"cl\\u0061ss_": "UserMessage"}}',
    '{"x": "class_"}',
    '{"x": {"class__": 1}, "class__": 2}',
    '{"class_": "Message", "class_": "UserMessage"}',
    '{"class_": {"class_": "Message"}}',
    '{"class_": "Frozen"}',
    '{"x": "\\ud800"}',
    '{"\\ud800": {}}',
    '{"content": [{"text": 1}, 2]}',
    "[]",
    "null",
    "",
    "{",
    "{'a': 1}",
    '{"x": 1,}',
    '\ufeff{"x": 1}',
    '{"x": "\x01"}',
    '{"x": "\ud800"}',
    f'{{"x": {"9" * 3999}}}',
    f'{{"x": {"9" * 4001}}}',
    f'{{"x": {"9" * 4400}}}',
    *(f'{{"x": {"[" * deep}{"]" * deep}}}' for deep in (198, 199, 200, 201, 5000)),
    *('{"x":' * deep + "1" + "}" * deep for deep in (199, 200, 201, 202, 302)),
]


@pytest.mark.parametrize("number", range(len(ODD_JSON)))
def test_message_from_odd_json_is_that_of_the_parsed_text(number: int) -> None:
    """`model_validate_json` treats odd texts, as str and bytes, as `json.loads` and `model_validate` do."""
    text = ODD_JSON[number]
    assert outcome(lambda: Message.model_validate_json(text)) == outcome(lambda: from_parsed(text))
    if text.isprintable():
        for data in (text.encode(), bytearray(text.encode()), text.encode("utf-16"), text.encode("utf-8-sig")):
            assert outcome(partial(Message.model_validate_json, data)) == outcome(lambda: from_parsed(text))


def from_parsed(text: str) -> Message:
    """Return the message of a text that Python's own parser has read."""
    try:
        return Message.model_validate(json.loads(text))
    except RecursionError:
        raise FreezeError("the JSON of a Message nests too deep") from None


def outcome(make: Callable[[], Message]) -> Any:
    """Return the class, the hash and the dumps of the message, or the error."""
    try:
        message = make()
    except (ValueError, FreezeError) as error:
        return type(error), str(error)
    others = TypeAdapter(dict[str, Any]).dump_python(message.model_extra or {}, mode="json")
    return type(message), message.hash_key, repr(message.model_dump(mode="json")), repr(others)


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
