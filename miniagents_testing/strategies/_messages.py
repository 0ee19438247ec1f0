"""Messages, and the values that their fields may hold."""

from __future__ import annotations

from datetime import UTC
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from miniagents import AssistantMessage, ErrorMessage, Frozen, Message, SystemMessage, ToolCall, Usage, UserMessage
from miniagents_testing.strategies._texts import texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


CLASSES: tuple[type[Message], ...] = (Message, UserMessage, AssistantMessage, SystemMessage, ErrorMessage)
NAMES = ("a", "b", "items", "class__", "$x", "self", "name with blanks", "é", "\U0001f600")
"""Names of fields that no message has."""


def leaves(*, text: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Any]:
    """Values that hold no others: of every type that a field of a message may have, apart from your own Enums.

    Args:
        text: the texts among them.
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
    """Whatever a field of a message may be given: leaves, and lists, tuples, dicts, sets and other messages of them.

    The lists, dicts and sets can be changed afterwards, which a message made of them must not show.

    Args:
        leaf: the values that hold no others; those of `leaves()` by default.
        text: the texts among them, also as keys of dicts.
        max_leaves: about how many a value has at most.
    """
    text = texts(max_size=3) if text is None else text
    leaf = leaves(text=text) if leaf is None else leaf
    hashable = leaf | st.tuples(leaf) | st.builds(lambda value: Frozen(v=value), leaf)

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        fields = st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)
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
    """What says who speaks: the usual words, none, and any other."""
    return st.sampled_from(["user", "assistant", "system", "tool", "developer", "a / b", "", None]) | texts(max_size=3)


def messages(
    *,
    classes: Sequence[type[Message]] = CLASSES,
    content: st.SearchStrategy[Any] | None = None,
    fields: Mapping[str, st.SearchStrategy[Any]] | None = None,
    value: st.SearchStrategy[Any] | None = None,
    max_fields: int = 1,
) -> st.SearchStrategy[Message]:
    """Any message: text, parts, or only fields; with typed fields, extra ones, and other messages in them.

    Args:
        classes: what classes they are of. Fields that a class demands have to be among `fields`.
        content: their contents; texts, parts and None by default.
        fields: fields that each of them has, by name.
        value: values of extra fields.
        max_fields: how many extra fields one has at most.
    """
    if not classes:
        raise ValueError("messages are of some class: give at least one")
    one_of = {cls: _fields_of(cls) for cls in classes}
    more = st.dictionaries(st.sampled_from(NAMES), values() if value is None else value, max_size=max_fields)
    fixed = st.fixed_dictionaries(dict(fields or {}))
    content = _contents() if content is None else content

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        cls = draw(st.sampled_from(tuple(classes)))
        return cls(draw(content), **{**draw(more), **draw(one_of[cls]), **draw(fixed)})

    return build()


def _contents() -> st.SearchStrategy[Any]:
    text = texts()
    part = text | st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": text})
    return st.one_of(text, st.none(), st.lists(part, min_size=1, max_size=3))


def _fields_of(cls: type[Message]) -> st.SearchStrategy[dict[str, Any]]:
    """Fields that a class of ours has, each of them or not."""
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
