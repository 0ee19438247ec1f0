"""The codec of values keeps types and classes, writes strict JSON, and tells different values apart (laws C1 to C3)."""

from __future__ import annotations

import gc
import json
import math
import pickle
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel

from miniagents import AssistantMessage, FreezeError, Frozen, FrozenDict, Message, ToolCall, Usage, UserMessage
from miniagents._promising.freezing import freeze
from miniagents.bounds import MAX_NESTING
from miniagents.values import canonical_text, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

FORMS: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "true": (True, True),
    "int": (10**50, 10**50),
    "largest_int": (10**4000 - 1, 10**4000 - 1),
    "huge_int": (-(16**4000), {"$int": "-0x1" + "0" * 4000}),
    "float": (-0.0, -0.0),
    "infinite": (-math.inf, {"$float": "-inf"}),
    "text": ("é\U0001f600\x00", "é\U0001f600\x00"),
    "surrogate": ("\ud83d", {"$text": "7aC9"}),
    "two_surrogates": ("\ud83d\ude00", {"$text": "7aC97biA"}),
    "bytes": (b"hi\xff", {"$bytes": "aGn/"}),
    "decimal": (Decimal("1.50"), {"$decimal": "1.50"}),
    "exponent": (Decimal("1E+5"), {"$decimal": "1E+5"}),
    "uuid": (UUID(int=5), {"$uuid": "00000000-0000-0000-0000-000000000005"}),
    "date": (date(2026, 1, 2), {"$date": "2026-01-02"}),
    "datetime": (datetime(2026, 1, 2, 3, 4, 5, 6), {"$datetime": "2026-01-02T03:04:05.000006"}),
    "utc": (datetime(2026, 1, 2, tzinfo=UTC), {"$datetime": "2026-01-02T00:00:00+00:00"}),
    "zone": (
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
        {"$datetime": "2026-10-25T02:30:00[Europe/Paris][fold=1]"},
    ),
    "fold": (datetime(2026, 10, 25, 2, 30, fold=1), {"$datetime": "2026-10-25T02:30:00[fold=1]"}),
    "time": (time(1, 2, tzinfo=timezone(timedelta(hours=-3, minutes=-30))), {"$time": "01:02:00-03:30"}),
    "timedelta": (timedelta(days=-1, microseconds=5), {"$timedelta": [-1, 0, 5]}),
    "path": (PurePosixPath("a/b"), {"$path": ["PurePosixPath", "a/b"]}),
    "windows_path": (PureWindowsPath(r"C:\a"), {"$path": ["PureWindowsPath", r"C:\a"]}),
    "path_here": (Path("a"), {"$path": [type(Path()).__name__, "a"]}),
    "path_no_utf8": (PurePosixPath("\udcff"), {"$path": ["PurePosixPath", {"$text": "7bO/"}]}),
    "tuple": (((), ((1,),)), [[], [[1]]]),
    "set": (frozenset({"b", "a", (b"",)}), {"$set": ["a", "b", [{"$bytes": ""}]]}),
    "dict": (FrozenDict({"b": 1, "a": {}}), {"b": 1, "a": {}}),
    "tag_in_content": (FrozenDict({"$bytes": "aGk="}), {"$$bytes": "aGk="}),
    "dollars": (FrozenDict({"$": 1, "$$x": 2}), {"$$": 1, "$$$x": 2}),
    "class_in_content": (FrozenDict(class_="Message", class__=1), {"class__": "Message", "class___": 1}),
    "surrogate_in_key": (FrozenDict({"$\ud83d": 1, "": 2}), {"$text:JCTtoL0=": 1, "": 2}),
    "text_key_in_content": (FrozenDict({"$text:JCTtoL0=": 1}), {"$$text:JCTtoL0=": 1}),
    "frozen": (Frozen(b=b"", a=Frozen()), {"class_": "Frozen", "b": {"$bytes": ""}, "a": {"class_": "Frozen"}}),
    "message": (
        UserMessage("x", class_=1),
        {"class_": "UserMessage", "content": "x", "role": "user", "class__": 1},
    ),
}


