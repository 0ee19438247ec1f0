"""Hooks into vcrpy, whose cassette keeps, filters and saves the interactions of a session.

No other module imports vcrpy, so it is imported when the first cassette is opened.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vcr import VCR
from vcr.errors import CannotOverwriteExistingCassetteException
from vcr.patch import PATCHER_NAMES
from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.request import Request
from vcr.serialize import deserialize, serialize
from vcr.serializers import yamlserializer

from miniagents_testing.cassette._bodies import content_headers
from miniagents_testing.cassette._document import entry_of, interaction_of, parse, with_checksum
from miniagents_testing.cassette._file import read, status_of, write
from miniagents_testing.cassette._headers import redacted_headers
from miniagents_testing.cassette._session import LiveRequest
from miniagents_testing.cassette._yaml import yaml_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._matching import Matching, RequestKey


# vcrpy logs each response with its whole body, at a level that test runners collect.
logging.getLogger("vcr.cassette").setLevel(logging.WARNING)


class _Serializer:
    """Serializer of vcrpy that adds the checksum on writing, and checks it on reading.

    Args:
        inner: serializer of vcrpy that writes the text; None for the YAML of the testing kit.
    """

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    def serialize(self, document: dict[str, Any]) -> str:
        """Return the document as the text of a file, with a checksum at its end: a file that was cut off has none.

        The call removes `interactions` from `document`.
        """
        interactions = document.pop("interactions")
        whole = with_checksum(interactions, **document)
        text: str = yaml_text(whole) if self._inner is None else self._inner.serialize(whole)
        return text

    def deserialize(self, text: str | bytes) -> dict[str, Any]:
        """Return the document of a text whose checksum fits, with entries in the form that vcrpy reads."""
        document = parse(text)
        return {**document, "interactions": [_with_vcrpy_keys(entry) for entry in document["interactions"]]}


def _with_vcrpy_keys(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry unchanged if its request has vcrpy's four keys.

    Convert any other one, such as pydantic-ai's with parsed bodies.
    """
    if entry["request"].keys() == {"method", "uri", "body", "headers"}:
        return entry
    entry = entry_of(interaction_of(entry, "an interaction of another recorder"))
    del entry["response"]["stream"]
    return entry


class _Persister:
    """Persister of vcrpy that reads each version of a file once, and writes it in one step.

    Args:
        forgets: True to treat an existing file as absent.
    """

    def __init__(self, *, forgets: bool = False) -> None:
        self._forgets = forgets

    def load_cassette(self, path: str, serializer: Any) -> tuple[list[Any], list[Any]]:
        """Return requests and responses of a file for vcrpy, which changes copies of them only.

        Raises:
            CassetteNotFoundError: of vcrpy: there is no file, or the file is to be recorded anew.
            CassetteFormatError: the file is no cassette, or no regular file.
        """
        found = status_of(path)
        if self._forgets or found is None:
            raise CassetteNotFoundError(path)
        requests, responses = _read(os.path.realpath(path), found.st_mtime_ns, found.st_size, found.st_ino)
        return list(requests), list(responses)

    def save_cassette(self, path: str, cassette_dict: dict[str, Any], serializer: Any) -> None:
        """Write the file in one step, so that it is never half written; an existing one is replaced."""
        write(path, serialize(cassette_dict, serializer))


@lru_cache(maxsize=32)
def _read(path: str, *version: int) -> tuple[list[Any], list[Any]]:
    """Return requests and responses of a file; the result is cached by its `version`.

    The cached lists do not change, because vcrpy copies them.
    """
    requests, responses, *_ = read(path, lambda text: deserialize(text, _Serializer()))
    return requests, responses


def configured(path: str | os.PathLike[str], mode: str, matching: Matching) -> Any:
    """Return a context of vcrpy that opens a cassette of this format and patches nothing.

    Mode "rewrite" opens the cassette as if it had no interactions.
    """

    def same(first: Any, second: Any) -> bool:
        return key(first) == key(second)

    def key(request: Any) -> RequestKey:
        headers = content_headers(request.headers.items())
        return matching.key(request.method, request.uri, request.body_bytes or b"", headers)

    vcr = VCR(serializer="miniagents", match_on=("miniagents",), skip_patchers=PATCHER_NAMES)
    vcr.register_serializer("miniagents", _Serializer())
    vcr.register_persister(_Persister(forgets=mode == "rewrite"))
    vcr.register_matcher("miniagents", same)
    return vcr.use_cassette(os.fspath(path), record_mode="new_episodes" if mode == "rewrite" else mode)


def interactions_of(cassette: Any) -> list[Interaction]:
    """Return the interactions that a cassette of vcrpy has loaded and its user's hooks have changed."""
    return [interaction_at(cassette, index) for index in range(len(cassette.data))]


def interaction_at(cassette: Any, index: int) -> Interaction:
    """Return an interaction of a cassette of vcrpy, as its user's hooks have changed it."""
    request, response = cassette.data[index]
    return interaction_of(
        {
            "request": {
                "method": request.method,
                "uri": request.uri,
                "body": _body_bytes(request),
                "headers": {name: [value] for name, value in request.headers.items()},
            },
            "response": response,
        },
        f"{cassette.path}, interaction {index + 1}",
    )


def append(cassette: Any, interaction: Interaction) -> None:
    """Add a recorded interaction to a cassette of vcrpy, which applies its user's hooks."""
    entry = entry_of(interaction)
    request = Request(interaction.method, interaction.uri, interaction.request_body, dict(interaction.request_headers))
    response = {**entry["response"], "body": {"string": interaction.response.body}}
    cassette.append(request, response)


