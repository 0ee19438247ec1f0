"""Commands that print what is in cassettes.

`show`: print the interactions of cassettes in two lines each, or one interaction in full: the request, the response,
its ending, and the chunk map in readable form.

`diff`: compare what the models read and said in two cassettes.

`show --plain` prints interactions as plain lines, without times, chunks, ids and checksums, and `diff` compares these
lines; `git diff` can show them in place of a cassette.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from difflib import unified_diff
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from miniagents.ext._terminal import visible_line
from miniagents_testing._reading import agent_names, read_interaction
from miniagents_testing._streams import TICKS_PER_SECOND
from miniagents_testing._words import counted
from miniagents_testing.cassette import VOLATILE_FIELDS, Matching, load
from miniagents_testing.cassette._interaction import ends_ms
from miniagents_testing.cli._screen import (
    PROBLEMS_FOUND,
    CommandError,
    Screen,
    find_cassettes,
    make_safe,
    make_safe_line,
    parse_file,
    print_error,
    read_cassette,
    shorten,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from miniagents_testing._reading import Reading
    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._screen import CassetteFile

_MAX_QUESTION_CHARS = 200
"""Most characters of a question in a pipe; the end is kept."""
_MAX_FRAME_CHARS = 100
_GAP = "   "
_LEFT_OUT_FIRST = ("model", "tokens", "seconds")
"""Columns that a narrow terminal does not show, the least important one first."""
_EVENT = re.compile(rb"^event: ?(\S+)|^data: ?(\[DONE\])", re.MULTILINE)


class _Row(NamedTuple):
    """Interaction as a row of the table."""

    number: str
    agent: str
    provider: str
    model: str
    asked: str
    chunks: str
    seconds: str
    end: str
    tokens_in: str
    tokens_out: str


def add_show(commands: Commands) -> None:
    """Register the command `show` with its help and its arguments."""
    show = commands.add_parser(
        "show",
        help="print the interactions of cassettes: agents, questions, sizes and endings",
        description="Prints two lines for each request: who asked which model, and how its answer ended; and the "
        "question. In a pipe it is one line with tabs between the values, below the names of the columns.",
    )
    show.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder of cassettes")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--number", "-n", type=int, metavar="N", help="print the N-th interaction of one file in full")
    form.add_argument(
        "--plain",
        action="store_true",
        help="print what the models read and said, one value a line: git diff can show cassettes so, as `textconv`",
    )
    form.add_argument("--json", action="store_true", help="print a JSON array with an object for each interaction")
    show.set_defaults(run=_run_show)


def _run_show(options: argparse.Namespace) -> int:
    """Print the interactions of cassettes: as rows, plain lines or JSON, or one in full for `--number`.

    Return 1 if a file is damaged, else 0.

    Raises:
        CommandError: `--number` is given, and there is not exactly one file, or no such interaction.
    """
    screen = Screen()
    paths = find_cassettes(options.path)
    if options.number is not None:
        if len(paths) != 1:
            raise CommandError(f"--number needs one cassette, and there are {len(paths)}: name a single file")
        _print_in_full(paths[0], options.number, screen)
        return 0
    if not (screen.is_for_people or options.plain or options.json):
        screen.print_row("file", *_Row._fields)
    damage: list[str] = []
    found: list[str] = []
    for path in paths:
        cassette = read_cassette(path)
        damage += cassette.damage
        if options.json:
            found += map(json.dumps, _create_objects(cassette))
        elif options.plain:
            _print_plain(cassette, screen)
        else:
            _print_rows(cassette, screen)
    if options.json:
        print("[" + ",\n ".join(found) + "]", file=screen.file)
    for each in damage:
        print_error(each)
    return int(bool(damage))


def _print_rows(cassette: CassetteFile, screen: Screen) -> None:
    """Print the interactions of one cassette: two lines each on a terminal, else one with tabs."""
    rows = _create_rows(cassette)
    if not screen.is_for_people:
        for row in rows:
            screen.print_row(str(cassette.path), *row._replace(asked=make_safe_line(row.asked, _MAX_QUESTION_CHARS)))
    elif rows or not cassette.damage:
        for text in _render_rows(cassette, rows, screen.width):
            screen.print(text)


def _create_objects(cassette: CassetteFile) -> Iterator[dict[str, Any]]:
    """Yield each interaction of a cassette as an object for programs; unknown values are null."""
    pairs = zip(cassette.interactions, cassette.readings, strict=True)
    for number, (interaction, reading) in enumerate(pairs, 1):
        answer, outcome = interaction.response, reading.outcome
        usage = outcome.usage if outcome else None
        yield {
            "file": str(cassette.path),
            "number": number,
            "agent": interaction.agent or None,
            "method": interaction.method,
            "uri": interaction.uri,
            "provider": reading.provider or None,
            "model": reading.model or None,
            "asked": reading.prompt.last.text or None,
            "status": answer.status,
            "answer": outcome.content if outcome else None,
            "tool_calls": [{"name": each.name, "arguments": each.arguments} for each in outcome.tool_calls]
            if outcome
            else [],
            "end": reading.ending.word,
            "complete": reading.ending.complete,
            "started_ms": interaction.started_ms,
            "ended_ms": ends_ms([interaction]),
            "chunks": len(answer.chunks),
            "tokens_in": usage.input if usage else None,
            "tokens_out": usage.output if usage else None,
        }


def _print_plain(cassette: CassetteFile, screen: Screen) -> None:
    """Print the interactions of one cassette as plain lines, with a number in front of each."""
    numbered = enumerate(zip(cassette.interactions, cassette.readings, strict=True), 1)
    for number, (interaction, reading) in numbered:
        lines = [f"--- {number}", *transcript(interaction, reading), ""]
        if screen.is_for_people:
            screen.print(Text("\n".join(lines)))
        else:
            print("\n".join(lines), file=screen.file)


def _create_rows(cassette: CassetteFile) -> list[_Row]:
    """Return a row of texts for each interaction of a cassette; unknown values are empty.

    The question is the last message of the prompt, or method and URI without a prompt.
    """
    rows = []
    pairs = zip(cassette.interactions, cassette.readings, strict=True)
    for number, (interaction, reading) in enumerate(pairs, 1):
        seconds = (ends_ms([interaction]) - interaction.started_ms) / 1000
        usage = reading.outcome.usage if reading.outcome else None
        counts = (usage.input, usage.output) if usage else (None, None)
        row = _Row(
            str(number),
            interaction.agent,
            reading.provider,
            reading.model,
            make_safe_line(reading.prompt.last.text or f"{interaction.method} {interaction.uri}"),
            str(len(interaction.response.chunks)),
            f"{seconds:.2f}" if seconds else "",
            reading.ending.word,
            *("" if count is None else str(count) for count in counts),
        )
        rows.append(row)
    return rows


def _render_rows(cassette: CassetteFile, rows: list[_Row], width: int) -> Iterator[Text]:
    """Yield the lines for a terminal: the file, and two for each interaction. Incomplete answers are yellow."""
    yield _render_title(cassette, width)
    names = agent_names([interaction.agent_path for interaction in cassette.interactions])
    columns = {
        "agent": [*map(make_safe_line, names)],
        "model": [make_safe_line(row.model) for row in rows],
        "seconds": [f"{float(row.seconds):.1f} s" if row.seconds else "" for row in rows],
        "tokens": [
            f"{row.tokens_in or '?'} → {row.tokens_out or '?'} tokens" if row.tokens_in or row.tokens_out else ""
            for row in rows
        ],
        "end": [make_safe_line(row.end) for row in rows],
    }
    indent = max(2, len(rows[-1].number)) + 2 if rows else 0
    sizes = _fitting_sizes(columns, width - indent)
    for row, reading in enumerate(cassette.readings):
        line = Text().append(f"{row + 1:>{indent - 2}}  ", "dim")
        for name, size in sizes.items():
            cell = shorten(columns[name][row], size)
            padding = " " * (size - cell_len(cell))
            style = "bold" if name == "agent" else "yellow" if name == "end" and not reading.ending.complete else ""
            line.append(padding if name == "seconds" else "").append(cell, style)
            line.append(f"{'' if name == 'seconds' else padding}{_GAP}")
        line.rstrip()
        yield line
        yield Text(" " * indent + shorten(rows[row].asked, width - indent))


def _render_title(cassette: CassetteFile, width: int) -> Text:
    """Return the line with the file, the number of its requests and its seconds."""
    facts = counted(len(cassette.interactions), "request") if cassette.interactions else "no requests"
    if cassette.interactions:
        first = min(interaction.started_ms for interaction in cassette.interactions)
        seconds = (ends_ms(cassette.interactions) - first) / 1000
        facts += f" · {seconds:.1f} s" if cassette.has_checksum else " · of another tool"
    path = make_safe_line(str(cassette.path))
    room = width - len(facts) - 3
    if len(path) > room:
        path = f"…{path[len(path) - room + 1 :]}"
    return Text(path, "bold").append(f" · {facts}", "default")


def _fitting_sizes(columns: Mapping[str, list[str]], width: int) -> dict[str, int]:
    """Return the widths of the columns that fit side by side into `width`.

    Empty columns are left out, and then, if needed, the least important ones; at last, the end and the agent become
    narrower.
    """
    sizes = {name: max(map(cell_len, cells), default=0) for name, cells in columns.items()}
    sizes = {name: size for name, size in sizes.items() if size}
    for name in _LEFT_OUT_FIRST:
        if _total(sizes) > width:
            sizes.pop(name, None)
    for name in ("end", "agent"):
        if name in sizes and (excess := _total(sizes) - width) > 0:
            sizes[name] = max(sizes[name] - excess, min(sizes[name], width // 2 - len(_GAP)))
    return sizes


def _total(sizes: Mapping[str, int]) -> int:
    """Return the width of a line with cells of these widths, with the gaps between them."""
    return sum(sizes.values()) + len(_GAP) * (len(sizes) - 1)


def _print_in_full(path: Path, number: int, screen: Screen) -> None:
    """Print one interaction of a file in full.

    Raises:
        CommandError: the file has no interaction with this number.
    """
    interactions = load(path)
    if not 1 <= number <= len(interactions):
        raise CommandError(f"{path} has {counted(len(interactions), 'interaction')}; there is no number {number}")
    interaction = interactions[number - 1]
    screen.print(Text(f"{make_safe_line(str(path))}, interaction {number} of {len(interactions)}\n", "bold"))
    reading = read_interaction(interaction)
    for text in _render_in_full(interaction, reading):
        screen.print(text)
    for line in _chunk_lines(interaction, reading):
        screen.print(Text(shorten(line, screen.width) if screen.is_for_people else line))


def _render_in_full(interaction: Interaction, reading: Reading) -> Iterator[Text]:
    """Yield texts to print: agent, request, response, decoded answer or raw body, end, and the size of the body."""
    answer = interaction.response
    if interaction.agent:
        yield _heading("agent", interaction.agent)
    yield _heading("request", f"{interaction.method} {interaction.uri}", interaction.request_headers)
    yield _indent(_format_body(interaction.request_body))
    protocol = "HTTP " if interaction.uri.startswith(("http", "ws")) else ""
    status = f"{protocol}{answer.status} {answer.reason}, {answer.headers_ms:.2f} ms after the request"
    yield _heading("response", status if answer.status else "none", answer.headers)
    outcome = reading.outcome
    if outcome is None:
        yield _indent(_format_body(answer.body))
    else:
        for name, text in (("thinking", outcome.reasoning), ("text", outcome.content), ("refusal", outcome.refusal)):
            if text:
                yield _heading(name)
                yield _indent(text)
        for call in outcome.tool_calls:
            yield _heading("tool call", f"{call.name} ({call.id})")
            yield _indent(_format_body(call.arguments.encode()))
        for choice in outcome.choices:
            yield _heading(f"choice {choice.index}", choice.finish_reason or "")
            yield _indent(choice.content)
    facts = [reading.ending.sentence, reading.model, *_format_usage(reading)]
    yield _heading("end", ", ".join(filter(None, facts)))
    yield _heading("chunks", f"{len(answer.chunks)}, {counted(len(answer.body), 'byte')}")


def _heading(name: str, text: str = "", headers: Mapping[str, list[str]] | None = None) -> Text:
    """Return the first line of a section: its name and a text, with the headers below."""
    lines = [
        make_safe_line(text),
        *(make_safe_line(f"{key}: {value}") for key, values in (headers or {}).items() for value in values),
    ]
    head = Text().append(f"{name:10}", "bold cyan").append("\n          ".join(lines))
    head.rstrip()
    return head


def _indent(text: str) -> Text:
    """Return the text with two spaces before each line, safe to print."""
    lines = make_safe(text).split("\n")
    return Text("\n").join([Text("  ").append_text(line) for line in lines])


def _format_body(body: bytes) -> str:
    """Return JSON with line breaks, other text as it is, and the size of anything else."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"({counted(len(body), 'byte')} of no text)"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _format_usage(reading: Reading) -> list[str]:
    """Return the counts of tokens that the provider reported, one text each."""
    usage = reading.outcome.usage if reading.outcome else None
    if usage is None:
        return []
    names = (("in", usage.input), ("out", usage.output), ("cached", usage.cached), ("reasoning", usage.reasoning))
    return [f"{counted(count, 'token')} {name}" for name, count in names if count is not None]


