"""Exact posterior of a Markov chain seen through modalities that are wrong for a while.

The hidden state is (k, j_1, .., j_M): the class (or unit) and one nuisance chain for every
modality (or a single one that they share, a decoy), all independent a priori, so a transition is
a Kronecker product and is applied one axis at a time. Each chain redraws its state at a constant
rate (``data.simulation.processes``), hence p <- e p + (1 - e) (sum p) share over dt, with
e = exp(-dt / tau). An event is a row of one modality and multiplies by p(row | k, j_m), or a frame,
which observes nothing and only wants the posterior.

Forward-backward of Rabiner (1989), normalised at every event, in float64. Independent units
and videos are lanes of the last axis L.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .chunked import chunked_smoother


def chain_posterior(
    dt_EL: np.ndarray,
    modality_EL: np.ndarray,
    likelihood_EKJL: np.ndarray,
    share_KL: np.ndarray,
    nuisance_share_JL: np.ndarray,
    *,
    num_modalities: int,
    state_tau: float,
    nuisance_tau: float,
) -> np.ndarray:
    """Computes the posterior probabilities (E, K, L) of k at every event given all, float64.

    Args:
        dt_EL: seconds since the previous event (0 for the first and for padding).
        modality_EL: int, the modality that the event observes; -1 for none.
        likelihood_EKJL: p(row | k, j_m) up to a factor; 1 where nothing is observed.
        share_KL: stationary distribution of k.
        nuisance_share_JL: stationary distribution of every j_m.
        num_modalities: M.
        state_tau, nuisance_tau: seconds, mean time between redraws of k and of each j_m.
    """
    with jax.enable_x64(True):
        prior = share_KL
        for axis in range(num_modalities):
            shape = [1] * (axis + 1) + list(nuisance_share_JL.shape)
            prior = np.expand_dims(prior, -2) * nuisance_share_JL.reshape(shape)
        parameters = (share_KL, nuisance_share_JL, np.float64(state_tau), np.float64(nuisance_tau))
        return chunked_smoother(
            partial(_forward, parameters),
            partial(_backward, parameters),
            prior,
            np.ones_like(prior),
            {"dt": dt_EL, "modality": modality_EL, "likelihood": likelihood_EKJL},
        )


Parameters = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
Rule = Callable[[jax.Array, int, jax.Array, jax.Array], jax.Array]


def _redraw(p: jax.Array, axis: int, share: jax.Array, keep_L: jax.Array) -> jax.Array:
    """Applies a chain's forward transition: p <- e p + (1 - e) share * sum_axis(p)."""
    return keep_L * p + (1.0 - keep_L) * (share * jnp.sum(p, axis=axis, keepdims=True))


def _average(p: jax.Array, axis: int, share: jax.Array, keep_L: jax.Array) -> jax.Array:
    """Applies a chain's transposed transition: p <- e p + (1 - e) sum_axis(share * p)."""
    return keep_L * p + (1.0 - keep_L) * jnp.sum(share * p, axis=axis, keepdims=True)


def _move(
    p: jax.Array, event: dict[str, jax.Array], parameters: Parameters, rule: Rule
) -> jax.Array:
    """Applies every chain's transition, one axis at a time."""
    share_KL, nuisance_JL, state_tau, nuisance_tau = parameters
    lift = (1,) * (p.ndim - 1)
    keep_state = jnp.exp(-event["dt"] / state_tau).reshape(*lift, -1)
    keep_nuisance = jnp.exp(-event["dt"] / nuisance_tau).reshape(*lift, -1)
    share = share_KL.reshape(share_KL.shape[0], *lift[1:], -1)
    p = rule(p, 0, share, keep_state)
    for axis in range(1, p.ndim - 1):
        share = nuisance_JL.reshape(*lift[:axis], -1, *lift[axis + 1 :], nuisance_JL.shape[1])
        p = rule(p, axis, share, keep_nuisance)
    return p


def _observe(p: jax.Array, event: dict[str, jax.Array]) -> jax.Array:
    """Multiplies by the likelihood, along class and the observed modality's nuisance axis."""
    likelihood_KJL = event["likelihood"]
    classes, nuisances, _ = likelihood_KJL.shape
    for axis in range(1, p.ndim - 1):
        shape = [1] * (p.ndim - 1) + [-1]
        shape[0], shape[axis] = classes, nuisances
        factor_KJL = jnp.where(event["modality"][None, None] == axis - 1, likelihood_KJL, 1.0)
        p = p * factor_KJL.reshape(shape)
    return p


def _normalised(p: jax.Array) -> jax.Array:
    return p / jnp.sum(p, axis=tuple(range(p.ndim - 1)), keepdims=True)


def _forward_step(
    parameters: Parameters, alpha: jax.Array, event: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    alpha = _normalised(_observe(_move(alpha, event, parameters, _redraw), event))
    return alpha, alpha


@jax.jit
def _forward(parameters: Parameters, alpha: jax.Array, chunk: dict[str, jax.Array]) -> jax.Array:
    def step(alpha: jax.Array, event: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        return _forward_step(parameters, alpha, event)[0], None

    return jax.lax.scan(step, alpha, chunk)[0]


@jax.jit
def _backward(
    parameters: Parameters, alpha: jax.Array, beta: jax.Array, chunk: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Computes the posterior of k, proportional to alpha * beta summed over the nuisances."""
    _, alphas = jax.lax.scan(partial(_forward_step, parameters), alpha, chunk)

    def step(beta: jax.Array, event: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        joint = _normalised(event["alpha"] * beta)
        posterior_KL = jnp.sum(joint, axis=tuple(range(1, joint.ndim - 1)))
        beta = _move(_observe(beta, event), event, parameters, _average)
        return _normalised(beta), posterior_KL

    return jax.lax.scan(step, beta, chunk | {"alpha": alphas}, reverse=True)
