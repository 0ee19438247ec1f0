"""The example of a web chat, read by a client over a real connection."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing import Step

if TYPE_CHECKING:
    from tests.ext.browser.conftest import Serve

ANSWER = "Words & <b>marks</b>, \x00, 😀.\n" * 20


async def read_run(client: httpx.AsyncClient, run: str, cut: int | None = None, last_event_id: str = "") -> Any:
    """Read the events of a run, and return them; close the connection after `cut` events."""
    events = []
    decoder = SSEDecoder()
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    async with client.stream("GET", f"/runs/{run}", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for chunk in response.aiter_bytes():
            events += decoder.feed(chunk)
            if cut is not None and len(events) >= cut:
                return events
    return events


async def test_W1_answer_goes_on_where_each_connection_was_closed(serve: Serve) -> None:
    """A client that closes the connection after a few events, again and again, gets the answer exactly once."""
    async with serve([Step(ANSWER, gap=0.002)]) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        run = (await client.post("/runs", content="Hi")).json()
        events: list[Any] = []
        while not events or events[-1].event != "end":
            events += await read_run(client, run, cut=7, last_event_id=events[-1].id if events else "")
        assert "".join(json.loads(event.data) for event in events if event.event == "token") == ANSWER
        assert [json.loads(each.data)["role"] for each in events if each.event == "message"] == ["assistant"]
        chat = (await client.get("/chat")).json()
        assert chat == {"messages": [["user", "Hi"]], "run": run}


async def test_chat_is_there_after_the_server_was_started_again(serve: Serve) -> None:
    """A new server on the same database shows the messages, and sends them to the model."""
    sent: list[Any] = []

    def answer(call: Any) -> Step:
        sent.append([message["content"] for message in call.request["messages"]])
        return Step(f"Answer {len(sent)}")

    for number in (1, 2):
        async with serve(answer) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
            shown = (await client.get("/chat")).json()
            run = (await client.post("/runs", content=f"Question {number}")).json()
            await read_run(client, run)
    assert shown == {"messages": [["user", "Question 1"], ["assistant", "Answer 1"]], "run": None}
    assert sent == [["Question 1"], ["Question 1", "Answer 1", "Question 2"]]


async def test_W5_failed_answer_shows_no_text_of_the_error(serve: Serve) -> None:
    """If the model fails in its answer, the page gets the text so far and the class of the error."""
    script = [Step("Half an answer", after=2, then="reset")]
    async with serve(script) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        run = (await client.post("/runs", content="Hi")).json()
        events = await read_run(client, run)
        unknown = await client.get("/runs/unknown")
    assert [event.event for event in events if event.event != "token"] == ["message", "failed", "end"]
    assert json.loads(events[-2].data).endswith("Error")
    assert unknown.status_code == 404
