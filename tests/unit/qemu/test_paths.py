import os
import stat

import pytest

from ringfence.errors import HostError
from ringfence.qemu import paths


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache_dir() == tmp_path / "ringfence"
    monkeypatch.setenv("HOME", "/home/someone")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert str(paths.cache_dir()) == "/home/someone/.cache/ringfence"


def test_the_runtime_directory_is_private(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = paths.runtime_dir()
    assert made == tmp_path / "ringfence"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert paths.runtime_dir() == made


def test_without_xdg_it_is_below_the_temporary_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 4242424)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(HostError, match="not a private directory"):  # ours by name, but not by owner
        paths.runtime_dir()
    assert (tmp_path / "ringfence-4242424").is_dir()


def test_a_directory_that_others_can_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(HostError, match="not a private directory"):
        paths.private_dir(tmp_path)


def test_a_link_is_refused(tmp_path):
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("there")
    with pytest.raises(HostError, match="not a private directory"):
        paths.private_dir(tmp_path / "link")


def test_a_directory_that_cannot_be_made_is_the_hosts_fault(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as caught:
        paths.private_dir(tmp_path / "file" / "below")
    assert caught.value.errno


def test_sockets_have_short_paths(tmp_path):
    paths.check_socket_path(tmp_path.parent.parent.parent / "a")
    with pytest.raises(HostError, match="107 bytes"):
        paths.check_socket_path(tmp_path / ("a" * 107))
