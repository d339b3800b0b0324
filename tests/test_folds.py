"""Folds: the official split, and blocks that never split a source video."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.datasets.folds import (
    Fold,
    class_counts,
    class_shares,
    make_folds,
    official_and_blocks,
    parse_scheme,
)
from emojax.errors import InputError
from emojax.specs import TASKS

Video = tuple[str, str, str]


@st.composite
def video_lists(draw: st.DrawFn) -> tuple[list[Video], int]:
    k = draw(st.integers(1, 6))
    partitions = st.sampled_from(["train", "validation", "test"])
    sources = draw(st.lists(st.tuples(partitions, st.integers(1, 3)), max_size=20))
    sources += [("train", 1)] * (k - 1)
    videos = [
        (f"{i}_{person}", str(i), partition)
        for i, (partition, persons) in enumerate(sources)
        for person in range(persons)
    ]
    return draw(st.permutations(videos)), k


def named(videos: list[Video], partition: str) -> tuple[str, ...]:
    return tuple(name for name, _, part in videos if part == partition)


@settings(max_examples=200)
@given(video_lists(), st.integers(0, 5))
def test_blocks_partition_the_training_videos(given_: tuple[list[Video], int], seed: int) -> None:
    videos, k = given_
    folds = official_and_blocks(videos, k, seed)
    train, validation, test = (named(videos, part) for part in ("train", "validation", "test"))
    assert folds[0] == Fold("0", train, validation, test)
    assert [fold.name for fold in folds] == [str(i) for i in range(k)]
    source_of = {name: source for name, source, _ in videos}
    for fold in folds[1:]:
        assert set(fold.train) | set(fold.validation) == {*train, *validation}
        assert not set(fold.train) & set(fold.validation)
        train_sources = {source_of[name] for name in fold.train}
        assert not train_sources & {source_of[name] for name in fold.validation}
        assert fold.test == test
        assert fold.validation
    if k > 1:
        held = [name for fold in folds[1:] for name in fold.validation]
        assert sorted(held) == sorted(train)


@settings(max_examples=100)
@given(video_lists(), st.integers(0, 5), st.randoms())
def test_order_of_the_videos_does_not_matter(
    given_: tuple[list[Video], int], seed: int, random: object
) -> None:
    videos, k = given_
    other = list(videos)
    random.shuffle(other)  # type: ignore[attr-defined]
    for a, b in zip(
        official_and_blocks(videos, k, seed), official_and_blocks(other, k, seed), strict=True
    ):
        assert set(a.train) == set(b.train)
        assert set(a.validation) == set(b.validation)


def test_blocks_are_even_and_drawn_from_the_seed() -> None:
    videos = [(f"{i}_{p}", str(i), "train") for i in range(100) for p in range(1 + i % 2)]
    videos += [(f"v{i}", f"v{i}", "validation") for i in range(20)]
    folds = official_and_blocks(videos, 6, 0)
    sizes = [len(fold.validation) for fold in folds[1:]]
    assert sizes == [30] * 5
    assert official_and_blocks(videos, 6, 0) == folds
    assert official_and_blocks(videos, 6, 1) != folds
    assert [len(fold.train) for fold in folds] == [150] + [150 - 30 + 20] * 5


def test_validation_person_of_a_held_source_is_left_out() -> None:
    videos = [
        ("a_left", "a", "train"),
        ("a_right", "a", "validation"),
        ("b", "b", "train"),
        ("c", "c", "validation"),
    ]
    folds = official_and_blocks(videos, 3, 0)
    held_a = next(fold for fold in folds[1:] if fold.validation == ("a_left",))
    assert held_a.train == ("b", "c")
    held_b = next(fold for fold in folds[1:] if fold.validation == ("b",))
    assert held_b.train == ("a_left", "a_right", "c")


@pytest.mark.parametrize("k", [0, -1, 4])
def test_impossible_numbers_of_folds(k: int) -> None:
    videos = [("a_left", "a", "train"), ("a_right", "a", "train"), ("b", "b", "train")]
    with pytest.raises(InputError) as caught:
        official_and_blocks(videos, k)
    assert caught.value.details["field"] == "k"


@st.composite
def classed_videos(draw: st.DrawFn) -> tuple[list[Video], dict[str, np.ndarray]]:
    """At least five training sources, most videos with class counts, which may be zero."""
    persons = draw(st.lists(st.integers(1, 2), min_size=5, max_size=15))
    parts = draw(st.lists(st.sampled_from(["validation", "test"]), max_size=6))
    videos = [
        (f"{i}_{p}", str(i), "train") for i, count in enumerate(persons) for p in range(count)
    ]
    videos += [(f"x{i}", f"x{i}", part) for i, part in enumerate(parts)]
    counts = st.lists(st.integers(0, 500), min_size=3, max_size=3)
    classes = {name: np.array(draw(counts)) for name, _, _ in videos if draw(st.booleans())}
    return videos, classes


@settings(max_examples=60)
@given(classed_videos(), st.sampled_from(["blocks:3", "blocks", "emma", "tcn_transformer"]))
def test_schemes_keep_sources_together_and_cover_their_pool(
    given_: tuple[list[Video], dict[str, np.ndarray]], scheme: str
) -> None:
    videos, classes = given_
    folds = make_folds(scheme, videos, classes=classes)
    train, validation, test = (named(videos, part) for part in ("train", "validation", "test"))
    assert folds[0] == Fold("0", train, validation, test)
    assert len(folds) == parse_scheme(scheme)[1]
    assert folds == make_folds(scheme, videos, classes=classes)
    other = make_folds(scheme, videos[::-1], classes=classes)
    assert [set(fold.validation) for fold in folds] == [set(fold.validation) for fold in other]
    source_of = {name: source for name, source, _ in videos}
    pool = {*train, *validation} if scheme == "tcn_transformer" else {*train}
    assert sorted(name for fold in folds[1:] for name in fold.validation) == sorted(pool)
    known = {*train} if scheme == "emma" else {*train, *validation}
    for fold in folds[1:]:
        assert fold.train
        assert fold.validation
        assert fold.test == test
        assert {*fold.train, *fold.validation} == known
        sources = [{source_of[name] for name in part} for part in (fold.train, fold.validation)]
        assert not sources[0] & sources[1]


def test_class_shares_of_blocks_are_nearly_equal() -> None:
    # As expressions are: a video shows few of them, long videos weigh more, some are rare.
    rng = np.random.default_rng(0)
    videos, classes = [], {}
    for i in range(247):
        persons = ["_left", "_right"] if i % 9 == 0 else [""]
        for person in persons:
            name = f"{i}{person}"
            videos.append((name, str(i), "train"))
            shares = rng.dirichlet([0.3, 0.1, 0.05, 0.05, 0.2, 0.15, 0.06, 0.2])
            classes[name] = (shares * rng.lognormal(7, 0.5)).astype(int)
    videos += [(f"v{i}", f"v{i}", "validation") for i in range(70)]

    def spread(folds: list[Fold]) -> float:
        """Returns the largest relative deviation of a class's share over the dealt blocks."""
        shares = np.array([class_shares(fold, classes)["validation"] for fold in folds[1:]])
        return float(np.abs(shares / shares.mean(axis=0) - 1).max())

    stratified = make_folds("blocks:6", videos, classes=classes)
    assert spread(stratified) < 0.05 < 0.15 < spread(make_folds("blocks:6", videos))
    assert spread(make_folds("emma", videos, classes=classes)) < 0.05
    sizes = [len(fold.validation) for fold in stratified[1:]]
    assert max(sizes) - min(sizes) <= 6
    assert make_folds("blocks:6", videos, classes=classes, seed=1) != stratified
    # As published, whatever the classes.
    assert make_folds("tcn_transformer", videos, classes=classes) == make_folds(
        "tcn_transformer", videos
    )


