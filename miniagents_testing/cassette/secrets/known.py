"""Which values are secret: those of the environment, and those that a live request sends."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from miniagents.ext.llm._redaction import SECRET_HEADERS
from miniagents_testing.cassette.secrets.encodings import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["is_telling", "known_secrets"]

_VARIABLES = re.compile(r"(?:^|_)(?:(?:API)?KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_HARMLESS_HEADERS = re.compile(r"ratelimit|idempotency|authenticate|authority", re.IGNORECASE)
"""They have a key, a token or an authority in their names, and no secret in their values."""
_ACCOUNT_HEADERS = re.compile(r"^(?:openai|anthropic)-(?:organization|project)", re.IGNORECASE)
_LONG = 16
_WORDS = re.compile(r"[^\W\d]+(?:[-.][^\W\d]+)*|\d+")


def known_secrets(
    environ: Mapping[str, str], request_headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
) -> set[str]:
    """The values that must not be in a recording.

    They go by value: the header that a key comes in changes from one version of an SDK to the next.

    Args:
        environ: of the process; what counts are names that end in `KEY`, `TOKEN`, `SECRET` and `PASSWORD`.
        request_headers: of a live request, as sent; also `set-cookie` of its response. What counts are those that
            authorize, in any spelling, cookies, and the ids of organizations and projects.

    Returns:
        Values of at least 8 characters. Shorter than 16, they must be more than words or a number: a database whose
        password is "postgres" does not make that word a secret, and a local server whose key is "not-needed" neither.
    """
    pairs = request_headers.items() if isinstance(request_headers, Mapping) else request_headers
    values = [value for name, value in environ.items() if _VARIABLES.search(name)]
    for name, value in pairs:
        if _carries_secrets(name):
            values += _secrets_in(name.lower(), value)
    return {value.strip() for value in values if is_telling(value.strip())}


def is_telling(value: str) -> bool:
    """Whether a value is so long and mixed that it is found nowhere by accident."""
    if len(value.encode("utf-8", "surrogateescape")) < SHORTEST:
        return False
    return len(value) >= _LONG or _WORDS.fullmatch(value) is None


@lru_cache(1024)  # the same few come with each request
def _carries_secrets(header: str) -> bool:
    if _HARMLESS_HEADERS.search(header):
        return False
    return bool(SECRET_HEADERS.search(header) or _ACCOUNT_HEADERS.search(header))


def _secrets_in(header: str, value: str) -> Iterator[str]:
    """Cookies without their names and attributes; what stands after `Bearer` and the like; the password of `Basic`."""
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
