"""Cassettes by marker and fixture of the pytest plugin: their files, the tests that fail by them, and recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miniagents_testing._pytest.cassettes import cassette_name
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.cassette import Interaction, load, save

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]

URI = "https://api.openai.com/v1/chat/completions"
HEADERS = {"content-type": ["text/event-stream"]}

ASK = """
import json, httpx2

def ask(prompt, url="https://api.openai.com/v1/chat/completions"):
    with httpx2.Client() as client:
        return client.post(url, json={"prompt": prompt}).text

async def aask(prompt):
    async with httpx2.AsyncClient() as client:
        return (await client.post("https://api.openai.com/v1/chat/completions", json={"prompt": prompt})).text
"""


def record(path: Path, *prompts: str) -> None:
    """Write a cassette in which each prompt is answered with itself."""
    save(
        path,
        [
            Interaction(
                "POST",
                URI,
                json.dumps({"prompt": prompt}).encode(),
                ResponseStream((Chunk(100_000_000, prompt.encode()),), headers=HEADERS),
            )
            for prompt in prompts
        ],
    )


@pytest.fixture
def cassettes(pytester: pytest.Pytester) -> Path:
    """Return the folder of the cassettes of the project."""
    return pytester.path / "cassettes"


def test_default_cassette_has_the_name_of_its_test(project: Project, cassettes: Path) -> None:
    """A test with the marker or the fixture plays the file named after it, with its class and parameters."""
    record(cassettes / "test_it" / "test_marked.yaml", "one")
    record(cassettes / "test_it" / "test_fixture.yaml", "two")
    record(cassettes / "test_it" / "TestClass.test_method[3].yaml", "3")
    result = project(
        ASK
        + """
@pytest.mark.miniagents_cassette
def test_marked():
    assert ask("one") == "one"

@pytest.mark.asyncio
async def test_fixture(stream_cassette):
    assert len(stream_cassette.unplayed) == 1
    assert await aask("two") == "two"
    assert not stream_cassette.unplayed

@pytest.mark.miniagents_cassette
class TestClass:
    @pytest.mark.parametrize("number", ["3"])
    def test_method(self, number):
        assert ask(number) == number
"""
    )
    result.assert_outcomes(passed=3)


def test_marker_can_name_the_cassette(project: Project, cassettes: Path) -> None:
    """A name in the marker is the path of the cassette in the cassette folder, which the ini file can set."""
    record(cassettes / "openai" / "hello.yaml", "hello", "left over")
    test = (
        '@pytest.mark.miniagents_cassette("{}", unplayed="ignore")\ndef test_it():\n    assert ask("hello") == "hello"'
    )
    project(ASK + test.format("openai/hello.yaml")).assert_outcomes(passed=1)
    cassettes.rename(cassettes.parent / "recordings")
    ini = "miniagents_cassette_dir = recordings"
    project(ASK + test.format("openai/hello.yaml"), ini=ini).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ('"../../elsewhere.yaml"', "is not below"),
        ('"one.yaml", "two.yaml"', "takes the name of one cassette"),
        ('"one.yaml", pce=1', "pce"),
    ],
)
def test_X8_a_marker_with_wrong_arguments_fails_the_test(project: Project, marker: str, said: str) -> None:
    """A marker with a path outside of the folder, two names or an unknown setting is an error that says so."""
    result = project(f"@pytest.mark.miniagents_cassette({marker})\ndef test_it():\n    pass")
    result.assert_outcomes(errors=1)
    assert said in result.stdout.str()


def test_test_fails_when_interactions_are_left(project: Project, cassettes: Path) -> None:
    """A test that sends fewer requests than were recorded fails."""
    record(cassettes / "test_it" / "test_it.yaml", "one", "two")
    result = project(ASK + "@pytest.mark.miniagents_cassette\ndef test_it():\n    ask('one')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*UnplayedError: 1 interaction was not played (test_it.yaml)")


def test_test_fails_when_the_application_catches_a_miss(project: Project, cassettes: Path) -> None:
    """A caught miss (a request without a recording) fails the test; a test that fails anyway reports the miss."""
    record(cassettes / "test_it" / "test_swallows.yaml", "Hi")
    record(cassettes / "test_it" / "test_fails.yaml", "Hi")
    result = project(
        ASK
        + """
def app():
    try:
        return ask("Ho")
    except Exception:
        return "sorry"

@pytest.mark.miniagents_cassette
def test_swallows():
    assert app()

@pytest.mark.miniagents_cassette
def test_fails():
    assert app() == "Ho"
