"""Measures R replicas in one program beside single trainings one after another."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator, Sequence

import jax
from matplotlib.figure import Figure

from benchmarks.context import Context
from benchmarks.machine import allow_tf32
from benchmarks.parts.systems import (
    COMPILED,
    EAGER,
    agreement,
    failing,
    on_gpu,
    torch_contenders,
)
from benchmarks.peak_memory import return_freed_memory
from benchmarks.results import Column, Missing, Part, Table
from benchmarks.timing import Contender, Ratio, Timing, interleaved, ratio
from benchmarks.workload import EmojaxTraining
from emojax.core.session import build_session
from emojax.training.memory_plan import bytes_text, device_limit, footprint, needed_bytes

COUNTS = (1, 2, 4, 12)
QUICK_COUNTS = (1, 2, 4)
# The share of the memory for trainings; the rest is for PyTorch's models and the process.
_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class _Round:
    """The contenders that were timed together.

    Attributes:
        times: name -> timing.
        windows: name -> number of windows in a step, over all replicas.
    """

    times: dict[str, Timing]
    windows: dict[str, int]


def replicas_part(context: Context) -> Part:
    """Measures the windows per second of R replicas of the first system."""
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
    rounds = []
    for together in _fitting(context, system, counts):
        rounds.append(_timed_together(context, system, together))
        gc.collect()
        return_freed_memory()
    part.data["seconds"] = [_of_each(round_, "seconds") for round_ in rounds]
    part.data["failures"] = [_of_each(round_, "failure") for round_ in rounds]
    if len(rounds) > 1:
        table.notes.append(
            f"Memory did not hold all at once: timed in {len(rounds)} groups, each beside an R = 1 "
            "and PyTorch of its own, whose times in the table are those of the first group."
        )
    gone = Timing(failure=context.torch.reason if isinstance(context.torch, Missing) else "no run")
    first: dict[str, tuple[Timing, int]] = {}
    for round_, name in _each_once(rounds, counts):
        timing, per_step = round_.times[name], round_.windows[name]
        first[name] = timing, per_step
        gains = [
            _gain(timing, per_step, round_.times.get(other, gone), round_.windows.get(other, 1))
            for other in (_name(1), EAGER, COMPILED)
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
        if other not in first:
            reason = gone.failure if isinstance(context.torch, Missing) else "not asked for"
            table.add(way=other, replicas=1, step=Missing(reason), windows=Missing(reason))
    picture = _draw(context, system, counts, first)
    part.pictures += [picture] if picture else []
    return part


def _name(count: int) -> str:
    return f"emojax, R = {count}"


def _of_each(round_: _Round, field: str) -> dict[str, object]:
    values = {name: getattr(timing, field) for name, timing in round_.times.items()}
    return {name: value for name, value in values.items() if value}


def _each_once(rounds: Sequence[_Round], counts: Sequence[int]) -> Iterator[tuple[_Round, str]]:
    """Yields each timed contender in the table's order, with its first round."""
    for name in (*map(_name, counts), EAGER, COMPILED):
        for round_ in rounds:
            if name in round_.times:
                yield round_, name
                break


def _fitting(context: Context, system: str, counts: Sequence[int]) -> list[list[int]]:
    """Groups the numbers of replicas so that a group's trainings fit in memory beside R = 1.

    A number that fits in no group is in one, too, so that the table shows the failure.
    """
    groups = [[counts[0]]]
    for count in counts[1:]:
        needed, limit = _bytes(context, system, [*groups[-1], count])
        if needed > _SHARE * limit and len(groups[-1]) > 1:
            groups.append([counts[0], count])
        else:
            groups[-1].append(count)
    return groups


def _bytes(context: Context, system: str, counts: Sequence[int]) -> tuple[int, int]:
    """Returns the bytes that trainings of these numbers of replicas need, and the limit."""
    needed = limit = 0
    for count in counts:
        case = context.case(system, replicas=count)
        session = build_session(case.config(), case.specs(), jax.devices()[:1])
        # Not the bytes of a memory plan, which may be an upper bound.
        needed += needed_bytes(footprint(session), session, count)
        limit = device_limit(session.layout)
    return needed, limit


def _timed_together(context: Context, system: str, counts: Sequence[int]) -> _Round:
    contenders, windows = _contenders(context, system, counts)
    times = interleaved(contenders, seconds=4 if context.quick else 15 if on_gpu() else 90)
    return _Round(times, windows)


def _contenders(
    context: Context, system: str, counts: Sequence[int]
) -> tuple[list[Contender], dict[str, int]]:
    """Returns the contenders, and the number of windows in their steps."""
    allow_tf32(context.torch_or_none, True)
    contenders: list[Contender] = []
    windows: dict[str, int] = {}
    single: EmojaxTraining | None = None
    for count in counts:
        context.say(f"replicas: {system}, R = {count}")
        name = _name(count)
        try:
            needed, limit = _bytes(context, system, [count])
            if needed > limit:
                raise MemoryError(f"{bytes_text(needed)} needed, {bytes_text(limit)} there")
            training = EmojaxTraining(context.case(system, replicas=count))
        except Exception as error:
            contenders.append(Contender(name, failing(error)))
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


def _gain(a: Timing, windows_a: int, b: Timing, windows_b: int) -> Ratio | Missing:
    """Returns the windows per second of ``a`` over those of ``b``."""
    times = ratio(b, a)
    if times is None:
        return Missing(a.failure or b.failure)
    share = windows_a / windows_b
    return Ratio(times.low * share, times.median * share, times.high * share)


def _draw(
    context: Context,
    system: str,
    counts: tuple[int, ...],
    first: dict[str, tuple[Timing, int]],
) -> str | None:
    rates = {
        name: windows / timing.median
        for name, (timing, windows) in first.items()
        if timing.median is not None
    }
    measured = [(count, rates[_name(count)]) for count in counts if _name(count) in rates]
    if not measured:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*measured, strict=True), "o-", label="emojax, one program")
    for name, style in ((EAGER, "--"), (COMPILED, ":")):
        if name in rates:
            axes.axhline(rates[name], ls=style, c="k", label=f"{name}, one by one")
    axes.set(xlabel="replicas R", ylabel="windows/s", title=f"{system}, {context.dtype}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(context.out / "replicas.png", dpi=120)
    return "replicas.png"
