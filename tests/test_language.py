"""The language of both packages: breaches of its rules are counted, and their number may only fall."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("miniagents", "miniagents_testing")

RULES = (
    "actor without a name",
    "docstring that begins with a question word",
    "docstring of a function that does not begin with a verb",
    "old name",
)

UNNAMED = re.compile(
    r"(?<![a-z])(?:(?:no|some|any|every)body|(?:some|any|every)one|who(?:so)?ever|whom(?:so)?ever|no[\s#]+one)(?![a-z])",
    re.IGNORECASE,
)
QUESTION_WORDS = """
    what whatever where wherever whether who whoever whom whomever whose
    its nobody somebody everybody anybody someone everyone anyone
"""
NO_VERBS = f"""
    {QUESTION_WORDS} how when whenever which whichever why
    a an the this that these those it they we i you he she his her their our your my one both each every all any some
    no none nothing something everything anything true false same other another such only also not never always
    about above after as at because before below beside between but by during for from if in inside into like of off
    on once or outside over since so than then there through to under until up upon while with within without
    two three four
"""

# `certain`, `sure`, `disarm` and "room for more" are plain English in a text: there they count as quoted code only.
# The option `--reseal` keeps its name.
OLD_IDENTIFIERS = re.compile(
    r".*workshop.*|.*forsake.*|(?:.*_)?(?:belts?|(?:dis)?arm(?:ed)?|(?:re|un)?seal(?:s|ed|ing)?)(?:_.*)?"
    r"|certain|demanded|sure|_?say|_?handingover|promise_resolved|keep_logs_discreet|retry_wish"
    r"|_complete_all_the_same|session_here|unfolded",
    re.IGNORECASE,
)
OLD_CLASSES = frozenset({"Settings", "Ways"})
OLD_WORDS = re.compile(
    r"\bRoom\b|\brooms\b|\b(?:[Ee]ach|[Ee]very|[Oo]ther|[Oo]wn|[Tt]h[ei]s|[Tt]he) room\b"
    r"|(?i:workshop|\bbelts?\b|(?<!--)\b(?:re|un)?seal(?:s|ed|ing)?\b|\bforsaken?s?\b)"
    r"|(?<!\w)(?:_say|_HandingOver|promise_resolved|keep_logs_discreet|retry_wish|_complete_all_the_same|session_here)(?!\w)"
    r"|`(?:Settings|Ways|(?:dis)?arm|certain|demanded|sure|unfolded)`"
)

_PROPERTIES = frozenset({"cached_property", "deleter", "getter", "property", "setter"})


@dataclass(frozen=True)
class Text:
    """Comment or string literal, with its first line."""

    line: int
    text: str


@dataclass(frozen=True)
class Docstring:
    """String that stands as a statement: of a module, a class, a function, a property, or of the name above it."""

    line: int
    text: str
    function: bool

    @property
    def first_word(self) -> str:
        """Return the first word in lower case, without marks around it."""
        word = re.match(r"[\W_]*([A-Za-z]+)", self.text)
        return word[1].lower() if word else ""


def _texts(source: str, tree: ast.AST) -> Iterator[Text]:
    """Yield each comment, with adjacent lines as one text, and each string literal."""
    block: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] != first + len(block):
            yield Text(first, "\n".join(block))
            block = []
        if not block:
            first = token.start[0]
        block.append(token.string)
    if block:
        yield Text(first, "\n".join(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Text(node.lineno, node.value)


def _identifiers(tree: ast.AST) -> Iterator[Text]:
    """Yield every name that the code defines, uses or imports."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        for field in ("id", "attr", "name", "arg", "asname", "module", "names", "rest", "kwd_attrs"):
            value = getattr(node, field, None)
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str):
                    yield from (Text(line, part) for part in name.split("."))


def _docstrings(tree: ast.AST) -> Iterator[Docstring]:
    """Yield the docstrings of the file, those of attributes included."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not any(
            name in _PROPERTIES for decorator in node.decorator_list for name in ast.unparse(decorator).split(".")
        )
        for index, statement in enumerate(node.body):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str):
                    yield Docstring(statement.lineno, text, function and index == 0)


def _breaches(source: str, stem: str = "") -> Iterator[tuple[str, int, str]]:
    """Yield rule, line and words of each breach in a file of this name."""
    tree = ast.parse(source)
    for text in _texts(source, tree):
        for rule, pattern in (("actor without a name", UNNAMED), ("old name", OLD_WORDS)):
            for match in pattern.finditer(text.text):
                yield rule, text.line + text.text.count("\n", 0, match.start()), match[0]
    for name in [Text(1, stem), *_identifiers(tree)]:
        if OLD_IDENTIFIERS.fullmatch(name.text) or name.text in OLD_CLASSES:
            yield "old name", name.line, name.text
        if UNNAMED.search(name.text):
            yield "actor without a name", name.line, name.text
    for docstring in _docstrings(tree):
        start = docstring.text.partition("\n")[0]
        if docstring.first_word in QUESTION_WORDS.split():
            yield "docstring that begins with a question word", docstring.line, start
        elif docstring.function and docstring.first_word in NO_VERBS.split():
            yield "docstring of a function that does not begin with a verb", docstring.line, start


@cache
def _found() -> dict[str, list[str]]:
    """Return the breaches of each rule in both packages, in the order of files and lines."""
    found = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for rule, line, words in sorted(_breaches(path.read_text(encoding="utf-8"), path.stem)):
                found[rule].append(f"{path.relative_to(ROOT).as_posix()}:{line}: {words}")
    return found


@pytest.mark.parametrize("rule", RULES)
def test_code_breaks_no_rule(rule: str) -> None:
    """Names, docstrings, comments and texts of both packages contain no breach of a language rule."""
    places = _found()[rule]
    assert not places, "\n".join([f"{rule}, {len(places)} places:", *places[:10]])


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ("# No\n# one reads", ["actor without a name"]),
        ("x = 'Whoever' ' reads'", ["actor without a name"]),
        ("def _nobody_reads(): ...", ["actor without a name"]),
        ("nobodies = none_of_one = 1", []),
        ("def f():\n    '''What is there.'''", ["docstring that begins with a question word"]),
        ("class A:\n    x = 1\n    '''Its size.'''", ["docstring that begins with a question word"]),
        ("def f():\n    '''The text.'''", ["docstring of a function that does not begin with a verb"]),
        ("def f():\n    '''Return the text.'''", []),
        ("class A:\n    @property\n    def f(self):\n        '''The text.'''", []),
        ("from a.belt import arm", ["old name", "old name"]),
        ("class WorkshopError(Exception): ...", ["old name"]),
        ("'''Room 3.'''\nthere_is = 'room for a harmless alarm'", ["old name"]),
        ("f(certain=1, retry_wish=x.forsaken)", ["old name", "old name", "old name"]),
        ("# It is certain, and sure to be settled always.", []),
    ],
)
def test_breaches_of_each_rule_are_found(source: str, rules: list[str]) -> None:
    """The checker finds breaches across lines, in joined strings and in parts of names, and none in similar words."""
    assert [rule for rule, _, _ in _breaches(source)] == rules
