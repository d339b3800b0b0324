"""A table with a row for each video: its partition, its fold, and the person or recording."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from emojax.datasets.folds import Fold, make_folds, parse_scheme, rotating_blocks
from emojax.errors import InputError

from ..features.column_kinds import SOURCE
from ..tabular.reading import read_table

_NAMES = ("video", "videoname", "videoid", "recording", "clip", "name", *SOURCE)
_PARTITION = ("partition", "split", "set", "subset")
_GROUP = ("group", "person", "speaker", "subject", "participant", "actor", "sourcevideo")
_PARTITIONS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "devel": "validation",
    "development": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_USUAL_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class VideoRow:
    """One video's row of the table; "" where it says nothing.

    Attributes:
        partition: "train", "validation" or "test".
        fold: the fold in which the video validates.
        group: the person or recording, whose videos stay together.
    """

    partition: str = ""
    fold: str = ""
    group: str = ""


def read_videos(path: Path) -> dict[str, VideoRow]:
    """Reads a table of videos.

    Raises:
        InputError: the table is malformed, has no column of videos, or names one twice.
    """
    table = read_table(path)
    name = table.find(_NAMES)
    columns = {
        "partition": table.find(_PARTITION),
        "fold": table.find(("fold",)),
        "group": table.find(_GROUP),
    }
    if name is None or not any(columns.values()):
        raise table.error(
            "columns",
            ", ".join(table.names[:20]),
            "video, and one of partition, fold and group (or person, speaker, subject)",
        )
    cells = {key: table.column(column) for key, column in columns.items() if column}
    rows: dict[str, VideoRow] = {}
    for row, cell in enumerate(table.column(name)):
        video = PurePosixPath(cell.replace("\\", "/"))
        stem = video.stem if 1 < len(video.suffix) <= 5 else video.name
        found = {key: of[row] for key, of in cells.items()}
        if not stem or stem in rows:
            raise table.error(table.where(row), cell or "nothing", "each video once")
        if "partition" in found:
            word = found["partition"].casefold()
            if word not in _PARTITIONS:
                where = f"{table.where(row)}, column {columns['partition']}"
                raise table.error(where, word, "train, validation or test")
            found["partition"] = _PARTITIONS[word]
        rows[stem] = VideoRow(**found)
    return rows


def folds_of(
    described: Sequence[tuple[str, str, str]],
    rows: Mapping[str, VideoRow],
    scheme: str,
    *,
    seed: int,
    classes: Mapping[str, np.ndarray] | None,
) -> list[Fold]:
    """Makes the folds of a store of one's own videos.

    The column ``fold`` says in which fold a video validates; else validation videos make the
    official fold of a scheme; else training videos are dealt into blocks.

    Args:
        described: (name, source video or person, partition) of each video.
        rows: the table of videos, or nothing.
        scheme: ``--folds``; "" for the official fold, or five blocks; none for a single person.
        seed: the seed of the blocks.
        classes: video -> (classes,) annotated frames of each class, to make blocks even.

    Raises:
        InputError: the scheme does not fit the videos.
    """
    train = [name for name, _, part in described if part == "train"]
    test = tuple(name for name, _, part in described if part == "test")
    named = {name: rows[name].fold for name in train if name in rows and rows[name].fold}
    if named and not scheme:
        lacking = [name for name in train if name not in named]
        if lacking or len({*named.values()}) < 2:
            raise InputError(
                "The folds of the table of videos are incomplete.",
                field="column fold",
                found=f"no fold for {lacking[0]}" if lacking else "one fold",
                expected="a fold for each training video, and at least two folds",
            )
        names = sorted({*named.values()}, key=lambda name: (len(name), name))
        return [
            Fold(
                name,
                tuple(video for video in train if named[video] != name),
                tuple(video for video in train if named[video] == name),
                test,
            )
            for name in names
        ]
    if any(part == "validation" for _, _, part in described):
        return make_folds(scheme or "official", described, seed=seed, classes=classes)
    kind, count = parse_scheme(scheme) if scheme else ("blocks", _USUAL_FOLDS)
    groups = {source for _, source, part in described if part == "train"}
    if not scheme and len(groups) < 2:
        return []
    if not scheme:
        count = min(count, len(groups))
    if kind != "blocks" or count < 2 or count > len(groups):
        raise InputError(
            "The folds do not fit the videos.",
            field="--folds",
            found=f"{scheme or 'nothing'}, for {len(groups)} people or recordings with labels",
            expected=f"blocks:K with K from 2 to {len(groups)}, as no video validates",
            remedy="label more videos, or name the validation videos in --videos",
        )
    return rotating_blocks(described, count, seed, classes)
