"""Tests of tables as people's tools write them: numbers, times, names of columns, faces, videos."""

from __future__ import annotations

import csv
import gzip
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.features.face_choice import link_tracks, overlap
from data.tabular.cells import BadCellError, parse_numbers, parse_times
from data.tabular.reading import read_table
from tests.refusals import refused
from tests.table_samples import FPS, frames, rows, source, write

# -- numbers -------------------------------------------------------------------------------------

_NUMBERS = st.floats(allow_nan=True, allow_infinity=False, width=64)
_NOTHING = ["", "NA", "#N/A", "-nan(ind)", "1.#QNAN", "-1.#IND00", "nan", "NaN", "null", "None"]


@given(st.lists(st.one_of(_NUMBERS, st.sampled_from(_NOTHING)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_numbers_survive_as_people_write_them(values: list[float | str]) -> None:
    expected = [math.nan if isinstance(value, str) else value for value in values]
    cells = [value if isinstance(value, str) else repr(value) for value in values]
    np.testing.assert_array_equal(parse_numbers(cells), expected)
    with_comma = [cell.replace(".", ",") if "#" not in cell else cell for cell in cells]
    np.testing.assert_array_equal(parse_numbers(with_comma, decimal_comma=True), expected)


@pytest.mark.parametrize("cell", ["1_000", "0,5", "1.234,5", "12 %", "one", "1.2.3", "0x10", "--1"])
def test_what_is_no_number_is_refused_at_its_row(cell: str) -> None:
    with pytest.raises(BadCellError) as caught:
        parse_numbers(["1", "", cell])
    assert caught.value.row == 2


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        (["0 days 00:00:00.010000", "1 days 00:00:01"], [0.01, 86401]),
        (["-1 days +23:59:59.5", "0 days"], [-0.5, 0]),
        (["1 day, 0:00:01.5", "2 days, 0:00:00"], [86401.5, 172800]),
        (["0:00:01.500", "01:02:03,250"], [1.5, 3723.25]),
        (["00:01.5", "10:00.25"], [1.5, 600.25]),
        (["12 ms", "1.5s", "3us"], [0.012, 1.5, 3e-6]),
        (["1970-01-01T00:00:01Z", "1970-01-01 00:00:02.5"], [1, 2.5]),
        (["1970-01-01T01:00:01+01:00", "NaT"], [1, math.nan]),
    ],
)
def test_times_with_units_of_their_own(cells: list[str], seconds: list[float]) -> None:
    found, told = parse_times(cells)
    assert told
    np.testing.assert_allclose(found, seconds, rtol=1e-12)


@pytest.mark.parametrize("cells", [["01:30", "01:31"], ["0:00:01", "2"], ["soon"], ["2024-05-01"]])
def test_times_that_may_mean_two_things_are_refused(cells: list[str]) -> None:
    with pytest.raises(BadCellError):
        parse_times(cells)


# -- files ---------------------------------------------------------------------------------------

_NAMES, _VALUES = ("frame", "a", "b"), np.array([[0, 0.5, -1.25], [1, 2.75, 3.5], [2, 1e-3, 7.0]])


def _text(delimiter: str, *, comma: bool = False) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(_NAMES)
    for row in _VALUES:
        cells = [str(int(row[0])), *map(repr, map(float, row[1:]))]
        writer.writerow([cell.replace(".", ",") if comma else cell for cell in cells])
    return out.getvalue()


def _parquet(path: Path) -> None:
    pd.DataFrame(_VALUES, columns=list(_NAMES)).astype({"frame": int}).to_parquet(path, index=False)


FILES = {
    "v.csv": lambda path: path.write_text(_text(",")),
    "v.CSV": lambda path: path.write_text(_text(",")),
    "v.tsv": lambda path: path.write_text(_text("\t")),
    "v.csv.gz": lambda path: path.write_bytes(gzip.compress(_text(",").encode())),
    "v.parquet": _parquet,
    "semicolons/v.csv": lambda path: path.write_text(_text(";")),
    "commas/v.csv": lambda path: path.write_text(_text(";", comma=True)),
    "tabs_commas/v.csv": lambda path: path.write_text(_text("\t", comma=True)),
    "utf8_mark/v.csv": lambda path: path.write_text(_text(","), encoding="utf-8-sig"),
    "utf16/v.csv": lambda path: path.write_text(_text(","), encoding="utf-16"),
    "utf16_no_mark/v.csv": lambda path: path.write_text(_text(","), encoding="utf-16-le"),
    "excel/v.csv": lambda path: path.write_text("sep=;\n" + _text(";")),
    "comment/v.csv": lambda path: path.write_text("# a tool\n" + _text(",")),
    "ends/v.csv": lambda path: path.write_text(_text(",").replace("\r\n", ",\n")),
    "blank/v.csv": lambda path: path.write_text(_text(",").replace("\r\n", "\n\n")),
    "spaces/v.csv": lambda path: path.write_text(_text(" ")),
    "savetxt/v.csv": lambda path: np.savetxt(
        path, _VALUES, delimiter=",", header=",".join(_NAMES), fmt=["%d", "%.6f", "%.6f"]
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    FILES[name](path)
    for at in (path.parent, path):
        found = rows(at, count=3)
        np.testing.assert_allclose(found.stream.rows_ND, _VALUES[:, 1:], rtol=1e-6)
        assert found.stream.valid_N.all()
        assert ("decimal comma" in " ".join(found.warnings)) == ("commas" in name)


def test_a_folder_of_unknown_files_says_how_to_convert_them(tmp_path: Path) -> None:
    for ending, way in ((".xlsx", "CSV"), (".pt", "safetensors"), (".txt", "form=csv")):
        folder = tmp_path / ending[1:]
        write(folder / f"v{ending}", _text(","))
        with refused(found=f"v{ending}", remedy=way):
            source(folder)
    assert rows(tmp_path / "txt", ",form=csv", count=3).found == 3


def test_two_files_of_one_video_are_refused(tmp_path: Path) -> None:
    for name in ("v.csv", "v.CSV"):
        write(tmp_path / name, _text(","))
    with refused(found="v.", expected="one file a video"):
        source(tmp_path)


# -- names of columns ----------------------------------------------------------------------------


def test_a_table_without_names_keeps_its_first_row(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 3))
    for delimiter in (",", ";", "\t", " "):
        np.savetxt(tmp_path / "v.csv", values, delimiter=delimiter)
        found = rows(tmp_path, ",clock=frame", count=6)
        np.testing.assert_allclose(found.stream.rows_ND, values, rtol=1e-6)
        assert any("no names" in line for line in found.warnings)


def test_the_names_that_pandas_gives_an_array_are_no_row(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 3))
    for index in (True, False):
        pd.DataFrame(values).to_csv(tmp_path / "v.csv", index=index)
        found = rows(tmp_path, ",clock=frame", count=6)
        np.testing.assert_allclose(found.stream.rows_ND, values, rtol=1e-6)


@pytest.mark.parametrize("text", ["0,1,2\n3,4,5\n", "36,48\n0.5,0.7\n1.5,1.25\n", "a,0.5\nb,0.7\n"])
def test_a_first_line_that_may_be_names_is_asked_about(text: str, tmp_path: Path) -> None:
    write(tmp_path / "v.csv", text)
    with refused(field="line 1", remedy="header=no"):
        source(tmp_path, ",clock=frame")
    lines = text.count("\n")
    for header, count in (("yes", lines - 1), ("no", lines)):
        assert rows(tmp_path, f",clock=frame,header={header}").found == count


@pytest.mark.parametrize(
    "name",
    [
        "Frame", "FRAME_NUMBER", "frame idx", "Timestamp", "Time", "time_ms", "Confidence",
        "Success", "face_id", "Identity", "Unnamed: 0", "...1", "", "index", "level_0",
        "frameIndex", "start", "FaceRectX", "bbox_x1", "BBox_Width", "box0",
    ],
)  # fmt: skip
def test_columns_about_the_row_are_no_features(name: str, tmp_path: Path) -> None:
    lines = [f"{name},AU12,AU4"] + [f"{i},{i * i}.5,{-i}.25" for i in range(3)]
    write(tmp_path / "v.csv", "\n".join(lines) + "\n")
    found = source(tmp_path, ",form=csv,clock=fps:25").spec
    assert found.width == 2
    if name:
        assert source(tmp_path, f",clock=fps:25,columns=AU*+{name}").spec.width == 3


def test_columns_of_text_and_counters_are_told(tmp_path: Path) -> None:
    lines = ["frame,emotion,mean,count_up"] + [f"{i},happy,{i % 3},{i}" for i in range(12)]
    write(tmp_path / "v.csv", "\n".join(lines) + "\n")
    found = rows(tmp_path, count=12)
    assert found.stream.rows_ND.shape == (12, 2)
    told = " ".join(found.warnings)
    assert "emotion" in told
    assert "count_up" in told
    assert "mean" not in told


def test_columns_that_are_empty_are_refused_or_left_out(tmp_path: Path) -> None:
    write(tmp_path / "v.csv", "frame,a,b,c\n0,1,,\n1,2,,\n")
    with refused(field="b, c", remedy="empty=drop"):
        rows(tmp_path)
    found = rows(tmp_path, ",empty=drop", count=2)
    np.testing.assert_array_equal(found.stream.rows_ND, [[1], [2]])
    assert any("b, c" in line for line in found.warnings)


def test_a_row_of_empty_cells_is_a_missing_row(tmp_path: Path) -> None:
    write(tmp_path / "v.csv", "a,b\n1,2\n,\n3,4\n")
    found = rows(tmp_path, ",clock=frame", count=3)
    np.testing.assert_array_equal(found.stream.valid_N, [True, False, True])


def test_errors_name_the_line_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "v.csv", 'frame,name,a\n0,"two\nlines",1\n\n1,x,much\n')
    with refused(field="line 5, column a", found="much"):
        rows(tmp_path, ",columns=a")
    write(tmp_path / "v.csv", "frame,a\n0,0.5\n1,0.5,7\n")
    with refused(field="line 3", found="3 cells"):
        rows(tmp_path)


