"""`edit`: change a cassette by hand, and seal it again."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette._file import load_edited, save
from miniagents_testing.cli.screen import Impossible, Screen, counted

if TYPE_CHECKING:
    import argparse

    from miniagents_testing.cli.commands import Commands

__all__ = ["add_edit"]


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
