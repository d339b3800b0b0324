"""Measures the fall of a run's scores when a mechanism of its model is replaced.

Mechanisms are those that the model declares, see ``emojax.models.mechanisms``: RJCMA's attention,
a cross-modal direction of ExpTrm. Nothing is trained again.

"replaced": the mechanism gives what it would give if it had learned nothing.
"shuffled": the mechanism's input from other modalities is that of another video of the partition,
several times with different partners. What else the model does with these streams stays as it is
(``Mechanism.others`` and ``Mechanism.views``).

A run may hold several seeds. Scores are the mean over seeds of each seed's score; their range is
beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from emojax.errors import InputError
from emojax.models.mechanisms import Mechanism, mechanisms_of
from emojax.ops.bootstrap import interval, two_sided_p
from emojax.prediction.predictor import Fed, Predictions, Predictor, ensemble
from emojax.studies.stream_importance import partner_videos, with_rows_of
from emojax.studies.study_data import StudiedRun, VideoStates
from emojax.types import Batch

REPLACED, SHUFFLED = "replaced", "shuffled"


@dataclasses.dataclass(frozen=True)
class MechanismEffect:
    """The fall of a score.

    Attributes:
        task, score: the task and the name of the score.
        mechanism: the name of the mechanism.
        how: "replaced" or "shuffled".
        becomes: the replacement, in words; for "shuffled" the streams with other rows.
        intact: the score as trained, the mean over seeds.
        altered: the score without the mechanism, the mean over seeds (and shuffles).
        drop: intact - altered.
        low, high, p: interval and two-sided p of the drop, by paired bootstrap over videos.
        least, greatest: the range over seeds of the drop.
        intact_range: the range over seeds of the score as trained, greatest minus least.
        seeds: seed -> (intact, altered).
    """

    task: str
    score: str
    mechanism: str
    how: str
    becomes: str
    intact: float
    altered: float
    drop: float
    low: float
    high: float
    p: float
    least: float
    greatest: float
    intact_range: float
    seeds: dict[int, tuple[float, float]]


class _SeedStates:
    """The metric states of every seed, which are one system each."""

    def __init__(self, studied: StudiedRun, predictions: Sequence[Predictions]) -> None:
        session = studied.run.session
        predictions = studied.run.without_lost(predictions)
        self.by_seed: dict[int, VideoStates] = {}
        for seed, members_of_folds in _members_by_seed(studied).items():
            self.by_seed[seed] = VideoStates(studied).add(
                [ensemble(session.weights, predictions, members) for members in members_of_folds]
            )

    def scores(self, task: str) -> dict[int, dict[str, float]]:
        """Returns seed -> score name -> value."""
        return {seed: states.scores(task) for seed, states in self.by_seed.items()}

    def draws(self, task: str, draws: int, seed: int) -> dict[str, np.ndarray]:
        """Returns score name -> (draws,), the mean over seeds; all draw the same videos."""
        each = [states.draws(task, draws, seed) for states in self.by_seed.values()]
        return {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}


def _members_by_seed(studied: StudiedRun) -> dict[int, list[list[int]]]:
    """Returns seed -> the replicas of each fold, without seeds that lost a replica."""
    session, lost_R = studied.run.session, studied.run.lost_R
    found: dict[int, list[list[int]]] = {}
    for r, replica in enumerate(session.replicas):
        folds = found.setdefault(replica.seed, [[] for _ in studied.folds])
        folds[session.folds.members_R[r]].append(r)
    sound = {
        seed: folds
        for seed, folds in found.items()
        if not any(lost_R[r] for of_fold in folds for r in of_fold)
    }
    return sound or found


def mechanism_study(
    studied: StudiedRun,
    progress: Callable[[int, int], None],
    *,
    shuffles: int = 1,
    draws: int = 1000,
    seed: int = 0,
) -> list[MechanismEffect]:
    """Runs the study; one compiled program serves all mechanisms.

    Args:
        studied: the run.
        progress: called with the work done and the whole work after each prediction.
        shuffles: the number of partners of each video; 0 for no shuffling.
        draws: the number of draws of the bootstrap.
        seed: the seed of partners and draws.

    Raises:
        InputError: the model declares no mechanism, or the partition has a single video and so
            no partners.
    """
    session, store, names = studied.run.session, studied.store, studied.videos
    mechanisms = mechanisms_of(session.model)
    _check(studied, mechanisms, shuffles)
    predictor, (weights, normalisation) = Predictor(session, store), studied.run.placed()
    partners = [
        partner_videos(studied, np.random.default_rng([seed, shuffle]))
        for shuffle in range(shuffles)
    ]
    reading = sum(1 for one in mechanisms.values() if one.others or one.views)
    total, done = 1 + len(mechanisms) + shuffles * reading, 0

    def flags(name: str) -> Any:
        chosen_M = np.array([name == one for one in mechanisms])
        return session.layout.replicas(np.tile(chosen_M, (len(session.replicas), 1)))

    def scored(predictions: Sequence[Predictions]) -> _SeedStates:
        nonlocal done
        progress(done := done + 1, total)
        return _SeedStates(studied, predictions)

    def shuffled(name: str, mechanism: Mechanism, partner: Mapping[int, int]) -> _SeedStates:
        if mechanism.others:
            altered = predictor.on(with_rows_of(studied, partner, mechanism.others))
            return scored(altered(weights, normalisation, names))
        other = predictor.on(with_rows_of(studied, partner, tuple(session.streams)))
        both = weights | {"replaced": flags(""), "shuffled": flags(name)}
        return scored(predictor.run(both, normalisation, names, _beside(predictor, other, names)))

    intact = scored(predictor(weights | {"replaced": flags("")}, normalisation, names))
    found = []
    for name, mechanism in mechanisms.items():
        without = scored(predictor(weights | {"replaced": flags(name)}, normalisation, names))
        found += _compare(intact, [without], name, REPLACED, mechanism.becomes, draws, seed)
        if partners and (mechanism.others or mechanism.views):
            each = [shuffled(name, mechanism, partner) for partner in partners]
            becomes = f"another video's {', '.join(mechanism.others) or 'streams, here alone'}"
            found += _compare(intact, each, name, SHUFFLED, becomes, draws, seed)
    return found


def _beside(
    predictor: Predictor, other: Predictor, names: Sequence[Sequence[str]]
) -> Iterator[Fed]:
    """Yields batches of twice the size: windows, then other videos', which do not count."""
    for own, theirs in zip(predictor.feed(names), other.feed(names), strict=True):
        both = [
            _joined(cast(Batch, a), cast(Batch, b))
            for a, b in zip(own.host, theirs.host, strict=True)
        ]
        yield Fed(both, predictor.place(both))


