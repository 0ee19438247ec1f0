"""Command `serve`: run a local provider server.

Its script may stand in a YAML or JSON file: a list with a text, a step or a failure for each request. The fields of a
step are those of `Step`, the fields of a failure those of `Failure`, which has a `status`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import yaml
from rich.text import Text

from miniagents.messages import ToolCall, Usage
from miniagents_testing._script import Failure, Step
from miniagents_testing.cassette import load
from miniagents_testing.cli._screen import (
    CommandError,
    Screen,
    make_safe_line,
    parse_file,
    parse_not_negative,
    parse_port,
    shorten,
)

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from miniagents_testing._script import Call, Script
    from miniagents_testing.cli._commands import Commands


_GAP = 0.05
"""Default seconds between the tokens of the texts of the command line."""


def add_serve(commands: Commands) -> None:
    """Register the command `serve` with its help and its arguments."""
    serve = commands.add_parser(
        "serve",
        help="run a local provider: OpenAI's chat completions and Responses, Anthropic's messages",
        description="Prints the addresses as variables, answers requests with any key, and prints a line for each on "
        "stderr. A request for which no answer is left gets the status 500. Ctrl-C ends the server.",
    )
    serve.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help="the answers, one for each request; without any, each answer repeats the request",
    )
    serve.add_argument(
        "--script",
        type=parse_file,
        metavar="FILE",
        help="answer with the steps of this YAML file: a list of texts, and of the fields of Step and Failure, such as "
        "tool_calls, status, after and then",
    )
    serve.add_argument(
        "--cassette",
        type=parse_file,
        metavar="FILE",
        help="answer with the recorded streams of this file, in their order and with their waits",
    )
    serve.add_argument("--port", type=parse_port, default=0, metavar="N", help="default: any free port")
    serve.add_argument(
        "--gap",
        type=partial(parse_not_negative, refusal="is no time: give 0 or a positive number of seconds"),
        metavar="SECONDS",
        help=f"seconds between the tokens of texts (default: {_GAP}), and of the steps of a script that have no gap of "
        "their own (default: 0)",
    )
    serve.set_defaults(run=_run_serve)


def _run_serve(options: argparse.Namespace) -> int:
    """Start a scripted server, print its base URLs as variables, and wait for Ctrl-C. Return exit code 0."""
    from miniagents_testing._provider_server import ProviderServer  # no other command needs a server

    script, errors = _create_script(options), Screen(stderr=True)

    def log(line: str) -> None:
        """Print a line about a request; a terminal shows as much of it as fits."""
        line = make_safe_line(line)
        errors.print(Text(shorten(line, errors.width) if errors.is_for_people else line))

    try:
        with ProviderServer(script, port=options.port, log=log) as server:
            print(f"OPENAI_BASE_URL={server.openai_base_url}")
            print(f"ANTHROPIC_BASE_URL={server.anthropic_base_url}", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:  # the normal end of this command
        print()
    except OSError as error:
        raise CommandError(f"port {options.port} cannot be used: {error.strerror}") from error
    return 0


def _create_script(options: argparse.Namespace) -> Script:
    """Return the script of the server: steps of a file, recorded streams, given texts, or one that quotes each request.

    Raises:
        CommandError: answers of several kinds are given, `--gap` with a cassette, or the file of the script is wrong.
    """
    if sum(map(bool, (options.text, options.script, options.cassette))) > 1:
        raise CommandError("give texts, --script or --cassette: the answers come from one of them")
    if options.cassette and options.gap is not None:
        raise CommandError("--gap is for texts and --script: a cassette is served with its recorded waits")
    if options.script:
        return read_steps(options.script, options.gap or 0.0)
    if options.cassette:
        return [interaction.response for interaction in load(options.cassette)]
    gap = _GAP if options.gap is None else options.gap
    if options.text:
        return [Step(text, gap=gap) for text in options.text]

    def echo(call: Call) -> Step:
        """Return the answer "You said: " with the last message of the request."""
        return Step(f"You said: {call.text}", gap=gap)

    return echo


# --- the script in a file


_FIELDS = {
    kind: tuple(each.name for each in fields(kind) if each.init and each.name != "_") for kind in (Step, Failure)
}


def read_steps(path: Path, gap: float = 0.0) -> list[Step | Failure]:
    """Return the steps of a script file.

    Args:
        path: of the file.
        gap: seconds between the tokens of steps that have no gap of their own.

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
    return [_as_step(item, f"{path}, step {number}", gap) for number, item in enumerate(items, 1)]


def _as_step(item: Any, where: str, gap: float = 0.0) -> Step | Failure:
    """Return the step or the failure that an item of the file stands for; `gap` is that of a step without its own.

    Raise `CommandError` for a wrong one, which `where` names.
    """
    if isinstance(item, str):
        return Step(item, gap=gap)
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
        return Failure(**given) if kind is Failure else Step(**{"gap": gap, **given})
    except (TypeError, ValueError) as error:
        raise CommandError(f"{where}: {error}") from error


def _checked(name: str, value: Any, kind: type) -> Any:
    """Return the value of the field `name` unchanged; raise `TypeError` if it is not of `kind`, list or dict."""
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
