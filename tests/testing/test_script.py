"""Scripts: how texts are cut, when tokens come, which arguments are refused, and what errors and calls say."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from miniagents import AssistantMessage, Frozen, MiniAgents, ToolCall, Usage
from miniagents_testing import Failure, ScriptedLLM, Step
from miniagents_testing._script import Call, as_answer
from miniagents_testing.errors import ScriptError, UnconsumedStepsError, UnexpectedCallError

if TYPE_CHECKING:
    from miniagents_testing._script import API

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


# --- cutting


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("word", (" Hello", "  there,\n", "you")),
        ("character", tuple(" Hello  there,\nyou")),
        (7, (" Hello ", " there,", "\nyou")),
        (lambda text: text.partition(","), (" Hello  there", ",", "\nyou")),
    ],
)
def test_step_cuts_its_text_by_the_given_rule(cut: Any, pieces: tuple[str, ...]) -> None:
    """A step cuts its text by word, by character, by size, or with a function."""
    text = " Hello  there,\nyou"
    expected = (" Hello", "  there,", "\nyou") if cut == "word" else pieces
    assert Step(text, cut=cut).deltas.text == expected


@given(st.text(), st.sampled_from(["word", "character"]) | st.integers(1, 5))
def test_deltas_join_to_the_scripted_text(text: str, cut: Any) -> None:
    """The deltas of text, reasoning, refusal and arguments join to the scripted text, and none is empty."""
    deltas = Step(text, reasoning=text, refusal=text, tool_calls=[("look", text)], cut=cut).deltas
    for pieces in (deltas.text, deltas.reasoning, deltas.refusal, deltas.tool_calls[0].arguments):
        assert "".join(pieces) == text
        assert all(pieces)


def test_step_keeps_given_deltas() -> None:
    """A step keeps deltas as they are given, also empty ones."""
    step = Step(["Hel", "", "lo"], reasoning=["H", "m"], tool_calls=[("look", ['{"a', '":1}'])])
    assert step.deltas.text == ("Hel", "", "lo")
    assert step.deltas.reasoning == ("H", "m")
    assert step.deltas.tool_calls[0].arguments == ('{"a', '":1}')
    assert step.deltas.tokens == 7


class City(BaseModel):
    """Model with a field that has another name in JSON."""

    the_name: str = Field(alias="name")


class Town(Frozen):
    """Model of the framework's own kind."""

    name: str


@pytest.mark.parametrize(
    ("structured", "text"),
    [
        (City(name="Köln"), '{"name":"Köln"}'),
        (Town(name="Köln"), '{"name":"Köln"}'),
        ({"name": "Köln", "sights": [{"name": "Dom"}]}, '{"name": "Köln", "sights": [{"name": "Dom"}]}'),
    ],
)
def test_step_of_a_model_or_dict_has_its_json_as_text(structured: Any, text: str) -> None:
    """A model or dict as a step is answered with its JSON, with the names of its schema and no internal fields."""
    assert "".join(Step(structured).deltas.text) == text
    assert as_answer(structured, "here") == Step(structured)


# --- times


def test_waits_of_a_step_repeat_its_gaps() -> None:
    """The first token comes after `first_wait`, the others after the gaps, which repeat without end."""
    assert list(itertools.islice(Step("a", first_wait=3, gap=(1, 2)).waits(1), 6)) == [3, 1, 2, 1, 2, 1]
    assert list(itertools.islice(Step("a", gap=0.5).waits(1), 3)) == [0, 0.5, 0.5]


@given(st.floats(0, 1), st.integers(), st.integers(1, 9))
def test_jitter_is_bounded_and_repeatable(jitter: float, seed: int, number: int) -> None:
    """With jitter, waits vary by at most the given share, and depend only on the seed and the number of the call."""
    step = Step("a", first_wait=2.0, gap=2.0, jitter=jitter, seed=seed)
    waits = list(itertools.islice(step.waits(number), 20))
    assert waits == list(itertools.islice(step.waits(number), 20))
    assert all(2.0 * (1 - jitter) <= wait <= 2.0 * (1 + jitter) for wait in waits)


def test_jitter_differs_between_calls_of_one_step() -> None:
    """A step that answers several calls has other waits in each of them."""
    step = Step("a", gap=1.0, jitter=0.5)
    assert list(itertools.islice(step.waits(1), 5)) != list(itertools.islice(step.waits(2), 5))


