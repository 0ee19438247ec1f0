"""Recorded conversations over stdio and WebSocket, without a client: file, order of frames, misses, time, secrets."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import httpx2
import pytest
import vcr
from hypothesis import example, given
from hypothesis import strategies as st

from miniagents_testing import run_in_virtual_time, use_cassette
from miniagents_testing.cassette import Chunk, Interaction, JSONPath, Matching, Redaction, ResponseStream, load, save
from miniagents_testing.cassette._conversation import (
    Frame,
    PlayedConversation,
    as_events,
    frames_in,
    from_events,
    line_of,
)
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._recorded import Exceptions
from miniagents_testing.cassette._session import LiveRequest
from miniagents_testing.cli import main
from miniagents_testing.errors import CassetteFormatError, CassetteMissError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from miniagents_testing import Session

URI = "stdio:python server.py"
SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"

frames = st.builds(Frame, st.booleans(), st.text(st.characters(exclude_categories=["Cs"])) | st.binary())
many_frames = st.lists(frames, max_size=6)


def conversation(lines: Iterable[tuple[float, str]], end: str = "closed", started_ms: float = 0) -> Interaction:
    """Return a conversation over stdio; each line stands after its wait in seconds."""
    chunks = tuple(Chunk.after(wait, f"{line}\n".encode()) for wait, line in lines)
    answer = ResponseStream(chunks, reason="OK", end=end)
    return Interaction("STDIO", URI, b"", answer, started_ms=started_ms)


async def begin(session: Session) -> PlayedConversation:
    """Return the next conversation of the cassette, begun."""
    clock = asyncio.get_running_loop().time
    playback = session.answer(LiveRequest("STDIO", URI, b"", []), Exceptions(), clock, clock())
    assert isinstance(playback, Playback)
    await playback.abegin()
    return PlayedConversation(session, playback)


@given(frame=frames)
@example(frame=Frame(True, "one\r\ntwo\rthree\n"))
@example(frame=Frame(False, "b looks like bytes"))
@example(frame=Frame(False, '"looks like JSON"'))
def test_frame_is_one_line_and_comes_back(frame: Frame) -> None:
    """Each frame is one line of text, and is read from it unchanged, whatever it holds."""
    line = line_of(frame)
    assert line.count(b"\n") == 1
    assert list(frames_in(line)) == [frame]


@given(said=many_frames)
def test_frames_come_back_from_a_file(said: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file keeps each frame with its chunk, also texts with line breaks and bytes that are no text."""
    path = tmp_path_factory.mktemp("frames") / "c.yaml"
    chunks = tuple(Chunk(7, line_of(frame)) for frame in said)
    save(path, [Interaction("STDIO", URI, b"", ResponseStream(chunks, reason="OK", end="closed"))])
    [loaded] = load(path)
    assert loaded.response.chunks == chunks
    assert loaded.response.complete


@given(said=many_frames)
def test_conversation_comes_back_from_its_events(said: list[Frame]) -> None:
    """`from_events` turns the events of `as_events` back into a conversation with the same method and chunks."""
    chunks = tuple(Chunk(7, line_of(frame)) for frame in said)
    before = Interaction("WEBSOCKET", "wss://x.test/", b"", ResponseStream(chunks, status=101, end="closed 1000"))
    after = from_events(as_events(before), before)
    assert (after.method, after.response.chunks) == ("WEBSOCKET", chunks)


@pytest.mark.parametrize("line", [b"", b"no frame", b">", b"<b ???", b'<"unfinished', b"<x", b"<\xff"])
def test_line_that_is_no_frame_is_refused(line: bytes) -> None:
    """For a line that is no frame, `frames_in` raises a `CassetteFormatError` that shows the line."""
    with pytest.raises(CassetteFormatError, match="is no frame of a conversation"):
        list(frames_in(line))


async def test_received_frame_waits_for_the_frames_sent_before_it(tmp_path: Path) -> None:
    """A played frame comes after the client has sent all recorded frames before it; two in a row come at once."""
    path = tmp_path / "c.yaml"
    lines = ["< hello", "> a", "> b", "< ab", "< done", "> c", "< bye"]
    save(path, [conversation([(0.01, line) for line in lines], end="eof")])
    seen: list[str | bytes] = []
    with use_cassette(path) as session:
        talk = await begin(session)

        async def listen() -> None:
            async for data in talk.receive():
                seen.append(data)

        listener = asyncio.create_task(listen())
        for sent, received in (("a", ["hello"]), ("b", ["hello"]), ("c", ["hello", "ab", "done"])):
            await asyncio.sleep(0.01)
            assert seen == received
            assert talk.send(sent)
        await listener
    assert seen == ["hello", "ab", "done", "bye"]


