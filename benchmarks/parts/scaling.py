"""Measures time and memory of a step over window T, batch B, replicas R and number of streams."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

from benchmarks.context import Context
from benchmarks.machine import allow_tf32
from benchmarks.parts.systems import milliseconds, on_gpu
from benchmarks.peak_memory import EMOJAX, Request, measure_peaks
from benchmarks.results import Column, Missing, Part, Table
from benchmarks.timing import Contender, Timing, interleaved, told
from benchmarks.workload import Case, EmojaxTraining


@dataclasses.dataclass(frozen=True)
class Series:
    """Cases that differ in one size.

    Attributes:
        axis: the size that differs.
        system: the name of the system.
        sizes: the sizes, ascending.
        cases: one case for each size.
    """

    axis: str
    system: str
    sizes: tuple[int, ...]
    cases: tuple[Case, ...]


def series_of(context: Context) -> list[Series]:
    """Returns the series to measure: T of a TCN and of RNNs; B, R and streams of one system."""
    return [series for series in _every_series(context) if series.axis in context.axes]


def _every_series(context: Context) -> list[Series]:
    first = context.systems[0]
    # On a CPU the papers' batches would take minutes, and time is linear in them.
    batch = 0 if on_gpu() or context.quick else 2
    lengths: dict[str, tuple[int, ...]] = {
        "multiscale_tcn": (75, 150, 300, 600),
        "emma_net": (36, 72, 144, 288),
        "recurrent_baselines": (50, 100, 200, 400),
    }
    if context.quick:
        lengths = {"emma_net": (36, 144)}
    found = []
    for system, sizes in lengths.items():
        cases = tuple(context.case(system, batch=batch, window=T) for T in sizes)
        if context.quick:
            cases = tuple(context.case(system, window=T) for T in sizes)
        found.append(Series("T", system, sizes, cases))
    if context.quick:
        return found
    counts: tuple[int, ...] = (1, 4, 16, 64) if on_gpu() else (1, 2, 4, 8)
    cases = tuple(context.case(first, batch=B) for B in counts)
    found.append(Series("B", first, counts, cases))
    # Twelve replicas are two targets of six folds.
    counts = (1, 4, 12, 24) if on_gpu() else (1, 2, 4, 12)
    cases = tuple(context.case(first, batch=batch, replicas=R) for R in counts)
    found.append(Series("R", first, counts, cases))
    names = tuple(Case(first).config().data.streams)
    counts = tuple(range(1, len(names) + 1))
    cases = tuple(context.case(first, batch=batch, streams=names[:S]) for S in counts)
    found.append(Series("streams", first, counts, cases))
    return found


def scaling_part(context: Context) -> Part:
    """Measures all series; makes a table of the points, one of the slopes, and a picture."""
    points = Table(
        f"Cost of a step against its sizes, {context.dtype}, {context.sizes} otherwise",
        (
            Column("axis", "axis"),
            Column("system", "system"),
            Column("size", "size"),
            Column("sizes", "B x T"),
            Column("step", "step, ms"),
            Column("memory", "peak, MiB"),
        ),
        notes=["Memory as in the table of the systems, each series in a process of its own."],
    )
    if not on_gpu() and not context.quick:
        points.notes.append("Windows a batch: 2, except along B.")
    slopes = Table(
        "Slopes in log-log: 1 is linear, below 1 grows more slowly",
        (
            Column("axis", "axis"),
            Column("system", "system"),
            Column("time", "time, all points", 2),
            Column("time_end", "time, last two", 2),
            Column("memory", "memory, all points", 2),
            Column("memory_end", "memory, last two", 2),
        ),
        notes=["Least squares; fixed costs flatten the first points."],
    )
    part = Part("scaling", [points, slopes])
    allow_tf32(context.torch_or_none, True)
    drawn = []
    for series in series_of(context):
        context.say(f"scaling: {series.system} against {series.axis}")
        timings = _times(context, series)
        times = [milliseconds(timing) for timing in timings]
        requests = [Request(EMOJAX, case) for case in series.cases]
        memory = measure_peaks(requests, timeout=min(context.left, 600.0))
        for size, case, step, peak in zip(series.sizes, series.cases, times, memory, strict=True):
            points.add(
                axis=series.axis,
                system=series.system,
                size=size,
                sizes=case.sizes,
                step=step,
                memory=peak,
            )
        slopes.add(
            axis=series.axis,
            system=series.system,
            time=slope(series.sizes, times),
            time_end=slope(series.sizes[-2:], times[-2:]),
            memory=slope(series.sizes, memory),
            memory_end=slope(series.sizes[-2:], memory[-2:]),
        )
        drawn.append((series, times, memory))
        part.data[f"{series.axis} {series.system}"] = {
            str(size): timing.seconds for size, timing in zip(series.sizes, timings, strict=True)
        }
    part.pictures.append(_draw(context, drawn))
    return part


def slope(sizes: Sequence[int], values: Sequence[float | Missing]) -> float | Missing:
    """Returns the exponent of the power law through the points, fitted to their logarithms."""
    known = [
        (size, value)
        for size, value in zip(sizes, values, strict=True)
        if not isinstance(value, Missing) and value > 0
    ]
    if len(known) < 2:
        return Missing("fewer than two points were measured")
    x, y = np.log(np.array(known, float)).T
    return float(np.polyfit(x, y, 1)[0])


def _times(context: Context, series: Series) -> list[Timing]:
    """Times all sizes of a series, interleaved."""
    contenders: dict[int, Contender] = {}
    failures: dict[int, str] = {}
    for size, case in zip(series.sizes, series.cases, strict=True):
        late = context.out_of_time
        if late is not None:
            failures[size] = late.reason
            continue
        try:
            contenders[size] = EmojaxTraining(case).contender(str(size))
        except Exception as error:
            failures[size] = told(error)
    seconds = 2.0 if context.quick else 5.0 if on_gpu() else 20.0
    found = interleaved([*contenders.values()], seconds=seconds, block_seconds=0.2)
    contenders.clear()
    gc.collect()
    return [found.get(str(size), Timing(failure=failures.get(size, ""))) for size in series.sizes]


def _draw(
    context: Context,
    drawn: Sequence[tuple[Series, Sequence[float | Missing], Sequence[float | Missing]]],
) -> str:
    # An axis without measured points has no panel.
    drawn = [
        row for row in drawn if not all(isinstance(value, Missing) for value in (*row[1], *row[2]))
    ]
    axes_names = list(dict.fromkeys(series.axis for series, _, _ in drawn)) or [""]
    figure = Figure(figsize=(3.4 * len(axes_names), 6), layout="constrained")
    panels = figure.subplots(2, len(axes_names), squeeze=False)
    for series, times, memory in drawn:
        column = axes_names.index(series.axis)
        for row, (values, label) in enumerate(((times, "step, ms"), (memory, "peak, MiB"))):
            panel = panels[row, column]
            known = [
                (size, value)
                for size, value in zip(series.sizes, values, strict=True)
                if not isinstance(value, Missing)
            ]
            if known:
                (line,) = panel.plot(*zip(*known, strict=True), "o-", label=series.system)
                # Linear growth through the last point.
                (size, value) = known[-1]
                begin = known[0][0]
                panel.plot([begin, size], [value * begin / size, value], ":", c=line.get_color())
                panel.legend(fontsize="small")
            panel.set(xlabel=series.axis, ylabel=label, xscale="log", yscale="log")
            # Ticks at the measured sizes, as plain numbers.
            sizes = sorted({size for s, _, _ in drawn if s.axis == series.axis for size in s.sizes})
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticks(sizes, [str(size) for size in sizes], fontsize="small", rotation=45)
            panel.yaxis.set_major_formatter(ScalarFormatter())
            panel.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle("Dotted: linear through the last point", fontsize="medium")
    figure.savefig(context.out / "scaling.png", dpi=120)
    return "scaling.png"
