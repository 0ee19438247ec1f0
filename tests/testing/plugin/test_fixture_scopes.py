"""Requests of fixtures: in the cassette of the test, of the module or of the session, or refused."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

import pytest

from miniagents_testing.cassette import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Project = Callable[..., pytest.RunResult]

ASK = """
import os, httpx2, httpx

def ask(text):
    return httpx2.post(os.environ["SCOPES_URL"], json={"prompt": text}).text

async def aask(text):
    async with httpx.AsyncClient() as client:
        return (await client.post(os.environ["SCOPES_URL"], json={"prompt": text})).text
"""


class Server:
    """Server on loopback that answers each prompt with the prompt and the number of the request."""

    def __init__(self) -> None:
        seen = self.seen = list[str]()

        class Handler(BaseHTTPRequestHandler):
            """Handler of one request."""

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                seen.append(json.loads(body)["prompt"])
                answer = f"{seen[-1]} {len(seen)}".encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server, whose address the projects of the tests know."""
    monkeypatch.delenv("CI", raising=False)
    with Server() as server:
        monkeypatch.setenv("SCOPES_URL", f"http://{server.host}/v1")
        yield server


def prompts(path: Path) -> list[str]:
    """Return the prompts that a cassette has, in order."""
    return [json.loads(each.request_body)["prompt"] for each in load(path)]


SHARED = (
    ASK
    + """
@pytest.fixture(scope="module")
def index(module_cassette):
    yield ask("index")
    ask("drop index")

@pytest.fixture(scope="session")
def base(session_cassette):
    return ask("base")

@pytest.mark.miniagents_cassette
def test_one(base, index):
    ask(f"one {index}")

@pytest.mark.miniagents_cassette
def test_two(index):
    ask(f"two {index}")

@pytest.fixture(scope="class")
def part(module_cassette):
    return ask("part")

@pytest.mark.miniagents_cassette
class TestClass:
    def test_three(self, base, part):
        ask(f"three {part}")
"""
)


def test_fixture_is_recorded_in_the_cassette_of_its_scope_and_plays_in_any_order(
    project: Project, server: Server, pytester: pytest.Pytester
) -> None:
    """Fixtures of module, class and session are recorded once each, and each test plays alone and in any order."""
    project(SHARED, "--miniagents-record=once").assert_outcomes(passed=3)
    cassettes = pytester.path / "cassettes"
    assert prompts(cassettes / "session.yaml") == ["base"]
    assert prompts(cassettes / "test_it" / "module.yaml") == ["index", "part", "drop index"]
    assert [prompts(cassettes / "test_it" / f"{name}.yaml") for name in ("test_one", "test_two")] == [
        ["one index 2"],
        ["two index 2"],
    ]
    assert prompts(cassettes / "test_it" / "TestClass.test_three.yaml") == ["three part 5"]
    live = len(server.seen)
    for chosen, count in [("", 3), ("test_one", 1), ("test_two", 1), ("test_three", 1)]:
        project(SHARED, "-k", chosen).assert_outcomes(passed=count, deselected=3 - count)
    fixtures, *tests = SHARED.split("@pytest.mark.miniagents_cassette\n")
    turned = "@pytest.mark.miniagents_cassette\n".join([fixtures, *reversed(tests)])
    project(turned).assert_outcomes(passed=3)
    project(SHARED, "-n", "2").assert_outcomes(passed=3)
    assert len(server.seen) == live


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
@pytest.mark.parametrize("kind", ["sync", "asyncio", "anyio"])
def test_fixture_that_several_tests_share_may_not_use_the_cassette_of_a_test(
    project: Project, server: Server, pytester: pytest.Pytester, scope: str, kind: str
) -> None:
    """A request of a shared fixture that asks for no shared cassette fails, and the error says which one to ask for."""
    prefix = {"sync": "", "asyncio": "async ", "anyio": "async "}[kind]
    scopes = f"scope={scope!r}"
    fixture = f"pytest_asyncio.fixture(loop_{scopes}, {scopes})" if kind == "asyncio" else f"pytest.fixture({scopes})"
    ask = "ask" if kind == "sync" else "await aask"
    source = f"""
import pytest_asyncio

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"

@{fixture}
{prefix}def index({"anyio_backend" if kind == "anyio" else ""}):
    return {ask}("index")

@pytest.mark.miniagents_cassette
class TestIt:
    {"@pytest.mark.anyio" if kind == "anyio" else ""}
    {prefix if kind == "anyio" else ""}def test_it(self, index):
        pass
"""
    wider = "module_cassette" if scope in ("class", "module") else "session_cassette"
    for arguments in (["--miniagents-record=once"], []):
        result = project(ASK + source, *arguments)
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(
            [
                f"*CassetteMissError: fixture 'index' ({scope}) made a request; let it ask for {wider}",
                f"*POST http://{server.host}/v1",
                f"*allow_hosts=*{server.host}*",
            ]
        )
    assert not server.seen
    assert not list(pytester.path.rglob("*.yaml"))