def test_without_classes_blocks_are_as_ever() -> None:
    videos = [(f"{i}_{p}", str(i), "train") for i in range(20) for p in range(1 + i % 2)]
    assert make_folds("blocks:4", videos, seed=3) == official_and_blocks(videos, 4, 3)
    assert make_folds("official", videos) == official_and_blocks(videos, 1)


def test_shares_of_a_fold() -> None:
    labels = np.array([[0], [2], [2], [-1], [7]], np.float32)
    counts = class_counts(labels, TASKS["expr"])
    assert counts.tolist() == [1, 0, 2, 0, 0, 0, 0, 1]
    shares = class_shares(Fold("0", ("a", "b"), ("c",)), {"a": counts, "b": counts})
    assert shares["train"] == [0.25, 0, 0.5, 0, 0, 0, 0, 0.25]
    assert shares["validation"] == shares["test"] == []


def test_rjcma_folds_of_aff_wild2_are_those_of_the_public_code() -> None:
    # Neighbours share a source, and partitions alternate, as in a sorted list of all videos.
    parts = ["train"] * 356 + ["validation"] * 76 + ["test"] * 162
    order = np.random.default_rng(0).permutation(len(parts))
    videos = [(f"{i:03}", f"{i // 2}", parts[j]) for i, j in enumerate(order)]
    train, validation, test = (named(videos, part) for part in ("train", "validation", "test"))
    folds = make_folds("rjcma", videos, seed=5)
    assert folds == make_folds("rjcma", videos)
    assert [fold.name for fold in folds] == ["0", "1", "2", "3", "4", "5"]
    # numpy's roll of the six ranges, the last of which validates.
    ranges = [range(71), range(71, 142), range(142, 213), range(213, 284), range(284, 356)]
    listed = [tuple(train[i] for i in one) for one in ranges] + [validation]
    for number, fold in enumerate(folds):
        rolled = [listed[i] for i in np.roll(np.arange(6), number)]
        assert fold.validation == rolled[-1]
        assert {*fold.train} == {name for block in rolled[:-1] for name in block}
        assert fold.test == test
    assert [len(fold.validation) for fold in folds] == [76, 72, 71, 71, 71, 71]
    assert folds[1].validation == train[284:]


