"""Types of outputs: the value that the text of a message stands for, as JSON of a type that pydantic knows.

A model's output is always a JSON object. A value of any other type, such as `list[int]`, is asked for inside of
`{"value": ...}`, and read with or without this wrapper. Independent of models.
"""

from __future__ import annotations

import inspect
import types
import typing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict, TypeVar

from miniagents.errors import OutputInvalidError

if TYPE_CHECKING:
    from miniagents.messages._message import Message

O_co = TypeVar("O_co", covariant=True, default=Any)
"""The type of an output."""

if TYPE_CHECKING:

    class OutputOf(Generic[O_co]):
        """Class parameter of answers."""

else:

    class OutputOf:
        """Class parameter of answers, which is for type checkers only."""

        __slots__ = ()

        def __class_getitem__(cls, type_: Any) -> Any:
            """Return the class itself."""
            return cls


_EXCERPT = 80
"""Characters of a text that is no JSON which the error quotes."""
_MOST_PLACES = 10
"""Places that are not valid which the error names."""


class PlainSchema(GenerateJsonSchema):
    """Generator of schemas without titles that only repeat the names of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: a title made of the field's name says nothing new."""
        return False


class OutputType:
    """A type of outputs: a reader of their texts, and their JSON schema.

    Args:
        type_: any type that pydantic knows: a model, a dataclass, a TypedDict, `list[int]`, `int`, a union, ...

    Raises:
        TypeError: pydantic does not know the type.
    """

    def __init__(self, type_: Any) -> None:
        self.name: str = _name_of(type_)
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(type_)
        except Exception as error:
            raise TypeError(f"{self.name} cannot be the type of an output: {error}") from error
        self._wrapper: TypeAdapter[Any] | None = None
        schema = self._schema_or_none(self._adapter)
        if schema is not None and schema.get("type") != "object":
            make: Any = TypedDict
            self._wrapper = TypeAdapter(make("output", {"value": type_}))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the output, an object at its root: any other value stands under `value`.

        Raises:
            TypeError: a part of the type has no JSON schema.
        """
        try:
            schema = _schema_of(self._wrapper or self._adapter)
        except Exception as error:
            raise TypeError(f"output {self.name}: a part of the type has no JSON schema: {error}") from error
        if self._wrapper is not None:
            del schema["title"]
        return schema

    def read(self, text: str) -> Any:
        """Return the value of a JSON text, with or without the wrapper `{"value": ...}`.

        Raises:
            OutputInvalidError: the text is no JSON, or no JSON of this type.
        """
        try:
            return self._validate(text)
        except ValidationError as error:
            details = error.errors(include_url=False)
            raise OutputInvalidError(self._explain(text, details), errors=details) from error

    def read_message(self, message: Message) -> Any:
        """Return the value of a message's text; raise `OutputInvalidError` with the message as its `partial`.

        An answer without content has an empty text.
        """
        has_text = message.content is not None or message.role != "assistant"  # not the JSON of an answer's fields
        try:
            return self.read(str(message) if has_text else "")
        except OutputInvalidError as error:
            error.partial = message
            raise

    def _validate(self, text: str) -> Any:
        """Return the value of a text, which may stand inside of `{"value": ...}` if the type has that wrapper.

        If neither form fits, raise pydantic's error about the wrapped one.
        """
        if self._wrapper is None:
            return self._adapter.validate_json(text)
        try:
            return self._wrapper.validate_json(text)["value"]
        except ValidationError as error:
            try:
                return self._adapter.validate_json(text)
            except ValidationError:
                raise error from None

    def _explain(self, text: str, details: list[Any]) -> str:
        """Return the text of an error: the name of the type, and the first `_MOST_PLACES` places that are not valid.

        For a blank text, only say that it is empty. For a text that is no JSON, add its beginning. The `details` are
        those of pydantic's error; only for a blank text may they be empty.
        """
        if not text.strip():
            return f"the text is no {self.name}: it is empty"
        lines = [
            ": ".join(filter(None, [".".join(map(str, each["loc"])), each["msg"]])) for each in details[:_MOST_PLACES]
        ]
        if len(details) > _MOST_PLACES:
            lines.append(f"and {len(details) - _MOST_PLACES} more")
        begins = f" (it begins {text[:_EXCERPT]!r})" if details[0]["type"] == "json_invalid" else ""
        return f"the text is no valid {self.name}: {'; '.join(lines)}{begins}"

    @staticmethod
    def _schema_or_none(adapter: TypeAdapter[Any]) -> dict[str, Any] | None:
        """Return the schema of a type; None if it has none, and its values can only be read."""
        try:
            return _schema_of(adapter)
        except Exception:
            return None


def output_type(type_: Any) -> OutputType:
    """Return the `OutputType` of a type, which is made once; raise `TypeError` if pydantic does not know the type."""
    try:
        hash(type_)
    except TypeError:  # metadata of `Annotated` may be a list
        return OutputType(type_)
    return _known_type(type_, repr(type_))


@lru_cache(maxsize=256)
def _known_type(type_: Any, name: str) -> OutputType:
    """Return the `OutputType` of a hashable type; the 256 types used last are kept.

    `name` is the repr of the type. `A | B` and `B | A` are equal, but pydantic prefers the first class of each.
    """
    return OutputType(type_)


def _schema_of(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """Return the JSON schema of a type; a recursive type, which is a reference, is put at the root in its place."""
    schema = adapter.json_schema(schema_generator=PlainSchema)
    reference = schema.pop("$ref", None)
    if reference is not None:
        schema = {**schema["$defs"][reference.rpartition("/")[2]], **schema}
    return schema


def _name_of(type_: Any) -> str:
    """Return the name of a type for error texts, without the modules of its parts and the notes of `Annotated`."""
    if inspect.isclass(type_) and not typing.get_args(type_):
        return type_.__name__
    parts = typing.get_args(type_)
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
        return " | ".join("None" if part is types.NoneType else _name_of(part) for part in parts)
    origin = typing.get_origin(type_)
    if origin is typing.Annotated:
        return _name_of(parts[0])
    if origin is None or not parts:
        return str(getattr(type_, "__name__", type_))
    inner = (_name_of(part) if inspect.isclass(part) or typing.get_origin(part) else repr(part) for part in parts)
    return f"{getattr(origin, '__name__', origin)}[{', '.join(inner)}]"
