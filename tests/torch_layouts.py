"""Small PyTorch models whose state dicts are named as those of three public repositories.

Written for tests from the equations of ``emojax/layers/fusion.py`` and ``emojax/models/lfan.py``,
from section 3.5 of arXiv:2303.08356, and from the attribute names that
``emojax/models/torch_layouts.py`` lists. Inputs are modality -> (B, T, D); there are no masks, and
dropout is left out.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn


def normalised(conv: nn.Conv1d, old: bool) -> nn.Module:
    """Returns a convolution under weight normalisation, by PyTorch's old or new interface."""
    if not old:
        return nn.utils.parametrizations.weight_norm(conv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(conv)


class Block(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, dilation: int, old: bool) -> None:
        super().__init__()
        self.cut = (kernel - 1) * dilation
        options = {"padding": self.cut, "dilation": dilation}
        self.conv1 = normalised(nn.Conv1d(before, after, kernel, **options), old)
        self.conv2 = normalised(nn.Conv1d(after, after, kernel, **options), old)
        # The same convolutions under a second name, at places 0 and 4 of eight.
        rest = [nn.Identity() for _ in range(6)]
        self.net = nn.Sequential(self.conv1, *rest[:3], self.conv2, *rest[3:])
        self.downsample = nn.Conv1d(before, after, 1) if before != after else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for conv in (self.conv1, self.conv2):
            y = nn.functional.leaky_relu(conv(y)[..., : -self.cut])
        return nn.functional.leaky_relu(y + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    def __init__(self, before: int, channels: tuple[int, ...], kernel: int, old: bool) -> None:
        super().__init__()
        widths = (before, *channels)
        self.network = nn.Sequential(
            *(Block(widths[i], after, kernel, 2**i, old) for i, after in enumerate(channels))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


class Encoded(nn.Module):
    """The beginning of both models: a TCN and batch normalisation for each modality."""

    def __init__(self, widths: dict[str, int], channels: dict[str, tuple[int, ...]],
                 kernel: int, old: bool) -> None:  # fmt: skip
        super().__init__()
        self.temporal = nn.ModuleDict(
            {m: Encoder(width, channels[m], kernel, old) for m, width in widths.items()}
        )
        self.bn = nn.ModuleDict({m: nn.BatchNorm1d(channels[m][-1]) for m in widths})
        # A part that is not taken.
        self.spatial = nn.ModuleDict({"visual": nn.Linear(2, 3)})

    def encode(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            m: self.bn[m](self.temporal[m](x[m].transpose(1, 2))).transpose(1, 2)
            for m in self.temporal
        }


class CoAttention(nn.Module):
    def __init__(self, widths: list[int], window: int) -> None:
        super().__init__()
        self.query_linear = nn.Linear(sum(widths), sum(widths))
        for n, width in enumerate(widths, 1):
            setattr(self, f"key{n}_linear", nn.Linear(window, window))
            setattr(self, f"value{n}_linear", nn.Linear(width, width))


class Recursion(nn.Module):
    def __init__(self, widths: list[int], window: int) -> None:
        super().__init__()
        self.dense_coattn = CoAttention(widths, window)
        self.linears = nn.ModuleList(nn.Sequential(nn.Linear(sum(widths), w)) for w in widths)

    def forward(self, streams: list[torch.Tensor]) -> list[torch.Tensor]:
        joint = torch.cat(streams, dim=-1)
        new = []
        for n, x in enumerate(streams, 1):
            key = getattr(self.dense_coattn, f"key{n}_linear")(x.transpose(1, 2))
            scores = torch.tanh(key @ joint / math.sqrt(joint.shape[-1]))
            value = getattr(self.dense_coattn, f"value{n}_linear")(x)
            maps = torch.relu(torch.tanh(value @ scores))
            new.append(x + torch.relu(self.linears[n - 1](maps)))
        return new


class PublicRJCMA(Encoded):
    def __init__(
        self,
        widths: dict[str, int],
        channels: dict[str, tuple[int, ...]],
        *,
        kernel: int,
        window: int,
        recursions: int,
        hidden: int,
        old: bool,
    ) -> None:
        super().__init__(widths, channels, kernel, old)
        last = [channels[m][-1] for m in widths]
        self.coattn = nn.Module()
        self.coattn.dcn_layers = nn.ModuleList(Recursion(last, window) for _ in range(recursions))
        self.regressor1 = nn.Linear(sum(last), hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.regressor2 = nn.Linear(hidden, 1)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        streams = list(self.encode(x).values())
        for layer in self.coattn.dcn_layers:
            streams = layer(streams)
        y = self.regressor1(torch.cat(streams, dim=-1))
        y = nn.functional.leaky_relu(self.bn1(y.transpose(1, 2)).transpose(1, 2))
        return torch.tanh(self.regressor2(y))


class PublicLFAN(Encoded):
    def __init__(
        self,
        widths: dict[str, int],
        channels: dict[str, tuple[int, ...]],
        *,
        kernel: int,
        modal: int,
        heads: int,
        old: bool,
    ) -> None:
        super().__init__(widths, channels, kernel, old)
        self.heads, total = heads, modal * len(widths)
        layers = nn.Module()
        layers.self_attn = nn.Module()
        layers.self_attn.qkv_proj = nn.ModuleDict(
            {m: nn.Linear(channels[m][-1], 3 * modal) for m in widths}
        )
        layers.self_attn.o_proj = nn.Linear(total, total)
        layers.norm1 = nn.LayerNorm(total)
        self.fusion = nn.Module()
        self.fusion.layers = layers
        self.regressor = nn.Linear(channels[next(iter(widths))][-1] + total, 1)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        features, layers = self.encode(x), self.fusion.layers
        parts = [
            layers.self_attn.qkv_proj[m](f).unflatten(-1, (self.heads, -1))
            for m, f in features.items()
        ]
        # (B, T, heads, modality, d) each.
        query, key, value = torch.stack(parts, dim=-2).chunk(3, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value) + value
        follower = layers.norm1(layers.self_attn.o_proj(attended.flatten(2)))
        leader = next(iter(features.values()))
        return torch.tanh(self.regressor(torch.cat([leader, follower], dim=-1)))


class SlopedBlock(nn.Module):
    """A block with PReLUs, each of its parts under two names."""

    def __init__(self, before: int, after: int, kernel: int, dilation: int, old: bool) -> None:
        super().__init__()
        self.cut = (kernel - 1) * dilation
        options = {"padding": self.cut, "dilation": dilation}
        self.conv1 = normalised(nn.Conv1d(before, after, kernel, **options), old)
        self.relu1 = nn.PReLU()
        self.conv2 = normalised(nn.Conv1d(after, after, kernel, **options), old)
        self.relu2 = nn.PReLU()
        self.net = nn.Sequential(
            self.conv1, nn.Identity(), self.relu1, nn.Identity(),
            self.conv2, nn.Identity(), self.relu2, nn.Identity(),
        )  # fmt: skip
        self.downsample = nn.Conv1d(before, after, 1) if before != after else None
        self.relu = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.conv1(x)[..., : -self.cut])
        y = self.relu2(self.conv2(y)[..., : -self.cut])
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class SlopedEncoder(nn.Module):
    def __init__(self, before: int, channels: tuple[int, ...], kernel: int, old: bool) -> None:
        super().__init__()
        widths = (before, *channels)
        self.network = nn.Sequential(
            *(SlopedBlock(widths[i], after, kernel, 2**i, old) for i, after in enumerate(channels))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


class Projected(nn.Module):
    """A 1x1 convolution and PyTorch's own encoder, over (T, B, D)."""

    def __init__(self, before: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(before, width, kernel_size=1)
        layer = nn.TransformerEncoderLayer(width, heads, dim_feedforward=width, dropout=0.0)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x_BDT: torch.Tensor) -> torch.Tensor:
        return self.transformer_encoder(self.conv1(x_BDT).permute(2, 0, 1))


class PublicTCNTransformer(nn.Module):
    """The model of valence and arousal, or with ``classes`` that of another task."""

    def __init__(
        self,
        widths: dict[str, int],
        channels: dict[str, tuple[int, ...]],
        *,
        kernel: int,
        width: int,
        heads: int,
        layers: int,
        hidden: int,
        old: bool,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.temporal = nn.ModuleDict(
            {m: SlopedEncoder(before, channels[m], kernel, old) for m, before in widths.items()}
        )
        joint = sum(channels[m][-1] for m in widths)
        self.classes = classes
        self.add_module("encoder" if classes else "decoder", Projected(joint, width, heads, layers))
        for name in ("head",) if classes else ("vhead", "ahead"):
            ends = nn.Linear(width, hidden), nn.Linear(hidden, classes or 1)
            self.add_module(name, nn.Sequential(ends[0], nn.BatchNorm1d(hidden), ends[1]))

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = [self.temporal[m](x[m].transpose(1, 2)) for m in self.temporal]
        encoder = self.encoder if self.classes else self.decoder
        y_BTD = encoder(torch.cat(parts, dim=1)).transpose(0, 1)
        flat = y_BTD.flatten(0, 1)
        names = ("head",) if self.classes else ("vhead", "ahead")
        found = torch.cat([self.get_submodule(name)(flat) for name in names], dim=-1)
        return found.unflatten(0, y_BTD.shape[:2])


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Numbers that tell tensors apart, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                tensor.fill_(7)
            elif name.endswith(
                ("running_var", "weight_g", "original0", "norm1.weight", "norm2.weight")
            ):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(std=0.3, generator=generator)
    return model.eval()


def arrays(model: nn.Module) -> dict[str, Any]:
    """Returns the state dict as NumPy arrays."""
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
