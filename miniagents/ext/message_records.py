"""Messages as records of a file, and back: which of their fields are kept, and what happens to those that cannot be."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from miniagents.ext.json_values import from_json_value, to_json_value
from miniagents.ext.markdown_records import Record
from miniagents.ext.terminal import visible_line
from miniagents.messages import Message

if TYPE_CHECKING:
    from miniagents.messages import MessagePromise

__all__ = ["message_of", "opening_record", "record_of"]

logger = logging.getLogger("miniagents")


def opening_record(promise: MessagePromise, record_id: str) -> Record:
    """What is known of a message before its text has come."""
    fields = dict(promise.known_beforehand)
    role = fields.pop("role", None) or promise.message_class.model_fields["role"].default
    meta = {**_json_fields(fields), "class_": promise.message_class.class_name}
    return Record(record_id, role if isinstance(role, str) else None, "", meta, interrupted=True)


def record_of(message: Message, record_id: str) -> Record:
    """`message` as it is written; a field that cannot be written is left out, with a warning."""
    try:
        fields = message.model_dump()
    except (ValueError, RecursionError):  # a serializer of the application's own, or messages hundreds deep
        fields = _dump_of_what_can_be_dumped(message)
    for name, field in type(message).model_fields.items():
        value = getattr(message, name)
        if field.default_factory is None and value == field.default and repr(value) == repr(field.default):
            fields.pop(name, None)  # the class will say the same when it is read
    if type(message) is Message:
        del fields["class_"]
    fields.pop("role", None)
    text = message.content if isinstance(message.content, str) else None
    if text is not None:
        fields.pop("content", None)
    interrupted = fields.get("interrupted") is True
    if interrupted:
        del fields["interrupted"]
    return Record(record_id, message.role, text, _json_fields(fields), interrupted)


def _dump_of_what_can_be_dumped(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"class_": message.class_name}
    for name, _ in message:
        try:
            fields |= message.model_dump(include={name})
        except (ValueError, RecursionError):
            _warn_of_lost_field(name)
    return fields


def _json_fields(fields: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in fields.items():
        try:
            kept[name] = to_json_value(value)
        except (TypeError, ValueError, RecursionError):
            _warn_of_lost_field(name)
    return kept


def _warn_of_lost_field(name: str) -> None:
    logger.warning("The field %r of a message could not be kept in the history", name)


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return ", ".join(visible_line(".".join(map(str, each["loc"]))) for each in error.errors())
    return type(error).__name__


def message_of(record: Record) -> Message:
    """The message that `record` was; without its metadata, and with a warning, if that makes no sense."""
    try:
        fields = {name: from_json_value(value) for name, value in record.meta.items()} | {"role": record.role}
        if record.text is not None:
            fields["content"] = record.text
        if record.interrupted:
            fields["interrupted"] = True
        return Message.model_validate(fields)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:  # edited, or another version
        # not the error's text, which quotes the value
        logger.warning(
            "The metadata of message %r could not be read, and is left out: %s", record.id, _what_is_wrong(error)
        )
        return Message(record.text, role=record.role, **({"interrupted": True} if record.interrupted else {}))
