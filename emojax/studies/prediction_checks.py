"""Two more looks at predictions: do probabilities mean what they say, and how calm are they."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from emojax.errors import InputError
from emojax.ops.calibration import DECIDED, Calibration, class_calibration, unit_calibration
from emojax.ops.stability import StabilityCounts, consecutive_change, stability_counts
from emojax.prediction.predictor import Predictions, reference_predictions
from emojax.scoring.fold_scores import OPTIMUM
from emojax.specs import TASKS, TaskSpec
from emojax.studies.study_data import StudiedRun

ANNOTATED = "annotated"

# kind of task -> (probabilities, labels, mask, bins) -> Calibration, and the names of its columns.
_CALIBRATIONS: dict[str, Callable[..., Calibration]] = {
    "categorical": class_calibration,
    "binary": unit_calibration,
}
_ADDED: dict[str, tuple[str, ...]] = {"categorical": (DECIDED,), "binary": ()}


def predicted(studied: StudiedRun) -> list[Predictions]:
    """Predictions of each fold's ensemble for the partition."""
    predictions = studied.run.predict(studied.store, [list(names) for names in studied.videos])
    return studied.ensembles(predictions)


def calibrate(
    studied: StudiedRun, bins: int = 10
) -> dict[str, tuple[tuple[str, ...], Calibration]]:
    """Task -> names of the columns and their ``Calibration``, over all videos of all folds.

    Units that nobody was trained for are left out.

    Raises:
        InputError: no task of the run has probabilities.
    """
    tasks = [task for task in studied.run.session.tasks if TASKS[task].kind in _CALIBRATIONS]
    if not tasks:
        raise InputError(
            "Only probabilities can be calibrated.",
            field="--checkpoint",
            found="tasks " + ", ".join(studied.run.session.tasks),
            expected="a run with classes or units",
        )
    found: dict[str, tuple[tuple[str, ...], Calibration]] = {}
    for fold, predictions in enumerate(predicted(studied)):
        for name, by_task in predictions.items():
            for task, truth in studied.annotations(fold, name).items():
                if task not in tasks:
                    continue
                kind, labels = TASKS[task].kind, TASKS[task].labels + _ADDED[TASKS[task].kind]
                values_NC = np.asarray(by_task[task], np.float64)
                kept_C = ~np.isnan(values_NC).all(axis=0)
                columns = np.flatnonzero(kept_C)
                truth_NK, mask_NK = truth.labels_NK, truth.mask_NK
                if kind == "binary":
                    values_NC, truth_NK = values_NC[:, columns], truth_NK[:, columns]
                    mask_NK = mask_NK[:, columns]
                    labels = tuple(labels[c] for c in columns)
                elif not kept_C.any():
                    continue
                state = _CALIBRATIONS[kind](values_NC, truth_NK, mask_NK, bins)
                found[task] = (labels, found[task][1].merge(state) if task in found else state)
    return found


@dataclasses.dataclass(frozen=True)
class Stability:
    """How much a system's output moves from one step to the next.

    Attributes:
        task: what is predicted.
        system: name of a run, "optimum" or "annotated" (the labels; classes as 0 and 1).
        pairs: pairs of consecutive steps that count.
        smoothness: mean L1 change over the pairs (EMMA-Net, eq. 9, as a mean).
        utility: epsilon -> ECU, the share of pairs that change by less (eq. 12).
    """

    task: str
    system: str
    pairs: int
    smoothness: float
    utility: dict[float, float]


