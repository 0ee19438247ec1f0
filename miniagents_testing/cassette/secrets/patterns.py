"""What looks like a key without being known.

Stricter than `miniagents.ext.llm._redaction` is with errors, out of the same parts: a hole in an error message costs
nothing, a hole in a prompt makes it another prompt. "basic multiplication" and "hf_hub_download" stay.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from miniagents.ext.llm._redaction import KEY_PREFIXES, TOKEN_SHAPES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["holds_key", "is_secret_name", "keys_in"]

_WITH_DIGIT = r"(?=[A-Za-z_.~+/-]{0,99}[0-9])"

# The look-behinds also keep them out of base64, of which a megabyte would hold one or two by chance.
_KEY = "|".join(
    (
        rf"(?<![A-Za-z0-9_-])(?:{KEY_PREFIXES})[-_]{_WITH_DIGIT}[A-Za-z0-9_-]{{20,}}",
        rf"(?<![A-Za-z0-9])(?:{TOKEN_SHAPES})",
        r"(?<![A-Za-z0-9_-])github_pat_[A-Za-z0-9_]{20,}",
        # Whose account it is: a 429 of OpenAI says "in organization org-...".
        rf"(?<![A-Za-z0-9_-])(?:org-|proj_){_WITH_DIGIT}[A-Za-z0-9]{{20,}}",
        rf"(?<=[Bb]earer ){_WITH_DIGIT}[A-Za-z0-9_.~+/-]{{20,}}=*",
        rf"(?<=api[-_]key=){_WITH_DIGIT}[A-Za-z0-9_.~+/-]{{16,}}=*",
    )
)
_KEY_IN_TEXT = re.compile(_KEY, re.ASCII)
_KEY_IN_BYTES = re.compile(_KEY.encode())

# Nearly all texts have no key, and this says so fifteen times faster: it stops at hyphens and underscores only.
_PREFIXES = "|".join(f"(?<={prefix}.)" for prefix in (*KEY_PREFIXES.split("|"), "pat", "org", "proj", "api"))
_HINT = f"[-_](?:{_PREFIXES})"
_HINT_IN_TEXT = re.compile(_HINT)
_HINT_IN_BYTES = re.compile(_HINT.encode())
_OTHER_HINTS = ("AIza", "ya29.", "eyJ", "earer ")
_OTHER_HINTS_IN_BYTES = tuple(hint.encode() for hint in _OTHER_HINTS)

_SECRET_NAME = re.compile(
    r"(?:x-(?:amz|goog)-)?"
    r"(?:(?:x-)?(?:(?:api|access|secret|subscription)[-_]?)?key|(?:(?:access|auth|security)[-_]?)?token"
    r"|(?:client[-_]?)?secret|password|sig|signature|credential)",
    re.IGNORECASE,
)


def keys_in(text: str) -> Iterator[tuple[int, int]]:
    """Where keys start and end in a text."""
    if _HINT_IN_TEXT.search(text) or any(hint in text for hint in _OTHER_HINTS):
        for match in _KEY_IN_TEXT.finditer(text):
            yield match.span()


def holds_key(data: bytes) -> bool:
    """Whether there is a key in it."""
    if not _HINT_IN_BYTES.search(data) and not any(hint in data for hint in _OTHER_HINTS_IN_BYTES):
        return False
    return _KEY_IN_BYTES.search(data) is not None


def is_secret_name(name: str) -> bool:
    """Whether the parameter of a query is one that carries a key; a `page_token` does not."""
    return _SECRET_NAME.fullmatch(name) is not None
