"""The example of a web chat in a real browser: `tox -e browser` has what these tests need."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from run_pictures import find_browser

from miniagents_testing import Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.ext.browser.conftest import Serve

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: `tox -e browser` has it")
CHROMIUM = find_browser()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser on PATH: `apt-get install chromium`")

ANSWER = "Words & <b>marks</b> <img src=x onerror=document.title='broken'>, 😀.\n" * 20
QUESTION = "Hi <i>there</i>"


@asynccontextmanager
async def open_page(url: str) -> AsyncIterator[Any]:
    """Open the page in a headless Chromium."""
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(url)
        yield page
        await browser.close()


async def ask(page: Any) -> None:
    """Type a question, and send it."""
    await page.fill("#text", QUESTION)
    await page.click("button")


async def shown(page: Any) -> list[list[str]]:
    """Return classes and texts of the paragraphs of the page."""
    paragraphs: list[list[str]] = await page.eval_on_selector_all(
        "#chat p", "paragraphs => paragraphs.map(each => [each.className, each.textContent])"
    )
    return paragraphs


async def wait_for_end(page: Any) -> None:
    """Wait until the page has as many characters as the answer, or more."""
    await page.wait_for_function(
        "length => (document.querySelector('#chat .assistant')?.textContent.length ?? 0) >= length",
        arg=len(ANSWER.encode("utf-16-le")) // 2,
        timeout=60_000,
    )


EXPECTED = [["user", QUESTION], ["assistant", ANSWER]]


async def test_W1_page_equals_the_answer_after_many_cuts(serve: Serve) -> None:
    """The page has question and answer exactly, as texts and not as HTML, though the connection is cut seven times."""
    cuts = [0, 3, 20, 333, 1_000, 555, 777]
    async with serve([Step(ANSWER, gap=0.005)], cuts) as url, open_page(url) as page:
        await ask(page)
        await wait_for_end(page)
        assert not cuts
        assert await shown(page) == EXPECTED
        assert await page.title() == "Chat"


async def test_W1_page_goes_on_when_it_is_loaded_again_in_the_middle(serve: Serve) -> None:
    """A page that is loaded again while an answer streams, and a second page, show the chat exactly."""
    async with serve([Step(ANSWER, gap=0.01)]) as url, open_page(url) as page, open_page(url) as other:
        await ask(page)
        await page.wait_for_selector("#chat .assistant:not(:empty)")
        await page.reload()
        await other.reload()
        for each in (page, other):
            await wait_for_end(each)
            assert await shown(each) == EXPECTED


async def test_W1_message_sent_while_the_chat_is_loaded_is_shown_once(serve: Serve) -> None:
    """A message that the user sends while the page still loads the chat is sent afterwards, and shown once."""
    async with serve([Step(ANSWER)]) as url, open_page("about:blank") as page:

        async def ask_meanwhile(route: Any) -> None:
            """Send a message, and let the page get the chat a while later."""
            await ask(page)
            await page.wait_for_timeout(300)
            await route.continue_()

        await page.route("**/chat", ask_meanwhile)
        await page.goto(url)
        await wait_for_end(page)
        await page.wait_for_timeout(1_000)  # the chat may come after the answer
        assert await shown(page) == EXPECTED


async def test_W3_page_asks_no_more_after_the_end(serve: Serve) -> None:
    """After the end of an answer, the page closes its `EventSource`, and does not connect again."""
    async with serve([Step(ANSWER)]) as url, open_page(url) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await ask(page)
        await wait_for_end(page)
        await page.wait_for_timeout(2_500)  # the browser would connect again after a second
        assert len([each for each in asked if "/runs/" in each]) == 1
        assert await shown(page) == EXPECTED
