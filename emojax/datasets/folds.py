"""Cross-validation folds: which videos train, validate and test together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from emojax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Fold:
    """One split of a store's videos.

    Attributes:
        name: unique in its store ("0").
        train: names of the videos to learn from; normalisation comes from these alone.
        validation: names of the videos that choose checkpoints and hyper-parameters.
        test: names of the videos that only the final scores see.
        scored_frames: evaluation counts frames ``start <= i < stop`` only; None counts all.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()
    scored_frames: tuple[int, int] | None = None


def official_and_blocks(
    videos: Sequence[tuple[str, str, str]], k: int = 6, seed: int = 0
) -> list[Fold]:
    """Fold "0" is the official split; folds "1" to "k-1" rotate blocks of the training videos.

    The training videos are dealt, source video by source video and in an order drawn from
    ``seed``, into k - 1 blocks of nearly equal size. In fold i block i validates, and the other
    blocks and the official validation videos train. An official validation video that shares
    its source with the block is left out of that fold, so that no source is on both sides. The
    test videos are those of the official split in every fold.

    Args:
        videos: (name, source video, partition) of each video; their order does not matter.
        k: number of folds, at least 1; 1 gives only the official split.
        seed: of the order in which sources are dealt.

    Returns:
        k folds; names inside a fold keep the order of ``videos``.

    Raises:
        InputError: k is below 1, or there are fewer training sources than blocks.
    """
    if k < 1:
        raise InputError(
            "The number of folds must be positive.", field="k", found=k, expected="at least 1"
        )

    def named(partition: str) -> tuple[str, ...]:
        return tuple(name for name, _, part in videos if part == partition)

    source_of = {name: source for name, source, _ in videos}
    train, validation, test = named("train"), named("validation"), named("test")
    folds = [Fold("0", train, validation, test)]
    if k == 1:
        return folds
    for number, block in enumerate(deal([source_of[name] for name in train], k - 1, seed), 1):
        rest = tuple(
            name
            for name, _, part in videos
            if part in ("train", "validation") and source_of[name] not in block
        )
        held = tuple(name for name in train if source_of[name] in block)
        folds.append(Fold(str(number), rest, held, test))
    return folds


def deal(sources: Sequence[str], blocks: int, seed: int) -> list[set[str]]:
    """Deals sources, one entry per video, into blocks with nearly equal numbers of videos.

    Args:
        sources: the source of each video (or of whatever is to be even between blocks).
        blocks: how many.
        seed: of the order in which sources of equal size are dealt.

    Raises:
        InputError: there are fewer sources than blocks.
    """
    names, counts = np.unique(np.asarray(sources, dtype=np.str_), return_counts=True)
    if len(names) < blocks:
        raise InputError(
            "There are fewer training sources than blocks.",
            field="k",
            found=f"{len(names)} source videos in training",
            expected=f"at least {blocks} for k = {blocks + 1}",
            remedy="use fewer folds or more videos",
        )
    order = np.random.default_rng(seed).permutation(len(names))
    # Sources with most videos first, so that the last ones even the blocks out.
    order = order[np.argsort(-counts[order], kind="stable")]
    dealt: list[set[str]] = [set() for _ in range(blocks)]
    sizes = [0] * blocks
    for i in order:
        smallest = sizes.index(min(sizes))
        dealt[smallest].add(str(names[i]))
        sizes[smallest] += int(counts[i])
    return dealt
