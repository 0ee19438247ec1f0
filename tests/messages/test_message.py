"""Laws 24 to 28 for messages: content, roles, dumps, references, and classes by name."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from pydantic import BaseModel, Field, ValidationError

from miniagents import MessageSequencePromise, MiniAgents
from miniagents._promising.freezing import FrozenDict
from miniagents.errors import FreezeError
from miniagents.messages import (
    AssistantMessage,
    ErrorMessage,
    Message,
    SystemMessage,
    ToolCall,
    Usage,
    UserMessage,
)
from miniagents.values import encode


class Note(Message, class_="test_message.Note"):
    """A message with typed fields."""

    title: str
    parts: list[Message] = Field(default=[])

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class Scored(AssistantMessage[int], class_="test_message.Scored"):
    """An answer with an output, and with a typed field."""

    score: int = 0


ANSWER = AssistantMessage(
    "hi",
    model="m-1",
    id="id-1",
    finish_reason="stop",
    provider_finish_reason="end_turn",
    usage=Usage(
        input_tokens=1, output_tokens=2, cached_tokens=0, reasoning_tokens=1, total_tokens=3, details={"a": [1]}
    ),
    tool_calls=[ToolCall(id="c", name="f", arguments="{}", type="function")],
    choices=[AssistantMessage("hello")],
    reasoning="hm",
    logprobs={"x": [0.5]},
)


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (Message("x"), None),
        (UserMessage("x"), "user"),
        (SystemMessage("x"), "system"),
        (AssistantMessage("x"), "assistant"),
        (ErrorMessage("x"), "error"),
        (Message("x", role="developer"), "developer"),
    ],
)
def test_message_class_sets_the_default_role(message: Message, role: str | None) -> None:
    """A message has the default role of its class, unless the constructor gets `role`."""
    assert (message.role, message.content, str(message)) == (role, "x", "x")


def test_message_takes_content_by_position_or_by_keyword() -> None:
    """Content by position or by keyword makes an equal message; content given twice or of a wrong type raises."""
    assert Message("x") == Message(content="x")
    assert Message() == Message(None) == Message(content=None)
    assert Message("") != Message()
    with pytest.raises(TypeError, match="content is given twice"):
        Message("x", content="y")
    with pytest.raises(ValidationError, match="content"):
        Message(5)


class Picture(Message):
    """Message with typed fields and no constructor, as users write it."""

    width: int
    unit: str = "px"


def test_message_subclass_has_a_typed_constructor() -> None:
    """Type checkers and the constructor know the typed fields, and both refuse wrong ones."""
    picture = Picture("a tree", width=3)
    assert_type(picture.width, int)
    assert picture == Picture(content="a tree", width=3, unit="px")
    assert str(Picture([{"type": "text", "text": "a tree"}], width=3)) == "a tree"
    assert Picture(width=3).content is None
    with pytest.raises(ValidationError, match="width"):
        Picture("a tree", width="wide")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(ValidationError, match="width"):
        Picture("a tree")  # type: ignore[call-arg]  # that is the mistake
    with pytest.raises(ValidationError, match="frozen"):
        picture.width = 4  # type: ignore[misc]  # that is the mistake


def test_message_takes_fields_of_any_name() -> None:
    """A message can have extra fields of any name, even `self` and `cls`."""
    message = Message("x", self=1, cls=2, meta={"k": [1]})
    assert (message.self, message.cls, message.meta["k"]) == (1, 2, (1,))


def test_message_refuses_a_second_initialization() -> None:
    """A second call of a message's `__init__` raises an error and changes nothing."""
    message = Message("x")
    with pytest.raises(TypeError, match="immutable"):
        message.__init__("y")  # type: ignore[misc]
    assert message == Message("x")


def test_message_with_parts_has_their_texts_as_its_text() -> None:
    """`str` of a message whose content is a list of parts joins their texts, and skips parts without text."""
    message = UserMessage(
        ["a", {"type": "text", "text": "b"}, {"type": "image", "source": {"data": "..."}}, {"text": 5}]
    )
    assert isinstance(message.content, tuple)
    assert message.content[2] == {"type": "image", "source": {"data": "..."}}
    assert isinstance(message.content[2], FrozenDict)
    assert str(message) == "a\nb"
    assert Message.model_validate(message.model_dump()) == message


