"""The codec of values: all that a message may hold, as JSON and back; for hashes, references, dumps and stores.

JSON types stand for themselves, arrays for tuples, objects for `FrozenDict`. A Frozen is an object of its fields, with
the name of its class under `class_`. Any other value is an object with one key, its tag;
`docs/how-to/histories.md` has a table of the tags. Keys of the content differ from tags and `class_`: one that begins
with `$` gets another `$` in front, one such as `class_` gets another `_` at its end. A key with lone surrogates is
`$text:` and the base64 of its UTF-8.

Texts have no blanks, and non-ASCII characters as they are. Pydantic-core writes and reads values that are plain, as
`freezing` calls values without tags, escaped keys and Frozen; Python code writes and reads all others in that form.

A hash is computed from the text with keys sorted by code point and `{"$frozen": "..."}`, the digest, for each nested
Frozen. Declared fields that hold None are left out there, so that a class can get new optional fields while old hashes
stay. `tests/promising/test_frozen.py` has golden vectors.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from math import isfinite
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic_core import from_json, to_json, to_jsonable_python

from miniagents._promising.freezing import (
    ATOMS,
    PLAIN,
    FrozenDict,
    FrozenLeaf,
    Storage,
    freeze,
    is_plain,
    make_frozen_dict,
    set_codec,
    short_repr,
)
from miniagents._promising.naming import CLASS_KEY, FROZEN_CLASSES, escaped, is_utf8, unescaped_key
from miniagents.bounds import MAX_JSON_NESTING, MAX_NESTING
from miniagents.errors import FreezeError

if TYPE_CHECKING:
    from miniagents._promising.frozen import Frozen


_MAX_DIGITS: Final = 4000
_LARGE: Final = 10**_MAX_DIGITS
_TEXT_KEY: Final = "$text:"


class MissingDigest(Exception):  # noqa: N818 - a signal between this module and `frozen`
    """Error of a nested Frozen that has no digest yet; `frozen` catches it and computes the digest."""


# --- values to JSON


class Form:
    """Writer of values as JSON; its arguments say how nested Frozen and mappings are written.

    Pydantic-core writes plain values where the order of keys does not matter. Python's C encoder walks others, and
    calls `_represent` for types that it does not know. It cannot write all values of the types that it knows: huge
    ints, NaN and lone surrogates. Those are rare: the encoder fails, and slower code in Python writes the whole value.

    Args:
        frozen: returns the dict to write for a nested Frozen, or raises.
        mapping: returns the items to write for the items of a `FrozenDict`.
        sort_keys: True to write keys in the order of code points.
        nests: True if nested Frozen are written in their place, so that the JSON may nest too deep and is checked for
            it. False if a short reference stands for each of them.
    """

    def __init__(
        self,
        frozen: Callable[[Any], dict[str, Any]],
        mapping: Callable[[dict[str, Any]], dict[str, Any]] = escaped,
        *,
        sort_keys: bool = False,
        nests: bool = False,
    ) -> None:
        self.frozen = frozen
        self._mapping = mapping
        self._sort_keys = sort_keys
        self._nests = nests
        self._encode = _make_encoder(self._represent, sort_keys=sort_keys)

    def text(self, value: Any, *, plain: bool = False) -> str:
        """Return the value as JSON text.

        Args:
            value: a frozen value, or a dict whose keys `escaped` has escaped.
            plain: True if the caller knows that the value, or each value of the dict, is plain, as `is_plain` says.

        Raises:
            ValueError: the value nests too deep to be read back.
        """
        if plain or self._is_plain(value):
            try:
                return to_json(value).decode()
            except ValueError:  # a key of the dict has lone surrogates
                pass
        try:
            return self._fast_text(value)
        except ValueError:
            self._check_levels(value)
            return _write(self._to_strict_json(value), sort_keys=self._sort_keys)

    def json(self, value: Any, *, plain: bool = False) -> Any:
        """Return the value as the types that JSON text is parsed into; arguments and errors are those of `text`."""
        if plain or self._is_plain(value):
            try:
                return to_jsonable_python(value)
            except ValueError:  # as above
                pass
        try:
            return json.loads(self._fast_text(value))
        except ValueError:
            self._check_levels(value)
            return self._to_strict_json(value)

    def _is_plain(self, value: Any) -> bool:
        """Return True if pydantic-core writes the value, or the dict with escaped keys, as this form does."""
        if self._sort_keys:
            return False
        return all(map(is_plain, value.values())) if type(value) is dict else is_plain(value)

    def _fast_text(self, value: Any) -> str:
        """Return JSON text by the C encoder; raise ValueError for a value that it may not write rightly.

        Those are NaN, lone surrogates, values nested too deep, and texts with so many digits that they may be a huge
        int.
        """
        try:
            text = self._encode(value)
        except RecursionError:
            raise _make_depth_error() from None
        if not text.isascii():
            text.encode()  # fails for lone surrogates
        if len(text) > _MAX_DIGITS and _has_many_digits(text):
            raise ValueError("perhaps a huge int")
        if self._nests and text.count("[") + text.count("{") > MAX_JSON_NESTING:
            self._check_levels(value)
        return text

    def _check_levels(self, value: Any, level: int = 0) -> None:
        """Raise `ValueError` if a value, which is inside of `level` containers, nests too deep to be read back.

        Check nothing if nested Frozen are not written.
        """
        if type(value) is FrozenDict:
            value = value._items
        elif isinstance(value, FrozenLeaf):
            value = self.frozen(value)
        if not self._nests or not isinstance(value, (dict, tuple, list, frozenset)):
            return
        if level > MAX_JSON_NESTING:
            raise _make_depth_error()
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) not in ATOMS:
                self._check_levels(item, level + 1)

    def _represent(self, value: Any) -> Any:
        """Return the JSON form of a value of a type that JSON lacks; the parts of the value are not converted yet.

        Freeze a value of any other type; the encoder then converts the frozen value.
        """
        kind = type(value)
        if kind is FrozenDict:
            return value._items if is_plain(value) else self._mapping(value._items)
        leaf = _LEAVES.get(kind)
        if leaf is not None:
            return {leaf.tag: leaf.dump(value)}
        if isinstance(value, FrozenLeaf):
            return self.frozen(value)
        if isinstance(value, (frozenset, set)):
            return self._represent_set(value)
        return freeze(value)

    def _represent_set(self, value: frozenset[Any] | set[Any]) -> dict[str, Any]:
        """Return a set as an object `{"$set": [...]}` with its elements in sorted order."""
        # Sorted, because the order of a set differs between processes. Each element is converted once: sets may nest.
        return {"$set": sorted([self._to_strict_json(item) for item in value], key=_write_sorted)}

    def _to_strict_json(self, value: Any) -> Any:
        """Return `value` as JSON types that every parser accepts.

        Huge ints, NaN, lone surrogates, and types that JSON lacks become objects with a tag.
        """
        if value is None or value is True or value is False:
            return value
        if isinstance(value, Enum):
            return self._to_strict_json(freeze(value))
        if isinstance(value, str):
            return value if is_utf8(value) else {"$text": _base64_of(value)}
        if isinstance(value, int):
            return value if -_LARGE < value < _LARGE else {"$int": hex(value)}
        if isinstance(value, float):
            return value if isfinite(value) else {"$float": repr(value)}
        if isinstance(value, dict):
            return {_encode_key(key): self._to_strict_json(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._to_strict_json(item) for item in value]
        if isinstance(value, (frozenset, set)):
            return self._represent_set(value)
        return self._to_strict_json(self._represent(value))


def _make_encoder(default: Callable[[Any], Any], *, sort_keys: bool) -> Callable[[Any], str]:
    """Return Python's JSON encoder, without spaces and in C if possible; it raises `ValueError` for NaN and infinity.

    Making one costs as much as writing a short text.
    """
    # check_circular=False: frozen content cannot contain itself
    encoder = json.JSONEncoder(
        ensure_ascii=False,
        check_circular=False,
        allow_nan=False,
        sort_keys=sort_keys,
        separators=(",", ":"),
        default=default,
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    quote = getattr(json.encoder, "c_encode_basestring", None)
    if make is None or quote is None:
        return encoder.encode
    encode = make(None, default, quote, None, ":", ",", sort_keys, False, False)
    return lambda value: "".join(encode(value, 0))


_encode_native: Final = _make_encoder(lambda value: value, sort_keys=False)
_encode_sorted: Final = _make_encoder(lambda value: value, sort_keys=True)


def _write_sorted(value: Any) -> str:
    """Return JSON types as text with sorted keys, also if an int has more digits than Python would write."""
    try:
        return _encode_sorted(value)
    except ValueError:  # sys.set_int_max_str_digits
        return _write(value, sort_keys=True)


def _write(value: Any, *, sort_keys: bool) -> str:
    """Return JSON types as text like that of the C encoder; write ints of any size, which Python limits by default."""
    if isinstance(value, dict):
        items = sorted(value.items()) if sort_keys else value.items()
        return f"{{{','.join(f'{_encode_native(key)}:{_write(item, sort_keys=sort_keys)}' for key, item in items)}}}"
    if isinstance(value, list):
        return f"[{','.join(_write(item, sort_keys=sort_keys) for item in value)}]"
    return format(Decimal(value), "f") if type(value) is int else _encode_native(value)


def _has_many_digits(text: str) -> bool:
    """Return True if there may be more than 4,000 digits in a row: these would contain a whole slice of 2,000."""
    half = _MAX_DIGITS // 2
    return any(text[end - half : end].isdigit() for end in range(half, len(text) + 1, half))


def _base64_of(text: str) -> str:
    """Return the UTF-8 bytes of a text in base64, lone surrogates included."""
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _encode_key(key: str) -> str:
    """Return a key of an object; one with lone surrogates becomes a tagged key in base64."""
    return key if is_utf8(key) else _TEXT_KEY + _base64_of(key)


def _make_depth_error() -> ValueError:
    """Return the error of a value that nests too deep for JSON parsers."""
    return ValueError(
        f"values nest more than {MAX_JSON_NESTING} deep, which JSON parsers do not take; "
        f"store messages that hold each other one by one, by serialize()"
    )


def _refer_by_digest(value: Frozen) -> dict[str, Any]:
    """Return the JSON object that stands for a nested Frozen in a text that is hashed: the digest of the Frozen.

    Raise `MissingDigest` if it is not computed yet.
    """
    known = value._digest_if_ready()
    if known is None:
        raise MissingDigest
    return {"$frozen": known}


IN_PLACE: Final = Form(lambda value: value._dump_shallow({}), nests=True)
"""Writer of dumps: a nested Frozen is written in its place."""
_DIGEST: Final = Form(_refer_by_digest, sort_keys=True)


def digest(content: dict[str, Any]) -> str:
    """Return the 64 hex digits of SHA-256 over the text of an object with these items, keys escaped already.

    Raises:
        MissingDigest: a nested Frozen has no digest yet.
    """
    return sha256(_DIGEST.text(content).encode()).hexdigest()


def encode(value: Any) -> Any:
    """Return `value` as JSON types, from which `decode` makes an equal value.

    Args:
        value: a value that a field of a message may hold; lists, dicts and sets are frozen first, as in a message.

    Raises:
        FreezeError: a part of it is of a type that no message can hold.
        ValueError: it nests more than 300 deep.
    """
    return IN_PLACE.json(freeze(value))


def canonical_text(value: Any) -> str:
    """Return the canonical JSON text of `value`, for hashes and comparisons: different values have different texts.

    Keys are sorted, there are no blanks, and UTF-8 can encode each character.

    Args:
        value: as for `encode`.

    Raises:
        FreezeError: a part of it is of a type that no message can hold.
        ValueError: it nests more than 300 deep.
    """
    return _write_sorted(encode(value))


# --- and back


def decode(json_value: Any) -> Any:
    """Return the value from which `encode` made `json_value`: immutable, with its types and classes.

    An object of an unknown class becomes a `Message`; an object with an unknown tag stays a dict.

    Raises:
        ValueError: a tag has content that it cannot have, or fields are not what their class says. The message says
            where.
        FreezeError: it nests more than 200 deep, or more than 300 with nested Frozen.
    """
    with _raise_with_place("value"):
        return _decode(json_value, 0, MAX_NESTING)


def read_plain_json(text: str | bytes | bytearray) -> dict[str, Any] | None:
    """Return the frozen items of a JSON object that has neither tags nor escaped keys nor nested classes.

    Return None for any other text, also for one that is no JSON. The object itself may have the key `class_`.
    """
    try:
        text = text if isinstance(text, str) else str(text, "utf-8")
        # One character is found many times faster than several: most texts have neither `$` nor a backslash.
        has_tags = "$" in text and '"$' in text
        has_escapes = "\\" in text and "\\u00" in text  # perhaps of `$`, or of a character of `class_`
        classes = text.count(f'"{CLASS_KEY}')
        if has_tags or has_escapes or classes > 1 or (len(text) > _MAX_DIGITS and _has_many_digits(text)):
            return None
        parsed = from_json(text, allow_inf_nan=False, cache_strings="keys")
        if type(parsed) is not dict or classes != (CLASS_KEY in parsed):
            return None
        return _freeze_parsed(parsed)._items
    except (TypeError, ValueError, RecursionError):
        return None


def _freeze_parsed(items: dict[str, Any]) -> FrozenDict[str, Any]:
    """Return a parsed JSON object as a plain mapping, which takes the dict itself.

    Raise `ValueError` for a number that is too large for a float.
    """
    for key, value in items.items():
        kind = type(value)
        if kind is str:
            continue
        if kind is list:
            items[key] = _freeze_parsed_list(value)
        elif kind is dict:
            items[key] = _freeze_parsed(value)
        elif kind is float and not isfinite(value):
            raise ValueError("not finite")
    new: FrozenDict[str, Any] = Storage()  # type: ignore[assignment]  # as in `make_plain_dict`, without a call
    new._items = items
    new.__pydantic_serializer__ = PLAIN
    new.__class__ = FrozenDict
    return new


def _freeze_parsed_list(items: list[Any]) -> tuple[Any, ...]:
    """Return a parsed JSON array as a tuple of plain values; raise `ValueError` as `_freeze_parsed` does."""
    frozen = []
    for value in items:
        kind = type(value)
        if kind is dict:
            value = _freeze_parsed(value)
        elif kind is list:
            value = _freeze_parsed_list(value)
        elif kind is float and not isfinite(value):
            raise ValueError("not finite")
        frozen.append(value)
    return tuple(frozen)


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """Error of a malformed value, with the error to raise and the path to the value, innermost step first."""

    def __init__(self, reason: str, kind: type[Exception] = ValueError) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.path: list[str] = []


def decode_mapping(dump: Mapping[Any, Any], where: str = "value") -> dict[str, Any]:
    """Return the decoded fields of a dump, or the decoded items of a mapping; errors call it `where`.

    Dumps in Python's types can be decoded as well.
    """
    with _raise_with_place(where):
        return _decode_items(dump, 1, MAX_NESTING + 1)


@contextmanager
def _raise_with_place(where: str) -> Iterator[None]:
    """Replace a `_Malformed` error of the block by the error it holds, whose text has `where` and the value's path."""
    try:
        yield
    except _Malformed as error:
        raise error.kind(f"{where}{''.join(reversed(error.path))}{error.reason}") from None
    except RecursionError:
        raise FreezeError(f"{where} nests more than {MAX_JSON_NESTING} deep") from None


