"""Laws C1 and 26 for messages in fields of other pydantic models: each dump comes back whole, with its classes."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, TypeAdapter, field_serializer

from miniagents import (
    AssistantMessage,
    FreezeError,
    Frozen,
    FrozenDict,
    Message,
    MessagePromise,
    MiniAgents,
    ToolCall,
    Usage,
    UserMessage,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Mood(Enum):
    """An enum for a typed field."""

    CALM = "calm"


class Note(Message, class_="test_messages_in_models.Note"):
    """A message with typed fields of every kind."""

    kind: Literal["note"] = "note"
    raw: bytes = b""
    when: datetime | None = None
    mood: Mood | None = None
    sizes: dict[str, float] = Field(default={})
    parts: list[Message] = Field(default=[])

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class Task(Message, class_="test_messages_in_models.Task"):
    """Message that a union distinguishes from a note by its field `kind`."""

    kind: Literal["task"] = "task"


class Tree(Message, class_="test_messages_in_models.Tree"):
    """A message that holds others of its class, or of subclasses."""

    children: list[Tree] = Field(default=[])

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class Leaf(Tree, class_="test_messages_in_models.Leaf"):
    """Subclass of `Tree` with one more field."""

    weight: float = 1


ANSWER = AssistantMessage(
    "Look \ud83d",
    usage=Usage(input_tokens=1, cost=b"\x00"),
    tool_calls=[ToolCall(id="f1", name="t", arguments="{}", more={"$bytes": 1})],
    choices=[AssistantMessage("second", score=math.nan)],
    large=10**5000,
    table={"class_": "Message", "$ref": "#/x"},
)
NOTE = Note(
    "n",
    raw=b"\xff",
    when=datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
    mood=Mood.CALM,
    sizes={"a": math.inf},
    parts=[ANSWER, UserMessage("u")],
)
TREE = Tree("t", children=[Leaf("l", weight=2, children=[Tree("deep", n=1)]), Tree()])
HISTORY: list[Message] = [UserMessage("Hi"), ANSWER, NOTE, TREE, Task(), Message(None, only=(1, b""))]


def class_of(value: Any) -> str:
    """Return the name of the class, by which a discriminated union selects its member."""
    return str(value["class_"]) if isinstance(value, dict) else type(value).class_name


class State(BaseModel):
    """A model of an application, with messages in fields of many types."""

    history: list[Message]
    last: Message | None
    answer: AssistantMessage | None
    tree: Tree
    by_name: dict[str, Message]
    pair: tuple[Message, AssistantMessage]
    either: UserMessage | AssistantMessage
    text_or_message: str | Message
    tagged: list[Annotated[Note | Task, Field(discriminator="kind")]]
    by_class: list[
        Annotated[
            Annotated[UserMessage, Tag("UserMessage")] | Annotated[AssistantMessage, Tag("AssistantMessage")],
            Discriminator(class_of),
        ]
    ]
    usage: Usage
    anything: Frozen
    table: FrozenDict[str, Any]


STATE = State(
    history=HISTORY,
    last=ANSWER,
    answer=ANSWER,
    tree=TREE,
    by_name={"a": ANSWER, "n": NOTE},
    pair=(NOTE, ANSWER),
    either=ANSWER,
    text_or_message=NOTE,
    tagged=[NOTE, Task()],
    by_class=[UserMessage("u"), ANSWER],
    usage=Usage(input_tokens=2, more=b"x"),
    anything=ANSWER,
    table=FrozenDict({"$ref": {"$bytes": "aGk="}, "class_": 1, "raw": b"\xff", "inside": ANSWER}),
)


@pydantic.dataclasses.dataclass
class PydanticData:
    """A dataclass of pydantic's."""

    history: list[Message]
    last: Message


@dataclasses.dataclass
class PlainData:
    """A dataclass of the standard library."""

    history: list[Message]
    last: Message


TYPES: dict[str, tuple[Any, Any]] = {
    "model": (State, STATE),
    "root_model": (RootModel[list[Message]], RootModel[list[Message]](HISTORY)),
    "pydantic_dataclass": (PydanticData, PydanticData(HISTORY, ANSWER)),
    "dataclass": (PlainData, PlainData(HISTORY, ANSWER)),
    "list": (list[Message], HISTORY),
    "dict": (dict[str, Message], {"a": ANSWER, "n": NOTE}),
    "optional": (Message | None, ANSWER),
    "message": (Message, ANSWER),
    "subclass": (Note, NOTE),
    "recursive": (Tree, TREE),
    "frozen": (Frozen, NOTE),
}

