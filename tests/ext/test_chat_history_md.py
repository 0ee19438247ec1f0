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
    "escaped": True,
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
    """Fields with types and defaults, parts instead of a text, and messages without text are loaded unchanged."""
    await ChatHistoryMD(path).aappend(message)
    assert await ChatHistoryMD(path).aload_chat_history() == (message,)


async def test_history_stores_a_default_that_a_factory_made(path: Path) -> None:
    """A value of a default factory is stored, because the factory may return another one at the load."""
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
    path.write_bytes(to_bytes(Record("x", "painter", "old", {"class_": "GoneForEver", "n": 1})))
    assert await ChatHistoryMD(path).aload_chat_history() == (Message("old", role="painter", n=1),)


@pytest.mark.parametrize(
    "meta", [{"class_": "Painting", "size": "big"}, {"when": {"$date": "someday"}}, {"f": {"$int": 3}}]
)
async def test_history_leaves_out_invalid_metadata_with_a_warning(
    path: Path, meta: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Invalid metadata are left out with a warning; text, role and the mark `interrupted` are kept."""
    path.write_bytes(to_bytes(Record("x", "user", "text", meta, interrupted=True)))
    assert await ChatHistoryMD(path).aload_chat_history() == (Message("text", role="user", interrupted=True),)
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    "value", ['{"$dict":[["$a",1]]}', '{"$datetime":["2026-01-02T00:00:00",0,null]}', '[{"$time":["01:00:00",0,null]}]']
)
async def test_H18_history_refuses_a_file_with_values_of_an_earlier_version(path: Path, value: str) -> None:
    """Values in an earlier form are an error with their line; a text that looks like them is a text."""
    text = f'<!-- {{"meta":{{"x":{value}}}}} -->'
    await ChatHistoryMD(path).aappend([UserMessage(text), UserMessage("y", x=None, z={"a": text})])
    assert await texts(path) == [text, "y"]
    path.write_text(path.read_text("utf-8").replace('"x":null', f'"x":{value}'), "utf-8")
    with pytest.raises(HistoryFormatError, match=r"line 7: .*earlier version"):
        await ChatHistoryMD(path).aload_chat_history()


# --- streaming and crashes


async def test_H1_journal_has_each_piece_of_a_message_that_streams(path: Path) -> None:
    """While a message streams, each piece is in a journal file at once; the finished record replaces the journal."""
    seen: list[str] = []

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in ("caf\u00e9 ", "\x1b\\", "\ud83d", "\ude00"):
            yield token
            for _i in range(5):
                await asyncio.sleep(0)
            seen.extend([str(message) for message in _load_as_after_a_kill(path)])

    history = ChatHistoryMD(path)
    await history.aappend(UserMessage("question"))
    await history.aappend(AssistantMessage.promise(message_token_streamer=streamer, model="m"))
    assert seen == ["caf\u00e9 ", "caf\u00e9 \x1b\\", "caf\u00e9 \x1b\\\ud83d", "caf\u00e9 \x1b\\\ud83d\ude00"]
    assert os.listdir(path.parent) == ["chat.md"]


def _load_as_after_a_kill(path: Path) -> list[Message]:
    """Return the messages that a later process would load after a kill at this moment."""
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
async def test_H1_history_keeps_a_partial_message_when_the_process_is_killed(path: Path) -> None:
    """After SIGKILL in a stream, the earlier message is whole, the partial one marked, and the next one whole."""
    process = subprocess.Popen([sys.executable, "-c", STREAMING_FOREVER, str(path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        assert await texts(path) == ["question"]  # the writer still runs, so its journal is not read
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


async def test_H4_append_closes_a_cut_record_with_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An append to a file that was cut anywhere marks the cut message, warns, and adds a whole message."""
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


async def test_H11_append_finds_the_beginning_of_a_long_last_record(path: Path) -> None:
    """`aappend` closes a cut last record, even if the record is longer than the part that it reads first."""
    await ChatHistoryMD(path).aappend(["a" * 300_000, "b" * 200_000])
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 100)
    await ChatHistoryMD(path).aappend("c")
    assert [len(text) for text in await texts(path)] == [300_000, 200_000 - 100 + len("\n<!-- /miniagents -->\n\n"), 1]


async def test_H14_message_is_loaded_once_when_record_and_journal_both_exist(path: Path) -> None:
    """If a kill leaves both record and journal, a load returns the record; the next append deletes the journal."""
    path.write_bytes(to_bytes(Record("1-a", "user", "whole")))
    journals = path.with_name("chat.md.partial")
    journals.mkdir()
    (journals / "1-a.md").write_bytes(frame_open(Record("1-a", "user", "")) + b"who")
    assert await texts(path) == ["whole"]
    await ChatHistoryMD(path).aappend("next")
    assert await texts(path) == ["whole", "next"]
    assert not journals.exists()


async def test_record_written_again_replaces_its_cut_first_form(path: Path) -> None:
    """If a record was cut and then written again with its id, a load returns the second one only."""
    record = to_bytes(Record("1-a", "user", "whole"))
    path.write_bytes(record[:-30] + b"\n<!-- /miniagents interrupted -->\n\n" + record)
    assert await texts(path) == ["whole"]


async def test_history_loads_abandoned_journals_in_their_order(path: Path) -> None:
    """Journals of dead processes are loaded, the oldest first; other files in their folder stay."""
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


