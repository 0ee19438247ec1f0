"""Chromium for the tests of pages: `tox -e browser` has what they need."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from run_pictures import find_browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    OpenPage = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium; skip the test if there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: `tox -e browser` has it")
    if (path := find_browser()) is None:
        pytest.skip("needs a browser on PATH: `apt-get install chromium`")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def open_page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> OpenPage:
    """Return a function that opens the HTML of a page as a file.

    With `with_clock`, time stands still between the steps of a test. At its end the function fails for dialogs, console
    messages, errors of scripts, and requests for anything but the file.
    """
    file: Path = tmp_path_factory.mktemp("pages") / "page.html"

    @contextmanager
    def opening(html: str, *, with_clock: bool = False, **settings: Any) -> Iterator[Any]:
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
        page = context.new_page()
        seen: list[str] = []
        page.on("dialog", lambda dialog: seen.append(f"dialog {dialog.message}"))
        page.on("console", lambda message: seen.append(f"console {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error {error}"))
        context.on("request", lambda request: seen.append(request.url))
        context.on("page", lambda other: seen.append("another page"))
        if with_clock:
            page.clock.install(time=0)
        page.goto(file.as_uri())
        if with_clock:
            page.clock.pause_at(3600)
        yield page
        assert seen == [file.as_uri()]
        context.close()

    return opening
