"""Recorded streams as a script: each request gets the recorded answer to the same request, on any host."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from miniagents_testing._scripted.transport import api_of_path
from miniagents_testing.cassette._matching import canonical_body, differences
from miniagents_testing.errors import UnexpectedCallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from miniagents_testing._script import API, Call
    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.cassette import Interaction

__all__ = ["recorded"]

_Key = tuple["API | None", bytes]


def recorded(interactions: Iterable[Interaction]) -> Callable[[Call], ResponseStream]:
    """Return a script that answers from recordings: `ProviderServer(recorded(load("chat.yaml")))`.

    A request that was recorded several times gets its answers in the order in which they were recorded. To answer any
    request in the order of the recording, give the responses themselves as a script:
    `[interaction.response for interaction in load("chat.yaml")]`.
    """
    all_interactions = list(interactions)
    left: dict[_Key, deque[ResponseStream]] = {}
    for interaction in all_interactions:
        left.setdefault(_key(_api(interaction), interaction.request_body), deque()).append(interaction.response)

    def answer(call: Call) -> ResponseStream:
        body = json.dumps(call.request, default=dict).encode()
        answers = left.get(_key(call.api, body))
        if answers:
            return answers.popleft()
        lines = [f"the recording has no unused answer to {call}"]
        asked = canonical_body(body)
        bodies = (canonical_body(each.request_body) for each in all_interactions if _api(each) == call.api)
        nearest = sorted((list(differences(recorded, asked)) for recorded in bodies), key=len)
        for found in nearest[:1]:
            lines += [f"  {line}" for line in found[:5]] or ["  the same request was answered already"]
        raise UnexpectedCallError("\n".join(lines))

    return answer


def _key(api: API | None, body: bytes) -> _Key:
    """Return the key that finds a recorded answer: the API and the request's content."""
    return api, canonical_body(body)


def _api(interaction: Interaction) -> API | None:
    """Return the API of a recorded request, or None if it is of no known API."""
    return api_of_path(urlsplit(interaction.uri).path)
