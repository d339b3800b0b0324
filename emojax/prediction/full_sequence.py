"""Predicting whole videos as one sequence, part by part in bounded memory.

Windows are what models are trained on. A model whose prediction depends on a bounded
neighbourhood (TCNs), or on the past through a state that it can hand on (causal GRUs), can as
well be applied to all of a video at once. Here a video passes in long parts, one at a time. Each
is read with as many ticks on either side as the model sees (a halo), or begins with the state
that the one before left, so that every tick gets what one application to the whole video gives.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from emojax.core.devices import make_layout
from emojax.core.session import Session
from emojax.core.step import Shared, forward
from emojax.datasets.source import Store
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError
from emojax.models import model_class, model_names
from emojax.models.extent import CARRY, Extent
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.predictor import Predictor
from emojax.types import Batch


def model_extent(model: Any) -> Extent:
    """Returns how far before and after a tick a model looks.

    Raises:
        InputError: the model, or this form of it, needs windows.
    """
    if not hasattr(model, "extent"):
        fitting = [name for name in model_names() if hasattr(model_class(name), "extent")]
        raise InputError(
            "This model predicts windows, not sequences of any length: it has weights for each "
            "position, or attends to all of a window.",
            field="--full_sequence",
            found=f"model {type(model).__name__}",
            expected="one of " + ", ".join(fitting) + ", in a form that allows it",
            remedy="leave the flag out; `emojax systems` lists how far systems see",
        )
    return model.extent()


def full_sequence_session(session: Session, store: Store, part: int = 0) -> Session:
    """The session that predicts whole videos: one part at a time, each with its halo.

    Args:
        session: of a run.
        store: with the videos; parts are no longer than its longest one.
        part: ticks that a part predicts; by default as many as hold a part and its halo in
            the memory of a batch of windows.

    Returns:
        The session with another ``window_spec``, a batch of one part, and the devices for that.

    Raises:
        InputError: the model does not allow it; see ``model_extent``.
    """
    extent, spec = model_extent(session.model), session.window_spec
    # Parts begin where rows of every stream begin, and hold whole rows.
    unit = math.lcm(*(_ticks_of_whole_rows(spec, name) for name in spec.streams))
    halo = _round_up(max(extent.before, extent.after), unit)
    # With "last" a frame takes the last tick that has passed; it stays that way.
    scored = "last" if spec.scored == "last" else "centre"
    if scored == "last" and extent.after:
        raise InputError(
            "Windows are scored at their ends here, and the model looks ahead in a sequence.",
            field="config.data.scored",
            found=f"last, for a model that sees {extent.after} ticks ahead",
            expected="all or centre, or a causal model",
            remedy="leave --full_sequence out",
        )
    sides = halo if scored == "last" else 2 * halo
    if not part:
        longest = max(spec.num_ticks(video) for video in store.videos)
        room = session.batch_size * spec.window - sides
        part = min(longest, max(room, sides, 1))
    part = _round_up(part, unit)
    long_spec = dataclasses.replace(
        spec,
        window=part + sides,
        stride=part,
        evaluation_stride=0,
        align_end=False,
        scored=scored,
    )
    data = dataclasses.replace(session.config.data, batch_size=1)
    config = dataclasses.replace(session.config, data=data)
    return dataclasses.replace(
        session,
        config=config,
        window_spec=long_spec,
        layout=make_layout(
            len(session.replicas), 1, session.layout.devices, sizes=session.layout.sizes
        ),
    )


def sequence_predictor(session: Session, store: Store) -> Predictor:
    """A ``Predictor`` for a session that ``full_sequence_session`` made."""
    kind = SequencePredictor if model_extent(session.model).carries else Predictor
    return kind(session, store)


class SequencePredictor(Predictor):
    """Predicts videos part after part, in order; each begins with the state the last one left."""

    def __init__(self, session: Session, store: Store) -> None:
        super().__init__(session, store)
        self._step = _Carrying(session.model, session.shared(session.folds))


class _Carrying:
    """A predict step (see ``make_predict_step``) with a memory; batches come in order."""

    def __init__(self, model: nn.Module, shared: Shared) -> None:
        self._step = _make_step(model, shared)
        self._carry: Any = None

    def __call__(self, weights: Any, batch: Batch, normalisation: Any) -> dict[str, jax.Array]:
        if self._carry is None:
            _, shapes = jax.eval_shape(self._step, weights, batch, normalisation, {})
            self._carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        outputs, self._carry = self._step(weights, batch, normalisation, self._carry)
        return outputs


class _Stateful:
    """A model as ``step.forward`` applies one; the states it leaves are in ``aux``."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def apply(self, variables: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        (outputs, aux), left = self._model.apply(variables, *arguments, **options, mutable=[CARRY])
        return outputs, {**aux, CARRY: left[CARRY]}


def _make_step(model: nn.Module, shared: Shared) -> Callable[..., tuple[Any, Any]]:
    """Builds ``predict(weights, batch, normalisation, carry) -> (decoded outputs, carry)``.

    All lead with R. A part that begins at a video's first tick begins with zero states.
    """
    stateful: Any = _Stateful(model)

    def one(weights: Any, batch: Batch, normalisation: Any, carry: Any) -> tuple[Any, Any]:
        later_B1 = batch.frame_ids[:, :1] != 0
        carry = jax.tree.map(lambda h_BH: jnp.where(later_B1, h_BH, 0), carry)
        state = weights["model_state"] | {CARRY: carry}
        outputs, aux, _ = forward(
            stateful, weights["params"], state, batch, normalisation, train=False
        )
        decoded = {task: TASK_OPS[task].decode(y_BTC) for task, y_BTC in outputs.items()}
        return decoded, aux[CARRY]

    axes = tuple(None if m is None else 0 for m in (shared.members, shared.fold_members))

    @jax.jit
    def predict(weights: Any, batch: Batch, normalisation: Any, carry: Any) -> tuple[Any, Any]:
        batch = _of_replicas(batch, shared.members)
        normalisation = _of_replicas(normalisation, shared.fold_members)
        return jax.vmap(one, in_axes=(0, *axes, 0))(weights, batch, normalisation, carry)

    return predict


def _of_replicas(tree: Any, members: tuple[int, ...] | None) -> Any:
    """Leading group axis -> leading R; shared by all where there are no groups."""
    return tree if members is None else jax.tree.map(lambda leaf: leaf[jnp.array(members)], tree)


# -- sizes ---------------------------------------------------------------------------------------


def _ticks_of_whole_rows(spec: WindowSpec, stream: str) -> int:
    """The fewest ticks that whole rows of a stream cover."""
    return spec.window // math.gcd(spec.window, spec.rows(stream))


def _round_up(ticks: int, unit: int) -> int:
    return -(-ticks // unit) * unit
