"""The commands and their arguments; what goes wrong while one runs becomes a line and an exit code."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from miniagents_testing.cli._edit import add_edit, add_import
from miniagents_testing.cli._lint import add_lint, add_verify
from miniagents_testing.cli._play import add_play
from miniagents_testing.cli._screen import FOUND, IMPOSSIBLE, Impossible, complain
from miniagents_testing.cli._serve import add_serve
from miniagents_testing.cli._show import add_show
from miniagents_testing.errors import CassetteError

if TYPE_CHECKING:
    from collections.abc import Sequence


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EXIT_CODES = """\
exit codes:
  0    fine
  1    something was found: a damaged cassette, a secret, a difference
  2    it could not be done: wrong arguments, a file that is not there
  130  ended by Ctrl-C
  141  whoever read the output has stopped reading
"""


def run(arguments: Sequence[str] | None) -> int:
    """Parse the arguments and run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CassetteError as error:
        complain(str(error))
        return FOUND
    except Impossible as error:
        complain(str(error))
        return IMPOSSIBLE
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return IMPOSSIBLE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miniagents_testing",
        description="Recorded provider streams: play them, look into them, check them; and a local provider.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (add_play, add_show, add_verify, add_lint, add_edit, add_import, add_serve):
        add(commands)
    return parser
