"""The benchmarks run, and write their results as tables, JSON and plots."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nats_servers import REASON, find_program

if TYPE_CHECKING:
    from tests.conftest import Effort

NEEDS_NATS = pytest.mark.skipif(find_spec("nats") is None or find_program() is None, reason=REASON)
ROOT = Path(__file__).resolve().parent.parent


def scripts() -> tuple[str, ...]:
    """Return the names of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(ROOT)])
        modules: tuple[str, ...] = import_module("benchmarks.__main__").MODULES
        return modules


OTHERS = ("limit", "ours", "autogen", "langchain", "miniagents_0_0_35", "openai_agents", "pydantic_ai", "workflows")


@pytest.fixture(autouse=True)
def checkout(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmarks importable, which are in the repository but not in the wheel.

    The benchmarks collect garbage before each round; `gc.freeze` excludes what earlier tests have loaded. There is no
    `gc.unfreeze` at the end, because it would undo the `gc.freeze` of `conftest.py` as well, for all later tests.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(root)])
    gc.freeze()


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=NEEDS_NATS if name == "remote" else []) for name in scripts()]
)
async def test_benchmark_returns_a_table(script: str) -> None:
    """Each result of a benchmark has its quartiles in order, and is a line of the Markdown table."""
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


async def test_caches_that_the_first_run_fills_are_no_part_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first run of both sides is slow, a second one sets the number of rounds, and is the row if it is 0."""
    measure = import_module("benchmarks.measure")
    now = 0.0
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(measure.time, name, lambda: now)

    def side(*took: float) -> Any:
        left = list(took)

        async def work() -> None:
            nonlocal now
            now += left.pop(0) if len(left) > 1 else left[0]

        return work

    table = measure.Table("Table")
    row = {"units": 1, "unit": "us each"}
    await table.compare("one", side(2.2, 0.2), side(0.2, 0.4), measure.Plan(seconds=3), repeat=5, **row)
    await table.compare("many", side(2.2, 0.01), side(0.2, 0.02), measure.Plan(seconds=3), repeat=5, **row)

    assert [round(each.ratio.median, 6) for each in table.rows] == [2, 2]


def test_benchmark_writes_results_to_a_file_when_json_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json FILE` writes the results with versions and machine to the file, and still prints the table."""
    file = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks.calls", "--quick", "--json", str(file)])

    import_module("benchmarks.measure").main(import_module("benchmarks.calls").benchmark)

    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert {"date", "python", "machine", "cpus", "versions", "tables"} <= result.keys()
    assert "pydantic" in result["versions"]
    [table] = result["tables"]
    assert capsys.readouterr().out.startswith(f"## {table['name']}\n")
    assert table["facts"]["tasks a call (goal: 1)"] == 1


def test_against_prints_the_ratio_of_two_checkouts(root: Path, effort: Effort) -> None:
    """`benchmarks.against` on two checkouts ends with a row of the median ratio, its quartiles and a verdict."""
    every = ("calls", "recording", "markdown", "startup")
    for row in effort(every[:1], ci=every, nightly=every):
        command: list[str | Path] = [sys.executable, root / "benchmarks/against.py", root, root]
        command += ["--pairs", "2", "--only", row]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        line = done.stdout.splitlines()[-1]
        assert re.fullmatch(rf"\| {row} \| \d\.\d+ \(\d\.\d+ to \d\.\d+\) \| (yes|no|not sure) \|", line)


async def test_ours_has_a_row_for_every_measure_of_the_peers(root: Path) -> None:
    """The benchmark of MiniAgents gives a result for each measure of the other frameworks."""
    peer, measure = import_module("benchmarks.peers.peer"), import_module("benchmarks.measure")
    ours = import_module("benchmarks.peers.ours").PEER

    rows = [await peer.measured(ours, one, measure.Plan(quick=True)) for one in peer.MEASURES]

    assert all(row.ratio.median > 0 for row in rows)


@pytest.mark.parametrize("module", OTHERS)
def test_peer_passes_tokens_on_in_its_environment(module: str) -> None:
    """The benchmark of each other framework, run by that framework's Python if there is one, prints a result."""
    run = import_module("benchmarks.peers.run")
    [environment] = [environment for name, environment in run.PEERS.values() if name == module]
    if not environment.is_made:
        pytest.skip("`python -m benchmarks.peers` makes the environments of peers")

    names = [measure.name for measure in import_module("benchmarks.peers.peer").MEASURES]
    command = environment.command(f"benchmarks.peers.{module}", str(names.index("1,000 tokens")), "--quick")
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["row"]["ratio"]["median"] > 0


def test_table_shows_a_peer_that_fails_with_the_reason() -> None:
    """If a framework's benchmark fails, its cell says `fails`, and the reason stands below the table."""
    spread = {"median": 1.0, "lower": 1.0, "upper": 1.0}
    row = {"base": spread, "measured": spread, "ratio": spread, "unit": "ns a token"}
    columns = [{"name": "1,000 tokens", "goal": "<= 4x"}]
    peers = {"one": [{"row": row}], "another": [{"reason": "TypeError: no"}], "third": [{"row": None}]}

    text = import_module("benchmarks.markdown").as_markdown({"name": "Tokens", "columns": columns, "peers": peers})

    assert "| one | 1 (**1x**) |" in text
    assert "| another | fails |" in text
    assert "| third | - |" in text
    assert "- another, 1,000 tokens: TypeError: no" in text


