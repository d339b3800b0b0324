"""A store as a TensorFlow Datasets data set, written and read without TensorFlow.

TFDS reads records at random from ArrayRecord files only, and not from the store's TFRecord
shards, so the videos are written once more, value for value. One example is one video; the
splits are the store's partitions. Folds need no copies: ``info.metadata["folds"]`` holds split
expressions such as "train[0:3]+validation[1:2]", which ``as_data_source(split=...)`` takes.

TFDS is imported where it is used, because that takes seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.datasets.record import PARTITIONS, VideoRecord
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.specs import TASKS

# Reference -> the tasks that it has values for.
References = Mapping[str, Sequence[str]]
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NO_ROWS = "no rows if the video was not annotated for it"


def write_tfds(
    store: Store,
    folder: str | Path,
    *,
    version: str = "1.0.0",
    citation: str = "",
    license_text: str = "",
    homepage: str = "",
    videos_per_shard: int = 16,
    overwrite: bool = False,
) -> Path:
    """Writes all videos of a store as a TFDS data set.

    It is built beside its place and renamed when it is complete. Memory holds one video.

    Args:
        store: the videos; whatever fails their checksums stops the build.
        folder: data directory of TFDS; the data set goes to ``folder/NAME/VERSION``.
        version: three numbers.
        citation: the BibTeX entry of the data.
        license_text: under which the data may be used.
        homepage: the homepage of the data.
        videos_per_shard: examples in one file.
        overwrite: replaces this version of the data set.

    Returns:
        the folder for ``tfds.builder_from_directory``.

    Raises:
        InputError: an option is wrong, or the target exists.
    """
    name = tfds_name(store.name)
    target = Path(folder, name, version)
    _check_target(target, version, videos_per_shard, overwrite)
    partial = target.with_name(f"{version}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    about = {"citation": citation, "license": license_text, "homepage": homepage}
    try:
        _write(store, partial, name, version, about, videos_per_shard)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write(
    store: Store,
    folder: Path,
    name: str,
    version: str,
    about: Mapping[str, str],
    videos_per_shard: int,
) -> None:
    """Writes everything into an empty folder."""
    tfds: Any = importlib.import_module("tensorflow_datasets")
    references = _references(store)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name=name,
            version=tfds.core.Version(version),
            data_dir=str(folder),
            module_name=__name__,
        ),
        description=_description(store),
        features=_features(tfds, store, references),
        # The split expressions of folds rely on the order of the store.
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(_metadata(store)),
        **{key: text for key, text in about.items() if text},
    )
    # TFDS' other writers keep everything in memory, or need TensorFlow beyond a gigabyte.
    writer = tfds.core.SequentialWriter(info, videos_per_shard, file_format="array_record")
    writer.initialize_splits([part for part in PARTITIONS if store.partitions[part]])
    for i in range(len(store)):
        record = store.read(i)
        writer.add_examples({record.partition: [_example(record, store.tasks, references)]})
    writer.close_all()


def tfds_name(name: str) -> str:
    """Returns a store's name as TFDS allows it: letters, digits and "_", and a letter in front."""
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return word if word[:1].isalpha() else f"store_{word}".rstrip("_")


def fold_splits(store: Store) -> dict[str, dict[str, str]]:
    """Returns fold -> role -> TFDS split expression, without roles that have no videos."""
    place = {
        name: (part, i) for part, names in store.partitions.items() for i, name in enumerate(names)
    }
    return {
        fold.name: {
            role: _expression([place[name] for name in names])
            for role, names in (
                ("train", fold.train),
                ("validation", fold.validation),
                ("test", fold.test),
            )
            if names
        }
        for fold in store.folds.values()
    }


def _expression(places: Sequence[tuple[str, int]]) -> str:
    """Slices of splits, "train[0:3]+validation[1:2]", as few as the order allows."""
    slices: list[tuple[str, int, int]] = []
    for part, i in places:
        if slices and slices[-1][0] == part and slices[-1][2] == i:
            slices[-1] = (part, slices[-1][1], i + 1)
        else:
            slices.append((part, i, i + 1))
    return "+".join(f"{part}[{start}:{stop}]" for part, start, stop in slices)


def _references(store: Store) -> dict[str, list[str]]:
    """Returns the references that any video has, with their tasks."""
    found: dict[str, set[str]] = {}
    for i in range(len(store)):
        for reference, by_task in store.read(i).references.items():
            found.setdefault(reference, set()).update(by_task)
    return {name: [task for task in store.tasks if task in found[name]] for name in sorted(found)}


