"""Outputs of models: the type that a user asks for, its schema for a provider, and the check of an answer.

The schema is strict: the subset of JSON Schema by which OpenAI and Anthropic hold a model to an output. In it each
property is required, each object is closed, and each value has a type. Limits that an API does not enforce become words
of the description. Independent of providers, requests and the tool loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from miniagents.errors import OutputInvalidError
from miniagents.messages._parsing import output_type

if TYPE_CHECKING:
    from miniagents.messages import Message

OUTPUT_TOOL: Final = "final_answer"
"""Name of the tool by whose call a model gives its output, with `output_mode="tool"`."""

_REASONS: Final = {
    "length": "the answer has reached its length limit, and is no whole {name}: allow a longer one",
    "content_filter": "the provider's filter has stopped the answer, so that it is no whole {name}",
    "refusal": "the model refuses to answer with a {name}",
}
"""Reasons for the end of an answer that make it no output, whatever its text is."""


@dataclass(frozen=True, slots=True)
class OutputTool:
    """The tool whose arguments are the output; the model is sent it like other tools, and it never runs."""

    name: str
    description: str
    schema: dict[str, Any]


class Output:
    """The output that a model is asked for.

    Args:
        type_: any type that pydantic knows.

    Raises:
        TypeError: pydantic does not know the type.
    """

    def __init__(self, type_: Any) -> None:
        self.type = output_type(type_)
        self._strict: dict[IsEnforced, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<Output {self.name}>"

    @classmethod
    def of(cls, given: Any) -> Output | None:
        """Return the output that a user gave as a type, or None; an `Output` is returned unchanged."""
        return given if given is None or isinstance(given, cls) else cls(given)

    @property
    def name(self) -> str:
        """The name of the type, for error texts."""
        return self.type.name

    @property
    def schema_name(self) -> str:
        """The name of the schema in a request: letters, digits, hyphens and underscores."""
        return re.sub(r"[^a-zA-Z0-9_-]+", "_", self.name).strip("_")[:64] or "output"

    def strict_schema(self, is_enforced: IsEnforced) -> dict[str, Any]:
        """Return the strict schema for an API, which is made once.

        Raises:
            TypeError: the type has no strict schema; the text names the field.
        """
        if is_enforced not in self._strict:
            self._strict[is_enforced] = make_strict(self.type.json_schema(), self.name, is_enforced)
        return self._strict[is_enforced]

    @cached_property
    def tool(self) -> OutputTool:
        """The tool whose call has the output as its arguments.

        Raises:
            TypeError: a part of the type has no JSON schema.
        """
        schema = self.type.json_schema()
        about = schema.get("description", "")
        description = f"Gives the final answer, a {self.name}, and ends the conversation. {about}".strip()
        return OutputTool(OUTPUT_TOOL, description, schema)

    def check(self, text: str, fields: Mapping[str, Any]) -> None:
        """Check the answer that ends a request.

        Args:
            text: the text of the answer.
            fields: its other fields, see `AssistantMessage`.

        Raises:
            OutputInvalidError: the answer was refused, filtered or cut off, or its text is no valid output.
        """
        reason = "refusal" if fields.get("refusal") else fields.get("finish_reason")
        if reason in _REASONS:
            said = f": {fields['refusal']}" if fields.get("refusal") else ""
            raise OutputInvalidError(_REASONS[reason].format(name=self.name) + said)
        self.type.read(text)

    def missing(self, reason: str, message: Message | None) -> OutputInvalidError:
        """Return the error of a tool loop that ends without an output for this `reason`; its `partial` is `message`."""
        error = OutputInvalidError(f"there is no {self.name}: {reason}")
        error.partial = message
        return error


# --- strict JSON schemas


IsEnforced = Callable[[str, Any], bool]
"""Function that says if an API enforces a keyword of a schema with this value, such as `minimum` or `format`."""

_DROPPED = frozenset(
    {"default", "examples", "discriminator", "deprecated", "readOnly", "writeOnly", "additionalProperties", "$schema"}
)
"""Keywords that say nothing about an output whose properties are all required, and whose objects are closed."""
_REFUSED = frozenset({"allOf", "not", "if", "then", "else", "prefixItems", "patternProperties", "contains"})
"""Keywords that change which values are valid, and that strict schemas do not have."""


def make_strict(schema: Mapping[str, Any], name: str, is_enforced: IsEnforced) -> dict[str, Any]:
    """Return the strict form of a schema.

    Args:
        schema: a schema as pydantic writes it, with an object at its root.
        name: the name of the output, for error texts.
        is_enforced: function that says which keywords stay; other limits are described in words, for the model.

    Raises:
        TypeError: a part of the schema has no strict form; the text names the field.
    """
    definitions = schema.get("$defs", {})
    writer = _Writer(definitions, is_enforced)
    strict = writer.write({key: value for key, value in schema.items() if key != "$defs"}, name)
    if definitions:
        strict["$defs"] = {each: writer.write(inner, each) for each, inner in definitions.items()}
    return strict


class _Writer:
    """Writer of strict schemas that share definitions."""

    def __init__(self, definitions: Mapping[str, Any], is_enforced: IsEnforced) -> None:
        self._definitions = definitions
        self._is_enforced = is_enforced
        self._open: set[str] = set()
        """Names of the definitions that are being written in place of a reference to them."""

    def write(self, schema: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the strict form of a schema; raise `TypeError`, with the place `where`, if it has none.

        Limits that the API does not enforce are added to the description, in words.
        """
        refused = sorted(_REFUSED & schema.keys())
        if refused:
            raise _not_strict(where, f"it needs {refused[0]!r}")
        if "$ref" in schema:
            return self._write_reference(schema, where)
        strict: dict[str, Any] = {}
        words: list[str] = []
        for key, value in schema.items():
            match key:
                case "anyOf" | "oneOf":
                    strict["anyOf"] = [self.write(inner, where) for inner in value]
                case "properties":
                    strict[key] = {each: self.write(inner, f"{where}.{each}") for each, inner in value.items()}
                case "items":
                    strict[key] = self.write(value, f"{where}[]")
                case "type" | "title" | "description" | "enum" | "const":
                    strict[key] = value
                case _ if self._is_enforced(key, value):
                    strict[key] = value
                case _ if key not in _DROPPED and key != "required":
                    words.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
        if words:
            strict["description"] = "\n".join([*filter(None, [strict.get("description")]), ", ".join(words)])
        _close(strict, schema, where)
        return strict

    def _write_reference(self, schema: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the strict form of a schema with a `$ref`: the reference itself if no other key stands beside it.

        Strict schemas allow no key beside a `$ref`. If there are more keys, return the strict form of the definition
        with these keys added; inside of that form, a reference to the same definition loses them. `where` is the place
        that a `TypeError` names.
        """
        more = {key: value for key, value in schema.items() if key != "$ref" and key not in _DROPPED}
        name = schema["$ref"].rpartition("/")[2]
        if not more or name in self._open:
            return {"$ref": schema["$ref"]}
        self._open.add(name)
        try:
            return self.write({**self._definitions[name], **more}, where)
        finally:
            self._open.remove(name)


def _close(strict: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
    """Change the strict schema of an object so that it requires all its properties and allows no others.

    Args:
        strict: the strict form so far, which is changed in place.
        schema: the schema of which it is the form.
        where: the place that an error names.

    Raises:
        TypeError: the keys of an object, the items of a list, or the type of a value are not known.
    """
    if strict.get("type") == "object":
        if not strict.get("properties") and schema.get("additionalProperties"):
            raise _not_strict(where, "it is an object with any keys")
        properties = strict.setdefault("properties", {})
        strict["required"] = list(properties)
        strict["additionalProperties"] = False
    elif strict.get("type") == "array" and "items" not in strict:
        raise _not_strict(where, "its items may be of any type")
    elif not strict.keys() & {"type", "anyOf", "enum", "const"}:
        raise _not_strict(where, "it may be a value of any type")


def _not_strict(where: str, reason: str) -> TypeError:
    """Return the error of a schema that has no strict form: its field `where`, the reason, and what the user can do."""
    return TypeError(
        f"output field {where!r} has no strict JSON schema: {reason}. Give it a type whose keys and values are known, "
        f'or create the agent with output_mode="tool"'
    )
