"""Builds the EPiC-2023 store from the public CASE release, which the challenge was cut from.

    pip install ".[physiology]"
    python -m data.case --source=FOLDER --out=stores/case
    python -m emojax.epic2023 --store=stores/case --workdir=RUN

The store is that of ``data.epic2023``, whose export is not public: the same 240 recordings (50 s,
68.6 s after a clip's first rating), labelled frames, names, people and folds, and the same
features of ``data.epic_features``, but with events found by NeuroKit2, see
``data.case_physiology``, so scores will differ from those of the export. We had no copy of the
release: the builder is tested on files of its documented form, and no score on it is stated.

Folds. EPiC's public preparation code deals people into five folds by scikit-learn's ``KFold``
with shuffling and random state 2022 (scenario 2), and lists the clips of each fold of scenarios 3
and 4. ``PEOPLE`` and ``CLIPS`` below are what comes out; they are the folds of the export.
Scenario 1 (later parts of the same recordings) has no folds of recordings and is left out, as it
is there.

Sharma et al. 2019, Sci Data 6:196 (the recordings; README files of the release for columns and
units); Coles et al. 2025, R. Soc. Open Sci. 12(6):241778 (the challenge); public repository
EPiC-2023/EPiC-2023-data-preparation (times and folds). Terms: the release is
doi:10.6084/m9.figshare.8869157. We could not read its licence there; a public loader of it
states CC0 1.0. See that page before passing anything on, and cite both papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from data.case_files import CLIPS as ALL_CLIPS
from data.case_files import FRAME_MS, Cut, PersonFiles, find_files, read_person, sha256
from data.case_physiology import EventFinder, neurokit_finder, source_streams
from data.epic2023 import Export, write_store
from data.epic_features import SOURCE_WIDTHS
from emojax.commands import cli
from emojax.datasets.store import store_facts
from emojax.errors import InputError

# Scenario 2: the people that each fold tests on.
PEOPLE = (
    (5, 8, 13, 15, 21, 28),
    (3, 6, 11, 16, 20, 22),
    (1, 4, 7, 9, 23, 25),
    (2, 10, 12, 19, 24, 27),
    (14, 17, 18, 26, 29, 30),
)
# Scenarios 3 and 4: the clips that each fold tests on. 1, 2 amuse, 3, 4 bore, 5, 6 relax, 7, 8
# scare.
CLIPS = {
    "s3": ((7, 8), (1, 2), (3, 4), (5, 6)),
    "s4": ((2, 4, 6, 8), (1, 3, 5, 7)),
}
_TERMS = {
    "recordings": "doi:10.6084/m9.figshare.8869157; its licence was not readable to us, a public "
    "loader of it states CC0 1.0: see the page",
    "protocol": "EPiC-2023/EPiC-2023-data-preparation, public, without a licence file",
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the challenge uses the release; the defaults are EPiC-2023's.

    Attributes:
        cut: the part of every clip that is taken.
        labelled: (start, stop) frames with ratings: what the tests of the three scenarios rate.
        scored: scenario -> (start, stop) frames that count.
        people: scenario 2, fold -> the people that it tests on.
    """

    cut: Cut = dataclasses.field(default_factory=Cut)
    labelled: tuple[int, int] = (128, 801)
    scored: dict[str, tuple[int, int]] = dataclasses.field(
        default_factory=lambda: {"s2": (200, 801), "s3": (168, 769), "s4": (128, 729)}
    )
    people: tuple[tuple[int, ...], ...] = PEOPLE


