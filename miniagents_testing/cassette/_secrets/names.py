"""Names of fields, parameters, headers and variables whose values are secret, and the values that are known so.

A value of the environment is a secret if it is not made of words. So a prompt may say `customer_identifier` on a
machine with `PARTITION_KEY=customer_identifier`.
"""

from __future__ import annotations

import binascii
import os
import re
from base64 import b64decode
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing.cassette._headers import is_account_header, is_secret_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SECRET_FIELDS = (
    "client_secret",
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "access_token",
    "refresh_token",
    "id_token",
    "session_token",
    "auth_token",
    "api_token",
    "bearer_token",
    "api_key",
    "secret_key",
    "secret_access_key",
    "private_key",
    "authorization",
)
"""Names whose texts are replaced in recordings, in any case, with any separator, and at the end of a longer name.

A plural counts, too: `api_keys`. Below such a name, all texts of objects and arrays are replaced. A field `token`
keeps its text, because answers with log probabilities name the pieces of a text so.

`Redaction(fields=[*SECRET_FIELDS, "ssn"])` adds to them.
"""

SHORTEST = 8
"""Length of the shortest known value; shorter ones would be found in texts that have no secret."""

_IN_QUERIES = frozenset(
    ["key", "token", "sig", "signature", "auth", "jwt", "code", "secret", "credential", "credentials"]
)
_OF_CLOUDS = ("xamz", "xgoog")
_ENDS_IN_QUERIES = ("subscriptionkey", "accesskey", "securitytoken")
_HUMPS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]+")
_NO_LETTERS = re.compile(r"[\W_]+")
_PLURAL = re.compile(r"s[\W_]*$", re.IGNORECASE)
_NESTED = re.compile(r"[\[\].]+")

JSON_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
"""Types of a JSON schema: `{"password": {"type": "string"}}` describes a password and has none."""

_HOLDERS = frozenset(
    [
        *("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"),
        *("schemas", "parameter_definitions"),
    ]
)
"""Names of objects whose fields are JSON schemas by name."""
_KEYWORDS = frozenset(
    [
        *("type", "title", "description", "$comment", "format", "pattern", "enum", "required", "$ref"),
        *("items", "prefixItems", "additionalProperties", "anyOf", "any_of", "oneOf", "allOf", "not"),
        *("contentEncoding", "contentMediaType", "propertyOrdering", "property_ordering"),
    ]
)
"""Keywords of a JSON schema whose texts describe values. `default`, `const` and `examples` have values."""


class _Kind(Enum):
    """Kind of a place in a JSON document."""

    VALUE = "value"
    SCHEMA = "schema"
    KEYWORD = "keyword"
    HOLDER = "holder of schemas"


class Place(NamedTuple):
    """Place in a JSON document: an object, an array, or a text."""

    field: str = ""
    """Name of the outermost secret field around the place, or of the place itself; empty if there is none."""
    kind: _Kind = _Kind.VALUE

    @property
    def secret(self) -> str:
        """Name of the field for which a text at this place is secret; empty if it is not."""
        return "" if self.kind is _Kind.KEYWORD else self.field


TOP = Place()
"""Place of a whole document."""
_HOLDER = Place(kind=_Kind.HOLDER)


