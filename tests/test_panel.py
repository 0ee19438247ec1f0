"""A recorded minute of four agents of two providers, replayed in virtual time: token for token, without a socket."""

from __future__ import annotations

import asyncio
import random
import runpy
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from anthropic import AsyncAnthropic
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from miniagents import MiniAgents
from miniagents_testing import VirtualTimeLoop, block_live_requests, strategies, use_cassette
from miniagents_testing._reading import read_interaction
from miniagents_testing.cassette import load, timeline
from miniagents_testing.recut import cut_at

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.cassette import Interaction
    from tests.conftest import Effort

CASSETTE = Path(__file__).resolve().parent.parent / "cassettes" / "both" / "panel.yaml"

Tokens = list[tuple[str, str]]
"""Name of the speaker and text of each token, in the order of arrival."""


def _speaker(interaction: Interaction) -> str:
    """Return the name of the agent of a recorded request."""
    return interaction.agent_path.partition("/")[0].capitalize()


def _recorded() -> Tokens:
    """Return the recorded tokens in the order of their times."""
    interactions = load(CASSETTE)
    left = [iter(read_interaction(each).chunks) for each in interactions]
    return [
        (_speaker(interactions[moment.number - 1]), piece.text)
        for moment in timeline(interactions)
        if moment.what == "chunk"
        for piece in next(left[moment.number - 1])
    ]


def _replayed(*, seed: int | None = None, **settings: Any) -> tuple[Tokens, float]:
    """Play the example on a virtual-time loop, and return its tokens and the virtual seconds that it took."""
    seen: Tokens = []

    async def play() -> float:
        async with AsyncOpenAI(api_key="none") as openai, AsyncAnthropic(api_key="none") as anthropic, MiniAgents():
            await AMAIN(openai, anthropic, lambda name, token: seen.append((name, token)))
        return asyncio.get_running_loop().time()

    with use_cassette(CASSETTE, **settings), block_live_requests():
        with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, seed=seed)) as runner:
            return seen, runner.run(play())


AMAIN = runpy.run_path(str(CASSETTE.parents[2] / "examples" / "panel.py"))["amain"]
RECORDED = _recorded()
SECONDS = timeline(load(CASSETTE))[-1].ms / 1000


def _texts(tokens: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the whole text of each speaker."""
    said: defaultdict[str, str] = defaultdict(str)
    for name, token in tokens:
        said[name] += token
    return said


class Cuts(NamedTuple):
    """Function that cuts each stream at random places; two numbers define it, so that a report stays short."""

    seed: int
    places: int

    def __call__(self, stream: ResponseStream) -> ResponseStream:
        size = len(stream.body)
        return cut_at(stream, random.Random(f"{self.seed}/{size}").choices(range(size), k=self.places))


def test_recording_has_four_agents_that_stream_at_once() -> None:
    """In each round of the recording there are moments when all four agents stream."""
    interactions = load(CASSETTE)
    assert SECONDS > 50
    first, second = interactions[:4], interactions[4:8]
    for four in (first, second):
        assert sorted(map(_speaker, four)) == ["Gardener", "Neighbour", "Teacher", "Treasurer"]
        assert sorted(each.uri.split("/")[2] for each in four) == ["api.anthropic.com"] * 2 + ["api.openai.com"] * 2
        began, ended = zip(*map(_first_and_last_token, four), strict=True)
        assert max(began) < min(ended)


def _first_and_last_token(interaction: Interaction) -> tuple[float, float]:
    """Return the times of the first and the last token of a recorded answer."""
    moments = [moment.ms for moment in timeline([interaction]) if moment.what == "chunk"]
    return moments[0], moments[-1]


def test_replay_gives_the_recorded_tokens_in_the_recorded_order() -> None:
    """Twenty replays in virtual time give the same tokens of the same agents in the same order."""
    for _ in range(20):
        seen, took = _replayed(pace=1)
        assert seen == RECORDED
        assert took == pytest.approx(SECONDS, rel=0.01)


def test_replay_gives_the_same_texts_for_any_schedule_pace_and_cuts(effort: Effort) -> None:
    """Texts are the same for any schedule, pace and cuts; so are all tokens at a pace above 0 without new cuts."""

    @settings(max_examples=effort(30, ci=150, nightly=1500))
    @given(
        seed=st.none() | strategies.schedule_seeds(),
        pace=st.just(0.0) | st.floats(0.01, 10),
        chunking=st.sampled_from(["recorded", "event"]) | st.builds(Cuts, st.integers(0, 999), st.integers(0, 50)),
    )
    def replay(seed: int | None, pace: float, chunking: Any) -> None:
        seen, took = _replayed(seed=seed, pace=pace, chunking=chunking)
        assert _texts(seen) == _texts(RECORDED)
        assert took == pytest.approx(SECONDS * pace, rel=0.01)
        if pace and not isinstance(chunking, Cuts):
            assert seen == RECORDED

    replay()
