from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"name", "unit", "base_name", "base", "ours", "ratio", "goal"}


def run_quickly(root: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark as README.md of the benchmarks says, with little work."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", module, "--quick", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=100)


def test_all_benchmarks_run_and_tell_their_results_as_json(root: Path) -> None:
    """Every script gives a table with both sides, their ratio and the circumstances, and the same for people."""
    done = run_quickly(root, "benchmarks", "--json", "-")

    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert {"date", "python", "machine", "cpus", "versions", "tables"} <= result.keys()
    assert "pydantic" in result["versions"]
    assert len(result["tables"]) == 6
    for table in result["tables"]:
        assert f"## {table['name']}\n" in done.stderr
        for row in table["rows"]:
            assert row.keys() == ROW
            for side in ("base", "ours", "ratio"):
                assert 0 < row[side]["lower"] <= row[side]["median"] <= row[side]["upper"]
            assert f"| {row['name']} |" in done.stderr


def test_results_go_to_a_file_and_the_table_to_the_standard_output(root: Path, tmp_path: Path) -> None:
    """`--json FILE` writes the file and leaves the readable table where it was."""
    file = tmp_path / "results.json"

    done = run_quickly(root, "benchmarks.calls", "--json", str(file))

    assert done.returncode == 0, done.stderr
    [table] = json.loads(file.read_text(encoding="utf-8"))["tables"]
    assert done.stdout.startswith(f"## {table['name']}\n")
    assert table["facts"]["tasks a call (goal: 1)"] == 1
