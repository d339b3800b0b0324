"""The name maps from tensors of public PyTorch models to parameters of emojax, as data.

Layouts are those of the state dicts of two public repositories, known by their attribute names
and shapes: "rjcma" (praveena2j/RJCMA, class RCMA) and "lfan" (sucv/ABAW3, class LFAN; its older
class LeaderFollowerAttentionNetworkWithMultiHead has the same names without ``bn``). Both read
frames and spectrograms through frozen backbones; here the backbones' features are the input, so
their tensors are not used.

Names are written with holes: ``<modal>`` is a modality of the public code ("video"), ``<i>`` a
number from 0, ``<n>`` and ``<k>`` the number of a modality, from 1 and from 0. Paths have
``{stream}``, ``{i}`` and ``{head}`` in their place. Weight normalisation may have been saved by
the old ``torch.nn.utils.weight_norm`` (weight_g, weight_v) or by the new one of
``torch.nn.utils.parametrizations`` (original0, original1); a leading "module." is ignored.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emojax.errors import InputError

# (O, I) of a Linear and (O, I, k) of a Conv1d, as PyTorch keeps them -> as Flax does.
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda x: x,
    "transposed": lambda x_OI: x_OI.T,
    "(O, I, k) to (k, I, O)": lambda x_OIK: x_OIK.transpose(2, 1, 0),
    "(O, I, 1) to (I, O)": lambda x_OI1: x_OI1[:, :, 0].T,
    "(O, 1, 1) to (O)": lambda x_O11: x_O11[:, 0, 0],
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a name map.

    Attributes:
        names: names of the tensor in the state dict, with holes; the first that exists counts.
        path: the path of the parameter in emojax.
        transform: a key of ``TRANSFORMS``.
        subtract: take it away from what the other rules put there, instead of setting it.
    """

    names: tuple[str, ...]
    path: str
    transform: str = "as it is"
    subtract: bool = False


@dataclasses.dataclass(frozen=True)
class TorchLayout:
    """The state dict of one public model.

    Attributes:
        source: repository and class.
        model: its name, see ``emojax.models.model_class``.
        rules: the name map.
        unused: names that need no place here -> why.
    """

    source: str
    model: str
    rules: tuple[Rule, ...]
    unused: Mapping[str, str]


def _linear(name: str, path: str) -> list[Rule]:
    return [
        Rule((f"{name}.weight",), f"params/{path}/kernel", "transposed"),
        Rule((f"{name}.bias",), f"params/{path}/bias"),
    ]


def _norm(name: str, path: str) -> list[Rule]:
    return [
        Rule((f"{name}.weight",), f"params/{path}/scale"),
        Rule((f"{name}.bias",), f"params/{path}/bias"),
        Rule((f"{name}.running_mean",), f"batch_stats/{path}/mean"),
        Rule((f"{name}.running_var",), f"batch_stats/{path}/var"),
    ]


def _encoder() -> list[Rule]:
    """Returns the rules of a TCN with batch normalisation, the same in both layouts."""
    block, ours = "temporal.<modal>.network.<i>", "params/encoder_{stream}/block_{i}"
    rules = []
    # The blocks list their convolutions twice: by name, and by place in a Sequential.
    for j, names in enumerate((("conv1", "net.0"), ("conv2", "net.4"))):
        pair = itertools.product(names, ("weight_g", "parametrizations.weight.original0"))
        scale = tuple(f"{block}.{conv}.{part}" for conv, part in pair)
        pair = itertools.product(names, ("weight_v", "parametrizations.weight.original1"))
        direction = tuple(f"{block}.{conv}.{part}" for conv, part in pair)
        bias = tuple(f"{block}.{conv}.bias" for conv in names)
        rules += [
            Rule(scale, f"{ours}/conv_{j}/scale", "(O, 1, 1) to (O)"),
            Rule(direction, f"{ours}/conv_{j}/direction", "(O, I, k) to (k, I, O)"),
            Rule(bias, f"{ours}/conv_{j}/bias"),
        ]
    rules += [
        Rule((f"{block}.downsample.weight",), f"{ours}/residual/kernel", "(O, I, 1) to (I, O)"),
        Rule((f"{block}.downsample.bias",), f"{ours}/residual/bias"),
    ]
    return rules + _norm("bn.<modal>", "norm_{stream}")


