"""`import`: what others recorded, as cassettes of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette.file import save
from miniagents_testing.cassette.interaction import kept_headers
from miniagents_testing.cli.files import cassette_paths, open_cassette
from miniagents_testing.cli.screen import Impossible, Screen, complain, progress
from miniagents_testing.cli.verify import summary

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from miniagents_testing.cassette.interaction import Interaction
    from miniagents_testing.cli.commands import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Its arguments."""
    command = commands.add_parser(
        "import",
        help="cassettes of vcrpy, pytest-recording and pydantic-ai, as cassettes of ours",
        description="Bodies are decoded, headers that no client acts on are left out, and each file is sealed. "
        "A folder keeps its structure. Chunks and times that nobody recorded stay unknown: one event a chunk, at once.",
    )
    command.add_argument("source", nargs="+", metavar="SOURCE", help="a cassette, or a folder with cassettes in it")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DEST", help="a folder, or for one file also a .yaml file"
    )
    command.add_argument("--force", action="store_true", help="replace files that are there already")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    screen = Screen()
    targets = _targets(options.source, options.output)
    there = [target for target in targets.values() if target.exists()]
    if there and not options.force:
        raise Impossible(f"{there[0]} is there already; --force replaces it")
    found = False
    for path in progress(list(targets), screen, "importing"):
        cassette = open_cassette(path)
        if cassette.damage:
            found = True
            complain("\n".join(cassette.damage))
            continue
        save(targets[path], [_ours(interaction) for interaction in cassette.interactions])
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


def _ours(interaction: Interaction) -> Interaction:
    answer = interaction.response
    return replace(
        interaction,
        request_headers=_kept(interaction.request_headers),
        response=replace(answer, headers=_kept(answer.headers)),
    )


def _kept(headers: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return kept_headers([(name, value) for name, values in headers.items() for value in values])
