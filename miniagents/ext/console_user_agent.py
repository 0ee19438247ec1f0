"""The person at the console as an agent: shows what the others say while they say it, and replies what is typed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from miniagents.chat_history import ChatHistory, InMemoryChatHistory
from miniagents.errors import HistoryError, StopDialog
from miniagents.ext._console_input import LineReader, without_surrogates
from miniagents.ext._terminal import TerminalFilter, visible, visible_line
from miniagents.messages import ErrorMessage, Message, MessagePromise, UserMessage
from miniagents.miniagents import InteractionContext, MiniAgent

if TYPE_CHECKING:
    from miniagents.messages import MessageSequencePromise

__all__ = ["create_console_user_agent"]

_GREEN, _BLUE, _RED, _DIM, _PLAIN = "\x1b[32;1m", "\x1b[34;1m", "\x1b[31;1m", "\x1b[2m", "\x1b[0m"

_CUT_SHORT = {
    "length": "the answer was cut at the token limit",
    "content_filter": "the answer was stopped by a content filter",
    "refusal": "the model refused to answer",
}


def create_console_user_agent(
    chat_history: ChatHistory | None = None, alias: str = "USER_AGENT", **kwargs: Any
) -> MiniAgent[[]]:
    """Make the agent that stands for the person at the console.

    It prints the messages it is sent as their tokens arrive, asks for a line, and replies the whole chat so far. On a
    terminal, and with the extra `console` installed, several lines can be edited: Enter sends, Alt+Enter starts a new
    line. Without the extra a plain line is read. Piped input is read line by line, and shown as if it had been typed.

    "exit", Ctrl-D and the end of piped input raise `StopDialog`; Ctrl-C raises `KeyboardInterrupt` in the caller. A
    message that fails is shown and stored as far as it came, and its error is raised then. A history that cannot be
    written is reported on the console; its messages stay in memory.

    Args:
        chat_history: where the chat is kept; by default, in memory, for this agent alone.
        alias: name of the agent.
        kwargs: other arguments of `MiniAgent`, such as `description`.
    """
    history = InMemoryChatHistory() if chat_history is None else chat_history
    console = _Console()

    async def console_user(ctx: InteractionContext) -> None:
        await console.show(history.logging_agent.trigger(ctx.message_promises))
        text = await console.ask()
        try:
            await history.aappend(UserMessage(text))
        except HistoryError as error:
            console.complain(error)
        ctx.reply(await history.aload_chat_history())

    return MiniAgent(console_user, **{"alias": alias, "description": "The person at the console.", **kwargs})


class _Console:
    """Whatever stdin and stdout are when they are needed."""

    def __init__(self) -> None:
        self._session: Any = None

    # --- showing

    async def show(self, messages: MessageSequencePromise) -> None:
        """Print messages as they come; the first error is raised when all that was said has been said."""
        failure: Exception | None = None
        async for promise in messages:
            try:
                await self._show(promise)
            except HistoryError as error:
                self.complain(error)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def _show(self, promise: MessagePromise) -> None:
        terminal_filter = TerminalFilter()
        labelled = not promise.is_done  # then somebody is at work on it, and a person should see who
        if labelled:
            self._label(promise)
        failure: Exception | None = None
        try:
            async for batch in promise.batches():
                if not labelled:
                    self._label(promise)
                    labelled = True
                _write(terminal_filter.feed("".join(batch)))
        except Exception as error:  # not on Ctrl-C: then the line belongs to whoever catches that
            failure = error
        if labelled:
            _write(terminal_filter.finish() + "\n")
        if failure is not None:
            raise failure
        if not labelled:
            self._label(promise)
            _write("\n")
        self._remarks(await promise)

    def _label(self, promise: MessagePromise) -> None:
        role = promise.known_beforehand.get("role") or promise.message_class.model_fields["role"].default
        failed = issubclass(promise.message_class, ErrorMessage)
        name = "ERROR" if failed else visible_line(role).upper() if isinstance(role, str) and role else "ASSISTANT"
        _write("\n" + _coloured(f"{name}: ", _RED if failed else _BLUE))

    def _remarks(self, message: Message) -> None:
        """What a person should know about the message and cannot see in its text."""
        refusal = getattr(message, "refusal", None)
        if isinstance(refusal, str) and refusal and refusal != message.content:
            _write(visible(refusal) + "\n")
        reason = getattr(message, "finish_reason", None)
        if isinstance(reason, str) and reason in _CUT_SHORT:
            _write(_coloured(f"[{_CUT_SHORT[reason]}]", _DIM) + "\n")

    def complain(self, error: Exception) -> None:
        """Show an error that does not end the chat."""
        _write("\n" + _coloured("ERROR: ", _RED) + f"{type(error).__name__}: {visible(str(error))}\n")

    # --- asking

    async def ask(self) -> str:
        """What the person says.

        Raises:
            StopDialog: "exit", Ctrl-D, or the end of piped input.
            KeyboardInterrupt: Ctrl-C while a line is edited.
        """
        text = ""
        while not text.strip():
            try:
                text = await self._ask_once()
            except EOFError:
                _write("\n")
                raise StopDialog from None
        if text.strip().lower() == "exit":
            raise StopDialog
        return without_surrogates(text)

    async def _ask_once(self) -> str:
        stdin = sys.stdin
        typed = stdin is not None and stdin.isatty()
        _write("\n")
        if typed and _on_terminal():
            if self._session is None:
                self._session = _editing_session()
            if self._session is not None:
                text = await self._session.prompt_async(handle_sigint=False)  # signals are the run context's
                assert isinstance(text, str)
                return text
        _write(_coloured("USER: ", _GREEN))
        line = await LineReader.of(stdin).readline()
        if not typed:
            _write(visible(line) + "\n")
        return line


def _editing_session() -> Any:
    """A session of prompt-toolkit where Enter sends and Alt+Enter starts a new line; None without the extra."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.formatted_text import ANSI
        from prompt_toolkit.input import create_input
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.output import create_output
    except ImportError:
        return None
    keys = KeyBindings()

    @keys.add("enter")
    @keys.add("c-j")  # what a terminal program that writes "\n" into a pseudo-terminal presses
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    output = create_output(sys.stdout)
    if hasattr(output, "enable_cpr"):
        output.enable_cpr = False  # needed for menus only, and a terminal that does not answer costs a warning
    return PromptSession[str](
        ANSI(_coloured("USER: ", _GREEN)),
        multiline=True,
        key_bindings=keys,
        input=create_input(sys.stdin),
        output=output,
    )


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _coloured(text: str, colour: str) -> str:
    """With colour on a terminal that can show it and whose owner did not ask for none (https://no-color.org)."""
    if _on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"{colour}{text}{_PLAIN}"
    return text


def _write(text: str) -> None:
    """Print now, in whatever encoding; what it cannot hold becomes an escape."""
    stdout = sys.stdout
    if stdout is None or not text:
        return
    try:
        stdout.write(text)
    except UnicodeEncodeError:
        encoding = stdout.encoding or "ascii"
        stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stdout.flush()
