"""Saves and restores checkpoints, which hold all that is needed to resume or to predict.

A checkpoint is one Orbax step with two items. ``state`` holds arrays: the train state and the
normalisation. ``meta`` is JSON: configuration, stream and task specifications, replicas,
schedule, iterator states, history of scores, code version. A run killed at any moment resumes
bit for bit from its latest checkpoint.

Orbax does not notice every flipped bit, so ``meta`` carries checksums of all arrays and of
itself, see ``checkpoint_document.py``. They are checked whenever a checkpoint is read.

Orbax writes and ``stored_arrays.py`` reads, because a failed read of Orbax leaves other reads
running in the background.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from emojax.core.devices import start_devices
from emojax.errors import InputError, Stopped, machine_error, writing
from emojax.rundir import orbax_noise
from emojax.rundir.checkpoint_document import (
    DamagedError,
    Document,
    check_arrays,
    make_document,
    read_document,
)
from emojax.rundir.stored_arrays import read_arrays

FOLDER = "checkpoints"
_LOGGER = logging.getLogger("emojax")
_KEPT = "the last good checkpoint is kept, and the same command continues from it"
# A run's JSON item is below one MiB for hundreds of replicas and epochs.
_MAX_META_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a restored checkpoint.

    Attributes:
        step: the number of optimiser steps taken.
        state: {"train": TrainState, "normalisation": ...}.
        meta: the JSON item.
    """

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, of which the latest and the best are kept; a context manager.

    Args:
        workdir: the folder of the run.
        read_only: if True, opens for evaluation and never creates, deletes or writes a file.

    Raises:
        InputError: the checkpoints are damaged; or, if ``read_only``, there is none.
        MachineError: the folder cannot be written to.
    """

    def __init__(self, workdir: str | Path, *, read_only: bool = False) -> None:
        self.folder = Path(workdir).resolve() / FOLDER
        self._read_only = read_only
        orbax_noise.silence()
        # Orbax asks for devices; without them no checkpoint can be read, however sound it is.
        start_devices()
        if read_only and not self.folder.is_dir():
            raise InputError(
                "The folder has no checkpoint.",
                file=workdir,
                found="no folder " + FOLDER if Path(workdir).is_dir() else "nothing",
                expected="the --workdir of a training run",
                remedy="train first: emojax train --config=... --workdir=...",
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
            best_fn=None if read_only else _score,
            # Unfinished saves of killed runs would otherwise fill the disk.
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
            )
        except Exception as error:
            failed = machine_error(error, self.folder, "The folder of checkpoints")
            if failed is not None:
                raise failed from error
            raise self._damaged(
                None, "folder", _first_line(error), "what a training run saved"
            ) from error
        if not read_only:
            self._check_scores()

    def steps(self) -> list[int]:
        """Returns the saved steps in ascending order, including damaged ones."""
        return sorted({*self._manager.all_steps(), *_step_names(self.folder)})

    def save(self, step: int, state: Any, meta: dict[str, Any], score: float) -> None:
        """Saves in the background, as a whole or not at all.

        Raises:
            MachineError: this save, or the one before, could not be written.
        """
        plain = _without_none(state)
        document = make_document(step, plain, meta, float(score))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(plain), meta=ocp.args.JsonSave(document)
        )
        with writing(self.folder, "A checkpoint", kept=_KEPT):
            self._manager.save(step, args=arguments, metrics={"score": float(score)}, force=True)

    def meta(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """Returns the step and the JSON item of one checkpoint, the latest by default.

        Raises:
            InputError: there is no such checkpoint, or it is damaged.
        """
        step = self._resolve(step)
        return step, self._document(step).meta

    def restore(self, abstract: Any, step: int | None = None) -> Checkpoint:
        """Restores one checkpoint, the latest by default.

        Args:
            abstract: ``jax.ShapeDtypeStruct`` leaves with the shardings to restore onto; the
                number of devices may differ from that of the run that saved.
            step: the step to restore; the latest by default.

        Raises:
            InputError: there is no such checkpoint, it is of another model, or it is damaged.
        """
        step = self._resolve(step)
        document = self._document(step)
        self._check_same_model(abstract, document.meta, step)
        try:
            found, computed = read_arrays(
                self.folder / str(step) / "state", _without_none(abstract)
            )
            if document.arrays is None:
                _LOGGER.warning(
                    "warning: the arrays of %s are not verified: their checksums are of another "
                    "version of emojax",
                    self.folder / str(step),
                )
            else:
                check_arrays(computed, document.arrays)
        except DamagedError as error:
            raise self._damaged(step, error.field, error.found, error.expected) from error
        state = {
            name: dataclasses.replace(cast(Any, value), **found[name])
            if dataclasses.is_dataclass(value)
            else found[name]
            for name, value in abstract.items()
        }
        return Checkpoint(step=step, state=state, meta=document.meta)

    def _document(self, step: int) -> Document:
        """Reads and checks the JSON item of a step."""
        path = self.folder / str(step) / "meta" / "metadata"
        try:
            size = path.stat().st_size
            if size > _MAX_META_BYTES:
                raise DamagedError("meta", f"{size} bytes", f"at most {_MAX_META_BYTES} bytes")
            content = json.loads(path.read_bytes())
            return read_document(content, step)
        except DamagedError as error:
            raise self._damaged(step, error.field, error.found, error.expected) from error
        # Deeply nested brackets raise RecursionError.
        except (OSError, ValueError, RecursionError) as error:
            found = error.strerror if isinstance(error, OSError) else _first_line(error)
            raise self._damaged(step, "meta", found, "what a training run saved") from error

    def _check_scores(self) -> None:
        """Refuses damaged scores, by which Orbax would choose what to delete."""
        for step in self.steps():
            score = self._document(step).score
            path = self.folder / str(step) / "metrics" / "metrics"
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise self._damaged(
                    step, "metrics", _first_line(error), f"score {score}"
                ) from error
            if repr(found) != repr({"score": score}):
                raise self._damaged(step, "metrics", repr(found)[:200], f"score {score}")

    def _damaged(self, step: int | None, field: str, found: object, expected: object) -> InputError:
        """Returns the error of a damaged checkpoint, with a remedy that goes on without it."""
        folder = self.folder if step is None else self.folder / str(step)
        others = [str(other) for other in _step_names(self.folder) if other != step]
        if step is None or not others:
            remedy = "copy the run again, or train again into another --workdir"
        elif self._read_only:
            remedy = f"use another saved step, such as --step={others[-1]} (there are "
            remedy += f"{', '.join(others)}), or copy the run again"
        else:
            remedy = f"copy the run again, or move the folder {folder} out of the run: the same "
            remedy += f"command then continues from step {others[-1]}"
        return InputError(
            "The checkpoint is damaged.",
            file=folder,
            field=field,
            found=str(found)[:200],
            expected=str(expected)[:200],
            remedy=remedy,
        )

    def _resolve(self, step: int | None) -> int:
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            raise InputError(
                "The checkpoint does not exist.",
                file=self.folder,
                field="step",
                found=f"steps {steps}" if steps else "no checkpoint",
                expected="a saved step" if step is None else f"step {step}",
                remedy="train first, or name a step that was saved",
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
        """Waits for pending saves. Without this, the last checkpoint would be lost.

        Raises:
            MachineError: a save could not be written, and no other exception is being raised.
        """
        if error is not None and not isinstance(error, Stopped) and jax.process_count() > 1:
            # Closing waits for the other processes, which may have ended or not know the error.
            return
        if error is not None:
            # The first error is the one to report.
            with contextlib.suppress(Exception):
                self._manager.close()
            return
        with writing(self.folder, "A checkpoint", kept=_KEPT):
            self._manager.close()


def _without_none(state: Mapping[str, Any]) -> dict[str, Any]:
    """Turns dataclasses into mappings, without fields that are None.

    Orbax writes None as an entry of its own. Without this, a new optional field of the state would
    make older checkpoints unreadable.
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
    """Returns the saved steps of a run in ascending order; an empty list if there is no run."""
    return _step_names(Path(workdir) / FOLDER)


def _step_names(folder: Path) -> list[int]:
    """Returns the steps that entries of a folder are named after.

    Orbax writes a checkpoint under another name and renames it when it is complete. Entries that
    are not folders count, too, so that a damaged step is not mistaken for a missing one.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    # Only numbers as Orbax writes them: not "007", and not digits of other scripts.
    return sorted(int(n) for n in names if n.isascii() and n.isdigit() and str(int(n)) == n)


def _first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


def describe(tree: Any) -> dict[str, str]:
    """Describes every array of a tree: path -> "dtype[shape]"; saved to compare models."""
    leaves: Iterable[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in leaves
    }
