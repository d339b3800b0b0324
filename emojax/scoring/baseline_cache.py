"""Keeps fitted ridge baselines on disk, so that a fold of a store is fitted once.

A fit depends on the store's content and on what it was asked for, and not on the run beside which
it is printed. So all runs of a user share one folder, ``~/.cache/emojax/baselines`` (below
``XDG_CACHE_HOME`` if that is set). A file is named after a hash of everything that the fit depends
on, which it repeats inside, and carries a checksum. A file that is damaged, or of another fit, is
ignored and written again. A folder that cannot be written to costs the time of a fit and no more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emojax.datasets.documents import read_document, write_document
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.file_writing import replacing
from emojax.scoring.baseline import GROUPS, PENALTIES, WIDTHS, RidgeBaseline, fit_ridge
from emojax.scoring.ridge import Statistics

# Raise this version with every change of the numbers that ``fit_ridge`` returns.
_FIT_VERSION = 2


def cached_ridge(store: Store, fold: str, streams: tuple[str, ...], task: str) -> RidgeBaseline:
    """Returns ``fit_ridge`` of the same arguments, from disk if it was fitted before.

    Args:
        store: the store to fit on.
        fold: the fold's name.
        streams: the names of the streams, in order.
        task: the task's name.

    Raises:
        InputError: as ``fit_ridge``.
    """

    def fit() -> RidgeBaseline:
        return fit_ridge(store, fold, streams, task)

    if any(name not in store.streams for name in streams) or fold not in store.folds:
        return fit()
    statistics = {name: store.statistics(fold)[name] for name in streams}
    key = {
        "fit_version": _FIT_VERSION,
        "store": store.metadata["checksum"],
        "fold": fold,
        "train": list(store.fold(fold).train),
        "statistics": {name: [m.tolist(), s.tolist()] for name, (m, s) in statistics.items()},
        "task": task,
        "choices": [list(PENALTIES), list(WIDTHS), GROUPS],
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return _cached(cache_folder() / f"{digest}.json", digest, statistics, fit)


def cache_folder() -> Path:
    """Returns the folder of the fitted baselines, which need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "emojax" / "baselines"


def _cached(
    path: Path, digest: str, statistics: Statistics, fit: Callable[[], RidgeBaseline]
) -> RidgeBaseline:
    try:
        content = read_document(path)
        if content["key"] == digest:
            return _from_document(content["fit"], statistics)
    # The checksum has been verified, so other errors mean another version's file.
    except (InputError, KeyError, TypeError, ValueError):
        pass
    fitted = fit()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            write_document(partial, {"key": digest, "fit": _to_document(fitted)})
    except (InputError, OSError):
        pass
    return fitted


def _to_document(fit: RidgeBaseline) -> dict[str, Any]:
    """Returns JSON values from which the same bits are read back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, np.ndarray):
            # JSON has no NaN, which stands for a score that was not validated.
            numbers = value.astype(object)
            numbers[np.isnan(value)] = None
            return numbers.tolist()
        return value

    fields = (field.name for field in dataclasses.fields(fit) if field.name != "statistics")
    return {name: plain(getattr(fit, name)) for name in fields}


def _from_document(values: Mapping[str, Any], statistics: Statistics) -> RidgeBaseline:
    read = dict(values) | {
        name: np.array(value, np.float64)
        for name, value in values.items()
        if isinstance(value, list)
    }
    read["weights"] = {
        name: np.array(weights, np.float64) for name, weights in values["weights"].items()
    }
    return RidgeBaseline(statistics=statistics, **read)
