"""Programs in processes that are forked from one that has imported the packages.

Such a process starts in 30 ms, and a new interpreter that imports the SDKs takes half a second.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PRELOADED = ["anthropic", "openai", "sqlalchemy.ext.asyncio", "miniagents.ext.sql", "miniagents_testing.cassette"]
"""Modules that the first process imports."""


def run_program(path: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a Python file in its folder, without input and with warnings as errors; return its exit code and output.

    Args:
        path: the file; its output is kept beside it.
        environment: all environment variables.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    outputs = [path.with_suffix(f".{name}") for name in ("stdout", "stderr")]
    process = context.Process(target=_run, args=(path, dict(environment), outputs))
    process.start()
    process.join()
    return subprocess.CompletedProcess(
        [str(path)], process.exitcode or 0, *(each.read_text("utf-8") for each in outputs)
    )


def _run(path: Path, environment: dict[str, str], outputs: list[Path]) -> None:
    """Run a file as the main program of this process."""
    os.chdir(path.parent)
    os.environ.clear()
    os.environ.update(environment)
    for stream, output in zip((sys.stdout, sys.stderr), outputs, strict=True):
        stream.flush()
        with output.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), stream.fileno())
        stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a stream of a process is a `TextIOWrapper`
    sys.argv = [str(path)]
    sys.path.insert(0, str(path.parent))
    warnings.simplefilter("error")
    runpy.run_path(str(path), run_name="__main__")
