"""Python packages for a box, with a stand-in for pip."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.errors import HostError
from ringfence.lab.box import wheels


def test_pip_is_asked_for_wheels_of_the_boxs_python() -> None:
    line = wheels.pip_line("3.13", ["rich>=13"], Path("/into"))
    assert line[line.index("--python-version") + 1] == "3.13"
    assert "--only-binary=:all:" in line
    assert line[-1] == "rich>=13"


def test_one_disk_for_one_set_of_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[str] = []

    def make(python: str, requirements: list[str], disk: Path) -> None:
        made.append(f"{python} {requirements}")
        disk.touch()

    monkeypatch.setattr(wheels, "_make", make)
    said: list[str] = []
    one = wheels.ensure_wheels("3.11", ["a", "b"], said.append)
    assert wheels.ensure_wheels("3.11", ["b", "a"], said.append) == one
    assert wheels.ensure_wheels("3.13", ["a", "b"], said.append) != one
    assert len(made) == 2


def test_what_pip_says_last_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        wheels, "pip_line", lambda *_: ["sh", "-c", "echo one >&2; echo no such thing >&2; exit 1"]
    )
    with pytest.raises(HostError, match="no such thing"):
        wheels.ensure_wheels("3.11", ["a"], lambda _: None)
    assert list((tmp_path / "ringfence/lab/box/wheels").glob("build-*")) == []
