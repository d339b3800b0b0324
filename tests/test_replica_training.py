"""Replicas of every model train as separate runs do."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.session import Session
from emojax.core.state import TrainState, init_variables
from emojax.core.step import Hyper, Shared, make_train_step
from tests.small_models import SYSTEMS, labelled_batch, make_inputs, shipped, small_session

pytestmark = pytest.mark.slow

FIRST = {v.make().model.name: v for v in reversed(shipped())}
STEPS, RATE = 3, 1e-3
# Of losses, relative, and of gradients, absolute. Parameters are not compared: where a gradient is
# nothing but rounding (the bias of a key, or before a normalisation), Adam steps a whole rate to
# either side. No output changes, only the running mean that follows such a bias.
LOSS_TOLERANCE, TOLERANCE = 1e-5, 5e-6


def state_of(session: Session, seed: int) -> TrainState:
    key = jax.random.key(seed)
    params, rest = init_variables(session.model, session.streams, session.window_spec.lengths, key)
    return TrainState(
        params=params,
        model_state=rest,
        opt_state=session.optimizer.init(params),
        best={"params": params, "model_state": rest},
        key=jax.random.key_data(key),
        step=np.zeros((), np.int32),
        ema=None,
    )


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SYSTEMS else pytest.mark.nightly) for name in FIRST],
)
def test_two_replicas_train_as_two_runs(name: str) -> None:
    session = small_session(FIRST[name])
    step = make_train_step(session.learner, Shared(None, None))
    normalisation = {
        stream: (np.full(spec.width, 0.1, np.float32), np.full(spec.width, 1.5, np.float32))
        for stream, spec in session.streams.items()
    }
    rates = np.array([RATE, RATE / 2], np.float32)

    def train(members: list[int]) -> tuple[Any, list[Any]]:
        state = jax.device_put(stacked([host_states[r] for r in members]))
        hyper = Hyper(
            learning_rate=rates[members],
            weight_decay=np.full(len(members), 1e-3, np.float32),
            target_weights={
                task: np.ones((len(members), len(weights[0])), np.float32)
                for task, weights in session.weights.items()
            },
            active=np.ones(len(members), bool),
        )
        seen = []
        for i in range(STEPS):
            state, metrics = step(
                state, labelled_batch(make_inputs(session, (12, 6), i), i), normalisation, hyper
            )
            seen.append(jax.device_get(metrics))
        return jax.device_get(state), seen

    host_states = [jax.device_get(state_of(session, seed)) for seed in (0, 1)]
    together, losses = train([0, 1])
    for r in (0, 1):
        alone, own = train([r])
        for ours, theirs in zip(losses, own, strict=True):
            for metric, values in ours.items():
                np.testing.assert_allclose(values[r], theirs[metric][0], rtol=LOSS_TOLERANCE)
        # Adam's first moment is the mean of the gradients, which follow from the parameters so far.
        moments = zip(
            jax.tree.leaves(together.opt_state.mu), jax.tree.leaves(alone.opt_state.mu), strict=True
        )
        for a, b in moments:
            np.testing.assert_allclose(a[r], b[0], rtol=1e-4, atol=TOLERANCE)
        assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(alone.opt_state.mu))
