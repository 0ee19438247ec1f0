"""List of the commands. Errors of a command become a line on stderr and an exit code."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from miniagents_testing.cli._diff import add_diff, add_fork
from miniagents_testing.cli._edit import add_edit, add_import
from miniagents_testing.cli._lint import add_lint, add_verify
from miniagents_testing.cli._play import add_play
from miniagents_testing.cli._screen import NOT_DONE, PROBLEMS_FOUND, CommandError, print_error
from miniagents_testing.cli._serve import add_serve
from miniagents_testing.cli._show import add_show
from miniagents_testing.errors import CassetteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EXIT_CODES = """\
exit codes:
  0    fine
  1    a problem was found: a damaged cassette, a secret, a difference
  2    the command could not be run: wrong arguments, a missing file
  130  ended by Ctrl-C
  141  the reader of the output has stopped reading
"""


def run(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command, and return its exit code."""
    options = _create_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CassetteError as error:
        print_error(str(error))
        return PROBLEMS_FOUND
    except CommandError as error:
        print_error(str(error))
        return NOT_DONE
    except BrokenPipeError:
        raise
    except OSError as error:
        print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return NOT_DONE
    return code


def _create_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m miniagents_testing",
        description="Play, show, check, compare, edit and import recorded provider streams, and run a local provider.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (add_play, add_show, add_verify, add_lint, add_diff, add_fork, add_edit, add_import, add_serve):
        add(commands)
    return parser
