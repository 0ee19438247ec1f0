"""A program that is stopped at any of its points: all clean-ups run, and the process ends (laws 1 and 2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="fork, and signals as a POSIX shell knows them")

PROGRAM = Path(__file__).with_name("program_with_points.py")
POINTS = [
    *("main begins", "main goes on", "main cleans up", "a task group is full", "under a timeout", "code that blocks"),
    *("one begins", "three has replied", "two works", "four cleans up", "lasting begins", "a boss replies"),
    *("a stream goes on", "a reader reads", "a promise is resolved", "messages are persisted", "a history has it"),
    *("a request is sent", "waiting to try again", "an answer streams"),
]
Cases = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def cases() -> Cases:
    """Run the program in all cases from one process, and return the results, grouped by what ended the program."""
    chosen = [("", "nothing"), *((point, end) for end in ("SIGINT", "SIGTERM") for point in POINTS)]
    for point in ("one begins", "three begins", "lasting begins"):
        chosen += [(point, end) for end in ("SIGINT SIGINT", "SIGTERM SIGINT", "SIGINT SIGTERM")]
    for point in ("main begins", "two works", "a boss replies", "main cleans up"):
        chosen += [(point, end) for end in ("ValueError", "SystemExit", "KeyboardInterrupt")]
    command = [sys.executable, str(PROGRAM), json.dumps(chosen)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["point"], line["end"]) for line in lines] == chosen
    return {end: [line for line in lines if line["end"] == end] for _, end in chosen}


def test_program_reaches_all_points_when_nothing_stops_it(cases: Cases) -> None:
    """If nothing stops the program of these tests, it reaches its 20 points, cleans up, and ends with status 0."""
    (line,) = cases["nothing"]
    assert len(POINTS) == 20
    assert set(POINTS) < set(line["reached"])
    assert (line["status"], line["left"]) == (0, [])


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM"])
def test_C13_C15_signal_at_any_point_runs_every_clean_up_and_ends_the_process(end: str, cases: Cases) -> None:
    """At any point a signal ends the process within a second, after all clean-ups, with a shell's status for it."""
    assert len(cases[end]) == 20
    for line in cases[end]:
        assert line["left"] == [], line
        assert shell_status(line) == (130 if end == "SIGINT" else 143), line
        assert line["seconds_at_work"] < 1, line
        assert ("KeyboardInterrupt" in line["errors"]) == (end == "SIGINT"), line
        for sign in ("was destroyed", "never retrieved", "never awaited", "Exception ignored"):
            assert sign not in line["errors"], line
    assert min(line["seconds"] for line in cases[end]) < 1  # on a busy machine, most cases may take longer


def shell_status(line: dict[str, Any]) -> int:
    """Return the status as a shell shows it: 128 and the number of the signal, if a signal ended the process."""
    status: int = line["status"]
    return 128 - status if status < 0 else status


@pytest.mark.parametrize("ends", ["SIGINT SIGINT", "SIGTERM SIGINT", "SIGINT SIGTERM"])
def test_C14_second_signal_ends_the_process_without_waiting_for_clean_ups(ends: str, cases: Cases) -> None:
    """If clean-ups hang, a second signal ends the process in 0.2 s of CPU time, and within a second on the clock."""
    assert {shell_status(line) for line in cases[ends]} == {143 if "SIGTERM" in ends else 130}
    assert median(line["seconds_at_work"] for line in cases[ends]) < 0.2
    assert min(line["seconds"] for line in cases[ends]) < 1  # on a busy machine, most cases may take longer


@pytest.mark.parametrize(("end", "status"), [("ValueError", 1), ("SystemExit", 9), ("KeyboardInterrupt", 130)])
def test_C5_C16_exception_in_main_or_in_an_agent_ends_the_program(end: str, status: int, cases: Cases) -> None:
    """A program that an exception ends cleans up, prints it unless it is `SystemExit`, and has the usual status."""
    for line in cases[end]:
        assert line["left"] == [], line
        assert shell_status(line) == status, line
        assert (end in line["errors"]) == (end != "SystemExit"), line
