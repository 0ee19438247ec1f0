"""Fixtures for the tests of the commands: small cassettes with round times, and a runner of the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save
from miniagents_testing.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URI = "https://api.openai.com/v1/chat/completions"


class CommandResult(NamedTuple):
    """Result of a command."""

    code: int
    out: str
    err: str


class Kit:
    """Maker of interactions for the cassettes of the tests."""

    URI = URI

    @staticmethod
    def delta(finish_reason: str | None = None, **delta: Any) -> bytes:
        """Return an event of a chat completion."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        event = {"object": "chat.completion.chunk", "model": "gpt-4", "choices": [choice]}
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()

    @classmethod
    def answer(
        cls, *texts: str, finish_reason: str | None = "stop", gap: float = 0.1, **response: Any
    ) -> ResponseStream:
        """Return a stream: headers after 100 ms, then an event every `gap` seconds."""
        events = [cls.delta(content=text) for text in texts]
        if finish_reason:
            events += [cls.delta(finish_reason), b"data: [DONE]\n\n"]
        chunks = tuple(Chunk.after(gap, event) for event in events)
        headers = {"content-type": ["text/event-stream; charset=utf-8"]}
        return ResponseStream(**{"chunks": chunks, "headers": headers, "headers_ms": 100.0, **response})

    @staticmethod
    def interaction(
        asked: str, response: ResponseStream, *, started: float = 0.0, system: str = "", **fields: Any
    ) -> Interaction:
        """Return a question, sent `started` seconds after the start of the recording, with its response."""
        messages = [{"role": "user", "content": asked}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        body = json.dumps({"model": "gpt-4", "messages": messages, "stream": True}, ensure_ascii=False).encode()
        headers = {"content-type": ["application/json"]}
        given = {"method": "POST", "uri": URI, "request_body": body, "request_headers": headers, **fields}
        return Interaction(**given, response=response, started_ms=started * 1000)


@pytest.fixture
def kit() -> Kit:
    """Return the maker of interactions."""
    return Kit()


@pytest.fixture
def conversation(tmp_path: Path, kit: Kit) -> Path:
    """Return a cassette of two turns, the second half a minute after the first."""
    path = tmp_path / "conversation.yaml"
    turns = [
        kit.interaction("Hi, who are you?", kit.answer("A ", "machine", ".")),
        kit.interaction("Bye 👋", kit.answer("Auf ", "Wiedersehen"), started=30.0),
    ]
    save(path, turns)
    return path


@pytest.fixture
def parallel(tmp_path: Path, kit: Kit) -> Path:
    """Return a cassette of two streams at the same time; the second starts later and ends earlier."""
    path = tmp_path / "parallel.yaml"
    streams = [
        kit.interaction("What is it?", kit.answer("The ", "sea", "."), system="You are a sailor."),
        kit.interaction("What is it?", kit.answer("Dough", "."), started=0.05, system="You are a baker."),
    ]
    save(path, streams)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Return a function that runs the command line in this process, with its output in a pipe."""

    def run_command(*arguments: str | Path) -> CommandResult:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return CommandResult(code, *capsys.readouterr())

    return run_command
