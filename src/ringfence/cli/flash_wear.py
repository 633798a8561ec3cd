"""`ringfence flash wear`: years of an SSD's wear in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli.output import Format, emit

if TYPE_CHECKING:
    from ringfence.flash.wear_sim import Course, Setting


def register(app: typer.Typer) -> None:
    """Add the verb to `flash`."""
    app.command()(wear)


def wear(
    profile: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROFILE]...",
            help="one-hot, rotating-hot, zipfian, hot-cold, random, drifting, even, or a file of weights: one "
            "line for each part of the life, in it one weight for each channel.",
            show_default="all of the built-in ones",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="The SSD: a preset of `flash sim`.")] = "flashblox",
    years: Annotated[float, typer.Option(help="How long it shall live.")] = 5.0,
    excess: Annotated[
        float, typer.Option(help="How much the most worn channel may pass the mean at the end.")
    ] = 0.1,
    share: Annotated[float, typer.Option(help="Of a channel's time that a swap may take while it lasts.")] = 0.1,
    erases: Annotated[
        float | None,
        typer.Option(help="Mean erases per block in that life.", show_default="what the flash endures"),
    ] = None,
    seed: Annotated[int, typer.Option(help="For what a profile draws by lot.")] = 1,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the imbalance over time: a .svg or .png file.", show_default="none")
    ] = None,
    output: Annotated[Format, typer.Option("-o", "--output", help="How to print.")] = Format.TABLE,
) -> None:
    """How even an SSD wears whose tenants have channels of their own: without swaps, and with as few as it takes.

    A swap changes the contents of two channels. The imbalance is the wear of the most worn channel over the mean;
    it is promised for the end of life, and larger before.
    """
    from ringfence.cli.flash_extra import needs_flash_extra

    with needs_flash_extra():
        import numpy  # noqa: F401 - everything below needs it

    from ringfence.flash import presets, wear_sim

    chosen = presets.preset(device)
    setting = wear_sim.setting_of(chosen, life_s=years * wear_sim.YEAR_S, excess=excess, share=share)
    courses = {}
    for name in profile or _built_in():
        weights = _weights(name, chosen.geometry.channels, seed)
        courses[name] = _pair(weights, setting, erases or setting.channel.budget_erases)
    data = [_row(name, setting, *pair) for name, pair in courses.items()]
    emit(data, output, lambda: _render(data))
    if picture is not None:
        _draw(picture, {name: with_swaps for name, (_, with_swaps) in courses.items()}, excess)


def _built_in() -> list[str]:
    from ringfence.flash.wear_profiles import PROFILES

    return list(PROFILES)


def _weights(name: str, channels: int, seed: int):  # type: ignore[no-untyped-def] # numpy is imported late
    from ringfence.errors import HostError, UsageError
    from ringfence.flash import wear_profiles

    if name in wear_profiles.PROFILES:
        return wear_profiles.PROFILES[name].weights(channels, wear_profiles.STEPS, seed)
    try:
        text = Path(name).read_text()
    except FileNotFoundError:
        known = ", ".join(wear_profiles.PROFILES)
        raise UsageError(f"no profile and no file is called {name!r}", hint=f"profiles: {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read the profile {name}: {error}", path=name, hint="it is a text file") from error
    return wear_profiles.parse(text)


def _pair(weights, setting: Setting, erases: float) -> tuple[Course, Course]:  # type: ignore[no-untyped-def]
    from ringfence.flash import wear_profiles, wear_sim

    rates = wear_profiles.rates(weights, setting.life_s, erases)
    return wear_sim.simulate(rates, setting._replace(choose=wear_sim.never)), wear_sim.simulate(rates, setting)


def _row(name: str, setting: Setting, without: Course, course: Course) -> dict[str, str | int | float]:
    return {
        "profile": name,
        "imbalance_without_swaps": round(without.final, 4),
        "imbalance": round(course.final, 4),
        "worst_in_second_half": round(course.worst_in_second_half, 4),
        "swaps": len(course.swaps),
        "swaps_allowed": course.allowed,
        "extra_erases": round(course.swap_erases, 2),
        "extra_percent_of_budget": round(100 * course.swap_erases / setting.channel.budget_erases, 3),
        "swap_s": round(setting.swap_s, 1),
        "channel_time_share": course.swap_busy_s / (setting.life_s * course.wears.shape[1]),
    }


def _render(data: list[dict[str, str | int | float]]) -> None:
    from rich.table import Table

    from ringfence import units
    from ringfence.cli.output import console, printable

    table = Table(box=None, pad_edge=False)
    for title in (
        "PROFILE",
        "WITHOUT SWAPS",
        "IMBALANCE",
        "WORST LATER",
        "SWAPS",
        "EXTRA ERASES",
        "ONE SWAP",
        "TIME",
    ):
        table.add_column(title)
    for row in data:
        table.add_row(
            printable(row["profile"]),
            f"{row['imbalance_without_swaps']:.3f}",
            f"{row['imbalance']:.3f}",
            f"{row['worst_in_second_half']:.3f}",
            f"{row['swaps']} of {row['swaps_allowed']}",
            f"{row['extra_erases']:.1f} ({row['extra_percent_of_budget']:.2f} %)",
            units.format_seconds(float(row["swap_s"])),
            f"{100 * float(row['channel_time_share']):.3f} %",
        )
    console().print(table)


def _draw(picture: Path, courses: dict[str, Course], excess: float) -> None:
    from ringfence.cli.flash_extra import saved_figure
    from ringfence.flash.wear_sim import YEAR_S

    with saved_figure(picture) as axes:
        for name, course in courses.items():
            axes.plot(course.times_s / YEAR_S, course.imbalances, label=name, linewidth=1.2)
        axes.axhline(1 + excess, color="grey", linestyle="--", linewidth=0.8)
        axes.set(
            xlabel="years", ylabel="most worn channel / mean", yscale="log", title="Imbalance of wear, with swaps"
        )
        axes.set_yticks([1, 1.1, 1.5, 2, 4, 8, 16], ["1", "1.1", "1.5", "2", "4", "8", "16"], minor=False)
        axes.legend(frameon=False)
