"""`ringfence flash sim`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ringfence.cli import flash_sim
from ringfence.cli.output import Format
from ringfence.errors import HostError, UsageError


def test_the_classes_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    flash_sim.sim(["v=randread", "n=randwrite"], "vd16", None, "4ms", 1, None, Format.JSON)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["class"], row["tenant"]) for row in rows[:2]] == [("channel", "v"), ("channel", "n")]
    mean = {row["class"]: row["read_mean_us"] for row in rows if row["tenant"] == "v"}
    assert mean["none"] > mean["channel"] >= 129.5


def test_a_trace_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.trace").write_text("1000 0 0 32 1\n2000 0 320 32 0\n")
    flash_sim.sim([f"db={tmp_path / 't.trace'}"], "vd16", ["channel"], "10ms", 1, None, Format.TABLE)
    assert "129.5" in capsys.readouterr().out


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no class"):
        flash_sim.sim(None, "vd16", ["cell"], "1ms", 1, None, Format.JSON)
    with pytest.raises(UsageError, match="no workload"):
        flash_sim.sim(["v=golf"], "vd16", None, "1ms", 1, None, Format.JSON)
    with pytest.raises(HostError, match="cannot read"):
        flash_sim.sim(["v=/nowhere/at.all"], "vd16", None, "1ms", 1, None, Format.JSON)
