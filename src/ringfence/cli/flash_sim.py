"""`ringfence flash sim`: tenants on one SSD, under each class of isolation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence import units
from ringfence.cli.output import Format, emit

if TYPE_CHECKING:
    from ringfence.engine.driver import ProgressCallback
    from ringfence.flash.geometry import Device
    from ringfence.flash.scenario import Flow, Result, Scenario

_EPILOG = "Example: ringfence flash sim victim=randread noise=randwrite --seconds 0.5 --picture latency.svg"
_MOST_PER_S = 250_000
_COMPILED_FROM = 20_000  # with fewer requests, compiling would take longer than it saves


def register(app: typer.Typer) -> None:
    """Add the verb to `flash`."""
    app.command(epilog=_EPILOG)(sim)


def sim(
    workload: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]WORKLOAD...",
            help="one for each tenant: a built-in mix (ycsb-a to ycsb-f, tpcc, randread, ...) or a trace, "
            "in MQSim's format or as MSR's CSV",
            show_default="victim=randread noise=randwrite",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="the SSD: vd16, flashblox, ocssd, mlc, tlc, zn540, 970pro")] = "mlc",
    isolation: Annotated[
        list[str] | None,
        typer.Option("--class", help="channel, die, software or none; may be repeated", show_default="all"),
    ] = None,
    seconds: Annotated[str, typer.Option(help="how long tenants ask, in simulated time")] = "200ms",
    seed: Annotated[int, typer.Option(help="for what is drawn by lot")] = 1,
    picture: Annotated[
        Path | None, typer.Option(help="draw the latencies: a .svg or .png file", show_default="none")
    ] = None,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """What tenants of one SSD feel of each other, under each class of isolation.

    All have equal shares. Needs the extra `flash` for more than some thousand requests.
    """
    from ringfence.cli.progress import shown_progress
    from ringfence.flash.classes import scenario_of
    from ringfence.flash.presets import preset
    from ringfence.flash.stats import figures

    stop_ns = int(units.parse_seconds(seconds) * 1e9)
    chosen = preset(device)
    names, flows = _flows(workload or ["victim=randread", "noise=randwrite"], chosen, stop_ns, seed)
    data: list[dict[str, Any]] = []
    runs: dict[str, tuple[Scenario, Result]] = {}
    with shown_progress(quiet=output is not Format.TABLE) as progress:
        for kind in _classes(isolation):
            scenario = scenario_of(chosen, kind, names, flows)
            result = _run(scenario, kind.value, progress)
            runs[kind.value] = scenario, result
            found = figures(scenario, result, stop_ns)
            for tenant in found.tenants:
                data.append(
                    {
                        "class": kind.value,
                        "tenant": tenant.name,
                        "iops": round(tenant.iops, 1),
                        "bytes_per_s": round(tenant.bytes_per_s),
                        **{f"{side}_{name}": round(getattr(getattr(tenant, side), name), 1)
                           for side in ("read", "write") for name in ("mean_us", "p50_us", "p99_us", "p999_us")},
                        "write_amplification": round(tenant.write_amplification, 3),
                        "channel_use": round(found.channel_use, 4),
                        "die_use": round(found.die_use, 4),
                    }
                )  # fmt: skip
    emit(data, output, lambda: _render(data))
    if picture is not None:
        _draw(picture, runs)


def _classes(wanted: list[str] | None) -> list[Any]:
    from ringfence.errors import UsageError
    from ringfence.flash.vssd import Isolation

    unknown = [name for name in wanted or () if name not in list(Isolation)]
    if unknown:
        raise UsageError(f"no class called {unknown[0]!r}", hint=f"there are {', '.join(Isolation)}")
    return [Isolation(name) for name in wanted] if wanted else list(Isolation)


def _flows(texts: list[str], device: Device, stop_ns: int, seed: int) -> tuple[tuple[str, ...], tuple[Flow, ...]]:
    from ringfence.errors import UsageError
    from ringfence.flash import workloads
    from ringfence.flash.classes import capacity_of

    if stop_ns < 1_000_000:
        raise UsageError("less than a millisecond shows nothing", hint="such as --seconds 200ms")
    capacity = capacity_of(device, len(texts))
    names, flows = [], []
    for number, text in enumerate(texts):
        name, _, kind = text.rpartition("=")
        names.append(name or f"{Path(kind).stem}-{number + 1}")
        if kind not in workloads.MIXES and (Path(kind).suffix or "/" in kind):
            flows.append(_trace(kind, number, capacity))
            continue
        count = min(3_000_000, int(stop_ns * _MOST_PER_S / 1e9) + 1)
        mix = workloads.mix(kind)
        flows.append(workloads.flow_of(mix, number, capacity, count, seed=seed, stop_ns=stop_ns))
    return tuple(names), tuple(flows)


def _trace(path: str, number: int, capacity: int) -> Flow:
    from ringfence.errors import HostError
    from ringfence.flash.workloads import read_trace

    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return read_trace(lines, number, capacity, path)
    except OSError as error:
        raise HostError(
            f"cannot read {path}: {error.strerror}",
            path=path,
            errno=error.errno or 0,
            hint="name a trace or a mix",
        ) from error


def _run(scenario: Scenario, name: str, progress: ProgressCallback) -> Result:
    from ringfence.core.requests import Progress

    if sum(len(flow.writes) for flow in scenario.flows) < _COMPILED_FROM:
        from ringfence.flash.reference.device import simulate as plain

        return plain(scenario)
    from ringfence.cli.flash_extra import needs_flash_extra

    with needs_flash_extra():
        from ringfence.flash.compiled.run import simulate
    return simulate(scenario, lambda done, total: progress(Progress(name, done, total, units.COUNT)))


def _render(data: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from ringfence.cli.output import console, printable

    table = Table(box=None, pad_edge=False)
    for title in ("class", "tenant", "IOPS", "read mean us", "p99", "write mean us", "p99", "WA", "buses", "dies"):
        table.add_column(title, justify="left" if title in ("class", "tenant") else "right")
    for row in data:
        table.add_row(
            row["class"],
            printable(row["tenant"]),
            f"{row['iops']:,.0f}",
            *(f"{row[key]:.1f}" if row[key] else "-" for key in
              ("read_mean_us", "read_p99_us", "write_mean_us", "write_p99_us")),
            f"{row['write_amplification']:.2f}",
            f"{row['channel_use']:.0%}",
            f"{row['die_use']:.0%}",
        )  # fmt: skip
    console().print(table)


def _draw(picture: Path, runs: dict[str, tuple[Scenario, Result]]) -> None:
    """The share of each tenant's requests that took longer than a time, for each class."""
    from ringfence.cli.flash_extra import saved_figure

    with saved_figure(picture) as axes:
        for kind, (scenario, result) in runs.items():
            for flow, first in zip(scenario.flows, result.first, strict=True):
                span = slice(first, first + len(flow.writes))
                pairs = zip(result.arrived_ns[span], result.done_ns[span], strict=True)
                took = sorted((done - came) / 1000 for came, done in pairs if done >= 0)
                if took:
                    shares = [1 - (nth + 0.5) / len(took) for nth in range(len(took))]
                    axes.plot(took, shares, label=f"{scenario.tenants[flow.tenant].name}, {kind}")
        axes.set(xscale="log", yscale="log", xlabel="latency in us", ylabel="share of requests that took longer")
        axes.legend()
