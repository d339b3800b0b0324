"""Exports replicas as self-contained weight files, and makes run folders from such files.

A weight file is a ``.safetensors`` file of one replica. Its tensors are float32, named by path:
    params/...                     parameters at the best validation
    batch_stats/...                running statistics, if the model has any
    normalisation/STREAM/mean      training statistics of the stream, (D,)
    normalisation/STREAM/std
Its metadata are JSON texts: ``format``, ``code_version``, ``config`` (of the whole run, without the
path of the store), ``streams``, ``tasks``, ``replica``, ``branches`` (true if the weights are from
a stage that trains temporary heads), ``step`` and ``store`` (name and checksum).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax import __version__
from emojax.config_reading import as_plain
from emojax.core.replicas import Groups, Replica
from emojax.core.schedule import initial_state
from emojax.core.session import Session
from emojax.core.state import named_leaves
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.exchange.weight_files import TensorFile, as_float32, read_tensors, write_tensors
from emojax.ops.own_tasks import declare_tasks, described_tasks
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.trained_run import TrainedRun, open_run, stored, stored_session
from emojax.rundir.checkpoint import Checkpoints, describe
from emojax.specs import StreamSpec

FORMAT = "emojax-weights-1"
_KEYS = (
    "format", "code_version", "config", "streams", "tasks", "replica", "branches", "step", "store",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReplicaFile:
    """The content of a weight file.

    Attributes:
        file: the tensors.
        config: the configuration of the run that it was exported from.
        streams: stream -> specification, for the streams that the model reads.
        replica: fold, targets, seed and rates of the replica.
        branches: True if the replica predicts with the model's temporary heads.
        step: the step of the checkpoint.
        store: {"name", "checksum"} of the training store.
    """

    file: TensorFile
    config: dict[str, Any]
    streams: dict[str, StreamSpec]
    replica: Replica
    branches: bool
    step: int
    store: dict[str, str]


def variables_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Turns {"params", "model_state"} into one tree of collections: {"params", "batch_stats"}."""
    return {"params": weights["params"], **weights["model_state"]}


def export_replica(run: TrainedRun, index: int, path: str | Path) -> int:
    """Writes one replica's best weights to a file.

    Args:
        run: an opened run.
        index: the position of the replica in ``run.session.replicas``.
        path: the file to write, ending in ".safetensors".

    Returns:
        The file's size in bytes.

    Raises:
        InputError: the replica's training diverged, or the file cannot be written.
    """
    session = run.session
    if run.lost_R[index]:
        raise InputError(
            "The replica has no trained weights.",
            file=run.workdir,
            field=session.names[index],
            found="a replica whose training diverged",
            expected="a replica with finite scores",
            remedy="name another replica with --replica",
        )
    leaves = named_leaves(variables_of(run.best))
    tensors = {name: np.asarray(jax.device_get(leaf[index])) for name, leaf in leaves.items()}
    fold = int(session.folds.members_R[index])
    for stream, statistics in run.normalisation.items():
        for name, values in zip(("mean", "std"), statistics, strict=True):
            values = np.asarray(jax.device_get(values))
            tensors[f"normalisation/{stream}/{name}"] = values if values.ndim == 1 else values[fold]
    config = as_plain(session.config)
    config["data"]["store"] = ""
    metadata = {
        "format": FORMAT,
        "code_version": __version__,
        "config": config,
        "streams": {name: dataclasses.asdict(spec) for name, spec in session.streams.items()},
        "tasks": list(session.tasks),
        "replica": dataclasses.asdict(session.replicas[index]),
        "branches": run.branches_R is not None and bool(run.branches_R[index]),
        "step": run.step,
        "store": {"name": Path(run.store_path).name, "checksum": run.store_checksum},
    }
    told = {key: json.dumps(metadata[key]) for key in _KEYS}
    own = described_tasks(session.tasks)
    return write_tensors(path, tensors, told | ({"own_tasks": json.dumps(own)} if own else {}))


def read_replica(path: str | Path) -> ReplicaFile:
    """Reads a weight file.

    Raises:
        InputError: the file is damaged, or ``export_replica`` did not write it.
    """
    file = read_tensors(path)
    missing = [key for key in _KEYS if key not in file.metadata]
    try:
        if missing:
            raise KeyError(missing[0])
        values = {key: json.loads(file.metadata[key]) for key in _KEYS}
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}")
        declare_tasks(json.loads(file.metadata.get("own_tasks", "{}")))
        return ReplicaFile(
            file,
            dict(values["config"]),
            {name: StreamSpec(**spec) for name, spec in values["streams"].items()},
            _replica(values["replica"]),
            bool(values["branches"]),
            int(values["step"]),
            {key: str(values["store"][key]) for key in ("name", "checksum")},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            "The file was not exported by emojax.",
            file=path,
            field="metadata",
            found=(f"no {error}" if isinstance(error, KeyError) else str(error))[:200],
            expected=f"{FORMAT}, with {', '.join(_KEYS[1:])}",
            remedy="export it again; for a PyTorch state dict, use import_torch",
        ) from error


