"""A provider over a socket, in a process of its own, so that its CPU time is not the client's.

It prints where it listens, and ends when its standard input does.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from miniagents_testing import ProviderServer, Step

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def provider(tokens: int) -> Iterator[str]:
    """Start the process; give the address of a provider that answers everything with so many tokens."""
    command = [sys.executable, "-P", __file__, str(tokens)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


if __name__ == "__main__":
    with ProviderServer(lambda call: Step([f" word{number}" for number in range(int(sys.argv[1]))])) as server:
        print(server.url, flush=True)
        sys.stdin.read()