"""
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*CassetteMissError: prompt: recorded 'Hi', now 'Ho' (test_swallows.yaml)",
            "*test_swallows.yaml has no answer*",
        ]
    )
    result.stdout.fnmatch_lines(
        ["*AssertionError*", "*a request was not in the cassette: *test_fails.yaml*", "*recorded 'Hi', now 'Ho'"]
    )


def test_K16_the_cassette_of_another_test_fails_the_test(project: Project, cassettes: Path) -> None:
    """A test that plays the cassette of another test fails; a renamed test is told that its file does not exist."""
    record(cassettes / "test_it" / "test_before.yaml", "Hi")
    result = project(
        ASK
        + """
other = pytest.mark.miniagents_cassette("test_it/test_before.yaml")

@other
def test_asks_something_else():
    ask("Ho")

@other
def test_asks_nothing():
    pass

@pytest.mark.miniagents_cassette
def test_after():
    ask("Hi")
"""
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["*CassetteMissError: prompt: recorded 'Hi', now 'Ho' (test_before.yaml)", "*has no answer for POST*"]
    )
    result.stdout.fnmatch_lines("*UnplayedError: 1 interaction was not played (test_before.yaml)")
    path = Path("cassettes", "test_it", "test_after.yaml")
    result.stdout.fnmatch_lines(
        [
            f"*CassetteMissError: there is no cassette {path}, so no answer *",
            "E * to record it: pytest test_it.py::test_after --miniagents-record=once",
        ],
        consecutive=True,
    )


def test_mistyped_name_in_a_marker_is_told_of_the_similar_file(project: Project, cassettes: Path) -> None:
    """A miss, and the failure of a client without a key, name the similar file; names of tests are never mistyped."""
    record(cassettes / "greeting.yaml", "Hi")
    record(cassettes / "test_it" / "test_defaults.yaml", "Hi")
    marker = "@pytest.mark.miniagents_cassette('greting.yaml')\n"
    source = f"{marker}def test_miss():\n    ask('Hi')\n\n{marker}def test_fails():\n    [][0]\n\n"
    result = project(f"{ASK}{source}def test_default(stream_cassette):\n    ask('Hi')\n")
    result.assert_outcomes(failed=3)
    question = f"did you mean {Path('cassettes', 'greeting.yaml')}?"
    said = f"there is no cassette {Path('cassettes', 'greting.yaml')}"
    result.stdout.fnmatch_lines([f"*CassetteMissError: {said}, so no answer *", f"E *{question}"], consecutive=True)
    result.stdout.fnmatch_lines([f"{said} yet", f"  {question}"], consecutive=True)
    assert result.stdout.str().count("did you mean") == 2


def test_interactions_left_are_no_error_when_the_test_has_not_run(project: Project, cassettes: Path) -> None:
    """A test that was skipped or has failed gets no second error for interactions that it did not play."""
    for name in ("test_skips", "test_cannot_begin", "test_fails"):
        record(cassettes / "test_it" / f"{name}.yaml", "one")
    result = project(
        """
@pytest.fixture
def broken(stream_cassette):
    raise ZeroDivisionError

def test_skips(stream_cassette):
    pytest.skip("no time")

def test_cannot_begin(broken):
    pass

def test_fails(stream_cassette):
    assert 1 == 2
"""
    )
    result.assert_outcomes(skipped=1, errors=1, failed=1)
    result.stdout.no_fnmatch_line("*UnplayedError*")


def test_option_sets_the_pace(project: Project, cassettes: Path) -> None:
    """By default, recorded waits take no time; with `--miniagents-pace=1` they pass in virtual time."""
    record(cassettes / "test_it" / "test_it.yaml", "slow")
    source = (
        ASK
        + """
@pytest.mark.miniagents_cassette
@pytest.mark.miniagents_virtual_time
@pytest.mark.asyncio
async def test_it(virtual_clock):
    assert await aask("slow") == "slow"
    assert virtual_clock.time() == pytest.approx(SECONDS)
"""
    )
    project(source.replace("SECONDS", "0")).assert_outcomes(passed=1)
    project(source.replace("SECONDS", "1000"), "--miniagents-pace=1").assert_outcomes(passed=1)


RECORDED_TEST = """
def test_it(provider_server, stream_cassette):
    server = provider_server(["Hello"])
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    import httpx2
    with httpx2.Client() as client:
        assert '"Hello"' in client.post(f"{server.openai_base_url}/chat/completions", json=body).text
