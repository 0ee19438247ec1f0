"""List of the commands. Errors of a command become a line on stderr and an exit code."""

from __future__ import annotations

import argparse
import sys
import textwrap
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

import miniagents
from miniagents_testing.cli._edit import add_edit, add_fork, add_import
from miniagents_testing.cli._lint import add_lint, add_verify
from miniagents_testing.cli._play import add_export, add_play
from miniagents_testing.cli._screen import NOT_DONE, PROBLEMS_FOUND, CommandError, print_error, typed_command
from miniagents_testing.cli._serve import add_serve
from miniagents_testing.cli._show import add_diff, add_show
from miniagents_testing.errors import CassetteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_COMMANDS = (
    *(add_play, add_show, add_export, add_verify, add_lint),
    *(add_diff, add_fork, add_edit, add_import, add_serve),
)
_EXIT_CODES = """\
exit codes:
  0    fine
  1    a problem was found: a damaged cassette, a secret, a difference
  2    the command could not be run: wrong arguments, a missing file
  130  ended by Ctrl-C
  141  the reader of the output has stopped reading
"""


def run(program: str, arguments: Sequence[str]) -> int:
    """Parse the arguments, run the command, and return its exit code.

    Args:
        program: as the user has typed it, for messages.
        arguments: the words after it.

    Raises:
        SystemExit: by argparse, for `--help`, `--version` and wrong arguments.
    """
    typed_command.set(program)
    parser, commands = _create_parser(program)
    word = arguments[0] if arguments else ""
    if not word.startswith("-") and word not in commands:
        parser.error(f"there is no command {word!r}{_nearest(word, commands)}" if word else "a command is missing")
    options, unknown = parser.parse_known_args(arguments)
    command = commands[options.command]
    if unknown:
        known = [option for action in command._actions for option in action.option_strings]
        command.error(f"{unknown[0]!r} is not known here{_nearest(unknown[0], known)}")
    typed_command.set(command.prog)
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


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about a word that is not known: the nearest one, or all of them."""
    if near := get_close_matches(word, known, n=1, cutoff=0.5):
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(known)}"


class _Parser(argparse.ArgumentParser):
    """Parser whose messages begin with the command as it was typed, and end with its usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Formatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Print a message and the usage on stderr, and exit with the code for a command that could not be run."""
        typed_command.set(self.prog)
        print_error(message)
        self.print_usage(sys.stderr)
        sys.exit(NOT_DONE)


class _PrintVersion(argparse.Action):
    """Option that prints the version and ends the command; the version is looked up when it is asked for."""

    def __call__(self, *_: Any) -> NoReturn:
        """Print the version, and exit with the code 0."""
        print(f"miniagents {miniagents.__version__}")
        sys.exit()


class _Formatter(argparse.HelpFormatter):
    """Formatter that keeps lines of two columns, such as those of the exit codes, and wraps all lines."""

    def format_help(self) -> str:
        """Return the help; a usage that has no place to be wrapped is wrapped between words."""
        lines = super().format_help().splitlines()
        wrapped = (textwrap.fill(line, self._width, subsequent_indent=" " * 7) for line in lines)
        return "\n".join((*wrapped, ""))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Return a text of several lines unchanged; wrap one without a line break."""
        return text if "\n" in text else super()._fill_text(text, width, indent)


def _create_parser(program: str) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the command line, and the parser of each command by its name."""
    parser: argparse.ArgumentParser = _Parser(
        prog=program,
        description="Play, show, draw, check, compare, edit and import recorded provider streams, "
        "and run a local provider.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version of MiniAgents, and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for add in _COMMANDS:
        add(commands)
    return parser, commands.choices
