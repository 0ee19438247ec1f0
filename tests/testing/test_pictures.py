"""Pictures of runs: the model of a run, and the page with its texts, sizes and links."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_pictures import (
    HOSTILE,
    URI,
    delta,
    hostile_recording,
    page_of_recording,
    recordings,
    run_of,
    shown,
)

from miniagents_testing._reading import read_interaction
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load
from miniagents_testing.cli._play import Player
from miniagents_testing.cli._screen import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def answer(*texts: str, wait: int = 10_000, **fields: Any) -> ResponseStream:
    """Return an answer with one token every `wait` ticks."""
    chunks = [Chunk(wait, delta(content=text)) for text in texts]
    given = {
        "chunks": (*chunks, Chunk(wait, delta("stop") + b"data: [DONE]\n\n")),
        "headers": {"content-type": ["text/event-stream"]},
    }
    return ResponseStream(**{**given, **fields})


def interaction(
    messages: Sequence[tuple[str, str]], response: ResponseStream, *, agent: str = "A/M#1", started: float = 0.0
) -> Interaction:
    """Return a request of an agent, sent `started` seconds after the start of the recording, with its response."""
    body = {"model": "m", "messages": [{"role": role, "content": text} for role, text in messages]}
    return Interaction("POST", URI, json.dumps(body).encode(), response, {}, started * 1000, agent)


class _Page(HTMLParser):
    """Reader of a page: its elements with their attributes, the ids, and the texts of its cards."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.texts.append(data)


class _Clock(StringIO):
    """Output of `play` that keeps each text with its time, in ticks since the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.log: list[tuple[int, str]] = []

    def write(self, text: str) -> int:
        self.log.append((round(self.now * 100_000), text))
        return len(text)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def _with_single_spaces(text: str) -> str:
    """Return a text without line ends at its end, and with one space for several: `play` prints tabs as spaces."""
    return re.sub("[ \t]+", " ", text.rstrip("\n"))


@given(recordings(), st.data())
def test_picture_shows_at_any_time_what_play_has_printed(interactions: list[Interaction], data: st.DataObject) -> None:
    """At any moment, a page shows the prompts, answers and endings that `play` has printed by then."""
    output = _Clock()
    Player(Screen(file=output), 1.0, lambda: output.now, output.sleep).play(interactions)
    run = run_of(interactions)
    moments = sorted({0, run.end, *(token.moment for request in run.requests for token in request.tokens)})
    for moment in moments if run.has_times else [run.end]:
        at = moment - data.draw(st.integers(0, 1), label="ticks before") * run.has_times
        printed = "".join(text for time, text in output.log if time <= at or not run.has_times)
        expected = []
        for request, recorded in zip(run.requests, interactions, strict=True):
            if at < request.start:
                continue
            (turn,) = request.turns
            lines = [f"{turn.role.upper()}: {turn.text}\n{recorded.agent_path}: "]
            for text in shown(request, at):
                if len(lines) > 1 and not lines[-1].endswith("\n"):
                    lines.append("\n")
                lines.append(text)
            if at >= request.end:
                seconds = round((request.end - request.start) / 100_000, 5) if run.has_times else 0
                lines.append("" if len(lines) < 2 or lines[-1].endswith("\n") else "\n")
                lines.append(f"[{', '.join([request.ending, *([f'{seconds:.2f} s'] if seconds else [])])}]\n\n")
            expected.append("".join(lines))
        assert _with_single_spaces(printed) == _with_single_spaces("".join(expected))


def test_picture_shortens_pauses_without_a_request() -> None:
    """A pause of a minute between two requests takes a second, and the page says how long it was."""
    asked = [
        interaction([("user", "Hi")], answer("Ho"), started=5.0),
        interaction([("user", "Hey")], answer("Hu"), started=65.2, agent="A/M#2"),
    ]
    run = run_of(asked)
    assert [(each.start, each.end) for each in run.requests] == [(0, 20_000), (120_000, 140_000)]
    page = page_of_recording(asked)
    assert "a pause of 60.0 s" in page
    assert "2 requests · 1 agent · 60.4 s" in page


def test_picture_without_recorded_times_shows_a_token_every_50_ms() -> None:
    """Requests of a recording without times follow each other, and the page says that their times are made up."""
    asked = [interaction([("user", "Hi")], answer("a", "b", wait=0), agent=f"A/M#{number}") for number in (1, 2)]
    run = run_of(asked)
    assert [[token.moment for token in each.tokens] for each in run.requests] == [[5_000, 10_000], [20_000, 25_000]]
    assert "no times were recorded" in page_of_recording(asked)


def test_picture_has_a_lane_for_each_agent_in_order_of_appearance(root: Path) -> None:
    """The name of a lane is an agent's path without the common beginning and without the model agent's alias."""
    run = run_of(load(root / "cassettes/both/panel.yaml"))
    assert run.lanes == ("GARDENER", "TEACHER", "TREASURER", "NEIGHBOUR", "MODERATOR")
    assert len(run.requests) == 9


def test_picture_has_calls_of_tools_until_their_results_are_sent(root: Path) -> None:
    """A call of a tool is a bar from the answer that asked for it to the next request of the same agent."""
    run = run_of(load(root / "cassettes/openai/tool_calls.yaml"))
    first, second = run.requests
    assert [(tool.request, tool.start, tool.end) for tool in run.tools] == [(1, first.end, second.start)] * 2
    assert {tool.name for tool in run.tools} == {"get_weather"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"end": "raise ReadError: reset", "complete": False}, "✕ the connection broke: ReadError: reset"),
        ({"end": "closed", "complete": False}, "✕ closed by its reader, before the answer was whole"),
        ({"status": 429, "chunks": (Chunk(1, b"slow"),)}, "✕ HTTP 429: slow"),
    ],
)
def test_picture_says_in_words_how_an_answer_failed(fields: dict[str, Any], words: str) -> None:
    """The card of an interrupted or failed answer says so, and so does the head of the page."""
    page = page_of_recording([interaction([("user", "Hi")], answer("Ho", **fields))])
    assert f'<p class="ending failed">{words}</p>' in page
    assert "1 failed" in page


def test_picture_folds_messages_that_an_earlier_request_of_the_agent_has_shown() -> None:
    """A later request of an agent has a link in place of the messages that are on the page already."""
    first = [("system", "Be kind."), ("user", "Hi")]
    asked = [
        interaction(first, answer("Ho")),
        interaction([*first, ("assistant", "Ho"), ("user", "More")], answer("Hu"), started=1, agent="A/M#2"),
    ]
    page = page_of_recording(asked)
    assert '<a href="#r1">3 earlier messages, up to request 1</a>' in page
    for text in ("Be kind.", ">Hi<", "</b> Hi", ">Ho<", "More"):
        assert page.count(text) == (text != ">Hi<")


def test_picture_links_messages_without_a_text_to_those_before_them() -> None:
    """If the last of several folded messages has no text, their link leads to the last one that has."""
    first = [("user", "Hi"), ("tool", "")]
    asked = [
        interaction([("user", "Hi")], answer("")),
        interaction(first, answer("Ho"), started=1, agent="A/M#2"),
        interaction([*first, ("user", "More")], answer("Hu"), started=2, agent="A/M#3"),
    ]
    assert '<a href="#r1">2 earlier messages, up to request 1</a>' in page_of_recording(asked)


def test_picture_has_a_link_in_place_of_a_long_text_of_another_agent() -> None:
    """A long answer that another agent reads in its prompt stands on the page once."""
    text = " ".join(f"word{number}" for number in range(100))
    asked = [
        interaction([("user", "Hi")], answer(text)),
        interaction([("user", text)], answer("Good"), started=1, agent="B/M#1"),
    ]
    page = page_of_recording(asked)
    assert page.count("word99") == 1
    assert '… <a href="#r1">whole in request 1</a>' in page


@st.composite
def _talks(draw: st.DrawFn) -> list[Interaction]:
    """Draw a recording in which agents send their whole history again and again, and read each other's answers."""
    words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf"]), min_size=1, max_size=30)
    history: dict[str, list[tuple[str, str]]] = {"A": [], "B": []}
    shared = draw(words)
    found = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        agent = draw(st.sampled_from("AB"))
        said = draw(st.lists(words, min_size=50, max_size=60))
        history[agent].append(("user", draw(words) if draw(st.booleans()) else shared * 40))
        found.append(
            interaction(history[agent], answer(*said, wait=12_345), agent=f"{agent}/M#{number}", started=number * 7.0)
        )
        history[agent].append(("assistant", "".join(said)))
        history["B" if agent == "A" else "A"].append(("user", "".join(said)))
    return found


