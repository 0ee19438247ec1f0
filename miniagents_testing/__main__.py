"""Entry point of the command line: `python -m miniagents_testing`."""

from __future__ import annotations

import sys

from miniagents_testing.cli import main

if __name__ == "__main__":
    sys.exit(main())
