"""Scripts under the real SDKs: answers and errors arrive for each API, streamed or not, sync and async."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest
from pydantic import BaseModel

from miniagents import Usage
from miniagents_testing import Failure, ScriptedLLM, Step
from miniagents_testing.errors import UnexpectedCallError

if TYPE_CHECKING:
    from collections.abc import Callable

APIS = ("chat", "responses", "messages")
CALLS: Any = [("get_weather", {"city": "Paris", "unit": "C"}), ("get_time", {})]
EVERY_WAY = [
    pytest.param(api, streamed, sync, id=f"{api}-{'streamed' if streamed else 'whole'}-{'sync' if sync else 'async'}")
    for api, streamed, sync in itertools.product(APIS, (True, False), (True, False))
]


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_sdk_receives_all_fields_of_a_step(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """Each SDK receives the reasoning, text, parallel tool calls, usage and finish reason of a step."""
    step = Step(
        "Hello there, wörld 😀!\n\nTwo  spaces. ",
        reasoning="Let me think about it.",
        tool_calls=CALLS,
        usage=Usage(input_tokens=11, output_tokens=7),
    )
    transport = ScriptedLLM(step).transport()
    said = await sdks.ask(api, streamed=streamed, sync=sync, transport=transport)
    assert said.text == "Hello there, wörld 😀!\n\nTwo  spaces. "
    assert said.reasoning == "Let me think about it."
    assert said.tool_calls == CALLS
    assert said.tokens == (11, 7)
    assert said.ended == {"chat": "tool_calls", "responses": "completed", "messages": "tool_use"}[api]


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_refusal_of_a_step_reaches_the_sdk_as_a_refusal(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """The words of a step's refusal arrive where each provider puts a refusal, and not as the text of the answer."""
    transport = ScriptedLLM(Step(refusal="I will not do that.")).transport()
    said = await sdks.ask(api, streamed=streamed, sync=sync, transport=transport)
    assert (said.text, said.refusal) == ("", "I will not do that.")
    assert said.ended == {"chat": "stop", "responses": "completed", "messages": "refusal"}[api]


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_each_call_of_an_sdk_takes_the_next_step(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """Calls take steps in order; a call after the last one raises an error that no SDK retries or wraps."""
    llm = ScriptedLLM(["first", {"second": 2}])
    ask = {"streamed": streamed, "sync": sync, "transport": llm.transport()}
    assert [(await sdks.ask(api, **ask)).text for _ in range(2)] == ["first", '{"second": 2}']
    with pytest.raises(UnexpectedCallError, match=r"\(call 3\)"):
        await sdks.ask(api, **ask)
    assert len(llm.calls) == 3


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_failure_becomes_the_error_class_of_the_sdk(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """A `Failure` becomes the SDK's error of its status, with the message and headers of the script."""
    failure = Failure(429, "Too fast", headers={"retry-after": "7", "x-should-retry": "false"})
    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError), match="Too fast") as caught:
        await sdks.ask(api, streamed=streamed, sync=sync, transport=ScriptedLLM([failure]).transport())
    error: Any = caught.value
    assert error.response.headers["retry-after"] == "7"
    assert error.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("api", APIS)
async def test_failure_within_a_stream_becomes_an_error_of_the_sdk(sdks: Any, api: str, sync: bool) -> None:
    """A `Failure` after some tokens becomes the SDK's error about an error event."""
    step = Step("one two three", after=2, then=Failure(529, "Too busy"))
    with pytest.raises((openai.APIError, anthropic.APIError), match="Too busy"):
        await sdks.ask(api, streamed=True, sync=sync, transport=ScriptedLLM(step).transport())


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("api", APIS)
async def test_reset_becomes_a_connection_error_of_the_sdk_or_http_library(sdks: Any, api: str, sync: bool) -> None:
    """With `then="reset"`, a reader of an SDK's stream gets httpx2's read error or the SDK's connection error."""
    step = Step("one two three", after=2, then="reset")
    with pytest.raises((httpx2.ReadError, openai.APIConnectionError, anthropic.APIConnectionError)):
        await sdks.ask(api, streamed=True, sync=sync, transport=ScriptedLLM(step).transport())


