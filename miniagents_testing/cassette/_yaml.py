"""Writer and reader of the text of a cassette as plain data. Reading runs no code.

`yaml_text` writes bodies as blocks, line for line, because PyYAML turns a body with one emoji or one trailing space
into a single quoted line. Any YAML 1.1 reader reads its text unchanged. It writes mappings with keys of one line or of
bytes, lists, str, bytes, int, float, bool and None, and no other values.

`plain_data` reads YAML and JSON. Independent of the keys of a cassette.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from miniagents_testing.errors import CassetteFormatError

# Characters of a block: those that YAML 1.1 calls printable, without the line ends that a reader replaces by others
# (CR, NEL, U+2028, U+2029) and without the BOM, which a reader may drop.
_PRINTABLE = "\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_BLOCK = re.compile(rf"[{_PRINTABLE}\n]*")
_BLANK = re.compile(r"\n[ \t]+(?:\n|\Z)")
_LINE = re.compile(rf"[{_PRINTABLE}]*")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_+;:./=-]*[A-Za-z0-9]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_NO_STRINGS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_ESCAPED = re.compile(rf'[^{_PRINTABLE}]|[\\"\t]')
_SHORT_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def yaml_text(document: Mapping[str, Any]) -> str:
    """Write a document as YAML."""
    return "\n".join([*_mapping(document, ""), ""])


def _mapping(mapping: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield the lines of a mapping in YAML; a text of several lines is yielded as one item."""
    for key, value in mapping.items():
        yield from _entry(f"{indent}{_key(key)}:", value, indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a value in YAML after `head`, which is a key with colon or a dash.

    A scalar begins on the line of `head`; items stand below it.
    """
    if isinstance(value, Mapping):
        yield head if value else f"{head} {{}}"
        yield from _mapping(value, f"{indent}  ")
    elif isinstance(value, list):
        yield head if value else f"{head} []"
        for item in value:
            yield from _item(item, indent)
    else:
        yield f"{head} {_scalar(value, f'{indent}  ')}"


def _item(item: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a list item; the first key of a mapping stands beside the dash."""
    if not isinstance(item, Mapping) or not item:
        yield from _entry(f"{indent}-", item, indent)
        return
    lines = _mapping(item, f"{indent}  ")
    yield f"{indent}- {next(lines).lstrip()}"
    yield from lines


def _key(key: str | bytes) -> str:
    """Return a key as YAML, with quotes only if it needs them; bytes become base64 on one line."""
    if isinstance(key, bytes):
        return f"!!binary '{base64.b64encode(key).decode('ascii')}'"
    return key if _NAME.fullmatch(key) and key.lower() not in _NO_STRINGS else _string(key, "")


def _scalar(value: Any, indent: str) -> str:
    """Return the lines of a scalar, all but the first with their indentation; bytes become base64."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, bytes):
        digits = base64.b64encode(value).decode("ascii")
        lines = [digits[start : start + 100] for start in range(0, len(digits), 100)] or [""]
        return "\n".join(["!!binary |", *(indent + line for line in lines)])
    return _string(value, indent)


def _string(text: str, indent: str) -> str:
    """Return the lines of a text in the plainest form that reads back unchanged: plain, quoted, or a block."""
    if "\n" in text:
        return _block(text, indent) if _fits_block(text) else _quoted(text, indent)
    if _PLAIN.fullmatch(text) and ": " not in text and text.lower() not in _NO_STRINGS:
        return text
    if _LINE.fullmatch(text) and "\t" not in text:
        return "'" + text.replace("'", "''") + "'"
    return _quoted(text, indent)


def _fits_block(text: str) -> bool:
    """Return True if every reader reads `text` unchanged from a literal block, white space included."""
    return (
        _BLOCK.fullmatch(text) is not None
        and text.strip("\n") != ""
        and not text.startswith((" ", "\n", "\t"))
        and _BLANK.search(text) is None
    )


def _block(text: str, indent: str) -> str:
    """Return the lines of a literal block; the sign after `|` says how many line ends at its end belong to the text."""
    body = text.rstrip("\n")
    line_ends = len(text) - len(body)
    sign = ("-", "", "+")[min(line_ends, 2)]
    lines = [indent + line if line else "" for line in body.split("\n")]
    return "\n".join([f"|{sign}", *lines, *[""] * (line_ends - 1)])


def _quoted(text: str, indent: str) -> str:
    """Return a double-quoted string of YAML, a line for each line of the text; `indent` begins all but the first."""
    lines = [_ESCAPED.sub(_escape, line) for line in re.findall(r"[^\n]*\n|[^\n]+", text)] or [""]
    # A reader drops white space at the start of a source line, so the first space of it is escaped.
    rest = [indent + ("\\" + line if line.startswith(" ") else line) for line in lines[1:]]
    joined = ['"' + lines[0], *rest]
    return "\\\n".join(joined) + '"'


def _escape(match: re.Match[str]) -> str:
    """Return the matched character as an escape of a double-quoted string."""
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


_MOST_LEVELS = 100
"""Most levels of nested lists and mappings; a cassette has a dozen, and more if a body is parsed JSON."""

_MOST_GROWTH = 10
"""Most times that aliases may lengthen a text; plain vcrpy writes them for headers that interactions share."""


def plain_data(text: str | bytes) -> Any:
    """Parse a text in YAML or, if it begins with a brace, in JSON: the other form that vcrpy writes.

    Raises:
        CassetteFormatError: the text cannot be read, is nested too deeply, or its aliases repeat too much.
    """
    try:
        # a JSON string may hold an emoji as two escapes, which YAML refuses
        data = json.loads(text) if text[:1] in ("{", b"{") else yaml.load(text, _Loader)
    except Exception as error:  # those of PyYAML, and of constructors, as KeyError for `!!bool x`
        raise CassetteFormatError(f"is no cassette: {_reason(error, text)}") from None  # frames of a parser say no more
    if not _is_in_proportion(data, _MOST_GROWTH * len(text)):
        raise CassetteFormatError(
            f"is no cassette: its lists and mappings are more than {_MOST_LEVELS} levels deep, "
            f"or aliases (`*name`) make it more than {_MOST_GROWTH} times as long as it is"
        )
    return data


_MERGE_MARK = re.compile(rb"^(<{7}|\|{7}|={7}|>{7})(?: .*)?\r?$", re.MULTILINE)
"""Line that git writes between the versions of a file that it could not merge."""


def _reason(error: Exception, text: str | bytes) -> str:
    """Return the reason for which a text cannot be read, with the line if it is known."""
    content = text if isinstance(text, bytes) else text.encode(errors="replace")
    if mark := _MERGE_MARK.search(content):
        line = content[: mark.start()].count(b"\n") + 1
        return (
            f"line {line} is a mark of a merge ({mark[1].decode()}), so two versions are in it. "
            "Keep one, as `git checkout --ours` or `--theirs` does, or record it again"
        )
    if isinstance(error, yaml.constructor.ConstructorError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1} is not YAML"
    if isinstance(error, yaml.reader.ReaderError) and isinstance(error.position, int):
        before = text[: error.position]
        lines = before.count(b"\n") if isinstance(before, bytes) else before.count("\n")
        return f"line {lines + 1} is not YAML"
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno} is not JSON"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    return f"a value in it cannot be read: {error}"


class _Loader(_BaseLoader):
    """Loader that knows text, null, booleans, decimal numbers and `!!binary`, and refuses any other tag."""

    _depth = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Count a level, called before each node. Before libyaml 0.2.6 deep nesting overflowed the stack."""
        self._depth += 1
        if self._depth > _MOST_LEVELS:
            raise yaml.YAMLError(f"more than {_MOST_LEVELS} levels of lists and mappings")

    def ascend_resolver(self) -> None:
        """Count a level less, called after each node."""
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


def _is_in_proportion(data: Any, limit: int) -> bool:
    """Return True if data has at most `_MOST_LEVELS` levels and, aliases repeated, a size of at most `limit`."""
    level, size = [data], 0
    for _ in range(_MOST_LEVELS):
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