# -- times ---------------------------------------------------------------------------------------


def test_opensmile_has_times_of_its_own(tmp_path: Path) -> None:
    index = pd.MultiIndex.from_arrays(
        [
            ["/x/v.wav"] * 4,
            pd.to_timedelta(np.arange(4) * 10, unit="ms"),
            pd.to_timedelta(np.arange(4) * 10 + 20, unit="ms"),
        ],
        names=["file", "start", "end"],
    )
    table = pd.DataFrame({"Loudness": [0.5, 0.6, 0.8, 0.7]}, index=index)
    table.to_csv(tmp_path / "v.csv")
    for name in ("v.csv", "v.parquet"):
        if name.endswith("parquet"):
            (tmp_path / "v.csv").unlink()
            table.reset_index().to_parquet(tmp_path / name)
        found = rows(tmp_path, count=2)
        np.testing.assert_allclose(found.stream.pts_N, [0, 0.01, 0.02, 0.03], atol=1e-9)
        assert found.stream.rows_ND.shape == (4, 1)
    (tmp_path / "v.parquet").unlink()
    write(tmp_path / "v.csv", "frameIndex;frameTime;Loudness\n0;0,00;0,5\n1;0,01;0,6\n2;0,02;0,8\n")
    found = rows(tmp_path, count=2)
    np.testing.assert_allclose(found.stream.pts_N, [0, 0.01, 0.02])
    np.testing.assert_allclose(found.stream.rows_ND[:, 0], [0.5, 0.6, 0.8], rtol=1e-6)


