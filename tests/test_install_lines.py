"""Every line that installs MiniAgents is true: it names a path, and extras that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

import miniagents
from miniagents.errors import DISTRIBUTION, MissingExtraError, install_line

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml", "tox.ini")),
    *(path for path in ROOT.glob("*/**/*.md") if not path.relative_to(ROOT).parts[0].startswith(".")),
    *(
        path
        for folder in ("miniagents", "miniagents_testing", "examples", "benchmarks", "cassettes")
        for path in (ROOT / folder).rglob("*.py")
    ),
]
COMMAND = re.compile(r"\bpip3?\b[^\n`]*? (?:install|wheel) ([^\n`]+)")
OTHER_PACKAGES = {"detangle", "matplotlib", "pytest", "pytest-asyncio", "simloom", "tox"}
"""Packages that the docs install beside MiniAgents."""
OTHER_PROJECT = "miniagents"
"""Name of the other project on PyPI, which one box in the README warns of."""


def _refused(command: str) -> list[str]:
    """Return the arguments of a command of pip that install something else than the docs should."""
    words = shlex.split(command.split("&&")[0], comments=True)
    sources = {DISTRIBUTION, "."}
    refused = []
    for word in words:
        name, _, extras = word.rstrip(",:)").partition("[")
        known = set(extras.rstrip("]").split(",")) - {""} <= set(PROJECT["optional-dependencies"])
        is_ours = (name in sources or name.endswith(".whl")) and known
        if not (is_ours or word.startswith("-") or name in OTHER_PACKAGES or word == "dev"):
            refused.append(word)
    return refused


def _commands() -> list[tuple[str, str]]:
    """Return file and arguments of each command of pip in docs and code."""
    return [
        (path.relative_to(ROOT).as_posix(), command)
        for path in FILES
        for command in COMMAND.findall(path.read_text("utf-8"))
        if "{_source()}" not in command  # the code that makes the line
    ]


def test_each_install_line_names_a_path_and_known_extras() -> None:
    """No page, docstring or error installs MiniAgents from PyPI; one box only warns of the other project there."""
    found = [(path, command) for path, command in _commands() if _refused(command)]
    assert found == [("README.md", OTHER_PROJECT)]


def test_docs_have_install_lines() -> None:
    """The README and three pages that need an extra have install lines that this module finds."""
    paths = {path for path, _ in _commands()}
    assert {"README.md", "docs/how-to/testing.md", "docs/how-to/cassettes.md", "docs/tutorial.md"} <= paths


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        ("'/path/to/clone[openai,console]' pytest", []),
        ("-q -e '.[all]' && pytest", []),
        ("miniagents[openai]", ["miniagents[openai]"]),
        ("'/path/to/clone[openia]'", ["/path/to/clone[openia]"]),
        ("vcrpy", ["vcrpy"]),
    ],
)
def test_wrong_install_lines_are_refused(command: str, refused: list[str]) -> None:
    """A name on PyPI, an unknown extra and any other package are refused; paths with known extras are not."""
    assert _refused(command) == refused


def test_install_line_of_an_error_names_the_extra() -> None:
    """The error of a missing package has the line that installs its extra, from a clone if that is installed."""
    is_clone = Path(miniagents.__file__).parent.parent == ROOT  # else a wheel is installed, as by tox
    assert install_line("openai", "console") == f"pip install '{ROOT if is_clone else DISTRIBUTION}[openai,console]'"
    assert install_line("openai") in str(MissingExtraError.of("openai", "openai"))
