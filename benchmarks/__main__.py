"""All benchmarks, each in a process of its own, where the objects of the others are in nobody's way."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.measure import options, write

MODULES = ("startup", "tokens", "calls", "messages", "decoding", "cassettes")

chosen = options()
results: dict[str, Any] = {}
for module in MODULES:
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", "-", *(["--quick"] if chosen.quick else [])]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    results = {**result, "tables": [*results.get("tables", ()), *result["tables"]]}
if chosen.json is not None:
    write(results, chosen.json)
