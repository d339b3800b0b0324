"""EMMA-Net: attention from the current face to face, voice and pose (Calloway et al. 2025).

    emojax train --config=emma_net --config.data.store=STORE --workdir=RUN

trains eight expressions on the store's official fold. Published on Aff-Wild2, validation: macro F1
.361, accuracy .492 (Table 2). The abstract claims "a performance score of 0.418" there: the paper
contradicts itself, so both are given. The paper's own fusion is ``attention`` (eq. 4-6).

As printed, the attention chooses among the rows of each modality and cannot turn a modality down,
against the claim of section 1; ``gating`` can.

Variants, after a colon:
``bilinear`` (eq. 11), ``concat``, ``additive``, ``gating``, ``current_face``, ``video_only`` (Table
2 and section 4.5; published .318 concat, .348 additive, .352 gating, .337 current face, .295 only
video, which is "only video without face" in section 4.4 and, in our reading, the GRU over the face
stream without f_c); ``shared`` (one pair W_Q, W_K, as eq. 4 prints it); ``face_2hz`` (12 rows of
the face too, as section 4.2 can be read, in place of 36); ``causal`` (the context is the past, as
in sections 1, 4.5 and 5: sees no future tick and scores the window's last tick); ``t6``, ``t9``,
``t15``, ``t18`` (context rows T; 12 is the paper's); ``table1`` (current face on six splits);
``egemaps``, ``compare_lld`` (the other audio features of section 3.1); ``va``, ``au``, ``all``
(other tasks, ours); ``meld`` (text and speech of MELD, real data, ours); ``simulated``,
``simulated_va``, ``simulated_au``, ``simulated_many`` (small and fast, for a store of

    emojax simulate --out=STORE --streams=fan,deepspectrum,openpose

; ours).
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from emojax.configuration import base_config, choose, other_tasks, some_streams
from emojax.published import emma_net_differences
from emojax.small import Small, Windows

DIFFERENCES = emma_net_differences.DIFFERENCES

# The small form, for two cores and for tests.
SMALL = Small(
    widths={"width": 2, "widths": 2, "attention_width": 2, "head_width": 2},
    windows=Windows(
        {"data.random_offset": True, "data.batch_size": 16, "data.evaluation_stride": 9},
        {"data.batch_size": 2, "data.evaluation_stride": 18},
    ),
    steps=60,
    learning_rate=1e-2,
)


def paper() -> ConfigDict:
    """Hyper-parameters of the paper; "ours" marks those that it does not state."""
    config = base_config()

    config.data.streams = ("fan", "deepspectrum", "openpose")  # section 3.1
    config.data.tasks = ("expr",)
    config.data.clock = 6.0  # anchors: one frame of five at 30 fps, section 3.1
    config.data.rates.deepspectrum = 2.0  # one row each 0.5 s, sections 3.1 and 4.1
    config.data.rates.openpose = 2.0  # section 3.1
    # Ours; the paper says nothing about normalisation.
    config.data.normalisation = ConfigDict(dict.fromkeys(config.data.streams, "zscore"))
    config.data.window = 36  # ticks: "6-second window", T = 12 rows at 2 Hz, section 4.2
    config.data.stride = 18  # ours
    config.data.batch_size = 4  # section 4.2
    # Each prediction is the centre of a window of its own, so every tick is evaluated 36 times. A
    # larger stride scores that many ticks around the centre and costs less by that factor. Ours.
    config.data.scored = "centre"
    config.data.evaluation_stride = 1

    config.model.name = "emma_net"
    config.model.anchor = ""  # the first stream: f_c is the face's, section 3.2
    config.model.fusion = "attention"  # section 3.2
    config.model.layers = 2  # section 3.1
    config.model.width = 128  # h of every stream; ours
    config.model.temporal_dropout = 0.1  # between GRU layers; ours
    config.model.causal = False  # bidirectional face GRU, section 3.1
    config.model.context_bidirectional = False  # "2-layer GRU" for audio and pose, section 3.1
    config.model.attention_width = 128  # d_k; ours
    config.model.attention_shared = False  # eq. 4 prints one pair W_Q, W_K; ours has one a stream
    config.model.attention_bias = False  # eq. 4 has none
    config.model.attention_locality = False  # eq. 4 has none
    config.model.head_width = 128  # ours
    config.model.dropout = 0.3  # "with dropout", section 3.2, without a rate; ours
    config.model.heads = "joint"
    config.model.reconstruction_weight = 0.01  # lambda_rec of eq. 10, not given; ours
    config.model.smoothness_weight = 0.01  # lambda_smooth of eq. 10, not given; ours

    config.loss.expr = "cross_entropy"  # section 3.3

    config.train.epochs = 30  # that of the face network, section 4.2; ours for the rest
    config.train.optimizer = "adamw"  # named for the face network only, section 4.2
    config.train.learning_rate = 0.02  # section 4.2
    # The upper end of the range searched for the face network, section 4.2; ours.
    config.train.weight_decay = 0.01
    # "Reduced the learning rate by half upon validation plateau", section 4.2. "Stagnated for more
    # than two epochs" is said there of the face network; ours for EMMA-Net.
    config.train.plateau_patience = 2
    config.train.plateau_factor = 0.5
    config.train.minimum_rate = 1e-5  # ours
    config.train.stop_patience = 10  # ours

    config.evaluation.selection.expr = "f1"  # "validation F1", section 4.2
    return config


def fusion(name: str) -> ConfigDict:
    """Another fusion (Table 2, section 4.5)."""
    config = paper()
    config.model.fusion = name
    if name in ("current_face", "video_only"):
        some_streams(config, "fan")
    return config


def causal() -> ConfigDict:
    """Predicts the window's last tick from the ticks before it, the paper's "past signals".

    Sections 1, 4.5 and 5 speak of historical context, section 3 of a central frame, and eq. 1 has a
    face encoder that runs both ways, which here runs forward. That no row after the anchor's tick
    weighs in the attention is ours.
    """
    config = paper()
    config.model.causal = True
    config.data.scored = "last"
    return config


def shared() -> ConfigDict:
    """One pair W_Q, W_K for all modalities, as eq. 4 prints it."""
    config = paper()
    config.model.attention_shared = True
    return config


def face_2hz() -> ConfigDict:
    """The face too at 2 Hz: T = 12 for all modalities, section 4.2."""
    config = paper()
    config.data.clock = 2.0
    config.data.rates = ConfigDict()  # every stream has a row a tick
    config.data.window = 12
    config.data.stride = 6
    return config


def context(rows: int) -> ConfigDict:
    """Section 4.5 (2): T context rows at 2 Hz, which is T / 2 seconds."""
    config = paper()
    config.data.window = 3 * rows
    config.data.stride = min(config.data.stride, config.data.window)
    return config


def table1() -> ConfigDict:
    """Table 1: the current face alone on six splits, the official one and five rotations.

    The paper cuts the official training set at random into five parts of similar class shares,
    each of which validates once (section 4.1). Folds 1 to 5 here are the store's: dealt by source
    video, whatever the classes, and the official validation videos join those that train. The
    papers' own folds come with the Aff-Wild2 builder.
    """
    config = fusion("current_face")
    config.replicas.folds = ("0", "1", "2", "3", "4", "5")
    return config


def audio(stream: str) -> ConfigDict:
    """Low-level descriptors (100 Hz), as means over 0.5 s, in place of DeepSpectrum."""
    config = paper()
    config.data.streams = ("fan", stream, "openpose")
    del config.data.rates.deepspectrum, config.data.normalisation.deepspectrum
    config.data.rates[stream] = 2.0
    config.data.resampling[stream] = "mean"
    config.data.normalisation[stream] = "zscore"
    return config


def meld() -> ConfigDict:
    """Emotion of utterances from text (the anchor) and speech, dialogues as sequences; ours.

    For the store of ``emojax meld``: it has one row per utterance, so there is no clock and no
    rate. Five folds by dialogue and three seeds are trained as replicas. The epoch is chosen on
    dialogues that are not scored: ``emojax evaluate --partition=test`` scores every utterance once.
    The hyper-parameters are the same for all folds. They were chosen by the cross-entropy of those
    other dialogues, which another fold scores, so the result is slightly optimistic. Over all
    utterances, the mean prediction of three seeds has accuracy .633 and macro F1 .415, a single
    seed .624 (.616 to .635) and .417, and ridge regression with smoothing .632 and .395.
    """
    config = paper()
    config.data.store = "stores/meld"
    config.data.streams = ("roberta", "wav2vec2")
    config.data.tasks = ("ekman",)
    config.data.clock = 0.0
    config.data.rates = ConfigDict()
    config.data.normalisation = ConfigDict(dict.fromkeys(config.data.streams, "zscore"))
    config.data.window = 24  # the longest dialogue has 23 utterances
    config.data.stride = 24
    config.data.scored = "all"
    config.data.evaluation_stride = 0
    config.data.batch_size = 8
    config.model.anchor = "roberta"
    config.model.width = 128
    config.model.attention_width = 32
    config.model.head_width = 128
    config.model.dropout = 0.5
    config.model.layers = 1
    config.model.reconstruction_weight = 0.0
    config.model.smoothness_weight = 0.0
    config.loss = ConfigDict({"ekman": "cross_entropy"})
    config.evaluation.selection = ConfigDict({"ekman": "cross_entropy"})
    config.replicas.folds = tuple(f"nested_{i}" for i in range(5))
    config.replicas.seeds = (0, 1, 2)
    config.train.epochs = 30
    config.train.learning_rate = 3e-4
    config.train.weight_decay = 10.0  # times the rate, so 0.003 a step
    return config


def simulated() -> ConfigDict:
    """Small and fast, for simulated data on 2 cores; ours.

    Two parts are not the paper's: context encoders in both directions, and attention that can
    prefer near rows. On a plain store of medium size, with fan and deepspectrum 128 wide, macro F1
    on validation was .673 (82 % of the optimum) after about 90 seconds. It was .551 without the two
    parts and with T = 12, a rate of 2e-3 and less dropout. The form is the best of a dozen by that
    same score, with one seed each, so the figure is optimistic.
    """
    config = paper()
    config.data.window = 54  # T = 18
    config.data.stride = 27
    config.data.random_offset = True
    config.data.batch_size = 16
    config.data.evaluation_stride = 18
    SMALL.narrow(config)
    config.model.context_bidirectional = True
    config.model.attention_locality = True
    config.model.dropout = 0.5
    config.model.temporal_dropout = 0.4
    config.train.epochs = 10
    config.train.epoch_steps = 100
    config.train.learning_rate = 1e-2
    config.train.warmup = "linear"
    config.train.warmup_epochs = 1
    config.train.decay = "cosine"
    return config


def simulated_many() -> ConfigDict:
    """Expressions and action units, one model each, from two thousand simulated videos; ours.

    ``simulated`` has too few examples: the states of a class last for seconds, so 200 videos of a
    minute have few of them. Gating is the fusion that learns both tasks best. It reaches macro F1
    .760 and mean F1 .762 on validation, 92 % and 91 % of the optimum, after 451 s.
    """
    config = other_tasks(simulated(), "expr", "au")
    config.replicas.targets = ("expr", "au")
    config.model.fusion = "gating"
    config.model.width = 128
    config.model.head_width = 128
    config.model.attention_locality = False
    config.train.epochs = 14
    config.train.epoch_steps = 250
    config.train.learning_rate = 3e-3
    config.train.ema = 0.99
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": paper,
    "attention": paper,
    "bilinear": functools.partial(fusion, "bilinear"),
    "concat": functools.partial(fusion, "concat"),
    "additive": functools.partial(fusion, "additive"),
    "gating": functools.partial(fusion, "gating"),
    "current_face": functools.partial(fusion, "current_face"),
    "video_only": functools.partial(fusion, "video_only"),
    "shared": shared,
    "face_2hz": face_2hz,
    "causal": causal,
    "t6": functools.partial(context, 6),
    "t9": functools.partial(context, 9),
    "t15": functools.partial(context, 15),
    "t18": functools.partial(context, 18),
    "table1": table1,
    "egemaps": functools.partial(audio, "egemaps"),
    "compare_lld": functools.partial(audio, "compare_lld"),
    "va": lambda: other_tasks(paper(), "va"),
    "au": lambda: other_tasks(paper(), "au"),
    "all": lambda: other_tasks(paper(), "va", "expr", "au"),
    "meld": meld,
    "simulated": simulated,
    "simulated_many": simulated_many,
    "simulated_va": lambda: other_tasks(simulated(), "va"),
    "simulated_au": lambda: other_tasks(simulated(), "au"),
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of a variant; the docstring of this file lists the variants."""
    return choose(VARIANTS, variant, __file__)