def _chunk_lines(interaction: Interaction, reading: Reading) -> Iterator[str]:
    """Yield a table of the chunks: number, arrival, wait, size and text of each, or event names if it has no text."""
    yield f"  {'#':>5} {'at ms':>10} {'wait ms':>9} {'bytes':>7}  says"
    moment = interaction.response.headers_ms
    for number, (chunk, pieces) in enumerate(zip(interaction.response.chunks, reading.chunks, strict=True), 1):
        wait = chunk.wait * 1000 / TICKS_PER_SECOND
        moment += wait
        says = " ".join(repr(piece.text) for piece in pieces) or _event_names(chunk.data)
        if interaction.method in ("STDIO", "WEBSOCKET"):
            says = chunk.data.decode(errors="replace")[:_MAX_FRAME_CHARS]
        yield f"  {number:5} {moment:10.2f} {wait:9.2f} {len(chunk.data):7,}  {make_safe_line(says)}".rstrip()


def _event_names(data: bytes) -> str:
    """Return the names of the events in a chunk, in brackets; empty if it has none."""
    names = [(name or done).decode(errors="replace") for name, done in _EVENT.findall(data)]
    return f"({', '.join(names)})" if names else ""


# --- differences of two cassettes


_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def add_diff(commands: Commands) -> None:
    """Register the command `diff` with its help and its arguments."""
    diff = commands.add_parser(
        "diff",
        help="compare what the models read and said in two cassettes",
        description="The interactions of each agent are compared in their order: requests, and what was answered, "
        "without times and chunks. Exit code 1 says that they differ.",
    )
    diff.add_argument("old", type=parse_file, metavar="OLD")
    diff.add_argument("new", type=parse_file, metavar="NEW")
    diff.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATH",
        help="a path that is not compared, such as 'messages[*].tool_call_id'; may be given several times. "
        f"Never compared are {', '.join(VOLATILE_FIELDS)}",
    )
    diff.set_defaults(run=_run_diff)


