"""A miss, which is a request without a recording to play: its error, its message, and the comparison of requests."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest
import vcr.errors
from hypothesis import given
from hypothesis import strategies as st

from miniagents import MiniAgents
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing.cassette import VOLATILE_FIELDS, Interaction, Matching, ResponseStream, save
from miniagents_testing.cassette._matching import Index, changed_span, describe_miss
from miniagents_testing.errors import CassetteMissError, UnplayedError

if TYPE_CHECKING:
    from tests.testing.cassette.conftest import Kit

URLS = {"chat": "https://api.openai.com/v1/chat/completions", "messages": "https://api.anthropic.com/v1/messages"}


def _request(api: str, prompt: str) -> bytes:
    body: dict[str, Any] = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    return json.dumps({**body, **({"max_tokens": 9} if api == "messages" else {})}).encode()


def _asked(api: str, prompt: str) -> Interaction:
    return Interaction("POST", URLS[api], _request(api, prompt), ResponseStream())


each_api = pytest.mark.parametrize("api", ["chat", "messages"])


@each_api
async def test_K1_K4_a_miss_names_the_nearest_recording_and_the_changed_field(kit: Kit, api: str) -> None:
    """A miss names the most similar recording and the field that differs, and no SDK retries or wraps its error."""
    save(kit.path, [_asked(api, "Hi"), _asked(api, "Something else altogether")])
    for ask in (kit.aask, kit.ask):
        client = httpx2.AsyncClient if ask is kit.aask else httpx2.Client
        with pytest.raises(CassetteMissError) as caught, kit.cassette() as session:
            said = ask(api, client(transport=kit.network()), "Ho")
            if asyncio.iscoroutine(said):
                await said
        assert f"{kit.path} has no answer for POST {URLS[api]}\n  interaction 1 differs in 1:\n" in str(caught.value)
        assert "messages[0].content: recorded 'Hi', now 'Ho'" in str(caught.value)
        assert session.misses == (caught.value,)


@each_api
async def test_a_miss_is_also_an_error_of_vcrpy_and_of_each_sdk(kit: Kit, api: str) -> None:
    """The error of a miss is also an instance of vcrpy's error and of the base error of each SDK."""
    save(kit.path, [])
    with pytest.raises(vcr.errors.CannotOverwriteExistingCassetteException) as caught, kit.cassette():
        await kit.aask(api, httpx2.AsyncClient(transport=kit.network()))
    assert isinstance(caught.value, CassetteMissError)
    assert isinstance(caught.value, openai.OpenAIError)
    assert isinstance(caught.value, anthropic.AnthropicError)


@each_api
async def test_a_caught_miss_is_raised_when_the_cassette_closes(kit: Kit, api: str) -> None:
    """When the application catches a miss, closing the cassette raises the miss again."""
    save(kit.path, [_asked(api, "Hi")])
    with pytest.raises(CassetteMissError, match="now 'Ho'") as caught, kit.cassette() as session:
        for prompt in ("Ho", "Hu"):
            with suppress(Exception):
                await kit.aask(api, httpx2.AsyncClient(transport=kit.network()), prompt)
    assert caught.value.__notes__ == [f"1 more request was not in {kit.path}"]
    assert len(session.misses) == 2


@each_api
def test_a_caught_miss_is_a_note_on_another_failure(kit: Kit, api: str) -> None:
    """When the test fails with its own error after a caught miss, the miss is a note on that error."""
    save(kit.path, [_asked(api, "Hi")])
    with pytest.raises(AssertionError, match="no answer") as caught, kit.cassette():
        try:
            kit.ask(api, httpx2.Client(transport=kit.network()), "Ho")
        except Exception:
            raise AssertionError("no answer") from None
    (note,) = caught.value.__notes__
    assert note.startswith("Before that, a request was not in the cassette: ")
    assert "recorded 'Hi', now 'Ho'" in note


