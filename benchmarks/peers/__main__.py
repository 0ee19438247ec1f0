"""Every framework at every measure, each in a process of its own; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import sys

from benchmarks.markdown import as_markdown
from benchmarks.measure import write
from benchmarks.peers.environments import ALL, FIRST
from benchmarks.peers.run import run

parser = argparse.ArgumentParser(description="Makes the environments in .bench/ where they are missing")
parser.add_argument("--anew", action="store_true", help="make them again, with the packages of today")
parser.add_argument("--quick", action="store_true", help="shows that everything runs, measures nothing")
parser.add_argument("--only", metavar="PEER", action="append", help="may be given several times")
parser.add_argument("--json", metavar="FILE", help="write the results as JSON; - is the standard output")
chosen = parser.parse_args()
for environment in (ALL, FIRST):
    environment.make(chosen.anew)
results = run(chosen.only, quick=chosen.quick)
for table in results["tables"]:
    print(f"{as_markdown(table)}\n", file=sys.stderr if chosen.json == "-" else sys.stdout, flush=True)
if chosen.json is not None:
    write(results, chosen.json)