"""


@pytest.mark.parametrize("how", ["option", "ini", "marker"])
def test_requests_are_recorded_when_option_ini_or_marker_says_so(
    project: Project, cassettes: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When option, ini file or marker sets a record mode, the test sends its requests and records them."""
    monkeypatch.delenv("CI", raising=False)
    source = RECORDED_TEST
    if how == "marker":
        source = f"@pytest.mark.miniagents_cassette(record_mode='once')\n{source.lstrip()}"
    arguments = ["--miniagents-record=once"] if how == "option" else []
    result = project(source, *arguments, ini="miniagents_record = once" if how == "ini" else "")
    result.assert_outcomes(passed=1)
    [interaction] = load(cassettes / "test_it" / "test_it.yaml")
    assert b"Hello" in interaction.response.body


@pytest.mark.parametrize("arguments", [(), ("-n", "1")])
def test_summary_names_what_was_redacted_in_a_recording(
    project: Project, cassettes: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a recording, pytest prints place, reason and length of what was redacted, and never the text itself."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("SHOP_PASSWORD", "tangerine-42x")
    source = RECORDED_TEST.replace('"content": "Hi"', '"content": "It is tangerine-42x"')
    result = project(source, "--miniagents-record=once", *arguments)
    result.assert_outcomes(passed=1)
    path = cassettes / "test_it" / "test_it.yaml"
    line = "  redacted: interaction 1, request body messages[[]0].content: SHOP_PASSWORD, 13 characters"
    result.stdout.fnmatch_lines(["*recorded cassettes*", line])
    assert "tangerine" not in result.stdout.str() + path.read_text(encoding="utf-8")


def test_record_mode_of_the_option_goes_before_the_marker(
    project: Project, cassettes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option `none` overrides the record mode of a marker, so that the test records nothing."""
    monkeypatch.delenv("CI", raising=False)
    source = f"@pytest.mark.miniagents_cassette(record_mode='once')\n{RECORDED_TEST.lstrip()}"
    project(source, "--miniagents-record=none").assert_outcomes(failed=1)
    assert not cassettes.exists()


def test_nothing_is_recorded_under_ci(project: Project, cassettes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable `CI` set, a test that would record fails, with the reason."""
    monkeypatch.setenv("CI", "true")
    result = project(RECORDED_TEST, "--miniagents-record=once")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*RecordingRefusedError:*this is CI*")
    assert not cassettes.exists()


def test_each_test_records_its_own_file_under_xdist(
    project: Project, cassettes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under pytest-xdist, the tests of several workers record one cassette each."""
    monkeypatch.delenv("CI", raising=False)
    tests = "\n".join(RECORDED_TEST.replace("test_it(", f"test_{number}(") for number in range(6))
    project(tests, "--miniagents-record=once", "-n", "2").assert_outcomes(passed=6)
    assert sorted(path.name for path in (cassettes / "test_it").glob("*.yaml")) == [f"test_{n}.yaml" for n in range(6)]


def test_plugin_works_beside_pytest_recording(project: Project, cassettes: Path) -> None:
    """In one project, a test with our cassette marker and one with pytest-recording's and a stream layer both play."""
    pytest.importorskip("pytest_recording")
    record(cassettes / "test_it" / "test_ours.yaml", "one")
    record(cassettes / "test_it" / "test_theirs.yaml", "two")
    result = project(
        ASK
        + """
@pytest.mark.miniagents_cassette
def test_ours():
    assert ask("one") == "one"

@pytest.mark.vcr
def test_theirs(vcr):
    from miniagents_testing import stream_layer
    with stream_layer(vcr) as session:
        assert ask("two") == "two"
""",
        "--record-mode=none",
        "--block-network",
    )
    result.assert_outcomes(passed=2)


@given(*[st.text(st.characters() | st.sampled_from('aA/\\:"*\0\ud83d😀'), max_size=150)] * 2)
@example("gpt-4", "GPT-4")
@example("a/b", "a:b")
@example("😀" * 99, "😀" * 98)
@example("\ud83d", "\ude00")
def test_K17_X8_any_test_name_gives_a_valid_and_unique_file_name(one: str, other: str) -> None:
    """Two different test names give two different valid file names, also on file systems that ignore case."""
    names = [cassette_name("test_it", f"test[{parameter}]").removeprefix("test_it/") for parameter in (one, other)]
    for name in names:
        assert not set(name) & set('<>:"/\\|?*\x00')
        assert len(name.encode()) < 120
    assert (names[0].casefold() == names[1].casefold()) is (one == other)


def test_K17_a_valid_test_name_is_the_file_name() -> None:
    """A test name that is valid as a file name is used unchanged."""
    assert cassette_name("test_it", "TestIt.test_A[gpt-4]") == "test_it/TestIt.test_A[gpt-4].yaml"


@pytest.mark.parametrize("mode", ["strict", "auto", "anyio"])
def test_marker_works_with_each_plugin_for_async_tests(project: Project, cassettes: Path, mode: str) -> None:
    """The cassette marker works under pytest-asyncio, in both modes, and anyio's plugin, with pytest-xdist."""
    record(cassettes / "test_it" / "test_it.yaml", "one")
    mark = {"strict": "@pytest.mark.asyncio\n", "auto": "", "anyio": "@pytest.mark.anyio\n"}[mode]
    source = (
        f"{ASK}\n{mark}@pytest.mark.miniagents_cassette\nasync def test_it():\n    assert await aask('one') == 'one'"
    )
    if mode == "anyio":
        source += "\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'"
    ini = "asyncio_mode = auto" if mode == "auto" else ""
    project(source, "-n", "1", ini=ini).assert_outcomes(passed=1)


GET = """
import socket, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

@pytest.fixture(scope="module")
def port():
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_GET(self):
            self.send_response(204)
            self.end_headers()
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()

def get(port):
    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
"""


@pytest.mark.parametrize("where", ["marker", "ini"])
def test_K22_allowed_hosts_of_marker_and_ini_are_reached(project: Project, cassettes: Path, where: str) -> None:
    """A test and its earlier fixtures reach hosts that marker or ini allow; without either, the test fails."""
    record(cassettes / "c.yaml", "one")
    hosts = ", allow_hosts=['127.0.0.1']" if where == "marker" else ""
    source = (
        f"{GET}\n@pytest.fixture\ndef early(port):\n    get(port)\n"
        f"@pytest.mark.miniagents_cassette('c.yaml', unplayed='ignore'{hosts})\n"
        "def test_get(early, port, stream_cassette):\n    get(port)\n"
    )
    project(source, ini="miniagents_allow_hosts = 127.0.0.1" if where == "ini" else "").assert_outcomes(passed=1)
    refused = project(
        f"{GET}\n@pytest.mark.miniagents_cassette('c.yaml', unplayed='ignore')\ndef test_get(port):\n    get(port)\n"
    )
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(["E *c.yaml has no answer for GET http://127.0.0.1:*"])


def test_K24_ignored_hosts_of_the_ini_file_are_down(project: Project, cassettes: Path) -> None:
    """While a cassette plays, connecting to hosts of the ini setting fails; `ignore_hosts` of a marker replaces it."""
    record(cassettes / "c.yaml", "one")
    source = (
        f"{GET}\n@pytest.mark.miniagents_cassette('c.yaml', unplayed='ignore')\n"
        "def test_down():\n    with pytest.raises(OSError, match='ignore_hosts'):\n        get(1)\n"
        "@pytest.mark.miniagents_cassette('c.yaml', unplayed='ignore', ignore_hosts=['other'])\n"
        "def test_refused():\n    get(1)\n"
    )
    project(source, ini="miniagents_ignore_hosts = *.example.com\n  127.0.0.1").assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize("name", ["allow_hosts", "ignore_hosts"])
def test_hosts_that_cannot_be_read_stop_pytest(project: Project, name: str) -> None:
    """Malformed hosts in the ini end pytest with a usage error that names the setting and what is allowed."""
    result = project("def test_it():\n    pass", ini=f"miniagents_{name} = host:port")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: miniagents_{name} takes names *cannot read 'host:port'"])


def test_hosts_of_a_marker_that_cannot_be_read_fail_the_test(project: Project) -> None:
    """A test with a marker whose `allow_hosts` are malformed fails with a text that says what is allowed."""
    source = "@pytest.mark.miniagents_cassette(allow_hosts=['*'])\ndef test_it():\n    pass"
    result = project(source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*: a setting of the cassette is wrong: allow_hosts takes names *"])


def test_the_ini_file_names_headers_that_are_not_recorded(pytester: pytest.Pytester) -> None:
    """Headers of `miniagents_drop_headers` are not recorded; `drop_headers` of a test's marker replaces them."""
    pytester.makeini("[pytest]\nminiagents_drop_headers = x-noise x-debug-*\nminiagents_record = rewrite")
    pytester.makepyfile(
        """
        import httpx2, pytest

        @pytest.fixture(autouse=True)
        def recorded(stream_cassette, request):
            yield stream_cassette.settings

        def test_ini(recorded):
            assert not recorded.headers.keeps("X-Debug-1") and not recorded.headers.keeps("x-noise")

        @pytest.mark.miniagents_cassette(drop_headers=["x-other"])
        def test_marker(recorded):
            assert recorded.headers.keeps("x-noise") and not recorded.headers.keeps("x-other")
        """
    )
    result = pytester.runpytest("-p", "no:randomly", "-W", "ignore::UserWarning")
    result.assert_outcomes(passed=2)
