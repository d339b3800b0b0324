"""Differences of the multi-scale TCN from its paper (Yu et al. 2025), equation by equation."""

from __future__ import annotations

from emojax.differences import Difference, Kind, one_of, other_than, stated, without

OURS, DIFFERS, CONTRADICTS = Kind.OURS, Kind.DIFFERS, Kind.CONTRADICTS

_FEATURES = (
    Difference(
        "The backbones are frozen, and their features are computed elsewhere. Whether the paper's "
        'last stage, "the entire architecture ... end-to-end", trains them is open.',
        "eq. 1-4, section 3.7",
        OURS,
    ),
    Difference(
        "The VGG of the log-mel branch, eq. 4, is not named; the stream logmel is whatever 128 "
        "columns the store has.",
        "eq. 3, eq. 4, Table 1",
        OURS,
        {"data.streams": one_of("logmel")},
    ),
    Difference(
        "How audio features are brought to the video's frames is not said. Here each frame takes "
        "the row nearest in time.",
        "section 3.3",
        OURS,
    ),
    Difference(
        "Every column of every stream is z-scored with the statistics of the fold's training "
        "videos; the paper says nothing about normalisation.",
        "section 4",
        OURS,
        {"data.normalisation": {}},
    ),
    Difference(
        "Missing faces and frames without annotation are not spoken of. Here the first are rows "
        "of zeros that count, the second are masked.",
        "section 4.1",
        OURS,
        {"data.fill": "zeros", "data.unannotated": "masked"},
    ),
    *(
        Difference(
            f"Without {name}, one of the paper's three streams.",
            "section 3.1",
            DIFFERS,
            {"data.streams": without(name)},
        )
        for name in ("ir50", "vggish", "logmel")
    ),
    Difference(
        "Streams that the paper does not have.",
        "Table 1",
        OURS,
        {"data.streams": other_than("ir50", "vggish", "logmel")},
    ),
    Difference(
        "Length and distance of windows are not given; these are RJCMA's. Where windows overlap, "
        "predictions of a frame are averaged.",
        "section 4",
        OURS,
    ),
)

_MODEL = (
    stated("model.kernel_sizes", (3, 5, 7), "eq. 5-7"),
    Difference(
        "The widths and the number of blocks of the TCNs are not given. The three of a stream are "
        "alike but for their kernel.",
        "eq. 5-7",
        OURS,
    ),
    Difference(
        "The inside of a TCN is not given beyond dilated convolutions and a citation: dilation "
        "2^i, weight normalisation, residuals and dropout are as in Bai et al. 2018, and the "
        "activation is LeakyReLU where those have ReLU.",
        "section 3.4",
        OURS,
    ),
    Difference(
        "Initial values are not given; they are drawn after LeCun.",
        "sections 3.4, 3.6",
        OURS,
    ),
    Difference(
        "The TCNs see only the past, as in Bai et al. 2018; the paper does not say.",
        "section 3.4",
        OURS,
        {"model.causal": True},
    ),
    Difference(
        "The TCNs look both ways. The paper does not say; those of Bai et al. 2018, its [2], see "
        "only the past.",
        "section 3.4",
        OURS,
        {"model.causal": False},
    ),
    Difference(
        "Eq. 8 has no projections, so visual and audio features need one width: all streams end "
        "at the same. There is one head, no residual and no position code, as printed, and the "
        "softmax runs over all real frames of the window.",
        "eq. 8-10",
        OURS,
        {"data.streams": other_than("ir50"), "model.queries": True},
    ),
    Difference(
        "The features of all streams are concatenated, without an attention.",
        "eq. 8-11",
        DIFFERS,
        {"model.queries": False},
    ),
    Difference(
        "Another stream than the visual one asks.",
        "eq. 9, eq. 10",
        DIFFERS,
        {"model.leader": other_than("ir50"), "model.queries": True},
    ),
    Difference(
        'Section 3.7 trains a "Transformer encoder", which no equation and no other section '
        "mentions: it is left out.",
        "section 3.7",
        CONTRADICTS,
    ),
    Difference(
        "The width of the hidden layer and the rate of dropout are not given. GELU is the exact "
        "one.",
        "eq. 13, eq. 14",
        OURS,
    ),
    Difference(
        "Each dimension has a regression layer of its own; eq. 15 has one for both.",
        "eq. 15",
        DIFFERS,
        {"model.heads": "per_target"},
    ),
    Difference(
        "Tasks that the paper does not have.",
        "section 4.1",
        OURS,
        {"data.tasks": other_than("va")},
    ),
)

_TRAINING = (
    Difference(
        "No loss is given. 1 - CCC over all annotated frames of a batch is what eq. 16 scores.",
        "section 3.7, eq. 16",
        OURS,
        {"loss.va": "ccc"},
    ),
    Difference(
        "No loss is given; this is not what eq. 16 scores over a whole partition.",
        "section 3.7, eq. 16",
        OURS,
        {"loss.va": other_than("ccc")},
    ),
    Difference(
        "Optimiser, learning rate and its schedule, weight decay, batch, epochs and early stopping "
        "are not given.",
        "section 3.7",
        OURS,
    ),
    Difference(
        '"The TCNs in each branch are trained": a branch is read as a stream with its three TCNs, '
        "trained under a linear head of its own that is then dropped; the epochs of the stage and "
        "what it freezes are ours. The backbones' pre-training is not part of emojax.",
        "section 3.7",
        OURS,
        {"train.stages": other_than(())},
    ),
    Difference(
        "Everything is trained at once; the paper trains the TCNs of each branch first.",
        "section 3.7",
        DIFFERS,
        {"train.stages": one_of(())},
    ),
    Difference(
        "How folds 1 to 5 were dealt is not said; those of the store are used.",
        "section 4.2, Table 2",
        OURS,
        {"replicas.folds": other_than("0")},
    ),
)

_NUMBERS = (
    Difference(
        "The text claims that the method exceeds the baseline on all six folds; the paper gives "
        "one pair of numbers for the baseline, that of the official validation set.",
        "section 4.2, Table 2",
        CONTRADICTS,
        {"data.tasks": "va"},
    ),
)

DIFFERENCES = (*_FEATURES, *_MODEL, *_TRAINING, *_NUMBERS)
