"""Differences of ExpTrm and its baselines from their paper (Brown et al. 2025)."""

from __future__ import annotations

from emojax.differences import Difference, Kind, all_of, other_than, stated, without

OURS, DIFFERS, CONTRADICTS = Kind.OURS, Kind.DIFFERS, Kind.CONTRADICTS

# What ExpTrm and the recurrent networks share: data, loss and training.
SHARED = (
    Difference(
        "The features are computed elsewhere and stay fixed: no network is trained below fc6 of "
        "VGGFace. The paper does not say if its own was.",
        "section 4.2",
        OURS,
        {"data.streams": "vggface"},
    ),
    Difference(
        "Section 3.3.1 feeds log-spectrograms or mel filterbanks to the audio encoder, section 4.2 "
        "the 65 low-level descriptors. Here it is the latter.",
        "sections 3.3.1, 4.2",
        CONTRADICTS,
        {"data.streams": "compare_lld"},
    ),
    Difference(
        '"Downsampled by a factor of 3.3" is read as the mean of the rows of a video frame.',
        "section 4.4",
        OURS,
        {"data.resampling.compare_lld": "mean"},
    ),
    Difference(
        "The paper downsamples audio by a factor of 3.3; here a frame takes rows at its own time.",
        "section 4.4",
        DIFFERS,
        {"data.resampling.compare_lld": other_than("mean")},
    ),
    Difference(
        "Only audio is z-normalised in the paper; here the face is normalised too.",
        "section 4.2",
        DIFFERS,
        {"data.streams": "vggface", "data.normalisation.vggface": without("none")},
    ),
    Difference(
        "Audio is z-normalised in the paper, with the statistics of the training set.",
        "section 4.2",
        DIFFERS,
        {
            "data.streams": "compare_lld",
            "data.normalisation.compare_lld": other_than("zscore"),
        },
    ),
    Difference(
        "A frame without a face has a row of zeros and is scored. The paper says nothing of "
        "frames that its detector missed.",
        "section 4.2",
        OURS,
        {"data.streams": "vggface", "data.fill": "zeros"},
    ),
    stated("data.window", 100, "section 4.4"),
    Difference(
        "Section 4.4 trains for 1 - CCC, section 3.4 for the mean squared error (eq. 13). Here it "
        "is the former, of all annotated frames of a batch.",
        "eq. 13, section 4.4",
        CONTRADICTS,
        {"loss.va": "ccc"},
    ),
    Difference(
        "Section 3.4 trains for the mean squared error, section 4.4 for 1 - CCC. Eq. 13 adds the "
        "errors of valence and arousal: twice the mean over both, which is trained here.",
        "eq. 13, section 4.4",
        CONTRADICTS,
        {"loss.va": "mse"},
    ),
    Difference(
        "Another loss than the paper's two.",
        "eq. 13, section 4.4",
        DIFFERS,
        {"loss.va": other_than("ccc", "mse")},
    ),
    Difference(
        "The lowest validation loss chooses the weights in the paper. Here it is the score of the "
        "whole partition, which for CCC is 1 less the loss over it.",
        "section 4.4",
        OURS,
        {"data.tasks": "va"},
    ),
    stated("train.learning_rate", 1e-5, "section 4.4"),
    Difference(
        "Weight decay has no number in the paper. It is added to the gradient, as Adam has it.",
        "sections 3.4, 4.4",
        OURS,
        {"train.optimizer": "adam_l2"},
    ),
    Difference(
        "The paper names Adam; here the weight decay is apart from the gradient.",
        "section 4.4",
        DIFFERS,
        {"train.optimizer": other_than("adam_l2")},
    ),
    Difference(
        "Batch size, stride of the windows, number of epochs, the patience of early stopping and "
        "the rate of dropout are not given.",
        "section 4.4",
        OURS,
    ),
    Difference(
        "The paper has no warm-up, and its learning rate does not fall.",
        "section 4.4",
        DIFFERS,
        {"train.warmup": other_than("none")},
    ),
    Difference(
        "Other tasks than valence and arousal. Expressions are the paper's future work.",
        "section 6",
        OURS,
        {"data.tasks": other_than("va")},
    ),
    Difference(
        "Other streams than the paper's two.",
        "section 4.2",
        OURS,
        {"data.streams": other_than("vggface", "compare_lld")},
    ),
    Difference(
        "The paper splits 558 videos into 350 for training, 70 for validation and 138 for test. "
        "Here videos and partitions are those of the annotations at hand; editions have others.",
        "section 4.1",
        OURS,
        {"data.tasks": "va"},
    ),
    Difference(
        "The partition of Table 1 is not named.",
        "Table 1",
        OURS,
        {"data.tasks": "va"},
    ),
)

_AUDIO = (
    Difference(
        "A window of two seconds is 60 rows of 65, 3900 wide, and is to match 4096. Here 63 rows "
        "(2.1 seconds, centred) and one zero do.",
        "section 4.4",
        CONTRADICTS,
        {"data.context.compare_lld": 31},
    ),
    Difference(
        "The paper stacks audio over two seconds, to the 4096 columns of the video.",
        "section 4.4",
        DIFFERS,
        {"data.context.compare_lld": other_than(31)},
    ),
    Difference(
        "Audio is not filled up to the 4096 columns of the video.",
        "section 4.4",
        DIFFERS,
        {"data.streams": "compare_lld", "model.stacked_width": other_than(4096)},
    ),
)

