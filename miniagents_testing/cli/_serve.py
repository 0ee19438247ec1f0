"""Command `serve`: run a local provider server."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from miniagents_testing.cassette import load
from miniagents_testing.cli._screen import CommandError, Screen, make_safe_line, parse_not_negative, shorten

if TYPE_CHECKING:
    import argparse

    from miniagents_testing._script import Call, Script
    from miniagents_testing.cli._commands import Commands


def add_serve(commands: Commands) -> None:
    """Add the arguments of `serve`."""
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
        type=Path,
        metavar="FILE",
        help="answer with the steps of this YAML file: a list of texts, and of the fields of Step and Failure, such as "
        "tool_calls, status, after and then",
    )
    serve.add_argument(
        "--cassette",
        type=Path,
        metavar="FILE",
        help="answer with the recorded streams of this file, in their order and with their waits",
    )
    serve.add_argument("--port", type=int, choices=range(65536), default=0, metavar="N", help="default: any free port")
    serve.add_argument(
        "--gap",
        type=partial(parse_not_negative, refusal="is no time: give 0 or a positive number of seconds"),
        metavar="SECONDS",
        default=0.05,
        help="seconds between the tokens of texts (default: %(default)s)",
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
        CommandError: answers of several kinds are given, or the file of the script is wrong.
    """
    from miniagents_testing._script import Step
    from miniagents_testing.cli._steps import read_steps

    if sum(map(bool, (options.text, options.script, options.cassette))) > 1:
        raise CommandError("give texts, --script or --cassette: the answers come from one of them")
    if options.script:
        return read_steps(options.script)
    if options.cassette:
        return [interaction.response for interaction in load(options.cassette)]
    if options.text:
        return [Step(text, gap=options.gap) for text in options.text]

    def echo(call: Call) -> Step:
        """Answer a request with "You said: " and its last message."""
        return Step(f"You said: {call.text}", gap=options.gap)

    return echo
