"""`serve`: a local provider."""

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
        "serve", help="a local provider: OpenAI's chat completions and Responses, Anthropic's messages"
    )
    serve.add_argument(
        "text", nargs="*", help="the answers, one a request; by default each answer says the request again"
    )
    serve.add_argument(
        "--cassette", help="answer with the recorded streams of this file, in their order and at their pace"
    )
    serve.add_argument("--port", type=int, default=0, help="default: any free port")
    serve.add_argument("--gap", type=float, default=0.05, help="seconds between tokens (default: %(default)s)")
    serve.set_defaults(run=_run_serve)


def _run_serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from miniagents_testing._provider_server import ProviderServer  # no other command needs a server

    try:
        with ProviderServer(_script(options), port=options.port) as server:
            print(f"OPENAI_BASE_URL={server.openai_base_url}")
            print(f"ANTHROPIC_BASE_URL={server.anthropic_base_url}", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:  # the way to end it, so nothing was broken off
        print()
    return 0


def _script(options: argparse.Namespace) -> Script:
    """What the command line asks to be answered."""
    from miniagents_testing._script import Step

    if options.cassette:
        return [interaction.response for interaction in load(options.cassette)]
    if options.text:
        return [Step(text, gap=options.gap) for text in options.text]

    def echo(call: Call) -> Step:
        return Step(f"You said: {call.text}", gap=options.gap)

    return echo