def _run_diff(options: argparse.Namespace) -> int:
    """Print the differences of two cassettes. Return 0 if there are none, and 1 otherwise or for a damaged file.

    Raises:
        CommandError: a path of `--ignore` cannot be read.
        OSError: a file cannot be read.
    """
    try:
        matching = Matching(ignore=[*VOLATILE_FIELDS, *options.ignore])
    except ValueError as error:
        raise CommandError(f"--ignore: {error}") from None
    cassettes = [read_cassette(path) for path in (options.old, options.new)]
    if damage := [text for cassette in cassettes for text in cassette.damage]:
        for text in damage:
            print_error(text)
        return PROBLEMS_FOUND
    screen = Screen()
    old, new = (_entries_by_agent(cassette, matching) for cassette in cassettes)
    differs = False
    for agent in {**old, **new}:
        for before, after in zip_longest(old.get(agent, ()), new.get(agent, ())):
            lines = list(_changes(before, after))
            if lines and not differs:
                _print_changes([f"--- {options.old}", f"+++ {options.new}"], screen)
            differs = differs or bool(lines)
            _print_changes(lines, screen)
    return int(differs)


class _Entry(NamedTuple):
    """Interaction to compare."""

    number: int
    """Number in the order of start; the first is 1."""
    lines: list[str]


