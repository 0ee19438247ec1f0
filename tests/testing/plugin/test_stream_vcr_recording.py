"""Recordings of tests for pytest-recording under the ini `miniagents_stream_vcr`: the verdicts of pytest-recording."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from plugin_runs import verdicts_of
from wire_server import Answer, Request, WireServer

from miniagents_testing.cassette import Chunk, Interaction, Redaction, ResponseStream, load, save
from miniagents_testing.cassette._secrets.redaction import Leak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Project = Callable[..., pytest.RunResult]

STREAM = "miniagents_stream_vcr = true"

HELPERS = """
import aiohttp, httpx, httpx2, urllib.request
from vcr.errors import CannotOverwriteExistingCassetteException

URL = "http://127.0.0.1:PORT"
seen = []

def get(path="/a"):
    return httpx2.get(URL + path).text

def note(response):
    seen.append(response["body"]["string"])
    return response
"""

SUITE = f"""{HELPERS}
def mode(name, **options):
    return pytest.mark.vcr(record_mode=name, **options)

def old(name):
    return pytest.mark.default_cassette(f"{{name}}.yaml")

@mode("once")
def test_recording_counts_what_it_has_recorded(vcr):
    assert (get(), len(vcr), vcr.play_count, vcr.dirty) == ("a 1", 1, 0, True)
    assert (get(), len(vcr), vcr.play_count) == ("a 2", 2, 0)
    assert [request.uri for request in vcr.requests] == [URL + "/a"] * 2
    assert [response["body"]["string"] for response in vcr.responses] == [b"a 1", b"a 2"]

@mode("once", allow_playback_repeats=True)
def test_repeats_while_recording(vcr):
    assert [get(), get(), get("/b")] == ["a 1", "a 1", "b 2"]
    assert (len(vcr), vcr.play_count) == (2, 1)

@mode("new_episodes")
def test_new_file_of_new_episodes(vcr):
    assert [get(), get()] == ["a 1", "a 2"]
    assert (len(vcr), vcr.play_count) == (2, 0)

@old("new_episodes")
@mode("new_episodes")
def test_new_episodes_play_what_is_new(vcr):
    assert [get("/old"), get(), get(), get()] == ["old", "a 1", "a 1", "a 2"]
    assert (len(vcr), vcr.play_count) == (4, 2)

@old("all")
@mode("all")
def test_all(vcr):
    assert [get("/old"), get("/old")] == ["old 1", "old 2"]
    assert (len(vcr), vcr.play_count) == (4, 0)

@old("once")
@mode("once")
def test_FAILS_once_with_a_file():
    assert get("/old") == "old"
    get()

@old("none")
@mode("none")
def test_FAILS_none():
    get()

@old("rewrite")
@mode("rewrite")
def test_rewrite(vcr):
    assert (len(vcr), get("/old"), len(vcr)) == (0, "old 1", 1)

@mode("once", before_record_response=note)
def test_hook_runs_once_an_answer():
    get()
    assert seen == [b"a 1"]
    get("/b")
    assert seen == [b"a 1", b"b 2"]
    seen.clear()

@mode("once", before_record_response=lambda response: None)
def test_hook_that_records_nothing(vcr):
    assert (get(), len(vcr)) == ("a 1", 0)

@mode("once", before_record_request=lambda request: None if request.path == "/b" else request)
def test_hook_that_ignores_a_request(vcr):
    assert [get("/b"), get()] == ["b 1", "a 2"]
    assert len(vcr) == 1

@mode("once", filter_query_parameters=["key"], allow_playback_repeats=True)
def test_filters_apply_at_once(vcr):
    assert [get("/a?key=1"), get("/a?key=2")] == ["a 1", "a 1"]
    assert [request.uri for request in vcr.requests] == [URL + "/a"]

@mode("new_episodes", drop_unused_requests=True)
@old("dropped")
def test_unused_requests_are_dropped(vcr):
    assert [get("/old"), get()] == ["old", "a 1"]