@pytest.mark.parametrize(("count", "sizes"), [(5, [1] * 5), (9, [1, 1, 1, 1, 5]), (341, [68] * 5)])
def test_rjcma_folds_of_other_counts(count: int, sizes: list[int]) -> None:
    videos = [(f"{i}", f"{i}", "train") for i in range(count)] + [("v", "v", "validation")]
    folds = make_folds("rjcma", videos)
    sizes = [*sizes[:4], count - sum(sizes[:4])]
    assert [len(fold.validation) for fold in folds[:0:-1]] == sizes
    assert all(fold.train[-1] == "v" for fold in folds[1:])
    with pytest.raises(InputError) as caught:
        make_folds("rjcma", videos[-5:])
    assert caught.value.details["field"] == "k"


@pytest.mark.parametrize(
    "scheme", ["", "rjcma:4", "block", "blocks:0", "blocks:x", "emma:3", "official:", "5"]
)
def test_unknown_schemes(scheme: str) -> None:
    with pytest.raises(InputError) as caught:
        make_folds(scheme, [("a", "a", "train")])
    assert caught.value.details["field"] == "--folds"
    assert "tcn_transformer" in caught.value.details["expected"]


@pytest.mark.parametrize("scheme", ["blocks", "emma", "tcn_transformer"])
def test_too_few_sources_for_a_scheme(scheme: str) -> None:
    videos = [("a_left", "a", "train"), ("a_right", "a", "train"), ("b", "b", "validation")]
    classes = {"a_left": np.ones(8)}
    with pytest.raises(InputError, match="fewer training sources"):
        make_folds(scheme, videos, classes=classes)
