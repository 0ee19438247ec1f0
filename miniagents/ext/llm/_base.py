"""Base of the agents of all providers: settings, limits of concurrent requests, default clients, and the reply.

A provider's module derives a class from `ProviderAdapter`. The requests go through the provider's SDK; the responses
are read by `_streaming`. This module is independent of the forms of prompts and responses.

`known_price` asks the package genai-prices (the extra `prices`) what a request costs. The package takes 0.3 seconds to
import, so it is imported at the first question for a price.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property, lru_cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast
from weakref import WeakKeyDictionary

from miniagents._agents.usage import ListedPrices
from miniagents.acting._loop import LoopSettings, check_decisions, run_loop
from miniagents.acting._output import Output
from miniagents.acting._tool import Toolset
from miniagents.ext.llm._failures import NO_RETRY, Retry
from miniagents.ext.llm._pairing import field_of
from miniagents.ext.llm._parameters import check_client, check_parameters
from miniagents.ext.llm._prompts import check_roles, messages_for_model
from miniagents.ext.llm._redaction import Redactor, redact_logs, secrets_of_client
from miniagents.ext.llm._sessions.base import repair_deep
from miniagents.ext.llm._streaming import LLMCall, stream_answer
from miniagents.messages import MessagePromise, MessageSequencePromise
from miniagents.miniagents import MiniAgent, MiniAgents
from miniagents.observing import observe_part

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from miniagents.acting._loop import OnCalls
    from miniagents.acting._output import OutputTool
    from miniagents.acting._tool import Tool
    from miniagents.ext.llm._sessions import Session
    from miniagents.messages import AssistantMessage, Message, MessageType, Usage
    from miniagents.miniagents import InteractionContext
    from miniagents.observing import Observation


logger = logging.getLogger("miniagents.llm")

_UNLIMITED = nullcontext()


class _RequestLimits:
    """Limits of the concurrent requests of an agent and all its forks; each event loop has limits of its own."""

    def __init__(self) -> None:
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, asyncio.Semaphore]] = (
            WeakKeyDictionary()
        )

    def admit(self, at_once: int | None) -> AbstractAsyncContextManager[Any]:
        """Return a context manager for one request: it waits until fewer than `at_once` run, and then counts as one.

        Requests in one event loop with the same `at_once` count together. None sets no limit.

        Raises:
            ValueError: `at_once` is not positive.
        """
        if at_once is None:
            return _UNLIMITED
        if at_once < 1:
            raise ValueError(f"max_concurrent_requests must be at least 1, not {at_once!r}")
        semaphores = self._semaphores.setdefault(asyncio.get_running_loop(), {})
        return semaphores.setdefault(at_once, asyncio.Semaphore(at_once))


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, tuple[Any, AsyncGenerator[None]]]] = (
    WeakKeyDictionary()
)


async def shared_client(name: str, prefix: str, make: Callable[[], Any]) -> Any:
    """Return the SDK client that the agents of this event loop share; the first call makes it.

    Sharing saves time: a client takes 17 ms to make, mostly for its TLS context. Connections belong to a loop, so
    each loop has clients of its own. A client is closed together with the asynchronous generators of its loop.
    `asyncio.run` and similar runners close these generators at the end.

    Args:
        name: the kind of client.
        prefix: prefix of the environment variables that configure the client. A change of their values, or of the
            proxy variables, leads to another client.
        make: makes the client.
    """
    loop = asyncio.get_running_loop()
    configuration = tuple(
        sorted(
            (key, value)
            for key, value in os.environ.items()
            if key.startswith(prefix) or key.upper().endswith("_PROXY")
        )
    )
    clients = _clients.setdefault(loop, {})
    key = (name, configuration)
    if key not in clients:
        client = make()
        keeper = _close_with_loop(client, lambda: clients.pop(key, None))
        clients[key] = client, keeper
        await anext(keeper)
    return clients[key][0]


async def _close_with_loop(client: Any, forget: Callable[[], Any]) -> AsyncGenerator[None]:
    """Close the client when the event loop closes its asynchronous generators.

    The `finally` block of a suspended generator is the only code that is certain to run before the loop closes.
    """
    try:
        yield
    finally:
        forget()
        await client.close()


class _Client(NamedTuple):
    """SDK's client that sends no request again, because `Retry` alone decides on that, and its address."""

    sdk: Any
    url: str
    """Base URL; "" for a client of an application's tests that has none."""
    host: str
    """Host of the URL, with the port if the URL names one, see `AssistantMessage.origin`."""

    @classmethod
    def of(cls, client: Any) -> _Client:
        """Return the client with its address."""
        url = getattr(client, "base_url", None)
        host, port = getattr(url, "host", ""), getattr(url, "port", None)
        return cls(client, "" if url is None else str(url), host if port is None else f"{host}:{port}")


