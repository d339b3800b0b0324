"""The block bootstrap over videos against predictions that are really repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emojax.ops.bootstrap import (
    drawn_videos,
    interval,
    paired_difference,
    pooled_state,
    resampled_scores,
    two_sided_p,
)
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS

TASK_NAMES = ("va", "expr", "au")


def video(task: str, seed: int, skill: float = 1.0) -> tuple[np.ndarray, ...]:
    """Returns decoded predictions, labels and mask of one video."""
    rng = np.random.default_rng(seed)
    num_frames, spec = int(rng.integers(5, 40)), TASKS[task]
    if spec.kind == "categorical":
        labels = rng.integers(0, spec.outputs, (num_frames, 1)).astype(np.float64)
        logits = rng.normal(size=(num_frames, spec.outputs))
        logits += skill * 2 * (labels == np.arange(spec.outputs)[None])
        predicted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    elif spec.kind == "binary":
        labels = rng.integers(0, 2, (num_frames, spec.outputs)).astype(np.float64)
        predicted = 1 / (1 + np.exp(-rng.normal(size=labels.shape) - skill * (labels - 0.5)))
    else:
        labels = rng.normal(0.3 * rng.normal(), 0.2, (num_frames, spec.outputs))
        predicted = skill * labels + rng.normal(0, 0.2, labels.shape)
    return predicted, labels, rng.random(labels.shape) < 0.9


def states(task: str, videos: list[tuple[np.ndarray, ...]]) -> list[Any]:
    return [TASK_OPS[task].state(*one) for one in videos]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_draw_scores_as_its_videos_put_one_after_the_other(task: str) -> None:
    videos = [video(task, seed) for seed in range(7)]
    found = resampled_scores(task, states(task, videos), draws=20, seed=3)
    drawn_DV = drawn_videos(7, 20, 3)
    assert drawn_DV.shape == (20, 7)
    assert (drawn_DV.sum(axis=1) == 7).all()
    for draw, counts_V in enumerate(drawn_DV):
        repeated = [one for one, count in zip(videos, counts_V, strict=True) for _ in range(count)]
        expected = TASK_OPS[task].scores(*(np.concatenate(x) for x in zip(*repeated, strict=True)))
        assert set(expected) == set(found)
        for name, score in expected.items():
            assert found[name][draw] == pytest.approx(score, abs=1e-12), name


@pytest.mark.parametrize("task", TASK_NAMES)
def test_all_videos_once_are_the_partition(task: str) -> None:
    videos = [video(task, seed) for seed in range(5)]
    whole = TASK_OPS[task].scores(*(np.concatenate(x) for x in zip(*videos, strict=True)))
    found = TASK_OPS[task].summarise(pooled_state(states(task, videos)))
    assert found == pytest.approx(whole, abs=1e-12)


def test_what_is_constant_stays_constant_however_it_is_drawn() -> None:
    # Constants that floats do not hold, far from the labels: rounding must not correlate.
    videos = []
    for seed in range(4):
        _, labels, mask = video("va", seed)
        videos.append((np.full_like(labels, 0.1), labels, mask))
    scores = resampled_scores("va", states("va", videos), draws=50)
    for name in ("pearson_valence", "pearson_arousal"):
        np.testing.assert_array_equal(scores[name], 0.0)
    assert np.abs(scores["ccc_mean"]).max() < 1e-12


def test_draws_depend_on_the_seed_and_the_number_of_videos_alone() -> None:
    first = states("va", [video("va", seed) for seed in range(6)])
    again = resampled_scores("va", first, draws=30, seed=1)
    np.testing.assert_array_equal(
        again["ccc_valence"], resampled_scores("va", first, draws=30, seed=1)["ccc_valence"]
    )
    other = resampled_scores("va", first, draws=30, seed=2)
    assert not np.array_equal(again["ccc_valence"], other["ccc_valence"])


def test_a_single_video_says_nothing_of_others() -> None:
    one = states("va", [video("va", 0)])
    assert np.isnan(resampled_scores("va", one, draws=5)["ccc_mean"]).all()
    compared = paired_difference("va", one, one, draws=5)["ccc_mean"]
    assert compared.difference == 0.0
    assert np.isnan([compared.low, compared.high, compared.p]).all()


def test_interval_is_of_percentiles() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert interval(values) == pytest.approx((25.0, 975.0))
    assert interval(values, 0.5) == pytest.approx((250.0, 750.0))
    assert np.isnan(interval(np.array([0.0, np.nan]))).all()
    for values, level in ((np.zeros(0), 0.95), (np.zeros(3), 1.0)):
        with pytest.raises(ValueError, match="level"):
            interval(values, level)


def test_p_counts_the_other_side_twice() -> None:
    assert two_sided_p(np.array([1.0] * 97 + [-1.0] * 2)) == pytest.approx(2 * 3 / 100)
    assert two_sided_p(np.array([-1.0] * 97 + [1.0] * 2)) == pytest.approx(2 * 3 / 100)
    assert two_sided_p(np.ones(999)) == pytest.approx(0.002)
    assert two_sided_p(np.zeros(10)) == 1.0


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_system_does_not_differ_from_itself(task: str) -> None:
    same = states(task, [video(task, seed) for seed in range(6)])
    for compared in paired_difference(task, same, same, draws=50).values():
        assert (compared.difference, compared.low, compared.high) == (0.0, 0.0, 0.0)
        assert compared.p == 1.0


def test_pairing_finds_what_two_intervals_hide() -> None:
    # One system is better by a little on every video; the videos differ by more.
    pairs = []
    for seed in range(25):
        predicted, labels, mask = video("va", seed, 0.8)
        pairs.append(((predicted, labels, mask), (0.93 * predicted, labels, mask)))
    better, worse = (states("va", [pair[i] for pair in pairs]) for i in (0, 1))
    compared = paired_difference("va", better, worse, draws=400)["ccc_mean"]
    assert 0 < compared.low < compared.difference < compared.high
    assert compared.p < 0.05
    alone = interval(resampled_scores("va", better, draws=400)["ccc_mean"])
    assert compared.high - compared.low < 0.5 * (alone[1] - alone[0])
    # Turned round, the same with the other sign.
    turned = paired_difference("va", worse, better, draws=400)["ccc_mean"]
    assert (turned.low, turned.high) == pytest.approx((-compared.high, -compared.low))
    assert turned.p == compared.p


@pytest.mark.nightly
def test_the_interval_covers_what_it_should() -> None:
    """Of 120 partitions of 40 videos about 95 % cover the score of all there are."""
    rng = np.random.default_rng(0)
    population = states("va", [video("va", seed) for seed in range(400)])
    truth = TASK_OPS["va"].summarise(pooled_state(population))["ccc_mean"]
    hits = 0
    for trial in range(120):
        some = [population[i] for i in rng.choice(400, 40, replace=False)]
        low, high = interval(resampled_scores("va", some, draws=200, seed=trial)["ccc_mean"])
        hits += low <= truth <= high
    assert 0.87 <= hits / 120 <= 1.0


def test_unequal_partitions_cannot_be_paired() -> None:
    three = states("va", [video("va", seed) for seed in range(3)])
    with pytest.raises(ValueError, match="paired"):
        paired_difference("va", three, three[:2])
    with pytest.raises(ValueError, match="no metric state"):
        resampled_scores("va", [])
