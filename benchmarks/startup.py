"""Cost of starting: imports, and pytest with and without the plugin, each in a new process, in turn."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from importlib.metadata import entry_points

from benchmarks.measure import Plan, Table, main

_MEASURED = "import time\nstart = time.process_time()\n{imports}\nprint(time.process_time() - start)"
# miniagents and pydantic import names at first use, and pydantic loads its plugins with the first model
_BASE = "import asyncio, pydantic\nclass Model(pydantic.BaseModel): content: str"
_OURS = "from miniagents import MiniAgents, Message"

# the whole process counts, as for `python -m pytest`
_COLLECTED = "import time, pytest\npytest.main({arguments})\nprint()\nprint(time.process_time())"
_EMPTY_PROJECT = ["--collect-only", "-q", "-p", "no:cacheprovider", "-W", "ignore"]


async def milliseconds(code: str, bytecode: str, folder: str | None = None) -> float:
    """Run code that prints its seconds, and return milliseconds; compiled modules are kept in the folder `bytecode`."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=folder, env=environment
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"a process with the code `{code}` failed with status {process.returncode}")
    return float(output.splitlines()[-1]) * 1000


async def collecting(table: Table, plan: Plan, bytecode: str) -> None:
    """Measure `pytest --collect-only` in an empty folder, with the plugin and without it."""
    if "miniagents" not in entry_points(group="pytest11").names:
        raise RuntimeError("pytest does not find the plugin: install the checkout, `pip install -e .`")
    base: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 if plan.quick else plan.rounds * 3 + 1):
            for times, arguments in ((base, [*_EMPTY_PROJECT, "-p", "no:miniagents"]), (ours, _EMPTY_PROJECT)):
                times.append(await milliseconds(_COLLECTED.format(arguments=arguments), bytecode, folder))
    table.add(
        "pytest --collect-only, empty",
        "ms",
        base[1:] or base,
        ours[1:] or ours,
        base_name="without the plugin",
        goal=1.05,
    )


async def benchmark(plan: Plan) -> Table:
    """Measure imports, and collection by pytest."""
    table = Table("Start")
    with tempfile.TemporaryDirectory() as bytecode:
        base: list[float] = []
        ours: list[float] = []
        for _ in range(1 if plan.quick else plan.rounds * 3 + 1):
            base.append(await milliseconds(_MEASURED.format(imports=_BASE), bytecode))
            ours.append(await milliseconds(_MEASURED.format(imports=_OURS), bytecode))
        # the first run of each is dropped, because it compiles the modules
        base_name = "asyncio, pydantic and one model"
        table.add(_OURS, "ms", base[1:] or base, ours[1:] or ours, base_name=base_name, goal=1.1)
        await collecting(table, plan, bytecode)
    return table


if __name__ == "__main__":
    main(benchmark)
