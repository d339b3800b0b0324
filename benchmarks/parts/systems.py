"""Measures a training step of each system in emojax and PyTorch, its floor and its memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from benchmarks.agreement import check_agreement
from benchmarks.context import Context
from benchmarks.machine import allow_tf32, backend
from benchmarks.peak_memory import EMOJAX, TORCH, Request, measure_peaks
from benchmarks.results import Column, Missing, Part, Table
from benchmarks.timing import Contender, Timing, interleaved, ratio, told
from benchmarks.torch_training import TorchTraining
from benchmarks.workload import EmojaxTraining, steps_per_dispatch

EAGER, COMPILED = "torch eager", "torch.compile"
_SINGLE = "emojax, one step a dispatch"
_MILLI = 1e3


def systems_part(context: Context) -> Part:
    """Measures times, floors and memory of one replica of each system."""
    times = Table(
        f"Training step, R = 1, {context.dtype}, {context.sizes}",
        (
            Column("system", "system"),
            Column("sizes", "B x T"),
            Column("emojax", "emojax, ms"),
            Column("single", "one step a dispatch, ms"),
            Column("eager", "eager, ms"),
            Column("compiled", "compile, ms"),
            Column("to_eager", "emojax / eager"),
            Column("to_compiled", "emojax / compile"),
            Column("difference", "outputs differ by", 2),
        ),
        notes=[
            "Forward, loss, backward, Adam; dropout on; the batch stays on the device; "
            f"{steps_per_dispatch()} steps of emojax a dispatch, as in training.",
            "Ratios are medians (quartiles) of interleaved pairs of blocks; times are medians.",
            "Outputs and losses are those of the same weights and windows in float32, in "
            "evaluation and in training without dropout; relative to the greatest.",
            "Multi-scale TCN trains everything at once here, and no temporary heads.",
        ],
    )
    floors = Table(
        f"Floor and memory of the same steps, {context.dtype}",
        (
            Column("system", "system"),
            Column("gflop", "GFLOP"),
            Column("floor", "floor, ms"),
            Column("emojax", "floor / emojax"),
            Column("eager", "floor / eager"),
            Column("compiled", "floor / compile"),
            Column("memory", "emojax, MiB"),
            Column("torch_memory", "eager, MiB"),
        ),
        notes=[
            "FLOPs are those of emojax's matrix products and convolutions, forward and backward, "
            "counted in its traced step (emojax/studies/flops.py); padding counts nothing.",
            _rate_note(context),
            "Memory is the greatest during a step, with state and batch, each measured in a "
            "process of its own; programs and libraries do not count.",
        ],
    )
    part = Part("systems", [times, floors])
    # First, while this process is small, because it keeps its peak; see training.host_memory.
    peaks = _peaks(context)
    allow_tf32(context.torch_or_none, True)
    cells = {}
    for system in context.systems:
        context.say(f"systems: {system}")
        cells[system] = _measure(context, system, times, part)
        gc.collect()
    for system in context.systems:
        floors.add(system=system, **cells[system], **peaks[system])
    return part


def _rate_note(context: Context) -> str:
    rate = context.rate(context.dtype)
    if isinstance(rate, Missing):
        return f"No matmul rate: {rate.reason}."
    each = ", ".join(
        f"{name} {value / 1e9:,.0f}"
        for name, value in context.rate_by_framework(context.dtype).items()
    )
    tf32 = ", TF32 allowed" if backend() == "gpu" and context.dtype == "float32" else ""
    return (
        f"The floor is that over the rate of a large square product measured in this run, "
        f"{rate / 1e9:,.0f} GFLOP/s in {context.dtype}{tf32} (the faster of: {each})."
    )


def _measure(context: Context, system: str, table: Table, part: Part) -> dict[str, Any]:
    """Adds a row of times; returns cells of the second table."""
    case = context.case(system)
    late = context.out_of_time
    if late is not None:
        others = ("emojax", "single", "eager", "compiled", "to_eager", "to_compiled", "difference")
        table.add(system=system, sizes=case.sizes, **dict.fromkeys(others, late))
        return dict.fromkeys(("gflop", "floor", "emojax", "eager", "compiled"), late)
    try:
        ours = EmojaxTraining(case)
        flops = ours.flops()
    except Exception as error:
        failed = Missing(told(error))
        table.add(system=system, sizes=case.sizes, emojax=failed)
        return {"emojax": failed}
    difference, obstacle = agreement(context, ours)
    contenders = [ours.contender("emojax"), *torch_contenders(context, ours, obstacle)]
    if ours.steps > 1:
        contenders.append(EmojaxTraining(case, state=ours.state, steps=1).contender(_SINGLE))
    times = interleaved(contenders, seconds=3 if context.quick else 10 if on_gpu() else 40)
    part.data[system] = {
        "calls_per_block": {name: timing.calls for name, timing in times.items()},
        "seconds": {name: timing.seconds for name, timing in times.items()},
    }
    mine = times["emojax"]
    # On a CPU, training has one step in a dispatch, so it is the first column.
    single = times.get(_SINGLE, mine)
    eager = times.get(EAGER, Timing(failure=_reason(obstacle)))
    compiled = times.get(COMPILED, Timing(failure=_reason(obstacle) or "not asked for"))
    table.add(
        system=system,
        sizes=case.sizes,
        emojax=milliseconds(mine),
        single=milliseconds(single),
        eager=milliseconds(eager),
        compiled=milliseconds(compiled),
        to_eager=_or_failure(ratio(mine, eager), mine, eager),
        to_compiled=_or_failure(ratio(mine, compiled), mine, compiled),
        difference=difference,
    )
    rate = context.rate(context.dtype)
    floor = rate if isinstance(rate, Missing) else flops / rate
    return {
        "gflop": flops / 1e9,
        "floor": floor if isinstance(floor, Missing) else floor * _MILLI,
        "emojax": _share(floor, mine),
        "eager": _share(floor, eager),
        "compiled": _share(floor, compiled),
    }


def agreement(context: Context, ours: EmojaxTraining) -> tuple[float | Missing, Missing | None]:
    """Returns the greatest difference of the outputs, and a reason not to time PyTorch, if any."""
    torch = context.torch
    if isinstance(torch, Missing):
        return torch, torch
    try:
        return check_agreement(ours.case, torch, state=ours.state).greatest, None
    except Exception as error:
        obstacle = Missing(f"not timed, {told(error)}")
        return obstacle, obstacle


def torch_contenders(
    context: Context, ours: EmojaxTraining, obstacle: Missing | None
) -> list[Contender]:
    """Returns PyTorch eager and, if configured, compiled; none if there is an obstacle.

    A contender whose building fails raises when it is called, so that its timing has the reason.
    """
    if obstacle is not None or isinstance(context.torch, Missing):
        return []
    torch = context.torch
    modes = {EAGER: ""} | ({COMPILED: context.compile_mode} if context.compile_mode else {})
    found = []
    for name, mode in modes.items():
        late = context.out_of_time
        if late is not None:
            found.append(Contender(name, failing(RuntimeError(late.reason))))
            continue
        try:
            found.append(TorchTraining(ours, torch, mode).contender(name))
        except Exception as error:
            found.append(Contender(name, failing(error)))
    return found


def failing(error: Exception) -> Callable[[], None]:
    """Returns a step that raises this error."""

    def step() -> None:
        raise error

    return step


def _reason(obstacle: Missing | None) -> str:
    return "" if obstacle is None else obstacle.reason


def on_gpu() -> bool:
    """Returns True if JAX computes on an accelerator."""
    return backend() != "cpu"


def milliseconds(timing: Timing) -> float | Missing:
    """Returns the median milliseconds of a step."""
    median = timing.median
    return Missing(timing.failure) if median is None else median * _MILLI


def _or_failure(found: Any, *timings: Timing) -> Any:
    failures = [timing.failure for timing in timings if timing.failure]
    return found if found is not None else Missing(failures[0])


def _share(floor: float | Missing, timing: Timing) -> float | Missing:
    median = timing.median
    if isinstance(floor, Missing):
        return floor
    return Missing(timing.failure) if median is None else floor / median


def _peaks(context: Context) -> dict[str, dict[str, float | Missing]]:
    """Measures system -> peak memory of emojax and PyTorch."""
    found: dict[str, dict[str, Any]] = {system: {} for system in context.systems}
    keys = {EMOJAX: "memory", TORCH: "torch_memory"}
    # JAX's peak on a GPU is that of the whole process.
    alone = on_gpu()
    for framework, key in keys.items():
        if framework == TORCH and isinstance(context.torch, Missing):
            for system in context.systems:
                found[system][key] = context.torch
            continue
        requests = [Request(framework, context.case(system)) for system in context.systems]
        series = [[r] for r in requests] if alone and framework == EMOJAX else [requests]
        context.say(f"systems: memory of {framework}")
        answers = [
            answer
            for group in series
            for answer in measure_peaks(group, timeout=min(context.left, 600.0))
        ]
        for system, answer in zip(context.systems, answers, strict=True):
            found[system][key] = answer
    return found
