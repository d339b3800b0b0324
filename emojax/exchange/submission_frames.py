"""Lists the frames of a submission: those of the organisers' template, or of whole videos."""

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
        locations: (N,) texts such as "video/00001.jpg", as the organisers spell them.
        videos: (V,) names in the order of their first row.
        video_N: (N,) int64, the position in ``videos`` of each row's video.
        number_N: (N,) int64, the frame of each row, counted from 1.
    """

    locations: tuple[str, ...]
    videos: tuple[str, ...]
    video_N: np.ndarray
    number_N: np.ndarray

    def __len__(self) -> int:
        """Returns N, the number of rows."""
        return len(self.locations)


def header_of(task: str) -> list[str]:
    """Returns the header of a submission: "image_location" and the labels of the task."""
    return [LOCATION, *TASKS[task].labels]


def read_lines(path: Path, what: str, field: str) -> list[str]:
    """Returns the lines of a text file without line ends; empty lines at its end are dropped.

    Args:
        path: the file to read.
        what: the name of the file in messages, such as "template".
        field: the flag or column that the messages name.

    Raises:
        InputError: the file does not exist or is not UTF-8 text.
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
    # Not splitlines(), which would also split at a form feed in a damaged file.
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def check_header(line: str, task: str, path: Path, field: str) -> None:
    """Refuses a header that is not the task's; the remedy names the task that has it.

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
    """Returns the video and the frame number of a location such as "video/00001.jpg".

    Raises:
        InputError: the text has another form, or the frame is 0.
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
    """Reads the frames of the organisers' template, in its order.

    The values in the rows are ignored: some templates leave them out, others hold zeros.

    Args:
        path: a text file with the header ``image_location,...`` and one row per frame.
        task: the task whose columns the header must name.

    Raises:
        InputError: the header is wrong, a row names no frame, or two rows name the same frame.
    """
    path = Path(path)
    lines = read_lines(path, "template", "--template")
    check_header(lines[0].removeprefix("\ufeff") if lines else "", task, path, "--template")
    if len(lines) < 2:
        raise InputError(
            "The template has no rows.",
            file=path,
            field="--template",
            found="a header alone",
            expected="one row per frame",
        )
    return frame_list([line.split(",", 1)[0].strip() for line in lines[1:]], path)


def frame_list(locations: Sequence[str], path: Path) -> FrameList:
    """Parses locations, the first of which is in line 2 of the file.

    Raises:
        InputError: a row names no frame, or two rows name the same frame.
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
    """Lists all frames of videos (video -> number of frames), named as in Aff-Wild2."""
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
    """Reads the names of a test set's videos, one on each line, without a header.

    Raises:
        InputError: the file is empty, a name occurs twice, or a line is not the name of a video.
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
                remedy="name a file with rows of frames as --template" if "," in name else None,
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
            expected="the name of one video on each line",
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
            "The template and the test list name different videos.",
            file=template,
            field="--test_list",
            found=f"{len(unlisted)} only in the template, {len(unasked)} only in the list: "
            + shortened([*unlisted, *unasked]),
            expected="the same videos",
            remedy="use a template and a test list of the same task and edition",
        )


def shortened(names: Sequence[str], count: int = 5) -> str:
    """Returns the first few names and, if there are more, the number of all."""
    more = f", ... ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + more
