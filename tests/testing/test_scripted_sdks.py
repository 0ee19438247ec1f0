"""Scripts under the real SDKs: all that a step can say arrives, whichever API is spoken and however it is asked."""

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
async def test_all_that_a_step_says_arrives(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """Thinking, text, parallel tool calls with fragmented arguments, usage and the reason for the end."""
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
async def test_a_refusal_is_one(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """Each provider has its own place for the words."""
    transport = ScriptedLLM(Step(refusal="I will not do that.")).transport()
    said = await sdks.ask(api, streamed=streamed, sync=sync, transport=transport)
    assert (said.text, said.refusal) == ("", "I will not do that.")
    assert said.ended == {"chat": "stop", "responses": "completed", "messages": "refusal"}[api]


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_steps_come_one_a_call(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """In their order; one call too much is an error that neither SDK retries or wraps."""
    llm = ScriptedLLM(["first", {"second": 2}])
    ask = {"streamed": streamed, "sync": sync, "transport": llm.transport()}
    assert [(await sdks.ask(api, **ask)).text for _ in range(2)] == ["first", '{"second": 2}']
    with pytest.raises(UnexpectedCallError, match="call 3 "):
        await sdks.ask(api, **ask)
    assert len(llm.calls) == 3


@pytest.mark.parametrize(("api", "streamed", "sync"), EVERY_WAY)
async def test_a_failure_is_the_error_of_the_sdk(sdks: Any, api: str, streamed: bool, sync: bool) -> None:
    """Its class goes by the status; message and headers are the script's."""
    failure = Failure(429, "Too fast", headers={"retry-after": "7", "x-should-retry": "false"})
    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError), match="Too fast") as caught:
        await sdks.ask(api, streamed=streamed, sync=sync, transport=ScriptedLLM([failure]).transport())
    error: Any = caught.value
    assert error.response.headers["retry-after"] == "7"
    assert error.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("api", APIS)
async def test_a_failure_within_a_stream_is_one_too(sdks: Any, api: str, sync: bool) -> None:
    """After the tokens that came before it, the SDK raises what it makes of an error event."""
    step = Step("one two three", after=2, then=Failure(529, "Too busy"))
    with pytest.raises((openai.APIError, anthropic.APIError), match="Too busy"):
        await sdks.ask(api, streamed=True, sync=sync, transport=ScriptedLLM(step).transport())


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("api", APIS)
async def test_a_broken_connection_is_an_error_of_the_http_library(sdks: Any, api: str, sync: bool) -> None:
    """Also for those who read streams with the SDK alone."""
    step = Step("one two three", after=2, then="reset")
    with pytest.raises((httpx2.ReadError, openai.APIConnectionError, anthropic.APIConnectionError)):
        await sdks.ask(api, streamed=True, sync=sync, transport=ScriptedLLM(step).transport())


@pytest.mark.parametrize("sync", [True, False])
async def test_a_stall_ends_when_the_client_has_waited_long_enough(sdks: Any, sync: bool) -> None:
    """The transport knows the read timeout of the client, as one with a socket does; nobody waits for ever."""
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
    """A structured answer."""

    city: str
    degrees: int


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_model_is_a_structured_answer(api: str) -> None:
    """The helper that parses answers gets the same model back."""
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


async def test_an_sdk_retries_as_it_does_with_a_provider() -> None:
    """Each attempt is a call, and takes a step."""
    llm = ScriptedLLM([Failure(503, headers={"retry-after-ms": "0"}), "Here you are"])
    async with llm.openai_client(max_retries=1) as client:
        answer = await client.chat.completions.create(model="m", messages=[])
    assert answer.choices[0].message.content == "Here you are"
    llm.assert_complete()


async def test_models_can_be_listed() -> None:
    """By both SDKs."""
    llm = ScriptedLLM([])
    async with llm.openai_client() as client:
        assert [model.id async for model in client.models.list()] == ["scripted-model"]
    async with llm.anthropic_client() as anthropic_client:
        assert [model.id async for model in anthropic_client.models.list()] == ["scripted-model"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "what"),
    [
        ("POST", "/v1/embeddings", b"{}", 404, "nobody answers POST /v1/embeddings here"),
        ("GET", "/v1/responses", b"", 404, "nobody answers GET /v1/responses here"),
        ("POST", "/v1/responses", b"{", 400, "is not JSON"),
        ("POST", "/v1/messages", b"[]", 400, "is not a JSON object"),
    ],
)
async def test_what_no_provider_understands_is_refused(
    method: str, path: str, body: bytes, status: int, what: str
) -> None:
    """The refusal says what would be answered, and takes no step."""
    llm = ScriptedLLM(["unused"])
    async with httpx2.AsyncClient(transport=llm.transport()) as client:
        response = await client.request(method, f"https://api.openai.com{path}", content=body)
    assert response.status_code == status
    assert what in response.json()["error"]["message"]
    assert llm.calls == ()


async def test_an_exception_is_raised_to_the_client() -> None:
    """What an SDK makes of it is the SDK's business; openai before 3.14.1 takes any for a lost connection."""
    llm = ScriptedLLM([httpx2.ConnectError("no route"), ZeroDivisionError])
    async with llm.openai_client() as client:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model="m", messages=[])
        with pytest.raises((ZeroDivisionError, openai.APIConnectionError)) as caught:
            await client.chat.completions.create(model="m", messages=[])
    assert ZeroDivisionError in (caught.type, type(caught.value.__cause__))


@pytest.mark.parametrize("make", [ScriptedLLM.openai_client, ScriptedLLM.anthropic_client])
def test_a_client_takes_options_of_the_sdk(make: Callable[..., Any]) -> None:
    """They win over ours."""
    client = make(ScriptedLLM([]), api_key="mine", base_url="https://proxy.test")
    assert (client.api_key, client.base_url.host) == ("mine", "proxy.test")
