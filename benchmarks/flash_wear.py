"""How even an SSD of 16 channels wears in five years, and what that costs. No randomness but by seed; a minute.

Exit code 1 when a limit does not hold. `--write` puts the tables into benchmarks/results/flash_wear.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringfence.flash import presets, wear_profiles, wear_sim

RESULTS = Path(__file__).parent / "results"
CHANNELS, YEARS, EXCESS, BUDGET = 16, 5, 0.1, 3000
SEEDS = {"random": range(1, 11), "drifting": range(1, 11)}
TURNS = (1192, 596, 298, 200, 149, 120, 100, 75, 50, 30, 16)


def rotating(turns: int, order: NDArray[np.int64], phase: float) -> NDArray[np.float64]:
    """All writes to one channel at a time; `turns` in the life, the channels in this order again and again."""
    steps = wear_profiles.STEPS * 4
    hot = order[(np.arange(steps) / steps * turns + phase).astype(int) % CHANNELS]
    table = np.zeros((steps, CHANNELS))
    table[np.arange(steps), hot] = 1.0
    return table


def main() -> int:
    setting = wear_sim.setting_of(
        presets.preset("flashblox"), life_s=YEARS * wear_sim.YEAR_S, excess=EXCESS, share=0.1
    )
    held = True
    lines = [
        "# How even a shared SSD wears",
        "",
        f"{CHANNELS} channels of 64 GiB, {YEARS} years, {BUDGET} erases per block in that time as a mean. By",
        "`benchmarks/flash_wear.py`. Imbalance: the most worn channel over the mean, at the end of life. Of drawn",
        "profiles the worst of ten seeds.",
        "",
        "| tenants | without swaps | with swaps | worst in 2nd half | swaps (at most 149) | extra wear | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, profile in wear_profiles.PROFILES.items():
        runs = []
        for seed in SEEDS.get(name, (1,)):
            weights = profile.weights(CHANNELS, wear_profiles.STEPS, seed)
            rates = wear_profiles.rates(weights, setting.life_s, BUDGET)
            runs.append((wear_sim.simulate(rates, setting), rates))
        course, rates = max(runs, key=lambda run: run[0].final)
        without = wear_sim.simulate(rates, setting._replace(choose=wear_sim.never))
        extra = course.swap_erases / BUDGET
        ok = course.final <= 1 + EXCESS and len(course.swaps) <= course.allowed and extra <= 0.01
        held = held and ok
        lines.append(
            f"| {name} | {without.final:.3f} | {course.final:.3f} | {course.worst_in_second_half:.3f} "
            f"| {len(course.swaps)} | {100 * extra:.2f} % | {'yes' if ok else 'NO'} |"
        )
    lines += [
        "",
        "## Tenants that take turns",
        "",
        "All writes to one channel at a time, which changes; a period is what the schedule gives each swap, 12.3",
        "days. Nine runs each: three orders of the channels, three phases. That no schedule of so few swaps can",
        "foresee who is next shows where turns last about as long as a period: these figures are not promised.",
        "",
        "| a turn lasts, in periods | without swaps, worst | with swaps, mean | with swaps, worst |",
        "|---|---|---|---|",
    ]
    for turns in TURNS:
        finals, alone = [], []
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(CHANNELS) if seed else np.arange(CHANNELS)
            for phase in (0.0, 0.3, 0.8):
                rates = wear_profiles.rates(rotating(turns, order, phase), setting.life_s, BUDGET)
                finals.append(wear_sim.simulate(rates, setting).final)
                alone.append(wear_sim.simulate(rates, setting._replace(choose=wear_sim.never)).final)
        mean = sum(finals) / len(finals)
        lines.append(f"| {149 / turns:.2f} | {max(alone):.2f} | {mean:.2f} | {max(finals):.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if "--write" in sys.argv:
        (RESULTS / "flash_wear.md").write_text(text)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
