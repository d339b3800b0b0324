"""One forward for training, evaluation and prediction, and the step of R replicas."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from emojax.core.devices import Layout
from emojax.core.modality_dropout import ModalityDropout, zero_rows
from emojax.core.model_outputs import checked_outputs
from emojax.core.optimizer import Optimizer, trained_only
from emojax.core.programs import kept
from emojax.core.state import TrainState
from emojax.datasets.resident import Entries, gather
from emojax.datasets.window_spec import WindowSpec
from emojax.layers.scaling import recorded_scales
from emojax.ops.tasks import TASK_OPS
from emojax.types import Array, Batch


@flax.struct.dataclass
class Hyper:
    """Values of each replica besides its state; every leaf leads with R.

    Attributes:
        learning_rate: (R,) of this very step.
        weight_decay: (R,).
        target_weights: task -> (R, targets).
        active: (R,) bool; the update of a finished replica is masked out.
        branches: (R,) bool, whose loss is that of the model's temporary heads; None when no
            stage of the training has that objective.
        trainable: a tree of (R,) bool like the parameters, False where they are frozen; None
            when no stage freezes any.
        class_weights: task -> (R, C), see ``class_weights``; None for losses without.
    """

    learning_rate: Array
    weight_decay: Array
    target_weights: Mapping[str, Array]
    active: Array
    branches: Array | None = None
    trainable: Any | None = None
    class_weights: Mapping[str, Array] | None = None


@dataclasses.dataclass(frozen=True)
class Shared:
    """The slice of the data that each replica takes; several may share one.

    Attributes:
        members: group of each replica along the leading axis of a batch, or None when one
            batch serves all (it then has no group axis, and products with it are shared).
        fold_members: the same for the normalisation's leading axis.
    """

    members: tuple[int, ...] | None
    fold_members: tuple[int, ...] | None


def prepare(batch: Batch, normalisation: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Turns stored rows into model inputs: float32, normalised, zero where padded or missing.

    Zero after a z-score is the training mean. RJCMA's paper gives its backbone black frames
    where there is no face (section 4.2.1); over features that becomes zeros here.

    Args:
        batch: a batch, any float dtype.
        normalisation: stream -> (shift (D,), scale (D,)), see ``session.fold_normalisation``.
    """
    streams = {}
    for name, rows_BTD in batch.streams.items():
        shift_D, scale_D = normalisation[name]
        x_BTD = (rows_BTD.astype(jnp.float32) - shift_D[None, None]) / scale_D[None, None]
        streams[name] = jnp.where(batch.stream_valid[name][..., None], x_BTD, 0.0)
    return streams


def forward(
    model: nn.Module,
    params: Any,
    model_state: Any,
    batch: Batch,
    normalisation: Mapping[str, Any],
    *,
    train: bool,
    dropout_key: jax.Array | None = None,
    modality_dropout: ModalityDropout | None = None,
    drop: Mapping[str, jax.Array] | None = None,
) -> tuple[dict[str, jax.Array], dict[str, Any], Any]:
    """Applies a model to a batch; training, evaluation and prediction all call this.

    Args:
        model: a module called as ``emojax.models.rjcma.RJCMA.__call__`` is.
        params: parameters of one replica.
        model_state: the other collections of its variables.
        batch: a batch of windows.
        normalisation: see ``prepare``.
        train: True turns dropout on and updates running statistics.
        dropout_key: needed when ``train``.
        modality_dropout: rows and streams that go missing when ``train``.
        drop: stream -> (B, T_s) bool, rows to zero when not ``train``, at the model's input: a
            stream that the model stacks is dropped as stacked, so that it has T rows.

    Returns:
        outputs task -> (B, T, C), the model's ``aux``, and the new model_state.
    """
    variables = {"params": params, **model_state}
    call: dict[str, Any] = {"valid": batch.stream_valid, "train": train}
    streams, masks = prepare(batch, normalisation), batch.stream_mask
    if not train:
        if drop is not None:
            if stacks(model):
                stacked: Any = model
                model, streams, masks, call["valid"] = stacked.stack_inputs(
                    streams, masks, call["valid"]
                )
            streams = zero_rows(streams, drop)
        outputs, aux = checked_outputs(model, model.apply(variables, streams, masks, **call))
        return outputs, aux, model_state
    if modality_dropout and dropout_key is not None:
        streams = modality_dropout(streams, dropout_key)
    result, updated = model.apply(
        variables,
        streams,
        batch.stream_mask,
        **call,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        mutable=list(model_state),
    )
    outputs, aux = checked_outputs(model, result)
    return outputs, aux, {**model_state, **updated}


