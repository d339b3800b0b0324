"""Builds a store from the MELD development split: utterance embeddings with seven emotions.

    emojax meld --source=FOLDER --out=stores/meld

1108 utterances of 114 dialogues from the series Friends, each with one of seven emotions. A
dialogue is a video and an utterance a frame, one a second in the order in which they are said,
so models see the conversation. Streams: ``roberta`` (text), ``wav2vec2`` and ``mel_stats``
(speech).

Folds ``0`` to ``4`` hold out dialogues; the held-out fifth validates. In ``nested_0`` to
``nested_4`` the same fifth is the test set and one in six of the other dialogues validates, so
that what stops a training is not what scores it.

A smoke test of categorical emotion, not a benchmark: the extractors were fine-tuned on MELD's
training split with this split as validation, and no published number is comparable.

Poria et al. 2019, "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in
Conversations", ACL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from emojax.commands import cli
from emojax.datasets.folds import Fold, deal
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.store import StoreWriter
from emojax.specs import TASKS, StreamSpec

from .builder import define_export_flags, open_export, report_store, write_videos
from .exported_arrays import NpzArrays

FILE = "meld_dev_utterances.npz"
TASK = "ekman"
FOLDS = 5
# Array of the export -> specification of its stream, which is kept in the store.
STREAMS: dict[str, StreamSpec] = {
    "text": StreamSpec("roberta", 768, "text"),
    "audio_w2v": StreamSpec("wav2vec2", 768, "audio"),
    "audio_mel": StreamSpec("mel_stats", 300, "audio"),
}
_NESTED_VALIDATION_SHARE = 6  # one training dialogue of this many validates

_DESCRIPTION = (
    "MELD development split (Poria et al. 2019): utterances of the series Friends with seven "
    "emotions. Embeddings come from extractors fine-tuned on MELD's training split with this "
    "split as validation: a smoke test only, no published number is comparable."
)
_TERMS = {
    "embeddings": "iosonopersia/Multimodal-Emotion-Recognition @a279b917, embeddings/*/val.pkl; "
    "the repository has no licence file",
    "labels": "declare-lab/MELD @2d2011b4, data/MELD/dev_sent_emo.csv; the repository is under "
    "GPL-3.0",
    "recordings": "text and speech are from the series Friends",
}


@dataclasses.dataclass(frozen=True)
class Export:
    """The checked arrays of the export; U utterances, ordered by dialogue and turn.

    Attributes:
        streams: stream name -> (U, D).
        emotion_U: class index of ``TASKS["ekman"]``.
        dialogue_U: number of the dialogue.
        sha256: the sha256 of the file.
    """

    streams: dict[str, np.ndarray]
    emotion_U: np.ndarray
    dialogue_U: np.ndarray
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the name of each utterance's dialogue."""
        return tuple(f"dialogue_{number:03d}" for number in self.dialogue_U)


def read_export(source: str | Path) -> Export:
    """Reads and checks the export.

    Args:
        source: the folder with the file, or the file.

    Raises:
        InputError: the file is missing or damaged, or one of its arrays is wrong; the field
            names the array.
    """
    arrays = open_export(source, FILE, "MELD export")
    dialogue_U = arrays.integers("dialogue", least=0, axes=1)
    count = len(dialogue_U)
    if len(np.unique(dialogue_U)) < FOLDS:
        raise arrays.error(
            "dialogue",
            f"{len(np.unique(dialogue_U))} dialogues",
            f"at least {FOLDS}, to fold by dialogue",
        )
    turn_U = _checked_turns(arrays, dialogue_U)
    emotion_U = _checked_emotions(arrays, count)
    streams = {
        spec.name: arrays.finite(name, (count, spec.width)) for name, spec in STREAMS.items()
    }
    order = np.lexsort((turn_U, dialogue_U))
    return Export(
        streams={name: x_UD[order] for name, x_UD in streams.items()},
        emotion_U=emotion_U[order],
        dialogue_U=dialogue_U[order],
        sha256=arrays.sha256,
    )


