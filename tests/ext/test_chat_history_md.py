"""`ChatHistoryMD` on real files: crashes, damage, full disks, other writers, and people with editors."""

# ruff: noqa: ASYNC220, ASYNC240, PTH208 - the files of a test are small, and nobody else waits for its loop

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import Field, field_serializer

from miniagents.errors import HistoryError, HistoryFormatError, HistoryWriteError
from miniagents.ext import chat_history_md
from miniagents.ext import chat_history_md as history_files
from miniagents.ext._markdown_records import Record, Scan, frame_open, scan, to_bytes
from miniagents.ext.chat_history_md import ChatHistoryMD, _LockedFile
from miniagents.messages import AssistantMessage, Message, SystemMessage, Usage, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the history of the test is kept."""
    return tmp_path / "chat.md"


@pytest.fixture(autouse=True)
async def _agents() -> AsyncIterator[None]:
    async with MiniAgents():
        yield


class Colour(Enum):
    """For a field."""

    RED = "red"


class Painting(Message):
    """A message with fields of its own."""

    role: str | None = "painter"
    colour: Colour
    size: float = 1.5
    tags: tuple[str, ...] = ()


async def texts(path: Path) -> list[str]:
    """What a new reader finds in the file."""
    return [str(message) for message in await ChatHistoryMD(path).aload_chat_history()]


# --- what is kept


async def test_the_file_is_markdown_for_people(path: Path) -> None:
    """A person sees headings and texts; everything else is in comments."""
    await ChatHistoryMD(path).aappend([UserMessage("Hi, who are you?"), AssistantMessage("A *model*.", model="m")])
    lines = [line for line in path.read_text("utf-8").split("\n") if not line.startswith("<!-- ")]
    assert "\n".join(lines).strip() == "## user\n\nHi, who are you?\n\n## assistant\n\nA *model*."


EVERYTHING = {
    "none": None,
    "true": True,
    "one": 1,
    "float": 1.0,
    "minus_zero": -0.0,
    "infinite": float("-inf"),
    "huge": -(10**5000),
    "decimal": Decimal("1.50"),
    "bytes": b"\x00\xff",
    "uuid": UUID(int=7),
    "datetime": datetime(2026, 3, 29, 2, 30, 0, 5, tzinfo=ZoneInfo("Europe/Prague"), fold=1),
    "utc": datetime(2026, 1, 1, tzinfo=UTC),
    "naive": datetime(2026, 1, 1, 12),
    "date": date(2026, 1, 2),
    "time": time(1, 2, 3, 4),
    "duration": timedelta(days=-1, microseconds=3),
    "path": Path("a/b"),
    "posix": PurePosixPath("/a"),
    "windows": PureWindowsPath(r"C:\a"),
    "set": frozenset({1, "a", (2, b"")}),
    "messages": (UserMessage("inside\ud800"), {"deeper": SystemMessage("-->")}),
    "set_of_messages": frozenset({UserMessage("x"), ("y", 1)}),
    "class_": "Painting",
    "class__": "Painting",
    "$bytes": {"$bytes": "aGk="},
    "dict": {"$": 1, "class_": "Message", "<!-- /miniagents -->": "--> -- <b>", "\ud83d\ude00": "\ud83d\ude00"},
    "id": "x",
    "bytes_": 3,
    "escaped": True,
}


@pytest.mark.parametrize("name", EVERYTHING)
async def test_any_value_a_message_can_hold_comes_back(path: Path, name: str) -> None:
    """Text, role, class and every field are the same afterwards, whatever type they are of."""
    message = Message("text", role="a role", **{name: EVERYTHING[name]})
    await ChatHistoryMD(path).aappend(message)
    [loaded] = await ChatHistoryMD(path).aload_chat_history()
    assert loaded == message
    assert loaded.hash_key == message.hash_key


@pytest.mark.parametrize(
    "message",
    [
        Painting(content="sunset", colour=Colour.RED),
        Painting(colour=Colour.RED, size=2, tags=("a", "b")),
        AssistantMessage(
            "hi", usage=Usage(input_tokens=3), interrupted=True, tool_calls=[{"name": "f", "arguments": "{"}]
        ),
        AssistantMessage("hi", role=None),
        Message(["part", {"type": "text", "text": "other"}], role="user"),
        Message(),
        Message(""),
        Message("x", interrupted=False),
    ],
    ids=repr,
)
async def test_messages_of_any_class_come_back(path: Path, message: Message) -> None:
    """Fields with annotations and defaults, parts instead of a text, and no text at all are kept."""
    await ChatHistoryMD(path).aappend(message)
    assert await ChatHistoryMD(path).aload_chat_history() == (message,)


async def test_a_default_that_is_made_anew_is_stored(path: Path) -> None:
    """What a class would fill in differently the next time is not left to it."""
    counter: Iterator[int] = iter(range(10))

    class Numbered(Message):
        number: int = Field(default_factory=lambda: next(counter))

    message = Numbered(content="x")
    await ChatHistoryMD(path).aappend(message)
    assert await ChatHistoryMD(path).aload_chat_history() == (message,)


async def test_a_chain_of_messages_too_deep_to_dump_keeps_its_text(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Metadata that cannot be kept is left out with a warning; text, role, class and the other fields are there."""
    message = UserMessage("deepest")
    for number in range(1000):
        message = UserMessage(f"level {number}", before=message, number=number)
    await ChatHistoryMD(path).aappend(message)
    [loaded] = await ChatHistoryMD(path).aload_chat_history()
    assert (type(loaded), loaded.content, loaded.role, loaded.number) == (UserMessage, "level 999", "user", 999)
    assert "'before'" in caplog.text