@mode("once")
def test_other_clients_count(vcr):
    assert urllib.request.urlopen(URL + "/a").read() == b"a 1"
    assert len(vcr) == 1
    with httpx.Client() as client:
        assert client.get(URL + "/a").text == "a 2"
    assert len(vcr) == 2

@mode("once")
@pytest.mark.asyncio
async def test_async_clients_count(vcr):
    async with aiohttp.ClientSession() as session, session.get(URL + "/a") as response:
        assert await response.text() == "a 1"
    assert len(vcr) == 1
    async with httpx2.AsyncClient() as client:
        assert (await client.get(URL + "/a")).text == "a 2"
    assert len(vcr) == 2

@mode("once")
def test_failed_connection_is_asked_again(vcr):
    for _ in range(2):
        with pytest.raises(httpx2.TransportError):
            get("/reset")
    assert (len(vcr), vcr.play_count) == (0, 0)
    assert get() == "a 3"
"""

OLD = """
interactions:
- request: {{method: GET, uri: 'http://127.0.0.1:{port}/old', body: null, headers: {{}}}}
  response: {{status: {{code: 200, message: OK}}, headers: {{}}, body: {{string: old}}}}
- request: {{method: GET, uri: 'http://127.0.0.1:{port}/unused', body: null, headers: {{}}}}
  response: {{status: {{code: 200, message: OK}}, headers: {{}}, body: {{string: unused}}}}
version: 1
"""


class CountingServer(WireServer):
    """Server that answers with the path and the number of the request in its test; it resets requests for `/reset`."""

    def __init__(self) -> None:
        super().__init__(self._count)

    def _count(self, request: Request) -> Answer | None:
        name = request.path.partition("?")[0][1:]
        return None if name == "reset" else Answer([f"{name} {len(self.requests)}".encode()])

    def pytest_runtest_setup(self) -> None:
        """Count the requests of the next test from 1: the server is a plugin of the inner run of pytest."""
        self.requests.clear()


@pytest.fixture
def run(project: Project, pytester: pytest.Pytester) -> Iterator[Callable[[str], pytest.RunResult]]:
    """Return a function that records `SUITE` in an empty folder, with an ini text; the files stay until the next."""
    folder = pytester.path / "cassettes" / "test_it"
    with CountingServer() as server:

        def record(ini: str) -> pytest.RunResult:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in ("all", "dropped", "new_episodes", "none", "once", "rewrite"):
                (folder / f"{name}.yaml").write_text(OLD.format(port=server.port), encoding="utf-8")
            return project(SUITE.replace("PORT", str(server.port)), ini=ini, plugins=(server,))

        yield record


def test_K25_recording_tests_of_pytest_recording_keep_their_verdicts(
    run: Callable[[str], pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """Under the ini, each test that records passes or fails as without the ini, and writes the same answers."""
    found = []
    for ini in ("", STREAM):
        verdicts = verdicts_of(run(ini))
        files = sorted((pytester.path / "cassettes" / "test_it").iterdir())
        found.append((verdicts, [(each.name, contents(each)) for each in files]))
    assert found[0] == found[1]
    assert len(found[0][0]) == SUITE.count("def test_")
    assert [name for name, verdict in found[0][0].items() if (verdict == "failed") != ("_FAILS_" in name)] == []


@pytest.mark.parametrize("ini", [STREAM, f"{STREAM}\nminiagents_vcr_match = content"])
def test_option_for_the_pace_holds_for_cassettes_of_pytest_recording(
    project: Project, pytester: pytest.Pytester, ini: str
) -> None:
    """With `--miniagents-pace`, a test for pytest-recording plays the recorded waits, times the factor."""
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    chunks = Chunk(0, b"data: 1\n\n"), Chunk.after(60, b"data: 2\n\n")
    save(path, [Interaction("GET", "https://api.test/a", b"", ResponseStream(chunks, reason="OK"))])
    source = """
import httpx2

@pytest.mark.miniagents_virtual_time
@pytest.mark.asyncio
@pytest.mark.vcr
async def test_it():
    clock = asyncio.get_running_loop().time
    began = clock()
    async with httpx2.AsyncClient() as client:
        assert (await client.get("https://api.test/a")).text == "data: 1\\n\\ndata: 2\\n\\n"
    assert round(clock() - began) == SECONDS
