"""Strict JSON schemas: the subset of JSON Schema by which OpenAI and Anthropic hold a model to an output.

In a strict schema each property is required, each object is closed, and each value has a type. Limits that an API does
not enforce become words of the description. Independent of types, agents and requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

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
        is_enforced: keywords that stay; other limits are described in words, for the model.

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

    def write(self, schema: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the strict form of the schema at a place, which is named in errors; raise `TypeError` without one."""
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
        """Return a reference; one with more keys, which strict schemas refuse, with a copy of what it refers to."""
        more = {key: value for key, value in schema.items() if key != "$ref" and key not in _DROPPED}
        if not more:
            return {"$ref": schema["$ref"]}
        return self.write({**self._definitions[schema["$ref"].rpartition("/")[2]], **more}, where)


def _close(strict: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
    """Require all properties of an object and no others.

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
    """Return the error of a schema that has no strict form."""
    return TypeError(
        f"output field {where!r} has no strict JSON schema: {reason}. Give it a type whose keys and values are known, "
        f'or create the agent with output_mode="tool"'
    )
