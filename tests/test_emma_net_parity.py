"""EMMA-Net against an independent PyTorch implementation: outputs, losses and gradients.

The reference is written from the paper's equations, in float64. It knows no masks: every window
is cut to its real ticks and rows, so agreement also shows that padding does nothing.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.models import build_model
from tests.emma_nets import losses_of
from tests.precisions import TOLERANCES

torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")

WIDTHS = {"fan": 7, "deepspectrum": 9, "openpose": 5}
TICKS = {"fan": 1, "deepspectrum": 3, "openpose": 2}
LENGTHS = (12, 7, 1)  # real ticks of each window
WINDOW = 12
FAST = {"xla_backend_optimization_level": 0}  # compiling is most of the time


class Reference:
    """Parameters as float64 leaves under their Flax paths, and one window's forward."""

    def __init__(self, params: Any, fields: dict[str, Any]) -> None:
        self.leaves = {
            path: torch.tensor(np.asarray(leaf, np.float64), requires_grad=True)
            for path, leaf in flat(params).items()
        }
        self.fields = fields
        self.causal = fields.get("causal", False)
        self.anchor = fields.get("anchor", "fan")

    def dense(self, path: str, x: Any) -> Any:
        y = x @ self.leaves[f"{path}/kernel"]
        return y + self.leaves[f"{path}/bias"] if f"{path}/bias" in self.leaves else y

    def gru(self, name: str, x_SD: Any) -> Any:
        """Encodes the anchor stream, in both directions unless causal."""
        everywhere = self.fields.get("context_bidirectional", False)
        both = not self.causal and (name == self.anchor or everywhere)
        sides = (("forward", ""), ("backward", "_reverse")) if both else (("forward", ""),)
        for i in range(self.fields.get("layers", 1)):
            path = f"encoder_{name}/gru_{i}"
            hidden = self.leaves[f"{path}/forward_recurrent"].shape[0]
            layer = torch.nn.GRU(x_SD.shape[1], hidden, bidirectional=both).double()
            weights = {}
            for side, suffix in sides:
                none = torch.zeros(2 * hidden, dtype=torch.float64)
                second = self.leaves[f"{path}/{side}_recurrent_bias"]
                weights |= {
                    f"weight_ih_l0{suffix}": self.leaves[f"{path}/{side}_input/kernel"].T,
                    f"weight_hh_l0{suffix}": self.leaves[f"{path}/{side}_recurrent"].T,
                    f"bias_ih_l0{suffix}": self.leaves[f"{path}/{side}_input/bias"],
                    f"bias_hh_l0{suffix}": torch.cat((none, second)),
                }
            x_SD = torch.func.functional_call(layer, weights, x_SD)[0]
        return x_SD

    def row_at(self, name: str, rows_SH: Any, t: int) -> Any:
        """Returns the row an anchor stands on; one that has ended, if causal."""
        ticks = TICKS[name] if self.fields.get("rates", True) else 1
        s = (t + 1) // ticks - 1 if self.causal else t // ticks
        return rows_SH[s] if s >= 0 else torch.zeros_like(rows_SH[0])

    def context(self, name: str, rows_SH: Any, scores_S: Any, t: int) -> Any:
        """Computes the softmax over the rows that anchor t sees, and their weighted sum."""
        ticks = TICKS[name] if self.fields.get("rates", True) else 1
        seen = [s for s in range(len(rows_SH)) if not self.causal or (s + 1) * ticks <= t + 1]
        if not seen:
            return torch.zeros_like(rows_SH[0])
        return torch.softmax(scores_S[seen], dim=0) @ rows_SH[seen]

    def attention(self, f_c: Any, rows: dict[str, Any], t: int) -> Any:
        """Equations 4 to 6."""
        parts = [f_c]
        for name, rows_SH in rows.items():
            projected_SK = self.dense(f"fusion/w_q_{name}", rows_SH)
            asked_K = self.dense(f"fusion/w_k_{name}", f_c)
            scores_S = projected_SK @ asked_K / math.sqrt(len(asked_K))
            if self.fields.get("attention_locality"):
                ticks = TICKS[name] if self.fields.get("rates", True) else 1
                middle = [s * ticks + (ticks - 1) / 2 for s in range(len(rows_SH))]
                middle_S = torch.tensor(middle, dtype=torch.float64)
                rate = self.leaves[f"fusion/locality_{name}"]
                scores_S = scores_S - rate * (t - middle_S).abs()
            parts.append(self.context(name, rows_SH, scores_S, t))
        return torch.cat(parts)

    def bilinear(self, f_c: Any, rows: dict[str, Any], t: int) -> Any:
        """Equation 11."""
        total: Any = 0.0
        for name, rows_SH in rows.items():
            scores_S = f_c @ self.leaves[f"fusion/w_{name}/kernel"] @ rows_SH.T
            total = total + self.context(name, rows_SH, scores_S, t)
        return torch.cat((f_c, total))

    def concat(self, f_c: Any, rows: dict[str, Any], t: int) -> Any:
        return torch.cat((f_c, *(self.row_at(name, x, t) for name, x in rows.items())))

    def additive(self, f_c: Any, rows: dict[str, Any], t: int) -> Any:
        weights = torch.softmax(self.leaves["fusion/logits"], dim=0)
        terms = [w * self.row_at(n, x, t) for w, (n, x) in zip(weights, rows.items(), strict=True)]
        return torch.cat((f_c, sum(terms[1:], terms[0])))

    def gating(self, f_c: Any, rows: dict[str, Any], t: int) -> Any:
        everything = self.concat(f_c, rows, t)
        parts = [f_c]
        for name, rows_SH in rows.items():
            gate = torch.sigmoid(self.dense(f"fusion/gate_{name}", everything))
            parts.append(gate * self.row_at(name, rows_SH, t))
        return torch.cat(parts)

    def current_face(self, f_c: Any, rows: dict[str, Any], t: int) -> Any:
        return f_c

    def video_only(self, f_c: Any, rows: dict[str, Any], t: int) -> Any:
        return rows[self.anchor][t]

    def window(self, streams: dict[str, Any], tasks: dict[str, int]) -> tuple[Any, Any, Any]:
        """Task -> (T, C) outputs; per stream squared errors; L1 changes of probabilities."""
        fusion = self.fields.get("fusion", "attention")
        read = {"current_face": (), "video_only": (self.anchor,)}.get(fusion, tuple(streams))
        rows = {name: self.gru(name, streams[name]) for name in read}
        steps = len(streams[self.anchor])
        z_TZ = torch.stack(
            [getattr(self, fusion)(streams[self.anchor][t], rows, t) for t in range(steps)]
        )
        outputs, changes = {}, []
        for task in tasks:
            hidden = self.dense(f"head_{task}/hidden", z_TZ)
            hidden = torch.nn.functional.leaky_relu(hidden, 0.01)
            outputs[task] = self.dense(f"head_{task}/output", hidden)
            decode = {"expr": lambda y: torch.softmax(y, dim=1), "au": torch.sigmoid}
            values = decode.get(task, lambda y: y)(outputs[task])
            changes.append((values[1:] - values[:-1]).abs().sum(dim=1))
        errors = {}
        for name, rows_SH in rows.items():
            target_TH = torch.stack([self.row_at(name, rows_SH, t) for t in range(steps)])
            if f"reconstruction_{name}/kernel" in self.leaves:
                error_TH = self.dense(f"reconstruction_{name}", z_TZ) - target_TH.detach()
                # An anchor before the first ended row has nothing to reconstruct.
                ticks = TICKS[name] if self.fields.get("rates", True) else 1
                errors[name] = error_TH[ticks - 1 if self.causal else 0 :] ** 2
        return outputs, errors, changes


