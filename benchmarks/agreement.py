"""Checks that emojax and PyTorch compute the same, before their times are compared."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from benchmarks.machine import allow_tf32
from benchmarks.torch_training import TorchTraining
from benchmarks.workload import Case, EmojaxTraining
from emojax.core.state import TrainState
from emojax.core.step import forward, total_loss

# Relative to the greatest output; float32 sums of thousands of products in another order.
TOLERANCE = 1e-4


class DisagreementError(Exception):
    """The two programs compute different results, so their times are not comparable."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The greatest differences, relative to the greatest number.

    Attributes:
        evaluation: the difference of outputs without dropout and with running statistics.
        training: the difference of outputs in training, with dropout 0.
        loss: the difference of the training loss, with dropout 0.
    """

    evaluation: float
    training: float
    loss: float

    @property
    def greatest(self) -> float:
        """Returns the greatest of the three differences."""
        return float(np.max([self.evaluation, self.training, self.loss]))


def check_agreement(
    case: Case, torch: Any, *, state: TrainState | None = None, batch: int = 2
) -> Agreement:
    """Compares outputs and losses of the same weights and windows, in float32 without TF32.

    Args:
        case: the system and its sizes.
        torch: the module ``torch``.
        state: the state whose first replica's weights are used; drawn by default.
        batch: the number of windows.

    Raises:
        DisagreementError: a difference is above ``TOLERANCE``.
        ImportError: see ``TorchTraining``.
        RuntimeError: see ``TorchTraining``.
    """
    small = dataclasses.replace(case, replicas=1, batch=batch, dtype="float32").without_dropout()
    allow_tf32(torch, False)
    try:
        if state is not None:
            state = jax.tree.map(lambda leaf: leaf[:1], state)
        ours = EmojaxTraining(small, state=state, steps=1)
        theirs = TorchTraining(ours, torch)
        found = {}
        losses = []
        for train, (mine, loss) in _outputs(ours).items():
            other, other_loss = theirs.outputs(train=train)
            # np.max keeps a NaN; max may drop it.
            found[train] = float(np.max([_difference(mine[task], other[task]) for task in mine]))
            losses.append(_difference(np.array(loss), np.array(other_loss)))
    finally:
        allow_tf32(torch, True)
    agreement = Agreement(evaluation=found[False], training=found[True], loss=float(np.max(losses)))
    # "not <=" also holds for NaN, which is a disagreement.
    if not agreement.greatest <= TOLERANCE:
        raise DisagreementError(
            f"outputs differ by {agreement.evaluation:.1e} in evaluation, "
            f"{agreement.training:.1e} in training, losses by {agreement.loss:.1e}"
        )
    return agreement


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("nan")
    return float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), 1e-6))


def _outputs(ours: EmojaxTraining) -> dict[bool, tuple[dict[str, np.ndarray], float]]:
    """Returns training or not -> outputs and loss of the first replica.

    Dropout rates are 0, so no key is needed.
    """
    session = ours.session
    batch = ours.host_batch
    weights = {task: weights_RX[0] for task, weights_RX in session.weights.items()}

    @jax.jit
    def compute(params: Any, model_state: Any) -> Any:
        found = []
        for train in (False, True):
            outputs, aux, _ = forward(
                session.model, params, model_state, batch, ours.normalisation, train=train
            )
            found.append((outputs, total_loss(outputs, aux, batch, session.losses, weights)))
        return found

    params, model_state = jax.tree.map(lambda x: x[0], (ours.state.params, ours.state.model_state))
    computed = jax.device_get(compute(params, model_state))
    return {
        train: ({task: np.asarray(x) for task, x in outputs.items()}, float(loss))
        for train, (outputs, loss) in zip((False, True), computed, strict=True)
    }
