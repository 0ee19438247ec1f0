"""Provider on a socket in a separate process, so that its CPU time is not counted as the client's.

The process prints its URL, and ends when its standard input ends. Only that process imports MiniAgents, because a peer
may have another package of that name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing import Step
    from miniagents_testing._script import Call

PYTHON = "BENCHMARKS_PYTHON"
"""Environment variable with the interpreter of the provider; without it, that of the running process is taken."""


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
    command = [os.environ.get(PYTHON, sys.executable), "-P", "-c", run, work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not (url := process.stdout.readline().strip()):
            raise RuntimeError("the provider did not start: its error is on the standard error")
        yield url


def _script(work: str) -> Callable[[Call], Step]:
    """Return the answers of a provider: tokens with a gap in seconds, or those for agents that act."""
    from benchmarks.by_hand.acting import CITIES, FORECAST, WORDS
    from miniagents_testing import Step

    def said(count: int, gap: float = 0) -> Step:
        """Return an answer of `count` words, `gap` seconds apart."""
        return Step([f" word{number}" for number in range(count)], gap=gap)

    def act(call: Call) -> Step:
        """Call a tool three times, answer its results, or give an output if the request asks for one."""
        if call.output_schema is not None:
            return Step.of_output(FORECAST, cut=4)(call)
        if call.tool_results or not call.tools:
            return said(WORDS)
        return Step(tool_calls=[("get_weather", {"city": city, "days": 2}) for city in CITIES], cut=6)

    if work == "acting":
        return act
    tokens, gap = work.split()
    answer = said(int(tokens), float(gap))
    return lambda call: answer


def main() -> None:
    """Serve until the standard input ends."""
    from miniagents_testing import ProviderServer

    with ProviderServer(_script(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