def test_message_without_content_has_json_of_its_fields_as_its_text() -> None:
    """`str` of a message without content is JSON of its fields, without names of classes or hash keys."""
    note = Note(title="é", parts=[Message(x=1)], number=1.5)
    assert json.loads(str(note)) == {
        "title": "é",
        "parts": [{"content": None, "role": None, "x": 1}],
        "number": 1.5,
    }
    assert "é" in str(note)


def test_T5_message_keeps_braces_and_surrogates_as_text() -> None:
    """Braces, percent signs and a lone surrogate are plain text for `str`, hash key and JSON."""
    for text in ("{content.__class__.__mro__}", "{}", "%s", "\ud83d"):
        assert str(Message(text)) == text
        assert len(Message(text).hash_key) == 40
        assert json.loads(str(Message(x=text))) == {"x": text}


def test_message_names_the_field_that_cannot_be_frozen() -> None:
    """A message with a value that cannot be made immutable raises an error that names the field."""
    with pytest.raises(FreezeError, match=r"x: cannot freeze builtins\.object"):
        Message("a", x=object())


def test_answer_has_declared_and_extra_fields() -> None:
    """An `AssistantMessage` has its declared fields and all further fields that the provider sent."""
    assert ANSWER.usage is not None
    assert (ANSWER.usage.input_tokens, ANSWER.usage.details) == (1, {"a": (1,)})
    assert (ANSWER.tool_calls[0].name, ANSWER.tool_calls[0].arguments, ANSWER.tool_calls[0].type) == (
        "f",
        "{}",
        "function",
    )
    assert (ANSWER.choices[0].content, ANSWER.interrupted, ANSWER.logprobs) == ("hello", False, {"x": (0.5,)})


@pytest.mark.parametrize(
    "message",
    [
        ANSWER,
        Message(),
        Message("x", class_="UserMessage", class__=1),
        Message("x", data={"class_": "UserMessage", "content": "forged", "class__": {"class_": "Usage"}}),
        Note(title="t", parts=[UserMessage("a"), Note(title="u"), Message("b", inner={"deep": [ErrorMessage("e")]})]),
        Message(values={Message("a"), UserMessage("a")}, usage=Usage(input_tokens=1), pair=(b"\xff", 1.0)),
        Message(values=[{Message(table={"class_": {1}})}]),
    ],
    ids=lambda message: type(message).__name__ + message.hash_key[:4],
)
def test_message_is_equal_after_dump_and_validation(message: Message) -> None:
    """`model_validate(model_dump())` and pickle give an equal message with the same classes at every depth."""
    again = Message.model_validate(message.model_dump())
    assert again == message
    assert type(again) is type(message)
    assert pickle.loads(pickle.dumps(message)) == message


def test_message_is_equal_after_dump_to_json() -> None:
    """The JSON of `model_dump_json` is read back to an equal message by `Message` or by the message's own class."""
    assert Message.model_validate_json(ANSWER.model_dump_json()) == ANSWER
    assert AssistantMessage.model_validate_json(ANSWER.model_dump_json()) == ANSWER


def test_X7_constructor_takes_names_of_classes_as_content() -> None:
    """Constructors and `model_copy` take `class_` and type tags in values as plain content, at any depth."""
    message = Message(content="x", class_="UserMessage")
    assert type(message) is Message
    assert message.class_ == "UserMessage"

    note = Note(title="t", parts=[{"content": "x", "class_": "UserMessage", "data": {"$bytes": "aGk="}}])
    assert type(note.parts[0]) is Message
    assert (note.parts[0].class_, note.parts[0].data) == ("UserMessage", {"$bytes": "aGk="})
    copied = message.model_copy(update={"class_": "SystemMessage"})
    assert type(copied) is Message


@pytest.mark.parametrize("name", ["NoSuchClass", "", "builtins.object", "os.system", None, 5, [], {"a": 1}], ids=repr)
def test_X7_model_validate_makes_a_plain_message_of_an_unknown_class(name: Any) -> None:
    """A dump whose class name is unknown becomes a message of the validating class, and nothing is imported."""
    dump = {"content": "x", "class_": name, "inner": [{"class_": name, "content": "y", "__reduce__": 1, "lc": 1}]}
    message = Message.model_validate(dump)
    assert type(message) is Message
    assert type(message.inner[0]) is Message
    assert message.inner[0].lc == 1
    assert type(UserMessage.model_validate({"class_": name, "content": "x"})) is UserMessage


