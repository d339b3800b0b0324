"""Builds a system at given sizes, with random windows on the device, to be timed."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.machine import backend
from benchmarks.timing import Contender
from emojax.configuration import some_streams
from emojax.core.session import Session, build_session
from emojax.core.state import TrainState
from emojax.core.step import Hyper, Step, replica_step
from emojax.layers import multi_kernel
from emojax.specs import STREAMS, TASKS, StreamSpec
from emojax.studies.flops import count_flops
from emojax.types import Batch

# The steps in a dispatch on accelerators, as in training/feeds.py.
ON_ACCELERATORS = 32


@dataclasses.dataclass(frozen=True)
class Case:
    """A training to measure; None and 0 stand for the paper's own value.

    Attributes:
        system: the name of a file in ``configs/``.
        replicas: R.
        window: T, ticks.
        batch: B, windows.
        streams: some of the system's streams.
        widths: stream -> D; streams that are left out have the width of ``specs.STREAMS``.
        model: field of the model -> the value it takes.
        dtype: the precision of the computation.
    """

    system: str
    replicas: int = 1
    window: int = 0
    batch: int = 0
    streams: tuple[str, ...] = ()
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"

    def config(self) -> ConfigDict:
        """Returns the configuration, with R replicas and without stages (all parts are trained).

        Replicas are the folds and targets of a cross-validation, where the targets of a fold share
        their windows; if those do not give R, seeds are added.
        """
        config = importlib.import_module(f"configs.{self.system}").get_config()
        for field, value in self.model.items():
            config.model[field] = value
        config.model.dtype = self.dtype
        config.data.window = self.window or config.data.window
        config.data.stride = min(config.data.stride, config.data.window)
        config.data.batch_size = self.batch or config.data.batch_size
        if self.streams:
            some_streams(config, *self.streams)
        config.train.stages = ()
        targets = tuple(config.replicas.targets)
        targets = targets if self.replicas % len(targets) == 0 else targets[:1]
        config.replicas.targets = targets
        config.replicas.folds = tuple(str(i) for i in range(self.replicas // len(targets)))
        return config

    def specs(self) -> dict[str, StreamSpec]:
        """Returns every known stream, with this case's widths."""
        return {
            name: dataclasses.replace(spec, width=self.widths.get(name, spec.width))
            for name, spec in STREAMS.items()
        }

    def without_dropout(self) -> Case:
        """Returns the case with all dropout rates 0, so that training gives equal outputs."""
        fields = self.config().model
        rates = {name: 0.0 for name in fields if name.split("_")[-1] == "dropout"}
        return dataclasses.replace(self, model={**self.model, **rates})

    @property
    def sizes(self) -> str:
        """Returns B x T, for a table."""
        data = self.config().data
        return f"{data.batch_size} x {data.window}"


def random_batch(session: Session, seed: int = 0) -> Batch:
    """Draws a batch in the form of the pipeline (float16), with all frames real and annotated.

    It has a leading group axis if replicas train on more than one (fold, seed).
    """
    rng = np.random.default_rng(seed)
    spec, size, groups = session.window_spec, session.batch_size, len(session.samplers.keys)
    lead = (groups, size) if groups > 1 else (size,)
    streams = {
        name: rng.standard_normal((*lead, rows, session.streams[name].width)).astype(np.float16)
        for name, rows in spec.lengths.items()
    }
    real = {name: np.ones(rows.shape[:-1], bool) for name, rows in streams.items()}
    labels = {task: _labels(rng, task, (*lead, spec.window)) for task in spec.tasks}
    return Batch(
        streams=streams,
        stream_mask=real,
        stream_valid=real,
        labels=labels,
        label_mask={task: np.ones(label.shape, bool) for task, label in labels.items()},
        example_mask=np.ones(lead, bool),
        video_ids=np.zeros(lead, np.int32),
        frame_ids=np.broadcast_to(np.arange(spec.window, dtype=np.int32), (*lead, spec.window)),
    )


def _labels(rng: np.random.Generator, task: str, lead: tuple[int, ...]) -> np.ndarray:
    row = TASKS[task]
    if row.kind == "continuous":
        return rng.uniform(-1, 1, (*lead, row.columns)).astype(np.float32)
    top = row.outputs if row.kind == "categorical" else 2
    return rng.integers(0, top, (*lead, row.columns)).astype(np.float32)