def _decode(value: Any, level: int, limit: int) -> Any:
    """Return a value, which is inside of `level` containers, decoded and frozen.

    A container inside of `limit` others nests too deep. An object of an unknown class becomes one of
    `FROZEN_CLASSES.unknown`. Raise `_Malformed` or `ValueError` for a value that is no dump, and `FreezeError` for one
    that nests too deep.
    """
    kind = type(value)
    if kind is dict:
        cls = None
        if level >= limit:
            raise _make_decoding_error()
        if CLASS_KEY in value:
            cls = FROZEN_CLASSES.find(value[CLASS_KEY]) or FROZEN_CLASSES.unknown
            limit = min(level + MAX_NESTING, MAX_JSON_NESTING) + 1
        elif len(value) == 1:
            [(tag, content)] = value.items()
            if tag in _LOADERS:
                return _load_tag(tag, content, level, limit)
        items = _decode_items(value, level + 1, limit)
        return make_frozen_dict(items) if cls is None else cls._construct_decoded(items)
    if kind is list or kind is tuple:
        if level >= limit:
            raise _make_decoding_error()
        return tuple(value) if ATOMS.issuperset(map(type, value)) else _decode_array(value, level + 1, limit)
    if isinstance(value, Mapping) and not isinstance(value, FrozenLeaf):
        return _decode(dict(value), level, limit)
    if kind in ATOMS:
        return value
    try:
        return freeze(value, "")  # a value of a dump in Python's types
    except FreezeError as error:
        raise _Malformed(str(error), FreezeError) from None


