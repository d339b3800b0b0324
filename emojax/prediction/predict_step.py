"""Builds the step of evaluation and prediction: the decoded outputs of R replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from emojax.core.programs import kept
from emojax.core.step import Shared, data_axis, forward, take_members
from emojax.models.mechanisms import mechanisms_of, replaced, replaced_parameters
from emojax.ops.tasks import TASK_OPS
from emojax.types import Batch


@kept
def make_predict_step(model: nn.Module, shared: Shared) -> Callable[..., dict[str, jax.Array]]:
    """Builds ``predict(weights, batch, normalisation[, drop]) -> task -> (R, B, T, C)``, decoded.

    ``weights`` is {"params", "model_state"} with leading R. Outputs are decoded (softmax,
    sigmoid) so that overlapping windows can be averaged; decisions come afterwards. Where
    ``weights`` also has "branches", (R,) bool, the replicas that are True predict the mean of
    what their temporary heads, ``aux["branches"]``, decode to. Where it has "replaced", (R, M)
    bool, the replicas predict with those of the model's M mechanisms replaced; "shuffled" beside it
    is ``shuffled_M`` of ``models.mechanisms.replaced``. ``drop`` is that of ``forward``, with the
    axes of the batch; any rows may be dropped without compiling again.
    """
    mechanisms = mechanisms_of(model)

    def decode(outputs: Mapping[str, jax.Array]) -> dict[str, Any]:
        return {
            task: TASK_OPS[task].decode(x_BTC.astype(jnp.float32))
            for task, x_BTC in outputs.items()
        }

    def one(weights: Any, batch: Batch, normalisation: Any, drop: Any) -> dict[str, Any]:
        params, model_state = weights["params"], weights["model_state"]
        with contextlib.ExitStack() as altered:
            if "replaced" in weights:
                params = replaced_parameters(mechanisms, weights["replaced"], params)
                chosen = weights["replaced"], weights.get("shuffled")
                altered.enter_context(replaced(mechanisms, *chosen))
            outputs, aux, _ = forward(
                model, params, model_state, batch, normalisation, train=False, drop=drop
            )
        decoded = decode(outputs)
        if "branches" not in weights:
            return decoded
        each = [decode(branch) for branch in aux["branches"].values()]
        mean = {task: sum(d[task] for d in each) / len(each) for task in decoded}
        return {
            task: jnp.where(weights["branches"], mean[task], x_BTC)
            for task, x_BTC in decoded.items()
        }

    data = data_axis(shared.members)
    over_replicas = jax.vmap(one, in_axes=(0, data, data_axis(shared.fold_members), data))

    @jax.jit
    def predict(
        weights: Any, batch: Batch, normalisation: Any, drop: Any = None
    ) -> dict[str, jax.Array]:
        batch, drop = take_members((batch, drop), shared.members)
        return over_replicas(weights, batch, take_members(normalisation, shared.fold_members), drop)

    return predict
