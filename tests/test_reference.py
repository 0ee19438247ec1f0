"""The reference and the how-to pages are complete: they have every public name and every option."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from miniagents_testing import plugin
from miniagents_testing.cli import _commands

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NAMES = [
    (module, name)
    for line in (ROOT / "tests/public_names.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
    for module, _, name in [line.partition(": ")]
    if name
]
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```\w.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def _value(path: str) -> Any:
    """Return the object of a dotted path to a module or to a name in one.

    A package may still have the earlier module as its attribute after a test that has imported the module anew.
    """
    if path in {module for module, _ in NAMES}:
        return import_module(path)
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name, None) or import_module(path)


def _documented() -> list[Any]:
    """Return the objects of the directives in the reference; a module stands for all names of its `__all__`."""
    pages = [path.read_text("utf-8") for path in sorted((DOCS / "reference").glob("*.md"))]
    values = [_value(path) for page in pages for path in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
    names = [getattr(value, name) for value in values for name in getattr(value, "__all__", ())]
    return values + names


def test_reference_has_each_public_name() -> None:
    """Each name of an `__all__` has a directive in docs/reference, from whichever module the directive takes it."""
    known = {id(value) for value in _documented()}
    assert [f"{module}.{name}" for module, name in NAMES if id(getattr(import_module(module), name)) not in known] == []


def test_how_to_pages_have_each_public_name() -> None:
    """Each name of an `__all__` stands in the code of a how-to page or of the tutorial, where readers see its use."""
    pages = [DOCS / "tutorial.md", *(DOCS / "how-to").glob("*.md")]
    code = "\n".join(block for page in pages for block in CODE.findall(page.read_text("utf-8")))
    words = set(re.findall(r"\w+", code))
    assert [f"{module}.{name}" for module, name in NAMES if name not in words] == []


class _Parser:
    """Stand-in for pytest's parser that keeps the names of options."""

    def __init__(self) -> None:
        self.options: set[str] = set()
        self.ini: set[str] = set()

    def getgroup(self, name: str) -> _Parser:
        """Return this object, which takes the options of the group."""
        assert name == "miniagents"
        return self

    def addoption(self, name: str, **settings: Any) -> None:
        """Keep the name of an option."""
        self.options.add(name)

    def addini(self, name: str, *_: Any, **settings: Any) -> None:
        """Keep an ini name."""
        self.ini.add(name)


def test_reference_has_each_option_of_pytest(pytestconfig: pytest.Config) -> None:
    """The page of pytest has the plugin's options, ini names, markers and fixtures, and no others."""
    parser: Any = _Parser()
    plugin.pytest_addoption(parser)
    markers = [line.partition(":")[0].strip() for line in pytestconfig.getini("markers")]
    fixtures = {"cassette_settings"}  # each application defines it itself
    for path in (ROOT / "miniagents_testing/_pytest").glob("*.py"):
        fixtures |= set(re.findall(r"^@pytest\.fixture.*\n(?:async )?def (\w+)", path.read_text("utf-8"), re.MULTILINE))
    rows = re.findall(r"^\| (`.+?`(?:, `.+?`)*) \|", (DOCS / "reference/pytest.md").read_text("utf-8"), re.MULTILINE)
    named = {re.split(r"[=(]", name)[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    ours = {marker.partition("(")[0] for marker in markers if marker.startswith("miniagents_")}
    assert named == parser.options | parser.ini | ours | fixtures


@pytest.mark.skipif(not (DOCS / "reference/cli.md").exists(), reason="the page of the command line is not there yet")
def test_reference_has_each_option_of_the_command_line() -> None:
    """The page of the command line names each command with its options."""
    page = (DOCS / "reference/cli.md").read_text("utf-8")
    _, commands = _commands._create_parser("miniagents-testing")
    missing = [
        f"{command} {option}"
        for command, parser in commands.items()
        for option in [command, *(name for action in parser._actions for name in action.option_strings[-1:])]
        if option != "--help" and f"`{option}" not in page and f" {option}" not in page
    ]
    assert missing == []


def test_commands_on_the_pages_can_be_parsed() -> None:
    """Each `miniagents-testing` command in a console block has arguments that the command line takes."""
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    blocks = [block for page in pages for block in CONSOLE.findall(page.read_text("utf-8"))]
    commands = re.findall(r"^\$ (?:\.venv/bin/)?miniagents-testing (.+)$", "\n".join(blocks), re.MULTILINE)
    assert len(commands) > 5
    parser, _ = _commands._create_parser("miniagents-testing")
    for command in commands:
        words = shlex.split(command, comments=True)
        parser.parse_args(words)
        if words[0] == "play":
            assert words[1].endswith(".yaml"), "only single files are played"


def test_navigation_has_each_page_once() -> None:
    """The site's navigation names each page of the docs once, and no page that does not exist."""

    def pages(entry: Any) -> list[str]:
        """Return the pages of an entry and of all entries inside it."""
        if isinstance(entry, str):
            return [entry]
        return [page for inner in (entry.values() if isinstance(entry, dict) else entry) for page in pages(inner)]

    settings = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader=yaml.BaseLoader)
    assert sorted(pages(settings["nav"])) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("**/*.md"))