def assert_same(one: Any, other: Any) -> None:
    """Compare type and content at every depth. `==` alone takes 1.0 for 1, and does not tell zones and folds apart."""
    assert type(one) is type(other)
    assert Frozen(v=one) == Frozen(v=other)
    if isinstance(one, (float, datetime, time, PurePath)):
        assert repr(one) == repr(other)


@pytest.mark.parametrize("name", FORMS)
def test_H15_encode_returns_the_documented_form_and_decode_the_value(name: str) -> None:
    """`encode` gives the documented JSON of each value, from which `decode` gives the value with its types (C1)."""
    value, form = freeze(FORMS[name][0]), FORMS[name][1]
    encoded = encode(value)
    assert encoded == form
    assert_same(decode(json.loads(json.dumps(encoded))), value)
    assert_same(decode(json.loads(canonical_text(value))), value)


def test_encode_and_decode_keep_kinds_of_nan_and_infinity() -> None:
    """`decode(encode(x))` keeps NaN and infinity of floats and Decimals, quiet and signalling."""
    assert encode(math.nan) == {"$float": "nan"}
    assert math.isnan(decode({"$float": "nan"}))
    for text in ("NaN", "-sNaN12", "-Infinity", "-0"):
        assert str(decode(encode(Decimal(text)))) == text