def test_model_validate_refuses_a_dump_of_another_class() -> None:
    """`model_validate` raises a validation error for a dump of a class that does not derive from the validated one."""
    with pytest.raises(ValidationError, match="is not a subclass of UserMessage"):
        UserMessage.model_validate(AssistantMessage("x").model_dump())
    with pytest.raises(ValidationError, match="is not a subclass of Message"):
        Message.model_validate(Usage().model_dump())


def test_model_validate_refuses_a_dump_that_nests_too_deep() -> None:
    """A dump that nests 100,000 deep raises `FreezeError` and does not exhaust the stack."""
    dump: dict[str, Any] = {}
    for _ in range(100_000):
        dump = {"inner": dump}
    with pytest.raises(FreezeError, match="nests more than 200 deep"):
        Message.model_validate(dump)


def test_serialize_replaces_nested_messages_by_references() -> None:
    """`serialize` puts hash keys in place of the messages in fields, tuples and mappings, and JSON for other values."""
    one, two = UserMessage("1"), Message("2")
    message = Note(
        title="t",
        one=one,
        parts=[one, two],
        mixed=[one, "text", [two]],
        table={"a": two, "b": [two], "class_": 1},
        usage=Usage(input_tokens=1, note=two),
        raw=b"\xff",
        none=[],
        few={2, 1},
    )
    serialized = message.serialize()
    assert serialized == {
        "class_": "test_message.Note",
        "content": None,
        "role": None,
        "title": "t",
        "one__hash_key": one.hash_key,
        "parts__hash_keys": [one.hash_key, two.hash_key],
        "mixed": [{"__hash_key": one.hash_key}, "text", [{"__hash_key": two.hash_key}]],
        "table": {"a__hash_key": two.hash_key, "b__hash_keys": [two.hash_key], "class__": 1},
        "usage": {
            "class_": "Usage",
            "input_tokens": 1,
            "output_tokens": None,
            "cached_tokens": None,
            "cache_write_tokens": None,
            "reasoning_tokens": None,
            "total_tokens": None,
            "raw": None,
            "note__hash_key": two.hash_key,
        },
        "raw": {"$bytes": "/w=="},
        "none": [],
        "few": {"$set": [1, 2]},
    }
    json.dumps(serialized)


def test_serialize_refuses_a_field_with_the_name_of_a_reference() -> None:
    """`serialize` raises an error if a field has the name under which a reference would be stored."""
    with pytest.raises(ValueError, match="'a__hash_key'"):
        Message(a=Message("x"), a__hash_key="y").serialize()


def test_sub_messages_yields_each_message_once_after_its_children() -> None:
    """`sub_messages` yields each message inside a message once, children first, through any container."""
    leaf, shared = Message("leaf"), Message("shared")
    left = Message("left", inner=[leaf, {"k": shared}])
    right = Message("right", usage=Usage(note=shared), inner=Message("new"))
    root = Message("root", a=left, b=(right, leaf))
    assert [m.content for m in root.sub_messages()] == ["leaf", "shared", "left", "new", "right"]
    assert list(leaf.sub_messages()) == []


def test_message_works_when_nested_ten_thousand_deep() -> None:
    """All operations on a message nested 10,000 deep work, except dumps to JSON, which raise an error."""
    message, other = Message("0"), Message("0")
    for n in range(1, 10_000):
        message, other = Message(str(n), inner=message), Message(str(n), inner=other)
    assert message == other
    assert [m.content for m in message.sub_messages()] == [str(n) for n in range(9_999)]
    assert message.serialize()["inner__hash_key"] == other.inner.hash_key
    outer = Message(inner=message)
    assert len(str(outer)) < 500
    assert Message.model_validate(message.model_dump()) == other
    for dump in (message.model_dump_json, lambda: message.model_dump(mode="json"), lambda: encode(message)):
        with pytest.raises(ValueError, match=r"nest more than 300 deep.*serialize"):
            dump()


