"""Makes run folders from state dicts of public PyTorch models; see ``models/torch_layouts.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.core.session import Session, fold_normalisation
from emojax.core.state import init_variables, named_leaves
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.exchange.run_weights import variables_of, write_run
from emojax.exchange.weight_files import as_float32, read_tensors
from emojax.models.torch_layouts import LAYOUTS
from emojax.models.torch_names import TorchWeights, find_modalities, load_torch_names
from emojax.prediction.trained_run import TrainedRun
from emojax.specs import TASKS, StreamSpec

# Modalities that enter the public models as images or spectrograms and pass a backbone within the
# model. The features that the backbone returns are not normalised again.
_NOT_NORMALISED = ("video", "cnn", "cnn_res50", "logmel")

Statistics = dict[str, tuple[np.ndarray, np.ndarray]]
Streams = Mapping[str, StreamSpec]


@dataclasses.dataclass(frozen=True)
class TorchReplica:
    """The outcome of importing one state dict.

    Attributes:
        replica: the name of the replica.
        path: the file of the state dict.
        weights: the arrays and the names that were used.
    """

    replica: str
    path: Path
    weights: TorchWeights


def import_torch(
    session: Session,
    layout: str,
    files: Mapping[str, str | Path],
    workdir: str | Path,
    *,
    statistics: str = "public",
    modalities: tuple[str, ...] = (),
    store: Store | None = None,
) -> tuple[TrainedRun, list[TorchReplica]]:
    """Makes a run folder from state dicts, one for each replica.

    Args:
        session: a session with the widths of the models that were saved.
        layout: a key of ``LAYOUTS``.
        files: replica name (``session.names``), or "" for every replica -> file.
        workdir: the folder to make.
        statistics: the normalisation of the features: a key of ``STATISTICS``.
        modalities: the names of the streams in the state dicts, in the order of the
            configuration's streams, which must be the order in the public model. If empty, they
            are found by name.
        store: the store whose training statistics are used, and whose folds the replicas name.

    Returns:
        The run, and the outcome of importing each replica.

    Raises:
        InputError: a layout, file, tensor or modality does not fit the session.
    """
    model = session.config.model["name"]
    if model != LAYOUTS[layout].model:
        raise InputError(
            f"Layout {layout!r} does not belong to this model.",
            field="--config",
            found=f"model {model}",
            expected=f"model {LAYOUTS[layout].model}",
            remedy=f"use a configuration of configs/{LAYOUTS[layout].model}.py",
        )
    abstract = session.abstract_state()
    tree = variables_of({"params": abstract.params, "model_state": abstract.model_state})
    shapes = {name: leaf.shape[1:] for name, leaf in named_leaves(tree).items()}
    imported, names = [], {}
    for index, replica in enumerate(session.names):
        path = Path(_file_of(replica, session.replicas[index].target, session.names, files))
        weights, names[replica] = _load(session, index, layout, path, modalities, shapes)
        imported.append(TorchReplica(replica, path, weights))
    stacked = _stack(session, [one.weights for one in imported], list(shapes))
    variables = jax.tree.unflatten(jax.tree.structure(tree), stacked)
    if statistics == "public" and LAYOUTS[layout].column_statistics:
        statistics = "store"
    normalisation = STATISTICS[statistics](
        session.streams, session.folds.keys, store, names[session.names[0]]
    )
    place = {"name": "", "path": "", "checksum": ""}
    if store is not None:
        checksum = store.metadata["checksum"]
        place = {"name": store.name, "path": str(store.path), "checksum": checksum}
    return write_run(workdir, session, variables, normalisation, place, step=0), imported


def _stack(
    session: Session, replicas: Sequence[TorchWeights], names: Sequence[str]
) -> list[np.ndarray]:
    """Stacks the arrays along R; tensors that a state dict lacks keep their initial values."""
    rows = []
    for weights, replica in zip(replicas, session.replicas, strict=True):
        initial = _initial(session, replica.seed, weights.missing) if weights.missing else {}
        rows.append({**initial, **weights.arrays})
    return [np.stack([row[name] for row in rows]) for name in names]


def _initial(session: Session, seed: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns initial values of some parameters and statistics, as ``session.init_state`` draws."""

    @jax.jit
    def draw(seed: jax.Array) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        params, model_state = init_variables(
            session.model, session.streams, session.window_spec.lengths, key
        )
        leaves = named_leaves(variables_of({"params": params, "model_state": model_state}))
        return {name: leaves[name] for name in names}

    return jax.device_get(draw(np.uint32(seed)))


def _file_of(
    name: str, target: str, names: Sequence[str], files: Mapping[str, str | Path]
) -> str | Path:
    for key in (name, target, ""):
        if key in files and (key or len(names) == 1):
            return files[key]
    raise InputError(
        f"There is no state dict for replica {name!r}.",
        field="--weights",
        found=", ".join(f"{key}={path}" if key else str(path) for key, path in files.items()),
        expected=", ".join(f"{one}=FILE" for one in names),
        remedy="name a file for each replica, or configure fewer replicas: "
        f"--config.replicas.targets={target}",
    )