def test_dates_are_a_wall_clock(tmp_path: Path) -> None:
    stamps = [f"2024-05-01T12:00:00.{i * 40:03d}Z" for i in range(4)]
    write(
        tmp_path / "v.csv",
        "time,a\n" + "".join(f"{stamp},{i * i}\n" for i, stamp in enumerate(stamps)),
    )
    with refused(field="timestamps", remedy="offset=-1714564800.000s"):
        rows(tmp_path, count=4)
    found = rows(tmp_path, ",offset=-1714564800s", count=4)
    np.testing.assert_allclose(found.stream.pts_N, np.arange(4) * 0.04, atol=1e-6)


# -- people --------------------------------------------------------------------------------------


def test_the_face_seen_most_is_followed_by_its_boxes(tmp_path: Path) -> None:
    lines = ["frame,FaceScore,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,AU12"]
    for i in range(8):
        if i != 3:  # out of sight for a frame
            lines.append(f"{i},0.8,{100 + 3 * i},50,80,80,{i}.5")
        if i % 2:  # often surer, and elsewhere
            lines.append(f"{i},0.99,{400 - 5 * i},60,70,70,-1.5")
    write(tmp_path / "v.csv", "\n".join(lines) + "\n")
    found = rows(tmp_path)
    np.testing.assert_array_equal(np.flatnonzero(~found.stream.valid_N), [3])
    seen = found.stream.valid_N
    np.testing.assert_allclose(found.stream.rows_ND[seen, 0], np.arange(8)[seen] + 0.5)
    assert any("several faces in 3 frames" in line for line in found.warnings)


