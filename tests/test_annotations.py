"""Tests annotation files of Aff-Wild2: labels, masks and refusals."""

import re
from pathlib import Path

import numpy as np
import pytest

from data.annotations.challenge_files import (
    CHALLENGES,
    MULTITASK_FILES,
    MULTITASK_HEADER,
    find_annotations,
    read_annotation,
    read_annotations,
    read_multitask,
)
from emojax.errors import InputError
from tests.annotation_files import HEADERS, random_labels, text_of, write_annotation
from tests.refusals import refused

ROWS = {"va": "0.25,-0.5", "expr": "3", "au": "0,1,-1,0,0,1,0,0,0,0,1,0"}
MULTITASK = ",".join(MULTITASK_HEADER)


def multitask_row(image: str, task_rows: dict[str, str] = ROWS) -> str:
    return f"{image},{task_rows['va']},{task_rows['expr']},{task_rows['au']}"


@pytest.mark.parametrize("task", CHALLENGES)
def test_labels_come_back_frame_by_frame(tmp_path: Path, task: str) -> None:
    labels_NK = random_labels(task, 200)
    path = tmp_path / "v.txt"
    path.write_text(text_of(task, labels_NK))
    found_NK = read_annotation(path, task)
    assert found_NK.dtype == np.float32
    np.testing.assert_array_equal(found_NK, labels_NK)


def test_half_a_frame_of_valence_and_arousal_is_none(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("valence,arousal\n0.5,-5\n-5.0,0.25\n-5,-5\n1,-1\n")
    np.testing.assert_array_equal(
        read_annotation(path, "va"), [[-5, -5], [-5, -5], [-5, -5], [1, -1]]
    )


def test_units_are_masked_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text(f"{HEADERS['au']}\n{ROWS['au']}\n")
    assert read_annotation(path, "au")[0].tolist() == [0, 1, -1, 0, 0, 1, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    "content",
    [
        b"valence,arousal\r\n0.25,-0.5\r\n",
        b"Valence, Arousal\n0.25,-0.5\n\n\n  \n",
        b"\xef\xbb\xbfvalence ,arousal\n0.25, -0.5",
        b" VALENCE,AROUSAL \n 2.5e-1 ,\t-0.5\n\r\n",
    ],
)
def test_harmless_differences_are_tolerated(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_annotation(path, "va"), [[0.25, -0.5]])


# Each takes (header, rows, where) and spoils one of the lines.
SPOILS = {
    "a word": lambda head, rows, i: [head, *rows[:i], "happy", *rows[i:]],
    "blank line inside": lambda head, rows, i: [head, *rows[:i], "", *rows[i:]],
    "a field more": lambda head, rows, i: [head, *rows[:i], rows[i] + ",0", *rows[i + 1 :]],
    "comma at the end": lambda head, rows, i: [head, *rows[:i], rows[i] + ",", *rows[i + 1 :]],
    "too large": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "9"), *rows[i + 1 :]],
    "too small": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "-2"), *rows[i + 1 :]],
    "not a number": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "nan"), *rows[i + 1 :]],
    "infinite": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "1e999"), *rows[i + 1 :]],
    "underscore": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "1_0"), *rows[i + 1 :]],
    "Arabic digit": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "١"), *rows[i + 1 :]],
    "two signs": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "--1"), *rows[i + 1 :]],
    "hexadecimal": lambda head, rows, i: [head, *rows[:i], _with(rows[i], "0x1"), *rows[i + 1 :]],
    "semicolons": lambda head, rows, i: [head, *rows[:i], f"{rows[i]};0", *rows[i + 1 :]],
    "lone carriage return": lambda head, rows, i: [
        head,
        *rows[:i],
        f"0\r{rows[i]}",
        *rows[i + 1 :],
    ],
    "a zero byte": lambda head, rows, i: [head, *rows[:i], rows[i] + "\0", *rows[i + 1 :]],
}


