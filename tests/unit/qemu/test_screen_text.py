"""The monitor read off a screen."""

from __future__ import annotations

import pytest

from ringfence.qemu.screen_text import Answer, answer, is_echoed, typed

WIDTH, HEIGHT = 20, 8


def screen(*rows: str) -> list[str]:
    return [row.ljust(WIDTH) for row in (*rows, *[""] * (HEIGHT - len(rows)))]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["QEMU 7.2.22 monitor", "(qemu)"], ""),
        (["(qemu) info"], "info"),
        (["(qemu) block_set_io_", "throttle d1"], "block_set_io_throttle d1"),
        (["(qemu) info a", "text"], None),
        (["login:"], None),
        ([], None),
        (["SeaBIOS", "(qemu"], None),
    ],
)
def test_typed(rows: list[str], text: str | None) -> None:
    assert typed(screen(*rows)) == text


def test_typed_on_no_screen_at_all() -> None:
    assert typed([]) is None


def test_is_echoed() -> None:
    assert is_echoed(screen("(qemu) info a"), "info a")
    assert not is_echoed(screen("(qemu) info"), "info a")
    assert not is_echoed(screen("(qemu) info a", "text"), "info a")
    # 20 columns: the first row ends in the blank behind `aaaaaaaaaaaa`.
    assert is_echoed(screen("old", "(qemu) aaaaaaaaaaaa ", "b"), "aaaaaaaaaaaa b")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["(qemu) x", "one", " two", "", "(qemu)"], Answer("one\n two\n\n", cut=False)),
        (["(qemu) x", "(qemu)"], Answer("", cut=False)),
        (["(qemu) x", "old", "(qemu) x", "new", "(qemu)"], Answer("new\n", cut=False)),
        (["seven", "eight", "(qemu)"], Answer("seven\neight\n", cut=True)),
        (["(qemu) x", "a" * WIDTH, "bc", "(qemu)"], Answer("a" * WIDTH + "bc\n", cut=False)),
        (["(qemu) x", "a" * WIDTH, "(qemu)"], Answer("a" * WIDTH + "\n", cut=False)),
    ],
)
def test_answer(rows: list[str], expected: Answer) -> None:
    assert answer(screen(*rows), "x") == expected


def test_answer_to_a_line_in_two_rows() -> None:
    rows = screen("(qemu) block_set_io_", "throttle d1", "Error: no", "(qemu)")
    assert answer(rows, "block_set_io_throttle d1") == Answer("Error: no\n", cut=False)


@pytest.mark.parametrize("rows", [["(qemu) x"], ["(qemu) x", "one"], ["(qemu) xy"]])
def test_no_answer_yet(rows: list[str]) -> None:
    assert answer(screen(*rows), "x") is None
