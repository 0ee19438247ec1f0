"""Repetition of failed requests: in which cases, and after which wait."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import errors
from miniagents.ext.llm._failures import Retry, requested_wait, should_retry
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT
SOON = Retry(first_wait=0.001)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1"}, 1.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1,2"}, None),
        ({"retry-after": "0x10"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 GMT"}, 10.0),
        ({"retry-after": "Tue, 14 Nov 2023 23:13:30 +0100"}, 10.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:20 GMT"}, 0.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:10 GMT"}, None),
        ({"retry-after": "Tue, 99 Nov 2023 22:13:30 GMT"}, None),
        ({"retry-after": "2023-11-14T22:13:30Z"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after-ms": "2.5"}, 0.0025),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "nan", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "inf", "retry-after": "inf"}, None),
        ({"retry-after-ms": "", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "soon"}, None),
    ],
    ids=str,
)
def test_P14_requested_wait_reads_the_headers_and_ignores_invalid_values(
    headers: dict[str, str], seconds: float | None
) -> None:
    """`requested_wait` prefers milliseconds to seconds, and seconds to a date, and ignores invalid headers."""
    assert requested_wait(headers, NOW) == seconds


@given(st.text(max_size=30))
def test_P14_requested_wait_accepts_any_header_value(value: str) -> None:
    """For any header value, `requested_wait` gives None or finite seconds, and `should_retry` a bool or None."""
    for name in ("retry-after", "retry-after-ms"):
        wait = requested_wait({name: value}, NOW)
        assert wait is None or 0 <= wait < float("inf")
    assert should_retry({"x-should-retry": value}) in (True, False, None)


def test_requested_wait_compares_a_date_with_the_clock() -> None:
    """`requested_wait` without `now` compares a date in a header with the present time."""
    assert requested_wait({"retry-after": "Tue, 14 Nov 2023 22:13:30 GMT"}) is None
    assert (requested_wait({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}) or 0) > 1e9


def test_P14_retry_waits_as_the_provider_asks_up_to_wait_cap() -> None:
    """`Retry` waits as long as the provider asks, up to `wait_cap`, and else twice as long each time, with jitter."""
    retry = Retry(attempts=9, wait_cap=60.0, time_budget=1000.0, first_wait=0.5, max_wait=8.0)
    assert retry.wait(errors.RateLimitedError(retry_after=3600.0), 1, 0.0) == 60.0
    assert retry.wait(errors.RateLimitedError(retry_after=2.0), 1, 0.0) == 2.0
    for attempt, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (8, 8.0)):
        wait = retry.wait(errors.ProviderError(), attempt, 0.0)
        assert wait is not None
        assert longest * 0.75 <= wait <= longest


def test_retry_gives_up_after_its_attempts_its_time_budget_or_a_delivered_token() -> None:
    """`Retry` gives up after its last attempt, beyond its time budget, after delivered text, and on final errors."""
    retry = Retry(attempts=2, time_budget=10.0)
    assert retry.wait(errors.ProviderError(), 2, 0.0) is None
    assert retry.wait(errors.ProviderError(retry_after=5.0), 1, 6.0) is None
    assert retry.wait(errors.ProviderError(delivered_any=True), 1, 0.0) is None
    assert retry.wait(errors.RequestRejectedError(), 1, 0.0) is None
    assert retry.wait(errors.RequestRejectedError(retryable=True), 1, 0.0) is not None


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"time_budget": -1.0}, {"wait_cap": float("nan")}, {"first_wait": -1.0}], ids=str
)
def test_retry_refuses_invalid_values(wrong: dict[str, Any]) -> None:
    """`Retry` raises ValueError with the name of the field for an invalid value."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retry(**wrong)


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_P14_agent_sends_a_rate_limited_request_again_without_the_retries_of_the_sdk(
    api: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """Two refusals and an answer take three requests, none of them repeated by the SDK.

    They log two warnings without the prompt.
    """
    refusal = kit.Reply.json({"error": {"message": "slow"}}, 429, retry_after_ms="1")
    answer = kit.chat("Hi") if api == "openai" else kit.message("Hi")
    wire = kit.Wire(refusal, refusal, kit.Reply(answer))
    agent = _agent(api, wire)
    async with MiniAgents():
        (message,) = await agent.trigger("secret prompt")
    assert message.content == "Hi"
    assert [request.headers["x-stainless-retry-count"] for request in wire.requests] == ["0", "0", "0"]
    lines = [record for record in caplog.records if record.name == "miniagents.llm"]
    assert [record.levelno for record in lines] == [logging.WARNING] * 2
    assert "attempt 1 of 3 failed (RateLimitedError, status 429)" in lines[0].getMessage()
    assert "secret prompt" not in caplog.text
    assert kit.KEY not in caplog.text


def _agent(api: str, wire: Any, retry: Retry | None = SOON, **settings: Any) -> Any:
    """Return the agent of this API; by default, it waits only shortly between attempts."""
    if api == "openai":
        return create_openai_agent("m", async_client=wire.openai(), retry=retry, **settings)
    return create_anthropic_agent("m", async_client=wire.anthropic(), retry=retry, **settings)


@pytest.mark.parametrize(
    ("status", "wish", "requests"),
    [
        (400, None, 1),
        (400, "true", 3),
        (401, None, 1),
        (404, None, 1),
        (500, None, 3),
        (500, "false", 1),
        (529, None, 3),
    ],
)
async def test_P14_status_and_x_should_retry_decide_on_further_requests(
    status: int, wish: str | None, requests: int, kit: Kit
) -> None:
    """The header `x-should-retry` decides on further requests; without it, the status does."""
    headers = {} if wish is None else {"x_should_retry": wish}
    wire = kit.Wire(kit.Reply.json({"error": {"message": "no"}}, status, **headers))
    async with MiniAgents():
        with pytest.raises(errors.LLMError) as caught:
            await _agent("openai", wire).trigger("Hello")
    assert len(wire.requests) == requests
    assert caught.value.status == status


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", ["connect", "broken", "empty", "cut", "error event", "corrupt gzip"])
async def test_P5_agent_sends_a_request_again_when_it_fails_before_the_first_token(
    api: str, fault: str, kit: Kit
) -> None:
    """A failure before the first token leads to a second request, whose answer is the reply."""
    import httpx2

    whole = kit.chat("Hi") if api == "openai" else kit.message("Hi")
    start = [] if api == "openai" else whole[:2]
    first: Any = {
        "connect": httpx2.ConnectError("refused"),
        "broken": kit.Reply([*start, httpx2.ReadError("reset")]),
        "empty": kit.Reply([]),
        "cut": kit.Reply(start or kit.events(kit.chat_chunk(role="assistant"))),
        "error event": kit.Reply([*start, *kit.events(OVERLOADED)]),
        "corrupt gzip": kit.Reply([b"not gzip"], headers={"content-encoding": "gzip"}),
    }[fault]
    wire = kit.Wire(first, kit.Reply(whole))
    async with MiniAgents():
        (message,) = await _agent(api, wire).trigger("Hello")
    assert message.content == "Hi"
    assert len(wire.requests) == 2
    assert all(body.closed for body in wire.responses)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_P16_agent_sends_nothing_again_after_a_delivered_token(api: str, kit: Kit) -> None:
    """After a token was delivered, a failure is raised with the text in `partial`, without a second request."""
    import httpx2

    whole = kit.chat("Hi", " there") if api == "openai" else kit.message("Hi", " there")
    until = 1 if api == "openai" else 4
    wire = kit.Wire(kit.Reply([*whole[:until], httpx2.ReadError("reset")]), kit.Reply(whole))
    async with MiniAgents():
        (promise,) = [promise async for promise in _agent(api, wire).trigger("Hello")]
        tokens = []
        with pytest.raises(errors.StreamBrokenError) as caught:
            async for token in promise:
                tokens.append(token)
    assert tokens == ["Hi"]
    assert caught.value.partial.content == "Hi"
    assert caught.value.partial.interrupted
    assert caught.value.delivered_any
    assert len(wire.requests) == 1


async def test_agent_sends_a_request_again_after_reasoning_without_text(kit: Kit) -> None:
    """A reset after reasoning without text leads to a second request; the message has only its answer."""
    import httpx2

    thought = kit.events(kit.chat_chunk(reasoning_content="hm"))
    wire = kit.Wire(kit.Reply([*thought, httpx2.ReadError("reset")]), kit.Reply(kit.chat("Hi")))
    async with MiniAgents():
        (message,) = await _agent("openai", wire).trigger("Hello")
    assert message.content == "Hi"
    assert message.reasoning is None


class _Listener(logging.Handler):
    """Log handler that sets an event at each record."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.event.set()


async def test_P15_cancellation_ends_the_wait_for_the_next_attempt(kit: Kit) -> None:
    """A cancellation during a wait of 30 seconds ends the wait at once, and no request follows."""
    wire = kit.Wire(kit.Reply.json({"error": {"message": "slow"}}, 429, retry_after="30"))
    heard = _Listener()
    logging.getLogger("miniagents.llm").addHandler(heard)
    try:
        async with MiniAgents():
            (promise,) = [promise async for promise in _agent("openai", wire).trigger("Hello")]
            await heard.event.wait()
            promise.cancel()
            with pytest.raises(errors.PromiseCancelledError):
                await promise
    finally:
        logging.getLogger("miniagents.llm").removeHandler(heard)
    assert len(wire.requests) == 1


async def test_agent_raises_the_last_error_when_the_attempts_are_used_up(kit: Kit) -> None:
    """`Retry(attempts=2)` sends two requests and `retry=None` one, and then the agent raises the last error."""
    wire = kit.Wire(kit.Reply.json({"error": {"message": "no"}}, 500))
    for retry, total in ((Retry(attempts=2, first_wait=0.0), 2), (None, 3)):
        async with MiniAgents():
            with pytest.raises(errors.ProviderError, match="no"):
                await _agent("openai", wire, retry).trigger("Hello")
        assert len(wire.requests) == total
