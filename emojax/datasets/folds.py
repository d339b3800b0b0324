"""Cross-validation folds: which videos train, validate and test together.

Schemes have names, see ``make_folds``. In all of them fold "0" is the official split and the test
videos are the same in every fold. Videos of one source stay together in the folds that are dealt,
except in the scheme ``rjcma``, which deals as its authors did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from emojax.errors import InputError, closest
from emojax.specs import TaskSpec

# Scheme -> number of folds.
SCHEMES = {"official": 1, "blocks": 6, "emma": 6, "tcn_transformer": 5, "rjcma": 6}
NAMES = "official, blocks:6 (or another number), emma, tcn_transformer, rjcma"
_ROUNDS = 20  # of moving sources between blocks; two or three are usual


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


def make_folds(
    scheme: str,
    videos: Sequence[tuple[str, str, str]],
    *,
    seed: int = 0,
    classes: Mapping[str, np.ndarray] | None = None,
) -> list[Fold]:
    """Makes the folds of a named scheme; fold "0" is always the official split.

    - ``official``: nothing else.
    - ``blocks:6`` (ours): folds 1 to 5 rotate blocks of the training videos, the official
      validation joins training, see ``official_and_blocks``. Any number of folds.
    - ``emma``: folds 1 to 5 rotate fifths of the training videos; the official validation
      videos are in fold 0 alone (EMMA-Net, section 4).
    - ``tcn_transformer``: folds 1 to 4 rotate quarters of the training and validation videos
      together (TCN-Transformer's public code).
    - ``rjcma``: folds 1 to 5 rotate contiguous blocks of the training videos in list order, see
      ``rolled_blocks`` (RJCMA's and LFAN's public code). No seed or class matters.

    Blocks are grouped by source video, except those of ``rjcma``. ``blocks`` and ``emma`` are
    stratified by class share where classes are given; ``tcn_transformer`` never is, as it was
    published.

    Args:
        scheme: a name, ``blocks`` with ``:K`` where K is not 6.
        videos: (name, source video, partition) of each video; their order matters to ``rjcma``
            alone.
        seed: the seed of the order in which sources are dealt.
        classes: video name -> (classes,) number of annotated frames of each class.

    Returns:
        the folds; names inside a fold keep the order of ``videos``.

    Raises:
        InputError: the scheme is unknown, or there are fewer sources (``rjcma``: videos) than
            blocks.
    """
    name, number = parse_scheme(scheme)
    if name == "blocks":
        return official_and_blocks(videos, number, seed, classes)
    if name == "rjcma":
        return rolled_blocks(videos, number)
    folds = official_and_blocks(videos, 1)
    if name == "official":
        return folds
    pooled = ("train",) if name == "emma" else ("train", "validation")
    source_of = {video: source for video, source, part in videos if part in pooled}
    for i, block in enumerate(
        _blocks(source_of, number - 1, seed, classes if name == "emma" else None), 1
    ):
        train = tuple(video for video, source in source_of.items() if source not in block)
        held = tuple(video for video, source in source_of.items() if source in block)
        folds.append(Fold(str(i), train, held, folds[0].test))
    return folds


def parse_scheme(scheme: str) -> tuple[str, int]:
    """Returns the name of a scheme and its number of folds.

    Raises:
        InputError: the name is unknown, or the number is not a number of folds.
    """
    name, colon, number = scheme.partition(":")
    fits = name in SCHEMES and (not colon or (name == "blocks" and number.isdecimal()))
    if not fits or (colon and int(number) < 1):
        raise InputError(
            "Unknown scheme of folds.",
            field="--folds",
            found=scheme,
            expected=NAMES,
            remedy=closest(name, SCHEMES),
        )
    return name, int(number) if colon else SCHEMES[name]


def official_and_blocks(
    videos: Sequence[tuple[str, str, str]],
    k: int = 6,
    seed: int = 0,
    classes: Mapping[str, np.ndarray] | None = None,
) -> list[Fold]:
    """Makes the official split, fold "0", and k - 1 folds that rotate blocks of training videos.

    The training videos are dealt, source video by source video and in an order drawn from
    ``seed``, into k - 1 blocks of nearly equal size. In fold i block i validates, and the other
    blocks and the official validation videos train. An official validation video that shares
    its source with the block is left out of that fold, so that no source is on both sides. The
    test videos are those of the official split in every fold.

    Args:
        videos: (name, source video, partition) of each video; their order does not matter.
        k: number of folds, at least 1; 1 gives only the official split.
        seed: the seed of the order in which sources are dealt.
        classes: video name -> (classes,) number of annotated frames of each class, to make
            the blocks even in (``deal_evenly``); without, they are even in videos.

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
    blocks = _blocks({name: source_of[name] for name in train}, k - 1, seed, classes)
    for number, block in enumerate(blocks, 1):
        rest = tuple(
            name
            for name, _, part in videos
            if part in ("train", "validation") and source_of[name] not in block
        )
        held = tuple(name for name in train if source_of[name] in block)
        folds.append(Fold(str(number), rest, held, test))
    return folds


def rotating_blocks(
    videos: Sequence[tuple[str, str, str]],
    k: int,
    seed: int = 0,
    classes: Mapping[str, np.ndarray] | None = None,
) -> list[Fold]:
    """Makes k folds for videos without an official validation: block i validates in fold i.

    Args:
        videos: (name, source video or person, partition) of each video; those of partition
            "train" are dealt, source by source.
        k: number of folds, at least 2.
        seed: the seed of the order in which sources are dealt.
        classes: video name -> (classes,) number of annotated frames of each class.

    Raises:
        InputError: there are fewer sources than folds.
    """
    source_of = {name: source for name, source, part in videos if part == "train"}
    test = tuple(name for name, _, part in videos if part == "test")
    folds = []
    for number, block in enumerate(_blocks(source_of, k, seed, classes)):
        train = tuple(name for name, source in source_of.items() if source not in block)
        held = tuple(name for name, source in source_of.items() if source in block)
        folds.append(Fold(str(number), train, held, test))
    return folds


def rolled_blocks(videos: Sequence[tuple[str, str, str]], k: int = 6) -> list[Fold]:
    """Makes the folds of RJCMA's public code (``dataset.py``, ``base/dataset.py``).

    The n training videos, in list order, are cut into k - 1 contiguous blocks of n // (k - 1)
    videos, and the last block takes the rest: the 356 of Aff-Wild2 give 71, 71, 71, 71 and 72. The
    official validation videos are one more block. Fold i rolls the list of blocks by i places, so
    the last block validates in fold 1, the one before it in fold 2, and so on; all others train.

    Videos of one source are not kept together: where a block ends between two people of a video,
    one of them trains and the other validates, as in that code.

    Args:
        videos: (name, source video, partition) of each video, in list order.
        k: number of folds, at least 2.

    Returns:
        k folds; fold "0" is the official split.

    Raises:
        InputError: there are fewer training videos than blocks.
    """
    official = official_and_blocks(videos, 1)[0]
    train, count = official.train, k - 1
    _check_enough(len(train), count, "training videos")
    size = len(train) // count
    edges = [i * size for i in range(count)] + [len(train)]
    folds = [official]
    for number in range(1, k):
        start, stop = edges[count - number], edges[count - number + 1]
        rest = {*train[:start], *train[stop:], *official.validation}
        learnt = tuple(name for name, _, _ in videos if name in rest)
        folds.append(Fold(str(number), learnt, train[start:stop], official.test))
    return folds


def class_counts(labels_NK: np.ndarray, task: TaskSpec) -> np.ndarray:
    """Counts the annotated frames of each class in one video, (classes,) int64.

    Args:
        labels_NK: (N, 1) class indices, the task's ignore value where not annotated.
        task: a categorical task.
    """
    known_M = labels_NK[labels_NK != np.float32(task.ignore)].astype(np.int64)
    return np.bincount(known_M, minlength=len(task.labels))


def class_shares(fold: Fold, classes: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Returns the share of each class among the annotated frames of a fold's videos, by role.

    Args:
        fold: the fold.
        classes: video name -> (classes,) number of annotated frames of each class; videos
            without annotations may be absent.

    Returns:
        shares that sum to 1; an empty list for a role without any annotated frame.
    """
    shares = {}
    for role in ("train", "validation", "test"):
        counts = [classes[name] for name in getattr(fold, role) if name in classes]
        total_K = np.sum(counts, axis=0) if counts else np.zeros(0)
        frames = float(np.sum(total_K))
        shares[role] = [float(count) / frames for count in total_K] if frames else []
    return shares


def _blocks(
    source_of: Mapping[str, str],
    blocks: int,
    seed: int,
    classes: Mapping[str, np.ndarray] | None,
) -> list[set[str]]:
    if classes is None:
        return deal(list(source_of.values()), blocks, seed)
    width = max((len(counts) for counts in classes.values()), default=0)
    amounts: dict[str, np.ndarray] = {}
    for video, source in source_of.items():
        counts_K = np.asarray(classes.get(video, np.zeros(width)), np.float64)
        # The last column counts videos.
        amount_K = np.append(counts_K, 1.0)
        amounts[source] = amounts.get(source, np.zeros_like(amount_K)) + amount_K
    return deal_evenly(amounts, blocks, seed)


def deal_evenly(amounts: Mapping[str, np.ndarray], blocks: int, seed: int) -> list[set[str]]:
    """Deals sources into blocks that are nearly even in several amounts at once.

    Each amount counts as a share of its total, so that a rare class matters as much as a
    frequent one, and the sum of squared shares over blocks and amounts is made small: sources
    are placed one by one, the largest first, where they increase it least, and then moved one
    by one as long as that lowers it.

    Args:
        amounts: source -> (amounts,) numbers >= 0, for instance frames of each class.
        blocks: the number of blocks.
        seed: the seed of the order in which sources of similar size are dealt.

    Raises:
        InputError: there are fewer sources than blocks.
    """
    names = sorted(amounts)
    _check_enough(len(names), blocks)
    share_SK = np.stack([np.asarray(amounts[name], np.float64) for name in names])
    share_SK = share_SK / np.maximum(share_SK.sum(axis=0), 1e-300)
    order = np.random.default_rng(seed).permutation(len(names))
    # Sources whose sizes differ by less than a factor of two count as equal.
    size_S = np.floor(np.log2(np.maximum(np.linalg.norm(share_SK, axis=1), 1e-300)))
    order = order[np.argsort(-size_S[order], kind="stable")]
    sum_BK = np.zeros((blocks, share_SK.shape[1]))
    count_B = np.zeros(blocks, np.int64)
    block_S = np.full(len(names), -1)
    for position, i in enumerate(order):
        cost_B = sum_BK @ share_SK[i]
        # Keeps blocks from staying empty where sources have no amounts.
        if len(names) - position <= np.count_nonzero(count_B == 0):
            cost_B[count_B > 0] = np.inf
        block_S[i] = int(np.argmin(cost_B))
        sum_BK[block_S[i]] += share_SK[i]
        count_B[block_S[i]] += 1
    for _ in range(_ROUNDS):
        moved = False
        for i in order:
            here, amount_K = block_S[i], share_SK[i]
            if count_B[here] == 1:
                continue
            # Half the change of the sum of squares, relative to leaving the source out.
            cost_B = sum_BK @ amount_K
            cost_B[here] -= amount_K @ amount_K
            there = int(np.argmin(cost_B))
            if cost_B[there] < cost_B[here] - 1e-12:
                sum_BK[here] -= amount_K
                sum_BK[there] += amount_K
                count_B[here] -= 1
                count_B[there] += 1
                block_S[i] = there
                moved = True
        if not moved:
            break
    return [{names[i] for i in np.flatnonzero(block_S == b)} for b in range(blocks)]


def deal(sources: Sequence[str], blocks: int, seed: int) -> list[set[str]]:
    """Deals sources, one entry per video, into blocks with nearly equal numbers of videos.

    Args:
        sources: the source of each video (or of whatever is to be even between blocks).
        blocks: the number of blocks.
        seed: the seed of the order in which sources of equal size are dealt.

    Raises:
        InputError: there are fewer sources than blocks.
    """
    names, counts = np.unique(np.asarray(sources, dtype=np.str_), return_counts=True)
    _check_enough(len(names), blocks)
    order = np.random.default_rng(seed).permutation(len(names))
    # Sources with the most videos first, so that small ones even out the blocks.
    order = order[np.argsort(-counts[order], kind="stable")]
    dealt: list[set[str]] = [set() for _ in range(blocks)]
    sizes = [0] * blocks
    for i in order:
        smallest = sizes.index(min(sizes))
        dealt[smallest].add(str(names[i]))
        sizes[smallest] += int(counts[i])
    return dealt


def _check_enough(count: int, blocks: int, what: str = "training sources") -> None:
    if count < blocks:
        raise InputError(
            f"There are fewer {what} than blocks.",
            field="k",
            found=f"{count} {what}",
            expected=f"at least {blocks} for k = {blocks + 1}",
            remedy="use fewer folds or more videos",
        )
