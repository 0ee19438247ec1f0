#!/usr/bin/env python3
"""Show that a commit which moves Python code changes nothing but imports, names of modules and `__all__`.

    .ci/moves_only.py REV                 # REV against its parent
    .ci/moves_only.py REV REV2            # two commits; "." is the working tree
    .ci/moves_only.py REV --rename old=new --rename path/before.py:_old=_new

Every top-level statement of both trees, with the comments in it, is compared wherever it stands; identical ones cancel
out, and what is left is printed and makes the exit code 1. Left aside are imports (in functions as well), `__all__`,
module docstrings and the order of statements. Names of modules that are in the same tree become <module>, in strings
and comments, too; `deadlock.check(x)` becomes `check(x)`. Statements of which only the number of identical copies
differs, such as a TypeVar of two files that became one, are printed as notes. A renamed identifier counts in strings
where it is the whole string or stands in backticks.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import io
import re
import subprocess
import sys
import tarfile
import tokenize
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SOURCE_ROOTS = ("tests/shared/", "cassettes/", "")
MODULE = "<module>"

Renames = dict[str, dict[str, str]]  # of one file before, or of all: "" is every file
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Item:
    """Statement or comment, as it is compared."""

    name: str
    text: str


@dataclass
class Tree:
    """Items of one commit, and the files of each."""

    items: Counter[Item] = field(default_factory=Counter)
    files: dict[Item, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, item: Item, path: str) -> None:
        """Count an item of a file."""
        self.items[item] += 1
        self.files[item].append(path)


class Normaliser(ast.NodeTransformer):
    """Rewriter of one file: no imports, no names of modules, old identifiers renamed."""

    def __init__(self, path: str, modules: set[str], renames: dict[str, str]) -> None:
        self._modules = modules
        self._renames = renames
        self._package = path.removesuffix("/__init__.py").replace("/", ".") if path.endswith("/__init__.py") else ""
        self._bound: dict[str, str] = {}  # names that imports bind: to modules, or to what they are called at home

    def bind(self, node: ast.AST) -> None:
        """Take over what the imports in `node` bind, those in nested functions left out."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    root = alias.name.partition(".")[0]
                    if alias.name in self._modules:
                        self._bound[alias.asname or root] = alias.name if alias.asname else root
            elif isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    target = f"{child.module}.{alias.name}"
                    if target in self._modules:
                        self._bound[alias.asname or alias.name] = target
                    elif child.module in self._modules and alias.asname:
                        self._bound[alias.asname] = f"={alias.name}"
            elif not isinstance(child, Function):
                self.bind(child)

    def text(self, text: str) -> str:
        """Return a string or a comment without names of modules, and with new identifiers where old ones are quoted."""
        if text in self._renames:
            return self._renames[text]
        if self._package and f"{self._package}.{text}" in self._modules:
            return MODULE

        def dotted(match: re.Match[str]) -> str:
            parts = match[0].split(".")
            for end in range(len(parts), 1, -1):
                if ".".join(parts[:end]) in self._modules:
                    return ".".join([MODULE, *parts[end:]])
            return match[0]

        def quoted(match: re.Match[str]) -> str:
            return re.sub(r"\w+", lambda word: self._renames.get(word[0], word[0]), match[0])

        return re.sub(r"`[^`\n]+`", quoted, re.sub(r"\b[A-Za-z_]\w*(?:\.\w+)+", dotted, text))

    def _module_of(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            bound = self._bound.get(node.id)
            return None if bound is None or bound.startswith("=") else bound
        if isinstance(node, ast.Attribute) and (parent := self._module_of(node.value)):
            return f"{parent}.{node.attr}" if f"{parent}.{node.attr}" in self._modules else None
        return None

    def _new(self, name: str) -> str:
        return self._renames.get(name, name)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if self._module_of(node):
            return ast.Name(MODULE)
        if self._module_of(node.value):
            return ast.Name(self._new(node.attr))
        node.attr = self._new(node.attr)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        bound = self._bound.get(node.id)
        node.id = self._new(node.id) if bound is None else self._new(bound[1:]) if bound[0] == "=" else MODULE
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = self.text(node.value)
        return node

    def _visit_function(self, node: Function) -> ast.AST:
        outer = self._bound
        arguments = node.args
        own = {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
        own |= {
            child.id for child in ast.walk(node) if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)
        }
        self._bound = {name: target for name, target in outer.items() if name not in own}
        for statement in node.body:
            self.bind(ast.Module([statement], []))
        result = self.generic_visit(node)
        self._bound = outer
        return result

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815 - named by ast

    def _drop(self, node: ast.AST) -> None:
        del node

    visit_Import = visit_ImportFrom = _drop  # noqa: N815 - named by ast

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit what is below, rename identifiers, and leave no body empty."""
        super().generic_visit(node)
        for attribute in ("name", "arg"):
            if isinstance(value := getattr(node, attribute, None), str):
                setattr(node, attribute, self._new(value))
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = [self._new(name) for name in node.names]
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined] # as the line above has seen
        return node


def _sources(revision: str) -> dict[str, str]:
    """Return the text of each Python file of a commit, or of the working tree for "."."""
    if revision == ".":
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
            check=True,
            capture_output=True,
            text=True,
        )
        paths = sorted(set(listed.stdout.splitlines()))
        return {path: Path(path).read_text(encoding="utf-8") for path in paths if Path(path).exists()}
    archive = subprocess.run(["git", "archive", revision], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name: opened.read().decode("utf-8")
            for member in tar
            if member.name.endswith(".py") and (opened := tar.extractfile(member))
        }


def _modules(paths: list[str]) -> set[str]:
    """Return the dotted names under which these files are imported."""
    names = set()
    for path in paths:
        for root in SOURCE_ROOTS:
            if path.startswith(root):
                names.add(path.removeprefix(root).removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    return names


def _name(node: ast.stmt) -> str:
    """Return how a top-level statement is called in the output."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return ", ".join(ast.unparse(target) for target in targets if target) or type(node).__name__.lower()


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _groups(body: list[ast.stmt], condition: str = "") -> list[tuple[str, list[ast.stmt]]]:
    """Return statements with the string below each, which explains it, and the condition that they stand under."""
    groups: list[tuple[str, list[ast.stmt]]] = []
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not node.orelse:
            groups += _groups(node.body, "if TYPE_CHECKING: ")
        elif _is_string(node) and groups and groups[-1][0] == condition and len(groups[-1][1]) == 1:
            groups[-1][1].append(node)
        else:
            groups.append((condition, [node]))
    return groups


def _collect(tree: Tree, path: str, source: str, modules: set[str], renames: dict[str, str]) -> None:
    """Add the items of one file."""
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    parsed = ast.parse(source)
    normaliser = Normaliser(path, modules, renames)
    normaliser.bind(parsed)
    body = parsed.body[1:] if parsed.body and _is_string(parsed.body[0]) else parsed.body
    for condition, nodes in _groups(body):
        decorators = getattr(nodes[0], "decorator_list", [])
        first = min([nodes[0].lineno, *(decorator.lineno for decorator in decorators)])
        own = [comments.pop(line) for line in range(first, (nodes[-1].end_lineno or first) + 1) if line in comments]
        if isinstance(nodes[0], (ast.Import, ast.ImportFrom)) or _name(nodes[0]) == "__all__":
            continue
        kept = [node for node in map(normaliser.visit, nodes) if node is not None]
        text = "\n".join([*map(ast.unparse, kept), *map(normaliser.text, own)])
        tree.add(Item(condition + _name(kept[0]), text), path)
    for line, comment in comments.items():
        if not comment.startswith("#!"):
            block = normaliser.text(comment)
            tree.add(Item("comment", block), f"{path}:{line}")


def _tree(revision: str, renames: Renames) -> Tree:
    sources = _sources(revision)
    modules = _modules(list(sources))
    tree = Tree()
    for path, source in sources.items():
        _collect(tree, path, source, modules, renames.get("", {}) | renames.get(path, {}))
    return tree


def _report(old: Tree, new: Tree) -> bool:
    """Print what does not cancel out; return True if nothing is left."""
    gone = {item: old.files[item] for item in old.items if item not in new.items}
    come = {item: new.files[item] for item in new.items if item not in old.items}
    for item, count in old.items.items():
        if item not in gone and new.items[item] != count and item.text:
            print(f"note: {item.name}: {count} -> {new.items[item]} identical copies: {', '.join(old.files[item])}")
    for item, files in gone.items():
        partners = [other for other in come if other.name == item.name and item.name != "comment"]
        if not partners:
            print(
                f"- {item.name} ({', '.join(files)})", *(f"    {line}" for line in item.text.splitlines()[:3]), sep="\n"
            )
            continue
        partner = max(partners, key=lambda other: difflib.SequenceMatcher(None, item.text, other.text).ratio())
        print(f"! {item.name} ({', '.join(files)} -> {', '.join(come.pop(partner))})")
        lines = difflib.unified_diff(item.text.splitlines(), partner.text.splitlines(), lineterm="", n=1)
        print(*(f"    {line}" for line in list(lines)[2:]), sep="\n")
    for item, files in come.items():
        print(f"+ {item.name} ({', '.join(files)})", *(f"    {line}" for line in item.text.splitlines()[:3]), sep="\n")
    print(f"{sum(new.items.values())} statements and comments; {len(gone)} gone or changed, {len(come)} new")
    return not gone and not come


def main() -> int:
    """Compare two trees; return 1 if more than moves and renames lies between them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="REV")
    parser.add_argument("after", metavar="REV2", nargs="?", help='a commit, or "." for the working tree')
    parser.add_argument("--rename", metavar="[FILE:]OLD=NEW", action="append", default=[], help="an identifier")
    options = parser.parse_args()
    renames: Renames = defaultdict(dict)
    for rename in options.rename:
        path, _, pair = rename.rpartition(":")
        before, equals, after = pair.partition("=")
        if not equals:
            parser.error(f"--rename {rename}: OLD=NEW is needed")
        renames[path][before] = after
    revisions = (options.before, options.after) if options.after else (f"{options.before}^", options.before)
    return 0 if _report(_tree(revisions[0], renames), _tree(revisions[1], {})) else 1


if __name__ == "__main__":
    sys.exit(main())