def _joined(own: Batch, other: Batch) -> Batch:
    other = dataclasses.replace(
        other,
        example_mask=np.zeros_like(other.example_mask),
        frame_ids=np.full_like(other.frame_ids, -1),
    )
    return jax.tree.map(lambda *rows: np.concatenate(rows), own, other)


def _compare(
    intact: _SeedStates,
    altered: Sequence[_SeedStates],
    mechanism: str,
    how: str,
    becomes: str,
    draws: int,
    seed: int,
) -> list[MechanismEffect]:
    found = []
    first = next(iter(intact.by_seed.values()))
    for task in first.tasks:
        whole, each = intact.scores(task), [one.scores(task) for one in altered]
        of_intact = intact.draws(task, draws, seed)
        of_altered = [one.draws(task, draws, seed) for one in altered]
        for name in first.names(task):
            pairs = {
                s: (whole[s][name], float(np.mean([scores[s][name] for scores in each])))
                for s in whole
            }
            before, after = (np.array(column) for column in zip(*pairs.values(), strict=True))
            drops = of_intact[name] - np.mean([one[name] for one in of_altered], axis=0)
            drop_S = before - after
            found.append(
                MechanismEffect(
                    task, name, mechanism, how, becomes,
                    float(before.mean()), float(after.mean()), float(drop_S.mean()),
                    *interval(drops), two_sided_p(drops),
                    float(drop_S.min()), float(drop_S.max()), float(np.ptp(before)), pairs,
                )
            )  # fmt: skip
    return found


def _check(studied: StudiedRun, mechanisms: dict[str, Mechanism], shuffles: int) -> None:
    """Refuses models without mechanisms, and shuffling of a single video."""
    if not mechanisms:
        raise InputError(
            "The model declares no mechanism that could be replaced.",
            file=studied.run.workdir,
            field="config.model.name",
            found=studied.run.session.config.model["name"],
            expected="a model with a method `mechanisms`, see docs/extending.md",
        )
    if shuffles and min(map(len, studied.videos)) < 2:
        raise InputError(
            "Shuffling needs at least two videos.",
            file=studied.store.path,
            field="--partition",
            found=f"{studied.partition}, one video",
            expected="at least two videos",
            remedy="name another --partition, or leave shuffling out: --shuffles=0",
        )