def _entries_by_agent(cassette: CassetteFile, matching: Matching) -> dict[str, list[_Entry]]:
    """Return the interactions of each agent path, in the order in which they were started."""
    pairs = zip(cassette.interactions, cassette.readings, strict=True)
    found: defaultdict[str, list[_Entry]] = defaultdict(list)
    for number, (interaction, reading) in enumerate(sorted(pairs, key=lambda pair: pair[0].started_ms), 1):
        found[interaction.agent_path].append(_Entry(number, transcript(interaction, reading, matching)))
    return dict(found)


def _changes(before: _Entry | None, after: _Entry | None) -> Iterator[str]:
    """Yield the lines that differ between two interactions, with some lines around them; None is a missing one."""
    old, new = before.lines if before else [], after.lines if after else []
    changed = list(unified_diff(old, new, lineterm=""))[2:]
    if not changed:
        return
    numbers = [f"-{before.number}"] if before else []
    numbers += [f"+{after.number}"] if after else []
    yield f"@@ interaction {' '.join(numbers)} @@"
    yield from (line if not line.startswith("@@") else "@@" for line in changed)


def _print_changes(lines: Iterable[str], screen: Screen) -> None:
    """Print lines of a diff: in colours on a terminal, as they are in a pipe."""
    for line in lines:
        if screen.is_for_people:
            screen.print(Text(make_safe_line(line) if line[:3] in ("---", "+++") else line, _STYLES.get(line[:1], "")))
        else:
            print(line, file=screen.file)