async def test_a_field_that_cannot_be_dumped_costs_only_itself(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A serializer of the application that fails does not cost the message."""

    class Secretive(Message):
        secret: str = ""
        number: int = 0

        @field_serializer("secret")
        def refuse(self, value: str) -> str:
            raise ValueError("not for anybody")

    await ChatHistoryMD(path).aappend(Secretive(content="text", secret="x", number=7))
    assert await ChatHistoryMD(path).aload_chat_history() == (Secretive(content="text", number=7),)
    assert "'secret'" in caplog.text


async def test_a_class_that_nobody_knows_any_more_becomes_a_plain_message(path: Path) -> None:
    """A file outlives the code that wrote it: text, role and fields stay, the class falls back."""
    path.write_bytes(to_bytes(Record("x", "painter", "old", {"class_": "GoneForEver", "n": 1})))
    assert await ChatHistoryMD(path).aload_chat_history() == (Message("old", role="painter", n=1),)


@pytest.mark.parametrize(
    "meta", [{"class_": "Painting", "size": "big"}, {"when": {"$date": "someday"}}, {"f": {"$int": 3}}]
)
async def test_metadata_that_makes_no_sense_costs_only_itself(
    path: Path, meta: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A person, or another version, may leave fields nobody can take; text, role and mark are kept, with a warning."""
    path.write_bytes(to_bytes(Record("x", "user", "text", meta, interrupted=True)))
    assert await ChatHistoryMD(path).aload_chat_history() == (Message("text", role="user", interrupted=True),)
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    "value", ['{"$dict":[["$a",1]]}', '{"$datetime":["2026-01-02T00:00:00",0,null]}', '[{"$time":["01:00:00",0,null]}]']
)
async def test_H18_a_file_with_values_of_an_earlier_version_is_refused(path: Path, value: str) -> None:
    """They would come back as something else; a text that looks like one is only text."""
    text = f'<!-- {{"meta":{{"x":{value}}}}} -->'
    await ChatHistoryMD(path).aappend([UserMessage(text), UserMessage("y", x=None, z={"a": text})])
    assert await texts(path) == [text, "y"]
    path.write_text(path.read_text("utf-8").replace('"x":null', f'"x":{value}'), "utf-8")
    with pytest.raises(HistoryFormatError, match=r"line 7: .*earlier version"):
        await ChatHistoryMD(path).aload_chat_history()


# --- streaming and crashes


