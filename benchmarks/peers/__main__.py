"""Command that runs every measure of every framework, each in a process of its own; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.markdown import as_markdown
from benchmarks.measure import write
from benchmarks.peers.environments import ALL, FIRST
from benchmarks.peers.run import run

parser = argparse.ArgumentParser(description="Measure other frameworks; create missing virtual environments in .bench/")
parser.add_argument("--anew", action="store_true", help="create the environments again, with the newest packages")
parser.add_argument("--quick", action="store_true", help="check that everything runs; the figures mean nothing")
parser.add_argument(
    "--only", metavar="PEER", action="append", help="module of a peer to measure; may be given several times"
)
parser.add_argument("--json", metavar="FILE", help="write the results as JSON; - is the standard output")
chosen = parser.parse_args()
for environment in (ALL, FIRST):
    try:
        environment.make(chosen.anew)
    except (OSError, subprocess.CalledProcessError) as error:  # the peers of the other environment are measured
        print(f"The environment in {environment.folder} could not be made: {error}", file=sys.stderr, flush=True)
results = run(chosen.only, quick=chosen.quick)
for table in results["tables"]:
    print(f"{as_markdown(table)}\n", file=sys.stderr if chosen.json == "-" else sys.stdout, flush=True)
if chosen.json is not None:
    write(results, chosen.json)
