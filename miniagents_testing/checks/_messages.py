"""Checks of messages of any class."""

from __future__ import annotations

import copy
import pickle
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from miniagents import Frozen, FrozenDict, Message
from miniagents_testing.checks._case import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_LEAVES = (
    type(None), bool, int, float, Decimal, str, bytes, UUID, datetime, date, time, timedelta, PurePath, Enum,
)  # fmt: skip


def check_message(message: Message) -> None:
    """Check that a message is immutable at any depth, and that its copies and its hash are right.

    Raises:
        CheckFailedError: a check failed.
    """
    check_immutable(message)
    check_hash(message)
    check_copies(message)


def check_message_class(make: Callable[[Mapping[str, Any]], Message], fields: Mapping[str, Any]) -> None:
    """Check that messages of a class are right, and do not show later changes of the values they were made of.

    Args:
        make: gets a dict of fields, and returns a message of the class.
        fields: fields of the message, best with lists, dicts and sets in them. They are copied and not changed.

    Raises:
        CheckFailedError: a check failed.
    """
    case = Case(f"check_message_class(make, {fields!r})")
    changed = copy.deepcopy(dict(fields))
    message = make(changed)
    _change_containers(changed)
    case.equal(message, make(copy.deepcopy(dict(fields))), "the message shows later changes of its fields")
    check_message(message)


def check_immutable(message: Message) -> None:
    """Check that a message has only immutable values, and that its fields can be neither set nor deleted.

    Its hash must stay the same after all attempts.

    Raises:
        CheckFailedError: a value can be changed.
    """
    case = Case(f"check_immutable({message!r})")
    for path, value in _all_values(message, "message"):
        case.true(
            isinstance(value, (*_LEAVES, Frozen, FrozenDict, tuple, frozenset)),
            f"{path} could be changed",
            expected="a frozen value",
            came=f"{value!r:.80} of type {type(value).__name__}",
        )
    before = message.hash_key
    for name in [*(name for name, _ in message), "brand_new"]:
        for change, arguments in ((setattr, (message, name, 1)), (delattr, (message, name))):
            try:
                change(*arguments)
            except Exception:  # any error is a refusal
                continue
            case.fail(f"{change.__name__} changed message.{name}", expected="an error", came="none")
    case.equal(message.hash_key, before, "attempts to change the message changed its hash")


def check_hash(message: Message) -> None:
    """Check that hash and equality depend on class and content: another field makes another message.

    Raises:
        CheckFailedError: equal messages have different hashes, or different messages have equal ones.
    """
    case = Case(f"check_hash({message!r})")
    same = message.model_copy()
    case.true(same == message, "a copy is not equal", expected=repr(message), came=repr(same))
    case.equal(hash(same), hash(message), "equal messages have different hashes")
    case.equal(same.hash_key, message.hash_key, "equal messages have different hash keys")
    case.equal(message.full_hash_key[:40], message.hash_key, "hash_key is not the beginning of full_hash_key")
    other = message.model_copy(update={"brand_new": 1})
    case.true(other != message, "another field makes no difference", expected="two messages", came="equal ones")
    case.true(other.hash_key != message.hash_key, "another field makes no other hash", expected="two", came="one")


def check_copies(message: Message) -> None:
    """Check that pickle, deepcopy and dumps, in JSON too, return an equal message of the same class.

    Raises:
        CheckFailedError: a copy differs, or cannot be made.
    """
    case = Case(f"check_copies({message!r})")
    copies: dict[str, Callable[[], Message]] = {
        "pickle": lambda: pickle.loads(pickle.dumps(message)),
        "deepcopy": lambda: copy.deepcopy(message),
        "model_validate(model_dump())": lambda: Message.model_validate(message.model_dump()),
        "model_validate_json(model_dump_json())": lambda: Message.model_validate_json(message.model_dump_json()),
    }
    for name, make in copies.items():
        try:
            again = make()
        except Exception as error:
            case.fail(f"{name} fails", expected="a copy", came=f"{type(error).__name__}: {error}", cause=error)
        case.true(again == message, f"{name} gives another message", expected=repr(message), came=repr(again))
        case.equal(type(again), type(message), f"{name} gives another class")
        case.equal(again.hash_key, message.hash_key, f"{name} gives another hash")


def _all_values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield `value` and all values in it at any depth, each with its path; without recursion, as chains may be long."""
    stack = [(path, value)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if isinstance(value, Frozen):
            stack += [(f"{path}.{name}", field) for name, field in value]
        elif isinstance(value, FrozenDict):
            stack += [(f"{path}[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, (tuple, frozenset)):
            stack += [(f"{path}[{index}]", item) for index, item in enumerate(value)]


def _change_containers(value: Any) -> None:
    """Change each dict, list and set in a value, at any depth, by adding an entry "changed"."""
    if isinstance(value, dict):
        for item in list(value.values()):
            _change_containers(item)
        value["changed"] = True
    elif isinstance(value, (list, tuple)):
        for item in value:
            _change_containers(item)
        if isinstance(value, list):
            value.append("changed")
    elif isinstance(value, set):
        value.add("changed")
