"""What `import miniagents` costs beside the modules it cannot do without, each in a fresh process, in turn."""

from __future__ import annotations

import asyncio
import sys

from benchmarks.measure import Plan, Table, main

_MEASURED = "import time\nstart = time.process_time()\n{imports}\nprint(time.process_time() - start)"
_MODEL = "\nclass Model(pydantic.BaseModel): content: str"
_PAIRS = (
    ("import asyncio, pydantic", "import miniagents"),
    # the names of both packages are loaded when they are first asked for, and pydantic's plugins with the first model
    (
        "import asyncio, pydantic\nclass Model(pydantic.BaseModel): content: str",
        "from miniagents import MiniAgents, Message",
    ),
)
"""What is compared: the bare side, ours."""


async def milliseconds(imports: str) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MEASURED.format(imports=imports), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"`{imports}` failed with status {process.returncode}")
    return float(output) * 1000


async def benchmark(plan: Plan) -> Table:
    table = Table("Import")
    for theirs, mine in _PAIRS:
        base: list[float] = []
        ours: list[float] = []
        for _ in range(plan.rounds + 1):
            base.append(await milliseconds(theirs))
            ours.append(await milliseconds(mine))
        # the first of each compiled what it imports
        base_name = "asyncio, pydantic" if "class" not in theirs else "the same and one model"
        table.add(mine, "ms", base[1:], ours[1:], base_name=base_name, goal=1.3)
    return table


if __name__ == "__main__":
    main(benchmark)
