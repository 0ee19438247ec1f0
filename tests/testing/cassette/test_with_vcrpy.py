"""`stream_layer` on top of a cassette that vcrpy opened, and our cassettes in plain vcrpy and pytest-recording."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest
import vcr
import yaml

from miniagents_testing import ProviderServer, Step
from miniagents_testing.cassette import load, stream_layer, use_cassette
from miniagents_testing.errors import CassetteFormatError, CassetteMissError, RecordingRefusedError, UnplayedError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

CUT = [b'data: {"a"', b":1}\n\ndata: ", b"2\n\n"]


def _networks(kit: Kit) -> list[type]:
    return [type(kit.network()), type(kit.network(library="httpx"))]


async def _read(network: Any, kit: Kit, **body: Any) -> list[bytes]:
    async with httpx2.AsyncClient(transport=network) as client:
        async with client.stream("POST", kit.URL, json=body) as response:
            return [chunk async for chunk in response.aiter_raw()]


async def test_stream_layer_records_and_plays_a_cassette_of_vcrpy_chunk_for_chunk(kit: Kit) -> None:
    """With a stream layer, a vcrpy cassette records and plays all chunks, in a file with a checksum."""
    network = kit.network(kit.Reply(CUT))
    with vcr.use_cassette(str(kit.path)) as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)) as session:
            assert await _read(network, kit) == CUT
    assert len(session.recorded) == 1
    assert [chunk.data for chunk in load(kit.path)[0].response.chunks] == CUT
    with vcr.use_cassette(str(kit.path), record_mode="none") as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            assert await _read(kit.network(), kit) == CUT
        assert cassette.all_played
        assert cassette.play_count == 1


async def test_stream_layer_writes_the_same_file_as_use_cassette(kit: Kit, tmp_path: Path) -> None:
    """A stream layer on vcrpy writes a file with the same keys and types of values as that of `use_cassette`."""
    other = tmp_path / "other.yaml"
    with vcr.use_cassette(str(other)) as cassette, stream_layer(cassette, also_patch=_networks(kit)):
        await _read(kit.network(kit.Reply(CUT)), kit)
    with kit.cassette("once"):
        await _read(kit.network(kit.Reply(CUT)), kit)

    def names(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: names(inner) for name, inner in value.items()}
        return [names(inner) for inner in value] if isinstance(value, list) else type(value)

    documents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (other, kit.path)]
    assert names(documents[0]) == names(documents[1])
    assert list(documents[0]) == list(documents[1])


async def test_new_episodes_are_added_to_what_vcrpy_recorded(kit: Kit) -> None:
    """New interactions are added to a vcrpy file whose entries stay, and the new checksum covers all of them."""
    entry = {
        "request": {"method": "POST", "uri": kit.URL, "body": "{}", "headers": {"X-Old": ["1"]}},
        "response": {
            "status": {"code": 200, "message": None},
            "headers": {"Server": ["cloudflare"]},
            "body": {"string": "data: 1\n\ndata: 2\n\n"},
        },
    }
    kit.path.write_text(yaml.safe_dump({"version": 1, "interactions": [entry]}), encoding="utf-8")
    with vcr.use_cassette(str(kit.path), record_mode="new_episodes") as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            assert await _read(kit.network(), kit) == [b"data: 1\n\n", b"data: 2\n\n"]
            assert await _read(kit.network(kit.Reply(CUT)), kit, n=2) == CUT
    document = yaml.safe_load(kit.path.read_text(encoding="utf-8"))
    assert document["interactions"][0] == entry
    assert [each.request_body for each in load(kit.path)] == [b"{}", b'{"n":2}']
    text = kit.path.read_text(encoding="utf-8").replace("cloudflare", "cloudflair")
    kit.path.write_text(text, encoding="utf-8")
    with pytest.raises(CassetteFormatError):
        load(kit.path)


async def test_filters_of_vcrpy_apply_in_a_stream_layer(kit: Kit) -> None:
    """In a stream layer, vcrpy's filters of parameters, bodies, responses and hosts apply to recording and matching."""

    def loud(response: dict[str, Any]) -> dict[str, Any]:
        body = response["body"]["string"]
        return {**response, "body": {"string": body.upper()}}

    config: dict[str, Any] = {
        "filter_query_parameters": ["key"],
        "filter_post_data_parameters": ["user"],
        "ignore_hosts": ["ignored.test"],
        "before_record_response": loud,
        "filter_sensitive_data": {"<NAME>": "ANN"},
    }
    network = kit.network(kit.Reply([b"data: ann\n\n"]), kit.Reply([b"ignored"]), kit.Reply([b"ignored again"]))

    async def ask(network: Any, key: str) -> list[str]:
        async with httpx2.AsyncClient(transport=network) as client:
            answer = await client.post(f"{kit.URL}?key={key}&a=1", json={"user": key, "n": 1})
            other = await client.get("https://ignored.test/")
            return [answer.text, other.text]

    with vcr.use_cassette(str(kit.path), **config) as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            assert await ask(network, "1234") == ["data: ann\n\n", "ignored"]
    text = kit.path.read_text(encoding="utf-8")
    assert "1234" not in text
    assert "ANN" not in text
    assert "DATA: <NAME>" in text
    assert "ignored" not in text
    with vcr.use_cassette(str(kit.path), record_mode="none", **config) as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            network.replies[0] = network.replies[2]
            network.requests.clear()
            assert await ask(network, "5678") == ["DATA: ANN\n\n", "ignored again"]


