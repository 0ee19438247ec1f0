"""Redaction of errors and log lines: keys become `[redacted]`, and control characters become escapes.

`Redactor` redacts texts and exceptions, because a provider may repeat a key or any other text in its error.

`redact_logs` does the same with the log records of MiniAgents, the SDKs and the HTTP libraries, and removes prompts
from them. At level DEBUG, anthropic's SDK logs whole requests, and the transport logs headers of responses, in which a
server may repeat a key. At INFO, httpx2 logs URLs, and some servers take their key in the query. The environment
variable `MINIAGENTS_LOG_BODIES=1` keeps all this in the log to find a fault. Keys are then redacted by their shape
only.

`find_shapes` finds the keys of well-known services, by one table for logs, for errors and for recordings. A key is a
long word. So the long words of a text are found first, and a pattern is tried only on a word with the literal of a
shape. There is no measure of randomness: prose that resembles a key stays. The shapes are those that the services
publish, and those that common secret scanners look for.
"""

from __future__ import annotations

import json
import logging
import os
import re
from base64 import b64decode
from collections import defaultdict
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from miniagents.ext._terminal import visible

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
        """Add secrets to be replaced, also in their forms in a URL and in JSON.

        Leave out secrets of fewer than `_SHORTEST` characters.
        """
        forms = {
            form
            for secret in secrets
            if len(secret) >= _SHORTEST
            for form in (secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1])
        }
        self._secrets = sorted({*self._secrets, *forms}, key=len, reverse=True)

    def learn_later(self, secrets: Iterable[str]) -> None:
        """Add secrets that are read only when a text is redacted next, because most requests have nothing to redact."""
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
        """Return the text with secrets replaced and control characters escaped; newlines and tabs stay."""
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


_MIXED = r"(?=[A-Za-z_.~+/-]{0,99}(?:[0-9]|(?<=[a-z])[A-Z]))"
"""Condition that a digit or a capital inside a word is near, because names and words with hyphens have none."""


