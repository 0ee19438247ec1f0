"""The names at the top of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import miniagents


def test_every_public_name_is_there() -> None:
    """Each name of `__all__` can be had, and `dir()` shows it."""
    for name in miniagents.__all__:
        assert getattr(miniagents, name) is not None
        assert name in dir(miniagents)


def test_type_checkers_see_the_names_that_run() -> None:
    """The imports for type checkers name the same modules as those that are made at run time."""
    tree = ast.parse(Path(miniagents.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("miniagents.")
        for alias in node.names
    }
    assert seen == miniagents._HOME_OF
    assert sorted(seen) == sorted(miniagents.__all__)


def test_other_names_are_an_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="no attribute 'Agents'"):
        miniagents.Agents  # noqa: B018 - the look-up is what fails
