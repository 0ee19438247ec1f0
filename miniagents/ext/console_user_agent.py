"""Agents for the user at the console: one prints messages and replies typed text, one asks for approvals.

The agents are independent of the kind of chat history and of the agents they talk to.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from miniagents.chat_history import ChatHistory, InMemoryChatHistory
from miniagents.errors import (
    INTERRUPTS,
    AuthenticationFailedError,
    HistoryError,
    LLMError,
    MissingExtraError,
    PromiseCancelledError,
    StopDialog,
)
from miniagents.ext._console_input import (
    ConsoleInterrupts,
    LineReader,
    drop_typed_text,
    keep_typed_text,
    make_input,
    replace_surrogates,
)
from miniagents.ext._terminal import TerminalFilter, visible, visible_line
from miniagents.messages import (
    AssistantMessage,
    ErrorMessage,
    Message,
    MessagePromise,
    PendingApproval,
    UserMessage,
)
from miniagents.miniagents import InteractionContext, MiniAgent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents.messages import Approval, MessageSequencePromise

__all__ = ["create_console_approver", "create_console_user_agent"]

_GREEN, _BLUE, _RED, _DIM, _PLAIN = "\x1b[32;1m", "\x1b[34;1m", "\x1b[31;1m", "\x1b[2m", "\x1b[0m"

_REASONS_FOR_A_CUT = {
    "length": "the answer was cut at the token limit",
    "content_filter": "the answer was stopped by a content filter",
    "refusal": "the model refused to answer",
}
_SHOWN_OF_A_CALL = 200
"""Characters that are shown of a call after an answer; an approver is shown the whole call."""
_STEPS_TO_PRINT = 20
"""Loop steps in which a message that has ended is printed, so that a question stands below the answer."""

_asking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""A lock for each loop: of several questions, each waits for the answer to the one before it."""

_KEYS = 'Enter sends, {}Ctrl-C stops an answer, Ctrl-D or "exit" leaves.'


def create_console_user_agent(
    chat_history: ChatHistory | None = None, alias: str = "USER_AGENT", **kwargs: Any
) -> MiniAgent[[]]:
    """Make an agent that represents the user at the console.

    The agent prints the messages it is sent as their tokens arrive, and the calls of tools after an answer. Then it
    asks for a line, and replies the whole chat so far.
    On a terminal, and with the extra `console` installed, several lines can be edited: Enter sends, Alt+Enter starts a
    new line. Without the extra a plain line is read. Piped input is read line by line, and printed as if typed.

    "exit", Ctrl-D and the end of piped input raise `StopDialog`. On a terminal, Ctrl-C stops the answer, and what came
    of it is stored as interrupted; with text at the prompt, it clears the text. At an empty prompt, within two seconds
    of the last one, and on a pipe, Ctrl-C raises `KeyboardInterrupt` in the caller.

    Of a message that fails, the text that arrived is printed and stored; then its error is raised. On a terminal, an
    `LLMError` is printed in one line, and the user's message is at the prompt again. Where another attempt cannot help,
    without a key or an extra or with a key that is refused, the program ends: `SystemExit` with one line for stderr. If
    the history cannot be written, the error is printed, and the messages stay in memory.

    Args:
        chat_history: history that stores the chat; by default a new one in memory, used by this agent only.
        alias: name of the agent.
        kwargs: other arguments of `MiniAgent`, such as `description`.
    """
    history = InMemoryChatHistory() if chat_history is None else chat_history
    console = _Console("USER: ")
    last_text = ""

    async def console_user(ctx: InteractionContext) -> None:
        """Print the messages, ask the user, append the text to the history, and reply the whole history.

        An error of the append is printed. A message that is sent again is not appended again.
        """
        nonlocal last_text
        with console.dialog():
            messages = history.logging_agent.trigger(ctx.message_promises)
            answered = await console.show(messages, stop=ctx.message_promises.cancel)
            text = await console.ask("" if answered else last_text)
            if answered or text != last_text:
                try:
                    await history.aappend(UserMessage(text))
                except HistoryError as error:
                    console.show_error(error)
            last_text = text
            ctx.reply(await history.aload_chat_history())

    return MiniAgent(console_user, **{"alias": alias, "description": "The person at the console.", **kwargs})


def create_console_approver(alias: str = "APPROVER", **kwargs: Any) -> MiniAgent[[]]:
    """Make an agent that asks the user at the console about each call of a tool: `tool(f, approve=...)`.

    It prints the whole call, with control characters as escapes. "y" or "yes" grants the call; "n" or "no" refuses it,
    and so does any other text, as the reason for the model. Several questions are asked one after the other. "exit",
    Ctrl-D and the end of piped input raise `StopDialog`.

    Args:
        alias: name of the agent.
        kwargs: other arguments of `MiniAgent`, such as `description`.
    """
    console = _Console("Run it? (y/n) ")

    async def console_approver(ctx: InteractionContext) -> None:
        """Ask about each `PendingApproval` among the messages, and reply the decisions; other messages are ignored."""
        async with _asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            for question in await ctx.message_promises:
                if isinstance(question, PendingApproval):
                    ctx.reply(await console.decide(question))

    return MiniAgent(console_approver, **{"alias": alias, "description": "The person at the console.", **kwargs})


