"""The five systems in PyTorch, for comparisons of speed: idiomatic, float32, without masks.

Each file has the name of a system and defines ``SYSTEM``, a ``TorchSystem``. ``SYSTEMS`` is a
mapping of them that imports a file on first use. So a missing PyTorch, or a file that fails to
import, does not affect the others.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from ml_collections import ConfigDict

NAMES = ("rjcma", "exptrm", "emma_net", "multiscale_tcn", "tcn_transformer")


@dataclasses.dataclass(frozen=True)
class TorchSystem:
    """A system as a good PyTorch user would write it.

    The module's ``forward`` takes stream -> (B, T_s, D) float32, normalised, every frame real,
    and returns (task -> (B, T, C), auxiliary loss): the same outputs as the Linen model's with
    the same weights, and the sum of its ``aux["losses"]`` (zero where it has none).

    Attributes:
        name: the name of the file in ``configs/``.
        config: the module of the paper's configuration, which gives batch size, window, widths
            and optimiser.
        build: makes the module from (configuration, stream -> width).
        load: copies the Linen variables of one replica, {"params": ..., "batch_stats": ...},
            into a module.
    """

    name: str
    config: str
    build: Callable[[ConfigDict, Mapping[str, int]], torch.nn.Module]
    load: Callable[[torch.nn.Module, Mapping[str, Any]], None]


class _Lazy(Mapping[str, TorchSystem]):
    """A mapping of names to systems that imports a file on first use."""

    def __getitem__(self, name: str) -> TorchSystem:
        """Returns the system.

        Raises:
            KeyError: no system has this name.
            ImportError: the file or PyTorch is missing.
        """
        if name not in NAMES:
            raise KeyError(name)
        system: TorchSystem = importlib.import_module(f"{__name__}.{name}").SYSTEM
        return system

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


SYSTEMS: Mapping[str, TorchSystem] = _Lazy()
