"""Texts of others made fit to be shown, in a log, a traceback or a message: without keys, and obeyed by no terminal.

A provider may echo a key in its error, and whatever else the request held or a server likes to say.

Keeps prompts, keys and control characters out of log lines: our own, and those of the libraries we send with.

At level DEBUG, anthropic's SDK logs whole requests, prompt and headers included; at INFO, httpx2 logs URLs, and some
servers take their key in the query; a traceback holds what a server or a model likes to say. Whoever needs the requests
to find a fault sets the environment variable `MINIAGENTS_LOG_BODIES=1`; what looks like a key stays out.
"""

from __future__ import annotations

import json
import logging
import os
import re
from base64 import b64decode
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from miniagents.ext._terminal import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


REDACTED = "[redacted]"

KEY_PREFIXES = "sk|rk|pk|gsk|xai|pplx|hf|csk|nvapi|ghp|gho"
"""What keys begin with as providers hand them out, before a hyphen or an underscore; for a regular expression."""

# The look-behind is for speed: without it, each "eyJ" of a long word would be tried up to the end of the word.
TOKEN_SHAPES = r"AIza[\w-]{20,}|ya29\.[\w.-]{10,}|(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*"
"""Keys and tokens that are known by their shape alone: Google's, and JSON web tokens; for a regular expression."""

SECRET_HEADERS = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
"""Found in the names of headers that authorize."""

_SHORTEST = 6
"""Shorter values are no keys, and would tear holes into any text."""

_PATTERNS = (
    (re.compile(rf"(?<![A-Za-z0-9])(?:{KEY_PREFIXES})[-_][\w*.-]{{6,}}"), REDACTED),  # some echo keys half masked
    (re.compile(rf"(?<![A-Za-z0-9])(?:{TOKEN_SHAPES})"), REDACTED),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (
        re.compile(r"((?:api[-_]?key|authorization)[\"']?\s*[:=]\s*[\"']?)[^\s\"'&,}\]]{6,}", re.IGNORECASE),
        rf"\1{REDACTED}",
    ),
)
_SECRET_ATTRIBUTES = ("api_key", "auth_token", "admin_api_key", "webhook_secret", "_azure_ad_token", "webhook_key")


class Redactor:
    """Replaces known secrets, and whatever looks like a key, by "[redacted]"; shows control characters as escapes."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Add secrets to be replaced, also as a URL or a JSON text spells them."""
        spelt = {
            form
            for secret in secrets
            if len(secret) >= _SHORTEST
            for form in (secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1])
        }
        self._secrets = sorted({*self._secrets, *spelt}, key=len, reverse=True)

    def learn_from(self, holder: Any) -> None:
        """Add the secrets of requests as they were sent: a client may get its key from a function, each time anew.

        Args:
            holder: a response, or an error of an SDK or an HTTP library; with or without a request.
        """
        for request in _requests_of(holder):
            self.learn(_secrets_in(getattr(request, "headers", None)))
            url = getattr(request, "url", None)
            self.learn(_secrets_in(getattr(url, "params", None)))
            self.learn([getattr(url, "password", "")])

    def text(self, text: str) -> str:
        """Return the text without secrets and control characters."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return visible(text)

    def deep(self, value: Any) -> Any:
        """Return parsed JSON, texts or bytes without secrets."""
        match value:
            case str():
                return self.text(value)
            case bytes():
                for secret in self._secrets:
                    value = value.replace(secret.encode(errors="replace"), REDACTED.encode())
                return value
            case dict():
                return {self.deep(key): self.deep(item) for key, item in value.items()}
            case list() | tuple() if type(value) in (list, tuple):
                return type(value)(self.deep(item) for item in value)
            case _:
                return value

    def exception(self, error: BaseException) -> None:
        """Clean an exception, and those it was raised from, in place: a traceback prints them all.

        That is its arguments and its own attributes (body, message, notes), and the request and response it holds.
        """
        links = list(_chain(error))
        for link in links:
            self.learn_from(link)
        for link in links:
            link.args = tuple(self.deep(arg) for arg in link.args)
            for name, value in [*vars(link).items(), *_os_details(link)]:
                if isinstance(value, str | bytes | dict | list | tuple):
                    setattr(link, name, self.deep(value))
            for request in _requests_of(link):
                self._request(request)
            for response in _responses_of(link):
                self._response(response)

    def _request(self, request: Any) -> None:
        """Clean a request: the key is in its headers, or in its URL."""
        for name in list(request.headers):
            if SECRET_HEADERS.search(name):
                request.headers[name] = REDACTED
        shown = self.text(str(request.url))
        if shown != str(request.url):
            with suppress(ValueError):  # a secret in the place of a host, say
                request.url = type(request.url)(shown)

    def _response(self, response: Any) -> None:
        """Clean a response, which may repeat the key in its headers and its body."""
        for name, value in list(response.headers.items()):
            if self.text(value) != value:
                response.headers[name] = self.text(value)
        held = vars(response)
        if (content := held.get("_content")) != self.deep(content):
            held["_content"] = self.deep(content)
            held.pop("_text", None)


def _os_details(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield what the text of an OSError is made of, beside its arguments and attributes."""
    if isinstance(error, OSError):
        yield from (("strerror", error.strerror), ("filename", error.filename), ("filename2", error.filename2))


