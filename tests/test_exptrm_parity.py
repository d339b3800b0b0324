"""ExpTrm against an independent PyTorch implementation, forward and gradients.

The reference is made of ``torch.nn`` modules, in float64, from the equations of the paper. It
knows no masks: every window is cut to its real frames, so agreement also shows that padding
does nothing. Only the rows around a window (the context) are zeros where they are padding.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.models import build_model
from tests.precisions import TOLERANCES
from tests.torch_encoder import attention_names, dense_names, encoder_names, load, relative_error

torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")

WIDTHS = {"vggface": 7, "compare_lld": 3, "eda": 2}
LENGTHS = (12, 7, 2)  # real frames of each window
WINDOW, ROWS = 12, 2
STACKED = (2 * ROWS + 1) * WIDTHS["compare_lld"] + 1
BEFORE = (0, 2, 1)  # real rows in the context before each window: the first begins its video
MODEL, HEADS, HIDDEN = 8, 2, 10


class Reference(torch.nn.Module):
    """One window at a time: stream -> (T, D) -> (T, 2)."""

    def __init__(self, names: tuple[str, ...], layers: int, norm: str, activation: str) -> None:
        super().__init__()
        widths = WIDTHS | {"compare_lld": STACKED}
        self.names = names
        self.projections = torch.nn.ModuleDict(
            {name: torch.nn.Linear(widths[name], MODEL) for name in names}
        )
        layer = torch.nn.TransformerEncoderLayer(
            MODEL, HEADS, HIDDEN, 0.0, activation, batch_first=True, norm_first=norm == "pre"
        )
        self.encoders = torch.nn.ModuleDict(
            {
                name: torch.nn.TransformerEncoder(
                    layer,
                    layers,
                    torch.nn.LayerNorm(MODEL) if norm == "pre" else None,
                    enable_nested_tensor=False,
                )
                for name in names
            }
        )
        pairs = [f"{query}_{source}" for query, source in itertools.permutations(names, 2)]
        self.cross = torch.nn.ModuleDict(
            {pair: torch.nn.MultiheadAttention(MODEL, HEADS, batch_first=True) for pair in pairs}
        )
        self.weights = torch.nn.ParameterDict({pair: torch.zeros(()) for pair in pairs})
        self.head = torch.nn.Linear(MODEL, 2)
        self.double()

    def forward(self, streams: dict[str, Any]) -> Any:
        encoded = {}
        for name in self.names:
            x_TD = streams[name]
            if name == "compare_lld":
                # (T, D, rows) -> rows after one another, and a zero.
                x_TD = x_TD.unfold(0, 2 * ROWS + 1, 1).transpose(1, 2).flatten(1)
                x_TD = torch.nn.functional.pad(x_TD, (0, 1))
            x_TD = self.projections[name](x_TD) + self.positions(len(x_TD))
            encoded[name] = self.encoders[name](x_TD[None])
        if len(encoded) == 1:
            return self.head(encoded[self.names[0]])[0]
        fused = 0.0
        for query, source in itertools.permutations(self.names, 2):
            attention = self.cross[f"{query}_{source}"]
            attended = attention(encoded[query], encoded[source], encoded[source])[0]
            fused = fused + self.weights[f"{query}_{source}"] * attended
        return self.head(fused)[0]

    @staticmethod
    def positions(length: int) -> Any:
        """Equations 5 and 6."""
        code = torch.zeros(length, MODEL, dtype=torch.float64)
        for pos in range(length):
            for i in range(MODEL // 2):
                angle = pos / 10000 ** (2 * i / MODEL)
                code[pos, 2 * i], code[pos, 2 * i + 1] = math.sin(angle), math.cos(angle)
        return code


def torch_names(params: Any) -> dict[str, np.ndarray]:
    """Returns parameters, or gradients, of our model under the names of the reference."""
    named: dict[str, np.ndarray] = {}
    for name, own in params.items():
        kind, _, rest = name.partition("_")
        if kind == "projection":
            named |= dense_names(own, f"projections.{rest}.")
        elif kind == "encoder":
            named |= encoder_names(own, f"encoders.{rest}.")
        elif kind == "cross":
            named |= attention_names(own, f"cross.{rest}.")
        elif kind == "weight":
            named[f"weights.{rest}"] = own
        else:
            assert name == "head_va"
            named |= dense_names(own["output"], "head.")
    return named


CASES: dict[str, dict[str, Any]] = {
    "bimodal": {"layers": 2},
    "visual_pre_norm": {"streams": ("vggface",), "norm": "pre", "activation": "gelu"},
    "audio_tanh": {"streams": ("compare_lld",), "head_activation": "tanh"},
    "three_streams_relu": {
        "streams": ("compare_lld", "vggface", "eda"),
        "head_activation": "relu",
    },
}


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_agree_with_pytorch(case: str, precision: str) -> None:
    fields = {"streams": ("vggface", "compare_lld"), "layers": 1} | CASES[case]
    names = fields["streams"]
    context = {"compare_lld": ROWS} if "compare_lld" in names else {}
    model = build_model(
        "exptrm", {"va": 2}, window=WINDOW, context=context, stacked_width=STACKED, width=MODEL,
        attention_heads=HEADS, hidden=HIDDEN, dtype=precision, dropout=0.0, **fields,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    row = np.arange(-ROWS, WINDOW + ROWS)[None]
    before, length = np.array(BEFORE)[:, None], np.array(LENGTHS)[:, None]
    # The first window has real rows after its last frame, the others reach their video's end.
    after = np.array([1, 0, 0])[:, None]
    real = {
        name: (row >= -before) & (row < length + after)
        if name in context
        else row[:, ROWS:-ROWS] < length
        for name in names
    }
    # Padded rows hold numbers that would be seen if anything let them through.
    streams = {n: rng.normal(size=(*real[n].shape, WIDTHS[n])).astype(precision) for n in names}
    frames = row[:, ROWS:-ROWS] < length
    # Of one sign: sums over frames that cancel would measure rounding, ours and PyTorch's.
    weights = rng.uniform(0.5, 1.5, size=(*frames.shape, 2)).astype(precision) * frames[..., None]
    shapes = jax.eval_shape(
        lambda key: model.init(key, streams, real, train=False), jax.random.key(0)
    )["params"]
    params = jax.tree.map(
        lambda leaf: rng.normal(scale=0.4, size=leaf.shape).astype(precision), shapes
    )

    def scalar(params: Any, streams: Any) -> tuple[jax.Array, jax.Array]:
        outputs, aux = model.apply({"params": params}, streams, real, train=False)
        assert aux == {"losses": {}}
        return jnp.sum(outputs["va"] * weights), outputs["va"]

    gradients, predictions = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(
        params, streams
    )

    reference = Reference(
        names, fields["layers"], fields.get("norm", "post"), fields.get("activation", "relu")
    )
    load(reference, torch_names(params))
    end = {"none": lambda y: y, "tanh": torch.tanh, "relu": torch.relu}
    inputs = {
        name: torch.tensor(np.where(real[name][..., None], streams[name], 0.0).astype(np.float64))
        for name in names
    }
    total, errors = torch.zeros((), dtype=torch.float64), {}
    for x in inputs.values():
        x.requires_grad_()
    for b, cut in enumerate(LENGTHS):
        window = {
            name: x[b, : cut + 2 * ROWS] if name in context else x[b, :cut]
            for name, x in inputs.items()
        }
        expected = end[fields.get("head_activation", "none")](reference(window))
        errors[f"window {b}"] = relative_error(predictions[b, :cut], expected.detach())
        total = total + torch.sum(expected * torch.tensor(weights[b, :cut]))
    total.backward()

    ours = torch_names(gradients[0])
    grads = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    # A scalar's gradient may be a small difference of large numbers: all scalars as one vector.
    for tree in (ours, grads):
        scalars = [tree.pop(name) for name in sorted(tree) if name.startswith("weights.")]
        tree |= {"weights": np.stack(scalars)} if scalars else {}
    for name, theirs in grads.items():
        errors[name] = relative_error(ours[name], theirs)
    for name in names:
        # The reference's gradient of a row that is padding is that of a zero we put there.
        theirs = inputs[name].grad.numpy() * real[name][..., None]
        errors[f"input {name}"] = relative_error(gradients[1][name], theirs)
        np.testing.assert_array_equal(np.asarray(gradients[1][name])[~real[name]], 0.0)
    worst = max(errors, key=lambda key: errors[key])
    print(f"{case}: worst {worst} {errors[worst]:.2e}; forward {errors['window 0']:.2e}")
    assert errors[worst] <= TOLERANCES[precision], errors
