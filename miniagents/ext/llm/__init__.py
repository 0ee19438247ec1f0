"""Agents that answer with a large language model."""

from typing import Final

__all__ = ["ANTHROPIC_ALIAS", "OPENAI_ALIAS"]

OPENAI_ALIAS: Final = "OPENAI_AGENT"
"""Alias of an agent of OpenAI's API that is given none."""
ANTHROPIC_ALIAS: Final = "ANTHROPIC_AGENT"
"""Alias of an agent of Anthropic's API that is given none."""
