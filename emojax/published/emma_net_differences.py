"""Differences of EMMA-Net from its paper (Calloway et al. 2025)."""

from __future__ import annotations

from emojax.differences import Difference, Kind, one_of, other_than, stated

OURS, DIFFERS, CONTRADICTS = Kind.OURS, Kind.DIFFERS, Kind.CONTRADICTS
OVER_TIME = one_of("attention", "bilinear")

_FEATURES = (
    Difference(
        "The features are computed elsewhere. The face network's own training (AffectNet, then "
        "Aff-Wild2) is not part of emojax; as in the paper it stays frozen.",
        "sections 3.1, 4.2",
        DIFFERS,
        {"data.streams": "fan"},
    ),
    Difference(
        "The width of the face feature, d_f, is not given; 512 here.",
        "section 3.1",
        OURS,
        {"data.streams": "fan"},
    ),
    Difference(
        "The number of joints, J, is not given. 25 joints of two coordinates (50 columns) are "
        "OpenPose's body model.",
        "section 3.1",
        OURS,
        {"data.streams": "openpose"},
    ),
    Difference(
        "The paper tried this audio feature and does not say how its rows were brought to 2 Hz; "
        "here they are means over half a second.",
        "section 3.1",
        OURS,
        {"data.streams": one_of("egemaps", "compare_lld")},
    ),
    Difference(
        "Streams that the paper does not have.",
        "section 3.1",
        OURS,
        {"data.streams": other_than("fan", "deepspectrum", "openpose", "egemaps", "compare_lld")},
    ),
    Difference(
        "The paper says nothing about normalisation. Here streams are as "
        "config.data.normalisation has them; z-scored, with the statistics of the training videos "
        "of the fold, by default.",
        "section 4.1",
        OURS,
    ),
    Difference(
        "The paper removes videos that lie in the training and in the validation set, such as "
        "122-60-1920x1080-2. Here every video has one partition, as the store has it.",
        "section 4.1",
        OURS,
    ),
    Difference(
        "Frames without an annotation are masked in loss and score and still give context. The "
        "paper removes them.",
        "section 4.1",
        DIFFERS,
    ),
)

_TIME = (
    Difference(
        "Section 4.2 has one T = 12 at 2 frames a second; section 3.1 samples the face at 6 Hz. "
        "Here the face has 36 rows in the 6 seconds, audio and pose 12. Variant face_2hz takes "
        "the other reading.",
        "sections 3.1, 4.2",
        CONTRADICTS,
        {"data.clock": 6.0},
    ),
    Difference(
        "Section 3.1 samples the face at 6 Hz; section 4.2 has one T = 12 at 2 frames a second. "
        "Here the face has 12 rows too, so a prediction is made each half second.",
        "sections 3.1, 4.2",
        CONTRADICTS,
        {"data.clock": 2.0},
    ),
    Difference(
        "The paper's context is 6 seconds: 36 ticks of 6 Hz.",
        "section 4.2",
        DIFFERS,
        {"data.clock": 6.0, "data.window": other_than(36)},
    ),
    Difference(
        "The paper's context is 6 seconds: 12 ticks of 2 Hz.",
        "section 4.2",
        DIFFERS,
        {"data.clock": 2.0, "data.window": other_than(12)},
    ),
    Difference(
        "A row is not a span of a video: there is no clock, and one row for each tick.",
        "section 4.2",
        OURS,
        {"data.clock": other_than(6.0, 2.0)},
    ),
    Difference(
        "A prediction is held over all annotated frames that its tick covers, and each of them "
        "counts once in the score.",
        "section 4.1",
        OURS,
    ),
    Difference(
        "Which row of the window is the current frame is open: section 3 calls it central, while "
        'sections 1, 4.5 and 5 speak of "historical" cues and "past signals". Here it is the '
        "centre, and the face encoder and the attention look both ways.",
        "sections 1, 3, 4.5, 5",
        CONTRADICTS,
        {"model.causal": False, "data.scored": "centre"},
    ),
    Difference(
        "Which row of the window is the current frame is open: sections 1, 4.5 and 5 speak of "
        '"historical" cues and "past signals", and here it is the last, with nothing after it. '
        "But section 3 calls it central and eq. 1 has a bidirectional encoder of the face, which "
        "runs forward only here.",
        "eq. 1; sections 3, 4.5",
        CONTRADICTS,
        {"model.causal": True},
    ),
    Difference(
        "An anchor attends only to rows that end at its tick or before; eq. 4 has no such mask.",
        "eq. 4",
        OURS,
        {"model.causal": True, "model.fusion": OVER_TIME},
    ),
    Difference(
        "In training every tick of the window is an anchor of the loss, also those near its ends; "
        "only one is scored. The paper predicts one frame of a window.",
        "sections 3.2, 4.2",
        OURS,
        {"data.scored": one_of("centre", "last")},
    ),
    Difference(
        "The distance between two training windows is not given.",
        "section 4.2",
        OURS,
    ),
)

