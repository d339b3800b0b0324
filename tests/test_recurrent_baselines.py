"""The recurrent baselines: against PyTorch, padding, sizes beside ExpTrm's."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import exptrm
from configs import recurrent_baselines as configs
from emojax.core.session import build_session
from emojax.models import build_model
from emojax.specs import STREAMS
from tests.applying import run as jitted
from tests.refusals import refused_by_model
from tests.torch_encoder import dense_names, load, relative_error

KEY = jax.random.key(0)
WIDTHS = {"vggface": 6, "compare_lld": 3}
NAMES = ("vggface", "compare_lld")
LENGTHS = (8, 5, 1)  # real frames of each window
WINDOW, BATCH = 8, len(LENGTHS)
TOLERANCE = 1e-5

# The systems of section 4.5, narrow.
SYSTEMS: dict[str, dict[str, Any]] = {
    "static": {"streams": ("vggface",), "hidden": {"vggface": 5}, "recurrent": {}, "fused": ()},
    "visual": {
        "streams": ("vggface",),
        "hidden": {"vggface": 5},
        "recurrent": {"vggface": (4, 6)},
        "fused": (),
    },
    "audio": {
        "streams": ("compare_lld",),
        "hidden": {},
        "recurrent": {"compare_lld": (4, 4)},
        "fused": (),
    },
    "both": {
        "streams": NAMES,
        "hidden": {"vggface": 5},
        "recurrent": {"vggface": (4, 6), "compare_lld": (4, 4)},
        "fused": (4, 4),
    },
}


def build(system: str = "both", **fields: Any) -> nn.Module:
    fields = SYSTEMS[system] | {"window": WINDOW, "dropout": 0.0} | fields
    return build_model("recurrent_baselines", fields.pop("outputs", {"va": 2}), **fields)


def data(names: tuple[str, ...] = NAMES, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    shape = (BATCH, WINDOW)
    streams = {n: rng.normal(size=(*shape, WIDTHS[n])).astype(np.float32) for n in names}
    return streams, {n: np.ones(shape, bool) for n in names}


def randomised(model: nn.Module, streams: Any, masks: Any, seed: int = 1) -> Any:
    shapes = jax.eval_shape(lambda key: model.init(key, streams, masks, train=False), KEY)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: 0.5 * rng.normal(size=s.shape).astype(np.float32), shapes)


def run(model: nn.Module, variables: Any, streams: Any, masks: Any, **options: Any) -> Any:
    outputs, aux = jitted(model, variables, streams, masks, **({"train": False} | options))
    assert aux == {"losses": {}}
    return outputs


# ---- against PyTorch ----------------------------------------------------------------------


def gru_names(params: Any, prefix: str, causal: bool) -> dict[str, np.ndarray]:
    """Returns parameters of ``StackedGRU`` as ``torch.nn.GRU`` has them, one module a layer."""
    named = {}
    for layer, own in params.items():
        path = f"{prefix}{layer.removeprefix('gru_')}."
        for side, suffix in (("forward", ""), ("backward", "_reverse"))[: 1 if causal else 2]:
            bias = own[f"{side}_recurrent_bias"]
            named |= {
                f"{path}weight_ih_l0{suffix}": own[f"{side}_input"]["kernel"].T,
                f"{path}bias_ih_l0{suffix}": own[f"{side}_input"]["bias"],
                f"{path}weight_hh_l0{suffix}": own[f"{side}_recurrent"].T,
                # PyTorch's second biases of r and z only add to the first.
                f"{path}bias_hh_l0{suffix}": np.concatenate([np.zeros(2 * len(bias)), bias]),
            }
    return named


def torch_names(params: Any, causal: bool) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    for name, own in params.items():
        kind, _, stream = name.partition("_")
        if kind == "hidden":
            named |= dense_names(own, f"hidden.{stream}.")
        elif kind == "recurrent":
            named |= gru_names(own, f"recurrent.{stream}.", causal)
        elif kind == "fused":
            named |= gru_names(own, "fused.", causal)
        else:
            named |= dense_names(own["output"], "head.")
    return named


def reference(system: dict[str, Any], causal: bool) -> Any:
    """Returns the same network of ``torch.nn`` layers on one window's real frames, float64."""
    torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")

    class Reference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.recurrent = torch.nn.ModuleDict(), torch.nn.ModuleDict()
            joint = 0
            for name in system["streams"]:
                width = WIDTHS[name]
                if name in system["hidden"]:
                    self.hidden[name] = torch.nn.Linear(width, system["hidden"][name])
                    width = system["hidden"][name]
                channels = system["recurrent"].get(name, ())
                self.recurrent[name] = self.stack(width, channels)
                joint += (width, *channels)[-1]
            self.fused = self.stack(joint, system["fused"])
            self.head = torch.nn.Linear((joint, *system["fused"])[-1], 2)

        def stack(self, width: int, channels: tuple[int, ...]) -> Any:
            sides = 1 if causal else 2
            widths = (width, *channels)
            return torch.nn.ModuleList(
                torch.nn.GRU(before, after // sides, batch_first=True, bidirectional=not causal)
                for before, after in zip(widths, channels, strict=False)
            )

        def forward(self, streams: dict[str, Any]) -> Any:
            parts = []
            for name in system["streams"]:
                x = streams[name][None]
                if name in self.hidden:
                    x = torch.relu(self.hidden[name](x))
                for layer in self.recurrent[name]:
                    x = layer(x)[0]
                parts.append(x)
            x = torch.cat(parts, dim=-1)
            for layer in self.fused:
                x = layer(x)[0]
            return self.head(x)[0]

    return Reference().double()


@pytest.mark.parametrize(
    ("system", "causal"), [("static", True), ("visual", True), ("both", True), ("both", False)]
)
def test_forward_and_gradients_agree_with_pytorch(system: str, causal: bool) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need PyTorch (extra: parity)")
    model = build(system, causal=causal)
    names = SYSTEMS[system]["streams"]
    streams, _ = data(names)
    mask = np.arange(WINDOW)[None] < np.array(LENGTHS)[:, None]
    masks = dict.fromkeys(names, mask)
    params = randomised(model, streams, masks)["params"]
    rng = np.random.default_rng(2)
    weights = rng.uniform(0.5, 1.5, size=(BATCH, WINDOW, 2)).astype(np.float32) * mask[..., None]

    def scalar(params: Any, streams: Any) -> Any:
        outputs = run(model, {"params": params}, streams, masks)["va"]
        return jnp.sum(outputs * weights), outputs

    gradients, outputs = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(params, streams)

    module = reference(SYSTEMS[system], causal)
    load(module, torch_names(params, causal))
    inputs = {n: torch.tensor(x.astype(np.float64), requires_grad=True) for n, x in streams.items()}
    total, errors = torch.zeros((), dtype=torch.float64), {}
    for b, cut in enumerate(LENGTHS):
        expected = module({name: x[b, :cut] for name, x in inputs.items()})
        errors[f"window {b}"] = relative_error(outputs[b, :cut], expected.detach())
        total = total + torch.sum(expected * torch.tensor(weights[b, :cut]))
    total.backward()
    ours = torch_names(gradients[0], causal)
    for name, parameter in module.named_parameters():
        theirs = parameter.grad.numpy()
        if "bias_hh" in name:
            theirs[: 2 * len(theirs) // 3] = 0
        errors[name] = relative_error(ours[name], theirs)
    for name, x in inputs.items():
        errors[f"input {name}"] = relative_error(gradients[1][name], x.grad.numpy())
    worst = max(errors, key=lambda key: errors[key])
    print(f"{system}: worst {worst} {errors[worst]:.2e}")
    assert errors[worst] <= TOLERANCE, errors


# ---- padding, streams, transformations ----------------------------------------------------


def test_static_sees_one_frame_and_causal_none_that_is_to_come() -> None:
    for system, expected in (("static", {3}), ("visual", set(range(3, WINDOW)))):
        names = SYSTEMS[system]["streams"]
        streams, masks = data(names)
        model = build(system)
        variables = randomised(model, streams, masks)
        changed = {n: x.copy() for n, x in streams.items()}
        changed["vggface"][:, 3] += 1
        before, after = (run(model, variables, s, masks)["va"] for s in (streams, changed))
        moved = np.any(np.asarray(before != after), axis=(0, 2))
        assert set(np.flatnonzero(moved)) == expected


def test_tasks_and_bounded_ends() -> None:
    streams, masks = data()
    outputs = {"va": 2, "expr": 8, "au": 12}
    plain, bounded = build(outputs=outputs), build(outputs=outputs, head_activation="tanh")
    variables = randomised(plain, streams, masks)
    expected, got = (run(model, variables, streams, masks) for model in (plain, bounded))
    assert {task: y.shape for task, y in got.items()} == {
        task: (BATCH, WINDOW, columns) for task, columns in outputs.items()
    }
    np.testing.assert_allclose(got["va"], np.tanh(expected["va"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got["expr"], expected["expr"])


# ---- configurations -----------------------------------------------------------------------


@functools.cache
def parameters(file: ModuleType, variant: str) -> dict[str, int]:
    """Returns part of the shipped configuration's model -> its parameters."""
    session = build_session(file.get_config(variant), STREAMS, jax.devices()[:1])
    lengths = session.window_spec.lengths
    streams = {
        n: jax.ShapeDtypeStruct((2, lengths[n], spec.width), jnp.float32)
        for n, spec in session.streams.items()
    }
    masks = {n: jax.ShapeDtypeStruct(x.shape[:2], jnp.bool_) for n, x in streams.items()}
    init = functools.partial(session.model.init, train=False)
    params = jax.eval_shape(init, KEY, streams, masks)["params"]
    return {name: sum(leaf.size for leaf in jax.tree.leaves(own)) for name, own in params.items()}


@pytest.mark.parametrize(
    ("transformer", "recurrent"), [("v", "vggface_rnn_v"), ("", "vggface_rnn_av")]
)
def test_exptrm_has_the_parameters_of_its_baseline(transformer: str, recurrent: str) -> None:
    """Discrepancies of less than 10 % (section 5.2)."""
    ours = sum(parameters(exptrm, transformer).values())
    theirs = sum(parameters(configs, recurrent).values())
    assert 0.9 < ours / theirs < 1.1, (ours, theirs)


def test_shipped_baselines_are_those_of_section_4_5() -> None:
    visual = {
        "hidden_vggface": 4096 * 4096 + 4096,
        # Three gates of 128: input, recurrent, input bias; and n's second bias.
        "recurrent_vggface": 384 * (4096 + 128 + 1) + 128 + 384 * (128 + 128 + 1) + 128,
        "head_va": 128 * 2 + 2,
    }
    audio = {
        "recurrent_compare_lld": 384 * (65 + 128 + 1) + 128 + 384 * (128 + 128 + 1) + 128,
        "head_va": 128 * 2 + 2,
    }
    assert parameters(configs, "vggface_rnn_v") == visual
    assert parameters(configs, "affwildnet_dynamic") == visual
    assert parameters(configs, "rnn_a") == audio
    fused = {"fused": 384 * (256 + 128 + 1) + 128 + 384 * (128 + 128 + 1) + 128}
    assert parameters(configs, "vggface_rnn_av") == visual | audio | fused
    assert parameters(configs, "") == parameters(configs, "vggface_rnn_av")
    for width in (2000, 4096):
        assert parameters(configs, f"affwildnet_static_{width}") == {
            "hidden_vggface": (4096 + 1) * width,
            "head_va": (width + 1) * 2,
        }
    for variant, head in (("expr", 129 * 8), ("au", 129 * 12)):
        assert parameters(configs, variant)[f"head_{variant}"] == head
    assert {"head_va", "head_expr", "head_au"} <= set(parameters(configs, "all"))
    assert parameters(configs, "simulated")


# ---- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hidden": {"vggface": -1}}, "model.hidden.vggface"),
        ({"hidden": {"vgface": 4}}, "model.hidden.vgface"),
        ({"recurrent": {"bert": (4,)}}, "model.recurrent.bert"),
        ({"fused": (4, 0)}, "model.fused"),
        ({"recurrent": {"vggface": (3,)}, "causal": False}, "model.recurrent.vggface"),
        ({"head_activation": "sigmoid"}, "model.head_activation"),
        ({"heads": "both"}, "model.heads"),
        ({"dropout": -0.1}, "model.dropout"),
        ({"streams": ("vggface",), "recurrent": {}}, "compare_lld"),
        ({"outputs": {}}, "model.outputs"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], field: str) -> None:
    assert refused_by_model(build(**fields), *data()) == field
