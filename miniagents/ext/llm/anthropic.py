"""Agents that answer with Anthropic's models, also as Azure, Vertex and Bedrock serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from miniagents.errors import MissingExtraError
from miniagents.ext.llm._base import DEFAULT_RETRY, DEFAULT_STALL_TIMEOUT, ProviderAdapter, shared_client
from miniagents.ext.llm._prompts import messages_prompt
from miniagents.ext.llm._sessions import MessagesSession
from miniagents.messages import AssistantMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from miniagents.ext.llm._failures import Retry
    from miniagents.ext.llm._sessions import Session
    from miniagents.messages import Message
    from miniagents.miniagents import MiniAgent

__all__ = ["AnthropicMessage", "create_anthropic_agent"]


class AnthropicMessage(AssistantMessage):
    """An answer of an Anthropic model. Extra fields hold what else the API told, under its own names.

    `content_blocks` has all blocks of the answer, thinking and its signatures too; they go back unchanged when the
    message is part of a prompt again.
    """


def create_anthropic_agent(
    model: str,
    *,
    async_client: Any = None,
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = "ANTHROPIC_AGENT",
    retry: Retry | None = DEFAULT_RETRY,
    stall_timeout: float | None = DEFAULT_STALL_TIMEOUT,
    max_concurrent_requests: int | None = None,
    max_tokens: int = 4096,
    **request: Any,
) -> MiniAgent[Any]:
    """An agent that sends its messages to a model and replies one `AnthropicMessage`, token by token.

    Creating it opens nothing and needs no key. System messages become the `system` parameter; neighbours of one role
    become one turn.

    Args:
        model: what the API calls the model.
        async_client: an `AsyncAnthropic`, or one of its relatives for Azure, Vertex and Bedrock; by default one that
            all agents of an event loop share, configured by the environment (`ANTHROPIC_API_KEY`, ...).
        system: instructions that go first: a text or a list of blocks.
        stream: whether to ask for a stream; None takes the context's `stream_llm_tokens_by_default`.
        reply_metadata: fields for the reply, known before it arrives.
        alias: how the agent is named in traces.
        retry: how often to try again before the first token; None for a single attempt.
        stall_timeout: seconds without progress after which a stream is given up; None to wait for ever. Where not even
            a ping comes, the client's own `timeout` ends the wait, which may be shorter.
        max_concurrent_requests: how many requests this agent and its forks may have in flight.
        max_tokens: the longest answer, in tokens; the API wants a number.
        request: everything else goes to the API as it is, through `extra_body` where the SDK's signature lacks it.

    Raises:
        TypeError, ValueError: an argument that cannot work. All other errors come through the reply, as `LLMError`.
    """
    settings = {
        "model": model,
        "async_client": async_client,
        "system": system,
        "stream": stream,
        "reply_metadata": reply_metadata,
        "retry": retry,
        "stall_timeout": stall_timeout,
        "max_concurrent_requests": max_concurrent_requests,
        "max_tokens": max_tokens,
        **request,
    }
    return _Anthropic().agent(alias, f"Answers with the Anthropic model {model!r}.", settings)


class _Anthropic(ProviderAdapter):
    provider: ClassVar[str] = "anthropic"
    message_class: ClassVar[type[AssistantMessage]] = AnthropicMessage

    async def default_client(self) -> Any:
        try:
            import anthropic
        except ImportError as error:
            raise MissingExtraError.of("anthropic", "anthropic") from error
        # without a key the client can be made all the same, and says so at the first request: see failures.py
        return await shared_client("anthropic", "ANTHROPIC_", anthropic.AsyncAnthropic)

    def request(
        self, client: Any, messages: list[Message], system: Any, request: dict[str, Any], streamed: bool
    ) -> tuple[Callable[..., AbstractAsyncContextManager[Any]], dict[str, Any], Callable[[], Session]]:
        instructions, turns = messages_prompt(messages, system)
        arguments = {"messages": turns, **request}
        if instructions:
            arguments["system"] = instructions
        return client.messages.with_streaming_response.create, arguments, MessagesSession