def flat(tree: Any) -> dict[str, Any]:
    """Returns a tree of dicts as path -> leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def relative_error(ours: Any, reference: Any) -> float:
    """Returns the largest difference over the reference's largest entry."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


LOSSES = {"reconstruction_weight": 0.7, "smoothness_weight": 1.3}
# One layer and two streams unless a case says more: compiling is what these tests cost.
CASES: dict[str, dict[str, Any]] = {
    "attention": {"layers": 2, "streams": tuple(WIDTHS)},
    "attention_losses": LOSSES | {"outputs": {"expr": 8, "au": 3, "va": 2}},
    "attention_causal_losses": LOSSES | {"causal": True},
    "attention_bias_one_clock": {"attention_bias": True, "rates": False},
    "attention_locality_both_ways": {"attention_locality": True, "context_bidirectional": True},
    "attention_other_anchor": {"anchor": "deepspectrum", "rates": False} | LOSSES,
    "bilinear": {"fusion": "bilinear"} | LOSSES,
    "concat": {"fusion": "concat"} | LOSSES,
    "concat_causal": {"fusion": "concat", "causal": True} | LOSSES,
    "additive": {"fusion": "additive", "streams": tuple(WIDTHS)},
    "additive_causal": {"fusion": "additive", "causal": True},
    "gating": {"fusion": "gating"} | LOSSES,
    "current_face": {"fusion": "current_face"} | LOSSES,
    "video_only": {"fusion": "video_only"} | LOSSES,
}