async def test_stream_layer_raises_misses_and_unplayed_interactions(kit: Kit) -> None:
    """In vcrpy's modes `none` and `once`, a stream layer raises misses and unplayed interactions."""
    with vcr.use_cassette(str(kit.path)) as cassette, stream_layer(cassette, also_patch=_networks(kit)):
        await _read(kit.network(kit.Reply(CUT)), kit)
    for mode in ("none", "once"):
        with vcr.use_cassette(str(kit.path), record_mode=mode) as cassette:
            with pytest.raises(CassetteMissError), stream_layer(cassette, also_patch=_networks(kit)):
                await _read(kit.network(), kit, n=2)
            with pytest.raises(UnplayedError), stream_layer(cassette, also_patch=_networks(kit)):
                pass


def test_interactions_that_vcrpy_plays_for_other_libraries_count_as_played(kit: Kit) -> None:
    """An interaction that vcrpy itself plays, for another HTTP library, is not unplayed for the stream layer."""
    entry = {
        "request": {"method": "GET", "uri": "http://x.test/", "body": None, "headers": {}},
        "response": {"status": {"code": 200, "message": "OK"}, "headers": {}, "body": {"string": "other"}},
    }
    kit.path.write_text(yaml.safe_dump({"version": 1, "interactions": [entry]}), encoding="utf-8")
    with vcr.use_cassette(str(kit.path), record_mode="none") as cassette, stream_layer(cassette):
        connection = http.client.HTTPConnection("x.test")
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"other"


async def test_repeats_are_played_where_vcrpy_allows_them(kit: Kit) -> None:
    """With vcrpy's `allow_playback_repeats`, one recording answers any number of requests in a stream layer."""
    with vcr.use_cassette(str(kit.path)) as cassette, stream_layer(cassette, also_patch=_networks(kit)):
        await _read(kit.network(kit.Reply(CUT)), kit)
    with vcr.use_cassette(str(kit.path), record_mode="none", allow_playback_repeats=True) as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            for _ in range(3):
                assert await _read(kit.network(), kit) == CUT


async def test_stream_layer_keeps_what_vcrpy_would_drop_as_unplayed(kit: Kit) -> None:
    """With vcrpy's `drop_unused_requests`, interactions that the stream layer has played stay in the file."""
    with vcr.use_cassette(str(kit.path)) as cassette, stream_layer(cassette, also_patch=_networks(kit)):
        await _read(kit.network(kit.Reply(CUT)), kit)
    with vcr.use_cassette(str(kit.path), record_mode="new_episodes", drop_unused_requests=True) as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            await _read(kit.network(), kit)
    assert len(load(kit.path)) == 1


async def test_stream_layer_adds_the_checksum_to_json_too(kit: Kit) -> None:
    """With vcrpy's JSON serializer, a stream layer writes its checksum into the JSON file."""
    with vcr.use_cassette(str(kit.path), serializer="json") as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            await _read(kit.network(kit.Reply(CUT)), kit)
    assert json.loads(kit.path.read_text(encoding="utf-8"))["miniagents"]["count"] == 1
    assert [chunk.data for chunk in load(kit.path)[0].response.chunks] == CUT
    with vcr.use_cassette(str(kit.path), serializer="json", record_mode="none") as cassette:
        with stream_layer(cassette, also_patch=_networks(kit)):
            assert await _read(kit.network(), kit) == CUT
    with kit.cassette():
        assert await _read(kit.network(), kit) == CUT


async def test_stream_layer_refuses_a_damaged_file(kit: Kit) -> None:
    """A stream layer raises an error for a damaged file that vcrpy has already read without noticing."""
    with kit.cassette("once"):
        await _read(kit.network(kit.Reply(CUT)), kit)
    kit.path.write_text(kit.path.read_text(encoding="utf-8").replace('{"a":1}', '{"a":2}'), encoding="utf-8")
    with vcr.use_cassette(str(kit.path), record_mode="none") as cassette:
        with pytest.raises(CassetteFormatError, match="digest does not fit"), stream_layer(cassette):
            pass


