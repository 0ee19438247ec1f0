"""Tests for pytest-recording under the ini `miniagents_stream_vcr`: the same verdicts, and streams chunk by chunk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from plugin_runs import verdicts_of

from miniagents_testing.cassette import load

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]

STREAM = "miniagents_stream_vcr = true"
CONTENT = f"{STREAM}\nminiagents_vcr_match = content"
URI = "https://api.example.com/v1/chat"

HELPERS = """
import json, uuid, aiohttp, httpx, httpx2, urllib.request
from vcr.errors import CannotOverwriteExistingCassetteException

URL = "https://api.example.com/v1/chat"

def ask(prompt="one", url=URL, library=httpx2, **options):
    with library.Client() as client:
        with client.stream("POST", url, json={"prompt": prompt}, **options) as response:
            return list(response.iter_raw())

async def aask(prompt="one", url=URL):
    async with httpx2.AsyncClient() as client:
        async with client.stream("POST", url, json={"prompt": prompt}) as response:
            return [chunk async for chunk in response.aiter_raw()]

def text(*args, **options):
    return b"".join(ask(*args, **options)).decode()
"""


def entry(answer: str, prompt: str = "one", uri: str = URI, **headers: str) -> dict[str, Any]:
    """Return an interaction as vcrpy writes it."""
    return {
        "request": {
            "method": "POST",
            "uri": uri,
            "body": f'{{"prompt":"{prompt}"}}',
            "headers": {"Content-Type": ["application/json"], **{name: [value] for name, value in headers.items()}},
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {"content-type": ["text/event-stream"], "x-request-id": ["req_1"]},
            "body": {"string": answer},
        },
    }


def get(answer: str) -> dict[str, Any]:
    """Return an interaction of a request without a body."""
    made = entry(answer)
    made["request"] |= {"method": "GET", "body": None, "headers": {}}
    return made


def write(path: Path, *entries: dict[str, Any]) -> None:
    """Write a cassette of vcrpy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"version": 1, "interactions": list(entries)}), encoding="utf-8")


@pytest.fixture
def cassettes(pytester: pytest.Pytester) -> Path:
    """Write the cassettes of the tests in `SUITE`."""
    folder = pytester.path / "cassettes" / "test_it"
    first, second = entry("data: 1\n\ndata: 2\n\n"), entry("data: 3\n\n")
    for name in ("one", "TestClass.test_method", "test_parameter[a-b]"):
        write(folder / f"{name}.yaml", first)
    write(folder / "two.yaml", first, second)
    write(folder / "more.yaml", entry("data: more\n\n", uri=f"{URI}/more"))
    write(folder / "keys.yaml", entry("data: 1\n\n", uri=f"{URI}?key=recorded"))
    write(folder / "config.yaml", first)
    write(folder / "ids.yaml", entry("data: 1\n\n", "run 0b7c"), entry("data: 2\n\n", "run 55aa"))
    write(folder / "functions.yaml", get('{"Functions": []}'))
    write(folder / "get.yaml", get("data: get\n\n"))
    write(folder / "headers.yaml", entry("data: 1\n\n", **{"x-version": "1"}))
    return folder