@pytest.mark.parametrize("end", ["closed", "closed 1000", "cancelled", "open"])
async def test_conversation_that_its_client_left_waits_for_the_client(end: str, tmp_path: Path) -> None:
    """If the client left first in the recording, nothing comes after the last frame until the client leaves again."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, "< hello")], end=end)])
    with use_cassette(path) as session:
        talk = await begin(session)
        received = talk.receive()
        assert await anext(received) == "hello"
        rest = asyncio.ensure_future(anext(received, "the end"))
        await asyncio.sleep(0.01)
        assert not rest.done()
        talk.close()
        assert await rest == "the end"


async def test_frame_that_differs_is_a_miss(tmp_path: Path) -> None:
    """A sent frame that differs from the recorded one ends the conversation; the miss has the differences."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, '> {"id":1,"params":{"city":"Rome"}}'), (0, "< 21.5")])])
    with pytest.raises(CassetteMissError) as miss, use_cassette(path) as session:
        talk = await begin(session)
        assert not talk.send('{"params":{"city":"Paris"},"id":1}')
        assert [data async for data in talk.receive()] == []
        assert talk.is_over
        assert not talk.send('{"id":1,"params":{"city":"Rome"}}')
    text = str(miss.value)
    assert f"interaction 1 (STDIO {URI}): frame 1 that the client sends is not the recorded one" in text
    assert "params.city: recorded 'Rome', now 'Paris'" in text
    assert session.misses == (miss.value,)


async def test_frame_after_the_last_recorded_one_is_a_miss(tmp_path: Path) -> None:
    """A client that sends more than it did in the recording gets a miss, which says so."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, "> a")])])
    with pytest.raises(CassetteMissError, match=r"1 frame was recorded; this one came after them: 'b'"):
        with use_cassette(path) as session:
            talk = await begin(session)
            assert talk.send("a")
            assert not talk.send("b")


async def test_text_and_bytes_are_different_frames(tmp_path: Path) -> None:
    """A text is not the same frame as its bytes, and the miss says which was recorded."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, "> a")])])
    with pytest.raises(CassetteMissError, match="recorded str, now bytes"), use_cassette(path) as session:
        (await begin(session)).send(b"a")


@pytest.mark.parametrize(
    ("recorded", "now"),
    [
        ('{"params":{"clientInfo":{"version":"1"}},"id":0}', '{"id":0, "params":{"clientInfo":{"version":"2"}}}'),
        ('{"params":{"_meta":{"progressToken":"1"}}}', '{"params":{}}'),
        ('{"id":1,"result":{"_meta":{"v":"1"}}}', '{"id":1,"result":{}}'),
        ('{"type":"response.create","event_id":"e1"}', '{"type":"response.create","event_id":"e2"}'),
        ('{"audio":"x","chunk":{"nonce":1}}', '{"audio":"x","chunk":{"nonce":2}}'),
    ],
)
async def test_fields_that_change_with_each_run_do_not_count(recorded: str, now: str, tmp_path: Path) -> None:
    """Fields that name the client or an event are not compared, and neither are those that `Matching` ignores."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, f"> {recorded}")])])
    with use_cassette(path, match=Matching(ignore=["chunk.nonce"])) as session:
        assert (await begin(session)).send(now)


async def test_conversations_of_one_address_are_played_in_their_order(tmp_path: Path) -> None:
    """The n-th conversation of a command is the n-th recorded; one more is a miss."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, f"< {n}")], end="eof", started_ms=n) for n in (1, 2)])
    with pytest.raises(CassetteMissError, match="is the same request, and was played already"):
        with use_cassette(path) as session:
            for n in ("1", "2"):
                assert [data async for data in (await begin(session)).receive()] == [n]
            await begin(session)


