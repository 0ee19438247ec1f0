"""Runner of all peers. A measure that fails or does not finish is reported with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import cell_of_peer
from benchmarks.measure import circumstances
from benchmarks.peers.environments import ALL, FIRST, Environment
from benchmarks.peers.peer import MEASURES
from benchmarks.served import PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PEERS", "run"]

LIMIT = 45
"""Seconds of CPU time after which a measure is stopped; the bare side takes 0.2 s."""

PEERS: dict[str, tuple[str, Environment]] = {
    "MiniAgents": ("ours", ALL),
    "a list and a future (no framework)": ("limit", ALL),
    "autogen-agentchat": ("autogen", ALL),
    "miniagents 0.0.35": ("miniagents_0_0_35", FIRST),
    "langchain-core": ("langchain", ALL),
    "openai-agents": ("openai_agents", ALL),
    "llama-index-workflows": ("workflows", ALL),
    "pydantic-ai": ("pydantic_ai", ALL),
}
"""Name of each peer, with its module in this folder and its environment."""


def run(only: Iterable[str] | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Take all measures of the peers whose environments exist; with `only`, of the peers with these modules."""
    results: dict[str, Any] = {**circumstances(), "tables": []}
    chosen = {
        name: (module, environment)
        for name, (module, environment) in PEERS.items()
        if (not only or module in only) and environment.is_made
    }
    tables = dict.fromkeys(measure.table for measure in MEASURES)
    cells: dict[str, list[dict[str, Any]]] = {}
    for name, (module, environment) in chosen.items():
        cells[name] = []
        for table in tables:
            cells[name] += _cells(environment, module, name, _numbers(table), quick=quick)
        for cell in cells[name]:
            versions = cell.pop("versions", {})
            if environment is ALL:  # the version of the other one is in its name
                results["versions"].update(versions)
    for table in tables:
        numbers = _numbers(table)
        results["tables"].append(
            {
                "name": f"{table}, beside others",
                "columns": [{"name": MEASURES[number].name, "goal": MEASURES[number].goal} for number in numbers],
                "peers": {
                    name: [all_cells[number] for number in numbers]
                    for name, all_cells in cells.items()
                    if any(all_cells[number] != {"row": None} for number in numbers)
                },
            }
        )
    return results


def _numbers(table: str) -> list[int]:
    """Return the numbers of the measures of a table."""
    return [number for number, measure in enumerate(MEASURES) if measure.table == table]


def _cells(
    environment: Environment, module: str, name: str, numbers: list[int], *, quick: bool
) -> list[dict[str, Any]]:
    """Take measures of one peer in a new process, and return for each the row or the reason of its failure.

    After a failure, another process takes the measures that are left.
    """
    cells: list[dict[str, Any]] = []
    while left := numbers[len(cells) :]:
        arguments = [*map(str, left), "--limit", str(LIMIT), *(["--quick"] if quick else [])]
        command = environment.command(f"benchmarks.peers.{module}", *arguments)
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, PYTHON: sys.executable}
        )
        found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        if len(found) < len(left):
            told = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
            found.append({"reason": told[-1][:200]})
        for number, cell in zip(left, found, strict=False):
            print(f"{name}, {MEASURES[number].name}: {cell_of_peer(cell)}", file=sys.stderr, flush=True)
        cells += found
    return cells
