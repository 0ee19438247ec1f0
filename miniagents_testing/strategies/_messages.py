"""Strategies for messages, and for the values of their fields."""

from __future__ import annotations

from datetime import UTC
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from miniagents import AssistantMessage, ErrorMessage, Frozen, Message, SystemMessage, ToolCall, Usage, UserMessage
from miniagents_testing.strategies._texts import texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_CLASSES: tuple[type[Message], ...] = (Message, UserMessage, AssistantMessage, SystemMessage, ErrorMessage)
_EXTRA_NAMES = ("a", "b", "items", "class__", "$x", "self", "name with blanks", "é", "\U0001f600")
"""Names of extra fields, which no class of messages declares."""


def leaves(*, text: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Any]:
    """Return a strategy for values without other values in them, of every type a field may have but own Enums.

    Args:
        text: strategy for the texts among them.
    """
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        texts(max_size=3) if text is None else text,
        st.binary(max_size=4),
        st.decimals(allow_nan=False),
        st.uuids(),
        st.dates(),
        st.datetimes(timezones=st.none() | st.just(UTC)),
        st.times(),
        st.timedeltas(),
        st.sampled_from([PurePosixPath("a"), PurePosixPath("b/c")]),
    )


def values(
    *, leaf: st.SearchStrategy[Any] | None = None, text: st.SearchStrategy[str] | None = None, max_leaves: int = 4
) -> st.SearchStrategy[Any]:
    """Return a strategy for values of fields: leaves, and lists, tuples, dicts, sets and messages of them.

    Its lists, dicts and sets are mutable; a message that is made of them must not show later changes.

    Args:
        leaf: strategy for values without other values in them; `leaves()` by default.
        text: strategy for the texts among them, and for keys of dicts.
        max_leaves: approximate maximum number of leaves in a value.
    """
    text = texts(max_size=3) if text is None else text
    leaf = leaves(text=text) if leaf is None else leaf
    hashable = leaf | st.tuples(leaf) | st.builds(lambda value: Frozen(v=value), leaf)

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        """Return a strategy for lists, dicts, tuples, sets, frozen models and messages of such inner values."""
        fields = st.dictionaries(st.sampled_from(_EXTRA_NAMES), inner, max_size=2)
        return st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(text, inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.sets(hashable, max_size=3),
            st.builds(lambda fields: Frozen(**fields), fields),
            st.builds(lambda fields: UserMessage("text", **fields), fields),
        )

    return st.recursive(leaf, nested, max_leaves=max_leaves)


def roles() -> st.SearchStrategy[str | None]:
    """Return a strategy for roles: the usual words, None, and other texts."""
    return st.sampled_from(["user", "assistant", "system", "tool", "developer", "a / b", "", None]) | texts(max_size=3)


def messages(
    *,
    classes: Sequence[type[Message]] = _CLASSES,
    content: st.SearchStrategy[Any] | None = None,
    fields: Mapping[str, st.SearchStrategy[Any]] | None = None,
    value: st.SearchStrategy[Any] | None = None,
    max_fields: int = 1,
) -> st.SearchStrategy[Message]:
    """Return a strategy for messages with texts, parts or fields only, and with typed and extra fields.

    Raise `ValueError` without classes.

    Args:
        classes: classes of the messages. Required fields of a class have to be among `fields`.
        content: strategy for contents; texts, parts and None by default.
        fields: strategies for fields that each message has, by name.
        value: strategy for values of extra fields.
        max_fields: maximum number of extra fields.
    """
    if not classes:
        raise ValueError("classes is empty: give at least one class of messages")
    typed = {cls: _typed_fields(cls) for cls in classes}
    extra = st.dictionaries(st.sampled_from(_EXTRA_NAMES), values() if value is None else value, max_size=max_fields)
    fixed = st.fixed_dictionaries(dict(fields or {}))
    content = _contents() if content is None else content

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        cls = draw(st.sampled_from(tuple(classes)))
        return cls(draw(content), **{**draw(extra), **draw(typed[cls]), **draw(fixed)})

    return build()


def _contents() -> st.SearchStrategy[Any]:
    """Return a strategy for contents: texts, None, or lists of parts."""
    text = texts()
    part = text | st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": text})
    return st.one_of(text, st.none(), st.lists(part, min_size=1, max_size=3))


def _typed_fields(cls: type[Message]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for the optional fields that a class of the framework declares."""
    optional: dict[str, st.SearchStrategy[Any]] = {"role": roles()}
    if issubclass(cls, AssistantMessage):
        counts = st.none() | st.integers(0, 10_000)
        calls = st.builds(
            lambda name, arguments: ToolCall(id=f"call_{name}", name=name, arguments=arguments),
            texts(max_size=2),
            texts(),
        )
        optional |= {
            "finish_reason": st.sampled_from(["stop", "length", "tool_calls"]),
            "usage": st.builds(lambda n, m: Usage(input_tokens=n, output_tokens=m), counts, counts),
            "tool_calls": st.lists(calls, max_size=2),
            "reasoning": texts(max_size=3),
            "interrupted": st.booleans(),
        }
    return st.fixed_dictionaries({}, optional=optional)
