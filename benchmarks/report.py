"""Results as a page of tables and plots: `python -m benchmarks.report` tells again what was measured before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.markdown import as_markdown
from benchmarks.plots import plot

__all__ = ["RESULTS", "report"]

_HERE = Path(__file__).resolve().parent
RESULTS = _HERE / "results"
_PART = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)


def report(results: dict[str, Any], folder: Path) -> None:
    """Write results, their tables and a plot of each into a folder.

    README.md of the benchmarks shows the tables with other frameworks; it changes if `folder` is `RESULTS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(results), separators=(",", ":"))
    (folder / "results.json").write_text(f"{text}\n", encoding="utf-8")
    tables = sorted(results["tables"], key=lambda table: "peers" not in table)
    for table in tables:
        plot(table, folder / _plot(table))
    circumstances = _circumstances(results)
    _write(folder / "README.md", ["# Results", circumstances, *(_shown(table) for table in tables)])
    if folder == RESULTS:
        page = _HERE / "README.md"
        part = "\n\n".join([circumstances, *(_shown(table, "results/") for table in tables if "peers" in table)])
        _write(page, [_PART.sub(lambda _: f"\n{part}\n\n", page.read_text(encoding="utf-8")).rstrip()])


def _rounded(value: Any) -> Any:
    """More digits mean nothing."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _write(file: Path, parts: list[str]) -> None:
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _shown(table: dict[str, Any], folder: str = "") -> str:
    return f"{as_markdown(table)}\n\n![{table['name']}]({folder}{_plot(table)})"


def _plot(table: dict[str, Any]) -> str:
    return re.sub(r"\W+", "-", table["name"].lower().replace("'", "")) + ".svg"


def _circumstances(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in sorted(results["versions"].items()))
    machine = f"{results['python']} on {results['machine']}, {results['cpus']} CPUs"
    return f"{results['date'][:10]}, {machine}, all tables in one run; {versions}."


if __name__ == "__main__":
    report(json.loads((RESULTS / "results.json").read_text(encoding="utf-8")), RESULTS)
