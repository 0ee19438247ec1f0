"""`export`: a cassette as a picture, one HTML page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from miniagents_testing.cassette import save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit

KEY = "sk-proj-" + "Ab1" * 20


def test_export_writes_a_page(run: Callable[..., CommandResult], conversation: Path, tmp_path: Path) -> None:
    """`export` writes a page with prompts and answers, also into a new folder, and prints its path and size."""
    page = tmp_path / "new" / "page.html"
    done = run("export", conversation, "-o", page)
    text = page.read_text(encoding="utf-8")
    assert done == (0, f"{page}\t2 requests · 1 agent · 30.5 s\t{len(text.encode()):,} bytes\n", "")
    assert "<title>conversation.yaml</title>" in text
    for words in ("Hi, who are you?", "A machine.", "Bye 👋", "Auf Wiedersehen"):
        assert text.count(words) == 1


def test_export_replaces_a_page(run: Callable[..., CommandResult], conversation: Path, tmp_path: Path) -> None:
    """`export` replaces a page that it has written before."""
    page = tmp_path / "page.html"
    assert [run("export", conversation, "-o", page).code for _ in range(2)] == [0, 0]


def test_export_replaces_no_other_file(run: Callable[..., CommandResult], conversation: Path, tmp_path: Path) -> None:
    """`export` leaves a file that is no picture as it is, unless `--force` is given; it never replaces the cassette."""
    other = tmp_path / "page.html"
    other.write_text("mine", encoding="utf-8")
    done = run("export", conversation, "-o", other)
    assert (done.code, other.read_text(encoding="utf-8")) == (2, "mine")
    assert done.err.startswith(f"miniagents-testing export: {other} exists already and is no picture")
    assert run("export", conversation, "-o", other, "--force").code == 0
    before = conversation.read_bytes()
    assert run("export", conversation, "-o", conversation, "--force").code == 2
    assert conversation.read_bytes() == before
    done = run("export", conversation, "-o", tmp_path)
    assert (done.code, "is a folder" in done.err) == (2, True)


def test_export_refuses_a_cassette_with_a_secret(run: Callable[..., CommandResult], kit: Kit, tmp_path: Path) -> None:
    """`export` names the place of a secret, and writes a page with it only if `--force` is given."""
    cassette, page = tmp_path / "c.yaml", tmp_path / "page.html"
    save(cassette, [kit.interaction(f"My key is {KEY}", kit.answer("Ho"))])
    done = run("export", cassette, "-o", page)
    assert (done.code, done.out, page.exists()) == (1, "", False)
    assert re.match(r"miniagents-testing export: \S+c.yaml, interaction 1, .*: a secret; remove it, or write", done.err)
    assert KEY not in done.err
    assert run("export", cassette, "-o", page, "--force").code == 0
    assert KEY in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "[" * 50, "is no cassette: line 2 is not YAML"),
        (lambda text: text.replace("machine", "person"), "its digest does not fit"),
        (lambda text: text[: len(text) // 2], "conversation.yaml"),
    ],
)
def test_export_leaves_no_page_of_a_damaged_file(
    damage: Callable[[str], str], words: str, run: Callable[..., CommandResult], conversation: Path, tmp_path: Path
) -> None:
    """`export` says what is damaged, and leaves no page, whether or not `--force` is given."""
    conversation.write_text(damage(conversation.read_text(encoding="utf-8")), encoding="utf-8")
    for more in ((), ("--force",)):
        done = run("export", conversation, "-o", tmp_path / "page.html", *more)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("miniagents-testing export: ")
        assert words in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["conversation.yaml"]


def test_export_reads_each_cassette_of_the_repository(
    run: Callable[..., CommandResult], root: Path, tmp_path: Path
) -> None:
    """`export` writes a page of each committed cassette: of all APIs, of failures, and of interrupted answers."""
    for number, cassette in enumerate(sorted((root / "cassettes").rglob("*.yaml"))):
        done = run("export", cassette, "-o", tmp_path / f"{number}.html")
        assert (done.code, done.err) == (0, "")


def test_export_of_a_missing_file_is_one_line(run: Callable[..., CommandResult], tmp_path: Path) -> None:
    """For a file that does not exist, `export` ends with code 2 and one line that names the file."""
    done = run("export", tmp_path / "none.yaml", "-o", tmp_path / "page.html")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"miniagents-testing export: {tmp_path / 'none.yaml'}: No such file or directory\n"
