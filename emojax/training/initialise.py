"""Starts from another run's weights: arrays that fit are taken, the rest stay random.

Order of precedence: a run found in the workdir is resumed, else ``config.train.init_from`` gives
initial weights, else they are random. Only weights are taken: normalisation, schedule and
optimiser are the new run's own, and once it has a checkpoint it needs its source no more.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.core.replicas import Replica
from emojax.core.state import TrainState
from emojax.errors import InputError
from emojax.prediction.trained_run import TrainedRun, open_run

# Names listed in the report, of each kind.
_LISTED = 6


@dataclasses.dataclass(frozen=True)
class Initialisation:
    """A report of the arrays that were taken; paths are the same for all replicas.

    Attributes:
        workdir: the workdir of the source.
        taken: arrays whose path and shape agree.
        missing: arrays of the model that the source does not have.
        reshaped: arrays that the source has with another shape.
        unused: arrays of the source that the model does not have.
        sources: (replica, the source's replica, how they agree) for each replica.
    """

    workdir: Path
    taken: tuple[str, ...]
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    unused: tuple[str, ...]
    sources: tuple[tuple[str, str, str], ...]

    def lines(self) -> list[str]:
        """Returns the report as lines for the user."""
        total = len(self.taken) + len(self.missing) + len(self.reshaped)
        lines = [f"initial weights from {self.workdir}: {len(self.taken)} of {total} arrays"]
        kinds = {
            "not in the source": self.missing,
            "of another shape there": self.reshaped,
            "unused of the source": self.unused,
        }
        for kind, paths in kinds.items():
            if paths:
                rest = len(paths) - _LISTED
                more = f" and {rest} more" if rest > 0 else ""
                lines.append(f"  {kind}: {', '.join(paths[:_LISTED])}{more}")
        if len(self.sources) <= 2 * _LISTED:
            return lines + [f"  {name} from {source} ({how})" for name, source, how in self.sources]
        kinds_of_match = collections.Counter(how for _, _, how in self.sources)
        return lines + [f"  {count} replicas: {how}" for how, count in kinds_of_match.items()]


def open_source(init_from: str, workdir: str | Path) -> TrainedRun:
    """Opens the run that ``config.train.init_from`` names.

    Raises:
        InputError: there is no trained run, it is the run that is to be initialised, or all
            of it diverged.
    """
    source = Path(init_from)
    if source.resolve() in (Path(workdir).resolve(), Path(workdir).resolve() / "checkpoints"):
        raise InputError(
            "A run cannot be initialised from itself.",
            file=workdir,
            field="config.train.init_from",
            found=init_from,
            expected="the workdir of another run",
            remedy="to continue a run, leave config.train.init_from as it was",
        )
    run = open_run(source)
    if run.lost_R.all():
        raise InputError(
            "The run to start from has no trained weights.",
            file=source,
            field="config.train.init_from",
            found="a training that diverged",
            expected="a run whose validation gave finite scores",
        )
    return run


def initialise(
    names: Sequence[str], replicas: Sequence[Replica], state: TrainState, source: TrainedRun
) -> tuple[TrainState, Initialisation]:
    """Replaces what a fresh state shares with the best weights of another run.

    A replica takes the weights of the source's replica of the same target and fold if there is
    one, else of the same target, else of the first that was trained.

    Args:
        names: the names of the new run's replicas.
        replicas: the replicas of the new run.
        state: fresh, as ``session.init_state`` gives it.
        source: the opened run.

    Returns:
        The state, on the devices, and the report.

    Raises:
        InputError: nothing is in common.
    """
    fresh = {"params": state.params, **state.model_state}
    theirs = _by_path({"params": source.best["params"], **source.best["model_state"]})
    chosen = [_choose(replica, source) for replica in replicas]
    index_R = np.array([index for index, _ in chosen])
    ours = _by_path(fresh)
    taken = [path for path in ours if path in theirs and _same_shape(ours[path], theirs[path])]
    report = Initialisation(
        workdir=source.workdir,
        taken=tuple(taken),
        missing=tuple(path for path in ours if path not in theirs),
        reshaped=tuple(path for path in ours if path in theirs and path not in taken),
        unused=tuple(path for path in theirs if path not in ours),
        sources=tuple(
            (name, source.session.names[index], how)
            for name, (index, how) in zip(names, chosen, strict=True)
        ),
    )
    if not _parameters(taken):
        raise InputError(
            "The run to start from has no parameter in common with this model.",
            file=source.workdir,
            field="config.train.init_from",
            found="parameters such as " + ", ".join(_parameters(theirs)[:3]),
            expected="some such as " + ", ".join(_parameters(ours)[:3]),
            remedy="name a run of the same kind of model, or none",
        )
    leaves = [
        np.asarray(jax.device_get(theirs[path]))[index_R].astype(leaf.dtype)
        if path in report.taken
        else leaf
        for path, leaf in ours.items()
    ]
    mixed = jax.tree.unflatten(jax.tree.structure(fresh), leaves)
    # Each use needs arrays of its own, because a step gives the state's memory back.

    def place(tree: Any) -> Any:
        """Puts arrays where those of the fresh state are."""
        return jax.device_put(tree, state.key.sharding)

    params, model_state = mixed.pop("params"), mixed
    state = dataclasses.replace(
        state,
        params=place(_copied(params)),
        model_state=place(_copied(model_state)),
        best=place(_copied({"params": params, "model_state": model_state})),
        ema=None if state.ema is None else place(_copied(params)),
    )
    return state, report


def _choose(replica: Replica, source: TrainedRun) -> tuple[int, str]:
    """Chooses one of the source's replicas, and names the fields in which it agrees."""
    trained = [r for r in range(len(source.session.replicas)) if not source.lost_R[r]]
    target = [r for r in trained if source.session.replicas[r].target == replica.target]
    fold = [r for r in target if source.session.replicas[r].fold == replica.fold]
    kinds: Sequence[tuple[list[int], str]] = (
        (fold, "the same target and fold"),
        (target, "the same target of another fold"),
        (trained, "another target, the first there is"),
    )
    return next((found[0], how) for found, how in kinds if found)


def _by_path(variables: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def _parameters(paths: Iterable[str]) -> list[str]:
    """Selects the paths of parameters, without those of running statistics."""
    return [path for path in paths if path.startswith("params/")]


def _same_shape(one: Any, other: Any) -> bool:
    """Compares shapes without R, which may differ."""
    return one.shape[1:] == other.shape[1:]


def _copied(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.array(jax.device_get(leaf), copy=True), tree)