def stability(
    runs: Sequence[StudiedRun], epsilons: Sequence[float], progress: Callable[[int, int], None]
) -> list[Stability]:
    """Stability of each run, and beside them of the store's optimum and of the annotation.

    Steps are ticks of the run's clock, each once, for a prediction that is held over frames
    would count as stable. All systems are taken at the first run's ticks and at annotated
    frames; a pair across a gap does not count.

    Args:
        runs: on the same store and partition.
        epsilons: thresholds on the L1 change, above 0.
        progress: told (done, of) after each run.

    Raises:
        InputError: the runs have other clocks, whose steps do not compare.
    """
    clocks = {one.run.session.window_spec.clock for one in runs}
    if len(clocks) > 1:
        raise InputError(
            "The runs predict at other rates, so their steps do not compare.",
            field="config.data.clock",
            found=", ".join(f"{one.name}: {one.run.session.window_spec.clock:g}" for one in runs),
            expected="one clock",
            remedy="call the study for each of them",
        )
    counted: dict[tuple[str, str], _Counted] = {}
    for number, studied in enumerate(runs):
        systems = {studied.name: predicted(studied)}
        if not number:
            systems[OPTIMUM] = [
                reference_predictions(studied.store, names, OPTIMUM) for names in studied.videos
            ]
        for system, per_fold in systems.items():
            _count(counted, studied, system, per_fold, epsilons)
        if not number:
            _count(counted, studied, ANNOTATED, None, epsilons)
        progress(number + 1, len(runs))
    return [
        Stability(
            task,
            system,
            one.pairs,
            one.total / max(1, one.pairs),
            {epsilon: float(counts.utility()) for epsilon, counts in one.counts.items()},
        )
        for (task, system), one in sorted(counted.items(), key=lambda item: item[0][0])
    ]


@dataclasses.dataclass
class _Counted:
    """Sums over videos."""

    counts: dict[float, StabilityCounts]
    total: float = 0.0
    pairs: int = 0


def _count(
    counted: dict[tuple[str, str], _Counted],
    studied: StudiedRun,
    system: str,
    per_fold: Sequence[Predictions] | None,
    epsilons: Sequence[float],
) -> None:
    for fold, names in enumerate(studied.videos):
        for name in names:
            frame_T, there_T = _steps(studied, name)
            for task, truth in studied.annotations(fold, name).items():
                if per_fold is None:
                    values_NC = _as_outputs(TASKS[task], truth.labels_NK)
                elif task in per_fold[fold][name]:
                    values_NC = np.asarray(per_fold[fold][name][task], np.float64)
                    values_NC = values_NC[:, ~np.isnan(values_NC).all(axis=0)]
                else:
                    continue
                if not values_NC.shape[1]:
                    continue
                values_TC = values_NC[frame_T]
                mask_T = there_T & np.all(truth.mask_NK[frame_T], axis=1)
                one = counted.setdefault(
                    (task, system), _Counted({e: StabilityCounts.empty() for e in epsilons})
                )
                change_T, pairs_T = consecutive_change(values_TC, mask_T)
                one.total += float(np.asarray(change_T)[np.asarray(pairs_T)].sum())
                one.pairs += int(pairs_T.sum())
                for epsilon in epsilons:
                    state = stability_counts(values_TC, mask_T, epsilon)
                    one.counts[epsilon] = one.counts[epsilon].merge(state)


def _steps(studied: StudiedRun, name: str) -> tuple[np.ndarray, np.ndarray]:
    """For each tick of a video the first frame that takes it, (T,), and whether one does."""
    spec, store = studied.run.session.window_spec, studied.store
    number = store.index_of(name)
    num_ticks = spec.num_ticks(store.videos[number])
    tick_N = spec.frame_ticks(store.read(number).pts_N, num_ticks)
    frame_T, there_T = np.zeros(num_ticks, np.int64), np.zeros(num_ticks, bool)
    ticks, first = np.unique(tick_N, return_index=True)
    frame_T[ticks], there_T[ticks] = first, True
    return frame_T, there_T


def _as_outputs(spec: TaskSpec, labels_NK: np.ndarray) -> np.ndarray:
    """Labels in the form of decoded predictions, (N, C): classes as 0 and 1."""
    if spec.kind != "categorical":
        return np.asarray(labels_NK, np.float64)
    return (labels_NK == np.arange(spec.outputs)[None]).astype(np.float64)