def test_canonical_texts_differ_for_different_values() -> None:
    """Different values have different canonical texts, which are strict JSON in UTF-8 with any key order (C2, C3)."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    texts = [canonical_text(value) for value, _ in FORMS.values()]
    texts += [canonical_text([value]) for value, _ in FORMS.values()]
    assert len(set(texts)) == 2 * len(FORMS)
    for text in texts:
        json.loads(text.encode(), parse_constant=refuse)
    assert canonical_text({"b": 1, "a": 2}) == canonical_text({"a": 2, "b": 1}) == '{"a":2,"b":1}'


def test_encode_takes_mutable_containers_and_returns_new_ones() -> None:
    """`encode` treats lists, dicts and sets as their immutable kin; changing its result does not change the value."""
    assert encode([{"a": {1}}]) == [{"a": {"$set": [1]}}]
    table: FrozenDict[str, Any] = FrozenDict(a=(1,))
    encoded = encode(table)
    encoded["a"].append(2)
    assert table == {"a": (1,)}
    with pytest.raises(FreezeError, match=r"value\['a'\]: cannot freeze"):
        encode({"a": object()})


def test_canonical_text_is_independent_of_the_digit_limit_of_the_process() -> None:
    """The canonical text of an int is decimal up to 4,000 digits, and hexadecimal beyond, under any digit limit."""
    limit = sys.get_int_max_str_digits()
    texts = set()
    value = [10**700, 10**4000 - 1, 10**4000, 10**4200, {"$a": {10**4290}}]
    try:
        for digits in (0, 640, limit):
            sys.set_int_max_str_digits(digits)
            texts.add(canonical_text(value))
            assert encode(value)[1:3] == [10**4000 - 1, {"$int": hex(10**4000)}]
    finally:
        sys.set_int_max_str_digits(limit)
    assert len(texts) == 1


MALFORMED: list[dict[str, Any]] = [
    {"$int": 3}, {"$int": "zz"}, {"$float": "1.5"}, {"$float": []}, {"$text": "7aC"}, {"$text": "/w=="},
    {"$bytes": "!"}, {"$bytes": 5}, {"$bytes": None}, {"$decimal": 1.5}, {"$decimal": "one"}, {"$uuid": "5"},
    {"$date": "someday"},
    {"$datetime": "2026-01-02T00:00:00[No/Where]"}, {"$datetime": "2026-01-02[fold=2]"}, {"$datetime": ["x", 0, None]},
    {"$time": "25:00"}, {"$timedelta": [1, 2]}, {"$timedelta": [1, 2, True]}, {"$timedelta": [10**10, 0, 0]},
    {"$path": "a"}, {"$path": ["NoPath", "a"]}, {"$path": ["PurePosixPath", 1]}, {"$set": 3}, {"$set": {"a": 1}},
    {"$set": [{"$decimal": "sNaN"}]},
]  # fmt: skip


@pytest.mark.parametrize("malformed", MALFORMED, ids=str)
def test_H17_malformed_tag_is_an_error_that_names_it_and_its_place(malformed: dict[str, Any]) -> None:
    """`decode` and `model_validate_json` raise a ValueError with name and path of a malformed type tag."""
    [tag] = malformed
    with pytest.raises(ValueError, match=r"value\['a'\]\[1\]") as raised:
        decode({"a": [0, malformed]})
    assert tag in str(raised.value)
    with pytest.raises(ValueError, match=r"Message\['x'\]"):
        Message.model_validate_json(json.dumps({"class_": "Message", "x": malformed}))


def test_malformed_key_and_set_element_are_errors_that_name_their_places() -> None:
    """`decode` raises a ValueError with the path of a malformed key or set element."""
    with pytest.raises(ValueError, match=r"value\[0\]: the key '\$text:!' is malformed"):
        decode([{"$text:!": 1}])
    with pytest.raises(ValueError, match=r"value\['\$set'\]\[0\]: .*\$uuid"):
        decode({"$set": [{"$uuid": ""}]})


@pytest.mark.parametrize(
    "unknown", [{"$nothing": 1}, {"$": 1}, {"$bytes": "aGk=", "more": 1}, {"$ref": "#/x"}], ids=str
)
def test_decode_returns_a_dict_for_an_unknown_tag(unknown: dict[str, Any]) -> None:
    """`decode` returns a dict for an unknown type tag, and for a known tag beside other keys."""
    assert decode(unknown) == unknown
    assert type(decode(unknown)) is FrozenDict


def test_decode_returns_a_message_for_an_unknown_class() -> None:
    """`decode` returns a plain message if the class of the stored one no longer exists."""
    assert decode({"class_": "gone", "content": "x", "n": 1}) == Message("x", n=1)


def test_values_of_200_levels_survive_a_round_trip() -> None:
    """200 levels of lists, dicts or sets survive; 201 are refused, and so are 302 with the messages around them."""
    lists: Any = 1
    sets: Any = 1
    for number in range(MAX_NESTING):
        lists = [lists] if number % 2 else {"k": lists}
        sets = frozenset({sets})
    for deep in (lists, sets):
        message = Message(deep=deep)
        assert Message.model_validate_json(message.model_dump_json()) == message
        assert decode(json.loads(json.dumps(encode(message)))) == message
        assert Frozen(v=decode(encode(deep))) == Frozen(v=deep)
    with pytest.raises(ValueError, match="nest more than 300 deep"):
        encode(nest(102, lists))
    with pytest.raises(FreezeError, match="nests more than 200 deep"):
        decode(json.loads("[" * 201 + "]" * 201))


def nest(levels: int, value: Any) -> Any:
    """Return a value inside so many messages, each of which holds the next."""
    for _ in range(levels):
        value = Message(inner=value)
    return value


def test_messages_300_deep_survive_a_round_trip_and_deeper_ones_are_refused() -> None:
    """Messages nested 300 deep come back from JSON; `encode` refuses deeper ones, which could not be read."""
    deep = nest(301, "x")
    assert Message.model_validate_json(deep.model_dump_json()) == deep
    for dump in (lambda: nest(302, "x").model_dump_json(), lambda: canonical_text(nest(10_000, "x"))):
        with pytest.raises(ValueError, match="nest more than 300 deep"):
            dump()


ANSWER = AssistantMessage(
    "Look \ud83d",
    usage=Usage(input_tokens=1, details={"$bytes": 1}),
    tool_calls=[ToolCall(id="f1", name="t", arguments="{}")],
    choices=[AssistantMessage("b", extra=b"\xff")],
    nested=[UserMessage("in a list"), {"k": Message(None, n=math.nan)}],
    everything=[value for value, _ in FORMS.values()],
)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ensure_ascii", [False, True])
def test_H15_message_survives_a_round_trip_through_json(indent: int | None, ensure_ascii: bool) -> None:
    """`model_validate_json(model_dump_json())` returns an equal message of the same class, in any layout (C1)."""
    text = ANSWER.model_dump_json(indent=indent, ensure_ascii=ensure_ascii)
    text.encode()
    assert (text.isascii(), "\n" in text) == (ensure_ascii, indent is not None)
    again = Message.model_validate_json(text)
    assert_same(again, ANSWER)
    assert_same(AssistantMessage.model_validate_json(text.encode()), ANSWER)
    assert Message.model_validate(json.loads(text)) == ANSWER
    assert Message.model_validate(ANSWER.model_dump(mode="json")) == ANSWER
    assert decode(json.loads(text)) == ANSWER


def count_calls(work: Callable[[], object]) -> int:
    """Return the number of calls of Python functions that `work` makes."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    gc.disable()  # a collection calls functions as well
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


