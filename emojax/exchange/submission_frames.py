"""Lists the frames a submission answers: the organisers' template, a test list, or whole videos."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emojax.datasets.store_checks import check_name
from emojax.errors import InputError
from emojax.specs import TASKS

LOCATION = "image_location"
# The three challenges of ABAW; the columns of each are the labels of the task.
SUBMISSION_TASKS = ("va", "expr", "au")
_FRAME = re.compile(r"(?P<video>[^/\\]+)/(?P<number>[0-9]{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_VIDEO_SUFFIXES = (".mp4", ".avi", ".txt", ".mov")


@dataclasses.dataclass(frozen=True)
class FrameList:
    """The rows of a submission, in order; N rows over V videos.

    Attributes:
        locations: (N,) "video/00001.jpg", as the organisers spell them.
        videos: (V,) names in the order of their first row.
        video_N: (N,) int64, which of the videos each row is about.
        number_N: (N,) int64, the frame, counted from 1.
    """

    locations: tuple[str, ...]
    videos: tuple[str, ...]
    video_N: np.ndarray
    number_N: np.ndarray

    def __len__(self) -> int:
        """N, the number of rows."""
        return len(self.locations)


def header_of(task: str) -> list[str]:
    """The first line of a submission, "image_location" and the labels of the task."""
    return [LOCATION, *TASKS[task].labels]


def read_lines(path: Path, what: str, field: str) -> list[str]:
    """The lines of a text file without their ends; empty lines at its end do not count.

    Args:
        path: the file.
        what: "template", "submission", ... for the message.
        field: the flag or column that is concerned.

    Raises:
        InputError: there is no such file, or it is not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"The {what} cannot be read.",
            file=path,
            field=field,
            found=error.strerror,
            expected="a text file",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The {what} is not text.",
            file=path,
            field=field,
            found=f"byte {error.object[error.start]:#04x} at {error.start}",
            expected="UTF-8 text",
        ) from error
    # Not splitlines(), for which a form feed in a damaged file would be one more line.
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def check_header(line: str, task: str, path: Path, field: str) -> None:
    """Refuses a header that is not the task's, and says if it is another task's.

    Raises:
        InputError: the columns are not those of the task.
    """
    found = [cell.strip() for cell in line.split(",")]
    if found == header_of(task):
        return
    others = [name for name in SUBMISSION_TASKS if found == header_of(name)]
    raise InputError(
        f"The header is not that of {task!r}.",
        file=path,
        field=f"{field}, line 1",
        found=line or "an empty line",
        expected=",".join(header_of(task)),
        remedy=f"this is a file for --task={others[0]}" if others else None,
    )


def parse_location(text: str, path: Path, line: int) -> tuple[str, int]:
    """Video and frame number of "video/00001.jpg".

    Raises:
        InputError: it does not look like that, or the frame is 0.
    """
    match = _FRAME.fullmatch(text)
    if match is None or int(match["number"]) < 1:
        raise InputError(
            "A row does not name a frame.",
            file=path,
            field=f"{LOCATION}, line {line}",
            found=text or "nothing",
            expected="video/00001.jpg, with frames counted from 1",
        )
    return match["video"], int(match["number"])


def read_template(path: str | Path, task: str) -> FrameList:
    """The frames that the organisers ask for, in their order.

    What a row holds beside its frame does not count: templates come with nothing there, or with
    zeros.

    Args:
        path: a text file, ``image_location,...`` and one row per frame.
        task: whose columns the header must name.

    Raises:
        InputError: the header is another one, a row names no frame, or two rows the same.
    """
    path = Path(path)
    lines = read_lines(path, "template", "--template")
    check_header(lines[0].removeprefix("\ufeff") if lines else "", task, path, "--template")
    if len(lines) < 2:
        raise InputError(
            "The template asks for no frame.",
            file=path,
            field="--template",
            found="a header alone",
            expected="one row per frame",
        )
    return frame_list([line.split(",", 1)[0].strip() for line in lines[1:]], path)


def frame_list(locations: Sequence[str], path: Path) -> FrameList:
    """Takes frames apart, the first of which is in line 2 of a file.

    Raises:
        InputError: a row names no frame, or two rows the same.
    """
    places: dict[str, int] = {}
    seen: dict[tuple[int, int], int] = {}
    for line, location in enumerate(locations, 2):
        video, number = parse_location(location, path, line)
        key = (places.setdefault(video, len(places)), number)
        if seen.setdefault(key, line) != line:
            raise InputError(
                "A frame occurs twice.",
                file=path,
                field=f"{LOCATION}, line {line}",
                found=f"{location}, as in line {seen[key]}",
                expected="each frame once",
            )
    keys_N2 = np.array(list(seen), np.int64).reshape(-1, 2)
    return FrameList(tuple(locations), tuple(places), keys_N2[:, 0], keys_N2[:, 1])


def every_frame(frames: Mapping[str, int]) -> FrameList:
    """All frames of videos, video -> number of frames, named as Aff-Wild2 names them."""
    counts_V = list(frames.values())
    numbers = [np.arange(1, count + 1) for count in counts_V]
    return FrameList(
        locations=tuple(
            f"{name}/{i:05d}.jpg" for name, count in frames.items() for i in range(1, count + 1)
        ),
        videos=tuple(frames),
        video_N=np.repeat(np.arange(len(counts_V)), counts_V),
        number_N=np.concatenate(numbers) if numbers else np.zeros(0, np.int64),
    )


def read_test_list(path: str | Path) -> list[str]:
    """Names of a test set's videos: one a line, no header.

    Raises:
        InputError: the file names nothing, a name twice, or something that is no video's name.
    """
    path = Path(path)
    names: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, "test list", "--test_list"), 1):
        name = line.removeprefix("\ufeff").strip()
        field = f"--test_list, line {number}"
        if name.lower().endswith(_VIDEO_SUFFIXES) or "," in name:
            raise InputError(
                "A line of the test list is not the name of a video.",
                file=path,
                field=field,
                found=name,
                expected="a name without suffix, as in 7-60-1920x1080_left",
                remedy="give a file with rows of frames as --template" if "," in name else None,
            )
        check_name(name, field, path)
        if names.setdefault(name, number) != number:
            raise InputError(
                "The test list names a video twice.",
                file=path,
                field=field,
                found=f"{name}, as in line {names[name]}",
                expected="each video once",
            )
    if not names:
        raise InputError(
            "The test list is empty.",
            file=path,
            field="--test_list",
            found="no line",
            expected="one name of a video a line",
        )
    return list(names)


def check_same_videos(frames: FrameList, names: Sequence[str], template: str | Path) -> None:
    """Refuses a template whose videos are not those of the test list.

    Raises:
        InputError: videos are missing on either side.
    """
    unlisted = [name for name in frames.videos if name not in set(names)]
    unasked = [name for name in names if name not in set(frames.videos)]
    if unlisted or unasked:
        raise InputError(
            "Template and test list name different videos.",
            file=template,
            field="--test_list",
            found=f"{len(unlisted)} only in the template, {len(unasked)} only in the list: "
            + shortened([*unlisted, *unasked]),
            expected="the same videos",
            remedy="take both of the same task and edition",
        )


def shortened(names: Sequence[str], count: int = 5) -> str:
    """A few names, and how many more there are."""
    more = f", ... ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + more
