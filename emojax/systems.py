"""Lists every system that can be trained: ``emojax systems``.

    emojax systems [--format=table|csv|markdown|json] [--fast] [--configs=FOLDER]
    emojax systems rjcma              the variants of one configuration, by name or path
    emojax systems rjcma:upstream     one in detail; "rjcma:" is the one without a name

Those of one configuration, and the one in detail, come with the places where they differ from their
paper. JSON has these for every list.

Each variant of each configuration is built, not trained. *before* and *after* are the numbers of
frames on either side that influence a prediction, measured on gradients; "window" means the whole
window. MFLOP are millions of operations for each frame, in matrix products and convolutions, when
one replica predicts. In a configuration with a clock, ticks take the place of frames. ``--fast``
leaves out *before* and *after*, which take seconds for each system. The widths of streams that no
paper names are read from the store that ``--store`` names.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
from absl import flags
from rich.progress import track
from rich.table import Table

from emojax import screen
from emojax.commands import cli
from emojax.core.devices import use_compilation_cache
from emojax.core.session import Session
from emojax.datasets.source import Store
from emojax.errors import InputError, closest
from emojax.papers.variants import Variant, discover, read_variants
from emojax.shipped import config_argument, config_folder, find_config
from emojax.specs import STREAMS, StreamSpec
from emojax.studies.system_facts import (
    Reach,
    abstract_variables,
    forward_flops,
    parameter_counts,
    receptive_field,
)

COLUMNS = (
    "system", "model", "streams", "tasks", "parameters", "before", "after", "MFLOP",
    "window/stride", "reference",
)  # fmt: skip


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("configs", "", "Folder of configuration files, instead of those of emojax.")
    define.enum("format", "table", [*_PRINTERS, "json"], "Form of the output.")
    define.bool("fast", False, "Leave out the receptive field of each system.")
    define.string("store", "", "Store whose streams are known beside the papers'.")


@dataclasses.dataclass(frozen=True)
class Measured:
    """The size, cost and receptive field of a model.

    Attributes:
        parameters: part of the model -> number of trainable parameters.
        mflop: millions of operations for each tick.
        reach: the receptive field; None if it was not measured.
    """

    parameters: dict[str, int]
    mflop: float
    reach: Reach | None

    @property
    def total(self) -> int:
        """Returns the number of trainable parameters of the whole model."""
        return sum(self.parameters.values())


def model_fields(model: nn.Module) -> dict[str, Any]:
    """Returns every field of a model: its whole configuration."""
    return {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }


class Facts:
    """Measures sessions; variants that differ only in training are measured once."""

    def __init__(self, *, fast: bool) -> None:
        self._fast = fast
        self._known: dict[str, Measured] = {}
        self._reaches: dict[str, Reach] = {}

    def __call__(self, session: Session) -> Measured:
        """Returns the measurements of a session's model; equal models are measured once."""
        spec = session.window_spec
        widths = {name: stream.width for name, stream in session.streams.items()}
        fields = model_fields(session.model)
        outputs = fields.pop("outputs")
        program = repr((type(session.model).__name__, fields, widths, spec.lengths))
        key = f"{program} {outputs}"
        if key not in self._known:
            variables = abstract_variables(session)
            # The task does not change the receptive field.
            if not self._fast and program not in self._reaches:
                self._reaches[program] = receptive_field(session, variables)
            self._known[key] = Measured(
                parameter_counts(variables),
                forward_flops(session, variables) / spec.window / 1e6,
                self._reaches.get(program),
            )
        return self._known[key]


def describe(
    variant: Variant, streams: Mapping[str, StreamSpec], facts: Facts
) -> dict[str, str | int]:
    """Returns one row of the list: column -> value.

    The numbers of a variant with unknown streams are left out, because its model cannot be built.
    """
    config = variant.config()
    data, names = config.data, [str(name) for name in config.data.streams]
    clock = f" at {data.clock:g} Hz" if data.get("clock") else ""
    row: dict[str, str | int] = {
        "system": variant.title,
        "model": config.model.name,
        "streams": " ".join(names),
        "tasks": " ".join(data.tasks),
        "parameters": "",
        "window/stride": f"{data.window}/{data.stride}{clock}",
        "reference": variant.reference,
    }
    if all(name in streams for name in names):
        measured = facts(variant.session(streams))
        row["parameters"] = measured.total
        row["MFLOP"] = f"{measured.mflop:.3g}" if measured.mflop < 100 else f"{measured.mflop:.0f}"
        if measured.reach is not None:
            row["before"], row["after"] = _ticks(measured.reach)
    return {column: row.get(column, "") for column in COLUMNS}