async def test_a_miss_reaches_the_reader_of_an_agent(kit: Kit) -> None:
    """The reader of an LLM agent's reply gets the error of a miss unchanged, and the agent does not retry."""
    save(kit.path, [])
    clients = (
        openai.AsyncOpenAI(api_key=kit.KEY, http_client=httpx2.AsyncClient(transport=kit.network())),
        anthropic.AsyncAnthropic(api_key=kit.KEY, http_client=httpx2.AsyncClient(transport=kit.network())),
    )
    with pytest.raises(CassetteMissError), kit.cassette() as session:
        async with MiniAgents():
            for agent in (
                create_openai_agent(model="m", async_client=clients[0]),
                create_anthropic_agent(model="m", async_client=clients[1]),
            ):
                with pytest.raises(CassetteMissError, match="has no answers"):
                    await agent.trigger("Hi")
    assert len(session.misses) == 2


async def test_K13_an_unplayed_interaction_fails_when_the_cassette_closes(kit: Kit) -> None:
    """Closing a cassette with unplayed interactions raises an error, unless `unplayed="ignore"` or the block failed."""
    save(kit.path, [_asked("chat", "Hi")])
    with pytest.raises(
        UnplayedError, match=rf"1 interaction was not played .*\n.*, interaction 1: POST {URLS['chat']}\n"
    ):
        with kit.cassette() as session:
            assert session.unplayed == session.interactions
    with kit.cassette(unplayed="ignore"):
        pass
    with pytest.raises(ZeroDivisionError), kit.cassette():
        raise ZeroDivisionError


def test_unplayed_error_names_the_first_five_interactions(kit: Kit) -> None:
    """The error about unplayed interactions names the first five, with their agents, and counts the others."""
    save(kit.path, [replace(_asked("chat", "Hi"), agent=f"A/B#{number}") for number in range(1, 9)])
    with pytest.raises(UnplayedError, match=r"^8 .*\n.* 1: POST \S+, by A/B#1\n(.*\n){3}.* 5: POST .*\n  and 3 more\n"):
        with kit.cassette():
            pass


async def test_K2_equal_requests_get_their_recordings_in_order(kit: Kit) -> None:
    """Two equal requests get their two recordings in order; a third one is a miss that says that all were played."""
    answers = [ResponseStream(status=200 + number) for number in range(2)]
    save(kit.path, [Interaction("POST", URLS["chat"], b"{}", answer) for answer in answers])
    with pytest.raises(CassetteMissError, match="interaction 2 is the same request, and was played already"):
        with kit.cassette():
            async with httpx2.AsyncClient(transport=kit.network()) as client:
                assert [(await client.post(URLS["chat"], json={})).status_code for _ in answers] == [200, 201]
                await client.post(URLS["chat"], json={})


async def test_near_misses_come_in_order_of_their_differences() -> None:
    """A miss lists the same request, then two others by the number of JSON values that differ, and counts the rest."""
    base = {"model": "m", "n": 1, "messages": [{"role": "user", "content": "Hi"}]}
    bodies: list[dict[str, Any]] = [
        {**base, "model": "x", "n": 2, "messages": []},
        {**base, "n": 2},
        {**base, "messages": [*base["messages"], {"role": "user", "content": "Hi"}]},  # type: ignore[misc]
        base,
    ]
    recorded = [Interaction("POST", URLS["chat"], json.dumps(body).encode(), ResponseStream()) for body in bodies]
    index = Index(recorded, Matching())
    index.places[3].plays = 1
    request = ("POST", URLS["chat"], json.dumps(base).encode())
    lines = describe_miss("a/c.yaml", request, index.places, Matching(ignore=())).splitlines()
    assert lines == [
        f"POST {URLS['chat']} was played already, as often as it was recorded (c.yaml)",
        f"a/c.yaml has no answer for POST {URLS['chat']}",
        "  interaction 4 is the same request, and was played already",
        "  interaction 2 differs in 1:",
        "    n: recorded 2, now 1",
        "  interaction 3 differs in 1:",
        "    messages[1]: recorded {'content': 'Hi', 'role': 'user'}, now nothing",
        "  and 1 other interaction",
    ]


