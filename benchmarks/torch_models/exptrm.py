"""ExpTrm in idiomatic PyTorch, to be timed beside ``emojax.models.exptrm``.

``torch.nn`` modules in float32 and without masks: all frames of a window are real.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_models import TorchSystem
from emojax.specs import TASKS


def positions(length: int, width: int) -> Tensor:
    """Returns the sines and cosines of equations 5 and 6, (length, width), for an even width."""
    frequency_I = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle_TI = torch.arange(length)[:, None] * frequency_I
    return torch.stack((angle_TI.sin(), angle_TI.cos()), dim=-1).flatten(1)


class ExpTrm(nn.Module):
    """Projection, encoder and cross-modal attention of each stream, and dense heads.

    Args:
        config: a configuration of ``configs/exptrm.py``, with "joint" heads without an activation.
        widths: stream -> D.
    """

    position_TD: Tensor

    def __init__(self, config: ConfigDict, widths: Mapping[str, int]) -> None:
        super().__init__()
        own, data = config.model, config.data
        self.names = tuple(data.streams)
        self.context = {name: int(data.context.get(name, 0)) for name in self.names}
        self.stacked = own.stacked_width
        inputs = {
            name: max(self.stacked, (2 * self.context[name] + 1) * widths[name])
            if self.context[name]
            else widths[name]
            for name in self.names
        }
        self.projection = nn.ModuleDict({n: nn.Linear(inputs[n], own.width) for n in self.names})
        self.register_buffer("position_TD", positions(data.window, own.width), persistent=False)
        self.dropout = nn.Dropout(own.dropout)
        pre = own.norm == "pre"
        self.encoder = nn.ModuleDict()
        for name in self.names:
            layer = nn.TransformerEncoderLayer(
                own.width,
                own.attention_heads,
                own.hidden,
                own.dropout,
                own.activation,
                batch_first=True,
                norm_first=pre,
            )
            final = nn.LayerNorm(own.width) if pre else None
            self.encoder[name] = nn.TransformerEncoder(
                layer, own.layers, final, enable_nested_tensor=False
            )
        self.pairs = tuple(itertools.permutations(sorted(self.names), 2))
        self.cross = nn.ModuleDict(
            {
                f"{query}_{source}": nn.MultiheadAttention(
                    own.width, own.attention_heads, own.dropout, batch_first=True
                )
                for query, source in self.pairs
            }
        )
        self.weight = nn.ParameterDict(
            {f"{q}_{s}": torch.full((), 1 / len(self.pairs)) for q, s in self.pairs}
        )
        self.heads = nn.ModuleDict(
            {task: nn.Linear(own.width, TASKS[task].outputs) for task in data.tasks}
        )

    def forward(self, streams: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Maps stream -> (B, T + 2n, D) to task -> (B, T, C) and a zero loss."""
        encoded = {name: self._encode(name, streams[name]) for name in self.names}
        fused_BTD = encoded[self.names[0]]
        if self.pairs:
            parts = []
            for query, source in self.pairs:
                pair, source_BTD = f"{query}_{source}", encoded[source]
                attended_BTD, _ = self.cross[pair](
                    encoded[query], source_BTD, source_BTD, need_weights=False
                )
                parts.append(self.weight[pair] * attended_BTD)
            fused_BTD = sum(parts[1:], parts[0])
        outputs = {task: head(fused_BTD) for task, head in self.heads.items()}
        return outputs, fused_BTD.new_zeros(())

    def _encode(self, name: str, x_BSD: Tensor) -> Tensor:
        if self.context[name]:
            # (B, T, D, rows) -> the rows concatenated.
            x_BSD = x_BSD.unfold(1, 2 * self.context[name] + 1, 1).transpose(2, 3).flatten(2)
            x_BSD = functional.pad(x_BSD, (0, max(0, self.stacked - x_BSD.shape[-1])))
        x_BTD = self.projection[name](x_BSD)
        x_BTD = self.dropout(x_BTD + self.position_TD[: x_BTD.shape[1]])
        encoded_BTD: Tensor = self.encoder[name](x_BTD)
        return encoded_BTD


def build(config: ConfigDict, widths: Mapping[str, int]) -> nn.Module:
    """Builds the model of a configuration, with PyTorch's initial weights."""
    return ExpTrm(config, widths)


def load(module: nn.Module, variables: Mapping[str, Any]) -> None:
    """Copies the parameters of one replica of ``emojax.models.exptrm.ExpTrm`` into the module.

    Raises:
        RuntimeError: names or shapes are not those of the module.
    """
    state: dict[str, Any] = {}
    for name, own in variables["params"].items():
        kind, _, rest = name.partition("_")
        if kind == "projection":
            state |= _dense(own, f"projection.{rest}")
        elif kind == "encoder":
            state |= _encoder(own, f"encoder.{rest}")
        elif kind == "cross":
            state |= _attention(own, f"cross.{rest}")
        elif kind == "weight":
            state[f"weight.{rest}"] = own
        else:
            state |= _dense(own["output"], f"heads.{rest}")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    module.load_state_dict(tensors, strict=True)


def _encoder(own: Mapping[str, Any], path: str) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, layer in own.items():
        if name == "final_norm":
            state |= _norm(layer, f"{path}.norm")
            continue
        place = f"{path}.layers.{name.removeprefix('layer_')}"
        state |= _attention(layer["attention"], f"{place}.self_attn")
        state |= _dense(layer["feed_hidden"], f"{place}.linear1")
        state |= _dense(layer["feed_output"], f"{place}.linear2")
        state |= _norm(layer["attention_norm"], f"{place}.norm1")
        state |= _norm(layer["feed_norm"], f"{place}.norm2")
    return state


def _attention(own: Mapping[str, Any], path: str) -> dict[str, Any]:
    parts = [own[name] for name in ("query", "key", "value")]
    return {
        f"{path}.in_proj_weight": np.concatenate([np.asarray(p["kernel"]).T for p in parts]),
        f"{path}.in_proj_bias": np.concatenate([np.asarray(p["bias"]) for p in parts]),
    } | _dense(own["output"], f"{path}.out_proj")


def _dense(own: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {f"{path}.weight": np.asarray(own["kernel"]).T, f"{path}.bias": own["bias"]}


def _norm(own: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {f"{path}.weight": own["scale"], f"{path}.bias": own["bias"]}


SYSTEM = TorchSystem("exptrm", "configs/exptrm.py", build, load)
