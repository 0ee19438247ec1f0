"""Results as a page of tables and plots: `python -m benchmarks.report` writes the last results again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import as_markdown
from benchmarks.plots import plot

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["PEERS", "RESULTS", "earlier_tables", "report"]

_HERE = Path(__file__).resolve().parent
RESULTS = _HERE / "results"
PEERS = "peers"
"""Module that measures other frameworks."""
FELT = "What a user feels"
"""Beginning of the names of tables whose rows are as programs are: short, paced, over a socket."""
_EMPTY_PAGE = "# Results\n\n<!-- results -->\n<!-- end of results -->\n"
_PART = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def report(results: dict[str, Any], folder: Path) -> None:
    """Write results and a plot of each table into a folder, and the tables into a page.

    For the folder `RESULTS` the page is README.md of the benchmarks, where the tables stand between two marks. For
    another folder it is README.md in that folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(results), separators=(",", ":"))
    (folder / "results.json").write_text(f"{text}\n", encoding="utf-8")
    # what a user feels comes first, then the tables with other frameworks
    tables = sorted(results["tables"], key=lambda table: (not table["name"].startswith(FELT), "peers" not in table))
    for table in tables:
        plot(table, folder / _plot(table))
    page, plots = (_HERE / "README.md", "results/") if folder == RESULTS else (folder / "README.md", "")
    around = page.read_text(encoding="utf-8") if page.exists() else _EMPTY_PAGE
    failed = [f"Failed: {module} ({reason})." for module, reason in results.get("failed", {}).items()]
    part = "\n\n".join([_circumstances(results), *failed, *(_shown(table, plots) for table in tables)])
    page.write_text(_PART.sub(lambda _: f"\n{part}\n\n", around), encoding="utf-8")


def earlier_tables(folder: Path, modules: Collection[str]) -> list[dict[str, Any]]:
    """Return the tables of these modules among the last results in a folder, each with its circumstances."""
    if not (last := folder / "results.json").exists():
        return []
    results = json.loads(last.read_text(encoding="utf-8"))
    measured = _circumstances(results)
    return [{"measured": measured, **table} for table in results["tables"] if table["module"] in modules]


def _rounded(value: Any) -> Any:
    """Round all numbers to five digits, because more digits are noise."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _shown(table: dict[str, Any], folder: str) -> str:
    """Return the Markdown of a table with its plot below, and when it was measured if that was earlier."""
    measured = f"Measured earlier: {table['measured']}\n\n" if "measured" in table else ""
    return f"#{as_markdown(table)}\n\n{measured}![{table['name']}]({folder}{_plot(table)})"


def _plot(table: dict[str, Any]) -> str:
    """Return the name of the SVG file of a table."""
    return re.sub(r"\W+", "-", table["name"].lower().replace("'", "")) + ".svg"


def _circumstances(results: dict[str, Any]) -> str:
    """Return date, Python, machine and versions of the results in one sentence."""
    versions = ", ".join(f"{package} {number}" for package, number in sorted(results["versions"].items()))
    machine = f"{results['python']} on {results['machine']}, {results['cpus']} CPUs"
    return f"{results['date'][:10]}, {machine}, in one run; {versions}."


if __name__ == "__main__":
    report(json.loads((RESULTS / "results.json").read_text(encoding="utf-8")), RESULTS)
