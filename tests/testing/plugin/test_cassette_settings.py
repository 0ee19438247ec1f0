"""Settings of cassettes under pytest: command line, marker, nearest `cassette_settings`, ini file, in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing.cassette import load, use_cassette

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]


def test_settings_come_from_command_line_marker_fixture_and_ini_in_this_order(project: Project) -> None:
    """Each setting has the value of the first of command line, marker, `cassette_settings` and ini that has it."""
    source = """
@pytest.fixture
def cassette_settings():
    return {"pace": 2, "anchor": "request", "retry_after": "keep", "allow_hosts": ["fixture"]}

@pytest.mark.miniagents_cassette(pace=3, retry_after="skip")
def test_all(stream_cassette):
    settings = stream_cassette.settings
    assert (settings.pace, settings.anchor, settings.retry_after) == (4, "request", "skip")
    assert list(settings.allow_hosts) == ["fixture"]
    assert list(settings.ignore_hosts) == ["ini"]

@pytest.mark.miniagents_cassette(allow_hosts=["marker"], ignore_hosts=["marker"])
def test_marker(stream_cassette):
    assert list(stream_cassette.settings.allow_hosts) == ["marker"]
    assert list(stream_cassette.settings.ignore_hosts) == ["marker"]
"""
    ini = "miniagents_allow_hosts = ini\nminiagents_ignore_hosts = ini"
    project(source, "--miniagents-pace=4", ini=ini).assert_outcomes(passed=2)


def test_nearest_settings_of_class_file_and_folder_replace_the_others(
    project: Project, pytester: pytest.Pytester
) -> None:
    """A test has the settings of its class, else of its file, else of its folder, and nothing of those farther away."""
    pytester.makeconftest(
        "import pytest\n@pytest.fixture(scope='session')\ndef cassette_settings():\n"
        "    return {'pace': 1, 'anchor': 'request'}\n"
    )
    source = """
@pytest.fixture(scope="module")
def cassette_settings():
    return {"pace": 2}

class TestClass:
    @pytest.fixture
    def cassette_settings(self):
        return {"pace": 3}

    def test_class(self, stream_cassette):
        assert stream_cassette.settings.pace == 3

class TestExtends:
    @pytest.fixture
    def cassette_settings(self, cassette_settings):
        return {**cassette_settings, "anchor": "request"}

    def test_class(self, stream_cassette):
        assert (stream_cassette.settings.pace, stream_cassette.settings.anchor) == (2, "request")

def test_file(stream_cassette):
    assert (stream_cassette.settings.pace, stream_cassette.settings.anchor) == (2, "timeline")
"""
    folder = """
def test_folder(stream_cassette):
    assert (stream_cassette.settings.pace, stream_cassette.settings.anchor) == (1, "request")
"""
    project(source, test_folder=folder).assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (
            "@pytest.mark.miniagents_cassette(pce=1)",
            "test_it.py::test_it: miniagents_cassette has unknown settings: pce.",
        ),
        ("@settings({'pce': 1, 1: 2})", "cassette_settings of test_it.py::test_it has unknown settings: pce, 1."),
        ("@settings(['pace'])", r"cassette_settings of test_it.py::test_it must be a dict of settings, not [[]'pace']"),
    ],
)
def test_unknown_settings_fail_the_test_with_the_known_ones(project: Project, where: str, says: str) -> None:
    """A setting that no cassette knows fails the test, and the message lists the known ones."""
    source = f"""
def settings(value):
    global returned
    returned = value
    return lambda function: function

returned = {{}}

@pytest.fixture
def cassette_settings():
    return returned

{where}
def test_it(stream_cassette):
    pass
"""
    result = project(source)
    result.assert_outcomes(errors=1)
    known = "" if "must be" in says else " Known are record_mode, also_patch, pace, anchor, *, match, *ignore_hosts*"
    result.stdout.fnmatch_lines(f"*{says}{known}")


WRONG = {
    "allow_hosts='db'": "allow_hosts takes a list of names *; got 'db', write [[]'db']",
    "ignore_hosts='db'": "ignore_hosts takes a list of names *; got 'db', write [[]'db']",
    "drop_headers='date'": "drop_headers *'date'*",
    "also_patch=3": "also_patch takes a list of classes, such as [[]httpx2.MockTransport]; got 3",
    "pace='fast'": "pace must be a number: *, not 'fast'",
    "chunking=3": "chunking must be one of 'recorded', 'event' or a function *, not 3",
    "match={'ignore': []}": "match must be a Matching, such as *, not {'ignore': [[]]}",
    "redact=None": "redact must be a Redaction, such as *, not None",
    "record_as=['a']": "record_as takes a dict *; got [[]'a']",
    "record_as={1: 2}": "record_as takes a dict *; got {1: 2}",
    "record_mode=[]": "record_mode must be one of 'none', *, not [[]]",
    "unplayed=True": "unplayed must be one of 'fail', 'ignore', not True",
}
"""Settings with a wrong type, and what the error says."""


@pytest.mark.parametrize(("setting", "says"), WRONG.items())
def test_wrong_settings_fail_only_their_tests_without_internals(project: Project, setting: str, says: str) -> None:
    """A setting of a wrong type, in a marker or a fixture, fails its test with what to write, and no other test."""
    source = f"""
