"""The record modes, in VCR's words, and where recording is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents_testing.cassette import load, save
from miniagents_testing.errors import CassetteFormatError, CassetteMissError, RecordingRefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit


def _say(kit: Kit, *texts: str) -> Any:
    """A network that says these, one an answer."""
    return kit.network(*(kit.Reply([text.encode()]) for text in texts))


async def _ask(kit: Kit, network: Any, *questions: str) -> list[str]:
    async with httpx2.AsyncClient(transport=network) as client:
        return [(await client.post(kit.URL, json={"ask": question})).text for question in questions]


def _kept(kit: Kit) -> list[tuple[str, str]]:
    """Questions and answers in the file."""
    return [(json.loads(each.request_body)["ask"], each.response.body.decode()) for each in load(kit.path)]


async def test_once_records_a_file_that_does_not_exist(kit: Kit) -> None:
    """What is recorded now is not played now: the same question twice is two recordings."""
    with kit.cassette("once") as session:
        assert await _ask(kit, _say(kit, "1", "2", "3"), "a", "b", "a") == ["1", "2", "3"]
    assert _kept(kit) == [("a", "1"), ("b", "2"), ("a", "3")]
    assert [each.response.body for each in session.recorded] == [b"1", b"2", b"3"]


async def test_once_only_plays_a_file_that_exists(kit: Kit) -> None:
    """A new question is a miss, and nothing is added."""
    with kit.cassette("once"):
        await _ask(kit, _say(kit, "1"), "a")
    before = kit.path.read_bytes()
    with pytest.raises(CassetteMissError), kit.cassette("once"):
        assert await _ask(kit, kit.network(), "a") == ["1"]
        await _ask(kit, kit.network(), "b")
    assert kit.path.read_bytes() == before


async def test_none_records_nothing(kit: Kit) -> None:
    """Without a file every request is a miss, which says how to record."""
    with pytest.raises(CassetteMissError, match=r"there is no such file; record it with record_mode='once'"):
        with kit.cassette():
            await _ask(kit, _say(kit, "1"), "a")
    assert not kit.path.exists()


async def test_new_episodes_plays_what_is_there_and_adds_the_rest(kit: Kit) -> None:
    """The new ones come after the old, on the time line, too."""
    with kit.cassette("once"):
        await _ask(kit, _say(kit, "1", "2"), "a", "a")
    with kit.cassette("new_episodes"):
        assert await _ask(kit, _say(kit, "3", "4"), "a", "b", "a", "a") == ["1", "3", "2", "4"]
    assert _kept(kit) == [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")]
    starts = [each.started_ms for each in load(kit.path)]
    assert starts == sorted(starts)
    with kit.cassette():
        assert await _ask(kit, kit.network(), "a", "b", "a", "a") == ["1", "3", "2", "4"]


async def test_new_episodes_leaves_a_file_alone_that_lacks_nothing(kit: Kit) -> None:
    """Not a byte is written, and what was not played does not matter."""
    with kit.cassette("once"):
        await _ask(kit, _say(kit, "1", "2"), "a", "b")
    before = kit.path.stat()
    with kit.cassette("new_episodes"):
        await _ask(kit, kit.network(), "b")
    assert kit.path.stat() == before


async def test_all_records_again_what_is_asked_again(kit: Kit) -> None:
    """The rest of the file stays as it was."""
    with kit.cassette("once"):
        await _ask(kit, _say(kit, "1", "2"), "a", "b")
    with kit.cassette("all"):
        assert await _ask(kit, _say(kit, "3", "4"), "a", "c") == ["3", "4"]
    assert _kept(kit) == [("b", "2"), ("a", "3"), ("c", "4")]


async def test_rewrite_begins_anew(kit: Kit) -> None:
    """Nothing of the old file is played or kept, not even where it is damaged."""
    kit.path.write_text("a cassette with a conflict <<<<<<<", encoding="utf-8")
    with kit.cassette("rewrite"):
        assert await _ask(kit, _say(kit, "3"), "c") == ["3"]
    assert _kept(kit) == [("c", "3")]


async def test_rewrite_that_records_nothing_leaves_the_old_file(kit: Kit) -> None:
    """A test that fails before its first request costs no recording."""
    save(kit.path, [])
    with pytest.raises(ZeroDivisionError), kit.cassette("rewrite"):
        raise ZeroDivisionError
    assert load(kit.path) == ()


async def test_what_was_recorded_before_a_failure_is_kept(kit: Kit) -> None:
    """As in VCR: the test fails, its cassette is there to look at."""
    with pytest.raises(ZeroDivisionError), kit.cassette("once"):
        await _ask(kit, _say(kit, "1"), "a")
        raise ZeroDivisionError
    assert _kept(kit) == [("a", "1")]


@pytest.mark.parametrize("mode", ["none", "once", "new_episodes", "all"])
@pytest.mark.parametrize("content", [b"", b"interactions: [", b"\xff"])
def test_K14_K15_a_file_that_cannot_be_read_is_neither_played_nor_overwritten(
    kit: Kit, mode: str, content: bytes
) -> None:
    """Whatever it was, it is still there afterwards."""
    kit.path.write_bytes(content)
    with pytest.raises(CassetteFormatError, match=str(kit.path)), kit.cassette(mode):
        pass
    assert kit.path.read_bytes() == content


def test_a_mode_that_does_not_exist_is_refused(kit: Kit) -> None:
    """With the words that there are."""
    with pytest.raises(ValueError, match=r"'none', 'once', .*'rewrite', not 'on'"), kit.cassette("on"):
        pass


@pytest.mark.parametrize("mode", ["once", "new_episodes", "all", "rewrite"])
def test_K19_nothing_is_recorded_under_ci(kit: Kit, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode that somebody forgot fails where nobody looks at what it records."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RecordingRefusedError, match=r"this is CI.*commit it, or unset CI"), kit.cassette(mode):
        pass
    assert not kit.path.exists()


@pytest.mark.parametrize("ci", ["0", "false", ""])
def test_an_empty_ci_is_none(kit: Kit, ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """People switch it off like this."""
    monkeypatch.setenv("CI", ci)
    with kit.cassette("once"):
        pass


def test_ci_plays(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed cassette is what CI is for, in the mode `once`, too."""
    save(kit.path, [])
    monkeypatch.setenv("CI", "true")
    for mode in ("none", "once"):
        with kit.cassette(mode):
            pass


