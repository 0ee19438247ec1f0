"""What must hold for every chat history, wherever it keeps its messages."""

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
    """Makes a history in a folder, where it may keep files."""


MESSAGES: tuple[Message, ...] = (
    SystemMessage("Be brief."),
    UserMessage("Hello,\r\n\r\nhow are you?\n", mood="calm", tags=["a", {"b": 1.5}], no_text=None),
    AssistantMessage("Fine.", model="m", finish_reason="stop", usage=Usage(input_tokens=7, output_tokens=2)),
    Message("", role="tool", tool_call_id="call_1"),
    UserMessage([{"type": "text", "text": "parts"}, "and more"]),
    Message(None, answer=42, nested=Message("inside")),
    Message("any role", role="a / b"),
    *(UserMessage(text) for text in LOOKALIKES),
)
"""Every kind of message, and texts that look like what a store writes itself."""


async def check_history(make_history: MakeHistory, *, reopens: bool = True, in_files: bool = False) -> None:
    """What goes into a history comes out of it, whatever it is and whatever becomes of it on the way.

    Args:
        make_history: makes one in a folder. The same folder again must give the same messages.
        reopens: whether it does; False for a history that lives in memory.
        in_files: whether it appends to files in the folder; what a killed process leaves of them is then checked too.

    Raises:
        CheckFailedError: something does not hold.
    """
    await check_history_returns(make_history, MESSAGES, reopens=reopens)
    await check_history_keeps_failed(make_history, reopens=reopens)
    await check_history_passes_on(make_history)
    if in_files:
        await check_crash_states(make_history)


async def check_history_returns(
    make_history: MakeHistory,
    messages: Sequence[Message] = MESSAGES,
    *,
    reopens: bool = True,
    ways: Iterable[str] = ("one by one", "at once", "as promises"),
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Messages come out equal, in their order, in whatever way they are appended.

    Args:
        make_history: makes one in a folder.
        messages: what is stored.
        reopens: whether another one in the same folder must give the same.
        ways: how they are appended.
        timeout: seconds that storing and loading may take.
    """
    parts: dict[str, Sequence[Any]] = {
        "one by one": messages,
        "at once": [list(messages)],
        "as promises": [message.as_promise for message in messages],
    }
    for way in ways:
        shown = f"{list(messages)!r}" if len(messages) <= SHOWN_MESSAGES else "MESSAGES"
        case = Case(f"await check_history_returns(make_history, {shown}, reopens={reopens}, ways=[{way!r}])")
        with _folder() as folder:
            history = make_history(folder)
            async with case.no_error(f"storing messages {way}", timeout=timeout), MiniAgents():
                for part in parts[way]:
                    await history.aappend(part)
                loaded = await (make_history(folder) if reopens else history).aload_chat_history()
            for number, (came, sent) in enumerate(zip(loaded, messages, strict=False), 1):
                case.equal(came, sent, f"message {number} came out changed")
            case.equal(len(loaded), len(messages), "messages were lost or invented")


SHOWN_MESSAGES = 5
"""More than these are shown by a name."""


async def check_history_keeps_failed(
    make_history: MakeHistory, *, reopens: bool = True, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """A message that fails is stored as far as it came, marked as interrupted; its neighbours are whole."""
    case = Case(f"await check_history_keeps_failed(make_history, reopens={reopens})")
    with _folder() as folder:
        history = make_history(folder)
        async with case.no_error("storing a message that fails", timeout=timeout), MiniAgents():
            try:
                await history.aappend(["before", _stream(["half an", " answ"], error=_StreamFailedError()), "after"])
            except _StreamFailedError:
                pass
            else:
                case.fail("aappend() hides that a message failed", expected="its error", came="no error")
            loaded = await (make_history(folder) if reopens else history).aload_chat_history()
    expected = (Message("before"), AssistantMessage("half an answ", interrupted=True), Message("after"))
    case.equal(loaded, expected, "a message that failed is not kept as far as it came")


async def check_history_passes_on(make_history: MakeHistory, *, timeout: float = DEFAULT_TIMEOUT) -> None:
    """The logging agent replies what it is sent while it streams, and stores the whole."""
    case = Case("await check_history_passes_on(make_history)")
    go_on = asyncio.Event()
    with _folder() as folder:
        history = make_history(folder)
        async with case.no_error("passing a stream on", timeout=timeout), MiniAgents():
            replies = history.logging_agent.trigger(["question", _stream(["first", " second"], until=go_on)])
            tokens: list[str] = []
            async for promise in replies:
                async for token in promise:
                    tokens.append(token)
                    if token == "first":
                        go_on.set()
            case.equal(tokens, ["question", "first", " second"], "the replies are not what was sent")
            sent = await replies
        loaded = await history.aload_chat_history()
    case.equal(loaded, sent, "what was passed on is not what was stored")


async def check_crash_states(
    make_history: MakeHistory,
    messages: Sequence[Message] = MESSAGES[:4],
    *,
    lengths: Iterable[int] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """A file that ends anywhere costs at most the message that was being written, and can be continued.

    For histories that append to files: every byte at which a killed process or a full disk may have left them.

    Args:
        make_history: makes one in a folder.
        messages: what is stored.
        lengths: how many bytes of a file are left; by default any number. Those that it does not have are left out.
        timeout: seconds that loading and continuing may take.
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
    async with case.no_error("a file that ends there cannot be loaded and continued", timeout=timeout), MiniAgents():
        loaded = await make_history(folder).aload_chat_history()
        case.equal(loaded[:safe], tuple(messages[:safe]), "messages that were written are lost or changed")
        rest = loaded[safe:]
        case.true(len(rest) <= 1, "messages were invented", expected="at most one more", came=repr(rest))
        for message in rest:
            whole = str(messages[safe].content or "")
            case.true(
                message == messages[safe]
                or (getattr(message, "interrupted", False) is True and whole.startswith(str(message.content or ""))),
                "a message that is not whole is not marked",
                expected=f"{messages[safe]!r}, or a beginning of it with interrupted=True",
                came=repr(message),
            )
        await make_history(folder).aappend("next")
        again = await make_history(folder).aload_chat_history()
        case.equal(again, (*loaded, Message("next")), "what is stored next does not come out after what was there")


class _StreamFailedError(Exception):
    """What a stream fails with here."""


def _stream(
    tokens: Sequence[str], *, error: Exception | None = None, until: asyncio.Event | None = None
) -> MessagePromise:
    """A message of these tokens, which after the first one waits for an event, or at its end fails."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
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
    """An empty folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _sizes(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
