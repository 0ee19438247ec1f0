"""Scripted models and users, which answer an app from a script in place of a model or a person.

```python
llm = ScriptedLLM(["Hello!", "Goodbye!"])
agent = llm.agent()                     # in place of create_openai_agent(...) or create_anthropic_agent(...)
client = llm.openai_client()            # or: OpenAI's own client, which reads the script as bytes of responses
...
assert llm.last_call.text == "The last message of the app"
llm.assert_complete()
```

A model keeps its calls. Its agents are those of the providers, on a client without SDK and HTTP, which turns a request
into bytes of the script. `transport` serves the clients of the SDKs; it needs httpx2, so it is imported at its first
use. `miniagents_testing._provider_server` serves a script over a socket.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing, asynccontextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import from_json

from miniagents import (
    ChatHistory,
    InMemoryChatHistory,
    InteractionContext,
    Message,
    MiniAgent,
    MissingExtraError,
    StopDialog,
    UserMessage,
)
from miniagents._promising.freezing import short_repr
from miniagents_testing._script import SCRIPTED_ALIAS, Call, Failure, Step, as_answer, script_items
from miniagents_testing._streams import Gate, aplay, await_headers
from miniagents_testing._wire import render
from miniagents_testing._words import counted, first_lines
from miniagents_testing.errors import ScriptError, UnconsumedStepsError, UnexpectedCallError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from miniagents.ext.llm._failures import Retry
    from miniagents_testing._script import API, Script
    from miniagents_testing._scripted.transport import ScriptedTransport
    from miniagents_testing._streams import ResponseStream


__all__ = ["ScriptedLLM", "ScriptedUser", "create_scripted_agent", "create_scripted_user"]


class APIConnectionError(Exception):
    """Error of an SDK about a failure before any response. The framework recognizes it by its name."""


class APIStatusError(Exception):
    """Error of an SDK about a response with an error status. The framework recognizes it by its name."""

    def __init__(self, response: ResponseStream) -> None:
        super().__init__(f"Error code: {response.status}")
        self.status_code = response.status
        self.response = SimpleNamespace(headers=_headers(response))
        try:
            self.body: Any = from_json(response.body)
        except ValueError:
            self.body = response.body.decode(errors="replace")


class _ScriptedClient:
    """Client of a scripted model, with the parts of `AsyncOpenAI` and `AsyncAnthropic` that a provider agent uses."""

    def __init__(self, llm: ScriptedLLM, host: str) -> None:
        self.base_url = SimpleNamespace(host=host, port=None)  # of the provider, for `origin` and for usage in streams
        self.chat = SimpleNamespace(completions=_endpoint(llm, "chat"))
        self.responses = _endpoint(llm, "responses")
        self.messages = _endpoint(llm, "messages")

    def with_options(self, **options: Any) -> Self:
        """Return the same client: options of the SDK concern HTTP only."""
        return self


def _endpoint(llm: ScriptedLLM, api: API) -> SimpleNamespace:
    """Return an object whose `with_streaming_response.create` answers a request from the script."""

    @asynccontextmanager
    async def create(
        *, extra_headers: Any = None, extra_body: dict[str, Any] | None = None, **body: Any
    ) -> AsyncIterator[SimpleNamespace]:
        """Answer one request from the script: wait for the headers, and give them with the chunks, which come when due.

        Raises:
            APIConnectionError: the script raises an error, which is the cause.
            APIStatusError: the status is 400 or more.
        """
        started = asyncio.get_running_loop().time()
        try:
            stream = llm.respond(api, {**body, **(extra_body or {})})
        except Exception as error:
            raise APIConnectionError("the script raises an error") from error
        await await_headers(stream, llm.pace)
        if stream.status >= 400:
            raise APIStatusError(stream)
        async with aclosing(aplay(stream, started, llm.pace, gate=llm.gate)) as chunks:
            http_response = SimpleNamespace(is_stream_consumed=False, stream=chunks)
            yield SimpleNamespace(headers=_headers(stream), http_response=http_response)

    return SimpleNamespace(with_streaming_response=SimpleNamespace(create=create))


def _headers(stream: ResponseStream) -> dict[str, str]:
    """Return the headers of a response as an SDK shows them: one text for each name."""
    return {name: ", ".join(values) for name, values in stream.headers.items()}


_MAX_LISTED = 10
"""Maximum number of steps, and of calls, that an error message lists."""


_UNREAD = "If its agent was triggered, the replies were not read: write `await agent.trigger(...)`"
"""Advice for a model that was never called: an agent whose replies are dropped unread sends no request."""


class ScriptedLLM:
    """A model that answers from a script, for any number of agents and clients. Each call takes the next step.

    Args:
        script: a text, a step, a list with one step for each call, or a function from a `Call` to its answer. See
            `Step`.
        pace: factor of all waits in the script.
        overlay: function that changes each response before it is played, for example its cuts, or with a fault.

    Raises:
        TypeError: an item of the script cannot be a step.
    """

    def __init__(
        self,
        script: Script,
        *,
        pace: float = 1.0,
        overlay: Callable[[ResponseStream], ResponseStream] | None = None,
    ) -> None:
        self.pace = pace
        self.gate = Gate()
        self._items = script_items(script)
        self._overlay = overlay
        self._calls: list[Call] = []
        self._unexpected: UnexpectedCallError | None = None
        self._lock = threading.Lock()

    # --- checks after the calls

    @property
    def calls(self) -> tuple[Call, ...]:
        """Calls so far, in order, those that no step was left for included."""
        return tuple(self._calls)

    @property
    def last_call(self) -> Call:
        """The last of `calls`.

        Raises:
            ScriptError: there was no call yet.
        """
        if not self._calls:
            raise ScriptError(f"the scripted model was not called yet, so that there is no last call. {_UNREAD}")
        return self._calls[-1]

    def assert_complete(self) -> None:
        """Check that each step was used, and that no call came without a step, even if the app caught that error.

        Raises:
            UnexpectedCallError: a call came when no step was left.
            UnconsumedStepsError: steps were not used.
        """
        if self._unexpected is not None:
            raise self._unexpected
        if callable(self._items) or len(self._calls) >= len(self._items):
            return
        used, steps = len(self._calls), len(self._items)
        unused = counted(steps - used, "step was", "steps were")
        left = [f"step {number}: {item!r}" for number, item in enumerate(self._items[used:], used + 1)]
        lines = [f"{unused} not used: the model was called {counted(used, 'time')}", *first_lines(left, _MAX_LISTED)]
        if not used:
            lines.append(f"  {_UNREAD}")
        lines += [f"  {call}" for call in self._calls[-_MAX_LISTED:]]
        raise UnconsumedStepsError("\n".join(lines))

    def release(self) -> None:
        """Continue the answers that stopped at `then="hold"`; later answers do not stop there any more."""
        self.gate.release()

    # --- answers

    def respond(self, api: API, request: Mapping[str, Any]) -> ResponseStream:
        """Record the call of one request, and return the response of the next step.

        Args:
            api: the API of the request.
            request: the body of the request.

        Raises:
            UnexpectedCallError: no step is left.
            Exception: the step is an exception, or a function of the script raised it.
        """
        try:
            call, item = self._next(api, request)
            if callable(item):
                item = as_answer(item(call), f"the answer of the script to {call}")
        except UnexpectedCallError as error:
            self._unexpected = self._unexpected or error
            raise
        if isinstance(item, Exception):
            raise item
        stream = render(item, call) if isinstance(item, Step | Failure) else item
        return stream if self._overlay is None else self._overlay(stream)

    def _next(self, api: API, request: Mapping[str, Any]) -> tuple[Call, Any]:
        """Record the call of a request, and return it with its step; a function as script is the step of each call.

        Raises:
            UnexpectedCallError: no step is left; the text lists the steps and their calls.
        """
        with self._lock:
            call = Call.of(len(self._calls) + 1, api, request, _current_agents())
            self._calls.append(call)
            if callable(self._items):
                return call, self._items
            if call.number <= len(self._items):
                return call, self._items[call.number - 1]
        steps = len(self._items)
        who = call.agent or "a client"
        asked = f"{who} asked {short_repr(call.text)} (call {call.number})"
        lines = [f"{asked}, and no step is left: the script has {counted(steps, 'step')}"]
        if steps > _MAX_LISTED:
            lines.append(f"  {counted(steps - _MAX_LISTED, 'earlier step')}")
        lines += [
            f"  step {number}: {step!r} was for {earlier}"
            for number, (step, earlier) in enumerate(zip(self._items, self._calls, strict=False), 1)
        ][-_MAX_LISTED:]
        raise UnexpectedCallError("\n".join(lines))

    # --- agents and clients

    def agent(
        self,
        model: str = "scripted-model",
        *,
        alias: str = SCRIPTED_ALIAS,
        api: API = "chat",
        async_client: Any = None,
        retry: Retry | None = None,
        **settings: Any,
    ) -> MiniAgent[Any]:
        """Return an agent that answers from the script, in place of an agent that uses a model.

        It is the provider's agent with another client: all but HTTP and the SDK is real, and no SDK needs to be
        installed. It takes the arguments of `create_openai_agent` and `create_anthropic_agent`.

        Args:
            model: name of the model in requests.
            alias: name of the agent in traces.
            api: the API whose agent is made, and whose bytes are decoded.
            async_client: ignored, since the agent sends no requests.
            retry: how failed calls are retried; by default they are not, so that each call takes one step.
            settings: further arguments of the provider's agent.
        """
        from miniagents.ext.llm.anthropic import create_anthropic_agent
        from miniagents.ext.llm.openai import create_openai_agent

        host = "api.anthropic.com" if api == "messages" else "api.openai.com"
        common = {"async_client": _ScriptedClient(self, host), "alias": alias, "retry": retry, **settings}
        if api == "messages":
            return create_anthropic_agent(model, **common)
        return create_openai_agent(model, api=api, **common)

    def transport(self) -> ScriptedTransport:
        """Return a transport for `httpx2.AsyncClient` and `httpx2.Client`; the path of a request selects the API.

        Raises:
            MissingExtraError: httpx2 is not installed.
        """
        _import("httpx2", "testing")
        from miniagents_testing._scripted.transport import ScriptedTransport

        return ScriptedTransport(self)

    def openai_client(self, **options: Any) -> AsyncOpenAI:
        """Return OpenAI's client on `transport()`.

        Args:
            options: options of the client, which override the defaults: a made-up key, and no retries.

        Raises:
            MissingExtraError: the SDK or httpx2 is not installed.
        """
        sdk = _import("openai", "openai")
        client: AsyncOpenAI = sdk.AsyncOpenAI(**self._options("https://api.openai.com/v1", options))
        return client

    def anthropic_client(self, **options: Any) -> AsyncAnthropic:
        """Return Anthropic's client on `transport()`.

        Args:
            options: options of the client, which override the defaults: a made-up key, and no retries.

        Raises:
            MissingExtraError: the SDK or httpx2 is not installed.
        """
        sdk = _import("anthropic", "anthropic")
        client: AsyncAnthropic = sdk.AsyncAnthropic(**self._options("https://api.anthropic.com", options))
        return client

    def _options(self, base_url: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of an SDK client: this model's transport and the defaults, overridden by `options`."""
        http_client = _import("httpx2", "testing").AsyncClient(transport=self.transport())
        defaults = {"api_key": "no-key-is-needed", "max_retries": 0, "base_url": base_url, "http_client": http_client}
        return {**defaults, **options}


