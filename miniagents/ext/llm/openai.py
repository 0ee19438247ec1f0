"""Agents that answer with OpenAI's models, or with those of any server that has the same API (Azure, Ollama, ...)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from typing_extensions import TypeVar

from miniagents.errors import MissingAPIKeyError, MissingExtraError
from miniagents.ext.llm._base import (
    DEFAULT_MAX_ROUNDS,
    DEFAULT_RETRY,
    DEFAULT_STALL_TIMEOUT,
    OPENAI_ALIAS,
    ProviderAdapter,
    shared_client,
)
from miniagents.ext.llm._failures import Retry
from miniagents.ext.llm._prompts import chat_prompt, responses_prompt
from miniagents.ext.llm._sessions import ChatOutputSession, ChatSession, ResponsesOutputSession, ResponsesSession
from miniagents.messages import AssistantMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeForm

    from miniagents.acting._output import Output, OutputTool
    from miniagents.acting._tool import Tool, ToolLike
    from miniagents.ext.llm._sessions import Session
    from miniagents.messages import Message
    from miniagents.miniagents import MiniAgent

T = TypeVar("T")
O_co = TypeVar("O_co", covariant=True, default=Any)

__all__ = ["OpenAIMessage", "Retry", "create_openai_agent"]


class OpenAIMessage(AssistantMessage[O_co]):
    """Answer of an OpenAI model. Further fields of the API's response are fields of the message, under their names.

    With the Responses API, `output` holds all items of the answer. A later prompt that contains the message sends these
    items unchanged.
    """


@overload
def create_openai_agent(
    model: str,
    *,
    async_client: Any = None,
    api: Literal["chat", "responses"] = "chat",
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = OPENAI_ALIAS,
    description: str | None = None,
    retry: Retry | None = ...,
    stall_timeout: float | None = ...,
    max_concurrent_requests: int | None = None,
    tools: Iterable[ToolLike | Tool] | None = None,
    max_rounds: int = ...,
    tool_errors: Literal["tell", "raise"] = "tell",
    output: None = None,
    output_mode: Literal["schema", "tool"] = "schema",
    **request: Any,
) -> MiniAgent[..., OpenAIMessage[None]]: ...


@overload
def create_openai_agent(
    model: str,
    *,
    async_client: Any = None,
    api: Literal["chat", "responses"] = "chat",
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = OPENAI_ALIAS,
    description: str | None = None,
    retry: Retry | None = ...,
    stall_timeout: float | None = ...,
    max_concurrent_requests: int | None = None,
    tools: Iterable[ToolLike | Tool] | None = None,
    max_rounds: int = ...,
    tool_errors: Literal["tell", "raise"] = "tell",
    output: TypeForm[T],
    output_mode: Literal["schema", "tool"] = "schema",
    **request: Any,
) -> MiniAgent[..., OpenAIMessage[T]]: ...


def create_openai_agent(
    model: str,
    *,
    async_client: Any = None,
    api: Literal["chat", "responses"] = "chat",
    system: Any = None,
    stream: bool | None = None,
    reply_metadata: Mapping[str, Any] | None = None,
    alias: str = OPENAI_ALIAS,
    description: str | None = None,
    retry: Retry | None = DEFAULT_RETRY,
    stall_timeout: float | None = DEFAULT_STALL_TIMEOUT,
    max_concurrent_requests: int | None = None,
    tools: Iterable[ToolLike | Tool] | None = None,
    max_rounds: int = DEFAULT_MAX_ROUNDS,
    tool_errors: Literal["tell", "raise"] = "tell",
    output: Any = None,
    output_mode: Literal["schema", "tool"] = "schema",
    **request: Any,
) -> MiniAgent[..., Any]:
    """Create an agent that sends its messages to a model and replies one `OpenAIMessage`, which streams its text.

    With tools it replies each answer, the results of the calls in it, and so on to an answer without calls.

    This call opens no connection and needs no API key. A streamed chat completion asks OpenAI and Azure for the usage
    of tokens. Other servers may refuse that; give `stream_options={"include_usage": True}` for those that do not.

    Args:
        model: the name of the model in the API; on Azure, the name of the deployment.
        async_client: an `AsyncOpenAI` or `AsyncAzureOpenAI` client. By default, all agents of an event loop share one
            client, configured by environment variables (`OPENAI_API_KEY`, `OPENAI_BASE_URL`, ...).
        api: "chat" for chat completions, "responses" for the Responses API.
        system: instructions that go before the messages: a text or a list of parts.
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
        "api": api,
        "system": system,
        "stream": stream,
        "reply_metadata": reply_metadata,
        "retry": retry,
        "stall_timeout": stall_timeout,
        "max_concurrent_requests": max_concurrent_requests,
        "tools": tools,
        "max_rounds": max_rounds,
        "tool_errors": tool_errors,
        "output": output,
        "output_mode": output_mode,
        **request,
    }
    if description is None:
        description = f"Answers with the OpenAI model {model!r}."
    return _OpenAI().create_agent(alias, description, settings)