def _load(
    session: Session,
    index: int,
    layout: str,
    path: Path,
    modalities: tuple[str, ...],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[TorchWeights, dict[str, str]]:
    """Returns the arrays of one replica, and modality -> stream."""
    file = read_tensors(path)
    streams = tuple(session.streams)
    try:
        if not modalities:
            found = find_modalities(list(file.tensors), streams)
        elif len(modalities) != len(streams):
            raise InputError(
                "Each stream needs the name of its modality.",
                field="--modalities",
                found=", ".join(modalities),
                expected=f"one for each of {', '.join(streams)}",
            )
        else:
            found = dict(zip(modalities, streams, strict=True))
        target = session.replicas[index].target
        if LAYOUTS[layout].whole_task:
            head, column = _task_heads(target, session.tasks), 0
        else:
            head, column = _head(target, session.tasks, shapes)
        weights = load_torch_names(
            layout, file.tensors, shapes, modalities=found, head=head, column=column
        )
    except InputError as error:
        raise InputError(error.summary, file=path, **_without_file(error)) from error
    for name in weights.taken:
        as_float32(file, name)
    _check_missing(path, head, weights)
    return weights, found


def _without_file(error: InputError) -> dict[str, Any]:
    return {key: value for key, value in error.details.items() if key != "file"}


def _head(
    target: str, tasks: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, int]:
    """Finds the head that predicts a replica's target, and the target's column there."""
    for task in tasks:
        labels = TASKS[task].labels
        column = labels.index(target) if target in labels else 0
        if target in (task, "all", *labels):
            head = f"head_{task}_{target}"
            joint = f"head_{task}"
            found = [h for h in (head, joint) if f"params/{h}/output/kernel" in shapes]
            if found:
                return found[0], column
    raise InputError(
        "The public models have one head, but this replica has several.",
        field="config.replicas.targets",
        found=target,
        expected="one label, such as valence",
        remedy="--config.replicas.targets=valence, or --config.model.heads=joint",
    )


def _task_heads(target: str, tasks: Sequence[str]) -> str:
    """Returns the beginning of the names of the heads of a replica's only task."""
    found = [task for task in tasks if target in (task, *TASKS[task].labels)]
    found = list(tasks) if target == "all" else found
    if len(found) == 1:
        return f"head_{found[0]}"
    raise InputError(
        "The public models predict one task, but this replica predicts several.",
        field="config.data.tasks",
        found=", ".join(tasks),
        expected="one of them",
        remedy="--config.data.tasks=va --config.replicas.targets=va",
    )


def _check_missing(path: Path, head: str, weights: TorchWeights) -> None:
    """Refuses a state dict that lacks more tensors than those of the heads of other targets.

    Args:
        path: the file.
        head: the head that it must fill, or the beginning of several heads' names.
        weights: what it fills.
    """
    other = [
        name
        for name in weights.missing
        if not name.split("/")[1].startswith("head_") or name.split("/")[1].startswith(head)
    ]
    if other:
        raise InputError(
            f"The state dict lacks {len(other)} of {len(other) + len(weights.arrays)} tensors "
            "of the model.",
            file=path,
            field=other[0],
            found=f"{len(weights.taken)} tensors taken, {len(weights.unused)} not known",
            expected="a tensor of the model; emojax weights layouts lists the names",
            remedy="configure the layers and streams of the model that was saved",
        )


# -- normalisation -----------------------------------------------------------------------------


def _identity(
    streams: Streams, folds: Sequence[str], store: Store | None, names: Mapping[str, str]
) -> Statistics:
    del store, names
    statistics = {
        stream: (np.zeros(spec.width, np.float32), np.ones(spec.width, np.float32))
        for stream, spec in streams.items()
    }
    if len(folds) == 1:
        return statistics
    return {
        stream: (np.stack([mean_D] * len(folds)), np.stack([std_D] * len(folds)))
        for stream, (mean_D, std_D) in statistics.items()
    }


def _of_store(
    streams: Streams, folds: Sequence[str], store: Store | None, names: Mapping[str, str]
) -> Statistics:
    if store is None:
        raise InputError(
            "Statistics of the training videos need a store.",
            field="--config.data.store",
            found="nothing",
            expected="the folder of a store, for " + ", ".join(names.values()),
            remedy="name a store, or pass --statistics=identity",
        )
    return fold_normalisation(store, folds, streams)


def _public(
    streams: Streams, folds: Sequence[str], store: Store | None, names: Mapping[str, str]
) -> Statistics:
    """Returns the public code's statistics: none after a backbone, else one mean and deviation."""
    result = _identity(streams, folds, store, names)
    scaled = {modal: stream for modal, stream in names.items() if modal not in _NOT_NORMALISED}
    if scaled:
        trained = _of_store(streams, folds, store, scaled)
        for stream in scaled.values():
            mean_D, std_D = (np.asarray(values, np.float64) for values in trained[stream])
            # All columns have as many rows, so overall moments are means of column moments.
            mean = mean_D.mean(-1, keepdims=True)
            square = (std_D**2 + mean_D**2).mean(-1, keepdims=True)
            std = np.sqrt(np.maximum(square - mean**2, 0.0))
            ones = np.ones_like(mean_D)
            result[stream] = (
                (mean * ones).astype(np.float32),
                np.where(std > 0, std * ones, 1.0).astype(np.float32),
            )
    return result


STATISTICS: dict[
    str, Callable[[Streams, Sequence[str], Store | None, Mapping[str, str]], Statistics]
] = {
    "public": _public,
    "store": _of_store,
    "identity": _identity,
}
