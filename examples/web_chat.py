"""A chat in the browser: one file, one page, and a history in SQLite. Run it, and open http://127.0.0.1:8000.

What to look at: an answer streams into the page as server-sent events. If the connection is cut, the page is loaded
again, or another tab is opened, the answer goes on, and the agent does not notice. Stop the server and start it again:
the chat is still there. A model answers if `OPENAI_API_KEY` is set, or else a script that repeats your words.
"""

from __future__ import annotations

import os
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from miniagents import MiniAgent, MiniAgents, UserMessage
from miniagents.errors import MissingExtraError
from miniagents.ext.browser import sse
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.sql import SQLChatHistory
from miniagents_testing import Step, create_scripted_agent

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise MissingExtraError.of(error.name or "starlette", "testing") from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from miniagents import MessageSequencePromise

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Chat</title>
<style>
  body { max-width: 40rem; margin: 2rem auto; font: 1rem/1.5 sans-serif }
  #chat p { white-space: pre-wrap }
  .user { font-weight: bold }
  .failed::after { content: " [broken off]"; color: #a00 }
</style>
<div id="chat"></div>
<form id="form"><input id="text" autocomplete="off" autofocus required> <button>Send</button></form>
<script>
  const chat = document.getElementById("chat"), text = document.getElementById("text")

  function show(role, content) {
    const paragraph = document.createElement("p")
    paragraph.className = role
    paragraph.textContent = content  // never as HTML: it is the text of a model
    chat.append(paragraph)
    return paragraph
  }

  function follow(run) {
    const source = new EventSource(`runs/${run}`), shown = []
    const on = (name, handle) => source.addEventListener(name, event => handle(JSON.parse(event.data)))
    on("message", message => shown.push(show(message.role, "")))
    on("token", token => shown.at(-1).textContent += token)
    on("failed", () => shown.at(-1).classList.add("failed"))
    on("reset", () => shown.splice(0).forEach(paragraph => paragraph.remove()))
    on("end", () => source.close())
  }

  document.getElementById("form").onsubmit = async event => {
    event.preventDefault()
    const content = text.value
    text.value = ""
    await loaded  // or the chat could come with this message, and be shown after it
    show("user", content)
    follow(await (await fetch("runs", {method: "POST", body: content})).json())
  }

  const loaded = fetch("chat").then(response => response.json()).then(({messages, run}) => {
    for (const [role, content] of messages) show(role, content)
    if (run) follow(run)
  })
</script>
"""


class WebChat:
    """One chat for all who open the page.

    Args:
        database: URL of the database that keeps the chat.
        model: agent that answers.
    """

    def __init__(self, database: str, model: MiniAgent[Any]) -> None:
        self._database = database
        self._model = model
        self._runs: dict[str, MessageSequencePromise] = {}
        self._before = 0  # messages that the chat had before the last run
        routes = [
            Route("/", self._page),
            Route("/chat", self._chat),
            Route("/runs", self._start, methods=["POST"]),
            Route("/runs/{run}", self._stream),
        ]
        self.app: Starlette = Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Open the context of all agents and the history, for as long as the server runs."""
        agents = MiniAgents().activate()
        self._history = SQLChatHistory(self._database, chat_id="the chat")
        try:
            yield
        finally:
            await agents.afinalize()
            await self._history.aclose()

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def _chat(self, request: Request) -> Response:
        """Return the messages before the last run, and that run, of which the page reads the events."""
        messages = await self._history.aload_chat_history()
        run = next(reversed(self._runs), None)
        before = messages[: self._before] if run else messages
        return JSONResponse({"messages": [[message.role, str(message)] for message in before], "run": run})

    async def _start(self, request: Request) -> Response:
        """Store a message of the user, and let the model answer; return the id of the run."""
        await self._history.aappend(UserMessage((await request.body()).decode()))
        messages = await self._history.aload_chat_history()
        self._before = len(messages)
        run = secrets.token_urlsafe(8)
        self._runs[run] = self._history.logging_agent.trigger(self._model.trigger(messages))
        while len(self._runs) > 100:  # a page that reads an older one gets an error, and the history when it is loaded
            del self._runs[next(iter(self._runs))]
        return JSONResponse(run)

    async def _stream(self, request: Request) -> Response:
        """Return the events of a run that follow the last one which the page has received."""
        replies = self._runs.get(request.path_params["run"])
        if replies is None:
            return Response(status_code=404)  # a browser does not ask again
        events = sse(replies, request.headers.get("last-event-id"))
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


def create_model() -> MiniAgent[Any]:
    """Return an agent on a model if there is a key, or else one that repeats what it is told."""
    if os.environ.get("OPENAI_API_KEY"):
        return create_openai_agent(model="gpt-5.4-mini")
    return create_scripted_agent(lambda call: Step(f"You said: {call.request['messages'][-1]['content']}", gap=0.1))


if __name__ == "__main__":
    uvicorn.run(WebChat("sqlite+aiosqlite:///web_chat.db", create_model()).app, port=8000)