def _with(row: str, value: str) -> str:
    return ",".join([value, *row.split(",")[1:]])


@pytest.mark.parametrize("task", CHALLENGES)
@pytest.mark.parametrize("spoil", SPOILS)
def test_malformed_lines_are_named(tmp_path: Path, task: str, spoil: str) -> None:
    path = tmp_path / "v.txt"
    rows = [ROWS[task]] * 9
    for i in range(8):  # 15 x 3 x 8 = 360 files
        lines = SPOILS[spoil](HEADERS[task], rows, i)
        path.write_text("\n".join(lines) + "\n", newline="")
        with pytest.raises(InputError) as caught:
            read_annotation(path, task)
        assert caught.value.details["file"] == str(path)
        assert re.match(rf"line {i + 2}\b", caught.value.details["field"])


@pytest.mark.parametrize("task", CHALLENGES)
def test_malformed_headers_and_files(tmp_path: Path, task: str) -> None:
    path = tmp_path / "v.txt"
    header, row = HEADERS[task], ROWS[task]
    others = [HEADERS[other] for other in CHALLENGES if other != task]
    texts = ["", "\n\n", header, f"{header}\n\n", row, f"{row}\n{row}", f"{header},x\n{row}"]
    texts += [f"{other}\n{row}" for other in others]
    texts += [f"{header.replace(',', ';')}\n{row}", f"\n{header}\n{row}"]
    texts += [",".join(reversed(header.split(","))) + f"\n{row}", header[1:] + f"\n{row}"]
    for text in texts:
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_annotation(path, task)
        assert caught.value.details["file"] == str(path)
        assert re.match(r"line [12]\b", caught.value.details["field"])
    path.write_bytes(header.encode() + b"\n\xff\xfe\n")
    with refused(file="v.txt", field="byte "):
        read_annotation(path, task)
    with refused(file="absent.txt"):
        read_annotation(tmp_path / "absent.txt", task)


def test_random_damage_is_an_input_error_or_harmless(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {task: text_of(task, random_labels(task, 6)).encode() for task in CHALLENGES}
    multitask = "\n".join([MULTITASK, *(multitask_row(f"v/{i:05d}.jpg") for i in (1, 2, 5))])
    files["multitask"] = multitask.encode()
    path = tmp_path / "v.txt"
    refused = 0
    for number in range(300):
        task = [*files][number % len(files)]
        content = bytearray(files[task])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(content)))
            match rng.integers(4):
                case 0:
                    content[at] = int(rng.integers(256))
                case 1:
                    del content[at : at + int(rng.integers(1, 20))]
                case 2:
                    content[at:at] = bytes(rng.integers(0, 256, 3, dtype=np.uint8))
                case _:
                    content[at:at] = content[: int(rng.integers(1, 40))]
        path.write_bytes(bytes(content))
        try:
            read_multitask(path) if task == "multitask" else read_annotation(path, task)
        except InputError:
            refused += 1
    assert refused > 230


def test_multitask_frames_stay_at_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / MULTITASK_FILES["train"]
    nothing = {"va": "0.5,-5", "expr": "-1", "au": ",".join(["-1"] * 12)}
    lines = [
        multitask_row("a/00004.jpg"),
        multitask_row("b_left/00001.png"),
        multitask_row("a/00002.jpg", nothing),
    ]
    path.write_text("\r\n".join([MULTITASK, *lines]) + "\r\n")
    found = read_multitask(path)
    assert set(found) == {"a", "b_left"}
    assert found["a"]["va"].tolist() == [[-5, -5]] * 3 + [[0.25, -0.5]]
    assert found["a"]["expr"].tolist() == [[-1], [-1], [-1], [3]]
    assert found["a"]["au"].shape == (4, 12)
    assert (found["a"]["au"][:3] == -1).all()
    assert found["b_left"]["au"].tolist() == [[0, 1, -1, 0, 0, 1, 0, 0, 0, 0, 1, 0]]


