"""Commands without a person."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence

import pytest

from ringfence.cli.monitor_batch import Line, from_arguments, from_script, run_lines
from ringfence.cli.monitor_console import Reply
from ringfence.errors import MonitorGoneError, MonitorRefusedError, UsageError


class FakeConsole:
    """Answers each line with itself, unless it was told an answer."""

    address = "/run/x"
    version = "7.2.22"

    def __init__(self, mode: str = "HMP", **answers: Reply | Exception) -> None:
        self.mode = mode
        self.answers = answers
        self.ran: list[str] = []

    async def run(self, line: str) -> Reply:
        self.ran.append(line)
        answer = self.answers.get(line, Reply(f"{line}!\n"))
        if isinstance(answer, Exception):
            raise answer
        return answer


async def given(*lines: Line) -> AsyncIterator[Line]:
    for line in lines:
        yield line


class Run:
    """What a run printed and returned."""

    def __init__(self) -> None:
        self.out = ""
        self.err = ""
        self.code = -1

    async def __call__(self, console: FakeConsole, lines: AsyncIterator[Line], keep_going: bool = False) -> Run:
        def out(text: str) -> None:
            self.out += text

        def err(text: str) -> None:
            self.err += text

        self.code = await run_lines(console, lines, keep_going=keep_going, out=out, err=err)  # type: ignore[arg-type]
        return self


BAD = Reply("Error: no\n", failed=True)
REFUSED = MonitorRefusedError("QEMU refused bad: no")


async def test_answers_come_in_order_and_unchanged() -> None:
    run = await Run()(FakeConsole(silent=Reply("")), given(Line("a"), Line("silent"), Line("b")))
    assert (run.out, run.err, run.code) == ("a!\nb!\n", "", 0)


async def test_a_failure_goes_to_standard_error_as_it_stands() -> None:
    run = await Run()(FakeConsole(bad=BAD), given(Line("bad")))
    assert (run.out, run.err, run.code) == ("", "Error: no\n", 4)


async def test_the_first_failure_ends_it_and_is_placed() -> None:
    console = FakeConsole(bad=BAD)
    run = await Run()(console, given(Line("a", "line 1"), Line("bad", "line 3", "a hint"), Line("b", "line 4")))
    assert run.err == "Error: no\nerror: line 3 failed: bad\nhint: a hint\n"
    assert run.code == 4
    assert console.ran == ["a", "bad"]


async def test_keep_going_remembers_the_first_code() -> None:
    console = FakeConsole(bad=BAD, odd=UsageError("odd"))
    run = await Run()(console, given(Line("bad", "line 1"), Line("odd", "line 2"), Line("b")), keep_going=True)
    assert run.code == 4
    assert run.out == "b!\n"
    assert "error: line 2: odd\n" in run.err


async def test_a_refusal_is_raised_with_its_place() -> None:
    with pytest.raises(MonitorRefusedError, match=r"^line 7: QEMU refused bad: no$"):
        await Run()(
            FakeConsole("QMP", bad=MonitorRefusedError("QEMU refused bad: no")), given(Line("bad", "line 7"))
        )


async def test_keep_going_past_a_refusal() -> None:
    run = await Run()(FakeConsole("QMP", bad=REFUSED), given(Line("bad"), Line("b")), keep_going=True)
    assert (run.out, run.err, run.code) == ("b!\n", "error: QEMU refused bad: no\n", 4)


async def test_nothing_goes_on_without_qemu() -> None:
    console = FakeConsole(a=MonitorGoneError("gone"))
    with pytest.raises(MonitorGoneError):
        await Run()(console, given(Line("a"), Line("b")), keep_going=True)
    assert console.ran == ["a"]


@pytest.mark.parametrize("mode", ["HMP", "QMP"])
async def test_quit_ends_qemu_and_that_is_success(mode: str) -> None:
    run = await Run()(FakeConsole(mode, quit=MonitorGoneError("gone")), given(Line("quit")))
    assert (run.err, run.code) == ("", 0)


async def arguments(mode: str, *given: str) -> Sequence[Line]:
    return [line async for line in from_arguments(FakeConsole(mode), given)]  # type: ignore[arg-type]


async def test_one_argument_needs_no_number() -> None:
    assert await arguments("HMP", "info block") == [Line("info block")]


async def test_several_arguments_are_numbered() -> None:
    lines = await arguments("HMP", "stop", "info status")
    assert [(line.text, line.where) for line in lines] == [("stop", "command 1"), ("info status", "command 2")]
    assert "quote" in lines[0].hint
    assert lines[1].hint == ""


async def test_unquoted_info_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError) as caught:
        await arguments("HMP", "stop", "info", "block")
    assert "'info block'" in caught.value.hint


async def test_qmp_arguments_belong_to_their_command() -> None:
    lines = await arguments("QMP", "balloon", "value=5", "stop")
    assert [line.text for line in lines] == [
        '{"execute": "balloon", "arguments": {"value": 5}}',
        '{"execute": "stop", "arguments": {}}',
    ]
    assert [line.hint for line in lines] == ["", ""]


async def test_script_lines_keep_their_numbers() -> None:
    read, write = os.pipe()
    os.write(write, b"# a comment\n\n  stop\r\ninfo block\n \nlast without newline")
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as script:
        lines = [line async for line in from_script(script)]
    assert lines == [
        Line("  stop", "line 3"),
        Line("info block", "line 4"),
        Line("last without newline", "line 6"),
    ]


async def test_a_line_runs_before_the_next_one_is_written() -> None:
    read, write = os.pipe()
    with os.fdopen(read, encoding="utf-8") as script:
        lines = from_script(script)
        os.write(write, b"stop\n")
        assert await anext(lines) == Line("stop", "line 1")
        os.write(write, b"cont\n")
        assert await anext(lines) == Line("cont", "line 2")
        os.close(write)
        assert [line async for line in lines] == []
