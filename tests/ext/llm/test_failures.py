"""Failures of requests: their translation into `LLMError`, and the redaction of keys."""

from __future__ import annotations

import json
import logging
import pickle
import re
import traceback
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anthropic
import openai
import pytest

from miniagents import errors
from miniagents.ext.llm._failures import Retry
from miniagents.ext.llm._redaction import REDACTED, Redactor
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit

PROVIDERS = ["openai", "anthropic"]


async def failure(provider: str, wire: Any, *messages: Any, **settings: Any) -> errors.LLMError:
    """Return the error of the agent's reply to these messages, without retries."""
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    client = wire.openai() if provider == "openai" else wire.anthropic()
    async with MiniAgents():
        with pytest.raises(errors.LLMError) as caught:
            await create("m", **{"async_client": client, "retry": None, **settings}).trigger(list(messages) or "Hello")
    return caught.value


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, errors.RequestRejectedError, False),
        (401, errors.AuthenticationFailedError, False),
        (403, errors.AuthenticationFailedError, False),
        (404, errors.RequestRejectedError, False),
        (408, errors.ProviderError, True),
        (409, errors.ProviderError, True),
        (413, errors.RequestRejectedError, False),
        (422, errors.RequestRejectedError, False),
        (429, errors.RateLimitedError, True),
        (500, errors.ProviderError, True),
        (502, errors.ProviderError, True),
        (503, errors.ProviderOverloadedError, True),
        (529, errors.ProviderOverloadedError, True),
    ],
)
async def test_status_of_a_response_decides_the_class_of_the_error(
    provider: str, status: int, kind: type, retryable: bool, kit: Kit
) -> None:
    """A status gives the same error class and `retryable` for both providers.

    The error has the provider's text and wait, and the SDK's error as its cause.
    """
    reply = kit.Reply.json({"error": {"message": "what went wrong", "type": "some_error"}}, status, retry_after="7")
    error = await failure(provider, kit.Wire(reply))
    assert type(error) is kind
    assert (error.status, error.retryable, error.provider, error.retry_after) == (status, retryable, provider, 7.0)
    assert f"status {status}" in str(error)
    assert "what went wrong" in str(error)
    assert not error.delivered_any
    assert type(error.__cause__).__module__.startswith(provider)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "body", [b"", b"<html>502 Bad Gateway</html>", b"{", b"[]", b'"text"', b'{"detail": "x"}', b"x" * 9999]
)
async def test_error_response_with_any_body_raises_provider_error(provider: str, body: bytes, kit: Kit) -> None:
    """A proxy's page, broken JSON or an empty body with status 502 is a ProviderError with a short text."""
    error = await failure(provider, kit.Wire(kit.Reply([body], 502)))
    assert type(error) is errors.ProviderError
    assert error.status == 502
    assert 20 < len(str(error)) < 800


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_rate_limit_error_is_not_retryable_when_the_quota_is_used_up(provider: str, kit: Kit) -> None:
    """Status 429 with the code `insufficient_quota` is a RateLimitedError that is not retryable."""
    error = await failure(
        provider, kit.Wire(kit.Reply.json({"error": {"message": "m", "code": "insufficient_quota"}}, 429))
    )
    assert type(error) is errors.RateLimitedError
    assert not error.retryable


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_S33_S34_failure_of_the_network_raises_the_error_of_its_kind(provider: str, kit: Kit) -> None:
    """A failed connection, a broken response, a timeout and a truncated stream raise an `LLMError` class each."""
    import httpx2

    start = kit.chat("Hi")[:1] if provider == "openai" else kit.message("Hi")[:4]
    cases: list[tuple[Any, type, bool, str]] = [
        (httpx2.ConnectError("refused"), errors.ConnectionFailedError, True, "refused"),
        (httpx2.ConnectTimeout("slow"), errors.ConnectionFailedError, True, "timed out"),
        (OSError("unreachable"), errors.ConnectionFailedError, True, "unreachable"),
        (kit.Reply([*start, httpx2.ReadError("reset")]), errors.StreamBrokenError, True, "reset"),
        (kit.Reply([*start, httpx2.RemoteProtocolError("eof")]), errors.StreamBrokenError, True, "eof"),
        (kit.Reply([*start, ConnectionResetError("rst")]), errors.StreamBrokenError, True, "rst"),
        (kit.Reply([*start, httpx2.ReadTimeout("silence")]), errors.StreamStalledError, True, "silence"),
        (kit.Reply([*start, httpx2.DecodingError("bad")]), errors.StreamDecodeError, True, "bad"),
        (kit.Reply(start), errors.StreamTruncatedError, True, "ended"),
        (kit.Reply([]), errors.EmptyStreamError, True, "no events"),
    ]
    for reply, kind, retryable, words in cases:
        error = await failure(provider, kit.Wire(reply))
        assert type(error) is kind
        assert error.retryable is retryable
        assert words in str(error)
        streamed = isinstance(reply, kit.Reply) and bool(reply.script)
        assert error.partial.content == ("Hi" if streamed else "")
        assert error.delivered_any is streamed


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_exception_of_a_transport_is_raised_unchanged_when_it_is_a_bug(provider: str, kit: Kit) -> None:
    """An exception that is a bug in a transport is raised as it is, although the SDK may have wrapped it."""
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    for reply in (ZeroDivisionError("bug"), kit.Reply([b": begun\n\n", ZeroDivisionError("bug")])):
        wire = kit.Wire(reply)
        async with MiniAgents():
            with pytest.raises(ZeroDivisionError, match="bug"):
                await create("m", async_client=wire.openai() if provider == "openai" else wire.anthropic()).trigger(
                    "Hi"
                )
        assert len(wire.requests) == 1
        assert wire.in_flight == 0


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_P20_X16_echoed_key_is_in_no_error_traceback_pickle_or_log(
    provider: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that the provider repeats is redacted in the error, its cause, its traceback, its pickle and the log."""
    caplog.set_level(logging.DEBUG)
    echo = {"message": f"Incorrect API key provided: {kit.KEY}", "code": f"Bearer {kit.KEY}", "param": [kit.KEY]}
    for reply in (kit.Reply.json({"error": echo}, 401), kit.Reply(kit.events({"error": echo, "type": "error"}))):
        error = await failure(provider, kit.Wire(reply))
        assert "Incorrect API key provided: [redacted]" in str(error)
        cause: Any = error.__cause__
        texts = ["".join(traceback.format_exception(error)), repr(error), str(error.__dict__), repr(cause), caplog.text]
        if cause is not None:
            texts += [repr(cause.body), cause.message, repr(dict(cause.request.headers))]
            with pytest.raises(Exception, match=r"\[redacted\]"):
                raise cause
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.status, copy.retryable) == (
            type(error),
            str(error),
            error.status,
            error.retryable,
        )
        assert copy.partial.content == error.partial.content
        texts += [repr(copy.__dict__), pickle.dumps(error, protocol=0).decode("latin-1")]
        for text in texts:
            assert kit.KEY not in text


@pytest.mark.parametrize("charset", ["utf-16", "utf-32", "utf-8", "latin-1", "nonsense"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_error_page_that_cannot_be_decoded_is_an_error_of_a_model(provider: str, charset: str, kit: Kit) -> None:
    """A page in another charset than its header says fails the request with an `LLMError`."""
    page = kit.Reply([b"<html>Bad gateway \xff</html>"], 502, {"content-type": f"text/html; charset={charset}"})
    assert re.search("502|charset", str(await failure(provider, kit.Wire(page))))


async def test_P20_keys_in_headers_of_the_application_are_redacted(kit: Kit) -> None:
    """If the provider repeats a key from one of the application's own headers, the error has it redacted."""
    wire = kit.Wire(kit.Reply.json({"error": {"message": "bad tokens: gateway-0815-secret, per-call-4711"}}, 401))
    client = wire.openai(default_headers={"X-Gateway-Token": "gateway-0815-secret"})
    error = await failure("openai", wire, async_client=client, extra_headers={"x-my-key": "per-call-4711"})
    assert f"bad tokens: {REDACTED}, {REDACTED}. Check the environment variable OPENAI_API_KEY" in str(error)
    assert wire.requests[0].headers["accept-encoding"] == "identity"


def everything_in(error: BaseException) -> str:
    """Return all texts of an error, of its causes, and of the requests and responses that they hold."""
    texts = ["".join(traceback.format_exception(error)), pickle.dumps(error, protocol=0).decode("latin-1")]
    links: list[Any] = [error]
    for link in links:
        links += [each for each in (link.__cause__, link.__context__) if each is not None and each not in links]
        texts += [str(link), repr(link), repr(link.args), repr(vars(link))]
        response = getattr(link, "response", None)
        if response is not None:
            texts += [repr(response.headers.raw), response.text, str(response.url)]
            texts += [repr(each.headers.raw) + str(each.url) for each in (response.request, *response.history)]
    return "\n".join(texts)


ECHOED = ["text", "status", "headers", "event", "malformed", "key of a dict", "redirect", "network"]


@pytest.mark.parametrize("how", ECHOED)
@pytest.mark.parametrize("client", ["coroutine", "function", "token", "query", "basic", "cookie", "base URL"])
async def test_P27_key_that_only_the_request_holds_is_in_no_error(client: str, how: str, kit: Kit) -> None:
    """A key from a function, in a cookie or in a URL, which the server repeats, is in no text of the error."""
    import httpx2

    keys = [f'gate"way/{i}+0815==' for i in range(2)]
    given = iter(keys)
    status = {"status": 401, "redirect": 307}.get(how, 200)

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent = request.url.params.get("api-key") or request.headers.get("authorization", "").partition(" ")[2]
        key = keys[0] if client in ("basic", "cookie", "base URL") else sent
        if how == "network":
            raise httpx2.ConnectError(f"the proxy refuses {key}", request=request)
        error = {"message": f"bad key {key}", "code": key, "param": [key]}
        body = {"error": {key: key} if how == "key of a dict" else error}
        text = json.dumps(body) if how != "malformed" else f"data: {{{key}\n\n"
        if how == "event":
            text = f"event: error\ndata: {text}\n\n"
        headers = {"content-type": "application/json", "www-authenticate": f"Bearer {key}", "location": f"/v2?k={key}"}
        kind = {"text": 400, "headers": 403, "key of a dict": 500}
        return httpx2.Response(kind.get(how, status), headers=headers, content=text.encode())

    async def coroutine() -> str:
        return next(given)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    options: dict[str, Any] = {"base_url": "http://x.test/v1", "http_client": http}
    if client == "function":
        options = {"azure_endpoint": "http://x.test", "api_version": "2024-10-21", "http_client": http}
        made: Any = openai.AsyncAzureOpenAI(azure_ad_token_provider=lambda: next(given), **options)
    elif client == "coroutine":
        made = openai.AsyncOpenAI(api_key=coroutine, **options)
    elif client == "token":
        made = anthropic.AsyncAnthropic(auth_token=next(given), **options)
    elif client == "query":
        made = openai.AsyncOpenAI(api_key="none", default_query={"api-key": next(given)}, **options)
    elif client == "cookie":
        cookie = f"lang=en; session={next(given)}; a=b"
        made = openai.AsyncOpenAI(api_key="none", default_headers={"Cookie": cookie}, **options)
    elif client == "base URL":
        options["base_url"] += "?api-key=" + quote(next(given), safe="")
        made = openai.AsyncOpenAI(api_key="none", **options)
    else:
        pair = b64encode(f"user:{next(given)}".encode()).decode()
        made = openai.AsyncOpenAI(api_key="none", default_headers={"Authorization": f"Basic {pair}"}, **options)
    create: Any = create_anthropic_agent if client == "token" else create_openai_agent
    async with MiniAgents():
        with pytest.raises(errors.LLMError) as caught:
            await create("m", async_client=made, retry=Retry(attempts=2, first_wait=0)).trigger("Hello")
    shown = everything_in(caught.value)
    for key in keys:
        for form in (key, quote(key), quote(key, safe=""), json.dumps(key)[1:-1]):
            assert form not in shown


def test_P27_redactor_redacts_notes_groups_and_attributes_of_an_error() -> None:
    """A secret in notes, group members and further attributes is in no traceback of the error."""
    inner = OSError(5, "no route for gateway-0815")
    error = ExceptionGroup("several", [inner, ValueError("bad gateway-0815")])
    error.add_note("tried with gateway-0815")
    error.detail = {"gateway-0815": (b"gateway-0815", 5)}  # type: ignore[attr-defined]  # of some library
    Redactor(["gateway-0815"]).redact_exception(error)
    assert "gateway-0815" not in "".join(traceback.format_exception(error)) + repr(vars(error))


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdEFGH1234",
        "sk-ant-api03-abc_DEF-123456",
        "sk-wrong****-key",
        "gsk_abcdefgh12345678",
        "xai-abcdefgh12345678",
        "pplx-0123456789abcdef",
        "hf_abcdefghijkl",
        "AIzaSyA0123456789abcdefghijkl",
        "ya29.a0AfH6SMBx-12345",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2lnbmF0dXJl",
    ],
)
def test_redactor_replaces_texts_with_the_shape_of_a_key(secret: str) -> None:
    """A key of a known shape is redacted in any surroundings, although the redactor does not know it."""
    redactor = Redactor()
    for text in (
        secret,
        f"key={secret}.",
        f'"{secret}"',
        f"Bearer {secret}",
        f"({secret})",
        f"https://x/?key={secret}&a=1",
    ):
        assert secret not in redactor.redact_text(text)
    assert redactor.redact_value({"a": [secret, 1, None], "b": (secret,)}) == {
        "a": [REDACTED, 1, None],
        "b": (REDACTED,),
    }


