"""Scripted user: an agent that takes the user's place in a dialog and says given lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents import ChatHistory, InMemoryChatHistory, InteractionContext, Message, MiniAgent, StopDialog, UserMessage
from miniagents_testing._words import counted
from miniagents_testing.errors import UnconsumedStepsError

if TYPE_CHECKING:
    from collections.abc import Iterable


class ScriptedUser(MiniAgent[[]]):
    """Agent that says given lines in the user's place in a dialog; `create_scripted_user` makes it."""

    def __init__(self, lines: Iterable[str | Message], chat_history: ChatHistory, alias: str, description: str) -> None:
        super().__init__(self._speak, alias=alias, description=description)
        self._lines = [_line(line) for line in lines]
        self._said = 0
        self._history = chat_history
        self._heard: list[Message] = []

    @property
    def heard(self) -> tuple[Message, ...]:
        """All messages that this user received."""
        return tuple(self._heard)

    def assert_complete(self) -> None:
        """Check that the user said all lines.

        Raises:
            UnconsumedStepsError: the dialog ended before the last line.
        """
        left = self._lines[self._said :]
        if left:
            lines = "\n".join(
                f"  line {number}: {str(line)!r:.200}" for number, line in enumerate(left, self._said + 1)
            )
            many = f"{len(left)} of {counted(len(self._lines), 'line')}"
            raise UnconsumedStepsError(f"the dialog ended before {self.alias} said {many}:\n{lines}")

    async def _speak(self, ctx: InteractionContext) -> None:
        """Store the received messages, and reply the whole chat with the next line; without one, raise `StopDialog`."""
        self._heard += await self._history.logging_agent.trigger(ctx.message_promises)
        if self._said == len(self._lines):
            raise StopDialog(f"{self.alias} has said everything")
        line = self._lines[self._said]
        self._said += 1
        await self._history.aappend(line)
        ctx.reply(await self._history.aload_chat_history())


def _line(line: Any) -> Message:
    """Return a line of the user as a message; raise `TypeError` for a wrong type."""
    if isinstance(line, str):
        return UserMessage(line)
    if not isinstance(line, Message):
        raise TypeError(f"a line must be a text or a message, not {line!r:.200}")
    return line


def create_scripted_user(
    lines: Iterable[str | Message],
    *,
    chat_history: ChatHistory | None = None,
    alias: str = "SCRIPTED_USER",
    description: str = "Says what a script says.",
) -> ScriptedUser:
    """Return a user for `adialog_loop`, in place of `create_console_user_agent`.

    In each turn the user waits until all messages to it are complete, and replies the whole chat with its next line at
    the end. A turn after the last line raises `StopDialog`. Of a message that fails, the user keeps the received part
    and raises the error, like the user at the console.

    Args:
        lines: lines of the user, one for each turn; a text becomes a `UserMessage`.
        chat_history: history of the chat; by default one in memory, for this agent alone.
        alias: name of the agent in traces.
        description: description of the agent.

    Raises:
        TypeError: a line is neither a text nor a message.
    """
    history = InMemoryChatHistory() if chat_history is None else chat_history
    return ScriptedUser(lines, history, alias, description)