_MODEL = (
    Difference(
        "The softmax runs over the rows of one modality, so its weights always sum to 1 for each: "
        "as printed, the attention chooses rows and cannot turn a modality down. Section 1 claims "
        '"weights that modulate the contribution of each modality". Only fusion gating can.',
        "eq. 4, eq. 11; section 1",
        CONTRADICTS,
        {"model.fusion": OVER_TIME},
    ),
    Difference(
        "Eq. 4 prints one pair W_Q, W_K for all modalities; here each has its own pair. Variant "
        "shared has one.",
        "eq. 4",
        DIFFERS,
        {"model.fusion": "attention", "model.attention_shared": False},
    ),
    Difference(
        "Eq. 4 calls W_Q what acts on the rows and W_K what acts on the face that asks. The names "
        "are the paper's; the function does not depend on them.",
        "eq. 4",
        OURS,
        {"model.fusion": "attention"},
    ),
    Difference(
        "Eq. 4 to 6 and eq. 11 define the attention differently: projected, scaled and "
        "concatenated, or bilinear, unscaled and added. Variant bilinear is eq. 11.",
        "eq. 4-6, eq. 11",
        CONTRADICTS,
        {"model.fusion": "attention"},
    ),
    Difference(
        "Eq. 11 has no scale and is not followed by a definition of z; here z = [f_c; C]. Its "
        "score belongs to Table 2, whose attention may be eq. 4 to 6.",
        "eq. 11",
        CONTRADICTS,
        {"model.fusion": "bilinear"},
    ),
    Difference(
        'The paper has no equation for "learned scalar weights". Here they are a softmax over the '
        "modalities of the rows at the anchor, added, beside f_c.",
        "section 4.5",
        OURS,
        {"model.fusion": "additive"},
    ),
    Difference(
        'The paper has no equation for "a sigmoid gate". Here every feature of a modality\'s row '
        "at the anchor has one, from f_c and the rows of all modalities.",
        "section 4.5",
        OURS,
        {"model.fusion": "gating"},
    ),
    Difference(
        'The paper has no equation for "concat fusion". Here it is f_c beside the rows at the '
        "anchor.",
        "Table 2",
        OURS,
        {"model.fusion": "concat"},
    ),
    Difference(
        'Table 2 says "only video", section 4.4 "only video without face". Here it is the '
        "recurrent encoder of the face stream, without f_c.",
        "Table 2, section 4.4",
        CONTRADICTS,
        {"model.fusion": "video_only"},
    ),
    Difference(
        "The paper scores its face network here; ours is the head of eq. 7 on the face feature.",
        "Tables 1, 2",
        DIFFERS,
        {"model.fusion": "current_face"},
    ),
    Difference(
        "The encoders of audio and pose run in both directions. Section 3.1 says so of the face "
        "alone.",
        "eq. 2, eq. 3",
        DIFFERS,
        {"model.context_bidirectional": True},
    ),
    Difference(
        "The score of a row falls with its distance from the anchor, at a learned rate.",
        "eq. 4",
        OURS,
        {"model.attention_locality": True},
    ),
    Difference(
        "The anchor's projection has a bias.",
        "eq. 4",
        OURS,
        {"model.attention_bias": True},
    ),
    stated("model.layers", 2, "section 3.1"),
    Difference(
        "The widths are not given: h of the encoders, d_k of the attention, the head's hidden "
        "layer; nor is the head's activation, here a leaky ReLU.",
        "eq. 1-7",
        OURS,
    ),
    Difference(
        'The paper says "with dropout" of the head, without a rate, and nothing of dropout '
        "between recurrent layers.",
        "section 3.2",
        OURS,
    ),
    Difference(
        "Other tasks than the eight expressions.",
        "section 4.1",
        OURS,
        {"data.tasks": other_than("expr")},
    ),
)