"""
    for pace, seconds in ((1, 60), (0.5, 30), (0, 0)):
        text = source.replace("SECONDS", str(seconds))
        project(text, f"--miniagents-pace={pace}", ini=ini).assert_outcomes(passed=1)
    project(source.replace("SECONDS", "0"), ini=ini).assert_outcomes(passed=1)


_MARKED = "@pytest.mark.vcr\ndef test_marked():\n    pass\n"


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_missing_plugin_for_marked_tests_fails_them(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    """Without a plugin for the marker `vcr`, each marked test fails in its setup, and the message names the plugin."""
    pytester.makeini(f"[pytest]\n{STREAM}\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(test_it=f"import pytest\n\ndef test_first():\n    pass\n\n{_MARKED}")
    result = pytester.runpytest_inprocess("-p", "no:recording", "-p", "no:cacheprovider", *options)
    result.assert_outcomes(passed=1, errors=1)
    assert (
        "test_it.py::test_marked has the marker vcr, and miniagents_stream_vcr is set, but no plugin opens a cassette "
        "for the test. Install the package pytest-recording"
    ) in result.stdout.lines


@pytest.mark.parametrize("is_registered", [False, True])
def test_missing_plugin_stops_no_run_of_tests_that_need_none(project: Project, *, is_registered: bool) -> None:
    """Without pytest-recording, tests without the marker run, and so do marked ones if the project registers it."""
    source = _MARKED if is_registered else "def test_it():\n    pass\n"
    ini = f"{STREAM}\nmarkers = vcr: of a plugin of this project" if is_registered else STREAM
    project(source, "-p", "no:recording", ini=ini).assert_outcomes(passed=1)


@pytest.mark.parametrize("pace", ["-1", "inf", "nan", "fast"])
def test_wrong_pace_stops_pytest(project: Project, pace: str) -> None:
    """A pace that is no number, negative or not finite ends pytest with a usage error, before any test."""
    result = project("def test_it(): pass", f"--miniagents-pace={pace}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = f"the pace must be 0 (no waits) or a factor on the recorded waits, not {pace}"
    assert f"argument --miniagents-pace: {said}" in result.stderr.str()


def contents(path: Path) -> list[tuple[str, str, bytes]]:
    """Return method, URI and answer of each interaction of a file; vcrpy records no connections that failed."""
    return [(each.method, each.uri, each.response.body) for each in load(path) if each.response.status]


def test_secret_that_becomes_known_later_is_redacted(project: Project, pytester: pytest.Pytester) -> None:
    """A credential of a second request is redacted in the first recording, which is in the cassette already."""
    source = f"""{HELPERS}
@pytest.mark.vcr(record_mode="once")
def test_it(vcr):
    assert httpx2.post(URL + "/a", content="the word is later-secret-84").text == "a 1"
    assert len(vcr) == 1
    assert httpx2.get(URL + "/b", headers={{"authorization": "Bearer later-secret-84"}}).text == "b 2"
    assert len(vcr) == 2
"""
    with CountingServer() as server:
        project(source.replace("PORT", str(server.port)), ini=STREAM).assert_outcomes(passed=1)
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    assert len(load(path)) == 2
    assert "later-secret" not in path.read_text(encoding="utf-8")


def test_refused_recording_writes_nothing(
    project: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording in which a secret is left leaves no file, though vcrpy's cassette had it already."""
    monkeypatch.setattr(Redaction, "_left_in", lambda *_: [Leak("response body")])
    source = f"""{HELPERS}
@pytest.mark.vcr(record_mode="once")
def test_it(vcr):
    assert (get(), len(vcr)) == ("a 1", 1)
"""
    with CountingServer() as server:
        result = project(source.replace("PORT", str(server.port)), ini=STREAM)
    result.assert_outcomes(passed=1, errors=1)
    assert "was not written: interaction 1, response body: a known secret" in "\n".join(result.outlines)
    assert not (pytester.path / "cassettes" / "test_it" / "test_it.yaml").exists()