def test_frames_come_at_their_recorded_times_in_virtual_time(tmp_path: Path) -> None:
    """At pace 1 frames come when they came in the recording, and chunking does not cut them."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(5, "< a"), (1, "> q"), (60, "< b"), (0.5, '<"c\\nd"')], end="eof")])

    async def listen() -> list[tuple[float, str | bytes]]:
        loop = asyncio.get_running_loop()
        began, seen = loop.time(), []
        with use_cassette(path, pace=1, chunking="event") as session:
            talk = await begin(session)
            async for data in talk.receive():
                seen.append((round(loop.time() - began, 3), data))
                if data == "a":
                    await asyncio.sleep(1)
                    talk.send("q")
        return seen

    assert run_in_virtual_time(listen()) == [(5, "a"), (66, "b"), (66.5, "c\nd")]


async def test_parallel_conversations_keep_their_order(tmp_path: Path) -> None:
    """At pace 0, frames of two conversations come in the recorded order, also those that wait for a sent frame."""
    path = tmp_path / "c.yaml"
    first = conversation([(0.01, "> q"), (0.03, "< 3"), (0.02, "< 5")], end="eof")
    second = conversation([(0.02, "< 2"), (0.02, "< 4"), (0.02, "< 6")], end="eof", started_ms=0.5)
    save(path, [first, second])
    seen: list[str | bytes] = []
    with use_cassette(path) as session:
        talks = [await begin(session), await begin(session)]

        async def listen(talk: PlayedConversation) -> None:
            async for data in talk.receive():
                seen.append(data)

        listeners = [asyncio.create_task(listen(talk)) for talk in talks]
        await asyncio.sleep(0)
        talks[0].send("q")
        await asyncio.gather(*listeners)
    assert seen == ["2", "3", "4", "5", "6"]


def test_secrets_in_frames_are_redacted(tmp_path: Path) -> None:
    """Keys are replaced in texts with and without line breaks, and across deltas; so is what a user's path names."""
    said = [
        Frame(True, f'{{"key":"{SECRET}"}}'),
        Frame(False, f"plain {SECRET}\r\n, and more"),
        Frame(False, f'{{\n  "key": "{SECRET}"\n}}'),
        *(
            Frame(False, f'{{"type":"response.output_text.delta","delta":"{SECRET[a:b]}"}}')
            for a, b in pairwise([0, 9, 20, len(SECRET)])
        ),
        Frame(True, '{"user":{"email":"jane@x.test"}}'),
        Frame(False, b"\xff\x00"),
    ]
    chunks = tuple(Chunk(1, line_of(frame)) for frame in said)
    before = Interaction("STDIO", URI, b"", ResponseStream(chunks, reason="OK", end="closed"))
    redaction = Redaction([SECRET], rules=[JSONPath("user.email")])
    assert redaction.leaks(before)
    after = redaction.scrub(before)
    assert redaction.leaks(after) == []
    assert [frame.data for chunk in after.response.chunks for frame in frames_in(chunk.data)] == [
        '{"key":"[redacted]"}',
        "plain [redacted]\r\n, and more",
        '{\n  "key": "[redacted]"\n}',
        '{"type":"response.output_text.delta","delta":"[redacted]"}',
        '{"type":"response.output_text.delta","delta":""}',
        '{"type":"response.output_text.delta","delta":""}',
        '{"user":{"email":"[redacted]"}}',
        b"\xff\x00",
    ]


async def test_bytes_with_a_secret_are_replaced_as_a_whole(tmp_path: Path) -> None:
    """A binary frame with a known value becomes `[redacted]`; a client may send the same bytes, or others, there."""
    path = tmp_path / "c.yaml"
    data = b"\xff" + SECRET.encode()
    with use_cassette(path, record_mode="once", redact=Redaction([SECRET])) as session:
        slot = session.answer(LiveRequest("STDIO", URI, b"", []), Exceptions(), lambda: 0.0, 0.0)
        assert slot is not None
        assert not isinstance(slot, Playback)
        slot.headers_arrived(200, "OK", [])
        for frame in (Frame(True, data), Frame(True, b"\xff\x00"), Frame(False, data)):
            slot.chunk_arrived(line_of(frame))
        slot.ended("closed")
    redacted = Frame(True, b"[redacted]")
    (recorded,) = load(path)
    assert list(frames_in(recorded.response.body)) == [redacted, Frame(True, b"\xff\x00"), Frame(False, b"[redacted]")]
    for known, sent in (([SECRET], data), ([], data), ([], b"other")):
        with use_cassette(path, redact=Redaction(known)) as session:
            said = await begin(session)
            assert said.send(sent)
            assert said.send(b"\xff\x00")