_MODEL = (
    Difference(
        "A linear layer brings the 4096 columns to d_model before the positions are added. The "
        "paper does not describe one; encoders of width 4096 would be far too large for its claim "
        "about parameters.",
        "sections 3.3.1, 5.2",
        OURS,
    ),
    Difference(
        "d_model, the number of layers and heads, the feed-forward layer, its activation and "
        "the place of the norms are not given. They are those of the base model of Vaswani et al. "
        "2017 with fewer layers.",
        "section 4.3",
        OURS,
    ),
    Difference(
        "The number of layers is chosen so that ExpTrm has about as many parameters as the "
        "recurrent networks. These are large because a connected layer of 4096 (16.8 million "
        "parameters) stands on a feature that already is such a layer; without it "
        "they have a tenth.",
        "sections 4.5, 5.2",
        OURS,
    ),
    Difference(
        "Eq. 7 and 9 print the same W for both directions and one head. Here each direction has "
        "weights of its own, and heads and an output projection as in eq. 3.",
        "eq. 7-10",
        DIFFERS,
        {"data.streams": all_of("vggface", "compare_lld")},
    ),
    Difference(
        "alpha and beta start at one half each.",
        "eq. 11",
        OURS,
        {"data.streams": all_of("vggface", "compare_lld"), "model.fusion": "weights"},
    ),
    Difference(
        "alpha and beta are sigmoid gates of each frame, from the attentions of both directions. "
        "The paper has two learned numbers, and leaves gated fusion as future work.",
        "eq. 11, section 6",
        DIFFERS,
        {"model.fusion": "gates"},
    ),
    Difference(
        "Eq. 12 ends in ReLU, which cannot give a negative value; here the dense layer ends in "
        "nothing.",
        "eq. 12",
        DIFFERS,
        {"model.head_activation": "none"},
    ),
    Difference(
        "Eq. 12 ends in ReLU, which cannot give a negative value; here the dense layer ends in "
        "tanh.",
        "eq. 12",
        DIFFERS,
        {"model.head_activation": "tanh"},
    ),
    Difference(
        "One encoder and the head, without eq. 7 to 11; the paper does not say what its model of "
        "one modality is.",
        "Table 1",
        OURS,
        {"data.streams": without("compare_lld")},
    ),
    Difference(
        "One encoder and the head, without eq. 7 to 11; the paper has no row for audio alone.",
        "Table 1",
        OURS,
        {"data.streams": without("vggface")},
    ),
)

_NUMBERS = (
    Difference(
        "Sections 1 and 5.2 claim 1.7 % of valence over VGGFace-RNN (A+V). In Table 1 that is the "
        "distance to VGGFace-RNN (V), .396 to .379; to (A+V) it is .052. The 1.9 % of arousal are "
        "to (A+V).",
        "section 5.2, Table 1",
        CONTRADICTS,
        {"data.tasks": "va"},
    ),
    Difference(
        "Fisher's z at p < .01 is in the caption of Table 1 alone; section 5.4 has no level. It "
        "is for Pearson's r of independent frames, so a bootstrap over videos stands beside it.",
        "Table 1, section 5.4",
        OURS,
        {"data.tasks": "va"},
    ),
    Difference(
        "The study of missing modalities has ten trials of random frames, zeroed at the model's "
        "input after normalisation and stacking. Steps of a tenth are ours.",
        "section 5.3",
        OURS,
        {"data.tasks": "va"},
    ),
)

EXPTRM = (*_AUDIO, *_MODEL, *SHARED, *_NUMBERS)

_RECURRENT = (
    Difference(
        "A connected layer of 4096 stands on the rows of vggface, which already are such a layer "
        "(fc6). Section 4.5 can also be read so that they are one and the same. This "
        "layer holds 16.8 of the 18.5 million parameters of VGGFace-RNN (V), and the parity of "
        "section 5.2 rests on it.",
        "sections 4.2, 4.5, 5.2",
        OURS,
        {"model.hidden.vggface": 4096},
    ),
    Difference(
        "The connected layer on vggface is left out, for its rows already are one. Then the "
        "network has about a tenth of ExpTrm's parameters, where the paper has them within 10 %.",
        "sections 4.5, 5.2",
        OURS,
        {"data.streams": "vggface", "model.hidden": {}},
    ),
    Difference(
        "AffWildNet trains a whole VGGFace on each image; here two layers on its frozen fc6.",
        "section 4.5",
        DIFFERS,
        {"data.streams": "vggface", "model.recurrent": {}},
    ),
    Difference(
        "Trained on Aff-Wild2 alone, this is VGGFace-RNN (V). For AffWildNet, which was trained "
        "on Aff-Wild, it wants train.init_from.",
        "section 4.5",
        DIFFERS,
        {"data.streams": without("compare_lld"), "train.init_from": ""},
    ),
    Difference(
        "Whether the audio network reads 100 rows a second or one a video frame is open; here "
        "one a frame.",
        "section 4.5",
        OURS,
        {"data.streams": "compare_lld"},
    ),
    Difference(
        "The widths of the audio network and of the two layers on both are not given; 128 as "
        "those of the video.",
        "section 4.5",
        OURS,
        {"data.streams": "compare_lld"},
    ),
    Difference(
        "Outputs of both networks are concatenated: here those of their last recurrent layers, "
        "without their heads, and all is trained at once.",
        "section 4.5",
        OURS,
        {"data.streams": "compare_lld", "model.fused": other_than(())},
    ),
    Difference(
        "The direction of the recurrent layers is not given; here forward.",
        "section 4.5",
        OURS,
        {"model.causal": True},
    ),
    Difference(
        "The direction of the recurrent layers is not given; here both.",
        "section 4.5",
        OURS,
        {"model.causal": False},
    ),
    Difference(
        "The paper gives no training for these networks: it is ExpTrm's.",
        "section 4.4",
        OURS,
    ),
    Difference(
        "Nor does it give the end of the head; here the dense layer ends in nothing.",
        "section 4.5",
        OURS,
        {"model.head_activation": "none"},
    ),
)

RECURRENT = (*_RECURRENT, *SHARED)
