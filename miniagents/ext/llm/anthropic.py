"""Agents that answer with Anthropic's models, including those that Azure, Vertex and Bedrock serve."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload
from weakref import WeakKeyDictionary

from typing_extensions import TypeVar

from miniagents.errors import MissingExtraError
from miniagents.ext.llm._base import (
    ANTHROPIC_ALIAS,
    DEFAULT_MAX_ROUNDS,
    DEFAULT_RETRY,
    DEFAULT_STALL_TIMEOUT,
    ProviderAdapter,
    has_replaced_methods,
    shared_client,
)
from miniagents.ext.llm._failures import Retry
from miniagents.ext.llm._prompts import messages_prompt
from miniagents.ext.llm._sessions import MessagesOutputSession, MessagesSession
from miniagents.messages import AssistantMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeForm

    from miniagents.acting._output import Output, OutputTool
    from miniagents.acting._tool import Tool, ToolLike
    from miniagents.ext.llm._sessions import Session
    from miniagents.messages import Message
    from miniagents.miniagents import MiniAgent

T = TypeVar("T")
O_co = TypeVar("O_co", covariant=True, default=Any)

__all__ = ["AnthropicMessage", "Retry", "create_anthropic_agent"]


class AnthropicMessage(AssistantMessage[O_co]):
    """Answer of an Anthropic model. Further fields of the API's response are fields of the message, under their names.

    `content_blocks` holds all blocks of the answer, including thinking with its signatures. A later prompt that
    contains the message sends these blocks unchanged.
    """


@overload
def create_anthropic_agent(
    model: str,
    *,
    async_client: Any = None,
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = ANTHROPIC_ALIAS,
    description: str | None = None,
    retry: Retry | None = ...,
    stall_timeout: float | None = ...,
    max_concurrent_requests: int | None = None,
    max_tokens: int = 4096,
    tools: Iterable[ToolLike | Tool] | None = None,
    max_rounds: int = ...,
    tool_errors: Literal["tell", "raise"] = "tell",
    output: None = None,
    output_mode: Literal["schema", "tool"] = "schema",
    **request: Any,
) -> MiniAgent[..., AnthropicMessage[None]]: ...


@overload
def create_anthropic_agent(
    model: str,
    *,
    async_client: Any = None,
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = ANTHROPIC_ALIAS,
    description: str | None = None,
    retry: Retry | None = ...,
    stall_timeout: float | None = ...,
    max_concurrent_requests: int | None = None,
    max_tokens: int = 4096,
    tools: Iterable[ToolLike | Tool] | None = None,
    max_rounds: int = ...,
    tool_errors: Literal["tell", "raise"] = "tell",
    output: TypeForm[T],
    output_mode: Literal["schema", "tool"] = "schema",
    **request: Any,
) -> MiniAgent[..., AnthropicMessage[T]]: ...


def create_anthropic_agent(
    model: str,
    *,
    async_client: Any = None,
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = ANTHROPIC_ALIAS,
    description: str | None = None,
    retry: Retry | None = DEFAULT_RETRY,
    stall_timeout: float | None = DEFAULT_STALL_TIMEOUT,
    max_concurrent_requests: int | None = None,
    max_tokens: int = 4096,
    tools: Iterable[ToolLike | Tool] | None = None,
    max_rounds: int = DEFAULT_MAX_ROUNDS,
    tool_errors: Literal["tell", "raise"] = "tell",
    output: Any = None,
    output_mode: Literal["schema", "tool"] = "schema",
    **request: Any,
) -> MiniAgent[..., Any]:
    """Create an agent that sends its messages to a model and replies one `AnthropicMessage`, which streams its text.

    This call opens no connection and needs no API key. System messages become part of the `system` parameter. Messages
    of one role that follow each other are sent as one turn. With tools it replies each answer, the results of the calls
    in it, and so on to an answer without calls.

    Args:
        model: the name of the model in the API.
        async_client: an `AsyncAnthropic` client, or one of the SDK's clients for Azure, Vertex and Bedrock. By default,
            all agents of an event loop share one client, configured by environment variables (`ANTHROPIC_API_KEY`,
            ...).
        system: instructions that go before the messages: a text or a list of blocks.
        stream: True to ask the API for a stream, False for one document; None takes `stream_llm_tokens_by_default` of
            the `MiniAgents` context.
        reply_metadata: fields of the reply that can be read before the answer arrives.
        alias: the name of the agent in traces and log lines.
        description: text that says what the agent does, for models that have it as a tool; by default it names the
            model.
        retry: the policy for sending a failed request again, up to the first token; None for a single attempt. By
            default, up to three requests, the last one within 120 seconds.
        stall_timeout: seconds without progress after which a stream is given up; None for no limit. If the provider
            sends nothing at all, the client's own `timeout` may end the wait earlier.
        max_concurrent_requests: the highest number of concurrent requests of this agent and its forks in one event
            loop; None for no limit.
        max_tokens: the length limit of the answer, in tokens; the API requires one.
        tools: tools that the model may call: functions, agents, and what `miniagents.tools` makes of them. Calls of a
            tool in the API's own form, a dict, end the replies, and are the caller's to answer.
        max_rounds: the highest number of answers whose calls are run.
        tool_errors: "tell" to give the model the error of a tool as the result of its call; "raise" to end the replies
            with the error.
        output: the type of the final answer, any that pydantic knows; `parsed` of the answer is its value. An answer
            that is no valid value fails with an `OutputInvalidError`.
        output_mode: "schema" to hold the model to a JSON schema of the output; "tool" to let the model give the output
            as a call of a tool, for servers that know no schemas, and for types without a strict one.
        request: further parameters of the API, which are sent unchanged. The SDK gets those that its signature lacks
            through `extra_body`.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value.

    Readers of the reply get an `LLMError` if the request fails or the API key is missing, `MissingExtraError` if
    the SDK is not installed, and `ValueError` if there is no message to answer.
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
        "tools": tools,
        "max_rounds": max_rounds,
        "tool_errors": tool_errors,
        "output": output,
        "output_mode": output_mode,
        **request,
    }
    if description is None:
        description = f"Answers with the Anthropic model {model!r}."
    return _Anthropic().create_agent(alias, description, settings)


