"""What the agents of all providers share: their settings, the prompt, and the one message they reply.

How many requests may be in flight at once.

The SDKs' clients that agents share where none was given: making one takes 17 ms, mostly for its TLS context.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from miniagents.ext.llm._failures import NO_RETRY, Retry
from miniagents.ext.llm._prompts import usable
from miniagents.ext.llm._redaction import Redactor, redact_logs, secrets_of
from miniagents.ext.llm._sessions.base import mend_deep
from miniagents.ext.llm._streaming import LLMCall, stream_answer
from miniagents.miniagents import MiniAgent, MiniAgents

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from miniagents.ext.llm._sessions import Session
    from miniagents.messages import AssistantMessage, Message
    from miniagents.miniagents import InteractionContext


class RequestLimits:
    """The slots of an agent and of all its forks; each event loop has its own."""

    def __init__(self) -> None:
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, asyncio.Semaphore]] = (
            WeakKeyDictionary()
        )

    def slot(self, at_once: int | None) -> AbstractAsyncContextManager[Any]:
        """A context in which one of `at_once` slots is held; None is no limit.

        Raises:
            ValueError: `at_once` is not positive.
        """
        if at_once is None:
            return nullcontext()
        if at_once < 1:
            raise ValueError(f"max_concurrent_requests must be at least 1, not {at_once!r}")
        semaphores = self._semaphores.setdefault(asyncio.get_running_loop(), {})
        return semaphores.setdefault(at_once, asyncio.Semaphore(at_once))


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, tuple[Any, AsyncGenerator[None]]]] = (
    WeakKeyDictionary()
)


async def shared_client(name: str, prefix: str, make: Callable[[], Any]) -> Any:
    """The client of this event loop for the present environment; made by `make` at the first call.

    Connections belong to a loop, so each loop has clients of its own. They are closed with the loop's asynchronous
    generators, which `asyncio.run` and all runners like it do at the end.

    Args:
        name: what kind of client it is.
        prefix: of the environment variables that configure it; with other values there is another client.
        make: makes it.
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
        keeper = _keep(client, lambda: clients.pop(key, None))
        clients[key] = client, keeper
        await anext(keeper)
    return clients[key][0]


async def _keep(client: Any, forget: Callable[[], Any]) -> AsyncGenerator[None]:
    """Suspended while the loop lives; its `finally` is the one place that is sure to run before the loop closes."""
    try:
        yield
    finally:
        forget()
        await client.close()


DEFAULT_RETRY = Retry()
DEFAULT_STALL_TIMEOUT = 600.0
"""Seconds; as long as the SDKs' own timeouts, because models that think in silence do so for minutes."""


class ProviderAdapter(ABC):
    """What differs from provider to provider. One is made for each agent, and shared by its forks."""

    provider: ClassVar[str]
    message_class: ClassVar[type[AssistantMessage]]

    def __init__(self) -> None:
        self.limits = RequestLimits()

    @abstractmethod
    async def default_client(self) -> Any:
        """The SDK's client where none was given; made at the first call.

        Raises:
            MissingExtraError: the SDK is not installed.
            MissingAPIKeyError: there is no key.
        """

    @abstractmethod
    def request(
        self, client: Any, messages: list[Message], system: Any, request: dict[str, Any], streamed: bool
    ) -> tuple[Callable[..., AbstractAsyncContextManager[Any]], dict[str, Any], Callable[[], Session]]:
        """How to send this.

        Returns: the SDK's method (of `with_streaming_response`), its arguments, and what makes a session for it.
        """

    def agent(self, alias: str, description: str | None, settings: dict[str, Any]) -> MiniAgent[Any]:
        """The agent; `settings` are the keyword arguments of `reply`, and `fork` and `trigger` can change them.

        Raises:
            TypeError, ValueError: a setting that cannot work.
        """
        redact_logs()
        return _LLMAgent(self, alias, description, settings)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse what cannot work."""
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
        **request: Any,
    ) -> None:
        """Reply the promise of one message; nothing has been awaited, and nothing sent, by then."""
        alias = ctx.this_agent.alias
        incoming = ctx.message_promises
        streamed = _streams_by_default() if stream is None else stream

        async def prepare() -> LLMCall:
            messages = usable(await incoming, alias)
            client = await self.default_client() if async_client is None else async_client
            client = client.with_options(max_retries=0)  # shares the http client; retries are ours
            create, arguments, new_session = self.request(client, messages, system, request, streamed)
            # UTF-8, and so a request, has no place for half a character
            arguments = mend_deep(fitted(create, {**arguments, "stream": streamed}))
            return LLMCall(
                alias=alias,
                provider=self.provider,
                send=partial(create, **arguments),
                new_session=new_session,
                slot=partial(self.limits.slot, max_concurrent_requests),
                streamed=streamed,
                retry=NO_RETRY if retry is None else retry,
                stall_timeout=stall_timeout,
                redactor=Redactor(secrets_of(client, arguments["extra_headers"])),
            )

        streamer = partial(stream_answer, prepare)
        ctx.reply(self.message_class.promise(message_token_streamer=streamer, **dict(reply_metadata or {})))


class _LLMAgent(MiniAgent[Any]):
    """Settings that cannot work are refused where they are given."""

    def __init__(self, adapter: ProviderAdapter, alias: str, description: str | None, settings: dict[str, Any]) -> None:
        async def call_llm(ctx: InteractionContext, **settings: Any) -> None:
            adapter.reply(ctx, **settings)

        super().__init__(call_llm, alias=alias, description=description, kwargs=settings)
        self._adapter = adapter
        self.check_arguments(settings)

    def check_arguments(self, kwargs: dict[str, Any]) -> None:
        super().check_arguments(kwargs)
        self._adapter.check(kwargs)

    def fork(self, **options: Any) -> Self:
        fork = super().fork(**options)
        fork.check_arguments(fork.kwargs)
        return fork


def fitted(create: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as this version of the SDK takes them: what its signature lacks goes through `extra_body`.

    The response is asked for uncompressed, because a compressed one comes in lumps instead of tokens.
    """
    known = _parameters(getattr(create, "__wrapped__", create))
    body = {name: value for name, value in arguments.items() if name not in known}
    result = {name: value for name, value in arguments.items() if name in known}
    if body:
        result["extra_body"] = {**body, **(arguments.get("extra_body") or {})}
    headers = dict(arguments.get("extra_headers") or {})
    if not any(name.lower() == "accept-encoding" for name in headers):
        headers["accept-encoding"] = "identity"
    result["extra_headers"] = headers
    return result


def _parameters(method: Callable[..., Any]) -> frozenset[str]:
    return _parameters_of(getattr(method, "__func__", method))


@lru_cache(maxsize=64)
def _parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _streams_by_default() -> bool:
    return bool(getattr(MiniAgents.get_current(), "stream_llm_tokens_by_default", True))