def test_table_tells_the_reason_once_when_several_measures_of_a_peer_fail() -> None:
    """Measures of one framework that fail for the same reason share a line below the table."""
    columns = [{"name": name, "goal": ""} for name in ("20 chunks", "1 chunk", "300 chunks")]
    peers = {"one": [{"reason": "TypeError: no"}, {"reason": "TypeError: no"}, {"reason": "ValueError: yes"}]}

    text = import_module("benchmarks.markdown").as_markdown({"name": "Chunks", "columns": columns, "peers": peers})

    assert text.splitlines()[-2:] == ["- one, 20 chunks; 1 chunk: TypeError: no", "- one, 300 chunks: ValueError: yes"]


def test_peer_goes_on_when_a_measure_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A measure that raises gives its reason, and the measures after it give their rows."""
    peer, bare = import_module("benchmarks.peers.peer"), import_module("benchmarks.bare")

    async def tokens(count: int, agents: int) -> int:
        await bare.consume(bare.tokens_of(count))
        return count

    async def call(turns: int) -> str:
        return "no echo"

    names = [measure.name for measure in peer.MEASURES]
    chosen = [str(names.index("one by one")), str(names.index("1,000 tokens")), str(names.index("second reader"))]
    monkeypatch.setattr(sys, "argv", ["peer", *chosen, "--quick"])

    peer.main(peer.Peer(packages=(), tokens=tokens, call=call))

    failed, row, none = map(json.loads, capsys.readouterr().out.splitlines())
    assert failed["reason"] == 'AssertionError: the echo of "hello" is "no echo"'
    assert row["row"]["ratio"]["median"] > 0
    assert none["row"] is None


def test_runner_takes_the_measures_after_one_that_ends_the_process() -> None:
    """If a framework's process ends during a measure, its last output is the reason; a new process runs the rest."""
    run = import_module("benchmarks.peers.run")
    program = (
        "import json, sys\n"
        "for number in map(int, sys.argv[1:sys.argv.index('--limit')]):\n"
        "    if number == 1: sys.exit('not finished after 1 s')\n"
        "    print(json.dumps({'row': None, 'number': number}), flush=True)"
    )

    class Environment:
        """Environment whose peer fails at its second measure."""

        def command(self, module: str, *arguments: str) -> list[str]:
            """Return the command of the program."""
            return [sys.executable, "-c", program, *arguments]

    cells = run._cells(Environment(), "any", "one", [0, 1, 2], quick=True)

    assert [cell.get("number") for cell in cells] == [0, None, 2]
    assert cells[1] == {"reason": "not finished after 1 s"}


def test_report_writes_a_page_with_a_plot_of_each_table(tmp_path: Path) -> None:
    """The page shows a plot below each table, and the results can be read again from JSON."""
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


def test_report_keeps_the_last_tables_of_other_frameworks_with_their_date(tmp_path: Path) -> None:
    """A run without other frameworks takes over their last tables, and says when and with what they were measured."""
    peers = {"name": "Peers", "module": "peers", "columns": [], "peers": {}}
    own = {"name": "Own", "module": "calls"}
    results = {"date": "2030-01-01", "python": "CPython", "machine": "Linux", "cpus": 2, "versions": {"openai": "3"}}
    earlier_tables = import_module("benchmarks.report").earlier_tables
    assert earlier_tables(tmp_path, {"peers"}) == []
    for _ in range(2):
        (tmp_path / "results.json").write_text(json.dumps(results | {"tables": [own, peers]}))
        (peers,) = earlier_tables(tmp_path, {"peers"})
        assert peers["name"] == "Peers"
        assert peers["measured"] == "2030-01-01, CPython on Linux, 2 CPUs, in one run; openai 3."
        results["date"] = "2031-01-01"


def test_all_benchmarks_write_the_tables_of_the_others_when_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark that fails is named on the page, its last table stays, and the others write new tables."""
    pytest.importorskip("matplotlib")
    main, measure = import_module("benchmarks.__main__"), import_module("benchmarks.measure")
    results = {"date": "2030-01-01", "python": "CPython", "machine": "Linux", "cpus": 2, "versions": {}}
    spread = measure.Spread(1, 1, 1)
    row = asdict(measure.Row("a", "us", "b", spread, spread, spread, None))
    own = {"name": "Last", "module": "no_such_benchmark", "rows": [row], "curves": [], "facts": {}}
    (tmp_path / "results.json").write_text(json.dumps(results | {"tables": [own]}))
    monkeypatch.setattr(main, "MODULES", ("no_such_benchmark", "calls"))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--results", str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    assert main.main() == 1

    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Failed: no_such_benchmark (ended with status 1)." in page
    assert "### Agent calls" in page
    assert "### Last" in page
    assert "Measured earlier: 2030-01-01" in page