SUITE = f"""{HELPERS}
one = pytest.mark.default_cassette("one.yaml")
two = pytest.mark.default_cassette("two.yaml")
keys = pytest.mark.default_cassette("keys.yaml")
ANSWER = "data: 1\\n\\ndata: 2\\n\\n"

@one
@pytest.mark.vcr
def test_changed_prompt(vcr):
    assert text("changed") == ANSWER
    assert vcr.play_count == 1 and vcr.all_played

@one
@pytest.mark.vcr(match_on=["method", "uri", "body"])
def test_same_body():
    assert text() == ANSWER

@one
@pytest.mark.vcr(match_on=["method", "uri", "body"])
def test_FAILS_changed_body():
    text("changed")

@one
@pytest.mark.vcr(match_on=["method", "uri", "raw_body"])
def test_FAILS_changed_raw_body():
    text("changed")

@pytest.mark.default_cassette("headers.yaml")
@pytest.mark.vcr(match_on=["uri", "own"])
def test_own_matcher():
    assert text("x", headers={{"x-version": "1"}}) == "data: 1\\n\\n"

@pytest.mark.default_cassette("headers.yaml")
@pytest.mark.vcr(match_on=["uri", "own"])
def test_FAILS_own_matcher():
    text("x", headers={{"x-version": "2"}})

@one
@pytest.mark.vcr(match_on=["path"])
def test_other_host():
    assert text(url="https://other.example.com/v1/chat") == ANSWER

@keys
@pytest.mark.vcr
def test_FAILS_other_query():
    text(url=URL + "?key=mine")

@keys
@pytest.mark.vcr(filter_query_parameters=["key"])
def test_filtered_query():
    assert text(url=URL + "?key=mine") == "data: 1\\n\\n"

@keys
@pytest.mark.vcr(before_record_request=lambda request: setattr(request, "uri", URL) or request)
def test_hook_that_changes_the_request():
    assert text(url=URL + "?key=mine") == "data: 1\\n\\n"

@one
@pytest.mark.vcr(before_record_response=lambda response: {{**response, "body": {{"string": b"changed"}}}})
def test_hook_that_changes_the_response():
    assert text() == "changed"

@two
@pytest.mark.vcr
def test_answers_in_order():
    assert [text(), text()] == [ANSWER, "data: 3\\n\\n"]

@one
@pytest.mark.vcr
def test_FAILS_asked_twice():
    text()
    text()

@one
@pytest.mark.vcr(allow_playback_repeats=True)
def test_repeats(vcr):
    assert [text(), text(), text()] == [ANSWER] * 3
    assert vcr.play_count == 3

@two
@pytest.mark.vcr(allow_playback_repeats=True)
def test_repeats_of_the_first():
    assert [text(), text(), text()] == [ANSWER] * 3

@two
@pytest.mark.vcr
def test_one_of_two_is_asked():
    assert text() == ANSWER

@one
@pytest.mark.vcr("more.yaml")
def test_several_cassettes():
    assert [text(url=URL + "/more"), text()] == ["data: more\\n\\n", ANSWER]

@pytest.mark.vcr("one.yaml")
@pytest.mark.vcr("more.yaml")
def test_several_marks():
    assert [text(url=URL + "/more"), text()] == ["data: more\\n\\n", ANSWER]

@pytest.mark.vcr
def test_FAILS_no_file():
    text()

@one
@pytest.mark.vcr
def test_caught_miss():
    with pytest.raises(CannotOverwriteExistingCassetteException, match="no recorded interaction matches"):
        text(url="https://other.example.com/")

@one
@pytest.mark.vcr
def test_hidden_miss():
    try:
        text(url="https://other.example.com/")
    except Exception:
        pass

@one
@pytest.mark.block_network
@pytest.mark.vcr
def test_blocked_network():
    assert text() == ANSWER
    with socket.socket() as client, pytest.raises(RuntimeError, match="Network is disabled"):
        client.connect(("192.0.2.1", 443))

@pytest.mark.block_network
def test_blocked_network_without_cassette():
    with socket.socket() as client, pytest.raises(RuntimeError, match="Network is disabled"):
        client.connect(("192.0.2.1", 443))

@one
@pytest.mark.vcr(record_mode="once")
def test_mode_once():
    assert text() == ANSWER

@one
@pytest.mark.vcr(record_mode="once")
def test_FAILS_mode_once():
    text(url="https://other.example.com/")

@one
@pytest.mark.vcr(record_mode="new_episodes")
def test_mode_new_episodes():
    assert text() == ANSWER

@one
@pytest.mark.vcr
def test_other_libraries(vcr):
    request = urllib.request.Request(URL, b'{{"prompt":"one"}}', method="POST")
    assert urllib.request.urlopen(request).read().decode() == ANSWER
    with pytest.raises(CannotOverwriteExistingCassetteException):
        text()

@one
@pytest.mark.vcr
def test_httpx():
    assert text(library=httpx) == ANSWER

@one
@pytest.mark.vcr
def test_headers_of_the_answer():
    assert httpx2.post(URL, json={{}}).headers["x-request-id"] == "req_1"

@one
@pytest.mark.vcr
@pytest.mark.asyncio
async def test_async():
    assert b"".join(await aask("changed")).decode() == ANSWER

class TestClass:
    @pytest.mark.vcr
    def test_method(self):
        assert text() == ANSWER

@pytest.mark.vcr
@pytest.mark.parametrize("value", ["a-b"])
def test_parameter(value):
    assert text() == ANSWER

def test_without_mark(vcr):
    assert vcr is None

@one
@pytest.mark.vcr
def test_local_server(vcr):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()

@one
@pytest.mark.vcr(match_on=["method", "scheme", "host", "port", "path", "query"])
def test_parts_of_the_address():
    assert text("changed") == ANSWER

@one
@pytest.mark.vcr(match_on=["method"])
def test_FAILS_other_method():
    httpx2.get(URL)

@one
@pytest.mark.vcr(match_on=["scheme"])
def test_FAILS_other_scheme():
    text(url=URL.replace("https", "http"))

@one
@pytest.mark.vcr(match_on=["host"])
def test_FAILS_other_host():
    text(url="https://other.example.com/v1/chat")

@one
@pytest.mark.vcr(match_on=["port"])
def test_FAILS_other_port():
    text(url="https://api.example.com:8443/v1/chat")

@one
@pytest.mark.vcr(match_on=["path"])
def test_FAILS_other_path():
    text(url=URL + "/other")

@keys
@pytest.mark.vcr(match_on=["query"])
def test_FAILS_query():
    text(url=URL + "?key=mine")

@pytest.mark.default_cassette("headers.yaml")
@pytest.mark.vcr(match_on=["headers"])
def test_FAILS_headers():
    text()

@one
@pytest.mark.vcr(match_on=["method", "uri", "body"])
def test_order_of_keys_in_a_json_body():
    request = {{"content": b' {{ "prompt" : "one" }}', "headers": {{"content-type": "application/json"}}}}
    assert httpx2.post(URL, **request).text == ANSWER

@pytest.mark.default_cassette("ids.yaml")
@pytest.mark.vcr
def test_random_ids():
    ids = [f"run {{uuid.uuid4()}}" for _ in range(2)]
    assert [text(each) for each in ids] == ["data: 1\\n\\n", "data: 2\\n\\n"]

@pytest.mark.default_cassette("ids.yaml")
@pytest.mark.vcr(match_on=["body"])
def test_FAILS_random_ids():
    text(f"run {{uuid.uuid4()}}")

@pytest.mark.default_cassette("ids.yaml")
@pytest.mark.vcr(match_on=["body"])
def test_order_of_requests_by_body():
    assert [text("run 55aa"), text("run 0b7c")] == ["data: 2\\n\\n", "data: 1\\n\\n"]

@pytest.mark.default_cassette("ids.yaml")
@pytest.mark.vcr(match_on=["body"], before_record_request=lambda request: setattr(request, "body", "") or request)
def test_hook_that_removes_ids():
    assert text(f"run {{uuid.uuid4()}}") == "data: 1\\n\\n"

@one
@pytest.mark.vcr("more.yaml", "keys.yaml")
def test_several_cassettes_in_one_mark():
    assert text(url=URL + "?key=recorded") == "data: 1\\n\\n"
    assert [text(url=URL + "/more"), text()] == ["data: more\\n\\n", ANSWER]

@pytest.mark.vcr("missing.yaml")
def test_FAILS_missing_cassette():
    text()

@one
@pytest.mark.vcr
@pytest.mark.block_network(allowed_hosts=["192[.]0[.]2[.].*"])
def test_allowed_hosts():
    assert text() == ANSWER
    with socket.socket() as client, pytest.raises(RuntimeError, match="Network is disabled"):
        client.connect(("198.51.100.1", 443))

@pytest.mark.block_network(allowed_hosts=["127[.]0[.]0[.]1"])
def test_allowed_local_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()

class TestConfig:
    @pytest.fixture(scope="class")
    @classmethod
    def vcr_config(cls):
        return {{"match_on": ["method", "uri", "body"]}}

    @pytest.mark.default_cassette("config.yaml")
    @pytest.mark.vcr
    def test_FAILS_config_of_a_class(self):
        text("changed")

    @pytest.mark.default_cassette("config.yaml")
    @pytest.mark.vcr(match_on=["method"])
    def test_mark_before_config(self):
        assert text("changed") == ANSWER

class TestFolder:
    @pytest.fixture(scope="class")
    @classmethod
    def vcr_cassette_dir(cls, request):
        return str(request.path.parent / "cassettes/test_it")

    @one
    @pytest.mark.vcr
    def test_folder_of_cassettes(self):
        assert text() == ANSWER

@one
@pytest.mark.vcr(record_mode="none")
def test_mode_none():
    assert text() == ANSWER

@one
@pytest.mark.vcr(before_record_response=lambda response: None)
def test_FAILS_hook_that_drops_the_response():
    text()

@one
@pytest.mark.vcr
def test_cassette_is_listed(vcr):
    assert (len(vcr), vcr.play_count, vcr.all_played) == (1, 0, False)
    assert text() == ANSWER
    assert [request.uri for request in vcr.requests] == [URL]
    assert (vcr.play_count, vcr.all_played) == (1, True)

@pytest.mark.default_cassette("get.yaml")
@pytest.mark.vcr
def test_urllib():
    assert urllib.request.urlopen(URL).read() == b"data: get\\n\\n"

@pytest.mark.default_cassette("get.yaml")
@pytest.mark.vcr
def test_requests():
    requests = pytest.importorskip("requests")
    assert requests.get(URL).text == "data: get\\n\\n"
    with pytest.raises(CannotOverwriteExistingCassetteException):
        requests.get(URL + "/other")

@pytest.mark.default_cassette("get.yaml")
@pytest.mark.vcr
@pytest.mark.asyncio
async def test_aiohttp():
    async with aiohttp.ClientSession() as session, session.get(URL) as response:
        assert await response.text() == "data: get\\n\\n"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(CannotOverwriteExistingCassetteException):
            await session.get(URL + "/other")

@pytest.mark.default_cassette("functions.yaml")
@pytest.mark.vcr(match_on=["method", "host"])
def test_boto3():
    boto3 = pytest.importorskip("boto3")
    options = {{"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}}
    client = boto3.client("lambda", endpoint_url="https://api.example.com", **options)
    assert client.list_functions()["Functions"] == []
    with pytest.raises(Exception, match="no recorded interaction matches|already been played"):
        client.list_functions()
"""


