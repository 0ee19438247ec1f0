"""A model that answers from a script: its calls, and the agents and clients that ask it.

What a provider agent needs of an SDK's client, without SDK and without HTTP: a request becomes bytes of a script.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing, asynccontextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import from_json

from miniagents import InteractionContext, MissingExtraError
from miniagents_testing._playing import Gate, aplay, await_headers
from miniagents_testing._script import API, Call, Failure, Step, as_answer, script_items
from miniagents_testing._wire import rendered
from miniagents_testing.errors import ScriptError, UnconsumedStepsError, UnexpectedCallError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from miniagents import MiniAgent
    from miniagents.ext.llm._failures import Retry
    from miniagents_testing._script import API, Script
    from miniagents_testing._scripted.transport import ScriptedTransport
    from miniagents_testing._streams import ResponseStream


class APIConnectionError(Exception):
    """What SDKs make of whatever is raised before a response; the framework knows it by its name."""


class APIStatusError(Exception):
    """What SDKs make of a response with an error status; the framework knows it by its name."""

    def __init__(self, response: ResponseStream) -> None:
        super().__init__(f"Error code: {response.status}")
        self.status_code = response.status
        self.response = SimpleNamespace(headers=_headers(response))
        try:
            self.body: Any = from_json(response.body)
        except ValueError:
            self.body = response.body.decode(errors="replace")


class ScriptedClient:
    """Stands where `AsyncOpenAI` and `AsyncAnthropic` stand in a provider agent."""

    base_url = SimpleNamespace(host="api.openai.com")  # the framework asks for usage where it knows the host

    def __init__(self, llm: ScriptedLLM) -> None:
        self.chat = SimpleNamespace(completions=_endpoint(llm, "chat"))
        self.responses = _endpoint(llm, "responses")
        self.messages = _endpoint(llm, "messages")

    def with_options(self, **options: Any) -> Self:
        """Options of the SDK are about HTTP."""
        return self


def _endpoint(llm: ScriptedLLM, api: API) -> SimpleNamespace:
    @asynccontextmanager
    async def create(
        *, extra_headers: Any = None, extra_body: dict[str, Any] | None = None, **body: Any
    ) -> AsyncIterator[SimpleNamespace]:
        started = asyncio.get_running_loop().time()
        try:
            stream = llm.respond(api, {**body, **(extra_body or {})})
        except Exception as error:
            raise APIConnectionError("the script raises an error") from error
        await await_headers(stream, llm.pace)
        if stream.status >= 400:
            raise APIStatusError(stream)
        async with aclosing(aplay(stream, started, llm.pace, gate=llm.gate)) as chunks:
            http_response = SimpleNamespace(is_stream_consumed=False, aiter_raw=lambda: chunks)
            yield SimpleNamespace(headers=_headers(stream), http_response=http_response)

    return SimpleNamespace(with_streaming_response=SimpleNamespace(create=create))


def _headers(stream: ResponseStream) -> dict[str, str]:
    return {name: ", ".join(values) for name, values in stream.headers.items()}


_SHOWN = 10
"""Steps and calls that are listed in a message."""


class ScriptedLLM:
    """A model that answers from a script. One object for any number of agents and clients; calls get steps in turn.

    Args:
        script: a text, a step, a list with one step a call, or a function from a `Call` to its answer. See `Step`.
        pace: factor on all times of the script.
        overlay: what each response is changed by before it is played: other cuts, faults.

    Raises:
        TypeError: something in the script cannot be a step.
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

    # --- looking at what happened

    @property
    def calls(self) -> tuple[Call, ...]:
        """What was asked so far, in order; those that were not expected too."""
        return tuple(self._calls)

    @property
    def last_call(self) -> Call:
        """The last of `calls`.

        Raises:
            ScriptError: there was none.
        """
        if not self._calls:
            raise ScriptError("the scripted model was not called yet")
        return self._calls[-1]

    def assert_complete(self) -> None:
        """Check that each step was used and that no call was too much, also where the app has caught that error.

        Raises:
            UnexpectedCallError: there was a call too much.
            UnconsumedStepsError: steps are left.
        """
        if self._unexpected is not None:
            raise self._unexpected
        if callable(self._items) or len(self._calls) >= len(self._items):
            return
        used, steps = len(self._calls), len(self._items)
        what = f"{steps - used} of {steps} steps were not used, because there {_were(used)}:"
        left = [f"  step {number}: {item!r}" for number, item in enumerate(self._items[used:], used + 1)]
        more = [f"  ... and {len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
        calls = [f"  {call}" for call in self._calls[-_SHOWN:]]
        raise UnconsumedStepsError("\n".join([what, *left[:_SHOWN], *more, *calls]))

    def release(self) -> None:
        """Let the answers go on that stopped at `then="hold"`, and those that would."""
        self.gate.release()

    # --- being asked

    def respond(self, api: API, request: Mapping[str, Any]) -> ResponseStream:
        """The answer to one request: its call is noted, and takes the next step.

        Args:
            api: which API is asked.
            request: the body of the request.

        Raises:
            UnexpectedCallError: no step is left.
            Exception: the step is one, or a function of the script has failed.
        """
        try:
            call, item = self._next(api, request)
            if callable(item):
                item = as_answer(item(call), f"what the script answers to {call}")
        except UnexpectedCallError as error:
            self._unexpected = self._unexpected or error
            raise
        if isinstance(item, Exception):
            raise item
        stream = rendered(item, call) if isinstance(item, Step | Failure) else item
        return stream if self._overlay is None else self._overlay(stream)

    def _next(self, api: API, request: Mapping[str, Any]) -> tuple[Call, Any]:
        with self._lock:
            call = Call.of(len(self._calls) + 1, api, request, _agents())
            self._calls.append(call)
            if callable(self._items):
                return call, self._items
            if call.number <= len(self._items):
                return call, self._items[call.number - 1]
        used = [
            f"  step {number}: {step!r} was for {earlier}"
            for number, (step, earlier) in enumerate(zip(self._items, self._calls, strict=False), 1)
        ]
        more = [f"  ... and {len(used) - _SHOWN} before"] if len(used) > _SHOWN else []
        what = f"{call} was not expected: all {len(used)} steps of the script are used"
        raise UnexpectedCallError("\n".join([what, *more, *used[-_SHOWN:]]))

    # --- standing in for a model

    def agent(
        self,
        model: str = "scripted-model",
        *,
        alias: str = "SCRIPTED_AGENT",
        api: API = "chat",
        async_client: Any = None,
        retry: Retry | None = None,
        **settings: Any,
    ) -> MiniAgent[Any]:
        """An agent that answers from the script, in place of any agent that asks a model.

        It is the provider's own agent with another client: everything but HTTP and the SDK is real, and no SDK needs to
        be installed. Takes what `create_openai_agent` and `create_anthropic_agent` take.

        Args:
            model: what the API calls the model.
            alias: how the agent is named in traces.
            api: whose agent it is, and whose bytes are decoded.
            async_client: ignored: nothing is ever sent.
            retry: None, other than with those agents: each call of the agent takes one step.
            settings: everything else.
        """
        from miniagents.ext.llm.anthropic import create_anthropic_agent
        from miniagents.ext.llm.openai import create_openai_agent

        common = {"async_client": ScriptedClient(self), "alias": alias, "retry": retry, **settings}
        if api == "messages":
            return create_anthropic_agent(model, **common)
        return create_openai_agent(model, api=api, **common)

    def transport(self) -> ScriptedTransport:
        """A transport for `httpx2.AsyncClient` and `httpx2.Client` that speaks the API of whichever path is asked."""
        _imported("httpx2", "testing")
        from miniagents_testing._scripted.transport import ScriptedTransport

        return ScriptedTransport(self)

    def openai_client(self, **options: Any) -> AsyncOpenAI:
        """OpenAI's client on `transport()`; it does not retry, unless `max_retries=` among the options says so."""
        sdk = _imported("openai", "openai")
        client: AsyncOpenAI = sdk.AsyncOpenAI(**self._options("https://api.openai.com/v1", options))
        return client

    def anthropic_client(self, **options: Any) -> AsyncAnthropic:
        """Anthropic's client on `transport()`; it does not retry, unless `max_retries=` among the options says so."""
        sdk = _imported("anthropic", "anthropic")
        client: AsyncAnthropic = sdk.AsyncAnthropic(**self._options("https://api.anthropic.com", options))
        return client

    def _options(self, base_url: str, options: dict[str, Any]) -> dict[str, Any]:
        http_client = _imported("httpx2", "testing").AsyncClient(transport=self.transport())
        defaults = {"api_key": "no-key-is-needed", "max_retries": 0, "base_url": base_url, "http_client": http_client}
        return {**defaults, **options}


def create_scripted_agent(script: Script, *, alias: str = "SCRIPTED_AGENT", **settings: Any) -> MiniAgent[Any]:
    """An agent that answers from a script, in place of any agent that asks a model.

    To look at what it was asked, make a `ScriptedLLM` and take its `agent()`, whose arguments these are.
    """
    return ScriptedLLM(script).agent(alias=alias, **settings)


def _imported(package: str, extra: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError.of(package, extra) from error


def _agents() -> tuple[str, ...]:
    """Whose call this is, as far as the framework knows."""
    try:
        return tuple(InteractionContext.get_current().get_agent_trace())
    except LookupError:
        return ()


def _were(calls: int) -> str:
    return f"were {calls} calls" if calls != 1 else "was 1 call"
