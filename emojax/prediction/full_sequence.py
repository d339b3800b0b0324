"""Predicts whole videos as one sequence, part by part in bounded memory.

Models are trained on windows. A model whose prediction depends on a bounded neighbourhood (TCNs),
or on the past through a state that it can hand on (causal GRUs), can also be applied to a whole
video at once. Here a video is predicted in long parts, one at a time. Each part is read with as
many ticks on either side as the model sees (a halo), or begins with the state at the end of the
part before. So every tick gets the value that one application to the whole video gives.
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
from emojax.datasets.ticks import count_ticks
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError
from emojax.models import model_class, model_names
from emojax.models.extent import CARRY, Extent
from emojax.ops.tasks import TASK_OPS
from emojax.prediction.predictor import Predictor
from emojax.types import Batch


def model_extent(model: Any) -> Extent:
    """Returns the number of ticks before and after a tick that a model sees.

    Raises:
        InputError: the model, or its configuration, needs windows.
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
    """Returns a session that predicts whole videos: one part at a time, each with its halo.

    Args:
        session: the session of a run.
        store: the store with the videos; parts are no longer than its longest one.
        part: the number of ticks that a part predicts; by default so many that a part and its
            halo take the memory of a batch of windows.

    Returns:
        The session with another ``window_spec``, a batch of one part, and the devices for that.

    Raises:
        InputError: the model needs windows; see ``model_extent``.
    """
    extent, spec = model_extent(session.model), session.window_spec
    # Parts begin where rows of every stream begin, and hold whole rows.
    unit = math.lcm(*(_ticks_of_whole_rows(spec, name) for name in spec.streams))
    halo = _round_up(max(extent.before, extent.after), unit)
    # With "last" a frame takes the last tick that has passed; here, too.
    scored = "last" if spec.scored == "last" else "centre"
    if scored == "last" and extent.after:
        raise InputError(
            "The run scores the last ticks of windows, but the model looks ahead in a sequence.",
            field="config.data.scored",
            found=f"last, for a model that sees {extent.after} ticks ahead",
            expected="all or centre, or a causal model",
            remedy="leave --full_sequence out",
        )
    sides = halo if scored == "last" else 2 * halo
    if not part:
        longest = max(count_ticks(store, i, spec) for i in range(len(store.videos)))
        room = session.batch_size * spec.window - sides
        part = min(longest, max(room, sides, 1))
    part = _round_up(part, unit)
    long_spec = dataclasses.replace(
        spec,
        window=part + sides,
        stride=part,
        evaluation_stride=0,
        align_end=False,
        window_count="cover",
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
    """Returns a ``Predictor`` for a session that ``full_sequence_session`` made."""
    kind = SequencePredictor if model_extent(session.model).carries else Predictor
    return kind(session, store)


class SequencePredictor(Predictor):
    """Predicts videos part after part; each part begins with the state of the part before."""

    def __init__(self, session: Session, store: Store) -> None:
        super().__init__(session, store)
        self._step = _Carrying(session.model, session.shared(session.folds))


class _Carrying:
    """A predict step (see ``make_predict_step``) that keeps its state; batches come in order."""

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
    """A model as ``step.forward`` applies it; its final states are in ``aux``."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def apply(self, variables: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        (outputs, aux), left = self._model.apply(variables, *arguments, **options, mutable=[CARRY])
        return outputs, {**aux, CARRY: left[CARRY]}


def _make_step(model: nn.Module, shared: Shared) -> Callable[..., tuple[Any, Any]]:
    """Builds ``predict(weights, batch, normalisation, carry) -> (decoded outputs, carry)``.

    The first axis of all of them is R. A part at the beginning of a video starts with zero states.
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
    """Turns a leading group axis into R; without groups, returns the tree for all replicas."""
    return tree if members is None else jax.tree.map(lambda leaf: leaf[jnp.array(members)], tree)


# -- sizes ---------------------------------------------------------------------------------------


def _ticks_of_whole_rows(spec: WindowSpec, stream: str) -> int:
    """Returns the smallest number of ticks that whole rows of a stream cover."""
    return spec.window // math.gcd(spec.window, spec.rows(stream))


def _round_up(ticks: int, unit: int) -> int:
    return -(-ticks // unit) * unit
