"""Cross-validation of a trained run: folds, seeds, out-of-fold predictions, ensembles on test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emojax.core.replicas import Groups, Replica
from emojax.core.session import Session
from emojax.datasets.folds import Fold
from emojax.datasets.source import Store
from emojax.errors import InputError, closest
from emojax.ops.ensembles import ENSEMBLES
from emojax.ops.json_values import json_values
from emojax.prediction.predictor import (
    Annotations,
    Predictions,
    ensemble,
    read_annotations,
    reference_predictions,
)
from emojax.prediction.trained_run import TrainedRun
from emojax.scoring.evaluation import evaluate_folds, fold_members, partition_videos
from emojax.scoring.fitted_postprocessing import OUT_OF_FOLD, Postprocessing, tuned_postprocessing
from emojax.scoring.fold_scores import (
    OPTIMUM,
    OURS,
    PROCESSED,
    FoldResult,
    Scores,
    assess,
    mean_scores,
    pooled_scores,
    scored_tasks,
)
from emojax.specs import TASKS

FOLDS_ALONE = "mean of folds"
# task -> score name -> value
TaskScores = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """Scores and predictions of a cross-validation.

    Attributes:
        partition: name of the partition that the folds are scored on.
        results: the results of each fold, the ensemble of its seeds beside optimum and baseline.
        seeds: fold -> seed -> task -> scores of the replicas of that seed alone.
        out_of_fold: each validation video predicted by the first fold that validates on it,
            so by replicas that did not train on it.
        processed: the same after postprocessing; empty without.
        test: task -> ensemble of all folds' replicas -> scores on the test videos; empty
            where they are not annotated, or are not the same in all folds.
        postprocessing: the fitted postprocessing, or None.
    """

    partition: str
    results: list[FoldResult]
    seeds: dict[str, dict[str, TaskScores]]
    out_of_fold: Predictions
    processed: Predictions
    test: dict[str, Scores]
    postprocessing: Postprocessing | None


@dataclasses.dataclass(frozen=True)
class Spread:
    """Spread of one score; standard deviations divide by n - 1 and are NaN for n = 1.

    Attributes:
        mean, deviation, low, high: over folds, of the ensembles of seeds.
        seed_mean: over folds and seeds, of single seeds; those that diverged are left out.
        seed_deviation: over seeds that no fold lacks, of each seed's mean over folds.
        seed_low, seed_high: over folds and seeds, of single seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float
    seed_mean: float
    seed_deviation: float
    seed_low: float
    seed_high: float


