"""What configurations start from, so that each file in ``configs/`` says only what is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from emojax.errors import InputError, closest


def base_config() -> ConfigDict:
    """Every key a configuration has, with a neutral value; a system sets the rest.

    Neutral means: one model of all of a task's targets on the official fold, Adam, no decay, no
    warm-up, no plateau, no clipping, no regularisation beyond the model's own.
    """
    config = ConfigDict()

    config.data = ConfigDict()
    config.data.store = ""  # folder of a store; required
    config.data.streams = ()
    config.data.tasks = ("va",)
    config.data.window = 300  # frames, or ticks of the clock
    config.data.stride = 200  # between the starts of windows
    config.data.batch_size = 12
    config.data.feed = "auto"  # stream from disk, resident on the device, or what suits it
    config.data.align_end = False  # the last window: padded, or shifted to the video's end
    config.data.random_offset = False  # draw window starts anew in each epoch
    config.data.resampling = ConfigDict()  # stream -> nearest (default), linear or mean
    config.data.fill = "zeros"  # missing rows: zeros, or the nearest valid row
    config.data.clock = 0.0  # windows in ticks of so many Hz; 0: in the video's frames
    config.data.rates = ConfigDict()  # stream -> rows per second, with a clock
    config.data.context = ConfigDict()  # stream -> extra rows before and after the window
    config.data.scored = "all"  # ticks of a window that evaluation looks at: all, centre or last
    config.data.evaluation_stride = 0  # between windows in evaluation; 0: as in training

    config.model = ConfigDict()
    config.model.dtype = "float32"  # of the computation, or bfloat16

    config.loss = ConfigDict()  # task -> loss; a task that is not here has its default

    config.replicas = ConfigDict()  # all combinations are trained at once
    config.replicas.folds = ("0",)
    config.replicas.targets = ("all",)
    config.replicas.seeds = (0,)

    config.mesh = ConfigDict()  # devices along each axis at most; 0: as many as divide evenly
    config.mesh.replica = 0
    config.mesh.data = 0

    config.train = ConfigDict()
    config.train.epochs = 10
    config.train.epoch_steps = 0  # steps between validations; 0: one pass over the windows
    config.train.steps_per_dispatch = 0  # with the resident feed; 0: 1 on CPUs, else 32
    config.train.memory_limit = 0  # bytes of a device, above which replicas take turns; 0: its own
    config.train.replicas_at_once = 0  # at most; 0: all that fit, but on CPUs large ones take turns
    config.train.optimizer = "adam_l2"  # adam_l2 or adamw
    config.train.learning_rate = 1e-4
    config.train.weight_decay = 0.0
    config.train.clip_norm = 0.0  # 0: no clipping
    config.train.warmup = "none"  # repetitive, linear or none
    config.train.warmup_epochs = 0
    config.train.decay = "none"  # or cosine, after the warm-up
    config.train.plateau_patience = 1000  # epochs without improvement until the rate drops
    config.train.plateau_factor = 0.1
    config.train.minimum_rate = 1e-8
    config.train.releases = 0
    config.train.stages = ()  # see emojax/core/stages.py
    config.train.reload_best = False  # after every epoch; the end of training always does
    config.train.stop_patience = 1000  # epochs without improvement until training stops
    config.train.non_finite = "drop"  # the replica; or stop the run, or skip the batch
    config.train.ema = 0.0  # decay of the averaged weights; 0: none are kept
    config.train.modality_dropout = ConfigDict()
    config.train.modality_dropout.frames = 0.0
    config.train.modality_dropout.streams = 0.0
    config.train.class_weights = "none"  # none, inverse or sqrt_inverse
    config.train.init_from = ""  # workdir of a run whose weights training starts from

    config.evaluation = ConfigDict()
    config.evaluation.selection = ConfigDict()  # task -> score; the default if it is not here
    return config


def other_tasks(config: ConfigDict, *tasks: str) -> ConfigDict:
    """The same system on these tasks, as one model of all their targets.

    Args:
        config: changed in place. A task that it knows keeps its loss and selection; one that it
            does not gets the default ones of its kind.
        tasks: to train, in the order of ``config.data.tasks``.

    Returns:
        ``config``.
    """
    config.data.tasks = tasks
    for section in (config.loss, config.evaluation.selection):
        for task in set(section) - set(tasks):
            del section[task]
    config.replicas.targets = ("all",)
    return config


def some_streams(config: ConfigDict, *streams: str) -> ConfigDict:
    """The same system on some of its streams.

    Args:
        config: changed in place. What it says of other streams in ``data`` (such as
            ``resampling``) and in ``model`` (such as ``channels``) is taken out.
        streams: some of ``config.data.streams``, in the order that then holds.

    Returns:
        ``config``.
    """
    gone = set(config.data.streams) - set(streams)
    for section in (*config.data.values(), *config.model.values()):
        if isinstance(section, ConfigDict):
            for name in gone & set(section):
                del section[name]
    config.data.streams = streams
    return config


def choose(variants: Mapping[str, Callable[[], ConfigDict]], variant: str, file: str) -> ConfigDict:
    """The configuration of a variant: the body of every ``get_config``.

    Args:
        variants: name -> function; "" is the paper's own.
        variant: what follows the colon of ``--config=configs/NAME.py:VARIANT``.
        file: ``__file__`` of the configuration, for the message.

    Raises:
        InputError: there is no such variant.
    """
    if variant not in variants:
        named = [name for name in variants if name]
        raise InputError(
            f"Unknown variant of configs/{Path(file).name}.",
            field="--config",
            found=variant,
            expected="one of " + ", ".join(named),
            remedy=closest(variant, named),
        )
    return variants[variant]()
