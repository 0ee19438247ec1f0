"""Results as Markdown. The input is the results as JSON, so tables can be written again without measuring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_markdown", "cell_of_peer"]


def _short(value: float) -> str:
    """Format a number with three significant digits, or as a whole number from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Format a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_markdown(table: dict[str, Any]) -> str:
    """Return the results of one script as Markdown."""
    return "\n\n".join([f"## {table['name']}", *_parts(table)])


def cell_of_peer(cell: dict[str, Any]) -> str:
    """Format the result of one peer: cost and ratio, a failure, or a dash."""
    if "reason" in cell:
        return "not finished" if cell["reason"].startswith("not finished") else "fails"
    row = cell["row"]
    return f"{_short(row['measured']['median'])} (**{_short(row['ratio']['median'])}x**)" if row else "-"


def _parts(table: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of one script: rows, curves, or peers."""
    if "peers" in table:
        yield from _beside_others(table["columns"], table["peers"])
        return
    if table["rows"]:
        head = ["", "base", "ours", "ratio (quartiles)", "goal"]
        yield _table(head, [*map(_compared, table["rows"]), *_facts(table["facts"])])
    if table["curves"]:
        head = ["", "unit", "n", "at n", "at 2n", "at 4n", "at 8n", "8n beside n (quartiles)", "goal"]
        yield _table(head, [_grown(curve) for curve in table["curves"]])


def _beside_others(columns: list[dict[str, str]], peers: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yield the table of peers, and a list of the reasons of failures."""
    rows = [[name, *map(cell_of_peer, cells)] for name, cells in peers.items()]
    goals = ["**goal**", *(column["goal"] for column in columns)]
    yield _table(["", *(column["name"] for column in columns)], [_bare(peers), *rows, goals])
    failed: dict[tuple[str, str], list[str]] = {}
    for name, cells in peers.items():
        for column, cell in zip(columns, cells, strict=True):
            if "reason" in cell:
                failed.setdefault((name, cell["reason"]), []).append(column["name"])
    if failed:
        yield "\n".join(f"- {name}, {'; '.join(names)}: {reason}" for (name, reason), names in failed.items())


def _bare(peers: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the row of the bare side: each peer was compared with its own measurement; the first one is shown."""
    bare = ["bare"]
    for cells in zip(*peers.values(), strict=True):
        rows = [cell["row"] for cell in cells if cell.get("row")]
        bare.append(f"{_short(rows[0]['base']['median'])} {rows[0]['unit'].split()[0]}" if rows else "-")
    return bare


def _compared(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row: name, cost of the base, our cost, ratio and goal."""
    base = f"{_short(row['base']['median'])} {row['base_name']}"
    return [row["name"], base, f"{_short(row['measured']['median'])} {row['unit']}", _ratio(row["ratio"]), _goal(row)]


def _facts(facts: dict[str, float]) -> Iterator[list[str]]:
    """Yield the cells of a row for each fact, which has only a name and a value."""
    for name, value in facts.items():
        yield [name, "", _short(value), "", ""]


def _grown(curve: dict[str, Any]) -> list[str]:
    """Return the cells of a curve: name, unit, the smallest size, the cost at each size, growth and goal."""
    costs = [_short(cost["median"]) for cost in curve["costs"]]
    return [curve["name"], curve["unit"], f"{curve['sizes'][0]:,}", *costs, _ratio(curve["growth"]), _goal(curve)]


def _ratio(ratio: dict[str, float]) -> str:
    """Format the median of a ratio, with its quartiles in parentheses."""
    return f"**{ratio['median']:.2f}** ({ratio['lower']:.2f} - {ratio['upper']:.2f})"


def _goal(row: dict[str, Any]) -> str:
    """Format the goal of a row, as `<= 4`; "" without one."""
    return "" if row["goal"] is None else f"<= {row['goal']:g}"
