"""What the cassette of a test is called where nobody says a name. Knows no pytest."""

from __future__ import annotations

import hashlib
import re

__all__ = ["cassette_name"]

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""In names of files, on one system or another (Windows has the longest list)."""
_LONGEST = 100
"""Bytes; file systems take 255, and who saves or replaces a file makes longer names of it."""


def cassette_name(module: str, test: str) -> str:
    """The path of a test's cassette, below the folder of the cassettes.

    Args:
        module: the name of the test file, without its ending.
        test: the name of the test with its parameters, `Class.test` for one in a class.
    """
    short = test.encode("utf-8", "ignore")[:_LONGEST].decode("utf-8", "ignore")
    name = _FORBIDDEN.sub("-", short)
    parameters = name.partition("[")[2]
    # two tests must not share a cassette because they differ in what cannot be in a name, or in what is one to a system
    # that knows no case: there parameters, unlike functions, differ easily
    if name != test or parameters != parameters.casefold():
        name = f"{name}-{hashlib.sha256(test.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{module}/{name}.yaml"
