"""Virtual environments of peers: one for most peers, and one for the older framework that is named `miniagents` too."""

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
    """Virtual environment in `.bench/`, created when it is first needed."""

    name: str
    requirements: tuple[str, ...] = ()
    """Packages to install."""
    group: bool = False
    """True to install the dependency group `bench` as well."""

    @property
    def folder(self) -> Path:
        """Folder of the environment."""
        return _ROOT / ".bench" / self.name

    @property
    def python(self) -> Path:
        """Path of the interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def is_made(self) -> bool:
        """True if all packages are installed."""
        return self._installed.exists()

    @property
    def _installed(self) -> Path:
        """File with the requirements that are installed, written last."""
        return self.folder / "installed.txt"

    def make(self, anew: bool = False) -> None:
        """Create the environment and install its packages, unless that was done before; always if `anew`."""
        wanted = [*self.requirements, *(_group() if self.group else ())]
        if not anew and self.is_made and self._installed.read_text(encoding="utf-8").splitlines() == wanted:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=True)
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
        self._installed.write_text("\n".join(wanted), encoding="utf-8")

    def command(self, module: str, *arguments: str) -> list[str]:
        """Return the command that runs a module of the checkout in this environment.

        The checkout is the last entry of `sys.path`, and environment variables are ignored, so that an installed
        `miniagents` is imported before the one of the checkout.
        """
        return [str(self.python), "-I", "-c", _RUN.format(root=str(_ROOT), module=module), *arguments]


def _group() -> list[str]:
    """Return the requirements of the dependency group `bench`."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [requirement for requirement in project["dependency-groups"]["bench"] if isinstance(requirement, str)]


ALL = Environment("peers", group=True)
FIRST = Environment("miniagents-0.0.35", ("miniagents==0.0.35", "openai>=3", "anthropic>=2"))
