"""Functions and agents as tools: their names, schemas and validators, and what is refused at creation (law 1)."""

from __future__ import annotations

import datetime
import enum
import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from miniagents import InteractionContext, MiniAgent, MiniAgents, Tool, ToolError, handoff, miniagent, tool
from miniagents.acting._tool import Toolset
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import create_scripted_agent


class Color(enum.Enum):
    """Color of a thing."""

    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """Place on a map."""

    name: str
    height: int = 0


@dataclass
class Size:
    """Size of a thing."""

    width: int


class Database:
    """Object that a model cannot give."""


async def get_weather(city: Annotated[str, Field(description="in English")], days: int = 1) -> str:
    """The weather of a city.

    Of some days.
    """
    return f"{city} {days}"


def test_parameters_become_a_closed_schema() -> None:
    """A tool has its function's name and docstring, and a schema with types and defaults that allows nothing else."""
    made = tool(get_weather)
    assert (made.name, made.description) == ("get_weather", "The weather of a city.\n\nOf some days.")
    assert made.schema == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "in English"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_tool_without_parameters_has_an_empty_object_as_its_schema() -> None:
    """The schema of a function without parameters is an object with empty `properties`, which APIs require."""

    def now() -> str:
        """The time."""
        return "noon"

    assert tool(now).schema == {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("annotation", "json", "value"),
    [
        (int, "5", 5),
        (float, "5", 5.0),
        (Optional[int], "null", None),  # noqa: UP045 - users write it
        (Color, '"red"', Color.RED),
        (Literal["a", 1], "1", 1),
        (datetime.date, '"2024-02-29"', datetime.date(2024, 2, 29)),
        (list[Place], '[{"name": "Rome"}]', [Place(name="Rome")]),
        (Size, '{"width": 2}', Size(2)),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Any, '{"a": [null]}', {"a": [None]}),
    ],
)
def test_arguments_become_values_of_the_annotated_types(annotation: Any, json: str, value: object) -> None:
    """JSON arguments are read as values of the parameter's type."""

    def function(copy: Any) -> None:  # a name that fields of pydantic's models may not have
        """Do something."""

    function.__annotations__ = {"copy": annotation}
    assert tool(function).read_arguments(f'{{"copy": {json}}}') == {"copy": value}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"city": 5}', "city: Input should be a valid string"),
        ('{"city": "Rome", "days": "3"}', "days: Input should be a valid integer"),
        ('{"city": "Rome", "days": 1.5}', "days"),
        ('{"city": "Rome", "day": 3}', "day: Extra inputs are not permitted"),
        ("{}", "city: Field required"),
        ("", "city: Field required"),
        ("null", "city: Field required"),
        ('{"city": "Ro', "Invalid JSON"),
        ('["Rome"]', "arguments: Input should be an object"),
        ('{"city": 5, "days": "x"}', "city: .*; days: "),
    ],
)
def test_wrong_arguments_are_refused_with_their_reason(arguments: str, reason: str) -> None:
    """Arguments of a wrong type or name are a `ToolError` that names each of them; no value is converted."""
    with pytest.raises(ToolError, match=f"(?s)^ValidationError: the arguments of get_weather .*{reason}"):
        tool(get_weather).read_arguments(arguments)


@pytest.mark.parametrize("arguments", ["", " ", "null", "{}"])
def test_blank_arguments_are_no_arguments(arguments: str) -> None:
    """A tool whose parameters all have defaults can be called with blank arguments, as some servers send them."""

    def recent(days: int = 1) -> None:
        """Read the news."""

    assert tool(recent).read_arguments(arguments) == {}


def test_annotation_may_name_a_local_type() -> None:
    """A function inside another one may use types that are defined there, also if annotations are strings."""

    class Local(BaseModel):
        """Type of this test only."""

        size: int

    def make() -> Any:
        def measure(thing: Local) -> None:
            """Measure."""

        return tool(measure)

    assert make().read_arguments('{"thing": {"size": 1}}') == {"thing": Local(size=1)}


def test_field_as_default_gives_description_and_default() -> None:
    """`Field(...)` as the default value describes the parameter, and its own default reaches the function."""

    def search(query: str = Field(description="words"), limit: int = Field(3, ge=1)) -> None:
        """Search."""

    made = tool(search)
    assert made.schema["required"] == ["query"]
    assert made.schema["properties"]["limit"] == {"type": "integer", "default": 3, "minimum": 1}
    assert made.read_arguments('{"query": "x"}') == {"query": "x", "limit": 3}
    with pytest.raises(ToolError, match="limit"):
        made.read_arguments('{"query": "x", "limit": 0}')