class FieldNames:
    """Set of the names of secret fields.

    Args:
        fields: names, such as `SECRET_FIELDS`.

    Raises:
        TypeError: a single text is given in place of several names, or a name is no text.
        ValueError: a name has no letter.
    """

    def __init__(self, fields: Iterable[str]) -> None:
        if isinstance(fields, str):
            raise TypeError(f"fields are several names, not the text {fields!r}: give [{fields!r}]")
        self._names = frozenset(_plain(name) for name in fields)
        if "" in self._names:
            raise ValueError("a name of a field without letters would be that of every field")
        known = {_plain(name) for name in SECRET_FIELDS} - {"idtoken", "pwd"}
        # "paid_token" is no "id_token"; other names of the list end no longer word by accident
        self._endings = tuple(sorted(self._names & known))
        self._most_words = max(map(len, self._names), default=0)
        self._has = lru_cache(4096)(self._look)
        self._from_top = lru_cache(4096)(self._below_top)  # most fields are in no secret one

    def __contains__(self, name: str) -> bool:
        """Return True if the texts of a field of this name are secret."""
        return self._has(name)

    def below(self, place: Place, name: str | None) -> Place:
        """Return the place of a field or of an element of an array.

        All places below a secret field are secret. But a secret name in the `properties` of a JSON schema is that of
        another schema, whose keywords are not.

        Args:
            place: of the object or array around it.
            name: of the field; None for an element.
        """
        if place is TOP:
            return TOP if name is None else self._from_top(name)
        field, kind = place
        if not field:  # in an object of schemas
            return Place(name, _Kind.SCHEMA) if name is not None and name in self else TOP
        if kind is _Kind.VALUE or (name is None and kind is not _Kind.HOLDER):
            return place
        if kind is _Kind.HOLDER:
            return Place(field, _Kind.VALUE if name is None else _Kind.SCHEMA)
        if name in _HOLDERS:
            return Place(field, _Kind.HOLDER)
        return Place(field, _Kind.KEYWORD if name in _KEYWORDS else _Kind.VALUE)

    def _below_top(self, name: str) -> Place:
        """Return the place of a field in an object that is in no secret field and holds no schemas."""
        if name in self:
            return Place(name)
        return _HOLDER if name in _HOLDERS else TOP

    def has_nested(self, name: str) -> bool:
        """Return True if a field's name is secret, or a piece of it between brackets or dots: `client_secret[value]`.

        The field is one of a form, of a multipart body, or of a query.
        """
        return name in self or any(part in self for part in _NESTED.split(name))

    def _look(self, name: str) -> bool:
        """Return True if the name or its singular is a secret one, or ends with one."""
        return self._is_secret(name) or self._is_secret(_PLURAL.sub("", name))

    def _is_secret(self, name: str) -> bool:
        """Return True if the name is a secret one, or ends with one."""
        plain = _plain(name)
        if plain in self._names or plain.endswith(self._endings):
            return True
        words = [word for hump in _HUMPS.findall(name) if (word := _plain(hump))]
        words = words[-self._most_words :]
        return any("".join(words[start:]) in self._names for start in range(len(words)))

    def in_query(self, name: str) -> bool:
        """Return True if a query parameter of this name is secret; there, `key` and `token` alone are, too."""
        return self.has_nested(name) or any(
            plain in _IN_QUERIES or plain.startswith(_OF_CLOUDS) or plain.endswith(_ENDS_IN_QUERIES)
            for plain in (_plain(name), _plain(name.partition("[")[0]))
        )


def _plain(name: str) -> str:
    """Return a name with its letters and digits only, in lower case."""
    return _NO_LETTERS.sub("", name.lower())