def test_a_miss_describes_only_recordings_that_are_about_as_near_as_the_nearest() -> None:
    """After one changed word, a miss shows recordings with at most one difference more, and counts the others."""

    def recording(api: str, prompt: str, **more: Any) -> Interaction:
        asked = _asked(api, prompt)
        body = json.dumps({**json.loads(asked.request_body), **more}).encode()
        return replace(asked, request_body=body)

    recorded = [
        recording("chat", "Plan Bergen.", n=2, seed=1),
        recording("messages", "Plan Bergen."),
        recording("chat", "Plan Bergen."),
        recording("chat", "Plan Bergen.", n=2),
    ]
    places = Index(recorded, Matching()).places
    request = ("POST", URLS["chat"], _request("chat", "Plan Oslo."))
    changed = "    messages[0].content: recorded 'Plan Bergen.', now 'Plan Oslo.'"
    assert describe_miss("c.yaml", request, places, Matching(ignore=())).splitlines()[2:] == [
        "  interaction 3 differs in 1:",
        changed,
        "  interaction 4 differs in 2:",
        changed,
        "    n: recorded 2, now nothing",
        "  and 2 other interactions",
    ]


async def test_a_miss_names_another_address(kit: Kit) -> None:
    """When only the URL of a request differs from a recording, the miss shows both URLs."""
    save(kit.path, [_asked("chat", "Hi")])
    with pytest.raises(CassetteMissError) as caught, kit.cassette():
        async with httpx2.AsyncClient(transport=kit.network()) as client:
            await client.post("http://localhost:1/v1/chat/completions", content=_request("chat", "Hi"))
    assert f"request: recorded POST {URLS['chat']}, now POST http://localhost:1/v1/chat/completions" in str(
        caught.value
    )


async def test_a_miss_shows_a_long_text_around_its_first_difference(kit: Kit) -> None:
    """A miss shows two long texts only around their first difference, so that its message stays short."""
    long = "All work and no play makes Jack a dull boy. " * 1000
    save(kit.path, [_asked("chat", f"{long}Really?{long}")])
    with pytest.raises(CassetteMissError) as caught, kit.cassette():
        await kit.aask("chat", httpx2.AsyncClient(transport=kit.network()), f"{long}Truly?{long}")
    assert "dull boy. Really?All" in str(caught.value)
    assert "dull boy. Truly?All" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_near_misses_find_the_most_similar_text_of_many() -> None:
    """When a thousand recordings differ in one text, the miss names the one with the most similar text."""
    recorded = [_asked("chat", f"Question {number}: {'why ' * 200}?") for number in range(1000)]
    places = Index(recorded, Matching()).places
    live = _request("chat", f"Question 623: {'why ' * 200}not?")
    lines = describe_miss("c.yaml", ("POST", URLS["chat"], live), places, Matching(ignore=())).splitlines()
    assert lines[0] == (
        "messages[0].content: recorded ...' why why why ?', now ...' why why why not?' (from character 801) (c.yaml)"
    )
    assert lines[2] == "  interaction 624 differs in 1:"
    assert lines[3].endswith("why not?' (from character 774)")
    assert lines[-1] == "  and 997 other interactions"


@given(st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9))
def test_changed_span_is_at_most_the_changed_part(start: bytes, before: bytes, after: bytes, end: bytes) -> None:
    """The changed span of two byte strings is at most their differing middle, and 0 only for equal ones."""
    one, other = start + before + end, start + after + end
    assert changed_span(one, other) == changed_span(other, one) <= max(len(before), len(after))
    assert (changed_span(one, other) == 0) is (one == other)


# --- which requests are the same