def _features(tfds: Any, store: Store, references: References) -> Any:
    """Returns the nested features of an example, with their units and marks of absence."""
    raw = tfds.features.Encoding.BYTES

    def array(dtype: str, doc: str, *columns: int) -> Any:
        return tfds.features.Tensor(
            shape=(None, *columns), dtype=np.dtype(dtype), encoding=raw, doc=doc
        )

    def group(parts: Mapping[str, Any], doc: str) -> Any:
        return tfds.features.FeaturesDict(dict(parts), doc=doc)

    streams = {}
    for spec in store.streams.values():
        dtype = store.row_dtypes[spec.name].name
        clock = "one row per frame" if spec.rate is None else f"{spec.rate:g} rows per second"
        streams[spec.name] = group(
            {
                "rows": array(dtype, "features, zeros where not valid", spec.width),
                "pts": array("float64", "seconds, the instant each row describes"),
                "valid": array("bool", "False where the extractor found nothing"),
            },
            f"{spec.modality}, {clock}",
        )
    labels, predictions = {}, {}
    for task in store.tasks:
        row = TASKS[task]
        what = f"{row.kind}: {', '.join(row.labels)}"
        absent = f"{row.ignore:g} where a frame is not annotated, {_NO_ROWS}"
        labels[task] = array("float32", f"{what}; a row per frame, {absent}", row.columns)
        predictions[task] = (what, row.outputs)
    features = {
        "name": tfds.features.Text(doc="unique in the data set"),
        "source_video": tfds.features.Text(doc="the file it was cut from; folds keep it together"),
        "attributes": tfds.features.Text(doc="what else is known of the video, JSON"),
        "pts": array("float64", "seconds of each frame, increasing"),
        "streams": group(streams, "rows of feature extractors, each on a clock of its own"),
        "labels": group(labels, "annotations of each frame"),
    }
    if references:
        known = {
            reference: group(
                {
                    task: array(
                        "float32",
                        f"{predictions[task][0]}; a row per frame, or none",
                        predictions[task][1],
                    )
                    for task in tasks
                },
                "predictions to compare with",
            )
            for reference, tasks in references.items()
        }
        features["references"] = group(known, "predictions that came with the data")
    return tfds.features.FeaturesDict(features)


def _example(record: VideoRecord, tasks: Sequence[str], references: References) -> dict[str, Any]:
    """Returns a video as TFDS encodes it; arrays as they are in the store."""

    def rows(values: np.ndarray | None, columns: int) -> np.ndarray:
        return np.zeros((0, columns), np.float32) if values is None else values

    example: dict[str, Any] = {
        "name": record.name,
        "source_video": record.source_video,
        "attributes": json.dumps(record.attributes, sort_keys=True),
        "pts": record.pts_N,
        "streams": {
            name: {"rows": data.rows_ND, "pts": data.pts_N, "valid": data.valid_N}
            for name, data in record.streams.items()
        },
        "labels": {task: rows(record.labels.get(task), TASKS[task].columns) for task in tasks},
    }
    if references:
        example["references"] = {
            name: {
                task: rows(record.references.get(name, {}).get(task), TASKS[task].outputs)
                for task in of_reference
            }
            for name, of_reference in references.items()
        }
    return example


def _description(store: Store) -> str:
    counts = store.metadata["counts"]
    about = str(store.metadata.get("description", "")).strip()
    return (f"{about}\n\n" if about else "") + (
        f"{counts['videos']} videos of {counts['frames']} frames in all, as rows of features, not "
        f"pictures. One example is one video. Streams: {', '.join(store.streams)}. Tasks: "
        f"{', '.join(store.tasks)}. Every array has the clock that lies beside it, in seconds "
        "from one origin for the whole video."
    )


def _metadata(store: Store) -> dict[str, Any]:
    """Returns vocabulary, order of the videos and folds, for which features have no place."""
    return {
        "store": {"name": store.name, "checksum": store.metadata["checksum"]},
        "builder": store.metadata.get("builder", {}),
        "streams": {
            spec.name: {"width": spec.width, "modality": spec.modality, "rate": spec.rate}
            for spec in store.streams.values()
        },
        "tasks": {
            task: {
                "kind": TASKS[task].kind,
                "labels": list(TASKS[task].labels),
                "not_annotated": TASKS[task].ignore,
            }
            for task in store.tasks
        },
        "videos": {part: list(names) for part, names in store.partitions.items() if names},
        "folds": fold_splits(store),
        "scored_frames": {
            fold.name: list(fold.scored_frames)
            for fold in store.folds.values()
            if fold.scored_frames is not None
        },
    }


def _check_target(target: Path, version: str, videos_per_shard: int, overwrite: bool) -> None:
    if not _VERSION.fullmatch(version):
        raise InputError(
            "This is no version of a data set.",
            field="--version",
            found=version,
            expected="three numbers, as in 1.0.0",
        )
    if videos_per_shard < 1:
        raise InputError(
            "A shard must hold videos.",
            field="--videos_per_shard",
            found=videos_per_shard,
            expected="at least 1",
        )
    if target.exists() and not (overwrite and (target / "features.json").is_file()):
        raise InputError(
            "Only a data set of TFDS can be overwritten."
            if overwrite
            else "This version of the data set exists already.",
            file=target,
            field="--out",
            found="something else" if overwrite else "an existing folder",
            expected="a new folder",
            remedy="choose another folder or --version" + ("" if overwrite else ", or --overwrite"),
        )
    if any(path.is_file() for path in target.parents):
        raise InputError(
            "There is a file where a folder should be.",
            file=target,
            field="--out",
            found="a file",
            expected="a folder, or nothing yet",
        )
