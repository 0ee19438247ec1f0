"""Fixtures, options and settings that all tests share.

An id such as `H18` in the name of a test is that of a row in `docs/maintainers/faults.md`.
"""

from __future__ import annotations

import gc
import math
import os
import signal
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, settings

import miniagents
from miniagents_testing import _clock

pytest_plugins = ["pytester"]

# `nohup`, and shells that start background jobs, ignore signals. Each program that a test starts would inherit that.
for _signal, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _default)

T = TypeVar("T")

EFFORT = os.environ.get("MINIAGENTS_TEST_EFFORT") or "default"

# What properties try; those in `tests/properties` take the effort for their profile, all others the default.
for _profile, _max_examples in {"default": 25 if EFFORT == "default" else 50, "ci": 1_000, "nightly": 50_000}.items():
    # How fast an example runs says how busy the machine is, not whether a law holds.
    settings.register_profile(
        _profile, max_examples=_max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("default")

ROOT = Path(__file__).resolve().parent.parent
AUTHORITY = ROOT / "tests/shared/authority.pem"
"""Certificate of an authority for 100 years, whose key was deleted."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes `public_names.txt` anew."""
    parser.addoption("--update-public-names", action="store_true", help="write tests/public_names.txt from the code")


def pytest_collection_finish() -> None:
    """Exclude what is loaded by now from garbage collections, which would scan it hundreds of times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the checkout: README, examples and cassettes are tested as files, whichever wheel is installed."""
    return ROOT


class Effort(Protocol):
    """Function that returns, of three sizes of a test, the one for this run."""

    def __call__(self, default: T, *, ci: T, nightly: T) -> T:
        """Return the size for this run: `nightly` may take minutes, `ci` seconds.

        `default` is for a developer who waits.
        """


@pytest.fixture(scope="session")
def effort() -> Effort:
    """Return the function that chooses a size by `MINIAGENTS_TEST_EFFORT`: "default", "ci" or "nightly"."""

    def choose(default: T, *, ci: T, nightly: T) -> T:
        return {"default": default, "ci": ci, "nightly": nightly}[EFFORT]

    return choose


@pytest.fixture(autouse=True)
def _no_keys_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete keys and base URLs from the environment, as they would decide what the SDKs do."""
    for provider in ("OPENAI", "ANTHROPIC", "AZURE_OPENAI"):
        for name in ("API_KEY", "BASE_URL", "AUTH_TOKEN", "ORG_ID", "PROJECT_ID", "AD_TOKEN", "ENDPOINT"):
            monkeypatch.delenv(f"{provider}_{name}", raising=False)


@pytest.fixture(autouse=True)
def _clients_load_one_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients load one authority, which signs nothing, because all those of a system take each client 20 ms."""
    monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))


@pytest.fixture(autouse=True)
def _programs_run_what_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs that a test starts import the same `miniagents`, also from a checkout that is not installed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(miniagents.__file__).parent.parent))


@pytest.fixture(autouse=True)
def _not_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete the variable `CI`: tests record into folders of their own, and a test of its effect sets it."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture(autouse=True)
def _virtual_time_ignores_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let turns of a loop take no virtual time, however long they take, except in tests that set the patience."""
    monkeypatch.setattr(_clock, "_BUSY_PATIENCE", math.inf)
