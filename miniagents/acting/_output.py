"""Outputs of models: the type that a user asks for, its schema for a provider, and the check of an answer.

Independent of providers, requests and the loop.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from miniagents.acting._strict import make_strict
from miniagents.errors import OutputInvalidError
from miniagents.messages._parsing import output_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miniagents.acting._strict import IsEnforced
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
    """The tool whose arguments are the output; it is written like other tools, and never runs."""

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
            OutputInvalidError: the answer was refused, filtered or cut, or its text is no valid output.
        """
        reason = "refusal" if fields.get("refusal") else fields.get("finish_reason")
        if reason in _REASONS:
            said = f": {fields['refusal']}" if fields.get("refusal") else ""
            raise OutputInvalidError(_REASONS[reason].format(name=self.name) + said)
        self.type.read(text)

    def missing(self, reason: str, message: Message | None) -> OutputInvalidError:
        """Return the error of a loop that ends without a final answer, with its last message as `partial`."""
        error = OutputInvalidError(f"there is no {self.name}: {reason}")
        error.partial = message
        return error