CONFTEST = """
import pytest

def pytest_recording_configure(config, vcr):
    def own(first, second):
        assert first.headers.get("x-version") == second.headers.get("x-version")
    vcr.register_matcher("own", own)
"""


@pytest.mark.parametrize("ci", [True, False])
def test_K25_every_test_of_pytest_recording_keeps_its_verdict(
    project: Project, cassettes: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: bool
) -> None:
    """Under the ini, each test for pytest-recording passes or fails as without it, also under CI."""
    if ci:
        monkeypatch.setenv("CI", "true")
    before = {path: path.read_bytes() for path in cassettes.iterdir()}
    pytester.makeconftest(CONFTEST)
    for ini in (STREAM,) if ci else ("", STREAM):
        outcomes = verdicts_of(project(SUITE, "--tb=no", ini=ini))
        assert len(outcomes) == SUITE.count("def test_")
        assert [name for name, verdict in outcomes.items() if (verdict == "failed") != ("_FAILS_" in name)] == []
    assert {path: path.read_bytes() for path in cassettes.iterdir()} == before


def test_streams_come_chunk_by_chunk_under_the_ini(project: Project, cassettes: Path) -> None:
    """With the ini, a test reads the recorded answer in its two chunks; without the ini, vcrpy gives one."""
    marks = "@pytest.mark.default_cassette('one.yaml')\n@pytest.mark.vcr"
    source = f"{HELPERS}\n{marks}\ndef test_it():\n    assert len(ask()) == "
    project(f"{source}1").assert_outcomes(passed=1)
    project(f"{source}2", ini=STREAM).assert_outcomes(passed=1)


