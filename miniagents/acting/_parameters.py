"""Parameters of a function as a JSON schema and as a validator of the arguments that a model writes.

Pydantic makes both from the signature. The validator is strict: a text is no number, and an argument without a
parameter is refused. Independent of agents and of calls.
"""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from miniagents.errors import ToolError
from miniagents.messages._parsing import PlainSchema

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import FunctionType

_signature = inspect.signature
if sys.version_info >= (3, 14):
    from annotationlib import Format

    # A hidden parameter may have an annotation that is imported for type checkers only.
    _signature = partial(_signature, annotation_format=Format.FORWARDREF)


class Parameters:
    """Parameters that a model gives by name: their JSON schema, and a reader of arguments.

    Args:
        name: the name of the tool, for error texts.
        fields: type of each argument by its name, as `TypedDict` takes them.
        defaults: default values, which are shown to the model.

    Raises:
        TypeError: pydantic cannot make a schema of a type; the text names the parameter.
    """

    def __init__(self, name: str, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.name = name
        try:
            self._reader, self.schema = _reader_and_schema(fields)
        except Exception as error:
            raise TypeError(f"tool {name!r}: {_bad_parameter(fields)}: {error}") from error
        properties = self.schema.setdefault("properties", {})
        for parameter, default in defaults.items():
            if parameter in properties:
                with suppress(ValueError):  # a default that is no JSON is not shown
                    properties[parameter].setdefault("default", to_jsonable_python(default))

    def read(self, arguments: str) -> dict[str, Any]:
        """Return the arguments of a call as values of the parameters' types.

        Args:
            arguments: JSON text of an object. Blank text and `null` stand for no arguments, because some servers send
                these for a tool without parameters.

        Raises:
            ToolError: the text is no JSON, or the arguments do not fit the parameters.
        """
        text = arguments.strip()
        try:
            values: dict[str, Any] = self._reader.validate_json("{}" if text in ("", "null") else text)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            lines = [": ".join([".".join(map(str, each["loc"])) or "arguments", each["msg"]]) for each in details]
            raise ToolError(
                f"ValidationError: the arguments of {self.name} are not valid. {'; '.join(lines)}"
            ) from None
        return values


def parameters_of(name: str, function: Callable[..., Any], hidden: Collection[str], *, is_agent: bool) -> Parameters:
    """Return the parameters of a function that a model gives.

    Args:
        name: the name of the tool, for error texts.
        function: a function, a callable object, or the class of an agent.
        hidden: names of the parameters that the program gives, not the model.
        is_agent: True for the function of an agent: its context is hidden, and `**kwargs` is left out.

    Raises:
        TypeError: a parameter cannot be given by name, or has no annotation that pydantic knows.
    """
    hidden = {*hidden, *_bound_names(function)}
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for parameter in _signature(function).parameters.values():
        if parameter.name in hidden or (is_agent and parameter.kind is inspect.Parameter.VAR_KEYWORD):
            continue
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {name!r}: a model gives arguments by name, which {str(parameter)!r} does not take")
        annotation = _annotation(name, parameter, function)
        default = parameter.default
        if isinstance(default, FieldInfo):  # `days: int = Field(1, ge=1)`: pydantic gives the default
            required = default.is_required()
            annotation = Annotated[annotation, default]
        elif required := default is inspect.Parameter.empty:
            pass
        else:
            defaults[parameter.name] = default
        fields[parameter.name] = annotation if required else NotRequired[annotation]
    return Parameters(name, fields, defaults)


def text_parameter(name: str, parameter: str, description: str) -> Parameters:
    """Return parameters that are one required text."""
    return Parameters(name, {parameter: Annotated[str, FieldInfo(description=description)]}, {})


def _reader_and_schema(fields: Mapping[str, Any]) -> tuple[TypeAdapter[dict[str, Any]], dict[str, Any]]:
    """Return the strict validator of an object with these fields and no others, and its JSON schema."""
    # A TypedDict, because a field of a model may not have the name of a method of pydantic's models.
    make: Any = TypedDict
    arguments = make("arguments", dict(fields))
    arguments.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    reader: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
    schema = reader.json_schema(schema_generator=PlainSchema)
    schema.pop("title", None)
    return reader, schema


def _bad_parameter(fields: Mapping[str, Any]) -> str:
    """Return words that name the first field of which pydantic makes no schema."""
    for field, annotation in fields.items():
        try:
            _reader_and_schema({field: annotation})
        except Exception:
            return f"parameter {field!r} has a type that has no JSON schema; bind it with `fork` or `partial`"
    return "the parameters have no JSON schema"


def _bound_names(function: Any) -> frozenset[str]:
    """Return the names of the arguments that partial functions bind by name."""
    names: frozenset[str] = frozenset()
    while isinstance(function, partial):
        names |= function.keywords.keys()
        function = function.func
    return names


def _annotation(name: str, parameter: inspect.Parameter, function: Any) -> Any:
    """Return the annotation of a parameter, with names in it resolved.

    Raises:
        TypeError: there is no annotation, or a name in it is not defined where the function is.
    """
    if parameter.annotation is inspect.Parameter.empty:
        raise TypeError(f"tool {name!r}: parameter {parameter.name!r} needs a type annotation, for the model's schema")
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isclass(function) or not hasattr(function, "__globals__"):
        method = function.__init__ if inspect.isclass(function) else type(function).__call__
        function = method if hasattr(method, "__globals__") else function
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    names = getattr(function, "__globals__", None) or getattr(module, "__dict__", {})
    local_names = _names_around(function) if inspect.isfunction(function) else {}

    def holder() -> None:
        """Do nothing; `get_type_hints` reads the annotations."""

    holder.__annotations__ = {parameter.name: parameter.annotation}
    try:
        return get_type_hints(holder, names, local_names, include_extras=True)[parameter.name]
    except Exception as error:
        raise TypeError(
            f"tool {name!r}: the annotation {parameter.annotation!r} of parameter {parameter.name!r} cannot be read "
            f"({error}); its names must be defined where the function is"
        ) from error


def _names_around(function: FunctionType) -> dict[str, Any]:
    """Return local variables that a function's annotations may name: its closure, and those of running functions.

    A function that is defined inside another one may use types which that one defines, as tests do. While the outer
    function runs, its local variables are found on the stack.
    """
    names: dict[str, Any] = {}
    outer = function.__qualname__.rpartition(".<locals>.")[0]
    frame = sys._getframe(1) if outer else None
    while frame is not None:
        code = frame.f_code.co_qualname
        if frame.f_globals is function.__globals__ and f"{outer}.<locals>.".startswith(f"{code}.<locals>."):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return {**names, **inspect.getclosurevars(function).nonlocals}
