"""Commands that check cassettes.

`verify`: check that cassettes are undamaged and can be decoded. With `--drift`, each answer and each event is parsed as
the SDK parses it. Fields that the SDK's models do not know, and required ones that are missing, say that the provider
has changed since the recording, or the SDK.

`lint`: find secrets and other content that should not be committed, and cassettes that no test names. Secrets are also
found in a damaged file: then they are looked for in its text. No result and no output has the secret itself.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import pydantic

from miniagents.errors import StreamError, install_line
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing._reading import api_of
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing._words import counted
from miniagents_testing.cassette import Interaction, Redaction
from miniagents_testing.cassette._bodies import CONTENT_HEADERS
from miniagents_testing.cassette._file import load_edited, read
from miniagents_testing.cassette._headers import HeaderRule
from miniagents_testing.cassette._interaction import is_text
from miniagents_testing.cassette._secrets import scan
from miniagents_testing.cli._screen import (
    CommandError,
    Screen,
    find_cassettes,
    read_cassette,
)
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._screen import CassetteFile

_MAX_HEADERS_SHOWN = 6
"""The longest list of header names in one finding; the others are counted."""
_INDENTED_LINE = re.compile(rb"^[ \t]+(?:data|event):", re.MULTILINE)


def add_verify(commands: Commands) -> None:
    """Register the command `verify` with its help and its arguments."""
    verify = commands.add_parser(
        "verify",
        help="check that cassettes are undamaged and can be decoded, and show how their streams ended",
        description="Prints one line for each file. A recorded failure is not a problem of the file: a 429, a broken "
        "connection, a reader that left. A stream that stops without an end is a problem if the file has no checksums: "
        "then the file itself may have been cut.",
    )
    verify.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder of cassettes")
    verify.add_argument(
        "--drift",
        action="store_true",
        help="also count the fields of answers that the models of the installed SDKs do not know, or that are missing",
    )
    verify.add_argument("--strict", action="store_true", help="with --drift: such fields are a problem")
    verify.set_defaults(run=_run_verify)


def _run_verify(options: argparse.Namespace) -> int:
    """Print a line for each cassette: bad with its problems, or ok.

    Return 1 if one is bad, or differs with `--drift --strict`, else 0.
    """
    if options.strict and not options.drift:
        raise CommandError("--strict says that what --drift finds is a problem: give both")
    screen = Screen()
    bad = drifted = 0
    paths = find_cassettes(options.path)
    for path in paths:
        cassette = read_cassette(path)
        problems = _find_problems(cassette)
        bad += bool(problems)
        if problems:
            text = "; ".join(_without_path(problem, path) for problem in problems)
            screen.print_row("bad", str(path), text, style="red")
        else:
            note = "" if cassette.has_checksum else " (no checksums)"
            screen.print_row("ok", str(path), summarize(cassette) + note, style="green")
        drift = find_drift(cassette) if options.drift else []
        drifted += bool(drift)
        for text in drift:
            screen.print_row("drift", str(path), text, style="yellow")
    if screen.is_for_people and len(paths) > 1:
        screen.print(f"{bad or 'none'} of {counted(len(paths), 'cassette')} bad", style="red" if bad else "green")
    return int(bad > 0 or (options.strict and drifted > 0))


def _find_problems(cassette: CassetteFile) -> list[str]:
    """Return the problems of a cassette, one line each, with the path of the file and the number of the interaction.

    Problems are damage, what cannot be decoded, and streams that are cut off in a file without checksums.
    """
    problems = list(cassette.damage)
    for number, reading in enumerate(cassette.readings, 1):
        if reading.problem or (reading.ending.word == "cut off" and not cassette.has_checksum):
            problems.append(f"{cassette.path}, interaction {number}: {reading.ending.sentence}")
    return problems


def _without_path(problem: str, path: Path) -> str:
    """Return the description of a problem without the path at its beginning."""
    return problem.removeprefix(str(path)).lstrip(":, ")


def summarize(cassette: CassetteFile) -> str:
    """Return the size of a cassette, and the number of its streams for each kind of ending."""
    endings = Counter(reading.ending.word for reading in cassette.readings)
    counts = ", ".join(f"{count} {word}" for word, count in endings.most_common()) or "empty"
    chunks = sum(len(interaction.response.chunks) for interaction in cassette.interactions)
    size = f"{counted(len(cassette.interactions), 'interaction')}, {counted(chunks, 'chunk')}"
    return f"{size}: {counts}"


def add_lint(commands: Commands) -> None:
    """Register the command `lint` with its help and its arguments."""
    lint = commands.add_parser(
        "lint",
        help="find secrets, unreadable bodies, unneeded headers, cassettes that no test names, and damage",
        description="Prints one line for each finding, or how many cassettes were searched. Secrets are texts of "
        "fields with names such as client_secret or password, values of environment variables with names such as "
        "OPENAI_API_KEY or DB_PASSWORD, and keys of known "
        "shapes: in plain, JSON, percent or base64 spelling, and across the chunks of a stream. Headers that a "
        "recording of today drops or redacts are reported: they often hold keys and cookies. In a file that cannot be "
        "read, secrets are looked for line by line.",
    )
    lint.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder of cassettes")
    lint.add_argument(
        "--tests",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="also find the cassettes that no test in this folder names; may be given several times",
    )
    lint.set_defaults(run=_run_lint)


def _run_lint(options: argparse.Namespace) -> int:
    """Print a line for each finding in the cassettes, and their number. Return 1 if there is one, else 0.

    Raises:
        CommandError: a folder of tests or a path is missing.
    """
    screen = Screen()
    missing = [folder for folder in options.tests if not folder.is_dir()]
    if missing:
        raise CommandError(f"there is no folder {missing[0]}")
    references = _CassetteReferences(options.tests) if options.tests else None
    paths = find_cassettes(options.path)
    found = 0
    for path in paths:
        for finding in _find(read_cassette(path), references):
            found += 1
            screen.print_row(*finding, style="red")
    if screen.is_for_people or not found:
        screen.print(
            f"{counted(found, 'finding')} in {counted(len(paths), 'cassette')}",
            style="red" if found else "green",
        )
    return int(found > 0)


class _Finding(NamedTuple):
    """Row of the output of `lint`."""

    kind: str
    where: str
    what: str


def _find(cassette: CassetteFile, references: _CassetteReferences | None) -> Iterator[_Finding]:
    """Yield the findings in a cassette: damage, secrets, odd bodies, unneeded headers.

    With `references`, also report a cassette that no test names.
    """
    path = str(cassette.path)
    for problem in _find_problems(cassette):
        yield _Finding("damage", path, _without_path(problem, cassette.path))
    for leak in secrets_in_file(cassette):
        yield _Finding("secret", f"{path}, {leak.where}", leak.what)
    for number, interaction in enumerate(cassette.interactions, 1):
        for kind, what in _find_in_bodies(interaction):
            yield _Finding(kind, f"{path}, interaction {number}", what)
    unneeded = _unneeded_headers(cassette)
    if unneeded:
        more = f" and {len(unneeded) - _MAX_HEADERS_SHOWN} more" if len(unneeded) > _MAX_HEADERS_SHOWN else ""
        yield _Finding(
            "headers", path, f"a recording of today drops or redacts {', '.join(unneeded[:_MAX_HEADERS_SHOWN])}{more}"
        )
    if references is not None and not references.include(cassette.path):
        yield _Finding("orphan", path, "no test names it")


def _find_in_bodies(interaction: Interaction) -> Iterator[tuple[str, str]]:
    """Yield kind and description of the findings in bodies.

    "opaque" is a body that is no UTF-8; "damage" is a stream with a line that begins with a space.
    """
    for side, body in (("request", interaction.request_body), ("response", interaction.response.body)):
        if not is_text(body):
            yield "opaque", f"the {side} body is {counted(len(body), 'byte')} of no text: secrets in it cannot be found"
    if _INDENTED_LINE.search(interaction.response.body):
        yield "damage", "a line of the stream begins with a space, so clients ignore it; remove the space"


def _unneeded_headers(cassette: CassetteFile) -> list[str]:
    """Return the recorded headers that a recording of today would drop or redact: sorted, in lower case."""
    rule = HeaderRule()
    names: set[str] = set()
    for interaction in cassette.interactions:
        names |= {name.lower() for name in interaction.request_headers} - CONTENT_HEADERS
        kept = rule.of_response(
            (name, value) for name, values in interaction.response.headers.items() for value in values
        )
        names |= {name.lower() for name, values in interaction.response.headers.items() if kept.get(name) != values}
    return sorted(names)


class _CassetteReferences:
    """Index of the cassettes that the tests in some folders name. Tests are parsed, not run.

    The default cassette of a test is `<module>/<test>.yaml`. There `<test>` begins with the class, if there is one, and
    ends with the parameters in brackets. Other cassettes are named in a string: in a marker, an argument or a path. The
    shared ones, `<module>/module.yaml` and `session.yaml`, are named by the fixtures `module_cassette` and
    `session_cassette`.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._strings: set[str] = set()
        self._tests: defaultdict[str, set[str]] = defaultdict(set)
        """Names of the tests, by module."""
        self._arguments: set[str] = set()
        for folder in folders:
            for path in sorted(folder.rglob("*.py")):
                try:
                    tree = ast.parse(path.read_bytes(), str(path))
                except (SyntaxError, ValueError):  # a file that is the data of a test
                    continue
                self._strings |= {
                    node.value
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Constant) and isinstance(node.value, str)
                }
                self._tests[path.stem].update(_names_of_tests(tree.body))
                self._arguments |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}

    def include(self, cassette: Path) -> bool:
        """Return True if a test names this cassette.

        A string names it with the last parts of its path, with or without the suffix.
        """
        if cassette.stem.partition("[")[0] in self._tests[cassette.parent.name]:
            return True
        is_shared = cassette.stem == "session" or (cassette.stem == "module" and cassette.parent.name in self._tests)
        if is_shared and f"{cassette.stem}_cassette" in self._arguments:
            return True
        paths = (cassette, cassette.with_suffix(""))
        return any(end in self._strings for path in paths for end in _path_ends(path.parts))