@pytest.mark.parametrize(
    ("live", "same"),
    [
        (b'{ "n": 1, "model": "\\u006d", "user": "Bob" }', True),
        (b'{"model":"m","n":1,"stream_options":{"include_usage":true},"metadata":{"a":1}}', True),
        (b'{"model":"m","n":1.0}', True),
        (b'{"model":"m","n":1.5}', False),
        (b'{"model":"m","n":true}', False),
        (b'{"model":"m","n":1,"seed":1}', False),
        (b'{"model":"m"}', False),
        (b'[{"model":"m","n":1}]', False),
        (b"not JSON", False),
    ],
)
def test_matching_compares_bodies_by_meaning(live: bytes, same: bool) -> None:
    """Two bodies match if their JSON values are equal apart from volatile fields, however they are written."""
    match = Matching()
    recorded = match.key("POST", URLS["chat"], b'{"model":"m","n":1,"user":"Ann"}')
    assert (match.key("post", URLS["chat"], live) == recorded) is same


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://x.test/v1?b=2&a=1", True),
        ("https://x.test/v1?a=1&b=3", False),
        ("https://x.test/v2?a=1&b=2", False),
        ("https://y.test/v1?a=1&b=2", False),
        ("http://x.test/v1?a=1&b=2", False),
        ("https://x.test:8443/v1?a=1&b=2", False),
        ("https://X.test:443/v1?a=1&b=2", True),
        ("https://x.test:80/v1?a=1&b=2", False),
        ("https://x.test/v1", False),
        ("https://user:password@x.test/v1?a=1&b=2", True),
    ],
)
def test_matching_compares_the_parts_of_a_url(url: str, same: bool) -> None:
    """Two URLs match by scheme, host, port, path and sorted query; user and password are not compared."""
    match = Matching()
    assert (match.key("GET", url, b"") == match.key("GET", "https://x.test/v1?a=1&b=2", b"")) is same


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("b", {"a": [{"b": 1, "c": 2}, {"b": 3}], "d": {"b": 4}}),
        ("a[0].b", {"a": [{"c": 2}, {"b": 3}], "d": {"b": 4}, "b": 5}),
        ("a[*].b", {"a": [{"c": 2}, {}], "d": {"b": 4}, "b": 5}),
        ("a[*]", {"a": [], "d": {"b": 4}, "b": 5}),
        ("*.b", {"a": [{"b": 1, "c": 2}, {"b": 3}], "d": {}, "b": 5}),
        ("a[7].b", {"a": [{"b": 1, "c": 2}, {"b": 3}], "d": {"b": 4}, "b": 5}),
        ("b.c.d", {"a": [{"b": 1, "c": 2}, {"b": 3}], "d": {"b": 4}, "b": 5}),
    ],
)
def test_K20_matching_ignores_paths(path: str, left: Any) -> None:
    """A path in `ignore`, of names, indices and stars, removes its fields from the compared body."""
    body = {"a": [{"b": 1, "c": 2}, {"b": 3}], "d": {"b": 4}, "b": 5}
    assert json.loads(Matching(ignore=[path]).canonical_body(json.dumps(body).encode())) == left


async def test_K20_matching_is_a_setting_of_the_cassette(kit: Kit) -> None:
    """A cassette with `match=` ignores a field that changes with every run, and its misses name ignored fields."""
    save(kit.path, [Interaction("POST", URLS["chat"], b'{"at":"monday","n":1}', ResponseStream())])
    match = Matching(ignore=(*VOLATILE_FIELDS, "at"))
    with kit.cassette(match=match):
        async with httpx2.AsyncClient(transport=kit.network()) as client:
            assert (await client.post(URLS["chat"], json={"at": "friday", "n": 1})).status_code == 200
    with pytest.raises(CassetteMissError, match=r"not compared: metadata, .*, at\n"), kit.cassette(match=match):
        async with httpx2.AsyncClient(transport=kit.network()) as client:
            await client.post(URLS["chat"], json={"at": "friday", "n": 2})


async def test_K18_P18_headers_are_neither_recorded_nor_compared(kit: Kit) -> None:
    """An SDK's version headers are not recorded, and a request with other headers still finds its recording."""
    old = {"x-stainless-package-version": "1.0", "user-agent": "OpenAI/Python 1.0", "x-stainless-retry-count": "1"}
    async with httpx2.AsyncClient(transport=kit.network(kit.Reply(kit.chat("Hi")))) as client:
        with kit.cassette("once"):
            await client.post(URLS["chat"], json={"prompt": "Hi"}, headers=old)
    text = kit.path.read_text(encoding="utf-8").lower()
    assert "stainless" not in text
    assert "user-agent" not in text
    async with httpx2.AsyncClient(transport=kit.network()) as client:
        with kit.cassette():
            response = await client.post(URLS["chat"], json={"prompt": "Hi"}, headers={"user-agent": "Another/2.0"})
    assert response.status_code == 200


