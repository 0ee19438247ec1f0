"""Command that runs all benchmarks, each in a process of its own, so that no objects of another benchmark are alive."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import circumstances
from benchmarks.report import PEERS, RESULTS, earlier_tables, report

if TYPE_CHECKING:
    from collections.abc import Iterable

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
"""The benchmarks; those that measure what a user feels come first."""


LIMIT = 1_200
"""Seconds on the clock after which a benchmark is stopped; the other frameworks have three times as long."""


def run(module: str, *, quick: bool) -> dict[str, Any]:
    """Run one benchmark in a new process, and return its results, or the reason why it has none."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", "-", *(["--quick"] if quick else [])]
    limit = LIMIT * (3 if module == PEERS else 1)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": {module: f"not finished after {limit:,} s"}}
    except subprocess.CalledProcessError as error:
        return {"failed": {module: f"ended with status {error.returncode}"}}
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def measure(modules: Iterable[str], *, quick: bool) -> dict[str, Any]:
    """Run benchmarks, and return the results of all; each table has the name of its module.

    A benchmark that fails leaves the others; the results say which failed.
    """
    results: dict[str, Any] = {**circumstances(), "tables": [], "failed": {}}
    for module in modules:
        began = time.perf_counter()
        result = run(module, quick=quick)
        told = result.get("failed", {}).get(module, "measured")
        print(f"{module}: {told}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        results["tables"] += [{**table, "module": module} for table in result.get("tables", [])]
        for part in ("versions", "failed"):
            results[part].update(result.get(part, {}))
    return results


def main() -> int:
    """Run the benchmarks that the command line chooses, write their results, and return 1 if some have failed."""
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
    modules = [module for module in MODULES if module != "remote" or find_spec("nats")]
    results = measure([*modules, *([PEERS] if chosen.peers else [])], quick=chosen.quick)
    if folder := chosen.results or (None if chosen.quick else RESULTS):
        missing = {*results["failed"], *(() if chosen.peers else [PEERS])}
        results["tables"] += earlier_tables(folder, missing)
        report(results, folder)
    return bool(results["failed"])


if __name__ == "__main__":
    sys.exit(main())
