"""The studies as data: stores to simulate, and systems to train on them.

Streams are narrower than the papers' (the information in a simulated stream does not grow with its
width), so that a study runs on two cores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class StoreCase:
    """A simulated store that holds one system's streams.

    Attributes:
        widths: stream -> D.
        tasks: labelled tasks.
    """

    widths: dict[str, int]
    tasks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of a study's table.

    Attributes:
        label: the name in table and picture.
        config: the value of ``--config``.
        store: a key of ``STORES``.
        group: the group; cases of one group are drawn together, beside one optimum.
        overrides: further flags of ``emojax train``.
        train_videos: the number of training videos of the store; 0 for that of its size.
    """

    label: str
    config: str
    store: str
    group: str
    overrides: tuple[str, ...] = ()
    train_videos: int = 0

    @property
    def folder(self) -> str:
        """Returns the name of the case's folder."""
        return self.label.replace(" ", "_").replace("/", "_")


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the trainings that answer it.

    Attributes:
        question: the title of table and picture.
        preset, size: the preset and size of the simulated stores.
        seeds: the number of seeds; each case is trained with all of them as replicas.
        cases: the rows.
        late: the label of a further row -> the labels of cases whose predictions it combines.
        videos: partition -> number of videos, where it differs from the size's.
        seconds: the shortest and the longest video; empty for the size's.
        mechanisms: also replace each mechanism of each case, see ``emojax.studies``.
    """

    question: str
    preset: str
    size: str
    seeds: int
    cases: tuple[Case, ...]
    late: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    videos: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    mechanisms: bool = False


STORES: dict[str, StoreCase] = {
    "emma_net": StoreCase({"fan": 128, "deepspectrum": 128, "openpose": 50}, ("va", "expr", "au")),
    "rjcma": StoreCase({"ir50": 128, "vggish": 64, "bert": 128}, ("va",)),
    "exptrm": StoreCase({"vggface": 128, "compare_lld": 65}, ("va",)),
    "tcn_transformer": StoreCase(
        {"eff": 128, "affectnet8": 64, "raf_db": 64, "wav2vec2_emotion": 64}, ("va", "expr", "au")
    ),
    "multiscale_tcn": StoreCase({"ir50": 128, "vggish": 64, "logmel": 64}, ("va",)),
    "face_audio": StoreCase({"ir50": 32, "vggish": 32}, ("va",)),
}
