"""The public surface: modules without an underscore, the names in their `__all__`, and what documentation imports."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import miniagents

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("miniagents", "miniagents_testing")
LIST = Path(__file__).parent / "public_names.txt"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PROGRAMS = sorted((ROOT / "examples").glob("**/*.py"))

Names = dict[str, set[str]]


def _listed() -> Names:
    """Return the listed names of each module; a line `module:` without a name stands for a module without names."""
    names: Names = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            module, _, rest = line.partition(":")
            names.setdefault(module, set()).update(name.strip() for name in rest.split(",") if name.strip())
    return names


def _exported(tree: ast.Module) -> set[str] | None:
    """Return the names of `__all__`; an empty set for a module with a docstring only; None without `__all__`."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, (ast.Assign, ast.AnnAssign))
            assert node.value is not None
            return set(ast.literal_eval(node.value))
    return set() if all(isinstance(node, ast.Expr) for node in tree.body) else None


def _public() -> dict[str, set[str] | None]:
    """Return the exported names of each module whose path has no underscore in front of any part."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if not any(part.startswith("_") for part in parts):
                found[".".join(parts)] = _exported(ast.parse(path.read_text(encoding="utf-8")))
    return found


def _lines(names: Names) -> list[str]:
    """Return the lines of `public_names.txt` for these names, sorted as in that file."""
    return [
        line
        for module in sorted(names)
        for line in [f"{module}: {name}" for name in sorted(names[module])] or [f"{module}:"]
    ]


def _unlisted(code: str, listed: Names) -> Iterator[str]:
    """Yield the names of our packages that `code` imports or reads as attributes, and that are not in the list."""
    tree = ast.parse(code)
    modules: dict[str, str] = {}

    def module_of(node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return modules.get(node.id)
        if isinstance(node, ast.Attribute) and (parent := module_of(node.value)):
            module = f"{parent}.{node.attr}"
            return module if module in listed else None
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                if package in PACKAGES:
                    modules[alias.asname or package] = alias.name if alias.asname else package
                    if alias.name not in listed:
                        yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            for alias in node.names:
                if f"{node.module}.{alias.name}" in listed:
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                elif alias.name not in listed.get(node.module, ()):
                    yield f"{node.module}: {alias.name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not (module := module_of(node.value)):
            continue
        if node.attr not in listed.get(module, ()) and f"{module}.{node.attr}" not in listed:
            yield f"{module}: {node.attr}"


def test_public_names_are_those_of_the_list(pytestconfig: pytest.Config) -> None:
    """Each listed module exports exactly its listed names; `--update-public-names` writes the list anew."""
    public = _public()
    listed = _listed()
    exported = {module: public.get(module) or set() for module in listed if module in public}
    if pytestconfig.getoption("update_public_names"):
        head = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        LIST.write_text("\n".join([*head, *_lines(exported), ""]), encoding="utf-8")
        listed = _listed()
    there = set(_lines(exported))
    wanted = set(_lines(listed))
    assert there == wanted, f"not in the list: {sorted(there - wanted)}; not in the code: {sorted(wanted - there)}"


def test_listed_modules_have_all() -> None:
    """Each module in the list of public names defines `__all__`."""
    public = _public()
    assert [module for module in _listed() if public.get(module, set()) is None] == []


def test_modules_that_are_not_listed_have_an_underscore() -> None:
    """Each module that is not in the list of public names has an underscore in its path."""
    assert sorted(_public().keys() - _listed().keys()) == []


@pytest.mark.parametrize("module", _listed())
def test_every_public_name_is_there(module: str) -> None:
    """Each name in the list can be read from its module, and `dir()` of the module shows it."""
    loaded = import_module(module)
    names = _listed()[module]
    assert {name for name in names if getattr(loaded, name, None) is None} == set()
    assert names <= set(dir(loaded))


def test_pages_and_examples_take_public_names_only() -> None:
    """Code in README, docs and examples uses only names in the list of public names."""
    listed = _listed()
    code = {
        f"{page.relative_to(ROOT).as_posix()}:{text.count(chr(10), 0, block.start()) + 2}": block[1]
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for block in re.finditer(r"^```python\b[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    }
    code |= {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PROGRAMS}
    assert len(code) > len(PROGRAMS) > 0
    assert [f"{where}: {name}" for where, text in code.items() for name in _unlisted(text, listed)] == []


@pytest.mark.parametrize(
    ("code", "unlisted"),
    [
        ("from miniagents import a, b", ["miniagents: b"]),
        ("import miniagents.x, os", []),
        ("def f():\n    import miniagents.y", ["miniagents.y"]),
        ("from miniagents.y import a", ["miniagents.y: a"]),
        ("from miniagents import x as z\nz.c, z.d, other.d", ["miniagents.x: d"]),
        ("import miniagents.x\nminiagents.x.c(miniagents.x.d)", ["miniagents.x: d"]),
        ("import miniagents.x as z\nz.d", ["miniagents.x: d"]),
    ],
)
def test_names_that_are_not_listed_are_found(code: str, unlisted: list[str]) -> None:
    """The checker finds unlisted names in imports, and in attributes of modules that imports bind."""
    assert list(_unlisted(code, {"miniagents": {"a"}, "miniagents.x": {"c"}})) == unlisted


def test_type_checkers_see_the_names_that_run() -> None:
    """`miniagents` imports each name for type checkers from the module that loads it at run time."""
    tree = ast.parse(Path(miniagents.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("miniagents.")
        for alias in node.names
    }
    assert seen == miniagents._MODULE_OF
    assert sorted(seen) == sorted(miniagents.__all__)


def test_other_names_are_an_error() -> None:
    """Reading an unknown name from `miniagents` raises `AttributeError`."""
    with pytest.raises(AttributeError, match="no attribute 'Agents'"):
        miniagents.Agents  # noqa: B018 - the look-up is what fails