def test_multitask_header_may_name_the_units(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    header = f"image,valence,arousal,expression,{HEADERS['au']}"
    path.write_text(f"{header}\n{multitask_row('a/00001.jpg')}\n")
    assert read_multitask(path)["a"]["expr"].tolist() == [[3]]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([multitask_row("a/00001.jpg"), multitask_row("a/1.jpg")], 3),
        ([multitask_row("a/00000.jpg")], 2),
        ([multitask_row("00001.jpg")], 2),
        ([multitask_row("a/x.jpg")], 2),
        ([multitask_row("a/00001.gif")], 2),
        ([multitask_row("a/999999999.jpg")], 2),
        ([multitask_row("../a/00001.jpg")], 2),
        ([multitask_row("a/00001.jpg"), multitask_row("a/00002.jpg") + ",0"], 3),
        ([multitask_row("a/00001.jpg", ROWS | {"expr": "8"})], 2),
        ([multitask_row("a/00001.jpg", ROWS | {"va": "0.5,1.5"})], 2),
        ([multitask_row("a/00001.jpg", ROWS | {"au": ROWS["au"][:-1] + "2"})], 2),
        ([], 2),
    ],
)
def test_malformed_multitask_files(tmp_path: Path, rows: list[str], line: int) -> None:
    path = tmp_path / "m.txt"
    path.write_text("\n".join([MULTITASK, *rows]) + "\n")
    with pytest.raises(InputError) as caught:
        read_multitask(path)
    assert re.match(rf"line {line}\b", caught.value.details["field"])


@pytest.mark.parametrize("nested", ["", "6th ABAW Annotations"])
@pytest.mark.parametrize("edition", [0, 1])
def test_folders_of_the_editions_are_found(tmp_path: Path, nested: str, edition: int) -> None:
    root = tmp_path / nested
    for task, names in CHALLENGES.items():
        name = min(edition, len(names) - 1)
        write_annotation(root, task, "train", "a", random_labels(task, 3), name)
        write_annotation(root, task, "validation", "b", random_labels(task, 4), name)
    (root / CHALLENGES["va"][0] / "Train_Set" / ".DS_Store").write_text("x")
    files = find_annotations(tmp_path)
    assert files.tasks == ("va", "expr", "au")
    found = list(read_annotations(files, ["au", "va"]))
    assert [(a.task, a.partition, a.video, len(a.labels_NK)) for a in found] == [
        ("au", "train", "a", 3),
        ("au", "validation", "b", 4),
        ("va", "train", "a", 3),
        ("va", "validation", "b", 4),
    ]


def test_what_else_lies_there_is_refused(tmp_path: Path) -> None:
    with refused(field="--annotations", found="no such folder"):
        find_annotations(tmp_path / "absent")
    with refused(field="--annotations", found="no folders"):
        find_annotations(tmp_path)
    path = write_annotation(tmp_path / "one", "va", "train", "a", random_labels("va", 3))
    with refused(field="--tasks", found="expr"):
        list(read_annotations(find_annotations(tmp_path), ["expr"]))
    write_annotation(tmp_path / "two", "va", "train", "a", random_labels("va", 3))
    with refused(field="folder of task va", found="one/VA_Estimation_Challenge, two/"):
        find_annotations(tmp_path)
    (tmp_path / "one" / MULTITASK_FILES["train"]).write_text(MULTITASK)
    with refused(field="form of annotations", found=MULTITASK_FILES["train"]):
        find_annotations(tmp_path / "one")
    (tmp_path / "one" / MULTITASK_FILES["train"]).unlink()
    other = path.with_suffix(".csv")
    other.write_text("")
    with refused(file="Train_Set", found="a.csv"):
        list(read_annotations(find_annotations(tmp_path / "one"), ["va"]))
    other.rename(path.parent.parent / "Extra_Set")
    with refused(found="Extra_Set", expected="Train_Set"):
        list(read_annotations(find_annotations(tmp_path / "one"), ["va"]))
