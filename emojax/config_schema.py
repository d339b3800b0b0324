"""The configuration of a run: every key with its type, default, bounds and meaning.

``emojax.configuration.base_config`` is made from these classes, ``emojax.config_reading`` checks
configurations against them, and ``docs/configuration.md`` is printed from them. To add a
key, add a field.
Checks that need several keys, the tasks or the streams are in ``core/config_checks.py``.
"""

# ruff: noqa: RUF009 (key() only makes dataclass fields)

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """The meaning of a key and the values that it may have.

    Attributes:
        about: the meaning, as docs/configuration.md prints it.
        required: True for a key that every configuration must have.
        runtime: True for a key that changes the speed and the memory of a run, but not its
            results. Such keys may change when a run is resumed.
        choices: the allowed values; empty if the key is not limited to a list.
        least: the smallest allowed number.
        above: a number that the value must exceed.
        below: a number that the value must stay under.
        names: True for a list of names, which a flag may also give as "a,b".
    """

    about: str
    required: bool = False
    runtime: bool = False
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    below: float | None = None
    names: bool = False


def key(default: Any, about: str, **rules: Any) -> Any:
    """Declares a key: a dataclass field with a default and a ``Rule`` of these values."""
    metadata = {"rule": Rule(about, **rules)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """The keys of ``config.data`` that define the content and the places of windows."""

    streams: tuple[str, ...] = key((), "streams that the model reads", required=True, names=True)
    tasks: tuple[str, ...] = key(("va",), "tasks to train", required=True, names=True)
    window: int = key(
        300, "T, the length of a window in video frames, or in ticks of `clock`",
        required=True, least=1,
    )  # fmt: skip
    stride: int = key(
        200, "ticks between the starts of two windows of a video, at most `window`",
        required=True, least=1,
    )  # fmt: skip
    resampling: dict[str, str] = key(
        {}, "stream -> how its rows are brought to the ticks; nearest for streams left out",
        required=True, choices=("nearest", "linear", "mean"),
    )  # fmt: skip
    align_end: bool = key(
        False, "shift the last window of a video back to the video's end; otherwise it is padded"
    )
    window_count: str = key(
        "cover",
        "windows of a video of n ticks: cover, as many as cover it, max(1, ceil((n - window) / "
        "stride) + 1); floor, floor(n / stride) + 1 (TCN-Transformer, section 3.4), where a last "
        "window without a tick is all padding. floor excludes `align_end`",
        choices=("cover", "floor"),
    )
    unannotated: str = key(
        "masked",
        "frames without an annotation for any of `tasks`: masked, they keep their place and count "
        "in no loss or score; excluded, they are left out before windows are cut (RJCMA, section "
        "4.2.1), labels and predictions stay with their frames, and an excluded frame takes the "
        "prediction of the nearest one that is not. A video without any annotation keeps all "
        "frames. excluded needs `clock` 0",
        choices=("masked", "excluded"),
    )
    random_offset: bool = key(
        False,
        "draw the start of each training window anew in each epoch, uniformly over the video; "
        "the number of windows of a video stays that of the grid",
        required=True,
    )
    clock: float = key(0.0, "ticks per second; 0 makes each video frame a tick", least=0)
    rates: dict[str, float] = key(
        {},
        "stream -> rows per second, for streams at another rate than the clock's; "
        "window * rate / clock must be whole. Row k covers the ticks [k, k + 1) * clock / rate and "
        "stands at their mean time",
        above=0,
    )
    context: dict[str, int] = key(
        {}, "stream -> extra rows before and after those of the window", least=0
    )
    fill: str = key(
        "zeros",
        "what a missing row becomes: zeros, which are marked as not valid, or a copy of the "
        "nearest valid row of the video, which is marked as valid",
        choices=("zeros", "nearest"),
    )
    scored: str = key(
        "all",
        "which ticks of a window are scored at evaluation; where windows overlap, all averages "
        "them, and centre and last take one of them (`emojax/ops/windows.py`)",
        choices=("all", "centre", "last"),
    )
    evaluation_stride: int = key(
        0, "as `stride`, at evaluation; 0 for the same as in training", least=0
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(WindowConfig):
    """``config.data``: which data, and how they are cut and batched."""

    store: str = key("", "folder of the store to train on", required=True)
    batch_size: int = key(12, "B, windows in a batch", required=True, least=1)
    normalisation: dict[str, str] = key(
        {},
        "stream -> zscore: less the mean, by the standard deviation of each column over the "
        "fold's training videos; none: as stored; half: (x - 0.5) / 0.5. zscore for streams left "
        "out. A missing row is zeros after it. The ridge baseline always takes z-scores",
        choices=("zscore", "none", "half"),
    )
    feed: str = key(
        "auto",
        "stream reads windows from disk, resident keeps all data on the device, auto is resident "
        "on accelerators if the data fit, else stream",
        choices=("auto", "stream", "resident"),
        runtime=True,
    )


@dataclasses.dataclass(frozen=True)
class ReplicasConfig:
    """``config.replicas``: all combinations are trained at once."""

    folds: tuple[str, ...] = key(("0",), "folds of the store", required=True, names=True)
    targets: tuple[str, ...] = key(
        ("all",),
        "what a replica learns: a label dimension such as valence, a task, or all",
        required=True,
        names=True,
    )
    seeds: tuple[int, ...] = key(
        (0,), "seeds of initial weights, dropout and the order of windows",
        required=True, least=0, below=2**32,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """``config.mesh``: the most devices along each axis; 0 for as many as divide evenly."""

    replica: int = key(0, "devices over which replicas are spread", least=0, runtime=True)
    data: int = key(0, "devices over which a batch is spread", least=0, runtime=True)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of ``config.train.stages``."""

    objective: str = key(
        "outputs",
        "outputs: the loss of the model's outputs; branches: the sum of the losses of its "
        "temporary heads, whose mean is then evaluated",
        choices=("outputs", "branches"),
    )
    epochs: int = key(
        0,
        "the most epochs; an exhausted plateau or early stopping ends the stage before. "
        "0 for no limit",
        least=0,
    )
    frozen: tuple[str, ...] = key(
        (), "patterns such as encoder_* or */bias over parameter paths; matches are not updated"
    )


@dataclasses.dataclass(frozen=True)
class ModalityDropoutConfig:
    """``config.train.modality_dropout``: probabilities of inputs being zeroed in training."""

    frames: float = key(0.0, "of each row of a stream, independently", least=0, below=1)
    streams: float = key(
        0.0, "of each whole stream of a window; at least one stream is kept", least=0, below=1
    )


@dataclasses.dataclass(frozen=True)
class ScheduleKeys:
    """The keys of ``config.train`` that move the learning rate and end the training.

    An epoch is the time from one validation to the next.
    """

    epoch_steps: int = key(
        0, "steps between two validations; 0 for one pass over the windows", required=True, least=0
    )
    warmup: str = key(
        "none",
        "linear: the rate climbs from 0 once, over all `warmup_epochs`; repetitive: it climbs "
        "from 0 to the full rate within each of them (our reading of RJCMA, section 4.2.2); "
        "rising: it climbs from 0 within each of them, higher each time but in the last only to "
        "1 / `warmup_epochs` of the full rate: in step s of n of epoch e it is s (e + 1) / "
        "(n `warmup_epochs`^2) of it (RJCMA's and LFAN's public code)",
        choices=("repetitive", "rising", "linear", "none"),
        required=True,
    )
    warmup_epochs: int = key(
        0, "epochs of warm-up; the plateau counts from their end", required=True, least=0
    )
    plateau_patience: int = key(
        1000, "epochs without improvement until the rate drops", required=True, least=0
    )
    plateau_factor: float = key(0.1, "what the rate is then multiplied by", required=True, above=0)
    plateau_reference: str = key(
        "release",
        "what an epoch must exceed to count as an improvement: the best score since the last "
        "release, or the best score of the run (RJCMA's and LFAN's public code)",
        choices=("release", "best"),
    )
    minimum_rate: float = key(
        1e-8, "lowest rate; a drop below it exhausts the plateau", required=True, least=0
    )
    releases: int = key(
        0,
        "how often an exhausted plateau starts over, with rate, warm-up and (unless "
        "`plateau_reference` is best) reference score reset, before the replica is finished; with "
        "`stages` their number decides",
        required=True,
        least=0,
    )
    stop_patience: int = key(
        1000,
        "epochs without improvement until a replica, or its stage, is finished",
        required=True,
        least=1,
    )
    decay: str = key(
        "none",
        "cosine: after the warm-up the rate falls along half a cosine to `minimum_rate` by the end "
        "of the stage or, where that has no limit, of the run",
        choices=("none", "cosine"),
    )
    epochs: int = key(10, "epochs of the whole run", required=True, least=1)
    stages: tuple[Stage, ...] = key(
        (), "what is trained one after the other; empty trains everything from the start"
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig(ScheduleKeys):
    """``config.train``: optimisation, its schedule, and how it runs."""

    optimizer: str = key(
        "adam_l2",
        "Adam with weight decay added to the gradient (adam_l2) or to the update (adamw)",
        choices=("adam_l2", "adamw"),
        required=True,
    )
    learning_rate: float | tuple[float, ...] = key(
        1e-4, "before warm-up and plateau; several values are trained as replicas",
        required=True, above=0,
    )  # fmt: skip
    weight_decay: float | tuple[float, ...] = key(
        0.0, "coefficient of the decay; several values are trained as replicas",
        required=True, least=0,
    )  # fmt: skip
    no_decay: tuple[str, ...] = key(
        (), "patterns over the paths of parameters that do not decay, such as recursion_*; an "
        "asterisk also matches /",
        names=True,
    )  # fmt: skip
    clip_norm: float = key(
        0.0, "global norm that gradients are scaled down to; 0 for no clipping",
        required=True, least=0,
    )  # fmt: skip
    reload_best: bool = key(
        False,
        "return to the best weights after each epoch without improvement; evaluation always uses "
        "them",
        required=True,
    )
    ema: float = key(
        0.0, "decay of the averaged weights, which are then evaluated; 0 keeps none",
        least=0, below=1,
    )  # fmt: skip
    modality_dropout: ModalityDropoutConfig = key(
        ModalityDropoutConfig(), "probabilities of rows and streams being zeroed in training"
    )
    class_weights: str = key(
        "none",
        "weigh classes by the inverse of their count in the training videos, or by its square root",
        choices=("none", "inverse", "sqrt_inverse"),
    )
    init_from: str = key("", "folder of a run whose best weights this run starts from")
    watch: str = key(
        "norms",
        "warn, once, when a trained part has lost 95 % of what it was: norms of parameter groups; "
        "effects, also of the model's mechanisms on predictions, which compiles a program more",
        choices=("norms", "effects", "none"), runtime=True,
    )  # fmt: skip
    non_finite: str = key(
        "drop",
        "what a loss or gradient that is not finite does: drop finishes the replica, stop ends the "
        "run, skip takes no step on that batch",
        choices=("drop", "stop", "skip"),
    )
    steps_per_dispatch: int = key(
        0, "steps in one program, with the resident feed; 0 for 1 on CPUs and 32 on accelerators",
        least=0, runtime=True,
    )  # fmt: skip
    memory_limit: int = key(
        0, "bytes of a device that training may use before replicas take turns; 0 asks the device",
        least=0, runtime=True,
    )  # fmt: skip
    replicas_at_once: int = key(
        0,
        "the most replicas that train at once; 0 for all that fit, except that large ones take "
        "turns on CPUs",
        least=0,
        runtime=True,
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """``config.evaluation``: how the best weights are chosen."""

    selection: dict[str, str] = key(
        {}, "task -> score by which the best weights are chosen; its default for tasks left out",
        required=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole configuration."""

    data: DataConfig = key(DataConfig(), "", required=True)
    model: dict[str, Any] = key(
        {"dtype": "float32"}, "`name` and the fields of that model, see `emojax/models/`; `dtype` "
        "is that of the computation, float32 or bfloat16",
        required=True,
    )  # fmt: skip
    loss: dict[str, str] = key({}, "task -> loss; its default for tasks left out", required=True)
    replicas: ReplicasConfig = key(ReplicasConfig(), "", required=True)
    mesh: MeshConfig = key(MeshConfig(), "")
    train: TrainConfig = key(TrainConfig(), "", required=True)
    evaluation: EvaluationConfig = key(EvaluationConfig(), "", required=True)
