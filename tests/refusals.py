"""Expects bad input to be refused, by what the error says about it and not by its sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from emojax.errors import InputError


@contextlib.contextmanager
def refused(**details: object) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Expects ``InputError`` whose field, file, found, expected or remedy contain these texts."""
    with pytest.raises(InputError) as caught:
        yield caught
    for key, part in details.items():
        assert str(part) in caught.value.details.get(key, ""), f"{key}: {caught.value.details}"
