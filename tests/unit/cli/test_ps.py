"""What `ringfence ps` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from ringfence.cli import ps
from ringfence.engine import survey as survey_module
from ringfence.qemu import cmdline, discovery

LINE = (
    "qemu-system-x86_64 -name [bold]web1 -m 1G,maxmem=4G -smp 2,maxcpus=4 -monitor vc "
    "-qmp unix:/run/w.qmp,server=on -drive file=a,if=virtio -nic tap,ifname=tap0,id=n0"
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    app = typer.Typer()
    app.callback()(lambda: None)
    ps.register(app)

    def run(line: str, *arguments: str, changes: dict[str, Any] | None = None) -> Result:
        vms = [cmdline.parse(line.split(), pid=77)] if line else []

        async def survey(vms: Sequence[Any], table: Any, *, timeout_s: float) -> list[Any]:
            entries = [survey_module._vm_entry(vm, None, [_monitor(m) for m in vm.monitors], None) for vm in vms]
            return [entry | (changes or {}) for entry in entries]

        monkeypatch.setattr(discovery, "find_vms", lambda: vms)
        monkeypatch.setattr(survey_module, "survey", survey)
        result = CliRunner().invoke(app, ["ps", *arguments])
        assert result.exit_code == 0, result.output
        return result

    return run


def _monitor(monitor: Any) -> dict[str, Any]:
    address = str(monitor.address) if monitor.address else None
    state, holder = ("busy", {"pid": 9, "name": "virsh"}) if address else (None, None)
    return {"kind": monitor.kind, "address": address, "where": monitor.where, "state": state, "holder": holder}


def test_nothing_to_list(run: Callable[..., Result]) -> None:
    assert "No QEMU process" in run("").stdout
    assert json.loads(run("", "-o", "json").stdout) == []
    assert yaml.safe_load(run("", "-o", "yaml").stdout) == []


def test_table(run: Callable[..., Result]) -> None:
    disks = [
        {
            "name": "vda",
            "file": "a",
            "format": "raw",
            "limits": {"iops": 123, "bps.read": 5 << 20},
            "filters": [{"group": "tg0", "limits": {"iops.write": 7}}],
        },
        {"name": "vdb", "file": "b", "format": "raw", "limits": {}, "filters": []},
    ]
    lines = run(LINE, changes={"disks": disks}).stdout.splitlines()
    assert lines == [
        "NAME        PID  MANAGER  VCPUS  MEMORY",
        "[bold]web1  77   plain    2/4    1 GiB / 4 GiB",
        "  disk  vda iops=123 bps.read=5 MiB/s iops.write=7 (tg0)",
        "  disk  vdb",
        "  nic   n0 tap tap0",
        "  hmp   vc",
        "  qmp   /run/w.qmp  busy: virsh (pid 9)",
    ]


def test_what_could_not_be_asked_is_said(run: Callable[..., Result]) -> None:
    out = run(LINE, changes={"problem": "monitor busy: held by virsh (pid 9)"}).stdout
    assert "  note  monitor busy: held by virsh (pid 9); shown as it was started\n" in out


@pytest.mark.parametrize(("fmt", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_data(run: Callable[..., Result], fmt: str, load: Callable[[str], Any]) -> None:
    (entry,) = load(run(LINE, "-o", fmt).stdout)
    assert entry["name"] == "[bold]web1"
    assert entry["memory"] == {"now_bytes": 1 << 30, "max_bytes": 4 << 30}
    nic = {"id": "n0", "model": "", "backend": "tap", "ifname": "tap0", "mac": "", "netdev": ""}
    assert entry["nics"] == [nic]
    assert entry["monitors"][1]["holder"] == {"pid": 9, "name": "virsh"}


@pytest.mark.parametrize("fmt", ["table", "json", "yaml"])
def test_a_name_that_is_no_text_can_be_printed(run: Callable[..., Result], fmt: str) -> None:
    out = run("qemu-system-x86_64 -name caf\udce9\x1b[2J", "-o", fmt, changes={"problem": "caf\udce9"}).stdout
    assert "caf\\udce9\\x1b[2J" in out.replace("\\\\", "\\")
