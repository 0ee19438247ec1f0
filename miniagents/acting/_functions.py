"""Functions as the work of tools: their parameters, their runs, and their results as text.

Pydantic makes a JSON schema and a validator of the signature. The validator is strict: a text is no number, and an
argument without a parameter is refused.

An async function is awaited, an async generator is read while it yields, any other function runs in a thread of its
own. The text of a value is the value itself if it is a text, else its JSON. Independent of models and the tool loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import sys
import threading
from collections.abc import AsyncIterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired, ParamSpec, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python
from typing_extensions import TypedDict

from miniagents._promising.freezing import BARE
from miniagents.errors import ToolError
from miniagents.messages import Message, MessagePromise, MessageSequencePromise
from miniagents.messages._parsing import PlainSchema

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping
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
    """Return the parameters of a tool that takes one argument: a required text, with a description for the model."""
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
    """Return the words of an error about parameters without a schema: the first one to blame, and what to do about it.

    Each is tried alone; if each has a schema, the words name none.
    """
    for field, annotation in fields.items():
        try:
            _reader_and_schema({field: annotation})
        except Exception:
            return f"parameter {field!r} has a type that has no JSON schema; bind it with `fork` or `partial`"
    return "the parameters have no JSON schema"


def _bound_names(function: Any) -> frozenset[str]:
    """Return the names of the keyword arguments that `functools.partial` binds; no names for any other function."""
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


# --- runs of a function, and results as text


P = ParamSpec("P")
T = TypeVar("T")


async def run_function(
    function: Callable[..., Any], arguments: dict[str, Any], name: str
) -> AsyncGenerator[str | tuple[Any, ...]]:
    """Call a function, and yield its result as text: in pieces for an async iterable or replies, else in one piece.

    A message whose content is a list of parts is yielded as the tuple of these. Errors of the function are raised after
    the text so far.

    Args:
        function: an async function, an async generator function, or any other function, which runs in a new thread.
        arguments: its keyword arguments.
        name: the name of the thread.
    """
    if _is_async(function):
        result = function(**arguments)
    else:
        # A daemon thread: the process does not wait for it, and neither does a call that is cancelled.
        work = partial(contextvars.copy_context().run, _call_to_the_end, function, arguments)
        result = await asyncio.get_running_loop().run_in_executor(_DaemonThreads(name), work)
    if inspect.isawaitable(result) and not isinstance(result, (MessagePromise, MessageSequencePromise)):
        result = await result
    if isinstance(result, _Yielded):
        if result.text:
            yield result.text
        if result.error is not None:
            raise result.error
        return
    if isinstance(result, MessagePromise):
        result = MessageSequencePromise.of_items(result)
    if isinstance(result, MessageSequencePromise):
        async with aclosing(stream_replies(result)) as pieces:
            async for piece in pieces:
                yield piece
    elif isinstance(result, AsyncIterable):
        try:
            async for value in result:
                yield value if isinstance(value, str) else f"{text_of(value)}\n"
        finally:
            if (aclose := getattr(result, "aclose", None)) is not None:
                await aclose()
    elif isinstance(result, Message) and isinstance(result.content, tuple):
        yield result.content
    elif text := text_of(result):
        yield text


async def stream_replies(replies: MessageSequencePromise) -> AsyncGenerator[str | tuple[Any, ...]]:
    """Yield the text of replies while they come; leave out answers with calls of tools, and results of tools."""
    async for batch in replies.as_single_text_promise(reference_original_messages=False).batches():
        for token in batch:
            yield token


def text_of(value: Any) -> str:
    """Return a value as the text of a result: a text as it is, "" for None, a message's text, else JSON.

    Raises:
        TypeError: the value has to be awaited or read first, such as a coroutine.
        ValueError: the value is no text and cannot be JSON.
    """
    if value is None:
        return ""
    if isinstance(value, (str, Message)):
        return str(value)
    _check_awaited(value)
    try:
        return to_json(value, context=BARE, fallback=_refuse).decode()
    except PydanticSerializationError:
        # a text with a lone surrogate, such as a file name that is not UTF-8, for which JSON has an escape
        plain = to_jsonable_python(value, context=BARE, fallback=_refuse)
        return json.dumps(plain, allow_nan=False, separators=(",", ":"))


def _check_awaited(value: Any) -> None:
    """Raise `TypeError` for a value that has to be awaited or read before it has a text; close a coroutine."""
    if inspect.isawaitable(value) or isinstance(value, AsyncIterable):
        if inspect.iscoroutine(value):
            value.close()  # so that Python does not warn of it, too
        name = getattr(value, "__qualname__", "")
        what = f"{type(value).__name__} of {name}()" if name else type(value).__name__
        raise TypeError(
            f"the function of the tool gave a {what} in place of its value: write `return await ...`, or read it with "
            "`async for`, before it is returned"
        )


def _refuse(value: Any) -> Any:
    """Raise `TypeError` for a part of a value that has no JSON."""
    _check_awaited(value)
    raise TypeError(f"an object of the class {type(value).__name__} has no JSON")


class _Yielded(NamedTuple):
    """Values of a generator that was read to its end in another thread than that of the event loop."""

    text: str
    error: BaseException | None
    """Error that the generator raised after these values."""


def _call_to_the_end(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a function in this thread, and return its result.

    An iterator that it returns is read here, too, up to its end or error. Then the result is a `_Yielded` with the
    joined texts of the values, and the error.
    """
    result = function(**arguments)
    if not isinstance(result, Iterator):
        return result
    texts: list[str] = []
    try:
        for value in result:
            text = value if isinstance(value, str) else f"{text_of(value)}\n"
            texts.append(text)
    except BaseException as error:
        return _Yielded("".join(texts), error)
    return _Yielded("".join(texts), None)


def _is_async(function: Any) -> bool:
    """Return True if a call of the function only makes a coroutine or an async generator."""
    while isinstance(function, partial):
        function = function.func
    for each in (function, getattr(function, "__call__", None)):  # noqa: B004 - is that method async?
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            return True
    return False


class _DaemonThreads(Executor):
    """Executor that runs each job in a new daemon thread, so that no job keeps the process alive.

    Args:
        name: the name of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a thread that calls the function, and return the future of its result."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            """Call the function, and give its result or its error to the future."""
            try:
                result = function(*args, **kwargs)
            except StopIteration as error:  # no coroutine may raise this
                future.set_exception(RuntimeError(f"the function raised StopIteration({error})"))
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=work, name=f"tool {self._name}", daemon=True).start()
        return future