def _responses_of(error: BaseException) -> list[Any]:
    """Return the response that an error of an SDK holds, and the redirects that led to it."""
    response = getattr(error, "response", None)
    return [response, *getattr(response, "history", ())] if hasattr(response, "headers") else []


def _requests_of(holder: Any) -> list[Any]:
    """Return the requests of a response or an error: its own, and those of its responses."""
    requests = []
    for each in (holder, *getattr(holder, "history", ()), *_responses_of(holder)):
        try:
            request = each.request
        except (AttributeError, RuntimeError):  # RuntimeError: httpx2's way to say that no request is set
            continue
        if hasattr(request, "headers"):
            requests.append(request)
    return requests


def secrets_of(client: Any, extra_headers: Any = None) -> Iterator[str]:
    """Yield the secrets that an SDK client was given."""
    for name in _SECRET_ATTRIBUTES:
        value = getattr(client, name, None)
        if isinstance(value, str):
            yield value
    for headers in (getattr(client, "_custom_headers", None), extra_headers):
        yield from _secrets_in(headers)


def _secrets_in(fields: Any) -> Iterator[str]:
    """Yield the secrets in headers, or in the parameters of a URL: the values of fields whose names say so."""
    for name, value in dict(fields or {}).items():
        if isinstance(value, str) and SECRET_HEADERS.search(str(name)):
            yield value
            scheme, _, rest = value.partition(" ")
            yield rest  # what stands after "Bearer"
            if scheme.lower() == "basic":
                with suppress(ValueError):
                    yield b64decode(rest).decode().partition(":")[2]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [link.__cause__, link.__context__]
            if isinstance(link, BaseExceptionGroup):
                todo += link.exceptions


_LOGGERS = (
    *("miniagents", "miniagents.llm"),
    *("httpx2", "httpx", "openai._base_client", "anthropic._base_client"),
)
_QUERY = re.compile(r"(https?://[^\s\"'?]+\?)[^\s\"']+")
_BODIES = re.compile(r"^(Request options:).*", re.DOTALL)


class _Discretion(logging.Filter):
    """Rewrites a record on its way to the handlers; lets all of them pass."""

    redactor = Redactor()
    formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._shown(record.getMessage()), ()
        if record.exc_info and not record.exc_text:  # where every formatter looks before it makes a text of its own
            record.exc_text = self._shown(self.formatter.formatException(record.exc_info))
        return True

    def _shown(self, text: str) -> str:
        if os.environ.get("MINIAGENTS_LOG_BODIES") != "1":
            text = _QUERY.sub(rf"\1{REDACTED}", _BODIES.sub(rf"\1 {REDACTED}", text))
        return self.redactor.text(text)


_discretion = _Discretion()


def redact_logs() -> None:
    """Add the filter to the loggers; once, however often it is called."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_discretion)