def read_release(
    source: str | Path,
    find_events: EventFinder,
    protocol: Protocol | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Export, dict[str, str]]:
    """Reads all people's files into the form of the export.

    Args:
        source: see ``data.case_files.find_files``.
        find_events: finds heartbeats and the like in a recording's signals.
        protocol: of the challenge by default.
        say: takes lines of progress, and says where a sensor showed nothing.

    Returns:
        the recordings, by person and clip; and the sha256 of every file.

    Raises:
        InputError: files are missing or malformed, or a sensor shows nothing in any of a
            person's recordings.
    """
    protocol = protocol or Protocol()
    people = sorted(person for fold in protocol.people for person in fold)
    found = find_files(source, people)
    streams: dict[str, list[np.ndarray]] = {name: [] for name in SOURCE_WIDTHS}
    ratings = []
    for number, files in enumerate(found, 1):
        recordings = read_person(files, protocol.cut)
        own = [source_streams(r.signals, find_events(r.signals)) for r in recordings]
        for name, parts in streams.items():
            parts.append(_filled(np.stack([x[name] for x in own]), name, files, say))
        ratings += [recording.ratings_N2 for recording in recordings]
        say(f"person {files.person}: {number} of {len(found)}")
    labels_VN2 = np.full((len(ratings), protocol.cut.frames, 2), np.nan, np.float32)
    labelled = slice(*protocol.labelled)
    labels_VN2[:, labelled] = np.stack(ratings)[:, labelled]
    person_V = np.repeat(np.asarray(people, np.int64), len(ALL_CLIPS))
    clip_V = np.tile(np.asarray(ALL_CLIPS, np.int64), len(people))
    test_fold = {"s2": _fold_of(person_V, protocol.people)}
    test_fold |= {scenario: _fold_of(clip_V, folds) for scenario, folds in CLIPS.items()}
    digests = {
        f"{path.parent.name}/{path.name}": sha256(path)
        for files in found
        for path in (files.physiology, files.ratings)
    }
    export = Export(
        streams={name: np.concatenate(parts) for name, parts in streams.items()},
        labels_VN2=labels_VN2,
        person_V=person_V,
        test_fold=test_fold,
        scored=protocol.scored,
        pts_N=np.arange(protocol.cut.frames) * (FRAME_MS / 1000.0),
        sha256="",  # of one file; here every file has its own
    )
    return export, digests


def build(
    source: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    find_events: EventFinder | None = None,
    protocol: Protocol | None = None,
) -> None:
    """Writes the store.

    Args:
        source: see ``read_release``.
        out: folder to create.
        seed: decides which training people validate, see ``data.epic2023.make_folds``.
        overwrite: replace a store that is there already.
        say: takes lines of progress.
        find_events: NeuroKit2 by default.
        protocol: see ``read_release``.

    Raises:
        InputError: see ``read_release``; NeuroKit2 is not installed; or the target exists.
    """
    find_events = find_events or neurokit_finder()
    export, digests = read_release(source, find_events, protocol, say)
    write_store(
        out,
        export,
        name="case",
        description="CASE (Sharma et al. 2019, Sci Data 6:196), cut as in EPiC-2023 (Coles et al. "
        "2025, R. Soc. Open Sci. 12(6):241778): peripheral physiology with the person's own "
        "joystick ratings, 0.5 to 9.5. Features are relative to each person.",
        builder={"command": "data.case", "terms": _TERMS},
        sources=digests,
        seed=seed,
        overwrite=overwrite,
        say=say,
    )


def _fold_of(number_V: np.ndarray, folds: Sequence[Sequence[int]]) -> np.ndarray:
    """(V,) the fold that lists each recording's person or clip."""
    of = {number: fold for fold, numbers in enumerate(folds) for number in numbers}
    return np.asarray([of[int(number)] for number in number_V], np.int64)


def _filled(
    x_RND: np.ndarray, stream: str, files: PersonFiles, say: Callable[[str], None]
) -> np.ndarray:
    """A column without events gets the person's median, which is neutral among their features."""
    lost_RD = np.isnan(x_RND).any(axis=1)
    for column in np.flatnonzero(lost_RD.any(axis=0)):
        lost_R = lost_RD[:, column]
        clips = [ALL_CLIPS[r] for r in np.flatnonzero(lost_R)]
        if lost_R.all():
            raise InputError(
                "A sensor shows no event in any clip of a person.",
                file=files.physiology,
                field=f"stream {stream}, column {column}",
                found="no usable peaks",
                expected="heartbeats, pulses and breaths in at least one clip",
                remedy="copy the file again, and compare the README beside it for the units",
            )
        say(f"person {files.person}, {stream}, column {column}: no events in clips {clips}")
        x_RND[lost_R, :, column] = np.median(x_RND[~lost_R, :, column])
    return x_RND


def _define_flags() -> None:
    """Not at import, so that builders can be imported side by side."""
    about = "Folder of the unpacked CASE release, or its data/interpolated."
    flags.DEFINE_string("source", None, about, required=True)
    flags.DEFINE_string("out", None, "Folder of the store to build.", required=True)
    flags.DEFINE_integer("seed", 0, "Decides which training people validate.")
    flags.DEFINE_boolean("overwrite", False, "Replace a store that is there already.")


def main() -> None:
    """Builds the store that the flags describe."""
    given = flags.FLAGS
    build(given.source, given.out, seed=given.seed, overwrite=given.overwrite, say=cli.say)
    cli.tell(**store_facts(given.out))
    cli.say(f"store: {given.out}")


if __name__ == "__main__":
    _define_flags()
    cli.run(main, summary="data.case")
