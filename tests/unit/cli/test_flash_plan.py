"""`ringfence flash plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml

from ringfence.cli import flash_plan
from ringfence.cli.entry import _build
from ringfence.cli.output import Format
from ringfence.errors import HostError, UsageError
from ringfence.flash.drives import Drive
from ringfence.host import nvme

TENANTS = """
tenants:
  db: {capacity: 60GiB, bandwidth: {write: 50MB/s}, class: channel}
  web: {capacity: 1GiB}
  big: {capacity: 60GiB, class: channel}
"""


@pytest.fixture
def tenants(tmp_path: Path) -> str:
    path = tmp_path / "tenants.yaml"
    path.write_text(TENANTS)
    return str(path)


@pytest.fixture
def drives(monkeypatch: pytest.MonkeyPatch) -> None:
    there = (
        Drive("nvme0", known=True, capacity_bytes=10**12, uses=("/",)),
        Drive("nvme1", known=True, capacity_bytes=10**12),
    )
    monkeypatch.setattr(nvme, "find_drives", lambda: there)


def data(
    capsys: pytest.CaptureFixture[str], file: str, device: str
) -> tuple[dict[str, list[dict[str, object]]], int]:
    try:
        flash_plan.plan(file, device, Format.JSON)
    except typer.Exit as stop:
        code = stop.exit_code
    else:
        code = 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found, code


def test_who_gets_what_and_who_is_refused(tenants: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, code = data(capsys, tenants, "mlc")
    db, web = found["tenants"]
    assert (db["class"], db["channels"], db["dies"]) == ("channel", [0, 1, 2, 3, 4], list(range(20)))
    assert isinstance(db["write_bytes_per_s"], int)
    assert db["write_bytes_per_s"] >= 50_000_000
    assert (web["wanted"], web["class"], web["channels"]) == ("auto", "channel", [5])
    (big,) = found["refused"]
    assert big["tenant"] == "big"
    assert big["helps"]
    assert found["free_channels"] == [6, 7]
    assert code == 2


def test_all_in_is_exit_0_and_yaml_says_the_same(tenants: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, code = data(capsys, tenants, "flashblox")
    assert code == 0
    assert found["refused"] == []
    flash_plan.plan(tenants, "flashblox", Format.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == found


def test_the_table(tenants: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        flash_plan.plan(tenants, "mlc", Format.TABLE)
    text = capsys.readouterr().out
    assert "0-4" in text
    assert "refused: big: 60 GiB of class channel does not fit" in text
    assert "would help: " in text
    assert text.endswith("free channels: 6-7\n")


def test_a_drive_of_the_host(tenants: str, drives: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        flash_plan.plan(tenants, "host", Format.TABLE)
    out, err = capsys.readouterr()
    assert "give it /dev/nvme1 whole" in out
    assert "refused: web" in out
    assert "left out: nvme0, which the host uses (/)" in err
    assert "the bandwidth is not planned" in err
    found, code = data(capsys, tenants, "nvme0,nvme1")
    assert [(row["tenant"], row["drive"], row["class"]) for row in found["tenants"]] == [
        ("db", "nvme0", "channel"),
        ("web", "nvme1", "channel"),
    ]
    assert code == 2


def test_what_is_not_there(
    tenants: str, drives: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for device, hint in (("flashbox", "flashblox"), ("nvme7", "nvme"), ("golf", "there are host, nvme0")):
        with pytest.raises(UsageError, match="there is no SSD") as caught:
            flash_plan.plan(tenants, device, Format.JSON)
        assert hint in caught.value.hint
    with pytest.raises(UsageError, match="plan for which SSD"):
        flash_plan.plan(tenants, None, Format.JSON)
    with pytest.raises(UsageError, match="there is no file"):
        flash_plan.plan("/nowhere/at.all", "mlc", Format.JSON)
    with pytest.raises(HostError, match="cannot read"):
        flash_plan.plan("/", "mlc", Format.JSON)
    monkeypatch.setattr(nvme, "find_drives", lambda: ())
    with pytest.raises(HostError, match="no NVMe drive"):
        flash_plan.plan(tenants, "host", Format.JSON)
    assert capsys.readouterr().out == ""


def test_a_mistake_in_the_file_is_exit_2_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text("device: mlc\ntenants:\n  db: {capacty: 1GiB}\n")
    assert _build(["flash", "plan", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "tenants.yaml:3:8: there is no key 'capacty' in db (did you mean capacity?)" in err


def test_numbers_are_told_as_runs() -> None:
    assert flash_plan.numbers([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert flash_plan.numbers([]) == "-"
