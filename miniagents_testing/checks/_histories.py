"""Checks of chat histories, in memory or in files."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniagents import AssistantMessage, Message, MiniAgents, SystemMessage, Usage, UserMessage
from miniagents_testing._odd_texts import LOOKALIKES
from miniagents_testing.checks._case import DEFAULT_TIMEOUT, Case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from miniagents import ChatHistory, MessagePromise

    MakeHistory = Callable[[Path], ChatHistory]
    """Function that makes a history in a folder, where the history may keep files."""


_MESSAGES: tuple[Message, ...] = (
    SystemMessage("Be brief."),
    UserMessage("Hello,\r\n\r\nhow are you?\n", mood="calm", tags=["a", {"b": 1.5}], no_text=None),
    AssistantMessage("Fine.", model="m", finish_reason="stop", usage=Usage(input_tokens=7, output_tokens=2)),
    Message("", role="tool", tool_call_id="call_1"),
    UserMessage([{"type": "text", "text": "parts"}, "and more"]),
    Message(None, answer=42, nested=Message("inside")),
    Message("any role", role="a / b"),
    *(UserMessage(text) for text in LOOKALIKES),
)
"""Messages of every kind, and with texts that look like the syntax of a store."""


async def check_history(make_history: MakeHistory, *, reopens: bool = True, in_files: bool = False) -> None:
    """Run all checks of a history: it must load the messages that were stored, also failed and interrupted ones.

    Args:
        make_history: makes a history in a folder. A second one in the same folder must load the same messages.
        reopens: False if a second history does not load them, because the history lives in memory.
        in_files: True if the history appends to files in the folder; files of a killed process are then checked too.

    Raises:
        CheckFailedError: one of these checks failed; the later ones are not run.
    """
    await check_history_returns(make_history, _MESSAGES, reopens=reopens)
    await check_history_keeps_failed(make_history, reopens=reopens)
    await check_history_passes_on(make_history)
    if in_files:
        await check_crash_states(make_history)


async def check_history_returns(
    make_history: MakeHistory,
    messages: Sequence[Message] = _MESSAGES,
    *,
    reopens: bool = True,
    ways: Iterable[str] = ("one by one", "at once", "as promises"),
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that messages are loaded unchanged and in order, in whatever way they are appended.

    Args:
        make_history: makes a history in a folder.
        messages: messages to store.
        reopens: True if another history in the same folder must load the messages.
        ways: ways to append them, from "one by one", "at once", "as promises".
        timeout: seconds that storing and loading may take.

    Raises:
        CheckFailedError: a message was changed, lost or invented.
    """
    parts: dict[str, Sequence[Any]] = {
        "one by one": messages,
        "at once": [list(messages)],
        "as promises": [message.as_promise for message in messages],
    }
    for way in ways:
        argument = f"{list(messages)!r}" if len(messages) <= _MAX_SHOWN_MESSAGES else "MESSAGES"
        case = Case(f"await check_history_returns(make_history, {argument}, reopens={reopens}, ways=[{way!r}])")
        with _folder() as folder:
            history = make_history(folder)
            async with case.no_error(f"storing messages {way}", timeout=timeout), MiniAgents():
                for part in parts[way]:
                    await history.aappend(part)
                loaded = await (make_history(folder) if reopens else history).aload_chat_history()
            for number, (came, sent) in enumerate(zip(loaded, messages, strict=False), 1):
                case.equal(came, sent, f"message {number} was loaded with changes")
            case.equal(len(loaded), len(messages), "messages were lost or invented")


_MAX_SHOWN_MESSAGES = 5
"""Maximum number of messages that a failure shows; more are shown as a name."""