def _replica(fields: dict[str, Any]) -> Replica:
    replica = Replica(**fields)
    for field in ("fold", "target"):
        if not isinstance(getattr(replica, field), str):
            raise TypeError(f"{field} of the replica is not text")
    for field in ("seed", "learning_rate", "weight_decay"):
        if not isinstance(getattr(replica, field), int | float):
            raise TypeError(f"{field} of the replica is not a number")
    return replica


def import_replicas(
    files: Sequence[ReplicaFile], workdir: str | Path, store: str | Path = ""
) -> TrainedRun:
    """Makes a run folder from exported replicas, which evaluates and predicts as their run did.

    Args:
        files: weight files of one run, with the same configuration; every combination of their
            folds, targets, seeds and rates occurs once. Tasks that none of them was trained for
            are left out.
        workdir: the folder to make.
        store: the store to evaluate on if no other is named; "" if it is not known.

    Raises:
        InputError: the files are not of one run, or their tensors do not fit the model that they
            describe.
    """
    session = _merged_session(files, str(store or ""))
    by_replica = {file.replica: file for file in files}
    ordered = [by_replica[replica] for replica in session.replicas]
    abstract = session.abstract_state()
    template = variables_of({"params": abstract.params, "model_state": abstract.model_state})
    shapes = {name: leaf.shape[1:] for name, leaf in named_leaves(template).items()}
    _check_tensors(files[0], shapes, session.streams, session.tasks)
    stacked = {
        name: np.stack([_tensor(file, name, shape) for file in ordered])
        for name, shape in shapes.items()
    }
    variables = jax.tree.unflatten(jax.tree.structure(template), list(stacked.values()))
    normalisation = {
        stream: tuple(
            _per_fold(ordered, session.folds, stream, spec.width, name) for name in ("mean", "std")
        )
        for stream, spec in session.streams.items()
    }
    place = {"path": "", **files[0].store}
    if store:
        place["path"] = str(Store(store).path)
    branches_R = np.array([file.branches for file in ordered])
    return write_run(
        workdir, session, variables, normalisation, place, files[0].step, branches_R=branches_R
    )


def write_run(
    workdir: str | Path,
    session: Session,
    variables: Mapping[str, Any],
    normalisation: Mapping[str, Any],
    store: Mapping[str, str],
    step: int,
    *,
    branches_R: np.ndarray | None = None,
) -> TrainedRun:
    """Makes a run folder that evaluation and prediction open like a trained one.

    Args:
        workdir: the folder to make; it must be empty or not exist yet.
        session: the session of the run.
        variables: {"params", "batch_stats", ...}; the first axis of every leaf is R.
        normalisation: see ``session.fold_normalisation``.
        store: {"name", "path", "checksum"} of the store the weights were trained on.
        step: the number of the checkpoint.
        branches_R: (R,) bool, True for weights from a stage with temporary heads.

    Raises:
        InputError: ``workdir`` is a file or a folder that is not empty.
    """
    workdir = Path(workdir)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(
            "A run must be imported into a folder of its own.",
            file=workdir,
            field="--out",
            found="a folder that is not empty" if workdir.is_dir() else "a file",
            expected="an empty folder, or nothing yet",
        )
    params = variables["params"]
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), session.abstract_state())
    state = state.replace(
        params=params,
        model_state=model_state,
        best={"params": params, "model_state": model_state},
        ema=params if state.ema is not None else None,
    )
    saved = {"train": session.layout.replicas(state), "normalisation": dict(normalisation)}
    meta: dict[str, Any] = {
        "code_version": __version__,
        "config": as_plain(session.config),
        "streams": {name: dataclasses.asdict(spec) for name, spec in session.streams.items()},
        "tasks": list(session.tasks),
        "own_tasks": described_tasks(session.tasks),
        "replicas": [dataclasses.asdict(replica) for replica in session.replicas],
        "store": dict(store),
        # Training cannot continue from this checkpoint: it has no schedule and no feed states.
        "fingerprint": "weights that were imported",
        "parameters": describe(saved),
    }
    if branches_R is not None and branches_R.any():
        objectives = [stage.objective for stage in session.stages]
        best_stage_R = np.where(branches_R, objectives.index("branches"), len(objectives) - 1)
        schedule = dataclasses.replace(initial_state(len(branches_R)), best_stage=best_stage_R)
        meta["schedule"] = {
            field.name: getattr(schedule, field.name).tolist()
            for field in dataclasses.fields(schedule)
        }
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, saved, meta, score=0.0)
    (workdir / "config.json").write_text(json.dumps(as_plain(session.config), indent=1) + "\n")
    return open_run(workdir)


