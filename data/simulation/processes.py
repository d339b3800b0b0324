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
import zlib

import numpy as np
from numpy.random import Generator

from emojax.specs import TASKS

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
# Processes start here, or earlier by the greatest lag: a late row looks back past the first frame.
_BEFORE = -1.0


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


def generator(seed: int, *keys: str | int) -> Generator:
    """Returns a random generator of its own for every (seed, keys)."""
    words = [zlib.crc32(str(key).encode()) for key in keys]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, *words])))


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


def telegraph(
    rng: Generator, end: float, mean_on: float, mean_off: float, start: float = _BEFORE
) -> np.ndarray:
    """Draws the switching times of a stationary on/off process on [start, end] seconds.

    Returns:
        Increasing times; the state is "on" after an even number of them (0, 2, ...). A process
        that starts off has its first switch at the start.
    """
    times = [] if rng.random() < mean_on / (mean_on + mean_off) else [start]
    now = start
    while now < end:
        now += rng.exponential(mean_off if len(times) % 2 else mean_on)
        times.append(now)
    return np.asarray(times)


def is_on(switches: np.ndarray, time_E: np.ndarray) -> np.ndarray:
    """Returns the state of a telegraph process at the given times, bool."""
    return np.searchsorted(switches, time_E, side="right") % 2 == 0


def resampling_chain(
    rng: Generator, time_E: np.ndarray, tau: float, share_K: np.ndarray, start: float = _BEFORE
) -> np.ndarray:
    """Draws a continuous-time Markov chain that redraws its state from ``share_K`` at rate 1 / tau.

    Its transition matrix is P(dt) = e I + (1 - e) 1 share^T with e = exp(-dt / tau)
    (Felsenstein 1981), which the forward-backward pass exploits.

    Returns:
        (E,) int64 states at ``time_E``, whose times need no order.
    """
    end = float(time_E.max())
    count = rng.poisson((end - start) / tau)
    jumps = np.sort(rng.uniform(start, end, count))
    states = rng.choice(share_K.size, size=count + 1, p=share_K)
    return states[np.searchsorted(jumps, time_E, side="right")]


def _decayed_sums(rng_noise_CE: np.ndarray, time_E: np.ndarray, rate: float) -> np.ndarray:
    """Computes y_i = sum_j exp(-rate (t_i - t_j)) w_j for j <= i, without a loop over events."""
    out_CE = np.empty_like(rng_noise_CE)
    carry_C, carried_to = np.zeros(rng_noise_CE.shape[0]), time_E[0]
    # exp() stays far from overflow inside a stretch of 300 time constants.
    edges = np.flatnonzero(np.diff(np.floor((time_E - time_E[0]) * rate / 300.0))) + 1
    for part in np.split(np.arange(time_E.size), edges):
        grow_E = np.exp((time_E[part] - time_E[part[0]]) * rate)
        carry_C = carry_C * np.exp((carried_to - time_E[part[0]]) * rate)
        sums_CE = np.cumsum(rng_noise_CE[:, part] * grow_E, axis=1)
        out_CE[:, part] = (sums_CE + carry_C[:, None]) / grow_E
        carry_C, carried_to = out_CE[:, part[-1]], time_E[part[-1]]
    return out_CE


def ornstein_uhlenbeck(rng: Generator, time_E: np.ndarray, tau: float, count: int) -> np.ndarray:
    """Draws ``count`` independent stationary OU processes of unit variance at sorted times.

    Covariance exp(-|dt| / tau). Returns (count, E) float64.
    """
    step_E = np.diff(time_E, prepend=-np.inf)
    scale_E = np.sqrt(-np.expm1(-2.0 * step_E / tau))
    return _decayed_sums(rng.standard_normal((count, time_E.size)) * scale_E, time_E, 1.0 / tau)


def matern(rng: Generator, time_E: np.ndarray, rate: float, count: int) -> np.ndarray:
    """Draws ``count`` independent Matern-3/2 processes of unit variance, exactly, at sorted times.

    Covariance (1 + rate |dt|) exp(-rate |dt|); as a stochastic differential equation its state
    is (x, x' / rate) with transition exp(-u) [[1 + u, u], [-u, 1 - u]], u = rate dt, and
    stationary covariance I (Hartikainen and Sarkka 2010). Returns (count, E) float64.
    """
    u_E = rate * np.diff(time_E, prepend=time_E[0])
    fade_E = np.exp(-2.0 * u_E)
    q00_E = 1.0 - fade_E * ((1.0 + u_E) ** 2 + u_E**2)
    q01_E = fade_E * 2.0 * u_E**2
    q11_E = 1.0 - fade_E * (u_E**2 + (1.0 - u_E) ** 2)
    q00_E[0], q01_E[0], q11_E[0] = 1.0, 0.0, 1.0
    l11_E = np.sqrt(np.maximum(q11_E, 0.0))
    l01_E = np.divide(q01_E, l11_E, out=np.zeros_like(q01_E), where=l11_E > 0)
    l00_E = np.sqrt(np.maximum(q00_E - l01_E**2, 0.0))
    noise_2CE = rng.standard_normal((2, count, time_E.size))
    w1_CE = l11_E * noise_2CE[0]
    w0_CE = l01_E * noise_2CE[0] + l00_E * noise_2CE[1]
    # The transition is exp(-u) (I + u N) with N N = 0, so sum_j M(t_i - t_j) w_j needs only
    # exponentially decayed sums of w and of t w.
    clock_E = rate * (time_E - time_E[0])
    total_CE = w0_CE + w1_CE
    s0_CE = _decayed_sums(w0_CE, time_E, rate)
    s_CE = _decayed_sums(total_CE, time_E, rate)
    st_CE = _decayed_sums(total_CE * clock_E, time_E, rate)
    return s0_CE + clock_E * s_CE - st_CE


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
                generator(seed, name, m, "reliability"), end, *preset.dwell, _BEFORE - preset.lag
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
    start = _BEFORE - preset.lag
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
    start = _BEFORE - preset.lag

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
