"""Imports random tables with planted faults and checks the values that arrive in the store.

    python -m benchmarks.faults.tables --cases=1000

Every table shows known features at known instants, as one of several tools writes them, with
faults of clock, unit, gap, header, face and type. Each import must give the right values, refuse
the table, or tell the user; wrong values without a word are counted as silent, and none may be.
"""

from __future__ import annotations

import collections
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

from data.features.feature_sources import parse_features
from data.import_features import build
from data.import_report import warnings_of
from emojax.commands import cli
from emojax.datasets.source import Store
from emojax.datasets.ticks import rows_at
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError

FPS = 25.0
Row = dict[str, str]
_FRAME = "the frame that a row is about"  # kept beside its cells, and not written


@dataclasses.dataclass
class Case:
    """A table to be written, and what it means.

    Attributes:
        truth_ND: the features of every frame.
        valid_N: frames with features.
        rows: cells by the names of columns.
        names: the names in the order of the file.
        features: names of the columns that are features.
        delimiter: between cells.
        encoding: of the file.
        comma: numbers have decimal commas.
        header: the first line names the columns.
        before: lines above the table.
        ending: of the file's name.
        options: of the flag.
        faults: the names of what was planted.
    """

    truth_ND: np.ndarray
    valid_N: np.ndarray
    rows: list[Row]
    names: list[str]
    features: list[str]
    delimiter: str = ","
    encoding: str = "utf-8"
    comma: bool = False
    header: bool = True
    before: str = ""
    ending: str = ".csv"
    options: str = ""
    faults: list[str] = dataclasses.field(default_factory=list)


def make_case(seed: int) -> Case:
    """Draws a table of one of the tools, and plants up to three faults in it."""
    rng = np.random.default_rng(seed)
    frames, width = int(rng.integers(30, 120)), int(rng.integers(1, 5))
    truth_ND = np.round(rng.normal(size=(frames, width)), 3)
    tool = str(rng.choice([*TOOLS]))
    case = TOOLS[tool](truth_ND, rng)
    case.faults.append(tool)
    for i, row in enumerate(case.rows):
        row[_FRAME] = str(i)
    for name in rng.choice([*FAULTS], size=int(rng.integers(0, 4)), replace=False):
        if FAULTS[str(name)](case, rng):
            case.faults.append(str(name))
    return case


def _cells(values: np.ndarray, names: list[str]) -> Row:
    return {name: f"{value:.3f}" for name, value in zip(names, values, strict=True)}


def _openface(truth_ND: np.ndarray, rng: np.random.Generator) -> Case:
    names = [f"AU{i:02d}_r" for i in range(truth_ND.shape[1])]
    rows = [
        {"frame": str(i + 1), "face_id": "0", "timestamp": f"{i / FPS:.3f}", "confidence": "0.95",
         "success": "1", **_cells(row, names)}
        for i, row in enumerate(truth_ND)
    ]  # fmt: skip
    return Case(truth_ND, np.ones(len(truth_ND), bool), rows, [*rows[0]], names)


def _pyfeat(truth_ND: np.ndarray, rng: np.random.Generator) -> Case:
    names = [f"AU{i:02d}" for i in range(truth_ND.shape[1])]
    rows = [
        {"": str(i), "FaceRectX": f"{100 + i % 7}", "FaceRectY": "50", "FaceRectWidth": "80",
         "FaceRectHeight": "90", "FaceScore": "0.99", **_cells(row, names),
         "input": "clip.mp4", "frame": str(i), "approx_time": f"00:{i // 25:02d}"}
        for i, row in enumerate(truth_ND)
    ]  # fmt: skip
    return Case(truth_ND, np.ones(len(truth_ND), bool), rows, [*rows[0]], names)


def _timed(truth_ND: np.ndarray, rng: np.random.Generator) -> Case:
    names = [f"f{i}" for i in range(truth_ND.shape[1])]
    column, size = [("time_ms", 1000.0), ("timestamp", 1.0), ("time", 1000.0), ("Time", 1.0),
                    ("time_us", 1e6), ("seconds", 1.0)][int(rng.integers(6))]  # fmt: skip
    rows = [
        {column: f"{i / FPS * size:.6g}", **_cells(row, names)} for i, row in enumerate(truth_ND)
    ]
    return Case(truth_ND, np.ones(len(truth_ND), bool), rows, [*rows[0]], names)


def _spans(truth_ND: np.ndarray, rng: np.random.Generator) -> Case:
    names = [f"Loudness{i}" for i in range(truth_ND.shape[1])]
    rows = [
        {"file": "a.wav", "start": f"0 days 00:00:{i / FPS:09.6f}",
         "end": f"0 days 00:00:{(i + 1) / FPS:09.6f}", **_cells(row, names)}
        for i, row in enumerate(truth_ND)
    ]  # fmt: skip
    return Case(truth_ND, np.ones(len(truth_ND), bool), rows, [*rows[0]], names)