def test_boxes_of_crossing_people_keep_their_numbers() -> None:
    frame_N = np.repeat(np.arange(20), 2)
    x = np.stack([np.arange(20) * 4.0, 300 - np.arange(20) * 4.0], 1).reshape(-1)
    boxes = np.stack([x, np.zeros(40), x + 60, np.full(40, 60.0)], 1)
    trust = np.random.default_rng(0).uniform(size=40)
    tracks = link_tracks(frame_N, boxes, trust).reshape(20, 2)
    assert len(np.unique(tracks[:, 0])) == len(np.unique(tracks[:, 1])) == 1
    assert tracks[0, 0] != tracks[0, 1]
    assert overlap(boxes[0], boxes[0]) == 1.0
    assert overlap(boxes[0], boxes[1]) == 0.0


# -- several videos in one file ------------------------------------------------------------------


def test_rows_of_several_videos_are_split(tmp_path: Path) -> None:
    lines = ["frame,FaceScore,AU12,input"]
    lines += [f"{i},0.9,{i}.5,clips/one.mp4" for i in range(4)]
    lines += [f"{i},0.9,{-i}.5,clips\\two.mp4" for i in range(3)]
    write(tmp_path / "all.csv", "\n".join(lines) + "\n")
    with refused(field="column input", remedy="split=input"):
        rows(tmp_path, name="all")
    opened = source(tmp_path / "all.csv", ",split=input")
    assert opened.videos() == ["one", "two"]
    found = opened.rows(frames("two", 3))
    assert found is not None
    np.testing.assert_allclose(found.stream.rows_ND[:, 0], [-0.5 + 1, -1.5, -2.5])
    write(tmp_path / "more.csv", "\n".join(lines[:3]) + "\n")
    with refused(found="one", expected="each video in one table"):
        source(tmp_path, ",split=input")


def test_pictures_in_one_table_are_frames_of_their_folder(tmp_path: Path) -> None:
    lines = ["frame,FaceScore,AU12,input"]
    lines += [f"0,0.9,{i}.5,{video}/{i:05d}.jpg" for video in ("p", "q") for i in (1, 2, 4)]
    write(tmp_path / "all.csv", "\n".join(lines) + "\n")
    opened = source(tmp_path / "all.csv", ",split=input,first=1")
    assert opened.videos() == ["p", "q"]
    found = opened.rows(frames("q", 4))
    assert found is not None
    np.testing.assert_array_equal(found.stream.valid_N, [True, True, False, True])
    np.testing.assert_allclose(found.stream.rows_ND[[0, 1, 3], 0], [1.5, 2.5, 4.5])


def test_tables_tell_their_lines(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "v.csv", "# note\n\nframe,a\n0,1\n\n1,2\n"))
    assert table.names == ("frame", "a")
    assert table.lines == (4, 6)


def test_blank_lines_of_one_column_are_asked_about(tmp_path: Path) -> None:
    write(tmp_path / "v.csv", "a\n0.5\n\n0.75\n")
    with refused(field="line 3", remedy="NaN"):
        rows(tmp_path, ",clock=frame")
    write(tmp_path / "v.csv", 'a\n0.5\n""\n0.75\n\n\n')
    found = rows(tmp_path, ",clock=frame", count=3)
    np.testing.assert_array_equal(found.stream.valid_N, [True, False, True])


def test_every_video_may_begin_with_its_first_row(tmp_path: Path) -> None:
    for name, start in (("v", 1714564800.0), ("w", 1714569999.5)):
        lines = [f"{start + i / FPS:.3f},{i * i}" for i in range(4)]
        write(tmp_path / f"{name}.csv", "\n".join(["seconds,a", *lines]) + "\n")
    with refused(remedy="offset=first"):
        rows(tmp_path, count=4)
    for name in ("v", "w"):
        found = rows(tmp_path, ",offset=first", name=name, count=4)
        np.testing.assert_allclose(found.stream.pts_N, np.arange(4) / FPS, atol=1e-3)
    np.save(tmp_path / "v.npy", np.ones((8, 3)))
    with refused(found="offset=first"):
        source(tmp_path / "v.npy", ",clock=fps:25,offset=first")
