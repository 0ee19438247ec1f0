"""Each example runs offline from its cassette, and prints what its docstring says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from miniagents import MiniAgents
from miniagents.errors import install_line
from miniagents_testing import use_cassette
from miniagents_testing.cassette import load

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


class Shown:
    """Stand-in for stdout that keeps each piece of text."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        """Keep a piece."""
        self.pieces.append(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing, because pieces are kept at once."""

    @property
    def text(self) -> str:
        """All pieces as one text."""
        return "".join(self.pieces)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shown]:
    """Return a function that runs an example from its cassette, without pauses, and fails if an answer is not used."""

    def run(name: str, *arguments: Any) -> Shown:
        example = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
        client = AsyncOpenAI(api_key="none")
        shown = Shown()
        with monkeypatch.context() as patch, use_cassette(example["CASSETTE"]):
            patch.setattr(sys, "stdout", shown)
            MiniAgents().run(example["amain"](client, *arguments))
        return shown

    return run


def _answers(name: str) -> list[str]:
    """Return the assistant's texts in a cassette, in order."""
    interactions = load(ROOT / "cassettes" / "openai" / f"{name}.yaml")
    return [
        "".join(json.loads(piece) for piece in re.findall(r'"content":("(?:[^"\\]|\\.)*")', body.decode()))
        for body in (interaction.response.body for interaction in interactions)
    ]


def test_conversation_prints_token_by_token(play: Callable[..., Shown]) -> None:
    """In the example, user and assistant take turns, and the answers are printed completely, in many pieces."""
    shown = play("conversation", 0)
    answers = _answers("conversation")
    assert re.sub(r"\s+", " ", shown.text).count("ASSISTANT: ") == shown.text.count("USER: ") == len(answers) == 3
    assert all(answer in shown.text for answer in answers)
    assert "🙂" in shown.text
    tokens = [piece for piece in shown.pieces if piece in answers[0]]
    assert len(tokens) > 20


def test_parallel_agents_prints_answers_in_the_order_of_the_experts(play: Callable[..., Shown]) -> None:
    """The example prints answers in the order of the experts, even if a later expert answers first."""
    text = play("parallel_agents").text
    assert re.findall(r"^(A \w+): Patience", text, re.MULTILINE) == ["A sailor", "A baker", "A programmer"]


def test_writer_critic_ends_when_the_critic_is_content(play: Callable[..., Shown]) -> None:
    """In the example, writer and critic take turns until the critic is content."""
    text = play("writer_critic").text
    assert re.findall(r"^(\w+): ", text, re.MULTILINE) == ["WRITER", "CRITIC"] * 2
    assert text.rstrip().endswith("exactly so.")


def test_split_stream_numbers_each_paragraph(play: Callable[..., Shown]) -> None:
    """The example prints three paragraphs, each after its number."""
    text = play("split_stream").text
    assert re.findall(r"^\[(\d)\] (\w+)", text, re.MULTILINE) == [("1", "At"), ("2", "By"), ("3", "In")]


def test_markdown_history_continues_in_a_second_chat(play: Callable[..., Shown], tmp_path: Path) -> None:
    """After a second chat with the same history, the file has all four messages of both chats, in order."""
    text = play("markdown_history", tmp_path / "chat.md").text
    said = ["My cat is called Häppchen.", "What a name!", "What is my cat called?", 'cat = "Häppchen"']
    positions = [text.index(line) for line in said]
    assert positions == sorted(positions)


def test_research_ends_when_nothing_is_missing(play: Callable[..., Shown]) -> None:
    """In the example, notes come in the order of the topics, and a second round has what the critic missed."""
    lines = play("research").text.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["Their", "Long,", "They"]
    assert (lines[3], lines[5]) == ("[missing: nest]", "[missing: nothing]")
    assert lines[6].startswith("10 requests, ")