def _checked_turns(arrays: NpzArrays, dialogue_U: np.ndarray) -> np.ndarray:
    turn_U = arrays.integers("utterance", least=0, axes=1)
    if turn_U.shape != dialogue_U.shape:
        raise arrays.error("utterance", turn_U.shape, dialogue_U.shape)
    pairs, seen = np.unique(np.stack([dialogue_U, turn_U]), axis=1, return_counts=True)
    if seen.max(initial=1) > 1:
        dialogue, turn = pairs[:, seen > 1][:, 0]
        raise arrays.error(
            "utterance", f"dialogue {dialogue}, utterance {turn} twice", "every utterance once"
        )
    return turn_U


def _checked_emotions(arrays: NpzArrays, count: int) -> np.ndarray:
    labels = TASKS[TASK].labels
    names = arrays.texts("emotion_names")
    expected = tuple(label.lower() for label in labels)
    if names != expected:
        raise arrays.error("emotion_names", ", ".join(names), ", ".join(expected))
    emotion_U = arrays.integers("emotion", least=0, axes=1)
    if emotion_U.shape != (count,):
        raise arrays.error("emotion", emotion_U.shape, (count,))
    if emotion_U.max(initial=0) >= len(labels):
        raise arrays.error("emotion", emotion_U.max(), f"0 to {len(labels) - 1}")
    return emotion_U


def make_folds(export: Export, seed: int = 0) -> list[Fold]:
    """Makes five folds by dialogue, and the same five with a validation set of their own.

    Args:
        export: the data.
        seed: of the order in which dialogues are dealt; blocks hold nearly equal numbers of
            utterances.
    """
    videos = tuple(dict.fromkeys(export.names))
    blocks = deal(export.names, FOLDS, seed)
    folds, nested = [], []
    for number, block in enumerate(blocks):
        held = tuple(name for name in videos if name in block)
        rest = tuple(name for name in videos if name not in block)
        folds.append(Fold(str(number), rest, held))
        known = [name for name in export.names if name not in block]
        shares = min(_NESTED_VALIDATION_SHARE, len(rest))
        validates = deal(known, shares, seed)[number % shares]
        nested.append(
            Fold(
                f"nested_{number}",
                tuple(name for name in rest if name not in validates),
                tuple(name for name in rest if name in validates),
                held,
            )
        )
    return folds + nested


def records(export: Export) -> Iterator[VideoRecord]:
    """Yields every dialogue, an utterance a second."""
    names = np.array(export.names)
    for name in dict.fromkeys(export.names):
        own = names == name
        pts_N = np.arange(own.sum(), dtype=np.float64)
        valid_N = np.ones(len(pts_N), bool)
        yield VideoRecord(
            name=name,
            source_video=name,
            partition="train",  # the fold decides what a dialogue is for
            pts_N=pts_N,
            streams={
                stream: StreamRows(x_UD[own], pts_N, valid_N)
                for stream, x_UD in export.streams.items()
            },
            labels={TASK: export.emotion_U[own, None].astype(np.float32)},
        )


def build(
    source: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Writes the store.

    Args:
        source: see ``read_export``.
        out: folder to create.
        seed: see ``make_folds``.
        overwrite: replace a store that is there already.
        say: called with lines of progress.

    Raises:
        InputError: see ``read_export``; or the target exists.
    """
    export = read_export(source)
    folds = make_folds(export, seed)
    writer = StoreWriter(
        out,
        name="meld",
        streams=list(STREAMS.values()),
        tasks=[TASK],
        videos_per_shard=128,
        description=_DESCRIPTION,
        builder={"command": "data.meld", "seed": seed, "terms": _TERMS},
        sources={FILE: export.sha256},
        overwrite=overwrite,
    )
    write_videos(writer, records(export), folds)
    shares = np.bincount(export.emotion_U, minlength=len(TASKS[TASK].labels))
    counts = ", ".join(f"{n} {label}" for n, label in zip(shares, TASKS[TASK].labels, strict=True))
    say(f"{len(export.names)} utterances of {len(set(export.names))} dialogues: {counts}")
    say(f"{len(folds)} folds: {', '.join(fold.name for fold in folds)}")
    say(_DESCRIPTION)


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define_export_flags(define, FILE, "Decides which dialogues are held out together.")


def main(given: flags.FlagValues) -> None:
    """Builds the store that the flags describe."""
    build(given.source, given.out, seed=given.seed, overwrite=given.overwrite, say=cli.say)
    report_store(given.out)


COMMAND = cli.Command(main, define_flags, summary="data.meld")

if __name__ == "__main__":
    COMMAND.run()