def _make_decoding_error() -> FreezeError:
    """Return the error of a dump that nests too deep to be decoded."""
    return FreezeError(f"a dump nests more than {MAX_NESTING} deep, or more than {MAX_JSON_NESTING} with nested Frozen")


def _decode_items(value: Mapping[Any, Any], level: int, limit: int) -> dict[str, Any]:
    """Return the items of an object decoded, without `class_`, under the keys they had before they were escaped.

    Raise `_Malformed`, with the key in its path, for a value that is no dump. `level` and `limit` are those of
    `_decode`.
    """
    items: dict[str, Any] = {}
    for key, item in value.items():
        if type(item) not in ATOMS:
            try:
                item = _decode(item, level, limit)
            except _Malformed as error:
                error.path.append(f"[{key!r}]")
                raise
        if type(key) is not str:
            [key] = freeze({key: None})
        items[key] = item
    items.pop(CLASS_KEY, None)
    names = "".join(items)
    if "$" not in names and CLASS_KEY not in names:
        return items
    return {unescaped_key(_decode_key(key)): item for key, item in items.items()}


def _decode_array(value: list[Any] | tuple[Any, ...], level: int, limit: int) -> tuple[Any, ...]:
    """Return the decoded items of a JSON array as a tuple.

    Raise `_Malformed`, with the index in its path, for an item that is no dump. `level` and `limit` are those of
    `_decode`.
    """
    items: list[Any] = []
    try:
        for item in value:
            items.append(item if type(item) in ATOMS else _decode(item, level, limit))  # noqa: PERF401 - an error needs the number of items so far
    except _Malformed as error:
        error.path.append(f"[{len(items)}]")
        raise
    return tuple(items)


