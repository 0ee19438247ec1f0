"""The side of vcrpy: its cassette holds, filters, stores and saves; here are the hooks through which it does.

Nothing of vcrpy is imported before this module is.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcr import VCR
from vcr.patch import PATCHER_NAMES
from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.request import Request
from vcr.serialize import deserialize, serialize
from vcr.serializers import yamlserializer

from miniagents_testing.cassette._document import entry_of, interaction_of, parse, with_checksum
from miniagents_testing.cassette._file import read, write
from miniagents_testing.cassette._session import LiveRequest
from miniagents_testing.cassette._yaml import yaml_text

if TYPE_CHECKING:
    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._matching import Matching, RequestKey


# It logs each response with its whole body, at a level that test runners collect.
logging.getLogger("vcr.cassette").setLevel(logging.WARNING)


class Serializer:
    """Writes and reads the document with its seal.

    Args:
        inner: writes the text, where it is not to be our YAML.
    """

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    def serialize(self, document: dict[str, Any]) -> str:
        """The text. What tells that it is whole comes last, where it is missed when the file is cut off."""
        interactions = document.pop("interactions")
        whole = with_checksum(interactions, **document)
        text: str = yaml_text(whole) if self._inner is None else self._inner.serialize(whole)
        return text

    def deserialize(self, text: str | bytes) -> dict[str, Any]:
        """The document as vcrpy can read it."""
        document = parse(text)
        return {**document, "interactions": [_as_vcrpy_knows_it(entry) for entry in document["interactions"]]}


def _as_vcrpy_knows_it(entry: dict[str, Any]) -> dict[str, Any]:
    """Others keep requests in forms of their own, such as pydantic-ai's parsed bodies; vcrpy has four names for it."""
    if entry["request"].keys() == {"method", "uri", "body", "headers"}:
        return entry
    entry = entry_of(interaction_of(entry, "an interaction of another recorder"))
    del entry["response"]["stream"]
    return entry


class Persister:
    """Persister that reads each version of a file once, and writes it in one step.

    Args:
        forgets: whether what is there counts as not there.
    """

    def __init__(self, *, forgets: bool = False) -> None:
        self._forgets = forgets

    def load_cassette(self, path: str, serializer: Any) -> tuple[list[Any], list[Any]]:
        """Requests and responses, for vcrpy; what it may do with them it does with copies."""
        if self._forgets:
            raise CassetteNotFoundError(path)
        try:
            found = Path(path).stat()
        except FileNotFoundError:
            raise CassetteNotFoundError(path) from None
        requests, responses = _read(os.path.realpath(path), found.st_mtime_ns, found.st_size, found.st_ino)
        return list(requests), list(responses)

    def save_cassette(self, path: str, cassette_dict: dict[str, Any], serializer: Any) -> None:
        """Old or new, never half of it."""
        write(path, serialize(cassette_dict, serializer))


@lru_cache(maxsize=32)
def _read(path: str, *version: int) -> tuple[list[Any], list[Any]]:
    """Read a file; another `version` is another file. vcrpy copies what it gets, so the cached lists do not change."""
    requests, responses, *_ = read(path, lambda text: deserialize(text, Serializer()))
    return requests, responses


def configured(path: str | os.PathLike[str], mode: str, matching: Matching) -> Any:
    """The context of vcrpy for a cassette of ours: it patches nothing."""

    def same(first: Any, second: Any) -> bool:
        return key(first) == key(second)

    def key(request: Any) -> RequestKey:
        return matching.key(request.method, request.uri, request.body_bytes or b"")

    vcr = VCR(serializer="miniagents", match_on=("miniagents",), skip_patchers=PATCHER_NAMES)
    vcr.register_serializer("miniagents", Serializer())
    vcr.register_persister(Persister(forgets=mode == "rewrite"))
    vcr.register_matcher("miniagents", same)
    return vcr.use_cassette(os.fspath(path), record_mode="new_episodes" if mode == "rewrite" else mode)


def interactions_of(cassette: Any) -> list[Interaction]:
    """What a cassette of vcrpy has loaded, after the hooks of its user."""
    return [
        interaction_of(
            {
                "request": {
                    "method": request.method,
                    "uri": request.uri,
                    "body": request.body_bytes,
                    "headers": {name: [value] for name, value in request.headers.items()},
                },
                "response": response,
            },
            f"{cassette.path}, interaction {number}",
        )
        for number, (request, response) in enumerate(cassette.data, 1)
    ]


def append(cassette: Any, interaction: Interaction) -> None:
    """Add what was recorded; the hooks of the user change it as they change everything."""
    entry = entry_of(interaction)
    request = Request(interaction.method, interaction.uri, interaction.request_body, dict(interaction.request_headers))
    response = {**entry["response"], "body": {"string": interaction.response.body}}
    cassette.append(request, response)


def filtered(cassette: Any, live: LiveRequest) -> LiveRequest | None:
    """A request as the hooks of the user leave it; None where they want it ignored."""
    request = cassette.filter_request(Request(live.method, live.url, live.body, dict(live.headers)))
    if not request:
        return None
    return LiveRequest(request.method, request.uri, request.body_bytes or b"", list(request.headers.items()))


def hand_over_saving(cassette: Any) -> None:
    """A cassette that somebody else has opened is saved in our way: sealed, and in one step.

    These two attributes are not public, but nothing public changes them once a cassette is open.
    """
    plain = cassette._serializer is yamlserializer
    cassette._serializer = Serializer(None if plain else cassette._serializer)
    cassette._persister = Persister()
    cassette.drop_unused_requests = False  # vcrpy would not know what we have played, and drop it all
