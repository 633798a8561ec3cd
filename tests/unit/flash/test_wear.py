"""The schedule, the choice of a swap, and what becomes of an SSD in five years."""

from __future__ import annotations

import pytest

from ringfence.errors import UsageError
from ringfence.flash import wear, wear_profiles, wear_sim
from ringfence.flash.wear_blocks import cold_move, take_free

DAY_S = 86_400.0


def course(profile: str, setting: wear_sim.Setting | None = None) -> wear_sim.Course:
    setting = setting or wear_sim.Setting()
    weights = wear_profiles.PROFILES[profile].weights(16, wear_profiles.STEPS, 1)
    return wear_sim.simulate(wear_profiles.rates(weights, setting.life_s, 3000), setting, samples=100)


def test_the_schedule_is_the_bound() -> None:
    plan = wear.schedule(16, 5 * wear_sim.YEAR_S, 0.1)
    assert plan.swaps == 149
    assert plan.period_s / DAY_S == pytest.approx(12.256, abs=0.01)
    # (M+1)/(M+1/N) with the M of so many swaps is what was asked for
    for channels, excess in ((2, 0.1), (8, 0.2), (16, 0.1), (32, 0.05)):
        rounds = wear.schedule(channels, 1.0, excess).swaps / channels
        assert (rounds + 1) / (rounds + 1 / channels) <= 1 + excess + 1e-9


@pytest.mark.parametrize(("channels", "life_s", "excess"), [(1, 1, 0.1), (16, 0, 0.1), (16, 1, 0), (16, 1, 1.5)])
def test_no_schedule_for_nonsense(channels: int, life_s: float, excess: float) -> None:
    with pytest.raises(UsageError):
        wear.schedule(channels, life_s, excess)


def test_the_channel_that_will_be_most_worn_changes_with_the_least_worn() -> None:
    assert wear.choose_swap([100, 90, 10, 50], [0, 5, 0.1, 0], 10) == wear.Swap(1, 2)


def test_no_swap_that_does_not_help() -> None:
    assert wear.choose_swap([100, 100, 100], [1, 1, 1], 10) is None
    # the most worn one is idle already: the swap would only cost
    assert wear.choose_swap([100, 50, 40], [0, 1, 1], 10) is None
    assert wear.choose_swap([0, 0], [0, 0], 10) is None


def test_ties_go_by_the_present_rate() -> None:
    assert wear.choose_swap([0, 0, 0, 0], [1, 9, 3, 0.5], 0.1) is None  # not worth an erase
    assert wear.choose_swap([1000, 1000.2, 0.1, 0.4], [5, 4, 2, 0], 1) == wear.Swap(0, 3)


def test_levelling_is_due_by_where_it_leads() -> None:
    assert not wear.is_due([10, 10], [1, 1.02], 100, 0.1)
    assert wear.is_due([10, 10], [1, 1.5], 100, 0.1)
    assert not wear.is_due([10, 10], [1, 1.5], 0.1, 0.1)


@pytest.mark.parametrize("profile", ["rotating-hot", "zipfian", "drifting"])
def test_five_years_end_even(profile: str) -> None:
    found = course(profile)
    assert found.final <= 1.1
    assert len(found.swaps) <= found.allowed == 149
    assert found.swap_erases <= 0.01 * 3000
    made = [number for number, (time_s, _) in enumerate(found.swaps) if time_s < (number + 1) * 12.25 * DAY_S]
    assert made == []  # never ahead of the schedule
    # no erase is lost or counted twice
    assert found.wears[-1].mean() == pytest.approx(3000 + found.swap_erases, rel=1e-6)


def test_even_tenants_are_left_alone() -> None:
    found = course("even")
    assert found.swaps == ()
    assert found.final == pytest.approx(1.0)


def test_without_a_policy_it_is_as_bad_as_the_tenants_are() -> None:
    alone = wear_sim.Setting(choose=wear_sim.never)
    assert course("zipfian", alone).final == pytest.approx(16 / sum(1 / n for n in range(1, 17)))


def test_a_swap_that_takes_too_long_is_not_begun() -> None:
    slow = wear_sim.Setting(channel=wear_sim.Channel(bytes_per_s=1e4))
    assert course("one-hot", slow).swaps == ()


def test_profiles_are_read_from_text() -> None:
    table = wear_profiles.parse("# two years\n4, 1 1\n1 1 4  # turned\n", steps=10)
    assert table.shape == (10, 3)
    assert table[0].tolist() == [4, 1, 1]
    assert table[9].tolist() == [1, 1, 4]
    for text in ("", "1 2\n1\n", "1 x\n", "5\n"):
        with pytest.raises(UsageError):
            wear_profiles.parse(text)
    with pytest.raises(UsageError):
        wear_profiles.rates(wear_profiles.parse("0 0"), 1.0, 1.0)
    with pytest.raises(UsageError):
        wear_profiles.rates(wear_profiles.parse("1 -1"), 1.0, 1.0)


def blocks(spread: int | None) -> tuple[int, int, float]:
    """A channel of 64 blocks, 48 of them never written again: least and most worn, and the share of moves."""
    erases, cold, free = [0] * 64, set(range(48)), set(range(48, 64))
    moves = 0
    for _ in range(6_000):
        block = take_free(free, erases)
        free.remove(block)  # written, overwritten, collected
        erases[block] += 1
        free.add(block)
        move = cold_move(free, erases, spread, movable=cold.__contains__) if spread is not None else None
        if move is not None:
            moves += 1
            free.remove(move.target)
            cold.remove(move.source)
            cold.add(move.target)
            erases[move.source] += 1
            free.add(move.source)
    return min(erases), max(erases), moves / 6_000


def test_inside_a_channel_data_that_lies_still_is_moved() -> None:
    least, most, _ = blocks(None)
    assert (least, most) == (0, 6_000 // 16)
    least, most, moved = blocks(10)
    assert most - least <= 12
    assert moved < 0.1