class Appended:
    """Recordings of a session that are in vcrpy's cassette before the session ends, as vcrpy's own would be.

    Args:
        cassette: of vcrpy.
    """

    def __init__(self, cassette: Any) -> None:
        self._cassette = cassette
        self._dirty = cassette.dirty
        self._lock = threading.Lock()
        self._entries: dict[float, tuple[Interaction, list[Any]]] = {}
        """Each recording with its entries in the cassette, which hooks may keep out, by the start of its request."""

    def append(self, interaction: Interaction) -> None:
        """Add a recording to vcrpy's cassette, and remember its entries, so that they can be removed."""
        with self._lock:
            before = len(self._cassette.data)
            append(self._cassette, interaction)
            self._entries[interaction.started_ms] = interaction, self._cassette.data[before:]

    def holds(self, interaction: Interaction) -> bool:
        """Return True if a recording equal to `interaction` was appended.

        If a different recording with the same start was appended, remove that one, and return False. It differs if a
        secret has become known since. Return False, too, if none was appended.
        """
        early, entries = self._entries.get(interaction.started_ms, (None, []))
        if early is not None and early != interaction:
            self._remove(entries)
        return early == interaction

    def take_back(self) -> None:
        """Remove all recordings, and let vcrpy save nothing that it would not have saved without them."""
        for _, entries in self._entries.values():
            self._remove(entries)
        self._cassette.dirty = self._dirty

    def _remove(self, entries: list[Any]) -> None:
        """Remove these very entries from the cassette."""
        self._cassette.data[:] = [each for each in self._cassette.data if all(each is not entry for entry in entries)]


def _body_bytes(request: Any) -> bytes:
    """Return the body of a request of vcrpy as bytes; empty if there is none.

    An object, which aiohttp sends as JSON, becomes JSON.
    """
    body = request.body
    if body is None or isinstance(body, (bytes, str)):
        return body.encode() if isinstance(body, str) else body or b""
    if isinstance(body, (dict, list, tuple, int, float)):
        return json.dumps(body, ensure_ascii=False, default=str).encode()
    return request.body_bytes or b""


def request_of(method: str, url: str, body: bytes | None, headers: Iterable[tuple[str, str]]) -> Any:
    """Return a request of vcrpy, which joins the values of a header that is there twice."""
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return Request(method, url, body, joined)


def _request(live: LiveRequest) -> Any:
    """Return the request of vcrpy for a live one: vcrpy's own if it is known, else one made of the live one."""
    return request_of(*live[:4]) if live.as_vcrpy is None else live.as_vcrpy


def play(cassette: Any, loaded: Sequence[Interaction], live: LiveRequest) -> tuple[int, Interaction] | None:
    """Play a request by vcrpy's own rules; return index and interaction, or None if the request is to be recorded.

    Recordings of this session lack credentials, so the request is also looked up without them.

    Raises:
        CannotOverwriteExistingCassetteException: the cassette has no answer, and may not be changed.
    """
    redacted = [(name, value) for name, values in redacted_headers(live.headers).items() for value in values]
    plain = live._replace(as_vcrpy=None)
    requests = [_request(live), _request(plain), _request(plain._replace(headers=redacted))]
    for request in requests:
        if cassette.can_play_response_for(request):
            played = cassette.play_response(request)
            index = next(index for index, (_, response) in enumerate(cassette.data) if response is played)
            return index, loaded[index] if index < len(loaded) else interaction_at(cassette, index)
    if cassette.write_protected:
        raise CannotOverwriteExistingCassetteException(cassette=cassette, failed_request=requests[0])
    return None


def filtered(cassette: Any, live: LiveRequest) -> LiveRequest | None:
    """Return a request after the user's hooks, which leave it as vcrpy has it; None if they ignore the request."""
    request = cassette.filter_request(_request(live))
    if not request:
        return None
    return LiveRequest(request.method, request.uri, _body_bytes(request), list(request.headers.items()))


class _SeenError(Exception):
    """Carrier of a request that vcrpy's patch of aiohttp has made."""


class _AskedCassette:
    """Cassette that raises `_SeenError` with each request, so that nothing is played or sent."""

    def can_play_response_for(self, request: Any) -> bool:
        """Raise `_SeenError` with the request that vcrpy has made."""
        raise _SeenError(request)


async def request_of_aiohttp(client: Any, *call: Any, **options: Any) -> Any:
    """Return a request as vcrpy's patch of aiohttp makes it: with the headers and the data that the user has given.

    Args:
        client: session of aiohttp.
        call: method and URL.
        options: other arguments of the request; an iterator of data, which can be read once, is not among them.
    """
    from vcr.stubs.aiohttp_stubs import vcr_request  # imports aiohttp

    try:
        await vcr_request(_AskedCassette(), request_of_aiohttp)(client, *call, **options)
    except _SeenError as seen:
        return seen.args[0]
    raise AssertionError("vcrpy has sent a request without asking its cassette")


def replace_saving(cassette: Any, *, keeps_own: bool = False) -> None:
    """Make a cassette that vcrpy has opened be saved with a checksum and in one step.

    Args:
        cassette: of vcrpy.
        keeps_own: True to keep a persister of the user's own, and `drop_unused_requests`.

    The two private attributes of vcrpy are set because no public name changes them on an open cassette.
    """
    plain = cassette._serializer is yamlserializer
    cassette._serializer = _Serializer(None if plain else cassette._serializer)
    persister = cassette._persister
    kind = persister if isinstance(persister, type) else type(persister)
    if not keeps_own or kind.__module__ in ("pytest_recording._vcr", "vcr.persisters.filesystem"):
        cassette._persister = _Persister()
    if keeps_own:
        return
    cassette.drop_unused_requests = False  # vcrpy does not know what a session has played, and would drop it
