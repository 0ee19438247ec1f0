"""Headers that a cassette keeps, and what becomes of their values.

Of requests, only the headers that say how to read the body are kept. Of answers, all are kept but those of one
connection and noise. Cookies keep their names and attributes. Their values, ids of accounts and values of headers with
secret names become `[redacted]`.

Independent of HTTP libraries and files.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import translate
from functools import lru_cache

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing.cassette._bodies import Headers, content_headers

Pairs = Iterable[tuple[str, str]]
"""Headers as pairs of name and value."""

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers about one connection (RFC 9110, section 7.6.1)."""

_NOISE = ("date", "server", "via", "alt-svc", "nel", "report-to", "cf-*")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""Name of a header (RFC 9110, section 5.1), which may have stars here."""
URL_IN_HEADER = re.compile(r"""https?://[^\s<>",;]+""")
OF_WHOLE_BODIES = ("content-digest", "content-length", "content-md5", "digest")
"""Headers about the bytes of a body, which are wrong after a redaction."""

_SECRET_WORDS = frozenset(
    [
        "auth",
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "jwt",
        "passphrase",
        "passwd",
        "password",
        "secret",
        "signature",
    ]
)
"""Words that make a header secret, wherever they stand in its name."""
_SECRET_ENDS = frozenset({"apikey", "key", "token"})
"""Words that make a header secret at the end of its name: `x-token-count` has no secret."""
_HARMLESS_WORDS = frozenset(["cache", "continuation", "idempotency", "next", "page", "ratelimit", "surrogate"])
_ACCOUNT = re.compile(
    r"(?:^|[-_])(?:account|customer|org|organi[sz]ation|project|subscription|tenant|workspace)(?:[-_](?:id|name))?$"
)


def line_of(value: str) -> bytes:
    """Return a header's value, or a reason, in one line: as bytes of Latin-1, or of UTF-8 if it has other characters.

    The recorder reads both as Latin-1, so these are the bytes of the server, which each client decodes as it does live.
    """
    line = " ".join(value.split()) if "\n" in value else value.strip(" \t\r\n\v\f")
    try:
        return line.encode("latin-1")
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogatepass")


class HeaderRule:
    """Rule for the headers that are recorded.

    Args:
        drop: names of further headers of answers to leave out, in any case; `*` stands for any characters.
        recorded_url: changes the URLs in headers of answers, such as that of a redirect.

    Raises:
        TypeError: `drop` is no list of texts.
        ValueError: a name cannot be the name of a header.
    """

    def __init__(self, drop: Iterable[str] = (), recorded_url: Callable[[str], str] = str) -> None:
        self._is_dropped = _any_of(*sorted(HOP_BY_HOP), *_NOISE, *_checked(drop)).match
        self._recorded_url = recorded_url

    def keeps(self, name: str) -> bool:
        """Return True if headers of this name are recorded of answers."""
        return self._is_dropped(name.lower()) is None

    def of_request(self, pairs: Pairs) -> dict[str, list[str]]:
        """Return the headers of a request that are kept, by lower-case name."""
        return content_headers(pairs)

    def of_response(self, pairs: Pairs) -> dict[str, list[str]]:
        """Return the headers of an answer that are kept, by lower-case name, sorted by name."""
        pairs = [(name.lower(), value) for name, value in pairs]
        of_connection = {
            word.strip().lower() for name, value in pairs if name == "connection" for word in value.split(",")
        }
        kept: dict[str, list[str]] = {}
        for name, value in sorted(pairs, key=lambda pair: pair[0]):
            if self.keeps(name) and name not in of_connection:
                kept.setdefault(name, []).append(self._recorded_value(name, value))
        return kept

    def _recorded_value(self, name: str, value: str) -> str:
        """Return the value of a header of an answer as it is recorded; a secret one is redacted.

        A cookie keeps its name, and a date in `retry-after` becomes seconds. URLs in other values are redacted.
        """
        if name == "set-cookie":
            return _without_cookie_value(value)
        if is_secret_header(name) or is_account_header(name):
            return REDACTED
        if name == "retry-after":
            return _in_seconds(value)
        return URL_IN_HEADER.sub(lambda url: self._recorded_url(url[0]), value)


@lru_cache(64)  # each cassette has the same few
def _any_of(*names: str) -> re.Pattern[str]:
    """Return a pattern of names in lower case, in which `*` stands for any characters."""
    return re.compile("|".join(translate(name.lower()) for name in names))


def _checked(drop: Iterable[str]) -> list[str]:
    """Return names of headers if they are such.

    Raises:
        TypeError: they are no list of texts.
        ValueError: one cannot be the name of a header.
    """
    names = drop if isinstance(drop, str) else list(drop)
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"drop_headers is a list of names such as 'x-served-by' or 'x-debug-*', not {drop!r}")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"drop_headers: {name!r} cannot be the name of a header")
    return names


def is_secret_header(name: str) -> bool:
    """Return True if the name of a header says that its value is secret: `x-api-key`, `x-auth-token`.

    A word such as those of `_HARMLESS_WORDS` in it says the opposite, and wins. The headers of CORS, such as
    `access-control-allow-credentials`, have no secrets.
    """
    words = re.split("[-_]", name.lower())
    if not _HARMLESS_WORDS.isdisjoint(words) or words[:2] == ["access", "control"]:
        return False
    return words[-1] in _SECRET_ENDS or not _SECRET_WORDS.isdisjoint(words)


def is_account_header(name: str) -> bool:
    """Return True if the name of a header says that its value is the id of an account: `openai-organization`."""
    return _ACCOUNT.search(name.lower()) is not None


def retry_headers(headers: Headers) -> dict[str, str]:
    """Return the headers of an answer that say when to send the request again, with their first values."""
    return {name: values[0] for name, values in headers.items() if name.startswith("retry-after") and values}


def _without_cookie_value(value: str) -> str:
    """Return the value of `set-cookie` with the cookie's value replaced; name and attributes stay (RFC 6265)."""
    cookie, semicolon, attributes = value.partition(";")
    name, equals, content = cookie.partition("=")
    if not equals:  # a cookie without a name
        return f"{REDACTED}{semicolon}{attributes}"
    return f"{name}={REDACTED if content.strip() else content}{semicolon}{attributes}"


def _in_seconds(value: str) -> str:
    """Return a date in `retry-after` as seconds from now, because it would be past when played.

    Return any other value, and a past date, unchanged.
    """
    with suppress(ValueError, OverflowError, OSError):
        wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        if wait > 0:
            return f"{wait:.3f}"
    return value


class VcrpyHeaders(HeaderRule):
    """Rule for a cassette of vcrpy: all headers of requests and answers, with credentials redacted."""

    def of_request(self, pairs: Pairs) -> dict[str, list[str]]:
        """Return all headers of a request but those of the connection, by lower-case name."""
        return redacted_headers(pairs)

    def of_response(self, pairs: Pairs) -> dict[str, list[str]]:
        """Return all headers of an answer but those of the connection, by lower-case name."""
        return redacted_headers(pairs)


_CREDENTIALS = re.compile(r"auth|cookie|key|token(?!s)|secret|password|credential|signature", re.IGNORECASE)
_LEFT_OUT = frozenset({"connection", "keep-alive", "transfer-encoding"})


def redacted_headers(pairs: Pairs) -> dict[str, list[str]]:
    """Return all headers but those of the connection, by lower-case name; values of credentials are `[redacted]`."""
    kept: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.lower() not in _LEFT_OUT:
            kept.setdefault(name.lower(), []).append(REDACTED if _CREDENTIALS.search(name) else value)
    return kept
