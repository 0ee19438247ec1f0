"""Runs the peers and tells what came out. A peer that fails, or does not finish, is told with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.measure import circumstances, short
from benchmarks.peers.environments import ALL, FIRST, Environment
from benchmarks.peers.peer import MEASURES, Measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["PEERS", "as_markdown", "run"]

LIMIT = 150
"""Seconds on the clock after which a measure of a peer is given up; a bare generator or task takes 0.2 s of work."""

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
"""What is told of whom; the module here and its environment."""


def run(only: Iterable[str] | None = None, *, quick: bool = False) -> dict[str, Any]:
    """All measures of all peers whose environments are there, or of those with these names of modules."""
    results: dict[str, Any] = {**circumstances(), "peers": {}}
    for name, (module, environment) in PEERS.items():
        if (only and module not in only) or not environment.python.exists():
            continue
        cells = {}
        for number, measure in enumerate(MEASURES):
            cells[measure.name] = cell = _cell(environment, module, number, quick=quick)
            versions = cell.pop("versions", {})
            if environment is ALL:  # the other one says its version in its name
                results["versions"].update(versions)
            print(f"{name}, {measure.name}: {_told(cell)}", file=sys.stderr, flush=True)
        results["peers"][name] = cells
    return results


def _cell(environment: Environment, module: str, number: int, *, quick: bool) -> dict[str, Any]:
    arguments = [str(number), *(["--quick"] if quick else [])]
    command = environment.command(f"benchmarks.peers.{module}", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"reason": f"not finished after {LIMIT} s"}
    if done.returncode:
        return {"reason": done.stderr.strip().splitlines()[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def as_markdown(results: dict[str, Any]) -> Iterator[str]:
    """A table for each of `MEASURES`' tables; what failed is told below."""
    for table in dict.fromkeys(measure.table for measure in MEASURES):
        yield _table(table, [measure for measure in MEASURES if measure.table == table], results["peers"])


def _table(name: str, measures: list[Measure], peers: dict[str, Any]) -> str:
    lines = [
        f"### {name}: ours and theirs",
        "",
        f"| | {' | '.join(measure.name for measure in measures)} |",
        f"|---|{'---|' * len(measures)}",
    ]
    if base := [_base(measure, peers) for measure in measures]:
        lines.append(f"| bare | {' | '.join(base)} |")
    reasons = []
    for peer, cells in peers.items():
        told = [_told(cells[measure.name]) for measure in measures]
        if any(cell != "-" for cell in told):
            lines.append(f"| {peer} | {' | '.join(told)} |")
        reasons += [
            f"- {peer}, {measure.name}: {cells[measure.name]['reason']}"
            for measure in measures
            if "reason" in cells[measure.name]
        ]
    lines.append(f"| **goal** | {' | '.join(measure.goal for measure in measures)} |")
    return "\n".join([*lines, *(["", *reasons] if reasons else [])])


def _base(measure: Measure, peers: dict[str, Any]) -> str:
    """What was measured beside the first that has it: each has its own."""
    for cells in peers.values():
        if row := cells[measure.name].get("row"):
            return f"{short(row['base']['median'])} {row['unit'].split(' a ')[0]}"
    return "-"


def _told(cell: dict[str, Any]) -> str:
    if "reason" in cell:
        return "not finished" if cell["reason"].startswith("not finished") else "fails"
    if cell["row"] is None:
        return "-"
    row = cell["row"]
    return f"{short(row['measured']['median'])} (**{short(row['ratio']['median'])}x**)"
