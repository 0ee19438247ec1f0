"""The files of both packages: how they import each other, how many there are, and how long they are.

`lint-imports` checks layers, siblings and private modules; these tests check what has no contract there.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("miniagents", "miniagents_testing")

MOST_FILES = 165
"""How many files both packages may have together."""
FEWEST_LINES = 40
"""Of a file that defines something; `__init__`, `__main__` and a module that passes names on may be shorter."""
MOST_LINES = 700


def _module_name(path: Path) -> str:
    """Return the dotted name of a file, given relative to the root of its package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _sources() -> dict[str, str]:
    """Return the source of each module of both packages."""
    return {
        _module_name(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def _statements(node: ast.AST, *, for_types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield imports in `node`, those in functions included: either those for type checkers only, or all others."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        if not for_types:
            yield node
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
        for statement in node.body:
            yield from _statements(statement, for_types=not for_types)
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from _statements(child, for_types=for_types)


def _lazy_names(tree: ast.Module) -> dict[str, str]:
    """Return the origin of each name that a module's `__getattr__` loads (PEP 562), as imports for types name it."""
    if not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        return {}
    return {
        alias.asname or alias.name: node.module
        for node in _statements(tree, for_types=True)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def _imports(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules that each module names in its imports at run time.

    `from package import module` names the module only; a name that the package loads lazily counts as an import of the
    module it comes from, too.
    """
    trees = {name: ast.parse(source) for name, source in sources.items()}
    lazy = {name: _lazy_names(tree) for name, tree in trees.items()}
    edges: dict[str, set[str]] = {}
    for name, tree in trees.items():
        targets: set[str] = set()
        for node in _statements(tree, for_types=False):
            if isinstance(node, ast.Import):
                targets.update(alias.name for alias in node.names)
                continue
            assert not node.level, f"{name}:{node.lineno}: imports are absolute here"
            module = node.module or ""
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                if submodule in sources:
                    targets.add(submodule)
                else:
                    targets |= {module, lazy.get(module, {}).get(alias.name, module)}
        edges[name] = (targets & sources.keys()) - {name}
    return edges


def _circles(edges: Mapping[str, set[str]]) -> frozenset[frozenset[str]]:
    """Return the sets of modules that import each other, directly or through others."""
    reached: dict[str, set[str]] = {}
    for name in edges:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            new = edges[waiting.pop()] - seen
            seen |= new
            waiting.extend(new)
        reached[name] = seen
    return frozenset(
        frozenset(other for other in reached[name] if name in reached[other]) for name in edges if name in reached[name]
    )


def test_modules_import_each_other_in_no_circle() -> None:
    """At run time, no module imports itself through others, imports inside functions included."""
    assert [sorted(circle) for circle in _circles(_imports(_sources()))] == []


@pytest.mark.parametrize(
    ("sources", "circles"),
    [
        ({"a": "import b", "b": "def f():\n    from a import x"}, [{"a", "b"}]),
        ({"a": "import b", "b": "if TYPE_CHECKING:\n    import a"}, []),
        ({"a": "import b", "b": "if TYPE_CHECKING:\n    import c\nelse:\n    import a", "c": ""}, [{"a", "b"}]),
        ({"p": "from p.a import x", "p.a": "from p import b", "p.b": ""}, []),
        ({"p": "from p.a import x", "p.a": "from p import y"}, [{"p", "p.a"}]),
        ({"p": "if TYPE_CHECKING:\n    from p.a import x\ndef __getattr__(name): ...", "p.a": "from p import z"}, []),
        (
            {
                "p": "if TYPE_CHECKING:\n    from p.a import x\ndef __getattr__(name): ...",
                "p.a": "import p.b",
                "p.b": "from p import x",
            },
            [{"p.a", "p.b"}],
        ),
        ({"a": "import b", "b": "import c", "c": "import b, d", "d": "import d"}, [{"b", "c"}]),
    ],
)
def test_circles_are_found(sources: dict[str, str], circles: list[set[str]]) -> None:
    """The checker finds circles through function imports and lazy names, and ignores imports for type checkers."""
    assert _circles(_imports(sources)) == set(map(frozenset, circles))


def test_files_are_few() -> None:
    """Both packages together have at most `MOST_FILES` files."""
    assert len(_sources()) <= MOST_FILES


def _defines_something(module: str) -> bool:
    """Return True if the module defines a function or a class."""
    return any(isinstance(node, (ast.ClassDef, ast.FunctionDef)) for node in ast.parse(_sources()[module]).body)


def test_files_are_neither_short_nor_long() -> None:
    """The length of each file with code is between two limits."""
    lines = {name: source.count("\n") for name, source in _sources().items()}
    packages = {name for name in lines if (ROOT / name.replace(".", "/")).is_dir()}
    files = {name: count for name, count in lines.items() if name not in packages and _defines_something(name)}
    assert {name: count for name, count in files.items() if count < FEWEST_LINES} == {}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def _tree_of(page: str) -> set[str]:
    """Return the paths of the files in the trees of a page, read from their indentation."""
    found: set[str] = set()
    for block in re.findall(r"^```text\n(miniagents\w*/\n.*?)^```$", page, re.MULTILINE | re.DOTALL):
        folders: list[str] = []
        for line in block.splitlines():
            name = line.split()[0]
            del folders[(len(line) - len(line.lstrip())) // 2 :]
            if name.endswith("/"):
                folders.append(name)
            else:
                found.add("".join([*folders, name]))
                assert line.split()[1:], f"{name} has no description"
    return found


def test_architecture_page_shows_every_file() -> None:
    """`docs/explanation/architecture.md` has a line for each file that holds code, and for no other."""
    shown = _tree_of((ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8"))
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" or len(ast.parse(path.read_text(encoding="utf-8")).body) > 1
    }
    assert sorted(shown ^ there) == []
