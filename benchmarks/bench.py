"""Runs the whole benchmark on this machine: ``python -m benchmarks.bench``.

    python -m benchmarks.bench --out=build/bench
    python -m benchmarks.bench --quick
    python -m benchmarks.bench --parts=systems,replicas --systems=rjcma --dtype=bfloat16

Prints a table of each part and writes bench.json, bench.md and pictures. Every number in them is
measured in this run. A missing number has a footnote with the reason. Parts:

systems    a training step of each system: emojax beside PyTorch eager and torch.compile, after a
               check that they compute the same; lower bounds of the time and peak memory
    replicas   R replicas in one program beside single trainings one after another
    kernels    layers beside the matmul rate, and kernels beside each other
    protocol   RJCMA's whole cross-validation, extrapolated from a few steps
    feed       the cost of reading windows
    scaling    time and memory over T, B, R and the number of streams
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator

from absl import flags

from benchmarks.context import AXES, Context
from benchmarks.machine import backend, describe
from benchmarks.parts.feed import feed_part
from benchmarks.parts.kernels import kernels_part
from benchmarks.parts.protocol import protocol_part
from benchmarks.parts.replicas import replicas_part
from benchmarks.parts.scaling import scaling_part
from benchmarks.parts.systems import systems_part
from benchmarks.results import JSON_FILE, MARKDOWN_FILE, Column, Missing, Part, Table, write
from benchmarks.timing import told
from benchmarks.torch_models import NAMES
from emojax.commands import cli
from emojax.core.devices import use_compilation_cache
from emojax.errors import InputError, closest
from emojax.training.host_memory import keep_freed_memory

PARTS: dict[str, Callable[[Context], Part]] = {
    "systems": systems_part,
    "replicas": replicas_part,
    "kernels": kernels_part,
    "protocol": protocol_part,
    "feed": feed_part,
    "scaling": scaling_part,
}
# Time on a machine with an accelerator is often limited to ten minutes.
_MINUTES_ON_ACCELERATORS = 9.0
# The share of the minutes of each part, so that a slow part does not take all of them.
_WEIGHTS = {
    "systems": 5.0, "replicas": 1.5, "kernels": 1.0, "protocol": 1.0, "feed": 1.0, "scaling": 1.5
}  # fmt: skip
QUICK_SYSTEMS = ("rjcma", "emma_net")


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.bool("quick", False, "Narrow models and few windows, to check that everything runs.")
    define.list(
        "systems",
        [],
        "Some of "
        + ", ".join(NAMES)
        + "; replicas, B, R and streams are those of the first. All by "
        "default, two with --quick.",
    )
    define.list("parts", [], "Some of " + ", ".join(PARTS) + "; all by default.")
    define.string("out", "build/bench", "Folder for results.")
    define.enum("dtype", "float32", ["float32", "bfloat16"], "Precision of the computation.")
    define.float(
        "minutes", None, "Begin nothing new after this time; 0: no limit, 9 on an accelerator."
    )
    define.list("axes", [], f"Sizes to scale: some of {', '.join(AXES)}; all by default.")
    define.string(
        "torch_compile", None, "Mode of torch.compile; empty leaves it out, as --quick does."
    )


def main(given: flags.FlagValues) -> None:
    """Runs the parts and writes their results."""
    # PyTorch and the processes that measure memory use the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    use_compilation_cache()
    keep_freed_memory()
    quick = given.quick
    systems = tuple(given.systems) or (QUICK_SYSTEMS if quick else NAMES)
    parts = tuple(given.parts) or tuple(PARTS)
    _check("systems", systems, NAMES)
    _check("parts", parts, tuple(PARTS))
    axes = tuple(given.axes) or AXES
    _check("axes", axes, AXES)
    out = cli.folder("out", given.out)
    out.mkdir(parents=True, exist_ok=True)
    console = cli.console()
    default_mode = "" if quick else "default"
    minutes = 0.0 if backend() == "cpu" else _MINUTES_ON_ACCELERATORS
    context = Context(
        systems,
        out,
        quick=quick,
        dtype=given.dtype,
        compile_mode=default_mode if given.torch_compile is None else given.torch_compile,
        minutes=minutes if given.minutes is None else given.minutes,
        axes=axes,
        say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    header = describe(" ".join(["python -m benchmarks.bench", *sys.argv[1:]]))
    for key, value in header.items():
        console.print(f"{key}: {value}", markup=False, highlight=False)
    done: list[Part] = []
    for part in run(context, parts):
        done.append(part)
        for table in part.tables:
            table.show(console)
        write(out, header, done)
    console.print(
        f"{sum(part.seconds for part in done):.0f} s; {out / JSON_FILE}, {out / MARKDOWN_FILE}"
        + "".join(f", {out / picture}" for part in done for picture in part.pictures),
        markup=False,
        highlight=False,
    )


def run(context: Context, parts: tuple[str, ...]) -> Iterator[Part]:
    """Yields the parts as they end; a part that fails is a table with the error."""
    total = sum(_WEIGHTS[name] for name in parts)
    dealt = 0.0
    for name in parts:
        began = time.monotonic()
        dealt += _WEIGHTS[name]
        context.share = dealt / total
        try:
            part = PARTS[name](context)
        except Exception as error:
            table = Table(name, (Column("part", "part"), Column("result", "result")))
            table.add(part=name, result=Missing(told(error)))
            part = Part(name, [table])
        part.seconds = time.monotonic() - began
        yield part


def _check(flag: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise InputError(
                "The benchmark does not have this choice.",
                field=f"--{flag}",
                found=name,
                expected="some of " + ", ".join(known),
                remedy=closest(name, known),
            )


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
