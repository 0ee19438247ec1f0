"""`import`: what others recorded, as cassettes of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette._file import save
from miniagents_testing.cassette._secrets import Redaction, known_secrets
from miniagents_testing.cli.files import cassette_paths, open_cassette
from miniagents_testing.cli.screen import Impossible, Screen, complain, progress
from miniagents_testing.cli.verify import summary

if TYPE_CHECKING:
    import argparse

    from miniagents_testing.cli.commands import Commands

__all__ = ["add_import"]


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
