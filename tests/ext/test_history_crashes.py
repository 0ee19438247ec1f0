"""A Markdown history after crashes: the writer's calls are logged and broken off at each place; the rest is loaded."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents.errors import HistoryWriteError
from miniagents.ext import chat_history_md as history_files
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.messages import AssistantMessage, Message, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import Effort

OS_CLOSE = os.close
TOKENS = ("Sure! ", "```py\n", "é\x1b\\ 😀", "\r", "\n<!-- /miniagents -->", "\n\n")
SENT = (UserMessage("One?\n"), AssistantMessage("".join(TOKENS)), UserMessage("Two."))

Files = dict[str, bytes]
"""Contents of the files of a folder, by name."""


class Disk:
    """Log of the calls that change the files of a folder: ("create", "write" or "sync", name, data)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, str, bytes]] = []
        self.acknowledged: list[int] = []
        """Length of the log after each stored message."""
        names: dict[int, str] = {}
        real_open, real_write, real_sync = os.open, history_files._write_all, os.fsync

        def name(path: Any) -> str:
            return Path(path).relative_to(folder).as_posix()

        def opened(path: Any, flags: int, *rest: Any) -> int:
            new = not os.path.exists(path)  # noqa: PTH110 - `Path.exists` would come here again
            names[descriptor := real_open(path, flags, *rest)] = name(path)
            if new:
                self.log.append(("create", name(path), b""))
            return descriptor

        def written(descriptor: int, data: bytes) -> None:
            self.log.append(("write", names[descriptor], data))
            real_write(descriptor, data)

        def synced(descriptor: int) -> None:
            self.log.append(("sync", names[descriptor], b""))
            real_sync(descriptor)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(history_files, "_write_all", written)
        monkeypatch.setattr(os, "fsync", synced)

    def kills(self) -> Iterator[tuple[Files, int]]:
        """Yield each state in which a killed process can leave the files, with the number of stored messages."""
        files: Files = {}
        for number, (what, name, data) in enumerate(self.log):
            stored = sum(length <= number for length in self.acknowledged)
            for length in range(len(data)):
                yield {**files, name: files[name] + data[:length]}, stored
            if what in ("create", "write"):
                files = {**files, name: files.get(name, b"") + data}
            yield files, stored
        yield files, len(self.acknowledged)

    def losses(self, step: int) -> Iterator[tuple[Files, int]]:
        """Yield states after a loss of power, each with the number of messages that had been synced.

        Unsynced data are cut every `step` bytes, and the rest is missing or zero. New files may be missing.
        """
        for number in range(len(self.log) + 1):
            files: Files = {}
            kept: dict[str, int] = {}
            named: set[str] = set()
            for what, name, data in self.log[:number]:
                if what != "sync":
                    files[name] = files.get(name, b"") + data
                elif name == ".":
                    named |= {other for other in files if "/" not in other}
                else:
                    kept[name] = len(files[name])
            stored = sum(length <= number for length in self.acknowledged) if kept else 0
            for name, content in files.items():
                if name not in named:
                    yield {other: data for other, data in files.items() if other != name}, stored
                for length in range(kept.get(name, 0), len(content), step):
                    yield {**files, name: content[:length]}, stored
                    yield {**files, name: content[:length] + bytes(len(content) - length)}, stored


