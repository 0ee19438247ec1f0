"""Shapes of the keys of well-known services: one table for logs, for errors and for recordings.

A key is a long word. `find_shapes` finds the long words of a text first, and tries a pattern only on a word with the
literal of a shape. There is no measure of randomness: prose that resembles a key stays.

The shapes are those that the services publish, and those that common secret scanners look for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """Return shapes of one service that differ in their literals."""
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
