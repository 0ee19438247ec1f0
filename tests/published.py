"""The tests that requests, vcrpy and aiohttp publish, run with our layer open: `tox -e published`.

The program downloads the source distribution of each installed version, and nothing of it is kept. Clients are recorded
during each test; the cassettes that tests of vcrpy open are streamed as those of pytest-recording are. A test that also
fails without the layer is no fault of ours. `REASONS` has the tests that cannot hold, each with its reason.

This module is also the plugin of pytest in those runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from vcr.cassette import CassetteContextDecorator

from miniagents_testing import use_cassette
from miniagents_testing.cassette import layer_for_vcr_test

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_FIRST = "a body that is uploaded in parts is read whole, because the cassette is asked before anything is sent"
IDENTITY = "a recorded request asks for no compression, so that its answer can be searched for secrets"
NOT_KEPT = "headers of the connection, noise such as `server`, secrets and values of cookies are not recorded"
AS_LIVE = "the client does what it does without a cassette, where vcrpy's stub does something else"
STUB = "the test looks at objects of vcrpy's stub, which is not asked"
UNREAD = "the test counts an answer that is not read yet; the layer records it at its end"

TESTS = {
    "requests": ["tests"],
    "vcrpy": ["tests/integration"],
    "aiohttp": ["tests/test_client_functional.py", "tests/test_client_middleware.py", "tests/test_proxy_functional.py"],
}
"""Packages, with the files and folders of the tests that send requests."""

REASONS: dict[str, dict[str, str]] = {
    "requests": {},
    "vcrpy": {
        "*::test_cookies*": NOT_KEPT,
        "*::test_headers*": NOT_KEPT,
        "*/test_filter.py::test_filter_sensitive_data": NOT_KEPT,
        "*/test_proxy.py::test_use_proxy*": NOT_KEPT,
        "*::test_gzip__decode_compressed_response_true*": IDENTITY,
        "*/test_httpx*.py::test_redirect*": IDENTITY,
        "*/test_filter.py::test_decomp*": AS_LIVE,
        "*/test_streaming_request_body.py::test_streaming_body_forwarded_with_content_length*": AS_LIVE,
        "*/test_urllib3.py::test_release_conn_restores_pool_capacity*": AS_LIVE,
        "*/test_urllib3.py::test_url[[]*": AS_LIVE,
        "*/test_wild.py::test_flickr_multipart_upload": AS_LIVE,
        "*/test_urllib3.py::test_blocking_pool_used_around_cassettes*": STUB,
        "*/test_urllib3.py::test_finishing_a_response_after_its_cassette*": STUB,
        "*/test_ignore.py::*": UNREAD,
        "*/test_request.py::test_records_multiple_header_values": UNREAD,
    },
    "aiohttp": {
        "*::test_stream_request_on_server_eof*": READ_FIRST,
        "*::test_content_length_limit_with_multiple_reads*": READ_FIRST,
        "*::test_async_iterable_payload_redirect*": READ_FIRST,
        "*::test_upload_retry_persistent_connection_unseekable_body*": READ_FIRST,
        "*::test_upload_tracker_*": READ_FIRST,
        "*::test_deprecated_upload_attributes*": READ_FIRST,
        "*::test_payload_decompress_size_limit*": "an answer that inflates beyond every limit is refused by name",
        "*::test_stream_reader_total_raw_bytes*": IDENTITY,
    },
}
"""For each package, patterns of the tests that cannot hold, with the reasons."""


# --- the plugin of pytest, in the runs that `main` starts


def pytest_configure(config: pytest.Config) -> None:
    """Open a layer on each cassette of vcrpy, while its tests are run with the layer."""
    if os.environ["PUBLISHED_LAYER"] == "vcrpy":
        _layer_cassettes()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that cannot hold."""
    reasons = REASONS[os.environ["PUBLISHED_PACKAGE"]]
    left_out = [item for item in items if any(fnmatch(item.nodeid, pattern) for pattern in reasons)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Iterator[None]:
    """Record the clients of a test while it is run with the layer."""
    with ExitStack() as stack:
        if os.environ["PUBLISHED_LAYER"] == "recorded":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(use_cassette(Path(folder) / "c.yaml", record_mode="once"))
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the name of a test that fails into the file of failures."""
    if report.failed:
        with Path(os.environ["PUBLISHED_FAILURES"]).open("a", encoding="utf-8") as file:
            file.write(f"{report.nodeid}\n")


def _layer_cassettes() -> None:
    """Let vcrpy open each cassette with a layer of streams."""
    enter, leave = CassetteContextDecorator.__enter__, CassetteContextDecorator.__exit__
    layers: dict[int, Any] = {}

    def enter_with_layer(self: Any) -> Any:
        """Open the cassette, and the layer on it."""
        cassette = enter(self)
        if (layer := layer_for_vcr_test(cassette)) is not None:
            layer.__enter__()
            layers[id(self)] = layer
        return cassette

    def leave_with_layer(self: Any, *error: Any) -> None:
        """Close the layer, and the cassette below it."""
        try:
            if (layer := layers.pop(id(self), None)) is not None:
                layer.__exit__(*error)
        finally:
            leave(self, *error)

    CassetteContextDecorator.__enter__, CassetteContextDecorator.__exit__ = enter_with_layer, leave_with_layer


# --- the program


def download(package: str, folder: Path) -> Path | None:
    """Download the source distribution of an installed package; return its folder, without the package itself.

    Return None, and print the reason, if it cannot be had.
    """
    wanted = f"{package}=={version(package)}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", wanted]
    done = subprocess.run([*command, "--dest", folder], capture_output=True, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        print(f"{package}: skipped, its source distribution cannot be had: {done.stderr.strip().splitlines()[-1:]}")
        return None
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    (root,) = (path for path in folder.iterdir() if path.is_dir())
    shutil.rmtree(root / {"vcrpy": "vcr"}.get(package, package), ignore_errors=True)  # the installed one is tested
    if not (root / "tests").is_dir():
        print(f"{package}: skipped, its source distribution has no tests")
        return None
    return root


def failures(package: str, root: Path, layer: str, tests: list[str]) -> list[str]:
    """Run tests with a layer, or plainly with `none`; return the names of those that fail.

    Raises:
        SystemExit: pytest could not run them, as with a wrong option.
    """
    file = root.parent / f"failures-{layer}"
    # recordings are refused under CI, and the servers of the tests have certificates of their own
    unset = "CI", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PUBLISHED_PACKAGE": package, "PUBLISHED_LAYER": layer, "PUBLISHED_FAILURES": str(file)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    plugins = ["-p", "published", "-p", "no:randomly", "-p", "no:cacheprovider"]
    if package == "aiohttp":
        plugins += ["-p", "no:asyncio"]  # it runs coroutines by itself
    options = ["-q", "--tb=short", "-o", "addopts=", "-o", "filterwarnings=", "--disable-warnings", "--timeout", "60"]
    marks = ["-m", "not online"] if package == "vcrpy" else []
    command = [sys.executable, "-P", "-m", "pytest", *plugins, *options, *marks, *tests]
    status = subprocess.run(command, cwd=root, env=environment).returncode
    if status not in (0, 1):
        raise SystemExit(f"{package}: pytest could not run the tests, and ended with status {status}")
    return sorted(set(file.read_text(encoding="utf-8").splitlines())) if file.exists() else []


def main() -> int:
    """Run the tests of all packages, or of those that are named; return 1 if the layer makes one of them fail."""
    status = 0
    for package in sys.argv[1:] or REASONS:
        with tempfile.TemporaryDirectory() as name:
            root = download(package, Path(name))
            if root is None:
                continue
            failed = failures(package, root, "vcrpy" if package == "vcrpy" else "recorded", TESTS[package])
            elsewhere = failures(package, root, "none", failed) if failed else []
        ours = [test for test in failed if test not in elsewhere]
        print(f"{package} {version(package)}: {len(ours)} fail with the layer, {len(elsewhere)} also without it")
        print("".join(f"  left out: {pattern}: {reason}\n" for pattern, reason in REASONS[package].items()), end="")
        print("".join(f"  FAILED {test}\n" for test in ours), end="", flush=True)
        status |= bool(ours)
    return status


if __name__ == "__main__":
    sys.exit(main())
