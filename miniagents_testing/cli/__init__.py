"""Command line of the testing kit: `python -m miniagents_testing` or `miniagents-testing`.

`_commands` has the list of commands. `_show` has the code of `show` and `diff`, `_lint` of `lint` and `verify`, `_edit`
of `edit`, `fork` and `import`, `_play` of `play` and `export`, `_serve` of one command. `_screen` reads cassettes and
prints.

All commands have the same exit codes:

- 0: fine.
- 1: a problem was found: a damaged cassette, a secret, a difference.
- 2: the command could not be run: wrong arguments, a missing file, a package that is not installed.
- 130: ended by Ctrl-C.
- 141: the reader of the output has stopped reading (`| head`).

Results go to stdout, error messages to stderr. A terminal gets colours, tables and progress bars; a pipe gets plain
lines with tabs between the columns.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_NOT_DONE, _INTERRUPTED, _OUTPUT_CLOSED = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of a command line.

    Args:
        arguments: the words after the program name; None takes those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: by argparse, for `--help`, `--version` and wrong arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # escapes characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    program = _typed_program()
    try:
        from miniagents_testing.cli._commands import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("miniagents"):
            raise
        from miniagents.errors import MissingExtraError

        print(f"{program}: {MissingExtraError.of(package, 'testing')}", file=sys.stderr)
        return _NOT_DONE
    try:
        code = run(program, sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print()  # the prompt of the shell begins on a new line
        return _INTERRUPTED
    except BrokenPipeError:
        # At its end the interpreter flushes the rest of the buffer, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _OUTPUT_CLOSED
    return code


def _typed_program() -> str:
    """Return the name of the program as the user has typed it, for messages."""
    run_as_module = Path(sys.argv[0]).parts[-2:] == ("miniagents_testing", "__main__.py")
    return "python -m miniagents_testing" if run_as_module else "miniagents-testing"
