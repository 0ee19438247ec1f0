"""The command line, `python -m miniagents_testing` or `miniagents-testing`: one command a file.

Exit codes, the same for all commands:

- 0: fine.
- 1: something was found: a damaged cassette, a secret, a difference.
- 2: it could not be done: wrong arguments, a file that is not there, a package that is not installed.
- 130: ended by Ctrl-C.
- 141: whoever read the output has stopped reading (`| head`).

Results go to stdout, complaints to stderr. On a terminal there are colours, tables and progress; in a pipe there are
plain lines, with tabs where a table would be.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_IMPOSSIBLE, _INTERRUPTED, _UNREAD = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, do what it says, and return the exit code.

    Raises:
        SystemExit: argparse's, for `--help` and wrong arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show an emoji is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        from miniagents_testing.cli._commands import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("miniagents"):
            raise
        print(f"{package!r} is needed. Install it with: pip install 'miniagents[testing]'", file=sys.stderr)
        return _IMPOSSIBLE
    try:
        code = run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print()  # the prompt of the shell gets a line of its own
        return _INTERRUPTED
    except BrokenPipeError:
        # What is still in the buffer must not fail once more when the interpreter flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD
    return code
