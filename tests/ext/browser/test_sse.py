"""`sse`: replies as server-sent events that go on at a position."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import (
    AssistantMessage,
    InteractionContext,
    Message,
    MessageSequencePromise,
    MiniAgents,
    UserMessage,
    miniagent,
)
from miniagents.ext.browser import sse
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing import run_in_virtual_time, strategies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.conftest import Effort


class Page:
    """Texts and roles of messages as a page shows them, and the last event id, as `EventSource` keeps it."""

    def __init__(self, messages: Sequence[list[Any]] = ()) -> None:
        self.messages: list[list[Any]] = list(messages)
        self.names: list[str] = []
        self.last_event_id = ""
        self.failed: list[str] = []
        self._decoder = SSEDecoder()

    def read(self, chunk: bytes) -> None:
        """Handle the events in a chunk."""
        for event in self._decoder.feed(chunk):
            data = json.loads(event.data)
            self.names.append(event.event)
            self.last_event_id = event.id or self.last_event_id
            match event.event:
                case "message":
                    assert data["number"] == len(self.messages), "a message came twice"
                    self.messages.append([data["role"], ""])
                case "token":
                    self.messages[-1][1] += data
                case "failed":
                    self.failed.append(data)
                case "reset":
                    self.messages.clear()
                    self.last_event_id = ""

    def reconnect(self) -> None:
        """Forget the beginning of an event that a cut left incomplete."""
        self._decoder = SSEDecoder()


async def read_all(page: Page, replies: MessageSequencePromise, last_event_id: str | None = None) -> None:
    """Read all events of the replies."""
    async for chunk in sse(replies, last_event_id):
        page.read(chunk)


def streamed(tokens: Sequence[str], *, error: BaseException | None = None, **fields: Any) -> Any:
    """Return a message of these tokens, one in each turn of the event loop; after them it raises `error`, if given."""

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            await asyncio.sleep(0)
            yield token
        if error is not None:
            raise error

    return AssistantMessage.promise(message_token_streamer=streamer, **fields)


def utf16(text: str) -> bytes:
    """Return the text in UTF-16, in which two surrogates that follow each other are one character, as in JavaScript."""
    return text.encode("utf-16", "surrogatepass")


@miniagent
async def pass_on(ctx: InteractionContext) -> None:
    """Reply the messages that came."""
    ctx.reply(ctx.message_promises)


async def test_events_have_the_documented_form() -> None:
    """Messages come as `message`, `token` and `done` with positions, and `end` at last."""
    async with MiniAgents():
        replies = pass_on.trigger([UserMessage("Hi\n\ud83d"), Message(""), streamed(["a", "é"])])
        await replies
        chunks = [chunk async for chunk in sse(replies, retry=2.5)]
    assert b"".join(chunks).decode() == (
        "retry: 2500\n\n"
        'event: message\nid: 0.0\ndata: {"number": 0, "role": "user"}\n\n'
        'event: token\nid: 0.4\ndata: "Hi\\n\\ud83d"\n\n'
        "event: done\nid: 0.4\ndata: null\n\n"
        'event: message\nid: 1.0\ndata: {"number": 1, "role": null}\n\n'
        "event: done\nid: 1.0\ndata: null\n\n"
        'event: message\nid: 2.0\ndata: {"number": 2, "role": "assistant"}\n\n'
        'event: token\nid: 2.2\ndata: "a\\u00e9"\n\n'
        "event: done\nid: 2.2\ndata: null\n\n"
        "event: end\ndata: null\n\n"
    )


@given(
    texts=st.lists(st.lists(strategies.texts(), max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=5),
    live=st.booleans(),
)
async def test_W1_page_has_the_texts_wherever_the_connection_is_cut(
    texts: list[list[str]], cuts: list[int], live: bool
) -> None:
    """If the connection is cut after any bytes, any number of times, the page has each text once."""
    page = Page()
    async with MiniAgents():
        replies = pass_on.trigger([streamed(tokens) for tokens in texts])
        if not live:
            await replies
        for cut in cuts:
            events = sse(replies, page.last_event_id)
            left = cut
            async for chunk in events:
                page.read(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    break
            await events.aclose()  # type: ignore[attr-defined]  # it is a generator
            page.reconnect()
        await read_all(page, replies, page.last_event_id)
    assert [utf16(text) for _, text in page.messages] == [utf16("".join(tokens)) for tokens in texts]
    assert page.names[-1] == "end"
    assert "reset" not in page.names


def test_W1_page_has_the_texts_after_random_cuts_at_random_times(effort: Effort) -> None:
    """With tokens and cuts at random times, and batches of any size, the page has each text once."""

    async def one(numbers: random.Random) -> None:
        texts = [[f"{n} " * numbers.randint(0, 3) for n in range(numbers.randint(0, 30))] for _ in range(3)]

        def at_random_times(tokens: list[str]) -> Any:
            async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
                for token in tokens:
                    await asyncio.sleep(numbers.random() * 0.1)
                    yield token

            return AssistantMessage.promise(message_token_streamer=streamer)

        page = Page()
        async with MiniAgents():
            replies = pass_on.trigger(map(at_random_times, texts))
            while "end" not in page.names:
                try:
                    async with asyncio.timeout(numbers.random() * 2):
                        await read_all(page, replies, page.last_event_id)
                except TimeoutError:
                    page.reconnect()
        assert page.messages == [["assistant", "".join(tokens)] for tokens in texts]

    for seed in range(effort(30, ci=300, nightly=3_000)):
        run_in_virtual_time(one(random.Random(seed)))


async def test_W1_events_do_not_depend_on_how_tokens_came() -> None:
    """An event id of one process is valid in another process, where the same text came in other tokens."""
    for tokens in (["abc", "def"], list("abcdef"), ["abcdef"]):
        page = Page([[None, "first"], ["assistant", "abcd"]])
        async with MiniAgents():
            await read_all(page, pass_on.trigger(["first", streamed(tokens), "last"]), "1.4")
        assert page.messages == [[None, "first"], ["assistant", "abcdef"], [None, "last"]]
        assert "reset" not in page.names


@pytest.mark.parametrize(
    "last_event_id", ["1", "a.b", "-1.0", "1.2.3", "01.0", " 0.1", "0.٣", "0.1\n", "9" * 50 + ".0", "3.0", "0.4", "2.1"]
)
async def test_W2_position_that_is_malformed_or_beyond_the_end_resets_the_page(last_event_id: str) -> None:
    """A malformed event id, or one beyond the end, gives `reset`, and then all events from the start."""
    page = Page()
    page.last_event_id = last_event_id
    async with MiniAgents():
        await read_all(page, pass_on.trigger(["one", streamed(["t", "wo"]), ""]), last_event_id)
    assert page.names[0] == "reset"
    assert page.messages == [[None, "one"], ["assistant", "two"], [None, ""]]
    assert page.last_event_id == "2.0"


async def test_W3_end_comes_again_when_a_page_connects_after_the_end() -> None:
    """A page that connects again after `end` gets `end`, and no message twice."""
    page = Page()
    async with MiniAgents():
        replies = pass_on.trigger(["one", "two"])
        for _ in range(3):
            await read_all(page, replies, page.last_event_id)
        empty = Page()
        await read_all(empty, pass_on.trigger())
    assert page.messages == [[None, "one"], [None, "two"]]
    assert page.names.count("end") == 3
    assert empty.names == ["end"]


async def test_W5_failed_message_has_the_name_of_its_error_and_no_text() -> None:
    """A message that fails keeps its text so far; the event has the class of the error, and the next message comes."""
    page = Page()
    async with MiniAgents():
        replies = pass_on.trigger([streamed(["half"], error=ValueError("a secret")), "next"])
        chunks = [chunk async for chunk in sse(replies)]
        for chunk in chunks:
            page.read(chunk)
    assert page.messages == [["assistant", "half"], [None, "next"]]
    assert page.failed == ["ValueError"]
    assert b"secret" not in b"".join(chunks)
    again = Page([["assistant", "half"]])
    async with MiniAgents():
        await read_all(again, replies, "0.4")
    assert again.names == ["failed", "message", "token", "done", "end"]


async def test_replies_that_fail_end_with_their_error() -> None:
    """If an agent fails, its error comes as a message that failed, and then `end`, also after a reconnect."""

    @miniagent
    async def fails(ctx: InteractionContext) -> None:
        ctx.reply("one")
        raise KeyError("a secret")

    page = Page()
    async with MiniAgents():
        replies = fails.trigger()
        await read_all(page, replies)
        assert page.names == ["message", "token", "done", "message", "failed", "end"]
        assert page.failed == ["KeyError"]
        again = Page(page.messages)
        await read_all(again, replies, page.last_event_id)
    assert again.names == ["failed", "end"]


def test_comments_keep_a_silent_connection_alive() -> None:
    """A comment comes after each `keep_alive` seconds without an event, also before the first event."""

    async def amain() -> list[tuple[float, bytes]]:
        async def slow(_: dict[str, Any]) -> AsyncIterator[str]:
            await asyncio.sleep(40)
            yield "late"
            await asyncio.sleep(5)

        loop = asyncio.get_running_loop()
        start = loop.time()
        async with MiniAgents():
            replies = pass_on.trigger(AssistantMessage.promise(message_token_streamer=slow))
            return [(loop.time() - start, chunk.splitlines()[0]) async for chunk in sse(replies, keep_alive=15)]

    assert run_in_virtual_time(amain()) == [
        (0, b"retry: 1000"),
        (0, b"event: message"),
        (15, b": keep-alive"),
        (30, b": keep-alive"),
        (40, b"event: token"),
        (45, b"event: done"),
        (45, b"event: end"),
    ]


async def test_W4_browser_that_leaves_stops_no_agent() -> None:
    """If the task that sends the events is cancelled, the agent goes on, and other readers get all tokens."""
    page, other = Page(), Page()
    async with MiniAgents():
        replies = pass_on.trigger(streamed([str(n) for n in range(100)]))
        reading = asyncio.create_task(read_all(page, replies))
        for _ in range(30):
            await asyncio.sleep(0)
        assert len(page.messages[0][1]) < 100
        reading.cancel()
        await asyncio.wait([reading])
        await read_all(other, replies)
        await read_all(page, replies, page.last_event_id)
    assert page.messages == other.messages == [["assistant", "".join(map(str, range(100)))]]


@pytest.mark.parametrize(("keep_alive", "retry"), [(0, 1), (15, -1.0), (float("nan"), 1)])
async def test_sse_refuses_times_that_cannot_work(keep_alive: float, retry: float) -> None:
    """`sse` with a `keep_alive` or `retry` that is not above 0 raises a `ValueError` instead of its first event."""
    async with MiniAgents():
        with pytest.raises(ValueError, match="seconds above 0"):
            await anext(aiter(sse(pass_on.trigger("x"), keep_alive=keep_alive, retry=retry)))
