"""EMMA-Net in idiomatic PyTorch, to be timed beside ``emojax.models.emma_net``.

``torch.nn`` modules in float32 and without masks: all ticks and rows of a window are real. Only the
paper's model is here: attention fusion and expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_models import TorchSystem
from emojax.specs import TASKS


class EMMANet(nn.Module):
    """A GRU for each stream, attention from the current face, a head, decoders.

    Args:
        config: a configuration of ``configs/emma_net.py``: not causal, with "attention" fusion,
            "joint" heads and categorical tasks.
        widths: stream -> D.
    """

    def __init__(self, config: ConfigDict, widths: Mapping[str, int]) -> None:
        super().__init__()
        own, data = config.model, config.data
        self.names, self.anchor = tuple(data.streams), own.anchor or data.streams[0]
        self.ticks = {n: round(data.clock / data.rates.get(n, data.clock)) for n in self.names}
        self.encoder, self.w_q, self.w_k = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name in self.names:
            both = name == self.anchor or own.context_bidirectional
            self.encoder[name] = nn.GRU(
                widths[name],
                own.width // 2 if both else own.width,
                own.layers,
                batch_first=True,
                dropout=own.temporal_dropout if own.layers > 1 else 0.0,
                bidirectional=both,
            )
            self.w_q[name] = nn.Linear(own.width, own.attention_width, bias=False)
            self.w_k[name] = nn.Linear(widths[self.anchor], own.attention_width, bias=False)
        fused = widths[self.anchor] + len(self.names) * own.width
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Linear(fused, own.head_width),
                    nn.LeakyReLU(0.01),
                    nn.Dropout(own.dropout),
                    nn.Linear(own.head_width, TASKS[task].outputs),
                )
                for task in data.tasks
            }
        )
        self.decoder = nn.ModuleDict({name: nn.Linear(fused, own.width) for name in self.names})
        self.reconstruction, self.smoothness = own.reconstruction_weight, own.smoothness_weight

    def forward(self, streams: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Maps stream -> (B, T_s, D) to task -> (B, T, C) and the losses of eq. 8 and 9."""
        f_BTD = streams[self.anchor]
        rows = {name: self.encoder[name](streams[name])[0] for name in self.names}
        parts = [f_BTD]
        for name, rows_BSH in rows.items():
            parts.append(
                functional.scaled_dot_product_attention(
                    self.w_k[name](f_BTD), self.w_q[name](rows_BSH), rows_BSH
                )
            )
        z_BTZ = torch.cat(parts, dim=-1)
        outputs = {task: head(z_BTZ) for task, head in self.heads.items()}
        loss = z_BTZ.new_zeros(())
        for name, rows_BSH in rows.items():
            held_BTH = rows_BSH.detach().repeat_interleave(self.ticks[name], dim=1)
            loss = loss + self.reconstruction * functional.mse_loss(
                self.decoder[name](z_BTZ), held_BTH
            )
        for logits_BTC in outputs.values():
            change_BTC = logits_BTC.softmax(dim=-1).diff(dim=1)
            loss = loss + self.smoothness * change_BTC.abs().sum(dim=-1).mean()
        return outputs, loss


def build(config: ConfigDict, widths: Mapping[str, int]) -> nn.Module:
    """Builds the model of a configuration, with PyTorch's initial weights."""
    return EMMANet(config, widths)


def load(module: nn.Module, variables: Mapping[str, Any]) -> None:
    """Copies the parameters of one replica of ``emojax.models.emma_net.EMMANet`` into the module.

    Raises:
        RuntimeError: names or shapes are not those of the module.
    """
    state: dict[str, Any] = {}
    for name, own in variables["params"].items():
        kind, _, rest = name.partition("_")
        if kind == "encoder":
            state |= _encoder(own, f"encoder.{rest}")
        elif kind == "reconstruction":
            state |= _dense(own, f"decoder.{rest}")
        elif kind == "head":
            state |= _dense(own["hidden"], f"heads.{rest}.0")
            state |= _dense(own["output"], f"heads.{rest}.3")
        else:
            for projection, kernel in own.items():
                state |= _dense(kernel, f"{projection[:3]}.{projection[4:]}")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    module.load_state_dict(tensors, strict=True)


def _encoder(own: Mapping[str, Any], path: str) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, layer in own.items():
        for direction, suffix in (("forward", ""), ("backward", "_reverse")):
            if f"{direction}_input" not in layer:
                continue
            place = f"l{name.removeprefix('gru_')}{suffix}"
            bias_H = np.asarray(layer[f"{direction}_recurrent_bias"])
            dense = layer[f"{direction}_input"]
            state |= {
                f"{path}.weight_ih_{place}": np.asarray(dense["kernel"]).T,
                f"{path}.weight_hh_{place}": np.asarray(layer[f"{direction}_recurrent"]).T,
                f"{path}.bias_ih_{place}": dense["bias"],
                # In gates r and z the second bias would only add to the first.
                f"{path}.bias_hh_{place}": np.concatenate([np.zeros(2 * len(bias_H)), bias_H]),
            }
    return state


def _dense(own: Mapping[str, Any], path: str) -> dict[str, Any]:
    state = {f"{path}.weight": np.asarray(own["kernel"]).T}
    return state | ({f"{path}.bias": own["bias"]} if "bias" in own else {})


SYSTEM = TorchSystem("emma_net", "configs/emma_net.py", build, load)
