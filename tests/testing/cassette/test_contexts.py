"""Which open cassette answers a request, the patches while cassettes are open, agents, redaction and addresses."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx2
import pytest

from miniagents import MiniAgents, miniagent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ProviderServer, run_in_virtual_time
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette import Interaction, Redaction, ResponseStream, load, save, use_cassette
from miniagents_testing.cassette._bodies import plain_body
from miniagents_testing.cassette._httpx import Family
from miniagents_testing.errors import CassetteError, CassetteMissError, RecordingRefusedError, UnrecordedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

URL = "https://api.openai.com/v1/chat/completions"


def _cassette(folder: Path, name: str, count: int = 1) -> Path:
    """Save a cassette of `count` interactions, each answered with the name of the cassette."""
    path = folder / f"{name}.yaml"
    answer = ResponseStream((Chunk(0, name.encode()),))
    save(path, [Interaction("POST", URL, b"{}", answer)] * count)
    return path


async def _aask() -> str:
    async with httpx2.AsyncClient() as client:
        return (await client.post(URL, json={})).text


def _ask() -> str:
    with httpx2.Client() as client:
        return client.post(URL, json={}).text


async def test_tasks_play_each_its_own_cassette(tmp_path: Path) -> None:
    """When parallel tasks each open a cassette, the requests of a task are answered by the cassette it opened."""

    async def play(name: str) -> list[str]:
        with use_cassette(_cassette(tmp_path, name, 3)):
            seen = []
            for _ in range(3):
                seen.append(await _aask())
                await asyncio.sleep(0.001 * len(name))
        return seen

    names = ["a", "bb", "ccc", "dddd"]
    assert await asyncio.gather(*map(play, names)) == [[name] * 3 for name in names]


def test_threads_play_each_its_own_cassette(tmp_path: Path) -> None:
    """When parallel threads each open a cassette, the requests of a thread are answered by the cassette it opened."""

    def play(name: str) -> list[str]:
        barrier.wait()
        with use_cassette(_cassette(tmp_path, name, 3)):
            barrier.wait()
            return [_ask() for _ in range(3)]

    names = ["a", "b", "c"]
    barrier = threading.Barrier(len(names))
    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(play, names)) == [[name] * 3 for name in names]


async def test_tasks_and_threads_play_the_cassette_of_the_context_they_inherit(tmp_path: Path) -> None:
    """With nested cassettes, a task or `to_thread` call plays the innermost cassette open where it was started."""
    with use_cassette(_cassette(tmp_path, "outer", 2)):
        with use_cassette(_cassette(tmp_path, "inner", 3)):
            inside = asyncio.create_task(_aask())
            assert await asyncio.to_thread(_ask) == "inner"
            assert await inside == "inner"
            assert await _aask() == "inner"
        assert await _aask() == "outer"
        assert _ask() == "outer"


def test_a_thread_without_context_plays_the_only_open_cassette(tmp_path: Path) -> None:
    """A pool thread that inherits no context plays the cassette if exactly one is open in the process."""
    with use_cassette(_cassette(tmp_path, "only")), ThreadPoolExecutor() as threads:
        assert threads.submit(_ask).result() == "only"


def test_a_thread_without_context_gets_an_error_when_several_cassettes_are_open(tmp_path: Path) -> None:
    """A thread that inherits no context gets an error that names both open cassettes, and sends no request."""
    first, second = _cassette(tmp_path, "first"), _cassette(tmp_path, "second")
    with use_cassette(first, unplayed="ignore"), use_cassette(second, unplayed="ignore"):
        with ThreadPoolExecutor() as threads, pytest.raises(CassetteError, match="several are open") as caught:
            threads.submit(_ask).result()
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


async def test_a_task_that_outlives_its_cassette_plays_the_one_around_it(tmp_path: Path) -> None:
    """A task whose cassette was closed plays the cassette around that one.

    If there was none around it, the task plays the only cassette that is open at the time of its request.
    """
    go = asyncio.Event()

    async def worker() -> str:
        await go.wait()
        return await _aask()

    with use_cassette(_cassette(tmp_path, "outer")):
        with use_cassette(_cassette(tmp_path, "inner"), unplayed="ignore"):
            task = asyncio.create_task(worker())
        go.set()
        assert await task == "outer"
    go.clear()
    with use_cassette(_cassette(tmp_path, "first"), unplayed="ignore"):
        task = asyncio.create_task(worker())
    with use_cassette(_cassette(tmp_path, "second")):
        go.set()
        assert await task == "second"


async def test_a_cassette_can_be_closed_in_another_context(tmp_path: Path) -> None:
    """A cassette that one task opens and another task closes, as test fixtures do, plays in between only."""
    stack = ExitStack()

    async def set_up() -> None:
        stack.enter_context(use_cassette(_cassette(tmp_path, "fixture")))

    async def tear_down() -> None:
        stack.close()

    await asyncio.create_task(set_up())
    assert await _aask() == "fixture"
    await asyncio.create_task(tear_down())
    with pytest.raises(CassetteMissError), use_cassette(tmp_path / "none.yaml"):
        await _aask()


METHODS = [
    (transport, name)
    for family in (Family.of("httpx2"), Family.of("httpx"))
    for transport in family.transports()
    for name in family.methods(transport)
]


def _methods() -> list[Any]:
    return [vars(transport).get(name) for transport, name in METHODS]


def test_replaced_methods_are_restored_exactly(tmp_path: Path) -> None:
    """Transport methods are replaced by the first open cassette, and restored when the last one closes."""
    before = _methods()
    first, second = use_cassette(tmp_path / "a.yaml"), use_cassette(tmp_path / "b.yaml")
    with ExitStack() as late:
        with first:
            during = _methods()
            assert all(now is not then for now, then in zip(during, before, strict=True))
            late.enter_context(second)
            assert _methods() == during
        assert _methods() == during
    assert [now is then for now, then in zip(_methods(), before, strict=True)] == [True] * len(METHODS)


class Inheriting(httpx2.MockTransport):
    """Transport that inherits its methods."""


def test_default_clients_share_a_tls_context_while_cassettes_only_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While cassettes only play, clients with default settings load the certificates once; otherwise each does."""
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *args: made.append(args))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificates.pem"))  # no other test has this context

    def make_clients(**settings: Any) -> int:
        """Make two clients, close them, and return how often certificates were loaded."""
        made.clear()
        for _ in range(2):
            httpx2.Client(**settings).close()
        return len(made)

    assert make_clients() == 2
    with use_cassette(_cassette(tmp_path, "played"), unplayed="ignore"):
        assert make_clients() == 1
        assert make_clients() == 0
        assert make_clients(verify=ssl.create_default_context(cafile="other.pem")) == 0
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        assert make_clients() == 1
        with pytest.warns(UnrecordedWarning), use_cassette(tmp_path / "recorded.yaml", record_mode="once"):
            assert make_clients() == 2
    assert make_clients() == 2


