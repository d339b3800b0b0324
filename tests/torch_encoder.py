"""Our attention and encoder parameters under PyTorch's names, for tests of agreement."""

from __future__ import annotations

from typing import Any

import numpy as np

PROJECTIONS = ("query", "key", "value")


def attention_names(params: Any, prefix: str = "", *, joined: bool = True) -> dict[str, np.ndarray]:
    """Returns parameters as ``torch.nn.MultiheadAttention`` has them.

    Args:
        params: of ``emojax.layers.attention.MultiHeadAttention``.
        prefix: of the names.
        joined: PyTorch stacks the three projections if queries and sources are equally wide.
    """
    kernels = [params[name]["kernel"].T for name in PROJECTIONS]
    if joined:
        named = {"in_proj_weight": np.concatenate(kernels)}
    else:
        named = {f"{n[0]}_proj_weight": k for n, k in zip(PROJECTIONS, kernels, strict=True)}
    named |= {"in_proj_bias": np.concatenate([params[name]["bias"] for name in PROJECTIONS])}
    named |= dense_names(params["output"], "out_proj.")
    return {f"{prefix}{name}": value for name, value in named.items()}


def dense_names(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns parameters of a dense layer as ``torch.nn.Linear`` has them."""
    return {f"{prefix}weight": params["kernel"].T, f"{prefix}bias": params["bias"]}


def norm_names(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns parameters of a layer normalisation as ``torch.nn.LayerNorm`` has them."""
    return {f"{prefix}weight": params["scale"], f"{prefix}bias": params["bias"]}


def encoder_names(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns parameters of ``TransformerEncoder`` as ``torch.nn.TransformerEncoder`` has them."""
    named: dict[str, np.ndarray] = {}
    for layer in (name for name in params if name.startswith("layer_")):
        path, own = f"{prefix}layers.{layer.removeprefix('layer_')}.", params[layer]
        named |= attention_names(own["attention"], f"{path}self_attn.")
        named |= dense_names(own["feed_hidden"], f"{path}linear1.")
        named |= dense_names(own["feed_output"], f"{path}linear2.")
        named |= norm_names(own["attention_norm"], f"{path}norm1.")
        named |= norm_names(own["feed_norm"], f"{path}norm2.")
    if "final_norm" in params:
        named |= norm_names(params["final_norm"], f"{prefix}norm.")
    return named


def load(module: Any, named: dict[str, np.ndarray]) -> None:
    """Gives a float64 PyTorch module exactly these parameters.

    Raises:
        AssertionError: names or shapes are not those of the module.
    """
    import torch

    own = dict(module.named_parameters())
    assert own.keys() == named.keys()
    with torch.no_grad():
        for name, value in named.items():
            assert own[name].shape == value.shape, name
            own[name].copy_(torch.tensor(np.asarray(value, np.float64)))


def relative_error(ours: Any, reference: Any) -> float:
    """Returns the largest difference over the reference's largest entry."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())
