"""The examples as scenarios: each with the script that the local server answers from."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniagents import ToolCall
from miniagents_testing import Step
from scenarios import Clients, paced, recorded_as

if TYPE_CHECKING:
    from miniagents_testing._script import Call

__all__ = ["EXAMPLES"]

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def _main_of(example: str) -> Any:
    """Return the `amain` of an example."""
    return runpy.run_path(str(EXAMPLES / f"{example}.py"))["amain"]


@recorded_as(
    "openai/conversation",
    [
        paced(
            "Hello! It is a message that is not finished yet. You can pass it on, keep it, or read it word by word "
            "while it is still being written – just like you are reading this now. 🙂"
        ),
        paced(
            "Then both read it, each at their own speed, and each from the very beginning. A promise can be read as "
            "often as you like, by as many agents as you like; nothing is lost, and nobody has to wait for anybody."
        ),
        paced("Auf Wiedersehen, さようなら, and enjoy building! 👋"),
    ],
)
async def conversation(clients: Clients) -> None:
    """Run three turns with one user; text with emoji and Japanese."""
    await _main_of("conversation")(clients.openai)


def _expert(call: Call) -> Step:
    """Choose the answer by the expert that is asked, because three parallel questions come in any order."""
    system = call.system or ""
    if "sailor" in system:
        return paced("Patience is a calm sea: you mend the nets, and the wind comes back by itself.", first_wait=0.6)
    if "baker" in system:
        return paced("Patience is the dough at four in the morning; pull at it, and it tears. 🥖", first_wait=0.4)
    return paced("Patience is awaiting a promise while everything else goes on running.", first_wait=0.2)


@recorded_as("openai/parallel_agents", _expert)
async def parallel_agents(clients: Clients) -> None:
    """Run three parallel requests."""
    await _main_of("parallel_agents")(clients.openai)


@recorded_as(
    "openai/writer_critic",
    [
        paced("The sea is big, and it does not care who is looking."),
        paced('Good. But "big" is worn; show the size instead.'),
        paced("The sea goes on behind the horizon, and does not care who is looking."),
        paced("DONE – leave it exactly so."),
    ],
)
async def writer_critic(clients: Clients) -> None:
    """Run two agents in turn, with four requests."""
    await _main_of("writer_critic")(clients.openai)


@recorded_as(
    "openai/split_stream",
    paced(
        "At dawn the harbour smells of rope and coffee, and the boats talk to each other in small knocks.\n\n"
        "By noon there is nothing but light; even the gulls have stopped complaining.\n\n"
        "In the evening the sea hands back the day, a little salted, and everybody says they caught more than they did."
    ),
)
async def split_stream(clients: Clients) -> None:
    """Run one request, whose answer has three paragraphs."""
    await _main_of("split_stream")(clients.openai)


@recorded_as(
    "openai/markdown_history",
    [
        paced("What a name! Häppchen means a little bite. 🐟"),
        paced('Häppchen, of course.\n\n```python\ncat = "Häppchen"\n```'),
    ],
)
async def markdown_history(clients: Clients) -> None:
    """Run two chats, the second with the first in its prompt."""
    with tempfile.TemporaryDirectory() as folder:
        await _main_of("markdown_history")(clients.openai, Path(folder) / "chat.md")


_NOTES = {
    "food": "Their food is in the air: insects and spiders, and even the rain that they drink.",
    "wings": "Long, narrow wings save energy at speed, and the legs are too short for the ground.",
    "sleep": "They sleep on the wing, 2,500 metres up, with one half of the brain at a time.",
    "nest": "Only a nest brings them down: a hole high up in a wall, from which they drop into flight.",
}


def _research(call: Call) -> Any:
    """Choose the answer by the agent that is asked: researchers look up their topic and note it, a critic judges."""
    if call.output_schema is not None:
        missing = [] if "nest" in str(call.messages) else ["nest"]
        return Step.of_output({"missing": missing}, first_wait=0.3, gap=0.04)(call)
    topic = next(str(each) for each in reversed(call.messages) if each.role == "user").removeprefix("Topic: ")
    if not call.tool_results:
        arguments = f'{{"words": "swift {topic}"}}'  # an id of its own, because parallel requests come in any order
        return paced(tool_calls=[ToolCall(id=f"call_{topic}", name="look_up", arguments=arguments)])
    return paced(_NOTES[topic], first_wait=0.2)


@recorded_as("openai/research", _research)
async def research(clients: Clients) -> None:
    """Run three parallel researchers with tools and a critic with an output, in two rounds."""
    await _main_of("research")(clients.openai)


_FIRST_ROUND = {
    "gardener": (
        "Plant the trees. A child who has picked an apple on the way to school will know for life where food comes "
        "from, and in ten years the whole street stands in the shade. A slide is rust by then."
    ),
    "teacher": (
        "The playground, because the children who are five now cannot wait for a tree. Where they play is where their"
        " parents sit and talk, and we have no such place since the square became a car park."
    ),
    "treasurer": (
        "Let me only say the numbers. Sixty trees are nine thousand, and then two thousand every year for pruning; "
        "the playground is forty thousand, once, and an inspection each spring. We have thirty-five."
    ),
    "neighbour": (
        "I live on Main Street, above the bakery. I love the idea of blossom under my window, and I can hear the "
        "wasps already; whoever plants plums should also say who sweeps them up in September."
    ),
}
_SECOND_ROUND = {
    "gardener": (
        "Teacher, a tree is a playground: put benches under it, and the climbing is free. And Treasurer, I will prune"
        " them myself for the first three years, with whoever wants to learn how it is done."
    ),
    "teacher": (
        "Then let us not choose between shade and swings. If the trees stand around a small place to play, my pupils "
        "can water them, and I would call that a lesson. I only ask that it is done before the summer."
    ),
    "treasurer": (
        "With the Gardener's three years as a gift, sixty trees fit in, and so does a small place with swings and "
        "sand for twenty thousand. That leaves six for whatever we have all forgotten, and there is always something."
    ),
    "neighbour": (
        "If it is apples and not plums, I have no more to say against it, and I will sweep. A playground by the "
        "bakery I would even enjoy, as long as somebody locks it at nine in the evening."
    ),
    "moderator": (
        "So you agree on more than the question allowed. Apple trees, not plums, around one small playground with "
        "swings and sand; the Gardener prunes, the pupils water, the Neighbour sweeps, and the town locks up at nine."
        " It costs twenty-nine of our thirty-five thousand, and it has to stand before the summer. Thank you, all "
        "four."
    ),
}


def _panelist(call: Call) -> Step:
    """Choose the answer by the panelist that is asked; each has an uneven speed of its own."""
    answers = _SECOND_ROUND if "Neighbour: " in call.text else _FIRST_ROUND
    number, name = next(pair for pair in enumerate(answers) if pair[1] in (call.system or ""))
    return paced(answers[name], first_wait=1.0 + 0.4 * number, gap=0.36 + 0.02 * number, jitter=0.7, seed=number)


@recorded_as("both/panel", _panelist)
async def panel(clients: Clients) -> None:
    """Run four parallel agents of both providers for two rounds, and a fifth one after them: a minute."""
    await _main_of("panel")(clients.openai, clients.anthropic, lambda name, token: None)
