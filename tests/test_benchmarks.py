from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPTS = ("startup", "tokens", "floors", "calls", "messages", "decoding", "life", "cassettes", "growth")
OTHERS = ("limit", "ours", "autogen", "langchain", "miniagents_0_0_35", "openai_agents", "pydantic_ai", "workflows")


@pytest.fixture(autouse=True)
def checkout(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmarks are no part of the wheel; what they measure is.

    They collect garbage before each round: what pytest holds is kept out of that, as it is a hundred times their own.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(root)])
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("script", SCRIPTS)
async def test_every_script_gives_a_table_of_what_was_measured(script: str) -> None:
    """Each row and each curve has quartiles in their order, and is told to people."""
    measure = import_module("benchmarks.measure")

    table = await import_module(f"benchmarks.{script}").benchmark(measure.Plan(quick=True))

    assert table.rows or table.curves
    for row in table.rows:
        for spread in (row.base, row.measured, row.ratio):
            assert 0 < spread.lower <= spread.median <= spread.upper
        assert f"| {row.name} |" in str(table)
    for curve in table.curves:
        assert len(curve.sizes) == len(curve.costs) == 4
        assert curve.growth.median > 0
        assert f"| {curve.name} |" in str(table)


def test_results_go_to_a_file_and_the_table_to_the_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json FILE` writes the file, with the circumstances, and leaves the readable table where it was."""
    file = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks.calls", "--quick", "--json", str(file)])

    import_module("benchmarks.measure").main(import_module("benchmarks.calls").benchmark)

    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert {"date", "python", "machine", "cpus", "versions", "tables"} <= result.keys()
    assert "pydantic" in result["versions"]
    [table] = result["tables"]
    assert capsys.readouterr().out.startswith(f"## {table['name']}\n")
    assert table["facts"]["tasks a call (goal: 1)"] == 1


@pytest.mark.parametrize("row", ["calls", "recording", "markdown", "startup"])
def test_two_checkouts_are_compared_row_by_row(row: str, root: Path) -> None:
    """`benchmarks.against` runs both sides in turn, and prints the quartiles of their ratio."""
    command: list[str | Path] = [
        sys.executable,
        root / "benchmarks/against.py",
        root,
        root,
        "--pairs",
        "2",
        "--only",
        row,
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    line = done.stdout.splitlines()[-1]
    assert re.fullmatch(rf"\| {row} \| \d\.\d+ \(\d\.\d+ to \d\.\d+\) \| (yes|no|not sure) \|", line)


async def test_ours_does_the_work_that_peers_do(root: Path) -> None:
    """Every measure of the peers has a row for us, too; all tokens came, and the echo was right."""
    peer, measure = import_module("benchmarks.peers.peer"), import_module("benchmarks.measure")
    ours = import_module("benchmarks.peers.ours").PEER

    rows = [await peer.measured(ours, one, measure.Plan(quick=True)) for one in peer.MEASURES]

    assert all(row.ratio.median > 0 for row in rows)


@pytest.mark.parametrize("module", OTHERS)
def test_peers_run_in_their_environments(module: str) -> None:
    """Where `python -m benchmarks.peers` has made its environments, each peer passes tokens on."""
    run = import_module("benchmarks.peers.run")
    [environment] = [environment for name, environment in run.PEERS.values() if name == module]
    if not environment.python.exists():
        pytest.skip("`python -m benchmarks.peers` makes the environments of peers")

    command = environment.command(f"benchmarks.peers.{module}", "0", "--quick")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["row"]["ratio"]["median"] > 0


def test_a_peer_that_fails_is_told_with_the_reason() -> None:
    """Its cell says so, and the reason stands below the table, beside whose it is."""
    spread = {"median": 1.0, "lower": 1.0, "upper": 1.0}
    row = {"base": spread, "measured": spread, "ratio": spread, "unit": "ns a token"}
    columns = [{"name": "1,000 tokens", "goal": "<= 4x"}]
    peers = {"one": [{"row": row}], "another": [{"reason": "TypeError: no"}], "third": [{"row": None}]}

    told = import_module("benchmarks.markdown").as_markdown({"name": "Tokens", "columns": columns, "peers": peers})

    assert "| one | 1 (**1x**) |" in told
    assert "| another | fails |" in told
    assert "| third | - |" in told
    assert "- another, 1,000 tokens: TypeError: no" in told


def test_all_results_become_a_page_with_a_plot_of_each_table(tmp_path: Path) -> None:
    """The page shows the plots that lie beside it; the results can be read again."""
    pytest.importorskip("matplotlib")
    spread = {"median": 1.0, "lower": 1.0, "upper": 1.0}
    row = {"name": "a", "base_name": "b", "unit": "us", "base": spread, "measured": spread, "ratio": spread, "goal": 2}
    curve = {"name": "a: b", "unit": "us", "sizes": [1, 2, 4, 8], "costs": [spread] * 4, "growth": spread, "goal": 2}
    tables = [
        {"name": "Rows", "rows": [row], "curves": [], "facts": {"c": 1}},
        {"name": "Curves", "rows": [], "curves": [curve], "facts": {}},
        {"name": "Peers", "columns": [{"name": "d", "goal": ""}], "peers": {"e": [{"row": row}], "f": [{"row": None}]}},
    ]
    results = {"date": "2030-01-01", "python": "", "machine": "", "cpus": 1, "versions": {}, "tables": tables}

    import_module("benchmarks.report").report(results, tmp_path)

    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    for table in tables:
        assert f"![{table['name']}]({str(table['name']).lower()}.svg)" in page
        assert "<svg" in (tmp_path / f"{str(table['name']).lower()}.svg").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
