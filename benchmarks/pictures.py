"""Pictures of runs: writing a page compared with loading and reading its cassette, its size, and frames a second.

Frames are counted in Chromium, if playwright and a browser are installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cassettes import interaction
from benchmarks.measure import Plan, Table, main
from benchmarks.provider import openai_chunks
from miniagents_testing._pictures import read_run
from miniagents_testing._pictures.page import page_of
from miniagents_testing.cassette import Interaction, save
from miniagents_testing.cli._screen import CassetteFile, read_cassette

PANEL = Path(__file__).parent.parent / "cassettes" / "both" / "panel.yaml"
REQUESTS, TOKENS, AGENTS = 200, 500, 5
SECONDS = 4
"""How long a page is played to count its frames."""
COUNT_FRAMES = """milliseconds => new Promise(done => {
    const moments = [];
    const note = moment => {
        moments.push(moment);
        if (moment - moments[0] < milliseconds) requestAnimationFrame(note);
        else done((1000 * (moments.length - 1)) / (moment - moments[0]));
    };
    requestAnimationFrame(note);
})"""


def long_run(plan: Plan) -> list[Interaction]:
    """Return a recording of five agents that stream at once, each with its whole history in each prompt."""
    chance = random.Random(1)
    histories: list[list[dict[str, str]]] = [[] for _ in range(AGENTS)]
    found = []
    for number in range(plan.sized(REQUESTS)):
        history = histories[number % AGENTS]
        history.append({"role": "user", "content": f"Question {number}: {'why ' * 40}"})
        body = json.dumps({"model": "gpt-4o", "messages": history, "stream": True}).encode()
        recorded = interaction("", openai_chunks(plan.sized(TOKENS)), 0.02)
        found.append(
            replace(
                recorded,
                request_body=body,
                started_ms=number // AGENTS * (plan.sized(TOKENS) + 5) * 20 + chance.uniform(0, 50),
                agent=f"AGENT_{number % AGENTS}/OPENAI_AGENT#{number // AGENTS + 1}",
            )
        )
        answer = "".join(f" word{place}" for place in range(plan.sized(TOKENS)))
        history.append({"role": "assistant", "content": answer})
    return found


def page(cassette: CassetteFile) -> str:
    """Return the page of a cassette that was read."""
    return page_of(read_run(cassette.interactions, cassette.readings), cassette.path.name)


def frames_a_second(file: Path) -> float:
    """Return how many frames a second Chromium shows while it plays a page."""
    from playwright.sync_api import sync_playwright

    browser = os.environ.get("MINIAGENTS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as started:
        opened: Any = started.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        opened.goto(file.as_uri())
        opened.click("#play")
        frames: float = opened.evaluate(COUNT_FRAMES, SECONDS * 1000)
    return frames


async def benchmark(plan: Plan) -> Table:
    """Measure writing, the sizes of two pages, and the frames while they are played."""
    table = Table("Pictures")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "long.yaml"
        save(path, long_run(plan))
        cassette = read_cassette(path)

        async def base() -> None:
            read_cassette(path)

        async def ours() -> None:
            page(read_cassette(path))

        await table.compare(
            f"reading {path.stat().st_size / 1e6:.1f} MB and writing its page",
            base,
            ours,
            plan,
            units=1,
            unit="us a file",
            base_name="loading and reading",
            goal=2,
        )
        for title, each, goal in (("the panel", read_cassette(PANEL), 50), ("100,000 tokens", cassette, 20)):
            written = page(each).encode()
            table.facts[f"kB of the page of {title}"] = len(written) / 1000
            if find_spec("playwright") and not plan.quick:
                (folder / "page.html").write_bytes(written)
                name = f"frames a second while {title} is played (goal: >= {goal})"
                table.facts[name] = await asyncio.to_thread(frames_a_second, folder / "page.html")
    return table


if __name__ == "__main__":
    main(benchmark)
