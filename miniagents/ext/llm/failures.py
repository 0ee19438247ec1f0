"""Whatever goes wrong between us and a provider, as one of our errors.

Three kinds of things come here: errors of the SDKs (before the response), errors of the HTTP library (while its body
is read), and errors of the sessions, which are ours already. The SDKs and the HTTP library are known by the names of
their classes, so that none of them is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.errors import (
    ConnectionFailedError,
    LLMError,
    MissingAPIKeyError,
    StreamBrokenError,
    StreamDecodeError,
    StreamStalledError,
)
from miniagents.ext.llm.retries import requested_wait, retry_wish
from miniagents.ext.llm.sessions.error_objects import error_from_payload

if TYPE_CHECKING:
    from miniagents.ext.llm.redaction import Redactor

__all__ = ["as_llm_error"]

_LIBRARIES = frozenset({"httpx2", "httpx", "httpcore2", "httpcore", "anyio", "aiohttp", "ssl", "socket"})
_EXCERPT = 500


def as_llm_error(error: BaseException, *, provider: str, redactor: Redactor, responded: bool) -> LLMError | None:
    """Our error for another one, with no key in it or in its causes; None for what is neither provider nor network.

    Args:
        error: what was raised.
        provider: "openai" or "anthropic".
        redactor: knows the secrets of the request.
        responded: whether there was a response already.

    Raises:
        Exception: what an SDK has wrapped as a connection error although it is none, such as a bug in a transport.
    """
    if isinstance(error, LLMError):
        _clean(error, provider, redactor)
        return error
    ours = _from_sdk(error, provider) or _from_library(error, provider, responded)
    if ours is None:
        return None
    ours.args = (redactor.text(str(ours)),)
    redactor.exception(error)
    ours.__cause__ = error
    return ours


def _clean(error: LLMError, provider: str, redactor: Redactor) -> None:
    error.args = tuple(redactor.deep(arg) for arg in error.args)
    error.provider = error.provider or provider
    if error.__cause__ is not None:
        redactor.exception(error.__cause__)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _from_sdk(error: BaseException, provider: str) -> LLMError | None:
    package = next((kind.__module__.partition(".")[0] for kind in type(error).__mro__[:-3]), "")
    names = _names(error)
    if "APIStatusError" in names:
        return _from_status(error, provider)
    if "APIConnectionError" in names:
        return _from_connection(error, provider)
    if "APIError" in names and package in ("openai", "anthropic"):  # an error event in a stream that the SDK decoded
        return error_from_payload(
            getattr(error, "body", None) or {"message": str(error)}, provider=provider, status=200
        )
    if isinstance(error, TypeError) and "authentication method" in str(error):  # anthropic, at the first request
        return MissingAPIKeyError(
            "no API key: set the environment variable ANTHROPIC_API_KEY, or give a client with `async_client=`",
            provider=provider,
        )
    return None


def _from_status(error: Any, provider: str) -> LLMError:
    status, body = error.status_code, error.body
    if 300 <= status < 400:  # from a client that follows no redirects
        place = error.response.headers.get("location", "nowhere").partition("?")[0]
        body = {"message": f"the request was redirected to {place}: set the client's base_url to where the API is"}
    elif not isinstance(body, dict):
        text = str(body or getattr(error, "message", "") or "").strip()
        body = {"message": text[:_EXCERPT] + ("..." if len(text) > _EXCERPT else "") or "no explanation"}
    ours = error_from_payload(body, provider=provider, status=status)
    ours.args = (f"status {status}: {ours}",)
    wish = retry_wish(error.response.headers)
    if wish is not None:
        ours.retryable = wish
    ours.retry_after = requested_wait(error.response.headers)
    return ours


def _from_connection(error: BaseException, provider: str) -> LLMError:
    cause = error.__cause__
    if cause is not None and not _is_network(cause):
        raise cause  # some SDKs wrap whatever a transport raises, bugs too
    timed_out = "APITimeoutError" in _names(error)
    what = "timed out before the response began" if timed_out else f"failed before the response began: {cause or error}"
    return ConnectionFailedError(f"the request to {provider} {what}", provider=provider)


def _from_library(error: BaseException, provider: str, responded: bool) -> LLMError | None:
    if not _is_network(error):
        return None
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if not responded:
        return ConnectionFailedError(f"the request to {provider} failed: {what}", provider=provider)
    names = _names(error)
    if "TimeoutException" in names or isinstance(error, TimeoutError):
        return StreamStalledError(f"{provider} sent nothing for too long ({what})", provider=provider)
    if "DecodingError" in names:
        return StreamDecodeError(f"the response of {provider} cannot be decoded ({what})", provider=provider)
    return StreamBrokenError(
        f"the connection to {provider} broke in the middle of the response ({what})", provider=provider
    )


def _is_network(error: BaseException) -> bool:
    return isinstance(error, OSError | EOFError) or any(
        kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(error).__mro__
    )
