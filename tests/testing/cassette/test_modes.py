"""The record modes of a cassette, which are those of VCR, and the cases in which a cassette refuses to record."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents_testing import use_cassette
from miniagents_testing.cassette import load, save
from miniagents_testing.errors import CassetteFormatError, CassetteMissError, RecordingRefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from miniagents_testing.cassette._settings import RecordMode
    from tests.testing.cassette.conftest import Kit


def _answering(kit: Kit, *texts: str) -> Any:
    """Make a network that answers with these texts in turn."""
    return kit.network(*(kit.Reply([text.encode()]) for text in texts))


async def _ask(kit: Kit, network: Any, *questions: str) -> list[str]:
    """Send questions one after the other, and return the answers."""
    async with httpx2.AsyncClient(transport=network) as client:
        return [(await client.post(kit.URL, json={"ask": question})).text for question in questions]


def _kept(kit: Kit) -> list[tuple[str, str]]:
    """Return questions and answers in the file."""
    return [(json.loads(each.request_body)["ask"], each.response.body.decode()) for each in load(kit.path)]


async def test_once_records_a_file_that_does_not_exist(kit: Kit) -> None:
    """In mode `once` without a file, each request is sent and recorded, also one equal to an earlier one."""
    with kit.cassette("once") as session:
        assert await _ask(kit, _answering(kit, "1", "2", "3"), "a", "b", "a") == ["1", "2", "3"]
    assert _kept(kit) == [("a", "1"), ("b", "2"), ("a", "3")]
    assert [each.response.body for each in session.recorded] == [b"1", b"2", b"3"]


async def test_once_only_plays_a_file_that_exists(kit: Kit) -> None:
    """In mode `once` with a file, a recorded request is played, another is a miss, and the file stays the same."""
    with kit.cassette("once"):
        await _ask(kit, _answering(kit, "1"), "a")
    before = kit.path.read_bytes()
    with pytest.raises(CassetteMissError), kit.cassette("once"):
        assert await _ask(kit, kit.network(), "a") == ["1"]
        await _ask(kit, kit.network(), "b")
    assert kit.path.read_bytes() == before


async def test_none_records_nothing(kit: Kit) -> None:
    """In mode `none` without a file, every request is a miss, whose message says how to record."""
    with pytest.raises(CassetteMissError) as caught, kit.cassette():
        await _ask(kit, _answering(kit, "1"), "a")
    assert str(caught.value).splitlines() == [
        f"there is no cassette {kit.path}, so no answer for POST {kit.URL}",
        "  to record it: record_mode='once' (now: 'none')",
    ]
    assert not kit.path.exists()


@pytest.mark.parametrize(("name", "is_named"), [("casete.yaml", True), ("other.yaml", False)])
def test_miss_without_a_file_names_files_with_a_similar_name(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, name: str, *, is_named: bool
) -> None:
    """A miss of a cassette whose name is mistyped has the path as it was typed, and asks for the similar one."""
    save(kit.path, [])
    monkeypatch.chdir(kit.path.parent.parent)
    folder = kit.path.parent.name
    with pytest.raises(CassetteMissError) as caught, use_cassette(f"{folder}/{name}"):
        httpx2.get("https://api.test/")
    first, *others, last = str(caught.value).splitlines()
    assert first == f"there is no cassette {folder}/{name}, so no answer for GET https://api.test/"
    assert others == ([f"  did you mean {folder}/cassette.yaml?"] if is_named else [])
    assert last == "  to record it: record_mode='once' (now: 'none')"


async def test_new_episodes_plays_recorded_requests_and_records_others(kit: Kit) -> None:
    """In mode `new_episodes`, recorded requests are played, and other requests are recorded after the old ones."""
    with kit.cassette("once"):
        await _ask(kit, _answering(kit, "1", "2"), "a", "a")
    with kit.cassette("new_episodes"):
        assert await _ask(kit, _answering(kit, "3", "4"), "a", "b", "a", "a") == ["1", "3", "2", "4"]
    assert _kept(kit) == [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")]
    starts = [each.started_ms for each in load(kit.path)]
    assert starts == sorted(starts)
    with kit.cassette():
        assert await _ask(kit, kit.network(), "a", "b", "a", "a") == ["1", "3", "2", "4"]


async def test_new_episodes_does_not_write_the_file_without_new_requests(kit: Kit) -> None:
    """In mode `new_episodes` without a new request, the file is not written, and unplayed interactions are no error."""
    with kit.cassette("once"):
        await _ask(kit, _answering(kit, "1", "2"), "a", "b")
    before = kit.path.stat()
    with kit.cassette("new_episodes"):
        await _ask(kit, kit.network(), "b")
    assert kit.path.stat() == before


async def test_all_records_repeated_requests_again(kit: Kit) -> None:
    """In mode `all`, each sent request replaces its old recording, and other interactions of the file stay."""
    with kit.cassette("once"):
        await _ask(kit, _answering(kit, "1", "2"), "a", "b")
    with kit.cassette("all"):
        assert await _ask(kit, _answering(kit, "3", "4"), "a", "c") == ["3", "4"]
    assert _kept(kit) == [("b", "2"), ("a", "3"), ("c", "4")]


async def test_rewrite_drops_the_old_file(kit: Kit) -> None:
    """In mode `rewrite`, the old file, which may be damaged, is replaced by the new recordings."""
    kit.path.write_text("a cassette with a conflict <<<<<<<", encoding="utf-8")
    with kit.cassette("rewrite"):
        assert await _ask(kit, _answering(kit, "3"), "c") == ["3"]
    assert _kept(kit) == [("c", "3")]


async def test_rewrite_keeps_the_old_file_when_nothing_is_recorded(kit: Kit) -> None:
    """In mode `rewrite`, the old file stays if the test fails before its first request."""
    with kit.cassette("once"):
        await _ask(kit, _answering(kit, "1"), "a")
    with pytest.raises(ZeroDivisionError), kit.cassette("rewrite"):
        raise ZeroDivisionError
    assert _kept(kit) == [("a", "1")]


async def test_a_recording_is_written_when_the_test_fails(kit: Kit) -> None:
    """A cassette that records writes its file also when the block raises an error."""
    with pytest.raises(ZeroDivisionError), kit.cassette("once"):
        await _ask(kit, _answering(kit, "1"), "a")
        raise ZeroDivisionError
    assert _kept(kit) == [("a", "1")]


@pytest.mark.parametrize("is_offline", [False, True])
@pytest.mark.parametrize("mode", ["once", "new_episodes", "all", "rewrite"])
async def test_new_file_is_not_written_when_the_block_fails_and_all_answers_are_failures(
    kit: Kit, mode: RecordMode, *, is_offline: bool
) -> None:
    """If the block raises and all answers are failures, no new file is written; with one success among them, it is."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if b"good" in request.content:
            return httpx2.Response(200, text="1")
        if is_offline:
            raise httpx2.ConnectError("no network")
        return httpx2.Response(401, text="wrong key")

    def ask(*questions: str) -> None:
        with use_cassette(kit.path, record_mode=mode, also_patch=[httpx2.MockTransport]):
            for question in questions:
                with httpx2.Client(transport=httpx2.MockTransport(answer)) as client, suppress(httpx2.ConnectError):
                    client.post(kit.URL, json={"ask": question})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        ask("a", "b")
    failure = "ConnectError" if is_offline else "status 401"
    note = f"cassette.yaml was not written: there was no answer but failures ({failure}); the next run records again"
    assert note in "".join(caught.value.__notes__)
    assert not kit.path.exists()
    with pytest.raises(ZeroDivisionError):
        ask("a", "good")
    assert len(load(kit.path)) == 2


