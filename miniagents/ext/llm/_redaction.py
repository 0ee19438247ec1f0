"""Redaction of errors and log lines: keys become `[redacted]`, and control characters become escapes.

`Redactor` redacts texts and exceptions, because a provider may repeat a key or any other text in its error.

`redact_logs` does the same with the log records of MiniAgents, the SDKs and the HTTP libraries, and removes prompts
from them. At level DEBUG, anthropic's SDK logs whole requests, and the transport logs headers of responses, in which a
server may repeat a key. At INFO, httpx2 logs URLs, and some servers take their key in the query. The environment
variable `MINIAGENTS_LOG_BODIES=1` keeps all this in the log to find a fault. Keys are then redacted by their shape
only.
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
from miniagents.ext.llm._shapes import find_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


REDACTED = "[redacted]"

SECRET_HEADERS = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
"""Pattern that is found in the names of headers that hold secrets."""

_SHORTEST = 6
"""Characters of the shortest known secret that is replaced; shorter values would match in ordinary text."""

_PATTERNS = (
    # some echo keys half masked
    (re.compile(r"(?<![A-Za-z0-9])(?:sk|rk|pk|gsk|xai|pplx|hf|csk|nvapi|ghp|gho)[-_][\w*.-]{6,}"), REDACTED),
    (re.compile(r"(://[^\s/?#@:\"']*:)[^\s/?#@\"']+@"), rf"\1{REDACTED}@"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (
        re.compile(r"((?:api[-_]?key|authorization)[\"']?\s*[:=]\s*[\"']?)[^\s\"'&,}\]]{6,}", re.IGNORECASE),
        rf"\1{REDACTED}",
    ),
)
_SECRET_ATTRIBUTES = ("api_key", "auth_token", "admin_api_key", "webhook_secret", "_azure_ad_token", "webhook_key")


class Redactor:
    """Redactor that replaces known secrets and texts with the shape of a key, and escapes control characters.

    Args:
        secrets: the secrets that are known from the beginning.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self._unread: list[Iterable[str]] = [secrets] if secrets else []

    def learn(self, secrets: Iterable[str]) -> None:
        """Add secrets to be replaced, including their forms in a URL and in JSON."""
        forms = {
            form
            for secret in secrets
            if len(secret) >= _SHORTEST
            for form in (secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1])
        }
        self._secrets = sorted({*self._secrets, *forms}, key=len, reverse=True)

    def learn_later(self, secrets: Iterable[str]) -> None:
        """Add secrets that are read before the next redaction: most requests have nothing to redact."""
        self._unread.append(secrets)

    def _known_secrets(self) -> list[str]:
        """Return all secrets in their forms, the longest ones first."""
        while self._unread:
            self.learn(self._unread.pop())
        return self._secrets

    def learn_from(self, holder: Any) -> None:
        """Add the secrets of the requests that were sent, because a client may get a new key for each request.

        Args:
            holder: a response, or an error of an SDK or an HTTP library. It may hold no request.
        """
        for request in _requests_of(holder):
            self.learn(_secrets_in(getattr(request, "headers", None)))
            self.learn(_secrets_in_url(getattr(request, "url", None)))

    def redact_text(self, text: str) -> str:
        """Return the text with secrets replaced and control characters escaped."""
        for secret in self._known_secrets():
            text = text.replace(secret, REDACTED)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return visible(_without_shapes(text))

    def redact_value(self, value: Any) -> Any:
        """Return a string, bytes or parsed JSON, keys included, with the secrets in it replaced.

        Return other values as they are.
        """
        match value:
            case str():
                return self.redact_text(value)
            case bytes():
                for secret in self._known_secrets():
                    value = value.replace(secret.encode(errors="replace"), REDACTED.encode())
                return value
            case dict():
                return {self.redact_value(key): self.redact_value(item) for key, item in value.items()}
            case list() | tuple() if type(value) in (list, tuple):
                return type(value)(self.redact_value(item) for item in value)
            case _:
                return value

    def redact_exception(self, error: BaseException) -> None:
        """Redact an exception in place, and all exceptions linked to it, because a traceback prints them all.

        Arguments, attributes (body, message, notes), and the requests and responses of each exception are redacted.
        """
        links = list(_linked_errors(error))
        for link in links:
            self.learn_from(link)
        for link in links:
            link.args = tuple(self.redact_value(arg) for arg in link.args)
            for name, value in [*vars(link).items(), *_os_details(link)]:
                if isinstance(value, str | bytes | dict | list | tuple):
                    setattr(link, name, self.redact_value(value))
            for request in _requests_of(link):
                self._redact_request(request)
            for response in _responses_of(link):
                self._redact_response(response)

    def _redact_request(self, request: Any) -> None:
        """Replace the secret headers of a request, and the secrets in its URL, in place."""
        for name in list(request.headers):
            if SECRET_HEADERS.search(name):
                request.headers[name] = REDACTED
        shown = self.redact_text(str(request.url))
        if shown != str(request.url):
            with suppress(ValueError):  # the redacted URL may be invalid, such as with a secret as its host
                request.url = type(request.url)(shown)

    def _redact_response(self, response: Any) -> None:
        """Replace the secrets in the headers and the body of a response, which may repeat the key, in place."""
        for name, value in list(response.headers.items()):
            if self.redact_text(value) != value:
                response.headers[name] = self.redact_text(value)
        held = vars(response)
        if (content := held.get("_content")) != self.redact_value(content):
            held["_content"] = self.redact_value(content)
            held.pop("_text", None)