async def test_H1_the_text_so_far_is_on_the_disk_while_a_message_streams(path: Path) -> None:
    """Each piece is in the journal before the next one comes, and the journal goes when the record is written."""
    seen: list[str] = []

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in ("caf\u00e9 ", "\x1b\\", "\ud83d", "\ude00"):
            yield token
            for _i in range(5):
                await asyncio.sleep(0)
            seen.extend([str(message) for message in _abandoned_as_if_killed(path)])

    history = ChatHistoryMD(path)
    await history.aappend(UserMessage("question"))
    await history.aappend(AssistantMessage.promise(message_token_streamer=streamer, model="m"))
    assert seen == ["caf\u00e9 ", "caf\u00e9 \x1b\\", "caf\u00e9 \x1b\\\ud83d", "caf\u00e9 \x1b\\\ud83d\ude00"]
    assert os.listdir(path.parent) == ["chat.md"]


def _abandoned_as_if_killed(path: Path) -> list[Message]:
    """What a process would find that comes after a kill at this moment: the same files, and no locks on them."""
    copy = path.with_name("copy.md")
    copy.write_bytes(path.read_bytes())
    journals = path.with_name("copy.md.partial")
    journals.mkdir()
    for journal in path.with_name("chat.md.partial").iterdir():
        (journals / journal.name).write_bytes(journal.read_bytes())
    loading = ChatHistoryMD(copy).aload_chat_history()
    try:
        loading.send(None)
    except StopIteration as end:
        messages: tuple[Message, ...] = end.value
    for file in (*journals.iterdir(), copy):
        file.unlink()
    journals.rmdir()
    assert all(message.interrupted and message.role == "assistant" for message in messages[1:])
    return list(messages[1:])


STREAMING_FOREVER = """
import asyncio, sys
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.messages import AssistantMessage, UserMessage
from miniagents.miniagents import MiniAgents

async def streamer(metadata):
    for n in range(10**9):
        yield f"token{n} "
        await asyncio.sleep(0.001)
        if n == 20:
            print("streaming", flush=True)

async def amain():
    history = ChatHistoryMD(sys.argv[1])
    await history.aappend(UserMessage("question"))
    await history.aappend(AssistantMessage.promise(message_token_streamer=streamer))

MiniAgents().run(amain())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
async def test_H1_a_killed_process_loses_nothing_but_the_rest_of_its_message(path: Path) -> None:
    """After SIGKILL in the middle of a stream the earlier message is whole, the partial one marked, the next whole."""
    process = subprocess.Popen([sys.executable, "-c", STREAMING_FOREVER, str(path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        assert await texts(path) == ["question"]  # the writer lives: its message is still to come
        process.send_signal(signal.SIGKILL)
    loaded = await ChatHistoryMD(path).aload_chat_history()
    assert loaded == await ChatHistoryMD(path).aload_chat_history()
    await ChatHistoryMD(path).aappend(UserMessage("next"))
    question, partial, following = await ChatHistoryMD(path).aload_chat_history()
    assert (question, partial) == loaded
    assert (partial.role, partial.interrupted) == ("assistant", True)
    assert str(partial).startswith("token0 token1 token2 ")
    assert following == UserMessage("next")
    assert os.listdir(path.parent) == ["chat.md"]


async def test_H4_a_torn_tail_is_closed_and_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file cut anywhere is continued: what was torn is marked, a warning says so, and new messages are whole."""
    await ChatHistoryMD(path).aappend([UserMessage("one"), AssistantMessage("two, or what came of it")])
    whole = path.read_bytes()
    for cut in range(len(whole) - 1, whole.index(b"two") - 40, -3):
        path.write_bytes(whole[:cut])
        before = await texts(path)
        caplog.clear()
        await ChatHistoryMD(path).aappend(UserMessage("three"))
        messages = await ChatHistoryMD(path).aload_chat_history()
        assert [str(message) for message in messages] == [*before, "three"]
        assert messages[0] == UserMessage("one")
        assert messages[-1] == UserMessage("three")
        if cut < whole.rindex(b"it\n"):
            assert "not written to its end" in caplog.text
            assert all(message.interrupted for message in messages[1:-1])


