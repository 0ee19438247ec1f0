"""Redaction that refuses: what can be replaced is replaced, and what is still there is named."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from miniagents_testing.cassette.interaction import kept_headers
from miniagents_testing.cassette.secrets.encodings import SHORTEST
from miniagents_testing.cassette.secrets.known import known_secrets
from miniagents_testing.cassette.secrets.leaks import SEARCH_FOR_KEYS, leaks_of, search_for, suspicions
from miniagents_testing.cassette.secrets.plain import plain
from miniagents_testing.cassette.secrets.rules import JSONPath, key_rules, replaced, text_rule
from miniagents_testing.cassette.secrets.scrubbing import body_edits, edited, edited_chunks, scrubbed_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.cassette.interaction import Interaction
    from miniagents_testing.cassette.secrets.leaks import Leak
    from miniagents_testing.cassette.secrets.rules import Edit, Rule

__all__ = ["Redaction", "scan"]


class Redaction:
    """What must not be in a recording, and what stands in its place.

    Recording and replay use the same redaction, so that a live request, scrubbed, is the one that was recorded.

    Args:
        known_values: secrets by value; those of the environment by default, see `known_secrets`.
        rules: what users want to be replaced besides: in the texts of bodies (those of a stream as a whole, however
            they were cut), and in the segments and parameters of a URI.

    Raises:
        ValueError: a known value is shorter than 8 bytes, and would be found anywhere; or a rule makes no sense.
        TypeError: a rule is none.
    """

    def __init__(self, known_values: Iterable[str] | None = None, rules: Iterable[Rule] = ()) -> None:
        rules = list(rules)
        self._paths = [rule for rule in rules if isinstance(rule, JSONPath)]
        self._rules = [text_rule(rule) for rule in rules if not isinstance(rule, JSONPath)]
        self._known = known_secrets(os.environ) if known_values is None else set(known_values)
        shortest = min(self._known, key=len, default=None)
        if shortest is not None and len(shortest.encode("utf-8", "surrogateescape")) < SHORTEST:
            raise ValueError(f"a known value of {len(shortest)} characters would be found in texts that have no secret")
        self._know(self._known)

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """See the headers of a live request or response; the secrets in them are known from now on."""
        new = known_secrets({}, headers) - self._known
        if new:
            self._know(self._known | new)

    def _know(self, values: set[str]) -> None:
        self._known = values
        in_order = sorted(values, key=lambda value: (-len(value), value))
        self._searches = [search_for(value) for value in in_order]
        self._keys = key_rules(in_order)
        # The same few come with each request.
        self._scrubbed_uri = lru_cache(256)(partial(scrubbed_uri, rules=[*self._keys, *self._rules]))

    def scrub(self, interaction: Interaction) -> Interaction:
        """The interaction without headers that nobody needs, and with "[redacted]" for known values, keys and rules.

        Nothing else changes, not by a byte. Chunks keep their cuts and waits. What is hidden in an encoding other than
        that of JSON or of a URI stays, for `leaks` to find.
        """
        response = interaction.response
        return replace(
            interaction,
            uri=self.scrub_uri(interaction.uri),
            request_body=self.scrub_body(interaction.request_body),
            request_headers=self._headers(interaction.request_headers),
            response=replace(
                self._response(response),
                reason=self._text(response.reason),
                end=self._text(response.end),
            ),
        )

    def scrub_body(self, body: bytes) -> bytes:
        """A body as it would be recorded; for a live request, before it is looked up."""
        return edited(body, self._edits(body))

    def scrub_uri(self, uri: str) -> str:
        """A URI as it would be recorded; for a live request, before it is looked up."""
        return self._scrubbed_uri(uri)

    def leaks(self, interaction: Interaction, *, keys: bool = False) -> list[Leak]:
        """Where a known value stands, in any encoding; a recording with one of these must not be written.

        Args:
            interaction: as it would be written.
            keys: find also what only looks like a secret.
        """
        if not keys:
            return leaks_of(interaction, self._searches)
        return [*leaks_of(interaction, [*self._searches, SEARCH_FOR_KEYS]), *suspicions(interaction)]

    def _edits(self, body: bytes) -> list[Edit]:
        return body_edits(body, keys=self._keys, rules=self._rules, paths=self._paths)

    def _text(self, text: str) -> str:
        return replaced(text, self._keys)

    def _headers(self, headers: Mapping[str, list[str]]) -> dict[str, list[str]]:
        return kept_headers([(name, self._text(value)) for name, values in headers.items() for value in values])

    def _response(self, response: ResponseStream) -> ResponseStream:
        """The response with its body scrubbed, and then uncompressed."""
        headers = self._headers(response.headers)
        body = plain(response.chunks, response.headers)
        edits = self._edits(body.data)
        if not edits:
            return replace(response, headers=headers)
        if body.undone:
            headers.pop("content-encoding", None)
        return replace(response, headers=headers, chunks=tuple(edited_chunks(body.chunks, edits)))


def scan(
    interactions: Iterable[Interaction], known_values: Iterable[str] | None = None, *, keys: bool = False
) -> list[Leak]:
    """The leaks of a whole recording; each says the number of its interaction.

    Args:
        interactions: of the recording, in their order.
        known_values: as for `Redaction`.
        keys: as for `Redaction.leaks`.

    Raises:
        ValueError: as `Redaction` does.
    """
    redaction = Redaction(known_values)
    return [
        replace(leak, interaction=number)
        for number, interaction in enumerate(interactions, 1)
        for leak in redaction.leaks(interaction, keys=keys)
    ]
