"""TCN-Transformer (arXiv:2303.08356, sections 3.5.1-3.5.3) in PyTorch, the paper's variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from benchmarks.torch_models import TorchSystem
from benchmarks.torch_models.temporal import (
    TemporalConvNet,
    copy,
    copy_batch_norm,
    copy_dense,
    copy_layer_norm,
    copy_tcn,
)
from emojax.specs import TASKS


class Head(nn.Module):
    """Linear, batch normalisation, LeakyReLU, Linear, for each frame."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.activation = nn.LeakyReLU(0.01)
        self.output = nn.Linear(hidden, outputs)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Maps (B, T, inputs) to (B, T, outputs)."""
        h_ND = self.norm(self.hidden(x_BTD.flatten(0, 1)))
        y_BTC: Tensor = self.output(self.activation(h_ND)).unflatten(0, x_BTD.shape[:2])
        return y_BTC


class TCNTransformer(nn.Module):
    """``emojax.models.tcn_transformer.TCNTransformer``, variant "paper" without position codes.

    Args:
        config: a configuration of ``configs/tcn_transformer.py``.
        widths: stream -> D.
    """

    def __init__(self, config: ConfigDict, widths: Mapping[str, int]) -> None:
        super().__init__()
        model = config.model
        self.tcns = nn.ModuleDict(
            {
                name: TemporalConvNet(
                    widths[name],
                    tuple(model.channels[name]),
                    kernel_size=model.kernel_size,
                    causal=model.causal,
                    dropout=model.dropout,
                    activation=model.activation,
                )
                for name in config.data.streams
            }
        )
        total = sum(model.channels[name][-1] for name in config.data.streams)
        width = model.width or total
        self.projection = nn.Linear(total, width) if model.width else nn.Identity()
        pre = model.norm == "pre"
        layer = nn.TransformerEncoderLayer(
            width,
            model.attention_heads,
            model.feed_forward,
            dropout=model.dropout,
            batch_first=True,
            norm_first=pre,
        )
        self.transformer = nn.TransformerEncoder(
            layer,
            model.layers,
            nn.LayerNorm(width) if pre else None,
            enable_nested_tensor=False,
        )
        self.heads = nn.ModuleDict(
            {task: Head(width, model.head_width, TASKS[task].outputs) for task in config.data.tasks}
        )

    def forward(self, streams: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Predicts every frame; see ``TorchSystem``."""
        encoded = [tcn(streams[name].transpose(1, 2)) for name, tcn in self.tcns.items()]
        joint_BTD = torch.cat(encoded, dim=1).transpose(1, 2)
        hidden_BTD = self.transformer(self.projection(joint_BTD))
        outputs = {task: head(hidden_BTD) for task, head in self.heads.items()}
        return outputs, hidden_BTD.new_zeros(())


def copy_encoder_layer(layer: nn.TransformerEncoderLayer, params: Mapping[str, Any]) -> None:
    """Copies an ``emojax.layers.transformer.EncoderLayer``."""
    attention, own = layer.self_attn, params["attention"]
    names = ("query", "key", "value")
    copy(
        attention.in_proj_weight,
        np.concatenate([np.asarray(own[name]["kernel"]).T for name in names]),
    )
    copy(attention.in_proj_bias, np.concatenate([own[name]["bias"] for name in names]))
    copy_dense(attention.out_proj, own["output"])
    copy_dense(layer.linear1, params["feed_hidden"])
    copy_dense(layer.linear2, params["feed_output"])
    copy_layer_norm(layer.norm1, params["attention_norm"])
    copy_layer_norm(layer.norm2, params["feed_norm"])


def load(module: nn.Module, variables: Mapping[str, Any]) -> None:
    """Copies the variables of one Linen ``TCNTransformer``."""
    parts: Any = module
    params, statistics = variables["params"], variables["batch_stats"]
    for name, tcn in parts.tcns.items():
        copy_tcn(tcn, params[f"tcn_{name}"])
    if isinstance(parts.projection, nn.Linear):
        copy_dense(parts.projection, params["projection"])
    for i, layer in enumerate(parts.transformer.layers):
        copy_encoder_layer(layer, params["transformer"][f"layer_{i}"])
    if parts.transformer.norm is not None:
        copy_layer_norm(parts.transformer.norm, params["transformer"]["final_norm"])
    for task, head in parts.heads.items():
        own = params[f"head_{task}"]
        copy_dense(head.hidden, own["hidden"])
        copy_batch_norm(head.norm, own["norm"], statistics[f"head_{task}"]["norm"])
        copy_dense(head.output, own["output"])


SYSTEM = TorchSystem("tcn_transformer", "configs/tcn_transformer.py", TCNTransformer, load)
