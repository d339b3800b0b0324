"""Differences of RJCMA from its paper (Praveen & Alam 2024), section by section."""

from __future__ import annotations

from emojax.differences import Difference, Kind, one_of, other_than, stated, without

OURS, DIFFERS, CONTRADICTS, CODE = Kind.OURS, Kind.DIFFERS, Kind.CONTRADICTS, Kind.CODE
PAPER, UPSTREAM = {"model.variant": "paper"}, {"model.variant": "upstream"}

_FEATURES = (
    Difference(
        "The backbones (ResNet-50, VGG, BERT) are frozen, and their features are computed "
        "elsewhere. The paper fine-tunes the first two, group by group, on randomly cropped and "
        "flipped faces.",
        "sections 3.1, 4.2.2",
        DIFFERS,
        {"data.streams": one_of("ir50", "vggish")},
    ),
    Difference(
        "Every column of every stream is z-scored with the statistics of the fold's training "
        'videos. The paper does so for BERT; its "mean and standard deviation of 0.5" are those '
        "of the backbones' inputs.",
        "section 4.2.2",
        OURS,
        {"data.normalisation": {}},
    ),
    Difference(
        "The paper normalises BERT's features, and only the inputs of the other backbones. Here "
        "data.normalisation says what is done to each stream.",
        "section 4.2.2",
        OURS,
        {"data.normalisation": other_than({})},
    ),
    Difference(
        "The paper computes audio features at a hop of 1 / fps. Here each frame takes the row "
        "nearest in time, whatever the hop of the store's stream.",
        "section 4.2.1",
        OURS,
        {"data.streams": one_of("vggish"), "data.resampling.vggish": "nearest"},
    ),
    Difference(
        "The paper gives each frame of a word's time the features of the word, and does not speak "
        "of frames between words. Here each frame takes the row nearest in time, as far as a row "
        "of the store reaches; beyond it is a row of zeros.",
        "section 4.2.1",
        OURS,
        {"data.streams": one_of("bert"), "data.resampling.bert": "nearest"},
    ),
    Difference(
        "A missing face is a row of zeros. In the paper it is a black image that passes the "
        "backbone.",
        "section 4.2.1",
        DIFFERS,
        {"data.fill": "zeros"},
    ),
    Difference(
        "A missing face takes the nearest valid row. In the paper it is a black image.",
        "section 4.2.1",
        DIFFERS,
        {"data.fill": "nearest"},
    ),
    Difference(
        "Streams that the paper does not have.",
        "sections 3.1-3.3",
        OURS,
        {"data.streams": other_than("ir50", "vggish", "bert")},
    ),
    *(
        Difference(
            f"Without {name}, the {modality} modality of the paper's three.",
            "section 3.4",
            DIFFERS,
            {"data.streams": without(name)},
        )
        for name, modality in (("ir50", "visual"), ("vggish", "audio"), ("bert", "text"))
    ),
)

_WINDOWS = (
    stated("data.window", 300, "section 4.2.1"),
    stated("data.stride", 200, "section 4.2.1"),
    stated("data.clock", 0.0, "section 4.2.1", "The paper's windows count video frames."),
    Difference(
        "Frames annotated with -5 keep their place and are masked. The paper excludes them "
        "(data.unannotated=excluded).",
        "section 4.2.1",
        DIFFERS,
        {"data.unannotated": "masked"},
    ),
    Difference(
        "Frames annotated with -5 are left out before windows are cut, so that a window may join "
        "frames that are far apart. They are predicted by their nearest neighbour and not scored.",
        "section 4.2.1",
        OURS,
        {"data.unannotated": "excluded"},
    ),
    Difference(
        "The end of a video that is no whole window is not spoken of. Here the last window is "
        "padded, and padding is masked in every recursion; the public code aligns it to the "
        "video's end (data.align_end).",
        "section 4.2.1",
        OURS,
        {"data.align_end": False},
    ),
    Difference(
        "The end of a video that is no whole window is not spoken of. As in the public code the "
        "last window ends with the video; only a video shorter than a window is padded.",
        "section 4.2.1",
        CODE,
        {"data.align_end": True},
    ),
    Difference(
        "Training windows begin anywhere in a video, at a place drawn anew in each epoch.",
        "section 4.2.1",
        DIFFERS,
        {"data.random_offset": True},
    ),
    Difference(
        "Where windows overlap, predictions of a frame are averaged; the paper does not say.",
        "section 4.2.1",
        OURS,
        {"data.scored": "all"},
    ),
)