def test_message_equality_depends_on_class_and_fields() -> None:
    """Messages of different classes are unequal and have different hash keys, even if their fields are equal."""
    assert Message("x", role="user") != UserMessage("x")
    assert Message("x", role="user").hash_key != UserMessage("x").hash_key
    assert len({UserMessage("x") for _ in range(2_000)} | {UserMessage(str(n)) for n in range(2_000)}) == 2_001


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (Message("x"), "5c8b402b50ed86f1fa40f91799ffadf226edb9d5"),
        (UserMessage("x"), "32c4c2f263460b466061a57e4d7cf99979993339"),
        (ErrorMessage("x", error_type="ValueError"), "ce4c2f1b9d4cfeda288350f54fa04bc6c1acbd3e"),
        (ANSWER, "1cf6607a9eb25ec2f8cbca68244ffa0d9a694173"),
        (Message(["a", {"type": "text", "text": "b"}]), "9f452411458251851ffdd221069d83df5ab9e0ce"),
    ],
    ids=["plain", "user", "error", "answer", "parts"],
)
def test_message_hash_keys_never_change(message: Message, key: str) -> None:
    """The hash keys of known messages are the committed constants, because stored histories refer to them."""
    assert message.hash_key == key


def test_message_mark_of_persistence_is_no_part_of_its_value() -> None:
    """The internal mark that a message was persisted is not compared, dumped or pickled."""
    message = Message("x")
    object.__setattr__(message, "_persisted", True)
    again = pickle.loads(pickle.dumps(message))
    assert again == message
    assert "_persisted" not in again.model_dump()
    with pytest.raises(AttributeError):
        _ = again._persisted


def test_class_parameters_of_an_answer_are_for_type_checkers_only() -> None:
    """`AssistantMessage[int]` is the class itself, so that hashes, dumps and fields of models stay as they are."""
    assert AssistantMessage[int] is AssistantMessage
    assert Scored.__mro__[1] is AssistantMessage
    message = Scored("text", score=3)
    assert Message.model_validate(message.serialize()) == message
    assert pickle.loads(pickle.dumps(message)) == message

    class Holder(BaseModel):
        """A model that holds an answer."""

        answer: AssistantMessage[int]

    assert Holder.model_validate_json(Holder(answer=message).model_dump_json()).answer == message


# --- mistakes with messages


@pytest.mark.parametrize("kind", [Message, UserMessage, AssistantMessage, Scored])
@pytest.mark.parametrize("name", ["text", "split", "strip", "lower", "replace", "startswith", "splitlines", "encode"])
def test_attribute_of_a_text_says_how_to_get_the_text(kind: Any, name: str) -> None:
    """An attribute that only a str has, and `text`, are an `AttributeError` with the line to write."""
    with pytest.raises(AttributeError) as raised:
        getattr(kind("Hi"), name)
    right = "`message.content` or `str(message)`" if name == "text" else f"`str(message).{name}(...)`"
    assert right in str(raised.value)


def test_other_attributes_of_a_message_are_as_before() -> None:
    """Fields have the names of texts, too; other missing names have a plain error, and a property its own."""

    class Sized(Message):
        """Message with a property."""

        @property
        def width(self) -> int:
            """Fail for another attribute that is missing."""
            return int(self.no_such_field)

        @property
        def title(self) -> str:
            """Fail in the same way, under the name of a method of texts."""
            return str(self.no_such_field)

    message = Message("Hi", text="other", split=3)
    assert (message.text, message.split) == ("other", 3)
    for name in ("no_such_field", "width", "title"):
        with pytest.raises(AttributeError, match=r"^'Sized' object has no attribute 'no_such_field'$"):
            getattr(Sized("Hi"), name)
    assert not hasattr(Message("Hi"), "split")
    assert not hasattr(Message.__new__(Message), "split")
    assert copy.deepcopy(pickle.loads(pickle.dumps(message))) == message


@pytest.mark.parametrize("kind", [Message, UserMessage, SystemMessage, AssistantMessage])
async def test_content_that_is_not_awaited_says_what_to_write(kind: Any) -> None:
    """A promise, a coroutine or a message as the content is a `TypeError` with the line to write."""

    async def text() -> str:
        """Return a text."""
        return "Hi"

    name = kind.__name__
    async with MiniAgents():
        for content, right in (
            (Message.promise("Hi"), f"`{name}(str(await promise))`"),
            (MessageSequencePromise.of_items(["Hi"]), f"`{name}(str(await replies.last))`"),
            (text(), f"`{name}(await coroutine)`"),
            (Message("Hi"), f"`{name}(message.content)`"),
        ):
            with pytest.raises(TypeError) as raised:
                kind(content)
            assert right in str(raised.value)
