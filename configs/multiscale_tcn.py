r"""Multi-scale TCN with cross-modal attention over ir50, vggish and logmel (Yu et al. 2025).

    emojax train --config=multiscale_tcn --config.data.store=STORE \
        --workdir=RUN

trains one model of valence and arousal on the store's official fold, each stream's TCNs first.
Published on Aff-Wild2, validation of fold 0: CCC .367 valence, .663 arousal (Table 2).

The paper (arXiv:2503.10523) states the architecture, the kernels and the stages of training, but
no width, rate, optimiser or window; those are ours. Its "Transformer encoder" (section 3.7) is not
described, so it is left out. The authors' repository does not run as published, so there is no
``upstream``. Table 1 of the paper lists the widths of the features, without scores.

Variants, after a colon: ``folds`` (the six folds of Table 2), ``end_to_end`` (without the first
stage); streams fewer than the paper's, ours: ``visual``, ``audio`` (vggish queries logmel),
``visual_vggish``, ``visual_logmel``; other tasks, ours: ``expr``, ``au``, ``all`` (one model of
all three); ``simulated`` (narrow and quick, for a store of ``data.synthetic`` with
``--streams=ir50,vggish,logmel``).
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from emojax.configuration import base_config, choose, other_tasks, some_streams
from emojax.published import multiscale_tcn_differences
from emojax.small import SIXTHS, Small


def _stages(epochs: int) -> tuple[dict[str, Any], ...]:
    """Returns the stages of section 3.7, the first with this number of epochs."""
    return (
        {"objective": "branches", "epochs": epochs, "frozen": ("head_*",)},
        {"objective": "outputs", "epochs": 0, "frozen": ("branch_*",)},
    )


DIFFERENCES = multiscale_tcn_differences.DIFFERENCES

# The small form, for two cores and for tests.
SMALL = Small(
    widths={"channels": 8, "hidden": 4},
    windows=SIXTHS,
    epochs=10,
    train={"train.stages": _stages(2)},
    tiny_train={"train.stages": _stages(1)},
)


def paper() -> ConfigDict:
    """Hyper-parameters of the paper; "ours" marks those that it does not state."""
    config = base_config()

    config.data.streams = ("ir50", "vggish", "logmel")  # Table 1
    config.data.window = 300  # ours, as RJCMA
    config.data.stride = 200  # ours, as RJCMA
    config.data.batch_size = 12  # ours, as RJCMA
    config.data.resampling = ConfigDict(dict.fromkeys(config.data.streams, "nearest"))

    config.model.name = "multiscale_tcn"
    config.model.leader = ""  # the first stream: "visual features as queries", section 3.5
    config.model.queries = True
    config.model.kernel_sizes = (3, 5, 7)  # section 3.4
    config.model.channels = ConfigDict()  # ours; each of a stream's TCNs, one last width
    config.model.channels.ir50 = (256, 256, 128, 128)
    config.model.channels.vggish = (128, 128, 128, 128)
    config.model.channels.logmel = (128, 128, 128, 128)
    config.model.channels.default = (128, 128, 128, 128)  # of any other stream
    config.model.causal = True  # ours, as in Bai et al. 2018, the paper's [2]
    config.model.temporal_dropout = 0.1  # ours
    config.model.hidden = 256  # ours, of eq. 13
    config.model.dropout = 0.3  # ours, of eq. 14
    config.model.heads = "joint"  # eq. 15: one layer for both dimensions
    config.model.branch_heads = True  # for the first stage

    config.loss.va = "ccc"  # ours: 1 - CCC, what eq. 16 scores

    config.replicas.targets = ("va",)

    config.train.epochs = 60  # ours
    config.train.optimizer = "adam_l2"  # ours
    config.train.learning_rate = 1e-4  # ours
    config.train.weight_decay = 1e-4  # ours
    config.train.warmup = "linear"  # ours
    config.train.warmup_epochs = 1  # ours
    config.train.plateau_patience = 5  # ours
    config.train.plateau_factor = 0.1  # ours
    config.train.minimum_rate = 1e-8  # ours
    config.train.stop_patience = 20  # ours
    # Section 3.7: "the TCNs in each branch", then all parts. Epochs and frozen parts are ours:
    # weight decay must not change the parts that a stage does not train.
    config.train.stages = _stages(10)

    config.evaluation.selection.va = "ccc"  # P, eq. 16
    return config


def folds() -> ConfigDict:
    """Table 2: six folds in one program."""
    config = paper()
    config.replicas.folds = ("0", "1", "2", "3", "4", "5")
    return config


def end_to_end() -> ConfigDict:
    """Without the first stage and its heads; ours."""
    config = paper()
    config.model.branch_heads = False
    config.train.stages = ()
    return config


def led_by_first(*streams: str) -> ConfigDict:
    """Some of the paper's streams, the first of which leads; ours."""
    return some_streams(paper(), *streams)


def simulated() -> ConfigDict:
    """A small model for simulated data, ours.

    On a plain store of medium size it reaches CCC .780 / .768 on validation after 207 s of training
    on 2 cores, 93 % of the optimum.
    """
    config = paper()
    config.data.random_offset = True
    config.data.evaluation_stride = 100  # frames near a window's ends have less context
    SMALL.narrow(config)
    for stream, widths in config.model.channels.items():
        config.model.channels[stream] = widths[:3]
    config.model.causal = False  # the optimum looks both ways
    config.train.epochs = 16
    config.train.epoch_steps = 60
    config.train.learning_rate = 3e-3
    config.train.decay = "cosine"
    config.train.stages = _stages(3)
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": paper,
    "folds": folds,
    "end_to_end": end_to_end,
    "visual": functools.partial(led_by_first, "ir50"),
    "audio": functools.partial(led_by_first, "vggish", "logmel"),
    "visual_vggish": functools.partial(led_by_first, "ir50", "vggish"),
    "visual_logmel": functools.partial(led_by_first, "ir50", "logmel"),
    "expr": lambda: other_tasks(paper(), "expr"),
    "au": lambda: other_tasks(paper(), "au"),
    "all": lambda: other_tasks(paper(), "va", "expr", "au"),
    "simulated": simulated,
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of a variant; the docstring of this file lists the variants."""
    return choose(VARIANTS, variant, __file__)
