"""The baselines of ExpTrm: static and recurrent networks (Brown et al. 2025, section 4.5).

    emojax train --config=recurrent_baselines --config.data.store=STORE \
        --workdir=RUN

trains VGGFace-RNN (A+V) for valence and arousal on the store's official fold. Variants, after a
colon, and their CCC of valence / arousal in Table 1, which does not name its partition:

    affwildnet_static_2000   .176 / .198   FC 2000 on each frame's vggface row
    affwildnet_static_4096   .244 / .297   FC 4096
    affwildnet_dynamic       .315 / .357   FC 4096 and two GRUs of 128
    rnn_a                    .105 / .168   two GRUs on compare_lld
    vggface_rnn_v            .379 / .481   as affwildnet_dynamic, trained on Aff-Wild2
    vggface_rnn_av           .344 / .506   both of these concatenated, two more GRUs; the default

    vggface_rnn_v_fc6        -             as vggface_rnn_v, without its FC 4096
    vggface_rnn_av_fc6       -             as vggface_rnn_av, without its FC 4096

The last two are ours. The rows of vggface already are the 4096 outputs of a connected layer, fc6,
and section 4.5 can be read so that the baselines have no further one. It holds 16.8 M of the
parameters: (V) has 18.5 M with it and 1.7 M without, (A+V) 18.9 M and 2.1 M. The paper has ExpTrm
"within 10 %" (section 5.2), which its 17.9 M and 18.9 M are only with it.

The published AffWildNet models were trained on Aff-Wild, the predecessor of Aff-Wild2. Without that
training these variants differ from the published models. ``affwildnet_dynamic`` should start from
a run on Aff-Wild, ``--config.train.init_from=RUN``; without it, network and training are those of
``vggface_rnn_v``. The published NISL and M3T are systems of other papers.

Also ``expr``, ``au`` and ``all`` (the default's network on the other tasks, and on all three at
once; ours) and ``simulated`` (small and fast, for the store of ``configs/exptrm.py:simulated``;
ours).
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from emojax.configuration import base_config, choose, other_tasks, some_streams
from emojax.published import exptrm_differences
from emojax.small import Small

DIFFERENCES = exptrm_differences.RECURRENT

# The small form, for two cores and for tests.
SMALL = Small(
    widths={"hidden": 16, "recurrent": 2, "fused": 2},
    epochs=6,
    steps=40,
    # Simulated rows have another scale than fc6.
    train={"data.normalisation.vggface": "zscore"},
)


def vggface_rnn_av() -> ConfigDict:
    """VGGFace-RNN (A+V). The paper states no training for it; the training is that of ExpTrm."""
    config = base_config()

    config.data.streams = ("vggface", "compare_lld")  # section 4.5
    config.data.tasks = ("va",)
    config.data.window = 100  # frames; "the same sequence length", section 4.5
    config.data.stride = 100  # ours
    config.data.batch_size = 32  # ours
    config.data.resampling.vggface = "nearest"
    config.data.resampling.compare_lld = "mean"  # "downsampled by a factor of 3.3", section 4.4
    # "Audio features undergo Z-normalization", section 4.2, which says so of no others.
    config.data.normalisation = ConfigDict({"vggface": "none", "compare_lld": "zscore"})

    config.model.name = "recurrent_baselines"
    config.model.hidden = ConfigDict()
    config.model.hidden.vggface = 4096  # "FC layer dimension of 4096", section 4.5
    config.model.hidden.default = 0  # of any other stream: no FC layer
    config.model.recurrent = ConfigDict()
    config.model.recurrent.default = (128, 128)
    config.model.recurrent.vggface = (128, 128)  # "two ... layers, each ... 128 nodes", 4.5
    config.model.recurrent.compare_lld = (128, 128)  # "two GRU layers", section 4.5; width ours
    config.model.fused = (128, 128)  # "two additional GRU layers", section 4.5; width ours
    config.model.causal = True  # one direction; ours
    config.model.dropout = 0.1  # ours
    config.model.heads = "joint"  # "a dense layer for the final predictions", section 4.5
    config.model.head_activation = "none"  # ours

    config.loss.va = "ccc"  # section 4.4

    config.replicas.targets = ("all",)

    # As ExpTrm's, section 4.4 and configs/exptrm.py.
    config.train.epochs = 100
    config.train.optimizer = "adam_l2"
    config.train.learning_rate = 1e-5
    config.train.weight_decay = 1e-4
    config.train.stop_patience = 10

    config.evaluation.selection.va = "ccc"
    return config


def unimodal(stream: str) -> ConfigDict:
    """One branch of the default, with a head of its own."""
    config = some_streams(vggface_rnn_av(), stream)
    config.model.fused = ()
    return config


def static(width: int) -> ConfigDict:
    """AffWildNet static (V): each frame on its own."""
    config = unimodal("vggface")
    config.model.hidden.vggface = width  # 2000 or 4096, section 4.5
    config.model.recurrent = ConfigDict()
    return config


def fc6(config: ConfigDict) -> ConfigDict:
    """GRUs on the rows of vggface, which are the outputs of a connected layer already; ours."""
    config.model.hidden = ConfigDict()
    return config


def affwildnet_dynamic() -> ConfigDict:
    """AffWildNet dynamic (V): the network of VGGFace-RNN (V), first trained on Aff-Wild.

    Without ``--config.train.init_from=RUN``, a run on Aff-Wild, it is VGGFace-RNN (V) itself.
    """
    config = unimodal("vggface")
    config.train.init_from = ""  # the workdir of a run on Aff-Wild; "" draws initial weights
    return config


def simulated() -> ConfigDict:
    """Small and fast, for simulated data on 2 cores; ours.

    It reaches CCC .723 / .818 on validation, 91 % / 95 % of the optimum.
    """
    config = vggface_rnn_av()
    config.data.normalisation.vggface = "zscore"
    config.data.random_offset = True
    config.data.evaluation_stride = 25  # frames near a window's ends have less context
    config.data.batch_size = 16
    SMALL.narrow(config)
    config.model.hidden.vggface = 128
    config.model.causal = False  # the optimum looks both ways
    config.train.epochs = 6
    config.train.epoch_steps = 50
    config.train.learning_rate = 3e-3
    config.train.warmup = "linear"
    config.train.warmup_epochs = 1
    config.train.decay = "cosine"
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "": vggface_rnn_av,
    "affwildnet_static_2000": lambda: static(2000),
    "affwildnet_static_4096": lambda: static(4096),
    "affwildnet_dynamic": affwildnet_dynamic,
    "rnn_a": lambda: unimodal("compare_lld"),
    "vggface_rnn_v": lambda: unimodal("vggface"),
    "vggface_rnn_av": vggface_rnn_av,
    "vggface_rnn_v_fc6": lambda: fc6(unimodal("vggface")),
    "vggface_rnn_av_fc6": lambda: fc6(vggface_rnn_av()),
    "expr": lambda: other_tasks(vggface_rnn_av(), "expr"),
    "au": lambda: other_tasks(vggface_rnn_av(), "au"),
    "all": lambda: other_tasks(vggface_rnn_av(), "va", "expr", "au"),
    "simulated": simulated,
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of a variant; the docstring of this file lists the variants."""
    return choose(VARIANTS, variant, __file__)
