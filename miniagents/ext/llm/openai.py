"""Agents that answer with OpenAI's models, or through any server that speaks the same API (Azure, Ollama, ...)."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from miniagents.errors import MissingAPIKeyError, MissingExtraError
from miniagents.ext.llm._base import DEFAULT_RETRY, DEFAULT_STALL_TIMEOUT, ProviderAdapter, shared_client
from miniagents.ext.llm._prompts import chat_prompt, responses_prompt
from miniagents.ext.llm._sessions import ChatSession, ResponsesSession
from miniagents.messages import AssistantMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from miniagents.ext.llm._failures import Retry
    from miniagents.ext.llm._sessions import Session
    from miniagents.messages import Message
    from miniagents.miniagents import MiniAgent

__all__ = ["OpenAIMessage", "create_openai_agent"]


class OpenAIMessage(AssistantMessage):
    """An answer of an OpenAI model. Extra fields hold what else the API told, under its own names.

    Of the Responses API, `output` has all items of the answer; they go back unchanged when the message is part of a
    prompt again.
    """


def create_openai_agent(
    model: str,
    *,
    async_client: Any = None,
    api: Literal["chat", "responses"] = "chat",
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = "OPENAI_AGENT",
    retry: Retry | None = DEFAULT_RETRY,
    stall_timeout: float | None = DEFAULT_STALL_TIMEOUT,
    max_concurrent_requests: int | None = None,
    **request: Any,
) -> MiniAgent[Any]:
    """An agent that sends its messages to a model and replies one `OpenAIMessage`, token by token.

    Creating it opens nothing and needs no key. A chat completion asks for usage (`stream_options`) where the server
    is known to understand that: OpenAI itself and Azure; for others, give `stream_options={"include_usage": True}`.

    Args:
        model: what the API calls the model; a deployment on Azure.
        async_client: an `AsyncOpenAI` or `AsyncAzureOpenAI`; by default one that all agents of an event loop share,
            configured by the environment (`OPENAI_API_KEY`, `OPENAI_BASE_URL`, ...).
        api: "chat" for chat completions, "responses" for the Responses API.
        system: instructions that go first: a text or a list of parts.
        stream: whether to ask for a stream; None takes the context's `stream_llm_tokens_by_default`.
        reply_metadata: fields for the reply, known before it arrives.
        alias: how the agent is named in traces.
        retry: how often to try again before the first token; None for a single attempt.
        stall_timeout: seconds without progress after which a stream is given up; None to wait for ever. Where not even
            a ping comes, the client's own `timeout` ends the wait, which may be shorter.
        max_concurrent_requests: how many requests this agent and its forks may have in flight.
        request: everything else goes to the API as it is, through `extra_body` where the SDK's signature lacks it.

    Raises:
        TypeError, ValueError: an argument that cannot work. All other errors come through the reply, as `LLMError`.
    """
    settings = {
        "model": model,
        "async_client": async_client,
        "api": api,
        "system": system,
        "stream": stream,
        "reply_metadata": reply_metadata,
        "retry": retry,
        "stall_timeout": stall_timeout,
        "max_concurrent_requests": max_concurrent_requests,
        **request,
    }
    return _OpenAI().agent(alias, f"Answers with the OpenAI model {model!r}.", settings)


class _OpenAI(ProviderAdapter):
    provider: ClassVar[str] = "openai"
    message_class: ClassVar[type[AssistantMessage]] = OpenAIMessage

    def check(self, settings: Mapping[str, Any]) -> None:
        super().check(settings)
        if settings.get("api", "chat") not in ("chat", "responses"):
            raise ValueError(f"api must be 'chat' or 'responses', not {settings['api']!r}")

    async def default_client(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError.of("openai", "openai") from error
        try:
            return await shared_client("openai", "OPENAI_", openai.AsyncOpenAI)
        except openai.OpenAIError as error:
            if os.environ.get("OPENAI_API_KEY"):
                raise
            raise MissingAPIKeyError(
                "no API key: set the environment variable OPENAI_API_KEY, or give a client with `async_client=`",
                provider=self.provider,
            ) from error

    def request(
        self, client: Any, messages: list[Message], system: Any, request: dict[str, Any], streamed: bool
    ) -> tuple[Callable[..., AbstractAsyncContextManager[Any]], dict[str, Any], Callable[[], Session]]:
        request = dict(request)
        if request.pop("api", "chat") == "responses":
            stored = request.get("store") is not False
            arguments = {"input": responses_prompt(messages, system, stored=stored), **request}
            return client.responses.with_streaming_response.create, arguments, ResponsesSession
        if streamed and "stream_options" not in request and _counts_tokens_of_streams(client):
            request["stream_options"] = {"include_usage": True}
        arguments = {"messages": chat_prompt(messages, system), **request}
        n = {**request, **(request.get("extra_body") or {})}.get("n") or 1
        session = partial(ChatSession, n if isinstance(n, int) else None)
        return client.chat.completions.with_streaming_response.create, arguments, session


def _counts_tokens_of_streams(client: Any) -> bool:
    """Whether the server knows `stream_options`; some compatible ones refuse parameters they do not know."""
    host = client.base_url.host
    if host == "openai.com" or host.endswith(".openai.com"):
        return True
    if not host.endswith((".azure.com", ".azure.us", ".azure.cn")):
        return False
    version = str(getattr(client, "_api_version", "") or "")
    return not version[:1].isdigit() or version >= "2024-09-01"  # Azure's first version that takes it