def _decode_key(key: str) -> str:
    """Return the key from which `_encode_key` made this one: decode the base64 after `$text:`, and keep other keys.

    Raise `_Malformed` if that is no valid base64 of a text.
    """
    if not key.startswith(_TEXT_KEY):
        return key
    try:
        return _load_text(key.removeprefix(_TEXT_KEY))
    except (TypeError, ValueError) as error:
        raise _Malformed(f": the key {short_repr(key)} is malformed: {error}") from None


def _load_tag(tag: str, content: Any, level: int, limit: int) -> Any:
    """Return the value of an object with one known tag, frozen.

    Raise `_Malformed` if the content does not fit the tag, and `FreezeError` if a set nests too deep.
    """
    if tag == "$set" and isinstance(content, (list, tuple)):
        try:
            return freeze(frozenset(_decode_array(content, level + 1, limit)))
        except _Malformed as error:
            error.path.append("['$set']")
            raise
        except FreezeError:
            raise
        except TypeError as error:  # a signalling NaN has no hash
            raise _Malformed(f": {short_repr({tag: content})} is malformed: {error}") from None
    try:
        return _LOADERS[tag](content)
    except _LOAD_ERRORS as error:
        raise _Malformed(f": {short_repr({tag: content})} is malformed: {error}") from None


