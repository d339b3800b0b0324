"""The exact posterior of every label at every frame, given all valid rows of all streams.

Rows of all streams (at pts - delay) and frames are merged on one time axis; each row is an
observation, each frame a question. The smoother knows the process's parameters, the delays and
each row's reliability, which the features show through their cue. Only the projection of a row
on its stream's subspace matters, because the rest is isotropic white noise.

The best prediction under CCC is not the posterior mean but the posterior mean shifted and
rescaled to the label's mean and variance: CCC = 2 cov / (var + var + bias^2) is, over affine
maps, largest there and then equals the correlation, which the posterior mean maximises.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.special import ndtr

from emojax.specs import TASKS

from .chunked import pad_events
from .kalman import smooth
from .markov import chain_posterior
from .presets import AU_RATES, EXPRESSION_SHARES, LABEL_MEAN, LABEL_STD, Preset
from .processes import Video
from .sensors import Sensor, code_slices


def posteriors(
    videos: Sequence[Video],
    preset: Preset,
    sensors: tuple[Sensor, ...],
    tasks: tuple[str, ...],
    *,
    batch: int | None = None,
) -> list[dict[str, np.ndarray]]:
    """Computes the posterior of every task at every frame of every video.

    Args:
        videos: smoothed together, so of similar length for speed.
        preset, sensors, tasks: those the videos were simulated with.
        batch: pad with empty videos up to this number, so that few shapes are compiled.

    Returns:
        For each video, task -> (N, outputs) float64: va posterior means of the labels,
        expr class probabilities, au probabilities of each unit.
    """
    batch = batch or len(videos)
    modalities = sorted({sensor.spec.modality for sensor in sensors})
    slices = code_slices(tasks, cues=preset.cues(len(modalities)), marks=preset.marks)
    merged = [_merge(video, sensors, {task: slices[task] for task in tasks}) for video in videos]
    num_events = pad_events(max(m["time"].size for m in merged))
    dt_EB = np.zeros((num_events, batch))
    for lane, events in enumerate(merged):
        dt_EB[: events["time"].size, lane] = np.diff(events["time"], prepend=events["time"][0])
    out: list[dict[str, np.ndarray]] = [{} for _ in videos]

    def of_task(task: str) -> np.ndarray:
        return _POSTERIOR[task](merged, dt_EB, preset, sensors, modalities)

    # One scan uses one core, so the tasks run side by side.
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        by_task = list(pool.map(of_task, tasks))
    for task, values_EBC in zip(tasks, by_task, strict=True):
        for lane, events in enumerate(merged):
            frame_E = np.flatnonzero(events["stream"] < 0)  # in time order, as frames are
            out[lane][task] = values_EBC[frame_E, lane]
    return out


def clipped_gaussian_mean(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Computes E[clip(x, -1, 1)] for x ~ N(mean, std^2)."""
    low, high = (-1.0 - mean) / std, (1.0 - mean) / std
    density_low, density_high = (np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) for z in (low, high))
    inside = mean * (ndtr(high) - ndtr(low)) + std * (density_low - density_high)
    return inside + ndtr(-high) - ndtr(low)


def _merge(
    video: Video, sensors: tuple[Sensor, ...], slices: dict[str, slice]
) -> dict[str, np.ndarray]:
    """Merges rows and frames: "time", "stream" (-1: frame), "reliable", each task's code / gain."""
    width = next(iter(video.rows.values())).code_NQ.shape[1]
    times, streams = [video.pts_N], [np.full(video.pts_N.size, -1)]
    codes, reliable = [np.zeros((video.pts_N.size, width))], [np.ones(video.pts_N.size, bool)]
    for number, sensor in enumerate(sensors):
        rows = video.rows[sensor.spec.name]
        keep_N = rows.valid_N
        times.append(rows.described_N[keep_N])
        streams.append(np.full(int(keep_N.sum()), number))
        codes.append(rows.code_NQ[keep_N])
        reliable.append(rows.reliable_N[keep_N])
    time_E = np.concatenate(times)
    order_E = np.argsort(time_E, kind="stable")
    code_EQ = np.concatenate(codes)[order_E]
    events = {
        "time": time_E[order_E],
        "stream": np.concatenate(streams)[order_E],
        "reliable": np.concatenate(reliable)[order_E],
    }
    return events | {task: code_EQ[:, columns] for task, columns in slices.items()}


