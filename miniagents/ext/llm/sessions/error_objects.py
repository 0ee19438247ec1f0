"""A provider's error object, wherever it stands, as one of our errors."""

from __future__ import annotations

from typing import Any

from miniagents.errors import (
    AuthenticationFailedError,
    LLMError,
    ProviderError,
    ProviderOverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from miniagents.ext.terminal import visible, visible_line

__all__ = ["error_class", "error_from_payload"]

# `type` and `code` words of OpenAI, Azure, Anthropic and their relatives; what is not here is a failure of the
# provider's own
_WORDS: dict[str, type[LLMError]] = {
    "overloaded_error": ProviderOverloadedError,
    "overloaded": ProviderOverloadedError,
    "server_overloaded": ProviderOverloadedError,
    "service_unavailable": ProviderOverloadedError,
    "engine_overloaded": ProviderOverloadedError,
    "rate_limit_error": RateLimitedError,
    "rate_limit_exceeded": RateLimitedError,
    "rate_limited": RateLimitedError,
    "too_many_requests": RateLimitedError,
    "insufficient_quota": RateLimitedError,
    "tokens": RateLimitedError,
    "requests": RateLimitedError,
    "authentication_error": AuthenticationFailedError,
    "permission_error": AuthenticationFailedError,
    "invalid_api_key": AuthenticationFailedError,
    "invalid_request_error": RequestRejectedError,
    "invalid_request": RequestRejectedError,
    "invalid_prompt": RequestRejectedError,
    "not_found_error": RequestRejectedError,
    "model_not_found": RequestRejectedError,
    "request_too_large": RequestRejectedError,
    "billing_error": RequestRejectedError,
    "context_length_exceeded": RequestRejectedError,
    "content_policy_violation": RequestRejectedError,
    "content_filter": RequestRejectedError,
    "tool_use_failed": RequestRejectedError,
}
_HOPELESS = frozenset({"insufficient_quota"})
"""A limit that does not go away by waiting."""


def error_class(status: int | None) -> type[LLMError]:
    """The error an HTTP status stands for."""
    match status:
        case 401 | 403:
            return AuthenticationFailedError
        case 429:
            return RateLimitedError
        case 503 | 529:
            return ProviderOverloadedError
        case 408 | 409:  # a timeout or a lock on the provider's side: both SDKs repeat these
            return ProviderError
        case int() if 300 <= status < 500:  # a redirect that the client does not follow leads nowhere again
            return RequestRejectedError
        case _:
            return ProviderError


def error_from_payload(payload: Any, *, provider: str, status: int | None = None) -> LLMError:
    """Read an error object: `{"error": {...}}`, `{"error": "text"}`, or the inner object by itself.

    Args:
        payload: the parsed JSON.
        provider: "openai" or "anthropic".
        status: status of the HTTP response; that of a stream (2xx) leaves it to the words in the object.
    """
    error = payload.get("error") if isinstance(payload, dict) and payload.get("error") else payload
    if not isinstance(error, dict):
        error = {"message": error}
    words = [str(error[key]) for key in ("code", "type") if error.get(key) is not None and error.get(key) != "error"]
    message = error.get("message") or error.get("detail") or "the provider reported an error without a message"
    kind = next((_WORDS[word] for word in words if word in _WORDS), None)
    in_stream = status is None or status < 300
    if not in_stream:
        kind = error_class(status) if kind is None or error_class(status) is not ProviderError else kind
    elif kind is None:
        number = next((number for number in map(_status_in, (error.get("status_code"), *words)) if number), None)
        kind = error_class(number)
    where = " in the stream" if in_stream else ""
    label = f" ({', '.join(dict.fromkeys(words))})" if words else ""
    return kind(
        f"{provider} reported an error{where}{visible_line(label)}: {visible(str(message))}",
        provider=provider,
        status=status,
        retryable=False if _HOPELESS.intersection(words) else None,
    )


def _status_in(word: Any) -> int | None:
    """An HTTP status that stands where a word is expected (OpenRouter and others: `"code": 429`)."""
    text = str(word)
    return int(text) if len(text) == 3 and text.isdecimal() and text.isascii() and "400" <= text <= "599" else None
