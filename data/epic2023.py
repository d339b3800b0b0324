"""Builds a store from the EPiC-2023 / CASE export: physiology with continuous ratings.

    emojax epic2023 --source=FOLDER --out=stores/epic2023

30 people rated their own valence and arousal with a joystick (0.5 to 9.5) while watching eight
clips each; 50 s of every recording are given at 20 Hz, of which 33.6 s are labelled. Folds
``s2_0`` to ``s2_4`` hold out people, ``s3_0`` to ``s3_3`` an emotion quadrant and ``s4_0`` to
``s4_1`` a clip of each quadrant, with the frames that the challenge scores. A few people of the
training recordings validate. The arrays that say which clip was watched are not read, and no
model sees a recording's name, whose number is drawn, or its place in the store.

Sharma et al. 2019, Sci Data 6:196 (the recordings); Coles et al. 2025, R. Soc. Open Sci.
12(6):241778 (the challenge). See ``data.epic_features`` for what the streams hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.datasets.folds import Fold
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError
from emojax.ops.epic import SCENARIOS
from emojax.specs import STREAMS, TASKS

from .builder import define_export_flags, open_export, report_store, write_videos
from .epic_features import COLUMNS, SOURCE_WIDTHS, person_features
from .exported_arrays import NpzArrays

FILE = "epic_case_streams.npz"
_SCALE = (0.5, 9.5)  # of the joystick
_VALIDATION_SHARE = 6  # one training person of this many validates
_DESCRIPTION = (
    "EPiC-2023 / CASE: peripheral physiology with the person's own joystick ratings, 0.5 to 9.5 "
    "(Sharma et al. 2019, Sci Data 6:196; Coles et al. 2025, R. Soc. Open Sci. 12(6):241778). "
    "Features are relative to each person."
)


@dataclasses.dataclass(frozen=True)
class Export:
    """The checked arrays of the export; V recordings of N frames.

    Attributes:
        streams: stream -> (V, N, source width) float32.
        labels_VN2: valence and arousal, NaN where unlabelled.
        person_V: the person in each recording.
        test_fold: scenario -> (V,) the fold that tests on each recording.
        scored: scenario -> (start, stop), the frames that count.
        pts_N: seconds of each frame.
        sha256: the sha256 of the file.
    """

    streams: dict[str, np.ndarray]
    labels_VN2: np.ndarray
    person_V: np.ndarray
    test_fold: dict[str, np.ndarray]
    scored: dict[str, tuple[int, int]]
    pts_N: np.ndarray
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Returns a name for each recording: the person, and a number within the person.

        Numbers are drawn, because the export lists each person's clips in the same order.
        """
        names = np.empty(len(self.person_V), dtype=object)
        for person in np.unique(self.person_V):
            mine = np.flatnonzero(self.person_V == person)
            drawn = np.random.default_rng(int(person)).permutation(len(mine))
            names[mine] = [f"s{person:02d}_{number}" for number in drawn]
        return tuple(names)


def read_export(source: str | Path) -> Export:
    """Reads and checks the export.

    Args:
        source: the folder with the file, or the file.

    Raises:
        InputError: the file is missing or damaged, or one of its arrays is wrong; the field
            names the array.
    """
    arrays = open_export(source, FILE, "EPiC-2023 export")
    person_V = arrays.integers("subject", least=0, axes=1)
    count = len(person_V)
    people, recordings = np.unique(person_V, return_counts=True)
    if not count or recordings.min() < 2:
        raise arrays.error(
            "subject",
            "no recordings"
            if not count
            else f"one recording of person {people[recordings < 2][0]}",
            "at least two recordings of each person, for features are relative to the person",
        )
    pts_N = arrays.floats("time_s", (None,))
    frames = len(pts_N)
    if not np.isfinite(pts_N).all() or (np.diff(pts_N) <= 0).any():
        raise arrays.error("time_s", "times that do not increase", "increasing seconds")
    streams = {
        name: arrays.finite(name, (count, frames, width)) for name, width in SOURCE_WIDTHS.items()
    }
    labels_VN2 = _checked_labels(arrays, count, frames)
    test_fold, scored = {}, {}
    for scenario in SCENARIOS:
        test_fold[scenario] = _checked_folds(arrays, f"fold_{scenario}", person_V, scenario)
        scored[scenario] = _checked_window(arrays, f"window_{scenario}", labels_VN2)
    return Export(streams, labels_VN2, person_V, test_fold, scored, pts_N, arrays.sha256)


