"""RJCMA against an independent PyTorch implementation, forward and gradients.

The reference is written from the equations of arXiv:2403.13659 (and, for ``upstream``, from
the description of the authors' public code) in the paper's (d_m, K) layout and in float64. It
knows no masks: every window is cut to its real frames, so agreement also shows that padding
does nothing. Batch statistics are taken over the real frames of all windows.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.models import build_model
from tests.compiling import OPTIMISED
from tests.precisions import TOLERANCES

torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")
F = torch.nn.functional

WIDTHS = {"ir50": 12, "vggish": 5, "bert": 9}
CHANNELS = {"ir50": (8, 6), "vggish": (4, 4), "bert": (8, 6)}
LENGTHS = (24, 17, 6)  # real frames of each window
WINDOW = 24
# The published model, and steps of LSTMs, where rounding adds up most.
AS_USERS_COMPILE = ("eval_paper", "train_paper_bilstm")


class Reference:
    """Parameters as float64 leaves under their Flax paths, and the functions using them."""

    def __init__(self, variables: Any, *, train: bool) -> None:
        self.leaves = {
            path: torch.tensor(np.asarray(leaf, np.float64), requires_grad=True)
            for path, leaf in flat(variables["params"]).items()
        }
        self.running = {
            path: torch.tensor(np.asarray(leaf, np.float64))
            for path, leaf in flat(variables.get("batch_stats", {})).items()
        }
        self.train = train

    def dense(self, path: str, x: Any) -> Any:
        """Applies W x + b to features (..., D); there is no b before batch normalisation."""
        return F.linear(x, self.leaves[f"{path}/kernel"].T, self.leaves.get(f"{path}/bias"))

    def batch_norm(self, path: str, rows: Any) -> Any:
        return F.batch_norm(
            rows,
            self.running[f"{path}/mean"].clone(),
            self.running[f"{path}/var"].clone(),
            self.leaves[f"{path}/scale"],
            self.leaves[f"{path}/bias"],
            training=self.train,
            eps=1e-5,
        )

    def conv(self, path: str, x_DT: Any, dilation: int, causal: bool) -> Any:
        direction_OIK = self.leaves[f"{path}/direction"].permute(2, 1, 0)
        scale_O11 = self.leaves[f"{path}/scale"][:, None, None]
        kernel = torch._weight_norm(direction_OIK, scale_O11, 0)
        reach = (kernel.shape[-1] - 1) * dilation
        before = reach if causal else reach // 2
        x_DT = F.pad(x_DT, (before, reach - before))
        return F.conv1d(x_DT[None], kernel, self.leaves[f"{path}/bias"], dilation=dilation)[0]

    def tcn(self, path: str, x_DT: Any, channels: tuple[int, ...], causal: bool) -> Any:
        for i, width in enumerate(channels):
            y_DT = x_DT
            for j in range(2):
                y_DT = self.conv(f"{path}/block_{i}/conv_{j}", y_DT, 2**i, causal)
                y_DT = F.leaky_relu(y_DT, 0.01)
            if x_DT.shape[0] != width:
                x_DT = self.dense(f"{path}/block_{i}/residual", x_DT.T).T
            x_DT = F.leaky_relu(x_DT + y_DT, 0.01)
        return x_DT

    def lstm(self, path: str, x_DT: Any, channels: tuple[int, ...], causal: bool) -> Any:
        x_TD = x_DT.T
        for i, width in enumerate(channels):
            hidden = width if causal else width // 2
            layer = torch.nn.LSTM(x_TD.shape[1], hidden, bidirectional=not causal).double()
            weights = {}
            for side, suffix in (("forward", ""), ("backward", "_reverse"))[: 1 if causal else 2]:
                lstm = f"{path}/lstm_{i}/{side}"
                weights |= {
                    f"weight_ih_l0{suffix}": self.leaves[f"{lstm}_input/kernel"].T,
                    f"weight_hh_l0{suffix}": self.leaves[f"{lstm}_recurrent"].T,
                    f"bias_ih_l0{suffix}": self.leaves[f"{lstm}_input/bias"],
                    f"bias_hh_l0{suffix}": torch.zeros(4 * hidden, dtype=torch.float64),
                }
            x_TD = torch.func.functional_call(layer, weights, x_TD)[0]
        return x_TD.T

    def encode(self, kind: str, name: str, windows: list, channels: tuple, causal: bool) -> list:
        """Encodes one stream of every window, with batch normalisation over all their frames."""
        if kind == "none":
            return windows
        encoder = {"tcn": self.tcn, "lstm": self.lstm}[kind]
        encoded = [encoder(f"encoder_{name}", x_DT, channels, causal) for x_DT in windows]
        rows = self.batch_norm(f"norm_{name}", torch.cat(encoded, dim=1).T)
        return list(torch.split(rows.T, [x_DT.shape[1] for x_DT in windows], dim=1))

    def paper_block(self, path: str, streams: dict[str, Any]) -> dict[str, Any]:
        """Equations 1 to 10; W_c = raw / K and W_h = raw / sqrt(K)."""
        joint = torch.cat(list(streams.values()), dim=0)
        d, frames = joint.shape
        joint = self.dense(f"{path}/joint", joint.T).T
        attended = {}
        for name, x in streams.items():
            w_j = self.leaves[f"{path}/w_j_{name}"]
            w_c = self.leaves[f"{path}/w_c_{name}"][:frames, :frames] / WINDOW
            w_h = self.leaves[f"{path}/w_h_{name}"][:frames, :frames] / math.sqrt(WINDOW)
            correlation = torch.tanh(x.T @ w_j @ joint / math.sqrt(d))
            maps = torch.relu(x @ w_c @ correlation)
            attended[name] = maps @ w_h + x
        return attended

    def upstream_block(self, path: str, streams: dict[str, Any]) -> dict[str, Any]:
        """Applies a block of the public code: channel x channel scores, plain concatenation."""
        joint = torch.cat(list(streams.values()), dim=0)
        d, frames = joint.shape
        attended = {}
        for name, x in streams.items():
            w_k = self.leaves[f"{path}/w_k_{name}"][:frames, :frames]
            b_k = self.leaves[f"{path}/b_k_{name}"][:frames]
            key = F.linear(x, w_k.T, b_k)
            scores = torch.tanh(key @ joint.T / math.sqrt(d))
            value = self.dense(f"{path}/value_{name}", x.T)
            maps = torch.relu(torch.tanh(value @ scores))
            attended[name] = x + torch.relu(self.dense(f"{path}/update_{name}", maps)).T
        return attended

    def head(self, path: str, windows: list, variant: str) -> list:
        rows = self.dense(f"{path}/hidden", torch.cat(windows, dim=1).T)
        if variant == "upstream":
            rows = self.batch_norm(f"{path}/norm", rows)
        rows = self.dense(f"{path}/output", F.leaky_relu(rows, 0.01))
        if variant == "upstream":
            rows = torch.tanh(rows)
        return list(torch.split(rows, [x_DT.shape[1] for x_DT in windows]))

    def forward(
        self, streams: dict[str, list], *, variant: str, recursions: int, temporal: str,
        fused: str, causal: bool, heads: tuple[str, ...],
    ) -> list:  # fmt: skip
        """Returns predictions (T, C) of every window from its streams (D, T)."""
        encoded = {
            name: self.encode(temporal, name, windows, CHANNELS[name], causal)
            for name, windows in streams.items()
        }
        block = {"paper": self.paper_block, "upstream": self.upstream_block}[variant]
        joints = []
        for b in range(len(LENGTHS)):
            window = {name: windows[b] for name, windows in encoded.items()}
            for i in range(recursions):
                window = block(f"recursion_{i}", window)
            joints.append(torch.cat(list(window.values()), dim=0))
        joints = self.encode(fused, "fused", joints, (joints[0].shape[0],), causal)
        columns = [self.head(path, joints, variant) for path in heads]
        return [torch.cat(parts, dim=1) for parts in zip(*columns, strict=True)]


def flat(tree: Any) -> dict[str, Any]:
    """Returns a tree of dicts as path -> leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def relative_error(ours: Any, reference: Any, floor: float = 0.0) -> float:
    """Returns the largest difference over the reference's largest entry (at least ``floor``)."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.abs(ours - reference).max() / max(np.abs(reference).max(), floor))


PER_TARGET = ("head_va_valence", "head_va_arousal")
CASES: dict[str, dict[str, Any]] = {
    "eval_paper": {},
    "eval_paper_centred": {"causal": False, "recursions": 1},
    "eval_paper_lstm": {"temporal": "lstm", "fused_temporal": "lstm", "recursions": 1},
    "eval_upstream": {"variant": "upstream"},
    "eval_upstream_lstm": {"variant": "upstream", "temporal": "lstm", "recursions": 1},
    "train_paper": {},
    "train_paper_bilstm": {"temporal": "lstm", "causal": False, "heads": "joint", "recursions": 1},
    "train_paper_fusion_only": {"temporal": "none", "recursions": 4},
    "train_upstream": {"variant": "upstream"},
    "train_upstream_audio_visual": {"variant": "upstream", "streams": ("vggish", "ir50")},
}


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_agree_with_pytorch(case: str, precision: str) -> None:
    fields, train = CASES[case], case.startswith("train")
    model = build_model(
        "rjcma", {"va": 2}, window=WINDOW, channels=CHANNELS, head_width=10, dtype=precision,
        dropout=0.0, temporal_dropout=0.0, **fields,
    )  # fmt: skip
    names = fields.get("streams", ("ir50", "vggish", "bert"))
    rng = np.random.default_rng(7)
    shape = (len(LENGTHS), WINDOW)
    mask = np.arange(WINDOW)[None] < np.array(LENGTHS)[:, None]
    # Padded frames hold numbers that would be seen if anything let them through.
    streams = {n: rng.normal(size=(*shape, WIDTHS[n])).astype(precision) for n in names}
    masks = dict.fromkeys(names, jnp.asarray(mask))
    # Of one sign: sums over frames that cancel would measure rounding, ours and PyTorch's.
    weights = rng.uniform(0.5, 1.5, size=(*shape, 2)).astype(precision) * mask[..., None]

    # Not the initialiser's values, where a fresh block is the identity and biases are zero.
    variables = jax.tree.map(
        lambda leaf: rng.normal(scale=0.25, size=leaf.shape).astype(precision),
        jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), jax.random.key(0)),
    )
    variables["batch_stats"] = jax.tree.map(np.abs, variables.get("batch_stats", {}))

    def scalar(params: Any, streams: Any) -> tuple[jax.Array, jax.Array]:
        (outputs, _), _ = model.apply(
            {**variables, "params": params}, streams, masks, train=train, mutable=["batch_stats"]
        )
        return jnp.sum(outputs["va"] * weights), outputs["va"]

    gradient = jax.grad(scalar, argnums=(0, 1), has_aux=True)
    options = OPTIMISED if case in AS_USERS_COMPILE else {}
    gradients, predictions = jax.jit(gradient, compiler_options=options)(
        variables["params"], streams
    )

    reference = Reference(variables, train=train)
    cut = {
        name: [
            torch.tensor(streams[name][b, :length].T, dtype=torch.float64, requires_grad=True)
            for b, length in enumerate(LENGTHS)
        ]
        for name in names
    }
    expected = reference.forward(
        cut,
        variant=fields.get("variant", "paper"),
        recursions=fields.get("recursions", 3 if fields.get("variant") is None else 2),
        temporal=fields.get("temporal", "tcn"),
        fused=fields.get("fused_temporal", "none"),
        causal=fields.get("causal", True),
        heads=("head_va",) if fields.get("heads") == "joint" else PER_TARGET,
    )
    total = sum(
        torch.sum(expected[b] * torch.tensor(weights[b, :length]))
        for b, length in enumerate(LENGTHS)
    )
    total.backward()

    errors = {
        f"window {b}": relative_error(predictions[b, :length], expected[b].detach())
        for b, length in enumerate(LENGTHS)
    }
    grads = {path: leaf.grad.numpy() for path, leaf in reference.leaves.items()}
    assert grads.keys() == flat(gradients[0]).keys()
    # In training, batch normalisation takes shifts away: the gradients of some biases are
    # zero, or small differences of large numbers, so they are judged beside the largest.
    floor = 1e-2 * max(np.abs(g).max() for g in grads.values()) if train else 0.0
    for path, ours in flat(gradients[0]).items():
        errors[path] = relative_error(ours, grads[path], floor)
    for name in names:
        ours = np.concatenate([gradients[1][name][b, :length] for b, length in enumerate(LENGTHS)])
        theirs = np.concatenate([x_DT.grad.numpy().T for x_DT in cut[name]])
        errors[f"input {name}"] = relative_error(ours, theirs)
        padded = np.asarray(gradients[1][name])[~mask]
        np.testing.assert_array_equal(padded, 0.0)

    worst = max(errors, key=lambda key: errors[key])
    print(f"{case}: worst {worst} {errors[worst]:.2e}; forward {errors['window 0']:.2e}")
    assert errors[worst] <= TOLERANCES[precision], errors