async def test_research_by_hand_sends_the_same_requests_and_prints_the_same(
    play: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example written on the SDK alone plays the same cassette to its end, and prints the same text."""
    by_hand = runpy.run_path(str(ROOT / "benchmarks" / "by_hand" / "research.py"))
    shown = Shown()
    with monkeypatch.context() as patch, use_cassette(by_hand["CASSETTE"]):
        patch.setattr(sys, "stdout", shown)
        async with AsyncOpenAI(api_key="none") as client:
            await by_hand["amain"](client)
    assert shown.text == (await asyncio.to_thread(play, "research")).text


def test_panel_prints_sentences_and_the_moderator_last(play: Callable[..., Shown]) -> None:
    """The panel example prints each sentence with its speaker's name, and the moderator's sentences last."""
    print_sentences = runpy.run_path(str(ROOT / "examples" / "panel.py"))["print_sentences"]
    text = play("panel", AsyncAnthropic(api_key="none"), print_sentences()).text
    speakers = re.findall(r"^ *(\w+): [A-Z].*[.!?]$", text, re.MULTILINE)
    assert len(speakers) == text.count("\n")
    *others, _, _, _, _ = speakers
    assert set(others) == {"Gardener", "Teacher", "Treasurer", "Neighbour"}
    assert speakers[len(others) :] == ["Moderator"] * 4


PACE = {"panel": ["0"]}
"""Arguments of an example whose recording is long; the other examples are played at their pace."""


@pytest.mark.parametrize("name", [example.stem for example in EXAMPLES if "CASSETTE" in example.read_text("utf-8")])
def test_example_runs_as_a_program(name: str, tmp_path: Path) -> None:
    """An example runs in any folder, without an API key, with an empty stdin, and prints no warning."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py"), *PACE.get(name, [])],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 100


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        *(
            (example.stem, package, package)
            for example in EXAMPLES
            for package in ("openai", "anthropic")
            if re.search(rf"^ +(?:import|from) {package}\b", example.read_text("utf-8"), re.MULTILINE)
        ),
        *(("web_chat", package, "testing") for package in ("starlette", "uvicorn")),
        ("token_times", "vcr", "testing"),
        ("conversation", "yaml", "testing"),
    ],
)
def test_example_names_the_extra_of_a_package_that_is_missing(name: str, package: str, extra: str) -> None:
    """An example without one of the packages that it imports ends with the line that installs the package."""
    program = "import runpy, sys; sys.modules[sys.argv[2]] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "examples" / f"{name}.py"), package],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(f"Install it with: {install_line(extra)}\n")


def test_examples_import_no_optional_package_without_its_extra() -> None:
    """At the top level of an example, only packages that are always there are imported without the line of an extra."""
    known = {"miniagents", "miniagents_testing", "pydantic", *sys.stdlib_module_names}
    imported = {
        (example.stem, name)
        for example in EXAMPLES
        for name in re.findall(r"^(?:import|from) (\w+)", example.read_text("utf-8"), re.MULTILINE)
    }
    assert {(stem, name) for stem, name in imported if name not in known} == set()


def test_live_example_is_the_program_of_the_readme() -> None:
    """The program in the README is the example file, which other tests run on a terminal."""

    def code(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.strip()]

    program = (ROOT / "examples" / "live_conversation.py").read_text("utf-8").partition('"""\n\n')[2]
    (shown,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
        if "create_console_user_agent" in block
    ]
    assert code(program) == code(shown)


def test_token_times_prints_four_lists_of_five_times() -> None:
    """The example prints the times of five tokens, recorded and played, with vcrpy alone and with true streams."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples/token_times.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "CI": ""},  # where it is set, recordings are refused
        check=True,
    )
    assert re.findall(r"^(\w+) +(\w+)  \[((?:[\d.]+, ){4}[\d.]+)\]$", done.stdout, re.MULTILINE)
    names = [line.split()[:2] for line in done.stdout.splitlines()]
    assert names == [[name, how] for name in ("vcrpy", "miniagents_testing") for how in ("recorded", "played")]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_says_what_to_look_at(example: Path) -> None:
    """The docstring of each example tells the reader what to look at."""
    assert "What to look at: " in example.read_text("utf-8")
