"""Names, types and roles that a beginner gets wrong: refused or warned of before a key is asked for."""

from __future__ import annotations

import asyncio
import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import anthropic
import httpx2
import openai
import pytest

from miniagents import Message, MiniAgents, UserMessage
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ScriptedLLM, Step, create_scripted_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.ext.llm.conftest import Kit

CREATORS: list[Callable[..., Any]] = [create_openai_agent, create_anthropic_agent]
APIS = [
    pytest.param(partial(create_openai_agent, "m"), "openai", id="chat"),
    pytest.param(partial(create_openai_agent, "m", api="responses"), "openai", id="responses"),
    pytest.param(partial(create_anthropic_agent, "m"), "anthropic", id="messages"),
    pytest.param(partial(create_scripted_agent, "Hi"), "openai", id="scripted-chat"),
    pytest.param(partial(create_scripted_agent, "Hi", api="messages"), "anthropic", id="scripted-messages"),
]
"""Functions that create an agent of each API, with the SDK's module that an error names."""


def check_refused_by_all(create: Callable[..., Any], **settings: Any) -> list[str]:
    """Check that creation, `fork` and `trigger` raise `TypeError`, and return the texts of the three errors."""
    agent = create()
    texts = []
    for give in (create, agent.fork, partial(agent.trigger, "my private prompt")):
        with pytest.raises(TypeError) as raised:
            give(**settings)
        texts.append(str(raised.value))
    return texts


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the texts of the warnings that were logged."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("temprature", "temperature"),
        ("temperatture", "temperature"),
        ("tempersture", "temperature"),
        ("tempreature", "temperature"),
        ("max_token", "max_tokens"),
        ("maxtokens", "max_tokens"),
        ("alais", "alias"),
        ("desciption", "description"),
        ("ouput", "output"),
        ("output_mod", "output_mode"),
        ("max_round", "max_rounds"),
        ("stall_timeoutt", "stall_timeout"),
    ],
)
@pytest.mark.parametrize("create", CREATORS)
def test_misspelled_parameter_is_warned_of_once(
    create: Callable[..., Any], typed: str, known: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A parameter that is one edit from a known name gets one warning with both names, however often it is checked."""
    agent = create("m", **{typed: 1})
    for _ in range(2):
        agent.check_arguments(agent.fork(alias="FORK").kwargs)
    (text,) = warnings_of(caplog)
    assert f"`{known}=...`" in text
    assert f"`{typed}=...`" in text


@pytest.mark.parametrize("give", ["fork", "trigger"])
async def test_misspelled_parameter_of_a_fork_or_a_call_is_warned_of(
    give: str, caplog: pytest.LogCaptureFixture, kit: Kit
) -> None:
    """A misspelled name that only a fork or a call has is warned of, and is sent as it is."""
    wire = kit.Wire(kit.Reply(kit.chat("ok")))
    agent = create_openai_agent("m", async_client=wire.openai())
    async with MiniAgents():
        await (agent.fork(sed=1).trigger("Hi") if give == "fork" else agent.trigger("Hi", sed=1))
    assert wire.bodies[0]["sed"] == 1
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("create", CREATORS)
@pytest.mark.parametrize(
    "name",
    [
        "top_k",
        "top_a",
        "min_p",
        "tfs_z",
        "k",
        "min_tokens",
        "models",
        "num_ctx",
        "repetition_penalty",
        "think",
        "enable_thinking",
        "typical_p",
        "best_of",
        "speed",
        "seed",
        "top_n",
        "n_ctx",
        "provider",
        "safe_prompt",
        "stop_token",
        "cache_key",
        "tokens",
        "image_url",
    ],
)
def test_parameter_of_another_server_is_not_warned_of(
    create: Callable[..., Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A parameter that other servers of the API have is no misspelling."""
    create("m", **{name: None})
    assert not warnings_of(caplog)


def test_parameter_in_the_extra_body_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelled name inside of `extra_body` gets no warning, because the fields there are sent as they are."""
    create_openai_agent("m", extra_body={"temprature": 1})
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("create", "method", "more"),
    [
        (create_openai_agent, lambda: openai.AsyncOpenAI(api_key="x").chat.completions.create, {}),
        (create_openai_agent, lambda: openai.AsyncOpenAI(api_key="x").responses.create, {"api": "responses"}),
        (create_anthropic_agent, lambda: anthropic.AsyncAnthropic(api_key="x").messages.create, {}),
    ],
    ids=["chat", "responses", "messages"],
)
def test_parameters_of_the_installed_sdk_are_not_warned_of(
    create: Callable[..., Any], method: Callable[[], Any], more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """No parameter of the SDK's own method counts as misspelled, and each takes the SDK's `omit` as its value."""
    names = inspect.signature(method()).parameters.keys() - {"model", "messages", "input", "tools", "max_tokens"}
    create("m", **more, **dict.fromkeys(names, openai.omit))
    assert len(names) > 10
    assert not warnings_of(caplog)


@pytest.mark.parametrize("create", CREATORS)
@pytest.mark.parametrize(
    ("settings", "right"),
    [
        ({"temperature": "0.5"}, "`temperature=0.5`"),
        ({"temperature": "hot"}, "`temperature=0.7`"),
        ({"temperature": True}, "`temperature=0.7`"),
        ({"temperature": float("nan")}, "`temperature=0.7`"),
        ({"max_tokens": "100"}, "`max_tokens=100`"),
        ({"max_tokens": 1.5}, "`max_tokens=100`"),
        ({"stream": "yes"}, "`stream=True`"),
        ({"system": 5}, "`system='...'`"),
        ({"metadata": ["x"]}, "`metadata={...}`"),
        ({"stall_timeout": "60"}, "`stall_timeout=60`"),
        ({"extra_headers": "authorization: Bearer something"}, "`extra_headers=str(...)`"),
    ],
    ids=repr,
)
async def test_value_of_a_wrong_type_is_refused_before_a_key_is_asked_for(
    create: Callable[..., Any], settings: dict[str, Any], right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of a wrong type is a `TypeError` of the call, the fork or the creation, also without an API key."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (name,) = settings
    agent = create("m")
    async with MiniAgents():
        for give in (partial(agent.trigger, "Hi"), agent.fork, partial(create, "m")):
            with pytest.raises(TypeError) as raised:
                give(**settings)
            assert right in str(raised.value)
            assert f"`{name}=" in str(raised.value)


@pytest.mark.parametrize("create", CREATORS)
def test_values_of_the_right_types_are_taken(create: Callable[..., Any]) -> None:
    """Numbers may be integers, lists may be tuples, and None leaves a parameter to its default."""
    create("m", temperature=1, system=("a",), stop=["x"], stop_sequences=("y",), seed=None, top_p=0.5, metadata={})


@pytest.mark.parametrize("create", CREATORS)
@pytest.mark.parametrize(
    ("role", "near"),
    [
        ("bot", "assistant"),
        ("ai", "assistant"),
        ("human", "user"),
        ("User", "user"),
        ("asistant", "assistant"),
        ("sytem", "system"),
        ("critic", "user"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["value", "promise"])
async def test_role_that_no_model_knows_is_refused_before_a_key_is_asked_for(
    create: Callable[..., Any], role: str, near: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message with an unknown role is a `TypeError`: of the call, or of the reply if the message comes later."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    async def tokens(fields: dict[str, Any]) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        fields["role"] = role
        yield "Hi"

    async with MiniAgents():
        message = Message.promise(message_token_streamer=tokens) if late else {"role": role}
        with pytest.raises(TypeError) as raised:
            replies = create("m", alias="WRITER").trigger([UserMessage("before"), message])
            assert late
            await replies
    assert "WRITER" in str(raised.value)
    assert f"`role={near!r}`" in str(raised.value)
    assert f"`role={role!r}`" in str(raised.value)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_prompt_that_ends_with_the_answer_of_a_model_is_warned_of_once(
    provider: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer of a model is sent to another one as it is, and logs one warning with the line to write."""
    wire = kit.Wire(kit.Reply(kit.chat("ok") if provider == "openai" else kit.message("ok")))
    create = create_openai_agent if provider == "openai" else create_anthropic_agent
    agent = create("m", alias="CRITIC", async_client=getattr(wire, provider)())
    async with MiniAgents():
        draft = Message("The sea is big.", role="assistant")
        for critic in (agent, agent.fork(alias="FORK"), agent):
            await critic.trigger(["Write a line.", draft])
    assert wire.bodies[0]["messages"][-1]["role"] == "assistant"
    (text,) = warnings_of(caplog)
    assert text.startswith("CRITIC: ")
    assert "as_single_text_promise(role='user')" in text


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_answer_with_another_role_is_a_message_of_the_user_for_the_next_model(
    provider: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that `as_single_text_promise` gives the role user streams, and is sent as a user's text."""
    wire = kit.Wire(kit.Reply(kit.chat("The ", "sea") if provider == "openai" else kit.message("The ", "sea")))
    create = create_openai_agent if provider == "openai" else create_anthropic_agent
    agent = create("m", async_client=getattr(wire, provider)())
    async with MiniAgents():
        draft = agent.trigger("Write a line.").as_single_text_promise(role="user")
        await agent.trigger(draft)
        assert [token async for token in draft] == ["The ", "sea"]
    assert wire.bodies[1]["messages"] == [{"role": "user", "content": "The sea"}]
    assert not warnings_of(caplog)


@pytest.mark.parametrize(("create", "module"), APIS)
@pytest.mark.parametrize(
    "name",
    [
        *("base_url", "api_key", "auth_token", "organization", "project", "default_headers", "default_query"),
        *("http_client", "client", "azure_endpoint", "api_version", "azure_ad_token", "aws_region", "region"),
        *("openai_api_key", "ANTHROPIC_API_KEY", "apiKey", "baseURL", "api_base", "openai_api_base", "openai_client"),
        *("token", "key", "url", "host", "openai_key", "openai_api_version", "API_TOKEN"),
        *("api_kye", "base_ur", "async_clinet", "asyncclient", "endpoint", "anthropic_api_url", "azure_openai_api_key"),
    ],
)
async def test_argument_of_a_client_is_refused(create: Callable[..., Any], module: str, name: str) -> None:
    """An argument of a client is a `TypeError` that says which client to give, and shows no value."""
    async with MiniAgents():
        for text in check_refused_by_all(create, **{name: "sk-secret-0123456789"}):
            assert text.startswith(f"{name} is an argument of a client")
            assert f"`async_client={module}.Async" in text
            assert "secret" not in text


@pytest.mark.parametrize(("create", "module"), APIS)
async def test_retries_of_a_client_are_refused_with_retry(create: Callable[..., Any], module: str) -> None:
    """The argument `max_retries` of a client is a `TypeError` that says how an agent gets its attempts."""
    async with MiniAgents():
        for text in check_refused_by_all(create, max_retries=2):
            assert "`retry=Retry(attempts=...)`" in text


@pytest.mark.parametrize("module", [openai, anthropic], ids=lambda module: module.__name__)
def test_all_arguments_of_the_installed_clients_are_refused(module: Any) -> None:
    """Each argument of each asynchronous client of an SDK is refused with a client of that SDK which has it."""
    create: Callable[..., Any] = create_openai_agent if module is openai else create_anthropic_agent
    clients = {
        name: inspect.signature(kind).parameters
        for name, kind in vars(module).items()
        if name.startswith("Async") and hasattr(kind, "with_options") and name not in ("AsyncClient", "AsyncStream")
    }
    legal = {"timeout", "provider", "workspace_id"}  # options of a request, parameters of OpenRouter and Anthropic
    names = {name for parameters in clients.values() for name in parameters if name[0] != "_"} - legal
    assert len(clients) > 2
    assert len(names) > 20
    for name in names:
        with pytest.raises(TypeError) as raised:
            create("m", **{name: None})
        if name != "max_retries":
            client, _, given = str(raised.value).partition(f"async_client={module.__name__}.")[2].partition("(")
            assert {each.partition("=")[0] for each in given.partition(")")[0].split(", ")} <= clients[client].keys()
            assert f"{name}=..." in given


@pytest.mark.parametrize("field", ["api_key", "base_url"])
async def test_argument_of_a_client_in_the_extra_body_is_sent(field: str, kit: Kit) -> None:
    """The server of an API that has such a parameter gets it by `extra_body`."""
    wire = kit.Wire(kit.Reply(kit.chat("ok")))
    async with MiniAgents():
        await create_openai_agent("m", async_client=wire.openai(), extra_body={field: "x"}).trigger("Hi")
    assert wire.bodies[0][field] == "x"


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_description_of_an_agent_reaches_its_caller_and_no_provider(api: Any) -> None:
    """A description that is given at creation is that of the tool which the agent becomes, and is not sent."""
    expert_llm = ScriptedLLM(["It rains."])
    expert = expert_llm.agent(api=api, alias="EXPERT", description="Knows the weather.")
    llm = ScriptedLLM([Step(tool_calls=[("expert", {"message": "Oslo?"})]), "Take an umbrella."])
    MiniAgents().run_agent(llm.agent(api=api, tools=[expert]), "What shall I pack?")
    assert "Knows the weather." in str(llm.last_call.request["tools"])
    assert "description" not in expert_llm.last_call.request


@pytest.mark.parametrize(("create", "module"), APIS)
@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("system_prompt", "`system=...`"),
        ("system_message", "`system=...`"),
        ("output_type", "`output=...`"),
        ("result_type", "`output=...`"),
        ("response_model", "`output=...`"),
        ("handoffs", "`tools=["),
        ("deps", "`tools=[functools.partial("),
        ("deps_type", "`tools=[functools.partial("),
        ("model_name", "`model=...`"),
        ("name", "`alias=...`"),
        ("max_turns", "`max_rounds=...`"),
        ("retries", "`retry=Retry(attempts=...)`"),
        ("model_settings", "`temperature=0.7`"),
        ("model_kwargs", "`temperature=0.7`"),
        ("message_history", "`agent.trigger([*messages, message])`"),
        ("headers", "`extra_headers={...}`"),
        ("request_timeout", "`timeout=...`"),
        ("usage_limits", "`MiniAgents(limits=Limits(...))`"),
    ],
)
async def test_word_of_another_framework_is_refused_with_the_word_of_this_one(
    create: Callable[..., Any], module: str, name: str, right: str
) -> None:
    """A name that other frameworks have for a setting is a `TypeError` that says what to write."""
    async with MiniAgents():
        for text in check_refused_by_all(create, **{name: "my private words"}):
            assert text.startswith(f"{name} is no parameter of the API")
            assert right in text
            assert "private" not in text


