"""Commands that take recordings further.

`diff`: compare what the models read and said in two cassettes.

`fork`: keep the first interactions of a cassette in another file, which can be recorded on.
"""

from __future__ import annotations

from collections import defaultdict
from difflib import unified_diff
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from miniagents_testing._words import counted
from miniagents_testing.cassette import VOLATILE_FIELDS, Matching, load, save
from miniagents_testing.cli._screen import (
    PROBLEMS_FOUND,
    CommandError,
    Screen,
    make_safe_line,
    print_error,
    read_cassette,
)
from miniagents_testing.cli._transcript import transcript

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._screen import CassetteFile

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def add_diff(commands: Commands) -> None:
    """Add the arguments of `diff`."""
    diff = commands.add_parser(
        "diff",
        help="compare what the models read and said in two cassettes",
        description="The interactions of each agent are compared in their order: requests, and what was answered, "
        "without times and chunks. Exit code 1 says that they differ.",
    )
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    diff.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATH",
        help="a path that is not compared, such as 'messages[*].tool_call_id'; may be given several times. "
        f"Never compared are {', '.join(VOLATILE_FIELDS)}",
    )
    diff.set_defaults(run=_run_diff)


def _run_diff(options: argparse.Namespace) -> int:
    """Print the differences of two cassettes. Return 0 if there are none, and 1 otherwise or for a damaged file.

    Raises:
        CommandError: a path of `--ignore` cannot be read.
        OSError: a file cannot be read.
    """
    try:
        matching = Matching(ignore=[*VOLATILE_FIELDS, *options.ignore])
    except ValueError as error:
        raise CommandError(f"--ignore: {error}") from None
    cassettes = [read_cassette(path) for path in (options.old, options.new)]
    if damage := [text for cassette in cassettes for text in cassette.damage]:
        for text in damage:
            print_error(text)
        return PROBLEMS_FOUND
    screen = Screen()
    old, new = (_entries_by_agent(cassette, matching) for cassette in cassettes)
    differs = False
    for agent in {**old, **new}:
        for before, after in zip_longest(old.get(agent, ()), new.get(agent, ())):
            lines = list(_changes(before, after))
            if lines and not differs:
                _print([f"--- {options.old}", f"+++ {options.new}"], screen)
            differs = differs or bool(lines)
            _print(lines, screen)
    return int(differs)


class _Entry(NamedTuple):
    """Interaction to compare."""

    number: int
    """Number in the order of start; the first is 1."""
    lines: list[str]


def _entries_by_agent(cassette: CassetteFile, matching: Matching) -> dict[str, list[_Entry]]:
    """Return the interactions of each agent path, in the order in which they were started."""
    pairs = zip(cassette.interactions, cassette.readings, strict=True)
    found: defaultdict[str, list[_Entry]] = defaultdict(list)
    for number, (interaction, reading) in enumerate(sorted(pairs, key=lambda pair: pair[0].started_ms), 1):
        found[interaction.agent_path].append(_Entry(number, transcript(interaction, reading, matching)))
    return dict(found)


def _changes(before: _Entry | None, after: _Entry | None) -> Iterator[str]:
    """Yield the lines that differ between two interactions, with some lines around them; None is a missing one."""
    old, new = before.lines if before else [], after.lines if after else []
    changed = list(unified_diff(old, new, lineterm=""))[2:]
    if not changed:
        return
    numbers = [f"-{before.number}"] if before else []
    numbers += [f"+{after.number}"] if after else []
    yield f"@@ interaction {' '.join(numbers)} @@"
    yield from (line if not line.startswith("@@") else "@@" for line in changed)


def _print(lines: Iterable[str], screen: Screen) -> None:
    for line in lines:
        if screen.is_for_people:
            screen.print(Text(make_safe_line(line) if line[:3] in ("---", "+++") else line, _STYLES.get(line[:1], "")))
        else:
            print(line, file=screen.file)


def add_fork(commands: Commands) -> None:
    """Add the arguments of `fork`."""
    fork = commands.add_parser(
        "fork",
        help="keep the first interactions of a cassette in another file",
        description="The first N interactions, in the order in which they were started, are saved with checksums. "
        "A run with the record mode new_episodes plays them, and records what follows anew.",
    )
    fork.add_argument("source", type=Path, metavar="SOURCE")
    fork.add_argument("target", type=Path, metavar="TARGET")
    fork.add_argument("--at", required=True, type=int, metavar="N", help="number of interactions to keep")
    fork.add_argument("--force", action="store_true", help="replace an existing file")
    fork.set_defaults(run=_run_fork)


def _run_fork(options: argparse.Namespace) -> int:
    """Save the first interactions of a cassette in another file, and return 0.

    Raises:
        CommandError: the cassette has fewer interactions, or the target exists.
        CassetteFormatError: the file is no cassette.
    """
    interactions = load(options.source)
    if not 0 <= options.at <= len(interactions):
        count = counted(len(interactions), "interaction")
        raise CommandError(f"{options.source} has {count}: --at is a number from 0 to {len(interactions)}")
    if options.target.exists() and not options.force:
        raise CommandError(f"{options.target} exists already; --force replaces it")
    kept = sorted(interactions, key=lambda each: each.started_ms)[: options.at]
    save(options.target, kept)
    Screen().print_row(
        str(options.target), f"{counted(len(kept), 'interaction')} of {len(interactions)}", style="green"
    )
    return 0