_TEMPORAL = (
    Difference(
        "The widths of the temporal networks are not given; these are ours, from code for ABAW8. "
        "Those of the authors' public code (512, 128 and 512) do not fit its own fusion layer.",
        "section 3.4",
        OURS,
        {"model.temporal": "tcn"},
    ),
    Difference(
        "Nothing is said of the inside of the temporal networks: number of blocks, dilation, "
        "weight normalisation, LeakyReLU, dropout 0.1 and batch normalisation after them are "
        "those of the public code.",
        "section 3.1",
        OURS,
        {"model.temporal": "tcn"},
    ),
    Difference(
        "Initial values are not given. Convolutions and W_j are drawn after LeCun.",
        "sections 3.1, 3.4",
        OURS,
        PAPER,
    ),
    Difference(
        "Whether the temporal networks look ahead is not said; as in the public code they do not.",
        "section 3.1",
        OURS,
        {"model.temporal": "tcn", "model.causal": True},
    ),
    Difference(
        "The temporal networks look ahead; those of the public code do not.",
        "section 3.1",
        OURS,
        {"model.temporal": "tcn", "model.causal": False},
    ),
    Difference(
        "LSTMs in the place of TCNs, as RJCA has them; their widths are ours.",
        "section 2.2, Table 2",
        DIFFERS,
        {"model.temporal": "lstm"},
    ),
    Difference(
        "There is no temporal network before the fusion.",
        "section 3.1",
        DIFFERS,
        {"model.temporal": "none"},
    ),
    Difference(
        "A temporal network on the fused streams, as RJCA has it.",
        "eq. 14",
        DIFFERS,
        {"model.fused_temporal": other_than("none")},
    ),
    Difference(
        "One recursion over audio and visual streams is the row JCA of Table 2. JCA (Praveen et "
        "al. 2022) has no TCNs, and the published row has other backbones; here they are kept.",
        "Table 2, section 5.1",
        DIFFERS,
        {"model.recursions": 1, "model.temporal": "tcn", "data.streams": without("bert")},
    ),
)

_FUSION = (
    stated("model.recursions", 3, "section 4.2.2"),
    Difference(
        "The K x K weights are parametrised as W_c = raw / K, drawn from N(0, 1), and "
        "W_h = raw / sqrt(K), which starts at zero, so that a fresh block is the identity. As "
        "printed and with usual initial values, the features reach an rms of hundreds.",
        "eq. 5-10",
        OURS,
        PAPER,
    ),
    Difference(
        "Each recursion has weights of its own, W_j, W_c and the layer of eq. 1 included, and "
        "computes J and C anew from the attended features. Eq. 11 to 13 print this for W_h and H.",
        "eq. 11-13",
        OURS,
        PAPER,
    ),
    Difference(
        "The fully connected layer of eq. 1 has a bias and no activation; the paper does not say.",
        "eq. 1",
        OURS,
        PAPER,
    ),
    Difference(
        "Dropout acts on H, at a rate that is ours; the paper names none.",
        "eq. 5-7",
        OURS,
        PAPER,
    ),
    Difference(
        "J is the plain concatenation of the streams, without the fully connected layer.",
        "eq. 1",
        CODE,
        UPSTREAM,
    ),
    Difference(
        "A linear layer with bias over the K frames, tanh(Linear(X_m) J^T / sqrt(d)), gives scores "
        "of channels by channels, d_m x d, with dropout, where the paper has frames by frames, "
        "K x K. The code holds W_j and never applies it.",
        "eq. 2-4",
        CODE,
        UPSTREAM,
    ),
    Difference(
        "The map is ReLU(tanh(Linear(X_m) scores)), and a linear layer from d to d_m, ReLU and "
        "dropout come before the sum, in the place of W_c and W_h.",
        "eq. 5-10",
        CODE,
        UPSTREAM,
    ),
    Difference(
        "The public code has 2 recursions, the paper 3.",
        "section 4.2.2",
        CODE,
        UPSTREAM | {"model.recursions": 2},
    ),
)

_HEAD = (
    Difference(
        'The "regression layers (Multi Layer Perceptron)" are one hidden layer of the public '
        "code's width with LeakyReLU, dropout and no activation at the end; the paper gives none "
        "of it.",
        "section 3.4",
        OURS,
        PAPER,
    ),
    Difference(
        "The head is that of the public code: a hidden layer, batch normalisation, LeakyReLU, and "
        "tanh at the end. The paper says no more than a Multi Layer Perceptron.",
        "section 3.4",
        OURS,
        UPSTREAM,
    ),
    Difference(
        "One model predicts several dimensions or tasks. The paper trains valence and arousal "
        "separately.",
        "section 4.2.2",
        DIFFERS,
        {"replicas.targets": other_than("valence", "arousal")},
    ),
    Difference(
        "Tasks that the paper does not have.",
        "section 4.1",
        OURS,
        {"data.tasks": other_than("va")},
    ),
)