async def chat(path: Path, disk: Disk, *, fsync: bool) -> None:
    """Append three messages to a history on a logged disk; the second one streams."""

    async def tokens(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in TOKENS:
            yield token
            for _turn in range(3):
                await asyncio.sleep(0)

    history = ChatHistoryMD(path, fsync=fsync)
    async with MiniAgents():
        for message in (SENT[0], AssistantMessage.promise(message_token_streamer=tokens), SENT[2]):
            await history.aappend(message)
            disk.acknowledged.append(len(disk.log))


async def assert_history_survives(copy: Path, files: Files, stored: int) -> int:
    """Assert that stored messages are whole and the chat can go on; return the number of partial messages."""
    for name, content in files.items():
        (copy.parent / name.replace("chat.md", copy.name, 1)).write_bytes(content)
    loaded = await ChatHistoryMD(copy).aload_chat_history()
    whole = [message for message in loaded if not is_partial(message)]
    assert len(whole) >= stored
    expected = iter(SENT)
    for message in loaded:
        assert any(is_as_sent(message, other) for other in expected), f"{message!r} was not sent, or not in this order"
    await ChatHistoryMD(copy).aappend(UserMessage("next"))
    assert await ChatHistoryMD(copy).aload_chat_history() == (*loaded, UserMessage("next"))
    return len(loaded) - len(whole)


def is_partial(message: Message) -> bool:
    """Return True if the message is marked as interrupted."""
    return getattr(message, "interrupted", False) is True


def is_as_sent(message: Message, sent: Message) -> bool:
    """Return True if the message is the sent one, or an interrupted beginning of it."""
    if is_partial(message):
        return message.role == sent.role and str(sent).startswith(str(message))
    return message == sent


async def test_H1_H4_H14_history_loses_at_most_the_message_being_written_when_killed_at_any_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the writer is killed at any byte, earlier messages are whole and there once, and the next append works."""
    with monkeypatch.context() as patched:
        (tmp_path / "chat").mkdir()
        disk = Disk(tmp_path / "chat", patched)
        await chat(tmp_path / "chat" / "chat.md", disk, fsync=False)
    assert [(what, name) for what, name, _ in disk.log] == [("create", "chat.md"), *[("write", "chat.md")] * 3]
    states = 0
    for files, stored in disk.kills():
        assert await assert_history_survives(tmp_path / f"{states}.md", files, stored) <= 1
        states += 1
    assert states > 400


@pytest.mark.parametrize("fsync", [False, True], ids=["without fsync", "with fsync"])
async def test_H4_H5_history_loses_at_most_unsynced_data_when_the_power_fails(
    fsync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effort: Effort
) -> None:
    """After a loss of power at any point, all synced messages are loaded, and no message that was never sent."""
    with monkeypatch.context() as patched:
        (tmp_path / "chat").mkdir()
        disk = Disk(tmp_path / "chat", patched)
        await chat(tmp_path / "chat" / "chat.md", disk, fsync=fsync)
    states = 0
    for files, stored in disk.losses(effort(19, ci=5, nightly=1)):
        await assert_history_survives(tmp_path / f"{states}.md", files, stored)
        states += 1
    assert states > 40


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
async def test_H7_H14_history_loses_and_repeats_no_message_when_a_call_of_the_disk_fails(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If any one disk call fails, at most one append raises an error.

    The next append also writes the message that the failed append did not.
    """
    for place in range(40):
        path = tmp_path / str(place) / "chat.md"
        history = ChatHistoryMD(path, fsync=True)
        await history.aappend("before")
        failures = 0
        with monkeypatch.context() as patched:
            calls = itertools.count()

            def refuse(real: Any, calls: Iterator[int] = calls, place: int = place) -> Any:
                def call(*args: Any, **options: Any) -> Any:
                    if next(calls) != place:
                        return real(*args, **options)
                    if real is OS_CLOSE:
                        real(*args)  # the system closes the descriptor even if `close` fails
                    raise OSError(code, os.strerror(code))

                return call

            for name in ("open", "write", "fsync", "lseek", "read", "close"):
                patched.setattr(os, name, refuse(getattr(os, name)))
            for text in ("one", "two"):
                try:
                    await history.aappend(text)
                except HistoryWriteError as error:
                    failures += os.strerror(code) in str(error)
        assert [str(message) for message in await history.aload_chat_history()] == ["before", "one", "two"]
        await history.aappend("three")
        for known in (history, ChatHistoryMD(path)):
            assert [str(message) for message in await known.aload_chat_history()] == ["before", "one", "two", "three"]
        if next(calls) < place:
            assert not failures
            return
        assert failures <= 1
    raise AssertionError("the last call was never reached")
