"""Labels of one's own: every form gives the labels of each frame, or is refused or told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pympi
import pytest

from data.features.feature_sources import parse_features
from data.import_features import build
from data.import_report import ImportedStream, warnings_of
from data.labels.elan import read_eaf
from data.labels.label_source import open_labels
from emojax.datasets.source import Store
from emojax.ops.own_tasks import declare_task, described_tasks
from emojax.specs import TASKS, TaskSpec
from tests.refusals import refused
from tests.registering import own_tasks_forgotten

FPS, FRAMES = 25.0, 50
VIDEOS = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _forgotten_tasks() -> Iterator[None]:
    with own_tasks_forgotten():
        yield


def features(folder: Path, videos: tuple[str, ...] = VIDEOS) -> list[str]:
    rng = np.random.default_rng(0)
    (folder / "x").mkdir(parents=True, exist_ok=True)
    for video in videos:
        np.save(folder / f"x/{video}.npy", rng.normal(size=(FRAMES, 3)))
    return [f"x={folder / 'x'},clock=frame,modality=visual"]


def store_of(folder: Path, *labels: str, **options: object) -> tuple[Store, list[ImportedStream]]:
    sources = parse_features(features(folder))
    found = build(
        folder / "store", sources, fps=FPS, labels=open_labels(labels), overwrite=True, **options
    )
    return Store(folder / "store", verify="all"), found


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


TRUTH = np.round(np.sin(np.arange(FRAMES)[:, None] / [5.0, 7.0]), 3)


def _frames(folder: Path) -> str:
    lines = [f"{i},{v},{a}" for i, (v, a) in enumerate(TRUTH)]
    text(folder / "l/a.csv", "\n".join(["frame,valence,arousal", *lines]))
    return f"va={folder / 'l'}"


def _times(folder: Path) -> str:
    lines = [f"{i * 40},{v},{a}" for i, (v, a) in enumerate(TRUTH)]
    text(folder / "l/a.csv", "\n".join(["time_ms,Valence,Arousal", *lines]))
    return f"va={folder / 'l'}"


def _one_table(folder: Path) -> str:
    lines = [f"clips/a.mp4;{i + 1};{v};{a}".replace(".", ",") for i, (v, a) in enumerate(TRUTH)]
    lines = [line.replace("clips/a,mp4", "clips/a.mp4") for line in lines]
    text(folder / "all.csv", "\n".join(["video;frame;v;a", *lines]))
    return f"va={folder / 'all.csv'},column=v+a,first=1"


def _aff_wild2(folder: Path) -> str:
    lines = [f"{v},{a}" for v, a in TRUTH]
    text(folder / "l/a.txt", "\n".join(["valence,arousal", *lines]))
    return f"va={folder / 'l'}"


def _swapped(folder: Path) -> str:
    lines = [f"{a},{v}" for v, a in TRUTH]
    text(folder / "l/a.txt", "\n".join(["arousal,valence", *lines]))
    return f"va={folder / 'l'}"


def _parquet(folder: Path) -> str:
    (folder / "l").mkdir()
    table = pd.DataFrame(TRUTH * 4 + 5, columns=["valence", "arousal"])
    table.insert(0, "frame", np.arange(FRAMES))
    table.to_parquet(folder / "l/a.parquet")
    return f"va={folder / 'l'},range=1:9"


@pytest.mark.parametrize("write", [_frames, _times, _one_table, _aff_wild2, _swapped, _parquet])
def test_every_form_gives_the_same_labels(write: object, tmp_path: Path) -> None:
    store, _ = store_of(tmp_path, write(tmp_path))  # type: ignore[operator]
    np.testing.assert_allclose(store.read(0).labels["va"], TRUTH, atol=1e-6)
    assert "va" not in store.read(1).labels
    assert store.partitions == {"train": ("a",), "validation": (), "test": ("b", "c", "d")}


def test_segments_and_recordings(tmp_path: Path) -> None:
    lines = ["start,end,emotion", "0.4,0.8,happy", "0.8,1.2,sad", "1.6,1.8,other thing"]
    text(tmp_path / "l/a.csv", "\n".join(lines))
    flag = f"expr={tmp_path / 'l'},map=happy:Happiness+sad:Sadness+other thing:-"
    store, _ = store_of(tmp_path, flag)
    expected = np.full(FRAMES, -1.0)
    expected[10:20], expected[20:30] = 4, 5
    np.testing.assert_array_equal(store.read(0).labels["expr"][:, 0], expected)
    text(tmp_path / "whole.csv", "clip,label\na.mp4,Anger\nb.mp4,2\nc.mp4,\n")
    store, report = store_of(tmp_path, f"expr={tmp_path / 'whole.csv'}")
    labels = [store.read(i).labels.get("expr") for i in range(4)]
    assert [np.unique(of).tolist() for of in labels if of is not None] == [[1], [2], [-1]]
    assert labels[3] is None
    told = warnings_of(report)
    assert any("no frame is annotated" in line and "c" in line for line in told)
    assert any("no labels" in line and "d" in line for line in told)


def test_units_of_labels_are_told_proven_or_asked_for(tmp_path: Path) -> None:
    for size, steps in ((1000, 1), (1, 1)):
        lines = [f"{i / FPS * size:.6g},{v},{a}" for i, (v, a) in enumerate(TRUTH)][::steps]
        text(tmp_path / "l/a.csv", "\n".join(["time,valence,arousal", *lines]))
        store, _ = store_of(tmp_path, f"va={tmp_path / 'l'}")
        np.testing.assert_allclose(store.read(0).labels["va"], TRUTH, atol=1e-6)
    # Segments' unit is proven by the length of the video.
    for size in (1, 1000, 10**6):
        text(tmp_path / "l/a.csv", f"start,end,label\n{0.4 * size},{1.9 * size},Fear\n")
        store, _ = store_of(tmp_path, f"expr={tmp_path / 'l'}")
        assert (store.read(0).labels["expr"][10:48] == 3).all()
    text(tmp_path / "l/a.csv", "start,end,label\n0.001,0.01,Fear\n")
    with refused(field="times", remedy="unit="):
        store_of(tmp_path, f"expr={tmp_path / 'l'}")


def test_units_are_read_as_people_mark_them(tmp_path: Path) -> None:
    names = [f"AU{int(label[2:]):02d}_c" for label in TASKS["au"].labels]
    rows = [[i, *((i >> k) & 1 for k in range(12))] for i in range(FRAMES)]
    text(
        tmp_path / "l/a.csv",
        "\n".join(",".join(map(str, row)) for row in [["frame", *names], *rows]),
    )
    store, _ = store_of(tmp_path, f"au={tmp_path / 'l'}")
    np.testing.assert_array_equal(store.read(0).labels["au"], np.array(rows)[:, 1:])
    values = [[i, *((i + k) % 6 for k in range(12))] for i in range(FRAMES)]
    text(
        tmp_path / "l/a.csv",
        "\n".join(",".join(map(str, row)) for row in [["frame", *names], *values]),
    )
    with refused(found="'2'", remedy="threshold="):
        store_of(tmp_path, f"au={tmp_path / 'l'}")
    store, _ = store_of(tmp_path, f"au={tmp_path / 'l'},threshold=3")
    np.testing.assert_array_equal(store.read(0).labels["au"], np.array(values)[:, 1:] >= 3)


def test_tiers_of_elan(tmp_path: Path) -> None:
    document = pympi.Elan.Eaf()
    for tier, spans in (
        ("valence", [(0, 800, "0.5"), (800, 1200, "-0.25")]),
        ("arousal", [(0, 1200, "1")]),
        ("mood", [(200, 600, "happy")]),
        ("smile", [(400, 800, "x"), (1000, 1200, "")]),
    ):
        document.add_tier(tier)
        for start, end, value in spans:
            document.add_annotation(tier, start, end, value)
    (tmp_path / "l").mkdir()
    document.to_file(str(tmp_path / "l/a.eaf"))
    own = pympi.Elan.Eaf(str(tmp_path / "l/a.eaf"))
    for tier, segments in read_eaf(tmp_path / "l/a.eaf").items():
        expected = sorted(
            (s / 1000, e / 1000, t) for s, e, t in own.get_annotation_data_for_tier(tier)
        )
        assert sorted((one.start, one.end, one.text) for one in segments) == expected
    labels = f"={tmp_path / 'l'}"
    store, report = store_of(
        tmp_path,
        f"va{labels}",
        f"expr{labels},column=mood,map=happy:Happiness",
        f"smile{labels},kind=binary",
    )
    found = store.read(0).labels
    some = [[0.5, 1], [0.5, 1], [-0.25, 1], [-0.25, 1], [-5, -5]]
    np.testing.assert_array_equal(found["va"][[0, 19, 20, 29, 30]], some)
    np.testing.assert_array_equal(np.flatnonzero(found["expr"][:, 0] == 4), np.arange(5, 15))
    np.testing.assert_array_equal(
        np.flatnonzero(found["smile"][:, 0] == 1), [*range(10, 20), *range(25, 30)]
    )
    assert not (found["smile"] == -1).any()
    assert any("outside of a tier's segments" in line for line in warnings_of(report))
    content = (tmp_path / "l/a.eaf").read_bytes()
    bomb = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><ANNOTATION_DOCUMENT/>'
    for damaged in (content[: len(content) // 2], b"<a/>", bomb, b"\xff\xfe"):
        (tmp_path / "l/a.eaf").write_bytes(damaged)
        with refused(file="a.eaf"):
            store_of(tmp_path, f"va{labels}")


@pytest.mark.parametrize(
    ("content", "options", "details"),
    [
        ("frame,valence\n0,0.5\n", "", {"field": "arousal of va", "remedy": "column="}),
        ("frame,valence,arousal\n0,0.5,7\n", "",
         {"field": "line 2, column arousal", "remedy": "range="}),
        ("frame,valence,arousal\n0,.5,.5\n0,.5,.5\n", "", {"field": "line 3", "found": "twice"}),
        ("frame,valence,arousal\n1,.5,.5\n", "", {"remedy": "first="}),
        ("frame,valence,arousal\n0,.5,.5\n90,.5,.5\n", "", {"field": "va of a"}),
        ("time_ms,valence,arousal\n99000,.5,.5\n99040,.5,.5\n", "", {"field": "va", "found": "99"}),
        ("start,end,valence,arousal\n0.5,0.2,0,0\n", ",unit=s", {"expected": "end after"}),
        ("start_ms,end_ms,valence,arousal\n0,900,0,0\n500,999,1,1\n", ",start=start_ms,end=end_ms",
         {"field": "segment from 0.500"}),
        ("frame,valence,arousal,video\n0,0,0,a\n1,0,0,b\n", "", {"remedy": "video=video"}),
        ("frame,valence,arousal\n0,0,0\n", ",column=valence", {"found": "1 columns"}),
        ("frame,valence,arousal\n0,0,0\n", ",range=9:1", {"field": "range in"}),
        ("frame,valence,arousal\n0,0,0\n", ",colour=red", {"found": "colour"}),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(
    content: str, options: str, details: dict[str, str], tmp_path: Path
) -> None:
    text(tmp_path / "l/a.csv", content)
    with refused(**details):
        store_of(tmp_path, f"va={tmp_path / 'l'}{options}")
    assert not (tmp_path / "store").exists()


# -- partitions and folds ------------------------------------------------------------------------


def test_a_table_of_videos_makes_partitions_and_folds(tmp_path: Path) -> None:
    text(tmp_path / "whole.csv", "video,label\n" + "".join(f"{v},Anger\n" for v in VIDEOS))
    flag = f"expr={tmp_path / 'whole.csv'}"
    store, _ = store_of(tmp_path, flag)
    assert [fold.validation for fold in store.folds.values()] != []
    assert sorted(v for fold in store.folds.values() for v in fold.validation) == list(VIDEOS)

    table = text(tmp_path / "videos.csv", "video,person\na,1\nb,1\nc,2\nd,3\n")
    store, _ = store_of(tmp_path, flag, videos=table)
    assert len(store.folds) == 3
    for fold in store.folds.values():
        assert len({"a", "b"} & {*fold.validation}) != 1
    table = text(tmp_path / "videos.csv", "video,split\na.mp4,train\nb,dev\nc,TEST\nd,train\n")
    store, _ = store_of(tmp_path, flag, videos=table)
    assert store.folds["0"].train == ("a", "d")
    assert (store.folds["0"].validation, store.folds["0"].test) == (("b",), ("c",))

    table = text(tmp_path / "videos.csv", "video,fold\na,x\nb,y\nc,x\nd,y\n")
    store, _ = store_of(tmp_path, flag, videos=table)
    assert {name: fold.validation for name, fold in store.folds.items()} == {
        "x": ("a", "c"), "y": ("b", "d")
    }  # fmt: skip

    for content, field in (
        ("video,fold\na,x\nb,x\nc,x\nd,x\n", "column fold"),
        ("video,split\na,learn\n", "line 2"),
        ("video,split\na,train\na,train\n", "line 3"),
        ("video,colour\na,red\n", "columns"),
    ):
        with refused(field=field):
            store_of(tmp_path, flag, videos=text(tmp_path / "videos.csv", content))
    with refused(field="--folds"):
        store_of(tmp_path, flag, folds="blocks:9")


def test_all_words_that_mean_nothing_are_named(tmp_path: Path) -> None:
    text(tmp_path / "whole.csv", "video,label\na,Anger\nb,glad\nc,blue\nd,glad\n")
    with refused(field="line 3", found="'glad', 'blue'", remedy="map=glad:CLASS+blue:CLASS"):
        open_labels([f"expr={tmp_path / 'whole.csv'}"])


def test_names_of_no_video_are_told(tmp_path: Path) -> None:
    text(tmp_path / "whole.csv", "video,label\na,Anger\nb,Fear\nzz,Fear\n")
    lines: list[object] = []
    store_of(tmp_path, f"expr={tmp_path / 'whole.csv'}", say=lines.append)
    assert any("zz" in str(line) for line in lines)
    table = (tmp_path / "store/alignment.csv").read_text()
    assert "no labels" in table


# -- tasks of one's own --------------------------------------------------------------------------


def test_a_store_carries_its_own_tasks(tmp_path: Path) -> None:
    lines = [f"{i},{5 + 4 * np.sin(i / 9):.3f}" for i in range(FRAMES)]
    text(tmp_path / "l/a.csv", "\n".join(["frame,dominance", *lines]))
    store, _ = store_of(tmp_path, f"dominance={tmp_path / 'l'},kind=continuous,range=1:9")
    assert store.tasks == ("dominance",)
    expected = np.sin(np.arange(FRAMES) / 9)[:, None]
    np.testing.assert_allclose(store.read(0).labels["dominance"], expected, atol=2e-4)
    assert [*described_tasks(["va", "dominance"])] == ["dominance"]
    del TASKS["dominance"]  # as in a new process
    assert Store(tmp_path / "store").tasks == ("dominance",)
    assert TASKS["dominance"].labels == ("dominance",)
    with refused(field="task dominance", expected="as it is known"):
        declare_task(TaskSpec("dominance", "binary", ("dominance",), -1.0))


@pytest.mark.parametrize(
    ("name", "kind", "labels", "ignore"),
    [
        ("../x", "binary", ("a",), -1.0),
        ("Pain", "binary", ("a",), -1.0),
        ("pain", "ordinal", ("a",), -1.0),
        ("pain", "binary", (), -1.0),
        ("pain", "binary", ("a", "a"), -1.0),
        ("pain", "binary", ("a/b",), -1.0),
        ("pain", "binary", ("",), -1.0),
        ("pain", "categorical", ("a",), -1.0),
        ("pain", "binary", ("a",), float("nan")),
        ("va", "binary", ("a",), -1.0),
    ],
)
def test_declarations_that_are_not_allowed(
    name: str, kind: str, labels: tuple[str, ...], ignore: float
) -> None:
    before = dict(TASKS)
    with refused(field="task"):
        declare_task(TaskSpec(name, kind, labels, ignore))
    assert before == TASKS


@pytest.mark.parametrize(
    ("flag", "details"),
    [
        ("pain={}", {"remedy": "kind="}),
        ("pain={},kind=categorical", {"found": "no classes"}),
        ("pain={},kind=ordinal", {"field": "kind in"}),
        ("expr={},map=sad:Sad", {"found": "Sad"}),
        ("expr={},range=1:9", {"found": "range="}),
        ("={}", {"expected": "TASK=PATH"}),
        ("va=", {"expected": "TASK=PATH"}),
        ("va={}/nothing", {"found": "no such file"}),
    ],
)
def test_wrong_flags_of_labels_are_refused(
    flag: str, details: dict[str, str], tmp_path: Path
) -> None:
    with refused(**details):
        open_labels([flag.format(tmp_path)])


def test_labels_that_end_too_early_are_told(tmp_path: Path) -> None:
    half = TRUTH[:20]
    lines = [f"{i},{v},{a}" for i, (v, a) in enumerate(half)]
    text(tmp_path / "l/a.csv", "\n".join(["frame,valence,arousal", *lines]))
    _, report = store_of(tmp_path, f"va={tmp_path / 'l'}")
    assert any("before the frames" in line for line in warnings_of(report))
    # Without numbers, too few labels are labels of other frames.
    text(tmp_path / "l/a.csv", "\n".join(["valence,arousal", *(f"{v},{a}" for v, a in half)]))
    with refused(field="va of a", found="off by 30"):
        store_of(tmp_path, f"va={tmp_path / 'l'}")
    _, report = store_of(tmp_path, f"va={tmp_path / 'l'}", max_mismatch="80%")
    assert any("in the order of the frames" in line for line in warnings_of(report))
