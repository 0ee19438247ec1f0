"""The text of a cassette as plain data: dicts, lists, texts, numbers. Reading it runs no code.

This module knows YAML and JSON, and none of the keys of a cassette.

YAML as a person wants to read a recording: bodies as blocks, line for line.

Own writer, because the usual one turns a body with one emoji or one trailing space into a single quoted line. What it
writes, any YAML 1.1 reader gives back unchanged. Not a general writer: mappings with keys of one line, lists, str,
bytes, int, float, bool, None.
"""

from __future__ import annotations

import base64
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from miniagents_testing.errors import CassetteFormatError

# What a block may hold: printable as YAML 1.1 has it, without the line ends that it would turn into others (CR, NEL,
# U+2028, U+2029) and without the BOM, which a reader may drop.
_PRINTABLE = "\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_BLOCK = re.compile(rf"[{_PRINTABLE}\n]*")
_LINE = re.compile(rf"[{_PRINTABLE}]*")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_+;:./=-]*[A-Za-z0-9]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_NO_STRINGS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_ESCAPED = re.compile(rf'[^{_PRINTABLE}]|[\\"\t]')
_SHORT_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def yaml_text(document: Mapping[str, Any]) -> str:
    """The document as YAML."""
    return "".join(f"{line}\n" for line in _mapping(document, ""))