def stacks(model: nn.Module) -> bool:
    """Returns True for models that can stack context ahead, see ``ExpTrm.stack_inputs``."""
    return hasattr(model, "stack_inputs")


LossTable = dict[str, Callable[..., Any]]


def loss_table(names: Mapping[str, str]) -> LossTable:
    """Looks up task -> loss function for ``config.loss`` (task -> name of a loss)."""
    return {task: TASK_OPS[task].losses[name] for task, name in names.items()}


def total_loss(
    outputs: Mapping[str, jax.Array],
    aux: Mapping[str, Any],
    batch: Batch,
    losses: LossTable,
    target_weights: Mapping[str, Array],
    *,
    branches: Array | None = None,
    class_weights: Mapping[str, Array] | None = None,
) -> jax.Array:
    """Sums the weighted losses of tasks and targets and the auxiliary losses; a scalar.

    Args:
        outputs: task -> (B, T, C).
        aux: the model's; its ``losses`` count whatever the objective is, and so do its
            ``target_losses`` (name -> task -> (targets,)), as their targets weigh.
        batch: a batch with labels.
        losses: task -> loss.
        target_weights: task -> (targets,).
        branches: scalar bool; True for the sum over ``aux["branches"]`` of the losses of each
            branch's own outputs, in place of the loss of ``outputs``.
        class_weights: task -> (C,), given to the losses of these tasks.
    """
    auxiliary = sum(aux["losses"].values(), jnp.zeros((), jnp.float32))
    for by_task in aux.get("target_losses", {}).values():
        for task, per_target in by_task.items():
            weights = target_weights[task]
            auxiliary += jnp.sum(jnp.where(weights > 0, weights * per_target, 0.0))

    def add(total: jax.Array, predicted: Mapping[str, jax.Array]) -> jax.Array:
        for task, x_BTC in predicted.items():
            mask_BTK = batch.label_mask[task] & batch.example_mask[:, None, None]
            options = {}
            if class_weights is not None and task in class_weights:
                options["class_weights_C"] = class_weights[task]
            per_target = losses[task](x_BTC, batch.labels[task], mask_BTK, **options)
            # A target of weight zero must not leak a NaN or a gradient into the others.
            weights = target_weights[task]
            total = total + jnp.sum(jnp.where(weights > 0, weights * per_target, 0.0))
        return total

    total = add(auxiliary, {task: outputs[task] for task in losses})
    if branches is None:
        return total
    over_branches = auxiliary
    for predicted in aux["branches"].values():
        over_branches = add(over_branches, predicted)
    return jnp.where(branches, over_branches, total)


def take_members(tree: Any, members: tuple[int, ...] | None) -> Any:
    """Expands a leading group axis to replicas; a shared tree stays as it is."""
    if members is None or members == tuple(range(len(members))):
        return tree
    index = jnp.asarray(members)
    return jax.tree.map(lambda leaf: leaf[index], tree)


@dataclasses.dataclass(frozen=True)
class Learner:
    """The model, losses and optimiser of a train step.

    Attributes:
        model: the Linen module.
        optimizer: without the learning rate.
        losses: task -> loss.
        modality_dropout: see ``forward``.
        ema: decay of the averaged parameters, for a state that has them.
        skip_non_finite: True to take no step where the loss or a gradient is not finite.
    """

    model: nn.Module
    optimizer: Optimizer
    losses: LossTable
    modality_dropout: ModalityDropout | None = None
    ema: float = 0.0
    skip_non_finite: bool = False

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        normalisation: Any,
        hyper: Hyper,
        key: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """Computes the training loss of one replica, a scalar, and the new model_state."""
        outputs, aux, model_state = forward(
            self.model,
            params,
            model_state,
            batch,
            normalisation,
            train=True,
            dropout_key=key,
            modality_dropout=self.modality_dropout,
        )
        loss = total_loss(
            outputs,
            aux,
            batch,
            self.losses,
            hyper.target_weights,
            branches=hyper.branches,
            class_weights=hyper.class_weights,
        )
        return loss, model_state


