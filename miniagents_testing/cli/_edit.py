"""Commands that write cassettes.

`edit`: change a cassette in an editor, and save it with new checksums.

`fork`: keep the first interactions of a cassette in another file, which can be recorded on.

`import`: convert cassettes of other tools.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing._words import counted
from miniagents_testing.cassette import Redaction, load, save
from miniagents_testing.cassette._file import load_edited, read, write
from miniagents_testing.cli._lint import secrets_in, summarize
from miniagents_testing.cli._screen import (
    PROBLEMS_FOUND,
    CommandError,
    Screen,
    find_cassettes,
    parse_file,
    print_error,
    read_cassette,
)

if TYPE_CHECKING:
    import argparse

    from miniagents_testing.cli._commands import Commands


def add_edit(commands: Commands) -> None:
    """Register the command `edit` with its help and its arguments."""
    edit = commands.add_parser(
        "edit",
        help="change a cassette in an editor, and save it with new checksums",
        description="Opens a copy of the file in $VISUAL or $EDITOR, lists the changes, and replaces the file by the "
        "copy with new checksums. A copy that cannot be read, or has a secret in it, is kept, and the next `edit` "
        "opens it again. As long as the number of events stays the same, the chunk map need not be edited.",
    )
    edit.add_argument("file", type=parse_file, metavar="FILE")
    edit.add_argument(
        "--reseal",
        action="store_true",
        dest="without_editor",
        help="open no editor: the file was edited already, and needs new checksums",
    )
    edit.add_argument("--force", action="store_true", help="save the file also if there is a secret in it")
    edit.set_defaults(run=_run_edit)


def _run_edit(options: argparse.Namespace) -> int:
    """Let the user edit a copy of a cassette, then save it with new checksums. Return 0, or 1 if it has a secret.

    With `--reseal` no editor is started. A failed editor raises CommandError, and the copy stays.
    """
    screen = Screen()
    file: Path = options.file
    if options.without_editor:
        return _save_with_checksums(file, file, screen, force=options.force)
    copy = file.with_name(f"{file.stem}.edited{file.suffix}")
    original = read(file, bytes)
    if not copy.exists():
        write(copy, original, like=file)  # a private file has a private copy
    code = subprocess.run([*_editor_command(), str(copy)], check=False).returncode
    if read(copy, bytes) == original:
        screen.print_row(str(file), "nothing was changed")
    elif code:
        raise CommandError(f"the editor ended with code {code}; {file} is unchanged, and your edit is in {copy}")
    elif refused := _save_with_checksums(copy, file, screen, force=options.force):
        return refused
    copy.unlink()
    return 0


def _editor_command() -> list[str]:
    """Return the words of the editor's command line.

    Raises:
        CommandError: neither VISUAL nor EDITOR is set.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise CommandError("neither VISUAL nor EDITOR is set: edit the file with any program, then run `edit --reseal`")
    return shlex.split(command)


def _save_with_checksums(edited: Path, target: Path, screen: Screen, *, force: bool) -> int:
    """Save an edited cassette at `target` with new checksums, and print each part that did not fit its old checksum.

    Without `force`, a cassette with a secret is not saved: only the places of its secrets are printed. If `edited` is
    `target`, and each part fits, nothing is saved.

    Return 1 for a secret that stopped the saving, else 0.
    """
    interactions, changes = load_edited(edited)
    if not changes and edited == target:
        screen.print_row(str(target), "nothing was changed")
        return 0
    if not force and (secrets := [*secrets_in(interactions)]):
        for secret in secrets:
            print_error(f"{edited}, {secret.where}, {secret.what}: a secret; remove it, or save it with --force")
        return PROBLEMS_FOUND
    for change in changes:
        screen.print_row(str(target), change, style="yellow")
    save(target, interactions)
    count = counted(len(interactions), "interaction")
    screen.print_row(str(target), f"saved with checksums, {count}", style="green")
    return 0


def add_fork(commands: Commands) -> None:
    """Register the command `fork` with its help and its arguments."""
    fork = commands.add_parser(
        "fork",
        help="keep the first interactions of a cassette in another file",
        description="The first N interactions, in the order in which they were started, are saved with checksums. "
        "A run with the record mode new_episodes plays them, and records what follows anew.",
    )
    fork.add_argument("source", type=parse_file, metavar="SOURCE")
    fork.add_argument("target", type=parse_file, metavar="TARGET")
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


def add_import(commands: Commands) -> None:
    """Register the command `import` with its help and its arguments."""
    command = commands.add_parser(
        "import",
        help="convert cassettes of vcrpy, pytest-recording and pydantic-ai",
        description="Bodies are decoded, headers that no client acts on are left out, keys become [redacted], and each "
        "file gets checksums. A file in which a secret is left is not written. A folder keeps its structure. Where no "
        "chunks and times were recorded, each event becomes a chunk of its own, without a wait.",
    )
    command.add_argument("source", nargs="+", metavar="SOURCE", help="a cassette, or a folder of cassettes")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DEST", help="a folder; for a single file also a .yaml file"
    )
    command.add_argument("--force", action="store_true", help="replace existing files")
    command.set_defaults(run=_run_import)


def _run_import(options: argparse.Namespace) -> int:
    """Convert cassettes, redact secrets, and save them. Return 1 if a file is damaged or still has a secret.

    Such a file is not saved. Without `--force`, an existing target raises CommandError.
    """
    screen = Screen()
    targets = _find_targets(options.source, options.output)
    existing = [target for target in targets.values() if target.exists()]
    if existing and not options.force:
        raise CommandError(f"{existing[0]} exists already; --force replaces it")
    redaction = Redaction()
    has_problems = False
    for path in targets:
        cassette = read_cassette(path)
        redacted = [redaction.redact(interaction) for interaction in cassette.interactions]
        interactions = [each.interaction for each in redacted]
        problems = cassette.damage or [
            f"{path}, interaction {number}: {leak}; remove it from the file, then import it again"
            for number, each in enumerate(redacted, 1)
            for leak in each.leaks
        ]
        if problems:
            has_problems = True
            for problem in problems:
                print_error(problem)
            continue
        save(targets[path], interactions)
        screen.print_row(str(targets[path]), summarize(cassette))
    return int(has_problems)


def _find_targets(sources: list[str], output: Path) -> dict[Path, Path]:
    """Return the path to write for each file to import.

    Raises:
        CommandError: a file is missing, or several files would have the same path.
    """
    if output.suffix in (".yaml", ".yml"):
        paths = find_cassettes(sources)
        if len(paths) != 1:
            many = counted(len(paths), "cassette is", "cassettes are")
            raise CommandError(f"{output} is one file, and {many} to be imported: give a folder")
        return {paths[0]: output}
    targets: dict[Path, Path] = {}
    for source in sources:
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        for path in find_cassettes([source]):
            target = output / path.relative_to(folder).with_suffix(".yaml")
            if target in targets.values() and path not in targets:
                raise CommandError(f"{path}: another file would be written to {target}, too; rename one of them")
            targets[path] = target
    return targets
