"""Copies of objects that belong to a run are refused; messages can be copied (C32 of the faults)."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest
from common import echo, streamed
from pydantic import BaseModel, ConfigDict

from miniagents._promising.promise import Promise
from miniagents._promising.streamed import StreamAppender, StreamedPromise
from miniagents.errors import CopyError, MiniAgentsError
from miniagents.messages import Message, MessageSequence, MessageSequencePromise
from miniagents.messages._text import join_messages, split_messages
from miniagents.miniagents import AgentCall, InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Model(BaseModel):
    """Pydantic model of an application, with a field of any type."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    held: Any


@dataclasses.dataclass
class State:
    """Dataclass of an application, which holds any value."""

    held: Any


WAYS: dict[str, Callable[[Any], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "in a list": lambda thing: copy.deepcopy(["first", [thing]]),
    "in a dict": lambda thing: copy.deepcopy({"key": (thing,)}),
    "in a model": lambda thing: Model(held=[thing]).model_copy(deep=True),
    "in a dataclass": lambda thing: dataclasses.asdict(State(thing)),
    "pickled in a list": lambda thing: pickle.dumps([thing], protocol=0),
}


async def numbers() -> AsyncIterator[int]:
    """Yield a number, as a source of pieces."""
    yield 1


async def number() -> int:
    """Return a number, as a resolver."""
    return 1


@miniagent
async def context_of_itself(ctx: InteractionContext, into: list[Any]) -> None:
    """Append the context of the call to a list."""
    into.append(ctx)


@pytest.mark.parametrize("way", WAYS)
async def test_C32_copy_of_an_object_of_a_run_is_refused(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying or pickling an object of a run raises an error with advice; the messages themselves can be copied."""
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    async with MiniAgents() as context:
        contexts: list[Any] = []
        await context_of_itself.trigger(into=contexts)
        call, appender, message = echo.initiate_call("text"), MessageSequence(), streamed("text")
        replies = echo.trigger("text")
        things: list[Any] = [
            message, Message("text").as_promise, replies, call, call.reply_sequence(), appender,
            appender.sequence_promise, StreamAppender(), StreamAppender().promise, Promise(number),
            StreamedPromise(numbers), split_messages("text"), join_messages("text"), aiter(replies), replies.batches(),
            context, *contexts,
        ]  # fmt: skip
        for thing in things:
            with pytest.raises(CopyError, match=rf"A {type(thing).__name__} cannot be copied.* await it") as caught:
                WAYS[way](thing)
            assert isinstance(caught.value, TypeError)
            assert isinstance(caught.value, MiniAgentsError)
        [reply] = await replies
        assert copy.deepcopy(reply) == reply
        del things, thing, caught, call
        gc.collect()
    assert noise == []


async def test_objects_of_a_failed_constructor_are_collected_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A promise or call whose constructor failed is garbage-collected without an error in `__del__`."""
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    makers: list[Callable[[], Any]] = [
        lambda: Message.promise(message_token_streamer=3),  # type: ignore[arg-type]  # that is the mistake
        lambda: MessageSequencePromise(3),  # type: ignore[call-overload]  # that is the mistake
        lambda: Promise(3),  # type: ignore[arg-type]  # that is the mistake
        lambda: AgentCall(),  # type: ignore[call-arg]  # that is the mistake
    ]
    for make in makers:
        with pytest.raises(TypeError):
            make()
    for kind in (AgentCall, MessageSequencePromise, Promise):
        kind.__new__(kind)
    await asyncio.sleep(0)
    gc.collect()
    assert noise == []
