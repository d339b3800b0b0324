"""Tests that the benchmarks' PyTorch models equal ours, in outputs and gradients."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.stream_defaults import complete_streams
from emojax.models import build_model
from emojax.specs import TASKS
from tests.training_runs import quick_compiling  # noqa: F401 - a fixture

torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")

BATCH, WINDOW = 3, 14


def small(name: str) -> Any:
    """Returns the paper's configuration with fewer and narrower layers, no dropout."""
    config = importlib.import_module(f"configs.{name}").get_config()
    for i, stream in enumerate(config.data.streams):
        config.model.channels[stream] = (5, 4) if i == 0 else (4,)
    if name == "multiscale_tcn":
        config.model.update(kernel_sizes=(5, 3), hidden=6, temporal_dropout=0.0)
    else:
        config.model.update(layers=1, attention_heads=2, feed_forward=6, head_width=6)
    config.model.dropout = 0.0
    return config


@pytest.mark.parametrize("name", ["multiscale_tcn", "tcn_transformer"])
def test_pytorch_model_equals_ours(name: str) -> None:
    from benchmarks.torch_models import SYSTEMS

    config = small(name)
    # The first stream is as wide as its first block: no residual layer there.
    widths = {stream: 5 + i for i, stream in enumerate(config.data.streams)}
    outputs = {task: TASKS[task].outputs for task in config.data.tasks}
    fields = {
        key: dict(value) if key == "channels" else value
        for key, value in complete_streams(config.model, tuple(widths)).items()
        if key not in ("name", "branch_heads")
    }
    if name == "multiscale_tcn":
        fields["branch_heads"] = False
    model = build_model(name, outputs, streams=tuple(widths), **fields)
    rng = np.random.default_rng(0)
    shape = (BATCH, WINDOW)
    streams = {n: rng.normal(size=(*shape, w)).astype(np.float32) for n, w in widths.items()}
    masks = {n: np.ones(shape, bool) for n in widths}
    shapes = jax.eval_shape(
        lambda key: model.init(key, streams, masks, train=False), jax.random.key(0)
    )
    variables = jax.tree.map(
        lambda s: rng.normal(scale=0.4, size=s.shape).astype(np.float32), shapes
    )
    if "batch_stats" in variables:  # variances among them
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])

    module = SYSTEMS[name].build(config, widths)
    SYSTEMS[name].load(module, variables)
    ours = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert sum(p.numel() for p in module.parameters()) == ours
    module.double()
    inputs = {
        n: torch.tensor(x, dtype=torch.float64, requires_grad=True) for n, x in streams.items()
    }
    for train in (False, True):

        def total(streams: Any, train: bool = train) -> tuple[Any, Any]:
            (found, aux), _ = model.apply(
                variables, streams, masks, train=train, mutable=["batch_stats"]
            )
            assert not aux["losses"]
            return sum((y * y).sum() for y in found.values()), found

        gradients, found = jax.jit(jax.grad(total, has_aux=True))(streams)
        module.train(train)
        expected, auxiliary = module(inputs)
        assert float(auxiliary) == 0.0
        assert found.keys() == expected.keys()
        theirs = torch.autograd.grad(
            sum((y * y).sum() for y in expected.values()), list(inputs.values())
        )
        pairs = [(found[task], expected[task].detach()) for task in found]
        pairs += [(gradients[n], g) for n, g in zip(inputs, theirs, strict=True)]
        for a, b in pairs:
            a, b = np.asarray(a), b.numpy()
            assert np.abs(b).max() > 0
            assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()
