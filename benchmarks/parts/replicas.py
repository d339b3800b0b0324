"""R replicas in one program against single trainings one after another."""

from __future__ import annotations

import gc

from matplotlib.figure import Figure

from benchmarks.context import Context
from benchmarks.machine import allow_tf32
from benchmarks.parts.systems import COMPILED, EAGER, agreement, on_gpu, torch_contenders
from benchmarks.results import Column, Missing, Part, Table
from benchmarks.timing import Contender, Ratio, Timing, interleaved, ratio
from benchmarks.workload import EmojaxTraining

COUNTS = (1, 2, 4, 12)
QUICK_COUNTS = (1, 2, 4)


def replicas_part(context: Context) -> Part:
    """Windows per second of R replicas, for the first system."""
    system = context.systems[0]
    counts = QUICK_COUNTS if context.quick else COUNTS
    table = Table(
        f"{system}: R replicas in one program, {context.dtype}, {context.sizes}",
        (
            Column("way", "way"),
            Column("replicas", "R"),
            Column("step", "step, ms"),
            Column("windows", "windows/s"),
            Column("to_sequential", "windows/s over emojax one by one"),
            Column("to_eager", "over eager one by one"),
            Column("to_compiled", "over compile one by one"),
        ),
        notes=[
            "One after another, R trainings give the windows per second of one.",
            "Replicas are folds x targets as in the paper's cross-validation; the targets of a "
            "fold share their windows, folds have their own.",
            "Ratios are medians (quartiles) of interleaved pairs of blocks.",
        ],
    )
    part = Part("replicas", [table])
    late = context.out_of_time
    if late is not None:
        table.add(way="emojax", **dict.fromkeys(("replicas", "step", "windows"), late))
        return part
    contenders, windows = _contenders(context, system, counts)
    times = interleaved(contenders, seconds=4 if context.quick else 15 if on_gpu() else 90)
    part.data["seconds"] = {name: timing.seconds for name, timing in times.items()}
    part.data["failures"] = {n: timing.failure for n, timing in times.items() if timing.failure}
    gone = Timing(failure=context.torch.reason if isinstance(context.torch, Missing) else "no run")
    for name, timing in times.items():
        per_step = windows[name]
        others = (_name(1), EAGER, COMPILED)
        gains = [
            _gain(timing, per_step, times.get(other, gone), windows.get(other, 1))
            for other in others
        ]
        median = timing.median
        failed = Missing(timing.failure)
        table.add(
            way=name.partition(",")[0],
            replicas=int(name.rpartition(" ")[2]) if "R =" in name else 1,
            step=failed if median is None else median * 1e3,
            windows=failed if median is None else per_step / median,
            to_sequential=gains[0],
            to_eager=gains[1],
            to_compiled=gains[2],
        )
    for other in (EAGER, COMPILED):
        if other not in times:
            reason = gone.failure if isinstance(context.torch, Missing) else "not asked for"
            table.add(way=other, replicas=1, step=Missing(reason), windows=Missing(reason))
    picture = _draw(context, system, counts, times, windows)
    part.pictures += [picture] if picture else []
    del contenders
    gc.collect()
    return part


def _name(count: int) -> str:
    return f"emojax, R = {count}"


def _contenders(
    context: Context, system: str, counts: tuple[int, ...]
) -> tuple[list[Contender], dict[str, int]]:
    """Everything to time, and windows of its steps."""
    allow_tf32(context.torch_or_none, True)
    contenders: list[Contender] = []
    windows: dict[str, int] = {}
    single: EmojaxTraining | None = None
    for count in counts:
        context.say(f"replicas: {system}, R = {count}")
        name = _name(count)
        try:
            training = EmojaxTraining(context.case(system, replicas=count))
        except Exception as error:
            contenders.append(_failing(name, error))
            windows[name] = 1
            continue
        single = single or training
        contenders.append(training.contender(name))
        windows[name] = training.windows
    if single is not None:
        _, obstacle = agreement(context, single)
        others = torch_contenders(context, single, obstacle)
        contenders += others
        windows |= {other.name: single.session.batch_size for other in others}
    return contenders, windows


def _failing(name: str, error: Exception) -> Contender:
    def step() -> None:
        raise error

    return Contender(name, step)


def _gain(a: Timing, windows_a: int, b: Timing, windows_b: int) -> Ratio | Missing:
    """Windows per second of ``a`` over those of ``b``."""
    times = ratio(b, a)
    if times is None:
        return Missing(a.failure or b.failure)
    share = windows_a / windows_b
    return Ratio(times.low * share, times.median * share, times.high * share)


def _draw(
    context: Context,
    system: str,
    counts: tuple[int, ...],
    times: dict[str, Timing],
    windows: dict[str, int],
) -> str | None:
    measured = [
        (count, windows[_name(count)] / median)
        for count in counts
        if (median := times[_name(count)].median) is not None
    ]
    if not measured:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*measured, strict=True), "o-", label="emojax, one program")
    for name, style in ((EAGER, "--"), (COMPILED, ":")):
        median = times[name].median if name in times else None
        if median is not None:
            axes.axhline(windows[name] / median, ls=style, c="k", label=f"{name}, one by one")
    axes.set(xlabel="replicas R", ylabel="windows/s", title=f"{system}, {context.dtype}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(context.out / "replicas.png", dpi=120)
    return "replicas.png"