@given(_talks())
def test_picture_is_small(interactions: list[Interaction]) -> None:
    """A page has at most 60 kB, plus 20 bytes a token, plus twice the distinct text, though agents repeat prompts."""
    readings = [read_interaction(each) for each in interactions]
    texts = {turn.text for reading in readings for turn in reading.prompt.turns}
    texts |= {reading.outcome.content for reading in readings if reading.outcome}
    tokens = sum(len(reading.pieces) for reading in readings)
    text = sum(len(html.escape(text, quote=False).encode()) for text in texts)
    assert len(page_of_recording(interactions).encode()) <= 60_000 + 20 * tokens + 2 * text


def test_picture_of_the_panel_has_less_than_40_kb(root: Path) -> None:
    """The page of the panel, a cassette of 97 kB, has less than 40 kB."""
    assert len(page_of_recording(load(root / "cassettes/both/panel.yaml")).encode()) < 40_000


PLAIN = _Page(page_of_recording(hostile_recording("plain")))


@pytest.mark.parametrize("text", HOSTILE)
def test_picture_shows_hostile_texts_as_texts(text: str) -> None:
    """A text in any field makes no element, no attribute, no link and no control character on the page."""
    source = page_of_recording(hostile_recording(text), title=text)
    page = _Page(source)
    kinds = {tag for tag, _ in PLAIN.elements}
    assert {tag for tag, _ in page.elements} == kinds
    for _, attributes in page.elements:
        assert attributes.keys() <= {name for _, known in PLAIN.elements for name in known}
        assert re.fullmatch(r"(#r[0-4])?", attributes.get("href") or "")
    assert source.count("<script") == 2
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200b\ufeff\ud800-\udfff]", source)
    assert not re.search("[\U000e0000-\U000e007f]", source)


def test_picture_names_its_script_and_style_in_its_policy() -> None:
    """The policy of a page allows its one script and its one style by their hashes, and nothing else."""
    page = page_of_recording([interaction([("user", "Hi")], answer("Ho"))])
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; script-src 'sha256-\S+'; style-src 'sha256-\S+'; base-uri 'none'; form-action 'none'",
        policy[1],
    )
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:src|href)=\"(?!#)", page)


def test_picture_of_no_request_says_so() -> None:
    """A page of an empty recording says that there is no request."""
    assert "There is no request." in page_of_recording([])
