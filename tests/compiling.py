"""Compiling without optimisation, for tests that compile much and compute little."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def unoptimised() -> Iterator[None]:
    """What a program computes is the same; it only compiles in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
