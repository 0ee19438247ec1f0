"""Runner of all peers. A measure that fails or does not finish is reported with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import cell_of_peer
from benchmarks.measure import circumstances
from benchmarks.peers.environments import ALL, FIRST, Environment
from benchmarks.peers.peer import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PEERS", "run"]

LIMIT = 60
"""Seconds of CPU time after which a measure is stopped; the bare side takes 0.2 s."""
_HANGS = 20 * LIMIT
"""Seconds on the clock after which a measure that uses no CPU time is stopped."""

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
        if (not only or module in only) and environment.python.exists()
    }
    cells: dict[str, list[dict[str, Any]]] = {}
    for name, (module, environment) in chosen.items():
        cells[name] = []
        for number, measure in enumerate(MEASURES):
            cell = _cell(environment, module, number, quick=quick)
            versions = cell.pop("versions", {})
            if environment is ALL:  # the version of the other one is in its name
                results["versions"].update(versions)
            cells[name].append(cell)
            print(f"{name}, {measure.name}: {cell_of_peer(cell)}", file=sys.stderr, flush=True)
    for table in dict.fromkeys(measure.table for measure in MEASURES):
        numbers = [number for number, measure in enumerate(MEASURES) if measure.table == table]
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


def _cell(environment: Environment, module: str, number: int, *, quick: bool) -> dict[str, Any]:
    """Take one measure of one peer in a new process, and return the row or the reason of the failure."""
    arguments = [str(number), "--limit", str(LIMIT), *(["--quick"] if quick else [])]
    command = environment.command(f"benchmarks.peers.{module}", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_HANGS, check=False)
    except subprocess.TimeoutExpired:
        return {"reason": f"not finished after {_HANGS} s on the clock"}
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return {"reason": told[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout)
    return result
