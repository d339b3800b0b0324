"""Tests malformed feature files: they are always refused as bad input, and never run."""

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.features.numpy_files import read_npy, read_npz
from data.features.restricted_pickle import read_pickle
from emojax.errors import InputError
from tests.feature_samples import (
    FRAMES,
    ROWS_ND,
    WIDTH,
    WRITERS,
    header_of,
    rows,
    source,
    video,
    write_csv,
    write_frames,
    write_npy,
)
from tests.refusals import refused

MUTATIONS = 45  # of each form: 540 files in all


def mutated(content: bytes, rng: np.random.Generator, kind: int) -> bytes:
    """Returns the file cut short, drawn out, with bytes changed, moved or replaced."""
    data = bytearray(content)
    at = int(rng.integers(len(data)))
    match kind % 9:
        case 0:
            del data[at:]
        case 1:
            data += bytes(rng.integers(0, 256, int(rng.integers(1, 30)), dtype=np.uint8))
        case 2:  # where headers are
            for i in rng.integers(0, min(len(data), 120), 3):
                data[i] = int(rng.integers(256))
        case 3:
            for i in rng.integers(0, len(data), 8):
                data[i] = int(rng.integers(256))
        case 4:
            del data[at : at + int(rng.integers(1, 9))]
        case 5:
            data[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
        case 6:  # a number somewhere becomes enormous
            data[at : at + 4] = b"\xff\xff\xff\x7f"
        case 7:
            data = bytearray(rng.integers(0, 256, int(rng.integers(0, 200)), dtype=np.uint8))
        case _:
            data[:] = data[at:] + data[:at]
    return bytes(data)


@pytest.mark.parametrize("form", WRITERS)
def test_damaged_files_are_bad_input_and_nothing_else(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(list(form.encode()))
    flag = WRITERS[form](tmp_path / "x", ROWS_ND)
    path = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
    content, refused = path.read_bytes(), 0
    for kind in range(MUTATIONS):
        path.write_bytes(mutated(content, rng, kind))
        try:
            opened = source(flag, allow_pickle=True)
            opened.span("v-1") if "v-1" in opened.videos() else None
            found = opened.rows(video())
            if found is not None:  # what was changed was only a number
                stream = found.stream
                assert np.isfinite(stream.rows_ND).all()
                assert len(stream.rows_ND) == len(stream.pts_N) == len(stream.valid_N)
                assert (np.diff(stream.pts_N) >= 0).all()
        except InputError as error:
            assert error.details  # noqa: PT017 - most are refused, a few are benign
            refused += 1
    assert refused > MUTATIONS // 4


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}, None], object),
        np.array([["a", "b"]]),
        np.zeros((2, 2), complex),
        np.zeros(3, [("a", "f4"), ("b", "i4")]),
        np.zeros((2, 2), "M8[s]"),
        np.zeros((0, 4), np.float32),
        np.zeros((4, 0), np.float32),
        np.float32(3),
        np.full((2, 2), np.nan),
        np.full((2, 2), 1e300),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["npy", "npz", "frames"])
def test_arrays_that_are_no_features(array: np.ndarray, kind: str, tmp_path: Path) -> None:
    (tmp_path / "x/v-1").mkdir(parents=True)
    if kind == "npz":
        np.savez(tmp_path / "x/v-1.npz", array)
    else:
        folder = tmp_path / "x/v-1" if kind == "frames" else tmp_path / "x"
        np.save(folder / ("00001.npy" if kind == "frames" else "v-1.npy"), array)
    with pytest.raises(InputError):
        rows(f"x={tmp_path / 'x'},clock=frame,modality=visual")


