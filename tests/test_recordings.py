"""The committed cassettes: their content, other players of them, and recording them again."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import vcr
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from miniagents import MiniAgents, errors
from miniagents_testing import ProviderServer, Step, run_in_virtual_time, use_cassette
from miniagents_testing.cassette import load
from miniagents_testing.errors import IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing.cassette import Interaction

CASSETTES = Path(__file__).resolve().parent.parent / "cassettes"
NAMES = sorted(path.relative_to(CASSETTES).with_suffix("").as_posix() for path in CASSETTES.rglob("*.yaml"))
PATHS = [str(CASSETTES / f"{name}.yaml") for name in NAMES]

each_cassette = pytest.mark.parametrize("name", NAMES)


def _path(name: str) -> Path:
    """Return the path of the cassette with this name."""
    return CASSETTES / f"{name}.yaml"


@pytest.fixture(scope="module")
def recorder() -> Iterator[dict[str, Any]]:
    """Run `record.py`, which imports its neighbours as a program does, and return its names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CASSETTES)
        yield runpy.run_path(str(CASSETTES / "record.py"))
    for neighbour in ("scenarios", "example_scenarios"):
        del sys.modules[neighbour]


class Player:
    """Runner of the programs that were recorded."""

    def __init__(self, recorder: dict[str, Any]) -> None:
        self._recorder = recorder

    async def play(self, name: str, **settings: Any) -> Any:
        """Run a program with its cassette and with clients of default settings, and return its result."""
        clients = self._recorder["Clients"](AsyncOpenAI(api_key="none"), AsyncAnthropic(api_key="none"))
        with use_cassette(_path(name), **settings):
            async with clients.openai, clients.anthropic, MiniAgents():
                return await self._recorder["SCENARIOS"][name].program(clients)


@pytest.fixture
def player(recorder: dict[str, Any]) -> Player:
    """Make a player of cassettes for their programs."""
    return Player(recorder)


# --- what the cassettes contain


@pytest.mark.parametrize(
    ("name", "said", "thought"),
    [
        ("openai/tool_calls", None, None),
        ("openai/reasoning", None, "I need to know both."),
        ("anthropic/tool_calls", "I look up both.", None),
    ],
)
async def test_tools_are_called_in_parallel_and_their_results_go_back(
    player: Player, name: str, said: str | None, thought: str | None
) -> None:
    """A replayed answer has two tool calls, and the second recorded request has their results."""
    asks, answers = await player.play(name)
    assert [(call.name, json.loads(call.arguments)) for call in asks.tool_calls] == [
        ("get_weather", {"city": "Oslo"}),
        ("get_weather", {"city": "Palermo"}),
    ]
    assert (asks.content or None, asks.reasoning, asks.finish_reason) == (said, thought, "tool_calls")
    assert "by 22 degrees" in answers.content
    assert "19 °C, sunny ☀" in load(_path(name))[1].request_body.decode()


async def test_thinking_and_text_of_an_answer_are_separate_fields(player: Player) -> None:
    """The replayed message of a thinking model has the thinking in `reasoning` and the answer in `content`."""
    message = await player.play("anthropic/thinking")
    assert message.reasoning.startswith("s-t-r-a-w")
    assert message.content == "Three: one in the straw, two in the berry. 🍓"


async def test_a_refusal_is_a_field_of_its_own(player: Player) -> None:
    """The replayed message of a refusal has its text in `refusal`, and an empty content."""
    message = await player.play("openai/refusal")
    assert (message.finish_reason, message.content) == ("refusal", "")
    assert message.refusal.startswith("I'm sorry")


async def test_an_answer_that_is_not_streamed_is_one_document(player: Player) -> None:
    """The replayed message of a request without streaming has the JSON that the model was asked for as its content."""
    message = await player.play("openai/not_streamed")
    assert json.loads(message.content) == {"name": "Häppchen", "age": 3, "sleeps": "on the piano"}


def test_an_agent_waits_and_retries_after_status_429(player: Player) -> None:
    """At the recorded pace, the agent waits after status 429 as long as the response says; at pace 0, not at all."""
    assert [each.response.status for each in load(_path("anthropic/rate_limited"))] == [429, 200]

    async def play(pace: float) -> float:
        message = await player.play("anthropic/rate_limited", pace=pace)
        assert message.content == "I am, and rested. What can I do for you?"
        return asyncio.get_running_loop().time()

    assert 1.5 < run_in_virtual_time(play(1)) < 2.5
    assert run_in_virtual_time(play(0)) < 0.1


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("openai/connection_reset", errors.StreamBrokenError, "broke in the middle of the response"),
        ("openai/response_failed", errors.ProviderError, "The server had an error"),
        ("anthropic/overloaded", errors.ProviderOverloadedError, "Overloaded"),
    ],
)
async def test_an_answer_that_fails_in_its_middle_keeps_its_text(
    player: Player, name: str, kind: type[errors.LLMError], text: str
) -> None:
    """A replayed answer that fails in its middle raises the error of its kind, with the text before it in `partial`."""
    error: errors.LLMError = await player.play(name)
    assert type(error) is kind
    assert text in str(error)
    assert error.partial.content == "The tide comes twice a day, and"


