"""`edit`: change a cassette by hand, and seal it again.

`import`: what others recorded, as cassettes of ours.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette import Redaction, save
from miniagents_testing.cassette._file import load_edited
from miniagents_testing.cassette._secrets import known_secrets
from miniagents_testing.cli._lint import summary
from miniagents_testing.cli._screen import (
    Impossible,
    Screen,
    cassette_paths,
    complain,
    counted,
    open_cassette,
    progress,
)

if TYPE_CHECKING:
    import argparse

    from miniagents_testing.cli._commands import Commands


def add_import(commands: Commands) -> None:
    """Add the arguments of `import`."""
    command = commands.add_parser(
        "import",
        help="cassettes of vcrpy, pytest-recording and pydantic-ai, as cassettes of ours",
        description="Bodies are decoded, headers that no client acts on are left out, keys become [redacted], and each "
        "file is sealed; one in which a secret is left is not written. A folder keeps its structure. Chunks and times "
        "that nobody recorded stay unknown: one event a chunk, at once.",
    )
    command.add_argument("source", nargs="+", metavar="SOURCE", help="a cassette, or a folder with cassettes in it")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DEST", help="a folder, or for one file also a .yaml file"
    )
    command.add_argument("--force", action="store_true", help="replace files that are there already")
    command.set_defaults(run=_run_import)


def _run_import(options: argparse.Namespace) -> int:
    screen = Screen()
    targets = _targets(options.source, options.output)
    there = [target for target in targets.values() if target.exists()]
    if there and not options.force:
        raise Impossible(f"{there[0]} is there already; --force replaces it")
    redaction = Redaction(known_secrets(os.environ))
    found = False
    for path in progress(list(targets), screen, "importing"):
        cassette = open_cassette(path)
        interactions = [redaction.scrub(interaction) for interaction in cassette.interactions]
        wrong = cassette.damage or [
            f"{path}, interaction {number}: {leak}; replace it by hand"
            for number, interaction in enumerate(interactions, 1)
            for leak in redaction.leaks(interaction)
        ]
        if wrong:
            found = True
            complain("\n".join(wrong))
            continue
        save(targets[path], interactions)
        screen.row(str(targets[path]), summary(cassette))
    return int(found)


def _targets(sources: list[str], output: Path) -> dict[Path, Path]:
    """Where each file goes."""
    if output.suffix in (".yaml", ".yml"):
        paths = cassette_paths(sources)
        if len(paths) != 1:
            raise Impossible(f"{output} is one file, and there are {len(paths)} cassettes to import: give a folder")
        return {paths[0]: output}
    targets: dict[Path, Path] = {}
    for source in sources:
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        for path in cassette_paths([source]):
            target = output / path.relative_to(folder).with_suffix(".yaml")
            if target in targets.values() and path not in targets:
                raise Impossible(f"{path}: another file goes to {target} as well")
            targets[path] = target
    return targets


def add_edit(commands: Commands) -> None:
    """Add the arguments of `edit`."""
    edit = commands.add_parser(
        "edit",
        help="change a cassette by hand, and seal it again",
        description="Opens a copy of the file in $VISUAL or $EDITOR, says what was changed, and puts the copy, sealed, "
        "in place of the file. A copy that cannot be read stays, and the next `edit` goes on with it. The chunk map "
        "need not be touched as long as the number of events stays the same.",
    )
    edit.add_argument("file", type=Path, metavar="FILE")
    edit.add_argument("--reseal", action="store_true", help="open no editor: the file was edited already")
    edit.set_defaults(run=_run_edit)


def _run_edit(options: argparse.Namespace) -> int:
    screen = Screen()
    file: Path = options.file
    if options.reseal:
        _reseal(file, file, screen)
        return 0
    copy = file.with_name(f"{file.stem}.edited{file.suffix}")
    original = file.read_bytes()
    if not copy.exists():
        copy.write_bytes(original)
    code = subprocess.run([*_editor(), str(copy)], check=False).returncode
    if copy.read_bytes() == original:
        screen.row(str(file), "nothing was changed")
    elif code:
        raise Impossible(f"the editor ended with code {code}; {file} is as it was, and your edit is in {copy}")
    else:
        _reseal(copy, file, screen)
    copy.unlink()
    return 0


def _editor() -> list[str]:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise Impossible("neither VISUAL nor EDITOR is set: edit the file in your own way, then use --reseal")
    return shlex.split(command)


def _reseal(edited: Path, target: Path, screen: Screen) -> None:
    """Say what is different, and save it."""
    interactions, changes = load_edited(edited)
    if not changes and edited == target:
        screen.row(str(target), "nothing was changed")
        return
    for change in changes:
        screen.row(str(target), change, style="yellow")
    save(target, interactions)
    screen.row(str(target), f"sealed, {counted(len(interactions), 'interaction')}", style="green")
