"""Features that users bring: every form gives the rows and the clock that were written."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data.features.feature_sources import VideoFrames, parse_features
from emojax.errors import InputError
from tests.feature_samples import (
    FPS,
    FRAMES,
    PTS_N,
    ROWS_ND,
    WIDTH,
    WRITERS,
    rows,
    source,
    video,
    write_csv,
    write_frames,
    write_hog,
    write_image_pickle,
    write_npy,
    write_npz,
    write_openface,
    write_own,
)
from tests.refusals import refused


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_rows_and_the_clock_that_were_written(
    form: str, tmp_path: Path
) -> None:
    flag = WRITERS[form](tmp_path / "x", ROWS_ND)
    opened = source(flag, allow_pickle=True)
    assert opened.videos() == ["v-1"]
    assert (opened.spec.name, opened.spec.width) == ("x", WIDTH)
    assert opened.spec.rate == (FPS if form in ("own", "muse") else None)
    found = opened.rows(video())
    assert found is not None
    np.testing.assert_array_equal(found.stream.rows_ND, ROWS_ND)
    assert found.stream.rows_ND.dtype == np.float32
    np.testing.assert_allclose(found.stream.pts_N, PTS_N, atol=1e-12)
    assert found.stream.valid_N.dtype == bool
    assert found.stream.valid_N.all()
    assert found.found == FRAMES
    assert found.expected == (None if form in ("own", "muse") else FRAMES)
    assert found.file.exists()
    assert opened.rows(video("v-2")) is None


@pytest.mark.parametrize("form", WRITERS)
def test_features_of_the_whole_video_serve_both_persons(form: str, tmp_path: Path) -> None:
    flag = WRITERS[form](tmp_path / "x", ROWS_ND, "w")
    opened = source(flag, allow_pickle=True)
    for name in ("w", "w_left", "w_right"):
        assert opened.rows(video(name)) is not None


def test_known_streams_need_no_modality_but_their_width(tmp_path: Path) -> None:
    np.save(tmp_path / "v-1.npy", np.zeros((FRAMES, 128), np.float16))
    found = source(f"vggish={tmp_path},clock=frame")
    assert (found.spec.modality, found.spec.width) == ("audio", 128)
    stream = found.rows(video())
    assert stream is not None
    assert stream.stream.rows_ND.dtype == np.float16
    with refused(field="stream ir50", found="128"):
        source(f"ir50={tmp_path},clock=frame")
    assert source(f"ir50={tmp_path},clock=frame,width=128").spec.width == 128


def test_frames_are_placed_by_number_and_never_by_position(tmp_path: Path) -> None:
    flag = write_frames(tmp_path / "x", ROWS_ND)
    for number in (1, 4, 5, FRAMES):
        (tmp_path / "x/v-1" / f"{number:05d}.npy").unlink()
    found = rows(flag)
    np.testing.assert_array_equal(np.flatnonzero(~found.stream.valid_N), [0, 3, 4, FRAMES - 1])
    kept = found.stream.valid_N
    np.testing.assert_array_equal(found.stream.rows_ND[kept], ROWS_ND[kept])
    assert not found.stream.rows_ND[~kept].any()
    assert (found.found, found.expected) == (FRAMES - 4, FRAMES)
    assert "4 frames without" in found.how


def test_rows_before_and_after_the_frames_are_told(tmp_path: Path) -> None:
    flag = write_npy(tmp_path / "x", ROWS_ND[:-2])
    short = rows(flag)
    assert short.how == "one row per frame, last 2 frames without"
    np.testing.assert_array_equal(np.flatnonzero(~short.stream.valid_N), [FRAMES - 2, FRAMES - 1])
    write_npy(tmp_path / "x", np.concatenate([ROWS_ND, ROWS_ND]))
    surplus = rows(flag)
    np.testing.assert_array_equal(surplus.stream.rows_ND, ROWS_ND)
    assert (surplus.found, surplus.expected) == (2 * FRAMES, FRAMES)
    assert f"{FRAMES} surplus rows left out" in surplus.how


def test_compacted_rows_go_back_to_the_annotated_frames(tmp_path: Path) -> None:
    annotated = [1, 2, 5, 7]
    write_npy(tmp_path / "x", ROWS_ND[:4])
    found = rows(f"x={tmp_path / 'x'},clock=annotated,modality=text", video("v-1", annotated))
    np.testing.assert_array_equal(np.flatnonzero(found.stream.valid_N), annotated)
    np.testing.assert_array_equal(found.stream.rows_ND[annotated], ROWS_ND[:4])
    assert (found.found, found.expected) == (4, 4)


def test_rows_with_nan_are_missing_and_counted(tmp_path: Path) -> None:
    broken = ROWS_ND.copy()
    broken[2, 1], broken[5] = np.nan, np.inf
    found = rows(write_npy(tmp_path / "x", broken))
    np.testing.assert_array_equal(np.flatnonzero(~found.stream.valid_N), [2, 5])
    assert not found.stream.rows_ND[[2, 5]].any()
    assert "2 rows with NaN or infinity" in found.how
    write_npy(tmp_path / "x", np.full((3, WIDTH), np.nan))
    with refused(field="rows"):
        source(f"x={tmp_path / 'x'},clock=frame,modality=visual")


def test_openface_faces_and_success(tmp_path: Path) -> None:
    header = ["frame", " face_id", " timestamp", " confidence", " success", " AU01_r", " AU02_r"]
    lines = [
        [1, 0, 0.0, 0.7, 1, 10, 11],
        [1, 1, 0.0, 0.9, 1, 20, 21],
        [2, 0, 0.04, 0.2, 0, 0, 0],
        [4, 1, 0.12, 0.95, 0, 0, 0],  # confident, but without success
        [4, 0, 0.12, 0.5, 1, 12, 13],
    ]
    write_csv(tmp_path / "x/v-1.csv", header, lines)
    flag = f"x={tmp_path / 'x'},columns=AU??_r,modality=visual"
    found = rows(flag)
    np.testing.assert_array_equal(np.flatnonzero(found.stream.valid_N), [0, 3])
    # Face 0 is seen in two frames, face 1 in one.
    np.testing.assert_array_equal(found.stream.rows_ND[[0, 3]], [[10, 11], [12, 13]])
    assert "several faces in 2 frames, face 0 taken" in found.how
    assert "1 row without success" in found.how
    declared = rows(flag + ",face=0").stream
    np.testing.assert_array_equal(declared.rows_ND[[0, 3]], [[10, 11], [12, 13]])
    with refused(field="face=7"):
        source(flag + ",face=7").rows(video())
    # All feature columns by default, without those that are about the row.
    assert source(f"x={tmp_path / 'x'},modality=visual").spec.width == 2


def test_tables_match_columns_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write_csv(folder / "a.csv", ["frame_idx", "au_1", "au_2"], [[0, 1, 2]])
    write_csv(folder / "b.csv", ["au_2", "more", "frame_idx", "au_1"], [[20, 5, 0, 10]])
    flag = f"x={folder},modality=visual"
    np.testing.assert_array_equal(rows(flag, video("b")).stream.rows_ND[0], [10, 20])
    write_csv(folder / "c.csv", ["frame_idx", "au_1", "au_3"], [[0, 1, 2]])
    with refused(field="columns", found="au_2"):
        rows(flag, video("c"))
    chosen = source(f"x={folder},columns=au_2+au_1,modality=visual")
    assert chosen.spec.width == 2


def test_frame_numbers_of_unknown_tables_are_declared(tmp_path: Path) -> None:
    write_csv(tmp_path / "x/v-1.csv", ["frame", "f"], [[1, 5], [3, 7]])
    flag = f"x={tmp_path / 'x'},modality=visual"
    with refused(field="frame numbers", remedy="first=0 or first=1"):
        source(flag)
    for first in (0, 1):
        found = rows(f"{flag},first={first}").stream
        np.testing.assert_array_equal(np.flatnonzero(found.valid_N), [1 - first, 3 - first])


@pytest.mark.parametrize(
    ("header", "times", "options", "seconds"),
    [
        ("timestamp", [0, 250, 500], "", [0, 0.25, 0.5]),
        ("timestamp", [0, 1, 2], ",unit=s", [0, 1, 2]),
        ("timestamp", [0, 1, 2], ",unit=ms", [0, 0.001, 0.002]),
        ("timestamp", [0, 33333, 66666], ",unit=us", [0, 0.033333, 0.066666]),
        ("time_ms", [0.5, 1.5, 2.5], "", [0.0005, 0.0015, 0.0025]),
        ("clock", [0.0, 0.1, 0.3], ",time=clock", [0, 0.1, 0.3]),
        ("time", [0.0, 0.1, 0.3], ",offset=-500ms", [-0.5, -0.4, -0.2]),
    ],
)
def test_timestamps_of_tables(
    header: str, times: list[float], options: str, seconds: list[float], tmp_path: Path
) -> None:
    write_csv(tmp_path / "x/v-1.csv", [header, "f"], [[time, 1.0] for time in times])
    of = VideoFrames("v-1", "v-1", np.array(seconds, float), np.ones(3, bool))
    found = rows(f"x={tmp_path / 'x'},modality=audio{options}", of)
    np.testing.assert_allclose(found.stream.pts_N, seconds, atol=1e-12)
    assert found.stream.rows_ND.shape == (3, 1)
    assert found.expected is None


def test_tables_with_frames_can_be_read_by_their_times(tmp_path: Path) -> None:
    for form in ("openface", "libreface"):
        flag = WRITERS[form](tmp_path / form, ROWS_ND)
        found = rows(flag + ",clock=pts,offset=0.4s")
        np.testing.assert_allclose(found.stream.pts_N, PTS_N)
        np.testing.assert_array_equal(found.stream.rows_ND, ROWS_ND)
        assert source(flag + ",clock=pts").spec.rate == FPS


def test_clocks_of_their_own(tmp_path: Path) -> None:
    write_npy(tmp_path / "x", ROWS_ND)
    flag = f"x={tmp_path / 'x'},modality=audio"
    hop = source(flag + ",clock=hop:10ms,offset=12.5ms")
    assert hop.spec.rate == 100
    assert hop.span("v-1") == (None, pytest.approx(0.0125 + 0.08))
    found = hop.rows(VideoFrames("v-1", "v-1", PTS_N - PTS_N[0], np.ones(FRAMES, bool)))
    assert found is not None
    np.testing.assert_allclose(found.stream.pts_N, 0.0125 + np.arange(FRAMES) / 100)
    assert found.expected is None
    fps = rows(flag + ",clock=fps:6").stream
    np.testing.assert_allclose(fps.pts_N, np.arange(FRAMES) / 6)
    with refused(found="no clock", remedy="clock=frame"):
        source(flag)
    # Numbered rows keep their gaps, and end with the video.
    frames = write_frames(tmp_path / "y", ROWS_ND)
    (tmp_path / "y/v-1/00002.npy").unlink()
    spaced = rows(
        frames + ",clock=fps:25", VideoFrames("v-1", "v-1", PTS_N - PTS_N[0], np.ones(FRAMES, bool))
    ).stream
    np.testing.assert_array_equal(np.flatnonzero(~spaced.valid_N), [1])
    np.testing.assert_allclose(spaced.pts_N, np.arange(FRAMES) / 25)


def test_stretching_to_the_frames(tmp_path: Path) -> None:
    flag = write_npz(tmp_path / "x", ROWS_ND[:4]).replace("clock=frame", "clock=stretch")
    found = rows(flag)
    chosen = np.arange(FRAMES) * 4 // FRAMES
    np.testing.assert_array_equal(found.stream.rows_ND, ROWS_ND[chosen])
    np.testing.assert_array_equal(found.stream.pts_N, PTS_N)
    assert found.how == f"4 rows stretched to {FRAMES} frames"
    assert rows(flag + ",resample=linear").stream.rows_ND.shape == (FRAMES, WIDTH)


def test_our_own_archives_tell_validity(tmp_path: Path) -> None:
    flag = write_own(tmp_path / "x", ROWS_ND)
    valid_N = np.arange(FRAMES) % 2 == 0
    np.savez(tmp_path / "x/v-1.npz", rows=ROWS_ND, pts=PTS_N, valid=valid_N)
    found = rows(flag).stream
    np.testing.assert_array_equal(found.valid_N, valid_N)
    assert not found.rows_ND[~valid_N].any()
    # Any array can be named.
    named = rows(f"x={tmp_path / 'x'},key=rows,clock=frame,modality=visual").stream
    np.testing.assert_array_equal(named.rows_ND, ROWS_ND)


def test_rows_with_several_axes_are_reduced_as_declared(tmp_path: Path) -> None:
    patches = np.random.default_rng(1).normal(size=(FRAMES, 6, 5)).astype(np.float16)
    flag = write_npy(tmp_path / "x", patches)
    with refused(field="array", remedy="reduce="):
        source(flag)
    flat = rows(flag + ",reduce=flatten").stream
    np.testing.assert_array_equal(flat.rows_ND, patches.reshape(FRAMES, 30))
    mean = rows(flag + ",reduce=mean:1").stream
    np.testing.assert_allclose(mean.rows_ND, patches.astype(np.float64).mean(1), atol=1e-6)
    assert rows(flag + ",reduce=mean:1+2").stream.rows_ND.shape == (FRAMES, 1)
    with refused(field="reduce", expected="4"):
        source(flag + ",reduce=mean:4")
    # An axis of length 1 means nothing.
    write_npy(tmp_path / "x", ROWS_ND[:, None])
    np.testing.assert_array_equal(rows(flag).stream.rows_ND, ROWS_ND)


def test_zeros_mean_no_face_where_that_is_declared(tmp_path: Path) -> None:
    blank = ROWS_ND.copy()
    blank[3] = 0
    flag = write_npy(tmp_path / "clip-FRA", blank)
    found = rows(flag)
    np.testing.assert_array_equal(np.flatnonzero(~found.stream.valid_N), [3])
    assert "1 row of zeros" in found.how
    # A video without any face is one row of zeros.
    np.save(tmp_path / "clip-FRA/v-2.npy", np.zeros((1, WIDTH), np.float32))
    assert not rows(flag, video("v-2")).stream.valid_N.any()
    plain = write_npy(tmp_path / "x", blank)
    assert rows(plain).stream.valid_N.all()
    assert not rows(plain + ",missing=zeros").stream.valid_N[3]
    (tmp_path / "clip-UTT").mkdir()
    with refused(expected="-FRA"):
        source(f"x={tmp_path / 'clip-UTT'},modality=visual")


def test_hog_tells_where_a_face_was(tmp_path: Path) -> None:
    flag = write_hog(tmp_path / "x", ROWS_ND)
    content = bytearray((tmp_path / "x/v-1.hog").read_bytes())
    content[12:16] = np.float32(-1).tobytes()
    (tmp_path / "x/v-1.hog").write_bytes(content)
    found = rows(flag)
    np.testing.assert_array_equal(np.flatnonzero(~found.stream.valid_N), [0])
    assert "1 row without face" in found.how


def test_elements_of_pickled_tuples_are_chosen(tmp_path: Path) -> None:
    flag = write_image_pickle(tmp_path, ROWS_ND)
    assert source(flag, allow_pickle=True).spec.width == WIDTH
    assert source(flag + ",key=1", allow_pickle=True).spec.width == 8
    with refused(found="a pickle", remedy="--allow_pickle"):
        source(flag)
    lists = {"v-1": {"00002.png": [1, 2.5], "00001.png": [0.5, 3]}}
    (tmp_path / "all.pkl").write_bytes(pickle.dumps(lists))
    found = rows(flag, allow_pickle=True).stream
    np.testing.assert_array_equal(found.rows_ND[:2], [[0.5, 3], [1, 2.5]])


def test_ambiguous_forms_are_declared(tmp_path: Path) -> None:
    write_openface(tmp_path / "x", ROWS_ND)
    write_hog(tmp_path / "x", ROWS_ND)
    with refused(found="several forms", remedy="form=csv"):
        source(f"x={tmp_path / 'x'},modality=visual")
    assert source(f"x={tmp_path / 'x'},form=hog,modality=visual").spec.width == WIDTH


@pytest.mark.parametrize(
    ("options", "key", "part"),
    [
        (",colour=red", "found", "colour"),
        (",clock=", "field", "clock in"),
        (",clock=frame,clock=frame", "field", "clock in"),
        (",clock=fps", "found", "clock=fps"),
        (",clock=fps:0", "found", "clock=fps:0"),
        (",clock=hop:10", "expected", "10ms"),
        (",clock=sometimes", "found", "clock=sometimes"),
        (",clock=frame,offset=1s", "found", "offset=1s"),
        (",clock=frame,rate=25", "found", "rate=25"),
        (",clock=hop:10ms,rate=25", "found", "rate=25"),
        (",clock=stretch,resample=mean", "found", "resample=mean"),
        (",clock=frame,width=5", "field", "stream x"),
        (",clock=frame,columns=AU*", "found", "columns="),
        (",clock=frame,first=1", "found", "first="),
        (",clock=frame,resample=cubic", "field", "resample in"),
        (",clock=frame,modality=smell", "field", "modality in"),
        (",clock=frame,width=0", "field", "width in"),
        (",clock=frame,form=xlsx", "found", "xlsx"),
        (",clock=frame,form=pickle", "expected", "a pickle"),
        (",clock=pts", "field", "clock=pts"),
    ],
)
def test_wrong_flags_are_refused(options: str, key: str, part: str, tmp_path: Path) -> None:
    write_npy(tmp_path / "x", ROWS_ND)
    modality = "" if "modality" in options else ",modality=visual"
    with refused(**{key: part}):
        rows(f"x={tmp_path / 'x'}{options}{modality}")


def test_flags_as_a_whole(tmp_path: Path) -> None:
    flag = write_npy(tmp_path / "x", ROWS_ND)
    with refused(found="x", expected="a name for each"):
        parse_features([flag, flag])
    for wrong in ("x", "=y", "x=", "../x=y", f"x={tmp_path / 'nothing'}"):
        with pytest.raises(InputError):
            parse_features([wrong])
    with refused(expected="modality="):
        source(f"x={tmp_path / 'x'},clock=frame")
    (tmp_path / "empty").mkdir()
    with refused(found="no files"):
        source(f"x={tmp_path / 'empty'}")