def _mapping(mapping: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in mapping.items():
        yield from _entry(f"{indent}{_key(key)}:", value, indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    """`value` after `head`, on the same line or below it."""
    if isinstance(value, Mapping):
        yield head if value else f"{head} {{}}"
        yield from _mapping(value, f"{indent}  ")
    elif isinstance(value, list):
        yield head if value else f"{head} []"
        for item in value:
            yield from _item(item, indent)
    else:
        first, *rest = _scalar(value, f"{indent}  ")
        yield f"{head} {first}"
        yield from rest


def _item(item: Any, indent: str) -> Iterator[str]:
    """One item of a list; the first key of a mapping stands beside the dash."""
    if not isinstance(item, Mapping):
        yield from _entry(f"{indent}-", item, indent)
        return
    lines = _mapping(item, f"{indent}  ")
    yield f"{indent}- {next(lines).lstrip()}"
    yield from lines


def _key(key: str) -> str:
    """A name: nearly always one that needs no quotes."""
    return key if _NAME.fullmatch(key) and key.lower() not in _NO_STRINGS else "".join(_string(key, ""))


def _scalar(value: Any, indent: str) -> list[str]:
    """The lines of a scalar, all but the first with their indentation."""
    if value is None:
        return ["null"]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, (int, float)):
        return [repr(value)]
    if isinstance(value, bytes):
        lines = textwrap.wrap(base64.b64encode(value).decode("ascii"), 100) or [""]
        return ["!!binary |", *(indent + line for line in lines)]
    return _string(value, indent)


def _string(text: str, indent: str) -> list[str]:
    if "\n" in text:
        return _block(text, indent) if _fits_block(text) else _quoted(text, indent)
    if _PLAIN.fullmatch(text) and ": " not in text and text.lower() not in _NO_STRINGS:
        return [text]
    if _LINE.fullmatch(text) and "\t" not in text:
        return ["'" + text.replace("'", "''") + "'"]
    return _quoted(text, indent)


def _fits_block(text: str) -> bool:
    """Whether a literal block gives back `text`, and no reader could stumble over its white space."""
    return (
        _BLOCK.fullmatch(text) is not None
        and text.strip("\n") != ""
        and not text.startswith((" ", "\n", "\t"))
        and all(line.strip(" \t") or not line for line in text.split("\n"))
    )


def _block(text: str, indent: str) -> list[str]:
    """A literal block; the sign after `|` says which line ends at the end of it count."""
    body = text.rstrip("\n")
    line_ends = len(text) - len(body)
    sign = ("-", "", "+")[min(line_ends, 2)]
    return [f"|{sign}", *((indent + line if line else "") for line in body.split("\n")), *[""] * (line_ends - 1)]


def _quoted(text: str, indent: str) -> list[str]:
    """A double-quoted string, one source line for each of its lines."""
    lines = [_ESCAPED.sub(_escape, line) for line in re.findall(r"[^\n]*\n|[^\n]+", text)] or [""]
    # A reader drops white space at the start of a source line, so the first space of it is escaped.
    rest = [indent + ("\\" + line if line.startswith(" ") else line) for line in lines[1:]]
    joined = ['"' + lines[0], *rest]
    return [*(line + "\\" for line in joined[:-1]), joined[-1] + '"']


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


if TYPE_CHECKING:
    from collections.abc import Callable

    _BaseLoader = yaml.BaseLoader
else:
    # Every wheel of PyYAML has libyaml. PyYAML built without libyaml reads the same, 10 times slower.
    _BaseLoader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


DEEPEST = 100
"""Levels of lists and mappings in each other; a cassette has a dozen, with a parsed JSON body in it some more."""

LARGEST = 10
"""How many times longer aliases may make a text: plain vcrpy writes headers that interactions share once."""


def plain_data(text: str | bytes) -> Any:
    """Parse a text in YAML or, if it begins with a brace, in JSON: the other form that vcrpy writes.

    Raises:
        CassetteFormatError: the text cannot be read, is nested too deeply, or its aliases repeat too much.
    """
    try:
        # a JSON string may hold an emoji as two escapes, which YAML refuses
        data = json.loads(text) if text[:1] in ("{", b"{") else yaml.load(text, _Loader)
    except Exception as error:  # PyYAML's own, and those of constructors, as KeyError for `!!bool x`
        raise CassetteFormatError(f"not readable as YAML or JSON in UTF-8: {error}") from error
    if not _in_proportion(data, LARGEST * len(text)):
        raise CassetteFormatError(
            f"not a cassette: its lists and mappings are more than {DEEPEST} levels deep, "
            f"or aliases (`*name`) make it more than {LARGEST} times as long as it is"
        )
    return data


class _Loader(_BaseLoader):
    """Loader that knows text, null, booleans, decimal numbers and `!!binary`, and refuses any other tag."""

    _depth = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Count a level, called before each node. Before libyaml 0.2.6 deep nesting overflowed the stack."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels of lists and mappings")

    def ascend_resolver(self) -> None:
        """Leave a level, called after each node."""
        self._depth -= 1

    def refuse(self, node: Any) -> NoReturn:
        """Raise for a tag that no cassette has, or a merge (`<<`)."""
        raise yaml.constructor.ConstructorError(None, None, f"{node.tag} is not read in a cassette", node.start_mark)


_CONSTRUCTORS: dict[str, Callable[[Any, Any], Any]] = {
    "str": _Loader.construct_scalar,
    "seq": _Loader.construct_sequence,
    "map": _Loader.construct_mapping,
    "null": lambda loader, node: None,
    "bool": lambda loader, node: {"true": True, "false": False}[node.value.lower()],
    "int": lambda loader, node: int(node.value),
    "float": lambda loader, node: float(node.value),
    "binary": lambda loader, node: base64.decodebytes(node.value.encode("ascii")),
}
for _name, _constructor in _CONSTRUCTORS.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _constructor)
_Loader.add_constructor(None, _Loader.refuse)

# A subset of YAML 1.1, so that a text that PyYAML wrote without quotes is read as a text.
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?", list("-+0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _in_proportion(data: Any, limit: int) -> bool:
    """Return True if data is at most `DEEPEST` levels deep and, with all aliases repeated, no larger than the limit."""
    level, size = [data], 0
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, (str, bytes)):
                size += len(value)
            elif isinstance(value, (dict, list)):
                size += len(value)
                if size > limit:
                    return False
                below += (*value, *value.values()) if isinstance(value, dict) else value
        if not below:
            return size <= limit
        level = below
    return False
