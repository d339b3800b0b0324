"""Configurations of the study of fusion: all systems small, on the same two streams.

    emojax train --config=benchmarks/fusion_configs.py:rjcma_l2 --config.data.store=STORE \
        --workdir=RUN

All read a face stream and an audio stream at 6 Hz in windows of ten seconds and train for the same
number of windows. Equations are the papers'; widths, dropout and schedules are ours, the same for
the rows of a system. Published tables vary the same parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from configs import emma_net, exptrm, lfan, multiscale_tcn, rjcma, tcn_transformer
from emojax.configuration import base_config, choose

FACE, AUDIO = "ir50", "vggish"
STREAMS = (FACE, AUDIO)
EPOCHS, EPOCH_STEPS = 5, 400


def _small(config: ConfigDict, *streams: str, learning_rate: float) -> ConfigDict:
    """Gives a configuration the study's windows and schedule, in place."""
    streams = streams or STREAMS
    config.data = base_config().data
    config.data.streams = streams
    config.data.tasks = ("va",)
    config.data.clock = 6.0
    config.data.window = 60
    config.data.stride = 40
    config.data.evaluation_stride = 15
    config.data.batch_size = 24
    config.data.random_offset = True
    config.data.resampling = ConfigDict(dict.fromkeys(streams, "mean"))
    config.data.normalisation = ConfigDict(dict.fromkeys(streams, "zscore"))
    config.loss = ConfigDict({"va": "ccc"})
    config.evaluation.selection = ConfigDict({"va": "ccc"})
    config.replicas.targets = ("va",)
    kept = {key: config.train[key] for key in ("optimizer", "weight_decay", "no_decay")}
    config.train = base_config().train
    config.train.update(kept)
    config.train.epochs = EPOCHS
    config.train.epoch_steps = EPOCH_STEPS
    config.train.learning_rate = learning_rate
    config.train.warmup = "linear"
    config.train.warmup_epochs = 1
    config.train.decay = "cosine"
    return config


def _rjcma(variant: str, recursions: int, *, after: str = "none") -> ConfigDict:
    config = _small(rjcma.get_config(variant), learning_rate=3e-3)
    config.model.recursions = recursions
    if not recursions:
        config.train.no_decay = ()
    config.model.fused_temporal = after
    config.model.channels = ConfigDict(dict.fromkeys(STREAMS, (32, 32, 32, 32)))
    config.model.causal = False
    config.model.heads = "joint"
    config.model.head_width = 64
    config.model.temporal_dropout = 0.0
    config.model.dropout = 0.0
    return config


def _rjcma_decay(of_all: float, recursions: int, *, after: str = "none") -> ConfigDict:
    config = _rjcma("", recursions, after=after)
    config.train.weight_decay = of_all
    config.train.no_decay = ()
    return config


def _lfan() -> ConfigDict:
    config = _small(lfan.get_config(), learning_rate=3e-3)
    config.model.leader = FACE
    config.model.channels = ConfigDict(dict.fromkeys(STREAMS, (32, 32, 32, 32)))
    config.model.causal = False
    config.model.temporal_dropout = 0.0
    config.model.dropout = 0.0
    return config


def _exptrm(*streams: str, fusion: str = "weights") -> ConfigDict:
    config = _small(exptrm.get_config(), *streams, learning_rate=2e-3)
    config.model.stacked_width = 0
    config.model.width = 64
    config.model.hidden = 128
    config.model.attention_heads = 4
    config.model.norm = "pre"  # allows the learning rate
    config.model.fusion = fusion
    config.model.dropout = 0.0
    return config


def _emma_net(fusion: str, *streams: str) -> ConfigDict:
    config = _small(emma_net.get_config(), *streams, learning_rate=3e-3)
    config.train.weight_decay = 0.0  # the paper's is of another rate
    config.model.anchor = FACE
    config.model.fusion = fusion
    config.model.layers = 1
    config.model.width = 64
    config.model.attention_width = 32
    config.model.head_width = 64
    config.model.context_bidirectional = True
    config.model.temporal_dropout = 0.0
    config.model.dropout = 0.0
    return config


def _multiscale(*, queries: bool) -> ConfigDict:
    config = _small(multiscale_tcn.get_config("end_to_end"), learning_rate=3e-3)
    config.model.leader = FACE
    config.model.queries = queries
    config.model.channels = ConfigDict(dict.fromkeys(STREAMS, (32, 32)))
    config.model.causal = False
    config.model.hidden = 64
    config.model.temporal_dropout = 0.0
    config.model.dropout = 0.0
    return config


def _tcn_transformer(*streams: str, layers: int = 2) -> ConfigDict:
    config = _small(tcn_transformer.get_config(), *streams, learning_rate=3e-3)
    config.model.channels = ConfigDict(dict.fromkeys(streams or STREAMS, (64,)))
    config.model.kernel_size = 1
    config.model.causal = False
    config.model.width = 96
    config.model.layers = layers
    config.model.feed_forward = 128
    config.model.norm = "pre"  # allows the learning rate
    config.model.positions = "sinusoidal"
    config.model.head_width = 64
    config.model.dropout = 0.0
    return config


def _tcn_transformer_long() -> ConfigDict:
    """Trains eight times as long, wider and in windows of 15 s, for 6,000 videos."""
    config = _tcn_transformer(layers=3)
    config.model.width = 160
    config.model.feed_forward = 320
    config.data.window = 90
    config.data.stride = 60
    config.train.epochs = 8 * EPOCHS
    config.train.ema = 0.99
    return config


_FUSIONS = ("attention", "bilinear", "concat", "additive", "gating")

VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    **{f"rjcma_l{count}": functools.partial(_rjcma, "", count) for count in range(5)},
    "rjcma_upstream": functools.partial(_rjcma, "upstream", 2),
    "rjcma_l3_decay_of_all": functools.partial(_rjcma_decay, 1e-3, 3),
    "rjcma_l3_no_decay": functools.partial(_rjcma_decay, 0.0, 3),
    "rjcma_l0_tcn": functools.partial(_rjcma_decay, 0.0, 0, after="tcn"),
    "rjcma_l3_tcn": functools.partial(_rjcma_decay, 0.0, 3, after="tcn"),
    "lfan": _lfan,
    "exptrm": _exptrm,
    "exptrm_v": functools.partial(_exptrm, FACE),
    "exptrm_a": functools.partial(_exptrm, AUDIO),
    "exptrm_gates": functools.partial(_exptrm, fusion="gates"),
    **{f"emma_{name}": functools.partial(_emma_net, name) for name in _FUSIONS},
    "emma_current_face": functools.partial(_emma_net, "current_face", FACE),
    "emma_video_only": functools.partial(_emma_net, "video_only", FACE),
    "multiscale": functools.partial(_multiscale, queries=True),
    "multiscale_no_queries": functools.partial(_multiscale, queries=False),
    "tcn_transformer": _tcn_transformer,
    "tcn_transformer_long": _tcn_transformer_long,
    "tcn_transformer_l0": functools.partial(_tcn_transformer, layers=0),
    "tcn_transformer_v": functools.partial(_tcn_transformer, FACE),
    "tcn_transformer_a": functools.partial(_tcn_transformer, AUDIO),
}


def get_config(variant: str = "tcn_transformer") -> ConfigDict:
    """Returns the configuration of a variant."""
    return choose(VARIANTS, variant, __file__)
