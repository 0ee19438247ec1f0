"""The environments that peers run in: one for all that go together, and one for whoever has our name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALL", "FIRST", "Environment"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_RUN = "import runpy, sys; sys.path.append({root!r}); runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"


@dataclass(frozen=True)
class Environment:
    """A virtual environment in `.bench/`, made when it is first needed, or anew."""

    name: str
    requirements: tuple[str, ...] = ()
    """Beside those of the dependency group `bench`, if `group`."""
    group: bool = False

    @property
    def folder(self) -> Path:
        """Where it is."""
        return _ROOT / ".bench" / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def make(self, anew: bool = False) -> None:
        """Create it and install what belongs to it, unless that was done before."""
        done = self.folder / "installed.txt"
        wanted = [*self.requirements, *(_group() if self.group else ())]
        if not anew and done.exists() and done.read_text(encoding="utf-8").splitlines() == wanted:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=True)
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
        done.write_text("\n".join(wanted), encoding="utf-8")

    def command(self, module: str, *arguments: str) -> list[str]:
        """How to run a module of the checkout there.

        The checkout comes last on the path, whatever the environment variables say: an installed `miniagents` is not to
        be hidden by the one here.
        """
        return [str(self.python), "-I", "-c", _RUN.format(root=str(_ROOT), module=module), *arguments]


def _group() -> list[str]:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [requirement for requirement in project["dependency-groups"]["bench"] if isinstance(requirement, str)]


ALL = Environment("peers", group=True)
FIRST = Environment("miniagents-0.0.35", ("miniagents==0.0.35", "openai>=3", "anthropic>=2"))
