"""How long it takes to plan a host of 10,000 simulated tenants: file read, fences found, steps checked.

Three hosts: all in step, all with three knobs out of step, and a file with an entry of its own for each tenant.
The promise, for the first, is 2 s for reading the file and planning together. Exit status 1 when it is not kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from ringfence.core.model import Vm
from ringfence.core.spec import Spec
from ringfence.core.spec_read import document, merged
from ringfence.engine import fences, transaction
from ringfence.engine.fences import Seen
from ringfence.errors import MonitorRefusedError
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Refuse, Return, unfold
from ringfence.testing.steps import PaperVm

LIMIT_S = 2.0
OUT_OF_STEP = "{vcpus: 4, memory: {target: 700MiB}, disks: {vda: {iops: 500, iops_burst: 2000 for 10s}}}"
IN_STEP = "{vcpus: 2, memory: {target: 1GiB}, disks: {vda: {iops: unlimited, bps: unlimited}}}"


def paper(vm: ObedientVm) -> PaperVm:
    """The obedient VM, asked without a socket."""

    def asked(answer: Any) -> Callable[[Any], object]:
        def give(arguments: Any) -> object:
            value: object = None
            for act in unfold(answer, arguments):
                match act:
                    case Return(value):
                        pass
                    case Refuse(error_class, description):
                        raise MonitorRefusedError(description, error_class=error_class)
            return value

        return give

    return PaperVm({command: asked(answer) for command, answer in vm.answers.items()})


def tenants(count: int) -> list[Vm]:
    """Of which only the names differ."""
    nothing: Any = ()
    return [
        Vm(f"web{n}", n + 1, "", "q35", "kvm", 0, 0, 2, 4, nothing, None, nothing, nothing, "plain", "", nothing)
        for n in range(count)
    ]


def planned(text: str, count: int, *, steps: int) -> float:
    """Seconds from the text to the plan, less what looking at the tenants would take."""
    fences.words()
    everyone = tenants(count)
    start = time.perf_counter()
    spec: Spec = merged([("f.yaml", document(text, "f.yaml", fences.words(), fences.read_value))])
    fenced = transaction.fenced(spec, everyone)
    read_s = time.perf_counter() - start
    vm = paper(ObedientVm())
    observed = {knob: vm.play(knob.observe()) for knob in fences.knobs_of(fenced[0][1], everyone[0])}
    start = time.perf_counter()
    plan = fences.plan(spec, [Seen(tenant, fence, observed) for tenant, fence in fenced])
    plan_s = time.perf_counter() - start
    if sum(len(one.steps) for one in plan.tenants) != steps * count or any(one.problems for one in plan.tenants):
        raise SystemExit("the plan is not what it should be")
    print(f"  file and fences {read_s:.2f} s, plan {plan_s:.2f} s")
    return read_s + plan_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000)
    count = parser.parse_args().tenants
    entries = "".join(f"  web{n}: {IN_STEP}\n" for n in range(count))
    kept = True
    for what, text, steps in (
        ("one rule, all in step", f'fences: {{"web*": {IN_STEP}}}', 0),
        ("one rule, all out of step", f'fences: {{"web*": {OUT_OF_STEP}}}', 3),
        ("an entry each, all in step", f"fences:\n{entries}", 0),
    ):
        print(f"{what}, {count} tenants")
        took_s = planned(text, count, steps=steps)
        promised = text.startswith('fences: {"web*"') and not steps
        kept = kept and (not promised or took_s < LIMIT_S)
        print(f"  {took_s:.2f} s" + (f", promised: {LIMIT_S:g} s" if promised else ""))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
