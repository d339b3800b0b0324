"""Which metrics of a run are drawn together."""

from __future__ import annotations

from collections.abc import Sequence

# Panels of the learning curves: title, then groups of words; the first group that names any
# metric fills the panel, so the score a run is selected by comes before all others.
_FAMILIES = (
    ("loss", (("loss",),)),
    ("score", (("score",), ("ccc", "f1", "accuracy"))),
    ("error", (("rmse",),)),
    ("learning rate", (("learning_rate",),)),
)

_OVERALL = ("/f1_macro", "/f1_mean")
_MEAN = "/ccc_mean"


def metric_panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Which metrics are drawn together: (panel title, metric names), empty panels left out.

    A metric finds its panel by its name; one that belongs to none (a speed) is left out, and so
    is the F1 of single classes and units where there is one over all.
    """
    kept = _without_details(names)
    panels = [(family, _first_named(kept, groups)) for family, groups in _FAMILIES]
    return [(family, found) for family, found in panels if found]


def without_single_targets(names: Sequence[str]) -> list[str]:
    """Leaves out the CCC of valence and of arousal where the replica has their mean."""
    with_mean = {_replica(name) for name in names if name.endswith(_MEAN)}
    return [
        name
        for name in names
        if "/ccc_" not in name or name.endswith(_MEAN) or _replica(name) not in with_mean
    ]


def _without_details(names: Sequence[str]) -> list[str]:
    """Leaves out the F1 of single classes and units where the replica has one over all."""
    overall = {_replica(name) for name in names if name.endswith(_OVERALL)}
    return [
        name
        for name in names
        if "/f1_" not in name or name.endswith(_OVERALL) or _replica(name) not in overall
    ]


def _first_named(names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[str]:
    """The metrics that hold a word of the first group that any metric holds a word of."""
    found = ([name for name in names if any(word in name for word in group)] for group in groups)
    return next((some for some in found if some), [])


def _replica(name: str) -> str:
    return name.rsplit("/", 1)[0]
