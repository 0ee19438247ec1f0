"""The site of the docs: it builds without a warning, and its pages load nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None, reason="needs zensical, as `tox -e docs` has"
)


class Page(HTMLParser):
    """Page of the site: the addresses that it loads, its links, and the ids that links may name."""

    LOADING = frozenset({"audio", "embed", "iframe", "img", "link", "object", "script", "source", "video"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the addresses and the id of an element."""
        for name, value in attrs:
            if name in {"src", "href", "data"} and value:
                (self.loaded if tag in self.LOADING else self.links).append(value)
            elif name in {"id", "name"} and value:
                self.places.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Build the site from a copy of docs and packages, and return its pages by path."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("docs", "miniagents", "miniagents_testing"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path: Page(path) for path in (folder / ".site").rglob("*.html")}
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    return pages


def test_pages_load_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    """Scripts, styles, fonts and pictures of each page are files of the site."""
    elsewhere = {address for page in site.values() for address in page.loaded if re.match(r"(\w+:)?//", address)}
    assert elsewhere == set()
    (folder,) = {path.parent for path in site if path.name == "404.html"}
    styles = folder.rglob("*.css")
    assert not [path.name for path in styles if re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text("utf-8"))]


def test_links_of_pages_name_places_that_exist(site: dict[Path, Page]) -> None:
    """Each link between pages of the site names a file that exists, and its fragment an id in that file."""
    broken = []
    for path, page in site.items():
        for link in page.links:
            address, place = urldefrag(link)
            if re.match(r"\w+:|/", address) or path.name == "404.html":
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (place and target in site and unquote(place) not in site[target].places):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_reference_shows_names_with_their_docstrings(site: dict[Path, Page]) -> None:
    """The reference has an entry for `MiniAgents.run`, one for a fault and one for an error."""
    places = set().union(*(page.places for path, page in site.items() if path.parent.name == "reference"))
    assert {"miniagents.MiniAgents.run", "miniagents_testing.faults.reset", "miniagents.errors.LLMError"} <= places
