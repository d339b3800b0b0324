"""Replicas that leave when they are finished, or take turns when they do not fit."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emojax.core.session import Session, build_session
from emojax.datasets.source import Store
from emojax.rundir.checkpoint import Checkpoints
from emojax.training import loop, validation
from emojax.training.feeds import Reader, dispatches
from emojax.training.groups import Group, group_size, regroup
from emojax.training.memory_plan import footprint, needed_bytes
from tests.branch_model import branched, branched_config  # noqa: F401 - a fixture
from tests.small_store import build_small_store
from tests.training_runs import (
    assert_same_bits,
    furthest,
    host,
    metric_rows,
    quick_compiling,  # noqa: F401 - a fixture
    replica,
    session_of,
    train,
)

pytestmark = [pytest.mark.usefixtures("branched"), pytest.mark.slow]
# Groups of another size, or on other devices, are other programs, which round in their own way.
TOLERANCE = 2e-6
FOUR = {"folds": ["0", "1"], "targets": ["valence", "arousal"]}
# Step of a validation -> replicas that are finished by it; 4 train, then 2, 1 and 1.
FINISHED = {4: [1, 3], 8: [2], 12: []}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def config_of(store: Store, **sections: dict[str, Any]) -> dict[str, Any]:
    train = {"epochs": 4, "epoch_steps": 4} | sections.pop("train", {})
    replicas = FOUR | sections.pop("replicas", {})
    return branched_config(store.path, train=train, replicas=replicas, **sections)


@pytest.fixture(scope="module")
def free(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Returns four replicas of which none finishes."""
    workdir = tmp_path_factory.mktemp("free")
    return *train(store, workdir, config_of(store)), workdir


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Replicas finish as ``FINISHED`` says."""
    observe = loop.observe

    def finish(*arguments: Any) -> Any:
        state, improved = observe(*arguments)
        over = np.isin(np.arange(4), FINISHED.get(arguments[-1], []))
        return dataclasses.replace(state, active=state.active & ~over), improved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "observe", finish)
        yield


@dataclasses.dataclass
class Left:
    """A run that replicas leave, and its records."""

    run: Any
    recorder: Any
    workdir: Path
    predicted: list[list[int]]
    sizes: list[int]
    lines: list[str]


@pytest.fixture(scope="module")
def left(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Left:
    workdir, log = tmp_path_factory.mktemp("left"), io.StringIO()
    predicted, sizes = [], []
    predict = validation.Predictor.__call__

    def watched(self: Any, weights: Any, normalisation: Any, videos: Any) -> Any:
        predicted.append([len(names) for names in videos])
        sizes.append(len(jax.tree.leaves(weights)[0]))
        return predict(self, weights, normalisation, videos)

    with finishing(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(log):
        patch.setattr(validation.Predictor, "__call__", watched)
        run, recorder = train(store, workdir, config_of(store))
    return Left(run, recorder, workdir, predicted, sizes, log.getvalue().splitlines())


# -- finished replicas ---------------------------------------------------------------------------


def test_finished_replicas_leave_with_their_best_weights(
    store: Store, free: tuple[Any, Any, Path], left: Left
) -> None:
    run, recorder = left.run, left.recorder
    _, unfinished, _ = free
    assert run.schedule.active.tolist() == [True, False, False, False]
    # A validation of four, of two of both folds, and twice of one of the first fold.
    counts = [len(store.fold(name).validation) for name in "01"]
    assert left.sizes == [4, 2, 1, 1]
    assert left.predicted == [counts, counts, counts[:1], counts[:1]]
    for r, last in enumerate((16, 4, 8, 4)):
        for step in range(4, 17, 4):
            # Until it is finished it trains as it would have; then it stands still, to the bit.
            if step > last:
                found, expected = recorder.saved[step], recorder.saved[last]
                assert_same_bits(replica(found, r), replica(expected, r))
                continue
            for part in ("params", "model_state", "best"):
                found = getattr(recorder.saved[step], part)
                expected = getattr(unfinished.saved[step], part)
                assert furthest(replica(found, r), replica(expected, r)) <= TOLERANCE
        # Its best weights are those of its best epoch before it left.
        scores = [epoch["score"][r] for epoch in run.history[: last // 4]]
        best = recorder.saved[4 * (int(np.argmax(scores)) + 1)]
        weights = {"params": best.params, "model_state": best.model_state}
        assert_same_bits(replica(host(run.state.best), r), replica(weights, r))
        # And it keeps the score of its last validation.
        assert {epoch["score"][r] for epoch in run.history[last // 4 - 1 :]} == {scores[-1]} or (
            last == 16
        )
    # The second fold's windows are read no more.
    with Checkpoints(left.workdir, read_only=True) as checkpoints:
        _, meta = checkpoints.meta()
    with Checkpoints(free[2], read_only=True) as checkpoints:
        _, unfinished_meta = checkpoints.meta()
    assert meta["iterators"][0] == unfinished_meta["iterators"][0]
    assert meta["iterators"][1] != unfinished_meta["iterators"][1]
    rows = metric_rows(left.workdir)
    assert [bool(row["valence fold 1/loss"]) for row in rows] == [True, True, False, False]
    told = ["(2 of 4 replicas still trained)"] + 3 * ["(1 of 4 replicas still trained)"]
    begins, *lines = left.lines
    assert begins.startswith("16 steps, validated every 4;")
    assert [line[-len(one) :] for line, one in zip(lines, told, strict=True)] == told


def test_a_run_killed_while_some_have_left_goes_on_to_the_bit(
    store: Store, left: Left, tmp_path: Path
) -> None:
    update = loop.TrainingProgress.update

    def killed(self: Any, step: int, windows: int, **scalars: float) -> None:
        if step == 7:
            raise KeyboardInterrupt
        update(self, step, windows, **scalars)

    with finishing():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.TrainingProgress, "update", killed)
            with pytest.raises(KeyboardInterrupt):
                train(store, tmp_path, config_of(store))
        resumed, recorder = train(store, tmp_path, config_of(store))
    assert sorted(recorder.saved) == [8, 12, 16]
    assert_same_bits(host(resumed.state), host(left.run.state))
    assert resumed.history == left.run.history
    assert metric_rows(tmp_path) == metric_rows(left.workdir)


# -- turns ---------------------------------------------------------------------------------------


def test_groups_that_take_turns_equal_all_together(
    store: Store,
    free: tuple[Any, Any, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = session_of(store, config_of(store))
    limit = needed_bytes(footprint(session), session, 2)
    config = config_of(store, train={"memory_limit": limit, "epochs": 2})
    found, recorder = train(store, tmp_path / "turns", config)
    assert recorder.plan.most == 2
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("4 replicas at once would need about")
    assert "2 groups of at most 2 take turns" in line
    # Both replicas of a sampler in one group, so that neither group reads the other's windows.
    assert [group.members.tolist() for group in recorder._groups] == [[0, 1], [2, 3]]
    whole, unlimited, _ = free
    for part in ("params", "model_state", "best"):
        expected = getattr(unlimited.saved[8], part)
        assert furthest(host(getattr(found.state, part)), expected) <= TOLERANCE
    for epoch, expected in zip(found.history, whole.history, strict=False):
        np.testing.assert_allclose(epoch["score"], expected["score"], rtol=0, atol=1e-4)


def test_groups_read_the_same_windows(
    store: Store, free: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    """One at a time: the two replicas of a sampler are in two groups."""
    session = session_of(store, config_of(store))
    limit = needed_bytes(footprint(session), session, 1)
    config = config_of(store, train={"memory_limit": limit, "epochs": 2})
    found, recorder = train(store, tmp_path, config)
    assert recorder.plan.most == 1
    assert furthest(host(found.state.params), free[1].saved[8].params) <= TOLERANCE
    states = [feed.get_state() for feed in free[1]._feed.iterators]
    # Two epochs more, all together, and without a limit.
    longer, recorder = train(store, tmp_path, config_of(store))
    assert [feed.get_state() for feed in recorder._feed.iterators] == states
    assert furthest(host(longer.state.params), host(free[0].state.params)) <= 2 * TOLERANCE


def test_eight_devices_train_what_is_left(
    store: Store, free: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    config = config_of(store, train={"epochs": 2})
    with finishing():
        run, recorder = train(store, tmp_path, config, devices=jax.devices())
    assert dict(recorder.session.layout.mesh.shape) == {"replica": 4, "data": 2}
    (group,) = recorder._groups
    # Two replicas, whose batches of four lie on four devices each.
    assert dict(group.session.layout.mesh.shape) == {"replica": 2, "data": 4}
    for leaf in jax.tree.leaves(run.state):
        assert leaf.addressable_shards[0].data.shape[0] == 1
    for r, last in enumerate((8, 4, 8, 4)):
        expected = replica(free[1].saved[last].params, r)
        assert furthest(replica(host(run.state.params), r), expected) <= 10 * TOLERANCE


# -- feeds ---------------------------------------------------------------------------------------


class Counted:
    """A feed of numbers, which can be set back."""

    def __init__(self) -> None:
        self.count = 0

    def __next__(self) -> int:
        self.count += 1
        return self.count

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        self.count = state


def test_a_finished_samplers_feed_stands_still_and_a_second_group_reads_from_the_start(
    store: Store,
) -> None:
    session = session_of(store, config_of(store))
    feeds: list[Any] = [Counted(), Counted()]
    feeds[1].count = 10
    # All replicas are present; those of the second fold are finished.
    active = np.array([True, False, False, False])
    whole = Group(np.arange(4), np.ones(4, bool), session, session)
    reader = Reader(feeds, whole, whole.active(active), {})
    assert [next(reader), next(reader)] == [[1, 1], [2, 2]]
    assert [feed.count for feed in feeds] == [2, 10]
    # Two groups, of one replica of the first fold and of all others.
    begun: dict[int, Any] = {}
    for members, expected in (([0], [[3], [4]]), ([1, 2, 3], [[3, 11], [4, 12]])):
        part = session.subset(members, session.layout)
        group = Group(np.array(members), np.ones(len(members), bool), session, part)
        reader = Reader(feeds, group, group.active(np.ones(4, bool)), begun)
        assert [next(reader), next(reader)] == expected


def test_resident_data_and_many_steps_at_once_give_the_same_losses(
    store: Store, free: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    """Bit for bit: weights, moments, losses. Validation sums in float32 instead of float64.

    Between the two epochs the number of steps that one dispatch takes changes.
    """
    _, unlimited, workdir = free
    for epochs_done, steps in ((1, 1), (2, 3)):
        config = config_of(
            store,
            data={"feed": "resident"},
            train={"steps_per_dispatch": steps, "epochs": epochs_done},
        )
        _, recorder = train(store, tmp_path, config)
        assert (recorder.plan.resident, recorder._feed.steps) == (True, steps)
        ((step, saved),) = recorder.saved.items()
        for part in ("params", "model_state", "opt_state"):
            assert_same_bits(getattr(saved, part), getattr(unlimited.saved[step], part))
    for row, expected in zip(metric_rows(tmp_path), metric_rows(workdir)[:2], strict=True):
        for key, value in expected.items():
            if key.endswith(("loss", "gradient_norm")):
                assert row[key] == value
            else:
                assert float(row[key]) == pytest.approx(float(value), abs=1e-5)


@given(st.integers(1, 400), st.integers(1, 64))
def test_dispatches_take_every_step_and_are_of_two_sizes(steps: int, most: int) -> None:
    found = list(dispatches(steps, most))
    assert sum(found) == steps
    assert max(found) <= most
    assert len(set(found)) <= 2
    assert found.count(1) < most or most == 1
    # No more of them than half as long ones would be, but for single steps.
    assert len([size for size in found if size > 1]) <= math.ceil(2 * steps / most) + 1


# -- sizes ---------------------------------------------------------------------------------------


def many(store: Store, count: int, devices: int) -> Session:
    replicas = {"folds": ["0"], "targets": ["va"], "seeds": [*range(count)]}
    return build_session(
        config_of(store, replicas=replicas), store.streams, jax.devices()[:devices]
    )


@pytest.mark.parametrize(("count", "devices"), [(1, 1), (12, 1), (13, 1), (12, 8), (8, 8)])
def test_sizes_halve_and_leave_nobody_out(store: Store, count: int, devices: int) -> None:
    session = many(store, count, devices)
    for most in (count, max(1, count // 2), 1):
        sizes = []
        groups: list[Any] = []
        for live in range(count, 0, -1):
            active = np.arange(count) < live
            groups = regroup(groups, session, active, most)
            sizes.append(group_size(live, most, count, session.layout, session.batch_size))
            trained = [group.members[group.active(active)] for group in groups]
            assert sorted(np.concatenate(trained).tolist()) == list(range(live))
            assert all(len(part) for part in trained)
            assert {len(group.members) for group in groups} == {sizes[-1]} <= {*range(1, most + 1)}
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) <= 1 + math.log2(count)
        if devices == 1:
            assert all(
                2 * live > size for live, size in zip(range(count, 0, -1), sizes, strict=True)
            )