_LOAD_ERRORS: Final = (TypeError, ValueError, LookupError, ArithmeticError, OSError)
"""Errors that loading a tag may raise; an OSError comes from names of time zones that are no files."""


# --- leaves


class _Leaf(NamedTuple):
    """Type of values that JSON lacks, such as dates: its tag, and its functions to JSON types and back."""

    tag: str
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _moment_text(value: datetime | time) -> str:
    """Return a datetime or a time in ISO format, with the name of its time zone and a mark for `fold=1`."""
    zone, fold = value.tzinfo, "[fold=1]" if value.fold else ""
    if isinstance(zone, ZoneInfo):  # the name, because offsets depend on the database of the machine
        return f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]{fold}"
    return value.isoformat() + fold


_MOMENT: Final = re.compile(r"([^\[\]]+)(?:\[([^\[\]=]+)\])?(\[fold=1\])?")


def _load_moment(kind: type[datetime | time]) -> Callable[[Any], datetime | time]:
    """Return a function that reads a datetime or a time from a text of `_moment_text`."""

    def load(content: Any) -> datetime | time:
        """Read the moment with its zone and its fold; raise `ValueError` for a text of another form."""
        match = _MOMENT.fullmatch(content)
        if match is None:
            raise ValueError("not as `2026-01-02T03:04:05[zone][fold=1]`")
        moment = kind.fromisoformat(match[1])
        if match[2]:
            moment = moment.replace(tzinfo=ZoneInfo(match[2]))
        return moment.replace(fold=1) if match[3] else moment

    return load


