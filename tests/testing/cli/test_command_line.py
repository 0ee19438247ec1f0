"""Behaviour of all commands: exit codes, pipes, terminals and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

import miniagents
from miniagents.errors import install_line
from miniagents_testing.cassette import Chunk, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit

PROGRAM = [sys.executable, "-m", "miniagents_testing"]


def test_help_lists_the_exit_codes(run: Callable[..., CommandResult]) -> None:
    """`--help` explains each exit code."""
    done = run("--help")
    assert done.code == 0
    for line in ("0    fine", "1    a problem was found", "2    the command could not be run", "130  ended by Ctrl-C"):
        assert line in done.out


@pytest.mark.parametrize("command", ["play", "show", "verify", "lint", "import"])
def test_missing_file_is_one_line_and_code_2(run: Callable[..., CommandResult], tmp_path: Path, command: str) -> None:
    """Each command names the missing file in one line, without a traceback."""
    more = ["-o", tmp_path / "out"] if command == "import" else []
    done = run(command, tmp_path / "nothing.yaml", *more)
    assert (done.code, done.out) == (2, "")
    assert "nothing.yaml" in done.err
    assert done.err.count("\n") == 1


def test_version_is_that_of_the_package(run: Callable[..., CommandResult]) -> None:
    """`--version` prints the version that is installed, in one line."""
    done = run("--version")
    assert (done.code, done.out, done.err) == (0, f"miniagents {miniagents.__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [
        *("play {}", "export {} -o page.html", "edit {}", "fork {} new.yaml --at 1", "fork {file} {} --at 1"),
        *("diff {} {file}", "diff {file} {}", "serve --cassette {}", "serve --script {}"),
    ],
)
def test_folder_for_one_file_is_code_2(run: Callable[..., CommandResult], conversation: Path, command: str) -> None:
    """A command that takes one file, but gets a folder, says to name one file, with exit code 2."""
    folder = conversation.parent
    done = run(*command.format(folder, file=conversation).split())
    assert (done.code, done.out) == (2, "")
    assert f"{folder} is a folder: name one file\n" in done.err
    assert [path.name for path in folder.iterdir()] == [conversation.name]


@pytest.mark.parametrize("command", ["show", "verify", "lint"])
def test_folder_without_cassettes_is_code_2(run: Callable[..., CommandResult], tmp_path: Path, command: str) -> None:
    """A command for a folder without cassettes prints an error, with exit code 2."""
    (tmp_path / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    done = run(command, tmp_path)
    assert done.code == 2
    assert "no cassettes" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("play", "miniagents-testing play: the following arguments are required: FILE\n"),
        ("", "miniagents-testing: a command is missing\n"),
        ("shwo x", "miniagents-testing: there is no command 'shwo'; did you mean 'show'?\n"),
        ("xyz", "miniagents-testing: there is no command 'xyz'; known are play, show, "),
        ("show x --plian", "miniagents-testing show: '--plian' is not known here; did you mean '--plain'?\n"),
        ("show x -n one", "miniagents-testing show: argument --number/-n: invalid int value: 'one'\n"),
        ("play x --speed=fast", "miniagents-testing play: argument --speed: fast is not a speed: give 0 or a"),
        *(
            (
                f"serve --port={port}",
                f"miniagents-testing serve: argument --port: {port} is no port: give a number from 0",
            )
            for port in ("99999999", "65536", "-1", "1.5", "http")
        ),
    ],
)
def test_wrong_arguments_are_code_2(run: Callable[..., CommandResult], arguments: str, said: str) -> None:
    """The message about wrong arguments begins with the command, names the nearest word, and ends in the usage."""
    done = run(*arguments.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(said)
    assert "\nusage: miniagents-testing" in done.err


_MERGED = (
    "is a mark of a merge ({}), so two versions are in it. Keep one, as `git checkout --ours` or `--theirs` does, "
    "or record it again"
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [\n", "is no cassette: line 2 is not YAML"),
        (b"{\n1", "is no cassette: line 2 is not JSON"),
        (b"", "is no cassette: it is empty"),
        (b"a: b\n\x00", "is no cassette: line 2 is not YAML"),
        (b"{\xff", "is no cassette: it is no text in UTF-8"),
        (b"\x00" * 9, "is no cassette: line 1 is not YAML"),
        (
            b"a:\n<<<<<<< HEAD\n- b\n=======\n- c\n>>>>>>> other\n",
            f"is no cassette: line 2 {_MERGED.format('<<<<<<<')}",
        ),
        (b"a: [\r\n=======\r\n- b", f"is no cassette: line 2 {_MERGED.format('=======')}"),
        (b'{\n"a": 1\n>>>>>>> other\n}', f"is no cassette: line 3 {_MERGED.format('>>>>>>>')}"),
        (b"hello", "is no cassette: it has no list of interactions"),
        (b"interactions: []\n", "is no cassette: its end is missing, so it was cut off"),
        (b"interactions: []\nversion: 2\n", "has version 2 of vcrpy's format; only 1 is known here"),
        (b"interactions: [{}]\nversion: 1\n", "is no cassette: an interaction lacks the key 'response'"),
    ],
)
def test_damage_is_said_in_words(
    run: Callable[..., CommandResult], tmp_path: Path, content: bytes, reason: str
) -> None:
    """A message about a file that is no cassette says in words what is wrong, and in which line."""
    (tmp_path / "bad.yaml").write_bytes(content)
    done = run("show", tmp_path / "bad.yaml")
    assert (done.code, done.err) == (1, f"miniagents-testing show: {tmp_path / 'bad.yaml'} {reason}\n")


def test_damaged_file_is_code_1(run: Callable[..., CommandResult], conversation: Path) -> None:
    """For a damaged file, `play` and `show` name the file and the interaction, with exit code 1."""
    conversation.write_text(conversation.read_text(encoding="utf-8").replace("Auf ", "Ab "), encoding="utf-8")
    for command in (["play", conversation], ["show", conversation, "-n", "1"]):
        done = run(*command)
        assert done.code == 1
        assert f"{conversation}" in done.err
        assert "interaction 2" in done.err


KEYS = "interactions request method uri body headers content-type response status code message string"
KEYS_WITH_CHECKSUMS = f"{KEYS} stream v started_ms headers_ms chunks end digest version miniagents count"


@pytest.mark.parametrize(
    ("with_checksums", "key"),
    [*((True, key) for key in KEYS_WITH_CHECKSUMS.split()), *((False, key) for key in KEYS.split())],
)
def test_damaged_line_is_never_a_traceback(
    run: Callable[..., CommandResult], conversation: Path, with_checksums: bool, key: str
) -> None:
    """For a cassette with a missing, doubled or changed line, each command ends with exit code 0 or 1."""
    text = conversation.read_text(encoding="utf-8")
    if not with_checksums:
        document = yaml.safe_load(text)
        del document["miniagents"]
        for entry in document["interactions"]:
            del entry["response"]["stream"]
        text = yaml.safe_dump(document)
    lines = text.splitlines()
    position = next(number for number, line in enumerate(lines) if line.strip(" -").startswith(f"{key}:"))
    line, name = lines[position], lines[position].partition(":")[0]
    damaged = conversation.with_name("damaged.yaml")
    for change in ("", f"{line}\n{line}", f"{name}:", f"{name}: 5", f"{name}: x", f"{name}: [1]", f"{name}: {{a: 1}}"):
        changed = "\n".join([*lines[:position], change, *lines[position + 1 :]])
        for command in (
            "play",
            "show",
            "verify",
            "lint",
            f"import --force -o {damaged.parent / 'out'}",
            "edit --reseal",
        ):
            damaged.write_text(changed, encoding="utf-8")
            arguments = command.split()
            assert run(arguments[0], damaged, *arguments[1:]).code in (0, 1)


HALF = r"\ud83d"
"""Half a surrogate pair, as JSON writes it."""
ODD_EVENTS = [
    f'{{"choices":[{{"index":0,"delta":{{"content":"{HALF}","reasoning":"{HALF}","refusal":"{HALF}"}}}}]}}',
    f'{{"model":"{HALF}","choices":[{{"delta":{{"tool_calls":[{{"function":{{"name":"{HALF}"}}}}]}}}}]}}',
    f'{{"error":{{"message":"{HALF}","code":"{HALF}"}}}}',
    f'{{"{HALF}":{{}},"choices":[{{"index":NaN,"delta":{{"content":"a"}}}}]}}',
    "[" * 900 + "]" * 900,
]
ODD_REQUESTS = [f'{{"model":"{HALF}","messages":[{{"role":"{HALF}","content":"{HALF}"}}]}}', '{"messages":' + "[" * 900]
ODD_URIS = ["http://[::1/v1/messages", "", "stdio:python x", "https://api.openai.com:99999999/v1/chat/completions"]


@pytest.mark.parametrize(
    "command",
    [
        "show {}",
        "show {} -n 1",
        "show {} --plain",
        "play {}",
        "verify {}",
        "verify --drift {}",
        "lint {}",
        "diff {} {}",
        "import {} --force -o {}.yaml",
        "edit --reseal {}",
    ],
)
def test_command_prints_no_traceback_for_an_odd_recording(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit, command: str
) -> None:
    """For lone surrogates, deep nesting and malformed URLs in a recording, each command exits with code 0 or 1."""
    answers = [
        kit.interaction("Hi", ResponseStream((Chunk(0, f"data: {event}\n\n".encode()),))) for event in ODD_EVENTS
    ]
    errors = [kit.interaction("Hi", ResponseStream((Chunk(0, event.encode()),), status=429)) for event in ODD_EVENTS]
    asked = [kit.interaction("", kit.answer("Hi"), request_body=body.encode()) for body in ODD_REQUESTS]
    addressed = [kit.interaction("Hi", kit.answer("Hi"), uri=uri) for uri in ODD_URIS]
    for number, odd in enumerate([*answers, *errors, *asked, *addressed]):
        path = tmp_path / f"{number}.yaml"
        save(path, [odd])
        assert run(*command.format(path, path).split()).code in (0, 1)


def test_closed_output_is_code_141_without_a_traceback(conversation: Path) -> None:
    """When its output is closed, as by `| head -1`, a command ends quietly with exit code 141."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "play", str(conversation)], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal, and no pseudo-terminals")
