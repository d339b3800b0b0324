"""Multi-scale TCNs against an independent PyTorch implementation, forward and gradients.

The reference is written from eq. 5 to 15 of arXiv:2503.10523, with PyTorch's own attention and
layer normalisation, in float64. It knows no masks: every window is cut to its real frames, so
agreement also shows that padding does nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.models import build_model
from tests.precisions import TOLERANCES

torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")
F = torch.nn.functional

WIDTHS = {"ir50": 12, "vggish": 4, "logmel": 7}
# All end at the same width. Few blocks: compiling them is what takes time.
CHANNELS = {"ir50": (8, 4), "vggish": (4,), "logmel": (4,)}
LENGTHS = (24, 17, 6)  # real frames of each window
WINDOW = 24


class Reference:
    """Parameters as float64 leaves under their Flax paths, and the functions using them."""

    def __init__(self, params: Any) -> None:
        self.leaves = {
            path: torch.tensor(np.asarray(leaf, np.float64), requires_grad=True)
            for path, leaf in flat(params).items()
        }

    def dense(self, path: str, x_TD: Any) -> Any:
        return F.linear(x_TD, self.leaves[f"{path}/kernel"].T, self.leaves[f"{path}/bias"])

    def conv(self, path: str, x_DT: Any, dilation: int, causal: bool) -> Any:
        direction_OIK = self.leaves[f"{path}/direction"].permute(2, 1, 0)
        scale_O11 = self.leaves[f"{path}/scale"][:, None, None]
        kernel = torch._weight_norm(direction_OIK, scale_O11, 0)
        reach = (kernel.shape[-1] - 1) * dilation
        before = reach if causal else reach // 2
        x_DT = F.pad(x_DT, (before, reach - before))
        return F.conv1d(x_DT[None], kernel, self.leaves[f"{path}/bias"], dilation=dilation)[0]

    def tcn(self, path: str, x_TD: Any, channels: tuple[int, ...], causal: bool) -> Any:
        x_DT = x_TD.T
        for i, width in enumerate(channels):
            y_DT = x_DT
            for j in range(2):
                y_DT = self.conv(f"{path}/block_{i}/conv_{j}", y_DT, 2**i, causal)
                y_DT = F.leaky_relu(y_DT, 0.01)
            if x_DT.shape[0] != width:
                x_DT = self.dense(f"{path}/block_{i}/residual", x_DT.T).T
            x_DT = F.leaky_relu(x_DT + y_DT, 0.01)
        return x_DT.T

    def window(
        self, streams: dict[str, Any], *, leader: str, kernels: tuple[int, ...], causal: bool,
        heads: tuple[str, ...],
    ) -> tuple[Any, dict[str, Any]]:  # fmt: skip
        """Returns predictions (T, C) of one window from its streams (T, D), together and alone."""
        encoded = {
            name: torch.cat(
                [
                    self.tcn(f"encoder_{name}/kernel_{k}", x_TD, CHANNELS[name], causal)
                    for k in kernels
                ],
                dim=1,
            )
            for name, x_TD in streams.items()
        }  # equations 5 to 7
        query = encoded[leader]
        found = [
            F.scaled_dot_product_attention(query[None], x_TD[None], x_TD[None])[0]
            for name, x_TD in encoded.items()
            if name != leader
        ]  # equations 8 to 10
        joint = torch.cat([query, *found], dim=1)  # equation 11
        columns = []
        for head in heads:  # equations 12 to 15
            scale, bias = self.leaves[f"{head}/norm/scale"], self.leaves[f"{head}/norm/bias"]
            h_TH = F.layer_norm(joint, joint.shape[1:], scale, bias)
            columns.append(self.dense(f"{head}/output", F.gelu(self.dense(f"{head}/hidden", h_TH))))
        alone = {name: self.dense(f"branch_{name}_va", x_TD) for name, x_TD in encoded.items()}
        return torch.cat(columns, dim=1), alone


def flat(tree: Any) -> dict[str, Any]:
    """Returns a tree of dicts as path -> leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def relative_error(ours: Any, reference: Any) -> float:
    """Returns the largest difference over the reference's largest entry."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "centred_per_target": {"causal": False, "heads": "per_target", "kernel_sizes": (3,)},
    "audio_leads": {"leader": "vggish", "streams": ("logmel", "vggish"), "kernel_sizes": (2, 5)},
    "one_stream": {"streams": ("ir50",)},
}


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_agree_with_pytorch(case: str, precision: str) -> None:
    fields = CASES[case]
    model = build_model(
        "multiscale_tcn", {"va": 2}, channels=CHANNELS, hidden=10, dtype=precision, dropout=0.0,
        temporal_dropout=0.0, **fields,
    )  # fmt: skip
    names = fields.get("streams", tuple(WIDTHS))
    rng = np.random.default_rng(7)
    shape = (len(LENGTHS), WINDOW)
    mask = np.arange(WINDOW)[None] < np.array(LENGTHS)[:, None]
    # Padded frames hold numbers that would be seen if anything let them through.
    streams = {n: rng.normal(size=(*shape, WIDTHS[n])).astype(precision) for n in names}
    masks = dict.fromkeys(names, jnp.asarray(mask))
    roles = ("together", *names)
    weights = {
        role: rng.uniform(0.5, 1.5, size=(*shape, 2)).astype(precision) * mask[..., None]
        for role in roles
    }
    # Not the initialiser's values, where biases are zero.
    params = jax.tree.map(
        lambda leaf: rng.normal(scale=0.4, size=leaf.shape).astype(precision),
        jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), jax.random.key(0)),
    )["params"]

    def scalar(params: Any, streams: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs, aux = model.apply({"params": params}, streams, masks, train=True)
        predictions = {"together": outputs["va"]}
        predictions |= {name: branch["va"] for name, branch in aux["branches"].items()}
        return sum(jnp.sum(predictions[role] * weights[role]) for role in roles), predictions

    gradients, predictions = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(
        params, streams
    )

    reference = Reference(params)
    cut = {
        name: [
            torch.tensor(streams[name][b, :length], dtype=torch.float64, requires_grad=True)
            for b, length in enumerate(LENGTHS)
        ]
        for name in names
    }
    total, errors = 0.0, {}
    for b, length in enumerate(LENGTHS):
        together, alone = reference.window(
            {name: cut[name][b] for name in names},
            leader=fields.get("leader", "ir50"),
            kernels=fields.get("kernel_sizes", (3, 5, 7)),
            causal=fields.get("causal", True),
            heads=("head_va_valence", "head_va_arousal") if "heads" in fields else ("head_va",),
        )
        for role, expected in {"together": together, **alone}.items():
            total = total + torch.sum(expected * torch.tensor(weights[role][b, :length]))
            ours = predictions[role][b, :length]
            errors[f"{role}, window {b}"] = relative_error(ours, expected.detach())
    total.backward()

    grads = {path: leaf.grad.numpy() for path, leaf in reference.leaves.items()}
    assert grads.keys() == flat(gradients[0]).keys()
    for path, ours in flat(gradients[0]).items():
        errors[path] = relative_error(ours, grads[path])
    for name in names:
        ours = np.concatenate([gradients[1][name][b, :length] for b, length in enumerate(LENGTHS)])
        theirs = np.concatenate([x_TD.grad.numpy() for x_TD in cut[name]])
        errors[f"input {name}"] = relative_error(ours, theirs)
        np.testing.assert_array_equal(np.asarray(gradients[1][name])[~mask], 0.0)

    worst = max(errors, key=lambda key: errors[key])
    print(f"{case}: worst {worst} {errors[worst]:.2e}; forward {errors['together, window 0']:.2e}")
    assert errors[worst] <= TOLERANCES[precision], errors
