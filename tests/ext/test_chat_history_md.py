"""`ChatHistoryMD` with real files: crashes, damage, full disks, other writers, and edits by hand."""

# ruff: noqa: ASYNC220, ASYNC240, PTH208 - the files of a test are small, and no other task needs its loop

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import Field, field_serializer

from miniagents.errors import HistoryError, HistoryFormatError, HistoryWriteError
from miniagents.ext import chat_history_md
from miniagents.ext import chat_history_md as history_files
from miniagents.ext._markdown_records import Scan, scan, to_bytes
from miniagents.ext.chat_history_md import ChatHistoryMD, _LockedFile
from miniagents.messages import AssistantMessage, Message, SystemMessage, Usage, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the history of the test."""
    return tmp_path / "chat.md"


@pytest.fixture(autouse=True)
async def _agents() -> AsyncIterator[None]:
    """Run each test in a context of agents."""
    async with MiniAgents():
        yield


class Colour(Enum):
    """Enum for a field."""

    RED = "red"


class Painting(Message):
    """Message with fields of its own."""

    role: str | None = "painter"
    colour: Colour
    size: float = 1.5
    tags: tuple[str, ...] = ()


async def texts(path: Path) -> list[str]:
    """Return the texts that a new reader loads from the file."""
    return [str(message) for message in await ChatHistoryMD(path).aload_chat_history()]


# --- values


async def test_file_shows_headings_and_texts_as_markdown(path: Path) -> None:
    """Outside of its comments, the file has a heading and the text of each message."""
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
    "interrupted": True,
}


@pytest.mark.parametrize("name", EVERYTHING)
async def test_history_loads_any_value_of_a_field_unchanged(path: Path, name: str) -> None:
    """Text, role, class and every field are loaded with their values and types."""
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
async def test_history_loads_messages_of_any_class_unchanged(path: Path, message: Message) -> None:
    """A saved message is loaded with its class, fields, types and parts, even if the message has no text."""
    await ChatHistoryMD(path).aappend(message)
    assert await ChatHistoryMD(path).aload_chat_history() == (message,)


async def test_history_stores_a_default_that_a_factory_made(path: Path) -> None:
    """A value of a default factory is stored, because the factory may return another value at the load."""
    counter: Iterator[int] = iter(range(10))

    class Numbered(Message):
        number: int = Field(default_factory=lambda: next(counter))

    message = Numbered(content="x")
    await ChatHistoryMD(path).aappend(message)
    assert await ChatHistoryMD(path).aload_chat_history() == (message,)


async def test_history_keeps_the_text_of_a_message_that_is_nested_too_deep(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A field that is nested too deep is left out with a warning; text, class and other fields are kept."""
    message = UserMessage("deepest")
    for number in range(1000):
        message = UserMessage(f"level {number}", before=message, number=number)
    await ChatHistoryMD(path).aappend(message)
    [loaded] = await ChatHistoryMD(path).aload_chat_history()
    assert (type(loaded), loaded.content, loaded.role, loaded.number) == (UserMessage, "level 999", "user", 999)
    assert "'before'" in caplog.text