@pytest.mark.parametrize("sync", [True, False])
async def test_stall_ends_with_the_read_timeout_of_the_http_client(sdks: Any, sync: bool) -> None:
    """An HTTP client without an SDK gets `ReadTimeout` after its read timeout, as from a silent socket."""
    llm = ScriptedLLM(Step("one two three", after=1, then="stall"))
    http_client: Any = (httpx2.Client if sync else httpx2.AsyncClient)(transport=llm.transport(), timeout=0.001)
    request = http_client.build_request("POST", "https://api.openai.com/v1/chat/completions", json={"stream": True})
    received = b""
    with pytest.raises(httpx2.ReadTimeout):
        if sync:
            for chunk in http_client.send(request, stream=True).iter_raw():
                received += chunk
        else:
            async for chunk in (await http_client.send(request, stream=True)).aiter_raw():
                received += chunk
    assert b'"one"' in received
    assert b"two" not in received


class Weather(BaseModel):
    """Structured answer of a model."""

    city: str
    degrees: int


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_model_as_a_step_is_parsed_as_structured_answer(api: str) -> None:
    """The parse helpers of OpenAI's SDK return the pydantic model that the script has."""
    llm = ScriptedLLM([Weather(city="Paris", degrees=21)])
    async with llm.openai_client() as client:
        if api == "chat":
            answer = await client.chat.completions.parse(
                model="m", messages=[{"role": "user", "content": "Hi"}], response_format=Weather
            )
            parsed = answer.choices[0].message.parsed
        else:
            parsed = (await client.responses.parse(model="m", input="Hi", text_format=Weather)).output_parsed
    assert parsed == Weather(city="Paris", degrees=21)


async def test_each_retry_of_an_sdk_takes_a_step() -> None:
    """An SDK with retries tries again after a 503, and each attempt takes a step."""
    llm = ScriptedLLM([Failure(503, headers={"retry-after-ms": "0"}), "Here you are"])
    async with llm.openai_client(max_retries=1) as client:
        answer = await client.chat.completions.create(model="m", messages=[])
    assert answer.choices[0].message.content == "Here you are"
    llm.assert_complete()


async def test_sdks_can_list_models() -> None:
    """The OpenAI and Anthropic clients of a `ScriptedLLM` list its one model, `scripted-model`."""
    llm = ScriptedLLM([])
    async with llm.openai_client() as client:
        assert [model.id async for model in client.models.list()] == ["scripted-model"]
    async with llm.anthropic_client() as anthropic_client:
        assert [model.id async for model in anthropic_client.models.list()] == ["scripted-model"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "what"),
    [
        ("POST", "/v1/embeddings", b"{}", 404, "no answer to POST /v1/embeddings here"),
        ("GET", "/v1/responses", b"", 404, "no answer to GET /v1/responses here"),
        ("POST", "/v1/responses", b"{", 400, "is not JSON"),
        ("POST", "/v1/messages", b"[]", 400, "is not a JSON object"),
    ],
)
async def test_unknown_path_or_body_gets_an_error_without_a_step(
    method: str, path: str, body: bytes, status: int, what: str
) -> None:
    """A request with an unknown path or body gets an error response that explains itself, and takes no step."""
    llm = ScriptedLLM(["unused"])
    async with httpx2.AsyncClient(transport=llm.transport()) as client:
        response = await client.request(method, f"https://api.openai.com{path}", content=body)
    assert response.status_code == status
    assert what in response.json()["error"]["message"]
    assert llm.calls == ()


async def test_exception_as_a_step_reaches_the_sdk() -> None:
    """An exception as step reaches the SDK, which raises or wraps it; openai before 3.14.1 wraps any."""
    llm = ScriptedLLM([httpx2.ConnectError("no route"), ZeroDivisionError])
    async with llm.openai_client() as client:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model="m", messages=[])
        with pytest.raises((ZeroDivisionError, openai.APIConnectionError)) as caught:
            await client.chat.completions.create(model="m", messages=[])
    assert ZeroDivisionError in (caught.type, type(caught.value.__cause__))


@pytest.mark.parametrize("make", [ScriptedLLM.openai_client, ScriptedLLM.anthropic_client])
def test_options_of_a_client_override_the_defaults(make: Callable[..., Any]) -> None:
    """Options that are passed to `openai_client` and `anthropic_client` override the defaults."""
    client = make(ScriptedLLM([]), api_key="mine", base_url="https://proxy.test")
    assert (client.api_key, client.base_url.host) == ("mine", "proxy.test")