_copies: WeakKeyDictionary[Any, tuple[dict[str, Any], _Client]] = WeakKeyDictionary()
"""Settings of a client, and its copy without retries."""


def _without_retries(client: Any) -> _Client:
    """Return a copy of an SDK's client that sends no request again, with its address.

    The copy shares the HTTP client, and is kept until a setting of the client changes: a new copy would ask a thread
    for the platform before its first request. Return the client itself if a tracer or a test has replaced a method of
    the object, which a copy would not have.
    """
    if has_replaced_methods(client):
        return _Client.of(client)
    try:
        known = _copies.get(client)
    except TypeError:  # a client of an application's tests may have no hash
        return _Client.of(client.with_options(max_retries=0))
    if known is None or not known[0].items() <= vars(client).items():
        # attributes of the SDK's own types, such as `client.chat`, refer to the client, which they would keep alive
        sdk = type(client).__module__.partition(".")[0]
        settings = {name: value for name, value in vars(client).items() if not type(value).__module__.startswith(sdk)}
        known = _copies[client] = settings, _Client.of(client.with_options(max_retries=0))
    return known[1]


def has_replaced_methods(client: Any) -> bool:
    """Return True if a method of the client object, or of its resources such as `client.chat`, was replaced."""
    objects = [client]
    for each in objects:
        kind: type = type(each)
        methods, properties = _methods_and_properties(kind)
        attributes = getattr(each, "__dict__", {})
        if not methods.isdisjoint(attributes):
            return True
        objects += [attributes[name] for name in properties if name in attributes]
    return False


@lru_cache(maxsize=64)
def _methods_and_properties(kind: type) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the names of the methods of a class, and of its properties that keep their value in the object.

    Each request needs these names, and collecting them takes longer than to write the request.
    """
    members: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        members |= vars(each)
    methods = frozenset(name for name, member in members.items() if isinstance(member, FunctionType))
    return methods, tuple(name for name, member in members.items() if isinstance(member, cached_property))


OPENAI_ALIAS = "OPENAI_AGENT"
"""Alias of an agent of OpenAI's API that is given none."""
ANTHROPIC_ALIAS = "ANTHROPIC_AGENT"
"""Alias of an agent of Anthropic's API that is given none."""
DEFAULT_RETRY = Retry()
"""Policy for sending a request again, for agents that are created without `retry=`."""
DEFAULT_STALL_TIMEOUT = 600.0
"""Seconds without progress after which a stream is given up by default.

As long as the SDKs' own timeouts, because some models think for minutes without sending anything.
"""
DEFAULT_MAX_ROUNDS = 10
"""Number of answers whose calls of tools are run by default."""


