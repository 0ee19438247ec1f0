"""Pictures of live runs: one HTML page with agents, requests and tokens over time.

```python
with picture("run.html"):
    MiniAgents().run(amain())
```

`miniagents-testing export` makes the same page of a cassette, and `pytest --miniagents-pictures=failed` of tests.

`RunRecorder` is the observer that keeps requests and calls of tools with the times of their tokens.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniagents.messages import AnswerRestarted, ReasoningDelta, RefusalDelta, ToolCallDelta
from miniagents.observing import observe
from miniagents_testing._pictures import AnswerText, Request, Run, ToolRun, shorten_pauses
from miniagents_testing._pictures.page import write_page
from miniagents_testing._reading import (
    NewTurns,
    Piece,
    Turn,
    agent_names,
    content_text,
    has_to_be_shown,
    sentence_of,
    tool_piece,
)
from miniagents_testing._streams import TICKS_PER_SECOND

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from miniagents.messages import MessageEvent
    from miniagents.observing import Operation

__all__ = ["picture"]


@contextmanager
def picture(path: str | os.PathLike[str], *, title: str = "") -> Iterator[None]:
    """Return a context manager that writes a picture of all runs that begin inside, also when one of them fails.

    The page has the requests of agents to models, and their calls of tools. Folders are made as needed, and a file in
    its place is replaced. Times are those of the event loop, so a run in virtual time has virtual times.

    Args:
        path: the HTML file to write.
        title: the heading of the page; by default the name of the file.

    Raises:
        OSError: the file cannot be written.
    """
    recorder = RunRecorder()
    try:
        with observe(recorder):
            yield
    finally:
        write_page(path, recorder.run(), title or Path(path).name)


class RunRecorder:
    """Observer that keeps the requests and the calls of tools of all runs, for a picture."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self._requests: list[_Seen] = []
        self._tools: list[_Seen] = []

    @contextmanager
    def __call__(self, operation: Operation) -> Iterator[None]:
        """Keep an operation, with its start, pieces, end and error; ignore calls of agents."""
        if operation.kind == "agent":
            yield
            return
        now = self._clock.now
        seen = _Seen(operation, now())
        (self._requests if operation.kind == "request" else self._tools).append(seen)
        if operation.kind == "request":
            add = seen.pieces.append
            operation.on_token = lambda text: add((now(), Piece("text", "", text)))
            operation.on_event = lambda event: seen.add_event(now(), event)
        try:
            yield
        except BaseException as error:
            seen.error = error
            raise
        finally:
            seen.end = now()

    @property
    def has_requests(self) -> bool:
        """True if a request to a model has begun."""
        return bool(self._requests)

    def run(self) -> Run:
        """Return the requests and calls of tools until now, as the run that a picture shows."""
        order = sorted(self._requests, key=lambda seen: seen.start)
        names, new = agent_names([seen.path for seen in order]), NewTurns()
        requests: list[Request] = []
        of_agent: dict[Operation | None, list[Request]] = {}
        for number, (seen, name) in enumerate(zip(order, names, strict=True), 1):
            requests.append(seen.as_request(number, name, new))
            of_agent.setdefault(seen.operation.parent, []).append(requests[-1])
        tools = []
        for seen in self._tools:
            if own := of_agent.get(seen.operation.parent):  # an open call of an earlier run may have no request here
                asked = own[max(0, bisect_right(own, seen.start, key=lambda request: request.start) - 1)]
                tools.append(seen.as_tool(asked))
        return shorten_pauses(requests, tools, [*requests, *tools])