def _merged_session(files: Sequence[ReplicaFile], store: str) -> Session:
    """Builds the session whose replicas are those of the files."""
    first = files[0]
    for other in files[1:]:
        for key in ("config", "streams", "store", "step"):
            if getattr(other, key) != getattr(first, key):
                raise InputError(
                    "The files are from different runs.",
                    file=other.file.path,
                    field=key,
                    found=f"a value that differs from that in {first.file.path}",
                    expected="files of one export",
                    remedy="import each run into a folder of its own",
                )
    found = [file.replica for file in files]
    factors = {"fold": "folds", "target": "targets", "seed": "seeds"}
    values = {
        field: list(dict.fromkeys(getattr(replica, field) for replica in found))
        for field in ("fold", "target", "seed", "learning_rate", "weight_decay")
    }
    whole = 1
    for different in values.values():
        whole *= len(different)
    if len(set(found)) != len(found) or len(found) != whole:
        raise InputError(
            "The files are not a complete set of replicas.",
            field="--weights",
            found=f"{len(found)} files, {len(set(found))} different",
            expected=f"each of {whole} combinations once: "
            + ", ".join(f"{len(v)} {field}(s)" for field, v in values.items() if len(v) > 1),
            remedy="import each file into a folder of its own",
        )
    rates = {key: v if len(v) > 1 else v[0] for key, v in values.items() if key not in factors}
    replicas = {plural: values[field] for field, plural in factors.items()}
    with stored(first.file.path):
        config = json.loads(json.dumps(first.config))
        config |= {"replicas": replicas, "train": config["train"] | rates}
        config["data"]["store"] = store or config["data"]["store"]
        # A task that no file is trained for cannot be part of the run.
        config["data"]["tasks"] = [
            task
            for task in config["data"]["tasks"]
            if any(
                target in ("all", task, *TASK_OPS[task].targets) for target in replicas["targets"]
            )
        ]
    streams = {name: dataclasses.asdict(spec) for name, spec in first.streams.items()}
    return stored_session(config, streams, first.file.path)


def _check_tensors(
    first: ReplicaFile,
    shapes: Mapping[str, tuple[int, ...]],
    streams: Iterable[str],
    tasks: Sequence[str],
) -> None:
    """Refuses tensors that the model does not have, unless a task was left out."""
    statistics = {f"normalisation/{s}/{name}" for s in streams for name in ("mean", "std")}
    foreign = first.file.tensors.keys() - shapes.keys() - statistics
    if foreign and list(tasks) == list(first.config["data"]["tasks"]):
        raise InputError(
            f"The file holds {len(foreign)} tensor(s) that its model does not have.",
            file=first.file.path,
            field=sorted(foreign)[0],
            found=f"{first.file.tensors[sorted(foreign)[0]].shape}",
            expected="no such tensor",
            remedy="export it again with this version of emojax",
        )


def _tensor(replica: ReplicaFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = replica.file.tensors.get(name)
    if found is None or found.shape != shape:
        raise InputError(
            "The file's tensors are not those of the model that it describes.",
            file=replica.file.path,
            field=name,
            found="no such tensor" if found is None else f"shape {found.shape}",
            expected=f"shape {shape}",
            remedy="export it again with this version of emojax",
        )
    return as_float32(replica.file, name)


def _per_fold(
    files: Sequence[ReplicaFile], groups: Groups, stream: str, width: int, name: str
) -> np.ndarray:
    """Returns one statistic of one stream as ``session.fold_normalisation`` does.

    Args:
        files: the file of each replica.
        groups: the replicas grouped by fold.
        stream: the name of the stream.
        width: its width D.
        name: "mean" or "std".
    """
    key = f"normalisation/{stream}/{name}"
    folds = []
    for number in range(len(groups.keys)):
        members = [files[int(r)] for r in np.flatnonzero(groups.members_R == number)]
        arrays = [_tensor(member, key, (width,)) for member in members]
        if any(not np.array_equal(arrays[0], array) for array in arrays):
            raise InputError(
                "Files of one fold disagree about its training statistics.",
                file=members[0].file.path,
                field=key,
                found="other numbers than in its siblings",
                expected="the same numbers",
            )
        if name == "std" and not (arrays[0] > 0).all():
            raise InputError(
                "A standard deviation has to be above 0.",
                file=members[0].file.path,
                field=key,
                found=float(arrays[0].min()),
            )
        folds.append(arrays[0])
    return folds[0] if len(folds) == 1 else np.stack(folds)
