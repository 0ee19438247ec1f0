"""Traces of a run by OpenTelemetry: a span for each agent call, each request to a model and each call of a tool.

`trace_agents` returns the observer that makes the spans. Their names and attributes are those of the GenAI semantic
conventions. The application configures the SDK of OpenTelemetry and its exporter; this module needs the API only, and
imports it when `trace_agents` is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from miniagents.errors import (
    INTERRUPTS,
    MissingExtraError,
    OutputInvalidError,
    PromiseCancelledError,
    StopDialog,
    text_of_error,
)
from miniagents.ext.llm._redaction import Redactor
from miniagents.messages import AnswerRestarted, AssistantMessage, ToolMessage

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.trace import Span, TracerProvider

    from miniagents.messages import Message, MessageEvent
    from miniagents.observing import Observer, Operation

__all__ = ["trace_agents"]

CONVENTIONS: Final = "0.1.0"
"""Version of the conventions: https://github.com/open-telemetry/semantic-conventions-genai, in development."""

OPERATIONS: Final = {"agent": "invoke_agent", "request": "chat", "tool": "execute_tool"}
"""Names of the operations, which begin the names of spans."""

PARAMETERS: Final[Mapping[str, tuple[str, type]]] = {
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "max_output_tokens": ("gen_ai.request.max_tokens", int),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "previous_response_id": ("gen_ai.request.previous_response.id", str),
    "reasoning_effort": ("gen_ai.request.reasoning.level", str),
    "seed": ("gen_ai.request.seed", int),
    "temperature": ("gen_ai.request.temperature", float),
    "top_k": ("gen_ai.request.top_k", int),
    "top_p": ("gen_ai.request.top_p", float),
}
"""Parameters of requests that are attributes, with the types of these attributes."""

USAGE: Final[Mapping[str, str]] = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_write.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
"""Fields of `Usage` that are attributes."""

OPERATION_NAME: Final = "gen_ai.operation.name"
AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_DESCRIPTION: Final = "gen_ai.agent.description"
PROVIDER_NAME: Final = "gen_ai.provider.name"
OUTPUT_TYPE: Final = "gen_ai.output.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
CHOICE_COUNT: Final = "gen_ai.request.choice.count"
STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"

# Attributes with text of prompts, answers, arguments and results.
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"

_NO_FAILURE = (*INTERRUPTS, PromiseCancelledError)
"""Exceptions of work that was stopped: a span names their type, and has no error status."""

_redactor = Redactor()
"""Redactor of texts by their shape, for operations that know no secret."""


def trace_agents(
    *, tracer_provider: TracerProvider | None = None, capture_content: bool = False, token_events: bool = False
) -> Observer:
    """Return an observer that makes spans of a run: `MiniAgents(observers=[trace_agents()])`.

    Args:
        tracer_provider: makes the tracer; by default, the global one that the application has set before the run.
        capture_content: True to add the texts of prompts, answers, arguments and results, with secrets redacted. By
            default a span holds none of them.
        token_events: True to add an event for each token of an answer, with its number of characters.

    Raises:
        MissingExtraError: the API of OpenTelemetry is not installed.
    """
    try:
        return _AgentTracer(tracer_provider, capture_content, token_events)
    except ImportError as error:
        raise MissingExtraError.of("opentelemetry-api", "opentelemetry") from error


