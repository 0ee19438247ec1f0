"""Command that runs all benchmarks, each in a process of its own, so that no objects of another benchmark are alive."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, report, tables_of_peers

MODULES = (
    "answers",
    "felt",
    "waiting",
    "startup",
    "tokens",
    "floors",
    "calls",
    "messages",
    "decoding",
    "acting",
    "observing",
    "life",
    "cassettes",
    "recording",
    "pictures",
    "histories",
    "remote",
    "growth",
)
"""The benchmarks, those of what a user feels first."""


def run(module: str, *, quick: bool) -> dict[str, Any]:
    """Run one benchmark in a new process, and return its results."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", "-", *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def main() -> None:
    """Run the benchmarks that the command line chooses, and write their results."""
    parser = argparse.ArgumentParser(
        description="Run all benchmarks, and write tables and plots; see benchmarks/README.md"
    )
    parser.add_argument("--quick", action="store_true", help="check that all benchmarks run; the figures mean nothing")
    parser.add_argument(
        "--peers", action="store_true", help="measure other frameworks, too; creates their virtual environments"
    )
    parser.add_argument(
        "--results",
        metavar="FOLDER",
        type=Path,
        help="where to write (default: benchmarks/results; with --quick: nowhere)",
    )
    chosen = parser.parse_args()
    results: dict[str, Any] = {"tables": [], "versions": {}}
    modules = [module for module in MODULES if module != "remote" or find_spec("nats")]
    for module in (*modules, *(["peers"] if chosen.peers else [])):
        result = run(module, quick=chosen.quick)
        tables = [*results["tables"], *result.pop("tables", [])]
        results = {**results, **result, "tables": tables, "versions": {**results["versions"], **result["versions"]}}
    if folder := chosen.results or (None if chosen.quick else RESULTS):
        if not chosen.peers:
            results["tables"] += tables_of_peers(folder)
        report(results, folder)


if __name__ == "__main__":
    main()
