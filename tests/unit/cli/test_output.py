"""How verbs print."""

from __future__ import annotations

import json

import pytest
import yaml

from ringfence.cli import output
from ringfence.cli.output import Format

ODD = {"na\x1bme": ["caf\udce9", 3, None, True, ("a\nb",)]}
ESCAPED = {"na\\x1bme": ["caf\\udce9", 3, None, True, ["a\\nb"]]}


def test_what_a_terminal_does_not_take_is_escaped() -> None:
    assert output.printable(ODD) == ESCAPED
    assert output.printable("Ünïcode 日本") == "Ünïcode 日本"


@pytest.mark.parametrize(("fmt", "load"), [(Format.JSON, json.loads), (Format.YAML, yaml.safe_load)])
def test_data_can_be_read_back(capsys: pytest.CaptureFixture[str], fmt: Format, load) -> None:  # type: ignore[no-untyped-def]
    output.emit(ODD, fmt, pytest.fail)
    assert load(capsys.readouterr().out) == ESCAPED


def test_a_table_is_rendered_by_who_knows_how(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({}, Format.TABLE, lambda: output.line("a table \x07"))
    assert capsys.readouterr().out == "a table \\x07\n"


def test_a_problem_is_told_on_standard_error_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.problem("two things:\n  one\x1b", state="as it was", hint="")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: two things:\n  one\\x1b\nstate: as it was\n")


def test_a_pipe_gets_text_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    output.console().print("[/not] [bold]markup[/bold] :smile: " + "x" * 300)
    assert capsys.readouterr().out == "[/not] [bold]markup[/bold] :smile: " + "x" * 300 + "\n"
