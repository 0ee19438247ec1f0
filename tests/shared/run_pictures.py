"""Recordings for pictures of runs, the text that a picture shows at any time, and pages in a browser."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from miniagents_testing import _odd_texts, strategies
from miniagents_testing._pictures import Run, read_run
from miniagents_testing._pictures.page import page_of
from miniagents_testing._reading import read_interaction
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing._pictures import Request

URI = "https://api.openai.com/v1/chat/completions"
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


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    """Return an event of a chat completion."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'model': 'm', 'choices': [choice]})}\n\n".encode()


HOSTILE = (
    *_odd_texts.LOOKALIKES,
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "</style><style>*{display:none}",
    "</title></div></article><img src=x onerror=alert(1)>",
    "\" onmouseover=alert(1) x='",
    "javascript:alert(1)",
    "&lt;b&gt; &amp;amp; &#60;",
    "<base href=https://x.test/><meta http-equiv=refresh content='0;url=https://x.test/'>",
    "{{constructor.constructor('alert(1)')()}}",
    "\u2028\u2029\x00\x0b\x0c\x1b[2J\x7f\x85",
    "a\u202eb\u2066c\u200b\U000e0041",
)


def _hostile(text: str) -> Interaction:
    """Return an interaction with a text in each field that a page shows."""
    arguments = json.dumps({"x": text})
    events = [
        delta(reasoning_content=text),
        delta(content=text),
        delta(tool_calls=[{"index": 0, "id": text, "function": {"name": text or "f", "arguments": arguments}}]),
        delta(refusal=text),
    ]
    choice = {"index": 1, "delta": {"content": text}, "finish_reason": None}
    other = {"object": "chat.completion.chunk", "model": text, "choices": [choice]}
    events.append(f"data: {json.dumps(other)}\n\n".encode())
    chunks = tuple(Chunk(1, event) for event in (*events, delta(text), b"data: [DONE]\n\n"))
    body = {"model": text, "messages": [{"role": role, "content": text} for role in ("system", text, "tool")]}
    return Interaction(
        text, f"{URI}?{text}", json.dumps(body).encode(), ResponseStream(chunks, reason=text), {}, 0.0, f"{text}/M#1"
    )


def hostile_recording(text: str) -> list[Interaction]:
    """Return a recording with a text everywhere: in an answer, in a failure, and in what is no answer of a model."""
    whole = _hostile(text)
    failed = ResponseStream((Chunk(1, json.dumps({"error": {"message": text}}).encode()),), status=400, reason=text)
    broken = ResponseStream((Chunk(1, delta(content=text)),), end=f"raise ReadError: {text}", complete=False)
    page = ResponseStream((Chunk(1, text.encode(errors="replace")),), headers={"content-type": [text]})
    return [
        whole,
        replace(whole, response=failed),
        replace(whole, response=broken),
        replace(whole, response=page, uri=f"wss://{text}", agent=""),
    ]
