"""Simulated extractors: each embeds the low-dimensional code of its modality in D dimensions."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.random import Generator

from emojax.errors import InputError
from emojax.specs import TASKS, StreamSpec


@dataclasses.dataclass(frozen=True)
class Sensor:
    """One stream's fixed properties, the same in every video.

    Attributes:
        spec: name, width, modality and rate.
        delay: seconds; a row stamped t shows the state at t - delay.
        gain: amplitude of this stream's whole code. It scales signal and nuisance alike, so a
            second stream of a modality brings little that the first has not.
        basis_QD: (Q, D) orthonormal rows in the order of ``code_slices``.
        offset_D: (D,) mean of the features, so that normalisation matters.
    """

    spec: StreamSpec
    delay: float
    gain: float
    basis_QD: np.ndarray
    offset_D: np.ndarray


def code_slices(tasks: tuple[str, ...], *, cues: int = 1, marks: int = 0) -> dict[str, slice]:
    """Returns the columns of the code: "cue", each task and "marks" -> slice."""
    widths = {"cue": cues} | {task: TASKS[task].outputs for task in tasks} | {"marks": marks}
    ends = np.cumsum(list(widths.values())).tolist()
    return {name: slice(end - widths[name], end) for name, end in zip(widths, ends, strict=True)}


def make_sensor(
    spec: StreamSpec, tasks: tuple[str, ...], rng: Generator, *, cues: int = 1, marks: int = 0
) -> Sensor:
    """Draws a stream's delay, gain and embedding.

    Args:
        spec: the stream.
        tasks: the simulated tasks.
        rng: a generator of the stream's own.
        cues, marks: columns of the code besides those of the tasks (``Preset``).

    Raises:
        InputError: the stream is too narrow to hold the tasks' orthogonal subspaces.
    """
    needed = cues + sum(TASKS[task].outputs for task in tasks) + marks
    if spec.width < needed:
        raise InputError(
            "A simulated stream is too narrow for the tasks' orthogonal subspaces.",
            field=f"stream {spec.name}",
            found=f"width {spec.width}",
            expected=f"at least {needed} for tasks {', '.join(tasks)}",
            remedy=f"ask for fewer tasks or widen it: --width={spec.name}={needed}",
        )
    delay = float(rng.uniform(0.05, 0.4))
    gain = float(rng.uniform(0.85, 1.15))
    basis_DQ, _ = np.linalg.qr(rng.standard_normal((spec.width, needed)))
    offset_D = 0.3 * rng.standard_normal(spec.width)
    return Sensor(spec, round(delay, 3), round(gain, 3), basis_DQ.T, offset_D)


def embed(
    sensor: Sensor, code_NQ: np.ndarray, valid_N: np.ndarray, white: float, rng: Generator
) -> np.ndarray:
    """Computes features (n, D) float32: offset + code @ basis + white noise outside the subspace.

    ``code_NQ`` already holds its share of the white noise, so together the noise is isotropic
    and the projection on the subspace is sufficient for everything the code depends on.
    Rows that are not valid are zero.
    """
    basis_QD = sensor.basis_QD.astype(np.float32)
    noise_ND = rng.standard_normal((code_NQ.shape[0], sensor.spec.width), dtype=np.float32)
    noise_ND *= np.float32(white)
    inside_NQ = code_NQ.astype(np.float32) - noise_ND @ basis_QD.T
    rows_ND = noise_ND
    rows_ND += inside_NQ @ basis_QD
    rows_ND += sensor.offset_D.astype(np.float32)
    rows_ND[~valid_N] = 0.0
    return rows_ND