class Report(BaseModel):
    """Model of an application, which holds the value of a message's field in a field of its own."""

    anything: Any


DUMPS: dict[str, Callable[[Message], object]] = {
    "text": lambda message: message.model_dump_json(),
    "json_types": lambda message: message.model_dump(mode="json"),
    "selected": lambda message: message.model_dump(mode="json", exclude={"role"}),
    "for_a_store": lambda message: message.serialize(),
    "of_another_model": lambda message: Report(anything=message.parts).model_dump_json(),
}


@pytest.mark.parametrize("name", DUMPS)
@pytest.mark.parametrize("origin", ["constructor", "json", "pickle", "reused"])
def test_dumps_of_plain_values_call_no_function_for_each_mapping(name: str, origin: str) -> None:
    """A dump of 100 plain mappings makes as many Python calls as one of 10; with bytes in each, it makes more."""

    def parts(length: int, more: dict[str, Any]) -> list[Any]:
        return [{"text": "é", "n": n, "score": 1.5, "tags": ["a", None, True], "in": {}, **more} for n in range(length)]

    def calls(length: int, **more: Any) -> int:
        message = Message("x", parts=parts(length, more))
        if origin == "json":
            message = Message.model_validate_json(message.model_dump_json())
        elif origin == "pickle":
            message = pickle.loads(pickle.dumps(message))
        elif origin == "reused":
            message = Message("x", parts=message.parts)
        return count_calls(lambda: DUMPS[name](message))

    calls(1)  # what only a first dump does is done
    assert calls(100) == calls(10)
    assert calls(100, raw=b"") >= calls(10, raw=b"") + 90


def test_texts_with_lone_surrogates_and_odd_keys_are_no_plain_values() -> None:
    """Dumps have the documented form of a value that pydantic-core would write differently, wherever it stands."""
    for odd, form in (
        ("\ud800", {"$text": "7aCA"}),
        (math.nan, {"$float": "nan"}),
        (10**4000, {"$int": hex(10**4000)}),
        ({"$a": 1}, {"$$a": 1}),
        ({"class_": 1}, {"class__": 1}),
    ):
        for value, whole in (
            (odd, form),
            ([odd], [form]),
            ([odd] * 20, [form] * 20),
            ([*"abcdefghij", odd], [*"abcdefghij", form]),
            ([1.5] * 10 + [odd], [1.5] * 10 + [form]),
            ([{"k": [odd]}], [{"k": [form]}]),
        ):
            assert Message(v=value).model_dump(mode="json")["v"] == whole
            assert Message(v={"in": value}).serialize()["v"] == {"in": whole}
            assert json.loads(Report(anything=Message(v={"in": value}).v).model_dump_json())["anything"] == {
                "in": whole
            }