def test_fixture_with_a_caught_refusal_fails(project: Project, server: Server) -> None:
    """A shared fixture that catches the error of its request fails, in its setup as well as in its teardown."""
    source = (
        ASK
        + """
def quietly():
    try:
        ask("index")
    except Exception:
        pass

@pytest.fixture(scope="module")
def index():
    quietly()

@pytest.fixture(scope="module")
def other():
    yield
    quietly()

@pytest.mark.miniagents_cassette
def test_one(index):
    pass

@pytest.mark.miniagents_cassette(unplayed="ignore")
def test_two(other):
    ask("two")
"""
    )
    result = project(source, "--miniagents-record=once")
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines(
        ["*fixture 'index' (module) made a request*", "*fixture 'other' (module) made a request*"]
    )
    assert server.seen == ["two"]


@pytest.mark.parametrize("settings", ["marker", "ini"])
def test_shared_fixture_reaches_allowed_hosts(project: Project, server: Server, settings: str) -> None:
    """A fixture may ask a server of the tests that `allow_hosts` names; its requests are not recorded."""
    marker = f"(allow_hosts=[{server.host!r}], unplayed='ignore')" if settings == "marker" else "(unplayed='ignore')"
    source = f"""
@pytest.fixture(scope="module", autouse=True)
def ready():
    yield ask("ready")
    ask("stop")

@pytest.mark.miniagents_cassette{marker}
def test_it(ready):
    pass
"""
    ini = f"miniagents_allow_hosts = {server.host}" if settings == "ini" else ""
    for number, _ in enumerate([1, 2], 1):
        project(ASK + source, ini=ini).assert_outcomes(passed=1)
        assert server.seen == ["ready", "stop"] * number


def test_shared_fixture_is_not_affected_in_tests_without_a_cassette(project: Project, server: Server) -> None:
    """The request of a module's fixture reaches the server if only tests without a cassette use the fixture."""
    source = """
@pytest.fixture(scope="module")
def index():
    return ask("index")

def test_it(index):
    assert index == "index 1"
"""
    project(ASK + source).assert_outcomes(passed=1)


REQUESTS_OF_FIXTURES = """
import pytest_asyncio

@pytest.fixture
def first(anyio_backend):
    yield ask("first")
    ask("first ends")

@pytest.fixture
def second(request):
    request.addfinalizer(lambda: ask("second ends"))

@{fixture}
async def third(anyio_backend):
    yield await aask("third")
    await aask("third ends")

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.{plugin}
{marker}
async def test_it(first, second, third{argument}):
    assert (first, third) == ("first 1", "third 2")
    assert await aask("test") == "test 3"
"""


@pytest.mark.parametrize("how", ["marker", "fixture"])
@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_requests_of_the_fixtures_of_a_test_are_in_its_cassette(
    project: Project, server: Server, pytester: pytest.Pytester, how: str, plugin: str
) -> None:
    """Requests before and after a test of its own fixtures, sync and async, are recorded and played with the test."""
    source = ASK + REQUESTS_OF_FIXTURES.format(
        plugin=plugin,
        fixture="pytest.fixture" if plugin == "anyio" else "pytest_asyncio.fixture",
        marker="@pytest.mark.miniagents_cassette" if how == "marker" else "",
        argument=", stream_cassette" if how == "fixture" else "",
    )
    project(source, "--miniagents-record=once").assert_outcomes(passed=1)
    sent = ["first", "third", "test", "third ends", "second ends", "first ends"]
    assert server.seen == sent
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    assert prompts(path) == sent
    project(source).assert_outcomes(passed=1)
    assert server.seen == sent
    result = project(source.replace('ask("first ends")', "pass"))
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*UnplayedError: 1 interaction was not played (test_it.yaml)")
    result = project(source.replace('ask("first ends")', 'ask("never recorded")'))
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*test_it.yaml has no answer for *")