RECORDING = f"""{HELPERS}
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

@pytest.fixture(scope="module")
def port():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def log_message(self, *_): pass
        def do_POST(self):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("x-request-id", "req_1")
            self.send_header("transfer-encoding", "chunked")  # which keeps the parts apart, whenever they are read
            self.end_headers()
            for part in (b'data: {{"a"', b": 1}}\\n\\ndata: ", b"2\\n\\n", b""):
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(part), part))
    with ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        Thread(target=server.serve_forever, kwargs={{"poll_interval": 0.01}}).start()
        yield server.server_address[1]
        server.shutdown()

@pytest.mark.vcr(match_on=["method", "path", "body", "own"], filter_headers=["x-mine"])
def test_it(request):
    port = request.getfixturevalue("port") if request.config.getoption("--record-mode") == "once" else 1
    with httpx2.Client() as client:
        headers = {{"authorization": "Bearer a-secret-of-mine-1234", "x-version": "1", "x-mine": "me"}}
        url = f"http://127.0.0.1:{{port}}/v1"
        with client.stream("POST", url, json={{"n": 1}}, headers=headers) as response:
            chunks = list(response.iter_raw())
    assert response.headers["x-request-id"] == "req_1"
    assert b"".join(chunks) == b'data: {{"a": 1}}\\n\\ndata: 2\\n\\n'
    assert len(chunks) == CHUNKS
"""