class _Console:
    """Console of a program: prints messages to stdout, and asks for text on stdin.

    `sys.stdin` and `sys.stdout` are looked up at each use, because a program may replace them.

    Args:
        prompt: text before what the user types.
    """

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._editor: Any = None
        self._keys_were_shown = False

    @contextmanager
    def dialog(self) -> Iterator[None]:
        """Print once what the keys do, and catch Ctrl-C until the block raises or the run ends; skip both on a pipe."""
        if _is_interactive():
            ConsoleInterrupts.of_running_loop().listen()
            if not self._keys_were_shown:
                self._keys_were_shown = True
                new_line = "" if self._get_editor() is None else "Alt+Enter starts a line, "
                _write(_add_colour(_KEYS.format(new_line), _DIM) + "\n")
        try:
            yield
        except BaseException:
            ConsoleInterrupts.of_running_loop().release()
            raise

    async def show(self, messages: MessageSequencePromise, stop: Callable[[], object]) -> bool:
        """Print messages as they arrive; after the last one, raise the first error among them.

        A `HistoryError` is printed, and not raised; on a terminal, so is an `LLMError`.

        Args:
            messages: the messages.
            stop: stops the messages; called when the user presses Ctrl-C.

        Returns:
            False if a message failed with an `LLMError`, and the user's message may be sent again.

        Raises:
            SystemExit: a message failed in a way that another attempt cannot mend.
        """
        failure: BaseException | None = None
        interrupts = ConsoleInterrupts.of_running_loop()
        with interrupts.answer(stop):
            async for promise in messages:
                try:
                    await self._show_message(promise)
                except HistoryError as error:
                    self.show_error(error)
                except INTERRUPTS:
                    raise
                except BaseException as error:
                    failure = failure or error
            if interrupts.answer_was_stopped:
                self._write_remark("the answer was stopped")
                if isinstance(failure, PromiseCancelledError):
                    failure = None
        if isinstance(failure, (AuthenticationFailedError, MissingExtraError)):
            raise SystemExit(_describe(failure))
        if isinstance(failure, LLMError) and _is_interactive():
            self.show_error(failure)
            return False
        if failure is not None:
            raise failure
        return True

    async def _show_message(self, promise: MessagePromise) -> None:
        """Print a message with its label, token by token; raise its error after the text that arrived.

        After a complete message, print a refusal that is not in its text, and why an answer was cut short.
        """
        terminal_filter = TerminalFilter()
        labelled = not promise.is_done  # an agent is still writing: print its name at once
        if labelled:
            self._write_label(promise)
        failure: BaseException | None = None
        try:
            async for batch in promise.batches():
                if not labelled:
                    self._write_label(promise)
                    labelled = True
                _write(terminal_filter.feed("".join(batch)))
        except INTERRUPTS:
            raise  # a handler of KeyboardInterrupt decides how the line ends
        except BaseException as error:
            failure = error
        if labelled:
            _write(terminal_filter.finish() + "\n")
        if failure is not None:
            raise failure
        if not labelled:
            self._write_label(promise)
            _write("\n")
        self._write_remarks(await promise)

    def _write_label(self, promise: MessagePromise) -> None:
        """Print the role of a message in colour, on a new line."""
        role = promise.known_beforehand.get("role") or promise.message_class.model_fields["role"].default
        failed = issubclass(promise.message_class, ErrorMessage)
        name = "ERROR" if failed else visible_line(role).upper() if isinstance(role, str) and role else "ASSISTANT"
        _write("\n" + _add_colour(f"{name}: ", _RED if failed else _BLUE))

    def _write_remarks(self, message: Message) -> None:
        """Print tool calls, a refusal unless it is the text of the message, and why the answer was cut short."""
        for call in message.tool_calls if isinstance(message, AssistantMessage) else ():
            text = visible_line(str(call))
            shown = text if len(text) <= _SHOWN_OF_A_CALL else f"{text[:_SHOWN_OF_A_CALL]}..."
            _write(_add_colour(f"[{shown}]", _DIM) + "\n")
        refusal = getattr(message, "refusal", None)
        if isinstance(refusal, str) and refusal and refusal != message.content:
            _write(visible(refusal) + "\n")
        reason = getattr(message, "finish_reason", None)
        if isinstance(reason, str) and reason in _REASONS_FOR_A_CUT:
            self._write_remark(_REASONS_FOR_A_CUT[reason])

    def _write_remark(self, remark: str) -> None:
        """Print a remark on an answer, in dim brackets."""
        _write(_add_colour(f"[{remark}]", _DIM) + "\n")

    def show_error(self, error: Exception) -> None:
        """Print an error after which the chat goes on."""
        _write("\n" + _add_colour("ERROR: ", _RED) + _describe(error) + "\n")

    async def decide(self, question: PendingApproval) -> Approval:
        """Print a call, ask if it may run, and return the decision; raise what `ask` raises."""
        for _ in range(_STEPS_TO_PRINT):
            await asyncio.sleep(0)
        _write("\n" + _add_colour("APPROVAL: ", _RED) + visible_line(str(question.call)))
        text = (await self.ask()).strip()
        if text.lower() in ("y", "yes"):
            return question.grant()
        return question.refuse(None if text.lower() in ("n", "no") else text)

    async def ask(self, default: str = "") -> str:
        """Ask until the user enters some text, and return the text.

        Args:
            default: text that is at the prompt already.

        Raises:
            StopDialog: the user entered "exit" or pressed Ctrl-D, or piped input has ended.
            KeyboardInterrupt: the user pressed Ctrl-C at an empty prompt.
        """
        text = ""
        while not text.strip():
            try:
                text = await self._read_text(default)
            except EOFError:
                _write("\n")
                raise StopDialog from None
        if text.strip().lower() == "exit":
            raise StopDialog
        return replace_surrogates(text)

    async def _read_text(self, default: str) -> str:
        """Prompt for one text: with the editor on a terminal, or else by reading a line.

        Print a line that was not typed, such as one of a pipe, after its prompt. Without the editor, an empty line
        stands for the default text.
        """
        _write("\n")
        if _is_interactive():
            editor = self._get_editor()
            if editor is None:
                if default:
                    self._write_remark("Enter sends your message again")
                return await self._read_typed_line() or default
            with ConsoleInterrupts.of_running_loop().prompt(partial(_clear_editor, editor)):
                text = await editor.prompt_async(default=default, handle_sigint=False)  # the run handles signals
            assert isinstance(text, str)
            return text
        _write(_add_colour(self._prompt, _GREEN))
        stdin = sys.stdin
        line = await LineReader.of(stdin).readline()
        if stdin is None or not stdin.isatty():
            _write(visible(line) + "\n")
        return line

    async def _read_typed_line(self) -> str:
        """Prompt for a line on a terminal, without the editor; Ctrl-C clears what was typed of it."""
        descriptor = sys.stdin.fileno()

        def clear() -> bool:
            if not drop_typed_text(descriptor):
                return False
            _write("\n\n" + prompt)
            return True

        prompt = _add_colour(self._prompt, _GREEN)
        with ConsoleInterrupts.of_running_loop().prompt(clear), keep_typed_text(descriptor):
            _write(prompt)
            return await LineReader.of(sys.stdin).readline()

    def _get_editor(self) -> Any:
        """Return the editor, a new one at the first call; None without the extra."""
        if self._editor is None:
            self._editor = _create_editor(self._prompt)
        return self._editor


