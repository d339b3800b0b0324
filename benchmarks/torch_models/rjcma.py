"""RJCMA (arXiv:2403.13659), the paper's variant, in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.torch_models import TorchSystem

_SLOPE = 0.01


class TemporalBlock(nn.Module):
    """Two causal, weight-normalised convolutions with a residual; (B, D, T) in and out."""

    def __init__(self, inputs: int, outputs: int, taps: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.reach = (taps - 1) * dilation
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(width, outputs, taps, dilation=dilation))
            for width in (inputs, outputs)
        )
        self.dropout = nn.Dropout(dropout)
        self.residual = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x_BDT: Tensor) -> Tensor:
        """Encodes every frame from itself and the past."""
        y_BDT = x_BDT
        for conv in self.convs:
            y_BDT = conv(functional.pad(y_BDT, (self.reach, 0)))
            y_BDT = self.dropout(functional.leaky_relu(y_BDT, _SLOPE))
        return functional.leaky_relu(self.residual(x_BDT) + y_BDT, _SLOPE)


class JointCrossAttention(nn.Module):
    """One recursion (eq. 1-10) over streams of these widths, (B, d_m, K) each."""

    def __init__(self, widths: Mapping[str, int], window: int, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.width = sum(widths.values())
        self.joint = nn.Linear(self.width, self.width)
        self.w_j = nn.ParameterDict(
            {n: torch.randn(d, self.width) / math.sqrt(d) for n, d in widths.items()}
        )
        self.w_c = nn.ParameterDict({n: torch.randn(window, window) for n in widths})
        self.w_h = nn.ParameterDict({n: torch.zeros(window, window) for n in widths})
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Attends every stream to the joint representation of all streams."""
        joint_BTD = self.joint(torch.cat(list(features.values()), dim=1).transpose(1, 2))
        attended = {}
        for name, x_BMT in features.items():
            key_BTM = functional.linear(joint_BTD, self.w_j[name]) / math.sqrt(self.width)
            c_BTT = torch.tanh(torch.matmul(key_BTM, x_BMT).transpose(1, 2))
            map_BMT = torch.relu(x_BMT @ (self.w_c[name] / self.window) @ c_BTT)
            w_h_TT = self.w_h[name] / math.sqrt(self.window)
            attended[name] = x_BMT + self.dropout(map_BMT) @ w_h_TT
        return attended


class RJCMA(nn.Module):
    """TCNs, recursive joint cross-attention, and one MLP for each label of valence and arousal."""

    def __init__(self, model: ConfigDict, widths: Mapping[str, int], window: int) -> None:
        super().__init__()
        self.streams = tuple(model.streams) if "streams" in model else tuple(widths)
        taps = model.get("kernel_size", 5)
        self.encoders, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for name in self.streams:
            sizes = (widths[name], *model.channels[name])
            self.encoders[name] = nn.Sequential(
                *(
                    TemporalBlock(sizes[i], sizes[i + 1], taps, 2**i, model.temporal_dropout)
                    for i in range(len(sizes) - 1)
                )
            )
            self.norms[name] = nn.BatchNorm1d(sizes[-1])
        encoded = {name: model.channels[name][-1] for name in self.streams}
        self.blocks = nn.ModuleList(
            JointCrossAttention(encoded, window, model.dropout) for _ in range(model.recursions)
        )
        self.heads = nn.ModuleDict(
            {
                target: nn.Sequential(
                    nn.Linear(sum(encoded.values()), model.head_width),
                    nn.LeakyReLU(_SLOPE),
                    nn.Dropout(model.dropout),
                    nn.Linear(model.head_width, 1),
                )
                for target in ("valence", "arousal")
            }
        )

    def forward(self, streams: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Maps stream -> (B, T, D) to {"va": (B, T, 2)} and a zero loss; see ``TorchSystem``."""
        features = {
            name: self.norms[name](self.encoders[name](streams[name].transpose(1, 2)))
            for name in self.streams
        }
        for block in self.blocks:
            features = block(features)
        joint_BTD = torch.cat(list(features.values()), dim=1).transpose(1, 2)
        va_BTC = torch.cat([head(joint_BTD) for head in self.heads.values()], dim=-1)
        return {"va": va_BTC}, va_BTC.new_zeros(())


def build(config: ConfigDict, widths: Mapping[str, int]) -> nn.Module:
    """Builds the model of ``configs/rjcma.py``.

    Raises:
        ValueError: the configuration is not that of the paper's system.
    """
    model = config.model
    paper = ("paper", "tcn", "none", "per_target", True)
    found = (model.variant, model.temporal, model.fused_temporal, model.heads, model.causal)
    if found != paper:
        raise ValueError(f"only {paper} is available in PyTorch, not {found}")
    streams = {name: widths[name] for name in config.data.streams}
    return RJCMA(model, streams, config.data.window)


def load(module: nn.Module, variables: Mapping[str, Any]) -> None:
    """Copies the Linen variables of one replica; every weight must have a counterpart."""
    assert isinstance(module, RJCMA)
    params, state = variables["params"], {}

    def put(path: str, value: Any) -> None:
        state[path] = torch.from_numpy(np.array(value, np.float32))

    def put_dense(path: str, dense: Mapping[str, Any], taps: int = 0) -> None:
        kernel = np.asarray(dense["kernel"]).T
        put(f"{path}.weight", kernel[..., None] if taps else kernel)
        put(f"{path}.bias", dense["bias"])

    for name in module.streams:
        for i, block in enumerate(params[f"encoder_{name}"].values()):
            path = f"encoders.{name}.{i}"
            for j in range(2):
                conv = block[f"conv_{j}"]
                weight = f"{path}.convs.{j}.parametrizations.weight"
                put(f"{weight}.original0", np.asarray(conv["scale"])[:, None, None])
                put(f"{weight}.original1", np.asarray(conv["direction"]).transpose(2, 1, 0))
                put(f"{path}.convs.{j}.bias", conv["bias"])
            if "residual" in block:
                put_dense(f"{path}.residual", block["residual"], taps=1)
        norm, running = params[f"norm_{name}"], variables["batch_stats"][f"norm_{name}"]
        put(f"norms.{name}.weight", norm["scale"])
        put(f"norms.{name}.bias", norm["bias"])
        put(f"norms.{name}.running_mean", running["mean"])
        put(f"norms.{name}.running_var", running["var"])
        state[f"norms.{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    for i in range(len(module.blocks)):
        block = params[f"recursion_{i}"]
        put_dense(f"blocks.{i}.joint", block["joint"])
        for name in module.streams:
            for weight in ("w_j", "w_c", "w_h"):
                put(f"blocks.{i}.{weight}.{name}", block[f"{weight}_{name}"])
    for target in module.heads:
        put_dense(f"heads.{target}.0", params[f"head_va_{target}"]["hidden"])
        put_dense(f"heads.{target}.3", params[f"head_va_{target}"]["output"])
    module.load_state_dict(state)


SYSTEM = TorchSystem("rjcma", "configs/rjcma.py", build, load)