async def test_a_recording_whose_reader_left_early_ends_there(player: Player) -> None:
    """Reading beyond the end of a recording whose reader left early raises `IncompleteRecordingError`."""
    assert "".join(await player.play("openai/early_break")) == "one two three four five"
    (interaction,) = load(_path("openai/early_break"))
    assert (interaction.response.end, interaction.response.complete) == ("closed", False)
    with use_cassette(_path("openai/early_break")):
        async with AsyncOpenAI(api_key="none") as client:
            stream = await client.chat.completions.create(**json.loads(interaction.request_body))
            with pytest.raises(IncompleteRecordingError, match="ends here"):
                async for _ in stream:
                    pass


# --- other players


@each_cassette
def test_plain_vcrpy_plays_each_committed_cassette(name: str) -> None:
    """The library vcrpy alone answers every request of a committed cassette with the recorded status and body."""
    with vcr.use_cassette(str(_path(name)), record_mode="none", match_on=("method", "uri", "body")) as cassette:
        _ask_for_all(load(_path(name)))
        assert cassette.all_played


def _ask_for_all(interactions: tuple[Interaction, ...]) -> None:
    """Send each recorded request again, and check the status and body of its answer."""
    with httpx2.Client() as client:
        for each in interactions:
            headers = {key: values[0] for key, values in each.request_headers.items()}
            answer = client.request(each.method, each.uri, content=each.request_body, headers=headers)
            assert (answer.status_code, answer.content) == (each.response.status, each.response.body)


def test_pytest_recording_plays_the_committed_cassettes(pytester: pytest.Pytester) -> None:
    """pytest-recording, with the network blocked, plays each request of the committed cassettes: status and body."""
    pytester.makepyfile(
        f"""
        import httpx2
        import pytest
        from miniagents_testing.cassette import load

        @pytest.fixture
        def vcr_config():
            return {{"match_on": ["method", "uri", "body"]}}

        @pytest.mark.vcr
        @pytest.mark.block_network
        @pytest.mark.parametrize(
            "path", [pytest.param(path, marks=pytest.mark.default_cassette(path)) for path in {PATHS!r}]
        )
        def test_it(path, vcr):
            with httpx2.Client() as client:
                for each in load(path):
                    headers = {{name: values[0] for name, values in each.request_headers.items()}}
                    answer = client.request(each.method, each.uri, content=each.request_body, headers=headers)
                    assert (answer.status_code, answer.content) == (each.response.status, each.response.body)
            assert vcr.all_played
        """
    )
    done = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio", "-W", "error")
    done.assert_outcomes(passed=len(NAMES))


# --- recording them again


def test_each_committed_cassette_has_a_scenario_and_a_row_in_the_readme(recorder: dict[str, Any]) -> None:
    """Cassette files, scenarios in `record.py` and rows in the README of the cassettes have the same names."""
    readme = (CASSETTES / "README.md").read_text(encoding="utf-8")
    assert sorted(recorder["SCENARIOS"]) == NAMES
    assert sorted(re.findall(r"^\| \[\S+\]\((\S+)\.yaml\)", readme, re.MULTILINE)) == NAMES


@each_cassette
async def test_a_cassette_that_is_recorded_again_holds_the_same(
    recorder: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """Recording a cassette's scenario again gives the same agents, requests and answers; only times differ."""
    path = tmp_path / "again.yaml"
    await recorder["arecord"](recorder["SCENARIOS"][name], path, pace=0)
    again, committed = load(path), load(_path(name))
    assert sorted(each.agent for each in again) == sorted(each.agent for each in committed)
    assert _facts(again) == _facts(committed)


def _facts(interactions: tuple[Interaction, ...]) -> list[tuple[Any, ...]]:
    """Return the facts of the recording that depend on no clock, sorted, because requests may run in parallel.

    Which of an agent's parallel requests has which number is no such fact: before its first request a client of OpenAI
    or Anthropic asks a thread for the platform, and the threads may end in any order.
    """
    return sorted(
        (
            each.agent_path,
            each.method,
            each.uri,
            json.dumps(json.loads(each.request_body), sort_keys=True),  # SDKs change the order of fields
            each.response.status,
            each.response.headers.keys(),
            re.sub(rb"scripted[-_]\d+", b"scripted", each.response.body),
            each.response.end,
            each.response.complete,
        )
        for each in interactions
    )


KEY = "sk-live-0123456789abcdefghij"


def test_a_live_recording_has_the_provider_in_it_and_no_key(
    recorder: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`record.py --live` uses key and address of the environment, and stores the provider's URL and no key."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ProviderServer([Step(refusal="Never.")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_base_url)
        recorder["main"](["--live", "openai/refusal", "--to", str(tmp_path)])
        assert server.last_call.text.startswith("How do I get into")
    path = tmp_path / "openai" / "refusal.yaml"
    (interaction,) = load(path)
    assert interaction.uri == load(_path("openai/refusal"))[0].uri
    assert "Never." in interaction.response.body.decode()
    assert KEY not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--live"], "--live needs the names"),
        (["--live", "openai/refusal"], "needs OPENAI_API_KEY in the environment"),
        (["--live", "both/panel"], "needs OPENAI_API_KEY and ANTHROPIC_API_KEY in the environment"),
        (["--live", "anthropic/overloaded"], "no provider does when it is asked to"),
        (["openai/nothing"], "there is no openai/nothing"),
    ],
)
def test_record_refuses_wrong_options_before_it_sends_anything(
    recorder: dict[str, Any], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`record.py` with wrong options ends with a message before it sends a request."""
    with pytest.raises(SystemExit, match="2"):
        recorder["main"](arguments)
    assert message in capsys.readouterr().err
