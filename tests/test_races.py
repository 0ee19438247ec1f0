"""The known races of the benchmarks: they hide from asyncio's order, and the search finds and explains each of them."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing import run_in_virtual_time, search_schedules
from miniagents_testing._decisions import schedule_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Race = Callable[[], Coroutine[Any, Any, None]]

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the benchmarks are in the repository only
from benchmarks.races.known import RACES
from benchmarks.races.tools import Counted

MOST_RUNS = 100
EVERY = pytest.mark.parametrize("race", RACES.values(), ids=list(RACES))


def report_of(race: Race) -> str:
    """Return the text of the error of a search, with its notes, as pytest shows it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each race fails in its own way
        search_schedules(race)
    return "\n".join([f"{type(caught.value).__name__}: {caught.value}", *caught.value.__notes__])


@EVERY
def test_race_hides_from_the_plain_order(race: Race) -> None:
    """On asyncio's loop and in virtual time without a schedule, each known race passes."""
    asyncio.run(race())
    run_in_virtual_time(race())


@EVERY
def test_search_finds_race_in_few_runs(race: Race) -> None:
    """The default search finds each known race within 100 runs, and shrinks it to at most two deviations."""
    counted = Counted(race)
    token = re.findall(r"pytest --miniagents-schedule=(\S+)", report_of(counted))
    assert 1 < counted.until_failure <= MOST_RUNS
    assert 1 <= len(schedule_of(token[0])) <= 2
    with pytest.raises(Exception) as again:  # noqa: PT011 - each race fails in its own way
        run_in_virtual_time(race(), schedule=token[0])
    assert "Order of the steps" in again.value.__notes__[-1]


@EVERY
def test_report_names_the_lines_that_race(race: Race) -> None:
    """The report of each known race fits on 40 lines, and names the lines that are marked in its source."""
    source, start = inspect.getsourcelines(race)
    marked = [start + index for index, line in enumerate(source) if line.rstrip().endswith("# races")]
    assert 1 <= len(marked) <= 2
    report = report_of(race)
    assert len(report.splitlines()) <= 40
    assert max(map(len, report.splitlines())) <= 160
    assert "Two lines race for " in report
    for line in marked:
        assert re.search(rf'known\.py(:|", line ){line}\b', report), report


def test_table_of_the_benchmarks_has_each_race(root: Path) -> None:
    """The table in the README of the benchmarks has a line for each known race, and misses none."""
    readme = (root / "benchmarks/README.md").read_text(encoding="utf-8")
    for name in RACES:
        (line,) = re.findall(rf"^\| {name} \|.*$", readme, re.MULTILINE)
        ours = line.split(" | ")[1]
        assert re.fullmatch(r"[\d.]+ \(at most \d+\), [12]( to 2)?", ours)


def test_benchmark_of_races_prints_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks.races --quick` prints a line for each race, and says which tools could not run."""
    from benchmarks.races.__main__ import main

    monkeypatch.setattr(sys, "argv", ["benchmarks.races", "--quick", "--python", "no-such-python"])
    main()
    output = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in output.splitlines()[2:18]] == [f"| {name}" for name in RACES]
    assert "- simloom was not run: there is no no-such-python" in output