@dataclass(eq=False, slots=True)
class _Seen:
    """Model request, or tool call, with what has come of it until now."""

    operation: Operation
    start: int
    end: int | None = None
    error: BaseException | None = None
    pieces: list[tuple[int, Piece]] = field(default_factory=list)
    """Pieces of the answer with their moments."""

    @property
    def path(self) -> str:
        """Aliases of the agent that sent the request and of its callers."""
        names, parent = [], self.operation.parent
        while parent is not None:
            names.append(parent.name)
            parent = parent.parent
        return "/".join(reversed(names))

    def add_event(self, moment: int, event: MessageEvent) -> None:
        """Add reasoning, a refusal, a part of a call, or the repetition of a request as a piece.

        Ignore other events.
        """
        piece: Piece | None = None
        if isinstance(event, ReasoningDelta):
            piece = Piece("reasoning", "", event.text)
        elif isinstance(event, RefusalDelta):
            piece = Piece("refusal", "", event.text)
        elif isinstance(event, ToolCallDelta):
            part = str(event.index)
            piece = (
                tool_piece(part, event.name, event.arguments) if event.name else Piece("tool", part, event.arguments)
            )
        elif isinstance(event, AnswerRestarted):
            piece = Piece("again", str(len(self.pieces)), "the request failed, and is sent again")
        if piece is not None and piece.text:
            self.pieces.append((moment, piece))

    def as_request(self, number: int, name: str, new: NewTurns) -> Request:
        """Return the request for a picture.

        Args:
            number: its number in the order of start.
            name: the short name of its agent.
            new: the messages that earlier requests have shown.
        """
        answer = AnswerText()
        for moment, piece in self.pieces:
            answer.add([piece])
            answer.mark(moment)
        parts, tokens = answer.finish()
        asked, result = self.operation.asked, self.operation.result
        turns = _turns(asked)
        usage = getattr(result, "usage", None)
        return Request(
            number=number,
            lane=name or self.operation.name,
            target=self.operation.name,
            start=self.start,
            end=self._end,
            turns=turns,
            new=frozenset(new.take_places(self.path, turns, None if result is None else str(result))),
            parts=parts,
            tokens=tokens,
            ending=self._failure or sentence_of(getattr(result, "finish_reason", None) or "complete"),
            complete=not self._failure,
            tokens_in=getattr(usage, "input_tokens", None),
            tokens_out=getattr(usage, "output_tokens", None),
        )

    def as_tool(self, asked: Request) -> ToolRun:
        """Return this tool call for a picture; `asked` is the model request whose answer contained the call."""
        return ToolRun(self.operation.name, asked.lane, asked.number, self.start, self._end, self._failure)

    @property
    def _end(self) -> int:
        """Moment of the end; of an operation that is still at work, the one of the last piece."""
        return self.end if self.end is not None else self.pieces[-1][0] if self.pieces else self.start

    @property
    def _failure(self) -> str:
        """Failure in words; empty if there was none."""
        if self.end is None:
            return "it had not ended when the picture was written"
        if self.error is None:
            return ""
        if isinstance(self.error, asyncio.CancelledError):
            return "cancelled by its reader, before it was whole"
        return f"{type(self.error).__name__}: {self.operation.redact(str(self.error))}"


class _Clock:
    """Clock of a recorder, which shows ticks; the runs of several event loops follow each other on it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offset = 0
        self._latest = 0

    def now(self) -> int:
        """Return the ticks since the first call; outside of an event loop, those of the call before."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the garbage collector ends an operation
            return self._latest
        time = round(loop.time() * TICKS_PER_SECOND)
        if loop is not self._loop:
            self._loop, self._offset = loop, self._latest - time
        self._latest = max(self._latest, self._offset + time)
        return self._latest


def _turns(asked: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Return the messages of a request with their roles, the instructions first, as of a recorded request."""
    system = content_text(_plain(asked["system"]))
    turns = [Turn("system", system)] if system else []
    turns += [Turn(message.role or "user", str(message.content or "")) for message in asked["messages"]]
    return tuple(filter(has_to_be_shown, turns))


def _plain(value: Any) -> Any:
    """Return frozen containers as dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [*map(_plain, value)] if isinstance(value, (list, tuple)) else value
