"""A session: everything a run is made of, built from a configuration and a store.

Training and evaluation share it, so that a checkpoint's configuration rebuilds exactly the
model, streams, windows and normalisation it was trained with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from emojax.config_reading import part
from emojax.config_schema import RunConfig, Stage
from emojax.core.config_checks import read_config
from emojax.core.devices import Layout, make_layout
from emojax.core.extensions import execute
from emojax.core.modality_dropout import ModalityDropout
from emojax.core.optimizer import Optimizer
from emojax.core.replicas import (
    Groups,
    Replica,
    expand,
    group_by,
    short_names,
    target_weights,
)
from emojax.core.stages import check_frozen, unmatched
from emojax.core.state import TrainState, abstract_state, branch_names, init_state
from emojax.core.step import Learner, LossTable, Shared, loss_table
from emojax.datasets.source import Store
from emojax.datasets.store_checks import check_known
from emojax.datasets.window_spec import WindowSpec
from emojax.errors import InputError
from emojax.models import build_model, declared_fields, is_place
from emojax.specs import STREAMS, TASKS, StreamSpec


@dataclasses.dataclass(frozen=True)
class Session:
    """The parts of a run, built from its configuration.

    Attributes:
        config: the checked configuration; ``as_plain`` makes it a nested dict for JSON.
        streams: the specification of each stream the model reads, in the model's order.
        window_spec: the length, stride and content of windows.
        model: the Linen module.
        optimizer: Adam, without the learning rate.
        losses: task -> loss function.
        replicas: the R replicas.
        weights: task -> (R, targets), see ``replicas.target_weights``.
        folds: replicas grouped by fold; normalisation and evaluation go by fold.
        samplers: replicas grouped by (fold, seed), which share their training windows.
        layout: devices.
        stages: what is trained one after the other; empty when everything is from the start.
        modality_dropout: which rows and streams go missing in training.
    """

    config: RunConfig
    streams: dict[str, StreamSpec]
    window_spec: WindowSpec
    model: nn.Module
    optimizer: Optimizer
    losses: LossTable
    replicas: tuple[Replica, ...]
    weights: dict[str, np.ndarray]
    folds: Groups
    samplers: Groups
    layout: Layout
    stages: tuple[Stage, ...]
    modality_dropout: ModalityDropout

    @property
    def names(self) -> tuple[str, ...]:
        """Returns short labels of the replicas."""
        return short_names(self.replicas)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Returns the tasks that the model predicts."""
        return self.window_spec.tasks

    @property
    def ema(self) -> float:
        """Returns the decay of the averaged parameters; 0 when none are kept."""
        return self.config.train.ema

    @property
    def batch_size(self) -> int:
        """Returns B, the windows in a batch."""
        return self.config.data.batch_size

    @property
    def learner(self) -> Learner:
        """Returns the parts of the session that the train step needs."""
        return Learner(
            self.model,
            self.optimizer,
            self.losses,
            self.modality_dropout,
            self.ema,
            self.config.train.non_finite == "skip",
        )

    def shared(self, groups: Groups) -> Shared:
        """Returns how a step finds each replica's data in batches of these groups."""
        return Shared(members=_members(groups), fold_members=_members(self.folds))

    def subset(self, members: Sequence[int] | np.ndarray, layout: Layout) -> Session:
        """Makes the session of some replicas, on these devices; one may come several times."""
        chosen = list(members)
        replicas = tuple(self.replicas[r] for r in chosen)
        return dataclasses.replace(
            self,
            replicas=replicas,
            weights={task: weights_RX[chosen] for task, weights_RX in self.weights.items()},
            folds=group_by(replicas, _fold),
            samplers=group_by(replicas, _sampler),
            layout=layout,
        )

    def normalisation(self, store: Store) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns what a training on the store normalises with, see ``fold_normalisation``.

        Raises:
            InputError: ``config.data.normalisation`` names a stream that nobody knows.
        """
        kinds = self.config.data.normalisation
        for name in kinds:  # a stream may be left out this time, but not misspelt
            check_known(
                [name], [*store.streams, *STREAMS], "stream", f"config.data.normalisation.{name}"
            )
        return fold_normalisation(store, self.folds.keys, self.streams, kinds)

    def init_state(self) -> TrainState:
        """Makes a fresh train state, on the devices."""
        return self.layout.replicas(init_state(*self._state_arguments()))

    def abstract_state(self) -> TrainState:
        """Returns shapes and shardings of the train state, to restore a checkpoint onto."""
        shapes = abstract_state(*self._state_arguments())
        sharding = self.layout.replica_sharding
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
        )

    def check_stages(self) -> list[str]:
        """Checks that the model has the parts that the stages train.

        Returns:
            Remarks about patterns of ``config.train.no_decay`` that match no parameter. They are
            no error, for RJCMA without recursions has none of theirs.

        Raises:
            InputError: a stage's objective is "branches" and the model has none, a pattern of
                frozen parameters matches none, or a stage freezes everything.
        """
        patterns = self.config.train.no_decay
        if not self.stages and not patterns:
            return []
        params = self.abstract_state().params
        check_frozen(self.stages, params)
        wanting = [i for i, stage in enumerate(self.stages) if stage.objective == "branches"]
        arguments = self.model, self.streams, self.window_spec.lengths
        if wanting and not branch_names(*arguments):
            raise InputError(
                "The model has no branches to train one by one.",
                field=f"config.train.stages[{wanting[0]}].objective",
                found="branches",
                expected=f"outputs, for model {self.config.model['name']}",
                remedy="use a model with temporary heads, or take the stage out",
            )
        return [
            f"config.train.no_decay: {pattern} matches no parameter of the model"
            for pattern in unmatched(patterns, params)
        ]

    def _state_arguments(self) -> tuple[Any, ...]:
        spec = self.window_spec
        averaged = self.ema > 0
        return self.model, self.streams, spec.lengths, self.optimizer, self.replicas, averaged


def build_session(
    config: Mapping[str, Any],
    streams: Mapping[str, StreamSpec],
    devices: list[jax.Device] | None = None,
    *,
    trusted: bool = True,
) -> Session:
    """Builds a session.

    Args:
        config: nested mapping as ``configs/rjcma.py`` makes it.
        streams: specifications of at least the streams the configuration names, from the
            store or from a checkpoint.
        devices: the devices to run on; all by default.
        trusted: True for a configuration of the user's own. If its model is the place of a file,
            the file is executed. False for what a checkpoint or another file holds.

    Raises:
        InputError: something in the configuration is missing or not allowed.
    """
    run = read_config(config)
    if trusted and is_place(run.model["name"]):
        execute(run.model["name"], "config.model.name")
    window_spec = part(WindowSpec, run.data)
    window_spec.check_values()
    replicas = expand(run.replicas, run.train)
    model_fields = dict(run.model)
    # The configuration says once, in its data section, what data and model must agree on.
    model_fields |= {"streams": window_spec.streams, "window": window_spec.window}
    model_fields |= _stream_fields(model_fields["name"], window_spec)
    outputs = {task: TASKS[task].outputs for task in window_spec.tasks}
    model = build_model(model_fields.pop("name"), outputs, **model_fields)
    return Session(
        config=run,
        streams=_known_streams(streams, window_spec.streams),
        window_spec=window_spec,
        model=model,
        optimizer=Optimizer(run.train.optimizer, run.train.clip_norm, run.train.no_decay),
        losses=loss_table({task: run.loss[task] for task in window_spec.tasks}),
        replicas=replicas,
        weights=target_weights(replicas, window_spec.tasks),
        folds=group_by(replicas, _fold),
        samplers=group_by(replicas, _sampler),
        layout=make_layout(
            len(replicas),
            run.data.batch_size,
            devices,
            sizes=(run.mesh.replica, run.mesh.data),
        ),
        stages=run.train.stages,
        modality_dropout=part(ModalityDropout, run.train.modality_dropout),
    )


# Normalisations that are the same for all data: name -> (shift, scale), for (x - shift) / scale.
FIXED = {"none": (0.0, 1.0), "half": (0.5, 0.5)}


def fold_normalisation(
    store: Store,
    folds: Sequence[str],
    streams: Iterable[str],
    kinds: Mapping[str, str] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the shift and scale of (x - shift) / scale, by stream, for each fold.

    Args:
        store: the store, whose training statistics "zscore" takes.
        folds: the names of folds.
        streams: the names of streams.
        kinds: ``config.data.normalisation``, stream -> "zscore", "none" or "half"; "zscore" for
            streams that are not there.

    Returns:
        Stream -> (shift, scale), float32, each (D,) for one fold, else (folds, D).
    """
    per_fold = [store.statistics(fold) for fold in folds]
    normalisation = {}
    for name in streams:
        mean, std = (
            np.stack([statistics[name][i] for statistics in per_fold]).astype(np.float32)
            for i in (0, 1)
        )
        kind = (kinds or {}).get(name, "zscore")
        if kind != "zscore":
            mean, std = (np.full_like(mean, value) for value in FIXED[kind])
        normalisation[name] = (mean[0], std[0]) if len(per_fold) == 1 else (mean, std)
    return normalisation