async def test_a_secret_field_of_several_frames_is_replaced_in_each(tmp_path: Path) -> None:
    """A field with a secret name is replaced in each recorded frame, and in each sent frame before it is compared."""
    path = tmp_path / "c.yaml"
    texts = [f'{{"method":"call","params":{{"password":"{password}"}}}}' for password in ("one", "two", "three")]
    chunks = tuple(Chunk(1, line_of(Frame(True, text))) for text in texts)
    before = Interaction("STDIO", URI, b"", ResponseStream(chunks, reason="OK", end="closed"))
    clean, replaced, leaks = Redaction({}).redact(before)
    assert clean.response.body.count(b'"password":"[redacted]"') == 3
    assert ({(each.path, each.why) for each in replaced}, leaks) == (
        {("response body params.password", "password")},
        [],
    )
    save(path, [clean])
    with use_cassette(path) as session:
        said = await begin(session)
        assert all(map(said.send, texts))


@pytest.mark.parametrize("known", [[], ["tangerine-42x"]])
async def test_a_placeholder_in_a_recorded_frame_stands_for_any_text(known: list[str], tmp_path: Path) -> None:
    """A recorded frame with `[redacted]` matches frames that differ only there, and no others."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, '> {"text":"say [redacted] now"}')])])
    with use_cassette(path, redact=Redaction(known)) as session:
        assert (await begin(session)).send('{"text":"say tangerine-42x now"}')
    with pytest.raises(CassetteMissError), use_cassette(path, redact=Redaction(known)) as session:
        assert not (await begin(session)).send('{"text":"say tangerine-42x later"}')


async def test_secret_in_a_live_frame_is_redacted_before_it_is_compared(tmp_path: Path) -> None:
    """A WebSocket frame with a key matches the recorded frame, in which the key was redacted."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, '> {"key":"[redacted]"}')])])
    with use_cassette(path) as session:
        assert (await begin(session)).send(f'{{"key":"{SECRET}"}}')


@pytest.mark.parametrize("password", ["a-1", "[redacted]"])
async def test_a_recorded_frame_with_texts_below_secret_fields_is_found(password: str, tmp_path: Path) -> None:
    """A frame of an older file, in which texts below secret fields were not replaced, matches the same sent frame."""
    path = tmp_path / "c.yaml"
    said = f'{{"password":"{password}","passwords":["b-2"]}}'
    save(path, [conversation([(0, f"> {said}")])])
    with use_cassette(path) as session:
        assert (await begin(session)).send(said.replace("[redacted]", "a-1"))
    with pytest.raises(CassetteMissError), use_cassette(path) as session:
        assert not (await begin(session)).send(said.replace("b-2", "c-3"))


def test_plain_vcrpy_plays_the_rest_of_a_file_with_conversations(tmp_path: Path) -> None:
    """Plain vcrpy loads the file, and plays its HTTP; a conversation is a request that no HTTP client makes."""
    path, url = tmp_path / "c.yaml", "https://api.test/v1"
    answer = ResponseStream((Chunk(0, b"hello"),), reason="OK")
    save(path, [conversation([(0, "> a"), (0, '<"b\\nc"')]), Interaction("GET", url, b"", answer)])
    with vcr.use_cassette(str(path), record_mode="none") as cassette:
        assert [request.method for request in cassette.requests] == ["STDIO", "GET"]
        assert httpx2.get(url).text == "hello"


def test_show_prints_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command `show` lists a conversation; with `--number` or `--plain`, it prints each frame on a line."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0, '> {"type":"response.create"}'), (0.5, '< {"type":"response.done"}')], end="eof")])
    for options in ([], ["--number", "1"], ["--plain"]):
        assert main(["show", *options, str(path)]) == 0
        printed = capsys.readouterr().out
        assert f"STDIO {URI}" in printed
        assert not options or '> {"type":"response.create"}' in printed
        assert not options or '< {"type":"response.done"}' in printed
        assert "--number" not in options or '500.00    500.00      27  < {"type":"response.done"}' in printed
    assert main(["verify", str(path)]) == 0


def test_timeline_has_each_frame(tmp_path: Path) -> None:
    """The timeline of a session that plays a WebSocket conversation has each frame with its time, sent or received."""
    path = tmp_path / "c.yaml"
    save(path, [conversation([(0.5, "> a"), (1, "< b")])])
    with use_cassette(path, unplayed="ignore") as session:
        moments = [(moment.ms, moment.data) for moment in session.timeline() if moment.what == "chunk"]
    assert moments == [(500, b"> a\n"), (1500, b"< b\n")]
