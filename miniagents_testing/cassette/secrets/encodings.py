"""What a text says once its encodings are undone: percent signs, JSON escapes, base64 and hexadecimal, in any order.

Decoding the text rather than encoding the secret finds what was encoded together with its surroundings, several times
over, and also what nobody knows but by its shape.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SEPARATOR", "SHORTEST", "named", "unfolded"]

SHORTEST = 8
"""Bytes of the shortest secret that is found in base64 and hexadecimal."""

_MAX_LAYERS = 5
"""A nested JSON string with a URL in it that is encoded three times over."""

SEPARATOR = b"\0"
"""Between pieces that do not belong together; no secret has it."""

_ESCAPE = re.compile(rb'(?:\\u[0-9a-fA-F]{4})++|\\["\\/bfnrt]')
_SIMPLE = dict(zip(rb'"\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))
_BASE64 = re.compile(rb"[\w+/-]{%d,}+(?:\r?\n[\w+/-]++)*+" % -(-SHORTEST * 4 // 3))
_ONE_BASE64 = bytes.maketrans(b"-_", b"+/")
_PRINTABLE = re.compile(rb"[\t\n\r -~]{%d,}+" % SHORTEST)
_HEX = re.compile(rb"[0-9a-fA-F]{%d,}+" % (SHORTEST * 2))


def unfolded(text: bytes) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """The text as it is, then with one encoding undone, then with two, each with the names of what was undone.

    Of equal results only the first is given. All of them together are bounded by the length of the text.
    """
    seen = {text}
    level: list[tuple[tuple[str, ...], bytes]] = [((), text)]
    for depth in range(_MAX_LAYERS + 1):
        below: list[tuple[tuple[str, ...], bytes]] = []
        for names, outer in level:
            yield names, outer
            if depth == _MAX_LAYERS:
                continue
            noisy = bool(names) and names[-1] in ("base64", "hexadecimal")  # most of it was neither
            source = SEPARATOR.join(_PRINTABLE.findall(outer)) if noisy else outer
            for name, decode in _DECODERS.items():
                inner = decode(source)
                if inner and inner not in seen:
                    seen.add(inner)
                    below.append(((*names, name), inner))
        level = below


def named(names: tuple[str, ...]) -> str:
    """The names that come with a text of `unfolded`, for a person; the outermost first."""
    words: list[str] = []
    for name in names:
        if words and words[-1].startswith(name):
            words[-1] = name + (" three times" if words[-1].endswith(" twice") else " twice")
        else:
            words.append(name)
    return ", ".join(words) or "plain"


def _unescaped(text: bytes) -> bytes:
    """The text without the escapes of JSON."""
    return _ESCAPE.sub(_character, text) if b"\\" in text else text


def _character(escape: re.Match[bytes]) -> bytes:
    code = escape[0]
    if code[1] != ord("u"):
        return _SIMPLE[code[1]].to_bytes()
    # Halves of a surrogate pair that are alone have no UTF-8, and are no part of a secret.
    return str(json.loads(b'"%b"' % code)).encode("utf-8", "surrogatepass")


def _unquoted(text: bytes) -> bytes:
    return unquote_to_bytes(text) if b"%" in text else text


def _from_base64(text: bytes) -> bytes:
    """What each run of its characters says at each of the four places where it may begin."""
    found = []
    for run in set(_BASE64.findall(text)):
        digits = run.translate(_ONE_BASE64, b"\r\n")
        for start in range(4):
            part = digits[start:]
            part = part[: len(part) - (len(part) % 4 == 1)]
            found.append(binascii.a2b_base64(part + b"=" * (-len(part) % 4)))
    return SEPARATOR.join(found)


def _from_hex(text: bytes) -> bytes:
    """What each run of hexadecimal digits says at both of the places where it may begin."""
    return SEPARATOR.join(
        binascii.unhexlify(run[start : start + (len(run) - start) // 2 * 2])
        for run in set(_HEX.findall(text))
        for start in (0, 1)
    )


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "percent-encoded": _unquoted,
    "JSON-escaped": _unescaped,
    "base64": _from_base64,
    "hexadecimal": _from_hex,
}
