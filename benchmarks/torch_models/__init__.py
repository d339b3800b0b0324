"""The five systems in PyTorch, to compare speed with: idiomatic, float32, no masks.

Each is one file of the system's name that defines ``SYSTEM``, a ``TorchSystem``. ``SYSTEMS`` looks
like a dictionary of them, and imports a file when its system is asked for, so that neither PyTorch
nor a file that fails to import stands in the way of the others.
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
        name: as ``configs/<name>.py``.
        config: the file of the paper's configuration, which gives batch size, window, widths
            and optimiser.
        build: (configuration, stream -> width) -> module.
        load: copies the Linen variables of one replica, {"params": ..., "batch_stats": ...},
            into a module.
    """

    name: str
    config: str
    build: Callable[[ConfigDict, Mapping[str, int]], torch.nn.Module]
    load: Callable[[torch.nn.Module, Mapping[str, Any]], None]


class _Lazy(Mapping[str, TorchSystem]):
    """name -> system, imported on first use."""

    def __getitem__(self, name: str) -> TorchSystem:
        """The system.

        Raises:
            KeyError: there is none of this name.
            ImportError: its file is missing, or PyTorch is.
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
