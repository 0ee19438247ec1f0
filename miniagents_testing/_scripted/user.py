"""A scripted user: the person of a dialog, whose lines are known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents import ChatHistory, InMemoryChatHistory, InteractionContext, Message, MiniAgent, StopDialog, UserMessage
from miniagents_testing.errors import UnconsumedStepsError

if TYPE_CHECKING:
    from collections.abc import Iterable


class ScriptedUser(MiniAgent[[]]):
    """What `create_scripted_user` makes."""

    def __init__(self, lines: Iterable[str | Message], chat_history: ChatHistory, alias: str, description: str) -> None:
        super().__init__(self._speak, alias=alias, description=description)
        self._lines = [_line(line) for line in lines]
        self._said = 0
        self._history = chat_history
        self._heard: list[Message] = []

    @property
    def heard(self) -> tuple[Message, ...]:
        """All that this user was told, message by message."""
        return tuple(self._heard)

    def assert_complete(self) -> None:
        """Raise `UnconsumedStepsError` if the dialog ended before everything was said."""
        left = self._lines[self._said :]
        if left:
            lines = "\n".join(
                f"  line {number}: {str(line)!r:.200}" for number, line in enumerate(left, self._said + 1)
            )
            raise UnconsumedStepsError(
                f"{self.alias} did not come to say {len(left)} of {len(self._lines)} lines:\n{lines}"
            )

    async def _speak(self, ctx: InteractionContext) -> None:
        self._heard += await self._history.logging_agent.trigger(ctx.message_promises)
        if self._said == len(self._lines):
            raise StopDialog(f"{self.alias} has said everything")
        line = self._lines[self._said]
        self._said += 1
        await self._history.aappend(line)
        ctx.reply(await self._history.aload_chat_history())


def _line(line: Any) -> Message:
    if isinstance(line, str):
        return UserMessage(line)
    if not isinstance(line, Message):
        raise TypeError(f"a line is a text or a message, not {line!r:.200}")
    return line


def create_scripted_user(
    lines: Iterable[str | Message],
    *,
    chat_history: ChatHistory | None = None,
    alias: str = "SCRIPTED_USER",
    description: str = "Says what a script says.",
) -> ScriptedUser:
    """A user for `adialog_loop`, in place of `create_console_user_agent`.

    Each turn it listens until all that it is told is complete, and replies the whole chat, its next line at the end.
    When it is told something after its last line, it raises `StopDialog`. A message that fails is kept as far as it
    came, and its error raised, as the user at the console does.

    Args:
        lines: what it says, one a turn; a text is a `UserMessage`.
        chat_history: where the chat is kept; by default, in memory, for this agent alone.
        alias: how it is named in traces.
        description: what it does.

    Raises:
        TypeError: a line is neither a text nor a message.
    """
    history = InMemoryChatHistory() if chat_history is None else chat_history
    return ScriptedUser(lines, history, alias, description)
