"""Make the cassettes of the examples again: `python cassettes/record.py`, or with the names of some.

Each example runs as it is, through OpenAI's SDK, against a local server that answers from the scripts below. No
provider is asked, and no key is needed. The texts are ours; the pauses are made up, uneven on purpose.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from openai import AsyncOpenAI

from miniagents import MiniAgents
from miniagents_testing import ProviderServer, Step, use_cassette

if TYPE_CHECKING:
    from miniagents_testing.call import Call
    from miniagents_testing.script import Script

EXAMPLES = Path(__file__).parent.parent / "examples"
PAUSES = (0.02, 0.05, 0.03, 0.09, 0.02, 0.04, 0.06)


def _answer(text: str, first_wait: float = 0.35) -> Step:
    return Step(text, first_wait=first_wait, gap=PAUSES)


def _expert(call: Call) -> Step:
    """Three answers at once come in any order, so the answer is chosen by who is asked."""
    system = call.system or ""
    if "sailor" in system:
        return _answer("Patience is a calm sea: you mend the nets, and the wind comes back by itself.", 0.6)
    if "baker" in system:
        return _answer("Patience is the dough at four in the morning; pull at it, and it tears. 🥖", 0.4)
    return _answer("Patience is awaiting a promise while everything else goes on running.", 0.2)


SCRIPTS: dict[str, Script] = {
    "conversation": [
        _answer(
            "Hello! It is a message that is not finished yet. You can pass it on, keep it, or read it word by word "
            "while it is still being written – just like you are reading this now. 🙂"
        ),
        _answer(
            "Then both read it, each at their own speed, and each from the very beginning. A promise can be read as "
            "often as you like, by as many agents as you like; nothing is lost, and nobody has to wait for anybody."
        ),
        _answer("Auf Wiedersehen, さようなら, and enjoy building! 👋"),
    ],
    "parallel_agents": _expert,
    "writer_critic": [
        _answer("The sea is big, and it does not care who is looking."),
        _answer('Good. But "big" is worn; show the size instead.'),
        _answer("The sea goes on behind the horizon, and does not care who is looking."),
        _answer("DONE – leave it exactly so."),
    ],
    "split_stream": [
        _answer(
            "At dawn the harbour smells of rope and coffee, and the boats talk to each other in small knocks.\n\n"
            "By noon there is nothing but light; even the gulls have stopped complaining.\n\n"
            "In the evening the sea hands back the day, a little salted, and everybody says they caught more than "
            "they did."
        )
    ],
    "markdown_history": [
        _answer("What a name! Häppchen means a little bite. 🐟"),
        _answer('Häppchen, of course.\n\n```python\ncat = "Häppchen"\n```'),
    ],
}


async def arecord(name: str, folder: Path) -> Path:
    """Run one example against its script; `folder` is for files that it writes."""
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    more = [folder / "chat.md"] if name == "markdown_history" else []
    async with ProviderServer(SCRIPTS[name]) as server:
        record_as = {server.openai_base_url: "https://api.openai.com/v1"}
        with use_cassette(example["CASSETTE"], record_mode="rewrite", record_as=record_as):
            async with AsyncOpenAI(api_key="not needed", base_url=server.openai_base_url) as client, MiniAgents():
                await example["amain"](client, *more)
        server.assert_complete()
    path: Path = example["CASSETTE"]
    return path


def main(names: list[str]) -> None:
    """Record the examples of these names."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            path = asyncio.run(arecord(name, Path(folder)))
        print(f"{name}: {path.relative_to(EXAMPLES.parent)}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SCRIPTS))
