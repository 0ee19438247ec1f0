"""`recorded`, a decorator by which calls of a plain function become interactions of the open cassette.

A call is a request with the method `CALL`, the address `call:<module>.<name>` and its arguments as JSON. Its response
is the result as one line of JSON; of a generator, a line for each item, with its time. An error is the end of the
response.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import json
import time
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from miniagents_testing.cassette._current import current_session, passing
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest
from miniagents_testing.errors import RecordedCallError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator

    from miniagents_testing.cassette._recording import Slot

P = ParamSpec("P")
R = TypeVar("R")

_RECEIVERS = ("self", "cls")
"""First parameters of methods, which are no part of the request."""
_NO_MORE = object()


def recorded(function: Callable[P, R]) -> Callable[P, R]:
    """Make calls of a function a part of the open cassette: they are recorded, and later played without the function.

    ```python
    @recorded
    async def search(query: str) -> list[Hit]: ...
    ```

    Without an open cassette, the function is called as ever. While it runs for a recording, requests that it sends
    itself are not recorded, because a replay does not run it.

    Args:
        function: a sync or async function, or a generator function of either kind. Its arguments must be values that
            pydantic turns into JSON; `self` and `cls` of methods are left out. The annotation of what it returns or
            yields is the type of a played result. Without one, results must be plain JSON values.

    Returns:
        A function with the same signature, which raises the errors of `function`. In a session it also raises
        `CassetteMissError` if the session only plays and has no such call, `RecordedCallError` if the recorded call
        raised an exception that is not builtin, and `TypeError` if an argument or a result cannot be recorded.

    Raises:
        TypeError: the argument is no function.
    """
    if not inspect.isroutine(function):
        raise TypeError(f"recorded() needs a function, not {function!r:.100}")
    calls = _Calls(function)
    if inspect.isasyncgenfunction(function):
        return wraps(function)(calls.make_async(function))
    if inspect.iscoroutinefunction(function):

        async def only_result(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            yield await function(*args, **kwargs)

        results = calls.make_async(only_result)

        @wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            """Return the played result, or that of the function."""
            [result] = [each async for each in results(*args, **kwargs)]
            return result

        return call_async  # type: ignore[return-value]  # R is a coroutine here
    if inspect.isgeneratorfunction(function):
        return wraps(function)(calls.make_sync(function))

    def one_result(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield function(*args, **kwargs)

    items = calls.make_sync(one_result)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        """Return the played result, or that of the function."""
        [result] = items(*args, **kwargs)
        return result

    return call


class _Calls:
    """Calls of one function as requests and responses of a session."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._yields = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self._name = f"{function.__module__}.{function.__qualname__}"

    def make_async(self, source: Callable[..., Any]) -> Callable[..., Any]:
        """Return an async generator function that yields played items, or those of `source`, which it records.

        An error, or closing before the end, is recorded as the end.
        """

        async def items(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            answer = self._answer(args, kwargs, asyncio.get_running_loop().time)
            if isinstance(answer, Playback):
                await answer.abegin()
                try:
                    async for line in answer.aread():
                        yield self._read(line)
                finally:
                    answer.close()
                return
            live = source(*args, **kwargs)
            try:
                while True:
                    with _recording_errors(answer):
                        item = await anext(live, _NO_MORE)
                    if item is _NO_MORE:
                        break
                    self._record(item, answer)
                    yield item
                _end(answer, "eof")
            finally:
                _end(answer, "closed")
                await live.aclose()

        return items

    def make_sync(self, source: Callable[..., Any]) -> Callable[..., Any]:
        """Return a generator function that yields played items, or those of `source`, which it records.

        An error, or closing before the end, is recorded as the end.
        """

        def items(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
            answer = self._answer(args, kwargs, time.monotonic)
            if isinstance(answer, Playback):
                answer.begin()
                try:
                    for line in answer.read():
                        yield self._read(line)
                finally:
                    answer.close()
                return
            live = source(*args, **kwargs)
            try:
                while True:
                    with _recording_errors(answer):
                        item = next(live, _NO_MORE)
                    if item is _NO_MORE:
                        break
                    self._record(item, answer)
                    yield item
                _end(answer, "eof")
            finally:
                _end(answer, "closed")
                live.close()

        return items

    def _answer(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], clock: Callable[[], float]
    ) -> Playback | Slot | None:
        """Return the playback of a call, or the slot to record it in, or None if no session is open."""
        session = current_session()
        if session is None:
            return None
        request = LiveRequest("CALL", f"call:{self._name}", self._request_body(args, kwargs), [])
        answer = session.answer(request, Exceptions(), clock, clock())
        if answer is not None and not isinstance(answer, Playback):
            answer.headers_arrived(200, "OK", [("content-type", "application/json")])
        return answer

    def _request_body(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the arguments of a call as JSON, each by its name, defaults included, but without `self` or `cls`.

        They stand under a key of their own, because matching ignores some names at the top of a body.

        Raises:
            TypeError: the function cannot be called like this, or an argument cannot be turned into JSON.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        fields = [
            json.dumps(name).encode() + b":" + self._to_json(value, f"argument {name!r}")
            for number, (name, value) in enumerate(bound.arguments.items())
            if number or name not in _RECEIVERS
        ]
        return b'{"arguments":{' + b",".join(fields) + b"}}"

    def _record(self, item: Any, slot: Slot | None) -> None:
        """Record a result or an item as a line of JSON; do nothing without a slot, and drop the slot after an error.

        Raises:
            TypeError: a replay could not return this value.
        """
        if slot is None:
            return
        try:
            line = self._to_json(item, "what it returns")
            played = self._read(line)
            if self._result_type is None and played != item:
                raise TypeError(
                    f"@recorded: {self._name} returns {item!r:.100}, but a replay would return {played!r:.100}. "
                    "Annotate the type of what it returns"
                )
        except BaseException:
            slot.dropped = True
            raise
        slot.chunk_arrived(line + b"\n")

    def _read(self, line: bytes) -> Any:
        """Return the value of a recorded line, of the annotated type.

        Raises:
            TypeError: the value is not of that type.
        """
        if self._result_type is None:
            return from_json(line)
        try:
            return self._result_type.validate_json(line)
        except ValueError as error:
            raise TypeError(
                f"@recorded: {self._name} does not return the type that its annotation says; correct one of them, or "
                f"record the call again: {error}"
            ) from error

    def _to_json(self, value: Any, what: str) -> bytes:
        """Return a value as JSON on one line; `what` names the value in the error.

        Raises:
            TypeError: pydantic cannot turn the value into JSON.
        """
        try:
            return to_json(value)
        except (PydanticSerializationError, ValueError) as error:
            raise TypeError(
                f"@recorded: {what} of {self._name} cannot be turned into JSON, so it cannot be recorded: {error}"
            ) from error

    @cached_property
    def _signature(self) -> inspect.Signature:
        """Signature of the function."""
        return inspect.signature(self._function)

    @cached_property
    def _result_type(self) -> TypeAdapter[Any] | None:
        """Adapter of the annotated type of a result or an item; None if it has no annotation.

        Raises:
            TypeError: the annotation cannot be evaluated, or is no type that pydantic knows.
        """
        try:
            hints = get_type_hints(self._function, include_extras=True)
            if "return" not in hints:
                return None
            annotation = hints["return"]
            if self._yields:
                annotation = (*get_args(annotation), Any)[0]
            return TypeAdapter(annotation)
        except (NameError, TypeError, PydanticUserError) as error:
            raise TypeError(
                f"@recorded: the return annotation of {self._name} cannot be used to read its results: {error}"
            ) from error


class Exceptions:
    """Maker of the exceptions of recorded calls, in the place of an HTTP library; see `HTTPLibrary`."""

    read_timeout: float | None = None

    def error(self, name: str, message: str) -> Exception:
        """Return a builtin exception, whose message is its arguments as JSON.

        A `RecordedCallError` for other names or messages.
        """
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                error = kind(*json.loads(message))
            except (ValueError, TypeError):  # a cassette that was edited
                pass
            else:
                return error
        return RecordedCallError(name, message)


@contextmanager
def _recording_errors(slot: Slot | None) -> Iterator[None]:
    """Let requests of the `with` block pass all cassettes, and record its error or cancellation, which is raised.

    Do nothing without a slot.
    """
    if slot is None:
        yield
        return
    with passing():
        try:
            yield
        except Exception as error:
            slot.ended(f"raise {described(error)}")
            raise
        except BaseException:
            slot.ended("cancelled")
            raise


def described(error: Exception) -> str:
    """Return name and arguments of a builtin exception as JSON, or the full name and the text of any other exception.

    A builtin exception with arguments that JSON cannot keep is described by its text, too.
    """
    kind = type(error)
    if getattr(builtins, kind.__name__, None) is kind:
        arguments = error.__reduce__()[1]  # `args` lacks the file name of an OSError
        try:
            text = json.dumps(arguments)
        except (TypeError, ValueError):
            text = ""
        if text and tuple(json.loads(text)) == arguments:
            return f"{kind.__name__}: {text}"
    return f"{kind.__module__}.{kind.__qualname__}: {error}"


def _end(slot: Slot | None, how: str) -> None:
    """Record the end of a call that is recorded; a later end changes nothing."""
    if slot is not None:
        slot.ended(how)
