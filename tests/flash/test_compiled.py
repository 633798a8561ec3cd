"""The compiled simulator does what the reference does. Not among the units, for compiling takes half a minute."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ringfence.flash.compiled.run import simulate as compiled
from ringfence.flash.reference.device import simulate
from ringfence.flash.scenario import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/flash"))
import flash_scenarios


@pytest.mark.parametrize("seed", range(100, 150))
def test_both_simulators_agree_to_the_nanosecond(seed: int) -> None:
    scenario = flash_scenarios.scenario(seed, 300)
    expected, found = simulate(scenario), compiled(scenario)
    for name in Result._fields:
        one, other = getattr(expected, name), getattr(found, name)
        assert one == other if isinstance(one, int) else list(one) == list(other), name
