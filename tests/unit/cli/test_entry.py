"""The program's way in and out: exit codes, messages, and streams that are not what they should be."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from ringfence.cli import entry
from ringfence.errors import HostError
from ringfence.host import containers
from ringfence.qemu import discovery


class ProcessEndError(Exception):
    """In the place of the end of this process."""


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the whole program; gives its exit code."""

    def leave(code: int) -> NoReturn:
        raise ProcessEndError(code)

    def main(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ringfence", *arguments])
        with pytest.raises(ProcessEndError) as caught:
            entry.main()
        return int(caught.value.args[0])

    monkeypatch.setattr(entry.os, "_exit", leave)
    monkeypatch.setattr(discovery, "find_vms", lambda *_: [])
    monkeypatch.setattr(containers, "find_containers", lambda *_: [])
    return main


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("frobnicate",), "No such command 'frobnicate'", "`ringfence -h`"),
        (("ps", "-o", "xml"), "'xml' is not one of 'table', 'json', 'yaml'", "`ringfence ps -h`"),
        (("show", "--al"), "No such option: --al", "`ringfence show -h`"),
        (("set",), "Missing argument", "`ringfence set -h`"),
        (("lab", "run"), "Missing argument", "`ringfence lab run -h`"),
    ],
)
def test_a_command_line_that_cannot_be_read(
    run: Callable[..., Any], arguments: tuple[str, ...], error: str, hint: str
) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    first, second = ran.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith(f"hint: {hint}")


def test_without_a_verb_there_is_help(run: Callable[..., Any]) -> None:
    ran = run()
    assert ran.code == 2
    assert "doctor" in ran.out
    assert ran.err == ""


def test_help_is_no_error(run: Callable[..., Any]) -> None:
    assert run("ps", "-h").code == 0


def test_an_error_ends_with_its_own_code(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise HostError("no /proc", hint="mount it", state="all as it was")

    monkeypatch.setattr(discovery, "find_vms", fail)
    ran = run("ps")
    assert (ran.code, ran.out) == (5, "")
    assert ran.err == "error: no /proc\nstate: all as it was\nhint: mount it\n"


def test_the_result_and_the_exit_code_reach_the_shell(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("ps", "-o", "json") == 0
    assert capsys.readouterr().out == "[]\n"
    assert main("ps", "-o", "xml") == 2


class Full(io.StringIO):
    """A file on a full disk, or a pipe that nobody reads any more."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, "cannot") if self.number != errno.EPIPE else BrokenPipeError()


@pytest.mark.parametrize(
    ("number", "code", "words"), [(errno.ENOSPC, 5, "could not be written"), (errno.EPIPE, 141, "")]
)
def test_a_result_that_nobody_takes(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(number))
    assert main("ps") == code
    assert words in capsys.readouterr().err


def test_a_terminal_that_lacks_characters_gets_them_escaped(
    main: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    assert main("show", "/run/日") == 4
    assert b"/run/\\u65e5: nobody listens there" in raw.getvalue()


def test_closed_streams_take_what_they_are_given(
    main: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main("ps") == 0
    assert main("show", "/nowhere/at/all") == 4
    for stream in (sys.stdout, sys.stderr):
        stream.close()