# --- interactions as plain lines


_ALL = Matching(ignore=())


def transcript(interaction: Interaction, reading: Reading, matching: Matching = _ALL) -> list[str]:
    """Return the lines of an interaction, in one line for each value, and for each line of a longer text.

    Args:
        interaction: the request and the answer.
        reading: of the same interaction.
        matching: says which fields of the request and of the answer are left out.
    """
    values = {
        "agent": interaction.agent_path or None,
        "request": f"{interaction.method} {interaction.uri}",
        "read": _content(interaction.request_body, matching),
        "said": _without_ignored(_answer(interaction, reading, matching), matching),
    }
    found: list[str] = []
    for name, value in values.items():
        if value is not None:
            try:
                found += _lines(name, value, "")
            except RecursionError:  # nested as deep as it can be read
                found.append(f"{name}: {json.dumps(value, ensure_ascii=False)}")
    return [visible_line(line) for line in found]


def _answer(interaction: Interaction, reading: Reading, matching: Matching) -> dict[str, Any]:
    """Return the answer of a model, or status and body of an answer that is no model's, without empty parts."""
    response, outcome = interaction.response, reading.outcome
    found: dict[str, Any] = {"end": reading.ending.sentence}
    if outcome is None or response.status >= 400:
        found |= {"status": f"{response.status} {response.reason}".strip(), "body": _content(response.body, matching)}
    else:
        calls = [
            {"name": call.name, "arguments": _content(call.arguments.encode(), matching)} for call in outcome.tool_calls
        ]
        choices = [{"text": choice.content, "end": choice.finish_reason} for choice in outcome.choices]
        found |= {"model": outcome.model, "thinking": outcome.reasoning, "text": outcome.content}
        found |= {"refusal": outcome.refusal, "tool calls": calls, "other choices": choices}
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def _content(body: bytes, matching: Matching) -> Any:
    """Return a body as data if it is JSON, as text, or as its size and hash if it is neither; None if it is empty."""
    if not body:
        return None
    try:
        text = matching.canonical_body(body).decode()
    except UnicodeDecodeError:
        return f"({counted(len(body), 'byte')} of no text, SHA-256 {hashlib.sha256(body).hexdigest()[:16]})"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _without_ignored(value: dict[str, Any], matching: Matching) -> Any:
    """Return a JSON value without the fields that the matching ignores."""
    return json.loads(matching.canonical_body(json.dumps(value).encode()))


def _lines(name: str, value: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a value, with its name in front; a text of several lines, an object or an array has several.

    `indent` is the white space before each line; the name of an item of an array is "-".
    """
    begin = f"{indent}{name}" if name == "-" else f"{indent}{name}:"
    if isinstance(value, dict) and value:
        yield begin
        for key, inner in value.items():
            yield from _lines(key, inner, f"{indent}  ")
    elif isinstance(value, list) and value:
        yield begin
        for inner in value:
            yield from _lines("-", inner, f"{indent}  ")
    elif isinstance(value, str) and "\n" in value:
        yield f"{begin} |"
        yield from (f"{indent}  {line}" if line else "" for line in value.split("\n"))
    else:
        yield f"{begin} {_word(value)}"


def _word(value: Any) -> str:
    """Return a value in one line: a text as it is, unless it could be taken for another value."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        json.loads(value)
    except ValueError:
        return value if value and value == value.strip() and value != "|" else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
