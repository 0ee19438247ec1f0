"""Provider on a socket in a separate process, so that its CPU time is not counted as the client's.

The process prints its URL, and ends when its standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.by_hand.acting import CITIES, FORECAST, WORDS
from miniagents_testing import ProviderServer, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._script import Call


@contextmanager
def provider(tokens: int, *, gap: float = 0) -> Iterator[str]:
    """Start a provider that answers each request with `tokens` tokens, `gap` seconds apart, and yield its URL."""
    with _process(f"{tokens} {gap}") as url:
        yield url


@contextmanager
def acting_provider() -> Iterator[str]:
    """Start a provider for the work of `benchmarks.acting`, and yield its URL."""
    with _process("acting") as url:
        yield url


@contextmanager
def _process(work: str) -> Iterator[str]:
    """Run this file in a new process, and yield the URL that it prints."""
    root = str(Path(__file__).resolve().parent.parent)  # the last entry of the path: what is installed goes first
    run = f"import runpy, sys; sys.path.append({root!r}); runpy.run_module('benchmarks.served', run_name='__main__')"
    command = [sys.executable, "-P", "-c", run, work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def _said(count: int, gap: float = 0) -> Step:
    """Return an answer of `count` words, `gap` seconds apart."""
    return Step([f" word{number}" for number in range(count)], gap=gap)


def _acts(call: Call) -> Step:
    """Call a tool three times, answer its results, or give an output if the request asks for one."""
    if call.output_schema is not None:
        return Step.of_output(FORECAST, cut=4)(call)
    if call.tool_results or not call.tools:
        return _said(WORDS)
    return Step(tool_calls=[("get_weather", {"city": city, "days": 2}) for city in CITIES], cut=6)


if __name__ == "__main__":
    if sys.argv[1] == "acting":
        script = _acts
    else:
        tokens, gap = sys.argv[1].split()
        script = lambda call: _said(int(tokens), float(gap))  # noqa: E731 - the other branch names a function
    with ProviderServer(script) as server:
        print(server.url, flush=True)
        sys.stdin.read()
