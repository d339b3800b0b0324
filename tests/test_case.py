"""The builder of the public CASE release, on small files of exactly its form."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import case_physiology
from data.case import CLIPS, PEOPLE, Protocol, build, read_release
from data.case_files import Cut, find_files, read_person
from data.case_physiology import Events, Signals, frame_means, muscle_envelope, source_streams
from data.epic2023 import FILE, read_export
from data.epic_features import COLUMNS, SOURCE_WIDTHS
from emojax.datasets.source import Store
from emojax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/data/epic2023_case"
PHYSIOLOGY = "daqtime,ecg,bvp,gsr,rsp,skt,emg_zygo,emg_coru,emg_trap,video"
RATINGS = "jstime,valence,arousal,video"
CUT = Cut(start_ms=100, frames=21)
SMALL = Protocol(
    cut=CUT,
    labelled=(3, 18),
    scored={"s2": (8, 18), "s3": (5, 15), "s4": (3, 13)},
    people=((2, 5), (3,), (1,), (4,), (6,)),
)
CLIP_MS, BETWEEN_MS = 1170, 33  # clips start between two ratings, as they do in the release


def screen(person: int) -> np.ndarray:
    """What is shown at each millisecond: start, clips in an own order with blue between, end."""
    order = np.random.default_rng(person).permutation(np.arange(1, 9))
    parts = [np.full(BETWEEN_MS, 10)]
    for clip in order:
        parts += [np.full(CLIP_MS, clip), np.full(BETWEEN_MS, 11)]
    return np.concatenate([*parts, np.full(BETWEEN_MS, 12)])


def person_columns(person: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the two files. Beats come every 200 + 10 clip ms; pulses 150 ms later."""
    rng = np.random.default_rng(100 + person)
    video = screen(person)
    time = np.arange(len(video))
    signals = rng.normal(size=(len(video), 8)).round(3)
    signals[:, :2] = 0.0
    for clip in range(1, 9):
        rows = np.flatnonzero(video == clip)
        signals[rows[:: 200 + 10 * clip], 0] = 1.0
        signals[rows[150 :: 200 + 10 * clip], 1] = 1.0
    signals[:, 2] = (5 + person + np.sin(time / 300)).round(3)
    signals[:, 3] = (time % 400 == 0).astype(float)
    signals[:, 4] = (30 + 0.1 * video).round(3)
    ticks = time[::50]
    # The integer part of a rating tells the clip, and the fraction when it was given.
    va = np.stack([1.0 + 0.5 * video[::50] + ticks / 1e5, 9.0 - 0.5 * video[::50]], axis=1)
    return (
        np.column_stack([time, signals, video]),
        np.column_stack([ticks, np.clip(va, 0.5, 9.5).round(3), video[::50]]),
    )


def text(header: str, columns: np.ndarray) -> str:
    lines = [",".join(f"{cell:.15g}" for cell in row) for row in columns.tolist()]
    return "\n".join([header, *lines, ""])


def write_person(folder: Path, person: int) -> None:
    for name, header, columns in zip(
        ("physiological", "annotations"), (PHYSIOLOGY, RATINGS), person_columns(person), strict=True
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"sub_{person}.csv").write_text(text(header, columns))


def find_impulses(signals: Signals) -> Events:
    """Stands in for NeuroKit2: events are samples of one."""

    def ones(name: str) -> np.ndarray:
        return np.flatnonzero(signals[name] == 1.0) / 1000.0

    tonic_N = frame_means(signals["gsr"])
    return Events(ones("ecg"), ones("bvp"), ones("rsp"), np.zeros_like(tonic_N), tonic_N)


