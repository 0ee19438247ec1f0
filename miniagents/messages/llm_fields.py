"""The parts of a model's answer that are neither its text nor a plain word: token counts and tool calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.promising.frozen import Frozen

__all__ = ["ToolCall", "Usage"]


class Usage(Frozen):
    """How many tokens a request took, as the provider counts them.

    What else the provider tells is kept as extra fields. `cached_tokens` are a part of `input_tokens`,
    `reasoning_tokens` of `output_tokens`; None is what the provider did not say.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None

    # Type checkers derive a constructor from the fields of each model, which would refuse the extra ones.
    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


class ToolCall(Frozen):
    """A tool that the model wants called. What else the provider tells (its type, say) is kept as extra fields."""

    id: str | None = None
    name: str | None = None
    arguments: str = ""
    """The arguments as the model wrote them: usually JSON, which nobody has checked."""

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...