async def test_H11_a_large_last_message_is_found_from_the_end(path: Path) -> None:
    """The end of a file is checked without reading all of it, however long its last message is."""
    await ChatHistoryMD(path).aappend(["a" * 300_000, "b" * 200_000])
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 100)
    await ChatHistoryMD(path).aappend("c")
    assert [len(text) for text in await texts(path)] == [300_000, 200_000 - 100 + len("\n<!-- /miniagents -->\n\n"), 1]


async def test_H14_a_record_that_was_written_before_its_journal_went_is_there_once(path: Path) -> None:
    """Killed between writing a record and removing its journal: the record counts."""
    path.write_bytes(to_bytes(Record("1-a", "user", "whole")))
    journals = path.with_name("chat.md.partial")
    journals.mkdir()
    (journals / "1-a.md").write_bytes(frame_open(Record("1-a", "user", "")) + b"who")
    assert await texts(path) == ["whole"]
    await ChatHistoryMD(path).aappend("next")
    assert await texts(path) == ["whole", "next"]
    assert not journals.exists()


async def test_a_record_written_again_replaces_its_torn_beginning(path: Path) -> None:
    """A write that failed half-way and could not be undone is repeated under the same id, and counts once."""
    record = to_bytes(Record("1-a", "user", "whole"))
    path.write_bytes(record[:-30] + b"\n<!-- /miniagents interrupted -->\n\n" + record)
    assert await texts(path) == ["whole"]


async def test_journals_of_several_dead_processes_come_back_in_their_order(path: Path) -> None:
    """What was left behind is taken over, the oldest first; a file that is no journal is left alone."""
    journals = path.with_name("chat.md.partial")
    journals.mkdir()
    for name, text in (("3-c", "third"), ("1-a", "first"), ("2-b", "second")):
        (journals / f"{name}.md").write_bytes(frame_open(Record(name, "user", "")) + text.encode())
    (journals / "notes.txt").write_text("mine")
    (journals / "directory.md").mkdir()
    assert await texts(path) == ["first", "second", "third"]
    await ChatHistoryMD(path).aappend("next")
    assert await texts(path) == ["first", "second", "third", "next"]
    assert sorted(os.listdir(journals)) == ["directory.md", "notes.txt"]


async def test_an_empty_journal_is_given_time(path: Path) -> None:
    """A journal that is just being made is not taken for an abandoned one; an old one is removed."""
    journals = path.with_name("chat.md.partial")
    journals.mkdir()
    journal = journals / "1-a.md"
    journal.touch()
    await ChatHistoryMD(path).aappend("one")
    assert journal.exists()
    os.utime(journal, (0, 0))
    await ChatHistoryMD(path).aappend("two")
    assert not journal.exists()


async def test_without_a_journal_a_message_is_stored_all_the_same(path: Path) -> None:
    """A journal that cannot be made is no reason to lose a message that comes whole."""
    path.with_name("chat.md.partial").write_text("in the way")

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in "abc":
            yield token
            await asyncio.sleep(0)

    await ChatHistoryMD(path).aappend(Message.promise(message_token_streamer=streamer))
    assert await texts(path) == ["abc"]


# --- disks


