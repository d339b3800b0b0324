"""Multi-scale TCNs with cross-modal attention (arXiv:2503.10523, eq. 5-15) in PyTorch.

This is the model of the second stage of training, which the paper's numbers are from. The
temporary heads of the first stage are left out, because the second stage freezes and ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_models import TorchSystem
from benchmarks.torch_models.temporal import (
    TemporalConvNet,
    copy_dense,
    copy_layer_norm,
    copy_tcn,
)
from emojax.specs import TASKS


def attend(query_BTD: Tensor, source_BTD: Tensor) -> Tensor:
    """Attends without projections; the axis of heads is there for the fast kernels."""
    source_B1TD = source_BTD.unsqueeze(1)
    found_B1TD = functional.scaled_dot_product_attention(
        query_BTD.unsqueeze(1), source_B1TD, source_B1TD
    )
    return found_B1TD.squeeze(1)


class RegressionLayer(nn.Sequential):
    """LayerNorm, Linear, GELU, dropout, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(inputs),
            nn.Linear(inputs, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )


class MultiscaleTCN(nn.Module):
    """``emojax.models.multiscale_tcn.MultiscaleTCN`` with one head for each task.

    Args:
        config: a configuration of ``configs/multiscale_tcn.py``.
        widths: stream -> D.
    """

    def __init__(self, config: ConfigDict, widths: Mapping[str, int]) -> None:
        super().__init__()
        model = config.model
        self.leader: str = model.leader or config.data.streams[0]
        self.encoders = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    TemporalConvNet(
                        widths[name],
                        tuple(model.channels[name]),
                        kernel_size=kernel_size,
                        causal=model.causal,
                        dropout=model.temporal_dropout,
                    )
                    for kernel_size in model.kernel_sizes
                )
                for name in config.data.streams
            }
        )
        width = len(model.kernel_sizes) * model.channels[self.leader][-1]
        fused = width * len(config.data.streams)
        self.heads = nn.ModuleDict(
            {
                task: RegressionLayer(fused, model.hidden, TASKS[task].outputs, model.dropout)
                for task in config.data.tasks
            }
        )

    def forward(self, streams: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Predicts every frame; see ``TorchSystem``."""
        encoded: dict[str, Tensor] = {}
        for name, networks in self.encoders.items():
            x_BDT = streams[name].transpose(1, 2)
            scales: Any = networks
            encoded[name] = torch.cat([network(x_BDT) for network in scales], 1).transpose(1, 2)
        query_BTD = encoded[self.leader]
        found = [
            attend(query_BTD, source_BTD)
            for name, source_BTD in encoded.items()
            if name != self.leader
        ]
        fused_BTD = torch.cat([query_BTD, *found], dim=-1)
        outputs = {task: head(fused_BTD) for task, head in self.heads.items()}
        return outputs, fused_BTD.new_zeros(())


def load(module: nn.Module, variables: Mapping[str, Any]) -> None:
    """Copies the variables of one Linen ``MultiscaleTCN``."""
    parts: Any = module
    params = variables["params"]
    for name, networks in parts.encoders.items():
        own = params[f"encoder_{name}"]
        kernels = sorted(own, key=lambda key: int(key.removeprefix("kernel_")))
        by_size = {network[0].inside[0].conv.kernel_size[0]: network for network in networks}
        for kernel in kernels:
            copy_tcn(by_size[int(kernel.removeprefix("kernel_"))], own[kernel])
    for task, head in parts.heads.items():
        own = params[f"head_{task}"]
        copy_layer_norm(head[0], own["norm"])
        copy_dense(head[1], own["hidden"])
        copy_dense(head[4], own["output"])


SYSTEM = TorchSystem("multiscale_tcn", "configs/multiscale_tcn.py", MultiscaleTCN, load)