class Shape:
    """Shape of a key.

    Args:
        name: name of the service, for reports.
        literal: text that each key of the shape has.
        rest: pattern of the text after the literal.
        before: pattern of the part of the key before the literal.
        width: length of the text that `before` matches.
    """

    def __init__(self, name: str, literal: str, rest: str, before: str = "", width: int = 0) -> None:
        self.name = name
        self.literal = literal
        self.pattern = before + re.escape(literal) + rest
        self.width = width
        self.rarest = min(literal, key=lambda letter: (letter.isalpha() or letter == " ", letter.islower()))
        """Letter of the literal that few texts have: a single one is found many times faster than a word."""

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern, compiled on first use: few shapes are ever tried."""
        return re.compile(self.pattern, re.ASCII)


def _shapes(name: str, rest: str, *literals: str) -> list[Shape]:
    """Return a shape of the keys of the service `name` for each literal, each with the same `rest`."""
    return [Shape(name, literal, rest) for literal in literals]


_WORDS = [
    *_shapes("Anthropic", r"[\w-]{20,}", "sk-ant-"),
    *_shapes("OpenRouter", r"[\w-]{20,}", "sk-or-"),
    *_shapes("OpenAI", rf"(?:[A-Za-z0-9]{{20,}}[\w-]*|{_MIXED}[\w-]{{20,}})", "sk-"),
    *_shapes("Stripe", r"[A-Za-z0-9]{16,}", "sk_live_", "rk_live_", "pk_live_", "sk_test_", "rk_test_", "pk_test_"),
    *_shapes("Stripe", r"[\w+/-]{24,}=*", "whsec_"),
    *_shapes("ElevenLabs", r"[0-9a-f]{40,}", "sk_"),
    *_shapes("AWS", r"[A-Z0-9]{16}(?![A-Za-z0-9])", "AKIA", "ASIA", "ABIA", "ACCA"),
    *_shapes("AWS Bedrock", r"[\w+/-]{40,}=*", "ABSK"),
    *_shapes("AWS Bedrock", r"[\w+/-]{20,}=*", "bedrock-api-key-"),
    *_shapes("GitHub", r"[A-Za-z0-9]{30,}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    *_shapes("GitHub", r"\w{20,}", "github_pat_"),
    *_shapes("GitLab", rf"{_MIXED}[\w-]{{20,}}(?:\.[\w-]+)*", "glpat-", "gldt-", "glrt-", "glrtr-", "glcbt-", "glptt-"),
    *_shapes("GitLab", rf"{_MIXED}[\w-]{{20,}}", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-", "glffct-"),
    *_shapes("Slack", rf"{_MIXED}[\w-]{{11,}}", *(f"xox{kind}-" for kind in "abceoprsd"), "xapp-"),
    *_shapes("Groq", r"[A-Za-z0-9]{20,}", "gsk_"),
    *_shapes("xAI", rf"{_MIXED}[\w-]{{20,}}", "xai-"),
    *_shapes("Replicate", r"[A-Za-z0-9]{30,}", "r8_"),
    *_shapes("Fireworks", rf"{_MIXED}[A-Za-z0-9]{{20,}}", "fw_", "fpk_"),
    *_shapes("Jina", r"[\w-]{40,}", "jina_"),
    *_shapes("Hugging Face", r"[A-Za-z0-9]{30,}", "hf_", "api_org_"),
    *_shapes("Perplexity", r"[A-Za-z0-9]{30,}", "pplx-"),
    *_shapes("NVIDIA", r"[\w-]{40,}", "nvapi-"),
    *_shapes("Cerebras", r"[A-Za-z0-9]{30,}", "csk-"),
    *_shapes("Together", r"[\w-]{20,}", "tgp_v1_"),
    *_shapes("Voyage", rf"{_MIXED}[\w-]{{40,}}", "pa-"),
    *_shapes("Anyscale", r"[A-Za-z0-9]{20,}", "esecret_"),
    *_shapes("Tavily", rf"{_MIXED}[\w-]{{20,}}", "tvly-"),
    *_shapes("Firecrawl", r"[0-9a-f]{32}", "fc-"),
    *_shapes("LangSmith", r"(?:pt|sk)_[\w-]{20,}", "lsv2_"),
    *_shapes("Pinecone", r"\w{30,}", "pcsk_"),
    *_shapes("Supabase", r"[0-9a-f]{40}", "sbp_"),
    *_shapes("Supabase", rf"{_MIXED}[\w-]{{20,}}", "sb_secret_"),
    *_shapes("Weights & Biases", r"\w{30,}", "wandb_v1_"),
    *_shapes("E2B", r"[0-9a-f]{40}", "e2b_"),
    *_shapes("Browserbase", rf"{_MIXED}[\w-]{{20,}}", "bb_live_"),
    *_shapes("Google", r"[\w-]{20,}", "AIza", "GOCSPX-"),
    *_shapes("Databricks", r"[0-9a-f]{32}(?:-\d)?(?![A-Za-z0-9])", "dapi"),
    *_shapes("Notion", r"[A-Za-z0-9]{30,}", "ntn_"),
    *_shapes("Notion", r"[A-Za-z0-9]{40,}", "secret_"),
    *_shapes("npm", r"[A-Za-z0-9]{30,}", "npm_"),
    *_shapes("PyPI", r"AgE[\w-]{20,}", "pypi-"),
    *_shapes("RubyGems", r"[0-9a-f]{48}", "rubygems_"),
    *_shapes("crates.io", r"[A-Za-z0-9]{32}(?![\w-])", "cio"),
    *_shapes("Docker", r"(?:pat|oat)_[\w-]{20,}", "dckr_"),
    *_shapes("DigitalOcean", r"[0-9a-f]{64}", "dop_v1_", "doo_v1_", "dor_v1_"),
    *_shapes("Twilio", r"[0-9a-z]{32}(?![\w-])", "SK", "AC"),
    *_shapes("Shopify", r"[0-9a-fA-F]{32}", "shpat_", "shpca_", "shppa_", "shpss_"),
    *_shapes("Square", r"[\w-]{22,}", "sq0atp-", "sq0csp-", "sq0idp-"),
    *_shapes("Mailgun", r"[0-9a-z]{32}(?![\w-])", "key-"),
    *_shapes("Brevo", r"[0-9a-f]{64}-[A-Za-z0-9]{16}", "xkeysib-"),
    *_shapes("New Relic", r"[A-Za-z0-9-]{20,}", "NRAK-", "NRII-", "NRRA-"),
    *_shapes("Grafana", rf"{_MIXED}[\w+/]{{30,}}=*", "glsa_", "glc_"),
    *_shapes("Sentry", rf"{_MIXED}[\w+/-]{{40,}}(?:=*_[\w+/-]+)?=*", "sntrys_", "sntryu_"),
    *_shapes("PlanetScale", rf"{_MIXED}[\w-]{{16,}}[\w.=-]*", "pscale_tkn_", "pscale_pw_", "pscale_oauth_"),
    *_shapes("Linear", r"(?:api|oauth)_[A-Za-z0-9]{30,}", "lin_"),
    *_shapes("Figma", r"[\w-]{30,}", "figd_"),
    *_shapes("Postman", r"[0-9a-f]{24}-[0-9a-f]{34}", "PMAK-"),
    *_shapes("age", r"[A-Z0-9]{40,}", "AGE-SECRET-KEY-1"),
    *_shapes("1Password", r"[\w+/-]{40,}=*", "ops_eyJ"),
    *_shapes("Atlassian", r"[\w-]{40,}[\w=-]*", "ATATT3"),
    *_shapes("Heroku", r"[\w-]{30,}", "HRKU-"),
    *_shapes("JFrog", rf"{_MIXED}[A-Za-z0-9]{{13,}}", "AKC"),
    *_shapes("Alibaba Cloud", r"[A-Za-z0-9]{16,}", "LTAI"),
    *_shapes("Airtable", r"[A-Za-z0-9]{14}\.[0-9a-f]{64}", "pat"),
    # The segments have a limit: without it, a long text would be read again from each of its words.
    *_shapes("JSON web token", r"[\w-]{13,8000}\.[\w-]{8,8000}\.[\w-]*", "eyJ"),
    *_shapes("Discord", r"[\w-]{22,27}\.[\w-]{6}\.[\w-]{27,}", "M", "N", "O"),
    # Ids of accounts: a 429 of OpenAI says "in organization org-...".
    *_shapes("OpenAI account", rf"{_MIXED}[A-Za-z0-9]{{20,}}", "org-", "proj_"),
]
"""Shapes that begin with a long word: letters, digits, hyphens and underscores."""

_BEFORE_WORDS = [
    *_shapes("Slack", r"xox[bp]-[\w-]{20,}", "xoxe."),
    *_shapes("SendGrid", r"[\w-]{16,}\.[\w-]{16,}", "SG."),
    *_shapes("Google", r"[\w-]{16,}(?:\.[\w-]+)*", "ya29."),
    *_shapes("Google", r"Ab[\w-]{30,}", "AQ."),
    *_shapes("Vault", r"[\w-]{24,}", "hvs.", "hvb.", "hvr."),
    *_shapes("Doppler", r"[A-Za-z0-9]{30,}", "dp.pt.", "dp.st.", "dp.sa.", "dp.ct.", "dp.scim.", "dp.audit."),
    *_shapes("Dropbox", r"[\w-]{60,}", "sl.", "sl.u."),
    Shape("Terraform", ".atlasv1.", r"[\w-]{40,}", r"[A-Za-z0-9]{14}", 14),
    Shape("Telegram", ":", r"[\w-]{35}(?![\w-])", r"\d{8}", 8),
]
"""Shapes with a dot or a colon right before a long word."""

_IN_WORDS = [
    Shape("Azure", "JQQJ99", r"[A-Za-z0-9]{20,}", r"[A-Za-z0-9]{52}", 52),
    Shape("Mailchimp", "-us", r"\d{1,2}(?![A-Za-z0-9])", r"[0-9a-z]{32}", 32),
]
"""Shapes with their literal inside a long word."""

_ANYWHERE = [
    *_shapes(
        "private key",
        r"(?: BLOCK)?-----(?:\s|\\[nr])*(?:[\w-]+: [^\n]*\n)*\s*[A-Za-z0-9+/=]{16,}"
        r"(?:(?:\s|\\[nr])+[A-Za-z0-9+/=]{16,}+)*+"
        r"(?:(?:(?:\s|\\[nr])+[A-Za-z0-9+/=]+){0,2}(?:\s|\\[nr])*-----END [A-Z ]{0,40}-----)?",
        "PRIVATE KEY",
    ),
    *_shapes("Azure", r"[\w+/]{40,}=*", "AccountKey=", "SharedAccessKey="),
    *_shapes("npm", r"[\w+/-]{16,}=*", ":_authToken="),
    *_shapes("Slack", r"(?:services|workflows|triggers)/[\w/-]{20,}", "hooks.slack.com/"),
    *_shapes("Discord", r"\d{10,}/[\w-]{40,}", "/api/webhooks/"),
    Shape("Microsoft Entra", "Q~", r"[\w~.-]{30,}", r"[\w~.-]{3}\d", 4),
    Shape("bearer token", "earer ", rf"{_MIXED}[\w.~+/-]{{20,}}=*", r"[Bb]", 1),
]
"""Shapes that are looked for by their literals alone."""

SHAPES = (*_WORDS, *_BEFORE_WORDS, *_IN_WORDS, *_ANYWHERE)
"""All shapes of keys; of two that match the same text, the first one counts."""

_by_beginning: defaultdict[str, list[Shape]] = defaultdict(list)
for _shape in _WORDS:
    _by_beginning[_shape.literal[:2]].append(_shape)

_LONG = b"x" * 16
_RUN = re.compile(rb"x+")
_MARKS = bytes(ord("x") if re.match(rb"[\w+/-]", bytes([code])) else ord(" ") for code in range(256))
_WORD = re.compile(r"[\w-]{2,}", re.ASCII)
_LONGEST = 1024


def long_runs(text: str) -> list[tuple[int, int]]:
    """Return start and end of each run of at least 16 letters of base64: keys, base64, and long names."""
    marks = text.encode("latin-1", "replace").translate(_MARKS)  # one byte a character
    runs: list[tuple[int, int]] = []
    start = marks.find(_LONG)
    while start >= 0:
        run = _RUN.match(marks, start)
        end = run.end() if run else len(marks)
        runs.append((start, end))
        start = marks.find(_LONG, end)
    return runs


def find_shapes(text: str, runs: list[tuple[int, int]] | None = None) -> Iterator[tuple[int, int, Shape]]:
    """Yield start, end and shape of each key in a text, in no order; keys may overlap.

    Of a run of base64 of more than 1,024 characters, only the first 1,024 are searched, as no key is so long.

    Args:
        text: to search.
        runs: `long_runs(text)`, if the caller has them.
    """
    start = 0
    for first, last in long_runs(text) if runs is None else runs:
        end = last
        if last - first > _LONGEST:
            yield from _anywhere(text, start, first + _LONGEST)
            start, end = last, first + _LONGEST
        for word in _WORD.finditer(text, first, end):
            yield from _in_word(text, *word.span())
    yield from _anywhere(text, start, len(text))


def _anywhere(text: str, start: int, end: int) -> Iterator[tuple[int, int, Shape]]:
    """Yield start, end and shape of each key between two positions that need not stand in a long word."""
    for shape in _ANYWHERE:
        if text.find(shape.rarest, start, end) >= 0:
            yield from _found(shape, text, start, end)


def _found(shape: Shape, text: str, start: int, end: int) -> Iterator[tuple[int, int, Shape]]:
    """Yield start, end and shape of each key of a shape whose literal is between two positions."""
    at = text.find(shape.literal, start, end)
    while at >= 0:
        after = at + 1
        if at >= shape.width and (found := shape.regex.match(text, at - shape.width)):
            yield (*found.span(), shape)
            after = found.end()
        at = text.find(shape.literal, after, end)


def _in_word(text: str, start: int, end: int) -> Iterator[tuple[int, int, Shape]]:
    """Yield start, end and shape of the keys that begin with a long word, in the word, or just before the word."""
    if text[start - 1 : start] in (".", ":"):
        for shape in _BEFORE_WORDS:
            yield from _found(shape, text, max(0, start - len(shape.literal)), start)
    for shape in _IN_WORDS:
        yield from _found(shape, text, start, end)
    while start < end and text[start] in "-_":
        start += 1
    for shape in (*_by_beginning.get(text[start : start + 2], ()), *_by_beginning.get(text[start : start + 1], ())):
        if text.startswith(shape.literal, start) and (found := shape.regex.match(text, start)):
            yield (*found.span(), shape)
            return