@pytest.mark.parametrize("name", ["functions", "instructions", "prompt", "response_format"])
def test_parameter_of_another_api_is_refused_where_it_is_none(name: str) -> None:
    """A word of other frameworks is taken by the API that has a parameter of this name, and refused by the others."""
    having = {"functions": "chat", "response_format": "chat"}.get(name, "responses")
    for api in ("chat", "responses", "messages"):
        create: Callable[..., Any] = partial(create_scripted_agent, "Hi", api=api)
        if api == having:
            create(**{name: None})
        else:
            check_refused_by_all(create, **{name: None})


@pytest.mark.parametrize(("create", "module"), APIS)
@pytest.mark.parametrize("option", ["limits", "start_soon", "errors_as_messages"])
def test_option_of_a_call_is_refused_where_an_agent_is_made(
    create: Callable[..., Any], module: str, option: str
) -> None:
    """An option of `trigger` is a `TypeError` of creation and `fork`, which says where to give it."""
    for give in (create, create().fork):
        with pytest.raises(TypeError, match=f"{option} is no parameter.*`agent.trigger"):
            give(**{option: None})


@pytest.mark.parametrize(("create", "module"), APIS)
@pytest.mark.parametrize("name", ["alias", "description"])
async def test_name_of_an_agent_is_refused_by_a_call(create: Callable[..., Any], module: str, name: str) -> None:
    """An alias or a description that is given to `trigger` is a `TypeError` that names `fork`."""
    async with MiniAgents():
        with pytest.raises(TypeError, match=rf"{name} is no parameter.*`agent.fork\({name}=...\)`"):
            create().trigger("Hi", **{name: "OTHER"})


