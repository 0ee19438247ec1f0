"""Where a secret stands in an interaction, in words that do not give it away."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from miniagents_testing.cassette.interaction import KEPT_HEADERS
from miniagents_testing.cassette.secrets.encodings import named, unfolded
from miniagents_testing.cassette.secrets.known import is_telling, known_secrets
from miniagents_testing.cassette.secrets.patterns import holds_key, is_secret_name
from miniagents_testing.cassette.secrets.places import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from miniagents_testing.cassette.interaction import Interaction
    from miniagents_testing.cassette.secrets.places import Part

__all__ = ["SEARCH_FOR_KEYS", "Leak", "Search", "leaks_of", "search_for", "suspicions"]

_STAND_IN = re.compile(r"redact|dummy|fake|mock|test|example|placeholder|filtered|scrub|x{4}|\*{3}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret in a recording. It says where, and not what it is."""

    place: str
    """In a person's words: `request body messages[2].content`, `query parameter api_key`."""
    encoding: str = "plain"
    """How it was hidden there, the outermost first: `base64`, `gzip, percent-encoded twice`."""
    what: str = "a known secret"
    interaction: int = 0
    """Its number in the cassette, from 1; 0 where nobody counted."""

    def __str__(self) -> str:
        number = f"interaction {self.interaction}, " if self.interaction else ""
        encoding = "" if self.encoding == "plain" else f" ({self.encoding})"
        return f"{number}{self.place}: {self.what}{encoding}"


class Search(NamedTuple):
    """What to look for."""

    what: str
    holds: Callable[[bytes], object]
    """Whether it is in a text whose encodings have been undone."""


SEARCH_FOR_KEYS = Search("what looks like a key", holds_key)


def search_for(known_value: str) -> Search:
    """The search for a value that is known to be secret."""
    value = known_value.encode("utf-8", "surrogateescape")
    if b" " not in value:
        return Search("a known secret", lambda text: value in text)
    in_a_form = value.replace(b" ", b"+")
    return Search("a known secret", lambda text: value in text or in_a_form in text)


def leaks_of(interaction: Interaction, searches: Sequence[Search]) -> list[Leak]:
    """Every place where one of them is found, each once."""
    found: dict[Leak, None] = {}
    for part in parts_of(interaction):
        if not part.readable:
            found[Leak(part.place, what="compressed in a way that cannot be searched")] = None
        found |= dict.fromkeys(_leaks_in(part, searches))
    return list(found)


def suspicions(interaction: Interaction) -> Iterator[Leak]:
    """What has the name of a secret, and a value that could be one."""
    for whose, headers in (("request", interaction.request_headers), ("response", interaction.response.headers)):
        for name, values in headers.items():
            secrets = known_secrets({}, [(name, value) for value in values])
            if name.lower() not in KEPT_HEADERS and any(map(_is_real, secrets)):
                yield Leak(f"{whose} header {name}", what="a header that carries secrets")
    parts = urlsplit(interaction.uri)
    if parts.password and _is_real(parts.password):
        yield Leak("user info of the URI", what="a password")
    for name, value in parse_qsl(parts.query):
        if is_secret_name(name) and _is_real(value):
            yield Leak(f"query parameter {name}", what="a parameter that carries secrets")


def _is_real(value: str) -> bool:
    """Whether nobody has put anything in the place of the secret."""
    return is_telling(value) and _STAND_IN.search(value) is None


def _leaks_in(part: Part, searches: Sequence[Search]) -> Iterator[Leak]:
    """First whether, which is cheap, then where, which is not."""
    pending = list(_first_found(part.data, searches))
    for row in part.spots():
        if not pending:
            return
        placed: set[Search] = set()
        for spot in row:
            found = _first_found(b"".join(spot.texts), pending)
            placed |= found.keys()
            for search, names in found.items():
                if search is SEARCH_FOR_KEYS and len(found) > 1:
                    continue  # a known one looks like a key, too
                place = spot.place(*_narrowed(spot.texts, search))
                if _first_found(place.encode("utf-8", "replace"), searches):
                    place = part.place  # a name that is itself the secret
                yield Leak(place, named((part.undone, *names) if part.undone else names), search.what)
        pending = [search for search in pending if search not in placed]


def _first_found(text: bytes, searches: Iterable[Search]) -> dict[Search, tuple[str, ...]]:
    """Which of them are found in the text, and after undoing the fewest encodings."""
    pending = list(searches)
    found: dict[Search, tuple[str, ...]] = {}
    for names, view in unfolded(text):
        if not pending:
            break
        for search in [search for search in pending if search.holds(view)]:
            found[search] = names
            pending.remove(search)
    return found


def _narrowed(texts: Sequence[bytes], search: Search) -> tuple[int, int]:
    """The first and last of the texts that are needed to find it."""

    def holds(first: int, end: int) -> bool:
        return bool(_first_found(b"".join(texts[first:end]), [search]))

    end = bisect_left(range(1, len(texts)), True, key=lambda end: holds(0, end)) + 1
    first = bisect_left(range(1, end), True, key=lambda first: not holds(first, end))
    return first, end - 1