def _plain(truth_ND: np.ndarray, rng: np.random.Generator) -> Case:
    names = [f"x{i}" for i in range(truth_ND.shape[1])]
    rows = [_cells(row, names) for row in truth_ND]
    case = Case(truth_ND, np.ones(len(truth_ND), bool), rows, [*names], names)
    case.options = ",clock=frame"
    return case


TOOLS: dict[str, Callable[[np.ndarray, np.random.Generator], Case]] = {
    "openface": _openface, "pyfeat": _pyfeat, "timed": _timed, "spans": _spans, "plain": _plain,
}  # fmt: skip


def _names_frames(case: Case) -> bool:
    return ",clock=frame" not in case.options


def _rows_left_out(case: Case, rng: np.random.Generator) -> bool:
    """Leaves out rows where nothing was found."""
    if not _names_frames(case):
        return False
    count = len(case.rows)
    start = int(rng.integers(1, count // 2))
    gone = range(start, start + int(rng.integers(3, count // 3)))
    case.rows = [row for i, row in enumerate(case.rows) if i not in gone]
    case.valid_N[[i for i in gone if i < count]] = False
    return True


def _no_numbers(case: Case, rng: np.random.Generator) -> bool:
    """Writes rows without numbers, as tools of Windows, R and pandas do."""
    word = str(rng.choice(["-nan(ind)", "1.#QNAN", "NA", "#N/A", "", "nan", "NaN"]))
    for i in rng.choice(len(case.rows), size=5, replace=False):
        case.rows[i] = {**case.rows[i], **dict.fromkeys(case.features, word)}
        case.valid_N[int(case.rows[i][_FRAME])] = False
    return True


def _without_success(case: Case, rng: np.random.Generator) -> bool:
    if "success" not in case.names:
        return False
    words = ("True", "False") if rng.random() < 0.5 else ("1", "0")
    for row in case.rows:
        lost = bool(rng.random() < 0.15)
        row["success"] = words[lost]
        if lost:
            case.valid_N[int(row[_FRAME])] = False
    return True


def _delimiter(case: Case, rng: np.random.Generator) -> bool:
    case.delimiter = str(rng.choice([";", "\t"]))
    case.comma = bool(rng.random() < 0.5)
    if case.delimiter == "\t":
        case.ending = ".tsv"
    return True


def _encoding(case: Case, rng: np.random.Generator) -> bool:
    case.encoding = str(rng.choice(["utf-8-sig", "utf-16", "utf-16-le"]))
    return True


def _capitals(case: Case, rng: np.random.Generator) -> bool:
    change = {name: name if name in case.features else name.upper() for name in case.names}
    case.names = [change[name] for name in case.names]
    change[_FRAME] = _FRAME
    case.rows = [{change[name]: cell for name, cell in row.items()} for row in case.rows]
    return True


def _no_header(case: Case, rng: np.random.Generator) -> bool:
    if case.options == "":
        return False
    case.header = False
    return True


def _counter(case: Case, rng: np.random.Generator) -> bool:
    name = str(rng.choice(["Unnamed: 0", "index", "count_of_rows", "level_0"]))
    for i, row in enumerate(case.rows):
        row[name] = str(i)
    case.names.insert(0, name)
    return True


def _text(case: Case, rng: np.random.Generator) -> bool:
    for row in case.rows:
        row["mood"] = str(rng.choice(["happy", "sad", "so, so"]))
    case.names.append("mood")
    return True


def _empty_column(case: Case, rng: np.random.Generator) -> bool:
    for row in case.rows:
        row["gaze"] = ""
    case.names.append("gaze")
    return True


def _twice(case: Case, rng: np.random.Generator) -> bool:
    case.names.append(case.features[0])
    return True


def _other_face(case: Case, rng: np.random.Generator) -> bool:
    """Adds a second person to a third of the frames, before or after the first."""
    if "frame" not in case.names:
        return False
    rows = []
    for row in case.rows:
        other = {**row, **dict.fromkeys(case.features, "9.875")}
        if "face_id" in row:
            other["face_id"] = "1"
        else:
            other |= {"FaceRectX": "600"}
        pair = [row, other] if rng.random() < 0.5 else [other, row]
        rows += pair if rng.random() < 0.3 else [row]
    case.rows = rows
    return True


def _wall_clock(case: Case, rng: np.random.Generator) -> bool:
    name = next((n for n in case.names if n in ("timestamp", "seconds", "Time")), "")
    if not name or "success" in case.names:
        return False
    for row in case.rows:
        row[name] = f"{float(row[name]) + 1714564800:.3f}"
    return True


def _other_rate(case: Case, rng: np.random.Generator) -> bool:
    """Gives timestamps of another frame rate than --fps."""
    name = next((n for n in case.names if n == "timestamp"), "")
    if not name or "success" not in case.names:
        return False
    for row in case.rows:
        row[name] = f"{float(row[name]) * FPS / 30:.3f}"
    return True


def _comment(case: Case, rng: np.random.Generator) -> bool:
    case.before = "# written by a tool\n"
    return True


def _other_source(case: Case, rng: np.random.Generator) -> bool:
    name = next((n for n in case.names if n in ("input", "file")), "")
    if not name:
        return False
    for row in case.rows[len(case.rows) // 2 :]:
        row[name] = "another.mp4"
    return True


FAULTS: dict[str, Callable[[Case, np.random.Generator], bool]] = {
    "rows left out": _rows_left_out, "no numbers": _no_numbers, "success": _without_success,
    "delimiter": _delimiter, "encoding": _encoding, "capitals": _capitals,
    "no header": _no_header, "counter": _counter, "text": _text, "empty column": _empty_column,
    "column twice": _twice, "other face": _other_face, "wall clock": _wall_clock,
    "other rate": _other_rate, "comment": _comment, "other source": _other_source,
}  # fmt: skip


def write(case: Case, path: Path) -> None:
    """Writes the table of a case."""
    lines = [case.delimiter.join(_quoted(name, case) for name in case.names)] * case.header
    for row in case.rows:
        cells = [_number(row[name], case) for name in case.names]
        lines.append(case.delimiter.join(_quoted(cell, case) for cell in cells))
    text = case.before + "\n".join(lines) + "\n"
    path.write_bytes(text.encode(case.encoding))


def _number(cell: str, case: Case) -> str:
    is_number = case.comma and cell.replace(".", "", 1).lstrip("-").isdigit()
    return cell.replace(".", ",") if is_number else cell


def _quoted(cell: str, case: Case) -> str:
    return f'"{cell}"' if case.delimiter in cell else cell


def verdict(case: Case, folder: Path) -> str:
    """Imports a case: "right", "told", "refused" or "silent"; told and right is "right"."""
    (folder / "x").mkdir(parents=True)
    write(case, folder / f"x/clip{case.ending}")
    flag = f"x={folder / 'x'},modality=visual{case.options}"
    try:
        report = build(folder / "s", parse_features([flag]), fps=FPS, dtype="float32")
    except InputError:
        return "refused"
    record = Store(folder / "s").read(0)
    if arrived(case, record):
        return "right"
    return "told" if warnings_of(report) else "silent"


def arrived(case: Case, record: object) -> bool:
    """Returns True if a model reads the truth at every frame of the record, and nothing else."""
    frames = record.num_frames  # type: ignore[attr-defined]
    spec = WindowSpec(streams=("x",), tasks=(), window=frames, stride=frames)
    rows_ND, valid_N = rows_at(record, "x", spec, 0, frames)  # type: ignore[arg-type]
    wanted = int(np.flatnonzero(case.valid_N)[-1]) + 1
    if rows_ND.shape[1] != case.truth_ND.shape[1] or not wanted <= frames <= len(case.truth_ND):
        return False
    known_N = case.valid_N[:frames]
    # A row reaches as far as its step, so that a frame beside a gap may take its neighbour's.
    if not valid_N[known_N].all():
        return False
    extra_N = np.flatnonzero(valid_N & ~known_N)
    near = [known_N[max(i - 1, 0) : i + 2].any() for i in extra_N]
    same = np.allclose(rows_ND[known_N], case.truth_ND[:frames][known_N], atol=1e-5)
    return bool(same and all(near))


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.integer("cases", 1000, "Number of tables.", lower_bound=1)
    define.integer("first", 0, "Seed of the first.", lower_bound=0)


def main(given: flags.FlagValues) -> None:
    """Imports the tables, and prints verdicts by fault."""
    found: dict[str, collections.Counter[str]] = {}
    silent = []
    for seed in range(given.first, given.first + given.cases):
        case = make_case(seed)
        with tempfile.TemporaryDirectory() as folder:
            answer = verdict(case, Path(folder) / "case")
        for name in ("all", *case.faults):
            found.setdefault(name, collections.Counter())[answer] += 1
        if answer == "silent":
            silent.append((seed, case.faults))
    kinds = ("right", "told", "refused", "silent")
    cli.say(f"{'':16}" + "".join(f"{kind:>9}" for kind in kinds))
    for name, counts in found.items():
        cli.say(f"{name:16}" + "".join(f"{counts[kind]:>9}" for kind in kinds))
    for seed, faults in silent[:20]:
        cli.say(f"silent: seed {seed}: {', '.join(faults)}")


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
