"""Schemas made strict: what they become, what has no strict form, and where the SDKs' own helpers agree."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired
from uuid import UUID

import jsonschema
import pytest
from anthropic import transform_schema
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema
from typing_extensions import TypedDict

from miniagents import Frozen
from miniagents.acting._output import Output
from miniagents.ext.llm import anthropic as anthropic_module
from miniagents.ext.llm import openai as openai_module

if TYPE_CHECKING:
    from miniagents.acting._output import IsEnforced

OPENAI, ANTHROPIC = openai_module._is_enforced, anthropic_module._is_enforced


class Colour(Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Described(BaseModel):
    """A thing of parts."""

    name: str
    parts: list[Annotated[Described, Field(description="a part")]] = []


class Point(BaseModel):
    """A place."""

    x: int
    y: float = 0.5


class Tree(BaseModel):
    """A tree of names."""

    name: str
    children: list[Tree] = []


class Cat(BaseModel):
    """A cat."""

    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    """A dog."""

    kind: Literal["dog"]
    good: bool


@dataclass
class Person:
    """A person."""

    name: str
    age: int | None = None


class Options(TypedDict):
    """Options."""

    fast: bool
    colour: NotRequired[Colour]


class Everything(BaseModel):
    """All kinds of fields that have a strict form."""

    flag: bool
    place: Point = Field(description="Where it is.")
    places: list[Point] = []
    colour: Colour = Colour.RED
    word: Literal["a", "b"] | None = None
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    person: Person
    options: Options
    tree: Tree | None = None
    when: datetime
    key: UUID
    price: Decimal = Decimal(1)
    score: int = Field(3, ge=1, le=5)
    short: Annotated[str, Field(max_length=5)] = "abc"
    pattern: Annotated[str, Field(pattern="^[a-z]+$")] = "x"
    ints: tuple[int, ...] = ()
    some: set[str] = set()


class Empty(BaseModel):
    """Nothing."""


STRICT_TYPES = [
    Everything,
    Point,
    Tree,
    Person,
    Options,
    Empty,
    list[Point],
    int,
    str,
    Point | None,
    Cat | Dog,
    Annotated[Cat | Dog, Field(discriminator="kind")],
    Literal["a", "b"],
    Colour,
    list[Tree],
    tuple[int, ...],
]


def strict(type_: Any, is_enforced: IsEnforced = OPENAI) -> dict[str, Any]:
    """Return the strict schema of a type."""
    return Output(type_).strict_schema(is_enforced)


def schemas_in(schema: Any) -> list[dict[str, Any]]:
    """Return all schemas in a schema, including itself."""
    found = [schema]
    for inner in [*schema.get("$defs", {}).values(), *schema.get("properties", {}).values(), *schema.get("anyOf", ())]:
        found += schemas_in(inner)
    return found + (schemas_in(schema["items"]) if "items" in schema else [])


@pytest.mark.parametrize("is_enforced", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
@pytest.mark.parametrize("type_", STRICT_TYPES, ids=str)
def test_strict_schemas_close_every_object_and_require_every_property(type_: Any, is_enforced: IsEnforced) -> None:
    """In a strict schema each object allows only its own properties, and requires all of them.

    No keyword is left that strict mode refuses, such as `default` or `oneOf`.
    """
    schema = strict(type_, is_enforced)
    assert schema["type"] == "object"
    for each in schemas_in(schema):
        if each.get("type") == "object":
            assert each["additionalProperties"] is False
            assert each["required"] == list(each["properties"])
        assert "$ref" not in each or len(each) == 1, "a reference with other keys is refused by OpenAI"
        assert not each.keys() & {"default", "oneOf", "allOf", "discriminator", "prefixItems"}
        assert each.keys() & {"type", "anyOf", "$ref", "enum", "const"}


@pytest.mark.parametrize("type_", [Everything, Tree, Point, Empty], ids=str)
def test_values_of_a_type_fit_its_strict_schema(type_: type[BaseModel]) -> None:
    """The JSON that pydantic writes of a value fits the type's strict schema, and is read as an equal value."""
    values: dict[type[BaseModel], BaseModel] = {
        Everything: Everything(
            flag=True,
            place=Point(x=1),
            pet=Cat(kind="cat", lives=9),
            person=Person("Ann"),
            options={"fast": True, "colour": Colour.BLUE},
            tree=Tree(name="a", children=[Tree(name="b")]),
            when=datetime(2026, 1, 2),
            key=UUID(int=5),
            score=4,
        ),
        Tree: Tree(name="a", children=[Tree(name="b")]),
        Point: Point(x=1),
        Empty: Empty(),
    }
    value = values[type_]
    for is_enforced in (OPENAI, ANTHROPIC):
        jsonschema.validate(json.loads(value.model_dump_json()), strict(type_, is_enforced))
    assert Output(type_).type.read(value.model_dump_json()) == value


@pytest.mark.parametrize(
    ("type_", "field", "reason"),
    [
        (dict[str, str], "dict[str, str]", "any keys"),
        (dict, "dict", "any keys"),
        (Any, "Any.value", "any type"),
        (list[Any], "list[Any].value[]", "any type"),
        (tuple[int, str], "tuple[int, str].value", "prefixItems"),
        (list[dict[str, int]], "list[dict[str, int]].value[]", "any keys"),
        (TypedDict("Labels", {"of": dict[str, int]}), "Labels.of", "any keys"),  # type: ignore[operator]  # a class
    ],
    ids=str,
)
def test_a_type_without_a_strict_form_is_refused_with_its_field(type_: Any, field: str, reason: str) -> None:
    """A type without a strict schema raises a `TypeError` with the field, the reason, and a hint at `output_mode=`."""
    with pytest.raises(TypeError, match="output_mode=") as caught:
        strict(type_)
    assert f"output field {field!r}" in str(caught.value)
    assert reason in str(caught.value)


