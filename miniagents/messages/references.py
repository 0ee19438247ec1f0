"""Messages as a store keeps them: JSON types, with other messages by their hash keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from miniagents.promising.class_names import CLASS_KEY, escaped
from miniagents.promising.freezing import FrozenDict
from miniagents.promising.frozen import Frozen, children_first, frozen_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miniagents.messages.message import Message

__all__ = ["serialized"]

_NATIVE = frozenset({type(None), bool, int, float, str})


def serialized(message: Message) -> dict[str, Any]:
    """See `Message.serialize`."""
    inlined: dict[int, dict[str, Any]] = {}
    # Values that are no messages are written in place. Children come first, so that each finds its parts written
    # already.
    for each in children_first(message, leave_out=_is_message):
        inlined[id(each)] = {CLASS_KEY: type(each).class_name, **_with_references(frozen_fields(each), inlined)}
    return inlined[id(message)]


def _is_message(value: Any) -> bool:
    from miniagents.messages.message import Message

    return isinstance(value, Message)


def _with_references(fields: Iterable[tuple[str, Any]], inlined: dict[int, dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in escaped(dict(fields)).items():
        if _is_message(value):
            name, plain = f"{name}__hash_key", value.hash_key
        elif type(value) is tuple and value and all(map(_is_message, value)):
            name, plain = f"{name}__hash_keys", [item.hash_key for item in value]
        else:
            plain = _plain(value, inlined)
        if name in result:
            raise ValueError(f"Two fields would be serialized as {name!r}; rename one of them")
        result[name] = plain
    return result


def _plain(value: Any, inlined: dict[int, dict[str, Any]]) -> Any:
    if type(value) in _NATIVE:
        return value
    if isinstance(value, FrozenDict):
        return _with_references(value.items(), inlined)
    if isinstance(value, tuple):
        return [_plain(item, inlined) for item in value]
    if isinstance(value, frozenset):
        return sorted((_plain(item, inlined) for item in value), key=repr)  # the order of a set differs by process
    if isinstance(value, Frozen):
        return {"__hash_key": value.hash_key} if _is_message(value) else inlined[id(value)]
    return to_jsonable_python(value, bytes_mode="base64")
