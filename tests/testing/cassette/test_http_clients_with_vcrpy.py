"""Clients on `http.client` with a cassette of vcrpy, alone and under a stream layer, which streams each chunk.

"The layer" is that of `layer_for_vcr_test`, which the plugin lays if the ini file says so.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any

import pytest
import vcr
from http_clients import Client, each_client, outcome
from loopback_server import EVENTS, Server

from miniagents_testing import stream_layer
from miniagents_testing.cassette import layer_for_vcr_test, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


def run(path: Path, mode: str, call: Callable[[], Any], *, layer: bool, **config: Any) -> tuple[Any, Any]:
    """Return the outcome of a call with a cassette of vcrpy, with a stream layer or without, and the cassette."""
    with vcr.use_cassette(str(path), record_mode=mode, **config) as cassette:
        if layer:
            opened = layer_for_vcr_test(cassette)
            assert opened is not None
            with opened:
                return outcome(call), cassette
        return outcome(call), cassette


@each_client
@pytest.mark.parametrize("behaviour", ["stream", "length", "zipped", "redirect"])
def test_recording_of_vcrpy_is_played_alike(client: Client, server: Server, path: Path, behaviour: str) -> None:
    """A recording of vcrpy plays the same with a stream layer and without, counts as played, and nothing is sent."""
    url = f"{server.url}/{behaviour}{client.path}"

    def call() -> Any:
        with client:
            answer = client.get(url)
            return answer.status, answer.body

    recorded, _ = run(path, "once", call, layer=False)
    seen = len(server.seen)
    for layer in (False, True):
        played, cassette = run(path, "none", call, layer=layer)
        assert played == recorded
        assert (cassette.play_count, cassette.all_played) == (seen, True)
    assert len(server.seen) == seen


@each_client
@pytest.mark.parametrize("behaviour", ["stream", "zipped"])
def test_recording_under_the_layer_is_played_by_vcrpy(
    client: Client, server: Server, path: Path, behaviour: str
) -> None:
    """Under a stream layer, a client gets the live chunks, recorded and played; plain vcrpy plays the same answer."""
    url = f"{server.url}/{behaviour}{client.path}"

    def call() -> Any:
        with client:
            return client.get(url)

    live = outcome(call)
    recorded, cassette = run(path, "once", call, layer=True)
    assert recorded == live
    assert len(cassette) == 1
    assert len(load(path)[0].response.chunks) >= len(EVENTS) or (client.name, behaviour) == ("boto3", "zipped")
    seen = len(server.seen)
    assert run(path, "none", call, layer=True)[0] == live
    with vcr.use_cassette(str(path), record_mode="none") as opened, stream_layer(opened, unplayed="ignore"):
        assert outcome(call) == live
    whole, _ = run(path, "none", call, layer=False)
    assert getattr(whole, "body", whole) == getattr(live, "body", live) or client.name == "boto3"
    assert len(server.seen) == seen


@each_client
def test_rules_of_vcrpy_decide(client: Client, server: Server, path: Path) -> None:
    """With a stream layer as without, vcrpy's matchers, repeats and hooks decide, and a miss is vcrpy's error."""
    url = f"{server.url}/{'echo' if client.name != 'boto3' else 'length'}"
    config: dict[str, Any] = {"match_on": ["method", "path", "body"]}

    def send(*bodies: bytes) -> Callable[[], Any]:
        def call() -> Any:
            with client:
                return [client.post(url, body) for body in bodies]

        return call

    first, _ = run(path, "once", send(b"ab=1"), layer=False, **config)
    for layer in (False, True):
        played, cassette = run(path, "none", send(b"ab=1"), layer=layer, **config)
        assert (played, cassette.play_count) == (first, 1)
        missed, cassette = run(path, "none", send(b"other=1"), layer=layer, **config)
        assert (missed[0].__name__, cassette.play_count) == (_MISS.get(client.name, _MISS[""]), 0)
        missed, cassette = run(path, "none", send(b"ab=1", b"ab=1"), layer=layer, **config)
        assert (missed[0].__name__, cassette.play_count) == (_MISS.get(client.name, _MISS[""]), 1)
        repeated, cassette = run(
            path, "none", send(b"ab=1", b"ab=1"), layer=layer, **config, allow_playback_repeats=True
        )
        assert (repeated, cassette.play_count) == (first * 2, 2)
    assert len(server.seen) == 1
    for layer in (False, True):
        ignored, cassette = run(path, "none", send(b"ab=1"), layer=layer, before_record_request=lambda _: None)
        assert (ignored, cassette.play_count) == (first, 0)
    assert len(server.seen) == 3


@each_client
@pytest.mark.parametrize("how", ["get", "post", "upload"])
def test_matchers_of_vcrpy_see_the_same_request(client: Client, server: Server, path: Path, how: str) -> None:
    """A request that plain vcrpy recorded is found by all matchers of vcrpy, with a stream layer as without."""
    if how == "upload" and client.name != "boto3":
        pytest.skip("vcrpy does not send bodies in parts as the client does")
    url = f"{server.url}/{'length' if how == 'get' else 'echo'}"
    match_on = ["method", "uri", "scheme", "host", "port", "path", "query", "headers", "body", "raw_body"]
    if client.name == "boto3":
        url = server.url if how == "upload" else f"{server.url}/length{client.path if how == 'get' else ''}"
        match_on.remove("headers")  # have the time of the request, a signature and a random id

    def call() -> Any:
        with client:
            if how == "get":
                return client.get(url).body
            return client.post(url, b"a=1") if how == "post" else client.upload(url, [b"body"])

    first, _ = run(path, "once", call, layer=False, match_on=match_on)
    for layer in (False, True):
        played, cassette = run(path, "none", call, layer=layer, match_on=match_on)
        assert (played, cassette.play_count) == (first, 1)
    assert len(server.seen) == 1


_MISS = {"": "CannotOverwriteExistingCassetteException", "boto3": "HTTPClientError"}
"""Classes of the error for a miss, by client."""


def test_connections_of_vcrpy_are_left_to_the_real_ones(server: Server, path: Path) -> None:
    """A connection that vcrpy made before the stream layer began streams under that layer; later vcrpy plays to it."""
    url = server.url.removeprefix("http://")
    with vcr.use_cassette(str(path)):
        for _ in range(2):
            connection = http.client.HTTPConnection(url)
            connection.request("GET", "/stream")
            whole = connection.getresponse().read()
            connection.close()
    with vcr.use_cassette(str(path), record_mode="none") as cassette:
        connection = http.client.HTTPConnection(url)
        layer = layer_for_vcr_test(cassette)
        assert layer is not None
        with layer:
            connection.putrequest("GET", "/stream")
            connection.putheader("x", "y")
            connection.endheaders()
            response: Any = connection.getresponse()
            assert list(iter(response.read1, b"")) == EVENTS
        connection.request("GET", "/stream")
        assert connection.getresponse().read() == whole
        connection.close()
    assert len(server.seen) == 2
