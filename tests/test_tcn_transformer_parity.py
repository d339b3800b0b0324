"""TCN-Transformer against an independent PyTorch model, forward and gradients.

The reference is built from ``torch.nn`` (weight-normalised Conv1d, PReLU, TransformerEncoder,
BatchNorm1d) after section 3.5 of arXiv:2303.08356 and the description of the authors' public
code, in float64. It knows no masks: every window is cut to its real frames, so agreement also
shows that padding does nothing. Batch statistics are taken over the real frames of all windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.models import build_model
from tests.precisions import TOLERANCES

torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")
nn = torch.nn

WIDTHS = {"eff": 9, "affectnet8": 5, "wav2vec2_emotion": 6}
CHANNELS = {"eff": (10, 8), "affectnet8": (4, 4)}
THREE_BLOCKS = {"eff": (10, 8, 8), "affectnet8": (6, 5, 4), "wav2vec2_emotion": (4, 4, 4)}
LENGTHS = (24, 17, 6)  # real frames of each window
WINDOW = 24
HEADS, FEED_FORWARD, HEAD_WIDTH = 4, 14, 10
ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "prelu": nn.PReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


class Conv(nn.Module):
    """Conv1d under weight normalisation, zeros before (and, if centred, after) the window."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, causal: bool) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(inputs, outputs, kernel, dilation=dilation), dim=0
        )
        reach = (kernel - 1) * dilation
        self.pad = (reach, 0) if causal else (reach // 2, reach - reach // 2)

    def forward(self, x_1DT: Any) -> Any:
        return self.conv(nn.functional.pad(x_1DT, self.pad))


class Block(nn.Module):
    """Two convolutions, each with an activation, 1x1 residual, activation after the sum."""

    def __init__(
        self, inputs: int, outputs: int, i: int, kernel: int, causal: bool, act: str
    ) -> None:
        super().__init__()
        self.conv_0 = Conv(inputs, outputs, kernel, 2**i, causal)
        self.conv_1 = Conv(outputs, outputs, kernel, 2**i, causal)
        self.residual = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.activation_0, self.activation_1, self.activation_sum = (
            ACTIVATIONS[act]() for _ in range(3)
        )

    def forward(self, x_1DT: Any) -> Any:
        y_1DT = self.activation_0(self.conv_0(x_1DT))
        y_1DT = self.activation_1(self.conv_1(y_1DT))
        return self.activation_sum(self.residual(x_1DT) + y_1DT)


class Head(nn.Module):
    def __init__(self, inputs: int, outputs: int, linear: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, HEAD_WIDTH, bias=False)
        self.norm = nn.BatchNorm1d(HEAD_WIDTH)
        self.activation = nn.Identity() if linear else nn.LeakyReLU(0.01)
        self.output = nn.Linear(HEAD_WIDTH, outputs)

    def forward(self, rows_ND: Any) -> Any:
        return self.output(self.activation(self.norm(self.hidden(rows_ND))))


class Reference(nn.Module):
    def __init__(
        self, streams: tuple[str, ...], heads: dict[str, dict[str, int]], *, kernel: int,
        causal: bool, act: str, channels: dict[str, tuple[int, ...]], width: int, layers: int,
        pre: bool, linear: bool, positions: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.streams, self.tasks = streams, heads
        self.positions, self.layers = positions, layers
        total = 0
        for name in streams:
            sizes = (WIDTHS[name], *channels[name])
            blocks = {
                f"block_{i}": Block(sizes[i], sizes[i + 1], i, kernel, causal, act)
                for i in range(len(channels[name]))
            }
            self.add_module(f"tcn_{name}", nn.ModuleDict(blocks))
            total += sizes[-1]
        self.projection = nn.Linear(total, width) if width else nn.Identity()
        size = width or total
        layer = nn.TransformerEncoderLayer(
            size, HEADS, FEED_FORWARD, dropout=0.0, batch_first=True, norm_first=pre
        )
        final = nn.LayerNorm(size) if pre else None
        self.transformer = nn.TransformerEncoder(layer, layers, final, enable_nested_tensor=False)
        for columns in heads.values():
            for name, count in columns.items():
                self.add_module(f"head_{name}", Head(size, count, linear))

    def forward(self, windows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """Returns predictions (T, C) of every window from its streams (T, D)."""
        encoded = []
        for window in windows:
            parts = []
            for name in self.streams:
                x_1DT = window[name].T[None]
                for block in self.get_submodule(f"tcn_{name}").values():
                    x_1DT = block(x_1DT)
                parts.append(x_1DT)
            x_1TD = self.projection(torch.cat(parts, dim=1).transpose(1, 2))
            if self.positions:
                place = torch.arange(x_1TD.shape[1], dtype=torch.float64)[:, None]
                i = torch.arange(x_1TD.shape[2], dtype=torch.float64)
                angle = place / 10000 ** ((i - i % 2) / len(i))
                x_1TD = x_1TD + torch.where(i % 2 == 0, torch.sin(angle), torch.cos(angle))
            encoded.append((self.transformer(x_1TD) if self.layers else x_1TD)[0])
        rows = torch.cat(encoded)
        return {
            task: list(
                torch.split(
                    torch.cat([self.get_submodule(f"head_{n}")(rows) for n in columns], dim=1),
                    [len(x_TD) for x_TD in encoded],
                )
            )
            for task, columns in self.tasks.items()
        }


# Last parts of a path in our tree -> last parts in PyTorch's, and how to transpose.
Layout = Callable[[np.ndarray], np.ndarray]
KEEP: Layout = lambda a: a  # noqa: E731
FLIP: Layout = lambda a: a.T  # noqa: E731
CONV: Layout = lambda a: a.transpose(2, 1, 0)  # noqa: E731  (k, in, out) and (out, in, k)
NAMES: dict[str, tuple[str, Layout, Layout]] = {
    "direction": ("conv.parametrizations.weight.original1", CONV, CONV),
    "scale": ("conv.parametrizations.weight.original0", lambda a: a[:, None, None], np.ravel),
    "slope": ("weight", np.atleast_1d, np.squeeze),
    "kernel": ("weight", FLIP, FLIP),
}
LAYER_NAMES = {
    "attention_norm": "norm1", "feed_norm": "norm2", "feed_hidden": "linear1",
    "feed_output": "linear2", "final_norm": "norm",
}  # fmt: skip


def torch_place(path: str) -> tuple[str, Layout, Layout, int | None]:
    """PyTorch's parameter, the layouts to and from it, and which third of a packed one."""
    *parts, leaf = path.split("/")
    name, to, back = NAMES.get(leaf, (leaf, KEEP, KEEP))
    third = None
    if "norm" in parts[-1]:
        name, to, back = {"scale": "weight", "bias": "bias"}[leaf], KEEP, KEEP
    elif parts[-1].startswith("conv_") and leaf == "bias":
        name = "conv.bias"
    elif parts[-1] == "residual" and leaf == "kernel":
        to, back = (lambda a: a.T[:, :, None]), (lambda a: a[:, :, 0].T)
    if "attention" in parts and parts[-1] == "output":
        parts = [*parts[:-2], "self_attn", "out_proj"]
    elif "attention" in parts:
        third = ("query", "key", "value").index(parts[-1])
        parts, name = [*parts[:-2], "self_attn"], f"in_proj_{name}"
    parts = [LAYER_NAMES.get(part, part) for part in parts]
    if parts[0] == "transformer" and parts[1].startswith("layer_"):
        parts[1] = f"layers.{parts[1].removeprefix('layer_')}"
    if parts[0].startswith("head_"):
        parts = [part.replace("norm1", "norm") for part in parts]
    return ".".join([*parts, name]), to, back, third


def pick(array: Any, third: int | None) -> Any:
    return array if third is None else array[third * len(array) // 3 :][: len(array) // 3]


def flat(tree: Any) -> dict[str, Any]:
    """Returns a tree of dicts as path -> leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def load(reference: Reference, variables: Any) -> None:
    """Our parameters and running statistics into PyTorch's; every one of them, or an error."""
    theirs, written = dict(reference.named_parameters()), 0
    with torch.no_grad():
        for path, leaf in flat(variables["params"]).items():
            name, to, _, third = torch_place(path)
            value = torch.tensor(to(np.asarray(leaf, np.float64)))
            target = pick(theirs[name], third)
            assert target.shape == value.shape, (path, name)
            target.copy_(value)
            written += value.numel()
        for path, leaf in flat(variables.get("batch_stats", {})).items():
            *parts, statistic = path.split("/")
            buffer = reference.get_buffer(".".join([*parts, f"running_{statistic}"]))
            buffer.copy_(torch.tensor(leaf))
    assert written == sum(p.numel() for p in theirs.values())


def relative_error(ours: Any, reference: Any, floor: float = 0.0) -> float:
    """Returns the largest difference over the reference's largest entry (at least ``floor``)."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.abs(ours - reference).max() / max(np.abs(reference).max(), floor))


VA, EXPR, AU = ({"va": 2}, {"expr": 8}, {"au": 12})
PAPER = {"variant": "paper"}
UPSTREAM = {"variant": "upstream", "width": 12}
THREE = {"streams": tuple(WIDTHS), "channels": THREE_BLOCKS}
CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "eval_paper_va": (PAPER | THREE, VA),
    "eval_paper_deep": (PAPER | {"layers": 4, "streams": ("eff",)}, EXPR),
    "eval_paper_centred_pre_norm": (
        PAPER | {"causal": False, "norm": "pre", "positions": "sinusoidal", "kernel_size": 3},
        AU,
    ),
    "eval_upstream_all": (UPSTREAM, VA | EXPR | AU),
    "train_paper_all": (PAPER | {"layers": 1}, VA | EXPR | AU),
    "train_upstream_va": (UPSTREAM | {"layers": 1}, VA),
    "train_upstream_without_tcn": (UPSTREAM | {"channels": dict.fromkeys(WIDTHS, ())}, AU),
    "train_paper_without_transformer": (PAPER | {"layers": 0, "activation": "gelu"}, EXPR),
}


def well_conditioned(path: tuple[Any, ...], leaf: Any, rng: np.random.Generator) -> np.ndarray:
    """Returns a random value that keeps signals of order one; none is the initialiser's.

    Otherwise the frames of a window come out almost alike, and batch normalisation measures the
    rounding of their differences.
    """
    name, drawn = path[-1].key, rng.normal(size=leaf.shape)
    mean = {"scale": 1.0, "var": 1.0, "slope": 0.25}.get(name, 0.0)
    spread = {"kernel": leaf.shape[0] ** -0.5 if leaf.shape else 0.0, "slope": 0.1}.get(name, 0.3)
    value = np.asarray(mean + spread * drawn)
    return np.asarray(np.abs(value) if name == "var" else value)


def head_names(variant: str, outputs: dict[str, int]) -> dict[str, dict[str, int]]:
    """Returns the heads of the public code: valence, arousal, and one for each other task."""
    names = {task: {task: count} for task, count in outputs.items()}
    if variant == "upstream" and "va" in outputs:
        names["va"] = {"va_valence": 1, "va_arousal": 1}
    return names


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_agree_with_pytorch(case: str, precision: str) -> None:
    fields, outputs = CASES[case]
    train = case.startswith("train")
    fields = {"channels": CHANNELS, "layers": 2, "streams": ("affectnet8", "eff")} | fields
    model = build_model(
        "tcn_transformer", outputs, window=WINDOW, dtype=precision, dropout=0.0,
        attention_heads=HEADS,        feed_forward=FEED_FORWARD, head_width=HEAD_WIDTH, **fields,
    )  # fmt: skip
    names = fields["streams"]
    rng = np.random.default_rng(7)
    shape = (len(LENGTHS), WINDOW)
    mask = np.arange(WINDOW)[None] < np.array(LENGTHS)[:, None]
    # Padded frames hold numbers that would be seen if anything let them through.
    streams = {n: rng.normal(size=(*shape, WIDTHS[n])).astype(precision) for n in names}
    masks = dict.fromkeys(names, jnp.asarray(mask))
    # Of one sign: sums over frames that cancel would measure rounding, ours and PyTorch's.
    weights = {
        task: rng.uniform(0.5, 1.5, size=(*shape, count)).astype(precision) * mask[..., None]
        for task, count in outputs.items()
    }
    shapes = jax.eval_shape(
        lambda key: model.init(key, streams, masks, train=False), jax.random.key(0)
    )
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: well_conditioned(path, leaf, rng), shapes
    )

    def scalar(params: Any, streams: Any) -> tuple[jax.Array, Any]:
        (predicted, _), _ = model.apply(
            {**variables, "params": params}, streams, masks, train=train, mutable=["batch_stats"]
        )
        loss = sum(jnp.sum(jnp.square(predicted[task]) * weights[task]) for task in outputs)
        return loss, predicted

    gradients, predictions = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(
        variables["params"], streams
    )

    reference = Reference(
        names,
        head_names(fields["variant"], outputs),
        kernel=fields.get("kernel_size", 5),
        causal=fields.get("causal", True),
        act=fields.get("activation", "prelu"),
        channels=fields["channels"],
        width=fields.get("width", 0),
        layers=fields["layers"],
        pre=fields.get("norm") == "pre",
        linear=fields["variant"] == "upstream",
        positions="positions" in fields,
    ).double()
    load(reference, variables)
    reference.train(train)
    windows = [
        {n: torch.tensor(streams[n][b, :length]).double().requires_grad_() for n in names}
        for b, length in enumerate(LENGTHS)
    ]
    expected = reference(windows)
    sum(
        torch.sum(expected[task][b].square() * torch.tensor(weights[task][b, :length]))
        for task in outputs
        for b, length in enumerate(LENGTHS)
    ).backward()

    errors = {
        f"{task} window {b}": relative_error(
            predictions[task][b, :length], expected[task][b].detach()
        )
        for task in outputs
        for b, length in enumerate(LENGTHS)
    }
    theirs = dict(reference.named_parameters())
    grads = {}
    for path in flat(gradients[0]):
        name, _, back, third = torch_place(path)
        grads[path] = back(pick(theirs[name].grad.numpy(), third))
    # Gradients that are zero (a bias of the keys moves no softmax, batch normalisation takes
    # shifts away) are judged beside the largest, and small ones, which are sums over frames and
    # channels that nearly cancel (the slope of a PReLU), beside a twentieth of it.
    largest = max(np.abs(g).max() for g in grads.values())
    for path, ours in flat(gradients[0]).items():
        zero = np.abs(grads[path]).max() < 1e-9 * largest
        errors[path] = relative_error(ours, grads[path], largest if zero else 5e-2 * largest)
    for name in names:
        ours = np.concatenate([gradients[1][name][b, :length] for b, length in enumerate(LENGTHS)])
        grad = np.concatenate([window[name].grad.numpy() for window in windows])
        errors[f"input {name}"] = relative_error(ours, grad)
        np.testing.assert_array_equal(np.asarray(gradients[1][name])[~mask], 0.0)

    worst = max(errors, key=lambda key: errors[key])
    print(f"{case}: worst {worst} {errors[worst]:.2e}")
    assert errors[worst] <= TOLERANCES[precision], errors
