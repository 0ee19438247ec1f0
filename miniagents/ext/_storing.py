"""Messages for stores: dumps that leave out fields that cannot be written, and messages made of such dumps.

A message with an odd field must not stop a history: its text is stored, and a warning names the field that is lost.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic_core import ValidationError

from miniagents._promising.naming import CLASS_KEY
from miniagents.ext._terminal import visible_line
from miniagents.messages import Message

logger = logging.getLogger("miniagents")

_ALWAYS_KEPT = ("role", "content", "interrupted")
"""Fields that are kept of a message whose other fields cannot be read."""


def storable(message: Message) -> dict[str, Any]:
    """Return the fields of a message as JSON types, as `model_dump` does, without those that hold their defaults.

    Content and role are always there. A field that cannot be written is left out, with a warning.
    """
    try:
        fields = message.model_dump(mode="json")
    except (ValueError, RecursionError):  # a serializer of the application fails, or messages are nested too deep
        fields = _dump_field_by_field(message)
    cls = type(message)
    if cls is Message:
        del fields[CLASS_KEY]
    for name, key in cls._keys:
        value = getattr(message, name)
        # identity, as 1 equals True and -0.0 equals 0.0
        if value is cls.model_fields[name].default and name not in _ALWAYS_KEPT[:2]:
            fields.pop(key, None)
    return fields


def _dump_field_by_field(message: Message) -> dict[str, Any]:
    """Return the fields of a message that can be dumped, and warn of each other field."""
    fields: dict[str, Any] = {CLASS_KEY: message.class_name}
    for name, _ in message:
        try:
            fields |= message.model_dump(mode="json", include={name})
        except (ValueError, RecursionError):
            logger.warning("The field %r of a message could not be kept in the history", name)
    return fields


def restore(fields: dict[str, Any]) -> Message:
    """Return the message of a dump; if fields cannot be read, warn, and keep role, content and `interrupted` alone.

    Each of these three is kept only if it can be read; without any, the message is empty.
    """
    try:
        return Message.model_validate(fields)
    except (ValueError, TypeError) as error:  # a person edited the fields, or another version wrote them
        # without the text of the error, which quotes the value
        logger.warning("Fields of a message could not be read, and are left out: %s", _describe_error(error))
    known: dict[str, Any] = {}
    for name in _ALWAYS_KEPT:
        try:
            Message.model_validate({name: fields[name]})
        except (ValueError, TypeError, KeyError):
            continue
        known[name] = fields[name]
    return Message.model_validate(known)


def _describe_error(error: Exception) -> str:
    """Return the names of the invalid fields, or the class of the error, without any values."""
    if isinstance(error, ValidationError):
        return ", ".join(visible_line(".".join(map(str, each["loc"]))) for each in error.errors())
    return type(error).__name__