class _OpenAI(ProviderAdapter):
    """Adapter of OpenAI's chat completions and Responses API."""

    provider: ClassVar[str] = "openai"
    message_class: ClassVar[type[AssistantMessage]] = OpenAIMessage

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check the settings, including `api`; raise `TypeError` or `ValueError` for an invalid one."""
        if settings.get("api", "chat") not in ("chat", "responses"):
            raise ValueError(f"api must be 'chat' or 'responses', not {settings['api']!r}")
        super().check_settings(settings)

    async def default_client(self) -> Any:
        """Return the shared client, and raise `MissingAPIKeyError` if there is no key."""
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

    def write_tool(self, tool: Tool | OutputTool, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tool in the form of chat completions or of the Responses API."""
        function = {"name": tool.name, "description": tool.description, "parameters": tool.schema}
        if request.get("api") == "responses":
            return {"type": "function", **function, "strict": False}
        return {"type": "function", "function": function}

    def output_format(self, output: Output, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return `response_format` with the schema of the output, or `text` with it for the Responses API.

        Raise `ValueError` if the request has a format of its own.
        """
        schema = {"name": output.schema_name, "schema": output.strict_schema(_is_enforced), "strict": True}
        if request.get("api") != "responses":
            if request.get("response_format") is not None:
                raise ValueError("output= sets response_format: leave one of them out")
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        text = request.get("text") or {}
        if text.get("format") is not None:
            raise ValueError("output= sets the format of text: leave one of them out")
        return {"text": {**text, "format": {"type": "json_schema", **schema}}}

    def tool_choice(self, given: Any, tool: str | None, *, forced: bool, request: Mapping[str, Any]) -> Any:
        """Return the parameter for a forced call of any tool or of `tool`; None if no call is forced.

        Return a given `auto` or `none` as it is. A given choice among allowed tools keeps these tools; its mode becomes
        `required` if a call is forced, else `auto`.
        """
        mode = "required" if forced else "auto"
        if isinstance(given, Mapping) and given.get("type") == "allowed_tools":
            allowed = given.get("allowed_tools")  # chat completions have another object around it
            return {**given, "allowed_tools": {**allowed, "mode": mode}} if allowed else {**given, "mode": mode}
        if given in ("auto", "none"):
            return given
        if not forced:
            return None
        if tool is None:
            return "required"
        named = {"name": tool}
        return {"type": "function", **(named if request.get("api") == "responses" else {"function": named})}

    def api(self, request: Mapping[str, Any]) -> str:
        """Return the API of a request, "chat" by default or "responses"."""
        return str(request.get("api", "chat"))

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
        """Return the SDK's method for the API, its arguments for these messages, and the factory of sessions.

        A streamed chat completion asks for its usage if the server is known to accept that.
        """
        request = dict(request)
        session: Callable[[], Session]
        if request.pop("api", "chat") == "responses":
            stored = request.get("store") is not False
            given = {**request, **(request.get("extra_body") or {})}
            continued = bool(given.get("previous_response_id") or given.get("conversation"))
            prompt = responses_prompt(messages, system, stored=stored, continued=continued, origin=origin)
            session = ResponsesSession if output_tool is None else partial(ResponsesOutputSession, output_tool)
            create = client.responses.with_streaming_response.create
            return create, _with_prompt(client, create, "input", prompt, request), session
        if streamed and "stream_options" not in request and _accepts_stream_options(client):
            request["stream_options"] = {"include_usage": True}
        n = {**request, **(request.get("extra_body") or {})}.get("n") or 1
        n = n if isinstance(n, int) else None
        session = partial(ChatSession, n) if output_tool is None else partial(ChatOutputSession, output_tool, n)
        create = client.chat.completions.with_streaming_response.create
        prompt = chat_prompt(messages, system, origin=origin)
        return create, _with_prompt(client, create, "messages", prompt, request), session


def _with_prompt(
    client: Any, create: Any, name: str, prompt: list[dict[str, Any]], request: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a request with its prompt.

    OpenAI's SDK compares each message of a prompt with all types of messages, and changes nothing. That takes 0.1 ms a
    message, in which no other task runs. So the SDK gets the prompt as further JSON, which it does not look into.
    Tracers, mocks and subclasses that take the place of a method of the SDK get the prompt by its name.

    Args:
        client: the SDK's client, or one of an application's tests.
        create: the method that gets the arguments.
        name: the name of the prompt in the API.
        prompt: the messages or items.
        request: the other arguments, which win.
    """
    arguments = {name: prompt, **request}
    methods = (getattr(create, "__wrapped__", None), *(getattr(client, each, None) for each in _METHODS_ON_THE_WAY))
    if not all(map(_is_of_sdk, methods)):
        return arguments
    return {**arguments, name: [], "extra_body": {name: arguments[name], **(request.get("extra_body") or {})}}


_METHODS_ON_THE_WAY = ("post", "request", "_prepare_options", "_build_request", "_build_headers", "_process_response")
"""Methods of the SDK's client that get a request in Python's types."""


def _is_of_sdk(method: Any) -> bool:
    """Return True for a method as the SDK defines it. A wrapper has another type, or is defined in another module."""
    function = getattr(method, "__func__", None)
    if type(method) is not MethodType or type(function) is not FunctionType:
        return False
    return str(function.__globals__.get("__name__")).startswith("openai.")


_ENFORCED = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
)
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")


def _is_enforced(keyword: str, value: Any) -> bool:
    """Return True for limits that OpenAI enforces: of numbers, of lists, some formats, patterns without lookaround."""
    if keyword == "pattern":
        return not any(mark in value for mark in ("(?=", "(?!", "(?<"))
    return keyword in _ENFORCED or (keyword == "format" and value in _FORMATS)


def _accepts_stream_options(client: Any) -> bool:
    """Return True if the server is known to accept `stream_options`; some compatible servers refuse unknown ones."""
    host = client.base_url.host
    if host == "openai.com" or host.endswith(".openai.com"):
        return True
    if not host.endswith((".azure.com", ".azure.us", ".azure.cn")):
        return False
    version = str(getattr(client, "_api_version", "") or "")
    return not version[:1].isdigit() or version >= "2024-09-01"  # the first version of Azure's API that accepts it
