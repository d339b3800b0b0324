"""The name maps from tensors of public PyTorch models to parameters of emojax, as data.

Layouts are those of the state dicts of three public repositories, known by their attribute names
and shapes: "rjcma" (praveena2j/RJCMA, class RCMA), "lfan" (sucv/ABAW3, class LFAN; its older
class LeaderFollowerAttentionNetworkWithMultiHead has the same names without ``bn``) and
"tcn_transformer" (upczww/abaw5, the class Model of its folders VA, EXPR and AU). The first two read
frames and spectrograms through frozen backbones; here the backbones' features are the input, so
their tensors are not used.

Names are written with holes: ``<modal>`` is a modality of the public code ("video"), ``<i>`` a
number from 0, ``<n>`` and ``<k>`` the number of a modality, from 1 and from 0, ``<any>`` any text.
Paths have ``{stream}``, ``{i}`` and ``{head}`` in their place. Weight normalisation may have been
saved by the old ``torch.nn.utils.weight_norm`` (weight_g, weight_v) or by the new one of
``torch.nn.utils.parametrizations`` (original0, original1); a leading "module." is ignored.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np


def _third(number: int, x_3O: np.ndarray, *, turned: bool) -> np.ndarray:
    """Returns a third of the rows, as (I, O) if ``turned``."""
    part_O = np.split(x_3O, 3)[number]
    return part_O.T if turned else part_O


# (O, I) of a Linear and (O, I, k) of a Conv1d, as PyTorch keeps them -> as Flax does.
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda x: x,
    "transposed": lambda x_OI: x_OI.T,
    "(O, I, k) to (k, I, O)": lambda x_OIK: x_OIK.transpose(2, 1, 0),
    "(O, I, 1) to (I, O)": lambda x_OI1: x_OI1[:, :, 0].T,
    "(O, 1, 1) to (O)": lambda x_O11: x_O11[:, 0, 0],
    "(1) to ()": lambda x_1: x_1.reshape(()) if x_1.shape == (1,) else x_1,
    # PyTorch stacks the three projections of an attention.
    **{
        f"{name} third{form}": functools.partial(_third, number, turned=bool(form))
        for number, name in enumerate(("first", "second", "last"))
        for form in ("", ", transposed")
    },
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
        rules: the name map. A tensor that several rules name has several places.
        unused: names that need no place here -> why.
        whole_task: the public model predicts all dimensions of a task, and ``{head}`` is the
            beginning of its heads' names ("head_va"). Otherwise it predicts one target.
        column_statistics: the public code normalises each column of a stream on its own.
            Otherwise it has one mean and deviation for all columns.
    """

    source: str
    model: str
    rules: tuple[Rule, ...]
    unused: Mapping[str, str]
    whole_task: bool = False
    column_statistics: bool = False


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


def _encoder(name: str) -> list[Rule]:
    """Returns the rules of a TCN that is called ``name`` here; the same in all layouts."""
    block, ours = "temporal.<modal>.network.<i>", f"params/{name}_{{stream}}/block_{{i}}"
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
    return rules


def _slopes() -> list[Rule]:
    """Returns the rules of a TCN's PReLUs, of which the first two are listed twice."""
    block, ours = "temporal.<modal>.network.<i>", "params/tcn_{stream}/block_{i}"
    named = {
        "activation_0": ("relu1", "net.2"),
        "activation_1": ("relu2", "net.6"),
        "activation_sum": ("relu",),
    }
    return [
        Rule(tuple(f"{block}.{name}.weight" for name in names), f"{ours}/{path}/slope", "(1) to ()")
        for path, names in named.items()
    ]