def fold_rows(
    normalisation: Mapping[str, Any], folds: Sequence[str], chosen: Sequence[str]
) -> dict[str, Any]:
    """Selects some folds of what ``fold_normalisation`` returned for ``folds``."""
    if len(folds) == 1:
        return dict(normalisation)
    rows: Any = [folds.index(name) for name in chosen]
    # A single fold has no axis of its own.
    rows = rows if len(rows) > 1 else rows[0]
    return {name: (mean[rows], std[rows]) for name, (mean, std) in normalisation.items()}


def abstract_normalisation(
    streams: Mapping[str, StreamSpec], num_folds: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Makes arrays of the shapes that ``fold_normalisation`` returns, to restore onto."""
    lead = () if num_folds == 1 else (num_folds,)
    return {
        name: (np.zeros((*lead, spec.width), np.float32), np.zeros((*lead, spec.width), np.float32))
        for name, spec in streams.items()
    }


def _stream_fields(name: str, spec: WindowSpec) -> dict[str, dict[str, int]]:
    """Finds the fields of models that read streams at other rates or with context.

    Returns:
        ``context``, stream -> extra rows on either side, for streams that have some, and
        ``ticks``, stream -> ticks that a row covers; each only if the model has such a field.

    Raises:
        InputError: streams are longer or have other rates, and the model has no such field.
    """
    declared = declared_fields(name)
    context = {stream: spec.context[stream] for stream in spec.streams if spec.context.get(stream)}
    rates = {stream: spec.rates[stream] for stream in spec.streams if stream in spec.rates}
    other = {stream: rate for stream, rate in rates.items() if spec.rows(stream) != spec.window}
    for option, field, table in (("context", "context", context), ("rates", "ticks", other)):
        if table and field not in declared:
            raise InputError(
                f"Model {name} reads every stream on the window's clock, one row a tick.",
                field=f"config.data.{option}",
                found=", ".join(f"{stream}: {value:g}" for stream, value in table.items()),
                expected="nothing for this model",
                remedy=f"leave config.data.{option} empty, or train another model",
            )
    fields: dict[str, dict[str, int]] = {"context": context} if "context" in declared else {}
    return fields | ({"ticks": spec.ticks_per_row} if "ticks" in declared else {})


def _fold(replica: Replica) -> str:
    return replica.fold


def _sampler(replica: Replica) -> tuple[str, int]:
    return replica.fold, replica.seed


def _members(groups: Groups) -> tuple[int, ...] | None:
    return None if len(groups.keys) == 1 else tuple(int(i) for i in groups.members_R)


def _known_streams(
    streams: Mapping[str, StreamSpec], names: tuple[str, ...]
) -> dict[str, StreamSpec]:
    for name in names:
        if name not in streams:
            raise InputError(
                f"The data has no stream {name!r}.",
                field="config.data.streams",
                found=name,
                expected="some of " + ", ".join(streams),
                remedy="build the store with this stream, or train on those that it has",
            )
    return {name: streams[name] for name in names}