def list_systems(
    variants: Sequence[Variant],
    streams: Mapping[str, StreamSpec],
    *,
    fast: bool = False,
    form: str = "table",
    differences: bool = False,
) -> None:
    """Prints the list of systems.

    Args:
        variants: the systems.
        streams: the known streams, by name.
        fast: if True, leaves out the receptive fields.
        form: "table", "csv", "markdown" or "json".
        differences: if True, a table is followed by the places where the variants differ from
            their paper.

    Raises:
        InputError: a system could not be built. The list of the others is printed first.
    """
    facts = Facts(fast=fast)
    rows: list[dict[str, str | int]] = []
    built: list[Variant] = []
    problems: list[InputError] = []
    console = screen.console(stderr=True)
    for variant in track(
        variants,
        "building",
        console=console,
        transient=True,
        disable=console.quiet or not console.is_terminal,
    ):
        try:
            rows.append(describe(variant, streams, facts))
            built.append(variant)
        except InputError as error:
            problems.append(error)
    if form == "json":
        listed = {variant.title: variant.differences() for variant in built}
        print(
            json.dumps(
                [row | {"differences": listed[str(row["system"])]} for row in rows], indent=1
            )
        )
    else:
        _PRINTERS[form](rows)
    if form == "table" and differences:
        _print_differences(
            {variant.name or "(default)": variant.differences() for variant in built}
        )
    for problem in problems[:-1]:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise problems[-1]


def show(variant: Variant, streams: Mapping[str, StreamSpec], *, fast: bool = False) -> None:
    """Prints one system in detail; ``streams`` and ``fast`` as in ``list_systems``."""
    session = variant.session(streams)
    measured = Facts(fast=fast)(session)
    spec = session.window_spec
    clock = f" at {spec.clock:g} Hz" if spec.clock else ""
    lines = [
        variant.title,
        variant.reference,
        variant.summary,
        f"emojax train --config={config_argument(variant.file, variant.name)} "
        "--config.data.store=STORE --workdir=RUN",
    ]
    console = cli.console(asked=True)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    facts = [
        ("tasks", ", ".join(session.tasks)),
        ("window, stride", f"{spec.window}, {spec.stride}{clock}"),
        ("MFLOP a frame", f"{measured.mflop:.3g}"),
        ("loss", ", ".join(f"{t}: {session.config.loss[t]}" for t in session.tasks)),
        ("replicas", f"{len(session.replicas)}: {', '.join(session.names[:6])}"),
    ]
    if measured.reach is not None:
        facts.insert(2, ("frames before, after", ", ".join(_ticks(measured.reach))))
    counts = measured.parameters | {"all": measured.total}
    tables = {
        "facts": facts,
        "streams": [
            (
                name,
                f"{stream.width} wide, {spec.lengths[name]} rows a window, normalisation: "
                + session.config.data.normalisation[name],
            )
            for name, stream in session.streams.items()
        ],
        "fields": [(name, str(value)) for name, value in model_fields(session.model).items()],
        "parameters": [(name, f"{count:,}") for name, count in counts.items()],
    }
    for title, pairs in tables.items():
        table = Table(title=title, title_justify="left", show_header=False, title_style="bold")
        for name, text in pairs:
            table.add_row(name, text)
        console.print(table, markup=False, highlight=False)
    _print_differences({variant.title: variant.differences()})


