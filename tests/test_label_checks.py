"""Labels that are missing are told before the first step, not by a score of zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emojax.core.session import build_session
from emojax.datasets.folds import Fold
from emojax.datasets.record import VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.prediction.predictor import read_annotations
from emojax.training.label_checks import check_labels
from emojax.training.loop import Trainer
from tests.refusals import refused
from tests.small_store import STREAMS, make_record, small_config

Change = Callable[[VideoRecord], VideoRecord]
LENGTHS = {"a": ("train", 40), "b": ("train", 44), "c": ("validation", 48)}


def store_of(path: Path, tasks: tuple[str, ...], change: Change, *folds: Fold) -> Store:
    with StoreWriter(path, name="s", streams=STREAMS, tasks=tasks) as writer:
        for i, (name, (part, frames)) in enumerate(LENGTHS.items()):
            record = make_record(name, part, num_frames=frames, seed=i, tasks=tasks)
            writer.add(change(record))
        writer.finish(list(folds) or [Fold("0", ("a", "b"), ("c",))])
    return Store(path)


def warnings_of(store: Store, workdir: Path, task: str) -> list[str]:
    config = small_config(store.path)
    config["data"]["tasks"] = (task,)
    config["loss"] = {}
    config["evaluation"] = {"selection": {}}
    config["replicas"] = {"folds": ("0",), "targets": ("all",), "seeds": (0,)}
    session = build_session(config, store.streams)
    Trainer(session, store, workdir)  # refuses what cannot be trained
    fold = store.fold("0")
    truths = [{task: read_annotations(store, fold, fold.validation, task)}]
    return check_labels(session, store, truths)


def changed(task: str, part: str, values: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(record: VideoRecord) -> VideoRecord:
        if record.partition != part:
            return record
        labels = {**record.labels, task: values(record.labels[task].copy())}
        return dataclasses.replace(record, labels=labels)

    return change


def test_labels_as_they_should_be_are_not_told(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", ("va",), lambda record: record)
    assert warnings_of(store, tmp_path / "r", "va") == []


@pytest.mark.parametrize(("part", "count"), [("validation", 1), ("train", 2)])
@pytest.mark.parametrize("task", ["va", "expr", "au"])
def test_a_fold_without_labels_is_refused(task: str, part: str, count: int, tmp_path: Path) -> None:
    ignore = -5.0 if task == "va" else -1.0
    change = changed(task, part, lambda values: np.full_like(values, ignore))
    store = store_of(tmp_path / "s", (task,), change)
    with refused(field=f"fold 0, task {task}", found=f"{count} {'training' if count > 1 else ''}"):
        warnings_of(store, tmp_path / "r", task)


def test_a_fold_without_validation_videos_is_refused(tmp_path: Path) -> None:
    fold = Fold("0", ("a", "b"), (), ("c",))
    store = store_of(tmp_path / "s", ("va",), lambda record: record, fold)
    with refused(field="config.replicas.folds", found="0 validation videos"):
        warnings_of(store, tmp_path / "r", "va")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_missing_classes_are_told(part: str, tmp_path: Path) -> None:
    def spread(record: VideoRecord) -> VideoRecord:
        every = (np.arange(record.num_frames)[:, None] % 8).astype(np.float32)
        return dataclasses.replace(record, labels={"expr": every})

    without = changed("expr", part, lambda values: np.where(values == 3, 4, values))
    store = store_of(tmp_path / "s", ("expr",), lambda record: without(spread(record)))
    (line,) = warnings_of(store, tmp_path / "r", "expr")
    assert "Fear" in line
    assert "Anger" not in line
    assert ("training" in line) == (part == "train")
    store = store_of(tmp_path / "t", ("expr",), spread)
    assert warnings_of(store, tmp_path / "q", "expr") == []


def test_units_that_are_never_on_are_told(tmp_path: Path) -> None:
    def off(values: np.ndarray) -> np.ndarray:
        values[:, 2] = 0
        return values

    store = store_of(tmp_path / "s", ("au",), changed("au", "validation", off))
    (line,) = warnings_of(store, tmp_path / "r", "au")
    assert "AU4" in line
    assert "validation" in line
