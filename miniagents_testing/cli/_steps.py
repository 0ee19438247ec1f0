"""Script of `serve` in a YAML or JSON file: a list with a text, a step or a failure for each request.

The fields of a step are those of `Step`, the fields of a failure those of `Failure`, which has a `status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import yaml

from miniagents.messages import ToolCall, Usage
from miniagents_testing._script import Failure, Step
from miniagents_testing.cli._screen import CommandError

if TYPE_CHECKING:
    from pathlib import Path

_FIELDS = {
    kind: tuple(each.name for each in fields(kind) if each.init and each.name != "_") for kind in (Step, Failure)
}


def read_steps(path: Path) -> list[Step | Failure]:
    """Return the steps of a script file.

    Raises:
        CommandError: the file is no YAML or JSON, or a step is wrong; the message names the line or the step.
        OSError: the file cannot be read.
    """
    try:
        items = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else "it"
        raise CommandError(f"{path} is no script: {where} is not YAML") from error
    if not isinstance(items, list) or not items:
        raise CommandError(f"{path} is no script: it must be a list with a step for each request")
    return [_as_step(item, f"{path}, step {number}") for number, item in enumerate(items, 1)]


def _as_step(item: Any, where: str) -> Step | Failure:
    """Return the step that an item of the file stands for; `where` names it in errors."""
    if isinstance(item, str):
        return Step(item)
    if not isinstance(item, Mapping):
        raise CommandError(f"{where} must be a text, or have the fields of a step or a failure; it is {item!r:.80}")
    kind: type[Step | Failure] = Failure if "status" in item else Step
    given: dict[str, Any] = {str(name): value for name, value in item.items()}
    for name in given.keys() - set(_FIELDS[kind]):
        near = get_close_matches(name, _FIELDS[kind], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_FIELDS[kind])}"
        if kind is Failure and name in _FIELDS[Step]:
            hint = f"'status' makes it a Failure, whose fields are {', '.join(_FIELDS[kind])}"
        raise CommandError(f"{where} has no field {name!r}; {hint}")
    try:
        if "tool_calls" in given:
            given["tool_calls"] = [_as_call(each) for each in _checked("tool_calls", given["tool_calls"], list)]
        if "usage" in given:
            given["usage"] = Usage(**_checked("usage", given["usage"], Mapping))
        if isinstance(given.get("then"), Mapping):
            given["then"] = _as_step({"status": 500, **given["then"]}, f"{where}, then")
        if given.get("then") == "hold":
            raise ValueError("then='hold' waits for a test that goes on; 'stall' sends nothing more")
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{where}: {error}") from error


def _checked(name: str, value: Any, kind: type) -> Any:
    """Return the value of a field as it is; raise TypeError if it is no list, or has no fields of its own."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {'a list' if kind is list else 'names with values'}, not {value!r:.80}")
    return value


def _as_call(item: Any) -> ToolCall | tuple[Any, ...]:
    """Return the call of a tool that an item stands for: `{name, arguments, id}`, or a list of name and arguments.

    Raises:
        TypeError: the item is neither.
    """
    if isinstance(item, list):
        return tuple(item)
    if not isinstance(item, Mapping) or not {"name"} <= item.keys() <= {"id", "name", "arguments"}:
        raise TypeError(f"a tool call must have a name, and may have arguments and an id; it is {item!r:.80}")
    call = Step(tool_calls=[(item["name"], item.get("arguments", {}))]).deltas.tool_calls[0]
    if "id" not in item:
        return item["name"], item.get("arguments", {})
    return ToolCall(id=str(item["id"]), name=call.name, arguments="".join(call.arguments))