def _clear_editor(editor: Any) -> bool | None:
    """Clear the text at the prompt, or let the prompt raise `KeyboardInterrupt` if there is none; return True.

    Return None if the text was sent just now.
    """
    if editor.app.is_done:
        return None
    if editor.default_buffer.text:
        editor.default_buffer.text = ""
    else:
        editor.app.exit(exception=KeyboardInterrupt)  # not a cancellation, which would print the prompt twice
    return True


def _create_editor(prompt: str) -> Any:
    """Return a prompt-toolkit session where Enter sends and Alt+Enter starts a new line; None without the extra."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.formatted_text import ANSI
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.output import create_output
    except ImportError:
        return None
    keys = KeyBindings()

    @keys.add("enter")
    @keys.add("c-j")  # a program that drives a pseudo-terminal writes "\n" where a user presses Enter
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")  # on Windows; elsewhere Ctrl-C is a signal
    def clear_or_end(event: KeyPressEvent) -> None:
        _clear_editor(editor)

    output = create_output(sys.stdout)
    if hasattr(output, "enable_cpr"):
        output.enable_cpr = False  # only menus need it, and a terminal that does not answer causes a warning
    editor = PromptSession[str](
        ANSI(_add_colour(prompt, _GREEN)),
        multiline=True,
        key_bindings=keys,
        input=make_input(sys.stdin),
        output=output,
    )
    return editor


def _describe(error: Exception) -> str:
    """Return class and text of an error as one line."""
    return f"{type(error).__name__}: {visible_line(' '.join(str(error).split()))}"


def _is_interactive() -> bool:
    """Return True if stdin and stdout are terminals; the stdin of IDLE says that it is one, and has no descriptor."""
    try:
        return os.isatty(sys.stdin.fileno()) and _stdout_is_terminal()
    except (AttributeError, OSError, ValueError):  # there is no stdin, or it is an object in memory
        return False


def _stdout_is_terminal() -> bool:
    """Return True if stdout is open and a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def _add_colour(text: str, colour: str) -> str:
    """Return text in a colour, if stdout can show colours and `NO_COLOR` is not set (https://no-color.org)."""
    if _stdout_is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"{colour}{text}{_PLAIN}"
    return text


def _write(text: str) -> None:
    """Print text at once; write a character that the encoding of stdout lacks as an escape.

    Without a stdout, do nothing.
    """
    stdout = sys.stdout
    if stdout is None or not text:
        return
    try:
        stdout.write(text)
    except UnicodeEncodeError:
        encoding = stdout.encoding or "ascii"
        stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stdout.flush()