_PATHS: Final[dict[str, type[PurePath]]] = {
    "PurePosixPath": PurePosixPath,
    "PureWindowsPath": PureWindowsPath,
    "PosixPath": PurePosixPath,
    "WindowsPath": PureWindowsPath,
    type(Path()).__name__: type(Path()),  # the path of another system is read as a pure path
}


def _load_path(content: Any) -> PurePath:
    """Return the path of an array `[class name, text]`; raise an error for other contents or an unknown class.

    The text has a tag if its bytes are not UTF-8.
    """
    if isinstance(content, (list, tuple)):
        content = [_load_text(part["$text"]) if isinstance(part, Mapping) else part for part in content]
    kind, path = _expect_strings(content, 2)
    return _PATHS[kind](path)


def _load_text(content: Any) -> str:
    """Return the text whose UTF-8 bytes are in this base64; raise an error for other contents."""
    return base64.b64decode(_expect_string(content), validate=True).decode("utf-8", "surrogatepass")


def _load_timedelta(content: Any) -> timedelta:
    """Return the timedelta of an array of days, seconds and microseconds; raise `ValueError` for other contents."""
    if not (isinstance(content, (list, tuple)) and [type(part) for part in content] == [int] * 3):
        raise ValueError("not three whole numbers")
    return timedelta(*content)


def _load_float(content: Any) -> float:
    """Return the float for "nan", "inf" or "-inf", which JSON numbers cannot hold.

    Raise `ValueError` for other contents.
    """
    if content not in ("nan", "inf", "-inf"):
        raise ValueError("not nan, inf or -inf")
    return float(content)


def _expect_string(content: Any) -> str:
    """Return the content if it is a string; raise `TypeError` otherwise."""
    if not isinstance(content, str):
        raise TypeError("not a string")
    return content


def _expect_strings(content: Any, count: int) -> list[str]:
    """Return an array of `count` strings as a list; raise an error for any other content."""
    if not isinstance(content, (list, tuple)) or len(content) != count:
        raise ValueError(f"not {count} strings")
    return [_expect_string(part) for part in content]


def _refuse_set(content: Any) -> Any:
    """Raise the error of a `$set` tag whose content is no array."""
    raise ValueError("not an array")


_PATH_LEAF: Final = _Leaf("$path", lambda value: [type(value).__name__, str(value)], _load_path)

_LEAVES: Final[dict[type, _Leaf]] = {
    Decimal: _Leaf(
        "$decimal",
        lambda value: str(value).upper(),  # the decimal context says how the exponent is written
        lambda content: Decimal(_expect_string(content)),
    ),
    bytes: _Leaf(
        "$bytes",
        lambda value: base64.b64encode(value).decode(),
        lambda content: base64.b64decode(_expect_string(content), validate=True),
    ),
    UUID: _Leaf("$uuid", str, lambda content: UUID(_expect_string(content))),
    date: _Leaf("$date", date.isoformat, lambda content: date.fromisoformat(_expect_string(content))),
    datetime: _Leaf("$datetime", _moment_text, _load_moment(datetime)),
    time: _Leaf("$time", _moment_text, _load_moment(time)),
    timedelta: _Leaf("$timedelta", lambda value: [value.days, value.seconds, value.microseconds], _load_timedelta),
    PurePosixPath: _PATH_LEAF,
    PureWindowsPath: _PATH_LEAF,
    type(Path()): _PATH_LEAF,
}

_LOADERS: Final[dict[str, Callable[[Any], Any]]] = {
    "$int": lambda content: int(_expect_string(content), 16),
    "$float": _load_float,
    "$text": _load_text,
    "$set": _refuse_set,
    **{leaf.tag: leaf.load for leaf in _LEAVES.values()},
}


set_codec(IN_PLACE.json, decode_mapping)
