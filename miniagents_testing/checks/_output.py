"""Checks of an agent on a model whose answer is an output of a type; a transport of the checks sends the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel

from miniagents import MiniAgents, OutputInvalidError
from miniagents_testing._script import Step
from miniagents_testing._scripted import ScriptedLLM
from miniagents_testing.checks._case import DEFAULT_TIMEOUT, Case

if TYPE_CHECKING:
    import httpx2

    from miniagents import MiniAgent
    from miniagents_testing._script import API

Mode = Literal["schema", "tool"]


class MakeOutputAgent(Protocol):
    """Function that makes an agent with this output, on a client that uses this transport, and without retries."""

    def __call__(self, transport: httpx2.AsyncBaseTransport, *, output: Any, output_mode: Mode) -> MiniAgent[Any]:
        """Return the agent."""


class _Review(BaseModel):
    """A review of a text."""

    title: str
    score: int
    notes: list[str] = []


_VALID: tuple[tuple[Any, Any], ...] = (
    (_Review, _Review(title="é 😀", score=3, notes=["a", "b"])),
    (list[_Review], [_Review(title="t", score=1)]),
    (int, 7),
    (_Review | None, None),
)


async def check_output(make_agent: MakeOutputAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """Check that a valid output is `parsed`, and that any other end of the answer is an `OutputInvalidError`.

    ```python
    def make_agent(transport, output, output_mode):
        client = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None, output=output, output_mode=output_mode)

    await check_output(make_agent)
    ```

    Args:
        make_agent: makes the agent on a given transport, with the given output; called often.
        api: API of the agent: "chat" (OpenAI's chat completions), "responses" (OpenAI's) or "messages" (Anthropic's).
        timeout: seconds that one answer may take.

    Raises:
        CheckFailedError: an output has another value, or an answer that is no output passes as one.
    """
    case = Case(f"await check_output(make_agent, api={api!r})")
    modes: tuple[Mode, ...] = ("schema", "tool")
    for mode in modes:
        for type_, value in _VALID:
            llm = ScriptedLLM([Step.of_output(value, cut=3)])
            came: Any = None
            async with case.no_error(f"a valid {type_} (output_mode={mode!r})", timeout=timeout), MiniAgents():
                agent = make_agent(llm.transport(), output=type_, output_mode=mode)
                came = await agent.trigger("Hello").last
            case.equal(came.parsed, value, f"an output has another value (output_mode={mode!r})")
            case.true(llm.last_call.output_schema is not None, "the request has no schema", expected="one", came="none")
        for answer, text in (
            (Step("No JSON"), "No JSON"),
            (Step({"title": "only"}), '{"title": "only"}'),
            (Step('{"title": "cu', finish_reason="length"), '{"title": "cu'),
            (Step("", refusal="I will not."), ""),
        ):
            await _check_invalid(case, make_agent, mode, answer, text, timeout)


async def _check_invalid(
    case: Case, make_agent: MakeOutputAgent, mode: Mode, answer: Step, text: str, timeout: float
) -> None:
    """Check that an answer is an `OutputInvalidError` that has the received text."""
    llm = ScriptedLLM([answer])
    error: OutputInvalidError | None = None
    message = None
    async with case.no_error(f"an answer that is no output ({answer!r})", timeout=timeout), MiniAgents():
        try:
            message = await make_agent(llm.transport(), output=_Review, output_mode=mode).trigger("Hello").last
        except OutputInvalidError as raised:
            error = raised
    if error is None:
        case.fail(f"{answer!r} passes as an output", expected="an OutputInvalidError", came=repr(message))
    case.equal(
        str(error.partial.content or ""), text, f"the error of {answer!r} has another text than the received one"
    )