# --- two recorders


def test_a_second_recorder_is_refused_and_told_who_the_first_is(kit: Kit) -> None:
    """In one process; the first goes on, and when it has ended, the next may."""
    with kit.cassette("once"):
        with pytest.raises(
            RecordingRefusedError, match=r"is being recorded already, by process \d+, in .*test_a_second"
        ):
            with kit.cassette("rewrite"):
                pass
    with kit.cassette("rewrite"):
        pass


def test_players_are_not_in_the_way_of_a_recorder(kit: Kit) -> None:
    """They see the old file until the new one is there."""
    save(kit.path, [])
    with kit.cassette(), kit.cassette("all"), kit.cassette():
        pass


PROGRAM = """
import sys
from miniagents_testing.cassette import use_cassette
with use_cassette(sys.argv[1], record_mode="once"):
    print("open", flush=True)
    sys.stdin.read()
"""


def _recorder(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_K8_processes_record_one_file_one_at_a_time(kit: Kit) -> None:
    """The lock names the other process, and is gone when that is killed."""
    with _recorder(kit.path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        with _recorder(kit.path) as second:
            _, said = second.communicate()
        assert f"is being recorded already, by process {first.pid}" in said
        with pytest.raises(RecordingRefusedError, match=f"process {first.pid}"), kit.cassette("once"):
            pass
        first.kill()
        first.wait()
        with kit.cassette("once"):
            pass


async def test_a_context_can_be_entered_again(kit: Kit) -> None:
    """Each time is a session of its own."""
    context = kit.cassette("once")
    with context as first:
        await _ask(kit, _say(kit, "1"), "a")
    async with context as second:
        assert await _ask(kit, kit.network(), "a") == ["1"]
    assert first is not second
