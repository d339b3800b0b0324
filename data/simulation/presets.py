"""Amplitudes and time scales of the simulated data, one table row a preset.

Three promises are kept by tests. Under ``plain`` ridge regression plus smoothing nearly reaches
the optimum. Under ``switching`` it stays well below, because every modality is unreliable half
of the time and only a model that judges reliability frame by frame knows which one to trust; each
stream shows that itself, so that a concatenation of streams suffices. Under ``cross_cued`` only the
other streams show it, and they are late by a time that differs from video to video: a model has to
find the rows of the other stream that belong to a frame, by their content.

For ``cross_cued`` the optimum is an upper bound, ``data.simulation.bounds`` a lower one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

# Class shares and base rates resemble Aff-Wild2's, with rare classes.
EXPRESSION_SHARES = np.array([0.28, 0.08, 0.07, 0.08, 0.16, 0.12, 0.09, 0.12])
AU_RATES = np.array([0.25, 0.2, 0.3, 0.35, 0.5, 0.45, 0.35, 0.15, 0.15, 0.15, 0.6, 0.25])
LABEL_MEAN = (0.1, 0.15)  # valence, arousal; labels are clip(mean + std x) to [-1, 1]
LABEL_STD = 0.3
# The class that a modality shows, by j, when it shows nothing of the truth.
DECOYS = {
    "visual": (1, 4, 6),
    "audio": (4, 2, 7),
    "text": (7, 5, 3),
    "pose": (5, 3, 1),
    "physiology": (2, 6, 5),
}
_NEUTRAL, _BLANK = 0, EXPRESSION_SHARES.size


@dataclasses.dataclass(frozen=True)
class Preset:
    """Parameters of the generative process; times in seconds, variances relative to signal 1.

    Attributes:
        signal_rate: 1/s of the Matern-3/2 processes; sqrt(3) / rate is their length scale.
        nuisance_tau: time constant of the nuisances of valence and arousal.
        state_tau: mean time between redraws of expression class and action units.
        confusion_tau: mean time between redraws of their nuisances, j and f.
        dwell: mean seconds that a modality stays reliable and unreliable.
        rho: standard deviation of a modality's nuisance against the signal's.
        rho_unreliable: of a second nuisance, added while the modality is unreliable. It is a
            process of its own: were the first one scaled instead, the jump at every switch
            would reveal it.
        expr_kinds: for an unreliable and a reliable modality, what it shows when its j is 0, 1,
            2: the "true" class, "neutral", a "decoy" (``DECOYS``) or "blank", no class.
        expr_share: stationary shares of j.
        au_kinds: for an unreliable and a reliable modality, what it shows when its f is 1:
            "off" misses the unit and "blank" shows neither on nor off. "noise" shows f itself,
            whatever f and the unit are.
        au_share: stationary share of f = 1.
        decoy: an unreliable modality shows, in place of the truth, a second process of the same
            law, the same in all modalities. Truth and decoy could be exchanged without a trace
            but for the cues, so a stream alone never tells whether it is reliable. Replaces
            ``rho_unreliable`` and the kinds and shares of expressions and units.
        crossed: the cue to a modality's reliability is shown by the other modalities, not by
            its own.
        marks: number of Ornstein-Uhlenbeck processes that all modalities show. They carry no
            label; they tell which rows of two streams belong to one moment.
        mark_tau: their time constant.
        lag: greatest delay of a modality but "visual" in a video, besides that of its streams;
            uniform, drawn for each video and modality.
        presence: factor of the time between two absences (no face, silence).
        cue, va_gain, expr_gain, au_gain: amplitudes of the codes.
        code_white: standard deviation of white noise inside the expression and unit subspaces,
            against the codes' amplitudes. It blurs the instants at which several modalities
            change together, which would otherwise give the true state away.
        white: standard deviation of white noise in every one of the D dimensions.
    """

    signal_rate: float = 0.55
    nuisance_tau: float = 2.0
    state_tau: float = 2.5
    confusion_tau: float = 4.0
    dwell: tuple[float, float] = (6.0, 6.0)
    rho: float = 1.0
    rho_unreliable: float = 0.5
    expr_kinds: tuple[tuple[str, str, str], tuple[str, str, str]] = (
        ("true", "blank", "decoy"),
        ("true", "blank", "neutral"),
    )
    expr_share: tuple[float, float, float] = (0.3, 0.4, 0.3)
    au_kinds: tuple[str, str] = ("blank", "off")
    au_share: float = 0.7
    decoy: bool = False
    crossed: bool = False
    marks: int = 0
    mark_tau: float = 0.6
    lag: float = 0.0
    presence: float = 1.0
    cue: float = 1.0
    va_gain: float = 2.0
    expr_gain: float = 2.0
    au_gain: float = 1.0
    code_white: float = 0.2
    white: float = 0.05

    def cues(self, modalities: int) -> int:
        """Returns the number of cues in a row's code, for this number of modalities."""
        return modalities if self.crossed else 1

    def code_variance(self, task: str) -> float:
        """Returns the variance of the white noise inside a task's subspace."""
        amplitude = {"va": 0.0, "expr": self.expr_gain, "au": self.au_gain}[task]
        return self.white**2 + (amplitude * self.code_white) ** 2

    def expr_points(self) -> np.ndarray:
        """Returns the points (9, 8) of each class and of "blank" in the expression subspace."""
        classes = EXPRESSION_SHARES.size
        return self.expr_gain * (np.eye(classes + 1, classes) - np.eye(classes).mean(axis=0))

    def expr_nuisance(self) -> np.ndarray:
        """Returns the stationary shares (3,) of j."""
        return np.asarray(self.expr_share)

    def expr_shown(self, modality: str) -> np.ndarray:
        """Returns the row of ``expr_points`` shown, (2, 8, 3) by reliability, true class and j."""
        true_K = np.arange(EXPRESSION_SHARES.size)
        shown = np.empty((2, true_K.size, len(self.expr_share)), np.int64)
        for reliable, kinds in enumerate(self.expr_kinds):
            for j, kind in enumerate(kinds):
                decoy = DECOYS[modality][j]
                fixed = {"neutral": _NEUTRAL, "blank": _BLANK, "decoy": decoy}
                shown[reliable, :, j] = true_K if kind == "true" else fixed[kind]
        return shown

    def au_nuisance(self) -> np.ndarray:
        """Returns the stationary shares (2,) of f."""
        return np.array([1.0 - self.au_share, self.au_share])

    def au_shown(self) -> np.ndarray:
        """Returns the code shown, (2, 2, 2) by reliability (0 unreliable), true unit and f."""
        shown = {
            "off": [[-1.0, -1.0], [1.0, -1.0]],
            "blank": [[-1.0, 0.0], [1.0, 0.0]],
            "noise": [[-1.0, 1.0], [-1.0, 1.0]],
        }
        return self.au_gain * np.array([shown[kind] for kind in self.au_kinds])


PRESETS = {
    "plain": Preset(),
    "switching": Preset(
        rho=0.6,
        rho_unreliable=4.0,
        expr_kinds=(("decoy", "decoy", "decoy"), ("true", "true", "neutral")),
        expr_share=(0.25, 0.35, 0.4),
        au_kinds=("noise", "off"),
        au_share=0.45,
    ),
    "cross_cued": Preset(
        signal_rate=1.6,
        dwell=(1.0, 1.0),
        rho=0.2,
        decoy=True,
        crossed=True,
        marks=16,
        mark_tau=0.4,
        lag=3.0,
        presence=10.0,
    ),
}
