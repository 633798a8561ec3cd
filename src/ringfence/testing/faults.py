"""Something dies at a boundary of a change: before or after a request that changes a tenant, or a journal entry.

A walk runs the same work again and again, with the fault one boundary further each time, until it ends without:

    for boundary in walk(lambda: asyncio.run(change()), die):
        ...  # see what is left

The work runs in a child process, so that `die` may be this process's own death.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ringfence.core.requests import Qmp
from ringfence.engine import driver, journal

_READING = ("query-", "qom-get", "qom-list")
_ENTRIES = ("begin", "ended", "finish")


class Boundary(NamedTuple):
    """Where it died. :param what: such as `before qom-set`.

    :param code: what the child ended with; negative is a signal.
    """

    number: int
    what: str
    code: int


def die() -> None:
    """The process that makes the change is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def walk(work: Callable[[], object], fault: Callable[[], None], *, stride: int = 1) -> Iterator[Boundary]:
    """Do the work with the fault at the first boundary, the second, and so on, until it is done without.

    :param stride: 2 leaves out every other boundary, and so on.
    """
    number = 0
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _child(work, _Injector(number, fault, writer))
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            what = pipe.read().decode()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not what:
            if code:
                raise RuntimeError(f"the work itself failed with {code}")
            return
        yield Boundary(number, what, code)
        number += stride


def _child(work: Callable[[], object], injector: _Injector) -> None:
    code = 1
    try:
        injector.install()
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001 - nothing may leave the child but its exit code
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Injector:
    """Counts boundaries, and has the fault happen at one."""

    def __init__(self, at: int, fault: Callable[[], None], writer: int) -> None:
        self._left = at
        self._fault = fault
        self._writer = writer

    def install(self) -> None:
        """From now on, in this process."""
        answer = driver._Drive._answer

        async def _answer(drive: Any, request: Any) -> Any:
            changing = [r for r in (request if isinstance(request, list) else [request]) if _changes(r)]
            name = changing[0].command if changing else ""
            if changing:
                self.pass_(f"before {name}")
            got = await answer(drive, request)
            if changing:
                self.pass_(f"after {name}")
            return got

        driver._Drive._answer = _answer  # type: ignore[method-assign, assignment]
        for name in _ENTRIES:
            setattr(journal.Journal, name, self._wrapped(name, getattr(journal.Journal, name)))

    def _wrapped(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def entry(*arguments: Any, **named: Any) -> Any:
            self.pass_(f"before the journal's {name}")
            got = method(*arguments, **named)
            self.pass_(f"after the journal's {name}")
            return got

        return entry

    def pass_(self, what: str) -> None:
        """Come by a boundary."""
        if self._left == 0:
            os.write(self._writer, what.encode())
            self._fault()
        self._left -= 1


def _changes(request: Any) -> bool:
    return isinstance(request, Qmp) and not request.command.startswith(_READING)
