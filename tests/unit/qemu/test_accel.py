"""QEMU is played by a script that ends as isa-debug-exit would make it end."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ringfence.errors import HostError
from ringfence.qemu import accel

PASSED = "exit 85"


@pytest.fixture
def qemu(tmp_path, monkeypatch):
    """Gives a function that writes the script, and returns its path; each run adds a line to `runs`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(body: str) -> str:
        script = tmp_path / "qemu"
        script.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/runs\n{body}\n')
        script.chmod(0o755)
        os.utime(script, ns=(0, write.written))
        write.written += 1
        return str(script)

    write.written = 1
    return write


@pytest.fixture
def device(tmp_path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    return path


def runs(tmp_path: Path) -> list[str]:
    path = tmp_path / "runs"
    return path.read_text().splitlines() if path.exists() else []


def test_kvm_works_where_guest_code_reaches_its_end(qemu, device):
    assert accel.probe_kvm(qemu(PASSED), device=device).works


def test_the_boot_sector_is_what_is_run(qemu, tmp_path):
    found = tmp_path / "found"
    body = f'for word in "$@"; do case $word in *file=*) cp "${{word##*file=}}" {found} ;; esac; done; {PASSED}'
    assert accel.probe(qemu(body), "kvm") == ""
    assert found.read_bytes()[:512] == accel.BOOT_SECTOR
    assert "-accel kvm" in runs(tmp_path)[0]


def test_what_qemu_says_is_the_reason(qemu, device):
    kvm = accel.probe_kvm(qemu("echo 'qemu: failed to set MSR 0x10a' >&2; exit 134"), device=device)
    assert not kvm.works
    assert kvm.reason.endswith(": failed to set MSR 0x10a")


@pytest.mark.parametrize("code", [0, 1, 84])
def test_any_other_end_is_a_failure(qemu, code):
    assert accel.probe(qemu(f"exit {code}"), "kvm") == f"QEMU ended with {code}"


def test_a_guest_that_hangs_is_ended(qemu):
    assert "hangs" in accel.probe(qemu("exec sleep 60"), "kvm", timeout_s=0.05)


def test_the_result_is_remembered_until_qemu_changes(qemu, device, tmp_path):
    path = qemu(PASSED)
    assert accel.probe_kvm(path, device=device) == accel.probe_kvm(path, device=device)
    assert len(runs(tmp_path)) == 1
    assert not accel.probe_kvm(qemu("exit 1"), device=device).works
    assert len(runs(tmp_path)) == 2


def test_a_damaged_memory_is_no_memory(qemu, device, tmp_path):
    path = qemu(PASSED)
    cache = tmp_path / "cache" / "ringfence" / "accel.json"
    cache.parent.mkdir(parents=True)
    cache.write_text("[")
    assert accel.probe_kvm(path, device=device).works


def test_without_the_device_nothing_is_run(qemu, tmp_path):
    kvm = accel.probe_kvm(qemu(PASSED), device=tmp_path / "none")
    assert (kvm.works, runs(tmp_path)) == (False, [])


def test_a_device_of_others_is_not_tried(qemu, device, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    kvm = accel.probe_kvm(qemu(PASSED), device=device)
    assert "may not open" in kvm.reason
    assert not runs(tmp_path)


def test_a_wish_is_not_questioned(qemu, tmp_path):
    assert accel.choose(qemu("exit 1"), "tcg,thread=single").name == "tcg,thread=single"
    assert accel.choose(qemu("exit 1"), "kvm").name == "kvm"
    assert not runs(tmp_path)


@pytest.mark.parametrize(("works", "name"), [(True, "kvm"), (False, "tcg")])
def test_auto_is_kvm_only_where_it_works(monkeypatch, works, name):
    monkeypatch.setattr(accel, "probe_kvm", lambda qemu: accel.Kvm(works, "because"))
    assert accel.choose("qemu") == accel.Accel(name, "because")


def test_a_qemu_that_is_not_there_is_the_hosts_fault(tmp_path):
    with pytest.raises(HostError):
        accel.probe(str(tmp_path / "qemu"), "kvm")


def test_the_boot_sector_is_one():
    assert len(accel.BOOT_SECTOR) == 512
    assert accel.BOOT_SECTOR.endswith(b"\x55\xaa")


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("ld")), reason="no assembler here")
def test_the_boot_sector_is_its_source_assembled(tmp_path):
    source = Path(accel.__file__).with_name("probe.s")
    line = ("ld", "-Ttext", "0x7c00", "--oformat", "binary", "-o", "probe.bin", "probe.o")
    if os.uname().machine != "x86_64":
        pytest.skip("the assembler here makes other code")
    for argv in (("as", "-o", "probe.o", str(source)), line):
        subprocess.run(argv, cwd=tmp_path, check=True)
    assert (tmp_path / "probe.bin").read_bytes() == accel.BOOT_SECTOR