def test_default_that_is_no_json_is_not_shown() -> None:
    """A default value without a JSON form makes the parameter optional, and is left out of the schema."""

    def search(query: str, place: Any = Database) -> None:
        """Search."""

    assert "default" not in tool(search).schema["properties"]["place"]
    assert tool(search).read_arguments('{"query": "x"}') == {"query": "x"}


def test_partial_hides_bound_arguments() -> None:
    """Arguments that `functools.partial` binds are hidden, and need no annotation that a model could give."""

    async def find(text: str, *, db: Database, limit: int = 5) -> None:
        """Find a text."""

    made = tool(functools.partial(functools.partial(find, db=Database()), limit=3))
    assert (made.name, made.description, list(made.schema["properties"])) == ("find", "Find a text.", ["text"])


def test_agent_shows_its_parameters_without_context_and_bound_ones() -> None:
    """The schema of an agent as a tool lacks its context, what `fork` binds, and `**kwargs`."""

    @miniagent
    async def researcher(ctx: InteractionContext, topic: str, *, db: Database, **more: Any) -> None:
        """Finds sources."""

    @miniagent
    class Reader:
        """Reads a page."""

        def __init__(self, ctx: InteractionContext, page: int) -> None:
            self.page = page

        async def __call__(self) -> None:
            """Do nothing."""

    made = tool(researcher.fork(db=Database()))
    assert (made.name, made.description, list(made.schema["properties"])) == ("researcher", "Finds sources.", ["topic"])
    reader: Any = Reader
    assert list(tool(reader).schema["properties"]) == ["page"]


def test_agent_without_parameters_takes_a_message() -> None:
    """An agent without free parameters, such as an agent on a model, takes one text: the message to it."""

    @miniagent
    async def listener(ctx: InteractionContext) -> None:
        """Listens."""

    for agent in (listener, create_openai_agent("m", alias="LISTENER"), create_anthropic_agent("m", alias="Listener")):
        made = tool(agent)
        assert made.name == "listener"
        assert made.schema["required"] == ["message"]
        assert made.schema["properties"]["message"]["type"] == "string"


def test_name_and_description_can_be_given() -> None:
    """`tool` replaces name and description, so that one function can be two tools."""
    made = tool(get_weather, name="weather-2", description="Weather.", timeout=3)
    assert (made.name, made.description, made.timeout) == ("weather-2", "Weather.", 3)


def test_callable_object_and_bound_method_are_tools() -> None:
    """An object with `__call__` has the name of its class, a bound method its own; neither shows `self`."""

    class Adder:
        """Adds a number."""

        def __call__(self, number: int) -> int:
            return number + 1

        def subtract(self, number: int) -> int:
            """Subtract one."""
            return number - 1

    assert (tool(Adder()).name, list(tool(Adder()).schema["properties"])) == ("Adder", ["number"])
    assert (tool(Adder().subtract).name, list(tool(Adder().subtract).schema["properties"])) == ("subtract", ["number"])


def _documented(function: Any, name: str = "function") -> Any:
    """Return the function with a name and a docstring."""
    function.__name__, function.__doc__ = name, "Does something."
    return function


def _with_args(*numbers: int) -> None:
    """Take any number of arguments."""


def _with_kwargs(**numbers: int) -> None:
    """Take any keyword arguments."""


def _positional(number: int, /) -> None:
    """Take an argument by position."""


def _bare(number) -> None:  # type: ignore[no-untyped-def]
    """Take an argument of any type."""


