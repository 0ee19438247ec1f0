"""Answers with three calls, split or broken at every place: no call runs twice or with incomplete arguments."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from prompt_rules import check_prompt

from miniagents import InMemoryChatHistory, LLMError, MiniAgents, UserMessage
from miniagents.ext.llm._prompts import chat_prompt, messages_for_model, messages_prompt, responses_prompt
from miniagents.ext.llm.openai import Retry
from miniagents_testing import ScriptedLLM, faults
from miniagents_testing._script import Call, Step
from miniagents_testing._wire import render
from miniagents_testing.recut import every_cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents import Message
    from miniagents_testing._script import API
    from miniagents_testing._streams import ResponseStream
    from tests.conftest import Effort

APIS: list[API] = ["chat", "responses", "messages"]
NAMES = ["Ann", "Bäb 😀", "Cy"]


def answer(api: API) -> ResponseStream:
    """Return an answer with three calls, whose arguments come in pieces."""
    step = Step(tool_calls=[("send", {"to": name}) for name in NAMES], cut=6)
    return render(step, Call.of(1, api, {"stream": True, "model": "m"}))


def prompt_of(api: API, messages: list[Message]) -> list[dict[str, Any]]:
    """Return the prompt with which an agent of this API would go on."""
    kept = messages_for_model(messages, "AGENT")
    if api == "messages":
        return messages_prompt(kept)[1]
    return chat_prompt(kept) if api == "chat" else responses_prompt(kept)


async def sent_after(api: API, script: Any, retry: Retry | None = None) -> list[str]:
    """Run an agent on a script, and return the names to which its tool has sent letters.

    Check, too, that the prompt that would follow is valid, and has the result of each letter once.
    """
    sent: list[str] = []

    async def send(to: str = "nobody") -> str:
        """Send a letter."""
        sent.append(to)
        return f"sent to {to}"

    llm = ScriptedLLM(script)
    history = InMemoryChatHistory()
    with contextlib.suppress(LLMError):
        await history.aappend(llm.agent(api=api, tools=[send], retry=retry).trigger("Hi"))
    prompt = prompt_of(api, [UserMessage("Hi"), *await history.aload_chat_history()])
    check_prompt(api, prompt)
    for name in sent:
        assert str(prompt).count(f"sent to {name}") == 1, "an effect is missing in the prompt"
    return sent


@pytest.mark.parametrize("api", APIS)
async def test_calls_run_once_with_whole_arguments_however_the_bytes_are_split(api: API, effort: Effort) -> None:
    """Each call runs once and with whole arguments, wherever the network splits the bytes of the answer."""
    async with MiniAgents():
        for stream in _every(every_cut(answer(api)), effort(29, ci=3, nightly=1)):
            assert await sent_after(api, [stream, "done"]) == NAMES


@pytest.mark.parametrize("api", APIS)
async def test_calls_of_an_answer_truncated_at_any_byte_run_all_or_not_at_all(api: API, effort: Effort) -> None:
    """An answer that ends at any byte runs all of its calls or none, never with incomplete arguments."""
    stream = answer(api)
    seen: set[int] = set()
    async with MiniAgents():
        for length in {*range(0, len(stream.body), effort(29, ci=3, nightly=1)), len(stream.body)}:
            sent = await sent_after(api, [faults.cut(after=length, of="bytes")(stream), "done"])
            assert sent in ([], NAMES)
            seen.add(len(sent))
    assert seen == {0, 3}


@pytest.mark.parametrize("api", APIS)
async def test_no_fault_in_an_answer_runs_a_call_twice(api: API) -> None:
    """Whichever event of an answer breaks, and however, no call runs twice, although the request may be repeated."""
    stream = answer(api)
    async with MiniAgents():
        for number in range(1, len(stream.chunks) + 1):
            for fault in (faults.reset(after=number), faults.overloaded(at=number), faults.malformed(at=number)):
                answers = iter([fault(stream), stream, stream])

                def script(call: Call, answers: Iterator[ResponseStream] = answers) -> ResponseStream | str:
                    """Return "done" for a request with results, and else the next answer."""
                    return "done" if call.tool_results else next(answers)

                sent = await sent_after(api, script, retry=Retry(first_wait=0))
                assert sent in ([], NAMES), fault


def _every(streams: Iterator[Any], step: int) -> Iterator[Any]:
    """Yield each `step`-th item."""
    return (each for number, each in enumerate(streams) if not number % step)