async def test_append_keeps_a_new_empty_journal_and_removes_an_old_one(path: Path) -> None:
    """An empty journal may belong to a writer that has not locked it yet, so only an old one is removed."""
    journals = path.with_name("chat.md.partial")
    journals.mkdir()
    journal = journals / "1-a.md"
    journal.touch()
    await ChatHistoryMD(path).aappend("one")
    assert journal.exists()
    os.utime(journal, (0, 0))
    await ChatHistoryMD(path).aappend("two")
    assert not journal.exists()


async def test_append_stores_a_message_when_its_journal_cannot_be_made(path: Path) -> None:
    """A journal that cannot be made does not prevent the record of the whole message."""
    path.with_name("chat.md.partial").write_text("in the way")

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in "abc":
            yield token
            await asyncio.sleep(0)

    await ChatHistoryMD(path).aappend(Message.promise(message_token_streamer=streamer))
    assert await texts(path) == ["abc"]


# --- disks


async def test_H7_history_keeps_messages_in_memory_when_the_disk_is_full(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that cannot be written raises an error, stays in memory, and is written with the next append."""
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


async def test_append_calls_fsync_for_each_record_when_fsync_is_true(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `fsync=True`, each append calls `fsync` for its record; by default, none does."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    await ChatHistoryMD(path).aappend(["a", "b"])
    assert not synced
    await ChatHistoryMD(path, fsync=True).aappend(["a", "b"])
    assert len(synced) == 2


async def test_append_makes_missing_folders(tmp_path: Path) -> None:
    """The first append creates the folders of the file; a load creates no folder."""
    path = tmp_path / "a" / "b" / "chat.md"
    assert await texts(path) == []
    assert not os.listdir(tmp_path)
    await ChatHistoryMD(path).aappend("x")
    assert await texts(path) == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="this system has other permissions")
async def test_journal_of_a_private_history_is_private(path: Path) -> None:
    """While a message streams, its journal has the permissions of the history, or those of a new file."""
    before = os.umask(0o022)
    modes: list[int] = []
    try:
        for mode in (None, 0o600):
            if mode is not None:
                path.chmod(mode)

            async def streamer(metadata: Any) -> AsyncIterator[str]:
                yield "one "
                await asyncio.sleep(0.01)
                modes.extend(each.stat().st_mode & 0o777 for each in path.with_name("chat.md.partial").iterdir())
                yield "two"

            await ChatHistoryMD(path).aappend(Message.promise(message_token_streamer=streamer))
            modes.append(path.stat().st_mode & 0o777)
    finally:
        os.umask(before)
    assert modes == [0o644, 0o644, 0o600, 0o600]


@pytest.mark.skipif(os.name != "posix", reason="links need rights on this system")
@pytest.mark.parametrize("exists", [True, False])
async def test_history_follows_links_to_files_and_folders(tmp_path: Path, exists: bool) -> None:
    """A history at a link below a link, also to a file and a folder that do not exist, is at their target."""
    target = tmp_path / "elsewhere" / "deep" / "target.md"
    if exists:
        await ChatHistoryMD(target).aappend("before")
    (tmp_path / "folder").symlink_to("elsewhere/deep", target_is_directory=True)
    link = tmp_path / "link.md"
    link.symlink_to("folder/target.md")
    await ChatHistoryMD(link).aappend("x")
    assert await texts(target) == await texts(link) == [*(["before"] if exists else []), "x"]
    assert link.is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="links need rights on this system")
async def test_journal_that_was_abandoned_is_found_through_a_link(tmp_path: Path, path: Path) -> None:
    """The journal of a writer that died stands beside the file itself, and is loaded through links as well."""
    await ChatHistoryMD(path).aappend("first")
    link = tmp_path / "links" / "link.md"
    link.parent.mkdir()
    link.symlink_to(path)
    journals = path.with_name("chat.md.partial")
    journals.mkdir()
    (journals / "1-x.md").write_bytes(frame_open(Record("1-x", "user", "")) + b"cut")
    assert await texts(link) == await texts(path) == ["first", "cut"]


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
    """A file of another kind is an error for load and append, and stays unchanged."""
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
    """If the file system has no locks, an append writes without one; other errors of locking are raised."""
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


async def test_H11_second_load_parses_only_the_new_end_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second load parses the bytes that were appended since the first, and returns all messages."""
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


async def test_second_load_notices_changes_anywhere_in_the_file(path: Path) -> None:
    """If a file was edited in its middle, cut or shortened, a second load returns its present content."""
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


async def test_H10_load_warns_once_of_an_edited_message(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A text that was edited by hand is loaded as edited, with one warning that names its line."""
    await ChatHistoryMD(path).aappend([UserMessage("helo"), AssistantMessage("hi")])
    path.write_bytes(path.read_bytes().replace(b"helo", b"hello"))
    history = ChatHistoryMD(path)
    for _ in range(2):
        assert await history.aload_chat_history() == (UserMessage("hello"), AssistantMessage("hi"))
        assert [problem.line for problem in history.problems] == [1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{path}, line 1: a message that was edited" in caplog.text


async def test_append_begins_a_new_line_when_the_last_newlines_were_removed(path: Path) -> None:
    """A message appended to a file without a final newline begins on a line of its own."""
    await ChatHistoryMD(path).aappend("one")
    path.write_bytes(path.read_bytes().rstrip())
    await ChatHistoryMD(path).aappend("two")
    reader = ChatHistoryMD(path)
    assert [str(message) for message in await reader.aload_chat_history()] == ["one", "two"]
    assert reader.problems == ()
