"""What must hold for every message, of whatever class."""

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
    """It cannot be changed at any depth, its copies are equal to it, and its hash says what it is.

    Raises:
        CheckFailedError: something does not hold.
    """
    check_immutable(message)
    check_hash(message)
    check_copies(message)


def check_message_class(make: Callable[[Mapping[str, Any]], Message], fields: Mapping[str, Any]) -> None:
    """A class of messages makes such messages of these fields, and what happens to the fields later does not show.

    Args:
        make: the class, or a function, given a dict of fields.
        fields: what it is made of; lists, dicts and sets in it are what matters. They are not touched.
    """
    case = Case(f"check_message_class(make, {fields!r})")
    mine = copy.deepcopy(dict(fields))
    message = make(mine)
    _spoil(mine)
    case.equal(message, make(copy.deepcopy(dict(fields))), "what was done to the fields later shows in the message")
    check_message(message)


def check_immutable(message: Message) -> None:
    """Nothing in it can be changed: there are only leaves, tuples, frozen dicts and sets, and frozen objects in it."""
    case = Case(f"check_immutable({message!r})")
    for path, value in _everything_in(message, "message"):
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
            except Exception:  # that it refuses is what is wanted
                continue
            case.fail(f"{change.__name__} changed message.{name}", expected="an error", came="none")
    case.equal(message.hash_key, before, "attempts to change the message changed its hash")


def check_hash(message: Message) -> None:
    """Hash and equality go by class and content: another field or another class is another message."""
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
    """Pickle, deepcopy and `model_validate(model_dump())` give an equal message of the same class."""
    case = Case(f"check_copies({message!r})")
    copies: dict[str, Callable[[], Message]] = {
        "pickle": lambda: pickle.loads(pickle.dumps(message)),
        "deepcopy": lambda: copy.deepcopy(message),
        "model_validate(model_dump())": lambda: Message.model_validate(message.model_dump()),
    }
    for name, make in copies.items():
        try:
            again = make()
        except Exception as error:
            case.fail(f"{name} fails", expected="a copy", came=f"{type(error).__name__}: {error}", cause=error)
        case.true(again == message, f"{name} gives another message", expected=repr(message), came=repr(again))
        case.equal(type(again), type(message), f"{name} gives another class")
        case.equal(again.hash_key, message.hash_key, f"{name} gives another hash")


def _everything_in(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """`value` and what is in it, each with the way to it. Without recursion: chains of messages may be long."""
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


def _spoil(value: Any) -> None:
    """Change all that can be changed, as far down as there are containers that can."""
    if isinstance(value, dict):
        for item in list(value.values()):
            _spoil(item)
        value["spoiled"] = True
    elif isinstance(value, (list, tuple)):
        for item in value:
            _spoil(item)
        if isinstance(value, list):
            value.append("spoiled")
    elif isinstance(value, set):
        value.add("spoiled")
