"""Differences of LFAN from its authors' public code (Zhang, Zhao and Guan 2023).

RJCMA's paper compares with LFAN. The report on it is short, and what is said here to be "the code"
is github.com/sucv/ABAW3.
"""

from __future__ import annotations

from emojax.differences import Difference, Kind, one_of, other_than

DIFFERS, OURS = Kind.DIFFERS, Kind.OURS


def _of_code(key: str, value: object, where: str) -> Difference:
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
    return Difference(f"The code has {key} = {shown}.", where, DIFFERS, {key: other_than(value)})


_DATA = (
    Difference(
        "The backbones are frozen, and their features are computed elsewhere. The code fine-tunes "
        "them from frames and log-mel spectrograms, group by group.",
        "trainer.py, models/",
        DIFFERS,
    ),
    Difference(
        "Audio, visual and text streams, as RJCMA's Table 2 compares them. The code's default are "
        "faces, log-mel spectrograms and eGeMAPS.",
        "main.py",
        DIFFERS,
        {"data.streams": one_of("bert")},
    ),
    Difference(
        "Every column of every stream is z-scored. The code has one mean and deviation for all "
        "columns of a stream, and none for what passed a backbone.",
        "base/dataset.py",
        OURS,
        {"data.normalisation": {}},
    ),
    Difference(
        "A missing face is a row of zeros; in the code it is a black image.",
        "base/dataset.py",
        DIFFERS,
        {"data.fill": "zeros"},
    ),
    _of_code("data.window", 300, "main.py"),
    _of_code("data.stride", 200, "main.py"),
    _of_code("data.clock", 0.0, "main.py"),
    Difference(
        "Frames without an annotation are masked. The code removes them before it cuts windows "
        "(variant upstream).",
        "preprocessing",
        DIFFERS,
        {"data.unannotated": "masked"},
    ),
    Difference(
        "The last window of a video is padded. In the code it ends with the video (variant "
        "upstream).",
        "base/dataset.py",
        DIFFERS,
        {"data.align_end": False},
    ),
    Difference(
        "Training windows begin anywhere in a video, at a place drawn anew in each epoch.",
        "base/dataset.py",
        DIFFERS,
        {"data.random_offset": True},
    ),
)

_MODEL = (
    _of_code("model.leader", "ir50", "models/model.py"),
    _of_code("model.kernel_size", 5, "main.py"),
    _of_code("model.modal_width", 32, "main.py"),
    _of_code("model.attention_heads", 2, "main.py"),
    _of_code("model.causal", True, "models/temporal_convolutional_model.py"),
    Difference(
        "Without batch normalisation and tanh, as the code was for ABAW3.",
        "models/model.py",
        DIFFERS,
        {"model.batch_norm": False, "model.output": "linear"},
    ),
    Difference(
        "One model predicts several dimensions or tasks; the code trains one emotion at a time.",
        "main.py",
        DIFFERS,
        {"replicas.targets": other_than("valence", "arousal")},
    ),
    Difference(
        "Tasks that the code does not have.",
        "main.py",
        OURS,
        {"data.tasks": other_than("va")},
    ),
)

_TRAINING = (
    _of_code("data.batch_size", 12, "main.py"),
    _of_code("train.epochs", 100, "main.py"),
    _of_code("train.learning_rate", 1e-5, "main.py"),
    _of_code("train.minimum_rate", 1e-8, "main.py"),
    _of_code("train.weight_decay", 1e-3, "trainer.py"),
    _of_code("train.optimizer", "adam_l2", "trainer.py"),
    _of_code("train.plateau_patience", 5, "main.py"),
    _of_code("train.plateau_factor", 0.1, "main.py"),
    _of_code("train.reload_best", True, "main.py"),
    _of_code("train.stop_patience", 50, "main.py"),
    Difference(
        "One CCC over the annotated frames of a batch; the code averages one of each window "
        "(variant window_loss).",
        "base/loss_function.py",
        DIFFERS,
        {"loss.va": "ccc"},
    ),
    Difference(
        "Covariance and variances of a window are means alike; the code divides by T and by T - 1.",
        "base/loss_function.py",
        DIFFERS,
        {"loss.va": "ccc_window"},
    ),
    Difference(
        "The warm-up is that of RJCMA's paper, a climb to the full rate in each epoch. In epoch e "
        "of five the code climbs to (e + 1) / 25 of it (variant upstream).",
        "base/scheduler.py",
        DIFFERS,
        {"train.warmup": "repetitive"},
    ),
    Difference(
        "One linear warm-up. In epoch e of five the code climbs from 0 to (e + 1) / 25 of the "
        "rate.",
        "base/scheduler.py",
        DIFFERS,
        {"train.warmup": "linear"},
    ),
    Difference(
        "An epoch improves if it exceeds the best score since the last release; the code compares "
        "with the best score of all (variant upstream).",
        "trainer.py",
        DIFFERS,
        {"train.plateau_reference": "release", "train.releases": other_than(0)},
    ),
    Difference(
        "The code unfreezes three groups of backbone layers. Over frozen features a release only "
        "resets rate, warm-up and the optimiser's moments, from the best weights.",
        "base/parameter_control.py",
        DIFFERS,
        {"train.releases": other_than(0)},
    ),
    Difference(
        "The schedule runs once; the code starts it over for each group of backbone layers.",
        "base/parameter_control.py",
        DIFFERS,
        {"train.releases": 0},
    ),
    Difference(
        "Folds other than 0 are those of the store; the builders deal the code's with "
        "--folds=rjcma.",
        "dataset.py",
        OURS,
        {"replicas.folds": other_than("0")},
    ),
)

DIFFERENCES = (*_DATA, *_MODEL, *_TRAINING)
