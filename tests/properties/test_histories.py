"""Laws 45 to 47 as properties: each kind of history returns the texts and roles that it was sent."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from databases import sqlite_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from miniagents import AssistantMessage, ChatHistory, InMemoryChatHistory, Message, MiniAgents, UserMessage
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.sql import SQLChatHistory
from miniagents_testing import strategies
from miniagents_testing.checks import check_crash_states, check_history_returns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import Effort

    MakeHistory = Callable[[Path], ChatHistory]


MAKERS: dict[str, MakeHistory] = {
    "memory": lambda folder: InMemoryChatHistory(),
    "markdown": lambda folder: ChatHistoryMD(folder / "chat.md"),
    "sqlite": lambda folder: SQLChatHistory(sqlite_engine(folder), chat_id="chat"),
}


@given(
    sent=st.lists(strategies.messages(), min_size=1, max_size=2),
    way=st.sampled_from(["one by one", "at once", "as promises"]),
)
async def test_H8_H9_history_returns_the_messages_it_was_sent(sent: list[Message], way: str) -> None:
    """Every kind of history returns any messages equal to those sent: text, role, class, and every field."""
    for name, make in MAKERS.items():
        await check_history_returns(make, sent, reopens=name != "memory", ways=[way])


@given(tokens=strategies.token_splits(strategies.texts()), before=strategies.texts(), after=strategies.texts())
async def test_history_returns_a_streamed_text_whole(
    tokens: list[str], before: str, after: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A text that streams in any tokens is stored as one message with the joined text, between its neighbours."""

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            yield token

    for make in MAKERS.values():
        history = make(new_folder(tmp_path_factory))
        async with MiniAgents():
            await history.aappend([before, AssistantMessage.promise(message_token_streamer=streamer), after])
        loaded = await history.aload_chat_history()
        assert loaded == (Message(before), AssistantMessage("".join(tokens)), Message(after))


numbers = itertools.count()


def new_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a new path for the folder of one example; the history creates the folder."""
    return factory.getbasetemp() / f"history-{next(numbers)}"


@given(
    sent=st.lists(strategies.messages(value=strategies.texts()), min_size=1, max_size=2), length=st.integers(0, 1_000)
)
async def test_H4_history_loads_from_a_file_that_was_cut_anywhere(sent: list[Message], length: int) -> None:
    """A history file cut off anywhere gives whole messages and at most one interrupted, and can be continued."""
    await check_crash_states(MAKERS["markdown"], sent, lengths=[length])


@pytest.mark.parametrize("name", MAKERS)
async def test_T1_history_keeps_roles_and_neighbours_of_300_forgeries(name: str, tmp_path: Path) -> None:
    """Pairs of texts that look like the file format's marks are loaded as plain texts from one history."""
    texts = ["".join(pair) for pair in itertools.product(strategies.LOOKALIKES, repeat=2)]
    assert len(texts) >= 300
    sent = [UserMessage(text) if number % 2 else AssistantMessage(text) for number, text in enumerate(texts)]
    history = MAKERS[name](tmp_path)
    async with MiniAgents():
        await history.aappend(sent)
    assert await history.aload_chat_history() == tuple(sent)


def test_H8_H9_T1_history_returns_thousands_of_odd_texts(effort: Effort) -> None:
    """Thousands of contents and roles made of marks that the file formats use are loaded as they were sent."""

    async def check(texts: list[str], role: str) -> None:
        sent = [Message(text, role=role) if number % 5 else UserMessage(text) for number, text in enumerate(texts)]
        for name, make in MAKERS.items():
            await check_history_returns(make, sent, reopens=name != "memory", ways=["at once"])

    with asyncio.Runner() as runner:
        example = given(st.lists(strategies.texts(), min_size=20, max_size=20), strategies.texts())
        tried = settings(max_examples=effort(50, ci=500, nightly=10_000))
        tried(example(lambda texts, role: runner.run(check(texts, role))))()
