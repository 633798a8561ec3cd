"""The monitor without a person at it: commands from the command line, or a script on standard input."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ringfence.cli import monitor_parse
from ringfence.errors import MonitorGoneError, MonitorRefusedError, RingfenceError, UsageError

if TYPE_CHECKING:
    from ringfence.cli.monitor_console import Console

_QUOTE_HINT = "each argument is a command of its own: quote a command that has arguments, such as 'info block'"


class Line(NamedTuple):
    """One command.

    :param where: which of several it is, for messages: `line 3`, `command 2`; empty when it is the only one.
    :param hint: what to say when it fails.
    """

    text: str
    where: str = ""
    hint: str = ""


async def from_arguments(console: Console, arguments: Sequence[str]) -> AsyncIterator[Line]:
    """Each argument is a command; in QMP mode a `key=value` belongs to the command before it.

    :raise UsageError: an argument cannot be meant so; none was given out.
    """
    if console.mode == "QMP":
        texts = monitor_parse.join_words(arguments)
    else:
        texts = list(arguments)
        _check_quoted(texts)
    for number, text in enumerate(texts, start=1):
        several = len(texts) > 1
        unquoted = several and console.mode == "HMP" and " " not in text
        yield Line(text, f"command {number}" if several else "", _QUOTE_HINT if unquoted else "")


async def from_script(script: TextIO) -> AsyncIterator[Line]:
    """Each line of a file or pipe as soon as it is there, but for empty lines and `#` comments."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in script:
            loop.call_soon_threadsafe(arrived.put_nowait, line)
        loop.call_soon_threadsafe(arrived.put_nowait, "")

    # A daemon, as nothing ends a read from a pipe that nobody writes to.
    threading.Thread(target=read, daemon=True).start()
    number = 0
    while text := await arrived.get():
        number += 1
        if not monitor_parse.is_blank(text):
            yield Line(text.rstrip("\r\n"), f"line {number}")


async def run_lines(
    console: Console,
    lines: AsyncIterator[Line],
    *,
    keep_going: bool,
    out: Callable[[str], object],
    err: Callable[[str], object],
) -> int:
    """Have lines carried out in order; answers go to `out` as they come.

    What QEMU says of a failed line of HMP goes to `err` as it stands, and then which line it was. The first
    failure is the last line, unless `keep_going`; but when the way to QEMU fails, it always is.

    :returns: 0, or the exit code of the first failure.
    :raise RingfenceError: the failure that ended it, where QEMU gave no text of its own.
    """
    code = 0
    async for line in lines:
        try:
            reply = await console.run(line.text)
        except MonitorGoneError as error:
            if monitor_parse.is_quit(line.text, qmp=console.mode == "QMP"):
                return code
            raise _placed(error, line) from None
        except RingfenceError as error:
            if not keep_going or not isinstance(error, MonitorRefusedError | UsageError):
                raise _placed(error, line) from None
            err(f"error: {_placed(error, line)}\n")
            code = code or error.exit_code
            continue
        if not reply.failed:
            out(reply.text)
            continue
        err(reply.text)
        if line.where:
            err(f"error: {line.where} failed: {line.text}\n")
        if line.hint:
            err(f"hint: {line.hint}\n")
        code = code or MonitorRefusedError.exit_code
        if not keep_going:
            break
    return code


def _check_quoted(texts: Sequence[str]) -> None:
    """Without this, `info block` unquoted prints all of `info`, and then that there is no command `block`."""
    for text, following in pairwise(texts):
        if text in ("info", "help") and " " not in following:
            raise UsageError(
                f"{text!r} and {following!r} are two commands here", hint=f"write '{text} {following}'"
            )


def _placed(error: RingfenceError, line: Line) -> RingfenceError:
    """The same error, saying where it was met."""
    if line.where:
        error.message = f"{line.where}: {error.message}"
        error.args = (error.message,)
    return error