_VARIABLES = re.compile(
    r"(?:^|_)(?:KEY|PASS|PWD|PAT|DSN)S?(?:_|$)"
    r"|(?:APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|SSHPASS|WEBHOOK|CREDENTIAL)S?(?:_|$)",
    re.IGNORECASE,
)
_FOLDERS = frozenset({"PWD", "OLDPWD"})  # of each shell: the folder in which a command runs
_LONG = 16
_WORDS = re.compile(r"[^\W\d]+(?:[-.][^\W\d]+)*|\d+")
_STAND_IN = re.compile(r"[\W_]*(?:(?:redacted|filtered|scrubbed|hidden|masked|x{3,}|\*{3,})[\W_]*)?", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[-_./\s<>|:,;()\[\]{}\"'*]+")
_WORD = re.compile(r"(?=.*[aeiouy])[a-z]{2,14}|(?=.*[AEIOUY])[A-Z]{2,14}|\d{1,4}")


def values_of_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the secret values of the environment, each with the name of its variable.

    A variable is secret if its name has a word such as KEY, TOKEN, SECRET, PASSWORD or DSN. Its value, and the parts of
    it between spaces and commas, are secret if they have at least 8 bytes and are not made of words. Of a URL, these
    are the password, or the user if there is no password, and such parts of the path and the query. A URL with a secret
    and without a password is secret as a whole, too.

    Of a URL in a variable with any other name, as `DATABASE_URL`, the password and parameters with secret names are
    secret.
    """
    found: dict[str, str] = {}
    for variable, value in environ.items():
        if variable.upper() in _FOLDERS:
            continue
        if not _VARIABLES.search(variable):
            urls = [part[part.index("://") + 1 :] for part in re.split(r"[\s,]+", value) if "://" in part]
            for url in urls:  # from its host on, because `jdbc:` and the like may stand before its scheme
                found |= dict.fromkeys(values_of_url(url, SECRET_NAMES), variable)
            continue
        parts = re.split(r"[\s,]+", value)
        if "://" not in value:
            parts.append(value.strip())
        for part in parts:
            secrets = list(_secrets_in_url(part)) if "://" in part else [part]
            if "://" in part and any(map(_is_secret, secrets)) and not urlsplit(part).password:
                secrets.append(part)
            found |= {secret: variable for secret in secrets if _is_secret(secret)}
    return found


def values_of_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the secret values in headers of a request, or in `set-cookie` of a response, each with its header.

    Secret are headers that authorize, in any spelling, cookies, and ids of organizations and projects. Values have at
    least 8 bytes; those shorter than 16 characters are more than words or a number. So a server with the key
    "not-needed" makes no word secret. An id of an account is not made of words. The values of a replay are no secrets.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        for secret in credentials_in(name, value):
            if not (is_account_header(name) and is_made_of_words(secret)):
                found[secret] = f"header {name.lower()}"
    return found


def credentials_in(name: str, value: str) -> Iterator[str]:
    """Yield the credentials and ids of accounts in a header, but for short words and what was replaced."""
    if _carries_secrets(name) or is_account_header(name):
        for secret in map(str.strip, _secrets_in(name.lower(), value)):
            if is_telling(secret) and REDACTED not in secret:
                yield secret


def values_of_url(url: str, names: FieldNames) -> dict[str, str]:
    """Return the secret values in a URL, each with its place; none for a URL that cannot be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return {}
    found = {unquote(parts.password or ""): "password of the URL"}
    found |= {value: f"query parameter {name}" for name, value in parse_qsl(parts.query) if names.in_query(name)}
    return {value: place for value, place in found.items() if _is_secret(value)}


def is_made_of_words(value: str) -> bool:
    """Return True if each part of a value is a word of one case with a vowel, or a number of up to 4 digits."""
    return all(_WORD.fullmatch(part) for part in _BETWEEN_WORDS.split(value) if part)


def is_stand_in(value: str) -> bool:
    """Return True if a value is empty, or a placeholder in the place of a secret, such as `[redacted]`."""
    return _STAND_IN.fullmatch(unquote(value)) is not None


def is_telling(value: str) -> bool:
    """Return True if a credential of a live request is so long and mixed that no text holds it by accident."""
    if len(value.encode("utf-8", "surrogateescape")) < SHORTEST:
        return False
    return len(value) >= _LONG or _WORDS.fullmatch(value) is None


def _is_secret(value: str) -> bool:
    """Return True if a value under a secret name is long enough, and not made of words."""
    return len(value.encode("utf-8", "surrogateescape")) >= SHORTEST and not is_made_of_words(value)


def _secrets_in_url(url: str) -> Iterator[str]:
    """Yield the parts of a URL that may be secret, some of them empty; nothing for a URL that cannot be read.

    They are its password, or else its user, the steps of its path and the values of its query.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    yield unquote(parts.password or "")
    if not parts.password:
        yield unquote(parts.username or "")
        yield from map(unquote, parts.path.split("/"))
        yield from (value for _, value in parse_qsl(parts.query))


def _secrets_in(header: str, value: str) -> Iterator[str]:
    """Yield values of cookies, the credentials after `Bearer` and other schemes, and the password of `Basic`.

    Some of them may be empty. A value without a scheme is yielded as a whole.
    """
    if "cookie" in header:
        for cookie in value.split(";", 1)[:1] if header == "set-cookie" else value.split(";"):
            yield cookie.partition("=")[2].strip('\\" ')  # a value may be in quotes (RFC 6265, section 4.1.1)
        return
    scheme, _, credentials = value.strip().rpartition(" ")
    yield credentials
    if scheme.lower() == "basic":
        try:
            yield b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return


@lru_cache(1024)  # each request has the same few headers
def _carries_secrets(header: str) -> bool:
    """Return True if a header of this name has a secret value."""
    return is_secret_header(header) or header in SECRET_NAMES


SECRET_NAMES = FieldNames(SECRET_FIELDS)
"""The names of `SECRET_FIELDS`, with what is known about other names from all recordings."""
