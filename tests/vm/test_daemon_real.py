"""The daemon with real QEMU processes: stopped ones without a guest, so that each test takes a second or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ringfence.control.client import Client, required
from ringfence.qemu.launch import find_qemu

DISK = ("-drive", "if=none,id=d1,driver=null-co,size=1G", "-device", "virtio-blk-pci,drive=d1,id=vd1")
PATIENCE_S = 20.0


class Stage:
    """A daemon with its files, and QEMUs.

    :ivar name: begins the names of its VMs, so that no other's are fenced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"dt{os.getpid()}"
        self.fences = folder / "fences.yaml"
        self.socket = folder / "control.sock"
        self.environment = os.environ | {"RINGFENCE_STATE_DIR": str(folder / "state")}
        self.qemus: list[subprocess.Popen[bytes]] = []
        self.daemon: subprocess.Popen[bytes] | None = None

    def write(self, text: str) -> None:
        self.fences.write_text(text.replace("VM", self.name))

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "ringfence", "daemon", "--fences", self.fences, "--socket", self.socket]
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen([*command, *options], env=self.environment, stderr=log)
        self.until(lambda: self.socket.exists() and self.ask("status"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(PATIENCE_S)
        self.daemon = None
        return code

    def boot(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        qemu = find_qemu()
        assert qemu is not None
        command = [qemu, "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "32"]
        command += ["-name", f"{self.name}-{name}", *options]
        for socket in (f"{name}.qmp", f"{name}.qmp2"):
            command += ["-qmp", f"unix:{self.folder / socket},server=on,wait=off"]
        self.qemus.append(subprocess.Popen(command))
        return self.qemus[-1]

    def client(self) -> Client:
        return required(str(self.socket))

    def ask(self, verb: str, **arguments: Any) -> Any:
        with self.client() as client:
            return client.call(verb, arguments)

    def state(self, name: str, kind: str) -> dict[str, Any]:
        for tenant in self.ask("status")["tenants"]:
            if tenant["tenant"] == f"{self.name}-{name}":
                return dict(tenant["kinds"].get(kind, {}))
        return {}

    def value(self, name: str, key: str) -> Any:
        shown = self.ask("show", vm=f"{self.name}-{name}")
        return next(knob["actual"] for knob in shown["knobs"] if knob["key"] == key)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if condition():
                    return
            except Exception:
                if time.monotonic() > deadline:
                    raise
            assert time.monotonic() < deadline, (self.folder / "daemon.log").read_text()
            time.sleep(0.02)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """In a folder that others may pass through, unlike pytest's own; its name leaves room for sockets."""
    if find_qemu() is None:
        pytest.skip("no QEMU here")
    with TemporaryDirectory(prefix="rf-") as folder:
        Path(folder).chmod(0o755)
        yield from on_stage(Path(folder))


def on_stage(folder: Path) -> Iterator[Stage]:
    """A stage, and its end."""
    made = Stage(folder)
    yield made
    if made.daemon is not None:
        made.stop()
    for qemu in made.qemus:
        qemu.kill()
        qemu.wait()


def test_a_vm_is_fenced_when_it_appears_and_when_it_has_drifted(stage: Stage) -> None:
    stage.write("fences: {VM-*: {disks: {d1: {iops: 500}}}}")
    stage.start()
    vm = stage.boot("a", *DISK)
    stage.until(lambda: stage.state("a", "disk")["state"] == "in step")
    assert stage.value("a", "disk.vda.iops") == 500
    [change] = stage.ask("history", vm=f"{stage.name}-a")
    assert change["changes"][0]["asked"] == {"disk.vda.iops": 500}

    results = stage.ask("set", vm=f"{stage.name}-a", values={"disk.vda.iops": "70"})
    assert [r["verdict"] for r in results] == ["applied"]
    assert "put it back" in results[0]["notes"][0]
    assert stage.ask("history", vm=f"{stage.name}-a")[0]["state"] == "done"
    stage.ask("reload")  # has everything looked at
    stage.until(lambda: stage.value("a", "disk.vda.iops") == 500)
    assert stage.ask("status")["repairs"] == 1

    vm.kill()
    stage.until(lambda: not stage.state("a", "disk"))
    assert stage.stop() == 0


def test_limits_stay_when_it_ends_and_are_kept_on_when_it_starts_again(stage: Stage) -> None:
    stage.write("fences: {VM-*: {disks: {d1: {iops: 500}}}}")
    stage.boot("a", *DISK)
    stage.start()
    stage.until(lambda: stage.state("a", "disk")["state"] == "in step")
    stage.stop(signal.SIGKILL)
    stage.write("fences: {VM-a: {disks: {d1: {iops: 500}}}}")
    stage.start()
    stage.until(lambda: stage.state("a", "disk")["state"] == "in step")
    assert len(stage.ask("history", vm=f"{stage.name}-a")) == 1


def test_files_are_read_anew_and_wrong_ones_are_not_taken_over(stage: Stage) -> None:
    stage.write("fences: {VM-a: {disks: {d1: {iops: 500}}}}")
    stage.boot("a", *DISK)
    stage.boot("b", *DISK)
    stage.start()
    stage.until(lambda: stage.state("a", "disk")["state"] == "in step")
    assert stage.state("b", "disk") == {}
    stage.write("fences: {VM-*: {disks: {d1: {iops: 200}}}}")
    assert stage.daemon is not None
    stage.daemon.send_signal(signal.SIGHUP)
    stage.until(lambda: stage.state("b", "disk")["state"] == "in step")
    stage.until(lambda: stage.value("a", "disk.vda.iops") == 200)
    stage.write("fences: {VM-*: {disks: {d1: {iopss: 300}}}}")
    with stage.client() as client, pytest.raises(Exception, match="iopss"):
        client.call("reload")
    assert (stage.value("a", "disk.vda.iops"), stage.value("b", "disk.vda.iops")) == (200, 200)


def test_a_pool_of_the_host_is_divided_anew_when_a_member_comes_or_goes(stage: Stage) -> None:
    stage.write("{pools: {bronze: {iops: 1000}}, fences: {VM-*: {disks: {d1: {pool: bronze}}}}}")
    stage.start()
    stage.boot("a", *DISK)
    stage.until(lambda: stage.value("a", "pool.bronze.iops") == 1000)
    other = stage.boot("b", *DISK)
    stage.until(lambda: stage.value("a", "pool.bronze.iops") == 500)
    stage.until(lambda: stage.value("b", "pool.bronze.iops") == 500)
    other.kill()
    stage.until(lambda: stage.value("a", "pool.bronze.iops") == 1000)


def test_a_set_that_is_not_wholly_applied_is_recorded_as_that(stage: Stage) -> None:
    stage.write("fences: {}")
    stage.boot("a", *DISK, "-device", "virtio-balloon-pci")
    stage.start()
    stage.until(lambda: any(t["tenant"] == f"{stage.name}-a" for t in stage.ask("tenants")))
    wants = {"disk.vda.iops": "70", "memory.target": "24MiB"}  # nobody in there moves the balloon
    stage.until(lambda: stage.value("a", "disk.vda.iops") is None)
    results = stage.ask("set", vm=f"{stage.name}-a", values=wants, timeout_s=0.5)
    assert {r["key"]: r["verdict"] == "applied" for r in results} == {
        "disk.vda.iops": True,
        "memory.target": False,
    }
    [change] = stage.ask("history", vm=f"{stage.name}-a")
    assert (change["state"], change["changes"][0]["state"]) == ("partly", "mixed")
    assert change["changes"][0]["after"]["disk.vda.iops"] == 70


def test_what_waits_and_what_is_refused_says_why(stage: Stage) -> None:
    stage.write("fences: {VM-*: {disks: {d1: {iops: 500}}, vcpus: 7}}")
    stage.boot("a", *DISK)
    stage.start()
    stage.until(lambda: stage.state("a", "disk")["state"] == "in step")
    stage.until(lambda: stage.state("a", "vcpus")["reason"])
    assert stage.state("a", "vcpus")["state"] in ("waiting", "refused")


def test_prometheus_is_told(stage: Stage) -> None:
    import socket

    stage.write("fences: {VM-*: {disks: {d1: {iops: 500}}}}")
    stage.boot("a", *DISK)
    stage.start("--metrics", str(stage.folder / "metrics"))
    stage.until(lambda: stage.state("a", "disk")["state"] == "in step")
    with socket.socket(socket.AF_UNIX) as scrape:
        scrape.connect(str(stage.folder / "metrics"))
        scrape.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b"".join(iter(lambda: scrape.recv(65536), b"")).decode()
    from prometheus_client.parser import text_string_to_metric_families

    head, _, body = said.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    samples = {
        (sample.name, sample.labels.get("key") or sample.labels.get("kind")): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.labels.get("tenant") == f"{stage.name}-a"
    }
    assert samples["ringfence_knob_actual", "disk.vda.iops"] == 500
    assert samples["ringfence_fence_in_step", "disk"] == 1


@pytest.mark.skipif(os.getuid() != 0, reason="takes root to be somebody else")
def test_strangers_may_not_look_and_group_members_may_not_change(stage: Stage) -> None:
    stage.write("fences: {VM-*: {disks: {d1: {iops: 500}}}}")
    stage.boot("a", *DISK)
    stage.start()
    script = (
        "import json, os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline())"
    )

    def as_nobody(message: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, "-c", script, str(stage.socket), json.dumps(message)]
        return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    stage.until(lambda: stage.state("a", "disk"))
    assert as_nobody({"id": 1, "verb": "tenants"})["result"] == []
    asked = {"vm": f"{stage.name}-a", "values": {"disk.vda.iops": "9"}}
    refused = as_nobody({"id": 1, "verb": "set", "arguments": asked})
    assert refused["error"]["exit_code"] == 2
    assert as_nobody({"id": 1, "verb": "reload"})["error"]["exit_code"] == 2
    assert stage.value("a", "disk.vda.iops") in (None, 500)