@pytest.mark.parametrize("case", CASES)
def test_forward_losses_and_gradients_agree_with_pytorch(case: str, precision: str) -> None:
    fields = dict(CASES[case])
    tasks = fields.pop("outputs", {"expr": 8})
    rates = fields.get("rates", True)
    ticks = TICKS if rates else dict.fromkeys(TICKS, 1)
    names = fields.setdefault("streams", ("fan", "deepspectrum"))
    fields.setdefault("layers", 1)
    unequal = fields.get("fusion") in ("concat", "gating", None)
    model = build_model(
        "emma_net", tasks, window=WINDOW, ticks=ticks, width=6, attention_width=5, head_width=8,
        dtype=precision, dropout=0.0, temporal_dropout=0.0,
        widths={"deepspectrum": 4} if unequal else {},
        **({"reconstruction_weight": 0.0, "smoothness_weight": 0.0}
           | {key: value for key, value in fields.items() if key != "rates"}),
    )  # fmt: skip
    rng = np.random.default_rng(7)
    batch = len(LENGTHS)
    # A row is real if one of its ticks is.
    lengths = {name: [-(-length // ticks[name]) for length in LENGTHS] for name in names}
    streams, masks = {}, {}
    for name in names:
        rows = WINDOW // ticks[name]
        # Padded rows hold numbers that would be seen if anything let them through.
        streams[name] = rng.normal(size=(batch, rows, WIDTHS[name])).astype(precision)
        masks[name] = np.arange(rows)[None] < np.array(lengths[name])[:, None]
    real_BT = np.arange(WINDOW)[None] < np.array(LENGTHS)[:, None]
    # Of one sign: sums over frames that cancel would measure rounding, ours and PyTorch's.
    weights = {
        task: rng.uniform(0.5, 1.5, (batch, WINDOW, width)).astype(precision) * real_BT[..., None]
        for task, width in tasks.items()
    }
    variables = jax.tree.map(
        lambda leaf: rng.normal(scale=0.4, size=leaf.shape).astype(precision),
        jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), jax.random.key(0)),
    )

    def scalar(params: Any, streams: Any) -> tuple[jax.Array, Any]:
        outputs, aux = model.apply({"params": params}, streams, masks, train=True)
        total = sum(jnp.sum(outputs[task] * weights[task]) for task in tasks)
        losses = losses_of(aux)
        return total + sum(losses.values()), (outputs, losses)

    run = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True), compiler_options=FAST)
    gradients, (predictions, losses) = run(variables["params"], streams)

    reference = Reference(variables["params"], fields)
    cut = {
        name: [
            torch.tensor(streams[name][b, :n], dtype=torch.float64, requires_grad=True)
            for b, n in enumerate(lengths[name])
        ]
        for name in names
    }
    total: Any = 0.0
    errors, squares, changes = {}, {}, [[] for _ in tasks]
    for b, length in enumerate(LENGTHS):
        window = {name: rows[b] for name, rows in cut.items()}
        expected, window_squares, window_changes = reference.window(window, tasks)
        for task in tasks:
            errors[f"{task} {b}"] = relative_error(
                predictions[task][b, :length], expected[task].detach()
            )
            total = total + torch.sum(expected[task] * torch.tensor(weights[task][b, :length]))
        for name, square_TH in window_squares.items():
            squares.setdefault(name, []).append(square_TH)
        for pooled, change in zip(changes, window_changes, strict=True):
            pooled.append(change)
    expected_losses = {}
    if squares:
        means = [torch.cat(parts).mean() for parts in squares.values()]
        expected_losses["reconstruction"] = LOSSES["reconstruction_weight"] * sum(means)
    if fields.get("smoothness_weight"):
        means = [torch.cat(parts).mean() for parts in changes]
        expected_losses["smoothness"] = LOSSES["smoothness_weight"] * sum(means)
    assert losses.keys() == expected_losses.keys()
    for name, value in expected_losses.items():
        errors[name] = relative_error(losses[name], value.detach())
        total = total + value
    total.backward()

    ours, theirs = flat(gradients[0]), reference.leaves
    assert ours.keys() == theirs.keys()
    for path, gradient in ours.items():
        errors[path] = relative_error(gradient, theirs[path].grad)
    for name in names:
        gradient = np.asarray(gradients[1][name])
        np.testing.assert_array_equal(gradient[~masks[name]], 0.0)
        # None where nothing was read: other streams than the fusion's, rows that come too late.
        rows = [torch.zeros_like(x_SD) if x_SD.grad is None else x_SD.grad for x_SD in cut[name]]
        expected_rows = torch.cat(rows).numpy()
        if not np.any(expected_rows):
            np.testing.assert_array_equal(gradient, 0.0)
            continue
        errors[f"input {name}"] = relative_error(gradient[masks[name]], expected_rows)

    worst = max(errors, key=lambda key: errors[key])
    print(f"{case}: worst {worst} {errors[worst]:.2e}")
    assert errors[worst] <= TOLERANCES[precision], errors
