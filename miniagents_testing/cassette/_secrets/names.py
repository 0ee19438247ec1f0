"""Secret values, known from the environment and from live requests, and the forms of keys.

A text must look more like a key here than in `miniagents.ext.llm._redaction`, which redacts errors by the same
patterns. A needless replacement in an error message costs nothing; in a prompt, it makes another prompt. So "basic
multiplication" and "hf_hub_download" stay.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from miniagents.ext.llm._redaction import KEY_PREFIXES, SECRET_HEADERS, TOKEN_SHAPES
from miniagents_testing.cassette._secrets.texts import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_WITH_DIGIT = r"(?=[A-Za-z_.~+/-]{0,99}[0-9])"

# The look-behinds also exclude base64, of which a megabyte holds one or two matches by chance.
_KEY = "|".join(
    (
        rf"(?<![A-Za-z0-9_-])(?:{KEY_PREFIXES})[-_]{_WITH_DIGIT}[A-Za-z0-9_-]{{20,}}",
        rf"(?<![A-Za-z0-9])(?:{TOKEN_SHAPES})",
        r"(?<![A-Za-z0-9_-])github_pat_[A-Za-z0-9_]{20,}",
        # Ids of accounts: a 429 of OpenAI says "in organization org-...".
        rf"(?<![A-Za-z0-9_-])(?:org-|proj_){_WITH_DIGIT}[A-Za-z0-9]{{20,}}",
        rf"(?<=[Bb]earer ){_WITH_DIGIT}[A-Za-z0-9_.~+/-]{{20,}}=*",
        rf"(?<=api[-_]key=){_WITH_DIGIT}[A-Za-z0-9_.~+/-]{{16,}}=*",
    )
)
_KEY_IN_TEXT = re.compile(_KEY, re.ASCII)
_KEY_IN_BYTES = re.compile(_KEY.encode())

# Nearly all texts have no key. This pattern tells so fifteen times faster: it stops at hyphens and underscores only.
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
    """Yield start and end of each key in a text."""
    if _HINT_IN_TEXT.search(text) or any(hint in text for hint in _OTHER_HINTS):
        for match in _KEY_IN_TEXT.finditer(text):
            yield match.span()


def holds_key(data: bytes) -> bool:
    """Return True if the data holds a key."""
    if not _HINT_IN_BYTES.search(data) and not any(hint in data for hint in _OTHER_HINTS_IN_BYTES):
        return False
    return _KEY_IN_BYTES.search(data) is not None


def is_secret_name(name: str) -> bool:
    """Return True if a query parameter of this name carries a secret; a `page_token` does not."""
    return _SECRET_NAME.fullmatch(name) is not None


_VARIABLES = re.compile(r"(?:^|_)(?:(?:API)?KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_HARMLESS_HEADERS = re.compile(r"ratelimit|idempotency|authenticate|authority", re.IGNORECASE)
"""Headers with a key, a token or an authority in their names, and no secret in their values."""
_ACCOUNT_HEADERS = re.compile(r"^(?:openai|anthropic)-(?:organization|project)", re.IGNORECASE)
_LONG = 16
_WORDS = re.compile(r"[^\W\d]+(?:[-.][^\W\d]+)*|\d+")


def known_secrets(
    environ: Mapping[str, str], request_headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
) -> set[str]:
    """Return the values that must not be in a recording.

    Values rather than names, because the header of a key changes from one version of an SDK to the next.

    Args:
        environ: of the process; variables whose names end in `KEY`, `TOKEN`, `SECRET` or `PASSWORD` are secret.
        request_headers: of a live request, as sent; also `set-cookie` of its response. Secret are headers that
            authorize, in any spelling, cookies, and ids of organizations and projects.

    Returns:
        Values of at least 8 bytes, and values shorter than 16 characters only if they are more than words or a number.
        So neither a database with the password "postgres" nor a server with the key "not-needed" makes a word secret.
    """
    pairs = request_headers.items() if isinstance(request_headers, Mapping) else request_headers
    values = [value for name, value in environ.items() if _VARIABLES.search(name)]
    for name, value in pairs:
        if _carries_secrets(name):
            values += _secrets_in(name.lower(), value)
    return {value.strip() for value in values if is_telling(value.strip())}


def is_telling(value: str) -> bool:
    """Return True if a value is so long and mixed that no text holds it by accident."""
    if len(value.encode("utf-8", "surrogateescape")) < SHORTEST:
        return False
    return len(value) >= _LONG or _WORDS.fullmatch(value) is None


@lru_cache(1024)  # each request has the same few headers
def _carries_secrets(header: str) -> bool:
    """Return True if a header of this name carries a secret."""
    if _HARMLESS_HEADERS.search(header):
        return False
    return bool(SECRET_HEADERS.search(header) or _ACCOUNT_HEADERS.search(header))


def _secrets_in(header: str, value: str) -> Iterator[str]:
    """Yield values of cookies, the credentials after `Bearer` and other schemes, and the password of `Basic`."""
    if "cookie" in header:
        for cookie in value.split(";", 1)[:1] if header == "set-cookie" else value.split(";"):
            yield cookie.partition("=")[2]
        return
    scheme, _, credentials = value.strip().rpartition(" ")
    yield credentials
    if scheme.lower() == "basic":
        try:
            yield b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return