def test_redactor_takes_linear_time_when_a_long_text_resembles_tokens() -> None:
    """A million characters that resemble the beginning of a token are read in linear time, and stay unchanged."""
    text = "eyJ-" * 250_000
    assert Redactor().redact_text(text) == text


def test_redactor_leaves_ordinary_text_unchanged() -> None:
    """Words that resemble keys, and known secrets of a few characters, stay in the text."""
    redactor = Redactor(["ab", ""])
    for text in (
        "max_tokens: 4096",
        "ask-me-anything",
        "task-force",
        "a basic idea",
        "risk_assessment_report",
        "ab absolute",
    ):
        assert redactor.redact_text(text) == text
    assert redactor.redact_text("authorization: Bearer abcdefghijk") == f"authorization: {REDACTED} {REDACTED}"
    assert redactor.redact_text('{"api_key": "0815-4711-xyz", "x": 1}') == f'{{"api_key": "{REDACTED}", "x": 1}}'


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_X12_log_lines_hold_no_prompt_and_no_key(
    provider: str, kit: Kit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At level DEBUG, the log has no prompt and no secret; with MINIAGENTS_LOG_BODIES=1 prompts, but never the key."""
    caplog.set_level(logging.DEBUG)
    answer = kit.chat("Hi") if provider == "openai" else kit.message("Hi")
    settings = {"extra_query": {"key": "query-secret-1"}, "extra_headers": {"x-token": "header-secret-1"}}
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    for bodies in (False, True):
        caplog.clear()
        monkeypatch.setenv("MINIAGENTS_LOG_BODIES", str(int(bodies)))
        wire = kit.Wire(kit.Reply.json({"error": {"message": "canary prompt"}}, 500), kit.Reply(answer))
        client = wire.openai() if provider == "openai" else wire.anthropic()
        async with MiniAgents():
            await create("m", async_client=client, **settings).trigger("canary prompt")
        assert "HTTP Request: POST" in caplog.text
        secrets = ("canary prompt", kit.KEY, "query-secret-1", "header-secret-1")
        assert any(secret in caplog.text for secret in secrets) is bodies
        assert kit.KEY not in caplog.text
