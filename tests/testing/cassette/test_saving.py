"""The saved file of a cassette: damaged files, killed processes, changes of the file, and several sessions of it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING
from unittest.mock import Mock

import httpx2
import pytest

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save, use_cassette
from miniagents_testing.cassette._secrets.search import Search
from miniagents_testing.errors import CassetteFormatError, causes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Effort
    from tests.testing.cassette.conftest import Kit

URL = "https://api.openai.com/v1/chat/completions"


def _sample() -> list[Interaction]:
    """Return an interaction of each kind that a cassette can hold."""
    headers = {"content-type": ["text/event-stream"], "retry-after": ["2"]}
    chunks = Chunk(1502, b"data: Hi"), Chunk(510, " 😀\n\n".encode()), Chunk(7, b"data: [DONE]\n\n")
    streams = [
        ResponseStream(chunks, headers=headers, headers_ms=91.2),
        ResponseStream((Chunk(1, b"\xff\r\n"),), status=429, reason="Too Many", end="closed", complete=False),
        ResponseStream(status=0, reason="", end="raise ConnectError: no", complete=False),
    ]
    return [
        Interaction("POST", URL, f'{{"n":{number}}}'.encode(), stream, {}, 10.0 * number, "A/B#1" if number else "")
        for number, stream in enumerate(streams)
    ]


def _damaged(whole: bytes, ways: int) -> Iterator[bytes]:
    """Yield copies of the file: cut off at a place, or with the byte there lost, doubled, or changed in `ways` ways."""
    dice = random.Random(1)
    for place, byte in enumerate(whole):
        before, after = whole[:place], whole[place + 1 :]
        yield before
        others = [
            *(bytes([new]) for new in (byte ^ 1, byte ^ 0x20, *b"\n 0#", dice.randrange(256))),
            b"",
            b"%c" % byte * 2,
        ]
        yield from (before + other + after for other in dice.sample(others, ways))


def test_K5_K6_a_damaged_file_is_refused_or_plays_the_same(tmp_path: Path, effort: Effort) -> None:
    """Each of thousands of damaged copies of a file raises an error, or loads the same interactions."""
    path = tmp_path / "c.yaml"
    save(path, _sample())
    saved, tried, refused = load(path), 0, 0
    for content in _damaged(path.read_bytes(), effort(1, ci=2, nightly=9)):
        tried += 1
        path.write_bytes(content)
        try:
            assert load(path) == saved, content
        except CassetteFormatError:
            refused += 1
    assert tried > 3000
    assert refused > 0.9 * tried  # the others changed a space, or the form of a number


def test_error_about_a_file_that_is_no_yaml_has_no_frames_of_the_parser(kit: Kit) -> None:
    """The error that opening a file with merge marks raises is shown alone, without the parser's own errors."""
    kit.path.write_bytes(b"interactions:\n<<<<<<< HEAD\n- a\n=======\n- b\n>>>>>>> other\nversion: 1\n")
    with pytest.raises(
        CassetteFormatError, match=r"cassette.yaml is no cassette: line 2 is a mark of a merge"
    ) as caught:
        with kit.cassette():
            pass
    assert [*causes(caught.value, shown=True)] == [caught.value]


def test_use_cassette_refuses_a_damaged_file(kit: Kit) -> None:
    """Opening a file with one changed letter raises an error that names the file and the interaction."""
    save(kit.path, _sample())
    whole = kit.path.read_bytes()
    kit.path.write_bytes(whole.replace(b"Hi", b"Ho"))
    with (
        pytest.raises(
            CassetteFormatError, match=f"{kit.path} is damaged or was edited: interaction 1 .*digest does not fit"
        ),
        kit.cassette(),
    ):
        pass


PROGRAM = """
import sys
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save
path, round = sys.argv[1], 0
while True:
    round += 1
    chunks = [Chunk(1, b"data: %d\\n\\n" % round)] * 300
    save(path, [Interaction("POST", "https://x.test/", b"{}", ResponseStream(tuple(chunks)))] * (1 + round % 7))
    print(round, flush=True)
"""


def test_K7_a_kill_while_saving_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """After a process is killed while it saves, ten times, the file is a complete old or new one."""
    path, dice = tmp_path / "c.yaml", random.Random(1)
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as program:
            assert program.stdout is not None
            saved = [int(program.stdout.readline()) for _ in range(dice.randrange(1, 20))]
            program.kill()
            saved += map(int, program.stdout.read().split())
        interactions = load(path)
        numbers = {chunk.data for each in interactions for chunk in each.response.chunks}
        assert numbers <= {b"data: %d\n\n" % round_ for round_ in (saved[-1], saved[-1] + 1)}
        assert len(numbers) == 1


def test_each_version_of_a_file_is_read(kit: Kit) -> None:
    """After each change of a file, new sessions play its new content, even if its size is the same."""
    for number in range(20):
        answer = ResponseStream((Chunk(0, b"%d" % (number % 10)),))  # the size is the same
        save(kit.path, [Interaction("POST", URL, b"{}", answer)])
        for _ in range(2):
            with use_cassette(kit.path), httpx2.Client() as client:
                assert client.post(URL, json={}).content == b"%d" % (number % 10)


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
def test_sessions_of_one_file_do_not_affect_each_other(kit: Kit) -> None:
    """An interaction that an inner session played stays unplayed in the outer session, and the file does not change."""
    save(kit.path, _sample()[:1])
    with use_cassette(kit.path) as outer:
        with use_cassette(kit.path), httpx2.Client() as client:
            first = client.post(URL, json={"n": 0}).content
        assert outer.unplayed
        with httpx2.Client() as client:
            assert client.post(URL, json={"n": 0}).content == first
    with use_cassette(kit.path, record_mode="new_episodes", unplayed="ignore"):
        pass
    assert load(kit.path) == tuple(_sample()[:1])


@pytest.mark.parametrize("words", [20, 500])
def test_a_recording_is_parsed_and_searched_as_often_however_many_chunks_it_has(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    """A recorded stream is searched for secrets once, and its events are not parsed one by one."""
    events = [
        b'data: {"choices": [{"index": 0, "delta": {"content": "word %d"}}]}\n\n' % number for number in range(words)
    ]
    parse, search = Mock(side_effect=json.loads), Mock(side_effect=Search.in_body)
    monkeypatch.setattr(json, "loads", parse)
    monkeypatch.setattr(Search, "in_body", lambda *args: search(*args))
    network = httpx2.MockTransport(lambda request: httpx2.Response(200, content=iter(events)))
    with use_cassette(kit.path, record_mode="once", also_patch=[httpx2.MockTransport]):
        with httpx2.Client(transport=network) as client, client.stream("POST", URL, content=b'{"n": 1}') as response:
            assert list(response.iter_raw()) == events
    assert parse.call_count == 1  # the request, for the digest
    assert [len(call.args[1]) for call in search.call_args_list] == [8, len(b"".join(events))]