def create_scripted_agent(script: Script, *, alias: str = SCRIPTED_ALIAS, **settings: Any) -> MiniAgent[Any]:
    """Return an agent that answers from a script, in place of an agent that uses a model.

    To look at its calls, make a `ScriptedLLM` and use its `agent()`, which takes the same arguments.

    Args:
        script: see `ScriptedLLM`.
        alias: name of the agent in traces.
        settings: further arguments of `ScriptedLLM.agent`.
    """
    return ScriptedLLM(script).agent(alias=alias, **settings)


def _import(package: str, extra: str) -> Any:
    """Import a package; raise `MissingExtraError` with the extra to install if there is no such package."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError.of(package, extra) from error


def _current_agents() -> tuple[str, ...]:
    """Return the aliases of the running agent and of its callers; empty if no agent is running."""
    try:
        return tuple(InteractionContext.get_current().get_agent_trace())
    except LookupError:
        return ()


# --- the user


class ScriptedUser(MiniAgent[[]]):
    """Agent that says given lines in the user's place in a dialog; `create_scripted_user` makes it."""

    def __init__(self, lines: Iterable[str | Message], chat_history: ChatHistory, alias: str, description: str) -> None:
        super().__init__(self._speak, alias=alias, description=description)
        self._lines = [_line(line) for line in lines]
        self._said = 0
        self._history = chat_history
        self._heard: list[Message] = []

    @property
    def heard(self) -> tuple[Message, ...]:
        """All messages that this user received."""
        return tuple(self._heard)

    def assert_complete(self) -> None:
        """Check that the user said all lines.

        Raises:
            UnconsumedStepsError: the dialog ended before the last line.
        """
        left = self._lines[self._said :]
        if left:
            lines = "\n".join(
                f"  line {number}: {str(line)!r:.200}" for number, line in enumerate(left, self._said + 1)
            )
            many = f"{len(left)} of {counted(len(self._lines), 'line')}"
            raise UnconsumedStepsError(f"the dialog ended before {self.alias} said {many}:\n{lines}")

    async def _speak(self, ctx: InteractionContext) -> None:
        """Store the received messages, and reply the chat with the next line; raise `StopDialog` if no line is left."""
        self._heard += await self._history.logging_agent.trigger(ctx.message_promises)
        if self._said == len(self._lines):
            raise StopDialog(f"{self.alias} has said everything")
        line = self._lines[self._said]
        self._said += 1
        await self._history.aappend(line)
        ctx.reply(await self._history.aload_chat_history())


def _line(line: Any) -> Message:
    """Return a line of the user as a message; raise `TypeError` for a wrong type."""
    if isinstance(line, str):
        return UserMessage(line)
    if not isinstance(line, Message):
        raise TypeError(f"a line must be a text or a message, not {line!r:.200}")
    return line


def create_scripted_user(
    lines: Iterable[str | Message],
    *,
    chat_history: ChatHistory | None = None,
    alias: str = "SCRIPTED_USER",
    description: str = "Says what a script says.",
) -> ScriptedUser:
    """Return a user for `adialog_loop`, in place of `create_console_user_agent`.

    In each turn the user waits until all messages to it are complete, and replies the whole chat with its next line at
    the end. A turn after the last line raises `StopDialog`. Of a message that fails, the user keeps the received part
    and raises the error, like the user at the console.

    Args:
        lines: lines of the user, one for each turn; a text becomes a `UserMessage`.
        chat_history: history of the chat; by default one in memory, for this agent alone.
        alias: name of the agent in traces.
        description: description of the agent.

    Raises:
        TypeError: a line is neither a text nor a message.
    """
    history = InMemoryChatHistory() if chat_history is None else chat_history
    return ScriptedUser(lines, history, alias, description)
