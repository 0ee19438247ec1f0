"""The file of a cassette in its file system: permissions, owners, links, and paths that are no regular file."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import chdir, contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents_testing import stream_layer
from miniagents_testing.cassette import Interaction, ResponseStream, load, save, use_cassette
from miniagents_testing.errors import CassetteFormatError, RecordingRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has other permissions")

INTERACTIONS = [Interaction("POST", "https://x.test/v1", b"{}", ResponseStream(reason="OK"))]


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _record(kit: Kit, mode: str) -> None:
    with kit.cassette(mode), httpx2.Client(transport=kit.network(kit.Reply([b"hi"]))) as client:
        client.post(kit.URL, json={})


def _record_under_vcrpy(kit: Kit, mode: str) -> None:
    vcr: Any = pytest.importorskip("vcr")
    network = kit.network(kit.Reply([b"hi"]))
    with vcr.use_cassette(str(kit.path), record_mode=mode) as cassette:
        with stream_layer(cassette, also_patch=[type(network)]), httpx2.Client(transport=network) as client:
            client.post(kit.URL, json={})


@pytest.mark.parametrize("record", [_record, _record_under_vcrpy])
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_new_file_has_the_mode_that_open_would_give_it(kit: Kit, record: Any, mask: int, mode: int) -> None:
    """A recording into a new file gives it the mode 0666 less the umask."""
    with _umask(mask):
        record(kit, "once")
    assert _mode(kit.path) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
@pytest.mark.parametrize(
    ("record", "record_mode"), [(_record, "rewrite"), (_record, "all"), (_record_under_vcrpy, "all")]
)
def test_file_keeps_its_mode_when_it_is_written_again(kit: Kit, record: Any, record_mode: str, mode: int) -> None:
    """A recording into a file that exists keeps the mode of the file, whatever the umask."""
    save(kit.path, INTERACTIONS)
    kit.path.chmod(mode)
    with _umask(0o027):
        record(kit, record_mode)
    assert _mode(kit.path) == mode
    assert any(each.response.body == b"hi" for each in load(kit.path))


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may give files to other users")
def test_file_keeps_its_owner_when_root_writes_it_again(tmp_path: Path) -> None:
    """A file of another user and group keeps both, and its mode, when root saves it again."""
    path = tmp_path / "c.yaml"
    save(path, INTERACTIONS)
    path.chmod(0o640)
    os.chown(path, 12345, 23456)
    save(path, INTERACTIONS)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o640)


def test_save_is_never_readable_by_more_users_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a private file is written again, all files of its folder have its mode, whatever the umask."""
    path = tmp_path / "c.yaml"
    seen: list[int] = []
    save(path, INTERACTIONS)
    path.chmod(0o600)

    def looking(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: int) -> None:
            seen.extend(_mode(each) for each in tmp_path.iterdir())
            function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", looking(os.fsync))
    monkeypatch.setattr(os, "fchmod", looking(os.fchmod))
    with _umask(0):
        save(path, INTERACTIONS)
    assert set(seen) == {0o600}
    assert len(seen) > 4


@pytest.mark.parametrize("exists", [True, False])
def test_link_to_a_file_is_followed(kit: Kit, exists: bool) -> None:
    """A recording through a chain of links goes to their target, also to one that does not exist; the links stay."""
    target = kit.path.parent / "elsewhere" / "target.yaml"
    first, second = kit.path, kit.path.with_name("second.yaml")
    first.symlink_to("second.yaml")
    second.symlink_to(target)
    if exists:
        save(target, INTERACTIONS)
        target.chmod(0o600)
    with _umask(0o022):
        _record(kit, "rewrite" if exists else "once")
    assert first.is_symlink()
    assert second.is_symlink()
    assert _mode(target) == (0o600 if exists else 0o644)
    assert [each.response.body for each in load(target)] == [b"hi"]
    assert [path.name for path in target.parent.iterdir()] == ["target.yaml"]


def test_link_to_a_folder_that_does_not_exist_is_followed(tmp_path: Path) -> None:
    """A cassette below a link to a missing folder makes the folder that the link names."""
    (tmp_path / "link").symlink_to("real/deep", target_is_directory=True)
    save(tmp_path / "link" / "module" / "c.yaml", INTERACTIONS)
    assert load(tmp_path / "real" / "deep" / "module" / "c.yaml") == tuple(INTERACTIONS)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mode", ["once", "rewrite", "all", "none"])
def test_link_to_itself_is_an_error_before_a_request_is_sent(kit: Kit, mode: str) -> None:
    """Opening a cassette at a link that leads to itself raises an `OSError` at once, in every record mode."""
    kit.path.symlink_to(kit.path.name)
    with pytest.raises(OSError, match=kit.path.name), kit.cassette(mode):
        pytest.fail("the cassette was opened")
    assert kit.path.is_symlink()


def test_file_with_the_longest_possible_name_is_saved(tmp_path: Path) -> None:
    """`save` writes a file whose name has 255 bytes, the most that a file system allows."""
    path = tmp_path / f"{'x' * 250}.yaml"
    save(path, INTERACTIONS)
    assert load(path) == tuple(INTERACTIONS)


def _make_special(kind: str, path: Path) -> None:
    """Make a file of a kind that is not regular, or a link to a device."""
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "terminal":
            path.symlink_to("/dev/tty")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener, chdir(path.parent):  # an address has at most 108 bytes
                listener.bind(path.name)


KINDS = ["pipe", "folder", "device", "terminal", "socket"]


@pytest.mark.parametrize("mode", ["none", "once", "new_episodes", "all", "rewrite"])
@pytest.mark.parametrize("kind", KINDS)
def test_X6_cassette_that_is_no_regular_file_is_refused_before_a_request_is_sent(
    kit: Kit, kind: str, mode: Any
) -> None:
    """A pipe, folder, device or socket is refused when it is opened as a cassette, in every record mode, and stays."""
    _make_special(kind, kit.path)
    before = stat.S_IFMT(kit.path.lstat().st_mode)
    with pytest.raises(CassetteFormatError, match=r"cassette\.yaml is no cassette: it is not a regular file"):
        with use_cassette(kit.path, record_mode=mode):
            pytest.fail("the cassette was opened")
    assert stat.S_IFMT(kit.path.lstat().st_mode) == before


@pytest.mark.parametrize("kind", KINDS)
def test_X6_save_refuses_a_path_that_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    """`save` raises an error for a pipe, folder, device or socket, and neither replaces it nor writes to it."""
    path = tmp_path / "cassette.yaml"
    _make_special(kind, path)
    with pytest.raises(CassetteFormatError, match="not a regular file"):
        save(path, INTERACTIONS)
    assert [each.name for each in tmp_path.iterdir()] == ["cassette.yaml"]
    assert not path.is_file()


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may give folders to other users")
def test_lock_of_a_recording_refuses_a_folder_of_another_user(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording is refused if another user owns the folder of the locks, into which that user could put links."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"miniagents-cassettes-{os.getuid()}"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(RecordingRefusedError, match="is of another user"), kit.cassette("once"):
        pytest.fail("the cassette was opened")
