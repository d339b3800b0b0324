"""LFAN against an independent PyTorch implementation, forward and gradients.

The reference follows the public code of leader-follower attention: modalities stacked frame by
frame, PyTorch's attention over them, value residual, heads before streams in the projection. It
computes in float64 and knows no masks: every window is cut to its real frames. Batch statistics
are taken over the real frames of all windows.
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

from tests import test_multiscale_parity as pattern  # noqa: E402

F = torch.nn.functional

WIDTHS = {"ir50": 12, "bert": 9, "vggish": 5}
CHANNELS = {"ir50": (8, 6), "bert": (8,), "vggish": (5,)}
LENGTHS = (24, 17, 6)  # real frames of each window
WINDOW = 24
MODAL_WIDTH = 6


class Reference(pattern.Reference):
    """The network over lists of windows (T, D), one list for each stream."""

    def __init__(self, variables: Any, *, train: bool) -> None:
        super().__init__(variables["params"])
        self.running = {
            path: torch.tensor(np.asarray(leaf, np.float64))
            for path, leaf in pattern.flat(variables.get("batch_stats", {})).items()
        }
        self.train = train

    def encode(self, name: str, windows: list, causal: bool, batch_norm: bool) -> Any:
        """Returns all frames of all windows of a stream, (N, D)."""
        encoded = [self.tcn(f"encoder_{name}", x_TD, CHANNELS[name], causal) for x_TD in windows]
        rows_ND = torch.cat(encoded)
        if not batch_norm:
            return rows_ND
        return F.batch_norm(
            rows_ND,
            self.running[f"norm_{name}/mean"].clone(),
            self.running[f"norm_{name}/var"].clone(),
            self.leaves[f"norm_{name}/scale"],
            self.leaves[f"norm_{name}/bias"],
            training=self.train,
            eps=1e-5,
        )

    def forward(
        self, streams: dict[str, list], *, leader: str, heads: int, causal: bool,
        batch_norm: bool, output: str,
    ) -> Any:  # fmt: skip
        """Returns predictions of all frames of all windows, (N, C)."""
        features = {
            name: self.encode(name, windows, causal, batch_norm)
            for name, windows in streams.items()
        }
        queries, keys, values = [], [], []
        for name, x_ND in features.items():
            qkv = self.dense(f"attention/qkv_{name}", x_ND)
            qkv = qkv.reshape(len(x_ND), heads, 3 * MODAL_WIDTH // heads)
            for part, whole in zip(qkv.chunk(3, dim=-1), (queries, keys, values), strict=True):
                whole.append(part)
        query, key, value = (torch.stack(part, dim=2) for part in (queries, keys, values))
        attended = F.scaled_dot_product_attention(query, key, value) + value  # (N, heads, S, d)
        follower = self.dense("attention/output", attended.flatten(start_dim=1))
        follower = F.layer_norm(
            follower,
            follower.shape[1:],
            self.leaves["attention/norm/scale"],
            self.leaves["attention/norm/bias"],
        )
        joint = torch.cat([features[leader], follower], dim=1)
        rows = self.dense("head_va/output", joint)
        return torch.tanh(rows) if output == "tanh" else rows


CASES: dict[str, dict[str, Any]] = {
    "eval_code": {},
    "eval_audio_visual_bert_leads": {
        "streams": ("ir50", "bert"), "leader": "bert", "causal": False, "kernel_size": 3,
    },
    "train_code": {},
    "train_abaw3": {"batch_norm": False, "output": "linear", "attention_heads": 3},
    "train_one_stream": {"streams": ("vggish",), "leader": "vggish", "attention_heads": 1},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_agree_with_pytorch(case: str, precision: str) -> None:
    fields, train = CASES[case], case.startswith("train")
    model = build_model(
        "lfan", {"va": 2}, channels=CHANNELS, modal_width=MODAL_WIDTH, dtype=precision, dropout=0.0,
        temporal_dropout=0.0, **fields,
    )  # fmt: skip
    names = fields.get("streams", tuple(WIDTHS))
    rng = np.random.default_rng(7)
    shape = (len(LENGTHS), WINDOW)
    mask = np.arange(WINDOW)[None] < np.array(LENGTHS)[:, None]
    # Padded frames hold numbers that would be seen if anything let them through.
    streams = {n: rng.normal(size=(*shape, WIDTHS[n])).astype(precision) for n in names}
    masks = dict.fromkeys(names, jnp.asarray(mask))
    # Of one sign: sums over frames that cancel would measure rounding, ours and PyTorch's.
    weights = rng.uniform(0.5, 1.5, size=(*shape, 2)).astype(precision) * mask[..., None]
    # Not the initialiser's values, where biases are zero.
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

    gradients, predictions = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(
        variables["params"], streams
    )

    reference = Reference(variables, train=train)
    cut = {
        name: [
            torch.tensor(streams[name][b, :length], dtype=torch.float64, requires_grad=True)
            for b, length in enumerate(LENGTHS)
        ]
        for name in names
    }
    expected = reference.forward(
        cut,
        leader=fields.get("leader", "ir50"),
        heads=fields.get("attention_heads", 2),
        causal=fields.get("causal", True),
        batch_norm=fields.get("batch_norm", True),
        output=fields.get("output", "tanh"),
    )
    torch.sum(expected * torch.tensor(weights[mask])).backward()

    errors = {"forward": pattern.relative_error(predictions[mask], expected.detach())}
    grads = {path: leaf.grad.numpy() for path, leaf in reference.leaves.items()}
    ours = pattern.flat(gradients[0])
    assert grads.keys() == ours.keys()
    # In training, batch normalisation takes shifts away: the gradients of some biases are
    # zero, or small differences of large numbers, so they are judged beside the largest.
    floor = 1e-2 * max(np.abs(g).max() for g in grads.values()) if train else 0.0
    for path, theirs in grads.items():
        largest = max(np.abs(theirs).max(), floor)
        # With one stream the softmax is 1 whatever queries and keys are.
        errors[path] = np.abs(np.asarray(ours[path], np.float64) - theirs).max() / largest
    for name in names:
        theirs = np.concatenate([x_TD.grad.numpy() for x_TD in cut[name]])
        errors[f"input {name}"] = pattern.relative_error(gradients[1][name][mask], theirs)
        np.testing.assert_array_equal(np.asarray(gradients[1][name])[~mask], 0.0)

    worst = max(errors, key=lambda key: errors[key])
    print(f"{case}: worst {worst} {errors[worst]:.2e}; forward {errors['forward']:.2e}")
    assert errors[worst] <= TOLERANCES[precision], errors