async def test_also_patch_replaces_inherited_methods_of_a_transport(kit: Kit) -> None:
    """A transport class in `also_patch` records through its inherited method, and inherits it again afterwards."""
    network = Inheriting(lambda request: httpx2.Response(200, text="live"))
    with use_cassette(kit.path, record_mode="once", also_patch=[Inheriting]):
        async with httpx2.AsyncClient(transport=network) as client:
            assert (await client.post(URL, json={})).text == "live"
    assert "handle_async_request" not in vars(Inheriting)
    assert load(kit.path)[0].response.body == b"live"


def test_also_patch_refuses_a_class_that_is_no_transport(kit: Kit) -> None:
    """A class in `also_patch` that is no transport raises a `TypeError` before any method is patched."""
    before = _methods()
    with pytest.raises(TypeError, match=r"<class 'int'> is no transport class of httpx2 or httpx"):
        with use_cassette(kit.path, also_patch=[int]):
            pass
    assert _methods() == before


async def test_a_later_patch_of_other_code_stays(tmp_path: Path) -> None:
    """A patch that other code puts over a cassette's patch stays after closing, and requests then go to the network."""
    original = httpx2.AsyncHTTPTransport.handle_async_request
    try:
        with use_cassette(tmp_path / "none.yaml"):
            ours = httpx2.AsyncHTTPTransport.handle_async_request

            async def theirs(transport: Any, request: Any) -> Any:
                return await ours(transport, request)

            httpx2.AsyncHTTPTransport.handle_async_request = theirs  # type: ignore[method-assign,assignment]
        assert httpx2.AsyncHTTPTransport.handle_async_request is theirs
        with pytest.raises(httpx2.ConnectError):
            async with httpx2.AsyncClient() as client:
                await client.get("http://127.0.0.1:1/")
    finally:
        httpx2.AsyncHTTPTransport.handle_async_request = original  # type: ignore[method-assign]


