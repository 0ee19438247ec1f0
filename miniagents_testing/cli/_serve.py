"""Command `serve`: run a local provider server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from miniagents_testing.cassette import load

if TYPE_CHECKING:
    import argparse

    from miniagents_testing._script import Call, Script
    from miniagents_testing.cli._commands import Commands


def add_serve(commands: Commands) -> None:
    """Add the arguments of `serve`."""
    serve = commands.add_parser(
        "serve", help="run a local provider: OpenAI's chat completions and Responses, Anthropic's messages"
    )
    serve.add_argument(
        "text", nargs="*", help="the answers, one for each request; without any, each answer repeats the request"
    )
    serve.add_argument(
        "--cassette", help="answer with the recorded streams of this file, in their order and with their waits"
    )
    serve.add_argument("--port", type=int, default=0, help="default: any free port")
    serve.add_argument("--gap", type=float, default=0.05, help="seconds between tokens (default: %(default)s)")
    serve.set_defaults(run=_run_serve)


def _run_serve(options: argparse.Namespace) -> int:
    """Start a scripted server, print its base URLs as variables, and wait for Ctrl-C. Return exit code 0."""
    from miniagents_testing._provider_server import ProviderServer  # no other command needs a server

    try:
        with ProviderServer(_create_script(options), port=options.port) as server:
            print(f"OPENAI_BASE_URL={server.openai_base_url}")
            print(f"ANTHROPIC_BASE_URL={server.anthropic_base_url}", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:  # the normal end of this command
        print()
    return 0


def _create_script(options: argparse.Namespace) -> Script:
    """Return the script of the server: recorded streams, given texts, or a function that quotes the last message."""
    from miniagents_testing._script import Step

    if options.cassette:
        return [interaction.response for interaction in load(options.cassette)]
    if options.text:
        return [Step(text, gap=options.gap) for text in options.text]

    def echo(call: Call) -> Step:
        """Answer a request with "You said: " and its last message."""
        return Step(f"You said: {call.text}", gap=options.gap)

    return echo