def test_caught_miss_fails_the_test_when_a_fixture_has_a_teardown(project: Project, server: Server) -> None:
    """A miss whose error the test catches fails the test once, also if a fixture's teardown follows."""
    source = """
@pytest.fixture
def with_teardown():
    yield

@pytest.mark.miniagents_cassette
def test_swallows(with_teardown):
    try:
        ask("never recorded")
    except Exception:
        pass

@pytest.mark.miniagents_cassette
def test_fails(with_teardown):
    try:
        ask("never recorded")
    except Exception:
        assert 1 == 2
"""
    result = project(ASK + source)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*CassetteMissError: there is no cassette *test_swallows.yaml, so no answer *"])
    result.stdout.fnmatch_lines(["E *MissError: there is no cassette *test_fails.yaml, *", "E *assert 1 == 2"])


def test_shared_cassette_stays_open_between_tests_with_a_guard(project: Project, server: Server) -> None:
    """A cassette of a module answers fixtures that later tests set up, while live requests are refused."""
    source = """
@pytest.fixture(scope="module", params=[1, 2, 3])
def part(module_cassette, request):
    return ask(f"part {request.param}")

@pytest.fixture(scope="module")
def again(module_cassette, part):
    return ask("again")

def test_it(part, again, request):
    assert part.startswith("part")
"""
    project(ASK + source, "--miniagents-record=once").assert_outcomes(passed=3)
    live = len(server.seen)
    assert live == 6
    for arguments in ([], ["-k", "3"], ["-k", "2"]):
        assert not project(ASK + source, *arguments).parseoutcomes().keys() & {"failed", "errors"}
    assert len(server.seen) == live


def test_shared_cassette_answers_a_request_more_often_than_it_was_recorded(project: Project, server: Server) -> None:
    """A request that a fixture repeats gets its recorded answer each time: fixtures are set up again in some orders."""
    source = """
@pytest.fixture(scope="class")
def part(module_cassette):
    return ask("part")

@pytest.mark.parametrize("number", [1, 2])
class TestIt:
    def test_it(self, part, number):
        assert part == "part 1"
"""
    project(ASK + source, "--miniagents-record=once").assert_outcomes(passed=2)
    more = source + "\nclass TestMore(TestIt):\n    pass\n"
    project(ASK + more).assert_outcomes(passed=4)
    assert server.seen == ["part"]


@pytest.mark.parametrize("mode", ["once", "rewrite"])
def test_workers_take_turns_with_a_shared_cassette(
    project: Project, server: Server, pytester: pytest.Pytester, mode: str
) -> None:
    """Under xdist, one worker records a shared fixture, the others play that, and the recorded tests play alone."""
    source = (
        ASK
        + """
@pytest.fixture(scope="session")
def base(session_cassette):
    return ask("base")

@pytest.fixture(scope="module")
def index(module_cassette, base):
    return ask(f"index of {base}")

@pytest.mark.miniagents_cassette
@pytest.mark.parametrize("number", range(4))
def test_it(index, number):
    ask(f"{number} {index}")
"""
    )
    for _ in range(2 if mode == "rewrite" else 1):
        server.seen.clear()
        project(source, f"--miniagents-record={mode}", "-n", "2", "--dist=load").assert_outcomes(passed=4)
        if mode == "rewrite":
            assert server.seen.count("base") == 1
            assert len([each for each in server.seen if each.startswith("index")]) == 1
    live = len(server.seen)
    cassettes = pytester.path / "cassettes"
    assert prompts(cassettes / "session.yaml") == ["base"]
    assert len(prompts(cassettes / "test_it" / "module.yaml")) == 1
    for arguments in ([], ["-n", "2"], ["-k", "3"]):
        assert "failed" not in project(source, *arguments).parseoutcomes()
    assert len(server.seen) == live


def test_thread_without_a_context_uses_the_narrowest_cassette(
    project: Project, server: Server, pytester: pytest.Pytester
) -> None:
    """A thread without a context uses the test's cassette, or the module's while a fixture of the module is set up."""
    source = """
import threading

def ask_in_thread(text):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask(text)))
    thread.start()
    thread.join()
    return answers[0]

@pytest.fixture(scope="module")
def index(module_cassette):
    return ask_in_thread("index")

@pytest.mark.miniagents_cassette
def test_it(index):
    assert ask_in_thread(f"test {index}") == "test index 1 2"
"""
    project(ASK + source, "--miniagents-record=once").assert_outcomes(passed=1)
    project(ASK + source).assert_outcomes(passed=1)
    folder = pytester.path / "cassettes" / "test_it"
    assert [prompts(folder / f"{name}.yaml") for name in ("module", "test_it")] == [["index"], ["test index 1"]]
    assert len(server.seen) == 2