def choose_folds(store: Store, wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the folds to train: those wanted, or the store's for "all".

    Raises:
        InputError: there is no such fold.
    """
    if list(wanted) == ["all"]:
        return tuple(store.folds)
    for name in wanted:
        if name not in store.folds:
            raise InputError(
                "The store has no such fold.",
                file=store.path,
                field="--folds",
                found=name,
                expected="all, or some of " + ", ".join(store.folds),
                remedy=closest(name, store.folds),
            )
    return tuple(wanted)


def cross_validate(
    run: TrainedRun,
    store: Store,
    partition: str,
    *,
    steps: tuple[str, ...] = (),
    smoother: str = "moving_average",
) -> CrossValidation:
    """Scores a run of several folds and seeds.

    Args:
        run: trained on the store.
        store: the data.
        partition: "train", "validation" or "test": what the folds are scored on.
        steps: postprocessing, see ``scoring.fitted_postprocessing.STEPS``. A fold's widths are
            tuned on the out-of-fold predictions of the others.
        smoother: a key of ``SMOOTHERS``.

    Raises:
        InputError: a fold lacks the partition's videos, or widths are to be tuned with fewer
            than two folds.
    """
    session = run.session
    folds = run.folds(store)
    wanted = [partition_videos(store, fold, partition) for fold in folds]
    test = _shared_test(store, folds, session.tasks)
    if "smooth" in steps and len(folds) < 2:
        raise InputError(
            "A width of smoothing is tuned on the other folds, and there is none.",
            field="--postprocess",
            found=f"smooth, with fold {', '.join(session.folds.keys)} alone",
            expected="at least two folds",
            remedy="train more folds, or tune on training videos with emojax.evaluate",
        )
    asked = [
        list(dict.fromkeys([*names, *fold.validation, *test]))
        for fold, names in zip(folds, wanted, strict=True)
    ]
    everything = run.predict(store, asked)

    def of(videos: Sequence[Sequence[str]]) -> list[Predictions]:
        return [
            {name: predictions[name] for name in videos[int(fold)]}
            for predictions, fold in zip(everything, session.folds.members_R, strict=True)
        ]

    first = _first_fold(folds)
    held = of([[name for name in fold.validation if first[name] == fold.name] for fold in folds])
    alone = [
        ensemble(session.weights, held, fold_members(session.folds, k)) for k in range(len(folds))
    ]
    postprocessing = None
    if steps:
        # Training videos of a fold are the others' validation videos, and no secret to it.
        barred = [() if partition == "train" else names for names in wanted]
        known = [_others(folds, alone, k, barred[k]) for k in range(len(folds))]
        postprocessing = tuned_postprocessing(steps, smoother, session, store, known, OUT_OF_FOLD)
    predictions = of(wanted)
    results = evaluate_folds(
        session, store, predictions, folds, partition, postprocessing=postprocessing
    )
    processed: Predictions = {}
    if postprocessing:
        for k, of_fold in enumerate(alone):
            processed |= postprocessing(store, of_fold, k)
    return CrossValidation(
        partition=partition,
        results=results,
        seeds=_seed_scores(session, store, predictions, folds, wanted),
        out_of_fold={name: tasks for of_fold in alone for name, tasks in of_fold.items()},
        processed=processed,
        test=_test_scores(session, store, of([test] * len(folds)), folds, test, postprocessing),
        postprocessing=postprocessing,
    )


def seed_groups(replicas: Sequence[Replica], folds: Groups, number: int) -> dict[str, list[int]]:
    """Groups the replicas of a fold that differ in nothing but their targets, by label.

    Such replicas make one model of all targets. Where several rates or decays were trained they
    are part of the label.

    Args:
        replicas: all that were trained.
        folds: the same, grouped by fold.
        number: the number of the fold, in ``folds``.
    """
    groups: dict[str, list[int]] = {}
    for r in fold_members(folds, number):
        replica = replicas[r]
        label = f"seed {replica.seed}"
        for word, value in (("rate", replica.learning_rate), ("decay", replica.weight_decay)):
            attribute = "learning_rate" if word == "rate" else "weight_decay"
            if len({getattr(other, attribute) for other in replicas}) > 1:
                label += f" {word} {value:g}"
        groups.setdefault(label, []).append(r)
    return groups


def spreads(found: CrossValidation, task: str, system: str = OURS) -> dict[str, Spread]:
    """Returns score name -> spread over folds and seeds, for scores that every fold has.

    Args:
        found: the cross-validation.
        task: one of its scored tasks.
        system: whose ensembles; the single seeds are always the raw model's.
    """
    annotated = [r for r in found.results if system in r.scores.get(task, {})]
    if not annotated:
        return {}
    single = [
        [of_seed.get(task, {}) for of_seed in found.seeds[result.fold].values()]
        for result in annotated
    ]
    tables = [result.scores[task][system] for result in annotated]
    result = {}
    for name in tables[0]:
        if not all(name in table for table in tables):
            continue
        folds_K = np.array([table[name] for table in tables])
        seeds_KS = np.array([[table.get(name, np.nan) for table in row] for row in single])
        seen_M = seeds_KS[np.isfinite(seeds_KS)]
        of_seed_S = seeds_KS.mean(axis=0)
        result[name] = Spread(
            mean=float(folds_K.mean()),
            deviation=_deviation(folds_K),
            low=float(folds_K.min()),
            high=float(folds_K.max()),
            seed_mean=float(seen_M.mean()) if seen_M.size else float("nan"),
            seed_deviation=_deviation(of_seed_S[np.isfinite(of_seed_S)]),
            seed_low=float(seen_M.min(initial=np.inf)),
            seed_high=float(seen_M.max(initial=-np.inf)),
        )
    return result


def document(found: CrossValidation, run: TrainedRun, store: Store) -> dict[str, Any]:
    """Collects the content of ``scores.json``, with None for missing numbers."""
    tasks = scored_tasks(found.results)
    systems = [OURS, *([PROCESSED] if found.postprocessing else [])]
    content: dict[str, Any] = {
        "store": store.name,
        "checksum": store.metadata["checksum"],
        "model": run.session.config.model["name"],
        "step": run.step,
        "partition": found.partition,
        "replicas": list(run.session.names),
        "folds": {result.fold: result.scores for result in found.results},
        "videos": {result.fold: list(result.names) for result in found.results},
        "seeds": found.seeds,
        "spread": {
            task: {
                system: {
                    name: dataclasses.asdict(spread)
                    for name, spread in spreads(found, task, system).items()
                }
                for system in systems
            }
            for task in tasks
        },
        "mean_of_folds": {task: mean_scores(found.results, task) for task in tasks},
        "all_folds": {task: pooled_scores(found.results, task) for task in tasks},
        "test_ensembles": found.test,
    }
    if found.postprocessing:
        content["postprocessing"] = found.postprocessing.document()
    return json_values(content)


def _deviation(values_N: np.ndarray) -> float:
    return float(values_N.std(ddof=1)) if len(values_N) > 1 else float("nan")


def _first_fold(folds: Sequence[Fold]) -> dict[str, str]:
    """Returns validation video -> the first fold that validates on it."""
    first: dict[str, str] = {}
    for fold in folds:
        for name in fold.validation:
            first.setdefault(name, fold.name)
    return first


def _others(
    folds: Sequence[Fold], alone: Sequence[Predictions], number: int, scored: Sequence[str]
) -> list[tuple[Fold, Predictions]]:
    """Selects the data to tune a fold's widths on: other folds, without videos it is scored on."""
    barred = {*scored, *folds[number].validation}
    return [
        (fold, {name: tasks for name, tasks in alone[k].items() if name not in barred})
        for k, fold in enumerate(folds)
        if k != number
    ]


def _seed_scores(
    session: Session,
    store: Store,
    predictions: Sequence[Predictions],
    folds: Sequence[Fold],
    wanted: Sequence[Sequence[str]],
) -> dict[str, dict[str, TaskScores]]:
    scores: dict[str, dict[str, TaskScores]] = {}
    for number, fold in enumerate(folds):
        truths = _truths(store, fold, wanted[number], session.tasks)
        scores[fold.name] = {
            label: _scores(truths, ensemble(session.weights, predictions, members))
            for label, members in seed_groups(session.replicas, session.folds, number).items()
        }
    return scores


def _truths(
    store: Store, fold: Fold, names: Sequence[str], tasks: Sequence[str]
) -> dict[str, Annotations]:
    """Returns task -> annotations, for tasks that any of the videos is annotated for."""
    truths = {task: read_annotations(store, fold, names, task) for task in tasks}
    return {task: truth for task, truth in truths.items() if truth.mask_NK.any()}


def _scores(truths: Mapping[str, Annotations], predictions: Predictions) -> TaskScores:
    found = {
        task: assess(truth, predictions, task)
        for task, truth in truths.items()
        if all(task in predictions[name] for name in truth.names)
    }
    return {task: pair[1] for task, pair in found.items() if pair}


def _shared_test(store: Store, folds: Sequence[Fold], tasks: Sequence[str]) -> list[str]:
    """Returns the test videos that all folds share, if annotated and unseen by every fold."""
    lists = {fold.test or tuple(store.partitions.get("test", ())) for fold in folds}
    frames = {fold.scored_frames for fold in folds}
    if len(lists) != 1 or len(frames) != 1:
        return []
    names = list(lists.pop())
    if not names or any({*names} & {*fold.train, *fold.validation} for fold in folds):
        return []
    return names if _truths(store, folds[0], names, tasks) else []


def _test_scores(
    session: Session,
    store: Store,
    predictions: Sequence[Predictions],
    folds: Sequence[Fold],
    names: Sequence[str],
    postprocessing: Postprocessing | None,
) -> dict[str, Scores]:
    """Scores ensembles on the test videos, beside the mean of single folds' scores."""
    if not names:
        return {}
    truths = _truths(store, folds[0], names, session.tasks)
    everyone = range(len(session.replicas))
    alone = [
        _scores(truths, ensemble(session.weights, predictions, fold_members(session.folds, number)))
        for number in range(len(folds))
    ]
    systems = {rule: ensemble(session.weights, predictions, everyone, rule) for rule in ENSEMBLES}
    if postprocessing:
        smooth = [
            postprocessing.smooth(store, of_replica, int(fold))
            for of_replica, fold in zip(predictions, session.folds.members_R, strict=True)
        ]
        for rule in ENSEMBLES:
            combined = ensemble(session.weights, smooth, everyone, rule)
            systems[f"{rule}, postprocessed"] = postprocessing.clip(combined)
    systems[OPTIMUM] = reference_predictions(store, names, "optimum")
    by_system = {system: _scores(truths, found) for system, found in systems.items()}
    result: dict[str, Scores] = {}
    for task in truths:
        tables = [scores.get(task, {}) for scores in alone]
        shared = [name for name in tables[0] if all(name in table for table in tables)]
        means = {name: float(np.mean([table[name] for table in tables])) for name in shared}
        result[task] = {FOLDS_ALONE: means} if means else {}
        for system, scores in by_system.items():
            # Centring shifts values; of classes and units the two ensembles are the same.
            twice = system.startswith("ccc_centring") and TASKS[task].kind != "continuous"
            if task in scores and not twice:
                result[task][system] = scores[task]
    return result