# --- refused arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step("a b", after=3, then="reset"), "after=3, but the step has 2 tokens"),
        (lambda: Step("a b", after=1), "after=1 needs a `then`"),
        (lambda: Step("a b", then="explode"), "not 'explode'"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Step("a b", then=-1.0), "then must be a number of seconds"),
        (lambda: Step("a", gap=-1), "gap must be a number of seconds, not -1"),
        (lambda: Step("a", gap=[1, float("nan")]), "gap must be a number of seconds, not nan"),
        (lambda: Step("a", first_wait=float("inf")), "first_wait must be a number of seconds"),
        (lambda: Step("a", jitter=2), "jitter must be a fraction between 0 and 1"),
        (lambda: Step("a", jitter="b"), "jitter must be a fraction between 0 and 1, not 'b'"),  # type: ignore[arg-type]
        (lambda: Step("a", cut=0), "a number of characters"),
        (lambda: Step("ab", cut=lambda text: [text[0]]), "must join to the text"),
        (lambda: Failure(200), "between 400 and 599, not 200"),
    ],
)
def test_step_or_failure_refuses_values_out_of_range(make: Any, message: str) -> None:
    """A value out of range raises a `ValueError` where it is given; the message names the argument."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScriptedLLM(["fine", 5]), "step 2 must be a text, a Step, .* not 5"),  # type: ignore[list-item]
        (lambda: ScriptedLLM(None), "step 1 must be"),  # type: ignore[arg-type]
        (lambda: Failure("x"), "an int from 400 to 599, not 'x'"),  # type: ignore[arg-type]
        (lambda: Failure(503.0), "an int from 400 to 599, not 503.0"),  # type: ignore[arg-type]
        (lambda: Step([1]), "the deltas of a text must be texts"),  # type: ignore[list-item]
        (lambda: Step(tool_calls=["look"]), r"a tool call must be \(name, arguments\)"),  # type: ignore[list-item]
    ],
)
def test_script_refuses_wrong_types_before_any_call(make: Any, message: str) -> None:
    """A value of a wrong type raises a `TypeError` where the script is made, not when a call reaches it."""
    with pytest.raises(TypeError, match=message):
        make()


def test_function_that_returns_no_answer_raises_an_error_with_its_call() -> None:
    """A function that returns None raises a `TypeError` that names the call."""
    llm = ScriptedLLM(lambda call: None)
    with pytest.raises(TypeError, match=r"the answer of the script to call 1 \(.*\) must be"):
        llm.respond("chat", REQUEST)


def test_step_and_failure_ignore_later_changes_of_their_arguments() -> None:
    """Steps and failures copy their arguments, so that later changes have no effect."""
    pieces, headers, gaps = ["a"], {"retry-after": "1"}, [1.0]
    step, failure = Step(pieces, gap=gaps), Failure(429, headers=headers)
    pieces.append("b")
    headers["retry-after"] = "2"
    gaps.append(2.0)
    assert step.deltas.text == ("a",)
    assert step.gap == (1.0,)
    assert failure.headers == {"retry-after": "1"}


# --- unused steps and unexpected calls


def test_call_after_the_last_step_raises_an_error_that_lists_the_steps() -> None:
    """A call after the last step raises an error that names the call, and each step with the call that it answered."""
    llm = ScriptedLLM(["Hello", Step("Bye", finish_reason="length", gap=0.5)])
    for text in ("Hi", "Ho", "Hu"):
        request = {"model": "m", "messages": [{"role": "user", "content": text}]}
        if text != "Hu":
            llm.respond("chat", request)
            continue
        with pytest.raises(UnexpectedCallError) as caught:
            llm.respond("chat", request)
    assert str(caught.value) == (
        "a client asked 'Hu' (call 3), and no step is left: the script has 2 steps\n"
        "  step 1: Step('Hello') was for call 1 (api 'chat', model 'm', last message 'Hi')\n"
        "  step 2: Step('Bye', finish_reason='length', gap=0.5) was for "
        "call 2 (api 'chat', model 'm', last message 'Ho')"
    )


def test_assert_complete_lists_unused_steps_and_calls() -> None:
    """`assert_complete` raises an error that lists the steps that were not used, and the calls that came."""
    tools: Any = [("get_weather", {"city": "Paris"})]
    llm = ScriptedLLM(["Hello", Step(tool_calls=tools), Failure(429), ZeroDivisionError("zero"), {"a": 1}])
    llm.respond("responses", {"model": "m", "input": "Hi"})
    with pytest.raises(UnconsumedStepsError) as caught:
        llm.assert_complete()
    assert str(caught.value) == (
        "4 steps were not used: the model was called 1 time\n"
        "  step 2: Step(tool_calls=[('get_weather', {'city': 'Paris'})])\n"
        "  step 3: Failure(429)\n"
        "  step 4: ZeroDivisionError('zero')\n"
        "  step 5: Step({'a': 1})\n"
        "  call 1 (api 'responses', model 'm', last message 'Hi')"
    )


def test_errors_about_long_scripts_list_the_relevant_steps_only() -> None:
    """For long scripts, errors list the next unused steps or the last used ones, and count the others."""
    llm = ScriptedLLM([f"answer {number}" for number in range(1, 26)])
    llm.respond("chat", REQUEST)
    with pytest.raises(UnconsumedStepsError) as left:
        llm.assert_complete()
    lines = str(left.value).splitlines()
    assert lines[1] == "  step 2: Step('answer 2')"
    assert lines[-2:] == ["  and 14 more", "  call 1 (api 'chat', model 'm', last message 'Hi')"]
    with pytest.raises(UnexpectedCallError) as caught:
        for _ in range(25):
            llm.respond("chat", REQUEST)
    lines = str(caught.value).splitlines()
    assert lines[1:3] == ["  15 earlier steps", f"  step 16: Step('answer 16') was for {llm.calls[15]}"]
    assert len(lines) == 12


def test_last_call_raises_an_error_before_the_first_call() -> None:
    """`last_call` raises a `ScriptError`, not an `IndexError`, before the first call."""
    llm = ScriptedLLM(["Hello"])
    assert llm.calls == ()
    with pytest.raises(ScriptError, match="was not called yet"):
        _ = llm.last_call
    with pytest.raises(UnconsumedStepsError, match="1 step was not used: the model was called 0 times"):
        llm.assert_complete()


async def test_error_of_a_model_that_was_never_called_says_that_replies_are_unread() -> None:
    """If a program drops the replies of `trigger`, the errors about the missing call say to await them."""
    llm = ScriptedLLM(["Hello"])
    async with MiniAgents():
        llm.agent().trigger("Hi")
    with pytest.raises(ScriptError, match=r"replies were not read: write `await agent.trigger\(...\)`"):
        _ = llm.last_call
    with pytest.raises(UnconsumedStepsError, match=r"replies were not read: write `await agent.trigger\(...\)`"):
        llm.assert_complete()


def test_assert_complete_raises_an_unexpected_call_error_of_a_function_again() -> None:
    """`assert_complete` raises an `UnexpectedCallError` of a function again, even if the app caught it."""

    def answer(call: Call) -> str:
        raise UnexpectedCallError("this call is wrong")

    llm = ScriptedLLM(answer)
    for call in (lambda: llm.respond("chat", REQUEST), llm.assert_complete):
        with pytest.raises(UnexpectedCallError, match="this call is wrong"):
            call()


def test_script_of_a_function_is_always_complete() -> None:
    """`assert_complete` passes for a function, even if no call came."""
    ScriptedLLM(lambda call: "Hello").assert_complete()


@pytest.mark.parametrize(
    "script", ["Hello", Step("Hello"), Failure(500), {"a": 1}, City(name="x"), AssistantMessage("Hello"), KeyError("k")]
)
def test_single_step_is_a_script_for_one_call(script: Any) -> None:
    """A single step is a script of one step, also if it is iterable, such as a text, a dict or a model."""
    llm = ScriptedLLM(script)
    with pytest.raises(UnconsumedStepsError, match="1 step was not used"):
        llm.assert_complete()


# --- snapshots


def test_calls_do_not_change_with_the_request() -> None:
    """Later changes of the request do not reach a call, at any depth, and a call itself is immutable."""
    request: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "metadata": {"a": [1]},
    }
    llm = ScriptedLLM(["Hello"])
    llm.respond("chat", request)
    request["messages"][0]["content"][0]["text"] = "changed"
    request["messages"].append({"role": "user", "content": "more"})
    request["tools"][0]["function"]["name"] = "changed"
    request["metadata"]["a"].append(2)
    call = llm.last_call
    assert [str(message) for message in call.messages] == ["Hi"]
    assert call.tools[0]["function"] == {"name": "look"}
    assert call.parameters == {"metadata": {"a": (1,)}}
    with pytest.raises(TypeError, match="immutable"):
        call.request["messages"][0].role = "assistant"
    with pytest.raises(TypeError):
        call.request["messages"][0]["role"] = "assistant"
    with pytest.raises(AttributeError):
        call.number = 2  # type: ignore[misc]  # that it cannot be set is the point
    assert llm.calls == (call,)


def test_calls_keep_tool_calls_and_results_as_they_were_sent() -> None:
    """Messages of a call keep tool calls, tool results and other items as they were sent, for each API."""
    llm = ScriptedLLM(["Fine", "Fine", "Fine"])
    chat_call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    chat = [{"role": "assistant", "content": None, "tool_calls": [chat_call]}, {"role": "tool", "content": "5"}]
    llm.respond("chat", {"model": "m", "messages": [{"role": "developer", "content": "Be brief."}, *chat]})
    assert llm.last_call.system == "Be brief."
    assert llm.last_call.messages[0].tool_calls[0].function["name"] == "look"
    assert (llm.last_call.messages[1].role, llm.last_call.text) == ("tool", "5")
    llm.respond(
        "responses",
        {"model": "m", "instructions": "Be kind.", "input": [{"type": "function_call_output", "output": "5"}]},
    )
    assert llm.last_call.system == "Be kind."
    assert llm.last_call.messages[0].output == "5"
    llm.respond("messages", {"model": "m", "system": [{"type": "text", "text": "Be kind."}], "messages": []})
    assert (llm.last_call.system, llm.last_call.messages, llm.last_call.text) == ("Be kind.", (), "")


RESULTS: dict[str, Any] = {
    "chat": [{"role": "tool", "tool_call_id": "a", "content": "22"}],
    "chat, parts": [{"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "22"}]}],
    "responses": [{"type": "function_call_output", "call_id": "a", "output": "22"}],
    "responses, parts": [
        {"type": "custom_tool_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "22"}]}
    ],
    "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "22"}]}],
    "messages, parts": [
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "22"}]}],
        }
    ],
}


@pytest.mark.parametrize("name", RESULTS)
def test_text_of_a_call_that_ends_in_results_is_that_of_the_results(name: str) -> None:
    """If a prompt ends in tool results, `call.text` and `str(call)` have the text of the results, in each API."""
    api: Any = name.partition(",")[0]
    field = "input" if api == "responses" else "messages"
    call = Call.of(1, api, {"model": "m", field: [{"role": "user", "content": "How warm?"}, *RESULTS[name]]})
    assert call.text == "22"
    assert "last message '22'" in str(call)


def test_text_of_a_call_joins_results_but_prefers_the_words_of_the_user() -> None:
    """`call.text` joins the tool results of one message by lines; if words of the user follow, it has these alone."""
    results = [{"type": "tool_result", "tool_use_id": each, "content": each} for each in "ab"]
    for more, text in ([], "a\nb"), ([{"type": "text", "text": "Go on."}], "Go on."):
        call = Call.of(1, "messages", {"model": "m", "messages": [{"role": "user", "content": [*results, *more]}]})
        assert call.text == text


def test_repr_of_a_step_is_short_source_code() -> None:
    """The repr of a step is the code that makes it, without defaults, and shortened to one line."""
    assert repr(Step("Hello")) == "Step('Hello')"
    assert repr(Step("x" * 500, usage=Usage(output_tokens=1))).startswith("Step('xxx")
    assert len(repr(Step("x" * 500))) < 100
    assert repr(Step(tool_calls=[ToolCall(name="look")])).startswith("Step(tool_calls=[ToolCall(")


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_call_shows_the_results_of_the_last_answer_for_each_api(api: API) -> None:
    """`call.tool_results` has the results after the last answer, with names and errors; it is empty after user text."""

    async def double(number: int) -> int:
        """Double a number."""
        return number * 2

    def script(call: Call) -> Step | str:
        if call.number == 1:
            return Step(tool_calls=[("double", {"number": 1}), ("double", {"number": "x"})])
        if call.number == 2:
            assert [result.name for result in call.tool_results] == ["double", "double"]
            assert all(result.tool_call_id for result in call.tool_results)
            assert call.tool_results[1].is_error == (api == "messages")
            return Step(tool_calls=[("double", {"number": int(str(call.tool_results[0]))})])
        return " ".join(map(str, call.tool_results))

    llm = ScriptedLLM(script)
    agent = llm.agent(api=api, tools=[double])
    async with MiniAgents():
        replies = await agent.trigger("Hi")
        assert str(replies[-1]) == "4"
        await agent.trigger(["Hi", *replies, "And now?"])
    assert llm.calls[0].tool_results == llm.last_call.tool_results == ()
