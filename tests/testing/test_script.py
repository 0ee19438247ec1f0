"""The language of scripts: what may be a step, how texts are cut, when tokens come, and what is refused at once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from miniagents import AssistantMessage, Frozen, ToolCall, Usage
from miniagents_testing import Failure, ScriptedLLM, Step
from miniagents_testing._script import as_answer
from miniagents_testing.errors import ScriptError, UnconsumedStepsError, UnexpectedCallError

if TYPE_CHECKING:
    from miniagents_testing._script import Call

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
def test_a_text_is_cut_as_the_step_says(cut: Any, pieces: tuple[str, ...]) -> None:
    """By word, by character, by size, or by a function."""
    text = " Hello  there,\nyou"
    expected = (" Hello", "  there,", "\nyou") if cut == "word" else pieces
    assert Step(text, cut=cut).deltas.text == expected


@given(st.text(), st.sampled_from(["word", "character"]) | st.integers(1, 5))
def test_no_cut_loses_anything(text: str, cut: Any) -> None:
    """The deltas of whatever is generated join to what was scripted."""
    deltas = Step(text, reasoning=text, refusal=text, tool_calls=[("look", text)], cut=cut).deltas
    for pieces in (deltas.text, deltas.reasoning, deltas.refusal, deltas.tool_calls[0].arguments):
        assert "".join(pieces) == text
        assert all(pieces)


def test_given_deltas_are_kept() -> None:
    """Empty ones, too."""
    step = Step(["Hel", "", "lo"], reasoning=["H", "m"], tool_calls=[("look", ['{"a', '":1}'])])
    assert step.deltas.text == ("Hel", "", "lo")
    assert step.deltas.reasoning == ("H", "m")
    assert step.deltas.tool_calls[0].arguments == ('{"a', '":1}')
    assert step.deltas.tokens == 7


class City(BaseModel):
    """With a name that is another one in JSON."""

    the_name: str = Field(alias="name")


class Town(Frozen):
    """A model of the framework's own kind."""

    name: str


@pytest.mark.parametrize(
    ("structured", "text"),
    [
        (City(name="Köln"), '{"name":"Köln"}'),
        (Town(name="Köln"), '{"name":"Köln"}'),
        ({"name": "Köln", "sights": [{"name": "Dom"}]}, '{"name": "Köln", "sights": [{"name": "Dom"}]}'),
    ],
)
def test_structured_output_is_its_json(structured: Any, text: str) -> None:
    """By the names that a schema has, and with nothing of ours in it."""
    assert "".join(Step(structured).deltas.text) == text
    assert as_answer(structured, "here") == Step(structured)


# --- times


def test_tokens_come_when_the_step_says() -> None:
    """The first after one wait, the others after the gaps, which are gone through again and again."""
    assert list(itertools.islice(Step("a", first_wait=3, gap=(1, 2)).waits(1), 6)) == [3, 1, 2, 1, 2, 1]
    assert list(itertools.islice(Step("a", gap=0.5).waits(1), 3)) == [0, 0.5, 0.5]


@given(st.floats(0, 1), st.integers(), st.integers(1, 9))
def test_jitter_is_bounded_and_the_same_each_time(jitter: float, seed: int, number: int) -> None:
    """It depends on the seed and on the number of the call, and on nothing else."""
    step = Step("a", first_wait=2.0, gap=2.0, jitter=jitter, seed=seed)
    waits = list(itertools.islice(step.waits(number), 20))
    assert waits == list(itertools.islice(step.waits(number), 20))
    assert all(2.0 * (1 - jitter) <= wait <= 2.0 * (1 + jitter) for wait in waits)


def test_calls_of_one_step_are_uneven_in_their_own_ways() -> None:
    """A step that answers several calls is not the same wave each time."""
    step = Step("a", gap=1.0, jitter=0.5)
    assert list(itertools.islice(step.waits(1), 5)) != list(itertools.islice(step.waits(2), 5))


# --- what is refused


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Step("a b", after=3, then="reset"), "after=3, but the step has 2 tokens"),
        (lambda: Step("a b", after=1), "after=1 needs a `then`"),
        (lambda: Step("a b", then="explode"), "not 'explode'"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Step("a b", then=-1.0), "then must be a number of seconds"),
        (lambda: Step("a", gap=-1), "gap must be a number of seconds, not -1"),
        (lambda: Step("a", gap=[1, float("nan")]), "gap must be a number of seconds, not nan"),
        (lambda: Step("a", first_wait=float("inf")), "first_wait must be a number of seconds"),
        (lambda: Step("a", jitter=2), "jitter is a fraction between 0 and 1"),
        (lambda: Step("a", cut=0), "a number of characters"),
        (lambda: Step("ab", cut=lambda text: [text[0]]), "must cut the text and leave it as it is"),
        (lambda: Failure(200), "between 400 and 599, not 200"),
    ],
)
def test_values_that_cannot_work_are_refused_at_once(make: Any, why: str) -> None:
    """Where they stand, with what is wrong."""
    with pytest.raises(ValueError, match=why):
        make()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ScriptedLLM(["fine", 5]), "step 2 must be a text, a Step, .* not 5"),  # type: ignore[list-item]
        (lambda: ScriptedLLM(None), "step 1 must be"),  # type: ignore[arg-type]
        (lambda: Step([1]), "the deltas of a text must be texts"),  # type: ignore[list-item]
        (lambda: Step(tool_calls=["look"]), r"a tool call is \(name, arguments\)"),  # type: ignore[list-item]
    ],
)
def test_types_that_cannot_be_are_refused_at_once(make: Any, why: str) -> None:
    """Not at the call that would have got them."""
    with pytest.raises(TypeError, match=why):
        make()


