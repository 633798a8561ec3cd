"""apt is played by a script: what is asked of it, and what is made of its answers."""

import os
from pathlib import Path

import pytest

from ringfence.errors import HostError
from ringfence.lab import packages
from ringfence.lab.packages import Archive, Package

SIMULATED = """\
NOTE: This is only a simulation!
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst fio (3.33-3 Debian:12.15/oldstable [amd64])
Inst busybox-static (1:1.35.0-4+b1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64])
Conf libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64])
"""


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Put a script in the place of apt-get; gives a function that sets its body."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def install(body: str, name: str = "apt-get") -> None:
        script = programs / name
        script.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n{body}\n')
        script.chmod(0o755)

    install("exit 0", "dpkg-deb")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return install


@pytest.fixture
def archive(tmp_path) -> Archive:
    root = tmp_path / "root"
    root.mkdir()
    return Archive(root)


def calls(tmp_path: Path) -> str:
    return (tmp_path / "calls").read_text()


def test_the_closure_is_what_apt_would_install(apt, archive):
    apt(f"cat <<'EOF'\n{SIMULATED}EOF")
    assert archive.closure(["fio", "busybox-static"]) == (
        Package("libc6", "2.36-9+deb12u14"),
        Package("fio", "3.33-3"),
        Package("busybox-static", "1:1.35.0-4+b1"),
    )


def test_apt_is_asked_with_a_private_configuration_and_nothing_of_the_host_is_written(apt, archive, tmp_path):
    apt('case "$*" in *update) touch state/lists/some_Packages ;; esac')
    archive.refresh()
    archive.closure(["fio"])
    config = tmp_path / "root" / "apt.conf"
    assert all(f"-c {config}" in line for line in calls(tmp_path).splitlines())
    for setting in ("Dir::State ", "Dir::State::status ", "Dir::Cache ", "Dir::Log "):
        assert f'{setting}"{tmp_path}/root/' in config.read_text()
    assert 'APT::Sandbox::User "root"' in config.read_text()


def test_a_source_that_fails_beside_another_is_passed_over(apt, archive):
    apt('case "$*" in *update) touch state/lists/some_Packages; echo "E: one failed" >&2; exit 100 ;; esac')
    archive.refresh()


def test_without_any_list_the_first_complaint_of_apt_is_told(apt, archive):
    apt('echo "W: slow" >&2; echo "E: Failed to fetch the lists" >&2; exit 100')
    with pytest.raises(HostError, match="E: Failed to fetch the lists") as caught:
        archive.refresh()
    assert "network" in caught.value.hint


def test_without_apt_the_lab_says_where_it_runs(archive, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="apt-get is not here") as caught:
        archive.refresh()
    assert "Debian or Ubuntu" in caught.value.hint


def test_the_first_kernel_that_is_known_is_taken(apt, archive):
    known = "*linux-image-virtual*) echo 'Inst linux-image-virtual (6.8 Ubuntu:24.04/noble [amd64])'; exit"
    apt(f'case "$*" in {known} ;; esac; exit 100')
    name, packages = archive.first_closure(["linux-image-cloud-amd64", "linux-image-virtual"])
    assert (name, packages) == ("linux-image-virtual", (Package("linux-image-virtual", "6.8"),))
    with pytest.raises(HostError, match="none of these packages is known here: a, b"):
        archive.first_closure(["a", "b"])


def test_sizes_are_added_up(apt, archive):
    apt("echo \"'scheme://host/a.deb' a.deb 1000 SHA256:x\"; echo \"'scheme://host/b.deb' b.deb 234 SHA256:y\"")
    assert archive.size_bytes([Package("a", "1"), Package("b", "2")]) == 1234


def test_exact_versions_are_downloaded(apt, archive, tmp_path):
    apt("touch fio_3.33-3_amd64.deb")
    (deb,) = archive.download([Package("fio", "3.33-3")])
    assert deb.name == "fio_3.33-3_amd64.deb"
    assert calls(tmp_path).rstrip().endswith("download fio=3.33-3")


def test_a_damaged_package_is_an_error(apt, tmp_path):
    apt('echo "dpkg-deb: error: not a Debian format archive" >&2; exit 2', "dpkg-deb")
    with pytest.raises(HostError, match="not a Debian format archive"):
        packages.unpack([tmp_path / "a.deb"], tmp_path / "into")


def test_no_room_is_said_before_anything_is_fetched(tmp_path):
    packages.check_space(tmp_path, 1)
    with pytest.raises(HostError, match="MiB free") as caught:
        packages.check_space(tmp_path, 1 << 60)
    assert "XDG_CACHE_HOME" in caught.value.hint
