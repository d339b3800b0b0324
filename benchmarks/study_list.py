"""The studies by name; what they train is in ``benchmarks.study_cases``."""

from __future__ import annotations

from benchmarks.study_cases import Case, Study

_FUSIONS = ("attention", "bilinear", "gating", "additive", "concat", "current_face")
# For many fusions and seeds.
_SMALL = (
    "config.model.width=64",
    "config.data.window=36",
    "config.data.stride=18",
    "config.train.epochs=8",
    "config.train.epoch_steps=100",
)
# Classes have fewer independent examples than frames: their states last for seconds.
_MANY = 2000
# With 120 videos every fusion learns the noise, and none stands out.
_SOME = 1000


def _system(label: str, name: str, train_videos: int = 0) -> Case:
    return Case(label, f"configs/{name}.py:simulated", name, label, train_videos=train_videos)


STUDIES: dict[str, Study] = {
    "systems": Study(
        question="How near does each system come to the optimum of its own streams?",
        preset="plain",
        size="medium",
        seeds=1,
        cases=(
            _system("RJCMA", "rjcma"),
            _system("ExpTrm", "exptrm"),
            _system("Multi-scale TCN", "multiscale_tcn"),
            Case(
                "EMMA-Net",
                "configs/emma_net.py:simulated_va",
                "emma_net",
                "EMMA-Net",
                _SMALL,
            ),
            Case(
                "TCN-Transformer",
                "configs/tcn_transformer.py:simulated",
                "tcn_transformer",
                "TCN-Transformer",
            ),
            Case(
                f"EMMA-Net, gating, {_MANY} videos",
                "configs/emma_net.py:simulated_many",
                "emma_net",
                "EMMA-Net",
                train_videos=_MANY,
            ),
            Case(
                f"TCN-Transformer, {_MANY} videos",
                "configs/tcn_transformer.py:simulated_many",
                "tcn_transformer",
                "TCN-Transformer",
                train_videos=_MANY,
            ),
        ),
    ),
    "reliability": Study(
        question="Who notices which modality to trust? (preset switching)",
        preset="switching",
        size="medium",
        seeds=3,
        cases=(
            *(
                Case(
                    name,
                    "configs/emma_net.py:simulated_va",
                    "emma_net",
                    "EMMA-Net",
                    (*_SMALL, "config.train.epochs=15", f"config.model.fusion={name}"),
                    train_videos=_SOME,
                )
                for name in _FUSIONS
            ),
            _system("RJCMA", "rjcma", _SOME),
        ),
    ),
}