def wrong_clients(module: str) -> list[tuple[Any, str]]:
    """Return clients that an agent of an SDK cannot use, each with what the error says to write."""
    shown: dict[str, Any] = {"api_key": "sk-secret-0123456789"}
    to_openai, to_anthropic = "async_client=openai.AsyncOpenAI(", "async_client=anthropic.AsyncAnthropic("
    azure: Any = {"azure_endpoint": "https://example.openai.azure.com", "api_version": "2024-10-21"}
    bedrock = anthropic.AnthropicBedrock(aws_access_key="x", aws_secret_key="y", aws_region="us-east-1")  # type: ignore[no-untyped-call, unused-ignore]  # depends on the SDK
    return {
        "openai": [
            (openai.OpenAI(**shown), to_openai),
            (openai.AzureOpenAI(**shown, **azure), "async_client=openai.AsyncAzureOpenAI("),
            (anthropic.AsyncAnthropic(**shown), "create_anthropic_agent"),
            (anthropic.Anthropic(**shown), "create_anthropic_agent"),
            (openai.AsyncOpenAI, to_openai),
            (openai.AsyncOpenAI(**shown).chat, to_openai),
            (openai, to_openai),
            ("sk-secret-0123456789", to_openai),
        ],
        "anthropic": [
            (anthropic.Anthropic(**shown), to_anthropic),
            (bedrock, "async_client=anthropic.AsyncAnthropicBedrock("),
            (openai.AsyncOpenAI(**shown), "create_openai_agent"),
            (openai.OpenAI(**shown), "create_openai_agent"),
            (anthropic.AsyncAnthropic, to_anthropic),
            (anthropic, to_anthropic),
            (shown, to_anthropic),
        ],
    }[module]