_TRAINING = (
    stated("data.batch_size", 12, "section 4.2.2"),
    stated("train.epochs", 100, "section 4.2.2"),
    stated("train.learning_rate", 1e-5, "section 4.2.2"),
    stated("train.minimum_rate", 1e-8, "section 4.2.2"),
    stated("train.weight_decay", 1e-3, "section 4.2.2"),
    Difference(
        "The weights of the recursions do not decay. With the paper's L2 on all weights, W_j and "
        "the fully connected layer of J reach zero, and every recursion becomes the identity.",
        "section 4.2.2",
        DIFFERS,
        {"train.no_decay": ("recursion_*",)},
    ),
    Difference(
        "Some weights do not decay; the paper names none.",
        "section 4.2.2",
        OURS,
        {"train.no_decay": other_than((), ("recursion_*",))},
    ),
    stated("train.warmup_epochs", 5, "section 4.2.2"),
    stated("train.plateau_patience", 5, "section 4.2.2"),
    stated("train.plateau_factor", 0.1, "section 4.2.2"),
    stated("train.reload_best", True, "section 4.2.2"),
    stated("train.decay", "none", "section 4.2.2", "The paper's rate falls at plateaus alone."),
    Difference(
        "Eq. 15 does not say over which frames. Here it is one CCC of all annotated frames of a "
        "batch; the public code averages one of each window (loss ccc_window).",
        "eq. 15, eq. 16",
        OURS,
        {"loss.va": "ccc"},
    ),
    Difference(
        "One CCC of each window, averaged, as in the public code; but covariance and variances "
        "are means alike, where the code divides by T and by T - 1.",
        "eq. 15, eq. 16",
        CODE,
        {"loss.va": "ccc_window"},
    ),
    Difference(
        "Another loss than 1 - CCC.",
        "eq. 16",
        DIFFERS,
        {"loss.va": other_than("ccc", "ccc_window")},
    ),
    Difference(
        '"Adam with a weight decay" is read as L2 added to the gradient, as in the public code.',
        "section 4.2.2",
        OURS,
        {"train.optimizer": "adam_l2"},
    ),
    stated("train.optimizer", "adam_l2", "section 4.2.2", "Here the decay is decoupled."),
    Difference(
        '"Repetitive warm-up until epoch 5" is read as a climb from 0 to the full rate in each '
        "epoch. In the public code the climbs get higher and end at a fifth of the rate (warm-up "
        "rising).",
        "section 4.2.2",
        OURS,
        {"train.warmup": "repetitive"},
    ),
    Difference(
        "In epoch e of the warm-up the rate climbs to (e + 1) / 25 of the full one, as in the "
        "public code, which divides by the 5 epochs twice. The paper has a climb to the full rate "
        'within an epoch, then "repetitive warm-up".',
        "section 4.2.2",
        CODE,
        {"train.warmup": "rising"},
    ),
    Difference(
        "The paper's warm-up is repetitive.",
        "section 4.2.2",
        DIFFERS,
        {"train.warmup": one_of("linear", "none")},
    ),
    Difference(
        "The paper unfreezes three groups of backbone layers, one after the other. Over frozen "
        "features a release only resets rate, warm-up and the optimiser's moments, from the best "
        "weights.",
        "section 4.2.2",
        DIFFERS,
        {"train.releases": other_than(0)},
    ),
    Difference(
        "The paper starts its schedule over for each group of backbone layers; here it runs once.",
        "section 4.2.2",
        DIFFERS,
        {"train.releases": 0},
    ),
    Difference(
        "The rate drops at the sixth epoch in a row without improvement, as PyTorch's "
        'ReduceLROnPlateau with a patience of 5; the text says "over 5 consecutive epochs".',
        "section 4.2.2",
        OURS,
        {"train.plateau_patience": 5},
    ),
    Difference(
        "An epoch improves if it exceeds the best score since the last release. The public code "
        "compares with the best score of all (train.plateau_reference=best).",
        "section 4.2.2",
        OURS,
        {"train.plateau_reference": "release", "train.releases": other_than(0)},
    ),
    Difference(
        "The patience of early stopping is not given; 50 epochs are those of the public code.",
        "section 4.2.2",
        OURS,
        {"train.stop_patience": 50},
    ),
    Difference(
        "An epoch is a number of steps, not a pass over the training windows.",
        "section 4.2.2",
        DIFFERS,
        {"train.epoch_steps": other_than(0)},
    ),
    Difference(
        "The paper does not say how folds 1 to 5 were dealt. Those of the store are used; the "
        "builders deal the public code's with --folds=rjcma.",
        "section 4.2.2",
        OURS,
        {"replicas.folds": other_than("0")},
    ),
)

_NUMBERS = (
    Difference(
        "The abstract's .585 and .674 are those of fold 1; on the official validation set, "
        "fold 0, Table 2 has .455 and .652. Which model the test scores are of is not said.",
        "abstract, Tables 1, 2, 4",
        CONTRADICTS,
        {"data.tasks": "va"},
    ),
)

DIFFERENCES = (
    *_FEATURES,
    *_WINDOWS,
    *_TEMPORAL,
    *_FUSION,
    *_HEAD,
    *_TRAINING,
    *_NUMBERS,
)
