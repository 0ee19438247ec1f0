"""The table of clients whose conversations are recorded, in docs/how-to/cassettes.md.

Each test of a client is one cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ("record, play", "early close", "server ends", "reset", "redirect", "refused, down", "miss", "pace")
_PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/cassettes.md"


class Cells:
    """The row of one client: tests that are marked as cells of columns."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.names: dict[str, str] = {}
        """Names of the tests, by column."""

    def __call__(self, column: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
        """Mark a test as the cell of a column."""

        def mark(test: Callable[..., object]) -> Callable[..., object]:
            self.names[column] = test.__name__
            return test

        return mark

    def assert_in_page(self) -> None:
        """Compare the row with the page: "yes" where there is a test, "-" elsewhere."""
        assert set(self.names) <= set(COLUMNS)
        lines = _PAGE.read_text(encoding="utf-8").splitlines()
        assert f"| conversations of | {' | '.join(COLUMNS)} |" in lines
        row = [self.client, *("yes" if column in self.names else "-" for column in COLUMNS)]
        assert f"| {' | '.join(row)} |" in lines
