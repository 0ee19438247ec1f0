"""Plots of tables, as SVG files whose words are text, so that they are small and can be searched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot"]

_MET, _MISSED, _OPEN, _GOAL, _THEIRS = "#2a7f62", "#c8553d", "#8a9aa8", "#1f2d3a", "#8a9aa8"
_STYLE: Any = {  # rcParams of matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "miniagents",  # so that the same results give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
}


def plot(table: dict[str, Any], file: Path) -> None:
    """Draw one table.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; it is in the dependency group `bench`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        if "peers" in table:
            _beside_others(figure, table)
        elif table["curves"]:
            _growth(figure, table["curves"])
        else:
            _ratios(figure, table["rows"])
        figure.suptitle(table["name"], fontsize=12, fontweight="bold")
        figure.savefig(file, format="svg", metadata={"Date": None})


def _ratios(figure: Figure, rows: list[dict[str, Any]]) -> None:
    """Draw a bar for each row, and a line at its goal."""
    figure.set_size_inches(9, 1.2 + 0.34 * len(rows))
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row["ratio"]["median"] for row in rows], height=0.6, color=[_colour(row) for row in rows])
    top = max(max(row["ratio"]["upper"], row["goal"] or 0) for row in rows)
    for place, row in enumerate(rows):
        ratio = row["ratio"]
        axes.plot([ratio["lower"], ratio["upper"]], [place, place], color=_GOAL, linewidth=1)
        if row["goal"] is not None:
            axes.plot([row["goal"]] * 2, [place - 0.42, place + 0.42], color=_GOAL, linewidth=2)
        text = f"{ratio['median']:.2f}" + (f"  (goal {row['goal']:g})" if row["goal"] is not None else "")
        axes.text(max(ratio["upper"], row["goal"] or 0) + top * 0.015, place, text, va="center")
    axes.set_yticks(places, [f"{row['name']}\nbeside {row['base_name']}" for row in rows], fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(0, top * 1.2)
    axes.set_xlabel("cost of ours, beside what is named; a line marks the goal, a thin one the quartiles")


def _colour(row: dict[str, Any]) -> str:
    """Return the colour of a bar: one for a row that meets its goal, one that misses it, and one without a goal."""
    if row["goal"] is None:
        return _OPEN
    return _MET if row["ratio"]["median"] <= row["goal"] else _MISSED


def _growth(figure: Figure, curves: list[dict[str, Any]]) -> None:
    """Draw the cost of a unit relative to its cost at n, in a panel for each kind of work."""
    kinds = list(dict.fromkeys(curve["name"].partition(":")[0] for curve in curves))
    columns = 2
    lines = math.ceil(len(kinds) / columns)
    figure.set_size_inches(11, 2.7 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, kind in zip(grid, kinds, strict=False):
        for curve in curves:
            name = curve["name"]
            if not name.startswith(f"{kind}:"):
                continue
            costs = [cost["median"] / curve["costs"][0]["median"] for cost in curve["costs"]]
            label = f"{name.partition(': ')[2]} (n = {curve['sizes'][0]:,})"
            style = ":" if curve["goal"] is None else "-"
            axes.plot(range(len(costs)), costs, style, marker="o", markersize=3.5, label=label)
        axes.axhline(1, color=_OPEN, linewidth=0.8, zorder=0)
        axes.set_title(kind, loc="left", fontweight="bold")
        axes.set_xticks(range(4), ["n", "2n", "4n", "8n"])
        axes.set_ylim(0, 2)
        axes.legend(fontsize=7.5, frameon=False, loc="upper left")
    figure.supylabel("cost of a unit, beside that at n (flat: linear)", fontsize=9)


def _beside_others(figure: Figure, table: dict[str, Any]) -> None:
    """Draw a panel for each column with a bar for each framework, on a logarithmic scale."""
    columns, peers = table["columns"], table["peers"]
    across = min(3, len(columns))
    lines = math.ceil(len(columns) / across)
    figure.set_size_inches(3.6 * across + 1.6, (0.9 + 0.24 * len(peers)) * lines + 0.5)
    grid = figure.subplots(lines, across, sharey=True, squeeze=False)
    for number, column in enumerate(columns):
        _bars(grid.flat[number], column["name"], {name: cells[number] for name, cells in peers.items()})
    for axes in grid.flat[len(columns) :]:
        axes.set_visible(False)
    figure.supxlabel("times the bare work, on a logarithmic scale", fontsize=9)


def _bars(axes: Axes, title: str, cells: dict[str, dict[str, Any]]) -> None:
    """Draw the bars of one column; a framework without a ratio gets the reason in words."""
    ratios = [cell["row"]["ratio"]["median"] if cell.get("row") else None for cell in cells.values()]
    present = [ratio for ratio in ratios if ratio is not None]
    low = min([0.5, *(ratio / 2 for ratio in present)])
    for place, (name, ratio) in enumerate(zip(cells, ratios, strict=True)):
        if ratio is None:
            reason = cells[name].get("reason", "")
            told = "not finished" if reason.startswith("not finished") else "fails" if reason else "has none"
            axes.text(low * 1.15, place, told, va="center", fontsize=7.5, color=_OPEN, style="italic")
        else:
            axes.barh(place, ratio - low, left=low, height=0.65, color=_MET if name == "MiniAgents" else _THEIRS)
            axes.text(
                ratio * 1.12, place, f"{ratio:,.3g}x" if ratio < 1000 else f"{ratio:,.0f}x", va="center", fontsize=7.5
            )
    axes.axvline(1, color=_GOAL, linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(low, max([1, *present]) * 6)
    axes.set_yticks(range(len(cells)), list(cells))
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_title(title, loc="left", fontweight="bold")
