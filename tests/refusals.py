"""Expects bad input to be refused, by the fields of the error and not by its sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from flax import linen as nn

from emojax.errors import InputError


@contextlib.contextmanager
def refused(**details: object) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Expects ``InputError`` whose field, file, found, expected or remedy contain these texts."""
    with pytest.raises(InputError) as caught:
        yield caught
    for key, part in details.items():
        assert str(part) in caught.value.details.get(key, ""), f"{key}: {caught.value.details}"


def refused_by_model(model: nn.Module, streams: Any, masks: Any) -> str:
    """Returns the field that a model refuses when it is initialised; nothing is computed."""
    return refused_in_trace(lambda: model.init(jax.random.key(0), streams, masks, train=False))


def refused_in_trace(traced: Callable[[], Any]) -> str:
    """Returns the field of the InputError that tracing this call raises."""
    with pytest.raises(InputError) as caught:
        jax.eval_shape(traced)
    return caught.value.details["field"].removeprefix("config.")
