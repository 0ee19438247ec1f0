"""What keeps secrets out of cassettes, as seen by whoever records: the seam to `secrets`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from miniagents_testing.cassette.interaction import Interaction

__all__ = ["Redactor", "RequestKeys"]

_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
_SHORTEST_SECRET = 8


class Redactor(Protocol):
    """Changes what is written, and tells what must not be."""

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """See the headers of a live request, or of its response; keys in them are secrets from now on."""

    def scrub_uri(self, uri: str) -> str:
        """The URI of a live request as it would stand in a cassette; this is what is looked for."""

    def scrub_body(self, body: bytes) -> bytes:
        """The same for its body."""

    def scrub(self, interaction: Interaction) -> Interaction:
        """An interaction as it may be written."""

    def leaks(self, interaction: Interaction) -> Sequence[object]:
        """The places of secrets that are still there; each is shown to the user as `str` says it."""


@dataclass
class RequestKeys:
    """Knows the keys that requests were sent with, and changes nothing."""

    _secrets: set[str] = field(default_factory=set, repr=False)

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """A value that is too short to be a key would be found everywhere."""
        values = (value.rpartition(" ")[2] for name, value in headers if name.lower() in _SECRET_HEADERS)
        self._secrets.update(value for value in values if len(value) >= _SHORTEST_SECRET)

    def scrub_uri(self, uri: str) -> str:
        """As it is."""
        return uri

    def scrub_body(self, body: bytes) -> bytes:
        """As it is."""
        return body

    def scrub(self, interaction: Interaction) -> Interaction:
        """As it is."""
        return interaction

    def leaks(self, interaction: Interaction) -> Sequence[object]:
        """Headers are safe by their list; a key could still stand in a URL or a body."""
        places = {
            "URL": interaction.uri.encode(),
            "request body": interaction.request_body,
            "response body": interaction.response.body,
        }
        return [
            f"the API key of a request stands in a {place}"
            for place, text in places.items()
            if any(secret.encode() in text for secret in self._secrets)
        ]
