"""Table of the known races: the runs until each tool finds them, and the deviations that are left after shrinking.

    python -m benchmarks.races [--python OTHER_PYTHON] [--quick]

The other tools are run by the Python of a virtual environment with them, 3.12 or later:

    python3.12 -m venv .bench/races && .bench/races/bin/pip install detangle simloom
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.races.known import RACES
from benchmarks.races.tools import TOOLS, measure

ROOT = Path(__file__).resolve().parent.parent.parent


def of_other_python(python: str, tool: str, *options: str) -> dict[str, Any]:
    """Return what a tool in another environment finds; if it cannot run, the reason in `missing`."""
    if not Path(python).exists():
        return {"missing": f"there is no {python}"}
    command = [python, "-m", "benchmarks.races.tools", tool, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"missing": (done.stderr.strip() or "no output").splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def cell(found: list[tuple[int, int] | None]) -> str:
    """Return the median and highest number of runs, and the fewest and most deviations, over all seeds."""
    hits = [each for each in found if each is not None]
    if not hits:
        return "not found"
    runs, deviations = [each[0] for each in hits], [each[1] for each in hits]
    few, many = min(deviations), max(deviations)
    missed = f", missed by {len(found) - len(hits)} of {len(found)} seeds" if len(hits) < len(found) else ""
    return f"{statistics.median(runs):g} (at most {max(runs)}), {few if few == many else f'{few} to {many}'}{missed}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results of all tools as a Markdown table, with a line for each race."""
    heads = [f"{tool} {result.get('version', '')}".strip() for tool, result in results.items()]
    lines = ["| race | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name in RACES:
        cells = [cell(result["found"][name]) if "found" in result else "-" for result in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    reasons = [f"- {tool} was not run: {result['missing']}" for tool, result in results.items() if "missing" in result]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def main() -> None:
    """Measure all tools, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / ".bench/races/bin/python"), help="Python with the other tools")
    parser.add_argument("--quick", action="store_true", help="only two seeds, in seconds")
    chosen = parser.parse_args()
    options = ["--quick"] if chosen.quick else []
    results = {"miniagents": measure("miniagents", quick=chosen.quick)}
    for tool in TOOLS:
        if tool != "miniagents":
            results[tool] = of_other_python(chosen.python, tool, *options)
    print(table(results))


if __name__ == "__main__":
    main()
