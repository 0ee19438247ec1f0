"""Running the work of a tool, and its result as text.

An async function is awaited, an async generator is read while it yields, any other function runs in a thread of its
own. The text of a value is the value itself if it is a text, else its JSON. Independent of models and of the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncIterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from pydantic_core import to_json

from miniagents._promising.freezing import BARE
from miniagents.messages import Message, MessagePromise, MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

P = ParamSpec("P")
T = TypeVar("T")


async def run_function(
    function: Callable[..., Any], arguments: dict[str, Any], name: str
) -> AsyncGenerator[str | tuple[Any, ...]]:
    """Call a function, and yield the text of what it returns, or of each value that it yields.

    Args:
        function: an async function, an async generator function, or any other function, which runs in a thread.
        arguments: its keyword arguments.
        name: the name of the thread.
    """
    if _is_async(function):
        result = function(**arguments)
    else:
        # A daemon thread: the process does not wait for it, and neither does a call that is cancelled.
        work = partial(contextvars.copy_context().run, _call_to_the_end, function, arguments)
        result = await asyncio.get_running_loop().run_in_executor(_DaemonThreads(name), work)
    if inspect.isawaitable(result) and not isinstance(result, (MessagePromise, MessageSequencePromise)):
        result = await result
    if isinstance(result, _Yielded):
        if result.text:
            yield result.text
        if result.error is not None:
            raise result.error
        return
    if isinstance(result, MessagePromise):
        result = MessageSequencePromise.of_items(result)
    if isinstance(result, MessageSequencePromise):
        async with aclosing(stream_replies(result)) as pieces:
            async for piece in pieces:
                yield piece
    elif isinstance(result, AsyncIterable):
        try:
            async for value in result:
                yield value if isinstance(value, str) else f"{text_of(value)}\n"
        finally:
            if (aclose := getattr(result, "aclose", None)) is not None:
                await aclose()
    elif isinstance(result, Message) and isinstance(result.content, tuple):
        yield result.content
    elif text := text_of(result):
        yield text


async def stream_replies(replies: MessageSequencePromise) -> AsyncGenerator[str | tuple[Any, ...]]:
    """Yield the text of replies while they come, without calls of tools and their results."""
    async for batch in replies.as_single_text_promise(reference_original_messages=False).batches():
        for token in batch:
            yield token


def text_of(value: Any) -> str:
    """Return a value as the text of a result: a text as it is, "" for None, a message's text, else JSON.

    Raises:
        ValueError: the value is no text and cannot be JSON.
    """
    if value is None:
        return ""
    if isinstance(value, (str, Message)):
        return str(value)
    return to_json(value, context=BARE).decode()


class _Yielded(NamedTuple):
    """Values that a generator has yielded in a thread."""

    text: str
    error: BaseException | None
    """Error that the generator raised after these values."""


def _call_to_the_end(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a function in this thread; read the values that a generator yields here, too, up to its end or error."""
    result = function(**arguments)
    if not isinstance(result, Iterator):
        return result
    texts: list[str] = []
    try:
        for value in result:
            text = value if isinstance(value, str) else f"{text_of(value)}\n"
            texts.append(text)
    except BaseException as error:
        return _Yielded("".join(texts), error)
    return _Yielded("".join(texts), None)


def _is_async(function: Any) -> bool:
    """Return True if a call of the function only makes a coroutine or an async generator."""
    while isinstance(function, partial):
        function = function.func
    for each in (function, getattr(function, "__call__", None)):  # noqa: B004 - is that method async?
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            return True
    return False


class _DaemonThreads(Executor):
    """Executor that runs each job in a new daemon thread, so that no job keeps the process alive.

    Args:
        name: the name of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a thread that calls the function, and return the future of its result."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            """Call the function, and give its result or its error to the future."""
            try:
                result = function(*args, **kwargs)
            except StopIteration as error:  # no coroutine may raise this
                future.set_exception(RuntimeError(f"the function raised StopIteration({error})"))
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=work, name=f"tool {self._name}", daemon=True).start()
        return future
