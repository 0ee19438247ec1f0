"""Five tokens, sent 0.1 s apart, under vcrpy alone and with true streams: when does each one reach the program?

A server on this machine plays the provider, so the program needs no key and no network: `python
examples/token_times.py`.

What to look at: vcrpy reads the whole answer before the program gets the first token, and a replay has lost the times.
`stream_layer` passes each token on as it comes, and a replay has the recorded times. Both use the same vcrpy cassette.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from miniagents.errors import MissingExtraError
from miniagents_testing import ProviderServer, Step, stream_layer

try:
    import openai
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error
try:
    import vcr
except ModuleNotFoundError as error:
    raise MissingExtraError.of("vcrpy", "testing") from error


def token_times(base_url: str) -> list[float]:
    """Ask for an answer, and return the seconds from the request to each token."""
    with openai.OpenAI(api_key="not needed", base_url=base_url) as client:
        started = time.monotonic()
        stream = client.responses.create(model="gpt-5.4-mini", input="Count to five.", stream=True)
        tokens = (event for event in stream if event.type == "response.output_text.delta")
        return [round(time.monotonic() - started, 2) for _ in tokens]


def main() -> None:
    """Record and play one answer in both ways."""
    answer = Step(["one ", "two ", "three ", "four ", "five"], gap=0.1)
    with tempfile.TemporaryDirectory() as folder, ProviderServer([answer] * 3) as server:
        token_times(server.openai_base_url)  # the first request of a process takes longer
        for name in ("vcrpy", "miniagents_testing"):
            for record_mode in ("once", "none"):
                with vcr.use_cassette(str(Path(folder) / f"{name}.yaml"), record_mode=record_mode) as cassette:
                    with stream_layer(cassette, pace=1) if name == "miniagents_testing" else nullcontext():
                        times = token_times(server.openai_base_url)
                print(f"{name:18}  {'recorded' if record_mode == 'once' else 'played':8}  {times}")


if __name__ == "__main__":
    main()