def test_a_function_that_answers_nothing_usable_says_so() -> None:
    """The message names the call."""
    llm = ScriptedLLM(lambda call: None)
    with pytest.raises(TypeError, match=r"what the script answers to call 1 \(.*\) must be"):
        llm.respond("chat", REQUEST)


def test_what_the_user_changes_later_changes_nothing() -> None:
    """Neither in a step nor in a failure."""
    pieces, headers, gaps = ["a"], {"retry-after": "1"}, [1.0]
    step, failure = Step(pieces, gap=gaps), Failure(429, headers=headers)
    pieces.append("b")
    headers["retry-after"] = "2"
    gaps.append(2.0)
    assert step.deltas.text == ("a",)
    assert step.gap == (1.0,)
    assert failure.headers == {"retry-after": "1"}


# --- what is left over, and what was too much


def test_an_exhausted_script_names_the_call_and_the_steps() -> None:
    """It never begins again."""
    llm = ScriptedLLM(["Hello", Step("Bye", finish_reason="length", gap=0.5)])
    for text in ("Hi", "Ho", "Hu"):
        request = {"model": "m", "messages": [{"role": "user", "content": text}]}
        if text != "Hu":
            llm.respond("chat", request)
            continue
        with pytest.raises(UnexpectedCallError) as caught:
            llm.respond("chat", request)
    assert str(caught.value) == (
        "call 3 (api 'chat', model 'm', last message 'Hu') was not expected: all 2 steps of the script are used\n"
        "  step 1: Step('Hello') was for call 1 (api 'chat', model 'm', last message 'Hi')\n"
        "  step 2: Step('Bye', finish_reason='length', gap=0.5) was for "
        "call 2 (api 'chat', model 'm', last message 'Ho')"
    )


def test_steps_left_over_are_named() -> None:
    """And the calls that there were."""
    tools: Any = [("get_weather", {"city": "Paris"})]
    llm = ScriptedLLM(["Hello", Step(tool_calls=tools), Failure(429), ZeroDivisionError("zero"), {"a": 1}])
    llm.respond("responses", {"model": "m", "input": "Hi"})
    with pytest.raises(UnconsumedStepsError) as caught:
        llm.assert_complete()
    assert str(caught.value) == (
        "4 of 5 steps were not used, because there was 1 call:\n"
        "  step 2: Step(tool_calls=[('get_weather', {'city': 'Paris'})])\n"
        "  step 3: Failure(429)\n"
        "  step 4: ZeroDivisionError('zero')\n"
        "  step 5: Step({'a': 1})\n"
        "  call 1 (api 'responses', model 'm', last message 'Hi')"
    )


def test_long_scripts_are_not_told_in_full() -> None:
    """A message has what one looks for first: the next steps that are left, the last ones that were used."""
    llm = ScriptedLLM([f"answer {number}" for number in range(1, 26)])
    llm.respond("chat", REQUEST)
    with pytest.raises(UnconsumedStepsError) as left:
        llm.assert_complete()
    lines = str(left.value).splitlines()
    assert lines[1] == "  step 2: Step('answer 2')"
    assert lines[-2:] == ["  ... and 14 more", "  call 1 (api 'chat', model 'm', last message 'Hi')"]
    with pytest.raises(UnexpectedCallError) as caught:
        for _ in range(25):
            llm.respond("chat", REQUEST)
    lines = str(caught.value).splitlines()
    assert lines[1:3] == ["  ... and 15 before", f"  step 16: Step('answer 16') was for {llm.calls[15]}"]
    assert len(lines) == 12


def test_a_script_without_calls_has_no_last_call() -> None:
    """An error of its own, not an index that is out of range."""
    llm = ScriptedLLM(["Hello"])
    assert llm.calls == ()
    with pytest.raises(ScriptError, match="was not called yet"):
        _ = llm.last_call
    with pytest.raises(UnconsumedStepsError, match="1 of 1 steps were not used, because there were 0 calls"):
        llm.assert_complete()


def test_a_function_too_can_find_a_call_unexpected() -> None:
    """The error comes back at the end of the test, whoever has caught it before."""

    def answer(call: Call) -> str:
        raise UnexpectedCallError("nobody should ask that")

    llm = ScriptedLLM(answer)
    for ask in (lambda: llm.respond("chat", REQUEST), llm.assert_complete):
        with pytest.raises(UnexpectedCallError, match="nobody should ask that"):
            ask()


def test_a_function_is_always_complete() -> None:
    """It answers any number of calls, none as well."""
    ScriptedLLM(lambda call: "Hello").assert_complete()


@pytest.mark.parametrize(
    "script", ["Hello", Step("Hello"), Failure(500), {"a": 1}, City(name="x"), AssistantMessage("Hello"), KeyError("k")]
)
def test_a_step_by_itself_is_a_script_for_one_call(script: Any) -> None:
    """Also where it could be gone through, as a text, a dict and a model could."""
    llm = ScriptedLLM(script)
    with pytest.raises(UnconsumedStepsError, match="1 of 1 steps"):
        llm.assert_complete()


# --- snapshots


def test_calls_are_snapshots() -> None:
    """Nothing that happens to the request later reaches them, at any depth; nor can they be changed themselves."""
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


def test_calls_understand_what_apis_put_among_the_messages() -> None:
    """Tool calls, their results and reasoning items stay as they were sent."""
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


def test_a_step_reads_as_it_was_written() -> None:
    """Without what was left to its defaults, and not longer than a line."""
    assert repr(Step("Hello")) == "Step('Hello')"
    assert repr(Step("x" * 500, usage=Usage(output_tokens=1))).startswith("Step('xxx")
    assert len(repr(Step("x" * 500))) < 100
    assert repr(Step(tool_calls=[ToolCall(name="look")])).startswith("Step(tool_calls=[ToolCall(")