class _Anthropic(ProviderAdapter):
    """Adapter of Anthropic's Messages API."""

    provider: ClassVar[str] = "anthropic"
    message_class: ClassVar[type[AssistantMessage]] = AnthropicMessage

    async def default_client(self) -> Any:
        """Return the shared client; its first request fails if there is no key.

        Without the SDK, raise `MissingExtraError`.
        """
        try:
            import anthropic
        except ImportError as error:
            raise MissingExtraError.of("anthropic", "anthropic") from error
        # this client can be made without a key; the first request then fails, which `_failures` translates
        return await shared_client("anthropic", "ANTHROPIC_", anthropic.AsyncAnthropic)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check the settings; refuse enabled thinking together with an output as a forced call.

        Raise `TypeError` or `ValueError` for an invalid setting.
        """
        super().check_settings(settings)
        thinking, choice = settings.get("thinking") or {}, settings.get("tool_choice")
        forced = settings.get("output") is not None and settings.get("output_mode") == "tool" and choice is None
        if forced and thinking.get("type") == "enabled":
            raise ValueError(
                "output_mode='tool' forces a call, which Anthropic refuses with thinking of the type 'enabled': use "
                "output_mode='schema', thinking of the type 'adaptive', or tool_choice={'type': 'auto'}"
            )

    def write_tool(self, tool: Tool | OutputTool, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tool in the form of Anthropic's API."""
        return {"name": tool.name, "description": tool.description, "input_schema": tool.schema}

    def output_format(self, output: Output, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return `output_config`: the given one, with the schema of the output as its format.

        Raise `ValueError` if it has a format already.
        """
        config = request.get("output_config") or {}
        if config.get("format") is not None:
            raise ValueError("output= sets the format of output_config: leave one of them out")
        schema = output.strict_schema(_is_enforced)
        return {"output_config": {**config, "format": {"type": "json_schema", "schema": schema}}}

    def tool_choice(self, given: Any, tool: str | None, *, forced: bool, request: Mapping[str, Any]) -> Any:
        """Return the parameter for a forced call of any tool or of `tool`, or `auto` if no call is forced.

        Further fields of the given choice are kept. Return a given `auto` or `none` as it is. Return None if no call is
        forced and there are no further fields.
        """
        given = given or {}
        if given.get("type") in ("auto", "none"):
            return given
        more = {key: value for key, value in given.items() if key not in ("type", "name")}
        if not forced:
            return {"type": "auto", **more} if more else None
        return {"type": "any", **more} if tool is None else {"type": "tool", "name": tool, **more}

    def api(self, request: Mapping[str, Any]) -> str:
        """Return "messages", the only API."""
        return "messages"

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
        """Return the method `messages.create`, its arguments for these messages, and the factory of sessions."""
        has_tools = bool({**request, **(request.get("extra_body") or {})}.get("tools"))
        instructions, turns = messages_prompt(messages, system, has_tools=has_tools)
        arguments = {"messages": turns, **request}
        if instructions:
            arguments["system"] = instructions
        session = MessagesSession if output_tool is None else partial(MessagesOutputSession, output_tool)
        return _without_idle_spans(client).messages.with_streaming_response.create, arguments, session


_quiet: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Copies of clients that make no spans."""


def _without_idle_spans(client: Any) -> Any:
    """Return a copy of an `AsyncAnthropic` client that makes no spans, if its span would be seen nowhere.

    Anthropic's SDK prepares a span for each request, also if no provider of OpenTelemetry is installed. That takes a
    tenth of a short answer. A client with a provider of its own, and clients of other classes, are returned as they
    are. The SDK's own span is left to it as soon as there is a provider, a current context, or a propagator that
    writes headers.
    """
    sdk = sys.modules.get("anthropic")
    options = getattr(client, "_open_telemetry", None)
    if sdk is None or type(client) is not sdk.AsyncAnthropic or type(options) is not dict:
        return client
    if options.get("tracer_provider") is not None or _spans_are_seen():
        return client
    quiet = _quiet.get(client)
    if quiet is None:
        if has_replaced_methods(client):  # the copy would not have them
            return client
        quiet = _quiet[client] = client.with_options(open_telemetry=False)
    return quiet


def _spans_are_seen() -> bool:
    """Return True if a span may be recorded by the global provider, or may add headers to a request."""
    if "OTEL_PYTHON_TRACER_PROVIDER" in os.environ:  # a look at the provider would load it
        return True
    headers: dict[str, str] = {}
    try:
        from opentelemetry import context, propagate, trace

        if context.get_current() or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return True
        propagate.inject(headers)
    except Exception:  # a propagator that is missing or fails, which the SDK reports
        return True
    return bool(headers)


_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")


def _is_enforced(keyword: str, value: Any) -> bool:
    """Return True for limits that Anthropic enforces: some formats, and `minItems` of 0 or 1."""
    return (keyword == "format" and value in _FORMATS) or (keyword == "minItems" and value in (0, 1))
