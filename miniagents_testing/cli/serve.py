"""`serve`: a local provider."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette.file import load

if TYPE_CHECKING:
    import argparse

    from miniagents_testing.cli.commands import Commands
    from miniagents_testing.provider_server import Script

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Its arguments."""
    serve = commands.add_parser("serve", help="a local provider: OpenAI chat completions and Anthropic messages")
    serve.add_argument(
        "text", nargs="*", help="the answers, one a request; by default each answer says the request again"
    )
    serve.add_argument("--cassette", help="answer with the recorded bodies of this file, in their order")
    serve.add_argument("--port", type=int, default=0, help="default: any free port")
    serve.add_argument("--gap", type=float, default=0.05, help="seconds between events (default: %(default)s)")
    serve.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from miniagents_testing.provider_server import ProviderServer  # no other command needs a server

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
    from miniagents_testing.wire import Answer

    if options.cassette:
        bodies = [[chunk.data for chunk in interaction.response.chunks] for interaction in load(options.cassette)]
        return [Answer(wire=body, gap=options.gap) for body in bodies]
    if options.text:
        return [Answer(text, gap=options.gap) for text in options.text]

    def echo(request: dict[str, Any]) -> Answer:
        content = request["messages"][-1]["content"]
        text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
        return Answer(f"You said: {text}", gap=options.gap)

    return echo
