"""One interactive HTML page about trained runs: ``emojax report RUN [RUN ...]``.

The page shows scores with confidence intervals, each video's predictions and annotations over
time, confusion matrices, learning curves, data and configuration; several runs are compared.
It is one file that loads nothing else, so it can be mailed and opened offline. It is made from
the files that training and evaluation wrote. Evaluate other partitions than validation first:

    emojax evaluate --checkpoint=RUN --partition=test
    emojax report RUN --partition=test
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from emojax.commands import cli
from emojax.errors import InputError
from emojax.reporting.page import write_page
from emojax.reporting.page_runs import read_runs
from emojax.reporting.page_statistics import DRAWS


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string(
        "out",
        "",
        "File to write; RUN/report-PARTITION.html, or for several runs ./report-PARTITION.html.",
    )
    define.string(
        "partition", "validation", "Evaluation to show: validation, test, or validation-on-STORE."
    )
    define.integer(
        "draws", DRAWS, "Bootstrap draws behind each confidence interval.", lower_bound=100
    )


def main(given: flags.FlagValues, *workdirs: str) -> None:
    """Reads the runs and writes the page."""
    partition = given.partition
    runs = read_runs(workdirs, partition)
    folder = runs[0].workdir if len(runs) == 1 else Path()
    out = Path(given.out) if given.out else folder / f"report-{partition}.html"
    if out.is_dir():
        raise InputError(
            "The page needs the name of a file.",
            file=out,
            field="--out",
            found="a folder",
            expected="the path of the HTML file to write",
            remedy=f"name the file: --out={out / 'report.html'}",
        )
    write_page(out, runs, partition, draws=given.draws)
    size = out.stat().st_size / 1e6
    cli.console(wide=False).print(f"report: {out} ({size:.1f} MB)", highlight=False, soft_wrap=True)


COMMAND = cli.Command(main, define_flags, arguments=True)

if __name__ == "__main__":
    COMMAND.run()
