"""Segment MLP on EPiC-2023: all folds of scenarios 2, 3 and 4 at once, four seeds each.

    emojax epic2023 --source=FOLDER --out=stores/epic2023
    emojax crossval-epic2023 --store=stores/epic2023 --workdir=RUN

Not from a paper; see models/segment_mlp.py. Hyper-parameters were chosen by the error of
cross-validation among the training people of scenario 2, one choice for all folds. 44 replicas,
200 steps, under 2 minutes on 2 cores. The mean over seeds is scored: official RMSE (valence /
arousal) 1.045 / 0.998 in scenario 2, 1.515 / 1.403 in 3 and 1.180 / 1.146 in 4, beside 1.269 /
1.302, 1.510 / 1.617 and 1.270 / 1.299 of the training mean.

Variants, after a colon: ``s2``, ``s3``, ``s4`` (the folds of one scenario).
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from emojax.configuration import base_config, choose
from emojax.differences import Difference, Kind
from emojax.small import Small, Windows

FOLDS = {"s2": 5, "s3": 4, "s4": 2}

DIFFERENCES = (Difference("No paper describes this system; all of it is ours.", "none", Kind.OURS),)

# The small form, for two cores and for tests.
SMALL = Small(widths={"hidden": 4}, least={"segments": 4}, windows=Windows())


def epic2023() -> ConfigDict:
    """All hyper-parameters are ours."""
    config = base_config()

    config.data.store = "stores/epic2023"
    config.data.streams = ("cardiac", "eda", "resp", "temp", "emg")
    config.data.window = 1001  # the whole recording, 50 s at 20 Hz
    config.data.stride = 1001
    config.data.batch_size = 48
    config.data.random_offset = False  # the model depends on the time in the recording

    config.model = ConfigDict()  # without dtype: the model is too small to gain from bfloat16
    config.model.name = "segment_mlp"
    config.model.segments = 10
    config.model.hidden = 128
    config.model.input_dropout = 0.3
    config.model.dropout = 0.5
    config.model.degree = 2
    config.model.centre = 5.0  # of the joystick's scale

    config.loss.va = "rmse_window"  # the official error of a recording

    config.replicas.folds = tuple(f"{s}_{i}" for s, count in FOLDS.items() for i in range(count))
    config.replicas.targets = ("va",)
    config.replicas.seeds = (0, 1, 2, 3)

    config.train.epochs = 10
    config.train.epoch_steps = 20
    config.train.learning_rate = 1e-3
    config.train.weight_decay = 5e-3
    config.train.warmup = "linear"
    config.train.warmup_epochs = 2

    config.evaluation.selection.va = "rmse"
    return config


def scenario(name: str) -> ConfigDict:
    """The folds of one scenario."""
    config = epic2023()
    config.replicas.folds = tuple(f"{name}_{i}" for i in range(FOLDS[name]))
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": epic2023,
    "s2": lambda: scenario("s2"),
    "s3": lambda: scenario("s3"),
    "s4": lambda: scenario("s4"),
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of a variant; the docstring of this file lists the variants."""
    return choose(VARIANTS, variant, __file__)