def _names_of_tests(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the names of all functions in the body of a module, and of its classes as `Class.name`."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _names_of_tests(node.body, f"{prefix}{node.name}.")


def _path_ends(parts: Sequence[str]) -> Iterator[str]:
    """Yield all ends of a path, the longest first: `a/b/c.yaml`, `b/c.yaml`, `c.yaml`."""
    for start in range(len(parts)):
        yield "/".join(parts[start:])


# --- secrets in files


_FIELD = re.compile(rb"[\s-]*([\w-]+):")
"""Name of a field or a header in YAML."""
_VALUE = re.compile(rb"(?:\s*-|[\s-]*[\w-]+:)[\s\[]+([^\s\[{][^\]]*)")
"""Value of a field or a header in YAML, in its line or in a list below it."""
_PAIR = re.compile(rb"""([\w-]+)\\*["']\s*:\s*\\*["']([^"'\\]+)""")
"""Name and value in JSON, also in JSON that is quoted in a text."""
_OF_STREAM = {"content-type": ["text/event-stream"]}


class Secret(NamedTuple):
    """A secret in a file, without its value."""

    where: str
    """Interaction or line in the file."""
    what: str
    """Place in the interaction, and the origin or kind of the secret."""


def secrets_in_file(cassette: CassetteFile) -> Iterator[Secret]:
    """Yield the secrets in a file: in its interactions, also in edited ones, or in its text if it is no cassette."""
    interactions: Sequence[Interaction] = cassette.interactions
    if cassette.damage and not interactions:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the damage is reported already
                interactions, _ = load_edited(cassette.path)
        except CassetteFormatError:
            yield from _secrets_in_text(cassette.path)
            return
    yield from secrets_in(interactions)


def secrets_in(interactions: Iterable[Interaction]) -> Iterator[Secret]:
    """Yield the secrets in interactions, each with the number of its interaction."""
    for leak in scan(interactions, keys=True):
        yield Secret(f"interaction {leak.interaction}", str(replace(leak, interaction=0)))


def _secrets_in_text(path: Path) -> Iterator[Secret]:
    """Yield the secrets in a file that is no cassette: in its lines, in its events together, and in its whole text."""
    try:
        lines = read(path, bytes).splitlines()
    except CassetteFormatError:  # a pipe, a device, or too long
        return
    redaction, found = Redaction(), set()
    name = b""
    for number, line in enumerate(lines, 1):
        if field := _FIELD.match(line):
            name = field[1]
        headers = {name.decode(): [value[1].decode(errors="replace")]} if (value := _VALUE.match(line)) else {}
        for what in {**_kinds(redaction, _json_in(line)), **_kinds(redaction, headers=headers)}:
            found.add(what)
            yield Secret(f"line {number}", what)
    events = b"\n\n".join(line for line in map(bytes.strip, lines) if line.startswith(b"data:"))
    for what in {**_kinds(redaction, b"\n".join(lines)), **_kinds(redaction, events=events)}.keys() - found:
        at = [f"line {number}" for number, line in enumerate(lines, 1) if what in _kinds(redaction, line)]
        yield from (Secret(where, what) for where in at or ["several lines"])


def _kinds(
    redaction: Redaction, text: bytes = b"", *, events: bytes = b"", headers: Mapping[str, list[str]] | None = None
) -> dict[str, None]:
    """Return the origins and kinds of the secrets in a text, in the events of a stream, and in headers."""
    if not (text or events or headers):
        return {}
    stream = ResponseStream((Chunk(0, events),), headers=_OF_STREAM)
    leaks = redaction.leaks(Interaction("", "", text, stream, headers or {}), keys=True)
    return dict.fromkeys(leak.what for leak in leaks)


def _json_in(line: bytes) -> bytes:
    """Return the JSON in a line of a cassette, without the quotes of YAML around it; empty if there is none.

    Of JSON that was cut off, or is quoted in another way, its texts are returned with their names.
    """
    start = min((place for mark in (b"{", b"[") if (place := line.find(mark)) >= 0), default=-1)
    if start < 0:
        return b""
    text, quote = line[start:], line[start - 1 : start]
    text = text.replace(b"''", b"'") if quote == b"'" else text.replace(b'\\"', b'"') if quote == b'"' else text
    try:
        value = json.JSONDecoder().raw_decode(text.decode())[0]
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        pairs = [{name.decode(): value.decode(errors="replace")} for name, value in _PAIR.findall(line)]
        return json.dumps(pairs).encode() if pairs else b""


# --- drift from the models of the SDKs


_TYPES = {
    "chat": ("openai", "openai.types.chat:ChatCompletionChunk", "openai.types.chat:ChatCompletion"),
    "responses": ("openai", "openai.types.responses:ResponseStreamEvent", "openai.types.responses:Response"),
    "messages": ("anthropic", "anthropic.types:RawMessageStreamEvent", "anthropic.types:Message"),
}
"""For each API: the SDK, the type of its events, and the type of an answer that is not streamed."""


def find_drift(cassette: CassetteFile) -> list[str]:
    """Return a line for each field of the answers that differs from the SDK's models, with its count.

    Raises:
        CommandError: the SDK of an answer is not installed.
    """
    found: Counter[str] = Counter()
    for interaction in cassette.interactions:
        api = api_of(interaction)
        if not api or not 200 <= interaction.response.status < 300:
            continue
        sdk, event, answer = _TYPES[api]
        version = _import(sdk).__version__
        for name, value in _payloads(interaction, api):
            parsed = _parser(sdk, event if name == "event" else answer).construct(value=value).value
            found.update(
                f"{difference} (openai {version})".replace("openai", sdk) for difference in _differences(parsed, "")
            )
    return [f"{count} x {text}" for text, count in sorted(found.items())]


def _import(name: str) -> Any:
    """Import a module of an SDK.

    Raises:
        CommandError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        sdk = name.partition(".")[0]
        raise CommandError(f"--drift needs {sdk}. Install it with: {install_line(sdk)}") from error


@cache
def _parser(sdk: str, type_name: str) -> Any:
    """Return a model of the SDK with a field `value` of a type, for `construct`, which makes it as the SDK does."""
    module, _, name = type_name.partition(":")
    base = _import(sdk).BaseModel
    return pydantic.create_model("Parsed", __base__=base, value=(getattr(_import(module), name), ...))


def _payloads(interaction: Interaction, api: str) -> Iterator[tuple[Literal["event", "answer"], Any]]:
    """Yield the events of a stream, or the only answer, as JSON data. Skip those that SDKs parse without a model."""
    body = interaction.response.body
    content_type = "".join(interaction.response.headers.get("content-type", ()))
    if "event-stream" not in content_type and not body.lstrip().startswith((b"data:", b"event:", b":")):
        if isinstance(value := _data(body), dict):
            yield "answer", value
        return
    decoder = SSEDecoder()
    try:
        events = list(decoder.feed(body + b"\n\n"))  # also the last event of a stream that was cut off
    except StreamError:  # `verify` says so
        return
    for event in events:
        value = _data(event.data)
        is_error = isinstance(value, dict) and ("error" in value or value.get("type") == "ping") and api != "responses"
        if isinstance(value, dict) and not is_error:
            yield "event", value


def _data(text: bytes) -> Any:
    """Return the value of a JSON text; None if it is no JSON, such as `[DONE]`."""
    try:
        return pydantic.TypeAdapter(Any).validate_json(text)
    except ValueError:
        return None


def _differences(value: Any, place: str) -> Iterator[str]:
    """Yield each unknown field and each missing required field of a parsed value, at any depth.

    Of a value whose `type` is not known, only that is reported.
    """
    if isinstance(value, list):
        for each in value:
            yield from _differences(each, f"{place}[*]")
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _differences(each, f"{place}.{name}")
    elif isinstance(value, pydantic.BaseModel):
        model = type(value)
        place = place or model.__name__
        if (unknown := _unknown_type(value)) is not None:
            yield f"{place}: the type {unknown!r} is not known"
            return
        extra = (name for name in value.model_extra or () if name not in _repeated_parameters(model))
        yield from (f"{place}.{name} is not known" for name in extra)
        for name, field in model.model_fields.items():
            if name in value.model_fields_set:
                yield from _differences(getattr(value, name), f"{place}.{field.alias or name}")
            elif field.is_required():
                yield f"{place}.{field.alias or name} is missing"


@cache
def _repeated_parameters(model: type[pydantic.BaseModel]) -> frozenset[str]:
    """Return the parameters of a request that an answer of this model repeats, by the SDK's types of requests.

    OpenAI's Responses repeat `store`, which the SDK's model of a response has never had.
    """
    if (model.__module__, model.__name__) != ("openai.types.responses.response", "Response"):
        return frozenset()
    parameters = getattr(_import("openai.types.responses.response_create_params"), "ResponseCreateParamsBase", None)
    return frozenset(getattr(parameters, "__annotations__", ()))


def _unknown_type(value: pydantic.BaseModel) -> Any:
    """Return the value of the field `type` if the model has other ones, or None: no model of a union has fitted."""
    field = type(value).model_fields.get("type")
    found = getattr(value, "type", None)
    if field is None or get_origin(field.annotation) is not Literal or found in get_args(field.annotation):
        return None
    return found