@pytest.mark.parametrize(
    "shape", ["(1099511627776, 4)", "(4, 4)", f"({'9' * 5000},)", "(-1, 4)", "()", "(2, 2.5)"]
)
def test_declared_sizes_are_checked_before_memory(shape: str, tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    file.write_bytes(header_of("<f4", shape) + b"\0" * 16)
    archive = tmp_path / "v.npz"
    with zipfile.ZipFile(archive, "w") as target:
        target.write(file, "arr_0.npy")
    hog = tmp_path / "h/v.hog"
    hog.parent.mkdir()
    hog.write_bytes(struct.pack("<iiif", 4096, 4096, 4096, 1.0) + b"\0" * 64)
    tracemalloc.start()
    try:
        for read in (
            lambda: read_npy(file),
            lambda: read_npz(archive, "arr_0"),
            lambda: source(f"x={hog.parent},modality=visual"),
        ):
            with pytest.raises(InputError):
                read()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_archives_that_unpack_to_much_more(tmp_path: Path) -> None:
    file = tmp_path / "v.npz"
    np.savez_compressed(file, np.zeros((1000, 4), np.float32))
    content = bytearray(file.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the directory's entry; sizes follow at 20 and 24
    content[at + 24 : at + 28] = struct.pack("<I", 2**31)
    file.write_bytes(content)
    with refused(found="compressed"):
        read_npz(file, "arr_0")
    with refused(field="arr_1"):
        read_npz(_saved(tmp_path / "w.npz"), "arr_1")


def _saved(path: Path) -> Path:
    np.savez(path, ROWS_ND)
    return path


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Command:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {ran}",)

    class Module:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(ran)!r}, 'w')",)

    by_hand = f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode()
    nested = b"\x80\x02" + b"N" + b"\x85" * 20_000 + b"N\x93."
    contents = [by_hand, nested, b"\x80\x02" + b"(" * 1000 + b"."]
    for value in (Command(), Module(), {"v/1.jpg": Command()}, {1, 2}):
        contents += [pickle.dumps(value, protocol=number) for number in range(6)]
    contents.append(b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)\x81.")
    contents.append(pickle.dumps({"v-1": {1: np.array([None, "a"])}}))
    contents.append(b"\x80\x04\x8c\x05numpy\x8c\x0bload\x93\x8c\x01x\x85R.")
    for content in contents:
        file = tmp_path / "all.pkl"
        file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_pickle(file)
        assert caught.value.details["field"] == "pickle"
        with pytest.raises(InputError):
            source(f"x={file},modality=visual", allow_pickle=True)
        assert not ran.exists()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
NDARRAY, DTYPE = named("numpy", "ndarray"), named("numpy", "dtype")
FLOAT = DTYPE + b"\x8c\x02f4\x85R"
FROMBUFFER = named("numpy._core.numeric", "_frombuffer")
ENCODE = named("_codecs", "encode")
HUGE = (10**12).to_bytes(8, "little")
INT = b"\x8a\x08" + HUGE  # a million millions

# Python's own reader runs, allocates gigabytes or dies with each of these.
HOSTILE_PICKLES = {
    "reconstruct of another class": RECONSTRUCT + b"(" + DTYPE + b")C\x01btR.",
    "a new array": NDARRAY + INT + b"\x85\x85R.",
    "a new array as an object": NDARRAY + INT + b"\x85\x85\x81.",
    "a state of another shape": RECONSTRUCT + b"(" + NDARRAY + b"K\x00\x85C\x01btR(K\x01" + INT
    + b"\x85" + FLOAT + b"\x89C\x04abcdtb.",
    "a buffer of another shape": FROMBUFFER + b"(C\x04abcd" + FLOAT + INT + b"\x8c\x01CtR.",
    "a scalar of objects": named("numpy._core.multiarray", "scalar") + DTYPE
    + b"\x8c\x01O\x85RC\x08abcdefgh\x86R.",
    "a dtype with a long name": DTYPE + b"\x8c\xff" + b"(1000000,1000000)f4".rjust(255) + b"\x85R"
    + b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    "a dtype with fields": FLOAT + b"(K\x03\x8c\x01<N\x8c\x01a\x85}ttb.",
    "another encoding": ENCODE + b"\x8c\x01a\x8c\x03bz2\x86R.",
    "getattr": named("builtins", "getattr") + NDARRAY + b"\x8c\x08tofile\x86R.",
    "a dotted name": b"\x8c\x05numpy\x8c\x0fndarray.__init__\x93.",
    "an attribute of an allowed name": NDARRAY + b"N}\x8c\x05_callNs\x86b.",
    "an attribute of an array": RECONSTRUCT + b"(" + NDARRAY + b")C\x01btRN}\x8c\x05arrayNs\x86b.",
    "an extension": b"\x82\x01.",
    "a persistent name": b"\x8c\x01aQ.",
    "an instance": b"(inumpy\nndarray\n.",
    "an object": b"(" + NDARRAY + b"o.",
    "long bytes": b"\x8e" + HUGE + b".",
    "a long bytearray": b"\x96" + HUGE + b".",
    "a long text": b"\x8d" + HUGE + b".",
    "a long number": b"\x8b\xff\xff\xff\x7f.",
    "a long frame": b"\x95" + HUGE + b"N.",
    "a memo entry far away": b"Nr\xff\xff\xff\x0f.",
    "a memo entry far away, as text": b"Np268435455\n.",
    "a nested key": b"}N" + b"\x85" * 200_000 + b"Ns.",
    "a nested key, hidden by a change": b"}N" + b"\x85" * 200_000 + b"(eNs.",
    "a nested key, hidden by a state": b"}N" + b"\x85" * 200_000 + b"NbNs.",
    "a nested key, hidden in the memo": b"}N" + b"\x85" * 200_000 + b"\x940}h\x00Ns.",
    "a key of exponential size": b"}(N" + b"q\x00h\x00\x86" * 60 + b"Nu.",
    "a text encoded many times": b"\x8d" + (2**18).to_bytes(8, "little") + b"a" * 2**18
    + b"\x94\x8c\x06latin1\x94\x86\x94" + ENCODE + b"\x94]("
    + b"h\x03h\x02R" * 2000 + b"e.",
    "no value": b".",
    "values below a mark": b"NN(\x86.",
    "no mark": b"Nt.",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_PICKLES)
