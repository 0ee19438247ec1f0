"""The distribution: its metadata, and the packages that an import loads."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import miniagents

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INSTALLED = pytest.mark.skipif(
    not list(metadata.Distribution.discover(name="miniagents")), reason="miniagents is not installed here; tox does it"
)
OPTIONAL = (
    "openai",
    "anthropic",
    "httpx2",
    "opentelemetry",
    "prompt_toolkit",
    "sqlalchemy",
    "aiosqlite",
    "rich",
    "yaml",
    "starlette",
    "uvicorn",
    "pytest",
    "hypothesis",
    "vcr",
)


@pytest.fixture(scope="session")
def project(root: Path) -> dict[str, Any]:
    """Return the `[project]` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def _modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@INSTALLED
def test_version_is_that_of_the_project(project: dict[str, Any]) -> None:
    """`miniagents.__version__` is the version in pyproject.toml."""
    assert miniagents.__version__ == project["version"] == metadata.version("miniagents")


@pytest.mark.parametrize("package", ["miniagents", "miniagents_testing"])
def test_package_has_a_py_typed_file(package: str) -> None:
    """The package has the file `py.typed`, without which type checkers do not read its annotations."""
    assert resources.files(package).joinpath("py.typed").is_file()


def test_framework_requires_pydantic_only(project: dict[str, Any]) -> None:
    """The only dependencies at run time are pydantic and `typing_extensions`, which pydantic depends on itself."""
    names = [dependency.partition(">")[0] for dependency in project["dependencies"]]
    assert names == ["pydantic", "typing_extensions"]


def test_X17_lower_bounds_exclude_versions_with_known_flaws(project: dict[str, Any]) -> None:
    """Each extra that needs vcrpy asks for 8.2.1 or newer, as older versions run code that a cassette names."""
    safe = {"vcrpy": (8, 2, 1)}
    found = {
        name: tuple(map(int, version.split(".")))
        for requirements in project["optional-dependencies"].values()
        for requirement in requirements
        for name, _, version in [requirement.partition(">=")]
        if name in safe
    }
    assert found.keys() == safe.keys()
    assert all(found[name] >= version for name, version in safe.items())


def _needed(requirements: Iterable[str]) -> set[str]:
    """Return the names of distributions that these requirements install, those of extras left out."""
    found: set[str] = set()
    left = [Requirement(each) for each in requirements]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            left += map(Requirement, metadata.requires(name) or ())
    return found


PROGRAM_WITH_CASSETTES = """
import sys, warnings

class Without:
    "Finder that does not find blocked modules."
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, *more)

sys.meta_path[:] = map(Without, sys.meta_path)
before = set(sys.modules)

from miniagents_testing.cassette import Chunk, Interaction, Matching, Redaction, ResponseStream
from miniagents_testing.cassette import load, save, use_cassette

body = b'--X\\r\\nContent-Disposition: form-data; name="file"; filename="a"\\r\\n\\r\\n\\xff\\r\\n--X--\\r\\n'
headers = {"content-type": ["multipart/form-data; boundary=X"]}
save("c.yaml", [Interaction("POST", "https://x.test/", body, ResponseStream((Chunk(1, b"hi"),)), headers)])
with use_cassette("c.yaml", unplayed="ignore", redact=Redaction([])) as session:
    assert session.interactions == load("c.yaml")
assert b'"file"' in Matching().key("POST", "https://x.test/", body, headers)[-1]
with warnings.catch_warnings(record=True) as warned, use_cassette("new.yaml", record_mode="once"):
    warnings.simplefilter("always")
print([str(each.message) for each in warned], sorted(BLOCKED & (sys.modules.keys() - before)))
"""


def test_cassettes_need_only_what_their_extra_names(project: dict[str, Any], tmp_path: Path) -> None:
    """A cassette opens for playing and recording if only dependencies and the extra `cassettes` can be imported."""
    needed = _needed([*project["dependencies"], *project["optional-dependencies"]["cassettes"]])
    assert {"vcrpy", "wrapt", "pydantic"} <= needed
    assert "httpx2" not in needed
    ours = {"miniagents", "miniagents_testing"}
    blocked = {
        module
        for module, names in metadata.packages_distributions().items()
        if module not in ours and not needed & {canonicalize_name(name) for name in names}
    }
    assert {"httpx2", "httpx", "openai", "rich", "hypothesis"} <= blocked
    environment = {**os.environ, "CI": ""}
    program = f"BLOCKED = {blocked!r}\n{PROGRAM_WITH_CASSETTES}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (
        "['new.yaml: Nothing was recorded: no client that can be recorded sent a request'] []\n",
        "",
    )


def test_extra_testing_has_all_that_cassettes_need(project: dict[str, Any]) -> None:
    """The extra `testing` of the package includes the extra `cassettes`."""
    assert "miniagents[cassettes]" in project["optional-dependencies"]["testing"]


@INSTALLED
def test_extra_all_has_every_other_extra(project: dict[str, Any]) -> None:
    """The extra `all` lists every other extra, but for drivers of servers."""
    extras = project["optional-dependencies"]
    assert set(metadata.metadata("miniagents").get_all("Provides-Extra") or ()) == set(extras)
    (everything,) = extras.pop("all")
    assert everything.partition("[")[2].rstrip("]").split(",") == [
        name for name in extras if name not in ("nats", "postgres")
    ]


@pytest.mark.parametrize(
    "module",
    [
        "miniagents",
        "miniagents.utils",
        "miniagents.ext.console_user_agent",
        "miniagents.ext.chat_history_md",
        "miniagents.ext.llm.openai",
        "miniagents.ext.llm.anthropic",
        "miniagents_testing",
    ],
)
def test_import_loads_no_optional_package(module: str) -> None:
    """Importing a module loads no optional package, because an SDK takes up to 1.5 s."""
    assert not _modules_after(f"import {module}") & set(OPTIONAL)


def test_every_public_name_can_be_imported() -> None:
    """`__all__` has no name twice, and each of its names can be imported."""
    assert len(miniagents.__all__) == len(set(miniagents.__all__))
    assert [name for name in miniagents.__all__ if not hasattr(miniagents, name)] == []
