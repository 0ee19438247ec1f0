"""Pictures of runs in a real browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_pictures import HOSTILE, URI, hostile_recording, page_of_recording, recordings, run_of, shown

from miniagents_testing._pictures.page import page_of
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from miniagents_testing._pictures import Run
    from tests.testing.browser.conftest import OpenPage

SECOND = 100_000
SHOWN = """() => [...document.querySelectorAll(".request")].filter(card => card.checkVisibility()).map(card => [
    card.id,
    [...card.querySelectorAll(".part")].map(part => part.textContent).filter(text => text),
    card.querySelector(".ending").checkVisibility(),
])"""
"""Script that returns the visible cards: their ids, the texts of their answers, and True for those with an ending."""
SEEK = """moment => {
    const slider = document.querySelector("#time");
    slider.value = moment;
    slider.dispatchEvent(new Event("input"));
    return Number(slider.value);
}"""


@pytest.fixture(scope="module")
def panel(root: Path) -> Run:
    """Return the run of the panel."""
    return run_of(load(root / "cassettes/both/panel.yaml"))


@pytest.fixture(scope="module")
def panel_page(panel: Run) -> str:
    """Return the page of the panel."""
    return page_of(panel, "panel.yaml")


def expected(run: Run, moment: float) -> list[list[Any]]:
    """Return what `SHOWN` must return at a moment, in ticks."""
    return [
        [f"r{request.number}", shown(request, moment), moment >= request.end]
        for request in run.requests
        if moment >= request.start
    ]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(recordings(), st.randoms(use_true_random=False))
def test_page_shows_at_each_moment_what_has_come(
    open_page: OpenPage, interactions: list[Interaction], choice: random.Random
) -> None:
    """Moved to the moment of each token or just before it, in any order, the page shows what had come by then."""
    run = run_of(interactions)
    tokens = [token.moment for request in run.requests for token in request.tokens]
    moments = [0, run.end, *(moment + offset for moment in tokens for offset in (-1, 0) if moment + offset >= 0)]
    choice.shuffle(moments)
    with open_page(page_of(run, "run")) as page:
        assert page.evaluate(SHOWN) == expected(run, run.end)
        for moment in moments:
            assert page.evaluate(SEEK, moment) == moment
            assert page.evaluate(SHOWN) == expected(run, moment)


def test_page_plays_at_the_chosen_pace(open_page: OpenPage, panel: Run, panel_page: str) -> None:
    """Playing begins at the start, goes on at the chosen pace, stops when asked, and ends at the end."""
    with open_page(panel_page, with_clock=True) as page:
        for speed, seconds in (("1", 10), ("0.5", 4), ("8", 2)):
            page.select_option("#speed", speed)
            before = float(page.input_value("#time")) % panel.end
            page.click("#play")
            page.clock.run_for(1000 * seconds)
            page.click("#play")
            now = float(page.input_value("#time"))
            assert now == pytest.approx(before + seconds * float(speed) * SECOND, abs=0.2 * float(speed) * SECOND)
            assert page.evaluate(SHOWN) == expected(panel, now)
        page.click("#play")
        page.clock.run_for(60_000)
        assert page.text_content("#play") == "Play"
        assert page.evaluate(SHOWN) == expected(panel, panel.end)


ELEMENTS = "() => [...new Set([...document.querySelectorAll('*')].map(each => each.localName))].sort()"


@pytest.fixture(scope="module")
def elements(open_page: OpenPage) -> Any:
    """Return the names of the elements of a page with plain texts."""
    with open_page(page_of_recording(hostile_recording("plain"))) as page:
        return page.evaluate(ELEMENTS)


@pytest.mark.parametrize("text", HOSTILE)
def test_page_does_nothing_with_hostile_texts(open_page: OpenPage, elements: list[str], text: str) -> None:
    """A hostile text in any field causes no dialog, no further element, no console message and no request."""
    run = run_of(hostile_recording(text))
    with open_page(page_of(run, text)) as page:
        assert page.evaluate(ELEMENTS) == elements
        for moment in (0, run.end / 2, run.end):
            page.evaluate(SEEK, moment)
        assert page.evaluate(SHOWN) == expected(run, run.end)
        for bar in page.query_selector_all(".bar"):
            bar.dispatch_event("click")
        assert page.evaluate(ELEMENTS) == elements


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_page_can_be_read_by_all(open_page: OpenPage, root: Path, panel_page: str, scheme: str, width: int) -> None:
    """axe-core finds nothing to mend on pages of whole and of failed answers, in the middle of playing and after it."""
    reason = "needs axe-playwright-python: `tox -e browser` has it"
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason).Axe()
    failed = page_of_recording(load(root / "cassettes/openai/connection_reset.yaml"))
    tools = page_of_recording(load(root / "cassettes/openai/research.yaml"))
    for html in (panel_page, failed, tools):
        with open_page(html, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            for share in (1, 0.5):
                page.evaluate(f"share => ({SEEK})(document.querySelector('#time').max * share)", share)
                found = axe.run(page)
                assert not found.response["violations"], found.generate_report()


def test_page_fits_360_pixels(open_page: OpenPage, panel_page: str) -> None:
    """On a screen 360 pixels wide nothing is wider than the page, and the player takes less than half of the window."""
    with open_page(panel_page, viewport={"width": 360, "height": 640}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("document.querySelector('#player').offsetHeight") < 320


def test_page_can_be_used_by_keyboard(open_page: OpenPage, panel: Run, panel_page: str) -> None:
    """Tab leads to the controls and into the bars, arrows move among bars, Enter opens a card, Space plays."""
    with open_page(panel_page, with_clock=True) as page:
        focused = "document.activeElement.id || document.activeElement.getAttribute('href')"
        order = []
        for _ in range(5):
            page.keyboard.press("Tab")
            order.append(page.evaluate(focused))
        assert order == ["play", "time", "speed", "zoom", "#r1"]
        for key, bar in (("ArrowRight", "#r5"), ("ArrowDown", "#r6"), ("ArrowLeft", "#r2"), ("ArrowUp", "#r1")):
            page.keyboard.press(key)
            assert page.evaluate(focused) == bar
        page.evaluate(SEEK, 0)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.clock.run_for(100)
        assert page.evaluate(focused) == "r5"
        assert page.evaluate("document.querySelector(':target').id") == "r5"
        assert page.evaluate(SHOWN) == expected(panel, panel.requests[4].end)
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Space")
        assert page.text_content("#play") == "Pause"


def test_click_on_a_bar_opens_prompt_and_answer(open_page: OpenPage, panel_page: str) -> None:
    """A click on a bar shows the whole prompt and the answer of its request in the window."""
    with open_page(panel_page, reduced_motion="reduce") as page:
        whole = """() => {
            const [prompt, answer] = [...document.querySelectorAll("#r5 .prompt, #r5 .answer")];
            const { top, bottom } = answer.getBoundingClientRect();
            return prompt.scrollHeight <= prompt.clientHeight && top >= 0 && top < innerHeight;
        }"""
        assert not page.evaluate(whole)
        page.click("a.bar[href='#r5']")
        assert page.evaluate(whole)


def test_page_without_javascript_is_the_whole_transcript(open_page: OpenPage, panel: Run, panel_page: str) -> None:
    """Without JavaScript, each prompt and answer can be read, and links open long prompts."""
    with open_page(panel_page, java_script_enabled=False) as page:
        text = page.inner_text("main")
        for request in panel.requests:
            for part in request.parts:
                assert part.text in text
        assert not page.is_visible("#player")
        assert page.is_visible("noscript p")
        page.click("#r5 .more")
        assert not page.is_visible("#r5 .more")
        assert page.is_visible("#r6 .more")


def test_printed_page_has_everything(open_page: OpenPage, panel_page: str) -> None:
    """On paper, long prompts are whole, lanes are there, and controls are not."""
    with open_page(panel_page) as page:
        page.emulate_media(media="print")
        assert page.is_visible(".bar")
        assert not page.is_visible("#play")
        assert not page.is_visible("#r5 .more")
        assert page.evaluate(
            "[...document.querySelectorAll('.prompt')].every(each => each.scrollHeight <= each.clientHeight)"
        )


def test_page_follows_the_wish_for_little_motion(open_page: OpenPage, panel_page: str) -> None:
    """The page scrolls smoothly only for readers who have not asked for reduced motion."""
    for wish, behaviour in (("reduce", "auto"), ("no-preference", "smooth")):
        with open_page(panel_page, reduced_motion=wish) as page:
            assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def test_page_of_a_long_answer_shows_all_of_it(open_page: OpenPage) -> None:
    """Of an answer in several blocks and text nodes, the page shows exactly what had come at each moment."""
    text = f"{'é😀 <b>' * 300}\n\n" * 10 + "é😀 <b>" * 5_000
    event = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    chunk = Chunk(SECOND, f"data: {json.dumps(event)}\n\n".encode())
    body = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
    response = ResponseStream((chunk,) * 4, headers={"content-type": ["text/event-stream"]})
    run = run_of([Interaction("POST", URI, body, response)])
    with open_page(page_of(run, "long")) as page:
        for moment in (3 * SECOND, SECOND, 4 * SECOND, 2 * SECOND):
            page.evaluate(SEEK, moment)
            assert page.evaluate(SHOWN) == expected(run, moment)