async def check_history_keeps_failed(
    make_history: MakeHistory, *, reopens: bool = True, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that the received part of a failed message is stored and marked as interrupted, between complete messages.

    Args:
        make_history: makes a history in a folder.
        reopens: True if another history in the same folder must load the messages.
        timeout: seconds that storing and loading may take.

    Raises:
        CheckFailedError: the part or the mark is missing, or `aappend()` did not raise the error of the message.
    """
    case = Case(f"await check_history_keeps_failed(make_history, reopens={reopens})")
    with _folder() as folder:
        history = make_history(folder)
        async with case.no_error("storing a message that fails", timeout=timeout), MiniAgents():
            try:
                await history.aappend(["before", _stream(["half an", " answ"], error=_StreamFailedError()), "after"])
            except _StreamFailedError:
                pass
            else:
                case.fail("aappend() hides that a message failed", expected="the error of the message", came="no error")
            loaded = await (make_history(folder) if reopens else history).aload_chat_history()
    expected = (Message("before"), AssistantMessage("half an answ", interrupted=True), Message("after"))
    case.equal(loaded, expected, "the received part of a failed message is not kept")


async def check_history_passes_on(make_history: MakeHistory, *, timeout: float = DEFAULT_TIMEOUT) -> None:
    """Check that the logging agent replies its messages while they stream, and stores the complete ones.

    Args:
        make_history: makes a history in a folder.
        timeout: seconds that the agent may take.

    Raises:
        CheckFailedError: the replies or the stored messages differ from the sent ones.
    """
    case = Case("await check_history_passes_on(make_history)")
    first_was_read = asyncio.Event()
    with _folder() as folder:
        history = make_history(folder)
        async with case.no_error("passing a stream on", timeout=timeout), MiniAgents():
            replies = history.logging_agent.trigger(["question", _stream(["first", " second"], until=first_was_read)])
            tokens: list[str] = []
            async for promise in replies:
                async for token in promise:
                    tokens.append(token)
                    if token == "first":
                        first_was_read.set()
            case.equal(tokens, ["question", "first", " second"], "the replies differ from the sent messages")
            sent = await replies
        loaded = await history.aload_chat_history()
    case.equal(loaded, sent, "the stored messages differ from the sent ones")


async def check_crash_states(
    make_history: MakeHistory,
    messages: Sequence[Message] = _MESSAGES[:4],
    *,
    lengths: Iterable[int] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that a truncated file loses at most the message that was being written, and can be continued.

    For histories that append to files. A killed process or a full disk can leave a file with any length.

    Args:
        make_history: makes a history in a folder.
        messages: messages to store.
        lengths: lengths in bytes to which a file is truncated; by default all. Lengths beyond its size are skipped.
        timeout: seconds that loading and continuing may take.

    Raises:
        CheckFailedError: messages are lost, changed or invented, the file cannot be continued, or there is no file.
    """
    with _folder() as folder:
        sizes = [_sizes(folder)]
        async with MiniAgents():
            for message in messages:
                await make_history(folder).aappend(message)
                sizes.append(_sizes(folder))
        case = Case("await check_crash_states(make_history, messages)")
        case.true(bool(sizes[-1]), "the history keeps no file", expected="files in the folder", came="none")
        for name, size in sizes[-1].items():
            for length in range(size) if lengths is None else (each for each in lengths if each < size):
                safe = sum(known.get(name, 0) <= length for known in sizes[1:])
                case = Case(f"await check_crash_states(make_history, messages, lengths=[{length}])")
                with _folder() as torn:
                    shutil.copytree(folder, torn, dirs_exist_ok=True)
                    with (torn / name).open("r+b") as file:
                        file.truncate(length)
                    await _check_torn(case, make_history, torn, messages, safe, timeout)


async def _check_torn(
    case: Case, make_history: MakeHistory, folder: Path, messages: Sequence[Message], safe: int, timeout: float
) -> None:
    """Check that a history with a truncated file loads its first `safe` messages and can be continued.

    At most one more message may come, whole or as an interrupted beginning. Raise `CheckFailedError` otherwise.
    """
    async with case.no_error("a truncated file cannot be loaded and continued", timeout=timeout), MiniAgents():
        loaded = await make_history(folder).aload_chat_history()
        case.equal(loaded[:safe], tuple(messages[:safe]), "messages that were written are lost or changed")
        rest = loaded[safe:]
        case.true(len(rest) <= 1, "messages were invented", expected="at most one more", came=repr(rest))
        for message in rest:
            whole = str(messages[safe].content or "")
            case.true(
                message == messages[safe]
                or (getattr(message, "interrupted", False) is True and whole.startswith(str(message.content or ""))),
                "an incomplete message is not marked",
                expected=f"{messages[safe]!r}, or a beginning of it with interrupted=True",
                came=repr(message),
            )
        await make_history(folder).aappend("next")
        again = await make_history(folder).aload_chat_history()
        case.equal(again, (*loaded, Message("next")), "a message that is stored next is not loaded after the others")


class _StreamFailedError(Exception):
    """Error of a stream that fails."""


def _stream(
    tokens: Sequence[str], *, error: Exception | None = None, until: asyncio.Event | None = None
) -> MessagePromise:
    """Return a message of these tokens, which may wait for an event after the first one, and fail at its end."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        """Yield the tokens, waiting for `until` before each but the first; then raise the error if there is one."""
        for number, token in enumerate(tokens):
            if number and until is not None:
                await until.wait()
            await asyncio.sleep(0)
            yield token
        if error is not None:
            raise error

    return AssistantMessage.promise(message_token_streamer=streamer)


@contextmanager
def _folder() -> Iterator[Path]:
    """Make an empty folder for the block, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _sizes(folder: Path) -> dict[Path, int]:
    """Return the sizes of all files in a folder."""
    return {path.relative_to(folder): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