async def test_transports_below_that_of_the_client_do_not_record(kit: Kit) -> None:
    """A request that passes through two patched transports, one around the other, is recorded once."""
    network = kit.network(kit.Reply([b"1"]))

    class Around(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response: httpx2.Response = await network.handle_async_request(request)
            return response

    with use_cassette(kit.path, record_mode="once", also_patch=[Around, type(network)]) as session:
        async with httpx2.AsyncClient(transport=Around()) as client:
            await client.post(URL, json={})
    assert len(session.recorded) == 1


# --- agents


async def test_an_interaction_has_the_aliases_of_its_agent(kit: Kit) -> None:
    """A recorded request is labelled with its agent's aliases, from outermost to innermost, and a running number."""

    @miniagent
    async def writer(ctx: Any, llm: Any) -> None:
        ctx.reply([llm.trigger("Hi"), llm.trigger("Ho")])

    network = kit.network(*[kit.Reply(kit.chat("Hello"))] * 3)
    async with _client(kit, network) as client:
        with kit.cassette("once"):
            llm = create_openai_agent(model="m", async_client=client)
            async with MiniAgents():
                await writer.trigger(llm=llm)
                await llm.trigger("Hi")
    asked = {each.agent for each in load(kit.path)}
    assert asked == {"WRITER/OPENAI_AGENT#1", "WRITER/OPENAI_AGENT#2", "OPENAI_AGENT#1"}


async def test_K3_equal_requests_of_two_agents_get_each_its_own_answer(kit: Kit) -> None:
    """When two agents send equal requests in another order than recorded, each agent gets its own recorded answer."""
    network = kit.network(*(kit.Reply(kit.chat(text)) for text in ("for A", "for B", "for A again")))

    async def ask(names: str, network: Any) -> list[str]:
        async with _client(kit, network) as client, MiniAgents():
            llm = create_openai_agent(model="m", async_client=client)
            agents = {name: llm.fork(alias=name) for name in "ABC"}
            said = []
            for name in names:
                (message,) = await agents[name].trigger("Hi")
                said.append(str(message))
        return said

    with kit.cassette("once"):
        assert await ask("ABA", network) == ["for A", "for B", "for A again"]
    with kit.cassette():
        assert await ask("BAA", kit.network()) == ["for B", "for A", "for A again"]
    with kit.cassette():
        assert await ask("CBA", kit.network()) == ["for A", "for B", "for A again"]  # C is new: it gets what is next


def test_K3_parallel_agents_get_each_its_own_answers(kit: Kit) -> None:
    """Parallel agents that repeat equal requests get their own recorded answers under each of 20 schedules."""
    names = "ABCD"
    network = kit.network(*(kit.Reply(kit.chat(f"{number} for {name}")) for number in (1, 2) for name in names))

    async def ask_twice_each() -> dict[str, list[str]]:
        async with _client(kit, network) as client, MiniAgents():
            llm = create_openai_agent(model="m", async_client=client)

            async def twice(name: str) -> list[str]:
                agent = llm.fork(alias=name)
                return [str(message) for _ in range(2) for message in await agent.trigger("Hi")]

            return dict(zip(names, await asyncio.gather(*map(twice, names)), strict=True))

    def played(seed: int | None, mode: Any = "none") -> dict[str, list[str]]:
        with kit.cassette(mode):
            return run_in_virtual_time(ask_twice_each(), seed=seed)

    live = played(None, "once")
    assert sorted(text for texts in live.values() for text in texts) == sorted(
        f"{number} for {name}" for number in (1, 2) for name in names
    )
    for seed in range(20):
        assert played(seed) == live


def _client(kit: Kit, network: Any) -> Any:
    import openai

    return openai.AsyncOpenAI(api_key=kit.KEY, http_client=httpx2.AsyncClient(transport=network))


# --- secrets


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
@pytest.mark.parametrize("spelling", ["plain", "base64"])
async def test_X1_X2_a_key_in_a_body_is_replaced_also_in_base64(kit: Kit, api: str, spelling: str) -> None:
    """A request's API key is replaced in its prompt, also in base64, and in the streamed answer; the file plays."""
    stream = [chunk.replace(b"Hel", kit.KEY.encode()) for chunk in kit.STREAMS[api, "text"]]
    prompt = f"My key is {kit.KEY}"
    if spelling == "base64":
        prompt = f"Decode {base64.b64encode(prompt.encode()).decode()}"
    with kit.cassette("once") as session:
        await kit.aask(api, httpx2.AsyncClient(transport=kit.network(kit.Reply(stream))), prompt)
    recorded = kit.path.read_text(encoding="utf-8")
    assert kit.KEY not in recorded
    assert base64.b64encode(prompt.encode()).decode()[:-4] not in recorded
    places = [(each.interaction, each.path.partition(" ")[0]) for each in session.replaced]
    assert set(places) == {(1, "request"), (1, "response")}
    assert {each.why for each in session.replaced} <= {"header authorization", "header x-api-key"}
    with kit.cassette():
        played = await kit.aask(api, httpx2.AsyncClient(transport=kit.network()), prompt)
    assert "[redacted]" in str(played)


def _ask_with_number(kit: Kit) -> None:
    """Send a JSON number that is a known secret: no text can replace it."""
    httpx2.Client(transport=kit.network(kit.Reply([b"{}"]))).post(URL, json={"number": 1234567812345678})


def test_X1_a_known_secret_that_cannot_be_replaced_prevents_writing(kit: Kit) -> None:
    """A known secret that is a JSON number stays after redaction: no file is written, and the error names the place."""
    place = "interaction 1, request body: CARD_KEY"
    redaction = Redaction({"1234567812345678": "CARD_KEY"})
    with pytest.raises(RecordingRefusedError, match=place), kit.cassette("once", redact=redaction):
        _ask_with_number(kit)
    assert not kit.path.exists()


def test_a_refusal_to_write_is_a_note_on_the_failure_of_a_test(kit: Kit) -> None:
    """When the test fails and a secret prevents writing the file, the test's own error is raised, with a note."""
    with pytest.raises(ZeroDivisionError) as caught, kit.cassette("once", redact=Redaction(["1234567812345678"])):
        _ask_with_number(kit)
        raise ZeroDivisionError
    assert "was not written" in caught.value.__notes__[0]
    assert not kit.path.exists()


class Noting(Redaction):
    """Redaction that replaces one word, and notes the headers that it gets."""

    def __init__(self) -> None:
        super().__init__(rules=["Ann"])
        self.learned: list[tuple[str, str]] = []

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """Note the headers."""
        pairs = list(headers)
        self.learned += pairs
        super().learn(pairs)


class NotingThreads(Redaction):
    """Redaction that notes the threads in which it searches bodies."""

    def __init__(self) -> None:
        super().__init__({})
        self.threads: list[int] = []

    def scrub_request(self, body: bytes, headers: Any, *, known: bool = True) -> Any:
        """Note the thread."""
        self.threads.append(threading.get_ident())
        return super().scrub_request(body, headers, known=known)

    def redact(self, interaction: Interaction, **options: Any) -> Any:
        """Note the thread."""
        self.threads.append(threading.get_ident())
        return super().redact(interaction, **options)


@pytest.mark.parametrize("size", [10, 1_100_000])
async def test_a_large_recording_is_searched_in_a_thread(kit: Kit, size: int) -> None:
    """Requests above 1 MB, and async recordings with one, are first searched outside of the event loop's thread."""
    noting = NotingThreads()
    client = httpx2.AsyncClient(transport=kit.network(kit.Reply([b"{}"])))
    async with kit.cassette("once", redact=noting):
        await client.post(URL, json={"text": "words " * (size // 6), "password": "swordfish"})
    here = [thread == threading.get_ident() for thread in noting.threads]
    assert here == ([False, True, False] if size > 1_000_000 else [True, True])
    assert b'"password":"[redacted]"' in load(kit.path)[0].request_body


async def test_a_large_request_of_aiohttp_is_searched_in_a_thread(tmp_path: Path) -> None:
    """A request of aiohttp above 1 MB is first searched outside of the event loop's thread."""
    noting = NotingThreads()
    body = {"model": "m", "messages": [{"role": "user", "content": "words " * 170_000}], "password": "swordfish"}
    with ProviderServer(["Hello!"]) as server:
        async with use_cassette(tmp_path / "c.yaml", record_mode="once", redact=noting):
            async with aiohttp.ClientSession() as client:
                await (await client.post(f"{server.openai_base_url}/chat/completions", json=body)).read()
    assert [thread == threading.get_ident() for thread in noting.threads] == [False, True, False]
    assert b'"password": "[redacted]"' in load(tmp_path / "c.yaml")[0].request_body


async def test_a_redacted_request_is_found_again(kit: Kit) -> None:
    """A live request is redacted as the recorded one was, so that it finds its recording."""
    network = kit.network(kit.Reply(kit.chat("Hi")), kit.Reply(kit.chat("Hi"), headers={"set-cookie": "id=1"}))
    noting = Noting()
    with kit.cassette("once", redact=noting):
        await kit.aask("chat", httpx2.AsyncClient(transport=network), "I am Ann")
        await httpx2.AsyncClient(transport=network).get(f"{URL}?name=Ann")
    assert "Ann" not in kit.path.read_text(encoding="utf-8")
    assert {("authorization", f"Bearer {kit.KEY}"), ("set-cookie", "id=1")} <= set(noting.learned)
    with kit.cassette(redact=Noting()):
        await kit.aask("chat", httpx2.AsyncClient(transport=kit.network()), "I am Ann")
        await httpx2.AsyncClient(transport=kit.network()).get(f"{URL}?name=Ann")


@pytest.mark.parametrize("kind", ["json", "form", "parts", "gzip"])
@pytest.mark.parametrize("secret_when", ["recorded", "played"])
def test_a_value_that_is_secret_on_one_machine_only_does_not_change_the_match(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, secret_when: str, kind: str
) -> None:
    """A cassette plays for the same request if a variable with a part of the prompt is set on one machine only."""
    prompts = [f"Delete customer {name}-x1, then say {number}." for number, name in enumerate(["adams", "brown"])]
    urls = [f"{URL}?trace=adams-x1&n={number}" for number in range(2)]

    def ask(transport: Any) -> list[str]:
        body: dict[str, Callable[[str], dict[str, Any]]] = {
            "json": lambda text: {"json": {"prompt": text}},
            "form": lambda text: {"data": {"prompt": text}},
            "parts": lambda text: {"data": {"prompt": text}, "files": {"image": ("é.png", b"\xff\xfe")}},
            "gzip": lambda text: {"content": gzip.compress(text.encode()), "headers": {"content-encoding": "gzip"}},
        }
        with httpx2.Client(transport=transport) as client:
            return [client.post(url, **body[kind](text)).text for url, text in zip(urls, prompts, strict=True)]

    for mode, is_secret in (("once", secret_when == "recorded"), ("none", secret_when == "played")):
        monkeypatch.setenv("CUSTOMER_KEY", "adams-x1")
        if not is_secret:
            monkeypatch.delenv("CUSTOMER_KEY")
        with kit.cassette(mode):
            answers = ask(kit.network(kit.Reply([b"first"]), kit.Reply([b"second"])))
        assert answers == ["first", "second"]
        recorded = load(kit.path)[0]
        assert (b"adams" in plain_body(recorded.request_body, recorded.request_headers)) is (secret_when == "played")
        assert ("adams" in recorded.uri) is (secret_when == "played")


def test_a_placeholder_matches_only_what_stood_in_its_place(kit: Kit) -> None:
    """A placeholder matches any text in its place, after an exact recording; a difference elsewhere is a miss."""
    texts = ["use [redacted] now", "use this now", "use [redacted] later"]
    answers = [ResponseStream((Chunk(0, text.encode()),)) for text in texts]
    bodies = [json.dumps({"t": text}).encode() for text in texts]
    save(kit.path, [Interaction("POST", URL, body, answer) for body, answer in zip(bodies, answers, strict=True)])
    with kit.cassette(unplayed="ignore"), httpx2.Client(transport=kit.network()) as client:
        assert client.post(URL, json={"t": "use this now"}).text == "use this now"
        assert client.post(URL, json={"t": "use that later"}).text == "use [redacted] later"
        assert client.post(URL, json={"t": "use  now"}).text == "use [redacted] now"
    for other in ("use that then", "use", "please use that now"):
        with pytest.raises(CassetteMissError), kit.cassette(unplayed="ignore"):
            httpx2.Client(transport=kit.network()).post(URL, json={"t": other})


NESTED = {"password": "a-1", "client_secret": {"value": "b-2"}, "tools": [{"properties": {"pwd": {"default": "c-3"}}}]}


@pytest.mark.parametrize("kind", ["json", "data"])
def test_a_request_with_texts_below_secret_fields_is_found_again(kit: Kit, kind: str) -> None:
    """A live request with objects in secret fields finds its recording, also on a machine with other secrets."""
    body: dict[str, Any] = NESTED if kind == "json" else {"password[0]": "a-1", "client_secret[value]": "b-2"}
    requests: list[dict[str, Any]] = [{kind: body}, {kind: json.loads(json.dumps(body).replace("-", "-other-"))}]
    with kit.cassette("once"):
        httpx2.Client(transport=kit.network(kit.Reply([b"hello"]))).post(URL, **requests[0])
    recorded = load(kit.path)[0].request_body
    assert not any(secret in recorded for secret in (b"a-1", b"b-2", b"c-3"))
    for now in requests:
        with kit.cassette(), httpx2.Client(transport=kit.network()) as client:
            assert client.post(URL, **now).text == "hello"


def test_a_recording_with_texts_below_secret_fields_plays(kit: Kit) -> None:
    """An older cassette, in which texts below secret fields were not replaced, plays for the same request."""
    answer = ResponseStream((Chunk(0, b"hello"),))
    for recorded in (NESTED, {**NESTED, "password": "[redacted]"}):
        save(kit.path, [Interaction("POST", URL, json.dumps(recorded).encode(), answer)])
        with kit.cassette(), httpx2.Client(transport=kit.network()) as client:
            assert client.post(URL, json=NESTED).text == "hello"
        with pytest.raises(CassetteMissError), kit.cassette(unplayed="ignore"):
            httpx2.Client(transport=kit.network()).post(URL, json={**NESTED, "client_secret": {"value": "other"}})


async def test_record_as_records_a_local_address_as_the_providers(kit: Kit) -> None:
    """With `record_as`, requests to a local server are recorded under the provider's URL, and play for both URLs."""
    record_as = {"http://127.0.0.1:8000/v1": "https://api.openai.com/v1"}
    with kit.cassette("once", record_as=record_as):
        http_client = httpx2.AsyncClient(transport=kit.network(kit.Reply(kit.chat("Hi"))))
        live = await kit.aask("chat", http_client, base_url="http://127.0.0.1:8000/v1")
    assert load(kit.path)[0].uri == URL
    with kit.cassette():
        assert await kit.aask("chat", httpx2.AsyncClient(transport=kit.network())) == live
    with kit.cassette(record_as=record_as):
        http_client = httpx2.AsyncClient(transport=kit.network())
        assert await kit.aask("chat", http_client, base_url="http://127.0.0.1:8000/v1") == live