def test_interrupt_is_code_130_and_keeps_the_output(conversation: Path) -> None:
    """Ctrl-C while `play` prints ends it with exit code 130, the text so far, and no traceback."""
    with subprocess.Popen(
        [*PROGRAM, "play", "--speed", "0.001", str(conversation)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        shown = "USER: Hi, who are you?\ngpt-4: "
        assert program.stdout.read(len(shown)) == shown
        program.send_signal(signal.SIGINT)
        assert program.stdout.read() == ""
        assert program.stderr.read() == ""
    assert program.returncode == 130


def test_pipe_gets_colours_when_force_color_is_set(conversation: Path) -> None:
    """With `FORCE_COLOR`, a command prints colours into a pipe, but no movements of the cursor."""
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        [*PROGRAM, "play", str(conversation)], capture_output=True, env=environment, encoding="utf-8", check=True
    )
    assert "\x1b[1;32mUSER: \x1b[0mHi, who are you?" in done.stdout
    assert "\x1b[?25l" not in done.stdout


def test_characters_are_escaped_when_the_output_cannot_encode_them(conversation: Path) -> None:
    """Characters that the encoding of the output lacks are escaped, and raise nothing."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*PROGRAM, "play", str(conversation)], capture_output=True, env=environment, encoding="ascii", check=True
    )
    assert r"USER: Bye \U0001f44b" in done.stdout


def test_missing_extra_is_code_2_with_the_line_for_pip() -> None:
    """Without the extra, every command says how to install it, with exit code 2."""
    code = "import sys; sys.modules['rich'] = None; from miniagents_testing.cli import main; sys.exit(main(['show']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    line = f"miniagents-testing: 'rich' is not installed. Install it with: {install_line('testing')}\n"
    assert done.stderr == line
