"""Random processes in continuous time, drawn exactly at given times."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.random import Generator

# Processes start here, or earlier by the greatest lag: a late row looks back past the first frame.
START = -1.0


def generator(seed: int, *keys: str | int) -> Generator:
    """Returns a random generator of its own for every (seed, keys)."""
    words = [zlib.crc32(str(key).encode()) for key in keys]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, *words])))


def telegraph(
    rng: Generator, end: float, mean_on: float, mean_off: float, start: float = START
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
    rng: Generator, time_E: np.ndarray, tau: float, share_K: np.ndarray, start: float = START
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
