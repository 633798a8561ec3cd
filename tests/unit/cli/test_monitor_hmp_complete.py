"""Completion of the human monitor's lines, with the help text recorded from QEMU 7.2.22."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.cli.monitor_hmp_complete import HmpVocabulary, complete, read_names, source, synopsis
from ringfence.qemu.hmp_help import parse_help

GOLDEN = Path(__file__).parents[2] / "golden"
WORDS = HmpVocabulary(
    parse_help((GOLDEN / "hmp-help-qemu-7.2.22.txt").read_text(encoding="utf-8")),
    parse_help((GOLDEN / "hmp-help-info-qemu-7.2.22.txt").read_text(encoding="utf-8")),
)


def texts(line: str, *names: str) -> list[str]:
    return [candidate.text for candidate in complete(line, WORDS, names)]


def test_commands() -> None:
    assert texts("block_s") == ["block_set_io_throttle ", "block_stream "]
    assert texts("system_p") == ["system_powerdown"]


def test_everything_at_the_start_of_the_line() -> None:
    assert len(texts("")) == len(WORDS.commands)


def test_the_menu_shows_arguments_and_help() -> None:
    (balloon,) = complete("ball", WORDS)
    assert balloon.label == "balloon"
    assert balloon.length == 4
    assert balloon.help == "target -- request VM to change its memory allocation (in MB)"


def test_subcommands_of_info() -> None:
    assert texts("info bl") == ["block ", "block-jobs", "blockstats"]
    assert texts("  info  ball") == ["balloon"]


@pytest.mark.parametrize("line", ["help info mt", "? info mt"])
def test_help_of_info(line: str) -> None:
    assert texts(line) == ["mtree "]


def test_help_of_commands() -> None:
    assert texts("help system_p") == ["system_powerdown"]
    assert texts("help balloon x") == []


@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("block_set_io_throttle ", "info block"),
        ("block_set_io_throttle d", "info block"),
        ("info block ", "info block"),
        ("info block -v ", "info block"),
        ("eject -f ", "info block"),
        ("commit ", "info block"),
        ("device_del ", "qom-list /machine/peripheral"),
        ("object_del ", "qom-list /objects"),
        ("netdev_del ", "info network"),
        ("set_link n", "info network"),
        ("chardev-remove ", "info chardev"),
        ("ringbuf_read ", "info chardev"),
        ("device_add virtio-b", "device_add help"),
        ("migrate_set_capability ", "info migrate_capabilities"),
        ("migrate_set_parameter ", "info migrate_parameters"),
    ],
)
def test_who_knows_the_names(line: str, query: str) -> None:
    row = source(line, WORDS)
    assert row is not None
    assert row.query == query


@pytest.mark.parametrize(
    "line",
    [
        "",
        "eject",
        "eject -",
        "eject d1 ",
        "balloon ",
        "nosuch ",
        "gdbserver ",
        "block_set_io_throttle d1 ",
        "help ej",
    ],
)
def test_nobody_knows_the_names(line: str) -> None:
    assert source(line, WORDS) is None


@pytest.mark.parametrize(
    ("line", "answer", "names"),
    [
        (
            "eject ",
            "d1 (#block127): null-co:// (raw)\n    Attached to:      /machine/a\n\nide1-cd0: [not inserted]\n"
            "/machine/peripheral/vd2/virtio-backend (n2): t.raw (raw)\n",
            ["d1", "ide1-cd0", "/machine/peripheral/vd2/virtio-backend"],
        ),
        ("object_del ", "type (string)\npc.ram (child<memory-backend-ram>)\n", ["pc.ram"]),
        (
            "netdev_del ",
            "hub 0\nnet0: index=0,type=nic,model=e1000\n \\ n0: index=0,type=user,net=10.0.2.0\n",
            ["net0", "n0"],
        ),
        ("chardev-remove ", "ser: filename=mux\nm0: filename=disconnected:unix:/x,server=on\n", ["ser", "m0"]),
        ("device_add ", 'Storage devices:\nname "virtio-blk-pci", bus PCI, alias "x"\n', ["virtio-blk-pci"]),
        ("migrate_set_capability ", "xbzrle: off\nevents: on\n", ["xbzrle", "events"]),
        ("migrate_set_parameter ", "announce-max: 550 ms\ntls-creds: ''\n", ["announce-max", "tls-creds"]),
    ],
)
def test_names_in_an_answer(line: str, answer: str, names: list[str]) -> None:
    row = source(line, WORDS)
    assert row is not None
    assert read_names(row, answer) == names


def test_names_and_literal_choices() -> None:
    assert texts("commit ", "d1") == ["all", "d1"]
    assert texts("eject d", "d1", "cd0") == ["d1"]
    assert texts("set_link n0 ") == ["on", "off"]
    assert texts("watchdog_action p") == ["poweroff", "pause"]
    assert texts("migrate_set_capability events o") == ["on", "off"]


def test_flags() -> None:
    assert texts("dump-guest-memory -") == ["-p", "-d", "-z", "-l", "-s", "-w"]
    assert texts("info mtree -") == ["-f", "-d", "-o", "-D"]


def test_no_guess_where_nothing_is_known() -> None:
    assert texts("balloon ") == []
    assert texts("nosuch ") == []


@pytest.mark.parametrize(
    ("line", "name"),
    [("balloon 5", "balloon"), ("c", "cont"), ("info block -", "info block"), ("info zz", "info")],
)
def test_synopsis(line: str, name: str) -> None:
    found = synopsis(line, WORDS)
    assert found is not None
    assert found.name == name


def test_no_synopsis() -> None:
    assert synopsis("nosuch", WORDS) is None
    assert synopsis("", WORDS) is None