_LOSS = (
    Difference(
        "Eq. 8 sums squares; here it is their mean over anchors and features, so that the weight "
        "does not depend on window, batch and width. The targets are constants of the gradient, "
        "for otherwise the encoders are paid for sequences of zeros.",
        "eq. 8",
        DIFFERS,
        {"model.reconstruction_weight": other_than(0), "model.fusion": other_than("current_face")},
    ),
    Difference(
        "Eq. 8 decodes a whole sequence H from one vector z and does not say by what. Here a "
        "linear layer decodes the row at the anchor.",
        "eq. 8",
        OURS,
        {"model.reconstruction_weight": other_than(0), "model.fusion": other_than("current_face")},
    ),
    Difference(
        "Eq. 9 sums over a sequence; here it is the mean over pairs of consecutive anchors, both "
        "real, of one window.",
        "eq. 9",
        DIFFERS,
        {"model.smoothness_weight": other_than(0)},
    ),
    Difference(
        "lambda_rec is not given.",
        "eq. 10",
        OURS,
        {"model.reconstruction_weight": other_than(0)},
    ),
    Difference(
        "lambda_smooth is not given.",
        "eq. 10",
        OURS,
        {"model.smoothness_weight": other_than(0)},
    ),
    Difference(
        "The modality reconstruction loss is left out.",
        "eq. 8, eq. 10",
        DIFFERS,
        {"model.reconstruction_weight": 0},
    ),
    Difference(
        "The temporal smoothness loss is left out.",
        "eq. 9, eq. 10",
        DIFFERS,
        {"model.smoothness_weight": 0},
    ),
)

_TRAINING = (
    stated("data.batch_size", 4, "section 4.2"),
    stated("train.learning_rate", 0.02, "section 4.2"),
    stated("train.plateau_factor", 0.5, "section 4.2"),
    Difference(
        "The paper's learning rate falls at plateaus alone.",
        "section 4.2",
        DIFFERS,
        {"train.decay": other_than("none")},
    ),
    Difference(
        "The paper has no warm-up.",
        "section 4.2",
        DIFFERS,
        {"train.warmup": other_than("none")},
    ),
    Difference(
        "AdamW is named for the face network alone, and its weight decay for EMMA-Net is not "
        "given.",
        "section 4.2",
        OURS,
        {"train.optimizer": "adamw"},
    ),
    Difference(
        "Neither Adam nor AdamW is named for EMMA-Net; AdamW is for the face network.",
        "section 4.2",
        OURS,
        {"train.optimizer": "adam_l2"},
    ),
    Difference(
        "The number of epochs, the end of training and the lowest learning rate are not given. "
        '"More than two epochs" of a plateau is said of the face network.',
        "section 4.2",
        OURS,
    ),
    Difference(
        "The paper deals the training videos at random into five parts of similar class shares. "
        "Folds other than 0 are those of the store; the Aff-Wild2 builder deals the paper's with "
        "--folds=emma.",
        "section 4.1",
        OURS,
        {"replicas.folds": other_than("0")},
    ),
)

_NUMBERS = (
    Difference(
        "The abstract claims .418 on validation; Table 2 and section 5 have macro F1 .361.",
        "abstract, Table 2",
        CONTRADICTS,
        {"data.tasks": "expr"},
    ),
    Difference(
        'Section 4.4 names Surprise and Disgust for "the largest gains". In Table 2 they are '
        "those of Anger (6 to 32 %) and Other (43 to 59 %) over the current face; Disgust falls "
        "from 21 to 11 %.",
        "section 4.4, Table 2",
        CONTRADICTS,
        {"data.tasks": "expr"},
    ),
    Difference(
        "The effective context utility has a threshold on an F1 score, between steps that have "
        "none, and begins at y_0. Here it is on the L1 distance of the probabilities of steps 2 "
        "to T.",
        "eq. 12",
        DIFFERS,
        {"data.tasks": "expr"},
    ),
)

DIFFERENCES = (*_FEATURES, *_TIME, *_MODEL, *_LOSS, *_TRAINING, *_NUMBERS)