def main(given: flags.FlagValues, *arguments: str) -> None:
    """Prints all systems, those of one configuration, or one in detail."""
    use_compilation_cache()
    streams = STREAMS | (Store(given.store).streams if given.store else {})
    if len(arguments) > 1:
        raise InputError(
            "The command takes one configuration at a time.",
            field="arguments",
            found=" ".join(arguments),
            expected="NAME:VARIANT, NAME, the path of a file in place of NAME, or nothing",
        )
    if not arguments:
        list_systems(
            discover(Path(given.configs) if given.configs else config_folder()),
            streams,
            fast=given.fast,
            form=given.format,
        )
        return
    file, colon, name = arguments[0].partition(":")
    variants = {variant.name: variant for variant in read_variants(Path(find_config(file)))}
    if not colon:
        shown = list(variants.values())
        list_systems(shown, streams, fast=given.fast, form=given.format, differences=True)
    elif name in variants:
        if given.format == "table":
            show(variants[name], streams, fast=given.fast)
        else:
            list_systems([variants[name]], streams, fast=given.fast, form=given.format)
    else:
        raise InputError(
            "The configuration has no such variant.",
            file=file,
            found=name,
            expected="one of " + ", ".join(filter(None, variants)),
            remedy=closest(name, variants),
        )


def _ticks(reach: Reach) -> tuple[str, str]:
    before, after = ("window" if n is None else str(n) for n in (reach.before, reach.after))
    return before, after


Row = Mapping[str, str | int]


def _print_table(rows: Sequence[Row]) -> None:
    """Prints the table without its empty columns, and the reference of each file once, below."""
    filled = {column for row in rows for column, value in row.items() if value != ""}
    shown = [column for column in COLUMNS if column in filled and column != "reference"]
    table = Table()
    for column in shown:
        right = column in ("parameters", "before", "after", "MFLOP")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    references: dict[str, str] = {}
    for row in rows:
        file = str(row["system"]).partition(":")[0]
        if file not in references:
            references[file] = str(row["reference"])
            table.add_section()
        cells = dict(row) | {"parameters": _short(row["parameters"])}
        table.add_row(*(str(cells[column]) for column in shown))
    console = cli.console(asked=True)
    console.print(table, markup=False, highlight=False)
    for file, reference in references.items():
        console.print(f"{file}: {reference}", highlight=False, markup=False)


def _print_differences(of_systems: Mapping[str, Sequence[Mapping[str, Any]] | None]) -> None:
    """Prints where variants differ from their paper, and which of them, if there are several."""
    console = cli.console(asked=True)
    found: dict[tuple[str, ...], list[str]] = {}
    for system, entries in of_systems.items():
        if entries is None:
            console.print(f"{system}: no list of differences from a paper", markup=False)
        for entry in entries or ():
            found.setdefault((entry["text"], entry["where"], entry["kind"]), []).append(system)
    title = "where this differs from the paper"
    table = Table(title=title, title_justify="left", title_style="bold", show_lines=True)
    headings = ("difference", "in the paper", "kind", "variants")
    for heading in headings if len(of_systems) > 1 else headings[:3]:
        table.add_column(heading, overflow="fold")
    for cells, systems in found.items():
        others = [system for system in of_systems if system not in systems]
        whom = ", ".join(systems)
        if len(others) < len(systems):
            whom = "all but " + ", ".join(others) if others else "all"
        table.add_row(*cells, *([whom] if len(of_systems) > 1 else []))
    if found:
        console.print(table, markup=False, highlight=False)
    elif any(entries is not None for entries in of_systems.values()):
        console.print(f"{title}: none known", markup=False)


def _print_csv(rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    print(text.getvalue(), end="")


def _print_markdown(rows: Sequence[Row]) -> None:
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "|".join(" --- " for _ in COLUMNS) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[column]).replace("|", "\\|") for column in COLUMNS) + " |")


def _short(count: str | int) -> str:
    """Returns a count in short form: 1.23 M for 1234567."""
    if not isinstance(count, int):
        return "needs --store"
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


_PRINTERS: dict[str, Callable[[Sequence[Row]], None]] = {
    "table": _print_table,
    "csv": _print_csv,
    "markdown": _print_markdown,
}

COMMAND = cli.Command(main, define_flags, arguments=True)

if __name__ == "__main__":
    COMMAND.run()