class _AgentTracer:
    """Observer that starts a span for each operation; the arguments are those of `trace_agents`."""

    def __init__(self, tracer_provider: TracerProvider | None, capture_content: bool, token_events: bool) -> None:
        from opentelemetry import context, trace

        self.attach, self.detach = context.attach, context.detach
        self.set_span_in_context = trace.set_span_in_context
        self.error_status = trace.StatusCode.ERROR
        self.capture_content = capture_content
        self.token_events = token_events
        self._provider = trace.get_tracer_provider if tracer_provider is None else lambda: tracer_provider
        self._without_sdk = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
        self._start = trace.get_tracer("miniagents", tracer_provider=tracer_provider).start_span
        self._kinds = dict.fromkeys(OPERATIONS, trace.SpanKind.INTERNAL) | {"request": trace.SpanKind.CLIENT}

    @property
    def is_idle(self) -> bool:
        """True if the application has set no SDK, so that there are no spans to make."""
        return isinstance(self._provider(), self._without_sdk)

    def __call__(self, operation: Operation) -> AbstractContextManager[None]:
        """Start the span of an operation, and return the context manager that ends it."""
        name, kind = OPERATIONS[operation.kind], operation.kind
        span = self._start(
            f"{name} {operation.name}",
            kind=self._kinds[kind],
            attributes=_ATTRIBUTES_AT_START[kind](operation),
        )
        if not span.is_recording():
            # A span that is not sampled has a context for its children; that of an SDK that is disabled has none.
            if not span.get_span_context().is_valid:
                return _NOTHING
            return _OperationSpan(self, operation, span, is_recording=False)
        if kind == "request":
            span.set_attributes(_parameters(operation.asked["settings"], streamed=operation.asked["stream"]))
        if self.capture_content:
            span.set_attributes(_content_at_start(operation))
        return _OperationSpan(self, operation, span, is_recording=True)


_NOTHING: AbstractContextManager[None] = nullcontext()