def test_the_field_of_a_nested_type_without_strict_form_is_named_by_its_model() -> None:
    """If a field of a nested model has no strict schema, the error names that inner model and the field."""

    class Inner(BaseModel):
        tags: dict[str, str]

    class Outer(BaseModel):
        inner: list[Inner]

    with pytest.raises(TypeError, match=r"output field 'Inner.tags'"):
        strict(Outer)


def test_a_model_that_allows_extra_fields_is_closed() -> None:
    """The strict schema of a model that allows extra fields, such as a `Frozen`, has only the declared fields."""

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        x: int

    class Note(Frozen):
        x: int

    for type_ in (Open, Note):
        assert strict(type_)["required"] == ["x"]
        assert strict(type_)["additionalProperties"] is False


def test_limits_that_an_api_does_not_enforce_are_told_in_words() -> None:
    """A limit that the API enforces stays in the schema; another limit becomes text in the field's description."""

    class Limited(BaseModel):
        score: int = Field(ge=1, le=5, description="How good it is.")
        word: str = Field(max_length=3)
        odd: Annotated[str, WithJsonSchema({"type": "string", "pattern": "^(?!a)"})]

    openai, anthropic = strict(Limited)["properties"], strict(Limited, ANTHROPIC)["properties"]
    assert openai["score"] == {"type": "integer", "minimum": 1, "maximum": 5, "description": "How good it is."}
    assert anthropic["score"] == {"type": "integer", "description": "How good it is.\nmaximum: 5, minimum: 1"}
    assert openai["word"] == anthropic["word"] == {"type": "string", "description": "maxLength: 3"}
    assert openai["odd"] == {"type": "string", "description": 'pattern: "^(?!a)"'}, "OpenAI refuses lookaround"


def test_described_reference_to_its_own_type_is_written_once() -> None:
    """A recursive field with a description has it at its first place, and a bare reference inside of that."""
    schema = strict(Described)
    part = schema["properties"]["parts"]["items"]
    assert part["description"] == "a part"
    assert part["properties"]["parts"]["items"] == {"$ref": "#/$defs/Described"}
    jsonschema.validate({"name": "a", "parts": [{"name": "b", "parts": []}]}, schema)


def test_unions_and_recursive_types_keep_their_references() -> None:
    """A union is `anyOf`, also with a discriminator, and a recursive type refers to its definition."""
    pets = strict(Annotated[Cat | Dog, Field(discriminator="kind")])
    assert pets["properties"]["value"] == {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
    tree = strict(Tree)
    assert tree["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert tree["$defs"]["Tree"]["required"] == ["name", "children"]


# --- the SDKs' own helpers


class Plain(BaseModel):
    """A type on which both SDKs agree."""

    name: str
    colour: Literal["red", "blue"]
    place: Point | None
    places: list[Point]
    tree: Tree


def without_titles(schema: Any) -> Any:
    """Return a schema without titles, which only repeat names, and without defaults, which say nothing."""
    if isinstance(schema, dict):
        return {
            key: {name: without_titles(inner) for name, inner in value.items()}
            if key in ("properties", "$defs")
            else without_titles(value)
            for key, value in schema.items()
            if key not in ("title", "default")
        }
    return [without_titles(each) for each in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("type_", [Plain, Point, Tree, Cat], ids=str)
def test_strict_schemas_equal_those_of_openai(type_: type[BaseModel]) -> None:
    """OpenAI's helper makes the same schema as `Output`, but leaves titles and defaults in."""
    assert without_titles(strict(type_)) == without_titles(to_strict_json_schema(type_))


@pytest.mark.parametrize("type_", [Plain, Cat, Dog], ids=str)
def test_strict_schemas_equal_those_of_anthropic(type_: type[BaseModel]) -> None:
    """Anthropic's helper makes the same schema as `Output`, but for titles, literals and fields with a default.

    The helper leaves out the type of literals, and does not require fields with a default.
    """

    def comparable(schema: Any) -> Any:
        """Return a schema without types beside literals, without `required`, and without defaults told in words."""
        if isinstance(schema, list):
            return [comparable(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        left = {key: comparable(value) for key, value in schema.items() if key != "required"}
        if "const" in left or "enum" in left:
            left.pop("type", None)
        if isinstance(left.get("description"), str) and "default:" in left["description"]:
            del left["description"]  # a default is told in words
        return left

    theirs = transform_schema(TypeAdapter(type_).json_schema())
    if "{const: " in str(theirs):
        pytest.skip("this version of the SDK tells literals in words")
    assert comparable(without_titles(strict(type_, ANTHROPIC))) == comparable(without_titles(theirs))


def test_helpers_of_the_sdks_differ_where_strict_mode_would_fail() -> None:
    """OpenAI's helper leaves an open object open and a `oneOf` in; Anthropic's makes an open object empty."""

    class Open(BaseModel):
        tags: dict[str, str]

    tags = to_strict_json_schema(Open)["properties"]["tags"]
    assert tags["additionalProperties"] == {"type": "string"}, "OpenAI's helper has left this object open before"
    assert transform_schema(Open)["properties"]["tags"]["properties"] == {}, "Anthropic's helper has left no tag before"
    union = TypeAdapter(Annotated[Cat | Dog, Field(discriminator="kind")])
    assert "oneOf" in to_strict_json_schema(union)