def train_step(
    learner: Learner, state: TrainState, batch: Batch, normalisation: Any, hyper: Hyper
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step of one replica; its state, data and ``hyper`` have no replica axis.

    Returns:
        The new state, and the scalars ``loss``, before the update, and ``gradient_norm``, over the
        parameters that are trained.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    with recorded_scales() as scales:
        (loss, model_state), grads = jax.value_and_grad(learner.loss, has_aux=True)(
            state.params, state.model_state, batch, normalisation, hyper, key
        )
    params, opt_state = learner.optimizer.update(
        grads,
        state.opt_state,
        state.params,
        hyper.learning_rate,
        hyper.weight_decay,
        hyper.trainable,
        scales,
    )
    new = dataclasses.replace(
        state, params=params, model_state=model_state, opt_state=opt_state, step=state.step + 1
    )
    if state.ema is not None:
        new = dataclasses.replace(new, ema=average(state.ema, params, learner.ema, new.step))
    trained = trained_only(grads, hyper.trainable)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(trained)))
    takes = hyper.active
    if learner.skip_non_finite:
        takes &= jnp.isfinite(loss) & jnp.isfinite(norm)
    # Selecting the whole state freezes a finished replica bit for bit and keeps a NaN in.
    new = jax.tree.map(lambda a, b: jnp.where(takes, a, b), new, state)
    return new, {"loss": loss, "gradient_norm": norm}


# (state, batch, normalisation, hyper) -> (state, metrics).
Step = Callable[[TrainState, Batch, Any, Hyper], tuple[TrainState, dict[str, jax.Array]]]


def replica_step(learner: Learner, shared: Shared) -> Step:
    """Makes ``train_step`` of all replicas, whose state, metrics and ``hyper`` lead with R.

    Args:
        learner: see ``train_step``.
        shared: the indices by which replicas find their batch and normalisation.
    """
    axes = (0, data_axis(shared.members), data_axis(shared.fold_members), 0)
    over_replicas = jax.vmap(functools.partial(train_step, learner), in_axes=axes)

    def step(
        state: TrainState, batch: Batch, normalisation: Any, hyper: Hyper
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = take_members(batch, shared.members)
        normalisation = take_members(normalisation, shared.fold_members)
        return over_replicas(state, batch, normalisation, hyper)

    return step


def make_train_step(learner: Learner, shared: Shared) -> Step:
    """Compiles ``replica_step``; the buffers of the state are donated."""
    return jax.jit(replica_step(learner, shared), donate_argnums=0)


# (state, windows, normalisation, hyper, (K, R) learning rates) -> (state, metrics of K steps).
Steps = Callable[
    [TrainState, Batch | Entries, Any, Hyper, jax.Array], tuple[TrainState, dict[str, jax.Array]]
]


@kept
def train_steps(learner: Learner, shared: Shared, layout: Layout, spec: WindowSpec) -> Steps:
    """Compiles the steps that training dispatches at once.

    The windows are either one batch, for a single step, or the entries of K batches that are
    gathered on the device. The state's buffers are donated; the state stays spread over replicas,
    and every device has the metrics, (K, R) or (R,) for a single step.

    Args:
        learner: see ``train_step``.
        shared: the indices by which replicas find their data.
        layout: the devices.
        spec: the length, stride and content of windows.
    """
    step = replica_step(learner, shared)

    def steps(
        state: TrainState,
        windows: Batch | Entries,
        normalisation: Any,
        hyper: Hyper,
        rates_KR: jax.Array,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def once(state: TrainState, given: tuple[Any, jax.Array]) -> Any:
            batch, rates_R = given
            if isinstance(windows, Entries):
                batch = gather(windows.data, batch, spec)
            state, metrics = step(
                state, batch, normalisation, dataclasses.replace(hyper, learning_rate=rates_R)
            )
            if layout.mesh.size > 1:
                state = jax.lax.with_sharding_constraint(state, layout.replica_sharding)
                metrics = jax.lax.with_sharding_constraint(metrics, layout.repeated)
            return state, metrics

        if not isinstance(windows, Entries):
            return once(state, (windows, rates_KR[0]))
        if len(rates_KR) == 1:  # a loop of one step costs what a loop costs
            return once(state, (windows.entries[0], rates_KR[0]))
        return jax.lax.scan(once, state, (windows.entries, rates_KR))

    return jax.jit(steps, donate_argnums=0)


def average(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Updates the moving average of parameters, with Adam's correction for its start.

    After n steps the weight of step i is proportional to ``decay ** (n - i)`` and the weights
    sum to 1, so that the initial weights play no part; this is ``optax.ema`` with debias.

    Args:
        ema: average so far.
        params: parameters after this step.
        decay: in (0, 1).
        step: how many steps that makes, from 1.
    """
    # expm1, because 1 - 0.9999 in float32 has only four digits.
    share = (1 - decay) / -jnp.expm1(step.astype(jnp.float32) * math.log(decay))
    return jax.tree.map(lambda a, p: a + share.astype(p.dtype) * (p - a), ema, params)


def data_axis(members: tuple[int, ...] | None) -> int | None:
    """Returns the axis of a batch for vmap; None where one batch serves all replicas."""
    return None if members is None else 0
