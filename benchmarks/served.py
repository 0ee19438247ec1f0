"""Provider on a socket in a separate process, so that its CPU time is not counted as the client's.

The process prints its URL, and ends when its standard input ends.
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
    """Start a provider that answers each request with `tokens` tokens, and yield its URL."""
    command = [sys.executable, "-P", __file__, str(tokens)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


if __name__ == "__main__":
    with ProviderServer(lambda call: Step([f" word{number}" for number in range(int(sys.argv[1]))])) as server:
        print(server.url, flush=True)
        sys.stdin.read()