def _unknown(number: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821 - that is what is refused
    """Take an argument of a type that does not exist."""


def _of_class(database: Database) -> None:
    """Take an object that no model can give."""


def _undescribed(number: int) -> None: ...


async def _pieces(city: str) -> Any:
    """Yield the weather of a city."""
    yield city


@pytest.mark.parametrize("give", [tool, lambda call: create_openai_agent("m", tools=[call])], ids=["tool", "tools"])
def test_call_in_place_of_a_tool_says_what_to_write(give: Any) -> None:
    """A coroutine or a generator as a tool is a `TypeError` that names the function, and leaves no warning."""
    for call, name in ((get_weather("Rome"), "get_weather"), (_pieces("Rome"), "_pieces")):
        with pytest.raises(TypeError, match=rf"write `{name}`, not `{name}\(...\)`"):
            give(call)


async def test_replies_in_place_of_a_tool_say_what_to_write() -> None:
    """The promise of an agent's replies as a tool is a `TypeError` that says to give the agent."""
    async with MiniAgents():
        with pytest.raises(TypeError, match=r"write `agent`, not `agent.trigger\(...\)`"):
            create_openai_agent("m", tools=[create_scripted_agent("Hi").trigger("Hi")])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: tool(_with_args), TypeError, "by name"),
        (lambda: tool(_with_kwargs), TypeError, "by name"),
        (lambda: tool(_positional), TypeError, "by name"),
        (lambda: tool(_bare), TypeError, "'number' needs a type annotation"),
        (lambda: tool(_unknown), TypeError, "'Nowhere' of parameter 'number'"),
        (lambda: tool(_of_class), TypeError, "parameter 'database' has a type"),
        (lambda: tool(_undescribed), ValueError, "needs a description"),
        (lambda: tool(get_weather, description=" "), ValueError, "needs a description"),
        (lambda: tool(_documented(lambda: 1, "<lambda>")), ValueError, "the name of a tool"),
        (lambda: tool(get_weather, name="a b"), ValueError, "'a b'"),
        (lambda: tool(get_weather, name="x" * 65), ValueError, "the name of a tool"),
        (lambda: tool(get_weather, name=""), ValueError, "the name of a tool"),
        (lambda: tool(get_weather, timeout=-1), ValueError, "timeout"),
        (lambda: tool(get_weather, timeout=True), TypeError, "timeout"),
        (lambda: tool(Database), TypeError, "not the class Database"),
        (lambda: tool("get_weather"), TypeError, "a function or an agent"),  # type: ignore[arg-type]  # refused
        (lambda: handoff(get_weather), TypeError, "needs an agent"),  # type: ignore[arg-type]  # refused
        (lambda: tool(create_openai_agent("m", alias="An agent")), ValueError, "'an agent'"),
        (lambda: tool(create_openai_agent("m").fork(description="")), ValueError, "needs a description"),
    ],
    ids=map(str, range(19)),
)
def test_bad_tool_is_refused_at_creation(make: Any, error: type[Exception], text: str) -> None:
    """A tool that a model could not call is an error when it is made, and the text says what to change."""
    with pytest.raises(error, match=text):
        make()


CREATORS: list[Any] = [create_openai_agent, create_anthropic_agent]


@pytest.mark.parametrize("create", CREATORS)
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tools": [get_weather, get_weather]}, ValueError),
        ({"tools": [get_weather, {"type": "function", "function": {"name": "get_weather"}}]}, ValueError),
        ({"tools": [{"name": "x"}, {"name": "x"}]}, ValueError),
        ({"tools": [5]}, TypeError),
        ({"tools": get_weather}, TypeError),
        ({"tools": {"name": "x"}}, TypeError),
        ({"tools": tool(get_weather)}, TypeError),
        ({"max_rounds": 0}, ValueError),
        ({"max_rounds": True}, TypeError),
        ({"max_rounds": 2.0}, TypeError),
        ({"tool_errors": "ignore"}, ValueError),
    ],
)
def test_bad_settings_are_refused_by_agents_forks_and_calls(
    create: Any, settings: dict[str, Any], error: type[Exception]
) -> None:
    """Wrong tools and limits are errors of the creation, of `fork` and of `trigger`, before any request."""
    with pytest.raises(error):
        create("m", **settings)
    agent: MiniAgent[Any] = create("m")
    with pytest.raises(error):
        agent.fork(**settings)
    with pytest.raises(error):
        agent.trigger("Hi", **settings)


def test_toolset_keeps_order_and_dicts_untouched() -> None:
    """`Toolset.written` keeps the order of the tools, and returns a dict as the same object; None means no tools."""
    dict_tool = {"type": "web_search", "anything": [1]}
    toolset = Toolset.of([get_weather, dict_tool])
    written = toolset.written("x", lambda made: {"name": made.name})
    assert written[0] == {"name": "get_weather"}
    assert written[1] is dict_tool
    assert not Toolset.of(None)
    assert not Toolset.of(())
    assert Toolset.of(toolset) is toolset


def test_tool_shows_its_name_in_its_repr() -> None:
    """The repr of a tool has the tool's class and name only, as in `<FunctionTool get_weather>`."""
    made: Tool = tool(get_weather)
    assert repr(made) == "<FunctionTool get_weather>"
