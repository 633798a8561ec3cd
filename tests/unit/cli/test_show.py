"""`ringfence show`: every knob, as a table and as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Refuse

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def show(
    obedient: ObedientVm, run: Callable[..., Any], tmp_path: Path, vm_behind: Callable[..., Any]
) -> Callable[..., Any]:
    def show(*arguments: str) -> Any:
        with FakeQemu(tmp_path / "q", obedient.answers) as qemu:
            vm_behind(qemu)
            ran = run("show", "--qmp", str(tmp_path / "q"), *arguments)
        assert ran.code == 0, ran.err
        return ran

    return show


def lines(ran: Any) -> dict[str, str]:
    """What stands behind each key."""
    found = (line.split(None, 1) for line in ran.out.splitlines() if not line.startswith(" "))
    return {key: " ".join(rest.split()) for key, rest in found}


def test_now_and_range_and_other_names(obedient: ObedientVm, show: Callable[..., Any]) -> None:
    obedient.limits["a"]["iops"] = 100
    ran = show()
    by_key = lines(ran)
    assert by_key["memory.target"].startswith("1 GiB 156 MiB to 1 GiB virtio-balloon")
    assert by_key["vcpus"].startswith("2 1 to 4 device_add/device_del the guest agent does not answer")
    assert by_key["disk.vda.iops"] == "100 from 1 block_set_io_throttle also a, node-a"
    assert by_key["disk.vdb.iops"].startswith("unlimited")
    assert "disk.vda.iops.read" not in by_key
    assert "--all" in ran.err


def test_all_keys_on_request(show: Callable[..., Any]) -> None:
    ran = show("--all")
    assert lines(ran)["disk.vdb.group"] == "none a name block_set_io_throttle"
    assert ran.err == ""


def test_what_is_not_available_says_why_and_what_to_add(obedient: ObedientVm, show: Callable[..., Any]) -> None:
    obedient.answers["query-hotpluggable-cpus"] = Refuse("GenericError", "this machine cannot")
    ran = show()
    assert lines(ran)["vcpus"].startswith("2 not available")
    assert "start it with -machine q35" in ran.out


@pytest.mark.parametrize(("fmt", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_data(show: Callable[..., Any], fmt: str, load: Callable[[str], Any]) -> None:
    data = load(show("-o", fmt).out)
    knobs = {knob["key"]: knob for knob in data["knobs"]}
    assert data["vm"] == "web1"
    memory = knobs["memory.target"]
    assert (memory["actual"], memory["minimum"], memory["maximum"]) == (GIB, 156 * MIB, GIB)
    assert memory["advice"][0]["option"] == "-device virtio-balloon-pci,free-page-reporting=on"
    assert knobs["disk.vdb.bps.read.burst"]["actual"] is None
    assert "node-b" in knobs["disk.vdb.bps"]["aliases"]
    assert all(knob["help"] and knob["mechanism"] for knob in knobs.values())