SETTING = ", an argument of use_cassette and an item of the fixture cassette_settings"


@pytest.mark.parametrize(
    ("recorded", "live", "advice"),
    [
        (
            "http://127.0.0.1:8125/v1/chat/completions",
            "https://api.openai.com/v1/chat/completions",
            [
                (
                    "  to play it: give the client base_url='http://127.0.0.1:8125/v1', or set "
                    "OPENAI_BASE_URL=http://127.0.0.1:8125/v1; no server has to run there"
                ),
                "  or record it as api.openai.com: "
                "record_as={'http://127.0.0.1:8125/v1': 'https://api.openai.com/v1'}" + SETTING,
            ],
        ),
        (
            "http://localhost:8125/v1/messages",
            "https://api.anthropic.com/v1/messages",
            [
                (
                    "  to play it: give the client base_url='http://localhost:8125', or set "
                    "ANTHROPIC_BASE_URL=http://localhost:8125; no server has to run there"
                ),
                "  or record it as api.anthropic.com: "
                "record_as={'http://localhost:8125/v1': 'https://api.anthropic.com/v1'}" + SETTING,
            ],
        ),
        (
            "http://[::1]:8125/api/chat",
            "https://models.example/api/chat",
            [
                "  to play it: give the client base_url='http://[::1]:8125'; no server has to run there",
                "  or record it as models.example: record_as={'http://[::1]:8125': 'https://models.example'}" + SETTING,
            ],
        ),
        (
            "https://api.anthropic.com/v1/messages",
            "http://127.0.0.1:8125/v1/messages",
            [
                "  if http://127.0.0.1:8125/v1 stands in for api.anthropic.com: "
                "record_as={'http://127.0.0.1:8125/v1': 'https://api.anthropic.com/v1'}" + SETTING,
                (
                    "  if it is there by mistake: give the client base_url='https://api.anthropic.com', or set "
                    "ANTHROPIC_BASE_URL=https://api.anthropic.com"
                ),
            ],
        ),
        (
            "http://127.0.0.1:1/v1/messages",
            "http://127.0.0.1:2/v1/messages",
            [
                "  if http://127.0.0.1:2/v1 stands in for 127.0.0.1:1: "
                "record_as={'http://127.0.0.1:2/v1': 'http://127.0.0.1:1/v1'}" + SETTING
            ],
        ),
    ],
)
def test_advice_on_a_host_goes_from_the_stand_in_to_the_provider(recorded: str, live: str, advice: list[str]) -> None:
    """A miss that differs in the host alone names the base URL to set, and `record_as` in the right direction."""
    matching = Matching(ignore=())
    index = Index([Interaction("POST", recorded, b"{}", ResponseStream())], matching)
    lines = describe_miss("c.yaml", ("POST", live, b"{}"), index.places, matching).splitlines()
    assert lines[-len(advice) :] == advice
    assert sum("record_as" in line for line in lines) == 1


@pytest.mark.parametrize("follows_base_url", [True, False])
def test_advice_on_a_host_plays_a_recording_of_a_local_server(kit: Kit, follows_base_url: bool) -> None:
    """Both hints of a miss work: to set the recorded server's base URL, and to record under the provider's name."""
    local, provider = "http://127.0.0.1:8125/v1", "https://api.openai.com/v1"
    record_as = {} if follows_base_url else {local: provider}
    with (
        kit.cassette("once", record_as=record_as),
        httpx2.Client(transport=kit.network(kit.Reply(kit.chat("Hi")))) as client,
    ):
        live = client.post(f"{local}/chat/completions", json={}).content
    with kit.cassette(), httpx2.Client(transport=kit.network()) as client:
        url = local if follows_base_url else provider
        assert client.post(f"{url}/chat/completions", json={}).content == live
