"""Laws 24 to 28 as properties over any message and any value: immutable at every depth, one hash for one content."""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniagents
from miniagents._promising.freezing import FrozenDict, freeze
from miniagents._promising.frozen import Frozen
from miniagents.messages import Message
from miniagents_testing import strategies
from miniagents_testing.checks import check_message, check_message_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Answer(Enum):
    """An Enum."""

    YES = "yes"
    NO = "no"


TEXTS = strategies.texts(pieces=["a", "$", "$set", "$$", "class_", "Message", "\ud83d\ude00", "😀"], max_size=2)
LEAVES = strategies.leaves(text=TEXTS) | st.sampled_from(Answer)
VALUES = strategies.values(leaf=LEAVES, text=TEXTS)
PLAIN_VALUES = strategies.values(text=TEXTS)


@given(strategies.messages())
def test_messages_are_immutable_and_their_copies_are_equal(message: Message) -> None:
    """At every depth; pickle, deepcopy and dumps give an equal message with an equal hash."""
    check_message(message)


@given(VALUES)
def test_C27_what_happens_to_the_original_does_not_show(value: Any) -> None:
    """A message shares nothing that can be changed with its fields, whatever they hold."""
    check_message_class(lambda fields: Message(**fields), {"field": value, "other": [value]})


def written_out(value: Any) -> Any:
    """What a value is, in terms in which `==` tells everything apart: a slow, obvious model of "class and content"."""
    if isinstance(value, Frozen):
        fields = {k: v for k, v in value if v is not None or k not in type(value).model_fields}
        return type(value), sorted((k, written_out(v)) for k, v in fields.items()).__repr__()
    if isinstance(value, FrozenDict):
        return FrozenDict, repr(sorted((k, written_out(v)) for k, v in value.items()))
    if isinstance(value, tuple):
        return tuple, repr([written_out(item) for item in value])
    if isinstance(value, frozenset):
        return frozenset, repr(sorted((written_out(item) for item in value), key=repr))
    return type(value), repr(value)


@given(VALUES, VALUES)
def test_equal_hash_means_equal_class_and_content(one: Any, other: Any) -> None:
    """Two values have one hash key if and only if they are the same by type and content, all the way down."""
    first, second = freeze(one), freeze(other)
    same = written_out(first) == written_out(second)
    assert (Frozen(v=first) == Frozen(v=second)) == same
    assert (Frozen(v=first).hash_key == Frozen(v=second).hash_key) == same


@given(VALUES)
def test_a_value_is_what_it_was_before_and_not_what_it_is_wrapped_in(value: Any) -> None:
    """What is frozen freezes to itself; a tuple of it, a mapping to it, a Frozen of it and its text are others."""
    assert Frozen(v=freeze(value)).hash_key == Frozen(v=value).hash_key
    wrapped = [
        value,
        [value],
        [[value]],
        {"v": value},
        {"$set": [value]},
        {"$frozen": value},
        Frozen(v=value),
        repr(value),
    ]
    forms = {repr(written_out(freeze(each))) for each in wrapped}
    assert len({Frozen(v=each).hash_key for each in wrapped}) == len(forms)


@pytest.fixture(scope="module")
def in_another_process() -> Iterator[Callable[[Frozen], str]]:
    """Gives the hash key of a value as another process computes it, which orders sets in its own way."""
    program = (
        "import base64, pickle, sys\n"
        "for line in sys.stdin:\n"
        "    print(pickle.loads(base64.b64decode(line)).hash_key, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(miniagents.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def hash_key(value: Frozen) -> str:
            print(base64.b64encode(pickle.dumps(value)).decode(), file=requests, flush=True)
            return answers.readline().strip()

        yield hash_key
        requests.close()


@given(value=PLAIN_VALUES)
def test_hashes_are_the_same_in_another_process(value: Any, in_another_process: Callable[[Frozen], str]) -> None:
    """One value, one key; the value goes there without its digest."""
    assert in_another_process(Frozen(v=value)) == Frozen(v=value).hash_key