def _without_shapes(text: str) -> str:
    """Return a text with texts that have the shape of a key replaced."""
    parts: list[str] = []
    position = 0
    for start, end in sorted((start, end) for start, end, _ in find_shapes(text)):
        if start >= position:
            parts += (text[position:start], REDACTED)
        position = max(position, end)
    return "".join([*parts, text[position:]])


def _os_details(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an OSError that its text is made of and that `vars` does not show."""
    if isinstance(error, OSError):
        yield from (("strerror", error.strerror), ("filename", error.filename), ("filename2", error.filename2))


def _responses_of(error: BaseException) -> list[Any]:
    """Return the response that an error of an SDK holds, and the redirects before that response."""
    response = getattr(error, "response", None)
    return [response, *getattr(response, "history", ())] if hasattr(response, "headers") else []


def _requests_of(holder: Any) -> list[Any]:
    """Return the requests that a response or an error holds, including those of its responses."""
    requests = []
    for each in (holder, *getattr(holder, "history", ()), *_responses_of(holder)):
        try:
            request = each.request
        except (AttributeError, RuntimeError):  # httpx2 raises RuntimeError if no request is set
            continue
        if hasattr(request, "headers"):
            requests.append(request)
    return requests


def secrets_of_client(client: Any, extra_headers: Any = None) -> Iterator[str]:
    """Yield the secrets in the settings of an SDK client and in the extra headers of a request."""
    for name in _SECRET_ATTRIBUTES:
        value = getattr(client, name, None)
        if isinstance(value, str):
            yield value
    for headers in (getattr(client, "_custom_headers", None), extra_headers):
        yield from _secrets_in(headers)
    yield from _secrets_in_url(getattr(client, "base_url", None))


def _secrets_in_url(url: Any) -> Iterator[str]:
    """Yield the password and the secret parameters of a URL of the HTTP library."""
    yield getattr(url, "password", "")
    for value in _secrets_in(getattr(url, "params", None)):
        yield value
        yield value.removesuffix("/")  # the SDKs add a slash to the base URL, behind its query too


def _secrets_in(fields: Any) -> Iterator[str]:
    """Yield the secrets in headers or in the parameters of a URL, recognised by the names of the fields."""
    for name, value in dict(fields or {}).items():
        if isinstance(value, str) and SECRET_HEADERS.search(str(name)):
            yield value
            scheme, _, rest = value.partition(" ")
            yield rest  # the key after "Bearer"
            if scheme.lower() == "basic":
                with suppress(ValueError):
                    yield b64decode(rest).decode().partition(":")[2]
            if "cookie" in str(name).lower():
                yield from (cookie.partition("=")[2].strip('" ') for cookie in value.split(";"))


def _linked_errors(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all errors reachable from it: causes, contexts and members of groups."""
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
    *("miniagents", "miniagents.llm", "miniagents.tools"),
    *("httpx2", "httpx", "openai._base_client", "anthropic._base_client"),
    *("httpcore2.http11", "httpcore2.http2", "httpcore2.proxy", "httpcore.http11", "httpcore.http2", "httpcore.proxy"),
)
_QUERY = re.compile(r"(https?://[^\s\"'?]+\?)[^\s\"']+")
_CONTENTS = re.compile(
    r"^(Request options:|HTTP Response: \S+ \S+ \"\d+|request_id:|workspace_id:|receive_response_headers\.\w+).*",
    re.DOTALL,
)
"""Log lines of the SDKs and the transport with the body of a request, or with headers, in which servers repeat keys."""


class _RedactingFilter(logging.Filter):
    """Log filter that redacts each record before the handlers get it, and rejects none."""

    redactor = Redactor()
    formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the message and the traceback of a record, and return True."""
        record.msg, record.args = self._redact(record.getMessage()), ()
        if record.exc_info and not record.exc_text:  # formatters use this text instead of formatting the traceback
            record.exc_text = self._redact(self.formatter.formatException(record.exc_info))
        return True

    def _redact(self, text: str) -> str:
        """Return a redacted text, without queries, bodies and response headers unless `MINIAGENTS_LOG_BODIES` is 1."""
        if os.environ.get("MINIAGENTS_LOG_BODIES") != "1":
            text = _QUERY.sub(rf"\1{REDACTED}", _CONTENTS.sub(rf"\1 {REDACTED}", text))
        return self.redactor.redact_text(text)


_redacting_filter = _RedactingFilter()


def redact_logs() -> None:
    """Add the redacting filter to the loggers; repeated calls change nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_redacting_filter)