def _time_mixing(name: str, path: str) -> list[Rule]:
    return [
        Rule((f"{name}.weight",), f"params/{path.format('w_k')}", "transposed"),
        Rule((f"{name}.bias",), f"params/{path.format('b_k')}"),
    ]


_UNUSED = {
    "spatial.<any>": "a backbone; its features are the input here",
    "<any>.num_batches_tracked": "a counter",
}
_RECURSION = "coattn.dcn_layers.<i>"
LAYOUTS: dict[str, TorchLayout] = {
    "rjcma": TorchLayout(
        source="github.com/praveena2j/RJCMA, class RCMA",
        model="rjcma",
        rules=(
            *_encoder(),
            *_time_mixing(
                f"{_RECURSION}.dense_coattn.key<n>_linear", "recursion_{{i}}/{}_{{stream}}"
            ),
            *_linear(f"{_RECURSION}.dense_coattn.value<n>_linear", "recursion_{i}/value_{stream}"),
            *_linear(f"{_RECURSION}.linears.<k>.0", "recursion_{i}/update_{stream}"),
            Rule(("regressor1.weight",), "params/{head}/hidden/kernel", "transposed"),
            # Batch normalisation takes a bias before it away, and so does its running mean.
            Rule(("regressor1.bias",), "batch_stats/{head}/norm/mean", subtract=True),
            *_norm("bn1", "{head}/norm"),
            *_linear("regressor2", "{head}/output"),
        ),
        unused=_UNUSED | {f"{_RECURSION}.dense_coattn.query_linear.<any>": "never applied there"},
    ),
    "lfan": TorchLayout(
        source="github.com/sucv/ABAW3, class LFAN",
        model="lfan",
        rules=(
            *_encoder(),
            *_linear("fusion.layers.self_attn.qkv_proj.<modal>", "attention/qkv_{stream}"),
            *_linear("fusion.layers.self_attn.o_proj", "attention/output"),
            *_norm("fusion.layers.norm1", "attention/norm")[:2],
            *_linear("regressor", "{head}/output"),
        ),
        unused=_UNUSED,
    ),
}