def test_hostile_pickles_take_memory_and_time_of_their_size(case: str, tmp_path: Path) -> None:
    file = tmp_path / "all.pkl"
    content = b"\x80\x05" + HOSTILE_PICKLES[case]
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read_pickle(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.details["field"] == "pickle"
    assert peak < 2**20 + 200 * len(content)


def test_no_memory_is_taken_for_the_shape_of_a_new_array(tmp_path: Path) -> None:
    file = tmp_path / "all.pkl"
    file.write_bytes(b"\x80\x05" + RECONSTRUCT + b"(" + NDARRAY + INT + b"\x85C\x01btR.")
    assert read_pickle(file).array is None


def test_deep_values_are_read_and_dropped(tmp_path: Path) -> None:
    file = tmp_path / "all.pkl"
    for content in (b"N" + b"\x85" * 200_000, b"]" * 200_000 + b"a" * 199_999):
        file.write_bytes(b"\x80\x02" + content + b".")
        assert type(read_pickle(file)) in (tuple, list)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_gives_back_what_was_written(protocol: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(protocol)
    arrays = {
        "f4": rng.normal(size=(3, 4)).astype(np.float32),
        "swapped": rng.normal(size=5).astype(">f8"),
        "fortran": np.asfortranarray(rng.normal(size=(2, 3, 4))),
        "u1": rng.integers(0, 255, 7).astype(np.uint8),
        "bool": rng.normal(size=4) > 0,
        "read only": np.frombuffer(b"abcd", np.uint8),
        "half": np.zeros((1, 2), np.float16),
        "rank 0": np.array(2.5),
    }
    same = np.ones(3)
    plain = {"é": [1, -2, 2**40, 1.5, None, True, b"\xff\x00", bytearray(b"x")], 7: (), 2.5: ("a",)}
    file = tmp_path / "all.pkl"
    scalars = [np.float32(1.5), np.int64(-3), np.bool_(True)]
    written = {"arrays": arrays, "twice": [same, same], "plain": plain, "scalars": scalars,
               "ordered": OrderedDict(a=1), np.int64(4): "key"}  # fmt: skip
    if protocol < 5:
        plain["é"].pop()  # a bytearray is a call there
    file.write_bytes(pickle.dumps(written, protocol=protocol))
    found = read_pickle(file)
    for name, array in arrays.items():
        read = found["arrays"][name].array
        assert read.dtype == array.dtype, name
        np.testing.assert_array_equal(read, array)
    assert found["twice"][0] is found["twice"][1]
    assert found["plain"] == plain
    assert found["scalars"] == [1.5, -3, True]
    assert found["ordered"] == {"a": 1}
    assert type(found["ordered"]) is dict
    assert found[4] == "key"


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {1: {1: [1.0]}},
        {"v-1": {}},
        {"v-1": {"one": [1.0]}},
        {"v-1": {"1": [1.0], "00001": [1.0]}},
        {"v-1": {0: [1.0], 1: [1.0, 2.0]}},
        {"v-1": {0: ["a"]}},
        {"v-1": {0: None}},
        {"v-1": {0: []}},
        {"v-1": {0: [10**400]}},
        {"v-1": {0: [1.0], 10**8: [1.0]}},
        {"v-1": {0: [1.0], 10**30: [1.0]}},
        {"v-1": {-1: [1.0]}},
        {"../../v": {0: [1.0]}},
        {"..": {0: [1.0]}},
        {"00001.jpg": [1.0]},
        {"v-1/frame.jpg": [1.0]},
    ],
    ids=str,
)
def test_pickles_that_hold_something_else(content: object, tmp_path: Path) -> None:
    (tmp_path / "all.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError):
        rows(f"x={tmp_path / 'all.pkl'},modality=visual", allow_pickle=True)


@pytest.mark.parametrize(
    ("text", "key", "part"),
    [
        (b"", "found", "0 lines"),
        (b"frame_idx,f\n", "found", "1 lines"),
        (b"frame_idx,f\n0,1,2\n", "found", "3 cells"),
        (b"frame_idx,f\n0,one\n", "found", "no feature columns"),
        (b"frame_idx,f\n0,one\n1,2\n", "found", "'one'"),
        (b"frame_idx,f\n0,\xff\xfe\n", "found", "not UTF-8"),
        ("frame_idx,f\n0,é\n".encode("latin-1"), "found", "not UTF-8"),
        (b"frame_idx\n0\n", "found", "no feature columns"),
        (b"frame_idx,f,f\n0,1,2\n", "found", "column twice"),
        (b"frame_idx,f\n0.5,1\n", "expected", "whole numbers"),
        (b"frame_idx,f\n,1\n", "expected", "whole numbers"),
        (b"frame_idx,f\n-1,1\n", "expected", "at least 0"),
        (b"frame_idx,f\n900000000,1\n", "found", "frame 900000000"),
        (b"frame_idx,f\n0,1\n0,2\n", "found", "several rows"),
        (b"frame_idx,f\n0,nan\n1,\n", "field", "rows"),
        (b'frame_idx,f\n0,"1\n', "field", "text"),
        (b"time,f\n0,1\nnan,1\n", "field", "column time"),
        (b"time,f\n0.1,1\n0,1\n", "field", "timestamps"),
        (b"f,g\n1,1\n", "found", "no clock"),
        (b"frame,face_id,timestamp,confidence,success,f\n0,0,0,1,1,1\n", "expected", "at least 1"),
    ],
)
def test_tables_that_are_no_features(text: bytes, key: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/v-1.csv").write_bytes(text)
    with refused(**{key: part}):
        rows(f"x={tmp_path / 'x'},modality=visual")


def test_tables_and_what_is_asked_of_them(tmp_path: Path) -> None:
    write_csv(tmp_path / "x/v-1.csv", ["frame_idx", "f"], [[0, 1]])
    for options, key, part in (
        ("columns=AU*", "field", "columns=AU*"),
        ("face=1", "field", "face=1"),
        ("time=seconds", "field", "time=seconds"),
        ("unit=ms", "found", "unit="),
        ("clock=annotated", "field", "clock=annotated"),
        ("clock=stretch", "field", "clock=stretch"),
    ):
        with refused(**{key: part}):
            rows(f"x={tmp_path / 'x'},modality=visual,{options}")


@pytest.mark.parametrize("form", WRITERS)
def test_videos_of_other_widths_are_refused(form: str, tmp_path: Path) -> None:
    write = WRITERS[form]
    flag = write(tmp_path / "x", ROWS_ND)
    if form.endswith("pickle"):
        content = {"v-1": {1: [1.0] * WIDTH}, "v-2": {1: [1.0] * (WIDTH + 2)}}
        (tmp_path / "x/all.pkl").write_bytes(pickle.dumps(content))
        flag += ",first=1"
    else:
        # Tables have columns by name: more do no harm, fewer do.
        tables = form in ("openface", "pyfeat", "libreface", "muse")
        write(tmp_path / "x", np.zeros((FRAMES, WIDTH + (-2 if tables else 2)), "f4") + 1, "v-2")
    opened = source(flag, allow_pickle=True)
    with refused() as caught:
        opened.rows(video("v-2"))
    assert caught.value.details["field"] in ("stream x", "columns")


def test_files_of_frames_that_do_not_fit(tmp_path: Path) -> None:
    def broken(change: Callable[[Path], object]) -> str:
        flag = write_frames(tmp_path / f"x{len(list(tmp_path.iterdir()))}", ROWS_ND)
        folder = Path(flag.split(",")[0].removeprefix("x=")) / "v-1"
        change(folder)
        return flag

    one = np.ones(WIDTH, np.float32)
    for change, found in (
        (lambda folder: np.save(folder / "1.npy", one), "a second file for frame 1"),
        (lambda folder: np.save(folder / "00000.npy", one), "0"),
        (lambda folder: np.save(folder / f"{'9' * 200}.npy", one), "frame 999"),
        (lambda folder: np.save(folder / "800000000.npy", one), "frame 800000000"),
        (lambda folder: np.save(folder / "00002.npy", np.ones(5)), "5 columns"),
        (lambda folder: np.save(folder / "00002.npy", np.ones((2, 4))), "(1, 2, 4)"),
    ):
        with refused(found=found):
            rows(broken(change))


def test_names_never_leave_the_folder(tmp_path: Path) -> None:
    flag = write_npy(tmp_path / "x", ROWS_ND)
    np.save(tmp_path / "secret.npy", ROWS_ND)
    opened = source(flag)
    for name in ("../secret", "..", "", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "n" * 300):
        with refused(field="video name"):
            opened.rows(video(name))


def test_folders_in_place_of_files(tmp_path: Path) -> None:
    write_npy(tmp_path / "x", ROWS_ND)
    (tmp_path / "x/v-2.npy").mkdir()
    (tmp_path / "x/v-3.npy").write_bytes(b"")
    np.save(tmp_path / "x/v-4.npy", np.ones(WIDTH))  # one vector per video
    opened = source(f"x={tmp_path / 'x'},clock=frame,modality=visual")
    for name in ("v-2", "v-3", "v-4"):
        with refused(file=f"{name}.npy", field="array"):
            opened.rows(video(name))
