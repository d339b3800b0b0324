"""Tests what mechanisms replace: every declared one, in every system that has some."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.session import Session
from emojax.models.mechanisms import mechanisms_of, replaced, replaced_parameters
from emojax.papers.variants import Variant
from emojax.studies.system_facts import quick_compiling
from tests.small_models import make_inputs, random_variables, shipped, small_session


def with_mechanisms() -> dict[str, Variant]:
    """Returns one variant for each set of mechanisms of each model, by title."""
    found: dict[str, Variant] = {}
    for variant in shipped():
        session = small_session(variant)
        names = mechanisms_of(session.model)
        if names:
            key = f"{variant.make().model.name} {getattr(session.model, 'variant', '')}"
            found.setdefault(f"{key} {len(names)} {next(iter(names)).split()[:2]}", variant)
    return {variant.title: variant for variant in found.values()}


VARIANTS = with_mechanisms()


def call_plainly(title: str) -> np.ndarray:
    session, variables, inputs, _ = ready(title)

    def call(variables: Any) -> dict[str, Any]:
        return session.model.apply(
            variables, inputs.streams, inputs.masks, valid=inputs.valid, train=False
        )[0]

    found = jax.jit(call, compiler_options=quick_compiling())(variables)
    return np.concatenate([np.asarray(x)[inputs.frames_BT] for x in found.values()], axis=-1)


@functools.cache
def ready(title: str) -> tuple[Session, Any, Any, Any]:
    """Returns a small model, its variables, windows, and the compiled call with replacements."""
    session = small_session(VARIANTS[title])
    # Not in the order of the alphabet, which JAX gives to a dict.
    model = session.model.clone(streams=tuple(sorted(session.streams, reverse=True)))
    session = dataclasses.replace(session, model=model)
    inputs = make_inputs(session, (12, 9))
    mechanisms = mechanisms_of(session.model)

    def call(variables: Any, chosen_M: Any) -> dict[str, Any]:
        params = replaced_parameters(mechanisms, chosen_M, variables["params"])
        with replaced(mechanisms, chosen_M):
            return session.model.apply(
                variables | {"params": params},
                inputs.streams, inputs.masks, valid=inputs.valid, train=False,
            )[0]  # fmt: skip

    compiled = jax.jit(call, compiler_options=quick_compiling())
    return session, random_variables(session), inputs, compiled


def outputs_of(title: str, *names: str) -> np.ndarray:
    """Returns the outputs of all tasks on real frames, with these mechanisms replaced."""
    session, variables, inputs, call = ready(title)
    chosen_M = np.array([name in names for name in mechanisms_of(session.model)])
    found = call(variables, chosen_M)
    return np.concatenate([np.asarray(x)[inputs.frames_BT] for x in found.values()], axis=-1)


EVERY = [
    (title, name)
    for title, variant in VARIANTS.items()
    for name in mechanisms_of(small_session(variant).model)
]


@pytest.mark.parametrize(("title", "name"), EVERY)
def test_every_mechanism_is_alive_in_a_random_model(title: str, name: str) -> None:
    change = outputs_of(title, name) - outputs_of(title)
    assert np.sqrt(np.mean(change**2)) > 1e-3


@pytest.mark.parametrize("title", VARIANTS)
def test_a_model_without_replacements_is_the_model(title: str) -> None:
    np.testing.assert_allclose(outputs_of(title), call_plainly(title), rtol=1e-5, atol=2e-6)
