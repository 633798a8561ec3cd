"""The text of QEMU's human monitor, as recorded from QEMU 7.2.22."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.qemu.hmp_help import HmpCommand, failed, parse_help

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def commands() -> dict[str, HmpCommand]:
    text = (GOLDEN / "hmp-help-qemu-7.2.22.txt").read_text(encoding="utf-8")
    return {command.name: command for command in parse_help(text)}


@pytest.fixture(scope="module")
def infos() -> dict[str, HmpCommand]:
    text = (GOLDEN / "hmp-help-info-qemu-7.2.22.txt").read_text(encoding="utf-8")
    return {command.name: command for command in parse_help(text)}


def test_every_entry_is_found_once(commands: dict[str, HmpCommand], infos: dict[str, HmpCommand]) -> None:
    assert len(commands) == 108
    assert len(infos) == 67


def test_simple_entry(commands: dict[str, HmpCommand]) -> None:
    assert commands["balloon"] == HmpCommand(
        ("balloon",), "target", "request VM to change its memory allocation (in MB)"
    )


def test_aliases_longest_first(commands: dict[str, HmpCommand]) -> None:
    assert commands["quit"].names == ("quit", "q")
    assert commands["help"].names == ("help", "?")
    assert commands["cont"].arguments == ""


def test_synopsis_over_several_lines(commands: dict[str, HmpCommand]) -> None:
    assert commands["drive_add"].arguments.startswith("[-n] [[<domain>:]<bus>:]<slot> [file=file]")
    assert commands["drive_add"].help == "add drive to PCI storage controller"


def test_help_over_several_lines(commands: dict[str, HmpCommand]) -> None:
    assert commands["migrate_set_parameter"].help == "Set the parameter for migration"
    assert commands["block_job_cancel"].help.endswith("instead of keep running until data is in sync)")


def test_name_repeated_in_its_synopsis(commands: dict[str, HmpCommand]) -> None:
    assert commands["nbd_server_add"].arguments == "[-w] device [name]"


def test_info_itself_is_a_command(commands: dict[str, HmpCommand]) -> None:
    assert commands["info"].arguments == "[subcommand]"


def test_info_entries_lose_the_word_info(infos: dict[str, HmpCommand]) -> None:
    assert infos["block"].arguments == "[-n] [-v] [device]"
    assert infos["balloon"].help == "show balloon information"


@pytest.mark.parametrize(
    "text",
    [
        "Error: Device 'd9' not found\r\n",
        "unknown command: 'info nosuch'\r\n",
        'balloon: extraneous characters at the end of line\r\nTry "help balloon" for more information\r\n',
        "warning: short-form boolean option 'x' deprecated\nError: no such thing\n",
    ],
)
def test_failures(text: str) -> None:
    assert failed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "balloon: actual=1024\r\n",
        "a: 0\r\nLast Error: none\r\n",
        'help -- Try "help x" for more\r\n',
    ],
)
def test_no_failures(text: str) -> None:
    assert not failed(text)
