"""Cassettes that no test of a tree names. Tests are read, not run."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["TestNames"]


class TestNames:
    """What the tests of some folders call cassettes.

    A test has its cassette by default at `<module>/<test>.yaml`, where `<test>` begins with the class if there is one
    and goes on with the parameters in brackets. Others are named in a text: a marker, an argument, a path.
    """

    __test__ = False  # no test class, whatever pytest makes of the name

    def __init__(self, folders: Iterable[Path]) -> None:
        self._texts: set[str] = set()
        self._tests: defaultdict[str, set[str]] = defaultdict(set)
        """Names of tests, by module."""
        for folder in folders:
            for path in sorted(folder.rglob("*.py")):
                try:
                    tree = ast.parse(path.read_bytes(), str(path))
                except (SyntaxError, ValueError):  # data of a test, and no test
                    continue
                self._texts |= {
                    node.value
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Constant) and isinstance(node.value, str)
                }
                self._tests[path.stem].update(_tests(tree.body))

    def claim(self, cassette: Path) -> bool:
        """Whether any of them names this cassette, by the last parts of its path, with or without the ending."""
        if cassette.stem.partition("[")[0] in self._tests[cassette.parent.name]:
            return True
        return any(tail in self._texts for path in (cassette, cassette.with_suffix("")) for tail in _tails(path.parts))


def _tests(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _tests(node.body, f"{prefix}{node.name}.")


def _tails(parts: Sequence[str]) -> Iterator[str]:
    """`c.yaml`, `b/c.yaml`, `a/b/c.yaml`."""
    for start in range(len(parts)):
        yield "/".join(parts[start:])