WAYS: dict[str, Callable[[TypeAdapter[Any], Any], Any]] = {
    "json": lambda adapter, value: adapter.validate_json(adapter.dump_json(value)),
    "parsed_json": lambda adapter, value: adapter.validate_python(json.loads(adapter.dump_json(value))),
    "json_types": lambda adapter, value: adapter.validate_python(adapter.dump_python(value, mode="json")),
    "python_types": lambda adapter, value: adapter.validate_python(adapter.dump_python(value)),
    "without_none": lambda adapter, value: adapter.validate_json(adapter.dump_json(value, exclude_none=True, indent=1)),
    "by_alias": lambda adapter, value: adapter.validate_json(
        adapter.dump_json(value, by_alias=True, round_trip=True, serialize_as_any=True)
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TYPES)
def test_H16_model_with_messages_is_equal_after_every_kind_of_dump(name: str, way: str) -> None:
    """A model with messages is equal, with its classes and types, after each kind of dump and validation."""
    kind, value = TYPES[name]
    again = WAYS[way](TypeAdapter(kind), value)
    assert again == value
    assert type(again) is type(value)


def test_dump_keeps_members_of_enums_zones_and_folds() -> None:
    """A dumped message is validated to a message with the same Enum member, time zone and fold."""
    [*_, note] = TypeAdapter(list[Message]).validate_json(TypeAdapter(list[Message]).dump_json([ANSWER, NOTE]))
    assert isinstance(note, Note)
    assert note.mood is Mood.CALM
    assert note.when is not None
    assert (str(note.when.tzinfo), note.when.fold) == ("Europe/Paris", 1)


@pytest.mark.parametrize("mode", ["python", "json"])
def test_dump_with_include_or_exclude_keeps_the_name_of_the_class(mode: str) -> None:
    """A dump with `include` or `exclude` selects fields inside messages, and keeps the names of their classes."""
    assert STATE.model_dump(mode=mode, include={"history": {0: {"content"}}}) == {
        "history": [{"class_": "UserMessage", "content": "Hi"}]
    }
    dump = STATE.model_dump(mode=mode, include={"last": {"usage"}}, exclude_unset=True)
    assert list(dump["last"]) == ["class_", "usage"]
    assert ANSWER.model_dump(mode=mode, include=set()) == {"class_": "AssistantMessage"}
    assert list(UserMessage("x", n=1).model_dump(mode=mode, exclude={"role"})) == ["class_", "content", "n"]


class Holder(BaseModel):
    """A model with values of messages in fields of its own."""

    data: Any
    table: FrozenDict[str, Any]


@pytest.mark.parametrize("mode", ["python", "json"])
@pytest.mark.parametrize("other", [1, datetime(2026, 1, 2), {1}, float("inf"), UserMessage("Hi"), {"$x": 1}])
def test_include_and_exclude_select_in_mappings_beside_any_value(mode: str, other: Any) -> None:
    """`include` and `exclude` select keys of a mapping at each depth, whatever other values the mapping holds."""
    data = {"key": 1, "$key": 2, "inner": [{"key": 3, "more": 4, "other": other}], "other": other}
    message = Message(data=data)
    holder = Holder(data=message.data, table=message.data)
    for model, names in ((message, ["data"]), (holder, ["data", "table"])):
        for name in names:
            dump = model.model_dump(mode=mode, exclude={name: {"key": True, "inner": {0: {"key"}}}})[name]
            assert list(dump) == ["$$key", "inner", "other"]
            assert list(dump["inner"][0]) == ["more", "other"]
            include: Any = {name: {"$key": True, "inner": {0: {"more"}}}}
            assert json.loads(json.dumps(model.model_dump(mode=mode, include=include)[name])) == {
                "$$key": 2,
                "inner": [{"more": 4}],
            }
            assert json.loads(model.model_dump_json(include=include))[name] == {"$$key": 2, "inner": [{"more": 4}]}


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_model_with_messages_has_a_json_schema(mode: Literal["validation", "serialization"]) -> None:
    """The JSON schemas of a model with messages, for validation and serialization, have the fields of each class."""
    schema = STATE.model_json_schema(mode=mode)
    assert schema["properties"]["history"]["items"] == {"$ref": "#/$defs/Message"}
    assert "finish_reason" in schema["$defs"]["AssistantMessage"]["properties"]


def test_validation_error_names_the_place_in_the_model() -> None:
    """A validation error has the path of the wrong field, the unsuitable class, or the malformed type tag."""
    wrong: dict[str, Any] = {"class_": Note.class_name, "when": "someday"}
    for data, place in (
        ({"history": [{}, wrong]}, ("history", 1, "when")),
        ({"answer": {"class_": "UserMessage"}}, ("answer", "class_")),
        ({"history": [{"x": {"$uuid": "no"}}]}, ("history", 0)),
    ):
        with pytest.raises(pydantic.ValidationError) as raised:
            State.model_validate(data)
        assert place in [error["loc"] for error in raised.value.errors()]


def test_dump_calls_field_serializers_of_the_application() -> None:
    """Dumps in Python and JSON, of a nested message and a `TypeAdapter` too, call the user's field serializer."""

    class Secretive(Message):
        secret: str = ""

        if TYPE_CHECKING:

            def __init__(self, content: Any = None, /, **fields: Any) -> None: ...

        @field_serializer("secret")
        def hide(self, value: str) -> str:
            return "*" * len(value)

    message = Secretive("x", secret="abc", raw=b"\xff")
    assert message.model_dump()["secret"] == "***"
    for text in (message.model_dump_json(), Message(inner=message).model_dump_json()):
        assert '"secret":"***","raw":{"$bytes":"/w=="}' in text
    assert TypeAdapter(list[Message]).dump_python([message], mode="json")[0]["secret"] == "***"


def test_message_validated_from_a_mapping_or_an_object_is_frozen() -> None:
    """A message that pydantic makes of a mapping or of an object's attributes is frozen like any other message."""

    class Source:
        content = "x"
        role = "user"

    state = TypeAdapter(list[Message]).validate_python([MappingProxyType({"content": "x", "meta": [1]})])
    assert state[0].meta == (1,)
    made = Message.model_validate(Source(), from_attributes=True)
    assert made == Message("x", role="user")


async def test_promise_in_a_field_is_refused() -> None:
    """A promise in a field raises an error that names its type, at freezing and at dumping."""

    class Holder(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        promise: MessagePromise

    async with MiniAgents():
        promise = Message.promise("x")
        with pytest.raises(FreezeError, match=r"inner\[0\]: cannot freeze .*MessagePromise"):
            Message(inner=[promise])
        with pytest.raises(ValueError, match=r"Unable to serialize unknown type: .*MessagePromise"):
            Holder(promise=promise).model_dump_json()
