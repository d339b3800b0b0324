"""One training step of every shipped model against the numbers of the first of December 2026.

A change of numerics that no other test sees shows here. If it is meant, write the new numbers with

    python -m tests.test_golden_steps

and say in the commit why they changed.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.state import TrainState, named_leaves
from emojax.core.step import Hyper, Shared, make_train_step
from emojax.papers.variants import Variant
from tests.small_models import (
    labelled_batch,
    make_inputs,
    random_variables,
    shipped,
    small_session,
)

pytestmark = pytest.mark.slow

FILE = Path(__file__).with_name("golden_steps.json")
RATE, DECAY = 1e-3, 1e-2
TOLERANCE = 1e-5
# Below it a gradient is rounding alone, and Adam's step from it goes to either side.
ROUNDING = 1e-5
GOLDEN: dict[str, Any] = json.loads(FILE.read_text())


@functools.cache
def paper_variants() -> dict[str, Variant]:
    """Returns the first variant of each model, by the model's name."""
    return {variant.make().model.name: variant for variant in reversed(shipped())}


def measure(name: str) -> dict[str, Any]:
    """Returns one step's loss, and the norms of gradient and update of each parameter group."""
    session = small_session(paper_variants()[name])
    variables = random_variables(session, seed=1)
    params = variables.pop("params")
    state = TrainState(
        params=params,
        model_state=variables,
        opt_state=session.optimizer.init(params),
        best={"params": params, "model_state": variables},
        key=jax.random.key_data(jax.random.key(0)),
        step=np.zeros((), np.int32),
        ema=None,
    )
    one_replica = jax.tree.map(lambda leaf: np.asarray(leaf)[None], state)
    hyper = Hyper(
        learning_rate=np.full(1, RATE, np.float32),
        weight_decay=np.full(1, DECAY, np.float32),
        target_weights={
            task: np.ones((1, len(weights[0])), np.float32)
            for task, weights in session.weights.items()
        },
        active=np.ones(1, bool),
    )
    normalisation = {
        stream: (np.full(spec.width, 0.1, np.float32), np.full(spec.width, 1.5, np.float32))
        for stream, spec in session.streams.items()
    }
    step = make_train_step(session.learner, Shared(None, None))
    # Two windows, the second padded.
    batch = labelled_batch(make_inputs(session, (12, 6), seed=3), seed=4)
    after, metrics = jax.device_get(step(jax.device_put(one_replica), batch, normalisation, hyper))
    # After one step Adam's first moment is a tenth of the gradient.
    gradients = named_leaves(after.opt_state.mu)
    before, updated = named_leaves(params), named_leaves(after.params)
    squares: dict[str, list[float]] = {}
    for leaf, moment in gradients.items():
        gradient = 10.0 * np.asarray(moment[0], np.float64)
        change = np.asarray(updated[leaf][0], np.float64) - before[leaf]
        change = np.where(np.abs(gradient) > ROUNDING, change, 0.0)
        total = squares.setdefault(leaf.split("/")[0], [0.0, 0.0])
        total[0] += float(np.sum(gradient**2))
        total[1] += float(np.sum(change**2))
    return {
        "metrics": {key: float(np.asarray(value)[0]) for key, value in metrics.items()},
        "gradient": {group: float(np.sqrt(total[0])) for group, total in squares.items()},
        "update": {group: float(np.sqrt(total[1])) for group, total in squares.items()},
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_one_step_gives_the_golden_numbers(name: str) -> None:
    golden = GOLDEN[name]
    found = measure(name)
    assert {part: set(numbers) for part, numbers in found.items()} == {
        part: set(numbers) for part, numbers in golden.items()
    }
    for part, numbers in golden.items():
        for key, number in numbers.items():
            np.testing.assert_allclose(
                found[part][key], number, rtol=TOLERANCE, atol=1e-9, err_msg=f"{part} {key}"
            )


def test_golden_numbers_are_no_rounding() -> None:
    assert len(GOLDEN) >= 8
    for parts in GOLDEN.values():
        assert all(number > 1e-4 for number in parts["gradient"].values())


if __name__ == "__main__":
    found = {name: measure(name) for name in paper_variants()}
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