class _OperationSpan:
    """Context manager of one operation: the span is the current one inside of it, and ends with it."""

    __slots__ = ("_first_chunk", "_is_recording", "_operation", "_sent", "_span", "_token", "_tracer")

    def __init__(self, tracer: _AgentTracer, operation: Operation, span: Span, *, is_recording: bool) -> None:
        self._tracer = tracer
        self._operation = operation
        self._span = span
        self._is_recording = is_recording
        self._first_chunk: float | None = None
        """Seconds from the last attempt of a request to the first piece of its answer."""
        if operation.kind == "request" and is_recording:
            self._sent = perf_counter()
            operation.on_token, operation.on_event = self._on_token, self._on_event

    def __enter__(self) -> None:
        self._token = self._tracer.attach(self._tracer.set_span_in_context(self._span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tracer.detach(self._token)
        try:
            if self._is_recording:
                self._describe_end(error)
        finally:
            self._span.end()

    def _on_token(self, token: str) -> None:
        """Note the time of the first token, and add an event for each token if the user wants that."""
        if self._first_chunk is None:
            self._first_chunk = perf_counter() - self._sent
        if self._tracer.token_events:
            self._span.add_event("token", {"length": len(token)})  # no text: a key may be split over tokens

    def _on_event(self, event: MessageEvent) -> None:
        """Note the time of the first event of an answer.

        If the request is repeated, add an event `retry`, and begin to measure again.
        """
        if isinstance(event, AnswerRestarted):
            self._sent, self._first_chunk = perf_counter(), None
            self._span.add_event("retry")
        elif self._first_chunk is None:
            self._first_chunk = perf_counter() - self._sent

    def _describe_end(self, error: BaseException | None) -> None:
        """Set the attributes that an operation has at its end, and the status of an error.

        `StopDialog` is no error; the text of an error that may quote content is left out unless content is captured.
        """
        operation, span, captures = self._operation, self._span, self._tracer.capture_content
        if operation.kind == "request":
            span.set_attributes(_answer(operation.result, failed=error is not None))
            if self._first_chunk is not None and operation.asked["stream"]:
                span.set_attribute(TIME_TO_FIRST_CHUNK, self._first_chunk)
        if captures:
            span.set_attributes(_content_at_end(operation))
        if error is None or isinstance(error, StopDialog):  # that is a signal, and no error
            return
        span.set_attribute(ERROR_TYPE, _public_name(type(error)))
        if not isinstance(error, _NO_FAILURE):
            # The text of these errors is a result, or quotes an answer.
            quotes = operation.kind == "tool" or isinstance(error, OutputInvalidError)
            span.set_status(
                self._tracer.error_status,
                None if quotes and not captures else _redaction(operation)(text_of_error(error)),
            )


def _public_name(kind: type[BaseException]) -> str:
    """Return the name of an error's class, or of the first of its bases without an underscore."""
    return next(each.__name__ for each in kind.__mro__ if not each.__name__.startswith("_"))


def _redaction(operation: Operation) -> Callable[[str], str]:
    """Return the function that replaces secrets in the texts of an operation."""
    return _redactor.redact_text if operation.kind == "agent" else operation.redact


# --- attributes without content


def _agent_at_start(operation: Operation) -> dict[str, Any]:
    """Return the span attributes of an agent call: its name and description."""
    return _attributes_of_agent(operation.name, operation.asked["description"])


@lru_cache(maxsize=256)
def _attributes_of_agent(name: str, description: str | None) -> dict[str, Any]:
    """Return the span attributes of an agent's calls; they are made once, because OpenTelemetry copies them."""
    return _given({OPERATION_NAME: OPERATIONS["agent"], AGENT_NAME: name, AGENT_DESCRIPTION: description})


def _request_at_start(operation: Operation) -> dict[str, Any]:
    """Return the span attributes of a request that a sampler may need: provider, model and address."""
    asked = operation.asked
    return _given(
        {
            OPERATION_NAME: OPERATIONS["request"],
            PROVIDER_NAME: asked["provider"],
            REQUEST_MODEL: operation.name,
            SERVER_ADDRESS: asked["address"],
            SERVER_PORT: asked["port"],
        }
    )


def _tool_at_start(operation: Operation) -> dict[str, Any]:
    """Return the span attributes of a call of a tool: its name and the id of the call."""
    return _given(
        {
            OPERATION_NAME: OPERATIONS["tool"],
            TOOL_NAME: operation.name,
            TOOL_CALL_ID: operation.asked["call"].id,
            TOOL_TYPE: "function",
        }
    )


_ATTRIBUTES_AT_START: Mapping[str, Callable[[Operation], dict[str, Any]]] = {
    "agent": _agent_at_start,
    "request": _request_at_start,
    "tool": _tool_at_start,
}


def _given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes whose value is not None."""
    return {name: value for name, value in attributes.items() if value is not None}


def _parameters(settings: Mapping[str, Any], *, streamed: bool) -> dict[str, Any]:
    """Return the span attributes for parameters of a request, such as its temperature.

    Values of other types are left out.
    """
    found: dict[str, Any] = {REQUEST_STREAM: True} if streamed else {}
    for name, (attribute, kind) in PARAMETERS.items():
        value = settings.get(name)
        if isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool):
            found[attribute] = kind(value)
    choices = settings.get("n")
    if isinstance(choices, int) and choices != 1:
        found[CHOICE_COUNT] = choices
    stop = settings.get("stop", settings.get("stop_sequences"))
    if isinstance(stop, (str, tuple)):
        found[STOP_SEQUENCES] = [stop] if isinstance(stop, str) else [str(each) for each in stop]
    for holder in ("reasoning", "output_config"):  # of OpenAI's Responses, and of Anthropic
        effort = _item(settings.get(holder), "effort")
        if isinstance(effort, str):
            found[REASONING_LEVEL] = effort
    formats = (
        settings.get("response_format"),
        *(_item(settings.get(name), "format") for name in ("text", "output_config")),
    )
    for each in formats:
        if isinstance(kind_of_format := _item(each, "type"), str):
            found[OUTPUT_TYPE] = "text" if kind_of_format == "text" else "json"
    return found


def _item(value: Any, name: str) -> Any:
    """Return an item of a mapping; None if there is none, or if this is no mapping."""
    return value.get(name) if isinstance(value, Mapping) else None


def _answer(message: Message | None, *, failed: bool) -> dict[str, Any]:
    """Return the span attributes of an answer, or of the part of it that had come: id, model, finish reasons and usage.

    Without an answer, a failed request has the finish reason "error".
    """
    if not isinstance(message, AssistantMessage):
        return {FINISH_REASONS: ["error"]} if failed else {}
    reasons = [each.finish_reason or ("error" if failed else None) for each in (message, *message.choices)]
    usage = message.usage
    return _given(
        {
            RESPONSE_ID: message.id,
            RESPONSE_MODEL: message.model,
            FINISH_REASONS: [reason for reason in reasons if reason is not None] or None,
            **{attribute: getattr(usage, name, None) for name, attribute in USAGE.items()},
        }
    )


# --- attributes with content, in the JSON of the conventions


def _content_at_start(operation: Operation) -> dict[str, Any]:
    """Return the span attributes with the texts of a request's prompt, or of a tool's arguments; none for an agent."""
    asked = operation.asked
    if operation.kind == "request":
        instructions = asked["system"]
        return _as_json(
            operation,
            {
                SYSTEM_INSTRUCTIONS: None if instructions is None else _parts(instructions),
                INPUT_MESSAGES: [_message(each) for each in asked["messages"]],
            },
        )
    if operation.kind == "tool":
        return _as_json(operation, {TOOL_ARGUMENTS: _parsed(asked["call"].arguments)})
    return {}


def _content_at_end(operation: Operation) -> dict[str, Any]:
    """Return the span attributes with the texts of an answer, or of a tool's result; none for an agent."""
    result = operation.result
    if result is None or operation.kind == "agent":
        return {}
    if operation.kind == "tool":
        return _as_json(operation, {TOOL_RESULT: _parsed(str(result))})
    answers = (result, *getattr(result, "choices", ()))
    return _as_json(operation, {OUTPUT_MESSAGES: [{**_message(each), **_finish(each)} for each in answers]})


def _as_json(operation: Operation, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with their values as redacted JSON; those without a value are left out."""
    redact = _redaction(operation)
    return {
        name: json.dumps(_redacted(value, redact), ensure_ascii=False)
        for name, value in attributes.items()
        if value is not None
    }


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """Return a JSON value with all texts in it redacted, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(item, redact) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(item, redact) for item in value]
    return (
        value
        if value is None or isinstance(value, (bool, int, float))
        else redact(to_json(value, fallback=str).decode())
    )


def _message(message: Message) -> dict[str, Any]:
    """Return a message in the form of the conventions: its role and its parts."""
    if isinstance(message, ToolMessage):
        response = {"type": "tool_call_response", "id": message.tool_call_id, "response": _parsed(str(message))}
        return {"role": "tool", "parts": [response]}
    parts: list[dict[str, Any]] = []
    if reasoning := getattr(message, "reasoning", None):
        parts.append({"type": "reasoning", "content": reasoning})
    content = message.content
    if content is not None or not isinstance(message, AssistantMessage):
        parts += _parts(str(message) if content is None else content)
    if refusal := getattr(message, "refusal", None):
        parts.append({"type": "refusal", "content": refusal})
    parts += (
        {"type": "tool_call", "id": call.id, "name": call.name or "", "arguments": _parsed(call.arguments)}
        for call in getattr(message, "tool_calls", ())
    )
    return {"role": message.role or "user", "parts": parts}


def _finish(message: Message) -> dict[str, Any]:
    """Return the field `finish_reason` of an answer in the words of the conventions; "error" if it has no reason."""
    reason = getattr(message, "finish_reason", None) or "error"
    return {"finish_reason": "tool_call" if reason == "tool_calls" else reason}


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return a text or a list of parts as parts of the conventions; parts that are no text stay as they are."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}] if content else []
    found: list[dict[str, Any]] = []
    for part in content if isinstance(content, (list, tuple)) else [content]:
        if isinstance(part, str):
            found += _parts(part)
        elif isinstance(text := _item(part, "text"), str):
            found.append({"type": "text", "content": text})
        elif isinstance(part, Mapping):
            found.append({"type": "unknown", **part})
        else:
            found.append({"type": "unknown", "content": str(part)})
    return found


def _parsed(text: str) -> Any:
    """Return the value of a JSON text; any other text as it is."""
    try:
        return from_json(text)
    except ValueError:
        return text