_CUT, _ERROR = "stream ended before the provider said so", "error in the stream"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
@pytest.mark.parametrize("cut_at", ["", "first event", "last event", "error"])
async def test_stream_without_its_end_is_a_failure_that_a_failed_block_does_not_write(
    kit: Kit, api: str, cut_at: str, *, is_async: bool
) -> None:
    """If a block raises, a stream that ended before its provider said so, or with an error, makes no new file."""
    whole, end = kit.STREAMS[api, "text"], -2 if api == "chat" else -1
    if api == "messages":
        end = -2  # `message_delta` says that the answer is whole
    parts = {"": [], "first event": whole[:1], "last event": whole[:end], "error": kit.STREAMS[api, "error"]}
    failure = _ERROR if cut_at == "error" else _CUT

    async def ask(chunks: list[bytes]) -> None:
        network = kit.network(kit.Reply(chunks))
        with kit.cassette("once"):
            if is_async:
                await kit.aask(api, httpx2.AsyncClient(transport=network), max_retries=0)
            else:
                kit.ask(api, httpx2.Client(transport=network), max_retries=0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await ask(parts[cut_at])
    said = f"cassette.yaml was not written: there was no answer but failures ({failure}); the next run records again"
    assert said in "".join(caught.value.__notes__)
    assert not kit.path.exists()
    with pytest.raises(ZeroDivisionError):
        await ask(whole)
    assert [each.response.body for each in load(kit.path)] == [b"".join(whole)]


@pytest.mark.parametrize("path", ["ask", "messages"])
def test_stream_of_no_known_api_needs_no_end(kit: Kit, path: str) -> None:
    """The stream of an API that is not known is no failure, because no event of it says that it is whole."""
    network = kit.network(kit.Reply([b'data: {"text": "Hi"}\n\n']))
    with pytest.raises(ZeroDivisionError), kit.cassette("once"):
        httpx2.Client(transport=network).post(f"https://api.example.com/v1/{path}")
        raise ZeroDivisionError
    assert len(load(kit.path)) == 1


@pytest.mark.parametrize("form", ["line ends", "gzip"])
def test_cut_stream_is_a_failure_in_any_spelling(kit: Kit, form: str) -> None:
    """A cut stream with other line ends, or one that came compressed, is a failure, too."""
    body = b"".join(kit.STREAMS["messages", "text"][:4])
    reply = kit.Reply([body.replace(b"\n", b"\r") if form == "line ends" else gzip.compress(body)])
    if form == "gzip":
        reply.headers = {**reply.headers, "content-encoding": "gzip"}
    with pytest.raises(ZeroDivisionError) as caught, kit.cassette("once"):
        httpx2.Client(transport=kit.network(reply)).post("https://api.anthropic.com/v1/messages")
        raise ZeroDivisionError
    assert _CUT in "".join(caught.value.__notes__)
    assert not kit.path.exists()


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_failed_block_is_told_that_its_cassette_has_a_stream_without_its_end(kit: Kit, api: str) -> None:
    """An error after a replay of a cut stream has a note: the cut is in the file, and how to record it again."""
    with kit.cassette("once"):
        kit.ask(api, httpx2.Client(transport=kit.network(kit.Reply(kit.STREAMS[api, "text"][:2]))))
    with pytest.raises(ZeroDivisionError) as caught, kit.cassette():
        kit.ask(api, httpx2.Client(transport=kit.network()))
        raise ZeroDivisionError
    (note,) = caught.value.__notes__
    first, interaction, advice = note.splitlines()
    assert first == f"1 recorded failure was played from {kit.path}:"
    assert interaction.endswith(f": {_CUT}")
    assert advice == "  to record it again: record_mode='rewrite' (now: 'none')"


@pytest.mark.parametrize("mode", ["none", "once", "new_episodes", "all"])
@pytest.mark.parametrize("content", [b"", b"interactions: [", b"\xff"])
def test_K14_K15_a_file_that_cannot_be_read_is_neither_played_nor_overwritten(
    kit: Kit, mode: str, content: bytes
) -> None:
    """Opening a cassette whose file cannot be read raises an error, and leaves the content of the file."""
    kit.path.write_bytes(content)
    with pytest.raises(CassetteFormatError, match=str(kit.path)), kit.cassette(mode):
        pass
    assert kit.path.read_bytes() == content


def test_an_unknown_record_mode_is_refused(kit: Kit) -> None:
    """`use_cassette` raises an error for an unknown record mode, and lists the valid modes."""
    with pytest.raises(ValueError, match=r"'none', 'once', .*'rewrite', not 'on'"), kit.cassette("on"):
        pass


@pytest.mark.parametrize("mode", ["once", "new_episodes", "all", "rewrite"])
def test_K19_nothing_is_recorded_under_ci(kit: Kit, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable `CI` set, a cassette that would have to record raises an error."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RecordingRefusedError, match=r"this is CI.*commit it, or unset CI"), kit.cassette(mode):
        pass
    assert not kit.path.exists()


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
@pytest.mark.parametrize("ci", ["0", "false", ""])
def test_an_empty_or_false_ci_allows_recording(kit: Kit, ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable `CI` empty, 0 or false, a cassette can be opened to record."""
    monkeypatch.setenv("CI", ci)
    with kit.cassette("once"):
        pass


def test_cassettes_play_under_ci(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable `CI` set, an existing cassette can be opened in the modes `none` and `once`."""
    save(kit.path, [])
    monkeypatch.setenv("CI", "true")
    for mode in ("none", "once"):
        with kit.cassette(mode):
            pass


# --- two recorders


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
def test_a_second_recorder_in_a_process_is_refused(kit: Kit) -> None:
    """Opening a second cassette to record raises an error that names the first, until the first is closed."""
    with kit.cassette("once"):
        with pytest.raises(
            RecordingRefusedError, match=r"is being recorded already, by process \d+, in .*test_a_second"
        ):
            with kit.cassette("rewrite"):
                pass
    with kit.cassette("rewrite"):
        pass


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
async def test_a_file_can_be_played_while_it_is_recorded(kit: Kit) -> None:
    """While one session records a file, another session can play the old content of that file."""
    with kit.cassette("once"):
        await _ask(kit, _answering(kit, "1"), "a")
    with kit.cassette("all"), kit.cassette():
        assert await _ask(kit, kit.network(), "a") == ["1"]


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


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
def test_K8_processes_record_one_file_one_at_a_time(kit: Kit) -> None:
    """Recording a file that another process records is an error naming that process, until that process ends."""
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
    """One `use_cassette` object can be entered twice, one time after the other, and gives a new session each time."""
    context = kit.cassette("once")
    with context as first:
        await _ask(kit, _answering(kit, "1"), "a")
    async with context as second:
        assert await _ask(kit, kit.network(), "a") == ["1"]
    assert first is not second