# Stream -> what the public code calls it, beside its own name.
MODALITIES: dict[str, tuple[str, ...]] = {
    "ir50": ("video", "cnn", "cnn_res50"),
    "vggish": ("logmel",),
}
_HOLES = {
    "modal": r"(?P<modal>\w+)", "i": r"(?P<i>\d+)", "n": r"(?P<n>[1-9]\d*)",
    "k": r"(?P<k>\d+)", "any": r".+",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TorchWeights:
    """A state dict under the names of this house.

    Attributes:
        arrays: path -> float32 array.
        taken: name there -> path here.
        missing: paths that the state dict does not fill.
        unused: name there -> why it has no place here.
    """

    arrays: dict[str, np.ndarray]
    taken: dict[str, str]
    missing: tuple[str, ...]
    unused: dict[str, str]


def find_modalities(names: Sequence[str], streams: Sequence[str]) -> dict[str, str]:
    """Finds the names of streams in a state dict: modality there -> stream here, in streams' order.

    A stream's own name counts before those of ``MODALITIES``, and no modality counts twice.

    Args:
        names: the names of the tensors.
        streams: in the order in which the model was given its modalities.

    Raises:
        InputError: a stream has no temporal encoder there.
    """
    found = re.findall(r"^(?:module\.)?temporal\.(\w+)\.", "\n".join(names), re.MULTILINE)
    present = list(dict.fromkeys(found))
    modalities: dict[str, str] = {}
    for stream in streams:
        free = [modal for modal in present if modal == stream or modal not in streams]
        wanted = (stream, *MODALITIES.get(stream, ()))
        match = [modal for modal in wanted if modal in free and modal not in modalities]
        if not match:
            raise InputError(
                f"The state dict has no modality for stream {stream!r}.",
                field="temporal.<modal>",
                found=", ".join(present) or "no temporal encoders",
                expected=" or ".join(wanted),
                remedy="name the modalities, in the order of config.data.streams: "
                "--modalities=video,logmel,bert",
            )
        modalities[match[0]] = stream
    return modalities


def load_torch_names(
    layout: str,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    modalities: Mapping[str, str],
    head: str,
    column: int = 0,
) -> TorchWeights:
    """Finds a place for every tensor of a state dict.

    Args:
        layout: a key of ``LAYOUTS``.
        tensors: name -> array, as PyTorch keeps it.
        shapes: path -> shape of every parameter and running statistic of the model, paths
            beginning with the collection ("params/encoder_ir50/block_0/conv_0/bias").
        modalities: modality there -> stream here, in the order the model was given them.
        head: the head that the public model's only head becomes ("head_va_valence").
        column: which column of ``head`` it becomes if that has more than the state dict's.

    Returns:
        What went where. Paths that are missing have no array.

    Raises:
        InputError: a tensor has no place in this model or not its shape, or two tensors that
            are one in the public model differ.
    """
    arrays: dict[str, np.ndarray] = {}
    taken: dict[str, str] = {}
    unused: dict[str, str] = {}
    later: list[tuple[str, np.ndarray]] = []
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("module.")
        place = _place(LAYOUTS[layout], name, modalities, head)
        if place is None:
            unused[full_name] = _why_unused(LAYOUTS[layout], name)
            continue
        rule, path = place
        if path not in shapes:
            raise InputError(
                "The public model has a part that this one does not have.",
                field=full_name,
                found=f"{tensor.shape}",
                expected=f"a model with {path}",
                remedy="give the configuration the layers, recursions and streams of the model "
                "that was saved",
            )
        array = _fit(full_name, tensor, rule, shapes[path], path, column)
        taken[full_name] = path
        if rule.subtract:
            later.append((path, array))
        elif path in arrays and not np.array_equal(arrays[path], array):
            twin = next(known for known, where in taken.items() if where == path)
            raise InputError(
                "Two tensors that are one in the public model differ.",
                field=full_name,
                found=f"other numbers than in {twin}",
                expected="the same numbers",
            )
        else:
            arrays[path] = array
    for path, array in later:
        if path in arrays:
            arrays[path] = arrays[path] - array
    missing = tuple(path for path in shapes if path not in arrays)
    return TorchWeights(arrays, taken, missing, unused)


def _place(
    layout: TorchLayout, name: str, modalities: Mapping[str, str], head: str
) -> tuple[Rule, str] | None:
    """Returns the rule that a name belongs to, and the path it leads to."""
    streams = list(modalities.values())
    for rule in layout.rules:
        for pattern in rule.names:
            match = re.fullmatch(_regex(pattern), name)
            if match is None:
                continue
            holes = match.groupdict()
            number = int(holes["n"]) - 1 if "n" in holes else int(holes.get("k", 0))
            stream = streams[number] if number < len(streams) else "(none)"
            if "modal" in holes:
                stream = modalities.get(holes["modal"], "(none)")
            return rule, rule.path.format(stream=stream, i=holes.get("i", ""), head=head)
    return None


def _regex(pattern: str) -> str:
    """Turns a name with holes into a regular expression."""
    parts = re.split(r"<(\w+)>", pattern)
    return "".join(_HOLES[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))


def _why_unused(layout: TorchLayout, name: str) -> str:
    for pattern, reason in layout.unused.items():
        if re.fullmatch(_regex(pattern), name):
            return reason
    return "not known"


def _fit(
    name: str, tensor: np.ndarray, rule: Rule, shape: tuple[int, ...], path: str, column: int
) -> np.ndarray:
    """Converts the tensor to the form of its place."""
    try:
        array: np.ndarray = np.asarray(TRANSFORMS[rule.transform](tensor), np.float32)
    except (ValueError, IndexError):
        array = np.zeros((0,), np.float32)
    in_column = (*shape[:-1], 1)
    if "{head}/output" in rule.path and array.shape == in_column and shape[-1] > 1:
        whole = np.zeros(shape, np.float32)
        whole[..., column] = array[..., 0]
        array = whole
    if array.shape != shape:
        raise InputError(
            "A tensor does not have the shape of its place in the model.",
            field=name,
            found=f"{tensor.shape}",
            expected=f"what becomes {shape} ({rule.transform}), as {path}",
            remedy="give the configuration the widths, kernel size, window and streams (in "
            "this order) of the model that was saved",
        )
    return array
