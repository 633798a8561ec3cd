"""What packagers take: each file says what the program says, and the program that it is for understands it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from ringfence.cli import daemon
from ringfence.cli.entry import VERBS
from ringfence.control import protocol
from ringfence.core.knob import Verdict
from ringfence.daemon import keeper
from ringfence.daemon.metrics import Metrics
from ringfence.engine import notes, spec_files
from ringfence.errors import UsageError
from ringfence.knobs import registry

PACKAGING = Path(__file__).parents[2] / "packaging"
UNIT = PACKAGING / "ringfence.service"
ALERTS = PACKAGING / "alerts.yml"
DASHBOARD = PACKAGING / "grafana-dashboard.json"


def settings() -> dict[str, str]:
    """Of the unit, each of which stands there once."""
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line)]
    found = {key: value for key, _, value in lines}
    assert len(found) == len(lines)
    return found


def test_the_unit_has_the_folders_and_words_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = settings()
    monkeypatch.delenv("RINGFENCE_STATE_DIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert f"/run/{unit['RuntimeDirectory']}" == os.path.dirname(protocol.SYSTEM_SOCKET)
    assert f"/var/lib/{unit['StateDirectory']}" == str(notes.state_dir())
    assert f"/etc/{unit['ConfigurationDirectory'].split()[-1]}" == str(spec_files.DEFAULT_PATH) == daemon._FENCES
    assert unit["RestartPreventExitStatus"] == str(UsageError.exit_code)
    assert (unit["Type"], unit["ExecReload"]) == ("notify", "/bin/kill -HUP $MAINPID")
    assert not {"ExecStop", "ExecStopPost"} & set(unit), "limits stay when it stops"


def test_the_unit_leaves_what_holds_the_limits_writable() -> None:
    unit = settings()
    assert not {
        "ProtectControlGroups",
        "ProtectKernelTunables",
        "ProtectProc",
        "PrivateTmp",
        "PrivateNetwork",
    } & set(unit)
    assert set(unit["ReadWritePaths"].split()) == {"/run", "/tmp"}
    assert "AF_NETLINK" in unit["RestrictAddressFamilies"].split()
    assert unit["RestrictNamespaces"] == "net"


def complaints(text: str, folder: Path) -> list[str]:
    """What systemd has to say of a unit, each of whose programs is there."""
    path = folder / UNIT.name
    path.write_text(re.sub(r"(?m)^(Exec\w+=[-+]*)\S+", r"\1/bin/true", text))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    return [line for line in (ran.stdout + ran.stderr).splitlines() if UNIT.name in line]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert complaints(text, tmp_path) == []
    assert complaints(text.replace("WatchdogSec=", "WatchDogSec="), tmp_path) != []
    assert complaints(text.replace("pidfd_getfd\nSystem", "pidfd_gotfd\nSystem"), tmp_path) != []


def families() -> dict[str, set[str]]:
    """The names of the series that the daemon can tell, each with its labels."""
    office = SimpleNamespace(running={}, repairs=0, verdicts={}, interval_s=lambda: 30.0)
    told = Metrics(cast(Any, SimpleNamespace(office=office, keepers={}))).collect()
    return {
        metric.name + ("_total" if metric.type == "counter" else ""): set(getattr(metric, "_labelnames", ()))
        for metric in told
    }


def expressions() -> list[str]:
    """Of the alerts, their tests, and the dashboard with its variables."""
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    series = [
        one["series"]
        for test in yaml.safe_load(ALERTS.with_name("alerts.test.yml").read_text())["tests"]
        for one in test["input_series"]
    ]
    board = json.loads(DASHBOARD.read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [one["definition"] for one in board["templating"]["list"] if "definition" in one]
    assert rules
    assert panels
    assert variables
    return [*rules, *series, *panels, *variables]


def test_every_series_and_label_that_is_asked_for_is_one_that_the_daemon_tells() -> None:
    known = families()
    assert "ringfence_fence_in_step" in known
    used: set[str] = set()
    for expression in expressions():
        for name, labels in re.findall(r"\b(ringfence_\w+)(?:\{([^}]*)\})?", expression):
            used.add(name)
            assert name in known, expression
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', labels)))
            assert asked <= known[name] | {"job", "instance"}, expression
    assert used == set(known), "all that is told is of use to somebody"


def test_what_is_asked_of_states_verdicts_and_keys_are_words_of_the_program() -> None:
    words = {
        "state": {keeper.IN_STEP, keeper.WAITING, keeper.DRIFTED, keeper.REFUSED, keeper.UNKNOWN},
        "verdict": {str(verdict) for verdict in Verdict},
    }
    keys = [re.sub("<.*?>", "vda", row.key) for row in registry.rows()]
    for expression in expressions():
        for label, value in re.findall(r'\b(state|verdict)=~?"([^"$]*)"', expression):
            assert set(value.split("|")) <= words[label], expression
        for pattern in re.findall(r'\bkey=~?"([^"$]*)"', expression):
            assert any(re.fullmatch(pattern, key) for key in keys), expression


def test_alerts_and_panels_have_names_of_their_own_and_say_what_to_do() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "description"}
        for verb in re.findall(r"`ringfence (\w+)", rule["annotations"]["description"]):
            assert verb in VERBS


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")])
def test_prometheus_takes_the_alerts(command: tuple[str, ...]) -> None:
    ran = subprocess.run(["promtool", *command], cwd=PACKAGING, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