@pytest.fixture(scope="module", autouse=True)
def shared():
    yield

class TestFixture:
    @pytest.fixture
    def cassette_settings(self):
        return dict({setting})

    def test_fixture(self, stream_cassette):
        pass

@pytest.mark.miniagents_cassette({setting})
def test_marker(stream_cassette):
    pass

def test_other():
    pass
"""
    result = project(source, "-p", "no:randomly")
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines_random(
        [
            f"*::test_fixture: a setting of the cassette is wrong: {says}",
            f"*::test_marker: a setting of the cassette is wrong: {says}",
        ]
    )
    result.stdout.no_re_match_line(r"(.*/)?(miniagents_testing|_pytest)/.*:\d+:.*")


@pytest.mark.parametrize("name", ["3", "name=3", "''", "name=''", "'a', name='b'", "None"])
def test_marker_refuses_a_name_that_is_no_path(project: Project, name: str) -> None:
    """A name of a cassette that is no text or path, or is empty, and two names, fail the test with what to write."""
    result = project(f"@pytest.mark.miniagents_cassette({name})\ndef test_it(stream_cassette): pass")
    result.assert_outcomes(errors=1)
    got = name.replace("name=", "")
    result.stdout.fnmatch_lines(f"*: miniagents_cassette takes the name of one cassette, such as *; got {got}")


@pytest.mark.parametrize("path", [3, None, "", b"a.yaml"])
def test_use_cassette_refuses_a_path_that_names_no_file(path: Any) -> None:
    """The path of a cassette that is no text or path, or is empty, is refused where it is given."""
    with pytest.raises((TypeError, ValueError), match="a cassette takes the path of a file, such as"):
        use_cassette(path)


RECORDS = """
def test_it(provider_server, stream_cassette):
    server = provider_server(["Hello"])
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    import httpx2
    assert '"Hello"' in httpx2.post(f"{server.openai_base_url}/chat/completions", json=body).text
"""


def test_record_mode_of_the_settings_records(
    project: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record mode of `cassette_settings` makes a test record, unless marker or command line have another mode."""
    monkeypatch.delenv("CI", raising=False)
    source = "@pytest.fixture\ndef cassette_settings():\n    return {'record_mode': 'once'}\n"
    marked = f"{source}\n@pytest.mark.miniagents_cassette(record_mode='none'){RECORDS}"
    project(marked).assert_outcomes(failed=1)
    project(source + RECORDS, "--miniagents-record=none").assert_outcomes(failed=1)
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    assert not path.exists()
    project(source + RECORDS).assert_outcomes(passed=1)
    assert len(load(path)) == 1


@pytest.mark.parametrize("scope", ["function", "class", "module", "session"])
def test_settings_without_arguments_hold_for_shared_cassettes_whatever_their_scope(
    project: Project, pytester: pytest.Pytester, scope: str
) -> None:
    """Cassettes of session, module and test have the settings of root folder, file and class, in this order."""
    pytester.makeconftest(
        f"import pytest\n@pytest.fixture(scope={scope!r})\ndef cassette_settings():\n    return {{'pace': 1}}\n"
    )
    source = f"""
pytestmark = pytest.mark.miniagents_cassette(anchor="request")

@pytest.fixture(scope={scope!r})
def cassette_settings():
    return {{"pace": 2}}

class TestClass:
    @pytest.fixture
    def cassette_settings(self):
        return {{"pace": 3}}

    def test_it(self, module_cassette, session_cassette, stream_cassette):
        sessions = module_cassette, session_cassette, stream_cassette
        assert [each.settings.pace for each in sessions] == [2, 1, 3]
        assert [each.settings.anchor for each in sessions] == ["request", "timeline", "request"]
        assert [each.settings.unplayed for each in sessions] == ["ignore", "ignore", "fail"]
"""
    project(source).assert_outcomes(passed=1)


def test_settings_with_arguments_hold_for_shared_cassettes_when_their_scope_is_wide_enough(project: Project) -> None:
    """A `cassette_settings` that uses fixtures holds for `module_cassette` if its scope is `module`.

    With scope `function`, pytest reports an error.
    """
    source = """
@pytest.fixture(scope="session")
def pace():
    return 2

@pytest.fixture(scope={scope!r})
def cassette_settings(pace):
    yield {{"pace": pace}}

def test_it(module_cassette):
    assert module_cassette.settings.pace == 2
"""
    project(source.format(scope="module")).assert_outcomes(passed=1)
    result = project(source.format(scope="function"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("ScopeMismatch: *function scoped fixture cassette_settings with a module scoped*")