async def test_H7_a_full_disk_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is reported, stays in memory, and is written whole with the next message."""
    history = ChatHistoryMD(path)
    await history.aappend("before")
    room = 10

    def write_some(descriptor: int, data: bytes) -> None:
        if len(data) > room:
            os.write(descriptor, data[:room])
            raise OSError(errno.ENOSPC, "No space left on device")
        os.write(descriptor, data)

    monkeypatch.setattr(history_files, "_write_all", write_some)
    for text in ("one", "two"):
        with pytest.raises(HistoryWriteError, match="No space left"):
            await history.aappend(text)
    assert [str(message) for message in await history.aload_chat_history()] == ["before", "one", "two"]
    assert await texts(path) == ["before"]
    room = 10**6
    await history.aappend("three")
    assert await texts(path) == ["before", "one", "two", "three"]
    assert ChatHistoryMD(path).problems == ()


async def test_fsync_is_called_for_those_who_want_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `fsync=True` each record is forced to the disk; without, none."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    await ChatHistoryMD(path).aappend(["a", "b"])
    assert not synced
    await ChatHistoryMD(path, fsync=True).aappend(["a", "b"])
    assert len(synced) == 2


async def test_folders_are_made(tmp_path: Path) -> None:
    """A history may be put where there is no folder yet; loading makes nothing."""
    path = tmp_path / "a" / "b" / "chat.md"
    assert await texts(path) == []
    assert not os.listdir(tmp_path)
    await ChatHistoryMD(path).aappend("x")
    assert await texts(path) == ["x"]


async def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A directory, a pipe or a path through a file is an error at once, and nothing hangs."""
    (tmp_path / "file").write_text("x")
    paths = [tmp_path, tmp_path / "file" / "chat.md"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        paths.append(tmp_path / "pipe")
    for path in paths:
        with pytest.raises(HistoryError):
            await ChatHistoryMD(path).aload_chat_history()
        with pytest.raises(HistoryError):
            await ChatHistoryMD(path).aappend("x")


@pytest.mark.parametrize("content", [b"# My notes\n\nNot a chat.\n", b"\x00\x01\x02", "příliš".encode("utf-16")])
async def test_a_file_that_is_not_a_history_is_not_touched(path: Path, content: bytes) -> None:
    """Somebody else's file is neither read as a chat nor appended to."""
    path.write_bytes(content)
    with pytest.raises(HistoryFormatError, match=r"chat\.md, line 1"):
        await ChatHistoryMD(path).aload_chat_history()
    with pytest.raises(HistoryFormatError):
        await ChatHistoryMD(path).aappend("x")
    assert path.read_bytes() == content


# --- other writers


async def test_H3_two_objects_in_many_tasks_do_not_interleave(path: Path) -> None:
    """Two histories on one file, used by many tasks at once, give a file in which every record is whole."""
    histories = [ChatHistoryMD(path), ChatHistoryMD(path)]
    await asyncio.gather(*(histories[n % 2].aappend(f"{n} " + "x" * (n * 100)) for n in range(40)))
    reader = ChatHistoryMD(path)
    assert {str(m) for m in await reader.aload_chat_history()} == {f"{n} " + "x" * (n * 100) for n in range(40)}
    assert reader.problems == ()


APPENDING = """
import sys
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.miniagents import MiniAgents

async def amain():
    history = ChatHistoryMD(sys.argv[1])
    for n in range(60):
        await history.aappend(f"{sys.argv[2]}{n} " + "x" * 20_000)

MiniAgents().run(amain())
"""


async def test_H3_two_processes_do_not_interleave(path: Path) -> None:
    """Two processes that append to one file at once leave every record whole and in their order."""
    processes = [subprocess.Popen([sys.executable, "-c", APPENDING, str(path), name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    reader = ChatHistoryMD(path)
    found = [str(message).split()[0] for message in await reader.aload_chat_history()]
    assert reader.problems == ()
    for name in "ab":
        assert [each for each in found if each.startswith(name)] == [f"{name}{n}" for n in range(60)]


async def test_a_locked_file_is_waited_for(path: Path) -> None:
    """While another writer holds the file, an append waits without blocking the loop, and then goes on."""
    history = ChatHistoryMD(path)
    await history.aappend("one")
    other = _LockedFile.try_open(path, create=False)
    assert other is not None
    with other:
        appending = asyncio.ensure_future(history.aappend("two"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not appending.done()
        assert b"two" not in path.read_bytes()
    await appending
    assert await texts(path) == ["one", "two"]


async def test_a_lock_that_is_never_given_back_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process with the lock does not hang others for ever; the message waits in memory."""
    monkeypatch.setattr(chat_history_md, "LOCK_TIMEOUT", 0.0)
    history = ChatHistoryMD(path)
    other = _LockedFile.try_open(path, create=True)
    assert other is not None
    with other:
        with pytest.raises(HistoryWriteError, match="lock"):
            await history.aappend("kept")
        with pytest.raises(HistoryError, match="lock"):
            await history.aload_chat_history()
    await history.aappend("next")
    assert await texts(path) == ["kept", "next"]


async def test_a_file_that_goes_away_before_it_is_locked_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotating the file in the very moment of an append sends the record to the new file."""
    lock, moved = history_files._try_lock, path.with_name("moved.md")

    def move_and_lock(descriptor: int) -> bool:
        if not moved.exists():
            path.rename(moved)
        return lock(descriptor)

    monkeypatch.setattr(history_files, "_try_lock", move_and_lock)
    await ChatHistoryMD(path).aappend("one")
    assert await texts(path) == ["one"]
    assert moved.read_bytes() == b""


async def test_a_file_system_without_locks_is_used_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be locked, whole records are still appended; other errors of locking are reported."""
    code = errno.ENOLCK

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    await ChatHistoryMD(path).aappend("one")
    assert await texts(path) == ["one"]
    code = errno.EIO
    with pytest.raises(HistoryWriteError):
        await ChatHistoryMD(path).aappend("two")


async def test_H12_a_file_that_is_moved_away_is_begun_anew(path: Path) -> None:
    """A file rotated under a running program keeps the old messages; the new ones go to a new file."""
    history = ChatHistoryMD(path)
    await history.aappend("old")
    path.rename(path.with_name("old.md"))
    await history.aappend("new")
    assert await texts(path) == ["new"]
    assert await texts(path.with_name("old.md")) == ["old"]


# --- people with editors


async def test_H11_only_the_new_end_of_a_file_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a chat again parses what was appended since; what is loaded is the same as for a new reader."""
    scanned: list[int] = []

    def counting_scan(data: bytes, *, first_line: int) -> Scan:
        scanned.append(len(data))
        return scan(data, first_line=first_line)

    monkeypatch.setattr(chat_history_md, "scan", counting_scan)
    history = ChatHistoryMD(path)
    size = 0
    for number in range(4):
        await ChatHistoryMD(path).aappend(f"message {number}")
        assert len(await history.aload_chat_history()) == number + 1
        assert scanned[-1] == path.stat().st_size - size
        size = path.stat().st_size
    await history.aload_chat_history()
    assert scanned[-1] == 0


async def test_a_change_anywhere_is_noticed_by_a_reader_that_knows_the_file(path: Path) -> None:
    """An edit in the middle, one that keeps the size, a torn end and a shorter file are all read as they are now."""
    history = ChatHistoryMD(path)
    await history.aappend(["one", "two"])
    whole = path.read_bytes()
    for content, expected, lines in (
        (whole, ["one", "two"], []),
        (whole.replace(b"one", b"ONE"), ["ONE", "two"], []),
        (whole.replace(b"one", b"longer"), ["longer", "two"], [1]),
        (whole[: whole.index(b"two") + 2], ["one", "tw"], [7]),
        (whole + b"typed\n", ["one", "two"], [13]),
        (whole, ["one", "two"], []),
        (b"", [], []),
    ):
        path.write_bytes(content)
        assert [str(message) for message in await history.aload_chat_history()] == expected
        assert [problem.line for problem in history.problems] == lines


async def test_H10_an_edited_file_is_read_with_a_warning_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A text corrected by hand is taken as it is now; the warning has its line, and does not come again."""
    await ChatHistoryMD(path).aappend([UserMessage("helo"), AssistantMessage("hi")])
    path.write_bytes(path.read_bytes().replace(b"helo", b"hello"))
    history = ChatHistoryMD(path)
    for _ in range(2):
        assert await history.aload_chat_history() == (UserMessage("hello"), AssistantMessage("hi"))
        assert [problem.line for problem in history.problems] == [1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{path}, line 1: a message that was edited" in caplog.text


async def test_an_editor_that_cuts_the_last_newlines_does_no_harm(path: Path) -> None:
    """A message appended to a file without a newline at its end begins on a line of its own."""
    await ChatHistoryMD(path).aappend("one")
    path.write_bytes(path.read_bytes().rstrip())
    await ChatHistoryMD(path).aappend("two")
    reader = ChatHistoryMD(path)
    assert [str(message) for message in await reader.aload_chat_history()] == ["one", "two"]
    assert reader.problems == ()