def _of_stream(
    events: dict[str, np.ndarray], sensors: tuple[Sensor, ...], modalities: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each event's modality number (E,), -1 for frames, and its stream's gain (E,) or 0."""
    number_S = np.array([modalities.index(s.spec.modality) for s in sensors] + [-1])
    gain_S = np.array([s.gain for s in sensors] + [0.0])
    return number_S[events["stream"]], gain_S[events["stream"]]


def _va_posterior(
    merged: list[dict[str, np.ndarray]],
    dt_EB: np.ndarray,
    preset: Preset,
    sensors: tuple[Sensor, ...],
    modalities: list[str],
) -> np.ndarray:
    count = len(modalities)
    num_events, batch = dt_EB.shape
    signals = 2 if preset.decoy else 1
    first = 2 * signals  # of the nuisances
    h_EnB = np.zeros((num_events, first + (1 if preset.decoy else 2) * count, batch))
    y_E2B = np.zeros((num_events, 2, batch))
    for lane, events in enumerate(merged):
        modality_E, gain_E = _of_stream(events, sensors, modalities)
        row = np.flatnonzero(modality_E >= 0)
        scale = gain_E[row] * preset.va_gain
        reliable = events["reliable"][row]
        h_EnB[row, np.where(reliable | (not preset.decoy), 0, 2), lane] = scale
        h_EnB[row, first + modality_E[row], lane] = scale * preset.rho
        if not preset.decoy:
            extra = np.where(reliable, 0.0, preset.rho_unreliable)
            h_EnB[row, first + count + modality_E[row], lane] = scale * extra
        y_E2B[row, :, lane] = events["va"][row]
    mean_E2B, variance_EB = smooth(
        dt_EB,
        h_EnB,
        y_E2B,
        signal_rate=preset.signal_rate,
        nuisance_tau=preset.nuisance_tau,
        noise_variance=preset.code_variance("va"),
        signals=signals,
    )
    label_EB2 = np.asarray(LABEL_MEAN) + LABEL_STD * np.swapaxes(mean_E2B, 1, 2)
    std_EB = LABEL_STD * np.sqrt(np.maximum(variance_EB, 1e-300))
    return clipped_gaussian_mean(label_EB2, np.repeat(std_EB[..., None], 2, axis=-1))


def _likelihood(distance_EKJL: np.ndarray, variance: float) -> np.ndarray:
    """Computes exp(-distance / 2 variance), scaled to a maximum of 1 over k and j, in place."""
    distance_EKJL -= distance_EKJL.min(axis=(1, 2), keepdims=True)
    return np.exp(distance_EKJL * (-0.5 / variance))


def _expr_posterior(
    merged: list[dict[str, np.ndarray]],
    dt_EB: np.ndarray,
    preset: Preset,
    sensors: tuple[Sensor, ...],
    modalities: list[str],
) -> np.ndarray:
    points_KQ = preset.expr_points()
    if preset.decoy:
        shown_MRKJ = np.stack([_truth_or_decoy(EXPRESSION_SHARES.size)] * len(modalities))
        nuisance_J = EXPRESSION_SHARES
    else:
        shown_MRKJ = np.stack([preset.expr_shown(modality) for modality in modalities])
        nuisance_J = preset.expr_nuisance()
    classes, nuisances = shown_MRKJ.shape[2:]
    modality_EB = np.full(dt_EB.shape, -1)
    likelihood_EKJB = np.ones((dt_EB.shape[0], classes, nuisances, dt_EB.shape[1]))
    for lane, events in enumerate(merged):
        modality_E, gain_E = _of_stream(events, sensors, modalities)
        modality_EB[: modality_E.size, lane] = modality_E
        row = np.flatnonzero(modality_E >= 0)
        target_nKQ = gain_E[row, None, None] * points_KQ
        distance_nK = ((events["expr"][row, None] - target_nKQ) ** 2).sum(axis=-1)
        shown_nKJ = shown_MRKJ[modality_E[row], events["reliable"][row].astype(int)]
        distance_nKJ = np.take_along_axis(
            distance_nK[:, None], shown_nKJ.reshape(row.size, 1, -1), axis=2
        ).reshape(shown_nKJ.shape)
        likelihood_EKJB[row, :, :, lane] = _likelihood(distance_nKJ, preset.code_variance("expr"))
    posterior_EKB = _chains(
        dt_EB, modality_EB, likelihood_EKJB, EXPRESSION_SHARES[:, None], nuisance_J[:, None], preset
    )
    return np.swapaxes(posterior_EKB, 1, 2)


def _au_posterior(
    merged: list[dict[str, np.ndarray]],
    dt_EB: np.ndarray,
    preset: Preset,
    sensors: tuple[Sensor, ...],
    modalities: list[str],
) -> np.ndarray:
    units = TASKS["au"].outputs
    num_events, batch = dt_EB.shape
    share_KU = np.stack([1.0 - AU_RATES, AU_RATES])
    if preset.decoy:
        point_RKJ = preset.au_gain * (2.0 * _truth_or_decoy(2) - 1.0)
        nuisance_JU = share_KU
    else:
        point_RKJ, nuisance_JU = preset.au_shown(), preset.au_nuisance()[:, None]
    modality_EB = np.full(dt_EB.shape, -1)
    likelihood_EKJUB = np.ones((num_events, 2, 2, units, batch))
    for lane, events in enumerate(merged):
        modality_E, gain_E = _of_stream(events, sensors, modalities)
        modality_EB[: modality_E.size, lane] = modality_E
        row = np.flatnonzero(modality_E >= 0)
        target_nKJ = point_RKJ[events["reliable"][row].astype(int)] * gain_E[row, None, None]
        distance_nKJU = (events["au"][row, None, None] - target_nKJ[..., None]) ** 2
        likelihood_EKJUB[row, ..., lane] = _likelihood(distance_nKJU, preset.code_variance("au"))
    posterior_EKL = _chains(
        np.tile(dt_EB, (1, units)),
        np.tile(modality_EB, (1, units)),
        likelihood_EKJUB.reshape(num_events, 2, 2, units * batch),
        np.repeat(share_KU, batch, axis=1),
        np.repeat(np.broadcast_to(nuisance_JU, (2, units)), batch, axis=1),
        preset,
    )
    active_EUB = posterior_EKL[:, 1].reshape(num_events, units, batch)
    return np.swapaxes(active_EUB, 1, 2)


def _truth_or_decoy(states: int) -> np.ndarray:
    """Returns the state shown, (2, K, J) by reliability, true state and decoy's state."""
    true_KJ, decoy_KJ = np.indices((states, states))
    return np.stack([decoy_KJ, true_KJ])


def _chains(
    dt_EL: np.ndarray,
    modality_EL: np.ndarray,
    likelihood_EKJL: np.ndarray,
    share_KL: np.ndarray,
    nuisance_JL: np.ndarray,
    preset: Preset,
) -> np.ndarray:
    """Returns the posterior (E, K, L); one nuisance chain for each modality, or one decoy."""
    lanes = dt_EL.shape[1]
    modalities = max(1, int(modality_EL.max()) + 1)
    return chain_posterior(
        dt_EL,
        np.minimum(modality_EL, 0) if preset.decoy else modality_EL,
        likelihood_EKJL,
        np.broadcast_to(share_KL, (share_KL.shape[0], lanes)),
        np.broadcast_to(nuisance_JL, (nuisance_JL.shape[0], lanes)),
        num_modalities=1 if preset.decoy else modalities,
        state_tau=preset.state_tau,
        nuisance_tau=preset.state_tau if preset.decoy else preset.confusion_tau,
    )


_POSTERIOR = {"va": _va_posterior, "expr": _expr_posterior, "au": _au_posterior}
