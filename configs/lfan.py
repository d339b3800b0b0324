"""LFAN: leader-follower attention over ir50, bert and vggish (Zhang, Zhao and Guan 2023).

    emojax train --config=lfan --config.data.store=STORE --workdir=RUN

trains valence and arousal apart, as two replicas of one program, on the store's official fold.
Published in RJCMA's Table 2 (arXiv:2403.13659, row [42]) for Aff-Wild2: CCC .441 valence, .645
arousal on validation of fold 0, .552 / .629 on test.

Hyper-parameters are those of the authors' public code in its latest form, made for ABAW5
(github.com/sucv/ABAW3: main.py, configs.py, trainer.py, models/). That code fine-tunes the
backbones from frames and log-mel spectrograms; here they are frozen features.

Variants, after a colon: ``folds`` (six folds), ``window_loss`` (the code's loss, one CCC per
window), ``upstream`` (also the code's windows, warm-up and plateau), ``abaw3`` (the code as it was
for ABAW3), ``audio_visual`` (without text); other tasks,
ours: ``expr``, ``au``, ``all`` (one model of all three); ``simulated`` (narrow and quick, for a
store of ``data.synthetic``).
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from emojax.configuration import base_config, choose, other_tasks, some_streams
from emojax.published import lfan_differences
from emojax.small import SIXTHS, Small

DIFFERENCES = lfan_differences.DIFFERENCES

# The small form, for two cores and for tests.
SMALL = Small(
    widths={"channels": 16, "modal_width": 1},
    least={"kernel_size": 3},
    windows=SIXTHS,
)


def paper() -> ConfigDict:
    """Hyper-parameters of the public code; "ours" marks differences."""
    config = base_config()

    config.data.streams = ("ir50", "bert", "vggish")  # as RJCMA's Table 2 has it
    config.data.window = 300  # main.py
    config.data.stride = 200  # main.py
    config.data.batch_size = 12  # main.py
    config.data.resampling = ConfigDict(dict.fromkeys(config.data.streams, "nearest"))

    config.model.name = "lfan"
    config.model.leader = ""  # the first stream, as in the code: "video"
    config.model.channels = ConfigDict()  # configs.py
    config.model.channels.ir50 = (256, 256, 128, 128)
    config.model.channels.bert = (256, 256, 128, 128)
    config.model.channels.vggish = (64, 64, 32, 32)
    config.model.channels.default = (64, 64, 32, 32)  # of any other stream; ours
    config.model.kernel_size = 5  # main.py
    config.model.causal = True  # models/
    config.model.temporal_dropout = 0.1  # models/
    config.model.batch_norm = True  # models/
    config.model.modal_width = 32  # main.py
    config.model.attention_heads = 2  # main.py
    config.model.dropout = 0.1  # models/
    config.model.output = "tanh"  # models/

    config.loss.va = "ccc"  # ours, over the whole batch; the code's is in "window_loss"

    config.replicas.targets = ("valence", "arousal")  # main.py: one emotion at a time

    config.train.epochs = 100  # main.py
    config.train.optimizer = "adam_l2"  # trainer.py
    config.train.learning_rate = 1e-5  # main.py
    config.train.weight_decay = 1e-3  # trainer.py
    # Of RJCMA's paper, section 4.2.2, to compare with it. The code's is "rising", see "upstream".
    config.train.warmup = "repetitive"
    config.train.warmup_epochs = 5  # main.py
    config.train.plateau_patience = 5  # main.py
    config.train.plateau_factor = 0.1  # main.py
    config.train.minimum_rate = 1e-8  # main.py
    config.train.releases = 2  # main.py: three groups; two more releases after the first
    config.train.reload_best = True  # main.py, after every epoch
    config.train.stop_patience = 50  # main.py

    config.evaluation.selection.va = "ccc"  # trainer.py
    return config


def folds() -> ConfigDict:
    """Six folds, valence and arousal, twelve replicas in one program."""
    config = paper()
    config.replicas.folds = ("0", "1", "2", "3", "4", "5")  # main.py: 6 folds
    return config


def window_loss() -> ConfigDict:
    """One CCC per window, then their mean, as in the public code."""
    config = paper()
    config.loss.va = "ccc_window"
    return config


def upstream() -> ConfigDict:
    """The public code's loss, windows, warm-up and plateau, too."""
    config = window_loss()
    config.data.align_end = True  # base/dataset.py
    config.data.unannotated = "excluded"  # preprocessing
    config.train.warmup = "rising"  # base/scheduler.py
    config.train.plateau_reference = "best"  # trainer.py
    return config


def abaw3() -> ConfigDict:
    """The public code as it was for ABAW3: no batch normalisation, no tanh, other training."""
    config = window_loss()
    config.data.batch_size = 8
    config.model.batch_norm = False
    config.model.output = "linear"
    config.train.warmup = "linear"
    config.train.warmup_epochs = 10
    config.train.minimum_rate = 1e-7
    config.train.stop_patience = 20
    return config


def audio_visual() -> ConfigDict:
    """Without text."""
    return some_streams(paper(), "ir50", "vggish")


def simulated() -> ConfigDict:
    """A small model for simulated data, a few minutes on 2 cores; ours.

    The code's schedule needs more epochs than this training has, so it is replaced.
    """
    config = paper()
    config.data.random_offset = True
    SMALL.narrow(config)
    config.model.causal = False  # the optimum looks both ways
    config.train.epochs = 8
    config.train.epoch_steps = 50
    config.train.learning_rate = 3e-3
    config.train.warmup = "linear"
    config.train.warmup_epochs = 1
    config.train.plateau_patience = 0
    config.train.plateau_factor = 0.3
    config.train.releases = 0
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": paper,
    "folds": folds,
    "window_loss": window_loss,
    "upstream": upstream,
    "abaw3": abaw3,
    "audio_visual": audio_visual,
    "expr": lambda: other_tasks(paper(), "expr"),
    "au": lambda: other_tasks(paper(), "au"),
    "all": lambda: other_tasks(paper(), "va", "expr", "au"),
    "simulated": simulated,
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of a variant; the docstring of this file lists the variants."""
    return choose(VARIANTS, variant, __file__)