async def test_history_leaves_out_only_the_field_whose_serializer_fails(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the serializer of a field fails, that field is left out with a warning, and the message is stored."""

    class Secretive(Message):
        secret: str = ""
        number: int = 0

        @field_serializer("secret")
        def refuse(self, value: str) -> str:
            raise ValueError("not to be stored")

    await ChatHistoryMD(path).aappend(Secretive(content="text", secret="x", number=7))
    assert await ChatHistoryMD(path).aload_chat_history() == (Secretive(content="text", number=7),)
    assert "'secret'" in caplog.text


async def test_history_loads_a_plain_message_when_its_class_is_unknown(path: Path) -> None:
    """A message whose class no longer exists is loaded as a plain message with its text, role and fields."""
    path.write_bytes(to_bytes(Painting(content="old", colour=Colour.RED)).replace(b"Painting", b"GoneForEver"))
    [loaded] = await ChatHistoryMD(path).aload_chat_history()
    assert loaded == Message("old", role="painter", colour="red")


@pytest.mark.parametrize("fields", ['"class_":"Painting","size":"big"', '"when":{"$date":"someday"}', '"f":{"$int":3}'])
async def test_history_leaves_out_invalid_fields_with_a_warning(
    path: Path, fields: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fields that were made invalid are left out with a warning; text, role and the mark `interrupted` are kept."""
    record = to_bytes(Message("text", role="user", interrupted=True))
    path.write_bytes(record.replace(b'"user"', f'"user",{fields}'.encode()))
    assert await ChatHistoryMD(path).aload_chat_history() == (Message("text", role="user", interrupted=True),)
    assert "left out" in caplog.text


EARLIER = """# A chat

<!-- miniagents {"id":"5f0c1e9a2b7d","role":"user","bytes":6,"meta":{"class_":"UserMessage"}} -->
## user

Hello!
<!-- /miniagents -->

"""


@pytest.mark.parametrize("later", ["", "x" * 10_000])
async def test_H18_history_refuses_a_file_in_the_form_of_an_earlier_version(path: Path, later: str) -> None:
    """Load and append of a file of an earlier version raise an error that names the line; the file stays unchanged."""
    content = EARLIER.encode() + to_bytes(Message(later))
    path.write_bytes(content)
    for use in (ChatHistoryMD(path).aload_chat_history(), ChatHistoryMD(path).aappend("x")):
        with pytest.raises(HistoryFormatError, match=r"line 3: an earlier version wrote this message"):
            await use
    assert path.read_bytes() == content


async def test_H18_history_keeps_a_text_in_the_form_of_an_earlier_version(path: Path) -> None:
    """A message whose text and id look like a file of an earlier version is stored and loaded as it is."""
    message = UserMessage(EARLIER, id=EARLIER)
    await ChatHistoryMD(path).aappend(message)
    assert await ChatHistoryMD(path).aload_chat_history() == (message,)


# --- streaming and crashes


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


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGKILL")
async def test_H1_history_has_whole_messages_only_when_the_process_is_killed(path: Path) -> None:
    """After SIGKILL in a stream, the file has the earlier messages only, and takes another; no other file is left."""
    process = subprocess.Popen([sys.executable, "-c", STREAMING_FOREVER, str(path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        process.send_signal(signal.SIGKILL)
    assert await ChatHistoryMD(path).aload_chat_history() == (UserMessage("question"),)
    await ChatHistoryMD(path).aappend(UserMessage("next"))
    assert await texts(path) == ["question", "next"]
    assert os.listdir(path.parent) == ["chat.md"]


@pytest.mark.skipif(sys.platform == "win32", reason="this system sends no SIGINT to a process")
async def test_H1_history_has_the_text_so_far_when_the_process_is_interrupted(path: Path) -> None:
    """After Ctrl-C in a stream, the earlier messages are whole, and the message that streamed has its text so far."""
    process = subprocess.Popen(
        [sys.executable, "-c", STREAMING_FOREVER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        process.send_signal(signal.SIGINT)
    question, partial = await ChatHistoryMD(path).aload_chat_history()
    assert question == UserMessage("question")
    assert (partial.role, partial.interrupted) == ("assistant", True)
    assert str(partial).startswith("token0 token1 token2 ")


async def test_H4_append_closes_a_cut_record_with_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An append to a file that was truncated anywhere marks the incomplete message, warns, and adds a whole message."""
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
        if cut < whole.rindex(b"<!-- /"):
            assert "not written to its end" in caplog.text
            assert all(message.interrupted for message in messages[1:-1])


async def test_H11_append_finds_the_beginning_of_a_long_last_record(path: Path) -> None:
    """`aappend` closes a truncated last record, even one that is longer than the part that `aappend` reads first."""
    await ChatHistoryMD(path).aappend(["a" * 300_000, "b" * 200_000])
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 100)
    await ChatHistoryMD(path).aappend("c")
    assert [len(text) for text in await texts(path)] == [300_000, 200_000 - 100 + len("\n<!-- /miniagents -->\n\n"), 1]


async def test_H11_first_append_reads_the_two_ends_of_a_long_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first append to a file reads some kilobytes of the file, and the next appends read nothing."""
    await ChatHistoryMD(path).aappend([f"message {number}" for number in range(5_000)])
    read: list[int] = []
    real = _LockedFile.read

    def counting(file: _LockedFile, *place: int) -> bytes:
        read.append(len(data := real(file, *place)))
        return data

    monkeypatch.setattr(_LockedFile, "read", counting)
    history = ChatHistoryMD(path)
    for text in ("next", "and next"):
        await history.aappend(text)
    assert sum(read) < 10_000 < path.stat().st_size


# --- disks


async def test_H7_history_keeps_messages_in_memory_when_the_disk_is_full(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that cannot be written raises an error, stays in memory, and is written with the next append."""
    history = ChatHistoryMD(path)
    await history.aappend("before")
    room = 10  # bytes that the disk has

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


async def test_H7_history_keeps_all_messages_of_an_append_when_the_first_cannot_be_written(path: Path) -> None:
    """If a message cannot be written, the later ones of the same append are kept, too, and written with the next."""
    history = ChatHistoryMD(path)
    path.mkdir()
    with pytest.raises(HistoryError, match="not a regular file"):
        await history.aappend(["one", "two", "three"])
    path.rmdir()
    await history.aappend("four")
    assert await texts(path) == ["one", "two", "three", "four"]


async def test_append_calls_fsync_when_fsync_is_true(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `fsync=True`, each append calls `fsync` once for its complete messages; by default, none does."""
    synced: list[int] = []
    await ChatHistoryMD(path).aappend("before")
    monkeypatch.setattr(os, "fsync", synced.append)
    await ChatHistoryMD(path).aappend(["a", "b"])
    assert not synced
    for messages in ("a", ["b", "c"]):
        await ChatHistoryMD(path, fsync=True).aappend(messages)
    assert len(synced) == 2


async def test_append_makes_missing_folders(tmp_path: Path) -> None:
    """The first append creates the folders of the file; a load creates no folder."""
    path = tmp_path / "a" / "b" / "chat.md"
    assert await texts(path) == []
    assert not os.listdir(tmp_path)
    await ChatHistoryMD(path).aappend("x")
    assert await texts(path) == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need special rights on this system")
@pytest.mark.parametrize("exists", [True, False])
async def test_history_follows_links_to_files_and_folders(tmp_path: Path, exists: bool) -> None:
    """A history at a link to a file in a linked folder is stored at the links' target.

    The target need not exist before.
    """
    target = tmp_path / "elsewhere" / "deep" / "target.md"
    if exists:
        await ChatHistoryMD(target).aappend("before")
    (tmp_path / "folder").symlink_to("elsewhere/deep", target_is_directory=True)
    link = tmp_path / "link.md"
    link.symlink_to("folder/target.md")
    await ChatHistoryMD(link).aappend("x")
    assert await texts(target) == await texts(link) == [*(["before"] if exists else []), "x"]
    assert link.is_symlink()


async def test_history_refuses_a_path_that_is_no_regular_file(tmp_path: Path) -> None:
    """A directory, a pipe or a path through a file is an error at once."""
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
async def test_history_leaves_a_file_that_is_no_history_unchanged(path: Path, content: bytes) -> None:
    """Load and append of a file that is no history raise `HistoryFormatError`, and the file stays unchanged."""
    path.write_bytes(content)
    with pytest.raises(HistoryFormatError, match=r"chat\.md, line 1"):
        await ChatHistoryMD(path).aload_chat_history()
    with pytest.raises(HistoryFormatError):
        await ChatHistoryMD(path).aappend("x")
    assert path.read_bytes() == content


# --- other writers


async def test_H3_two_objects_in_many_tasks_write_whole_records(path: Path) -> None:
    """Two histories of one file, used by 40 tasks at once, write each record whole."""
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


async def test_H3_two_processes_write_whole_records_in_their_order(path: Path) -> None:
    """Two processes that append to one file at once write each record whole, in the order of each process."""
    processes = [subprocess.Popen([sys.executable, "-c", APPENDING, str(path), name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    reader = ChatHistoryMD(path)
    found = [str(message).split()[0] for message in await reader.aload_chat_history()]
    assert reader.problems == ()
    for name in "ab":
        assert [each for each in found if each.startswith(name)] == [f"{name}{n}" for n in range(60)]


async def test_append_waits_for_the_lock_without_blocking_the_loop(path: Path) -> None:
    """While another writer holds the lock, an append waits, and the event loop runs."""
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


async def test_history_raises_an_error_when_the_lock_is_held_too_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After LOCK_TIMEOUT, append and load raise errors, and the next append writes the message."""
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


async def test_append_makes_a_new_file_when_the_file_is_moved_before_its_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is moved between its opening and its locking is not written; the record goes to a new file."""
    lock, moved = history_files._try_lock, path.with_name("moved.md")

    def move_and_lock(descriptor: int) -> bool:
        if not moved.exists():
            path.rename(moved)
        return lock(descriptor)

    monkeypatch.setattr(history_files, "_try_lock", move_and_lock)
    await ChatHistoryMD(path).aappend("one")
    assert await texts(path) == ["one"]
    assert moved.read_bytes() == b""


async def test_append_writes_without_a_lock_when_the_file_system_has_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file system has no locks, an append writes without a lock; other errors of locking are raised."""
    code = errno.ENOLCK

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    await ChatHistoryMD(path).aappend("one")
    assert await texts(path) == ["one"]
    code = errno.EIO
    with pytest.raises(HistoryWriteError):
        await ChatHistoryMD(path).aappend("two")


async def test_H12_append_makes_a_new_file_when_the_file_was_moved(path: Path) -> None:
    """After the file was moved, the old file keeps its messages, and the next message goes to a new file."""
    history = ChatHistoryMD(path)
    await history.aappend("old")
    path.rename(path.with_name("old.md"))
    await history.aappend("new")
    assert await texts(path) == ["new"]
    assert await texts(path.with_name("old.md")) == ["old"]


# --- loading again, and edits by hand


@pytest.mark.parametrize("same", [True, False], ids=["own appends", "appends of another writer"])
async def test_H11_second_load_parses_only_the_new_end_of_the_file(
    path: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second load parses the bytes that were appended since the first, and returns all messages."""
    scanned: list[int] = []

    def counting_scan(data: bytes, *, first_line: int) -> Scan:
        scanned.append(len(data))
        return scan(data, first_line=first_line)

    monkeypatch.setattr(chat_history_md, "scan", counting_scan)
    history = ChatHistoryMD(path)
    size = 0
    for number in range(4):
        await (history if same else ChatHistoryMD(path)).aappend(f"message {number}")
        assert len(await history.aload_chat_history()) == number + 1
        assert scanned[-1] == path.stat().st_size - size
        size = path.stat().st_size
    await history.aload_chat_history()
    assert scanned[-1] == 0


async def test_H11_load_after_own_appends_reads_only_the_new_end_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as only this history appends to the file, a load reads the bytes that were appended since the last."""
    read: list[int] = []
    real = _LockedFile.read

    def counting(file: _LockedFile, *place: int) -> bytes:
        read.append(len(data := real(file, *place)))
        return data

    history = ChatHistoryMD(path)
    await history.aappend("x" * 100_000)
    await history.aload_chat_history()
    monkeypatch.setattr(_LockedFile, "read", counting)
    for number in range(3):
        await history.aappend(str(number))
        assert len(await history.aload_chat_history()) == number + 2
    assert sum(read) == path.stat().st_size - len(to_bytes(Message("x" * 100_000)))


async def test_second_load_notices_changes_anywhere_in_the_file(path: Path) -> None:
    """If a file was edited in its middle, truncated or extended, a second load returns its present content."""
    history = ChatHistoryMD(path)
    await history.aappend(["one", "two"])
    whole = path.read_bytes()
    for number, (content, expected, lines) in enumerate(
        (
            (whole, ["one", "two"], []),
            (whole.replace(b"one", b"ONE"), ["ONE", "two"], []),
            (whole.replace(b"one", b"longer"), ["longer", "two"], []),
            (whole[: whole.index(b"two") + 2], ["one", "tw"], [7]),
            (whole + b"typed\n", ["one", "two"], [13]),
            (whole, ["one", "two"], []),
            (b"", [], []),
        )
    ):
        path.write_bytes(content)
        os.utime(path, (number, number))  # the clock of a file system may stand still for milliseconds
        assert [str(message) for message in await history.aload_chat_history()] == expected
        assert [problem.line for problem in history.problems] == lines


async def test_H10_history_loads_an_edited_message_as_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A text that a user has edited in the file, also one with escaped control characters, is loaded as edited.

    No warning is logged.
    """
    await ChatHistoryMD(path).aappend([UserMessage("helo"), AssistantMessage("a\x1bb"), UserMessage(["part"])])
    path.write_bytes(path.read_bytes().replace(b"helo", b"hello\n\nworld").replace(b"a\\x1bb", b"ab"))
    history = ChatHistoryMD(path)
    expected = (UserMessage("hello\n\nworld"), AssistantMessage("ab"), UserMessage(["part"]))
    assert await history.aload_chat_history() == expected
    assert not history.problems
    assert not caplog.records


async def test_H10_load_warns_once_of_a_place_that_does_not_fit(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A head that was broken by hand is one warning with its line, and the other messages are loaded."""
    await ChatHistoryMD(path).aappend([UserMessage("one"), UserMessage("two"), UserMessage("three")])
    data = path.read_bytes()
    second = data.index(b"{", data.index(b"{") + 1)
    path.write_bytes(data[:second] + b"broken " + data[second:])
    history = ChatHistoryMD(path)
    for _ in range(2):
        assert [str(message) for message in await history.aload_chat_history()] == ["one", "three"]
        assert [problem.line for problem in history.problems] == [7]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{path}, line 7: a message without a readable head" in caplog.text


async def test_append_begins_a_new_line_when_the_last_newlines_were_removed(path: Path) -> None:
    """A message appended to a file without a final newline begins on a line of its own."""
    await ChatHistoryMD(path).aappend("one")
    path.write_bytes(path.read_bytes().rstrip())
    await ChatHistoryMD(path).aappend("two")
    reader = ChatHistoryMD(path)
    assert [str(message) for message in await reader.aload_chat_history()] == ["one", "two"]
    assert reader.problems == ()


def test_history_that_several_threads_share_loses_no_message(path: Path) -> None:
    """Each thread has an event loop of its own; a message that one thread appends while another writes is kept."""
    history = ChatHistoryMD(path)

    def append(name: int) -> None:
        async def all_of_them() -> None:
            for number in range(30):
                await history.aappend(f"{name}-{number}")

        asyncio.run(all_of_them())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    kept = [str(message) for message in asyncio.run(history.aload_chat_history())]
    assert sorted(kept) == sorted(f"{name}-{number}" for name in range(4) for number in range(30))