def make_folds(export: Export, seed: int = 0) -> list[Fold]:
    """Makes the official folds of all scenarios; one of six training people validates.

    Training and validation recordings are all that the fold does not test on; they are split by
    person, so that early stopping sees new people. In s3 and s4 everybody also has test
    recordings: there the held out quadrant or clip is what is new.

    Args:
        export: the data.
        seed: with the scenario and the fold it decides which people validate.

    Raises:
        InputError: a fold leaves fewer than two people to train and validate on.
    """
    names = np.array(export.names)
    folds = []
    for order, (scenario, test_V) in enumerate(export.test_fold.items()):
        for number in np.unique(test_V):
            fold = f"{scenario}_{number}"
            known_V = test_V != number
            people = np.unique(export.person_V[known_V])
            if len(people) < 2:
                raise InputError(
                    "A fold leaves too few people to train and validate on.",
                    field=f"fold {fold}",
                    found=len(people),
                    expected="at least 2",
                )
            rng = np.random.default_rng([seed, order, int(number)])
            chosen = rng.permutation(people)[: max(1, len(people) // _VALIDATION_SHARE)]
            validates_V = known_V & np.isin(export.person_V, chosen)
            folds.append(
                Fold(
                    name=fold,
                    train=tuple(str(name) for name in names[known_V & ~validates_V]),
                    validation=tuple(str(name) for name in names[validates_V]),
                    test=tuple(str(name) for name in names[~known_V]),
                    scored_frames=export.scored[scenario],
                )
            )
    return folds


def records(export: Export) -> Iterator[VideoRecord]:
    """Yields every recording with its features; folds keep a person's recordings together."""
    features = person_features(export.streams, export.person_V)
    ignore = np.float32(TASKS["va"].ignore)
    labels_VN2 = np.where(np.isnan(export.labels_VN2), ignore, export.labels_VN2)
    valid_N = np.ones(len(export.pts_N), bool)
    for number, name in enumerate(export.names):
        person = f"{export.person_V[number]:02d}"
        yield VideoRecord(
            name=name,
            source_video=f"s{person}",
            partition="train",  # the fold decides what a recording is for
            pts_N=export.pts_N,
            streams={
                stream: StreamRows(x_VND[number], export.pts_N, valid_N)
                for stream, x_VND in features.items()
            },
            labels={"va": labels_VN2[number].astype(np.float32)},
            attributes={"subject": person},
        )


def build(
    source: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Writes the store.

    Args:
        source: see ``read_export``.
        out: folder to create.
        seed: see ``make_folds``.
        overwrite: replace a store that is there already.
        say: called with lines of progress.

    Raises:
        InputError: see ``read_export``; or the target exists.
    """
    export = read_export(source)
    folds = make_folds(export, seed)
    writer = StoreWriter(
        out,
        name="epic2023",
        streams=[
            dataclasses.replace(STREAMS[stream], width=len(columns))
            for stream, columns in COLUMNS.items()
        ],
        tasks=["va"],
        description=_DESCRIPTION,
        builder={
            "command": "data.epic2023",
            "seed": seed,
            "columns": {stream: list(columns) for stream, columns in COLUMNS.items()},
            "scenarios": SCENARIOS,
        },
        sources={FILE: export.sha256},
        overwrite=overwrite,
    )
    write_videos(writer, records(export), folds)
    say(
        f"{len(export.person_V)} recordings of {len(np.unique(export.person_V))} people, "
        f"{len(folds)} folds: {', '.join(fold.name for fold in folds)}"
    )


def _checked_labels(arrays: NpzArrays, count: int, frames: int) -> np.ndarray:
    labels_VN2 = arrays.floats("va", (count, frames, 2))
    mask_VN = arrays.booleans("label_mask", (count, frames))
    known_VN2 = ~np.isnan(labels_VN2)
    if (known_VN2 != mask_VN[..., None]).any():
        v, n, _ = np.argwhere(known_VN2 != mask_VN[..., None])[0]
        raise arrays.error(
            "va",
            f"recording {v}, frame {n}: {labels_VN2[v, n]}, label_mask {mask_VN[v, n]}",
            "NaN exactly where label_mask is False",
        )
    given = labels_VN2[known_VN2]
    wrong = given[~((given >= _SCALE[0]) & (given <= _SCALE[1]))]
    if wrong.size:
        raise arrays.error("va", wrong[0], f"ratings from {_SCALE[0]} to {_SCALE[1]}")
    return labels_VN2


def _checked_folds(arrays: NpzArrays, name: str, person_V: np.ndarray, scenario: str) -> np.ndarray:
    fold_V = arrays.integers(name, least=0, axes=1)
    if fold_V.shape != person_V.shape:
        raise arrays.error(name, fold_V.shape, person_V.shape)
    if len(np.unique(fold_V)) < 2:
        raise arrays.error(name, "one fold", "at least two")
    # Scenario 2 tests on people who are not in training.
    if scenario == "s2":
        for person in np.unique(person_V):
            if len(np.unique(fold_V[person_V == person])) > 1:
                raise arrays.error(
                    name, f"person {person} in several folds", "each person in one fold"
                )
    return fold_V


def _checked_window(arrays: NpzArrays, name: str, labels_VN2: np.ndarray) -> tuple[int, int]:
    bounds = arrays.integers(name, least=0, axes=1)
    frames = labels_VN2.shape[1]
    if bounds.shape != (2,) or not bounds[0] < bounds[1] <= frames:
        raise arrays.error(name, bounds.tolist(), f"(start, stop) within {frames} frames")
    start, stop = int(bounds[0]), int(bounds[1])
    if np.isnan(labels_VN2[:, start:stop]).any():
        raise arrays.error(name, (start, stop), "frames that are labelled in every recording")
    return start, stop


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define_export_flags(define, FILE, "Decides which training people validate.")


def main(given: flags.FlagValues) -> None:
    """Builds the store that the flags describe."""
    build(given.source, given.out, seed=given.seed, overwrite=given.overwrite, say=cli.say)
    report_store(given.out)


COMMAND = cli.Command(main, define_flags, summary="data.epic2023")

if __name__ == "__main__":
    COMMAND.run()
