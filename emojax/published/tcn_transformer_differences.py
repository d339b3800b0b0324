"""Differences of the TCN-Transformer from its paper (Zhou et al. 2023), section by section.

"The code" is that of the authors, github.com/upczww/abaw5.
"""

from __future__ import annotations

from emojax.differences import Difference, Kind, all_of, one_of, other_than, stated

OURS, DIFFERS, CONTRADICTS, CODE = Kind.OURS, Kind.DIFFERS, Kind.CONTRADICTS, Kind.CODE
PAPER, UPSTREAM = {"model.variant": "paper"}, {"model.variant": "upstream"}
_STREAMS = ("eff", "affectnet8", "raf_db", "arcface", "wav2vec2_emotion")

_FEATURES = (
    Difference(
        "The features are computed elsewhere, by extractors that stay frozen, as in the paper.",
        "sections 3.2, 3.3",
        OURS,
        {"data.streams": one_of(*_STREAMS)},
    ),
    Difference(
        "A missing face is a row of zeros; the paper takes the closest frame with a face.",
        "section 3.1",
        DIFFERS,
        {"data.fill": "zeros"},
    ),
    Difference(
        "The audio is interpolated linearly in time to the frames. The paper says "
        '"interpolation"; the code takes the nearest row.',
        "section 3.2",
        OURS,
        {"data.resampling.wav2vec2_emotion": "linear"},
    ),
    Difference(
        "Every column of every stream is z-scored with the statistics of the fold's training "
        "videos, as in the code; the paper says nothing about normalisation. The code keeps those "
        "of fold 0 for all folds.",
        "section 3",
        OURS,
        {"data.normalisation": {}},
    ),
    Difference(
        "The paper gives valence .5505 and arousal .6809 to four streams in Table 1 and to five, "
        "with arcface, in Table 6.",
        "Tables 1, 6",
        CONTRADICTS,
        {"data.streams": all_of("eff", "affectnet8", "raf_db", "wav2vec2_emotion")},
    ),
    Difference(
        "The code reads other streams: for valence and arousal the four, arcface and wav2vec 2.0, "
        "for expressions raf_db as well, for action units eff and affectnet8. Here the paper's are "
        "kept.",
        "section 4.1",
        CODE,
        UPSTREAM,
    ),
    Difference(
        "Streams that the paper does not have.",
        "sections 3.2, 3.3",
        OURS,
        {"data.streams": other_than(*_STREAMS)},
    ),
)

_WINDOWS = (
    stated("data.window", 300, "section 4.1"),
    stated("data.stride", 200, "section 4.1"),
    stated("data.clock", 0.0, "section 3.4", "The paper's segments count video frames."),
    Difference(
        "A video of n frames has as many windows as cover it. The paper prints floor(n / s) + 1 "
        "segments, of which the last ones may repeat frames or hold none "
        "(data.window_count=floor). The code leaves out the end of a video, and videos shorter "
        "than a segment.",
        "section 3.4",
        DIFFERS,
        {"data.window_count": "cover"},
    ),
    Difference(
        "floor(n / s) + 1 segments, as printed. Frames beyond the video, which the formula also "
        "names, are padding; where s divides n the last segment is nothing else.",
        "section 3.4",
        CONTRADICTS,
        {"data.window_count": "floor"},
    ),
    Difference(
        "Section 3.5.2 calls s the length of a segment and w the window; section 3.4, which is "
        "followed, calls w the window and s the stride.",
        "sections 3.4, 3.5.2",
        CONTRADICTS,
    ),
    Difference(
        "Training windows begin anywhere in a video, at a place drawn anew in each epoch.",
        "section 3.4",
        DIFFERS,
        {"data.random_offset": True},
    ),
    Difference(
        "Where windows overlap, predictions of a frame are averaged; the paper does not say, and "
        "the code predicts test videos in windows that do not overlap.",
        "section 3.4",
        OURS,
        {"data.scored": "all"},
    ),
    Difference(
        "Frames without an annotation are masked, as in the code; the paper does not speak of "
        "them.",
        "section 3.6",
        OURS,
        {"data.unannotated": "masked"},
    ),
)

