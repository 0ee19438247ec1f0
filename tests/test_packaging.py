"""The distribution: what is in it, and what importing it costs and pulls in."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

import pytest

import miniagents

if TYPE_CHECKING:
    from pathlib import Path

INSTALLED = pytest.mark.skipif(
    not list(metadata.Distribution.discover(name="miniagents")), reason="miniagents is not installed here; tox does it"
)
OPTIONAL = (
    "openai",
    "anthropic",
    "httpx2",
    "prompt_toolkit",
    "rich",
    "yaml",
    "starlette",
    "uvicorn",
    "pytest",
    "hypothesis",
    "vcr",
)


@pytest.fixture(scope="session")
def project(root: Path) -> dict[str, Any]:
    """The `[project]` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def _modules_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@INSTALLED
def test_the_version_is_said_once(project: dict[str, Any]) -> None:
    """`miniagents.__version__` is the version of pyproject.toml."""
    assert miniagents.__version__ == project["version"] == metadata.version("miniagents")


@pytest.mark.parametrize("package", ["miniagents", "miniagents_testing"])
def test_both_packages_are_typed(package: str) -> None:
    """Type checkers read the annotations of a package only beside `py.typed`."""
    assert resources.files(package).joinpath("py.typed").is_file()


def test_the_framework_needs_pydantic_only(project: dict[str, Any]) -> None:
    """There is one dependency at run time."""
    assert [dependency.partition(">")[0] for dependency in project["dependencies"]] == ["pydantic"]


def test_X17_lower_bounds_are_above_the_flaws_that_are_known(project: dict[str, Any]) -> None:
    """Before 8.2.1, vcrpy runs code that a cassette names (GHSA-rpj2-4hq8-938g)."""
    safe = {"vcrpy": (8, 2, 1)}
    found = {
        name: tuple(map(int, version.split(".")))
        for requirements in project["optional-dependencies"].values()
        for requirement in requirements
        for name, _, version in [requirement.partition(">=")]
        if name in safe
    }
    assert found.keys() == safe.keys()
    assert all(found[name] >= version for name, version in safe.items())


@INSTALLED
def test_the_extra_all_has_every_other_extra(project: dict[str, Any]) -> None:
    """`all` cannot miss an extra that was added later."""
    extras = project["optional-dependencies"]
    (everything,) = extras.pop("all")
    assert everything.partition("[")[2].rstrip("]").split(",") == list(extras)
    assert set(metadata.metadata("miniagents").get_all("Provides-Extra") or ()) == {"all", *extras}


@pytest.mark.parametrize(
    "module",
    [
        "miniagents",
        "miniagents.utils",
        "miniagents.ext.console_user_agent",
        "miniagents.ext.chat_history_md",
        "miniagents.ext.llm.openai",
        "miniagents.ext.llm.anthropic",
        "miniagents_testing",
    ],
)
def test_importing_loads_no_optional_package(module: str) -> None:
    """An SDK costs up to 1.5 s; nothing optional is imported before something of it is used."""
    assert not _modules_after(f"import {module}") & set(OPTIONAL)


def test_every_public_name_is_there() -> None:
    """`__all__` names nothing twice, and each of its names can be imported."""
    assert len(miniagents.__all__) == len(set(miniagents.__all__))
    assert [name for name in miniagents.__all__ if not hasattr(miniagents, name)] == []
