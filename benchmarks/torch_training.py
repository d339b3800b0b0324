"""Makes training steps of a system in PyTorch, as ``workload.EmojaxTraining`` does in JAX."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.machine import synchronise, torch_device
from benchmarks.timing import Contender
from benchmarks.torch_models import SYSTEMS
from benchmarks.workload import Case, EmojaxTraining
from emojax.core.session import Session


class TorchTraining:
    """Training steps of one replica on one batch that stays on the device.

    Forward, loss of the first replica's targets, backward, Adam. In bfloat16 the forward runs
    under ``torch.autocast``; parameters stay float32, as in emojax.

    Args:
        ours: the training in JAX, which gives the case, the batch and the initial weights.
        torch: the module ``torch``.
        compiled: the mode of ``torch.compile``; "" for eager.

    Raises:
        ImportError: the system has no file in ``torch_models``.
        RuntimeError: PyTorch does not see the accelerator.
    """

    def __init__(self, ours: EmojaxTraining, torch: Any, compiled: str = "") -> None:
        self._torch = torch
        self.case: Case = ours.case
        session = ours.session
        self.device = torch_device(torch)
        self.wait: Callable[[], None] = synchronise(torch)
        system = SYSTEMS[self.case.system]
        config = self.case.config()
        widths = {name: spec.width for name, spec in session.streams.items()}
        self.module = system.build(config, widths)
        system.load(self.module, first_variables(ours.state))
        self.module.to(self.device)
        self.streams, self.labels = self._batch(ours)
        self._weights = {
            task: torch.as_tensor(weights_RX[0], device=self.device)
            for task, weights_RX in session.weights.items()
        }
        self._losses = {task: LOSSES[session.config.loss[task]] for task in session.tasks}
        self._loss = self.loss
        if compiled:
            self._loss = torch.compile(self.loss, mode=compiled, dynamic=False)
        self._session = session

    @functools.cached_property
    def optimizer(self) -> Any:
        """Returns Adam or AdamW."""
        return _optimizer(self._torch, self.module, self._session)

    def step(self) -> None:
        """Starts one step."""
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss(self.streams, self.labels).backward()
        self.optimizer.step()

    def contender(self, name: str) -> Contender:
        """Returns the training as a program to time."""
        return Contender(name, self.step, self.wait)

    def loss(self, streams: Mapping[str, Any], labels: Mapping[str, Any]) -> Any:
        """Returns the number that is minimised."""
        with self._precision():
            outputs, total = self.module(streams)
        for task, compute in self._losses.items():
            per_target = compute(self._torch, outputs[task].float(), labels[task])
            total = total + (per_target * self._weights[task]).sum()
        return total

    def outputs(self, *, train: bool) -> tuple[dict[str, np.ndarray], float]:
        """Returns outputs, task -> (B, T, C), and the loss, without a step."""
        with self._torch.no_grad():
            self.module.train(train)
            outputs, _ = self.module(self.streams)
            loss = self.loss(self.streams, self.labels)
        return {task: x.float().cpu().numpy() for task, x in outputs.items()}, float(loss)

    def _precision(self) -> Any:
        if self.case.dtype == "float32":
            return contextlib.nullcontext()
        dtype = getattr(self._torch, self.case.dtype)
        return self._torch.autocast(device_type=self.device, dtype=dtype)

    def _batch(self, ours: EmojaxTraining) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the first replica's windows in float32, normalised by mean 0 and deviation 1."""
        batch = ours.host_batch
        if batch.example_mask.ndim > 1:
            batch = jax.tree.map(lambda leaf: leaf[0], batch)

        def place(array: Any) -> Any:
            return self._torch.as_tensor(np.array(array, np.float32), device=self.device)

        streams = {name: place(rows) for name, rows in batch.streams.items()}
        return streams, {task: place(rows) for task, rows in batch.labels.items()}


def first_variables(state: Any) -> dict[str, Any]:
    """Returns the Linen variables of the first replica as NumPy arrays."""
    variables = {"params": state.params, **state.model_state}
    return jax.tree.map(lambda leaf: np.array(leaf[0]), variables)


def _optimizer(torch: Any, module: Any, session: Session) -> Any:
    """Returns Adam or AdamW with the first replica's rate and decay."""
    kinds = {"adam_l2": torch.optim.Adam, "adamw": torch.optim.AdamW}
    replica = session.replicas[0]
    # optax adds epsilon outside the root, as PyTorch does.
    return kinds[session.config.train.optimizer](
        module.parameters(), lr=replica.learning_rate, weight_decay=replica.weight_decay, eps=1e-8
    )


# ---- Losses: (torch, outputs (B, T, C), labels (B, T, columns)) -> (targets,) -------------------


def _ccc(torch: Any, outputs: Any, labels: Any) -> Any:
    x, y = outputs.flatten(0, 1), labels.flatten(0, 1)
    mean_x, mean_y = x.mean(0), y.mean(0)
    covariance = ((x - mean_x) * (y - mean_y)).mean(0)
    spread = x.var(0, unbiased=False) + y.var(0, unbiased=False)
    return 1 - 2 * covariance / (spread + (mean_x - mean_y) ** 2)


def _mse(torch: Any, outputs: Any, labels: Any) -> Any:
    return ((outputs - labels) ** 2).mean((0, 1))


def _cross_entropy(torch: Any, outputs: Any, labels: Any) -> Any:
    entropy = torch.nn.functional.cross_entropy
    return entropy(outputs.flatten(0, 1), labels.flatten().long())[None]


def _binary_cross_entropy(torch: Any, outputs: Any, labels: Any) -> Any:
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    return entropy(outputs, labels, reduction="none").mean((0, 1))


LOSSES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "ccc": _ccc,
    "mse": _mse,
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
}
