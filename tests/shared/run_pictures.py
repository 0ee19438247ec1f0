"""Recordings for pictures of runs, the text that a picture shows at any time, and pages in a browser."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

from miniagents_testing import strategies
from miniagents_testing._pictures.page import page_of
from miniagents_testing._pictures.run import Run, read_run
from miniagents_testing._reading import read_interaction
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing._pictures.run import Request

_PATHS = {"chat": "chat/completions", "responses": "responses", "messages": "messages"}
_WAITS = st.sampled_from((0, 0, 1, 7, 12_345))


def find_browser() -> str | None:
    """Return the path of a Chromium: of `$MINIAGENTS_CHROMIUM`, or one on PATH.

    Where `$MINIAGENTS_NEED_BROWSER` is set, as in CI, a test without a browser fails in place of being skipped.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("MINIAGENTS_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None and os.environ.get("MINIAGENTS_NEED_BROWSER"):
        pytest.fail("there is no browser, and MINIAGENTS_NEED_BROWSER is set", pytrace=False)
    return found


def run_of(interactions: Sequence[Interaction]) -> Run:
    """Return the run of a recording."""
    return read_run(interactions, [read_interaction(each) for each in interactions])


def page_of_recording(interactions: Sequence[Interaction], title: str = "run.yaml") -> str:
    """Return the page of a recording."""
    return page_of(run_of(interactions), title)


@st.composite
def recordings(draw: st.DrawFn, *, most: int = 3) -> list[Interaction]:
    """Draw a recording of requests one after the other, with pauses; some of its answers are broken or no answers."""
    found: list[Interaction] = []
    now = draw(_WAITS)
    for number in range(1, draw(st.integers(1, most)) + 1):
        stream = draw(strategies.provider_streams(text=strategies.texts(max_size=12)))
        response = draw(strategies.recuts(stream.response))
        chunks = [Chunk(draw(_WAITS), chunk.data) for chunk in response.chunks]
        headers, status, end, complete = response.headers, 200, "eof", True
        kind = draw(st.sampled_from(("whole", "whole", "whole", "cut", "broken", "error", "page")))
        if kind in ("cut", "broken"):
            chunks = chunks[: draw(st.integers(0, len(chunks)))]
            end, complete = ("closed" if kind == "cut" else "raise ReadError: reset"), False
        elif kind == "error":
            chunks, status = [Chunk(draw(_WAITS), b'{"error": {"message": "slow down"}}')], 429
        uri = f"https://api.openai.com/v1/{_PATHS[stream.api]}"
        if kind == "page":
            chunks, uri = [Chunk(draw(_WAITS), b"User-agent: *"), Chunk(draw(_WAITS), b"\x0e")], "https://x.test/robots"
        headers_ms = draw(_WAITS) / 100
        response = ResponseStream(tuple(chunks), status, "", headers, headers_ms, end, complete)
        body = b'{"model": "m", "messages": [{"role": "user", "content": "Hi %d"}]}' % number
        agent = f"A{draw(st.integers(1, 2))}/MODEL#{number}"
        found.append(Interaction("POST", uri, body, response, {}, started_ms=now / 100, agent=agent))
        now += (
            round(headers_ms * 100) + sum(chunk.wait for chunk in chunks) + draw(st.sampled_from((1, 99_999, 777_777)))
        )
    return found


def shown(request: Request, moment: float) -> list[str]:
    """Return the texts of the parts of an answer that a page shows at a moment, in ticks; empty ones are left out."""
    lengths = [token.length for token in request.tokens if token.moment <= moment]
    length = lengths[-1] if lengths else 0
    found = []
    for part in request.parts:
        units = part.text.encode("utf-16-le")
        found.append(part.text if moment >= request.end else units[: 2 * length].decode("utf-16-le"))
        length = max(0, length - len(units) // 2)
    return [text for text in found if text]
