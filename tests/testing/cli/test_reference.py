"""The page of the command line has each command, each argument and each option, and its script can be served."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

import pytest

from miniagents_testing.cli._commands import _create_parser
from miniagents_testing.cli._serve import read_steps

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = _create_parser("miniagents-testing")[1]


@pytest.fixture(scope="module")
def sections(root: Path) -> dict[str, str]:
    """Return the sections of the page, by their headings."""
    parts = re.split(r"^## (.+)$", (root / "docs" / "reference" / "cli.md").read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_page_has_a_section_for_each_command_in_the_order_of_the_help(sections: dict[str, str]) -> None:
    """The sections of the page are the commands, in the order in which `--help` lists them."""
    assert [*sections] == [*COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_section_has_the_arguments_and_options_of_its_command(sections: dict[str, str], name: str) -> None:
    """A section has the arguments in its first line, and a row for each option with its value."""
    section, usage = sections[name], sections[name].partition("` ")[0]
    rows = re.findall(r"^\| (`-.+?`) \|", section, flags=re.M)
    options = []
    for action in COMMANDS[name]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if action.option_strings:
            value = "" if action.nargs == 0 else f" {action.metavar}"
            options.append({f"{option}{value}" for option in action.option_strings})
        else:
            assert str(action.metavar) in usage
    assert [set(re.findall(r"`([^`]+)`", row)) for row in rows] == options


def test_script_of_the_page_can_be_served(sections: dict[str, str], tmp_path: Path) -> None:
    """The example of a script on the page is one that `serve` accepts."""
    example = re.search(r"```yaml\n(.+?)```", sections["serve"], flags=re.S)
    assert example is not None
    (tmp_path / "steps.yaml").write_text(example[1], encoding="utf-8")
    assert len(read_steps(tmp_path / "steps.yaml")) == 7
