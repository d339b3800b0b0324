"""The studies by name; ``benchmarks.study_cases`` defines their parts."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.study_cases import Case, Study

_FUSIONS = ("attention", "bilinear", "gating", "additive", "concat", "current_face")
# A small training, for many fusions and seeds.
_SMALL = (
    "config.model.width=64",
    "config.data.window=36",
    "config.data.stride=18",
    "config.train.epoch_steps=100",
)
# The states of classes last for seconds, so videos have few independent examples of them.
_MANY = 2000
# With the demo's 120 videos every fusion fits the noise, too.
_SOME = 1000


def _system(label: str, name: str) -> Case:
    return Case(label, f"configs/{name}.py:simulated", name, label)


def _reliability(
    size: str, fusions: tuple[str, ...], *, epochs: int, train_videos: int = 0
) -> Study:
    data = f"{train_videos} training videos" if train_videos else f"size {size}"
    return Study(
        question=f"Scores when the reliable modality switches (preset switching, {data})",
        preset="switching",
        size=size,
        seeds=3,
        cases=tuple(
            Case(
                fusion,
                "configs/emma_net.py:simulated_va",
                "emma_net",
                "EMMA-Net",
                (*_SMALL, f"config.train.epochs={epochs}", f"config.model.fusion={fusion}"),
                train_videos=train_videos,
            )
            for fusion in fusions
        ),
    )


def _short(epochs: int, steps: int) -> tuple[str, str]:
    return f"config.train.epochs={epochs}", f"config.train.epoch_steps={steps}"


def _precision(label: str, name: str, *overrides: str) -> tuple[Case, ...]:
    """Returns a training in float32 and the same in bfloat16."""
    return tuple(
        Case(
            f"{label} {dtype}",
            f"configs/{name}.py:simulated" + "_va" * (name == "emma_net"),
            name,
            label,
            (*overrides, f"config.model.dtype={dtype}"),
        )
        for dtype in ("float32", "bfloat16")
    )


_FUSION_CASES = {
    "RJCMA l=0": "rjcma_l0",
    "RJCMA l=1": "rjcma_l1",
    "RJCMA l=2": "rjcma_l2",
    "RJCMA l=3": "rjcma_l3",
    "RJCMA l=4": "rjcma_l4",
    "RJCMA upstream": "rjcma_upstream",
    "RJCMA l=3 decay of all": "rjcma_l3_decay_of_all",
    "RJCMA l=3 no decay": "rjcma_l3_no_decay",
    "RJCMA l=0 TCN after": "rjcma_l0_tcn",
    "RJCMA l=3 TCN after": "rjcma_l3_tcn",
    "LFAN": "lfan",
    "ExpTrm A": "exptrm_a",
    "ExpTrm V": "exptrm_v",
    "ExpTrm A+V": "exptrm",
    "ExpTrm gates": "exptrm_gates",
    "EMMA-Net attention": "emma_attention",
    "EMMA-Net bilinear": "emma_bilinear",
    "EMMA-Net concatenation": "emma_concat",
    "EMMA-Net additive": "emma_additive",
    "EMMA-Net gating": "emma_gating",
    "EMMA-Net current face": "emma_current_face",
    "EMMA-Net video only": "emma_video_only",
    "multi-scale TCN without queries": "multiscale_no_queries",
    "multi-scale TCN with queries": "multiscale",
    "TCN-Transformer A": "tcn_transformer_a",
    "TCN-Transformer V": "tcn_transformer_v",
    "TCN-Transformer without encoder": "tcn_transformer_l0",
    "TCN-Transformer": "tcn_transformer",
    "TCN-Transformer long": "tcn_transformer_long",
}
# Of each system the form with its own fusion, for data on which none is needed.
_OWN = (
    "RJCMA l=3",
    "RJCMA l=3 decay of all",
    "LFAN",
    "ExpTrm A+V",
    "EMMA-Net attention",
    "multi-scale TCN with queries",
    "TCN-Transformer",
)


def _fusion(
    preset: str, labels: Sequence[str], *, seeds: int = 3, train_videos: int = 2500
) -> Study:
    return Study(
        question=f"Fusion and its mechanisms on preset {preset}",
        preset=preset,
        size="demo",
        seeds=seeds,
        cases=tuple(
            Case(
                label,
                f"benchmarks/fusion_configs.py:{_FUSION_CASES[label]}",
                "face_audio",
                label.split(" ")[0],
            )
            for label in labels
        ),
        late={
            f"late fusion of {name} A and V": (f"{name} A", f"{name} V")
            for name in ("ExpTrm", "TCN-Transformer")
            if f"{name} A" in labels
        },
        # Many short videos: each has delays of its own, which a model must not learn by heart.
        videos={"train": train_videos, "validation": 60, "test": 60},
        seconds=(15.0, 45.0),
        mechanisms=True,
    )


STUDIES: dict[str, Study] = {
    "precision": Study(
        question="Scores in bfloat16 beside float32",
        preset="switching",
        size="demo",
        seeds=2,
        # Short trainings are enough: both have the same windows, steps and initial weights.
        cases=(
            *_precision("RJCMA", "rjcma", *_short(2, 30)),
            *_precision("ExpTrm", "exptrm", *_short(4, 50)),
            *_precision("Multi-scale TCN", "multiscale_tcn", *_short(4, 40)),
            *_precision("EMMA-Net", "emma_net", *_SMALL[:-1], *_short(6, 100)),
            *_precision("TCN-Transformer", "tcn_transformer", *_short(2, 100)),
        ),
    ),
    "systems": Study(
        question="Scores of each system beside the optimum of its own streams",
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
                (*_SMALL, "config.train.epochs=8"),
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
    "fusion": _fusion("cross_cued", tuple(_FUSION_CASES)[:-1]),
    "fusion_long": _fusion("cross_cued", ("TCN-Transformer long",), seeds=1, train_videos=6000),
    "fusion_switching": _fusion("switching", _OWN),
    "reliability": _reliability("medium", _FUSIONS, epochs=15, train_videos=_SOME),
    "reliability_few": _reliability("demo", ("attention", "gating", "concat"), epochs=8),
}
