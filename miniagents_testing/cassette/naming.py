"""What the cassette of a test is called where nobody says a name. Knows no pytest."""

from __future__ import annotations

import hashlib
import re

__all__ = ["cassette_name"]

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""In names of files, on one system or another (Windows has the longest list)."""
_LONGEST = 100
"""Characters; file systems take 255 bytes, and a character may have four."""


def cassette_name(module: str, test: str) -> str:
    """The path of a test's cassette, below the folder of the cassettes.

    Args:
        module: the name of the test file, without its ending.
        test: the name of the test with its parameters, `Class.test` for one in a class.
    """
    name = _FORBIDDEN.sub("-", test)[:_LONGEST]
    if name != test:  # two tests must not share a cassette because they differ in what cannot be in a name
        name = f"{name}-{hashlib.sha256(test.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{module}/{name}.yaml"