class ProviderAdapter(ABC):
    """Adapter of one provider: its client, its requests and its class of messages.

    Each agent has one adapter, which all forks of the agent share.
    """

    provider: ClassVar[str]
    message_class: ClassVar[type[AssistantMessage]]

    def __init__(self) -> None:
        self.limits = _RequestLimits()
        self._misspelled: set[str] = set()
        """Names of parameters that a warning was logged for."""
        self._has_warned_of_role = False

    @abstractmethod
    async def default_client(self) -> Any:
        """Return the SDK client for agents that were created without `async_client`; the first call makes it.

        Raises:
            MissingExtraError: the SDK is not installed.
            MissingAPIKeyError: there is no key.
        """

    @abstractmethod
    def api(self, request: Mapping[str, Any]) -> str:
        """Return the API that requests with these settings use: chat, responses or messages."""

    @abstractmethod
    def prepare_request(
        self,
        client: Any,
        messages: list[Message],
        system: Any,
        request: dict[str, Any],
        *,
        origin: str,
        streamed: bool,
        output_tool: str | None,
    ) -> tuple[Callable[..., AbstractAsyncContextManager[Any]], dict[str, Any], Callable[[], Session]]:
        """Translate messages and settings into a call of the SDK.

        Args:
            client: the SDK client.
            messages: the conversation.
            system: instructions that go before the conversation; None for none.
            request: the remaining settings of the agent, which are parameters of the request.
            origin: the API and the host of the request, see `AssistantMessage.origin`.
            streamed: True if a stream is asked for.
            output_tool: the name of the tool whose call is the output; None if the text is the output.

        Returns: the SDK's method (of `with_streaming_response`), its arguments, and a factory of sessions that read
            the response.
        """

    @abstractmethod
    def write_tool(self, tool: Tool | OutputTool, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tool in the form of the API; `request` is the other settings."""

    @abstractmethod
    def output_format(self, output: Output, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that ask for an output by its schema; what `request` has under their names is kept.

        Raises:
            TypeError: the type has no strict schema.
            ValueError: the request has a format of its own.
        """

    @abstractmethod
    def tool_choice(self, given: Any, tool: str | None, *, forced: bool, request: Mapping[str, Any]) -> Any:
        """Return the parameter `tool_choice`; None to leave it out.

        Args:
            given: the choice that the user gave; None if there is none.
            tool: the tool that is to be called; None for any of them.
            forced: True if the model has to call a tool.
            request: the other settings.
        """

    def create_agent(self, alias: str, description: str | None, settings: dict[str, Any]) -> MiniAgent[Any]:
        """Return the agent of this adapter.

        Args:
            alias: the name of the agent in traces and log lines.
            description: one sentence on what the agent does.
            settings: keyword arguments of `reply`; `fork` and `trigger` can change them.

        Raises:
            TypeError, ValueError: a setting has a wrong type or value.
        """
        redact_logs()
        return _LLMAgent(self, alias, description, settings)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check the settings and the types of parameters, and warn once of each that looks misspelled.

        Raises:
            TypeError, ValueError: a setting has a wrong type or value.
        """
        check_parameters(settings, self.api(settings), self._misspelled)
        if settings.get("async_client") is not None:
            check_client(settings["async_client"], self.provider)
        if not isinstance(settings.get("model"), str) or not settings["model"]:
            raise TypeError(f"model must be the name of a model, not {settings.get('model')!r}")
        retry = settings.get("retry")
        if retry is not None and not isinstance(retry, Retry):
            raise TypeError(f"retry must be a Retry, or None for a single attempt, not {retry!r}")
        stall_timeout = settings.get("stall_timeout")
        if stall_timeout is not None and not stall_timeout > 0:
            raise ValueError(f"stall_timeout must be a positive number of seconds, or None, not {stall_timeout!r}")
        limit = settings.get("max_concurrent_requests")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(f"max_concurrent_requests must be a positive int, or None, not {limit!r}")
        toolset = Toolset.of(settings.get("tools"))
        max_rounds = settings.get("max_rounds", DEFAULT_MAX_ROUNDS)
        if isinstance(max_rounds, bool) or not isinstance(max_rounds, int) or max_rounds < 1:
            raise ValueError(f"max_rounds must be a positive int, not {max_rounds!r}")
        if settings.get("tool_errors", "tell") not in ("tell", "raise"):
            raise ValueError(f"tool_errors must be 'tell' or 'raise', not {settings['tool_errors']!r}")
        if settings.get("output_mode", "schema") not in ("schema", "tool"):
            raise ValueError(f"output_mode must be 'schema' or 'tool', not {settings['output_mode']!r}")
        output = Output.of(settings.get("output"))
        if output is None:
            return
        if settings.get("output_mode", "schema") == "schema":
            self.output_format(output, settings)
        elif output.tool.name in toolset.by_name.keys() | toolset.foreign_names:
            raise ValueError(f"output_mode='tool' needs the name {output.tool.name!r}, which one of the tools has")

    def _with_tool_choice(
        self, request: dict[str, Any], toolset: Toolset, output_tool: OutputTool | None, *, has_results: bool
    ) -> dict[str, Any]:
        """Return the request with its `tool_choice`, which forces the call of `output_tool` if the user gave no choice.

        A choice of the user that forces a call is sent only until the tool loop has results (`has_results`): it would
        force a call in each round, and the tool loop would have no end.
        """
        given = request.get("tool_choice")
        forces_output = given is None and output_tool is not None
        goes_on = given is not None and has_results and bool(toolset.by_name)
        if not (forces_output or goes_on):
            return request
        name = None if output_tool is None or toolset else output_tool.name
        choice = self.tool_choice(given, name, forced=output_tool is not None, request=request)
        others = {key: value for key, value in request.items() if key != "tool_choice"}
        return others if choice is None else {**others, "tool_choice": choice}

    def _warn_of_last_role(self, message: Message, alias: str) -> None:
        """Log a warning, once for an agent and its forks, if the last message of a prompt is the answer of a model.

        The prompt is sent nevertheless: a user may want the model to go on with the text, as older models do. Claude
        4.6 and later refuse it, see "Prefill removal" in Anthropic's "What's new in Claude 4.6".
        """
        if message.role == "assistant" and not field_of(message, "tool_calls") and not self._has_warned_of_role:
            self._has_warned_of_role = True
            logger.warning(
                "%s: the prompt ends with a message of the role assistant, which the model is to go on with; Claude "
                "4.6 and later refuse that. To send it the answer of another agent, write "
                "`replies.as_single_text_promise(role='user')`, not `replies`",
                alias,
            )

    def _asked(
        self, url: Any, messages: list[Message], system: Any, parameters: Mapping[str, Any], streamed: bool
    ) -> dict[str, Any]:
        """Return what a request asks for, see `Operation.asked`; without headers, which hold keys.

        Args:
            url: base URL of the client; None for a client of an application's tests that has none.
            messages: the conversation.
            system: instructions that go before the conversation.
            parameters: the other parameters of the request.
            streamed: True if a stream is asked for.
        """
        default_port = {"https": 443, "http": 80}.get(getattr(url, "scheme", "https"))
        return {
            "messages": messages,
            "system": system,
            "provider": self.provider,
            "api": self.api(parameters),
            "address": getattr(url, "host", None),
            "port": getattr(url, "port", None) or default_port,
            "stream": streamed,
            "settings": {
                name: value for name, value in parameters.items() if name not in ("api", "extra_headers", "extra_query")
            },
        }

    def reply(
        self,
        ctx: InteractionContext,
        *,
        async_client: Any = None,
        system: Any = None,
        stream: bool | None = None,
        reply_metadata: Mapping[str, Any] | None = None,
        retry: Retry | None = DEFAULT_RETRY,
        stall_timeout: float | None = DEFAULT_STALL_TIMEOUT,
        max_concurrent_requests: int | None = None,
        tools: Any = None,
        max_rounds: int = DEFAULT_MAX_ROUNDS,
        tool_errors: str = "tell",
        output: Any = None,
        output_mode: str = "schema",
        **request: Any,
    ) -> Awaitable[None] | None:
        """Reply the promise of one answer, and return None; for an agent with tools to run, return the tool loop.

        The caller awaits the tool loop, which replies. The request is sent later, when the tokens of the answer are
        produced.
        """
        alias = ctx.this_agent.alias
        streamed = _streams_by_default() if stream is None else stream
        redactor = Redactor()
        toolset = Toolset.of(tools)
        wanted = Output.of(output)
        output_tool = wanted.tool if wanted is not None and output_mode == "tool" else None
        settings = LoopSettings(
            toolset=toolset,
            max_rounds=max_rounds,
            tells_errors=tool_errors == "tell",
            output=wanted,
            redact=redactor.redact_text,
        )
        if toolset or output_tool is not None:
            written = toolset.written(self.api(request), lambda tool: self.write_tool(tool, request))
            request["tools"] = written + ([] if output_tool is None else [self.write_tool(output_tool, request)])
        if wanted is not None and output_tool is None:
            request |= self.output_format(wanted, request)

        async def prepare(incoming: MessageType, on_calls: OnCalls | None, observation: Observation | None) -> LLMCall:
            """Wait for the messages, and return the call of the SDK, whose own retries are switched off.

            The operation of the observers begins here, with the first attempt.
            """
            conversation = await MessageSequencePromise.of_items(incoming)
            messages = messages_for_model(conversation, alias)
            if len(messages) != len(conversation):  # some were left out, perhaps decisions
                check_decisions(conversation, toolset, alias)
            self._warn_of_last_role(messages[-1], alias)
            client = _without_retries(await self.default_client() if async_client is None else async_client)
            origin = f"{self.api(request)} {client.host}"
            parameters = self._with_tool_choice(request, toolset, output_tool, has_results=messages[-1].role == "tool")
            create, arguments, new_session = self.prepare_request(
                client.sdk,
                messages,
                system,
                parameters,
                origin=origin,
                streamed=streamed,
                output_tool=None if output_tool is None else output_tool.name,
            )
            # a request is JSON in UTF-8, which cannot hold lone surrogates and NaN
            arguments = repair_deep(_fit_to_sdk(create, {**arguments, "stream": streamed}))
            redactor.learn_later(secrets_of_client(client.sdk, arguments["extra_headers"]))
            if observation is not None:
                url = getattr(client.sdk, "base_url", None)
                asked = partial(self._asked, url, messages, system, parameters, streamed)
                observation.begin(asked)
            return LLMCall(
                alias=alias,
                provider=self.provider,
                origin=origin,
                model=request["model"],
                meter=ctx.make_meter(_listed_prices(self.provider, client.url)),
                send=partial(create, **arguments),
                new_session=new_session,
                admit=partial(self.limits.admit, max_concurrent_requests),
                streamed=streamed,
                asks_for_usage=partial(_asks_for_usage, arguments),
                retry=NO_RETRY if retry is None else retry,
                stall_timeout=stall_timeout,
                redactor=redactor,
                on_calls=on_calls,
                check=None if wanted is None else settings.check_output,
            )

        def ask(messages: MessageType, on_calls: OnCalls | None = None) -> MessagePromise:
            """Return the promise of an answer to these messages."""
            observation = None
            if ctx.run_context.observers:
                observation = observe_part(ctx, "request", request["model"], redactor.redact_text)
            return MessagePromise(
                partial(stream_answer, partial(prepare, messages, on_calls, observation)),
                message_class=self.message_class,
                start_soon=None if on_calls is None else True,
                known_beforehand=reply_metadata,
                may_call_tools=bool(toolset),
                output_type=None if wanted is None else wanted.type,
                observation=observation,
            )

        if not toolset.by_name and (wanted is None or not toolset):
            ctx.reply(ask(ctx.message_promises))
            return None
        return run_loop(ctx, ask, settings)


class _LLMAgent(MiniAgent[Any]):
    """Agent whose settings are checked when they are given: on creation, by `fork` and by `trigger`."""

    def __init__(self, adapter: ProviderAdapter, alias: str, description: str | None, settings: dict[str, Any]) -> None:
        async def call_llm(ctx: InteractionContext, **settings: Any) -> None:
            """Reply the promise of the answer, or run the tool loop of an agent with tools."""
            loop = adapter.reply(ctx, **settings)
            if loop is not None:
                await loop

        settings["tools"] = Toolset.of(settings.get("tools"))
        settings["output"] = Output.of(settings.get("output"))
        super().__init__(call_llm, alias=alias, description=description, kwargs=settings)
        self._adapter = adapter
        self._check_all(settings)

    def check_arguments(self, kwargs: dict[str, Any]) -> None:
        """Check the arguments of a call, and raise `TypeError` or `ValueError` for an invalid one.

        A call without arguments of its own has those of the agent, which were checked when they were given.
        """
        if len(kwargs) != len(self.kwargs) or not all(map(operator.is_, kwargs.values(), self.kwargs.values())):
            self._check_all(kwargs)

    def _check_all(self, kwargs: dict[str, Any]) -> None:
        """Check all arguments of a call, and raise `TypeError` or `ValueError` for an invalid one."""
        super().check_arguments(kwargs)
        self._adapter.check_settings(kwargs)

    def _make_interaction(self, messages: MessageSequencePromise, *args: Any, **kwargs: Any) -> InteractionContext:
        """Return the context of one call, and raise `TypeError` for a message with a role that no model knows."""
        check_roles(messages.values_so_far(), self.alias)
        return super()._make_interaction(messages, *args, **kwargs)

    def fork(self, **options: Any) -> Self:
        """Return a copy of the agent with other settings, which are checked."""
        if "tools" in options:
            options["tools"] = Toolset.of(options["tools"])
        if "output" in options:
            options["output"] = Output.of(options["output"])
        fork = cast("Self", super().fork(**options))
        fork._check_all(fork.kwargs)
        return fork


@lru_cache(maxsize=64)
def _listed_prices(provider: str, url: str) -> ListedPrices:
    """Return an object that asks `known_price` for the prices at a base URL, when a program asks for a cost."""
    return ListedPrices(known_price, provider, url)


def known_price(provider: str, url: str, model: str, usage: Usage) -> float | None:
    """Return what a request costs in US dollars; None if the price is not known, or genai-prices is not installed.

    The numbers go to the package as they are: there, as in `Usage`, the input includes what is in a cache.

    Args:
        provider: "openai" or "anthropic", whose prices count for a URL that genai-prices does not know.
        url: the base URL of the client.
        model: the name of the model.
        usage: the numbers of tokens.
    """
    try:
        import genai_prices
    except ImportError:  # the extra is not installed
        return None
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    places: tuple[dict[str, Any], ...] = ({"provider_api_url": url}, {"provider_id": provider})
    for place in places:
        try:
            return float(genai_prices.calc_price(tokens, model, **place).total_price)
        except (LookupError, ValueError):  # no such model there, or numbers that cannot be
            continue
    return None


def _asks_for_usage(arguments: Mapping[str, Any]) -> bool:
    """Return True if a request asks for its usage by `stream_options`, which may also stand in its further JSON."""
    options = {**arguments, **(arguments.get("extra_body") or {})}.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


def _fit_to_sdk(create: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments in the form that the installed version of the SDK accepts.

    Arguments that the SDK's signature lacks go into `extra_body`; a mock or wrapper that takes any keyword gets all by
    their names. The response is asked for uncompressed, because a compressed response arrives in large pieces
    instead of tokens.
    """
    known = _parameters_of_method(getattr(create, "__wrapped__", create))
    result = dict(arguments)
    body = {} if known is None else {name: result.pop(name) for name in arguments if name not in known}
    if body:
        result["extra_body"] = {**body, **(arguments.get("extra_body") or {})}
    headers = dict(arguments.get("extra_headers") or {})
    if "accept-encoding" not in map(str.lower, headers):
        headers["accept-encoding"] = "identity"
    result["extra_headers"] = headers
    return result


def _parameters_of_method(method: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of the parameters of a function or of a bound method; None if it takes any keyword."""
    return _parameters_of_function(getattr(method, "__func__", method))


@lru_cache(maxsize=64)
def _parameters_of_function(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of the parameters of a function; None if it takes any keyword.

    Methods are given as plain functions, so that the cache keeps no object alive.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return None if takes_any else frozenset(parameters)


def _streams_by_default() -> bool:
    """Return `stream_llm_tokens_by_default` of the current context; True without such a setting."""
    return bool(getattr(MiniAgents.get_current(), "stream_llm_tokens_by_default", True))