@pytest.mark.parametrize(("create", "module"), APIS[:3])
async def test_client_that_cannot_send_requests_is_refused(create: Callable[..., Any], module: str) -> None:
    """A synchronous client, one of the other SDK, a class, a module and a key are each a `TypeError` with the class."""
    async with MiniAgents():
        for client, right in wrong_clients(module):
            for text in check_refused_by_all(create, async_client=client):
                assert text.startswith("async_client must be an asynchronous client")
                assert right in text
                assert "secret" not in text


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_clients_of_tests_are_taken(api: Any) -> None:
    """A subclass, a wrapper, mocks and a client of another library are taken at creation; the first two answer."""

    class Wrapper:
        """Client that hands everything on."""

        def __init__(self, client: Any) -> None:
            self.client = client

        def __getattr__(self, name: str) -> Any:
            return getattr(self.client, name)

    class Counting(openai.AsyncOpenAI):
        """Client of an application."""

    llm = ScriptedLLM(["ok", "ok"])
    counting = Counting(api_key="x", http_client=httpx2.AsyncClient(transport=llm.transport()))
    async with MiniAgents():
        for client in (Wrapper(llm.openai_client()), counting):
            assert str(await create_openai_agent("m", async_client=client, api=api).trigger("Hi").last) == "ok"
    for mocked in (
        mock.MagicMock(),
        mock.MagicMock(spec=openai.AsyncOpenAI),
        mock.MagicMock(spec=dict),
        mock.create_autospec(openai.AsyncOpenAI),
        mock.create_autospec(openai.AsyncOpenAI, instance=True),
        object(),
    ):
        create_openai_agent("m", async_client=mocked, api=api)
