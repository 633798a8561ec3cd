"""What is distress after a change, and what is not."""

from __future__ import annotations

import base64

import pytest

from ringfence.errors import AgentAbsentError, AgentRefusedError
from ringfence.policies.guard import Guard, Sample, of_vm
from ringfence.testing.steps import PaperVm

WELL = Sample("running", True, 0, 0.0)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([WELL] * 9, ""),
        ([WELL._replace(status="guest-panicked")], "the guest is guest-panicked"),
        ([WELL._replace(oom_kills=1)], "has killed a process"),
        ([WELL._replace(agent=False), WELL, WELL._replace(agent=False)], ""),
        ([WELL._replace(agent=False)] * 2, "does not answer any more"),
        ([WELL._replace(stalled_percent=85.0)] * 5, ""),
        ([WELL._replace(stalled_percent=85.0)] * 7, "for want of memory"),
        ([Sample()] * 9, ""),
    ],
)
def test_distress(samples: list[Sample], why: str) -> None:
    guard = Guard(WELL)
    said = [guard.judge(sample, 2.0 * (place + 1)) for place, sample in enumerate(samples)]
    assert why in said[-1]
    assert bool(why) == bool(said[-1])
    assert not any(said[:-1])


def test_who_was_so_before_is_not_in_distress_for_it() -> None:
    guard = Guard(Sample("guest-panicked", False, None, 90.0))
    for second in range(20):
        assert not guard.judge(Sample("guest-panicked", False, 7, 95.0), float(second))


def test_a_vm_is_read_inside_and_out() -> None:
    files = {
        "/proc/vmstat": "nr_free_pages 5\noom_kill 3\n",
        "/proc/pressure/memory": "some avg10=1.00 avg60=0 total=1\nfull avg10=0.50 avg60=0 total=1\n",
    }
    paths: list[str] = []

    def read(arguments: object) -> object:
        return {"count": 1, "eof": True, "buf-b64": base64.b64encode(files[paths[-1]].encode()).decode()}

    answers = {
        "query-status": {"status": "running"},
        "guest-ping": {},
        "guest-file-open": lambda arguments: paths.append(arguments["path"]) or len(paths),
        "guest-file-read": read,
        "guest-file-close": {},
    }
    assert PaperVm(answers).play(of_vm()) == Sample("running", True, 3, 0.5)
    refused = answers | {"guest-file-open": AgentRefusedError("disabled")}
    assert PaperVm(refused).play(of_vm()) == Sample("running", True, None, None)
    absent = answers | {"guest-ping": AgentAbsentError("nobody")}
    assert PaperVm(absent).play(of_vm()) == Sample("running", False)