def _transformer(name: str) -> list[Rule]:
    """Returns the rules of the 1x1 convolution and the Transformer encoder called ``name``."""
    layer, ours = f"{name}.transformer_encoder.layers.<i>", "transformer/layer_{i}"
    rules = [
        Rule((f"{name}.conv1.weight",), "params/projection/kernel", "(O, I, 1) to (I, O)"),
        Rule((f"{name}.conv1.bias",), "params/projection/bias"),
    ]
    for third, part in (("first", "query"), ("second", "key"), ("last", "value")):
        path = f"params/{ours}/attention/{part}"
        joined = f"{layer}.self_attn.in_proj"
        rules += [
            Rule((f"{joined}_weight",), f"{path}/kernel", f"{third} third, transposed"),
            Rule((f"{joined}_bias",), f"{path}/bias", f"{third} third"),
        ]
    rules += _linear(f"{layer}.self_attn.out_proj", f"{ours}/attention/output")
    rules += _linear(f"{layer}.linear1", f"{ours}/feed_hidden")
    rules += _linear(f"{layer}.linear2", f"{ours}/feed_output")
    for norm, path in (("norm1", "attention_norm"), ("norm2", "feed_norm")):
        rules += _norm(f"{layer}.{norm}", f"{ours}/{path}")[:2]
    return rules


def _hidden(name: str, norm: str, path: str) -> list[Rule]:
    """Returns the rules of a Linear whose bias the batch normalisation after it takes away."""
    return [
        Rule((f"{name}.weight",), f"params/{path}/hidden/kernel", "transposed"),
        # Its running mean takes the bias away, too.
        Rule((f"{name}.bias",), f"batch_stats/{path}/norm/mean", subtract=True),
        *_norm(norm, f"{path}/norm"),
    ]


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
            *_encoder("encoder"),
            *_norm("bn.<modal>", "norm_{stream}"),
            *_time_mixing(
                f"{_RECURSION}.dense_coattn.key<n>_linear", "recursion_{{i}}/{}_{{stream}}"
            ),
            *_linear(f"{_RECURSION}.dense_coattn.value<n>_linear", "recursion_{i}/value_{stream}"),
            *_linear(f"{_RECURSION}.linears.<k>.0", "recursion_{i}/update_{stream}"),
            *_hidden("regressor1", "bn1", "{head}"),
            *_linear("regressor2", "{head}/output"),
        ),
        unused=_UNUSED | {f"{_RECURSION}.dense_coattn.query_linear.<any>": "never applied there"},
    ),
    "lfan": TorchLayout(
        source="github.com/sucv/ABAW3, class LFAN",
        model="lfan",
        rules=(
            *_encoder("encoder"),
            *_norm("bn.<modal>", "norm_{stream}"),
            *_linear("fusion.layers.self_attn.qkv_proj.<modal>", "attention/qkv_{stream}"),
            *_linear("fusion.layers.self_attn.o_proj", "attention/output"),
            *_norm("fusion.layers.norm1", "attention/norm")[:2],
            *_linear("regressor", "{head}/output"),
        ),
        unused=_UNUSED,
    ),
    "tcn_transformer": TorchLayout(
        source="github.com/upczww/abaw5, class Model of VA, EXPR and AU",
        model="tcn_transformer",
        rules=(
            *_encoder("tcn"),
            *_slopes(),
            # Its name in VA, and in EXPR and AU.
            *_transformer("decoder"),
            *_transformer("encoder"),
            *_hidden("vhead.0", "vhead.1", "{head}_valence"),
            *_linear("vhead.2", "{head}_valence/output"),
            *_hidden("ahead.0", "ahead.1", "{head}_arousal"),
            *_linear("ahead.2", "{head}_arousal/output"),
            *_hidden("head.0", "head.1", "{head}"),
            *_linear("head.2", "{head}/output"),
        ),
        unused={"<any>.num_batches_tracked": "a counter"},
        whole_task=True,
        column_statistics=True,
    ),
}

# Stream -> what the public code calls it, beside its own name.
MODALITIES: dict[str, tuple[str, ...]] = {
    "ir50": ("video", "cnn", "cnn_res50"),
    "vggish": ("logmel",),
    "eff": ("emotion",),
    "affectnet8": ("affecnet8",),
    "raf_db": ("rafdb",),
    "wav2vec2_emotion": ("wav_emotion",),
}