def silent(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("case")
    for person in range(1, 7):
        write_person(folder / "data/interpolated", person)
    return folder


@pytest.fixture(scope="module")
def store(release: Path) -> Store:
    out = release / "store"
    build(release, out, say=silent, find_events=find_impulses, protocol=SMALL)
    return Store(out)


# -- reading -------------------------------------------------------------------------------


def test_cut_counts_from_the_first_rating_of_the_clip(release: Path) -> None:
    (files,) = find_files(release, [3])
    recordings = read_person(files, CUT)
    assert [recording.clip for recording in recordings] == list(range(1, 9))
    physiology, ratings = person_columns(3)
    for recording in recordings:
        origin = ratings[ratings[:, 3] == recording.clip][0, 0]
        assert origin >= np.flatnonzero(physiology[:, -1] == recording.clip)[0]
        start = int(origin) + 100
        np.testing.assert_array_equal(
            recording.ratings_N2, ratings[start // 50 : start // 50 + 21, 1:3]
        )
        for column, name in enumerate(PHYSIOLOGY.split(",")[1:-1], 1):
            np.testing.assert_array_equal(
                recording.signals[name], physiology[start : start + 1001, column]
            )


@pytest.mark.parametrize("below", [".", "data", "data/interpolated"])
def test_folder_may_be_given_at_any_level(release: Path, below: str) -> None:
    assert len(find_files(release / below, range(1, 7))) == 6


def test_columns_go_by_name(release: Path, tmp_path: Path) -> None:
    physiology, ratings = person_columns(1)
    names = np.array(PHYSIOLOGY.split(","))
    order = np.arange(len(names))[::-1]
    for name, header, columns in (
        ("physiological", ",".join(f' "{n}"' for n in names[order]), physiology[:, order]),
        ("annotations", "\ufeff" + RATINGS + ",note", np.column_stack([ratings, ratings[:, 0]])),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sub_1.csv").write_text(text(header, columns), encoding="utf-8")
    (own,), (plain,) = find_files(tmp_path, [1]), find_files(release, [1])
    for a, b in zip(read_person(own, CUT), read_person(plain, CUT), strict=True):
        np.testing.assert_array_equal(a.ratings_N2, b.ratings_N2)
        for signal, values in a.signals.items():
            np.testing.assert_array_equal(values, b.signals[signal])


def test_absent_files_are_named(release: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there") as caught:
        find_files(tmp_path / "nowhere", [1])
    assert "figshare" in caught.value.details["remedy"]
    (tmp_path / "data/raw").mkdir(parents=True)
    with pytest.raises(InputError, match="not there"):
        find_files(tmp_path, [1])
    with pytest.raises(InputError, match="missing") as caught:
        find_files(release, range(1, 31))
    assert caught.value.details["found"].startswith("48 missing: physiological/sub_7.csv")


Change = Callable[[list[str]], list[str]]


def cell(row: int, column: int, value: str) -> Change:
    """Changes one cell of the text; the header is row 0."""

    def change(lines: list[str]) -> list[str]:
        cells = lines[row].split(",")
        cells[column] = value
        return [*lines[:row], ",".join(cells), *lines[row + 1 :]]

    return change


def renumbered(old: int, new: int) -> Change:
    return lambda lines: [re.sub(rf",{old}$", f",{new}", line) for line in lines]


def halved(lines: list[str]) -> list[str]:
    return lines[: len(lines) // 2]


def broken_line(lines: list[str]) -> list[str]:
    return [*lines[:5000], "5000,0.1,0.2"]


def without_rows(start: int, stop: int) -> Change:
    return lambda lines: lines[:start] + lines[stop:]


MIDDLE = BETWEEN_MS + 600  # a row within the cut of the first clip
# fault -> (file, words of the field, change)
FAULTS: dict[str, tuple[str, str, Change]] = {
    "column missing": ("physiological", "emg_coru", cell(0, 7, "emg")),
    "column twice": ("annotations", "valence, arousal", cell(0, 2, "valence")),
    "no header": ("annotations", "jstime", lambda lines: lines[1:]),
    "empty": ("physiological", "daqtime", lambda lines: []),
    "header alone": ("annotations", "rows", lambda lines: lines[:1]),
    "no number": ("physiological", "rows", cell(7, 3, "abc")),
    "empty cell": ("physiological", "rows", cell(7, 3, "")),
    "cut off within a line": ("physiological", "rows", broken_line),
    "physiology cut off": ("physiological", "daqtime", halved),
    "ratings cut off": ("annotations", "jstime", halved),
    "clock goes back": ("physiological", "daqtime", cell(MIDDLE, 0, "3")),
    "clock stands": ("annotations", "jstime", cell(5, 0, "150")),
    "clock is not a number": ("annotations", "jstime", cell(5, 0, "nan")),
    "sample missing": ("physiological", "daqtime", without_rows(MIDDLE, MIDDLE + 1)),
    "clock not whole": ("physiological", "daqtime", cell(MIDDLE, 0, f"{MIDDLE - 1}.4")),
    "rating missing": ("annotations", "jstime", without_rows(10, 11)),
    "no such video": ("physiological", "video", cell(3, 9, "0")),
    "video above all": ("annotations", "video", cell(3, 3, "13")),
    "video not whole": ("physiological", "video", cell(3, 9, "1.5")),
    "clip missing": ("physiological", "video", renumbered(4, 11)),
    "clip twice": ("physiological", "video", renumbered(11, 4)),
    "clips swapped": ("annotations", "video", lambda lines: renumbered(9, 5)(
        renumbered(5, 6)(renumbered(6, 9)(lines)))),
    "rating off the scale": ("annotations", "valence, arousal", cell(10, 1, "9.7")),
    "rating not given": ("annotations", "arousal", cell(10, 2, "nan")),
    "signal not finite": ("physiological", "skt", cell(MIDDLE, 5, "inf")),
}  # fmt: skip


@pytest.fixture(scope="module")
def lines() -> dict[str, list[str]]:
    physiology, ratings = person_columns(1)
    return {
        "physiological": text(PHYSIOLOGY, physiology).splitlines(),
        "annotations": text(RATINGS, ratings).splitlines(),
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_files_are_named(fault: str, lines: dict[str, list[str]], tmp_path: Path) -> None:
    kind, field, change = FAULTS[fault]
    for name, good in lines.items():
        (tmp_path / name).mkdir()
        content = change(good) if name == kind else good
        (tmp_path / name / "sub_1.csv").write_text("\n".join(content))
    (files,) = find_files(tmp_path, [1])
    with pytest.raises(InputError) as caught:
        read_person(files, CUT)
    assert caught.value.details["field"].startswith(field)
    assert kind in caught.value.details["file"]
    assert {"found", "expected", "remedy"} <= caught.value.details.keys()


def test_binary_file_is_named(lines: dict[str, list[str]], tmp_path: Path) -> None:
    for name, good in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "sub_1.csv").write_text("\n".join(good))
    (tmp_path / "annotations/sub_1.csv").write_bytes(b"PK\x03\x04\xff\xfe\x80")
    (files,) = find_files(tmp_path, [1])
    with pytest.raises(InputError):
        read_person(files, CUT)


def test_clip_too_short_for_the_cut_is_told(release: Path) -> None:
    (files,) = find_files(release, [1])
    with pytest.raises(InputError) as caught:
        read_person(files, Cut(start_ms=200, frames=21))
    assert "at least 1.2" in caught.value.details["expected"]


# -- signals to streams --------------------------------------------------------------------


def test_streams_have_the_columns_of_the_export(release: Path) -> None:
    (files,) = find_files(release, [2])
    for recording in read_person(files, CUT):
        events = find_impulses(recording.signals)
        streams = source_streams(recording.signals, events)
        assert {name: x.shape for name, x in streams.items()} == {
            name: (21, width) for name, width in SOURCE_WIDTHS.items()
        }
        period = 0.2 + 0.01 * recording.clip
        np.testing.assert_allclose(streams["cardiac"][:, 0], 60 / period, rtol=1e-5)
        np.testing.assert_allclose(streams["cardiac"][:, 1], 0.15, rtol=1e-5)
        np.testing.assert_allclose(streams["resp"], 150.0, rtol=1e-5)
        np.testing.assert_allclose(streams["temp"], 30 + 0.1 * recording.clip, rtol=1e-5)
        order = [f"emg_{name}" for name in ("trap", "zygo", "coru")]
        for column, name in enumerate(order):
            wanted = muscle_envelope(recording.signals[name])
            np.testing.assert_allclose(streams["emg"][:, column], wanted, rtol=1e-5)


# -- the store -----------------------------------------------------------------------------


def test_store_holds_every_recording(store: Store) -> None:
    assert len(store.videos) == 6 * 8
    assert {name: spec.width for name, spec in store.streams.items()} == {
        name: len(columns) for name, columns in COLUMNS.items()
    }
    for i, video in enumerate(store.videos):
        record = store.read(i)
        np.testing.assert_allclose(record.pts_N, np.arange(21) / 20.0)
        labels = record.labels["va"]
        assert (labels[3:18] >= 0.5).all()
        assert (np.delete(labels, np.r_[3:18], axis=0) == -5).all()
        assert record.attributes == {"subject": video.source_video[1:]}
        for rows in record.streams.values():
            assert np.isfinite(rows.rows_ND).all()


def test_folds_test_the_people_and_clips_of_the_protocol(store: Store) -> None:
    clip_of = {}
    for i, video in enumerate(store.videos):
        # Arousal is 9 less half the clip's number.
        clip_of[video.name] = round(2 * (9 - float(store.read(i).labels["va"][5, 1])))
    person_of = {video.name: int(video.source_video[1:]) for video in store.videos}
    assert len(store.folds) == 5 + 4 + 2
    for name, fold in store.folds.items():
        scenario, number = name.split("_")
        of, wanted = (
            (person_of, SMALL.people[int(number)])
            if scenario == "s2"
            else (clip_of, CLIPS[scenario][int(number)])
        )
        assert set(fold.test) == {video for video, value in of.items() if value in wanted}
        assert fold.scored_frames is not None
        assert tuple(fold.scored_frames) == SMALL.scored[scenario]
        assert {*fold.train, *fold.validation, *fold.test} == set(person_of)


def test_official_people_are_dealt_as_the_preparation_code_deals() -> None:
    drawn = np.arange(1, 31)
    np.random.RandomState(2022).shuffle(drawn)
    assert tuple(tuple(sorted(fold.tolist())) for fold in np.split(drawn, 5)) == PEOPLE


def test_sensor_without_events_becomes_neutral(release: Path, tmp_path: Path) -> None:
    calls = []

    def find(signals: Signals) -> Events:
        calls.append(1)
        events = find_impulses(signals)
        if len(calls) == 3:  # person 1, clip 3
            return Events(
                np.zeros(0), events.pulses, events.breaths, events.phasic_N, events.tonic_N
            )
        return events

    said: list[str] = []
    export, digests = read_release(release, find, SMALL, said.append)
    cardiac_RN2 = export.streams["cardiac"][:8]
    np.testing.assert_array_equal(
        cardiac_RN2[2, :, 0], np.median(cardiac_RN2[[0, 1, 3, 4, 5, 6, 7], :, 0])
    )
    assert any("person 1, cardiac, column 0: no events in clips [3]" in line for line in said)
    assert len(digests) == 12
    assert set(digests) >= {"physiological/sub_1.csv", "annotations/sub_6.csv"}

    def deaf(signals: Signals) -> Events:
        events = find_impulses(signals)
        return Events(events.beats, events.pulses, np.zeros(0), events.phasic_N, events.tonic_N)

    with pytest.raises(InputError, match="no event in any clip") as caught:
        build(release, tmp_path / "store", say=silent, find_events=deaf, protocol=SMALL)
    assert "resp" in caught.value.details["field"]
    assert not (tmp_path / "store").exists()


def test_without_neurokit_the_error_says_how_to_install_it(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def absent(name: str) -> object:
        if name in ("neurokit2", "cvxopt"):
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(case_physiology.importlib, "import_module", absent)
    with pytest.raises(InputError) as caught:
        build(release, tmp_path / "store", say=silent, protocol=SMALL)
    assert "pip install" in caught.value.details["remedy"]
    assert "physiology" in caught.value.details["remedy"]


def test_command_tells_bad_input_in_one_screen(tmp_path: Path) -> None:
    # A stand-in for the optional packages: the folder is looked at after they are found.
    for name in ("neurokit2", "cvxopt"):
        (tmp_path / f"{name}.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy; " + (
        "runpy.run_module('data.case', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"--source={tmp_path}", f"--out={tmp_path / 'out'}"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "The CASE release is not there." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not (REAL / FILE).is_file(), reason=f"the EPiC-2023 export is not at {REAL}")
def test_protocol_is_that_of_the_real_export() -> None:
    export, protocol = read_export(REAL), Protocol()
    assert export.scored == protocol.scored
    for fold, people in enumerate(PEOPLE):
        assert set(export.person_V[export.test_fold["s2"] == fold].tolist()) == set(people)
    clip_V = np.tile(np.arange(1, 9), 30)
    for scenario, folds in CLIPS.items():
        for fold, clips in enumerate(folds):
            assert set(clip_V[export.test_fold[scenario] == fold].tolist()) == set(clips)
    np.testing.assert_allclose(export.pts_N, np.arange(protocol.cut.frames) / 20.0)
    labelled = np.flatnonzero(~np.isnan(export.labels_VN2[0, :, 0]))
    assert (labelled[0], labelled[-1] + 1) == protocol.labelled