_MODEL = (
    Difference(
        '"Different kernel sizes and dilation rates" are promised; as in the code all '
        "convolutions have the same kernel, and the dilations are 1, 2 and 4.",
        "section 3.5.1",
        CODE,
    ),
    Difference(
        "Figure 1 has three temporal blocks. Their widths, PReLU, weight normalisation and that "
        "they see only the past are those of the code.",
        "section 3.5.1, figure 1",
        OURS,
        {"model.causal": True, "model.activation": "prelu"},
    ),
    Difference(
        "Initial values are not given: convolutions and connected layers are drawn after LeCun, "
        "projections of the attention after Glorot. The code leaves most to PyTorch.",
        "section 3.5",
        OURS,
    ),
    Difference(
        "The TCNs look both ways; those of the code see only the past, and the paper does not say.",
        "section 3.5.1",
        OURS,
        {"model.causal": False},
    ),
    Difference(
        "Eight layers, four heads, feed-forward layers of 512, normalisation after the sum and no "
        "position code are those of the code; the paper gives none of them.",
        "section 3.5.2",
        OURS,
        {"model.layers": 8, "model.norm": "post", "model.positions": "none"},
    ),
    Difference(
        "Layers, normalisation or position codes of the encoder are neither the paper's, which "
        "gives none, nor the code's.",
        "section 3.5.2",
        OURS,
        {"model.layers": other_than(8)},
    ),
    Difference(
        "The encoder reads the concatenated features themselves, as printed; the code projects "
        "them to 512 by a 1x1 convolution first (variant upstream).",
        "section 3.5.2",
        OURS,
        PAPER | {"model.width": 0},
    ),
    Difference(
        "A 1x1 convolution projects the concatenated features before the encoder, as in the code; "
        "the paper's encoder reads them as they are.",
        "section 3.5.2",
        CODE,
        {"model.width": other_than(0)},
    ),
    Difference(
        'The MLP of "several layers ... non-linear" has one hidden layer of the code\'s width '
        "with batch normalisation; LeakyReLU after it is ours, since the code has no activation.",
        "section 3.5.3",
        OURS,
        {"model.head": "mlp"},
    ),
    Difference(
        "The head is Linear, batch normalisation, Linear, as in the code, and so no MLP.",
        "section 3.5.3",
        CODE,
        {"model.head": "linear"},
    ),
    Difference(
        "Valence and arousal have heads of their own, as in the code; the paper's y has both "
        "columns.",
        "section 3.5.3",
        CODE,
        {"model.heads": "per_dimension", "data.tasks": one_of("va")},
    ),
    Difference(
        "Nothing bounds valence and arousal in training; the code clips the predictions of test "
        "videos to [-1, 1] (--postprocess=clip of emojax crossval and predict).",
        "section 3.5.3",
        OURS,
        {"data.tasks": one_of("va")},
    ),
    Difference(
        "One model of several tasks; the paper trains one for each challenge.",
        "section 3.5.3",
        OURS,
        {"replicas.targets": one_of("all")},
    ),
)

_LOSS = (
    Difference(
        "Eq. 1 prints the covariance as a sum, without 1 / N; it is a mean here, for otherwise "
        "CCC would not lie between -1 and 1.",
        "eq. 1",
        CONTRADICTS,
        {"loss.va": one_of("ccc", "ccc_window")},
    ),
    Difference(
        "CCC is computed over all annotated frames of a batch, as in the code, and the losses of "
        "valence and arousal are averaged, where the code adds them; the paper says neither.",
        "eq. 2",
        OURS,
        {"loss.va": "ccc"},
    ),
    Difference(
        "Eq. 4 has no mean over the action units. Each is averaged over the frames where it is "
        "annotated, and then all are.",
        "eq. 4",
        OURS,
        {"data.tasks": one_of("au")},
    ),
    Difference(
        "The class is the most probable one; the paper does not say.",
        "section 4.2",
        OURS,
        {"data.tasks": one_of("expr")},
    ),
    Difference(
        "An action unit is present from probability 0.5; the paper does not say.",
        "section 4.2",
        OURS,
        {"data.tasks": one_of("au")},
    ),
)

_TRAINING = (
    stated("data.batch_size", 32, "section 4.1"),
    stated("model.dropout", 0.3, "section 4.1"),
    stated("train.optimizer", "adamw", "section 4.1"),
    stated("train.learning_rate", 3e-5, "section 4.1"),
    stated("train.weight_decay", 1e-5, "section 4.1"),
    stated("train.decay", "cosine", "section 4.1"),
    stated(
        "train.warmup_epochs", 1, "section 4.1", "The code warms up for two (variant upstream)."
    ),
    Difference(
        "The form of the warm-up is not given; it is linear, as in the code.",
        "section 4.1",
        OURS,
        {"train.warmup": "linear"},
    ),
    Difference(
        "The number of epochs is not given; 40 for valence and arousal and 30 for the others are "
        "those of the code, and so is the lowest rate. The code's cosine begins its second period, "
        "twice as long, if training goes on.",
        "section 4.1",
        OURS,
        {"train.epochs": one_of(40, 30)},
    ),
    Difference(
        "The rate of the paper's one cosine falls to its lowest over the whole training. Here "
        "training has another length than the code's 40 and 30 epochs.",
        "section 4.1",
        OURS,
        {"train.epochs": other_than(40, 30)},
    ),
    Difference(
        "The code validates four times in an epoch, and keeps the weights that are best in the sum "
        "of CCCs; here it is once in an epoch.",
        "section 4.1",
        OURS,
        {"train.epoch_steps": 0},
    ),
    Difference(
        "An epoch is a number of steps, not a pass over the training windows.",
        "section 4.1",
        DIFFERS,
        {"train.epoch_steps": other_than(0)},
    ),
    Difference(
        "Fold 0 is the official split. How folds 1 to 4 were dealt is not said: in the code four "
        "contiguous blocks of all training and validation videos, in the order of a folder's "
        "listing, which splits two people of one video. The builders' --folds=tcn_transformer "
        "deals four by source video.",
        "section 4.3, Table 5",
        OURS,
        {"replicas.folds": other_than("0")},
    ),
)

DIFFERENCES = (*_FEATURES, *_WINDOWS, *_MODEL, *_LOSS, *_TRAINING)
