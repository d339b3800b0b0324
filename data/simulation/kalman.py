"""Exact smoother of valence and arousal: Kalman filter and modified Bryson-Frazier backward pass.

The state of one dimension is (x, x' / rate, n_1..n_M, n'_1..n'_M), or with a decoy z
(x, x' / rate, z, z' / rate, n_1..n_M), with stationary covariance I,
so a step is C <- F C F^T for C = P - I and nothing else. Every event observes h . state plus
white noise, or nothing (h = 0). Valence and arousal have the same h, hence the same
covariances, and are two columns of the mean. The batch of videos is the last axis, so that
every operation runs along it.

Rauch, Tung and Striebel's smoother without inverting a covariance: Bierman (1973), Fixed
interval smoothing with discrete measurements.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .chunked import chunked_smoother

Carry = tuple[jax.Array, jax.Array]
Parameters = tuple[float, float, float, int]


def smooth(
    dt_EB: np.ndarray,
    h_EnB: np.ndarray,
    y_E2B: np.ndarray,
    *,
    signal_rate: float,
    nuisance_tau: float,
    noise_variance: float,
    signals: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes posterior mean (E, 2, B) and variance (E, B) of x at every event, float64.

    Args:
        dt_EB: seconds since the previous event (0 for the first and for padding).
        h_EnB: observation vectors, 0 where an event observes nothing.
        y_E2B: observations of both dimensions, 0 where nothing is observed.
        signal_rate, nuisance_tau, noise_variance: the process's parameters.
        signals: the number of Matern-3/2 processes, two state variables each, at the start of
            the state; x is the first.
    """
    n, batch = h_EnB.shape[1:]
    with jax.enable_x64(True):
        parameters = (signal_rate, nuisance_tau, noise_variance, signals)
        start = (np.zeros((n, 2, batch)), np.zeros((n, n, batch)))
        result_E3B = chunked_smoother(
            partial(_forward, parameters),
            partial(_backward, parameters),
            start,
            start,
            {"dt": dt_EB, "h": h_EnB, "y": y_E2B},
        )
    return result_E3B[:, :2], result_E3B[:, 2]


def _transition(dt_B: jax.Array, n: int, parameters: Parameters) -> jax.Array:
    """Returns F (n, n, B): Matern-3/2 blocks, then exponential decay of every nuisance."""
    signal_rate, nuisance_tau, _, signals = parameters
    u_B = signal_rate * dt_B
    fade_B = jnp.exp(-u_B)
    decay_B = jnp.exp(-dt_B / nuisance_tau)
    nuisance_nn1 = jnp.diag((jnp.arange(n) >= 2 * signals).astype(dt_B.dtype))[..., None]
    f_nnB = nuisance_nn1 * decay_B[None, None]
    block = fade_B[None, None] * jnp.stack([jnp.stack([1 + u_B, u_B]), jnp.stack([-u_B, 1 - u_B])])
    for i in range(0, 2 * signals, 2):
        f_nnB = f_nnB.at[i : i + 2, i : i + 2].set(block)
    return f_nnB


def _times(a_ijB: jax.Array, b_jkB: jax.Array) -> jax.Array:
    """Multiplies matrices, for every lane of the last axis."""
    return jnp.sum(a_ijB[:, :, None] * b_jkB[None], axis=1)


def _swap(a_ijB: jax.Array) -> jax.Array:
    return jnp.swapaxes(a_ijB, 0, 1)


def _filter_step(
    parameters: Parameters, state: Carry, event: dict[str, jax.Array]
) -> tuple[Carry, dict[str, jax.Array]]:
    """Predicts over dt and updates with the event; C = P - I."""
    mean_n2B, c_nnB = state
    h_nB, n = event["h"], event["h"].shape[0]
    f_nnB = _transition(event["dt"], n, parameters)
    mean_n2B = _times(f_nnB, mean_n2B)
    c_nnB = _times(_times(f_nnB, c_nnB), _swap(f_nnB))
    ph_nB = h_nB + jnp.sum(c_nnB * h_nB[None], axis=1)
    s_B = parameters[2] + jnp.sum(h_nB * ph_nB, axis=0)
    gain_nB = ph_nB / s_B[None]
    surprise_2B = event["y"] - jnp.sum(h_nB[:, None] * mean_n2B, axis=0)
    mean_n2B = mean_n2B + gain_nB[:, None] * surprise_2B[None]
    c_nnB = c_nnB - gain_nB[:, None] * ph_nB[None]
    kept = {"f": f_nnB, "gain": gain_nB, "s": s_B, "surprise": surprise_2B}
    kept |= {"mean": mean_n2B[0], "c": c_nnB[0]}
    return (mean_n2B, c_nnB), kept


@partial(jax.jit, static_argnums=0)
def _forward(parameters: Parameters, state: Carry, chunk: dict[str, jax.Array]) -> Carry:
    def step(state: Carry, event: dict[str, jax.Array]) -> tuple[Carry, None]:
        return _filter_step(parameters, state, event)[0], None

    return jax.lax.scan(step, state, chunk)[0]


@partial(jax.jit, static_argnums=0)
def _backward(
    parameters: Parameters, state: Carry, message: Carry, chunk: dict[str, jax.Array]
) -> tuple[Carry, jax.Array]:
    """Computes the adjoint (l, L) of later events; x = mean - P l, variance = P - P L P."""
    _, kept = jax.lax.scan(partial(_filter_step, parameters), state, chunk)

    def step(message: Carry, event: dict[str, jax.Array]) -> tuple[Carry, jax.Array]:
        l_n2B, big_nnB = message
        row_nB = event["c"].at[0].add(1.0)  # first row of the filtered covariance
        mean_2B = event["mean"] - jnp.sum(row_nB[:, None] * l_n2B, axis=0)
        weighted_nB = jnp.sum(big_nnB * row_nB[None], axis=1)
        variance_B = row_nB[0] - jnp.sum(row_nB * weighted_nB, axis=0)
        result_3B = jnp.concatenate([mean_2B, variance_B[None]])

        h_nB, gain_nB, s_B = event["h"], event["gain"], event["s"]
        # (I - K h^T)^T v = v - h (K . v)
        pull_2B = jnp.sum(gain_nB[:, None] * l_n2B, axis=0) + event["surprise"] / s_B[None]
        l_n2B = l_n2B - h_nB[:, None] * pull_2B[None]
        big_k_nB = jnp.sum(big_nnB * gain_nB[None], axis=1)
        k_big_k_B = jnp.sum(gain_nB * big_k_nB, axis=0)
        cross_nnB = h_nB[:, None] * big_k_nB[None]
        outer_nnB = h_nB[:, None] * h_nB[None]
        big_nnB = big_nnB - cross_nnB - _swap(cross_nnB)
        big_nnB = big_nnB + outer_nnB * (k_big_k_B + 1.0 / s_B)[None, None]
        ft_nnB = _swap(event["f"])
        return (_times(ft_nnB, l_n2B), _times(_times(ft_nnB, big_nnB), event["f"])), result_3B

    return jax.lax.scan(step, message, kept | {"h": chunk["h"]}, reverse=True)
