"""Make the cassettes again: `python cassettes/record.py`, or with the names of some, such as `openai/refusal`.

The programs of `scenarios.py` and the examples run unchanged, through the providers' own SDKs, against a local server
that answers from scripts. No provider is asked, and no key is needed. With `--live`, the programs ask the providers
with the keys of the environment, and their cassettes go to another folder.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import httpx2
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

import example_scenarios  # noqa: F401 - it adds the examples to SCENARIOS
from miniagents import MiniAgents
from miniagents_testing import ProviderServer, use_cassette
from scenarios import SCENARIOS, Clients, Scenario

CASSETTES = Path(__file__).resolve().parent
LIVE = CASSETTES.parent / "live-cassettes"
OPENAI, ANTHROPIC = "https://api.openai.com/v1", "https://api.anthropic.com"
KEYS = {
    "openai": ["OPENAI_API_KEY"],
    "anthropic": ["ANTHROPIC_API_KEY"],
    "both": ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"],
}


async def arecord(scenario: Scenario, path: Path, pace: float = 1.0) -> None:
    """Record a scenario with the local server, which takes `pace` times as long as the script says."""
    async with ProviderServer(scenario.script, pace=pace) as server:
        # What clients send depends on the address, so they have the addresses of the providers.
        clients = Clients(
            AsyncOpenAI(api_key="not needed", base_url=OPENAI, http_client=_redirected(server.url)),
            AsyncAnthropic(api_key="not needed", base_url=ANTHROPIC, http_client=_redirected(server.url)),
        )
        record_as = {f"{server.url}/v1/messages": f"{ANTHROPIC}/v1/messages", server.openai_base_url: OPENAI}
        await _arun(scenario, clients, path, record_as)
        server.assert_complete()


async def arecord_live(scenario: Scenario, path: Path) -> None:
    """Record a scenario with the providers, or with the base URLs of the environment."""
    clients = Clients(
        AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "")),
        AsyncAnthropic(api_key=os.environ.get("ANTHROPIC_API_KEY", "")),
    )
    bases = {clients.openai.base_url: OPENAI, clients.anthropic.base_url: ANTHROPIC}
    await _arun(scenario, clients, path, {str(url).rstrip("/"): known for url, known in bases.items()})


async def _arun(scenario: Scenario, clients: Clients, path: Path, record_as: dict[str, str]) -> None:
    """Run the program of a scenario, and record its requests."""
    with use_cassette(path, record_mode="rewrite", record_as=record_as), redirect_stdout(StringIO()):
        async with clients.openai, clients.anthropic, MiniAgents():
            await scenario.program(clients)


def _redirected(url: str) -> httpx2.AsyncClient:
    """Make a client that sends all requests to this server."""
    server = httpx2.URL(url)

    async def redirect(request: httpx2.Request) -> None:
        request.url = request.url.copy_with(scheme=server.scheme, host=server.host, port=server.port)

    return httpx2.AsyncClient(event_hooks={"request": [redirect]})


def _options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, and refuse wrong options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(SCENARIOS)}; by default all of them")
    parser.add_argument("--live", action="store_true", help="ask the providers; names are needed")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help=f"default: cassettes; with --live: {LIVE.name}")
    parser.add_argument("--pace", type=float, default=1.0, help="factor on the pauses of the local server")
    options = parser.parse_args(arguments)
    if unknown := set(options.name) - SCENARIOS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if options.live:
        _check_live(parser, options.name)
    return options


def _check_live(parser: argparse.ArgumentParser, names: list[str]) -> None:
    """Refuse `--live` without names, without keys, or for what no provider does on demand."""
    if not names:
        parser.error("--live needs the names of what to record: it costs money")
    for name in names:
        if not SCENARIOS[name].live:
            parser.error(f"{name} is something that no provider does when it is asked to")
        if missing := [key for key in KEYS[name.partition("/")[0]] if not os.environ.get(key)]:
            parser.error(f"{name} needs {' and '.join(missing)} in the environment")


def main(arguments: list[str]) -> None:
    """Record what the command line names."""
    options = _options(arguments)
    folder = options.to or (LIVE if options.live else CASSETTES)
    for name in options.name or SCENARIOS:
        path = (folder / f"{name}.yaml").resolve()
        record = arecord_live(SCENARIOS[name], path) if options.live else arecord(SCENARIOS[name], path, options.pace)
        asyncio.run(record)
        print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