def test_stream_layer_refuses_none() -> None:
    """`stream_layer(None)` raises an error: the fixture of pytest-recording is None in a test without its marker."""
    with pytest.raises(TypeError, match="`vcr` is None in a test without the marker"), stream_layer(None):
        pass


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
def test_stream_layer_refuses_to_record_under_ci_or_beside_another_recorder(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `CI`, or while another session records the file, a stream layer raises an error if it would record."""
    with kit.cassette("once"), vcr.use_cassette(str(kit.path)) as cassette:
        with pytest.raises(RecordingRefusedError, match="is being recorded already"), stream_layer(cassette):
            pass
    monkeypatch.setenv("CI", "1")
    with vcr.use_cassette(str(kit.path)) as cassette:
        with pytest.raises(RecordingRefusedError, match="this is CI"), stream_layer(cassette):
            pass


async def test_tokens_flow_under_vcrpy_on_aiohttp(kit: Kit) -> None:
    """With a stream layer, tokens arrive one by one through an SDK's aiohttp client while vcrpy is active."""
    async with ProviderServer([Step(["a", "b"], after=1, then="hold")]) as server:
        record_as = {server.anthropic_base_url: "https://api.anthropic.com"}
        with vcr.use_cassette(str(kit.path)) as cassette, stream_layer(cassette, record_as=record_as) as session:
            async with anthropic.AsyncAnthropic(
                api_key=kit.KEY, base_url=server.anthropic_base_url, http_client=kit.aiohttp_client(anthropic)
            ) as client:
                async with client.messages.stream(
                    model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
                ) as stream:
                    seen = []
                    async for text in stream.text_stream:
                        seen.append(text)
                        server.release()
    assert seen == ["a", "b"]
    assert len(session.recorded) == len(load(kit.path)) == 1
    assert len(session.recorded[0].response.chunks) >= 2


# --- without us


async def test_plain_vcrpy_plays_what_we_recorded(kit: Kit) -> None:
    """Plain vcrpy plays our recorded answers and errors; a failed connection is an empty answer with status 599."""
    network = kit.network(
        kit.Reply(CUT), kit.Reply([b"{}"], 429, {"retry-after": "1"}), "ConnectError", kit.Reply([b"\xff\x00"])
    )
    with kit.cassette("once"):
        for number in range(4):
            try:
                await _read(network, kit, n=number)
            except httpx2.ConnectError:
                assert number == 2
    how: dict[str, Any] = {"record_mode": "none", "match_on": ("method", "uri", "body")}
    with vcr.use_cassette(str(kit.path), **how) as cassette:
        with vcr.use_cassette(str(kit.path), custom_patches=_as_vcrpy_patches(kit, cassette), **how):
            async with httpx2.AsyncClient(transport=kit.network()) as client:
                answers = [await client.post(kit.URL, json={"n": number}) for number in range(4)]
    assert [answer.status_code for answer in answers] == [200, 429, 599, 200]
    assert [answer.content for answer in answers] == [b"".join(CUT), b"{}", b"", b"\xff\x00"]


def _as_vcrpy_patches(kit: Kit, cassette: Any) -> Any:
    """Patch the network of these tests with vcrpy's stub, as vcrpy patches real transports."""
    from vcr.stubs.httpx_stubs import vcr_handle_async_request

    network = type(kit.network())
    stub = vcr_handle_async_request(cassette, network.handle_async_request, httpx2)
    return ((network, "handle_async_request", stub),)


def test_pytest_recording_records_and_plays_streams_in_a_layer(pytester: pytest.Pytester) -> None:
    """Under pytest-recording, a stream layer records and plays streams; the file also plays without the layer."""
    pytester.makepyfile(
        """
        import httpx2
        import pytest
        from miniagents_testing import ProviderServer, stream_layer

        ANY = "https://api.openai.com/v1"

        def ask(base_url):
            with httpx2.Client() as client:
                with client.stream("POST", f"{base_url}/chat/completions", json={"stream": True}) as response:
                    return list(response.iter_raw())

        @pytest.mark.vcr
        def test_streams(vcr, record_mode):
            if record_mode == "none":
                with stream_layer(vcr) as session:
                    assert len(ask(ANY)) == 5
                assert vcr.all_played
                return
            with ProviderServer(["one two"]) as server:
                with stream_layer(vcr, record_as={server.openai_base_url: ANY}):
                    assert len(ask(server.openai_base_url)) == 5

        @pytest.mark.vcr
        @pytest.mark.default_cassette("test_streams.yaml")
        def test_without_us(vcr, record_mode):
            if record_mode == "none":
                assert b"[DONE]" in b"".join(ask(ANY))
        """
    )
    options = ("-p", "no:randomly", "-p", "no:asyncio", "-W", "error")
    recorded = pytester.runpytest_subprocess("--record-mode=once", *options)
    recorded.assert_outcomes(passed=2)
    played = pytester.runpytest_subprocess("--record-mode=none", "--block-network", *options)
    played.assert_outcomes(passed=2)


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
@pytest.mark.parametrize("mode", ["new_episodes", "all", "rewrite"])
def test_a_file_without_new_recordings_is_not_written(kit: Kit, mode: Any) -> None:
    """A cassette that may record, but gets no request at all, leaves the bytes of its file unchanged."""
    kit.path.write_text(yaml.safe_dump({"version": 1, "interactions": []}), encoding="utf-8")
    before = kit.path.read_bytes()
    with use_cassette(kit.path, record_mode=mode):
        pass
    assert kit.path.read_bytes() == before
