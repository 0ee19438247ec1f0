"""The command line: `python -m miniagents_testing serve`."""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING

from miniagents_testing import ProviderServer, Step  # first: without the extra, this says how to install it
from miniagents_testing.cassette import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.call import Call
    from miniagents_testing.script import Script


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m miniagents_testing")
    commands = parser.add_subparsers(required=True)
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
    serve.set_defaults(run=_serve)
    options = parser.parse_args(arguments)
    options.run(options)


def _serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    try:
        with ProviderServer(_script(options), port=options.port) as server:
            print(f"OPENAI_BASE_URL={server.openai_base_url}")
            print(f"ANTHROPIC_BASE_URL={server.anthropic_base_url}", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print()


def _script(options: argparse.Namespace) -> Script:
    """What the command line asks to be answered."""
    if options.cassette:
        return [interaction.response for interaction in load(options.cassette)]
    if options.text:
        return [Step(text, gap=options.gap) for text in options.text]

    def echo(call: Call) -> Step:
        return Step(f"You said: {call.text}", gap=options.gap)

    return echo


if __name__ == "__main__":
    main()
