"""Checkpoints that open by themselves: state, data order, schedule and everything else needed.

A checkpoint is one Orbax step with two items. ``state`` holds arrays: the train state and the
normalisation. ``meta`` is JSON: configuration, stream and task specifications, replicas,
schedule, iterator states, history of scores, code version. A run killed at any moment resumes
bit for bit from its latest checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from emojax.errors import InputError

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a restored checkpoint holds.

    Attributes:
        step: optimiser steps taken.
        state: {"train": TrainState, "normalisation": ...}.
        meta: the JSON item.
    """

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: the latest and the best are kept. Use in a ``with``.

    Args:
        workdir: folder of the run.
        read_only: open for evaluation; never creates, deletes or writes anything.

    Raises:
        InputError: ``read_only`` and there is no checkpoint.
    """

    def __init__(self, workdir: str | Path, *, read_only: bool = False) -> None:
        self.folder = Path(workdir).resolve() / FOLDER
        if read_only and not self.folder.is_dir():
            raise InputError(
                "There is no checkpoint here.",
                file=workdir,
                found="no folder " + FOLDER if Path(workdir).is_dir() else "nothing",
                expected="the --workdir of a training run",
                remedy="train first: python -m emojax.train --config=... --workdir=...",
            )
        # max_to_keep with best_fn would delete the latest step; a union of policies does not.
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
                policies.BestN(get_metric_fn=_score, n=1),
            ]
        )
        # best_fn makes the manager write the scores down, for the policy of a resumed run.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else keep,
            best_fn=_score,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        """Steps that can be restored, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any], score: float) -> None:
        """Saves in the background; a checkpoint appears whole or not at all."""
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_none(state)), meta=ocp.args.JsonSave(meta)
        )
        self._manager.save(step, args=arguments, metrics={"score": score}, force=True)

    def meta(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """Step and JSON item of one checkpoint, the latest by default.

        Raises:
            InputError: there is no such checkpoint, or it is damaged.
        """
        step = self._resolve(step)
        return step, self._read(step, "meta", ocp.args.JsonRestore())

    def restore(self, abstract: Any, step: int | None = None) -> Checkpoint:
        """Restores one checkpoint, the latest by default.

        Args:
            abstract: ``jax.ShapeDtypeStruct`` leaves with the shardings to restore onto; the
                number of devices may differ from that of the run that saved.
            step: which one.

        Raises:
            InputError: no such checkpoint, it is of another model, or it is damaged.
        """
        step, meta = self.meta(step)
        self._check_same_model(abstract, meta, step)
        found = self._read(step, "state", ocp.args.StandardRestore(_without_none(abstract)))
        state = {
            name: dataclasses.replace(cast(Any, value), **found[name])
            if dataclasses.is_dataclass(value)
            else found[name]
            for name, value in abstract.items()
        }
        return Checkpoint(step=step, state=state, meta=meta)

    def _read(self, step: int, item: str, how: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                "The checkpoint is damaged.",
                file=self.folder / str(step),
                field=item,
                found=str(error).strip().splitlines()[0][:200],
                expected="what a training run saved",
                remedy="name another step, or train again with --overwrite",
            ) from error

    def _resolve(self, step: int | None) -> int:
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            raise InputError(
                "There is no such checkpoint.",
                file=self.folder,
                field="step",
                found=f"steps {steps}" if steps else "no checkpoint at all",
                expected="a saved step" if step is None else f"step {step}",
                remedy="train first, or name a step that is there",
            )
        return steps[-1] if step is None else step

    def _check_same_model(self, abstract: Any, meta: dict[str, Any], step: int) -> None:
        expected, found = describe(abstract), meta["parameters"]
        different = sorted(
            key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)
        )
        if different:
            key = different[0]
            raise InputError(
                f"The checkpoint is of another model ({len(different)} arrays differ).",
                file=self.folder / str(step),
                field=key,
                found=found.get(key, "no such array"),
                expected=expected.get(key, "no such array"),
                remedy="use the configuration the checkpoint was trained with, or a new workdir",
            )

    def __enter__(self) -> Checkpoints:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for saves under way. A manager that is never closed loses its checkpoint."""
        self._manager.close()


def _without_none(state: Mapping[str, Any]) -> dict[str, Any]:
    """Dataclasses as mappings of the fields that are used.

    Orbax writes None down as an entry of its own, so that a field that is off could not be
    added to the state without making older checkpoints unreadable.
    """
    plain = {}
    for name, value in state.items():
        if dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
            plain[name] = {f: getattr(value, f) for f in fields if getattr(value, f) is not None}
        else:
            plain[name] = value
    return plain


def saved_steps(workdir: str | Path) -> list[int]:
    """Steps of a run that can be restored, ascending; none if there is no run."""
    folder = Path(workdir) / FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    # Orbax writes a checkpoint under another name and renames it when it is whole.
    return sorted(int(path.name) for path in found if path.name.isdigit())


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


def describe(tree: Any) -> dict[str, str]:
    """Path of every array in a tree -> "dtype[shape]"; saved to compare models by."""
    leaves: Iterable[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in leaves
    }