def constant_hyper(session: Session) -> Hyper:
    """Returns the configuration's rates of replicas that are all active, on the devices."""
    replicas = session.replicas
    hyper = Hyper(
        learning_rate=np.array([r.learning_rate for r in replicas], np.float32),
        weight_decay=np.array([r.weight_decay for r in replicas], np.float32),
        target_weights=session.weights,
        active=np.ones(len(replicas), bool),
    )
    return session.layout.replicas(hyper)


def unit_normalisation(session: Session) -> dict[str, Any]:
    """Returns mean 0 and deviation 1 of every stream, shaped as ``session.fold_normalisation``."""
    folds = len(session.folds.keys)
    lead = () if folds == 1 else (folds,)
    shapes = {name: (*lead, spec.width) for name, spec in session.streams.items()}
    return session.layout.everywhere(
        {
            name: (np.zeros(shape, np.float32), np.ones(shape, np.float32))
            for name, shape in shapes.items()
        }
    )


class EmojaxTraining:
    """Training steps of R replicas on one batch that stays on the device.

    As in training with the resident feed, a dispatch makes one step on a CPU and many on an
    accelerator. Each of many steps takes the batch's windows in another order, which copies the
    batch as gathering would.

    Args:
        case: the training, on the first device.
        state: the initial weights, which are copied; drawn by default.
        steps: the number of steps in a dispatch; 0 for that of training.
    """

    def __init__(self, case: Case, *, state: TrainState | None = None, steps: int = 0) -> None:
        self.case = case
        self.session = build_session(case.config(), case.specs(), jax.devices()[:1])
        self.host_batch = random_batch(self.session)
        grouped = len(self.session.samplers.keys) > 1
        self.batch = self.session.layout.batch(self.host_batch, grouped=grouped)
        self.normalisation = unit_normalisation(self.session)
        self.hyper = constant_hyper(self.session)
        self.steps = steps or steps_per_dispatch()
        self.step_function = train_step(self.session)
        self.dispatch = self.step_function if self.steps == 1 else self._many()
        fresh = self.session.init_state() if state is None else jax.tree.map(jnp.copy, state)
        self.state: TrainState = fresh
        self.metrics: Any = None

    def step(self) -> None:
        """Starts one dispatch."""
        self.state, self.metrics = self.dispatch(
            self.state, self.batch, self.normalisation, self.hyper
        )

    def wait(self) -> None:
        """Waits until every step has ended."""
        jax.block_until_ready((self.state, self.metrics))

    def contender(self, name: str) -> Contender:
        """Returns the training as a program to time."""
        return Contender(name, self.step, self.wait, self.steps)

    @property
    def windows(self) -> int:
        """Returns the number of windows in a step, over all replicas."""
        return len(self.session.replicas) * self.session.batch_size

    def flops(self) -> float:
        """Returns the FLOPs of a step, see ``flops.count_flops``; without taps of zeros."""
        arguments = self.state, self.batch, self.normalisation, self.hyper
        apart = dict.fromkeys(multi_kernel.MULTI_KERNEL_TCN, "apart")
        with mock.patch.object(multi_kernel, "MULTI_KERNEL_TCN", apart):
            return count_flops(plain_step(self.session), *arguments)

    def _many(self) -> Callable[..., Any]:
        axis = int(len(self.session.samplers.keys) > 1)
        step = plain_step(self.session)

        def run(state: Any, batch: Batch, normalisation: Any, hyper: Hyper) -> Any:
            def once(state: Any, shift: jax.Array) -> Any:
                rolled = jax.tree.map(lambda leaf: jnp.roll(leaf, shift, axis), batch)
                return step(state, rolled, normalisation, hyper)

            return jax.lax.scan(once, state, jnp.arange(self.steps))

        return jax.jit(run, donate_argnums=0)


def steps_per_dispatch() -> int:
    """Returns the number of steps in a dispatch that training chooses for the resident feed."""
    return 1 if backend() == "cpu" else ON_ACCELERATORS


def plain_step(session: Session) -> Step:
    """Returns the step that training compiles, alone or within a larger program."""
    return replica_step(session.learner, session.shared(session.samplers))


def train_step(session: Session) -> Callable[..., Any]:
    """Returns the compiled step, with a donated state."""
    return jax.jit(plain_step(session), donate_argnums=0)
