"""What a model refuses, found while it is traced; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import pytest
from flax import linen as nn

from emojax.errors import InputError


def refused(model: nn.Module, streams: Any, masks: Any) -> str:
    """Returns the field that a model refuses when it is initialised."""
    return field_of(lambda: model.init(jax.random.key(0), streams, masks, train=False))


def field_of(traced: Callable[[], Any]) -> str:
    """Returns the field of the InputError that tracing this call raises."""
    with pytest.raises(InputError) as caught:
        jax.eval_shape(traced)
    return caught.value.details["field"].removeprefix("config.")