def test_K25_recordings_under_the_ini_are_played_there_and_by_vcrpy(
    project: Project, pytester: pytest.Pytester
) -> None:
    """Recordings keep chunks and headers but no credentials; they play in chunks under the ini, and whole by vcrpy."""
    pytester.makeconftest(CONFTEST)
    source = RECORDING.replace("PORT", "0").replace("CHUNKS", "3")
    project(source, "--record-mode=once", ini=STREAM).assert_outcomes(passed=1)
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    [interaction] = load(path)
    assert [chunk.data for chunk in interaction.response.chunks] == [b'data: {"a"', b": 1}\n\ndata: ", b"2\n\n"]
    assert (interaction.request_headers["x-version"], "x-mine" in interaction.request_headers) == (["1"], False)
    assert "a-secret-of-mine" not in path.read_text(encoding="utf-8")
    project(source, ini=STREAM).assert_outcomes(passed=1)
    project(RECORDING.replace("PORT", "0").replace("CHUNKS", "1")).assert_outcomes(passed=1)


def test_recording_that_matches_all_headers_is_played(project: Project, pytester: pytest.Pytester) -> None:
    """With vcrpy's matcher `headers`, a recording whose credentials are redacted is played to the same request."""
    pytester.makeconftest(CONFTEST)
    source = (
        RECORDING.replace("PORT", "0").replace("CHUNKS", "3").replace('"own"], filter_headers=["x-mine"]', '"headers"]')
    )
    source = source.replace('"x-mine": "me"', '"x-mine": "me", "host": "example.com"')
    project(source, "--record-mode=once", ini=STREAM).assert_outcomes(passed=1)
    project(source, ini=STREAM).assert_outcomes(passed=1)


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_content_match_names_stale_cassettes(project: Project, cassettes: Path, options: tuple[str, ...]) -> None:
    """With `miniagents_vcr_match = content`, a changed prompt fails its test; the summary names cassette and change."""
    source = f"{HELPERS}\nmark = pytest.mark.default_cassette('one.yaml')\n" + "".join(
        f"\n@mark\n@pytest.mark.vcr\ndef test_{name}():\n    text({prompt!r})\n"
        for name, prompt in (("same", "one"), ("changed", "two"))
    )
    source += "\n@pytest.mark.vcr\ndef test_missing():\n    text()\n"
    source += "\n@pytest.mark.default_cassette('onne.yaml')\n@pytest.mark.vcr\ndef test_typo():\n    text()\n"
    result = project(source, *options, ini=CONTENT)
    result.assert_outcomes(passed=1, failed=3)
    text = "\n".join(result.outlines)
    stale, _, missing = text.partition("cassettes that are stale")[2].partition("cassettes that are missing")
    assert "there is no cassette" not in stale
    path = Path("cassettes", "test_it", "test_missing.yaml")
    assert f"there is no cassette {path}, so no answer for POST https://api.example.com/v1/chat" in missing
    assert "to record it: pytest test_it.py::test_missing --record-mode=once" in missing
    assert f"did you mean {path.with_name('one.yaml')}?" in missing
    assert "one.yaml has no answer for POST https://api.example.com/v1/chat" in stale
    assert "prompt: recorded 'one', now 'two'" in stale
    assert "to record it again: pytest test_it.py::test_changed --record-mode=rewrite" in stale


@pytest.mark.parametrize("ini", [STREAM, CONTENT])
def test_cut_stream_in_a_cassette_is_named_below_a_failed_test(
    project: Project, pytester: pytest.Pytester, ini: str
) -> None:
    """The report of a failed test says once that its cassette has a cut stream, and how to record it again."""
    uri = "https://api.openai.com/v1/chat/completions"
    write(
        pytester.path / "cassettes" / "test_it" / "test_it.yaml",
        entry('data: {"model": "m", "choices": []}\n\n', uri=uri),
    )
    source = f"{HELPERS}\n@pytest.mark.vcr\ndef test_it():\n    assert 'DONE' in text(url={uri!r})\n"
    text = "\n".join(project(source, ini=ini).outlines)
    assert text.count("1 recorded failure was played from ") == 1
    assert f"  interaction 1: POST {uri}: stream ended before the provider said so" in text
    assert "  to record it again: pytest test_it.py::test_it --record-mode=rewrite" in text


def test_unknown_way_of_matching_stops_pytest(project: Project) -> None:
    """An unknown `miniagents_vcr_match` ends pytest with a usage error that names the two known values."""
    result = project("def test_it():\n    pass", ini="miniagents_vcr_match = exact")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: miniagents_vcr_match must be vcr or content, not 'exact'"])


def test_way_of_matching_without_the_streams_stops_pytest(project: Project) -> None:
    """`miniagents_vcr_match = content` alone, which would have no effect, ends pytest with a usage error."""
    result = project("def test_it():\n    pass", ini="miniagents_vcr_match = content")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "ERROR: miniagents_vcr_match = content has no effect without miniagents_stream_vcr = true"
    result.stderr.fnmatch_lines([said])
