"""Temporal convolutional networks in PyTorch, and copies of Linen parameters into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


class Convolution(nn.Module):
    """Weight-normalised, dilated ``nn.Conv1d``, zeros before (and, if centred, after) the window.

    Args:
        inputs: the number of input channels.
        outputs: the number of output channels.
        kernel_size: the number of taps.
        dilation: the number of frames between taps.
        causal: if True, all zeros come before the window.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, dilation: int, causal: bool
    ) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(
            nn.Conv1d(inputs, outputs, kernel_size, dilation=dilation)
        )
        reach = (kernel_size - 1) * dilation
        self.zeros = (reach, 0) if causal else (reach // 2, reach - reach // 2)

    def forward(self, x_BDT: Tensor) -> Tensor:
        """Maps (B, inputs, T) to (B, outputs, T)."""
        y_BDT: Tensor = self.conv(functional.pad(x_BDT, self.zeros))
        return y_BDT


class TemporalBlock(nn.Module):
    """Two convolutions and a residual, like ``emojax.layers.tcn.TemporalBlock``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_size: int,
        dilation: int,
        causal: bool,
        dropout: float,
        activation: str,
    ) -> None:
        super().__init__()
        convolutions = [
            Convolution(width, outputs, kernel_size, dilation, causal)
            for width in (inputs, outputs)
        ]
        make = ACTIVATIONS[activation]
        self.inside = nn.Sequential(
            convolutions[0], make(), nn.Dropout(dropout), convolutions[1], make(),
            nn.Dropout(dropout),
        )  # fmt: skip
        self.residual = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.activation = make()

    def forward(self, x_BDT: Tensor) -> Tensor:
        """Maps (B, inputs, T) to (B, outputs, T)."""
        y_BDT: Tensor = self.activation(self.residual(x_BDT) + self.inside(x_BDT))
        return y_BDT


class TemporalConvNet(nn.Sequential):
    """Blocks of dilation 1, 2, 4, ... over (B, D, T).

    Args:
        inputs: the number of input channels.
        channels: the output width of each block.
        kernel_size: the number of taps.
        causal, dropout, activation: as in ``emojax.layers.tcn.TemporalConvNet``.
    """

    def __init__(
        self,
        inputs: int,
        channels: tuple[int, ...],
        *,
        kernel_size: int,
        causal: bool = True,
        dropout: float = 0.1,
        activation: str = "leaky_relu",
    ) -> None:
        widths = (inputs, *channels)
        super().__init__(
            *(
                TemporalBlock(
                    widths[i],
                    width,
                    kernel_size=kernel_size,
                    dilation=2**i,
                    causal=causal,
                    dropout=dropout,
                    activation=activation,
                )
                for i, width in enumerate(channels)
            )
        )


def copy(parameter: Tensor, value: Any) -> None:
    """Copies an array into a parameter or buffer.

    Raises:
        ValueError: the shapes differ.
    """
    array = np.array(value, np.float32)
    if array.shape != tuple(parameter.shape):
        raise ValueError(f"an array of shape {array.shape} for one of {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(array))


def copy_dense(linear: nn.Linear, params: Mapping[str, Any]) -> None:
    """Copies a Linen ``Dense``, with a bias or without."""
    copy(linear.weight, np.asarray(params["kernel"]).T)
    if linear.bias is not None:
        copy(linear.bias, params["bias"])


def copy_layer_norm(norm: nn.LayerNorm, params: Mapping[str, Any]) -> None:
    """Copies a Linen ``LayerNorm``."""
    copy(norm.weight, params["scale"])
    copy(norm.bias, params["bias"])


def copy_batch_norm(
    norm: nn.BatchNorm1d, params: Mapping[str, Any], statistics: Mapping[str, Any]
) -> None:
    """Copies a ``MaskedBatchNorm`` and its running statistics."""
    copy(norm.weight, params["scale"])
    copy(norm.bias, params["bias"])
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch normalisation without running statistics")
    copy(norm.running_mean, statistics["mean"])
    copy(norm.running_var, statistics["var"])


def _copy_activation(activation: Any, params: Mapping[str, Any], name: str) -> None:
    if isinstance(activation, nn.PReLU):
        copy(activation.weight, np.reshape(params[name]["slope"], (1,)))


def copy_tcn(network: TemporalConvNet, params: Mapping[str, Any]) -> None:
    """Copies an ``emojax.layers.tcn.TemporalConvNet``."""
    for i, block in enumerate(network):
        own = params[f"block_{i}"]
        inside: Any = block.inside
        for j in range(2):
            layer = own[f"conv_{j}"]
            conv = inside[3 * j].conv
            weight = conv.parametrizations.weight
            copy(weight.original0, np.asarray(layer["scale"])[:, None, None])
            copy(weight.original1, np.asarray(layer["direction"]).transpose(2, 1, 0))
            copy(conv.bias, layer["bias"])
            _copy_activation(inside[3 * j + 1], own, f"activation_{j}")
        _copy_activation(block.activation, own, "activation_sum")
        residual: Any = block.residual
        if not isinstance(residual, nn.Identity):
            copy(residual.weight, np.asarray(own["residual"]["kernel"]).T[:, :, None])
            copy(residual.bias, own["residual"]["bias"])
