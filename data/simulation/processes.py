"""The generative process of the simulated Aff-Wild2: one video at a time, in continuous time.

Everything a video holds is a function of (seed, partition, index), never of how many other
videos are built or by whom. Latent processes live in continuous time; a row of a stream that
is stamped t shows them as they were at t - delay, in a low-dimensional *code*:

    cue      +c or -c: is this modality reliable now? r_m(t), a telegraph process
    va       gain * (x + rho n_m + [unreliable] rho' n'_m), one number for each dimension
    expr     the class *shown*, a one-hot point: g(k, j_m, r_m)
    au       the units *shown*, each -1 or +1: g(b, f_m, r_m)
    marks    Ornstein-Uhlenbeck processes that all modalities share and no label depends on

With ``Preset.crossed`` the cue has a column for every modality, and a row shows those of the
other modalities. With ``Preset.decoy`` an unreliable modality shows another draw of x, k or b, the
same in all modalities. With ``Preset.lag`` each modality but the visual one is late by a time of
its own in every video.

x is a Matern-3/2 process, n_m and n'_m Ornstein-Uhlenbeck processes of the modality (streams
of one modality see the same face and so the same errors), k and b are Markov chains over
classes and over {0, 1}, and j_m and f_m are Markov chains too, so that confusions are coloured
and not white. ``data.simulation.sensors`` embeds the codes in D dimensions,
``data.simulation.optimum`` inverts all this exactly.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.random import Generator

from emojax.specs import TASKS

from .draws import (
    START,
    generator,
    is_on,
    matern,
    ornstein_uhlenbeck,
    resampling_chain,
    telegraph,
)
from .presets import (
    AU_RATES,
    EXPRESSION_SHARES,
    LABEL_MEAN,
    LABEL_STD,
    Preset,
)
from .sensors import Sensor, code_slices

FRAME_RATES = (24.0, 25.0, 30000.0 / 1001.0, 30.0)
# Gaps of extractors: modality -> (kind, mean seconds present, mean seconds absent).
ABSENCE = {
    "visual": ("no face", 18.0, 0.8),
    "pose": ("no face", 18.0, 0.8),
    "audio": ("silence", 6.0, 0.9),
    "text": ("silence", 6.0, 0.9),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """One stream's rows of one video, before they are embedded in D dimensions.

    Attributes:
        pts_N: (n,) float64 seconds.
        described_N: (n,) float64 seconds, the instants that the rows show.
        valid_N: (n,) bool, False where there is no face or no speech.
        reliable_N: (n,) bool, the modality's reliability at these instants.
        code_NQ: (n, Q) float64, code plus its share of the white noise.
    """

    pts_N: np.ndarray
    described_N: np.ndarray
    valid_N: np.ndarray
    reliable_N: np.ndarray
    code_NQ: np.ndarray


@dataclasses.dataclass(frozen=True)
class Video:
    """One simulated video: clock, rows of every stream, truth at frames and labels.

    Attributes:
        name, source_video, partition: as in the store.
        fps: frames per second (frames may be dropped).
        pts_N: (N,) float64 seconds of the frames.
        rows: stream name -> Rows.
        truth: task -> (N, columns) float32, what an annotator who never pauses would write.
        labels: the same with the task's ignore value where unannotated.
    """

    name: str
    source_video: str
    partition: str
    fps: float
    pts_N: np.ndarray
    rows: dict[str, Rows]
    truth: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def draw_clock(
    seed: int, partition: str, index: int, seconds: tuple[float, float]
) -> tuple[str, str, float, np.ndarray]:
    """Draws name, source video, fps and frame timestamps of one video.

    Videos 2i and 2i + 1 of a partition are, one time in eight, the ``_left`` and ``_right``
    person of one source video and then share the clock. Length is log-uniform in ``seconds``.
    Timestamps are those of a container: rounded to the millisecond, a frame dropped now and
    then, a start offset in some videos.
    """
    couple = index // 2
    is_pair = generator(seed, partition, couple, "pair").random() < 1 / 8
    if is_pair:
        source = f"sim-{partition}-{2 * couple:04d}"
        name = source + ("_left", "_right")[index % 2]
    else:
        source = name = f"sim-{partition}-{index:04d}"
    rng = generator(seed, source, "clock")
    fps = float(rng.choice(FRAME_RATES))
    low, high = np.log(seconds)
    length = float(np.exp(rng.uniform(low, high)))
    start = rng.uniform(0.02, 0.2) if rng.random() < 0.3 else 0.0
    ticks = np.arange(max(2, round(length * fps)))
    kept = rng.random(ticks.size) > 0.002
    kept[[0, -1]] = True
    return name, source, fps, np.round(start + ticks[kept] / fps, 3)


def _row_clock(sensor: Sensor, rng: Generator, pts_N: np.ndarray, fps: float) -> np.ndarray:
    """Draws the times of a stream's rows: those of frames or a uniform hop, a few more or fewer."""
    locked = sensor.spec.rate is None and sensor.spec.modality != "audio"
    rate = sensor.spec.rate or fps
    last = float(pts_N[-1])
    count = pts_N.size if locked else int(last * rate) + 1
    surplus = int(rng.integers(-3, 4))
    count = max(1, count + int(np.clip(surplus, -(count // 4), count // 4)))
    if not locked:
        return np.arange(count) / rate
    beyond_N = last + np.arange(1, max(0, count - pts_N.size) + 1) / rate
    return np.concatenate([pts_N[:count], beyond_N])


def _annotated(seed: int, name: str, task: str, pts_N: np.ndarray) -> np.ndarray:
    """Draws where annotations are, (N, columns) bool; AUs also have gaps of their own."""
    end = float(pts_N[-1])
    columns = TASKS[task].columns
    row_N = is_on(telegraph(generator(seed, name, task, "gap"), end, 15.0, 0.8), pts_N)
    mask_NK = np.repeat(row_N[:, None], columns, axis=1)
    if task == "au":
        for unit in range(columns):
            rng = generator(seed, name, task, "gap", unit)
            mask_NK[:, unit] &= is_on(telegraph(rng, end, 25.0, 0.8), pts_N)
    return mask_NK


def simulate(
    seed: int,
    preset: Preset,
    sensors: tuple[Sensor, ...],
    tasks: tuple[str, ...],
    partition: str,
    index: int,
    seconds: tuple[float, float],
) -> Video:
    """Draws video ``index`` of ``partition``, which depends on the arguments alone."""
    name, source, fps, pts_N = draw_clock(seed, partition, index, seconds)
    row_pts = [
        _row_clock(sensor, generator(seed, name, sensor.spec.name, "rows"), pts_N, fps)
        for sensor in sensors
    ]
    modalities = sorted({sensor.spec.modality for sensor in sensors})
    late = {
        m: float(generator(seed, name, m, "lag").uniform(0.0, preset.lag)) if m != "visual" else 0.0
        for m in modalities
    }
    # One time axis for everything: frames first, then each stream's rows, in sorted order.
    described = [
        pts - s.delay - late[s.spec.modality] for pts, s in zip(row_pts, sensors, strict=True)
    ]
    parts = [pts_N, *described]
    bounds = np.cumsum([0, *(part.size for part in parts)])
    time_all_E = np.concatenate(parts)
    order_E = np.argsort(time_all_E, kind="stable")
    time_E = time_all_E[order_E]

    def at(values_CE: np.ndarray, part: int) -> np.ndarray:
        """Returns the values of one part, (rows of that part, C), from those on the sorted axis."""
        unsorted_CE = np.empty_like(values_CE)
        unsorted_CE[:, order_E] = values_CE
        return unsorted_CE[:, bounds[part] : bounds[part + 1]].T

    end = float(time_E[-1])
    reliable_E = {
        m: is_on(
            telegraph(
                generator(seed, name, m, "reliability"), end, *preset.dwell, START - preset.lag
            ),
            time_E,
        )
        for m in modalities
    }
    cue_ME = np.stack([np.where(reliable_E[m], preset.cue, -preset.cue) for m in modalities])
    mark_LE = ornstein_uhlenbeck(
        generator(seed, name, "marks"), time_E, preset.mark_tau, preset.marks
    )
    truth, codes = {}, {}
    for task in tasks:
        truth_CE, codes[task] = _TASK_CODES[task](
            seed, name, preset, modalities, time_E, reliable_E
        )
        truth[task] = at(truth_CE, 0).astype(np.float32)

    rows = {}
    for part, (sensor, pts) in enumerate(zip(sensors, row_pts, strict=True), start=1):
        modality = sensor.spec.modality
        own_M1 = np.array([[m == modality] for m in modalities])
        cue_QE = np.where(own_M1, 0.0, cue_ME) if preset.crossed else cue_ME[own_M1[:, 0]]
        code_QE = np.concatenate(
            [cue_QE, *(codes[task][modality] for task in tasks), mark_LE], axis=0
        )
        code_NQ = sensor.gain * at(code_QE, part)
        rng = generator(seed, name, sensor.spec.name, "white")
        deviation_Q = np.full(code_NQ.shape[1], preset.white)
        slices = code_slices(tasks, cues=preset.cues(len(modalities)), marks=preset.marks)
        for task, columns in slices.items():
            if task in TASKS:
                deviation_Q[columns] = np.sqrt(preset.code_variance(task))
        code_NQ += deviation_Q * rng.standard_normal(code_NQ.shape)
        valid_N = np.ones(pts.size, bool)
        if modality in ABSENCE:
            kind, present, absent = ABSENCE[modality]
            rng = generator(seed, name, kind)
            present *= preset.presence
            valid_N = is_on(telegraph(rng, end + 1.0, present, absent), pts)
        reliable_N = at(reliable_E[modality][None], part)[:, 0]
        rows[sensor.spec.name] = Rows(pts, described[part - 1], valid_N, reliable_N, code_NQ)

    labels = {}
    for task in tasks:
        mask_NK = _annotated(seed, name, task, pts_N)
        labels[task] = np.where(mask_NK, truth[task], np.float32(TASKS[task].ignore))
    return Video(name, source, partition, fps, pts_N, rows, truth, labels)


def _va_codes(
    seed: int,
    name: str,
    preset: Preset,
    modalities: list[str],
    time_E: np.ndarray,
    reliable_E: dict[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws labels (2, E) and, by modality, codes (2, E) of valence and arousal."""
    x_2E = matern(generator(seed, name, "va"), time_E, preset.signal_rate, 2)
    decoy_2E = x_2E
    if preset.decoy:
        decoy_2E = matern(generator(seed, name, "va", "decoy"), time_E, preset.signal_rate, 2)
    codes = {}
    for m in modalities:
        noise_4E = ornstein_uhlenbeck(
            generator(seed, name, "va", m), time_E, preset.nuisance_tau, 4
        )
        shown_2E = np.where(reliable_E[m], x_2E, decoy_2E)
        extra_E = np.where(reliable_E[m] | preset.decoy, 0.0, preset.rho_unreliable)
        codes[m] = preset.va_gain * (shown_2E + preset.rho * noise_4E[:2] + extra_E * noise_4E[2:])
    label_2E = np.clip(np.asarray(LABEL_MEAN)[:, None] + LABEL_STD * x_2E, -1.0, 1.0)
    return label_2E, codes


def _expr_codes(
    seed: int,
    name: str,
    preset: Preset,
    modalities: list[str],
    time_E: np.ndarray,
    reliable_E: dict[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws classes (1, E) and, by modality, codes (8, E): points of the classes shown."""
    start = START - preset.lag
    rng = generator(seed, name, "expr")
    class_E = resampling_chain(rng, time_E, preset.state_tau, EXPRESSION_SHARES, start)
    points_KQ = preset.expr_points()
    if preset.decoy:
        rng = generator(seed, name, "expr", "decoy")
        decoy_E = resampling_chain(rng, time_E, preset.state_tau, EXPRESSION_SHARES, start)
    codes = {}
    for m in modalities:
        if preset.decoy:
            shown_E = np.where(reliable_E[m], class_E, decoy_E)
        else:
            rng = generator(seed, name, "expr", m)
            j_E = resampling_chain(rng, time_E, preset.confusion_tau, preset.expr_nuisance())
            shown_E = preset.expr_shown(m)[reliable_E[m].astype(int), class_E, j_E]
        codes[m] = points_KQ[shown_E].T
    return class_E[None].astype(np.float64), codes


def _au_codes(
    seed: int,
    name: str,
    preset: Preset,
    modalities: list[str],
    time_E: np.ndarray,
    reliable_E: dict[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws units (12, E) and, by modality, codes (12, E)."""
    start = START - preset.lag

    def units_of(*keys: str) -> np.ndarray:
        """Draws all units, (12, E), each with generators of its own."""
        return np.stack(
            [
                resampling_chain(
                    generator(seed, name, "au", unit, *keys),
                    time_E,
                    preset.state_tau,
                    np.array([1.0 - rate, rate]),
                    start,
                )
                for unit, rate in enumerate(AU_RATES)
            ]
        )

    active_UE = units_of()
    if preset.decoy:
        decoy_UE = units_of("decoy")
    codes = {}
    for m in modalities:
        if preset.decoy:
            shown_UE = np.where(reliable_E[m], active_UE, decoy_UE)
            codes[m] = preset.au_gain * (2.0 * shown_UE - 1.0)
            continue
        flip_UE = np.stack(
            [
                resampling_chain(
                    generator(seed, name, "au", unit, m),
                    time_E,
                    preset.confusion_tau,
                    preset.au_nuisance(),
                )
                for unit in range(AU_RATES.size)
            ]
        )
        codes[m] = preset.au_shown()[reliable_E[m].astype(int)[None], active_UE, flip_UE]
    return active_UE.astype(np.float64), codes


_TASK_CODES = {"va": _va_codes, "expr": _expr_codes, "au": _au_codes}

SIMULATED: tuple[str, ...] = tuple(_TASK_CODES)  # the tasks that can be simulated
